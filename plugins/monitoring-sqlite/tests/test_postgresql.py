"""Runs that are recorded in PostgreSQL: the same rows, the same answers, also when the server goes and comes again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from flowcore_monitoring_sqlite import database, queries, records, schema
from flowcore_monitoring_sqlite.writer import Writer
from sqlalchemy import func, select

from flowcore import python_app
from flowcore.cli.main import cli
from flowcore.testing import eventually
from flowcore.testing.servers import unavailable

WAIT_S = 60
PASSWORD = "not-a-secret"


@python_app
def identity(x):
    return x


@python_app
def fails(x):
    raise ValueError(f"bad \x00 value {x}")


class Server:
    """A PostgreSQL server of its own on 127.0.0.1, with its data in a folder."""

    def __init__(self, binaries: Path, folder: Path, as_user: list[str]) -> None:
        self._binaries, self._folder, self._as_user = binaries, folder, as_user
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://flow:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = (
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self._folder}",
            "fsync=off",
        )
        settings = [word for option in options for word in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, self._binaries / "postgres", "-D", self._folder / "data", *settings],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        eventually(self._answers, WAIT_S, "the server")

    def _answers(self) -> bool:
        probe = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe).returncode == 0

    def stop(self) -> None:
        """End it at once, as if its host had been switched off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(WAIT_S)
            self._process = None


@pytest.fixture(scope="module")
def data() -> Iterator[tuple[Path, Path, list[str]]]:
    """Where the programs are, a folder with an empty database in it, and how to become the user that it belongs to."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [
        Path(path) for path in [shutil.which("postgres")] if path
    ]
    if not found:
        unavailable("there is no PostgreSQL server here: tests/servers/install installs it")
    binaries = found[-1].resolve().parent
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="flowcore-postgres-"))
    try:
        if os.geteuid() == 0:
            # The server refuses to run as root.
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                unavailable("there is no user postgres, as whom root could run a server")
            as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            os.chown(folder, account.pw_uid, account.pw_gid)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        subprocess.run(
            [*as_user, binaries / "initdb", "-D", folder / "data", "-A", "scram-sha-256", "-U", "flow", "--no-sync",
             f"--pwfile={folder / 'password'}", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, timeout=WAIT_S, cwd=folder,
        )  # fmt: skip
        yield binaries, folder, as_user
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def server(data: tuple[Path, Path, list[str]]) -> Iterator[Server]:
    made = Server(*data)
    made.start()
    try:
        yield made
        engine = database.writer(made.url)
        with engine.begin() as connection:
            schema.metadata.drop_all(connection)
        engine.dispose()
    finally:
        made.stop()


@pytest.fixture
def ask(server: Server) -> Callable[..., object]:
    def ask(question, *args, **options):
        with database.reading(server.url) as connection:
            return question(connection, *args, **options)

    return ask


def count(connection, table):
    return connection.execute(select(func.count()).select_from(table)).scalar()


def test_a_run_is_recorded(load, server, ask):
    with load({"logging_endpoint": server.url}, retries=1) as run:
        futures = [identity(n) for n in range(2000)]
        bad = fails(1)
        later = identity(bad)
        for future in futures:
            future.result(timeout=WAIT_S)
        later.exception(timeout=WAIT_S)
        counts = run.task_counts()
    found = ask(queries.find_run)
    assert (found.state, found.completed, found.failed) == ("completed", 2000, 2)
    assert ask(queries.counts_by_state, run.run_id) == counts
    assert ask(count, schema.status) == 3 * 2000 + 5 + 2
    assert [app.name for app in ask(queries.counts_by_app, run.run_id)] == ["identity", "fails"]
    story = ask(queries.task_story, run.run_id, 2001)
    assert story.waited_for[0].state == "failed"
    assert [s for s, _, _ in story.states] == ["pending", "dep_fail"]
    failed = ask(queries.task_story, run.run_id, 2000)
    assert (len(failed.tries), failed.dependents) == (2, (2001,))
    # A character that PostgreSQL does not take.
    assert failed.failures[-1].text == "bad \\x00 value 1"
    groups = ask(queries.failures, run.run_id)
    assert [(g.state, g.count, g.cause) for g in groups] == [
        ("dep_fail", 1, "ValueError: bad \\xN value N"),
        ("failed", 1, "ValueError: bad \\xN value N"),
    ]


def test_a_server_that_goes_and_comes_again_gets_all_once(load, server, ask):
    with load({"logging_endpoint": server.url, "end_timeout": WAIT_S}) as run:
        for future in [identity(n) for n in range(500)]:
            future.result(timeout=WAIT_S)
        eventually(lambda: ask(queries.counts_by_state, run.run_id).get("exec_done"), WAIT_S, "the first tasks")
        server.stop()
        for future in [identity(n) for n in range(500)]:
            future.result(timeout=WAIT_S)
        recording = run.config.monitoring._recording
        eventually(lambda: "refused" in recording._why(), WAIT_S, "the writer's complaint")
        server.start()
        for future in [identity(n) for n in range(500)]:
            future.result(timeout=WAIT_S)
    assert ask(queries.find_run).completed == 1500
    assert ask(count, schema.task) == 1500
    assert ask(count, schema.status) == 4500
    assert ask(count, schema.attempt) == 1500


def test_a_journal_is_imported_with_the_url_that_has_the_password(load, server, ask, capsys):
    with load({"logging_endpoint": server.url, "end_timeout": 0.5}) as run:
        server.stop()
        for future in [identity(n) for n in range(100)]:
            future.result(timeout=WAIT_S)
    said = capsys.readouterr().err
    assert PASSWORD not in said
    assert "flowcore monitoring import" in said
    for path in (run.run_dir / "monitoring").iterdir():
        assert PASSWORD.encode() not in path.read_bytes()
    server.start()

    def load_it(*options):
        return CliRunner().invoke(cli, ["monitoring", "import", str(run.run_dir), *options])

    refused = load_it()
    assert refused.exit_code == 1
    assert "without the password: name it with --database URL" in refused.output
    done = load_it("--database", server.url)
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert ask(queries.find_run).completed == 100


def test_a_wrong_password_is_refused_at_the_load(load, server):
    from flowcore.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="password authentication failed") as caught:
        load({"logging_endpoint": server.url.replace(PASSWORD, "hunter2")})
    assert "hunter2" not in str(caught.value)


def test_two_writers_of_two_runs_do_not_disturb_each_other(scribe, server, ask, tmp_path):
    made = [scribe(tmp_path / str(n), run_id=f"run-{n}") for n in range(2)]
    for one in made:
        for n in range(200):
            one.run_task(n)
        one.end()
    writers = [Writer(one.folder, one.run_id, server.url, lambda: False) for one in made]
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    for writer in writers:
        writer.close()
    assert [run.completed for run in ask(queries.runs)] == [200, 200]


def test_samples_and_commands(scribe, server, ask, tmp_path):
    made = scribe()
    made.run_task(0)
    for at, cpu, memory in ((1002.0, 0.5, 100), (1003.0, 1.5, 3 * 10**10)):
        made.write(
            records.RESOURCES, 1.0,
            [[0, 0, "htex", "0", "n1", 3, at, "running", 99, 2, cpu, 0.0, memory, 10**12, 0.1, 5, 6, "running"]],
        )  # fmt: skip
    made.write(records.NODES, [["htex", "0", "n1", "m1", 4, 8, 16 * 10**9, "3.11.2", "connected", 1004.0]])
    made.write(records.NODES, [["htex", "0", "n1", "m1", 4, 8, 16 * 10**9, "3.11.2", "alive", 1005.0]])
    made.end()
    writer = Writer(made.folder, made.run_id, server.url, lambda: False)
    assert writer.run()
    writer.close()
    points = ask(queries.resource_series, made.run_id)
    assert [(p.at, p.memory, round(p.cores, 3)) for p in points] == [(1002.0, 100.0, 0.5), (1003.0, 3e10, 1.0)]
    for command in (
        ["runs"], ["status"], ["explain", "0"], ["graph"], ["report", "--html", str(tmp_path / "r.html")],
        ["monitoring", "migrate"],
    ):  # fmt: skip
        result = CliRunner().invoke(cli, [*command, "--database", server.url])
        assert result.exit_code == 0, result.output
        assert PASSWORD not in result.output
    with pytest.raises(database.DatabaseError, match="read-only"), database.reading(server.url) as connection:
        connection.execute(schema.task.delete())
