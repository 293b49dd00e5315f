"""What a worker notes of the attempts that it runs, for the samples that its manager takes.

Rules of this module: an attempt that takes a moment costs two calls of less than a microsecond and leaves nothing; the
kernel is asked what was used before an attempt only when that may have changed. Worker and manager share a page of
memory, so the manager knows which attempt runs without a message. It is read as what anybody may have written to it.
"""

from __future__ import annotations

import mmap
import os
import resource
import time

from flowcore_executor_htex.protocol import END, Sample

#: Attempts that take less have no sample.
LONG_S = 0.1
#: What a worker may have used since it last asked the kernel, until it asks again. Seconds that attempts took.
UNREAD_S = 0.003
#: ``getrusage`` counts what was read and written in blocks.
BLOCK = 512

_NONE = -1
_LONG_NS = int(LONG_S * 1e9)
_UNREAD_NS = int(UNREAD_S * 1e9)
_PAGE_SIZE = mmap.PAGESIZE
# Where the numbers stand in the page.
_KEY, _BEGAN_NS, _USER_US, _SYSTEM_US, _READ, _WRITTEN = range(6)

#: Processor time in user and system mode in microseconds, bytes read and written, of a process and what it has
#: waited for.
Used = tuple[int, int, int, int]


class Page:
    """The page that a manager shares with one of its workers: which attempt runs, and what was used before it.

    Args:
        fd: of the page, which is closed; None makes a new one, whose file descriptor is :attr:`fd` until
            :meth:`close_fd` is called.
    """

    def __init__(self, fd: int | None = None) -> None:
        new = fd is None
        self.fd = os.memfd_create("flowcore-usage", os.MFD_CLOEXEC) if fd is None else fd
        if new:
            os.ftruncate(self.fd, _PAGE_SIZE)
        self.numbers = memoryview(mmap.mmap(self.fd, _PAGE_SIZE)).cast("q")
        if new:
            self.numbers[_KEY] = _NONE
        else:
            self.close_fd()

    def close_fd(self) -> None:
        """Close the file descriptor; the page stays. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def running(self) -> int | None:
        """The key of the attempt that runs; None if none does."""
        key = self.numbers[_KEY]
        return None if key < 0 else key

    @property
    def began_ns(self) -> int:
        """When it began, by the monotonic clock."""
        return self.numbers[_BEGAN_NS]

    @property
    def before(self) -> Used:
        """What the worker had used before it."""
        user_us, system_us, read, written = (max(0, number) for number in self.numbers[_USER_US : _WRITTEN + 1])
        return user_us, system_us, read, written


class Usage:
    """What the attempts of this process use. For its main thread.

    Args:
        page: shared with the manager.
        rank: this worker's.
    """

    def __init__(self, page: Page, rank: int) -> None:
        self._numbers = page.numbers
        self._rank = rank
        self._key = _NONE
        self._began_ns = 0
        self._unread_ns = _UNREAD_NS
        self._before: Used = (0, 0, 0, 0)
        self._memory = os.sysconf("SC_PHYS_PAGES") * _PAGE_SIZE
        #: The sample of the attempt that ended last, if it took long enough to have one.
        self.sample: Sample | None = None

    def begin(self, key: int) -> None:
        """An attempt begins."""
        numbers = self._numbers
        if self._unread_ns >= _UNREAD_NS:
            self._unread_ns = 0
            self._before = numbers[_USER_US], numbers[_SYSTEM_US], numbers[_READ], numbers[_WRITTEN] = used_by_process()
        self.sample = None
        self._key = key
        self._began_ns = numbers[_BEGAN_NS] = time.monotonic_ns()
        # The last one: by it the manager sees that the others are of this attempt.
        numbers[_KEY] = key

    def end(self) -> None:
        """The attempt's function has ended; what it holds is still there. A second call does nothing."""
        if self._key == _NONE:
            return
        key, self._key = self._key, _NONE
        self._numbers[_KEY] = _NONE
        took_ns = time.monotonic_ns() - self._began_ns
        self._unread_ns += took_ns
        if took_ns >= _LONG_NS:
            self.sample = self._take(key)

    def _take(self, key: int) -> Sample | None:
        try:
            with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - in a worker, pathlib may be new
                virtual, resident = (int(pages) * _PAGE_SIZE for pages in file.read().split()[:2])
        except OSError:
            return None  # the task may have left no file descriptor; it is no error of the task
        user_us, system_us, read, written = (
            max(0, now - then) for now, then in zip(used_by_process(), self._before, strict=True)
        )
        return Sample(
            key=key,
            rank=self._rank,
            kind=END,
            at=time.time(),
            pid=os.getpid(),
            processes=1,
            cpu_user_s=user_us / 1e6,
            cpu_system_s=system_us / 1e6,
            memory_resident=resident,
            memory_virtual=virtual,
            memory_percent=100 * resident / self._memory,
            disk_read=read,
            disk_write=written,
            status="running",
        )


def used_by_process() -> Used:
    """Return what this process has used, and those that it started and has waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        int(1e6 * (own.ru_utime + ended.ru_utime)),
        int(1e6 * (own.ru_stime + ended.ru_stime)),
        BLOCK * (own.ru_inblock + ended.ru_inblock),
        BLOCK * (own.ru_oublock + ended.ru_oublock),
    )
