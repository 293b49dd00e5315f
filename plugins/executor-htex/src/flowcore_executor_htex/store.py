"""Large arguments and results between processes of one host: through memory that they share, not through sockets.

A store is a folder, on a file system in memory where there is one, that only this user may enter. Who has something
large writes it to a file there and sends its name; the other end reads it from there. Files are removed by the submit
side alone, which knows when an attempt is over; all of the folder goes with the run.

What does not fit (a container's shared memory may be as small as 64 MB) travels with its message instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from flowcore_executor_htex.protocol import Stored

#: Bodies with their buffers are stored from this size on, in bytes; below, a file costs more than it saves.
LARGE = 65536
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the name is the kernel's
PREFIX = "flowcore-"
LOCK = "lock"
#: Bytes of files that are kept to be written again: pages that are there need not be cleared by the kernel.
KEEP = 256 * 2**20
#: Seconds between two looks for results that nobody fetched.
SWEEP_S = 10.0
#: Names of results begin so; the attempt's key follows.
RESULT = "r"


def size_of(parts: Iterable[Any]) -> int:
    """Return the bytes of some buffers together."""
    return sum(map(_size, parts))


def _size(part: Any) -> int:
    return memoryview(part).nbytes


def _write(path: str, parts: Sequence[Any]) -> bool:
    """Write buffers to a file; return False if they do not fit."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        # Not by mapping it: where memory has run out that would be a SIGBUS.
        for part in parts:
            view = memoryview(part).cast("B")
            while view.nbytes:
                view = view[os.write(fd, view) :]
    except OSError:
        Path(path).unlink()
        return False
    finally:
        os.close(fd)
    return True


def put_result(folder: str, key: int, parts: Sequence[Any]) -> Stored | None:
    """Write a result; return where it is, or None if it does not fit."""
    name = f"{RESULT}{key}"
    if not _write(f"{folder}/{name}", parts):
        return None
    return Stored(name, [_size(part) for part in parts])


def read(folder: str, stored: Stored, load: Callable[[Any, Sequence[bytearray]], Any]) -> Any:
    """Return what ``load`` makes of a stored body and its buffers.

    The body is only lent to ``load``; the buffers are its own, to keep and to write to.

    Raises:
        OSError: the file is not there.
        Exception: whatever ``load`` raises.
    """
    fd = os.open(f"{folder}/{os.path.basename(stored.name)}", os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH119
    try:
        body_size, *sizes = stored.sizes
        buffers = []
        position = body_size
        for size in sizes:
            buffer = bytearray(size)
            done = os.preadv(fd, [buffer], position)
            while done < size:
                more = os.preadv(fd, [memoryview(buffer)[done:]], position + done)
                if not more:
                    raise OSError(f"{stored.name} is shorter than was said")
                done += more
            buffers.append(buffer)
            position += size
        with mmap.mmap(fd, body_size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as body:
            return load(body, buffers)
    finally:
        os.close(fd)


def _remove_abandoned(base: str) -> None:
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(folder: str) -> None:
    try:
        lock = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # none of ours, or just being made or removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its owner lives
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


class Store:
    """The submit side of a store, in a new folder with a short path. Not safe for threads: its owner holds a lock.

    A folder whose owner was killed, and could not remove it, is removed by the next one of the same user: owners hold
    a lock on a file in their folder as long as they live.

    Args:
        base: where the folder is made; None: in shared memory if there is any, else among the temporary files.
    """

    def __init__(self, base: str | None = None) -> None:
        if base is None:
            shared = os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
            base = SHARED_MEMORY if shared else tempfile.gettempdir()
        _remove_abandoned(base)
        self.folder = tempfile.mkdtemp(prefix=PREFIX, dir=base)
        self._lock = os.open(f"{self.folder}/locking", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only now may anybody try the lock.
        os.rename(f"{self.folder}/locking", f"{self.folder}/{LOCK}")  # noqa: PTH104
        self._count = 0
        self._used: dict[int, tuple[str, int]] = {}
        self._free: list[tuple[str, int]] = []
        self._free_bytes = 0
        self._swept = 0.0

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def put(self, key: int, body: Sequence[bytes], buffers: Sequence[Any] = ()) -> Stored | None:
        """Write an attempt's arguments; return where they are, or None if they do not fit.

        Args:
            key: the attempt's.
            body: parts of the body, which follow one another.
            buffers: its large buffers.
        """
        sizes = [size_of(body), *map(_size, buffers)]
        name, capacity = self._take(sum(sizes))
        if not _write(f"{self.folder}/{name}", [*body, *buffers]):
            return None
        self._used[key] = name, max(sum(sizes), capacity)
        return Stored(name, sizes)

    def release(self, key: int, *, read: bool) -> None:
        """The attempt is over.

        Args:
            key: the attempt's.
            read: whether its worker has certainly read its arguments: then their file can be written again.
        """
        entry = self._used.pop(key, None)
        if entry is None:
            return
        name, capacity = entry
        if read and self._free_bytes + capacity <= KEEP:
            self._free.append(entry)
            self._free_bytes += capacity
        else:
            self._remove(name)

    def fetch(self, stored: Stored, load: Callable[[Any, Sequence[bytearray]], Any]) -> Any:
        """Return what ``load`` makes of a result, and remove its file.

        Raises:
            Exception: as :func:`read`.
        """
        try:
            return read(self.folder, stored, load)
        finally:
            self._remove(stored.name)

    def sweep(self, outstanding: Container[int]) -> None:
        """Remove results of attempts that are over: cancelled ones, those of lost managers. Call now and then."""
        now = time.monotonic()
        if now - self._swept < SWEEP_S:
            return
        self._swept = now
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(RESULT) and int(entry.name.removeprefix(RESULT)) not in outstanding:
                    self._remove(entry.name)

    def _take(self, size: int) -> tuple[str, int]:
        """Return the name of a file to write, and how large it is."""
        if self._free and self._free[-1][1] <= 4 * size:
            name, capacity = self._free.pop()
            self._free_bytes -= capacity
            return name, capacity
        self._count += 1
        return f"a{self._count}", 0

    def _remove(self, name: str) -> None:
        (Path(self.folder) / Path(name).name).unlink(missing_ok=True)
