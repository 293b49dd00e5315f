"""Zip archives that many write to at the same time, and that survive whoever is killed while writing.

Rule of this module: whoever is killed, and whenever, no member that was in an archive before is lost. A new member is
appended in place, since to add to a large archive must not mean to copy it. That overwrites the list of members at the
end of the archive, which is saved first, in a journal beside the archive (``.results.zip.journal``); the next who
opens the archive puts it back. The first member, and one that replaces another, make a new archive under another name
(``.results.zip.new``), which is renamed. One writes at a time: all lock ``.results.zip.lock``, a file that stays.

What others have written is kept byte for byte; :mod:`zipfile` would write the names of members anew, in another
encoding than they have in the archive. The format is that of PKWARE's APPNOTE.TXT, version 6.3.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import struct
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

#: Bytes that are copied at a time.
CHUNK = 1 << 20
#: Seconds between two looks at a lock that another one has; the second is the longest.
_PAUSES_S = (0.002, 0.1)
#: Bytes before the list of members that tell whether a journal belongs to an archive.
_NEAR = 4096
#: Of a journal: a word, where the list of members begins, its length, digests of what is before it and of itself.
_JOURNAL = struct.Struct("<8sQQ32s32s")
_WORD = b"fczip\0\0\1"

#: A member in the list (APPNOTE 4.3.12), up to its name: 17 numbers. Those of interest, by their place:
_MEMBER = struct.Struct("<4s6H3L5H2L")
_NEEDED, _PACKED, _SIZE, _NAME, _EXTRA, _COMMENT, _OFFSET = 2, 8, 9, 10, 11, 12, 16
#: Of a piece of a member's "extra": what it is, its length. The piece 1 has the numbers that are too large elsewhere.
_PIECE = struct.Struct("<2H")
_WIDE = 1
#: The end of an archive (4.3.16), and what comes before it where a number is too large for it (4.3.14, 4.3.15).
_END = struct.Struct("<4s4H2LH")
_WIDE_END = struct.Struct("<4sQ2H2L4Q")
_WIDE_END_IS_AT = struct.Struct("<4sLQL")
#: The version of the format that knows the wide ones.
_WIDE_VERSION = 45
#: From here on numbers are too large, and what then stands in their place.
_MOST, _MOST_MEMBERS = 0xFFFFFFFF, 0xFFFF
_ELSEWHERE, _MEMBERS_ELSEWHERE = 0xFFFFFFFF, 0xFFFF


def open_archive(archive: Path, lock_timeout_s: float) -> zipfile.ZipFile:
    """Open an archive to read, after putting it right if a writer was killed.

    What is read from it then needs no lock: nothing in an archive is ever overwritten but its list of members, which
    has been read.

    Raises:
        FileNotFoundError: there is none.
        zipfile.BadZipFile: it is none.
        TimeoutError: others held its lock too long.
        OSError: it cannot be read.
    """
    real = _real(archive)
    if not real.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(archive))
    with _locked(real, fcntl.LOCK_SH, lock_timeout_s):
        if not _beside(real, "journal").exists():
            return zipfile.ZipFile(real)
    with _locked(real, fcntl.LOCK_EX, lock_timeout_s):
        _restore(real)
        return zipfile.ZipFile(real)


@contextlib.contextmanager
def packed(path: Path, member: str, compression: int) -> Iterator[zipfile.ZipFile]:
    """Give an archive that has one member, made of a file and beside it: what takes long is done without a lock.

    Args:
        path: the file.
        member: its name in the archive.
        compression: as :mod:`zipfile` has it.

    Raises:
        OSError: the file cannot be read, or the archive not be written.
        UnicodeEncodeError: the name is not Unicode.
    """
    place = path.with_name(f".{path.name}.packed")
    try:
        # Times that a zip archive cannot hold become the nearest that it can.
        with zipfile.ZipFile(place, "w", compression, strict_timestamps=False) as made:
            info = zipfile.ZipInfo.from_file(path, member, strict_timestamps=False)
            info.compress_type = compression
            with path.open("rb") as source, made.open(info, "w") as target:
                shutil.copyfileobj(source, target, CHUNK)
        with zipfile.ZipFile(place) as made:
            yield made
    finally:
        place.unlink(missing_ok=True)


def add(source: zipfile.ZipFile, archive: Path, lock_timeout_s: float) -> None:
    """Add the one member of an archive to another, which is made if it is not there, and its folder too.

    A member of the same name is replaced.

    Raises:
        zipfile.BadZipFile: the other one is no archive.
        TimeoutError: others held its lock too long.
        OSError: it cannot be written; it is as it was.
    """
    real = _real(archive)
    real.parent.mkdir(parents=True, exist_ok=True)
    with _locked(real, fcntl.LOCK_EX, lock_timeout_s):
        _restore(real)
        listing = _Listing.of(real)
        replaced = source.namelist()[0] in [info.filename for info in listing.infos]
        if replaced or listing.shifted or not listing.infos:
            _rewrite(source, real, listing)
        else:
            _append(source, real, listing)


def restore(archive: os.PathLike[str] | str, lock_timeout_s: float = 600.0) -> bool:
    """Put an archive right that somebody was killed while writing to; it has all members that it had before.

    Args:
        archive: path of the archive.
        lock_timeout_s: seconds to wait at most for others who write to it.

    Returns:
        Whether there was anything to do.

    Raises:
        TimeoutError: others held its lock too long.
        OSError: it cannot be written.
    """
    real = _real(Path(archive))
    with _locked(real, fcntl.LOCK_EX, lock_timeout_s):
        return _restore(real)


def _real(archive: Path) -> Path:
    # A rename would replace a link, and whoever comes another way must find the same lock.
    return Path(os.path.realpath(archive))


def _beside(archive: Path, ending: str) -> Path:
    return archive.with_name(f".{archive.name}.{ending}")


# --- one at a time


@contextlib.contextmanager
def _locked(archive: Path, how: int, timeout_s: float) -> Iterator[None]:
    """Hold the lock of an archive.

    Raises:
        TimeoutError: others held it too long; says who.
        OSError: the lock file cannot be made.
    """
    descriptor = _open_lock(_beside(archive, "lock"), how)
    if descriptor is None:
        yield
        return
    try:
        deadline = time.monotonic() + timeout_s
        pause_s, longest_s = _PAUSES_S
        while not _take(descriptor, how):
            if time.monotonic() >= deadline:
                last = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                raise TimeoutError(
                    f"others held the lock of {str(archive)!r} for {timeout_s:g} s without a break (who wrote last: "
                    f"{last or 'not known'}). Let fewer tasks write to one archive, or raise lock_timeout_s"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        if how == fcntl.LOCK_EX:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # lets go of the lock


def _open_lock(lock: Path, how: int) -> int | None:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if how != fcntl.LOCK_SH or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # an archive that one may only read, and that nobody has written to in this way


def _take(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


# --- the list of members


class _Listing:
    """The list of members of an archive, as :mod:`zipfile` understands it and as the bytes that it is.

    Attributes:
        infos: what zipfile says of each member.
        raw: the bytes of each.
        begin: where it begins, which is where the members end.
        comment: the archive's comment.
    """

    def __init__(self, infos: list[zipfile.ZipInfo], raw: list[bytes], begin: int, comment: bytes) -> None:
        self.infos = infos
        self.raw = raw
        self.begin = begin
        self.comment = comment

    @classmethod
    def of(cls, archive: Path) -> _Listing:
        """Read it; that of an archive that is not there, or an empty file, is empty."""
        if not archive.exists() or archive.stat().st_size == 0:
            return cls([], [], 0, b"")
        with zipfile.ZipFile(archive) as opened:
            return cls.read(opened)

    @classmethod
    def read(cls, opened: zipfile.ZipFile) -> _Listing:
        """Read that of an open archive."""
        assert opened.fp is not None
        opened.fp.seek(opened.start_dir)
        listed = opened.fp.read()
        raw, at = [], 0
        for _ in opened.infolist():
            numbers = _MEMBER.unpack_from(listed, at)
            length = _MEMBER.size + numbers[_NAME] + numbers[_EXTRA] + numbers[_COMMENT]
            raw.append(listed[at : at + length])
            at += length
        return cls(opened.infolist(), raw, opened.start_dir, opened.comment)

    @property
    def shifted(self) -> bool:
        """Whether its places are counted from elsewhere than the file's beginning: something was put before it."""
        if not self.infos:
            return False
        place = _MEMBER.unpack_from(self.raw[0])[_OFFSET]
        return bool(place != _ELSEWHERE and place != self.infos[0].header_offset)


def _listed(raw: bytes, info: zipfile.ZipInfo, offset: int) -> bytes:
    """Return the bytes of a member in the list, with another place in the archive."""
    numbers = list(_MEMBER.unpack_from(raw))
    name_end = _MEMBER.size + numbers[_NAME]
    extra_end = name_end + numbers[_EXTRA]
    wide = b""
    for place, number in ((_SIZE, info.file_size), (_PACKED, info.compress_size), (_OFFSET, offset)):
        numbers[place] = number
        if number >= _MOST:
            numbers[place] = _ELSEWHERE
            wide += struct.pack("<Q", number)
    extra = _without_wide(raw[name_end:extra_end])
    if wide:
        extra = _PIECE.pack(_WIDE, len(wide)) + wide + extra
        numbers[_NEEDED] = max(numbers[_NEEDED], _WIDE_VERSION)
    numbers[_EXTRA] = len(extra)
    return _MEMBER.pack(*numbers) + raw[_MEMBER.size : name_end] + extra + raw[extra_end:]


def _without_wide(extra: bytes) -> bytes:
    kept, at = b"", 0
    while at + _PIECE.size <= len(extra):
        kind, length = _PIECE.unpack_from(extra, at)
        end = at + _PIECE.size + length
        if kind != _WIDE:
            kept += extra[at:end]
        at = end
    return kept + extra[at:]


def _ending(members: int, length: int, begin: int, comment: bytes) -> bytes:
    """Return what stands after the list of members, which is ``length`` bytes from ``begin``."""
    if members < _MOST_MEMBERS and length < _MOST and begin < _MOST:
        return _END.pack(b"PK\5\6", 0, 0, members, members, length, begin, len(comment)) + comment
    rest = _WIDE_END.size - 12  # less what comes before this number, and itself
    version = _WIDE_VERSION
    wide = _WIDE_END.pack(b"PK\6\6", rest, version, version, 0, 0, members, members, length, begin)
    wide += _WIDE_END_IS_AT.pack(b"PK\6\7", 0, begin + length, 1)
    few, many = _MEMBERS_ELSEWHERE, _ELSEWHERE
    return wide + _END.pack(b"PK\5\6", 0, 0, few, few, many, many, len(comment)) + comment


# --- writing


def _append(source: zipfile.ZipFile, archive: Path, listing: _Listing) -> None:
    with _writable(archive, "r+b") as target:
        _save(target, archive, listing.begin)
        try:
            target.seek(listing.begin)
            _finish(source, target, listing.raw, listing.comment)
        except BaseException:
            with contextlib.suppress(OSError):  # that it cannot write what it holds is known
                target.close()
            _restore(archive)
            raise
    _beside(archive, "journal").unlink()
    _sync_folder(archive)  # or it might be there again after a power failure, and take the member back


def _rewrite(source: zipfile.ZipFile, archive: Path, listing: _Listing) -> None:
    """Make an archive anew, without members that have the new one's name."""
    replaced = source.namelist()[0]
    starts = sorted({info.header_offset for info in listing.infos})
    ends = dict(zip(starts, [*starts, listing.begin][1:], strict=True))
    gone = {info.header_offset for info in listing.infos if info.filename == replaced}
    moved: dict[int, int] = {}
    new = _beside(archive, "new")
    try:
        with _writable(new, "wb") as target:
            if starts:
                shutil.copymode(archive, new)
                with archive.open("rb") as old:
                    _copy(old, target, 0, starts[0])  # of an archive that is also a program
                    for start in starts:
                        if start not in gone:
                            moved[start] = target.tell()
                            _copy(old, target, start, ends[start])
            raw = [
                _listed(each, info, moved[info.header_offset])
                for each, info in zip(listing.raw, listing.infos, strict=True)
                if info.header_offset in moved
            ]
            _finish(source, target, raw, listing.comment)
        new.replace(archive)
        _sync_folder(archive)
    finally:
        new.unlink(missing_ok=True)


def _finish(source: zipfile.ZipFile, target: IO[bytes], raw: Sequence[bytes], comment: bytes) -> None:
    """Write the source's member where ``target`` stands, then a list of others and it; and let all come to the disk."""
    one = _Listing.read(source)
    assert source.fp is not None
    start = target.tell()
    _copy(source.fp, target, one.infos[0].header_offset, one.begin)
    begin = target.tell()
    entries = [*raw, _listed(one.raw[0], one.infos[0], start)]
    listed = b"".join(entries)
    target.write(listed + _ending(len(entries), len(listed), begin, comment))
    target.truncate()
    target.flush()
    os.fsync(target.fileno())


def _copy(source: IO[bytes], target: IO[bytes], start: int, stop: int) -> None:
    source.seek(start)
    while start < stop:
        block = source.read(min(CHUNK, stop - start))
        if not block:
            raise zipfile.BadZipFile("it ends in the middle of a member")
        target.write(block)
        start += len(block)


def _writable(path: Path, mode: str) -> IO[bytes]:
    return path.open(mode)


# --- the journal


def _save(target: IO[bytes], archive: Path, begin: int) -> None:
    """Save the list of members of an archive, which starts at ``begin``."""
    target.seek(begin)
    listed = target.read()
    head = _JOURNAL.pack(_WORD, begin, len(listed), _near(target, begin), hashlib.sha256(listed).digest())
    new = _beside(archive, "journal.new")
    with _writable(new, "wb") as journal:
        journal.write(head + listed)
        journal.flush()
        os.fsync(journal.fileno())
    new.replace(_beside(archive, "journal"))
    _sync_folder(archive)


def _restore(archive: Path) -> bool:
    """Put back the list of members that was saved, and remove what a killed writer left; the lock is held."""
    for ending in ("new", "journal.new"):
        _beside(archive, ending).unlink(missing_ok=True)
    journal = _beside(archive, "journal")
    try:
        saved = journal.read_bytes()
    except FileNotFoundError:
        return False
    if len(saved) >= _JOURNAL.size and archive.exists():
        word, begin, length, near, digest = _JOURNAL.unpack_from(saved)
        listed = saved[_JOURNAL.size :]
        sound = word == _WORD and len(listed) == length and hashlib.sha256(listed).digest() == digest
        with _writable(archive, "r+b") as target:
            # Who put another archive in the place of the broken one has helped himself.
            if sound and _near(target, begin) == near:
                target.seek(begin)
                target.write(listed)
                target.truncate()
                target.flush()
                os.fsync(target.fileno())
    journal.unlink()
    return True


def _near(archive: IO[bytes], begin: int) -> bytes:
    """Return a digest of what is before the list of members, which tells one archive from another."""
    archive.seek(max(0, begin - _NEAR))
    return hashlib.sha256(archive.read(min(_NEAR, begin))).digest()


def _sync_folder(file: Path) -> None:
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
