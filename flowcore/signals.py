"""SIGTERM and SIGHUP end a program through its ``with`` blocks and its exit functions, while it has runs to take down.

Rule of this module: only what nobody has set a handler for is handled, only in the main thread, and only until the last
run is over.
"""

from __future__ import annotations

import os
import signal
import threading
import types

#: What a batch system, a service manager or a terminal that is closed sends.
NUMBERS = (signal.SIGTERM, signal.SIGHUP)

_owners: set[object] = set()
_pid = 0


def watch(owner: object) -> None:
    """Handle the signals that would end this process at once; in other threads than the main one, do nothing.

    Args:
        owner: the run that is to be taken down.
    """
    global _pid
    _owners.add(owner)
    _pid = os.getpid()
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)


def unwatch(owner: object) -> None:
    """Take note that a run is over; after the last one, the signals have their effect of before. Idempotent."""
    _owners.discard(owner)
    if not _owners and threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: types.FrameType | None) -> None:
    if _owners and os.getpid() == _pid:
        raise SystemExit(128 + number)
    # The last run was over in another thread, or this is a child that was forked: as if nobody handled it.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
