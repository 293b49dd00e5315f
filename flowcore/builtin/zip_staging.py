"""The stager of members of zip archives: ``zip:/data/results.zip/run7/a.csv``.

Rule of this module: it knows what URLs mean and how failures are told; how an archive is read and written is the
business of :mod:`flowcore.builtin.zip_archive`.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

from flowcore.builtin import zip_archive
from flowcore.plugins.api import File, InTaskStaging, StagingContext, TransferError, at_least, component, fresh

_COMPRESSIONS = {"deflated": zipfile.ZIP_DEFLATED, "stored": zipfile.ZIP_STORED}
#: What :mod:`zipfile` raises of an archive that is broken or that it cannot read.
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, struct.error)


@component
class ZipFileStaging(InTaskStaging):
    """Brings members of zip archives to tasks, and puts what tasks make into archives.

    The file ``zip:/data/results.zip/run7/a.csv`` is the member ``run7/a.csv`` of the archive ``/data/results.zip``: the
    archive's path ends with its first part that ends with ``.zip``. What stands after ``zip:`` is taken as it is, ``?``
    and ``%`` too. A relative path is one of the working directory where the app is called. Workers must see the file
    system that archives are on, and locks must work there (``flock``, also over NFS).

    Many tasks may put files into one archive at the same time, on one node or several: each compresses what it brings,
    and they append it one after the other. Whoever reads an archive without flowcore should do so while no run writes
    to it. After a run was killed, :func:`flowcore.builtin.zip_archive.restore` puts the archive right; so does the next
    run that uses it.

    Args:
        compression: of the members that are put in: ``"deflated"``, or ``"stored"`` for none, which suits files that
            are compressed already.
        lock_timeout_s: seconds to wait at most for others who write to the archive.

    Raises:
        ConfigurationError: an option cannot be.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"zip"})

    compression: Literal["deflated", "stored"] = "deflated"
    lock_timeout_s: float = attrs.field(default=600.0, validator=at_least(0))

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> None:
        """Make a relative path absolute, and say where the file will be.

        Raises:
            TransferError: the URL names no member of an archive.
        """
        _settle(file, "fetch")
        super().stage_in(context, file, parent)

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> None:
        """Make a relative path absolute, and say where the file has to be made.

        Raises:
            TransferError: the URL names no member of an archive.
        """
        _settle(file, "push")
        super().stage_out(context, file, app_future)

    def fetch(self, file: File, path: Path) -> None:
        """Extract a member to ``path``, and compare it with its checksum.

        Raises:
            TransferError: there is no such archive or no such member, or it is broken.
        """
        archive, member = split(file, "fetch")
        with _explained(file, "fetch", archive):
            if not archive.exists():
                raise _failure(file, "fetch", f"there is no archive {str(archive)!r}{_like_archive(archive)}")
            with zip_archive.open_archive(archive, self.lock_timeout_s) as opened, fresh(path) as new:
                try:
                    info = opened.getinfo(member)
                except KeyError:
                    like = _like_member(opened, member)
                    raise _failure(file, "fetch", f"{str(archive)!r} has no member {member!r}{like}") from None
                if info.flag_bits & 1:
                    raise _failure(file, "fetch", f"{member!r} is encrypted, and there is no way to give a password")
                with opened.open(info) as source, new.open("wb") as target:
                    shutil.copyfileobj(source, target, zip_archive.CHUNK)

    def push(self, file: File, path: Path) -> None:
        """Put the file at ``path`` into an archive, which is made if it is not there, and its folder too.

        Raises:
            TransferError: it cannot be written, or what is there is no archive, or others held its lock too long.
        """
        archive, member = split(file, "push")
        with (
            _explained(file, "push", archive),
            zip_archive.packed(path, member, _COMPRESSIONS[self.compression]) as packed,
        ):
            zip_archive.add(packed, archive, self.lock_timeout_s)


def split(file: File, action: str) -> tuple[Path, str]:
    """Return the archive, with an absolute path, and the name of the member that a file is.

    Args:
        file: of the scheme ``zip``.
        action: what it is for, ``fetch`` or ``push``.

    Raises:
        TransferError: its URL names no member of an archive.
    """
    base, text = _parts(file, action)
    parts = text.split("/")
    end = next((i for i, part in enumerate(parts, 1) if part.lower().endswith(".zip")), None)
    if end is None:
        raise _failure(file, action, "no part of its path ends with .zip; expected zip:/path/archive.zip/member")
    archive = Path(os.path.normpath(base / "/".join(parts[:end])))
    names = [part for part in parts[end:] if part not in ("", ".")]
    if not names or parts[-1] in ("", "."):
        raise _failure(file, action, f"it names no file in an archive; expected zip:{archive}/member")
    if ".." in names or "\0" in text:
        raise _failure(file, action, "the name of a member has neither a part '..' nor the character NUL")
    return archive, "/".join(names)


def _parts(file: File, action: str) -> tuple[Path, str]:
    """Return the folder that the path of a file is of, and that path."""
    text = file.url.partition(":")[2]
    if text.startswith("//"):
        if not text.startswith("///"):
            right = f"zip:/{text[2:]}"
            raise _failure(file, action, f"zip: URLs name no host; write {right} if this is an absolute path")
        text = text[2:]
    if text.startswith("/"):
        return Path("/"), text
    if file.path.endswith(f"//{text}"):
        return Path(file.path.removesuffix(f"//{text}") or "/"), text
    return Path.cwd(), text


def _settle(file: File, action: str) -> None:
    """Write the folder that a relative path is of into the file, which is then read in another place."""
    split(file, action)
    base, text = _parts(file, action)
    if not text.startswith("/"):
        file.path = f"{'' if base == Path('/') else base}//{text}"


# --- what went wrong


def _failure(file: File, action: str, reason: str) -> TransferError:
    return TransferError(action, file.url, reason, passing=False)


@contextlib.contextmanager
def _explained(file: File, action: str, archive: Path) -> Iterator[None]:
    """Make what goes wrong with files and archives a :class:`TransferError`."""
    try:
        yield
    except TimeoutError as error:
        raise _failure(file, action, str(error)) from error
    except _UNREADABLE as error:
        raise _failure(
            file, action, f"{str(archive)!r} is broken, or no zip archive: {error}. `unzip -t` on it says more"
        ) from error
    except UnicodeEncodeError as error:
        raise _failure(file, action, "names of members are written in UTF-8, and this one cannot be") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"{error.strerror or error}, on {socket.gethostname()}"
        if error.filename is not None:
            what = f"{what}: {error.filename}"
        if full and action == "push":
            what += ". What was in the archive before is in it still"
        raise _failure(file, action, what) from error


def _like_archive(archive: Path) -> str:
    if not archive.parent.is_dir():
        return f", and no folder {str(archive.parent)!r} on {socket.gethostname()}"
    return _like(archive.name, (path.name for path in archive.parent.glob("*") if path.suffix.lower() == ".zip"))


def _like_member(opened: zipfile.ZipFile, member: str) -> str:
    names = [name for name in opened.namelist() if not name.endswith("/")]
    # The same file in another folder is what is meant most often.
    elsewhere = [name for name in names if name.rpartition("/")[2] == member.rpartition("/")[2]]
    return _like(member, names, elsewhere) or f"; it has {len(names):,} others"


def _like(name: str, known: Iterable[str], first: Iterable[str] = ()) -> str:
    found = list(dict.fromkeys([*first, *difflib.get_close_matches(name, list(known), n=3)]))[:3]
    return f" (close to it: {', '.join(map(repr, found))})" if found else ""
