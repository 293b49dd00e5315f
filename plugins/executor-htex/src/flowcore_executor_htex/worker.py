"""A worker: a process that runs attempts one after another, in its main thread.

It is started by its manager as a fresh interpreter with one end of a socket pair, sends each result as soon as it
has it, and ends when the other end is closed. A SIGTERM is raised in the running attempt, so that what it started
(the process group of a bash_app) is ended too.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from flowcore import serialize, walltime
from flowcore.errors import ExecutorError, describe
from flowcore_executor_htex import protocol
from flowcore_executor_htex.link import Inbox, pack
from flowcore_executor_htex.protocol import OVERRUN_SIGNAL
from flowcore_executor_htex.settings import WorkerSettings
from flowcore_executor_htex.store import LARGE, put_result, read
from flowcore_executor_htex.tokens import Claims

if TYPE_CHECKING:
    from flowcore_executor_htex.usage import Usage

_PR_SET_PDEATHSIG = 1
#: Seconds that a call has to end after its walltime, before the worker ends instead.
UNWIND_S = 0.5
#: Seconds after a walltime at which ``OVERRUN_SIGNAL`` ends this process.
OVERRUN_S = 2.0
#: Names what a worker calls before its first attempt: ``module:function``, several with commas between them.
STARTUP = "FLOWCORE_WORKER_STARTUP"
#: Names a second beginning for the environment variables of single attempts, in place of ``FLOWCORE_``.
ALSO_NAMED = "FLOWCORE_WORKER_ALSO_NAMED"
#: The pickled None, which most tasks without a result return.
NONE = pickle.dumps(None, 5)
_OVERRAN = protocol.encode_header(protocol.Stop("a call that overran its walltime does not end"))


class _Retired(Exception):
    """This worker must not run anything else; it has told the manager."""


class _Terminated(BaseException):
    """Raised in the running attempt by SIGTERM."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


class Worker:
    """Runs what arrives on a socket.

    Args:
        sock: one end of the socket pair.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._inbox = Inbox(sock)
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._sources: dict[bytes, bytes] = {}
        self._where = ""
        self._cpus: list[int] = []
        self._store = ""
        self._claims = Claims(-1)
        self._broken: ExecutorError | None = None
        #: While samples are taken.
        self._usage: Usage | None = None

    def run(self) -> None:
        """Work until the manager closes its end."""
        while (messages := self._inbox.read()) is not None:
            for header, *frames in messages:
                if not self._where:
                    self._set_up(header)
                    continue
                message = protocol.decode(header)
                if isinstance(message, protocol.Tasks):
                    self._sources.update(message.functions)
                    position = 0
                    for item in message.tasks:
                        if not self._claims.claim(message.epoch):
                            break  # they were taken back
                        self._attempt(item, frames[position : position + item.frames])
                        position += item.frames
                elif isinstance(message, protocol.Forget):
                    for function in message.functions:
                        self._functions.pop(function, None)
                        self._sources.pop(function, None)

    def _set_up(self, header: bytes) -> None:
        setup = msgspec.msgpack.decode(header, type=WorkerSettings)
        self._where = setup.where
        self._cpus = setup.cpus
        self._store = setup.store
        self._claims = Claims(setup.tokens)
        if setup.page >= 0:
            from flowcore_executor_htex.usage import Page, Usage  # by nobody who takes none

            self._usage = Usage(Page(setup.page), setup.rank)
        if setup.cpus:
            # Before anything that makes threads of its own is imported: they inherit it.
            os.sched_setaffinity(0, setup.cpus)
        # Behind this environment's own: the submit side's modules, where its file system is seen from here.
        sys.path += [entry for entry in setup.sys_path if entry not in sys.path and os.path.exists(entry)]  # noqa: PTH110
        self._broken = _start_up(os.environ.get(STARTUP, ""))
        self._send(protocol.encode_header(protocol.Heartbeat()), [])

    def _attempt(self, item: protocol.TaskItem, frames: list[bytearray]) -> None:
        began = time.perf_counter()
        buffers: list[memoryview] = []
        kind = protocol.VALUE
        place = None if item.place is None else _Placed(item.place)
        usage = self._usage
        if usage is not None:
            usage.begin(item.key)
        try:
            if self._broken is not None:
                raise self._broken.with_traceback(None)
            function = self._functions.get(item.function) or self._load(item.function)
            args, kwargs = self._arguments(item, frames)
            value = function(*args, **kwargs)
            if usage is not None:
                usage.end()
            body = NONE if value is None else serialize.dumps(value, buffers, what="the result of the app")
            # A task's objects must not live on while the next one runs.
            del args, kwargs, value
        except _Terminated:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its result
            if usage is not None:
                usage.end()
            kind = protocol.ERROR
            buffers = []
            body = serialize.dumps_exception(error, _text(error))
        duration_us = int((time.perf_counter() - began) * 1e6)
        if place is not None:
            place.undo(self._cpus)
        if usage is not None and usage.sample is not None:
            # Before the result, behind which nobody waits for anything of this attempt.
            self._send(protocol.encode_header(protocol.Samples([usage.sample])), [])
        overran = kind == protocol.ERROR and place is not None and walltime.still_running(UNWIND_S)
        if overran:
            # Before the result: what the attempt had for itself is free only when this process is gone.
            self._send(_OVERRAN, [])
        result = protocol.ResultItem(item.key, kind, body, len(buffers), duration_us)
        if buffers or len(body) >= LARGE:
            self._send_large(result, buffers)
        else:
            self._send(protocol.encode_header(protocol.Results([result])), [])
        if overran:
            raise _Retired
        if kind == protocol.ERROR and walltime.still_running(UNWIND_S):
            # What still runs would share the process with all that follows.
            self._send(_OVERRAN, [])
            raise _Retired

    def _arguments(self, item: protocol.TaskItem, frames: list[bytearray]) -> Any:
        if item.body:
            return pickle.loads(item.body)
        if item.stored is not None:
            return read(self._store, item.stored, _loads)
        return _loads(frames[0], frames[1:])

    def _send_large(self, result: protocol.ResultItem, buffers: list[memoryview]) -> None:
        parts: list[bytes | memoryview] = [result.body, *buffers]
        result.body = b""
        result.stored = put_result(self._store, result.key, parts) if self._store else None
        if result.stored is not None:
            parts = []
        result.frames = len(parts)
        self._send(protocol.encode_header(protocol.Results([result])), parts)

    def _load(self, function: bytes) -> Callable[..., Any]:
        loaded = serialize.loads_callable(self._sources[function], self._where)
        self._functions[function] = loaded
        return loaded

    def _send(self, header: bytes, frames: Sequence[bytes | memoryview]) -> None:
        for buffer in pack(header, frames):
            self._socket.sendall(buffer)


def _loads(body: Any, buffers: Sequence[bytearray]) -> Any:
    return pickle.loads(body, buffers=buffers)


class _Placed:
    """What was changed for an attempt with a place, until it ends."""

    def __init__(self, place: protocol.Place) -> None:
        prefix = os.environ.get(ALSO_NAMED, "")
        variables = dict(place.variables)
        if prefix:
            variables |= {
                prefix + name.removeprefix("FLOWCORE_"): value
                for name, value in place.variables.items()
                if name.startswith("FLOWCORE_")
            }
        self._before = {name: os.environ.get(name) for name in variables}
        self._bound = bool(place.cpus)
        os.environ.update(variables)
        if place.cpus:
            os.sched_setaffinity(0, place.cpus)

    def undo(self, cpus: Sequence[int]) -> None:
        """Set everything back; ``cpus`` are the worker's own hardware threads."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._bound:
            os.sched_setaffinity(0, cpus)


def _end_overrunning(walltime_s: float | None) -> None:
    if walltime_s is not None and threading.current_thread() is threading.main_thread():
        # An earlier task may have set another handler, or have blocked it.
        signal.signal(OVERRUN_SIGNAL, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {OVERRUN_SIGNAL})
    signal.setitimer(signal.ITIMER_REAL, 0 if walltime_s is None else walltime_s + OVERRUN_S)


def _start_up(names: str) -> ExecutorError | None:
    """Call what ``FLOWCORE_WORKER_STARTUP`` names; return why no attempt can run here, or None."""
    for name in filter(None, names.split(",")):
        module, _, function = name.partition(":")
        try:
            getattr(importlib.import_module(module), function)()
        except Exception as error:  # noqa: BLE001 - somebody else's code; each attempt says what it did
            return ExecutorError("htex", f"{STARTUP}={names!r}: {name} failed in the worker: {describe(error)}")
    return None


def _text(error: BaseException) -> str:
    # Without this module's own frame at the top.
    tb = error.__traceback__
    shown = tb.tb_next if tb is not None and tb.tb_next is not None else tb
    try:
        return "".join(traceback.format_exception(type(error), error, shown))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"{type(error).__name__} (its traceback cannot be shown)"


def main() -> None:
    """Run the process; its argument is the file descriptor of the socket."""
    # No worker outlives its manager, also if that is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, _terminate)
    # Ctrl-C in a terminal reaches all its processes; it is the submit side that decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    walltime.backstop = _end_overrunning
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        Worker(sock).run()
    except _Retired:
        # Past the interpreter's own end, which waits for threads that the overrunning call may have started.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    except _Terminated:
        # As who asks how it ended expects it: not by exit code 0.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    except ConnectionError:
        pass


if __name__ == "__main__":
    main()
