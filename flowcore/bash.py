"""Runs the command line of a bash_app, where the task runs.

Imported by workers: light.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from flowcore.errors import (
    AppBadFormatting,
    AppTimeout,
    BadStdStreamFile,
    BashAppNoReturn,
    BashExitFailure,
)
from flowcore.files import File
from flowcore.outputs import check_outputs

#: How much of the end of stderr an error shows.
TAIL_BYTES = 2000


class BashCommand:
    """Calls a bash_app's function for a command line, and runs that.

    Args:
        function: the decorated function.
        name: the app's name.
        accepts: names of the options that the function has as parameters.
    """

    def __init__(self, function: Callable[..., Any], name: str, accepts: frozenset[str]) -> None:
        self.function = function
        self.name = name
        self.accepts = accepts
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        """Run the command; return 0.

        Raises:
            AppBadFormatting: the function could not make the command line of its arguments.
            BashAppNoReturn: the function returned no string.
            BadStdStreamFile: ``stdout`` or ``stderr`` cannot be opened.
            AppTimeout: the command ran longer than ``walltime`` seconds; its process group was killed.
            BashExitFailure: the command exited with another code than 0.
            MissingOutputs: a file of ``outputs`` is not there.
        """
        walltime = kwargs.get("walltime")
        passed = {k: v for k, v in kwargs.items() if k in self.accepts or k not in _OPTIONS}
        try:
            command = self.function(*args, **passed)
        except (IndexError, KeyError, AttributeError, ValueError) as error:
            # What str.format and % raise for a template that does not fit its values.
            raise AppBadFormatting(
                f"bash_app {self.name!r} failed while it made its command line: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(command, str):
            raise BashAppNoReturn(
                f"bash_app {self.name!r} must return its command line as a string, it returned {command!r:.80} "
                f"of type {type(command).__name__}; does it lack a return?"
            )
        stderr_path: str | None = None
        stderr_start = 0
        streams: dict[str, IO[bytes] | None] = {}
        try:
            for name in ("stdout", "stderr"):
                streams[name], path = _open(name, kwargs.get(name))
                stream = streams[name]
                if name == "stderr":
                    # A file that is appended to holds what others wrote.
                    stderr_path, stderr_start = path, stream.tell() if stream is not None else 0
                elif stream is not None:
                    # As the reference: what is run stands in the log.
                    _write_header(name, path, stream, command)
            code = self._run(command, streams["stdout"], streams["stderr"], walltime)
        except AppTimeout as error:
            _note_command(error, command)
            raise
        finally:
            for stream in streams.values():
                if stream is not None:
                    stream.close()
        if code != 0:
            kept = kwargs.get("stderr") is not None
            failure = BashExitFailure(self.name, code, (_tail(stderr_path, stderr_start) or "") if kept else None)
            _note_command(failure, command)
            raise failure
        check_outputs(f"bash_app {self.name!r}", kwargs.get("outputs") or ())
        return code

    def _run(self, command: str, stdout: IO[bytes] | None, stderr: IO[bytes] | None, walltime: float | None) -> int:
        # A session of its own, so that a walltime reaches all that the command started.
        with subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        ) as process:
            _running[threading.get_ident()] = process.pid
            if threading.current_thread() in _ended:
                # Begun while its executor was shut down, which did not see it yet.
                _kill(process.pid)
            try:
                return process.wait(timeout=walltime)
            except subprocess.TimeoutExpired:
                raise AppTimeout(
                    f"bash_app {self.name!r} ran longer than its walltime of {walltime:g} s and was killed"
                ) from None
            finally:
                del _running[threading.get_ident()]
                if process.returncode is None:
                    _end(process)


#: Seconds that a command has to end by itself, after it was asked to.
GRACE_S = 1.0
#: The process group that each thread of this process waits for.
_running: dict[int, int] = {}
#: Threads whose commands are killed, also those that begin after that.
_ended: WeakSet[threading.Thread] = WeakSet()


def kill_commands(threads: Iterable[threading.Thread]) -> None:
    """Kill the commands that these threads wait for, with all that the commands started.

    For executors of threads that are shut down: a command is in a session of its own, and would outlive the program.
    """
    for thread in threads:
        _ended.add(thread)
        group = _running.get(thread.ident or 0)
        if group is not None:
            _kill(group)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Some end what they started only if they are asked to: the ranks of an mpiexec are in groups of their own.
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_S)
    _kill(process.pid)
    process.wait()


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


#: Keyword arguments of a call that are options of flowcore; the function sees those that it has as parameters.
_OPTIONS = frozenset({"inputs", "outputs", "stdout", "stderr", "walltime"})


def _note_command(error: Exception, command: str) -> None:
    shown = command if len(command) <= TAIL_BYTES else f"{command[:TAIL_BYTES]}..."
    error.add_note(f"flowcore: the command line was: {shown}")


def _write_header(name: str, path: str | None, stream: IO[bytes], command: str) -> None:
    try:
        # Unbuffered: what a full disk does not take must not be tried again when it is closed.
        text = f"--> executable follows <--\n{command}\n--> end executable <--\n".encode()
        while text:
            text = text[os.write(stream.fileno(), text) :]
    except OSError as error:
        raise BadStdStreamFile(f"{name}={path!r} cannot be written: {error}") from error


def _open(name: str, target: Any) -> tuple[IO[bytes] | None, str | None]:
    if target is None:
        return None, None
    mode = "a+"
    if isinstance(target, tuple):
        if len(target) != 2 or not isinstance(target[1], str):
            raise BadStdStreamFile(f"{name}={target!r}: a tuple must be (path, mode), for example ('out.txt', 'w')")
        target, mode = target
    if isinstance(target, File):
        target = target.filepath
    if not isinstance(target, str | os.PathLike):
        raise BadStdStreamFile(
            f"{name}={target!r}: expected a path, (path, mode), a File or flowcore.AUTO_LOGNAME, "
            f"got {type(target).__name__}"
        )
    path = Path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream: IO[bytes] = path.open(mode.replace("b", "").replace("t", "") + "b")
    except (OSError, ValueError) as error:
        raise BadStdStreamFile(f"{name}={str(path)!r} cannot be opened with mode {mode!r}: {error}") from error
    if not stream.writable():
        stream.close()
        raise BadStdStreamFile(f"{name}={str(path)!r} cannot be written with mode {mode!r}; use 'w' or 'a'")
    return stream, str(path)


def _tail(path: str | None, start: int) -> str | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip() or None
    except OSError:
        return None
