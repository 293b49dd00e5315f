"""Files are named independently of place: a :class:`File` is a URL that staging may give a local path."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlparse


class AutoLogName:
    """The type of :data:`AUTO_LOGNAME`; one object, equal only to itself, also after a trip to a worker."""

    def __repr__(self) -> str:
        return "AUTO_LOGNAME"

    def __reduce__(self) -> str:
        return "AUTO_LOGNAME"


#: Pass as ``stdout=`` or ``stderr=`` to have the log named by task and kept below ``task_logs`` in the run
#: directory.
AUTO_LOGNAME: Final = AutoLogName()


class File:
    """Names a file by URL, wherever it is.

    A file that was staged carries the path it has where the task runs in :attr:`local_path`; each task gets
    its own copy of the object, so a local path never leaks into another place.

    Args:
        url: a URL (``https://host/a.csv``, ``file:///data/a.csv``) or a path (``a.csv``,
            ``pathlib.Path("a.csv")``), which is a URL of the scheme ``file``.

    Raises:
        TypeError: ``url`` is neither a string nor a path.
    """

    __slots__ = ("filename", "local_path", "netloc", "path", "scheme", "url")

    def __init__(self, url: os.PathLike[str] | str) -> None:
        if not isinstance(url, str | os.PathLike):
            raise TypeError(f"File() takes a URL or a path, got {url!r} of type {type(url).__name__}")
        self.url: str = os.fspath(url)
        # A path object is a path whatever it holds, also a colon.
        parsed = urlparse(self.url if isinstance(url, str) else "")
        self.scheme: str = parsed.scheme or "file"
        self.netloc: str = parsed.netloc
        # A path may hold '?' and '#': only a real URL has a query and a fragment.
        self.path: str = parsed.path if parsed.scheme else self.url
        self.filename: str = PurePosixPath(self.path).name
        #: Path of the file where the task runs, once a stager has put it there.
        self.local_path: str | None = None

    def cleancopy(self) -> File:
        """Return a new File of the same URL without a local path."""
        copy = File.__new__(File)
        for name in self.__slots__:
            setattr(copy, name, getattr(self, name))
        copy.local_path = None
        return copy

    @property
    def filepath(self) -> str:
        """The path of the file on the side where this is read.

        Raises:
            ValueError: the file has no path here: its scheme is not ``file`` and it was not staged.
        """
        if self.local_path is not None:
            return self.local_path
        if self.scheme == "file":
            return self.path
        raise ValueError(
            f"{self.url} has no path here: only file: URLs have one before staging. "
            "Pass the File to an app and read `filepath` inside it."
        )

    def __fspath__(self) -> str:
        return self.filepath

    def __str__(self) -> str:
        return self.filepath if self.local_path is not None or self.scheme == "file" else self.url

    def __repr__(self) -> str:
        local = f", local_path={self.local_path!r}" if self.local_path is not None else ""
        return f"File({self.url!r}{local})"
