"""The command: what it refuses, what it prints, how it ends."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from dashboards import Runs, dashboard
from flowcore_monitoring_dashboard import command

from flowcore.cli.main import cli
from flowcore.plugins import registry


def refused(*arguments: str) -> str:
    answer = CliRunner().invoke(cli, ["dashboard", *arguments])
    assert answer.exit_code == 1, answer.output
    assert "Traceback" not in answer.output
    return answer.output


def test_it_is_found_by_its_name():
    assert registry.get("command", "dashboard") is command.dashboard


def test_help_says_what_is_there():
    text = CliRunner().invoke(cli, ["dashboard", "--help"]).output
    for word in ("--listen", "127.0.0.1", "--port", "8080", "runinfo/monitoring.db", "FLOWCORE_DASHBOARD_URL"):
        assert word in text


def test_without_a_database_it_says_how_to_get_one(tmp_path: Path):
    text = refused()
    assert f"there is no database {tmp_path}/runinfo/monitoring.db" in text
    assert "MonitoringHub()" in text
    assert "flowcore dashboard URL" in text
    assert not (tmp_path / "runinfo").exists()


def test_a_file_that_is_no_database(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no database " * 100)
    assert "file is not a database" in refused("notes.txt")


def test_a_database_of_another_program():
    connection = sqlite3.connect("other.db")
    connection.execute("CREATE TABLE workflow (a)")
    connection.close()
    text = refused("other.db")
    assert "other.db: the database has tables of another program" in text


def test_a_database_without_tables():
    sqlite3.connect("empty.db").close()
    Path("empty.db").touch()
    assert "no tables of flowcore's monitoring" in refused("empty.db")


def test_a_wrong_url_and_no_password_in_what_is_said():
    assert "there is no database of the kind 'nosuch'" in refused("nosuch://user:secret@host/db")
    assert "secret" not in refused("nosuch://user:secret@host/db")


def test_a_port_that_is_taken(runs: Runs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = refused(runs.url, "--port", str(taken.getsockname()[1]))
    assert "Address already in use; --port 0 takes a free port" in text


def test_an_address_of_another_machine(runs: Runs):
    assert "this machine has no such address" in refused(runs.url, "--listen", "192.0.2.1", "--port", "0")
    assert "is no address of this machine" in refused(runs.url, "--listen", "no such host", "--port", "0")


def test_tls_files_that_are_none(runs: Runs, tmp_path: Path):
    (tmp_path / "x.pem").write_text("nothing")
    text = refused(runs.url, "--port", "0", "--tls", "x.pem", "x.pem")
    assert "--tls x.pem x.pem: cannot be used" in text


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("postgresql://me@db/runs", "postgresql://me@db/runs"),
        ("some/file.db", "sqlite:///{cwd}/some/file.db"),
        (".", "sqlite:///{cwd}/monitoring.db"),
        ("", "sqlite:///{cwd}/runinfo/monitoring.db"),
        (None, "sqlite:///{cwd}/runinfo/monitoring.db"),
    ],
)
def test_how_a_database_is_named(given, url, tmp_path: Path):
    assert command.database_of(given) == url.format(cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (("127.0.0.1", 8080, None), "http://127.0.0.1:8080/"),
        (("::1", 80, None), "http://[::1]:80/"),
        (("10.0.0.1", 1, "abc"), "http://10.0.0.1:1/?token=abc"),
        (("0.0.0.0", 1, "abc", True), f"https://{socket.gethostname()}:1/?token=abc"),
    ],
)
def test_the_address_that_is_printed(arguments, address):
    assert command.address(*arguments) == address


def test_it_serves_until_ctrl_c(runs: Runs):
    with dashboard(runs.url) as served:
        assert served.address.startswith("http://127.0.0.1:")
        assert runs.url in served.output
        answer = httpx.get(served.address)
        assert answer.status_code == 200
        assert "Workflows" in answer.text
        assert "server" not in answer.headers
        code, rest = served.stop(signal.SIGINT)
    assert code == 0
    assert rest.strip().endswith("ended")
    assert "Traceback" not in rest


def test_sigterm_ends_it(runs: Runs):
    with dashboard(runs.url) as served:
        code, rest = served.stop(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in rest


def test_a_token_is_printed_with_the_address_and_demanded(runs: Runs):
    with dashboard(runs.url, "--token") as served:
        assert "?token=" in served.address
        assert httpx.get(served.base).status_code == 401
        with httpx.Client(follow_redirects=True) as client:
            assert client.get(served.address).status_code == 200
            assert client.get(f"{served.base}/workflow/latest").status_code == 200
        _, rest = served.stop()
    assert served.address.partition("token=")[2] not in rest, "no log has it"


def test_the_url_may_come_from_the_environment(runs: Runs):
    with dashboard(env={"FLOWCORE_DASHBOARD_URL": runs.url}) as served:
        assert httpx.get(served.address).status_code == 200


def test_importing_the_command_imports_no_web_framework():
    code = (
        "import sys, flowcore_monitoring_dashboard.command; "
        "print(sorted({'starlette', 'uvicorn', 'jinja2', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
