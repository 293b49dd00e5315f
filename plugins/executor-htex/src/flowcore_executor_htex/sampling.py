"""What attempts use while they run: the manager's samples of its workers, and their way to the interchange.

Rules of this module. A thread of its own looks at the workers, so the manager's loop waits for no file of ``/proc``; it
sleeps while there is nothing to do, and takes a small share of one core at most (``SHARE``). Samples are sent when the
interchange has taken the last ones, and dropped when too many wait: a connection that is behind has results to carry.
Imported only where samples are wanted.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import msgspec
import psutil

from flowcore_executor_htex.protocol import BEGIN, RUNNING, Sample, Samples
from flowcore_executor_htex.usage import LONG_S, Page, Used

logger = logging.getLogger("flowcore_executor_htex.sampling")

#: Seconds between two looks at which attempts run, and so the shortest period of samples.
LOOK_S = 0.1
#: Of one core, for all looks.
SHARE = 0.05
#: Samples in one message at most, and those that wait to be sent.
BATCH = 512
MAX_WAITING = 8192
#: Seconds between two messages.
SPACING_S = 0.1
#: Seconds that the thread has to end.
STOP_S = 2.0
#: A process that is older than its attempt by more than this was there before; the kernel counts hundredths.
OLDER_S = 0.03


class Watched(Protocol):
    """A worker, as far as this module is concerned."""

    rank: int
    process: subprocess.Popen[bytes]
    page: Page | None


class Outbox:
    """Samples that wait for their turn, and when that is. Any thread may add some; one sends.

    Args:
        limit: how many may wait; the oldest go first.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._waiting: deque[Sample] = deque()
        self._lock = threading.Lock()
        self._lost = 0
        self._open = True
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, samples: Sequence[Sample]) -> None:
        """Add samples, behind all others."""
        with self._lock:
            self._waiting.extend(samples)
            while len(self._waiting) > self._limit:
                self._waiting.popleft()
                self._lost += 1

    def wait_s(self, now: float) -> float:
        """Return the seconds until :meth:`take` has something; infinity while it waits for others to do something."""
        return max(0.0, self._next_at - now) if self._open and self._waiting else float("inf")

    def take(self, now: float, *, last: bool = False) -> Samples | None:
        """Return a message to send now, or None.

        Args:
            now: monotonic seconds.
            last: there will be no other time: whatever was sent before, and when.
        """
        if not self._waiting or not (last or (self._open and now >= self._next_at)):
            return None
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            lost, self._lost = self._lost, 0
        self._open = False
        self._next_at = now + SPACING_S
        return Samples(taken, lost)

    def taken(self) -> None:
        """The interchange has passed on what was sent last."""
        self._open = True


@attrs.define(slots=True)
class _Seen:
    """An attempt that has samples.

    ``others`` are processes that were there before it, by pid and start, with what they had used when they were first
    seen.
    """

    key: int
    next_at: float
    last: Sample
    others: dict[tuple[int, float], Used]


@attrs.frozen
class _Reading:
    """What a process uses at a moment. ``used`` counts what it has waited for, too."""

    used: Used
    resident: int
    virtual: int
    status: str


class Sampler:
    """Takes samples of workers in a thread of its own.

    Args:
        period_s: seconds between two samples of an attempt; 0: at its beginning only. The end is the worker's to tell.
        workers: returns the workers that there are. Called from the thread.
        busy: returns whether any of them has an attempt. Called from the thread.
    """

    def __init__(self, period_s: float, workers: Callable[[], Sequence[Watched]], busy: Callable[[], bool]) -> None:
        self.outbox = Outbox()
        #: Readable when the outbox has something new.
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._period_s = period_s
        self._workers = workers
        self._busy = busy
        self._memory = psutil.virtual_memory().total
        self._seen: dict[int, _Seen] = {}
        #: Of ``_seen``; the loop takes it for what has ended.
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowcore-htex-samples", daemon=True)
        self._thread.start()

    # --- for the manager's loop

    def given(self) -> None:
        """A worker was given something."""
        if not self._work.is_set():
            self._work.set()

    def heard(self) -> None:
        """The loop has seen the bell."""
        os.eventfd_read(self.bell)

    def ended(self, sample: Sample) -> None:
        """A worker has told what an attempt had used at its end."""
        with self._lock:
            seen = self._seen.get(sample.rank)
            if seen is not None and seen.key == sample.key:
                del self._seen[sample.rank]
                # The worker does not count what it started and did not wait for.
                sample = not_less(sample, seen.last)
        self.outbox.add([sample])

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._work.set()
        self._thread.join(STOP_S)
        if not self._thread.is_alive():
            os.close(self.bell)

    # --- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.wait()
            self._work.clear()
            # Not by the clock: on a busy node a look takes long, and costs no more.
            began = time.thread_time()
            try:
                self._look(time.monotonic())
            except Exception:
                # Samples are not worth a manager.
                logger.exception("taking samples failed")
            if self._busy():
                self._work.set()
            self._stop.wait(max(LOOK_S, (time.thread_time() - began) / SHARE))

    def _look(self, now: float) -> None:
        due: list[tuple[Watched, Page, int, _Seen | None]] = []
        for worker in list(self._workers()):
            page = worker.page
            key = None if page is None else page.running
            if page is None or key is None:
                continue
            seen = self._seen.get(worker.rank)
            if seen is None or seen.key != key:
                if now - page.began_ns / 1e9 >= LONG_S:
                    due.append((worker, page, key, None))
            elif self._period_s and now >= seen.next_at:
                due.append((worker, page, key, seen))
        if not due:
            return
        children = children_of_all()
        samples = []
        for worker, page, key, seen in due:
            new = self._sample(worker, page, key, seen, children)
            if new is None:
                continue
            with self._lock:
                if seen is not None and self._seen.get(worker.rank) is not seen:
                    continue  # it has ended meanwhile
                self._seen[worker.rank] = new
            samples.append(new.last)
        if samples:
            self.outbox.add(samples)
            os.eventfd_write(self.bell, 1)

    def _sample(
        self, worker: Watched, page: Page, key: int, seen: _Seen | None, children: dict[int, list[psutil.Process]]
    ) -> _Seen | None:
        pid = worker.process.pid
        before = page.before
        # By the clock that the kernel starts processes by.
        began = time.clock_gettime(time.CLOCK_BOOTTIME) - (time.monotonic() - page.began_ns / 1e9)
        others = {} if seen is None else seen.others
        try:
            own = read(psutil.Process(pid))
        except psutil.Error:
            return None
        total = own.used
        resident, virtual, processes = own.resident, own.virtual, 1
        boot = psutil.boot_time()
        for process in tree(pid, children):
            try:
                found = read(process)
                started = process.create_time() - boot
            except psutil.Error:
                continue  # it has ended meanwhile
            used = found.used
            if started < began - OLDER_S:
                used = minus(used, others.setdefault((process.pid, started), used))
            total = plus(total, used)
            resident += found.resident
            virtual += found.virtual
            processes += 1
        if page.running != key or worker.process.returncode is not None:
            return None  # some of this may be another's
        user_us, system_us, disk_read, disk_write = minus(total, before)
        sample = Sample(
            key=key,
            rank=worker.rank,
            kind=BEGIN if seen is None else RUNNING,
            at=time.time(),
            pid=pid,
            processes=processes,
            cpu_user_s=user_us / 1e6,
            cpu_system_s=system_us / 1e6,
            memory_resident=resident,
            memory_virtual=virtual,
            memory_percent=100 * resident / self._memory,
            disk_read=disk_read,
            disk_write=disk_write,
            status=own.status,
        )
        now = time.monotonic()
        if seen is None:
            return _Seen(key, now + self._period_s, sample, others)
        # In step, as far as the looks come often enough.
        return _Seen(key, max(seen.next_at + self._period_s, now), not_less(sample, seen.last), others)


def children_of_all() -> dict[int, list[psutil.Process]]:
    """Return all processes that this one has started, and those that they have, by the pid of who started them.

    In one pass over the machine's processes, which is what takes its time.
    """
    found: dict[int, list[psutil.Process]] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found.setdefault(process.ppid(), []).append(process)
        except psutil.Error:
            continue
    return found


def tree(pid: int, children: dict[int, list[psutil.Process]]) -> list[psutil.Process]:
    """Return all that a process has started, and what those have."""
    found: list[psutil.Process] = []
    parents = [pid]
    seen = {pid}
    while parents:
        for process in children.get(parents.pop(), ()):
            if process.pid not in seen:  # while one looks, numbers may be given anew
                seen.add(process.pid)
                parents.append(process.pid)
                found.append(process)
    return found


def read(process: psutil.Process) -> _Reading:
    """Read what a process uses.

    Raises:
        psutil.Error: it has ended.
    """
    with process.oneshot():
        times = process.cpu_times()
        memory = process.memory_info()
        status = process.status()
    try:
        disk = process.io_counters()
        disk_read, disk_write = disk.read_bytes, disk.write_bytes
    except (psutil.AccessDenied, AttributeError, OSError, RuntimeError, ValueError):
        # Another user's (setuid), or a kernel that does not count.
        disk_read = disk_write = 0
    used = (
        int(1e6 * (times.user + times.children_user)),
        int(1e6 * (times.system + times.children_system)),
        disk_read,
        disk_write,
    )
    return _Reading(used, memory.rss, memory.vms, status)


def plus(a: Used, b: Used) -> Used:
    """Return the sum."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def minus(a: Used, b: Used) -> Used:
    """Return the difference; nothing is less than 0: readings are rounded."""
    return max(0, a[0] - b[0]), max(0, a[1] - b[1]), max(0, a[2] - b[2]), max(0, a[3] - b[3])


def not_less(sample: Sample, earlier: Sample) -> Sample:
    """Return a sample in which an attempt has used no less than in an earlier one.

    What a process used is not counted any more when it has ended and nobody had waited for it.
    """
    return msgspec.structs.replace(
        sample,
        cpu_user_s=max(sample.cpu_user_s, earlier.cpu_user_s),
        cpu_system_s=max(sample.cpu_system_s, earlier.cpu_system_s),
        disk_read=max(sample.disk_read, earlier.disk_read),
        disk_write=max(sample.disk_write, earlier.disk_write),
    )
