"""Checkpoints: results of cached tasks in append-only files that survive being cut off anywhere.

A file begins with a line that names the format. A record is a length, a CRC-32 and the pickled
``(key, result)``, written with one ``write`` on a file opened for appending: a run that is killed loses at most
the record being written. Reading stops at the first record that is cut off or damaged, says so, and keeps all
before it.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flowcore import serialize
from flowcore.errors import BadCheckpoint, SerializationError

logger = logging.getLogger(__name__)

MAGIC = b"flowcore checkpoint 1\n"
FILE_NAME = "tasks.ckpt"
_HEAD = struct.Struct(">QI")


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
            data += _HEAD.pack(len(body), zlib.crc32(body)) + body
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


def read(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) of each record of one checkpoint file.

    Raises:
        BadCheckpoint: at its start if the file is no checkpoint; where a record is cut off or damaged, after
            all records before it. Says what was kept.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BadCheckpoint(f"{path} is no flowcore checkpoint: it does not begin with {MAGIC!r}")
        count = 0
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise BadCheckpoint(f"{path}: its last record is cut off; the {count} before it are loaded")
            size, crc = _HEAD.unpack(head)
            body = file.read(size) if size <= path.stat().st_size else b""
            if len(body) < size:
                raise BadCheckpoint(f"{path}: its last record is cut off; the {count} before it are loaded")
            if zlib.crc32(body) != crc:
                raise BadCheckpoint(
                    f"{path}: record {count} is damaged (its checksum differs); the {count} before it are loaded"
                )
            try:
                key, value = serialize.loads(body)
            except Exception as error:  # noqa: BLE001 - a result whose class is gone must not lose the others
                logger.warning("%s: record %d cannot be loaded: %r", path, count, error)
            else:
                yield key, value
            count += 1


def load(places: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """Load all results of some checkpoints; later ones win.

    Args:
        places: checkpoint folders, run folders, or checkpoint files.

    Returns:
        Results by memo key. What could not be read was logged as a warning.

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
        try:
            for key, value in read(file):
                results[key] = value
        except BadCheckpoint as error:
            logger.warning("%s", error)
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
