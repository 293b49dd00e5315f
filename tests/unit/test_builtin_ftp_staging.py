"""The FTP stagers fetch whole files or none, go on where they were cut off, and say what went wrong."""

from __future__ import annotations

import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcore.builtin.ftp_download import Address
from flowcore.builtin.ftp_staging import FTPInTaskStaging, FTPSeparateTaskStaging
from flowcore.errors import ConfigurationError, TransferError
from flowcore.files import File
from flowcore.plugins import transfer
from flowcore.plugins.api import StagingPlace
from flowcore.testing import ftp_server as kit
from flowcore.testing.ftp_server import FTPFiles
from flowcore.testing.waiting import eventually

CONTENT = os.urandom(1_000_000)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FTPFiles]:
    with FTPFiles(tmp_path / "ftp") as server:
        server.put("a.bin", CONTENT)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "a.bin"


def fetch(url: str, target: Path, **options: Any) -> bytes:
    FTPInTaskStaging(**options).fetch(File(url), target)
    assert os.listdir(target.parent) == [target.name]
    return target.read_bytes()


def failure(url: str, target: Path, **options: Any) -> TransferError:
    with pytest.raises(TransferError) as caught:
        FTPInTaskStaging(**options).fetch(File(url), target)
    assert os.listdir(target.parent) == [], "a part was left"
    return caught.value


def said(server: FTPFiles, *words: str) -> list[str]:
    """Return the commands that were sent, of the kinds that are of interest."""
    return [command for command in server.commands if command.split()[0] in words]


# --- what a URL means


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://host/a.txt", ("host", 21, "anonymous", "anonymous@", "a.txt")),
        ("ftp://host:2121/folder/a.txt", ("host", 2121, "anonymous", "anonymous@", "folder/a.txt")),
        ("ftp://host/%2Fetc/motd", ("host", 21, "anonymous", "anonymous@", "/etc/motd")),
        ("ftp://host//etc/motd", ("host", 21, "anonymous", "anonymous@", "/etc/motd")),
        ("ftp://host/%7Eme/a%20b%23c", ("host", 21, "anonymous", "anonymous@", "~me/a b#c")),
        ("ftp://host/what?.txt", ("host", 21, "anonymous", "anonymous@", "what?.txt")),
        ("ftp://host/a;b.txt;type=i", ("host", 21, "anonymous", "anonymous@", "a;b.txt")),
        ("ftp://me%40here:p%3Aw%2F@host/a", ("host", 21, "me@here", "p:w/", "a")),
        ("ftp://me@host/a", ("host", 21, "me", "", "a")),
        ("ftp://[::1]:2121/a", ("::1", 2121, "anonymous", "anonymous@", "a")),
        ("ftp://host/%E4.txt", ("host", 21, "anonymous", "anonymous@", "\xe4.txt")),
        ("ftp://host/ä.txt", ("host", 21, "anonymous", "anonymous@", "\xc3\xa4.txt")),
    ],
)
def test_addresses(url: str, expected: tuple[Any, ...]) -> None:
    assert Address.of(url) == Address(*expected)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp:///a.txt", "the URL names no host: expected ftp://host/path"),
        ("ftp://host/", "the URL names a folder, not a file"),
        ("ftp://host/folder/", "the URL names a folder, not a file"),
        ("ftp://host/a;type=a", ";type=a: files are fetched as they are, which is ;type=i"),
        ("ftp://host:x/a", "Port could not be cast to integer value as 'x'"),
        ("ftp://host/a%0d%0aDELE%20b", "the URL has an end of line or a zero byte in a name, which FTP cannot say"),
        ("ftp://host/a\nDELE b", "the URL has an end of line or a zero byte in a name, which FTP cannot say"),
        ("ftp://me%0AUSER%20you:x@host/a", "the URL has an end of line or a zero byte in a name, which FTP cannot say"),
        ("ftp://host/a%00", "the URL has an end of line or a zero byte in a name, which FTP cannot say"),
    ],
)
def test_urls_that_are_refused_before_anybody_is_asked(url: str, reason: str, target: Path) -> None:
    error = failure(url, target)
    assert error.reason == reason
    assert not error.passing


def test_a_login_of_the_netrc_file(target: Path, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password sècret")
    assert Address.of("ftp://127.0.0.1/a").user == "me"
    assert Address.of("ftp://you@127.0.0.1/a").user == "you"
    assert Address.of("ftp://elsewhere/a").user == "anonymous"
    with FTPFiles(tmp_path / "ftp", user=("me", "sècret")) as server:
        server.put("a.bin", b"content")
        assert fetch(f"ftp://127.0.0.1:{server.port}/a.bin", target) == b"content"
    target.unlink()
    (tmp_path / "netrc").write_text("machine")
    assert re.match(r"~/\.netrc on .* cannot be used: .*netrc", failure("ftp://host/a", target).reason)


def test_paths_are_meant_from_the_folder_of_the_login(tmp_path: Path, target: Path) -> None:
    with FTPFiles(tmp_path / "ftp", user=("me", "p@ss"), home="home/me") as server:
        server.put("home/me/data/a b", b"at home")
        server.put("data/a b", b"at the root")
        assert fetch(server.url("data/a b"), target) == b"at home"
        assert fetch(server.url("/data/a b"), target) == b"at the root"
        assert fetch(server.url("data/a b").replace("/data", "/%2Fdata"), target) == b"at the root"


def test_names_of_any_bytes(server: FTPFiles, target: Path) -> None:
    for name in ("ä ß.txt", "semi;colon", "-n", "50%"):
        server.put(name, name.encode())
        assert fetch(server.url(name), target) == name.encode()


# --- what it does


def test_fetches_byte_by_byte(server: FTPFiles, target: Path) -> None:
    for content in (b"", b"line\r\nline\n\x00\xff", CONTENT):
        server.put("a.bin", content)
        assert fetch(server.url("a.bin"), target) == content
    assert "TYPE I" in server.commands
    assert "PORT" not in str(server.commands)


def test_replaces_what_is_there_when_the_whole_file_has_come(server: FTPFiles, target: Path) -> None:
    target.write_bytes(b"old")
    server.fail("a.bin", kit.Cut(10), always=True)
    with pytest.raises(TransferError):
        FTPInTaskStaging(attempts=2).fetch(File(server.url("a.bin")), target)
    assert target.read_bytes() == b"old"
    server.fail("a.bin")
    assert fetch(server.url("a.bin"), target) == CONTENT


def test_many_at_once(server: FTPFiles, tmp_path: Path) -> None:
    got: dict[int, bytes] = {}

    def bring(number: int) -> None:
        path = tmp_path / f"got-{number}"
        FTPInTaskStaging().fetch(File(server.url("a.bin")), path)
        got[number] = path.read_bytes()

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == dict.fromkeys(range(8), CONTENT)


@pytest.mark.parametrize("kind", [FTPInTaskStaging, FTPSeparateTaskStaging])
def test_takes_ftp_and_brings_only(kind: Callable[..., Any]) -> None:
    stager = kind()
    assert stager.can_stage_in(File("ftp://host/a"))
    for url in ("http://host/a", "/a", "ftps://host/a"):
        assert not stager.can_stage_in(File(url))
    assert not stager.can_stage_out(File("ftp://host/a"))
    assert pickle.loads(pickle.dumps(kind(timeout_s=3, attempts=2))).attempts == 2


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"attempts": 0}, {"timeout_s": "1"}, {"timeout": 1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        FTPSeparateTaskStaging(**options)


# --- broken connections


@pytest.mark.parametrize("control", [False, True])
def test_goes_on_where_it_was_cut_off(server: FTPFiles, target: Path, control: bool) -> None:
    server.fail("a.bin", kit.Cut(300_000, control), kit.Cut(400_000, control))
    assert fetch(server.url("a.bin"), target) == CONTENT
    assert said(server, "REST", "RETR") == ["RETR a.bin", "REST 300000", "RETR a.bin", "REST 700000", "RETR a.bin"]


def test_goes_on_after_the_server_was_away(server: FTPFiles, target: Path) -> None:
    server.fail("a.bin", kit.Stall(300_000))

    def restart() -> None:
        eventually(lambda: "RETR a.bin" in server.commands)
        server.stop()
        server.start()

    away = threading.Thread(target=restart)
    away.start()
    assert fetch(server.url("a.bin"), target, attempts=20) == CONTENT
    away.join(20)
    assert len(said(server, "RETR")) == 2


def test_goes_on_after_silence(server: FTPFiles, target: Path) -> None:
    server.fail("a.bin", kit.Stall(300_000))
    assert fetch(server.url("a.bin"), target, timeout_s=0.3) == CONTENT
    assert said(server, "REST") == ["REST 300000"]


def test_begins_anew_if_the_file_changed(server: FTPFiles, target: Path) -> None:
    other = os.urandom(len(CONTENT))  # of the same size

    class Replaced(kit.Fault):
        limit = 300_000

        def at_limit(self, data: Any) -> None:
            server.put("a.bin", other, modified=2e9)
            data.abort("426 Gone")

    server.fail("a.bin", Replaced())
    assert fetch(server.url("a.bin"), target) == other
    assert said(server, "REST") == []


def test_begins_anew_if_the_server_cannot_restart(tmp_path: Path, target: Path) -> None:
    for number, without in enumerate((("REST",), ("MDTM",), ("SIZE", "MDTM"), ("SIZE",))):
        with FTPFiles(tmp_path / f"ftp-{number}", without=without) as server:
            server.put("a.bin", CONTENT)
            server.fail("a.bin", kit.Cut(300_000), kit.Cut(200_000))
            assert fetch(server.url("a.bin"), target) == CONTENT
            # Of a file of unknown age nobody knows whether it is the same.
            restarts = 1 if without == ("REST",) else 2 if without == ("SIZE",) else 0
            assert len(said(server, "REST")) == restarts
            assert len(said(server, "RETR")) == 3


def test_a_server_that_restarts_elsewhere_than_it_says(server: FTPFiles, target: Path) -> None:
    server.fail("a.bin", kit.Cut(300_000), kit.FromStart(), kit.Cut(300_000), kit.FromStart())
    assert fetch(server.url("a.bin"), target) == CONTENT
    assert said(server, "REST") == ["REST 300000"], "it was believed once more"


def test_the_last_word_of_the_server_may_be_lost(server: FTPFiles, target: Path) -> None:
    server.fail("a.bin", kit.Cut(len(CONTENT), control=True))
    assert fetch(server.url("a.bin"), target, attempts=1) == CONTENT


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (kit.Cut(300_000), "cut off (426 Transfer aborted) after 300,000 of 1,000,000 bytes"),
        (kit.Cut(300_000, control=True), "cut off after 300,000 of 1,000,000 bytes"),
        (kit.Short(300_000), "the server announced 1,000,000 bytes and sent 300,000"),
        (kit.Stall(300_000), "the server was silent for 0.3 s after 300,000 of 1,000,000 bytes"),
        (kit.Reply("450 File\tbusy"), "the server refuses: 450 File busy"),
    ],
)
def test_what_may_pass(server: FTPFiles, target: Path, fault: kit.Fault, reason: str) -> None:
    server.fail("a.bin", fault, always=True)
    error = failure(server.url("a.bin"), target, attempts=1, timeout_s=0.3)
    assert error.reason == reason
    assert error.passing
    server.fail("a.bin", fault)
    assert fetch(server.url("a.bin"), target, timeout_s=0.3) == CONTENT


def test_gives_up_after_some_attempts(server: FTPFiles, target: Path) -> None:
    server.fail("a.bin", kit.Reply("450 Busy"), always=True)
    error = failure(server.url("a.bin"), target, attempts=3)
    assert error.__notes__ == ["flowcore: tried 3 times"]
    assert said(server, "RETR") == ["RETR a.bin"] * 3


def test_a_size_that_is_wrong(server: FTPFiles, target: Path) -> None:
    server.sizes["a.bin"] = 7
    error = failure(server.url("a.bin"), target)
    assert error.reason == "the server announced 7 bytes and sent 1,000,000"


# --- refusals


def test_no_such_file(server: FTPFiles, target: Path) -> None:
    error = failure(server.url("none"), target)
    assert str(error) == (
        f"cannot fetch ftp://127.0.0.1:{server.port}/none: the server has no such file for this user: "
        "550 No such file or directory.; check the URL"
    )
    assert not error.passing
    assert said(server, "RETR") == ["RETR none"]


def test_wrong_password(tmp_path: Path, target: Path) -> None:
    with FTPFiles(tmp_path / "ftp", user=("me", "right")) as server:
        error = failure(f"ftp://me:wr0ng@127.0.0.1:{server.port}/a", target)
        assert str(error) == (
            f"cannot fetch ftp://me:...@127.0.0.1:{server.port}/a: the server does not let in the user 'me': "
            "530 Authentication failed.; a user and a password may stand in the URL, or in ~/.netrc where the task runs"
        )
        assert not error.passing
        assert said(server, "USER") == ["USER me"]
        assert "wr0ng" not in repr(error) + str(error.args) + repr(error.__cause__)


def test_too_many_connections(server: FTPFiles, target: Path) -> None:
    server.refuse("421 Too many connections", times=3)
    assert fetch(server.url("a.bin"), target) == CONTENT
    server.refuse("421 Too many connections", times=4)
    target.unlink()
    error = failure(server.url("a.bin"), target)
    assert error.reason == "the server refuses: 421 Too many connections"


def test_a_disk_that_cannot_be_written_to(server: FTPFiles, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"cannot write to '.*none' on .*: No such file or directory") as caught:
        FTPInTaskStaging().fetch(File(server.url("a.bin")), tmp_path / "none" / "a.bin")
    assert not caught.value.passing


# --- servers that are none


@pytest.fixture
def talker() -> Iterator[Callable[..., int]]:
    """Starts a server that says the given lines to whoever connects, one after each line that it hears."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk(*lines: bytes) -> int:
            def serve() -> None:
                while True:
                    try:
                        connection, _ = listening.accept()
                    except OSError:
                        return
                    with connection, connection.makefile("rb") as heard:
                        connection.settimeout(20)
                        for line in lines:
                            connection.sendall(line)
                            if not heard.readline():
                                break

            threads.append(threading.Thread(target=serve))
            threads[-1].start()
            return int(listening.getsockname()[1])

        threads: list[threading.Thread] = []
        yield talk
        listening.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), " is no FTP server: HTTP/1.1 400 Bad Request"),
        ((b"530 Not from there\r\n",), "the server refuses: 530 Not from there"),
        ((b"220 h\xe4llo\r\n", b"331 ?\r\n", b"530 maximum number\r\n"), "user 'anonymous': 530 maximum number"),
        ((b"220-a\r\n220 b\r\n", b"331 ?\r\n", b"230 !\r\n"), "the server closed the connection"),
        ((b"220 b\r\n", b"230 !\r\n", b"504 no\r\n"), "the server refuses: 504 no"),
        ((b"",), "no connection to the server at port "),
    ],
)
def test_strange_servers(talker: Callable[..., int], target: Path, lines: tuple[bytes, ...], reason: str) -> None:
    error = failure(f"ftp://127.0.0.1:{talker(*lines)}/a", target, attempts=2, timeout_s=0.3)
    assert reason in error.reason
    assert error.passing is not reason.endswith(("Request", "there", "no"))


def test_a_server_that_says_nothing(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        error = failure(f"ftp://127.0.0.1:{port}/a", target, attempts=1, timeout_s=0.2)
    assert error.reason == f"no connection to the server at port {port}: the server was silent for 0.2 s"
    error = failure(f"ftp://127.0.0.1:{port}/a", target, attempts=2)
    assert error.reason == f"no connection to the server at port {port}: Connection refused"
    assert error.passing


def test_a_host_that_is_not_known(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for number in (socket.EAI_NONAME, socket.EAI_AGAIN):
        error = failure("ftp://nowhere.invalid/a", target, attempts=2)
        assert error.reason == "no address of the host 'nowhere.invalid': Name or service not known"
        assert error.passing is (number == socket.EAI_AGAIN)


# --- the cache


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[FTPInTaskStaging]:
    stager = FTPInTaskStaging(cache=str(tmp_path / "cache"))
    stager.start(StagingPlace("x", None, tmp_path))
    yield stager
    stager.close()


def test_a_cached_file_is_fetched_once(server: FTPFiles, target: Path, tmp_path: Path, cached: Any) -> None:
    for _ in range(2):
        cached.fetch(File(server.url("a.bin")), target)
        assert target.read_bytes() == CONTENT
    assert said(server, "RETR") == ["RETR a.bin"]
    # A later run asks whether it has changed.
    cached.close()
    cached.start(StagingPlace("x", None, tmp_path))
    cached.fetch(File(server.url("a.bin")), target)
    assert target.read_bytes() == CONTENT
    assert len(said(server, "MDTM")) == 2
    assert len(said(server, "RETR")) == 1
    cached.close()
    server.put("a.bin", CONTENT[::-1], modified=2e9)
    cached.start(StagingPlace("x", None, tmp_path))
    cached.fetch(File(server.url("a.bin")), target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_file_of_unknown_age_is_fetched_by_each_run(tmp_path: Path, target: Path, cached: Any) -> None:
    with FTPFiles(tmp_path / "ftp", without=("MDTM",)) as server:
        server.put("a.bin", b"old")
        cached.fetch(File(server.url("a.bin")), target)
        cached.close()
        server.put("a.bin", b"new")
        cached.start(StagingPlace("x", None, tmp_path))
        cached.fetch(File(server.url("a.bin")), target)
        assert target.read_bytes() == b"new"


def test_errors_show_no_password(tmp_path: Path, target: Path) -> None:
    with FTPFiles(tmp_path / "ftp", user=("me", "s3cret")) as server:
        error = failure(server.url("none"), target)
        again = pickle.loads(pickle.dumps(error))
        assert re.search(r"ftp://me:\.\.\.@127\.0\.0\.1", str(again))
        assert "s3cret" not in str(again) + repr(again.args)
