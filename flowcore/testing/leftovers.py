"""``no_leftovers``: fails a test that leaves processes or threads behind.

It is an autouse fixture: where it is imported, in a ``conftest.py`` or a test module, it is on for every test::

    from flowcore.testing.leftovers import no_leftovers  # noqa: F401
"""

from __future__ import annotations

import gc
import multiprocessing.resource_tracker
import os
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from flowcore.testing import processes

#: In the environment of each test, and so of all that it starts: finds what changed its parent.
MARK = "FLOWCORE_TEST_MARK"
#: Seconds in which what a test started may still end.
GRACE_S = 5.0
#: Threads whose names begin so are flowcore's own: they end with their run, daemons or not.
OWN_THREADS = ("flowcore", "_flowcore")


class Leftovers:
    """What a piece of a program left behind.

    Args:
        mark: ``NAME=value`` in the environment of the processes it starts; None: only this process's
            descendants are looked at.
    """

    def __init__(self, mark: str | None = None) -> None:
        self._mark = mark
        self._threads = set(threading.enumerate())
        self._processes = {(p.pid, p.started) for p in self._found()}

    def new_threads(self, all_of_them: bool = False) -> list[threading.Thread]:
        """Return the new threads that live: flowcore's own and those that are no daemons, or all."""
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads
            and thread.is_alive()
            and (all_of_them or not thread.daemon or thread.name.startswith(OWN_THREADS))
        ]

    def new_processes(self) -> list[processes.Process]:
        """Return the new processes, those that ended and that this process did not reap among them."""
        return [p for p in self._found() if (p.pid, p.started) not in self._processes]

    def wait(self, timeout_s: float = GRACE_S, all_threads: bool = False) -> list[str]:
        """Wait for all to end.

        Args:
            timeout_s: seconds to wait at most.
            all_threads: also for daemons.

        Returns:
            A line for each that did not; empty if nothing is left.
        """
        deadline = time.monotonic() + timeout_s
        for thread in self.new_threads(all_threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        # A process that is no child of this one gives no event.
        pause = 0.002
        while (left := self.new_processes()) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        lines = [f"thread {t.name!r}{' (daemon)' * t.daemon}" for t in self.new_threads(all_threads)]
        return lines + [f"process {p.pid} (state {p.state}, parent {p.ppid}): {p.command:.200}" for p in left]

    def _found(self) -> list[processes.Process]:
        everyone = processes.everyone()
        this = os.getpid()
        found = {p.pid: p for p in processes.descendants(this, everyone)}
        if self._mark is not None:
            found.update((p.pid, p) for p in processes.carrying(self._mark, everyone) if p.pid != this)
        # The standard library's own, which lives as long as this process.
        found.pop(getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None) or -1, None)
        # One that ended is reaped by its parent: a fault of this process, not of others.
        return [p for p in found.values() if p.state not in "ZX" or p.ppid == this]


@pytest.fixture(autouse=True)
def no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leftovers]:
    """Fail the test if processes, threads that are no daemons, or threads of flowcore are there after it.

    All fixtures that are set up after this one are taken down before it looks. What is left is killed, so
    that one test's failure does not become the next one's.
    """
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    leftovers = Leftovers(f"{MARK}={value}")
    yield leftovers
    left = leftovers.wait(0.05)
    if left:
        # An object in a reference cycle may hold a thread or a process that ends with it.
        gc.collect()
        left = leftovers.wait(GRACE_S)
    if left:
        processes.kill(leftovers.new_processes())
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
