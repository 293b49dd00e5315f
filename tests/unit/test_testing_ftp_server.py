"""The FTP server of the testing kit serves as servers do, and goes wrong as it is told."""

from __future__ import annotations

import ftplib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowcore.testing import ftp_server as kit
from flowcore.testing.ftp_server import FTPFiles

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FTPFiles]:
    with FTPFiles(tmp_path / "ftp") as server:
        server.put("a.bin", CONTENT)
        yield server


@contextmanager
def client(server: FTPFiles, user: str = "", password: str = "") -> Iterator[ftplib.FTP]:
    with ftplib.FTP() as ftp:
        ftp.connect("127.0.0.1", server.port, timeout=20)
        ftp.login(user, password)
        yield ftp


def fetch(ftp: ftplib.FTP, name: str = "a.bin", rest: int | None = None) -> bytes:
    """Fetch what comes; the reply at the end of the transfer is the caller's."""
    got = bytearray()
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd(f"RETR {name}", rest) as data:
        while piece := data.recv(1 << 16):
            got += piece
    return bytes(got)


def test_serves_its_folder(server: FTPFiles) -> None:
    url = server.put("folder/späce %.txt", b"content")
    assert url == f"ftp://127.0.0.1:{server.port}/folder/sp%C3%A4ce%20%25.txt"
    with client(server) as ftp:
        assert ftp.pwd() == "/"
        assert fetch(ftp, "folder/späce %.txt") == b"content"
        assert ftp.voidresp().startswith("226")
        assert fetch(ftp, rest=1_000_000) == CONTENT[1_000_000:]
        assert ftp.voidresp().startswith("226")
        assert ftp.size("a.bin") == len(CONTENT)
        with pytest.raises(ftplib.error_perm, match="550 No such file"):
            ftp.voidcmd("RETR none")
        with pytest.raises(ftplib.error_perm, match="550"):
            ftp.voidcmd("STOR b.bin")
    assert "REST 1000000" in server.commands
    assert "PASS" in server.commands


def test_lets_in_who_is_known(tmp_path: Path) -> None:
    with FTPFiles(tmp_path, user=("me@here", "p:w"), home="sub/home") as server:
        server.put("sub/home/a", b"at home")
        server.put("a", b"at the root")
        assert server.url("a") == f"ftp://me%40here:p%3Aw@127.0.0.1:{server.port}/a"
        with client(server, "me@here", "p:w") as ftp:
            assert ftp.pwd() == "/sub/home"
            assert fetch(ftp, "a") == b"at home"
            ftp.voidresp()
            assert fetch(ftp, "/a") == b"at the root"
            ftp.voidresp()
        for user, password in (("me@here", "wrong"), ("anonymous", "x")):
            with pytest.raises(ftplib.error_perm, match="530"), client(server, user, password):
                pass
        assert not [said for said in server.commands if "p:w" in said]


def test_stops_and_starts_at_the_same_port(server: FTPFiles) -> None:
    with client(server) as ftp:
        server.stop()
        server.stop()
        with pytest.raises((EOFError, OSError)):
            ftp.voidcmd("NOOP")
    with pytest.raises(ConnectionRefusedError), client(server):
        pass
    server.start()
    with client(server) as ftp:
        ftp.voidcmd("TYPE I")
        assert ftp.size("a.bin") == len(CONTENT)


def test_commands_that_it_does_not_know(tmp_path: Path) -> None:
    with FTPFiles(tmp_path, without=("REST", "SIZE", "MDTM")) as server:
        server.put("a", b"content")
        with client(server) as ftp:
            ftp.voidcmd("TYPE I")
            for command in ("REST 1", "SIZE a", "MDTM a"):
                with pytest.raises(ftplib.error_perm, match="500|502"):
                    ftp.voidcmd(command)
            assert fetch(ftp, "a") == b"content"
            ftp.voidresp()


@pytest.mark.parametrize("after", [0, 1, 2_000_000])
def test_cut(server: FTPFiles, after: int) -> None:
    server.fail("a.bin", kit.Cut(after), kit.Cut(after, control=True))
    with client(server) as ftp:
        assert fetch(ftp) == CONTENT[:after]
        with pytest.raises(ftplib.error_temp, match="426"):
            ftp.voidresp()
        assert fetch(ftp) == CONTENT[:after]
        with pytest.raises(EOFError):
            ftp.voidresp()
    with client(server) as ftp:
        assert fetch(ftp) == CONTENT
        ftp.voidresp()


def test_a_transfer_that_is_short_and_said_to_be_complete(server: FTPFiles) -> None:
    server.fail("a.bin", kit.Short(10))
    with client(server) as ftp:
        assert fetch(ftp) == CONTENT[:10]
        assert ftp.voidresp().startswith("226")


def test_a_restart_that_is_forgotten(server: FTPFiles) -> None:
    server.fail("a.bin", kit.FromStart())
    with client(server) as ftp:
        assert fetch(ftp, rest=2_000_000) == CONTENT
        ftp.voidresp()
        assert fetch(ftp, rest=2_000_000) == CONTENT[2_000_000:]
        ftp.voidresp()


def test_stall(server: FTPFiles) -> None:
    server.fail("a.bin", kit.Stall(100_000))
    with client(server) as ftp:
        ftp.voidcmd("TYPE I")
        with ftp.transfercmd("RETR a.bin") as data:
            data.settimeout(0.3)
            got = 0
            with pytest.raises(TimeoutError):
                while piece := data.recv(1 << 16):
                    got += len(piece)
            assert got == 100_000
    with client(server) as ftp:
        assert fetch(ftp) == CONTENT
        ftp.voidresp()


def test_refusals(server: FTPFiles) -> None:
    server.fail("a.bin", kit.Reply("450 Busy"))
    server.fail("none", kit.Reply("550 Gone for ever"), always=True)
    with client(server) as ftp:
        with pytest.raises(ftplib.error_temp, match="450 Busy"):
            ftp.voidcmd("RETR a.bin")
        for _ in range(2):
            with pytest.raises(ftplib.error_perm, match="550 Gone"):
                ftp.voidcmd("RETR none")
    server.refuse("421 Too many connections", times=2)
    for _ in range(2):
        with pytest.raises(ftplib.error_temp, match="421 Too many connections"), client(server):
            pass
    with client(server) as ftp:
        assert ftp.pwd() == "/"


def test_what_is_not_true_or_changes(server: FTPFiles) -> None:
    server.sizes["a.bin"] = 7
    server.fail("a.bin", kit.Changed(b"another content"))
    with client(server) as ftp:
        ftp.voidcmd("TYPE I")
        assert ftp.size("a.bin") == 7
        modified = ftp.sendcmd("MDTM a.bin")
        assert fetch(ftp, rest=8) == b"content"
        ftp.voidresp()
        assert ftp.sendcmd("MDTM a.bin") > modified


def test_from_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    command = [sys.executable, "-m", "flowcore.testing.ftp_server", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with ftplib.FTP() as ftp:
            ftp.connect("127.0.0.1", int(process.stdout.readline().rpartition(":")[2].strip("/\n")), timeout=20)
            ftp.login()
            assert fetch(ftp, "a") == b"content"
            ftp.voidresp()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyftpdlib.authorizers", None)
    with pytest.raises(RuntimeError, match=r"needs pyftpdlib.authorizers: pip install pyftpdlib"):
        FTPFiles(tmp_path).start()
