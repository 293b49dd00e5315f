"""A file that comes over a network piece by piece, and what is said when it does not; shared by the downloads.

Rule of this module: what was written is counted, so that it can be compared with what was announced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flowcore.plugins.api import TransferError


class Incoming:
    """A file on its way; what has come of it is kept between attempts.

    Args:
        url: its URL, for errors.
        path: where it is written.

    Attributes:
        size: bytes that are there.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.size = 0
        self._path = path
        self._file: IO[bytes] | None = None

    @contextmanager
    def open(self, have: int) -> Iterator[None]:
        """Write behind the first ``have`` bytes, and drop what may be there behind them.

        Raises:
            TransferError: it cannot be written.
        """
        try:
            self._file = self._path.open("r+b" if have else "wb", buffering=0)
            if have:
                self._file.seek(have)
                self._file.truncate()
        except OSError as error:
            raise self._unwritable(error) from error
        self.size = have
        with self._file:
            yield

    def write(self, piece: bytes | memoryview) -> None:
        """Write what has come.

        Raises:
            TransferError: it cannot be written.
        """
        assert self._file is not None
        left = memoryview(piece)
        try:
            while left:  # a disk that is nearly full takes a part
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._unwritable(error) from error
        self.size += len(piece)

    def failed(self, reason: str, passing: bool = True, retry_after_s: float | None = None) -> TransferError:
        """Return the error that says why the file does not come."""
        return TransferError("fetch", self.url, reason, passing, retry_after_s)

    def cut(self, total: int | None, cause: str = "cut off") -> TransferError:
        """Return the error that says how much has come, of how much."""
        return self.failed(f"{cause} after {self.size:,}{f' of {total:,}' if total is not None else ''} bytes")

    def check(self, total: int | None) -> None:
        """Compare with the length that was announced; None: there was none.

        Raises:
            TransferError: another number of bytes came.
        """
        if total is not None and self.size != total:
            raise self.failed(f"the server announced {total:,} bytes and sent {self.size:,}")

    def _unwritable(self, error: OSError) -> TransferError:
        folder = str(self._path.parent)
        return self.failed(f"cannot write to {folder!r} on {os.uname().nodename}: {error.strerror}", passing=False)
