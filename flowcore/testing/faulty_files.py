"""What the testing kit's servers of files have in common: a folder, and what is to go wrong with each of its files."""

from __future__ import annotations

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

F = TypeVar("F")


class FaultyFiles(ABC, Generic[F]):
    """A server of the files of a folder, which does wrong when it is told to: a context manager.

    Args:
        root: the folder; made if it is not there.
        no_fault: stands for a request with which nothing goes wrong.
    """

    def __init__(self, root: Path, no_fault: F) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self._no_fault = no_fault
        self._faults: dict[str, deque[F]] = {}
        self._always: dict[str, F] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Serve; at the same port as before, if it was stopped."""

    @abstractmethod
    def stop(self) -> None:
        """Close the port and all connections. Idempotent."""

    @abstractmethod
    def url(self, name: str = "") -> str:
        """Return the URL of a file.

        Args:
            name: its path below the folder, not quoted.
        """

    def put(self, name: str, content: bytes, modified: float | None = None) -> str:
        """Make a file, or replace it; return its URL. It is never seen half.

        Args:
            name: its path below the folder.
            content: its bytes.
            modified: seconds of the epoch when it was modified; None: now.
        """
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        if modified is not None:
            os.utime(file.name, (modified, modified))
        Path(file.name).replace(path)
        return self.url(name)

    def fail(self, name: str, *faults: F, always: bool = False) -> None:
        """Have requests for a file go wrong; what was said before of this file is forgotten.

        Args:
            name: its path below the folder; it needs not be there.
            faults: one for each request to come, in this order. Later ones are served.
            always: there is one fault, for all requests to come.
        """
        with self._lock:
            self._faults[name] = deque(() if always else faults)
            self._always.pop(name, None)
            if always:
                (self._always[name],) = faults

    def fault_of(self, name: str) -> F:
        """Return what is to go wrong with the request for a file that has come. For the server's side."""
        with self._lock:
            faults = self._faults.get(name)
            return faults.popleft() if faults else self._always.get(name, self._no_fault)
