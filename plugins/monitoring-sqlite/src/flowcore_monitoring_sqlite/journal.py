"""The journal of a run: what happened, in the order in which it did, in files that only grow.

Rules of this module. One process appends, another one reads behind it. A record is there as a whole or not at all: it
has its length and a checksum before it, and what a full disk took of it is cut off again. So whoever is killed, and
when, all records but the one being written can be read. A reader goes on where it was told to, and files that it has
done with are removed, so that the journal holds what is not in the database yet and no more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from flowcore.plugins.api import FlowcoreError

#: What every file begins with.
MAGIC = b"flowcore-journal 3\n"
#: Length of a record, and its CRC-32.
HEADER = struct.Struct("<II")
#: Bytes after which a further file is begun.
SEGMENT_BYTES = 32 * 1024 * 1024
#: Held by whoever brings the journal into a database.
LOCK = "lock"
#: A length beyond this is no length.
MOST_BYTES = 1024 * 1024 * 1024


class JournalError(FlowcoreError):
    """A journal cannot be used.

    Args:
        text: which one, why, and what to do.
    """


@attrs.frozen(order=True)
class Position:
    """A place between two records: the number of the file, and the bytes before it there."""

    segment: int
    position: int


START = Position(1, len(MAGIC))


def path_of(folder: Path, segment: int) -> Path:
    """Return the path of a file of the journal."""
    return folder / f"events-{segment:06}.journal"


def segments(folder: Path) -> list[int]:
    """Return the numbers of the files that are there, in their order."""
    return sorted(
        int(path.stem.removeprefix("events-"))
        for path in folder.glob("events-*.journal")
        if path.stem.removeprefix("events-").isdigit()
    )


class JournalWriter:
    """Appends records. For one thread at a time.

    Args:
        folder: made if it is not there.
        segment_bytes: when to begin a further file.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._segment = 0
        self._size = 0
        self._fd = -1
        folder.mkdir(parents=True, exist_ok=True)
        self._begin(1)

    def append(self, payload: bytes) -> None:
        """Append a record; when this returns, it survives the end of this process.

        Raises:
            OSError: it cannot be written, and is not there, not even in part.
        """
        if self._size >= self._segment_bytes:
            self._begin(self._segment + 1)
        data = HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except BaseException:  # Ctrl-C too
            if written:
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _begin(self, segment: int) -> None:
        path = path_of(self.folder, segment)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        self.close()
        self._fd, self._segment, self._size = fd, segment, len(MAGIC)


class JournalReader:
    """Reads records in their order, as far as they are there.

    Args:
        folder: of the journal.
        position: where to begin.
    """

    def __init__(self, folder: Path, position: Position = START) -> None:
        self.folder = folder
        #: Before the next record.
        self.position = position
        self._fd = -1
        self._opened = 0

    def read(self, most_bytes: int = 1024 * 1024) -> Iterator[bytes]:
        """Give records from :attr:`position` on, and move that behind each.

        Ends where no further record is there as a whole, or after about ``most_bytes``.

        Raises:
            JournalError: what is there is no journal, or it was damaged.
        """
        done = 0
        while done < most_bytes:
            payload = self._next()
            if payload is None:
                return
            done += HEADER.size + len(payload)
            yield payload

    def seek(self, position: Position) -> None:
        """Go on from another place."""
        self.close()
        self.position = position

    def left_bytes(self) -> int:
        """Return how many bytes are there behind :attr:`position`."""
        left = 0
        for segment in segments(self.folder):
            with contextlib.suppress(OSError):
                size = path_of(self.folder, segment).stat().st_size
                if segment == self.position.segment:
                    left += max(0, size - self.position.position)
                elif segment > self.position.segment:
                    left += size
        return left

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _next(self) -> bytes | None:
        while True:
            if not self._open():
                return None
            # Before this file is looked at: what is not in it when there is a next one will not come any more.
            further = path_of(self.folder, self.position.segment + 1).exists()
            payload = self._record()
            if payload is not None or not further:
                return payload
            self.seek(Position(self.position.segment + 1, len(MAGIC)))

    def _open(self) -> bool:
        if self._fd >= 0 and self._opened == self.position.segment:
            return True
        self.close()
        path = path_of(self.folder, self.position.segment)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._opened = self.position.segment
        start = os.pread(self._fd, len(MAGIC), 0)
        if start != MAGIC:
            self.close()
            if MAGIC.startswith(start):
                return False  # being made
            raise JournalError(f"{path} is no journal of this version of flowcore's monitoring: it begins {start!r}")
        return True

    def _record(self) -> bytes | None:
        at = self.position.position
        header = os.pread(self._fd, HEADER.size, at)
        if len(header) < HEADER.size:
            return None
        length, checksum = HEADER.unpack(header)
        payload = os.pread(self._fd, length, at + HEADER.size) if length <= MOST_BYTES else b""
        if length > MOST_BYTES or (len(payload) == length and zlib.crc32(payload) != checksum):
            raise JournalError(
                f"{path_of(self.folder, self.position.segment)} is damaged at byte {at}: a record there has another "
                "checksum than when it was written. What is before it can be used"
            )
        if len(payload) < length:
            return None
        self.position = Position(self.position.segment, at + HEADER.size + length)
        return payload


def remove_before(folder: Path, segment: int) -> None:
    """Remove the files before one; what cannot be removed stays."""
    for number in segments(folder):
        if number < segment:
            with contextlib.suppress(OSError):
                path_of(folder, number).unlink()


@contextlib.contextmanager
def sole_reader(folder: Path) -> Iterator[None]:
    """Keep other readers away, which would remove files and write rows at the same time.

    Raises:
        JournalError: another process is at work on the journal.
    """
    path = folder / LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"another process is writing the events in {folder} to the database at this moment: the run goes on, "
                "or another `flowcore monitoring import` is at work. Wait for its end"
            ) from None
        except OSError:
            pass  # a file system without locks; the database's own check remains
        yield
    finally:
        os.close(fd)
