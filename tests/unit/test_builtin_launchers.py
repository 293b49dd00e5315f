"""The launchers, where they say more than the contract."""

from __future__ import annotations

import os
import subprocess

import pytest

from flowcore.errors import ConfigurationError
from flowcore.launchers import SimpleLauncher, SingleNodeLauncher, WrappedLauncher


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
