"""The channel to this host, where it says more than the contract."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from flowcore.channels import LocalChannel
from flowcore.errors import BadPermsScriptPath, ConfigurationError, FileCopyException, FileExists


def test_commands_run_in_userhome_with_envs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    channel = LocalChannel(userhome=str(home), envs={"A": "1", "B": "2"})
    assert channel.execute_wait('pwd; echo "$A$B"', 10, {"B": "3"}) == (0, f"{home}\n13\n", "")


def test_the_message_of_a_walltime() -> None:
    code, _, stderr = LocalChannel().execute_wait("echo before >&2; sleep 60", 0.25)
    assert (code, stderr) == (
        -1,
        "before\n\nflowcore: the command was killed after 0.25 s: echo before >&2; sleep 60\n",
    )


def test_an_interrupt_ends_the_command() -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            LocalChannel().execute_wait("sleep 600", None)
    finally:
        signal.signal(signal.SIGALRM, before)
    # That the process is gone is what the fixture of every test checks.


def test_pushing_a_file_onto_itself(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("text")
    assert LocalChannel().push_file(str(script), str(tmp_path)) == str(script)
    assert script.read_text() == "text"
    assert LocalChannel().pull_file(str(script), str(tmp_path)) == str(script)


def test_pushing_makes_the_folder_and_an_executable_file(tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text("text")
    there = Path(LocalChannel().push_file(str(tmp_path / "s.sh"), str(tmp_path / "a" / "b")))
    assert there == tmp_path / "a" / "b" / "s.sh"
    assert os.access(there, os.X_OK)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), BadPermsScriptPath),
        (OSError(errno.ENOSPC, "No space left on device"), FileCopyException),
    ],
)
def test_what_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[Exception]
) -> None:
    def refuse(*args: Any) -> None:
        raise error

    (tmp_path / "f").touch()
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(expected) as caught:
        LocalChannel().push_file(str(tmp_path / "f"), str(tmp_path / "to"))
    assert "channel to localhost" in str(caught.value)
    assert str(error) in str(caught.value)
    assert caught.value.__cause__ is error


def test_pulling_what_is_gone_onto_what_is_here(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(FileExists, match="a file of this name already exists at the destination: .*/f"):
        LocalChannel().pull_file("/nowhere/f", str(tmp_path))


@pytest.mark.parametrize("options", [{"userhome": 3}, {"envs": {"A": 1}}, {"hostname": "x"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LocalChannel(**options)
