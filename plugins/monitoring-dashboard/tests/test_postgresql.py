"""The pages of a database in a real PostgreSQL server."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Runs, make_runs
from flowcore_monitoring_dashboard import pages
from flowcore_monitoring_dashboard.application import Source
from flowcore_monitoring_sqlite import schema
from sqlalchemy.exc import DBAPIError

from flowcore.testing import eventually
from flowcore.testing.servers import unavailable

PASSWORD = "of-the-tests"
WAIT_S = 60


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database of a server on 127.0.0.1, of this module's own."""
    if importlib.util.find_spec("psycopg") is None:
        unavailable("the Python package psycopg is not installed: pip install 'flowcore-monitoring-sqlite[postgresql]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        unavailable("there is no PostgreSQL server here: tests/servers/install installs it")
    programs = found[-1].parent
    # Below /tmp: its user may not enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="flowcore-postgres-"))
    as_user: list[str] = []
    process = None
    try:
        if os.geteuid() == 0:
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                unavailable("there is no user postgres, as whom root could run a server")
            as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            os.chown(folder, account.pw_uid, account.pw_gid)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        subprocess.run(
            [*as_user, programs / "initdb", "-D", folder / "data", "-A", "scram-sha-256", "-U", "flow", "--no-sync",
             f"--pwfile={folder / 'password'}", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, timeout=WAIT_S, cwd=folder,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ("listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}", "fsync=off")
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*as_user, programs / "postgres", "-D", folder / "data"]
                + [word for option in options for word in ("-c", option)],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        eventually(lambda: subprocess.run(ready).returncode == 0, WAIT_S, "the server")
        yield f"postgresql+psycopg://flow:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        if process is not None:
            process.terminate()
            process.wait(WAIT_S)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def there(database: str) -> Runs:
    """The same runs as in SQLite, in PostgreSQL."""
    return make_runs(database)


@pytest.mark.parametrize("kind", ["small", "large", "stopped", "going"])
def test_every_page_and_chart(client_of, there: Runs, kind: str):
    client = client_of(there.url)
    base = f"/workflow/{getattr(there, kind).run_id}"
    paths = [f"{base}/{name}".rstrip("/") for name in pages.PAGES]
    paths += [f"{base}/data/{name}.json" for name in pages.CHARTS]
    paths += [
        f"{base}{rest}"
        for rest in (
            "/tasks/30", "/apps/simulate", "/resources?by=task", "/data/resources.json?by=app",
            "/data/resources.json?by=node", "/data/resources.json?by=task", "/data/resources.json?by=task&task=3",
            "/data/durations.json?app=simulate", "/tasks?cause=x", "/tasks?state=failed&app=simulate&offset=1",
        )
    ]  # fmt: skip
    for path in ["/", *paths]:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)


def test_charts_are_the_same_as_with_sqlite(client_of, runs: Runs, there: Runs):
    here, other = client_of(runs.url), client_of(there.url)
    for chart in ("busy", "gantt", "workers", "blocks", "resources?by=app", "durations?app=simulate"):
        name, _, query = chart.partition("?")
        answers = [
            client.get(f"/workflow/{made.small.run_id}/data/{name}.json?{query}").json()
            for client, made in ((here, runs), (other, there))
        ]
        assert answers[0]["kind"] == answers[1]["kind"]
        for part in ("bars", "series", "steps"):
            assert len(answers[0].get(part, [])) == len(answers[1].get(part, [])), chart
        assert answers[0]["label"] == answers[1]["label"]


def test_it_cannot_be_written_through_the_dashboard(there: Runs):
    source = Source(there.url)
    try:
        assert PASSWORD not in source.shown
        with source.connect() as connection, pytest.raises(DBAPIError, match="read-only transaction"):
            connection.execute(schema.task.delete())
    finally:
        source.close()
