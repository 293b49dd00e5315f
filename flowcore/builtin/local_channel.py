"""The channel to this host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs

from flowcore.plugins.api import BadPermsScriptPath, Channel, FileCopyException, FileExists, component

HOST = "localhost"
#: Seconds in which a command that was killed closes its streams.
DRAIN_S = 1.0


@component
class LocalChannel(Channel):
    """Runs commands on this host.

    Attributes:
        userhome: folder in which commands run.
        envs: environment variables to add to each command's.
        script_dir: folder for scripts.
    """

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
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=walltime)
            except subprocess.TimeoutExpired:
                _kill(process)
                try:
                    stdout, stderr = process.communicate(timeout=DRAIN_S)
                except subprocess.TimeoutExpired as held:
                    # A child that left the group holds the streams open: what it has yet to say is not waited for.
                    stdout, stderr = _text(held.stdout), _text(held.stderr)
                stderr += f"\nflowcore: the command was killed after {walltime:g} s: {cmd}\n"
                return -1, stdout, stderr
            except BaseException:
                _kill(process)
                raise
        return process.returncode, stdout, stderr

    def push_file(self, source: str, dest_dir: str) -> str:
        """Copy a file into a folder, which is made if need be; a file that is there already stays."""
        try:
            Path(dest_dir).mkdir(parents=True, exist_ok=True)
            destination = Path(dest_dir) / Path(source).name
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
        destination = Path(local_dir) / Path(remote_source).name
        if destination.exists():
            if Path(remote_source).exists() and destination.samefile(remote_source):
                return str(destination)
            raise FileExists(None, HOST, str(destination))
        return self.push_file(remote_source, local_dir)

    def makedirs(self, path: str, mode: int = 0o700, exist_ok: bool = False) -> None:
        """Make a folder and its parents."""
        Path(path).mkdir(mode=mode, parents=True, exist_ok=exist_ok)

    def isdir(self, path: str) -> bool:
        """Return whether the folder exists."""
        return Path(path).is_dir()

    def abspath(self, path: str) -> str:
        """Return the absolute path."""
        return str(Path(path).absolute())

    def close(self) -> bool:
        """Return False: there is no connection."""
        return False


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        pass


def _text(output: bytes | str | None) -> str:
    # Popen gives the output of a command in its time-out as bytes, also in text mode.
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
