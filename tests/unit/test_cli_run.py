"""``flowcore run``: a script sees, shows and returns what it would under python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flowcore.cli.main import Commands
from flowcore.plugins import registry


def script(text: str, name: str = "script.py") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(textwrap.dedent(text))
    return name


def flowcore(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowcore", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, input=stdin)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100)


def assert_as_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    ours, theirs = flowcore(*arguments), python(*arguments)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    return ours


# --- what the script sees


def test_main_arguments_and_the_search_path(tmp_path: Path) -> None:
    script("answer = 42\n", "below/neighbour.py")
    script(
        """
        'Says hello.'
        import sys, os, neighbour
        print(__name__, __doc__, __file__, __package__, __spec__, neighbour.answer)
        print(sys.argv, sys.path[0])
        print(sys.modules['__main__'].__dict__ is globals(), __builtins__.len([1]), __loader__.name)
        print(sorted(k for k in globals() if k.startswith('__')))
        """,
        "below/script.py",
    )
    ran = assert_as_python("below/script.py", "--config", "x", "-h", "--", "plain")
    assert f"['below/script.py', '--config', 'x', '-h', '--', 'plain'] {tmp_path / 'below'}" in ran.stdout


def test_a_script_behind_a_link_finds_its_neighbours(tmp_path: Path) -> None:
    script("answer = 42\n", "there/neighbour.py")
    script("import sys, neighbour\nprint(neighbour.answer, sys.path[0], __file__)\n", "there/script.py")
    (tmp_path / "link.py").symlink_to("there/script.py")
    assert_as_python("link.py")


def test_standard_input_and_source_in_another_encoding() -> None:
    Path("script.py").write_bytes(b"# -*- coding: latin-1 -*-\nprint('\xe9'.encode())\nprint(input())\n")
    ran = flowcore("script.py", stdin="typed\n")
    assert ran.stdout == "b'\\xc3\\xa9'\ntyped\n"


def test_its_main_module_lives_until_the_end() -> None:
    script(
        """
        import atexit, threading
        value = 'still there'
        gate = threading.Event()
        def late():
            gate.wait(50)
            print('thread:', value)
        threading.Thread(target=late).start()
        atexit.register(lambda: print('at exit:', value))
        gate.set()
        """
    )
    ran = flowcore("script.py")
    assert (ran.stdout, ran.stderr) == ("thread: still there\nat exit: still there\n", "")


def test_its_functions_and_classes_can_be_pickled() -> None:
    script(
        """
        import pickle
        class Thing:
            pass
        def function():
            return 1
        print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, pickle.loads(pickle.dumps(function))())
        """
    )
    assert flowcore("script.py").stdout == "True 1\n"


# --- how it ends


@pytest.mark.parametrize(
    "body",
    [
        "print('well')",
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a message')",
        "raise SystemExit(None)",
        "def f():\n    raise ValueError('no')\nf()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('outer') from e",
        "raise OSError(32, 'Broken pipe')",  # a message of click's, if it saw it
        "import click; raise click.UsageError('mine')",
        "import click; raise click.Abort",
        "import flowcore; raise flowcore.FlowcoreError('mine')",
        "raise EOFError",
        "raise ExceptionGroup('several', [ValueError('a'), KeyError('b')])",
        "this is no python",
        "import os; os._exit(7)",
        "import sys\nsys.excepthook = lambda kind, error, tb: print('hook', kind.__name__)\nraise ValueError",
        "import atexit; atexit.register(print, 'at exit'); raise ValueError('and then')",
    ],
)
def test_it_ends_as_under_python(body: str) -> None:
    script(body)
    assert_as_python("script.py")


def test_it_ends_as_under_python_however_the_command_was_started() -> None:
    script("import flowcore; raise flowcore.FlowcoreError('mine')")
    command = [sys.executable, "-m", "flowcore.cli.main", "run", "script.py"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stderr) == (1, python("script.py").stderr)


def test_an_uncaught_keyboard_interrupt_ends_it_by_the_signal() -> None:
    script("import atexit; atexit.register(print, 'at exit'); raise KeyboardInterrupt")
    assert assert_as_python("script.py").returncode == -signal.SIGINT


def test_an_interrupt_from_outside() -> None:
    script("import sys, time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "flowcore", "run", "script.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert errors.endswith("\nKeyboardInterrupt\n")
    assert "flowcore" not in errors.replace(os.getcwd(), "")


@pytest.mark.parametrize("name", ["absent.py", "."])
def test_a_script_that_cannot_be_read(name: str) -> None:
    ran = flowcore(name)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"flowcore: cannot open the script {name!r}: ")


def test_a_missing_script_is_a_usage_error() -> None:
    ran = flowcore()
    assert ran.returncode == 2
    assert "Missing argument 'SCRIPT'" in ran.stderr


def test_profile_alone_is_a_usage_error() -> None:
    ran = flowcore("--profile", "small", "script.py")
    assert ran.returncode == 2
    assert "--profile goes with --config" in ran.stderr


# --- with a configuration


CONFIG = """
run_dir = "runs"
executors = [{plugin = "threads", label = "pool", max_threads = 1}]
[profiles.small]
retries = 4
"""


def test_the_configuration_is_loaded_and_its_tasks_are_waited_for() -> None:
    Path("f.toml").write_text(CONFIG)
    script(
        """
        import flowcore, threading
        gate = threading.Event()
        @flowcore.python_app(executors=['pool'])
        def late(number):
            gate.wait(50)
            print('task', number, flush=True)
        late(late(1))
        print(flowcore.dfk().config.retries, flush=True)
        gate.set()
        """
    )
    ran = flowcore("--config", "f.toml", "script.py")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("0\ntask 1\ntask None\n", "", 0)
    assert "ended; tasks: {'exec_done': 2}" in Path("runs/000/flowcore.log").read_text()
    assert flowcore("--config", "f.toml", "--profile", "small", "script.py").stdout.startswith("4\n")


def test_a_script_that_exits_well_has_its_tasks_waited_for() -> None:
    Path("f.toml").write_text(CONFIG)
    script(
        """
        import flowcore, sys
        flowcore.python_app(lambda: print('task', flush=True))()
        sys.exit(0)
        """
    )
    ran = flowcore("--config", "f.toml", "script.py")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("task\n", "", 0)


def test_a_script_that_fails_ends_without_waiting() -> None:
    Path("f.toml").write_text(CONFIG)
    script(
        """
        import flowcore, threading
        @flowcore.python_app
        def never(gate):
            gate.wait(5)
        gate = threading.Event()
        [never(gate) for _ in range(3)]
        threading.Timer(0.2, gate.set).start()
        raise ValueError('before its tasks')
        """
    )
    ran = flowcore("--config", "f.toml", "script.py")
    assert ran.returncode == 1
    assert ran.stderr.startswith("Traceback (most recent call last):\n  File ")
    assert ran.stderr.endswith("\nValueError: before its tasks\n")
    assert "ended; tasks:" in Path("runs/000/flowcore.log").read_text()


def test_a_configuration_that_is_wrong() -> None:
    Path("f.toml").write_text("retris = 3\n")
    script("print('not run')")
    ran = flowcore("--config", "f.toml", "script.py")
    assert ran.returncode == 1
    assert "retris" in ran.stderr and "did you mean 'retries'?" in ran.stderr
    assert ran.stdout == ""


def test_functions_of_the_script_go_to_workers_by_value() -> None:
    pytest.importorskip("flowcore_executor_htex")
    Path("f.toml").write_text('executors = [{plugin = "htex", max_workers_per_node = 1}]\n')
    script("def twice(x):\n    return 2 * x\n", "neighbour.py")
    script(
        """
        import flowcore, neighbour
        factor = 3
        def helper(x):
            return x * factor
        @flowcore.python_app
        def app(function, x):
            return function(x) + helper(1)
        print(app(helper, 2).result())
        print(flowcore.python_app(neighbour.twice)(4).result())
        """
    )
    ran = flowcore("--config", "f.toml", "script.py")
    assert (ran.stdout, ran.stderr) == ("9\n8\n", "")


# --- with --parsl


def test_without_the_plugin_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from click.testing import CliRunner

    from flowcore.cli.main import cli

    assert isinstance(cli, Commands)
    installed = registry.installed
    monkeypatch.setattr(registry, "installed", lambda kind: [] if kind == "compat" else installed(kind))
    script("print('not run')")
    ran = CliRunner().invoke(cli, ["run", "--parsl", "script.py"])
    assert ran.exit_code == 1
    assert "compat 'parsl' is not installed: pip install flowcore-compat-parsl" in ran.output


def test_the_help_says_whose_options_follow() -> None:
    ran = flowcore("--help")
    assert ran.returncode == 0
    assert "all that follows SCRIPT belongs to it" in ran.stdout
