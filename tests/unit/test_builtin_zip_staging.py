"""Members of zip archives: names, what is refused and how, many writers, and writers that are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flowcore.builtin import zip_archive
from flowcore.builtin.zip_staging import ZipFileStaging, split
from flowcore.errors import ConfigurationError, TransferError
from flowcore.files import File
from flowcore.plugins.api import StagingContext
from flowcore.testing.servers import need


@pytest.fixture
def stager() -> ZipFileStaging:
    return ZipFileStaging()


def make(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def contents(path: Path) -> dict[str, bytes]:
    """All members; each is compared with its checksum."""
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        return {name: archive.read(name) for name in archive.namelist()}


def push(stager: ZipFileStaging, archive: Path, member: str, content: bytes, scratch: str = "made") -> None:
    file = archive.parent / scratch
    file.write_bytes(content)
    stager.push(File(f"zip:{archive}/{member}"), file)


def beside(archive: Path) -> set[str]:
    """What is in the archive's folder that belongs to it, besides the lock."""
    return {p.name for p in archive.parent.iterdir() if p.name.startswith(f".{archive.name}.")} - {
        f".{archive.name}.lock"
    }


def failure(function, *arguments) -> TransferError:
    with pytest.raises(TransferError) as caught:
        function(*arguments)
    return caught.value


# --- names


@pytest.mark.parametrize(
    ("url", "archive", "member"),
    [
        ("zip:/a/b.zip/c.txt", "/a/b.zip", "c.txt"),
        ("zip:///a/b.zip/c/d.txt", "/a/b.zip", "c/d.txt"),
        ("zip:/a/B.ZIP//c/./d.txt", "/a/B.ZIP", "c/d.txt"),
        ("zip:/a/b.zip/c.zip/d.txt", "/a/b.zip", "c.zip/d.txt"),
        ("zip:/a/../b.zip/c", "/b.zip", "c"),
        ("zip:/a b/é.zip/what?#100%.txt", "/a b/é.zip", "what?#100%.txt"),
        ("zip:/a/.zip/c", "/a/.zip", "c"),
    ],
)
def test_a_url_names_an_archive_and_a_member(url, archive, member):
    assert split(File(url), "fetch") == (Path(archive), member)


def test_a_relative_path_is_of_the_folder_where_it_was_staged(stager, tmp_path, monkeypatch):
    home = tmp_path / "my.zip" / "project"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    file = File("zip:data/a.zip/b?c.txt")
    stager.stage_in(StagingContext("x", str(tmp_path / "work"), None), file, None)
    monkeypatch.chdir("/")
    assert split(file, "fetch") == (home / "data" / "a.zip", "b?c.txt")
    assert file.url == "zip:data/a.zip/b?c.txt"
    # One that is of the root folder.
    file = File("zip:a.zip/b")
    stager.stage_out(StagingContext("x", str(tmp_path / "work"), None), file, Future())
    monkeypatch.chdir(tmp_path)
    assert split(file, "push") == (Path("/a.zip"), "b")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("zip:/a/b/c.txt", "no part of its path ends with .zip; expected zip:/path/archive.zip/member"),
        ("zip:/a/b.zip", "it names no file in an archive; expected zip:/a/b.zip/member"),
        ("zip:/a/b.zip/", "it names no file in an archive"),
        ("zip:/a/b.zip/c/", "it names no file in an archive"),
        ("zip:/a/b.zip/../../etc/passwd", "neither a part '..' nor the character NUL"),
        ("zip:/a/b.zip/c\0d", "neither a part '..' nor the character NUL"),
        ("zip://data/b.zip/c", "zip: URLs name no host; write zip:/data/b.zip/c if this is an absolute path"),
    ],
)
def test_what_names_no_member_is_refused_before_the_task_runs(stager, url, text, tmp_path):
    context = StagingContext("x", str(tmp_path), None)
    for action, stage in (("fetch", stager.stage_in), ("push", stager.stage_out)):
        error = failure(stage, context, File(url), None)
        assert str(error).startswith(f"cannot {action} zip:")
        assert text in str(error)
        assert not error.passing


def test_options():
    assert (ZipFileStaging().compression, ZipFileStaging().lock_timeout_s) == ("deflated", 600)
    with pytest.raises(ConfigurationError, match="expected Literal"):
        ZipFileStaging(compression="bzip")
    with pytest.raises(ConfigurationError, match="lock_timeout_s=-1.*at least 0"):
        ZipFileStaging(lock_timeout_s=-1)


# --- in


def test_a_member_is_extracted(stager, tmp_path):
    make(tmp_path / "a.zip", **{"x/é 1.txt": b"1" * 100_000, "y": b""})
    for name, content in (("x/é 1.txt", b"1" * 100_000), ("y", b"")):
        stager.fetch(File(f"zip:{tmp_path}/a.zip/{name}"), tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == content


def test_what_is_not_there_says_what_is_close(stager, tmp_path):
    archive = make(tmp_path / "results.zip", **{"run7/a.csv": b"", "run8/b.csv": b"", "folder/": b""})
    got = tmp_path / "got"

    def said(name: str) -> str:
        error = failure(stager.fetch, File(f"zip:{tmp_path}/{name}"), got)
        assert not error.passing
        return str(error)

    assert f"'{archive}' has no member 'a.csv' (close to it: 'run7/a.csv')" in said("results.zip/a.csv")
    assert "has no member 'run9/a.csv' (close to it: 'run7/a.csv', " in said("results.zip/run9/a.csv")
    assert "has no member 'zzz'; it has 2 others" in said("results.zip/zzz")
    assert "has no member 'folder'" in said("results.zip/folder")
    assert f"there is no archive '{tmp_path}/result.zip' (close to it: 'results.zip')" in said("result.zip/a.csv")
    assert f"there is no archive '{tmp_path}/q/r.zip', and no folder '{tmp_path}/q' on " in said("q/r.zip/a.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".results.zip.lock", "results.zip"]


def test_a_broken_archive(stager, tmp_path):
    content = random.Random(1).randbytes(5000)
    archive = make(tmp_path / "a.zip", a=content, b=content)
    whole = bytearray(archive.read_bytes())
    got = tmp_path / "got"
    got.write_bytes(b"earlier")

    archive.write_bytes(whole[: len(whole) // 2])
    error = failure(stager.fetch, File(f"zip:{archive}/a"), got)
    assert f"'{archive}' is broken, or no zip archive: File is not a zip file. `unzip -t` on it says more" in str(error)
    assert "is broken, or no zip archive" in str(failure(push, stager, archive, "c", b"new"))
    assert archive.read_bytes() == whole[: len(whole) // 2], "what is no archive was changed"

    flipped = whole.copy()
    flipped[1000] ^= 1
    archive.write_bytes(flipped)
    error = failure(stager.fetch, File(f"zip:{archive}/a"), got)
    assert "is broken, or no zip archive: " in str(error)
    assert got.read_bytes() == b"earlier", "a file that failed its check arrived"
    stager.fetch(File(f"zip:{archive}/b"), got)
    assert got.read_bytes() == content
    assert not list(tmp_path.glob(".got*"))


def test_an_encrypted_member(stager, tmp_path):
    need("zip")
    (tmp_path / "secret").write_text("s")
    subprocess.run(["zip", "-q", "-P", "pw", "a.zip", "secret"], cwd=tmp_path, check=True, timeout=30)
    error = failure(stager.fetch, File(f"zip:{tmp_path}/a.zip/secret"), tmp_path / "got")
    assert "'secret' is encrypted" in str(error)


def test_an_archive_that_may_only_be_read(stager, tmp_path, monkeypatch):
    archive = make(tmp_path / "a.zip", a=b"1")

    def refuse(path, *more):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *more)

    really = os.open
    monkeypatch.setattr(zip_archive.os, "open", refuse)
    stager.fetch(File(f"zip:{archive}/a"), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"1"
    error = failure(push, stager, archive, "b", b"2")
    assert "Permission denied, on " in str(error)
    assert str(error).endswith("/.a.zip.lock")


# --- out


def test_members_are_put_in_and_replaced(stager, tmp_path):
    archive = tmp_path / "new" / "folders" / "a.zip"
    scratch = tmp_path / "made"
    expected = {}
    for member, content in [("a", b"1" * 9999), ("x/b", b"2"), ("é", b""), ("a", b"3" * 10), ("c", b"4"), ("c", b"5")]:
        scratch.write_bytes(content)
        stager.push(File(f"zip:{archive}/{member}"), scratch)
        expected[member] = content
        assert contents(archive) == expected
        assert beside(archive) == set()
    assert archive.stat().st_size < 600, "what was replaced is still in it"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "new"]


def test_compression(tmp_path):
    push(ZipFileStaging(), tmp_path / "a.zip", "a", b"1" * 100_000)
    push(ZipFileStaging(compression="stored"), tmp_path / "b.zip", "a", b"1" * 100_000)
    assert (tmp_path / "a.zip").stat().st_size < 1000
    assert (tmp_path / "b.zip").stat().st_size > 100_000


def test_an_empty_file_and_an_empty_archive_are_archives_without_members(stager, tmp_path):
    (tmp_path / "a.zip").touch()
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.comment = b"mine"
    for name in ("a.zip", "b.zip"):
        push(stager, tmp_path / name, "a", b"1")
        assert contents(tmp_path / name) == {"a": b"1"}
    assert zipfile.ZipFile(tmp_path / "b.zip").comment == b"mine"


def test_a_link_to_an_archive_stays_one(stager, tmp_path):
    (tmp_path / "real").mkdir()
    archive = make(tmp_path / "real" / "a.zip", a=b"1")
    archive.chmod(0o640)
    link = tmp_path / "link.zip"
    link.symlink_to(archive)
    push(stager, link, "a", b"2")
    push(stager, link, "b", b"3")
    assert link.is_symlink()
    assert contents(archive) == {"a": b"2", "b": b"3"}
    assert archive.stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / ".link.zip.lock").exists()


def test_what_other_programs_wrote_is_kept_byte_for_byte(stager, tmp_path):
    """Names in an old encoding, sizes behind the data, comments, "extra", a program before the archive."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        info = zipfile.ZipInfo("named-x.txt")
        info.comment = b"of the member"
        info.extra = b"\xfe\xca\x02\x00hi"
        made.writestr(info, b"old" * 100)
        made.writestr("replaced", b"gone" * 100)
        with Unseekable(made).open("streamed", "w") as stream:
            stream.write(b"streamed" * 100)
        made.comment = b"of the archive"
    # A name in the encoding of MS-DOS, as there is no flag for UTF-8: zipfile could not write it so.
    archive.write_bytes(archive.read_bytes().replace(b"named-x.txt", b"named-\x81.txt"))
    before = contents(archive)
    assert "named-ü.txt" in before

    def check(expected: dict[str, bytes]) -> None:
        assert contents(archive) == expected
        with zipfile.ZipFile(archive) as opened:
            assert opened.comment == b"of the archive"
            assert opened.getinfo("named-ü.txt").comment == b"of the member"
            assert opened.getinfo("named-ü.txt").extra == b"\xfe\xca\x02\x00hi"
        assert archive.read_bytes().count(b"named-\x81.txt") == 2
        if shutil.which("unzip"):
            done = subprocess.run(["unzip", "-tq", str(archive)], capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stdout + done.stderr

    push(stager, archive, "new", b"1")
    check({**before, "new": b"1"})
    push(stager, archive, "replaced", b"2")
    check({**before, "new": b"1", "replaced": b"2"})

    # A program before the archive, with places that are counted from the archive's beginning.
    archive.write_bytes(b"#!/bin/sh\necho I am a program\n" + archive.read_bytes())
    push(stager, archive, "newer", b"3")
    assert contents(archive) == {**before, "new": b"1", "replaced": b"2", "newer": b"3"}
    assert archive.read_bytes().startswith(b"#!/bin/sh\n")


class Unseekable:
    """Lets a member be written as to a pipe: its sizes come behind it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def open(self, *arguments):
        self._archive._seekable = False
        member = self._archive.open(*arguments)
        close = member.close

        def closed() -> None:
            close()
            self._archive._seekable = True

        member.close = closed
        return member


@pytest.mark.parametrize("limit", ["_MOST", "_MOST_MEMBERS"])
def test_what_is_too_large_for_the_old_format(stager, tmp_path, monkeypatch, limit):
    """As if it were so from 1,000 bytes or 3 members on: others can read what is written then."""
    archive = tmp_path / "a.zip"
    monkeypatch.setattr(zip_archive, limit, {"_MOST": 1000, "_MOST_MEMBERS": 3}[limit])
    expected = {f"m{i}": random.Random(i).randbytes(300 * i) for i in range(6)}
    for name, content in expected.items():
        push(stager, archive, name, content)
    assert contents(archive) == expected
    for name in ("m5", "m0"):
        push(stager, archive, name, b"other")
    expected = {**expected, "m5": b"other", "m0": b"other"}
    assert contents(archive) == expected
    assert b"PK\6\6" in archive.read_bytes()
    need("unzip")
    assert subprocess.run(["unzip", "-tq", str(archive)], stdout=subprocess.DEVNULL, timeout=30).returncode == 0
    monkeypatch.undo()
    push(stager, archive, "m4", b"small")
    assert contents(archive) == {**expected, "m4": b"small"}
    assert b"PK\6\6" not in archive.read_bytes()


def test_numbers_of_four_gigabytes_and_more(stager, tmp_path):
    archive = tmp_path / "a.zip"
    push(stager, archive, "a", b"1")
    with zipfile.ZipFile(archive) as opened:
        raw = zip_archive._Listing.read(opened).raw[0]
        (info,) = opened.infolist()
    info.file_size, info.compress_size = 5 << 32, 4 << 32
    wide = zip_archive._listed(raw, info, 3 << 32)
    (tmp_path / "b.zip").write_bytes(wide + zip_archive._ending(1, len(wide), 0, b"c" * 9))
    with zipfile.ZipFile(tmp_path / "b.zip") as opened:
        (again,) = opened.infolist()
        assert (again.file_size, again.compress_size, again.header_offset) == (5 << 32, 4 << 32, 3 << 32)
        assert opened.comment == b"c" * 9


def test_names_that_cannot_be_written(stager, tmp_path):
    error = failure(push, stager, tmp_path / "a.zip", os.fsdecode(b"\xff"), b"1")
    assert "names of members are written in UTF-8, and this one cannot be" in str(error)
    assert not (tmp_path / "a.zip").exists()


def test_a_folder_where_an_archive_should_be(stager, tmp_path):
    (tmp_path / "a.zip").mkdir()
    assert "Is a directory, on " in str(failure(stager.fetch, File(f"zip:{tmp_path}/a.zip/b"), tmp_path / "got"))
    assert "Is a directory, on " in str(failure(push, stager, tmp_path / "a.zip", "b", b"1"))


# --- many at once


def test_many_threads_write_and_read_one_archive(stager, tmp_path):
    archive = tmp_path / "a.zip"
    push(stager, archive, "first", b"1")

    def one(i: int) -> bytes:
        push(stager, archive, f"m/{i}", b"%d" % i * 500, scratch=f"made-{i}")
        got = tmp_path / f"got-{i}"
        stager.fetch(File(f"zip:{archive}/first"), got)
        stager.fetch(File(f"zip:{archive}/m/{i}"), got)
        return got.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(60))) == [b"%d" % i * 500 for i in range(60)]
    assert len(contents(archive)) == 61


def test_many_processes_write_one_archive(tmp_path):
    archive = tmp_path / "a.zip"
    program = """
        import sys
        from pathlib import Path
        from flowcore.builtin.zip_staging import ZipFileStaging
        from flowcore.files import File

        archive, me = sys.argv[1:]
        made = Path(f"made-{me}")
        for i in range(20):
            made.write_text(f"{me} {i}")
            ZipFileStaging().push(File(f"zip:{archive}/{me}/{i % 15}"), made)
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(archive), str(me)], cwd=tmp_path)
        for me in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert contents(archive) == {
        f"{me}/{i}": f"{me} {i + 15 if i < 5 else i}".encode() for me in range(3) for i in range(15)
    }


def test_a_lock_that_another_holds(tmp_path):
    archive = make(tmp_path / "a.zip", a=b"1")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with zip_archive._locked(archive, zip_archive.fcntl.LOCK_EX, 10):
            held.set()
            assert done.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        try:
            assert held.wait(10)
            hasty = ZipFileStaging(lock_timeout_s=0.05)
            for error in (
                failure(push, hasty, archive, "b", b"2"),
                failure(hasty.fetch, File(f"zip:{archive}/a"), tmp_path / "got"),
            ):
                assert f"others held the lock of '{archive}' for 0.05 s without a break" in str(error)
                assert f"(who wrote last: process {os.getpid()} on {os.uname().nodename})" in str(error)
                assert "raise lock_timeout_s" in str(error)
            with ThreadPoolExecutor(1) as patient:
                waits = patient.submit(push, ZipFileStaging(), archive, "b", b"2")
                done.set()
                waits.result(30)
        finally:
            done.set()
        holder.result(10)
    assert contents(archive) == {"a": b"1", "b": b"2"}


# --- killed

#: Runs a push in a child process for each number of bytes after which the child kills itself, and prints what is then
#: there: what is beside the archive, and the members after restore().
_KILLED = """
    import io, json, os, shutil, signal, sys, zipfile
    from pathlib import Path
    from flowcore.builtin import zip_archive
    from flowcore.builtin.zip_staging import ZipFileStaging
    from flowcore.files import File

    start, member, step, during = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    made = Path("made")
    made.write_bytes(b"new content " * 20)
    archive = Path("a.zip").absolute()

    class Deadly(io.FileIO):
        left = 0

        def write(self, data):
            data = bytes(data)
            if len(data) >= Deadly.left:
                super().write(data[: Deadly.left])
                os.kill(os.getpid(), signal.SIGKILL)
            Deadly.left -= len(data)
            return super().write(data)

        def truncate(self, size=None):
            self.write(b"")  # one more moment
            return super().truncate(size)

    def step_or_die(function):
        def moment(*arguments, **options):
            for after in (False, True):
                Deadly.left -= 1
                if Deadly.left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = result if after else function(*arguments, **options)
            return result
        return moment

    def child(left, work):
        pid = os.fork()
        if pid == 0:
            try:
                Deadly.left = left
                zip_archive._writable = lambda path, mode: Deadly(path, mode)
                zip_archive.os.fsync = step_or_die(os.fsync)
                zip_archive.Path.replace = step_or_die(Path.replace)
                zip_archive.Path.unlink = step_or_die(Path.unlink)
                work()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def write():
        with zip_archive.packed(made, member, 8) as packed:
            zip_archive.add(packed, archive, 5)

    outcomes = []
    for left in range(1, 100_000, step):
        for path in Path().glob(".a.zip.*"):
            path.unlink()
        if os.path.exists(start):
            shutil.copy(start, archive)
        else:
            archive.unlink(missing_ok=True)
        if during == "restore":
            # The writer was killed in the middle of it, and now who puts it right is.
            assert child(700, write) == -9
            code = child(left, lambda: zip_archive.restore(archive))
        else:
            code = child(left, write)
        left_there = sorted(p.name for p in Path().glob(".a.zip.*"))
        restored = zip_archive.restore(archive)
        members = None
        if archive.exists():
            with zipfile.ZipFile(archive) as opened:
                members = {n: opened.read(n).decode() for n in opened.namelist()}
        clean = sorted(p.name for p in Path().glob(".a.zip.*")) == [".a.zip.lock"]
        outcomes.append((code, left_there, restored, members, clean))
        if code == 0:
            break
    print(json.dumps(outcomes))
"""


def killed(tmp_path: Path, start: Path, member: str, step: int, during: str = "write") -> list:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_KILLED), str(start), member, str(step), during],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes[-1][0] == 0, "the last one was not killed"
    assert {outcome[0] for outcome in outcomes[:-1]} == {-9}
    assert all(outcome[4] for outcome in outcomes), "something is left beside the archive"
    return outcomes


NEW = "new content " * 20
OLD = {f"member {i}": f"{i} " * 50 for i in range(6)}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return make(tmp_path / "start.zip", **{name: content.encode() for name, content in OLD.items()})


def test_a_writer_that_appends_is_killed_anywhere(tmp_path, start):
    outcomes = killed(tmp_path, start, "new", 7)
    assert len(outcomes) > 100
    for _, _, _, members, _ in outcomes:
        assert members in (OLD, {**OLD, "new": NEW})
    assert outcomes[-1][3] == {**OLD, "new": NEW}
    # The test is one of restoring: without it many of these archives would be broken.
    assert sum(restored for _, _, restored, _, _ in outcomes) > 50
    assert [".a.zip.journal", ".a.zip.lock"] in [there for _, there, _, _, _ in outcomes]
    assert [".a.zip.journal.new", ".a.zip.lock"] in [there for _, there, _, _, _ in outcomes]


def test_a_writer_that_replaces_is_killed_anywhere(tmp_path, start):
    outcomes = killed(tmp_path, start, "member 3", 11)
    assert len(outcomes) > 50
    for _, _, _, members, _ in outcomes:
        assert members in (OLD, {**OLD, "member 3": NEW})
    assert outcomes[-1][3] == {**OLD, "member 3": NEW}
    assert [".a.zip.lock", ".a.zip.new"] in [there for _, there, _, _, _ in outcomes]


def test_the_first_writer_is_killed_anywhere(tmp_path):
    outcomes = killed(tmp_path, tmp_path / "no", "new", 5)
    assert len(outcomes) > 20
    for _, _, _, members, _ in outcomes:
        assert members in (None, {"new": NEW})


def test_who_puts_an_archive_right_is_killed_anywhere(tmp_path, start):
    outcomes = killed(tmp_path, start, "new", 9, during="restore")
    assert len(outcomes) > 30
    for _, _, _, members, _ in outcomes:
        assert members == OLD


def test_the_next_reader_or_writer_puts_right_what_a_killed_one_left(stager, tmp_path):
    archive = make(tmp_path / "a.zip", a=b"1" * 100, b=b"2" * 100)
    good = archive.read_bytes()

    def leave_half_written() -> None:
        archive.write_bytes(good)
        with archive.open("r+b") as target, zipfile.ZipFile(archive) as opened:
            begin = opened.start_dir
            zip_archive._save(target, archive, begin)
            target.seek(begin)
            target.write(b"PK\3\4 half a member, longer than the list that was here" * 20)
        assert not zipfile.is_zipfile(archive)

    leave_half_written()
    stager.fetch(File(f"zip:{archive}/b"), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"2" * 100
    assert archive.read_bytes() == good
    leave_half_written()
    push(stager, archive, "c", b"3")
    assert contents(archive) == {"a": b"1" * 100, "b": b"2" * 100, "c": b"3"}
    leave_half_written()
    assert zip_archive.restore(archive) is True
    assert zip_archive.restore(archive) is False
    assert archive.read_bytes() == good

    # Who replaced the broken archive keeps theirs.
    leave_half_written()
    other = make(tmp_path / "other.zip", z=b"9" * 5000).read_bytes()
    archive.write_bytes(other)
    assert zip_archive.restore(archive) is True
    assert archive.read_bytes() == other

    # A journal that is itself broken changes nothing.
    for broken in (b"", b"x" * 500, b"fczip\0\0\1" + b"y" * 100):
        (tmp_path / ".a.zip.journal").write_bytes(broken)
        assert zip_archive.restore(archive) is True
        assert archive.read_bytes() == other
    archive.unlink()
    (tmp_path / ".a.zip.journal").write_bytes(b"")
    assert zip_archive.restore(archive) is True
    assert beside(archive) == set()


def test_a_disk_that_is_full(stager, tmp_path, monkeypatch):
    """In this process, and with no space for anything more: what was in the archive is in it still."""
    archive = make(tmp_path / "a.zip", a=b"1" * 100)
    good = archive.read_bytes()
    room = [0]

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(28, "No space left on device")
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

    really = zip_archive._writable
    for spare in (10, 300, 420):
        with monkeypatch.context() as patch:
            calls = []

            def writable(path, mode, spare=spare, calls=calls):
                calls.append(path)
                room[0] = spare if len(calls) == 1 else room[0]
                # What is put back overwrites what is there, and needs no space.
                return Full(really(path, mode)) if len(calls) <= 2 else really(path, mode)

            patch.setattr(zip_archive, "_writable", writable)
            error = failure(push, stager, archive, "b", random.Random(3).randbytes(400))
        assert "No space left on device, on " in str(error)
        assert str(error).endswith("What was in the archive before is in it still")
        assert archive.read_bytes() == good
        assert beside(archive) <= {".a.zip.journal.new"}
    push(stager, archive, "b", b"2")
    assert contents(archive) == {"a": b"1" * 100, "b": b"2"}
    assert beside(archive) == set()


def test_a_killed_archive_in_a_workflow_after_it(tmp_path, load):
    """Through the kernel: the next run's task finds a broken archive, and both reads and writes it."""
    from flowcore import python_app

    archive = make(tmp_path / "a.zip", a=b"1" * 100)
    with archive.open("r+b") as target, zipfile.ZipFile(archive) as opened:
        zip_archive._save(target, archive, opened.start_dir)
        target.seek(opened.start_dir)
        target.write(b"x" * 10)

    @python_app
    def copy(inputs=(), outputs=()):
        Path(outputs[0].filepath).write_bytes(Path(inputs[0].filepath).read_bytes() + b"!")

    load(executors=[{"plugin": "threads", "storage_access": [ZipFileStaging()]}])
    done = copy(inputs=[File("zip:a.zip/a")], outputs=[File("zip:a.zip/b")])
    done.outputs[0].result(30)
    assert contents(archive) == {"a": b"1" * 100, "b": b"1" * 100 + b"!"}
