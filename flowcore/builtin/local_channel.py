"""The channel to this host."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from flowcore.plugins.api import BadPermsScriptPath, Channel, FileCopyException, FileExists, component

HOST = "localhost"
#: Seconds in which what children in the background hold open is still read, once the command itself has ended.
DRAIN_S = 1.0
#: Seconds between two looks whether a command has ended whose streams are held open.
LOOK_S = 0.1
_PIECE = 65536


@component
class LocalChannel(Channel):
    """Runs commands on this host.

    Attributes:
        userhome: folder in which commands run.
        envs: environment variables to add to each command's.
        script_dir: folder for scripts; may begin with ``~``.
    """

    on_this_host: ClassVar[bool] = True

    userhome: str = "."
    envs: Mapping[str, str] = attrs.field(factory=dict)
    script_dir: str | None = None

    def execute_wait(
        self, cmd: str, walltime: float | None = None, envs: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run the command with bash; see the contract."""
        with subprocess.Popen(
            ["/bin/bash", "-c", cmd],
            cwd=self.userhome,
            env={**os.environ, **self.envs, **(envs or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                killed, stdout, stderr = _read(process, walltime)
            except BaseException:
                _kill(process)
                raise
            if killed:
                return -1, stdout, stderr + self.killed_message(cmd, walltime or 0)
        return process.returncode, stdout, stderr

    def push_file(self, source: str, dest_dir: str) -> str:
        """Copy a file into a folder, which is made if need be; a file that is there already stays."""
        try:
            folder = _path(dest_dir)
            folder.mkdir(parents=True, exist_ok=True)
            destination = folder / Path(source).name
            if not (destination.exists() and destination.samefile(source)):
                shutil.copyfile(source, destination)
                destination.chmod(0o700)
        except PermissionError as error:
            raise BadPermsScriptPath(error, HOST) from error
        except OSError as error:
            raise FileCopyException(error, HOST) from error
        return str(destination)

    def pull_file(self, remote_source: str, local_dir: str) -> str:
        """Copy a file into a folder where none of its name is."""
        source = _path(remote_source)
        destination = _path(local_dir) / source.name
        if destination.exists():
            if source.exists() and destination.samefile(source):
                return str(destination)
            raise FileExists(None, HOST, str(destination))
        return self.push_file(str(source), local_dir)

    def makedirs(self, path: str, mode: int = 0o700, exist_ok: bool = False) -> None:
        """Make a folder and its parents."""
        _path(path).mkdir(mode=mode, parents=True, exist_ok=exist_ok)

    def isdir(self, path: str) -> bool:
        """Return whether the folder exists."""
        return _path(path).is_dir()

    def abspath(self, path: str) -> str:
        """Return the absolute path."""
        return str(_path(path))

    def close(self) -> bool:
        """Return False: there is no connection."""
        return False


def _path(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _read(process: subprocess.Popen[bytes], walltime: float | None) -> tuple[bool, str, str]:
    """Read what a command writes until it has ended; return whether it was killed, and its streams."""
    assert process.stdout is not None
    assert process.stderr is not None
    written: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = math.inf if walltime is None else time.monotonic() + walltime
    killed = False
    with selectors.DefaultSelector() as selector:
        for stream in written:
            selector.register(stream, selectors.EVENT_READ)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                killed, deadline = True, math.inf
                _kill(process)
            if selector.get_map():
                _read_ready(selector, written, min(LOOK_S, max(left, 0)))
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(LOOK_S, max(left, 0)))
        # A child in the background may hold the streams open: what it has yet to say is not waited for.
        drained = time.monotonic() + DRAIN_S
        while selector.get_map() and time.monotonic() < drained:
            _read_ready(selector, written, LOOK_S)
    stdout, stderr = (text.decode(errors="replace") for text in written.values())
    return killed, stdout, stderr


def _read_ready(selector: selectors.BaseSelector, written: dict[Any, bytearray], timeout_s: float) -> None:
    for key, _ in selector.select(timeout_s):
        piece = os.read(key.fd, _PIECE)
        if piece:
            written[key.fileobj] += piece
        else:
            selector.unregister(key.fileobj)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        pass
