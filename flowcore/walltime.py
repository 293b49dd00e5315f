"""A time limit for a Python function, where it runs.

Imported by workers: light.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from flowcore.errors import AppTimeout

#: Set by a process that can be ended when all else fails. Called with the walltime (s) where a limited call begins,
#: and with None where it is over, in the thread that runs tasks.
backstop: Callable[[float | None], None] | None = None

#: Threads whose time was up, and that had not ended by then.
_late: list[threading.Thread] = []


class WithWalltime:
    """Runs a function for a limited time.

    The function runs in a thread of its own, which gets :class:`AppTimeout` raised in it when time is up. Code that
    does not return to the interpreter goes on in the background, but the task has failed by then; an executor that
    can replace the process asks :func:`still_running` and does so.

    Args:
        function: what to call.
        walltime: seconds that a call may take.
        name: the app's name.
    """

    def __init__(self, function: Callable[..., Any], walltime: float, name: str) -> None:
        self.function = function
        self.walltime = walltime
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            AppTimeout: time was up.
            Exception: what the function raised.
        """
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((True, self.function(*args, **kwargs)))
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                outcome.append((False, error))

        thread = threading.Thread(target=run, name=f"walltime-{self.__name__}", daemon=True)
        if backstop is not None:
            backstop(self.walltime)
        try:
            thread.start()
            thread.join(self.walltime)
        finally:
            if backstop is not None:
                backstop(None)
        if thread.is_alive():
            _interrupt(thread)
            _late[:] = [t for t in _late if t.is_alive()] + [thread]
            raise AppTimeout(f"app {self.__name__!r} ran longer than its walltime of {self.walltime:g} s")
        good, value = outcome[0]
        if good:
            return value
        raise value


def still_running(grace_s: float) -> bool:
    """Give calls whose time was up a moment to end; return whether one is still running in this process."""
    deadline = time.monotonic() + grace_s
    for thread in _late:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in _late)


def _interrupt(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(AppTimeout))
