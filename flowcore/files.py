"""Files are named independently of place: a :class:`File` is a URL that staging may give a local path."""

from __future__ import annotations

import os
import re
import socket
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit


class AutoLogName:
    """The type of :data:`AUTO_LOGNAME`; one object, equal only to itself, also after a trip to a worker."""

    def __repr__(self) -> str:
        return "AUTO_LOGNAME"

    def __reduce__(self) -> str:
        return "AUTO_LOGNAME"


#: Pass as ``stdout=`` or ``stderr=`` to have the log named by task and kept below ``task_logs`` in the run
#: directory.
AUTO_LOGNAME: Final = AutoLogName()


#: Options of a bash_app's call that may be files which the task makes.
STREAMS = ("stdout", "stderr")


class File:
    """Names a file by URL, wherever it is.

    A file that was staged carries the path it has where the task runs in :attr:`local_path`; each task gets
    its own copy of the object, so a local path never leaks into another place. The text form of a File is its path
    where it has one, so that it can stand in a command line, and else its URL; ``repr`` shows no passwords.

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
        parsed = urlsplit(self.url if isinstance(url, str) else "")
        self.scheme: str = parsed.scheme or "file"
        self.netloc: str = parsed.netloc
        # A path may hold '?' and '#': only a real URL has a query and a fragment.
        self.path: str = parsed.path if parsed.scheme else self.url
        self.filename: str = PurePosixPath(self.path).name
        #: Path of the file where the task runs, once a stager has put it there. It may hold variables of the
        #: environment there (``$TMPDIR/a.txt``), which :attr:`filepath` puts in.
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
            ValueError: the file has no path here: its scheme is not ``file`` and it was not staged; or its path has
                a variable that is not set here.
        """
        if self.local_path is not None:
            return expanded(self.local_path)
        if self.scheme == "file":
            return self.path
        raise ValueError(
            f"{shown_url(self.url)} has no path here: only file: URLs have one before staging. "
            "Pass the File to an app and read `filepath` inside it."
        )

    def __fspath__(self) -> str:
        return self.filepath

    def __str__(self) -> str:
        return self.filepath if self.local_path is not None or self.scheme == "file" else self.url

    def __repr__(self) -> str:
        local = f", local_path={self.local_path!r}" if self.local_path is not None else ""
        return f"File({shown_url(self.url)!r}{local})"


_LOGIN = re.compile(r"^([a-z][a-z0-9+.-]*)://([^/?#@]*)@", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
#: All other characters mean something to a shell, or to somebody who reads a listing.
_UNSAFE = re.compile(r"[^\w.+@=,%-]")
_LONGEST = 200


def shown_url(url: str) -> str:
    """Return a URL as it may stand in messages and logs: without its password, and without its query.

    What comes before ``@`` is a secret too where web servers are asked (a token), and so may all be that comes
    after ``?`` (a signature).
    """
    if "://" not in url:
        return url  # a path, which may have a ? in it
    found = _LOGIN.match(url)
    if found is not None:
        scheme, login = found.groups()
        user, colon, _ = login.partition(":")
        hidden = "..." if scheme.lower() in ("http", "https") else f"{user}:..." if colon else user
        url = f"{scheme}://{hidden}@{url[found.end() :]}"
    head, query, _ = url.partition("?")
    return f"{head}?..." if query else head


def expanded(path: str) -> str:
    """Return a path with ``~`` and the variables of this process's environment put in.

    ``$TMPDIR`` is the folder for temporary files where it is not set.

    Raises:
        ValueError: a variable is not set here.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        here = os.environ.get(name)
        if here is None and name == "TMPDIR":
            import tempfile

            here = tempfile.gettempdir()
        if here is None:
            raise ValueError(f"{path!r} names ${name}, which is not set on {socket.gethostname()}")
        return here

    if path.startswith("~"):
        path = os.path.expanduser(path)  # noqa: PTH111 - light
    return _VARIABLE.sub(value, path) if "$" in path else path


def stream_file(stream: object) -> File | None:
    """Return the File of what a stream's option was given, a File or ``(File, mode)``; None for all else."""
    if isinstance(stream, tuple) and stream:
        stream = stream[0]
    return stream if isinstance(stream, File) else None


def safe_name(file: File) -> str:
    """Return the last part of a file's URL as a name that is safe in any folder and any command line.

    The name may come from a network. Whatever it is, what is returned has no ``/``, is not ``..``, and means nothing
    to a shell.
    """
    name = PurePosixPath(unquote(file.path)).name if file.scheme != "file" else file.filename
    name = _UNSAFE.sub("_", name)
    if len(name.encode()) > _LONGEST:
        end = PurePosixPath(name).suffix[-40:]
        name = name.encode()[: _LONGEST - len(end.encode())].decode(errors="ignore") + end
    return name if name.strip(".") else "file"
