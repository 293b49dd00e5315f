"""The command itself: help, version, errors, exit codes; through click's runner and as a real process."""

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from flowcore.cli.main import cli


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="flowcore")


def process(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "flowcore.cli.main", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_version():
    from flowcore import __version__

    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, f"flowcore {__version__}\n")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands_with_a_line_each(option):
    result = invoke(option)
    assert result.exit_code == 0
    assert "plugins  List the installed plugins, without importing them.\n" in result.output
    assert "doctor   Check this machine, the plugins, the network and a configuration.\n" in result.output
    assert "config   Check or show a configuration, or print the schema of configurations.\n" in result.output
    assert "perf     Measure how many tasks per second a configuration runs.\n" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["blocks"],
        ["plugins"],
        ["plugins", "show"],
        ["config", "check"],
        ["config", "schema"],
        ["config", "show"],
        ["doctor"],
        ["perf"],
    ],
)
def test_every_command_has_help(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: flowcore " + " ".join(command))


def test_unknown_command():
    result = invoke("plugin")
    assert result.exit_code == 2
    assert "Error: no command 'plugin' is installed (did you mean 'plugins'?); installed: " in result.stderr


def test_unknown_option():
    result = invoke("--quiet")
    assert result.exit_code == 2
    assert "No such option: --quiet" in result.stderr or "No such option '--quiet'" in result.stderr


def test_error_without_traceback():
    done = process("plugins", "show", "provider", "slurmm")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: no provider 'slurmm' is installed")
    assert done.stderr.count("\n") == 1


def test_error_with_debug_shows_the_traceback():
    done = process("--debug", "plugins", "show", "provider", "slurmm")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "flowcore.errors.PluginNotFound: no provider 'slurmm' is installed" in done.stderr


def test_notes_of_an_error_are_shown(monkeypatch):
    import click

    from flowcore.errors import FlowcoreError
    from flowcore.plugins import registry

    @click.command()
    def fails():
        error = FlowcoreError("it went wrong")
        error.add_note("on host n1")
        raise error

    monkeypatch.setattr(registry, "load", lambda plugin: fails)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert result.stderr == "Error: it went wrong\non host n1\n"


def test_help_is_quick_to_import():
    """No run's parts, no rich and no plugin are imported for the list of commands."""
    program = (
        "import sys\n"
        "from flowcore.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "heavy = {'rich', 'flowcore.session', 'flowcore.config', 'flowcore.builtin', 'flowcore_executor_htex'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("imported: []\n"), done.stderr


SILENT = """
from flowcore import Config
from flowcore.executors import ThreadPoolExecutor

class Silent(ThreadPoolExecutor):
    "Accepts tasks, and never reports them."
    def submit(self, attempt):
        pass

config = Config(executors=[Silent()])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)])
def test_a_signal_ends_a_measurement_in_order(tmp_path, number, code):
    """The run is cleaned up: its log says so, and the process ends by itself."""
    (tmp_path / "silent.py").write_text(SILENT)
    process = subprocess.Popen(
        [sys.executable, "-m", "flowcore.cli.main", "perf", "--config", "silent.py"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "Iteration 1: 10 tasks; the target is 120 s\n"
        assert process.stdout.readline().startswith("  all submitted in ")
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    log = (tmp_path / "runinfo" / "000" / "flowcore.log").read_text()
    assert "ended; tasks:" in log
