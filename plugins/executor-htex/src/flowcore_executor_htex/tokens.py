"""The right to begin an attempt, taken back from a worker that is busy.

A worker is given short attempts ahead (see ``pool.py``). When one of them turns out long, those behind it must go to
other workers, and none may run twice. So with each attempt the manager puts a token into a pipe, and the worker takes
one before it begins an attempt; the manager takes back what is left. The kernel gives each token to one of them.

A token is a number of four bytes, the epoch of its pipe. Whenever tokens are taken back the epoch changes: a worker
that finds no token, or one of a later epoch, knows that the rest of the attempts of an earlier one are no longer its.
"""

from __future__ import annotations

import os

SIZE = 4


class Tokens:
    """The manager's end: both ends of the pipe."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoch = 0

    def put(self, count: int) -> None:
        """Let the worker begin so many attempts more. At most a page's worth is outstanding, so it never blocks."""
        os.write(self._writer, self.epoch.to_bytes(SIZE, "little") * count)

    def take_back(self) -> int:
        """Take all tokens back; return how many there were: the worker will not begin so many of its last attempts."""
        try:
            taken = len(os.read(self.reader, 65536)) // SIZE
        except BlockingIOError:
            return 0
        self.epoch += 1
        return taken

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self._writer)


class Claims:
    """The worker's end.

    Args:
        fd: the pipe's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        #: A token of a later epoch, taken while attempts of an earlier one were at hand.
        self._kept: int | None = None

    def claim(self, epoch: int) -> bool:
        """Return whether the next attempt of this epoch may begin; False: none of those at hand may."""
        token = self._kept
        if token is None:
            try:
                token = int.from_bytes(os.read(self._fd, SIZE), "little")
            except BlockingIOError:
                return False
        self._kept = None if token == epoch else token
        return token == epoch
