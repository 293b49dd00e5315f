"""rsync: which names mean what, what is run, what ends are told how, and what an interruption leaves."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from flowcore.builtin.rsync_staging import RSyncStaging
from flowcore.errors import ConfigurationError, TransferError
from flowcore.files import File
from flowcore.plugins import transfer
from flowcore.plugins.api import StagingContext
from flowcore.testing import processes
from flowcore.testing.rsync_server import RsyncDaemon
from flowcore.testing.servers import need
from flowcore.testing.waiting import eventually

#: Names that a shell, rsync or a list of names could take for something else.
NAMES = [
    "plain.txt",
    "two words.txt",
    "st*r.txt",
    "what?.txt",
    "br[ab].txt",
    "back\\slash.txt",
    "$HOME `id` $(id).txt",
    "qu'ote\"s.txt",
    "-e --delete",
    "é 漢.txt",
    "#begins",
    ";begins",
    " ends ",
    "100%41.txt",
    "host:name",
    "host::module",
    "line\nend",
    os.fsdecode(b"not-utf8-\xff"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def daemon(tmp_path):
    need("rsync")
    with RsyncDaemon(tmp_path / "far") as daemon:
        yield daemon


@pytest.fixture
def near(tmp_path) -> Path:
    (tmp_path / "near").mkdir()
    return tmp_path / "near"


@pytest.fixture
def ssh(tmp_path) -> str:
    """Pretends to be ssh to a host whose user has a shell: runs the command here."""
    return program(tmp_path / "ssh", 'test "$1 $2 $3" = "-l me far" || exit 255\nshift 3\nexec sh -c "$*"')


def program(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def pretend(monkeypatch, tmp_path: Path, text: str) -> None:
    """Put another program rsync first on the PATH."""
    program(tmp_path / "bin" / "rsync", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def failure(function, *arguments) -> TransferError:
    with pytest.raises(TransferError) as caught:
        function(*arguments)
    return caught.value


def clean(*folders: Path) -> None:
    """Assert that nothing of rsync and of the stager is left anywhere below."""
    left = [p for folder in folders for p in folder.rglob(".*")]
    assert left == []


# --- options


@pytest.mark.parametrize(
    "hostname",
    ["host", "me@host", "me@[::1]", "[fe80::1]", "host::module", "me@[::1]::module/sub", "host::m/",
     "rsync://host/m", "rsync://me:pw@host:8730/m/sub", "rsync://[::1]:8730/m"],
)  # fmt: skip
def test_what_can_stand_before_paths(hostname):
    stager = RSyncStaging(hostname)
    assert pickle.loads(pickle.dumps(stager)).hostname == hostname
    assert "pw" not in repr(stager)


@pytest.mark.parametrize(
    ("hostname", "text"),
    [
        ("", "RSyncStaging(hostname=''): expected user@host, host::module or rsync://host/module"),
        ("-oProxyCommand=x", "expected user@host"),
        ("two words", "expected user@host"),
        ("host:22", "A port of ssh goes into ssh_command, as in 'ssh -p 2222 -o BatchMode=yes'"),
        ("host:/data", "expected user@host, host::module or rsync://host/module"),
        ("ssh://host", "expected user@host"),
        ("host::", "expected a host, :: and a module, as in host::module"),
        ("::1", "expected a host, :: and a module, as in host::module"),
        ("rsync://host", "no module after the host, expected rsync://host/module"),
        ("rsync:///module", "it names no host"),
        ("rsync://host:port/module", "expected rsync://[user@]host[:port]/module/path"),
        ("rsync://me:secret@host/", "(hostname='rsync://me:...@host/'): no module"),
        (7, "expected str | None, got int"),
    ],
)
def test_what_cannot_stand_before_paths(hostname, text):
    with pytest.raises(ConfigurationError) as caught:
        RSyncStaging(hostname)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_other_options():
    for wrong in ({"timeout_s": 0}, {"attempts": 0}, {"rsync_options": "--compress"}, {"ssh_option": "ssh"}):
        with pytest.raises(ConfigurationError):
            RSyncStaging("host", **wrong)


def test_which_files_it_copies():
    with_host, without = RSyncStaging("me@host"), RSyncStaging()
    for file, expected in (
        (File("a.txt"), (True, False)),
        (File("file:///a.txt"), (True, False)),
        (File("rsync://host/module/a.txt"), (True, True)),
        (File("http://host/a.txt"), (False, False)),
    ):
        assert (with_host.can_stage_in(file), without.can_stage_in(file)) == expected
        assert (with_host.can_stage_out(file), without.can_stage_out(file)) == expected


# --- names


def test_a_relative_path_is_of_the_folder_where_it_was_staged(tmp_path, monkeypatch, near, ssh):
    need("rsync")
    context = StagingContext("x", str(near), None)
    stager = RSyncStaging("me@far", ssh_command=ssh)
    (tmp_path / "a.txt").write_text("a")
    file, made = File("a.txt"), File("new/b.txt")
    stager.stage_in(context, file, None)
    stager.stage_out(context, made, Future())
    monkeypatch.chdir("/")
    assert (file.url, file.path) == ("a.txt", f"{tmp_path}/a.txt")
    stager.fetch(file, near / "got")
    assert (near / "got").read_text() == "a"
    stager.push(made, near / "got")
    assert (tmp_path / "new" / "b.txt").read_text() == "a"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("folder/", "it names a folder, or nothing; only files can be staged"),
        ("/", "it names a folder, or nothing"),
        ("a\0b", "neither a part '..' nor the character NUL"),
        ("rsync://host/module", "it names a folder, or nothing"),
        ("rsync://host/module/a/../../b", "neither a part '..' nor the character NUL"),
        ("rsync://host/module/a/%2e%2e/b", "neither a part '..' nor the character NUL"),
        ("rsync://host/module/what?.txt", "in an rsync: URL, ? is written as %3F, and # as %23"),
        ("rsync:///module/a", "it names no host; expected rsync://[user@]host[:port]/module/path"),
        ("rsync://host:x/module/a", "expected rsync://[user@]host[:port]/module/path"),
        ("rsync://me:secret@host/module/", "it names a folder, or nothing"),
    ],
)
def test_what_names_no_file_is_refused_before_the_task_runs(tmp_path, url, text):
    stager = RSyncStaging("me@host")
    context = StagingContext("x", str(tmp_path), None)
    for action, stage in (("fetch", stager.stage_in), ("push", stager.stage_out)):
        error = failure(stage, context, File(url), None)
        assert str(error).startswith(f"cannot {action} ")
        assert text in str(error)
        assert "secret" not in str(error)
        assert not error.passing


@pytest.mark.parametrize("way", ["daemon", "ssh"])
def test_names_mean_nothing_else(daemon, near, ssh, way):
    """Also where a file is that the name would mean as a pattern."""
    if way == "daemon":
        stager, top = RSyncStaging(daemon.prefix), "/"
    else:
        stager, top = RSyncStaging("me@far", ssh_command=ssh), f"{daemon.root}/"
    decoys = {"star.txt": "star", "whats.txt": "whats", "bra.txt": "bra", "backslash.txt": "backslash"}
    for folder in ("in", "out", "d[xy]", "dx"):
        (daemon.root / folder).mkdir()
        for name, content in decoys.items():
            (daemon.root / folder / name).write_text(content)
    for i, name in enumerate(NAMES):
        (daemon.root / "in" / name).write_text(str(i))
        stager.fetch(File(Path(f"{top}in/{name}")), near / "got")
        assert (near / "got").read_text() == str(i), name
        for folder in ("out", "d[xy]", "new*/d?") if name in ("plain.txt", "st*r.txt") else ("out",):
            stager.push(File(Path(f"{top}{folder}/{name}")), near / "got")
            assert (daemon.root / folder / name).read_text() == str(i), name
    for folder in ("in", "out", "d[xy]", "dx"):
        there = {p.name: p.read_text() for p in (daemon.root / folder).iterdir() if p.name not in NAMES}
        assert there == decoys, folder
    clean(near, daemon.root)


def test_names_in_urls(daemon, near):
    for i, name in enumerate(("plain.txt", "st*r ?#é.txt", "100%41.txt", os.fsdecode(b"not-utf8-\xff"))):
        url = daemon.url(f"a folder/{name}")
        (near / "made").write_text(str(i))
        RSyncStaging().push(File(url), near / "made")
        assert (daemon.root / "a folder" / name).read_text() == str(i), name
        RSyncStaging().fetch(File(url), near / "got")
        assert (near / "got").read_text() == str(i), name


def test_a_module_with_a_folder_as_prefix(daemon, near):
    (near / "made").write_text("a")
    for prefix in ("127.0.0.1::files/sub", f"rsync://127.0.0.1:{daemon.port}/files/sub"):
        stager = RSyncStaging(prefix, rsync_options=[f"--port={daemon.port}"])
        stager.push(File("/x/a.txt"), near / "made")
        assert (daemon.root / "sub" / "x" / "a.txt").read_text() == "a"
        (daemon.root / "sub" / "x" / "a.txt").unlink()


# --- what is copied


def test_the_content_counts_not_size_and_time(daemon, near):
    (near / "made").write_text("new")
    there = daemon.root / "a.txt"
    there.write_text("old")
    os.utime(near / "made", (1_000_000_000, 1_000_000_000))
    os.utime(there, (1_000_000_000, 1_000_000_000))
    RSyncStaging(rsync_options=["--times"]).push(File(daemon.url("a.txt")), near / "made")
    assert there.read_text() == "new"


def test_what_is_no_file(daemon, near):
    (daemon.root / "folder").mkdir()
    (daemon.root / "folder" / "a").write_text("a")
    (daemon.root / "link").symlink_to("folder/a")
    os.mkfifo(daemon.root / "pipe")
    stager = RSyncStaging()
    stager.fetch(File(daemon.url("link")), near / "got")
    assert (near / "got").read_text() == "a"
    assert not (near / "got").is_symlink()
    for name, told in (("folder", "it is a folder or a device; only"), ("pipe", "brought nothing: it is a device, or")):
        error = failure(stager.fetch, File(daemon.url(name)), near / "got")
        assert told in str(error)
        assert not error.passing
    # What is pushed may be a link, too.
    (near / "link").symlink_to(near / "got")
    stager.push(File(daemon.url("pushed")), near / "link")
    assert (daemon.root / "pushed").read_text() == "a"
    assert not (daemon.root / "pushed").is_symlink()
    # Nor do folders become what they are not.
    (near / "folder").mkdir()
    error = failure(stager.push, File(daemon.url("new")), near / "folder")
    assert f"'{near}/folder' is a folder or a device; only files can be staged" in str(error)
    assert not (daemon.root / "new").exists()
    error = failure(stager.push, File(daemon.url("folder")), near / "got")
    assert not error.passing
    assert (daemon.root / "folder" / "a").exists()
    clean(near, daemon.root)


def test_folders_that_are_links_over_ssh(tmp_path, near, ssh):
    need("rsync")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (near / "made").write_text("a")
    stager = RSyncStaging("me@far", ssh_command=ssh)
    stager.push(File(tmp_path / "link" / "new" / "a.txt"), near / "made")
    assert (tmp_path / "real" / "new" / "a.txt").read_text() == "a"
    stager.fetch(File(tmp_path / "link" / "new" / "a.txt"), near / "got")
    assert (near / "got").read_text() == "a"


@pytest.mark.parametrize("way", ["daemon", "ssh"])
def test_versions_that_make_no_folders(daemon, near, ssh, tmp_path, monkeypatch, way):
    """One before 3.2.3, as far as options go; then the folders come with the file."""
    need("rsync")
    real = shutil.which("rsync")
    pretend(
        monkeypatch,
        tmp_path,
        'echo run >> "$0.runs"\n'
        'for option; do case $option in --mkpath) echo "rsync: --mkpath: unknown option" >&2; exit 1;; esac; done\n'
        f'exec {real} "$@"',
    )
    top = Path("/") if way == "daemon" else daemon.root
    stager = RSyncStaging(daemon.prefix) if way == "daemon" else RSyncStaging("me@far", ssh_command=ssh)
    (near / "made").write_text("a")
    stager.push(File(top / "new" / "folders" / "a.txt"), near / "made")
    assert (daemon.root / "new" / "folders" / "a.txt").read_text() == "a"
    clean(near, daemon.root)
    # The one that failed is not tried again as if it could pass.
    assert (tmp_path / "bin" / "rsync.runs").read_text().count("run") == (2 if way == "daemon" else 3)


# --- what is run


def test_no_password_and_no_name_is_among_the_arguments(tmp_path, near, monkeypatch):
    pretend(
        monkeypatch,
        tmp_path,
        'here=$(dirname "$0"); printf "%s\\n" "$@" > "$here/args"; env > "$here/env"; cat > "$here/stdin"; '
        'tty >> "$here/env" 2>&1; (echo > /dev/tty) 2>> "$here/env"\n'
        'echo "cannot do secret" >&2; exit 3',
    )
    monkeypatch.setenv("RSYNC_PASSWORD", "another")
    error = failure(RSyncStaging().fetch, File("rsync://me:secret@far:1234/m/a%20b.txt"), near / "got")
    args, env, stdin = ((tmp_path / "bin" / name).read_text() for name in ("args", "env", "stdin"))
    assert "secret" not in args
    assert "rsync://me@far:1234/m/\n" in args
    assert stdin == "./a b.txt\0"
    assert "RSYNC_PASSWORD=secret\n" in env
    assert "LC_ALL=C\n" in env
    assert "/dev/tty: No such device" in env or "cannot create /dev/tty" in env
    assert "--contimeout=60\n" in args
    assert "--rsh" not in args
    for text in (str(error), repr(error), repr(error.args), str(pickle.loads(pickle.dumps(error)))):
        assert "secret" not in text
    assert str(error).startswith("cannot fetch rsync://me:...@far:1234/m/a%20b.txt: rsync on ")
    assert "ended with 3 (errors selecting files or folders): cannot do ..." in str(error)

    failure(RSyncStaging("me@host", rsync_options=["--compress"]).fetch, File("/x/a b.txt"), near / "got")
    args, env, stdin = ((tmp_path / "bin" / name).read_text() for name in ("args", "env", "stdin"))
    assert "me@host:/\n" in args
    assert "a b.txt" not in args
    assert "--rsh=ssh -o BatchMode=yes -o ConnectTimeout=30\n" in args
    assert "--compress\n" in args
    assert "contimeout" not in args
    assert stdin == "./x/a b.txt\0"
    assert "RSYNC_PASSWORD=another\n" in env


def test_a_worker_without_rsync(near, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    error = failure(RSyncStaging("me@host").fetch, File("/a.txt"), near / "got")
    assert not error.passing
    assert (
        f"there is no program rsync on {os.uname().nodename}, where the task runs (PATH: {tmp_path}/nothing). "
        in str(error)
    )
    assert "Install it there, as by `apt-get install rsync`, or have worker_init put its folder on the PATH" in str(
        error
    )
    clean(near)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "rsync").write_text("no program")
    error = failure(RSyncStaging("me@host").fetch, File("/a.txt"), near / "got")
    assert f"rsync cannot be run on {os.uname().nodename}: Permission denied" in str(error)


def test_a_folder_where_nothing_can_be_written(tmp_path):
    error = failure(RSyncStaging("me@host").fetch, File("/a.txt"), tmp_path / "not there" / "got")
    assert "No such file or directory, on " in str(error)
    assert not error.passing


# --- how it ended


@pytest.mark.parametrize(
    ("code", "said", "passing", "told"),
    [
        (1, "rsync: --nonsense: unknown option", False, "ended with 1 (syntax or usage error): rsync: --nonsense"),
        (2, "", False, "ended with 2 (protocol incompatibility)"),
        (5, "@ERROR: max connections (1) reached -- try again later", True, "max connections (1) reached"),
        (5, "@ERROR: auth failed on module m", False, "User and password go into the URL"),
        (5, "@ERROR: Unknown module 'm'", False, "name of a module in the daemon's rsyncd.conf"),
        (10, "rsync: failed to connect to far: Connection refused (111)", True, "Connection refused"),
        (10, "rsync: getaddrinfo: far 873: Name or service not known", False, "Name or service not known"),
        (10, "rsync: getaddrinfo: far 873: Temporary failure in name resolution", True, "Temporary failure"),
        (11, "rsync: write failed: No space left on device (28)", False, "No space left on device"),
        (
            12,
            "rsync: connection unexpectedly closed",
            True,
            "ended with 12 (error in the protocol's data stream): rsync:",
        ),
        (23, 'rsync: link_stat "/a" failed: No such file or directory (2)', False, "No such file or directory"),
        (23, 'rsync: open "/a" failed: Permission denied (13)', False, "Permission denied (13)"),
        (23, 'rsync: read errors mapping "/a": Input/output error (5)', True, "Input/output error"),
        (24, "file has vanished", True, "ended with 24 (partial transfer: a source file vanished)"),
        (30, "", True, "ended with 30 (silence for too long)"),
        (35, "", True, "ended with 35 (the daemon could not be reached in time)"),
        (127, "bash: line 1: rsync: command not found", False, "Install rsync on that host"),
        (
            255,
            "ssh: connect to host far port 22: Connection timed out",
            True,
            "ended with 255 (ssh failed): ssh: connect",
        ),
        (255, "me@far: Permission denied (publickey).", False, "or name one in ssh_command"),
        (255, "Host key verification failed.", False, "key in known_hosts where tasks run"),
        (77, "", True, "ended with 77 (not known)"),
    ],
)
def test_what_may_pass_is_tried_again_and_what_cannot_is_not(tmp_path, near, monkeypatch, code, said, passing, told):
    pretend(
        monkeypatch,
        tmp_path,
        f'echo >> "$0.runs"; cat > /dev/null; echo {shlex.quote(said)} >&2\n'
        f'echo "rsync error: as the number says (code {code}) at main.c(1) [Receiver=3.2.7]" >&2; exit {code}',
    )
    for act, action in ((RSyncStaging("me@far").fetch, "fetch"), (RSyncStaging("me@far").push, "push")):
        (near / "file").write_text("earlier")
        (tmp_path / "bin" / "rsync.runs").write_text("")
        error = failure(act, File("/a"), near / "file")
        assert error.passing is passing
        runs = (tmp_path / "bin" / "rsync.runs").read_text().count("\n")
        assert runs == (3 if passing else 1)
        assert ("flowcore: tried 3 times" in getattr(error, "__notes__", ())) is passing
        assert str(error).startswith(
            f"cannot {action} /a: rsync on {os.uname().nodename}, with me@far, ended with {code} ("
        )
        assert told in str(error)
        # The last line only where there is nothing better.
        assert ("rsync error: as the number says" in str(error)) is (said == "")
        assert (near / "file").read_text() == "earlier"
    clean(near)


def test_an_rsync_that_is_killed_is_tried_again(tmp_path, near, monkeypatch, daemon):
    real = shutil.which("rsync")
    # It leaves what it had begun, as one does that is killed.
    pretend(
        monkeypatch,
        tmp_path,
        "for last; do :; done\n"
        f'if test -e "$0.killed"; then exec {real} "$@"; fi\n'
        'touch "$0.killed" "$last/.a.txt.Xyzzy1"; kill -KILL $$',
    )
    (daemon.root / "a.txt").write_text("a")
    RSyncStaging().fetch(File(daemon.url("a.txt")), near / "got")
    assert (near / "got").read_text() == "a"
    (tmp_path / "bin" / "rsync.killed").unlink()
    error = failure(RSyncStaging(attempts=1).fetch, File(daemon.url("a.txt")), near / "got")
    assert "was killed by signal 9" in str(error)
    clean(near)


def test_a_silent_other_side(tmp_path, near):
    need("rsync")
    silent = program(tmp_path / "ssh", 'echo $$ >> "$0.pids"; exec sleep 1000')
    began = time.monotonic()
    error = failure(RSyncStaging("me@far", ssh_command=silent, timeout_s=1, attempts=2).fetch, File("/a"), near / "got")
    assert time.monotonic() - began < 60
    assert "ended with 30 (silence for too long)" in str(error)
    pids = [int(pid) for pid in (tmp_path / "ssh.pids").read_text().split()]
    assert len(pids) == 2
    eventually(lambda: all(processes.gone(pid) for pid in pids), 10, "the end of what ran as ssh")
    clean(near)


def test_an_ssh_that_does_not_end_with_rsync(tmp_path, near, monkeypatch):
    """It holds the stderr that it has from rsync."""
    pretend(monkeypatch, tmp_path, 'sleep 1000 & echo $! > "$0.pid"; echo "ssh: Connection reset" >&2; exit 255')
    error = failure(RSyncStaging("me@far", attempts=1).fetch, File("/a"), near / "got")
    assert "ended with 255 (ssh failed): ssh: Connection reset" in str(error)
    pid = int((tmp_path / "bin" / "rsync.pid").read_text())
    eventually(lambda: processes.gone(pid), 10, "the end of what rsync started")


# --- broken in the middle


def slow_fetch(pool, daemon: RsyncDaemon, near: Path, **options) -> Future[None]:
    """Begin to fetch, and return when some of it has come."""
    stager = RSyncStaging(rsync_options=["--bwlimit=4m"], **options)
    future = pool.submit(stager.fetch, File(daemon.url("big")), near / "got")

    def begun() -> bool:
        return future.done() or any(p.stat().st_size > 1_000_000 for p in near.rglob(".big.*"))

    eventually(begun, what="the first megabyte")
    return future


def sent(daemon: RsyncDaemon) -> list[int]:
    """The bytes that each transfer that ended well sent."""
    lines = [line.split() for line in daemon.log.splitlines() if "] sent " in line and "total size" in line]
    return [int(words[words.index("sent") + 1].replace(",", "")) for words in lines]


def test_what_has_come_is_not_brought_again(daemon, near):
    """The connection breaks in the middle."""
    content = os.urandom(8_000_000)
    (daemon.root / "big").write_bytes(content)
    with ThreadPoolExecutor(1) as pool:
        future = slow_fetch(pool, daemon, near)
        daemon.drop_connections()
        future.result(60)
    assert (near / "got").read_bytes() == content
    assert sent(daemon)[-1] < 7_500_000
    clean(near)


def test_a_daemon_that_is_killed_and_comes_back(daemon, near):
    content = os.urandom(8_000_000)
    (daemon.root / "big").write_bytes(content)
    with ThreadPoolExecutor(1) as pool:
        future = slow_fetch(pool, daemon, near, attempts=15)
        daemon.stop()
        daemon.start()
        future.result(60)
    assert (near / "got").read_bytes() == content
    assert sent(daemon)[-1] < 7_500_000
    clean(near)


def test_a_daemon_that_does_not_come_back(daemon, near):
    (daemon.root / "big").write_bytes(os.urandom(8_000_000))
    (near / "got").write_text("earlier")
    with ThreadPoolExecutor(1) as pool:
        future = slow_fetch(pool, daemon, near, attempts=2)
        daemon.stop()
        error = failure(future.result, 60)
    assert "Connection refused" in str(error)
    assert "flowcore: tried 2 times" in error.__notes__
    assert (near / "got").read_text() == "earlier"
    clean(near)


def test_a_push_that_breaks_leaves_what_was_there(daemon, near):
    (daemon.root / "a").write_text("earlier")
    (near / "made").write_bytes(os.urandom(8_000_000))
    stager = RSyncStaging(rsync_options=["--bwlimit=4m"], attempts=1)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stager.push, File(daemon.url("a")), near / "made")
        eventually(
            lambda: any(p.stat().st_size > 1_000_000 for p in daemon.root.glob(".a.*")), what="the first megabyte"
        )
        assert (daemon.root / "a").read_text() == "earlier"
        (client,) = [p for p in processes.descendants(os.getpid()) if "--files-from=-" in p.command]
        processes.kill([client])
        error = failure(future.result, 60)
    assert "was killed by signal 9" in str(error)
    assert (daemon.root / "a").read_text() == "earlier"
    # Whose connection is broken removes what it had begun.
    eventually(lambda: not list(daemon.root.glob(".a.*")), 30, "the daemon tidying up")
    clean(near)


def test_a_module_that_is_read_only(daemon, near):
    (near / "made").write_text("a")
    error = failure(RSyncStaging().push, File(daemon.url("a", "readonly")), near / "made")
    assert "module is read only" in str(error)
    assert "has to say `read only = no`" in str(error)
    assert not error.passing


def test_the_file_arrives_with_the_usual_permissions(daemon, near):
    (daemon.root / "a").write_text("a")
    (daemon.root / "a").chmod(0o640)
    RSyncStaging().fetch(File(daemon.url("a")), near / "got")
    assert stat.S_IMODE((near / "got").stat().st_mode) & 0o600 == 0o600


def test_a_task_pickles_it_to_where_it_runs(daemon, near, tmp_path):
    (daemon.root / "a").write_text("a")
    stager = RSyncStaging(daemon.prefix, attempts=2)
    program = (
        "import pickle, sys, pathlib; stager, file, path = pickle.load(sys.stdin.buffer); stager.fetch(file, path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((stager, File("/a"), near / "got")),
        capture_output=True,
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (near / "got").read_text() == "a"
