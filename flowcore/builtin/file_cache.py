"""A cache of fetched files on the node where tasks run: a URL is fetched once, and the file is checked before each use.

An entry is a folder named by a hash of the URL, with the file (``content``), what is known of it (``about.json``) and a
lock, which processes that want the same URL wait for. Rule of this module: nothing is handed out that is not what
the server sent. A file whose size or time of change is not as it was written is hashed again, and fetched again if that
differs too; about one that an earlier run has fetched the server is asked again, with what it said of it then (its
ETag, its time of change).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowcore.plugins.api import (
    CopyingStaging,
    File,
    StagingError,
    StagingPlace,
    component,
    expanded,
    fresh,
    shown_url,
)

#: What a server said of a file, by which it can be asked whether that has changed; of the protocol's own shape.
Validators = Mapping[str, str]
#: ``fetch(path, known)`` makes the file at the path and returns what the server says of it; or None, if what is known
#: of the file that is there already still holds.
Fetch = Callable[[Path, "Validators | None"], "Validators | None"]


@component
class CachingStaging(CopyingStaging):
    """Fetches files by :meth:`download`, through the node's cache if ``cache`` says so.

    Args:
        cache: whether files are kept on the node, for other tasks and later runs; or the folder where, which may hold
            variables of the environment there.
        cache_max_bytes: size of all kept files together, above which those go that were not used for longest.
    """

    cache: bool | str = False
    cache_max_bytes: int | None = None
    #: Names the run to the cache, also in other processes.
    _run: str = attrs.field(default="", init=False, repr=False)

    def start(self, place: StagingPlace) -> None:
        """Begin a run: what earlier ones have kept is to be asked for again."""
        self._run = self._run or uuid.uuid4().hex

    def close(self) -> None:
        """End the run."""
        self._run = ""

    @abstractmethod
    def download(self, file: File, path: Path, known: Validators | None) -> Validators | None:
        """Make the file at ``path`` and return what the server says of it; None if ``known`` still holds.

        Args:
            file: the file.
            path: where to make it, whole or not at all.
            known: what the server said of the file that is at ``path``; None: there is none.

        Raises:
            TransferError: it cannot be brought.
        """

    def fetch(self, file: File, path: Path) -> None:
        """Make the file at ``path``."""
        if self.cache is False:
            self.download(file, path, None)
            return
        folder = None if self.cache is True else Path(expanded(self.cache))
        cache = FileCache(folder, self._run, self.cache_max_bytes)
        cache.bring(file.url, path, lambda new, known: self.download(file, new, known))


class FileCache:
    """Files by URL, in a folder of this node.

    Args:
        folder: where; None for one in the folder for temporary files. Only this user may enter it.
        run: names the run: what was fetched in it is not asked for again.
        max_bytes: the files that were not used for longest are removed when all together are larger; None: no limit.
    """

    def __init__(self, folder: Path | None, run: str, max_bytes: int | None = None) -> None:
        self.folder = folder if folder is not None else Path(tempfile.gettempdir()) / f"flowcore-cache-{os.getuid()}"
        self._run = run
        self._max_bytes = max_bytes

    def bring(self, url: str, path: Path, fetch: Fetch) -> None:
        """Make the file of a URL at ``path``, from here or by ``fetch``. Processes and threads may do so at once.

        The file is a hard link to the one here where that can be, and read-only: tasks share it.

        Raises:
            StagingError: the folder cannot be used.
            Exception: what ``fetch`` raised.
        """
        entry = self._entry(url)
        content = entry / "content"
        with _locked(entry / "lock"):
            about = self._about(entry)
            if about is None or about["run"] != self._run:
                validators = fetch(content, about["validators"] if about is not None else None)
                if validators is not None:
                    about = self._described(url, content, validators)
                assert about is not None, "a server was not asked about a file, and says that it has not changed"
            about["run"] = self._run
            with fresh(entry / "about.json") as new:
                new.write_text(json.dumps(about), encoding="utf-8")
            with fresh(path) as new:
                _link_or_copy(content, new)
        if self._max_bytes is not None:
            self._shrink(self._max_bytes)

    def _entry(self, url: str) -> Path:
        entry = self.folder / hashlib.sha256(url.encode()).hexdigest()[:40]
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            entry.mkdir(mode=0o700, exist_ok=True)
            owner = self.folder.stat().st_uid
        except OSError as error:
            raise StagingError(
                f"cannot use {str(self.folder)!r} on {os.uname().nodename} as a cache of files: {error.strerror}. "
                "cache= may name another folder"
            ) from error
        if owner != os.getuid():
            raise StagingError(
                f"{str(self.folder)!r} on {os.uname().nodename} belongs to user {owner}: what is in it is not "
                "trusted. cache= may name another folder"
            )
        return entry

    def _about(self, entry: Path) -> dict[str, Any] | None:
        """Return what is known of the file that is here; None if there is none, or not the one that was fetched."""
        content = entry / "content"
        try:
            about: dict[str, Any] = json.loads((entry / "about.json").read_text(encoding="utf-8"))
            found = content.stat()
            if (found.st_size, found.st_mtime_ns) == (about["size"], about["mtime_ns"]):
                return about
            # Touched, or a task has written to it.
            if found.st_size == about["size"] and _sha256(content) == about["sha256"]:
                return {**about, "mtime_ns": found.st_mtime_ns}
        except (OSError, ValueError, KeyError):
            pass
        return None

    def _described(self, url: str, content: Path, validators: Validators) -> dict[str, Any]:
        content.chmod(0o444)
        found = content.stat()
        return {
            "url": shown_url(url),
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "sha256": _sha256(content),
            "validators": dict(validators),
        }

    def _shrink(self, max_bytes: int) -> None:
        used = []
        for entry in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process removes it, or makes it
                used.append(((entry / "about.json").stat().st_mtime, (entry / "content").stat().st_size, entry))
        total = sum(size for _, size, _ in used)
        for _, size, entry in sorted(used):
            if total <= max_bytes:
                break
            with _locked(entry / "lock"), contextlib.suppress(OSError):
                # The lock stays: somebody may wait for it.
                (entry / "about.json").unlink()
                (entry / "content").unlink()
            total -= size


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The kernel lets go of it when the process ends, however it ends.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _link_or_copy(content: Path, path: Path) -> None:
    try:
        path.hardlink_to(content)
    except OSError:  # another file system, or one without links
        shutil.copyfile(content, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
