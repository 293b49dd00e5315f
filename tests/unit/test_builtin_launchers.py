"""The launchers, where they say more than the contract."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.errors import BadLauncher, ConfigurationError
from flowcore.launchers import MpiExecLauncher, SimpleLauncher, SingleNodeLauncher, WrappedLauncher
from flowcore.plugins import registry
from flowcore.plugins.api import Launcher, ProviderContext
from flowcore.providers import LocalProvider
from flowcore.testing import eventually

INSTALLED = [plugin.name for plugin in registry.installed("executor")]


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)


def test_simple() -> None:
    assert SimpleLauncher()("work --port 1", 4, 2) == "work --port 1"


def test_single_node_tells_the_cores() -> None:
    done = bash(SingleNodeLauncher(debug=False)('echo "$CORES"', 1, 1))
    assert int(done.stdout) == os.cpu_count()


def test_single_node_runs_the_copies_at_once(tmp_path: object) -> None:
    # Each copy waits for the files of both others.
    command = f"cd '{tmp_path}'\ntouch $BASHPID\nuntil [ $(ls | wc -l) -ge 3 ]; do sleep 0.01; done"
    assert bash(SingleNodeLauncher(debug=False)(command, 3, 1)).returncode == 0


def test_single_node_speaks_only_if_it_is_to() -> None:
    assert "flowcore: " in bash(SingleNodeLauncher(debug=True)("true", 2, 1)).stdout
    done = bash(SingleNodeLauncher(debug=False)("exit 3", 2, 1))
    assert (done.stdout, done.stderr) == ("", "")


# One of three copies fails: the one that takes the folder first.
ONE_FAILS = "mkdir '{0}/taken' 2>/dev/null && exit 5 || true"


@pytest.mark.parametrize(("fail_on_any", "code"), [(False, 0), (True, 5)])
def test_single_node_with_one_failure(fail_on_any: bool, code: int, tmp_path: object) -> None:
    launcher = SingleNodeLauncher(debug=False, fail_on_any=fail_on_any)
    assert bash(launcher(ONE_FAILS.format(tmp_path), 3, 1)).returncode == code


def test_single_node_returns_the_code_of_a_failure() -> None:
    assert bash(SingleNodeLauncher(debug=False)("exit 9", 3, 1)).returncode == 9


@pytest.mark.parametrize("everyone", [True, False], ids=["group", "shell"])
def test_copies_have_time_to_put_things_in_order(everyone: bool, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.write_text(
        f"trap \"sleep 0.5; touch '{tmp_path}/ended-'$$; exit\" TERM\n"
        f"touch '{tmp_path}/begun-'$$\nwhile :; do sleep 0.05; done"
    )
    script = SingleNodeLauncher(debug=False)(f"true\nbash '{work}'\ntouch '{tmp_path}/went-on'", 2, 1)
    with subprocess.Popen(["/bin/bash", "-c", script], start_new_session=True) as block:
        eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2, what="the copies")
        (os.killpg if everyone else os.kill)(block.pid, signal.SIGTERM)
        assert block.wait(timeout=30) == 143
    assert len(list(tmp_path.glob("ended-*"))) == 2
    assert not (tmp_path / "went-on").exists()


def test_wrapped() -> None:
    assert WrappedLauncher(prepend="docker run -i image")("work --port 1", 4, 2) == (
        "docker run -i image work --port 1"
    )


def test_wrapped_wraps_all_lines() -> None:
    launcher = WrappedLauncher(prepend="env WRAPPED=yes")
    done = bash(launcher('echo "1 $WRAPPED"\necho \'2\' "it\'s $WRAPPED"\n', 1, 1))
    assert done.stdout == "1 yes\n2 it's yes\n"


@pytest.mark.parametrize("prepend", ["", "  "])
def test_wrapped_needs_a_command(prepend: str) -> None:
    with pytest.raises(ConfigurationError, match="give the command to put before the worker's"):
        WrappedLauncher(prepend=prepend)
    with pytest.raises(ConfigurationError, match="missing 1 required positional argument: 'prepend'"):
        WrappedLauncher()


# --- launchers of users


class MyShifterSrunLauncher:
    """The reference's example, with another launcher inside."""

    def __init__(self):
        self.launcher = SimpleLauncher()

    def __call__(self, command, tasks_per_node, nodes_per_block):
        new_command = f"worker-wrapper {command}"
        return self.launcher(new_command, tasks_per_node, nodes_per_block)


def with_a_mark(command: str, tasks: int, nodes: int, mark: str = "mark") -> str:
    return f"echo {mark} {tasks} {nodes}\n{command}"


@pytest.mark.parametrize(
    ("launcher", "says"),
    [
        (MyShifterSrunLauncher(), "wrapped echo work"),
        (with_a_mark, "mark 2 1\nwork"),
        (functools.partial(with_a_mark, mark="other"), "other 2 1\nwork"),
        (MyShifterSrunLauncher().__call__, "wrapped echo work"),
        (lambda command, tasks, nodes: f"{command} {tasks}", "work 2"),
    ],
)
def test_what_is_called_as_a_launcher_is_one(launcher: Any, says: str, tmp_path: Path) -> None:
    assert isinstance(launcher, Launcher)
    wrapper = 'worker-wrapper() { echo "wrapped $*"; }'
    provider = LocalProvider(launcher=launcher, worker_init=wrapper)
    # As it was given.
    assert provider.launcher is launcher
    provider.start(ProviderContext(tmp_path, "htex"))
    job_id = provider.submit("echo work", 2, "block")
    status = eventually(lambda: (status := provider.status([job_id])[0]).terminal and status)
    assert status.stdout_path is not None
    assert Path(status.stdout_path).read_text() == f"{says}\n"


def test_a_launcher_of_a_users_in_a_configuration() -> None:
    launcher = MyShifterSrunLauncher()
    values = {"executors": [{"plugin": "htex", "provider": {"plugin": "local", "launcher": launcher}}]}
    if "htex" not in INSTALLED:
        pytest.skip("flowcore-executor-htex is not installed")
    assert flowcore.Config.from_dict(values).executors[0].provider.launcher is launcher


class TwoArguments:
    def __call__(self, command: str, tasks_per_node: int) -> str:
        return command


class NeedsMore:
    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, *, image: str) -> str:
        return command


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "int"),
        (None, "NoneType"),
        ("srun", "str"),
        (TwoArguments(), "TwoArguments"),
        (NeedsMore(), "NeedsMore"),
        (lambda command: command, "function"),
        # They take any arguments, and mean something else by them.
        (print, "builtin_function_or_method"),
        (lambda *words: "", "function"),
        # Not made. Its constructor has three arguments, too.
        (MpiExecLauncher, "LauncherType"),
        (MyShifterSrunLauncher, "type"),
    ],
)
def test_anything_else_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(BadLauncher) as caught:
        LocalProvider(launcher=value)
    refused, _, advice = str(caught.value).partition(". Give")
    assert refused == f"LocalProvider(launcher={value!r}): expected Launcher, got {kind}"
    assert advice == (
        " a launcher, such as SrunLauncher(), or an object of your own that is called with "
        "(command, tasks_per_node, nodes_per_block) and returns the script"
    )


def test_only_launchers_count_as_those_of_a_class() -> None:
    assert not isinstance(MyShifterSrunLauncher(), SimpleLauncher)
    assert not issubclass(MyShifterSrunLauncher, Launcher)
    with pytest.raises(TypeError, match="abstract"):
        Launcher()  # type: ignore[abstract]
