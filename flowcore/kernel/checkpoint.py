"""Checkpoints: results of cached apps in append-only files that survive being cut off, or damaged, anywhere.

A file begins with a line that names the format. A record is a head (a mark, the length and the CRC-32 of the body, and
the CRC-32 of these) and a body, the pickled ``(key, result)``, written with one ``write`` on a file opened for
appending: a run that is killed loses at most the record being written. Reading skips what is damaged, goes on at the
next mark whose head is sound, and says what it skipped.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from flowcore import serialize
from flowcore.errors import BadCheckpoint, SerializationError

logger = logging.getLogger(__name__)

MAGIC = b"flowcore checkpoint 2\n"
FILE_NAME = "tasks.ckpt"
#: Begins each record, so that the next one is found behind damage.
MARK = b"\xffFC\x02"
_HEAD = struct.Struct(">4sQII")
_SCAN_BYTES = 1 << 20


class CheckpointFile:
    """Appends results to a checkpoint file, which is made when the first one comes.

    Args:
        directory: the checkpoint folder of the run; made when needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._fd: int | None = None
        self.written = 0

    def append(self, results: Iterable[tuple[str, Any]]) -> None:
        """Append results, given as (key, value).

        A value that cannot be pickled is logged and left out.

        Raises:
            OSError: the file cannot be written.
        """
        data = bytearray()
        count = 0
        for key, value in results:
            try:
                body = serialize.dumps((key, value), what="a result")
            except SerializationError as error:
                logger.warning("result %s is not checkpointed: %s", key, error)
                continue
            data += _head(body) + body
            count += 1
        if not count:
            return
        with self._lock:
            if self._fd is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._fd = os.open(self.directory / FILE_NAME, flags, 0o644)
            before = os.fstat(self._fd).st_size
            view = memoryview(data if before else MAGIC + data)
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                # Half a record (a full disk) would hide all that are written after it.
                os.ftruncate(self._fd, before)
                raise
            self.written += count

    def close(self) -> None:
        """Bring everything to the disk and close the file. Idempotent."""
        with self._lock:
            if self._fd is not None:
                os.fsync(self._fd)
                os.close(self._fd)
                self._fd = None


def _head(body: bytes) -> bytes:
    start = struct.pack(">4sQI", MARK, len(body), zlib.crc32(body))
    return start + struct.pack(">I", zlib.crc32(start))


def _body_of(head: bytes) -> tuple[int, int] | None:
    """Return the length and the checksum of the body that a head announces; None if it is no sound head."""
    if len(head) < _HEAD.size:
        return None
    mark, size, crc, own_crc = _HEAD.unpack(head)
    sound = mark == MARK and own_crc == zlib.crc32(head[:-4])
    return (size, crc) if sound else None


def _next_record(file: IO[bytes], position: int) -> int | None:
    """Return where the first record with a sound head begins, at ``position`` or behind it."""
    while True:
        file.seek(position)
        block = file.read(_SCAN_BYTES)
        at = block.find(MARK)
        while at >= 0:
            file.seek(position + at)
            if _body_of(file.read(_HEAD.size)) is not None:
                return position + at
            at = block.find(MARK, at + 1)
        if len(block) < _SCAN_BYTES:
            return None
        position += len(block) - len(MARK) + 1  # a mark may lie across two blocks


def read(path: Path, skipped: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) of each sound record of one checkpoint file.

    Args:
        path: the file.
        skipped: gets a message for each part of the file that was left out.

    Raises:
        BadCheckpoint: at the start, if the file is no checkpoint.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BadCheckpoint(f"{path} is no flowcore checkpoint: it does not begin with {MAGIC!r}")
        end = path.stat().st_size
        position = len(MAGIC)
        while position < end:
            file.seek(position)
            announced = _body_of(file.read(_HEAD.size))
            body = file.read(announced[0]) if announced and announced[0] <= end - position else b""
            if announced is None or len(body) < announced[0] or zlib.crc32(body) != announced[1]:
                following = _next_record(file, position + 1)
                if following is None:
                    skipped.append(f"{path}: its last record, at byte {position}, is cut off or damaged")
                    return
                skipped.append(f"{path}: bytes {position} to {following} are damaged")
                position = following
                continue
            try:
                key, value = serialize.loads(body)
            except Exception as error:  # noqa: BLE001 - a result whose class is gone must not lose the others
                skipped.append(f"{path}: the record at byte {position} cannot be loaded: {error!r}")
            else:
                yield key, value
            position += _HEAD.size + len(body)


def load(places: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """Load all results of some checkpoints; later ones win.

    Args:
        places: checkpoint folders, run folders, or checkpoint files.

    Returns:
        Results by memo key. What could not be read was logged as warnings, which say how many records were loaded.

    Raises:
        BadCheckpoint: a place does not exist.
    """
    results: dict[str, Any] = {}
    for place in places:
        path = Path(place)
        candidates = [path, path / FILE_NAME, path / "checkpoint" / FILE_NAME]
        file = next((c for c in candidates if c.is_file()), None)
        if file is None:
            if path.is_dir():
                logger.warning("%s holds no checkpoint; nothing is loaded from it", path)
                continue
            raise BadCheckpoint(
                f"checkpoint {path} does not exist; flowcore.checkpoints.get_all_checkpoints() lists those there are"
            )
        skipped: list[str] = []
        count = 0
        try:
            for key, value in read(file, skipped):
                results[key] = value
                count += 1
        except BadCheckpoint as error:
            skipped.append(str(error))
        for what in skipped:
            logger.warning("checkpoint: left out: %s", what)
        if skipped:
            logger.warning("checkpoint %s: the %d sound records are loaded", file, count)
    return results


def get_all_checkpoints(rundir: str | os.PathLike[str] = "runinfo") -> list[str]:
    """Return the checkpoint folders of all runs below ``rundir``, oldest first, for ``Config.checkpoint_files``."""
    base = Path(rundir)
    runs = sorted((p for p in base.glob("[0-9]*") if p.name.isdigit()), key=lambda p: int(p.name))
    return [str((p / "checkpoint").resolve()) for p in runs if (p / "checkpoint" / FILE_NAME).is_file()]


def get_last_checkpoint(rundir: str | os.PathLike[str] = "runinfo") -> list[str]:
    """Return the checkpoint folder of the latest run below ``rundir`` that has one, as a list of 0 or 1.

    A checkpoint holds only what its own run computed; for the results of all runs see
    :func:`get_all_checkpoints`.
    """
    return get_all_checkpoints(rundir)[-1:]
