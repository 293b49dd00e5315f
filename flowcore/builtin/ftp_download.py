"""Downloads one file from an FTP server, whole or not at all. Imported where it is needed only.

Rule of this module: a file is there when as many bytes were written as ``SIZE`` told, or, of a server that does not
tell, when that has said that all was sent. What a broken connection left is gone on with only if the server tells when
the file was changed (``MDTM``), and that and the size are as before.

Each file has a connection of its own, which is closed afterwards: many servers let in a few at a time, and workers that
kept theirs while they compute would keep the others out.
"""

from __future__ import annotations

import contextlib
import ftplib
import netrc
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from flowcore.builtin.file_cache import Validators
from flowcore.builtin.incoming import Incoming
from flowcore.plugins.api import TransferError, fresh, retried

#: Bytes that are read and written at a time.
CHUNK_BYTES = 1 << 20
#: What is sent and received is bytes, each of which is a character of this one. Servers differ in how they write names.
_BYTES = "latin-1"


def download(url: str, path: Path, known: Validators | None, timeout_s: float, attempts: int) -> Validators | None:
    """Make the file of a URL at ``path``, unless it is still what is known.

    Args:
        url: of the scheme ftp.
        path: where to make it; it is replaced when the whole file has come.
        known: what an earlier download of it has returned; None: to be fetched in any case.
        timeout_s: seconds of silence after which the server is given up.
        attempts: how often to try at most.

    Returns:
        What the server said of the file, ``SIZE`` and ``MDTM``; None if what is known still holds.

    Raises:
        TransferError: it cannot be had.
    """
    try:
        with fresh(path) as new:
            return retried(_Download(url, new, known, timeout_s).attempt, attempts)
    except _NotModified:
        return None


class _NotModified(Exception):
    """What is known of the file still holds."""


@attrs.frozen
class Address:
    """Where a file is, and as whom to ask for it. Texts are bytes, see :data:`_BYTES`.

    Attributes:
        host: name or address of the server.
        port: its port.
        user: who logs in.
        password: the password.
        path: as the server is told it: from the folder that the login leads to, or from ``/``.
    """

    host: str
    port: int
    user: str
    password: str = attrs.field(repr=False)
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL, and ``~/.netrc`` if it names no user.

        Raises:
            ValueError: it names no file that could be asked for; says why.
        """
        # To the server, that would be the end of the command and the begin of another one.
        if re.search(r"[\r\n\0]|%(0[adAD0])", url):
            raise ValueError("the URL has an end of line or a zero byte in a name, which FTP cannot say")
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("the URL names no host: expected ftp://host/path")
        # A '?' is a character like others here.
        quoted = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
        quoted, _, kind = quoted.partition(";type=")
        if kind not in ("", "i", "I"):
            raise ValueError(f";type={kind}: files are fetched as they are, which is ;type=i")
        path = _decoded(quoted)
        if not path or path.endswith("/"):
            raise ValueError("the URL names a folder, not a file")
        if parts.username is not None:
            user, password = _decoded(parts.username), _decoded(parts.password or "")
        else:
            user, password = _netrc(parts.hostname) or ("anonymous", "anonymous@")
        return cls(parts.hostname, parts.port or ftplib.FTP_PORT, user, password, path)


class _Download:
    """One file on its way: what has come of it is kept between attempts."""

    def __init__(self, url: str, path: Path, known: Validators | None, timeout_s: float) -> None:
        self._path = path
        self._file = Incoming(url, path)
        self._known = known
        self._timeout_s = timeout_s
        try:
            self._address = Address.of(url)
        except ValueError as error:
            raise self._file.failed(str(error), passing=False) from None
        #: Of the file of which a part has come.
        self._validators: Validators = {}
        #: Whether the server does what it says about REST.
        self._restarts = True

    def attempt(self) -> Validators:
        with self._connected() as ftp:
            validators = _said_of(ftp, self._address.path)
            if "MDTM" in validators and validators == self._known:
                raise _NotModified
            have = self._path.stat().st_size if self._path.exists() else 0
            if not self._restarts or "MDTM" not in validators or validators != self._validators:
                have = 0
            self._validators = validators
            self._take(ftp, have, int(validators["SIZE"]) if "SIZE" in validators else None)
            return validators

    @contextlib.contextmanager
    def _connected(self) -> Iterator[ftplib.FTP]:
        """Log in. A broken connection and what the server refuses, then or later, become errors of ours."""
        address = self._address
        ftp = ftplib.FTP(timeout=self._timeout_s, encoding=_BYTES)  # noqa: S321 - the user's URL says so
        try:
            try:
                ftp.connect(address.host, address.port)
            except (OSError, EOFError, ftplib.Error) as error:
                raise self._unreachable(error) from error
            try:
                ftp.login(address.user, address.password)
            except ftplib.error_perm as error:
                raise self._login_refused(error) from error
            ftp.voidcmd("TYPE I")
            yield ftp
            # What the server says to that is of no interest.
            with contextlib.suppress(OSError):
                ftp.putcmd("QUIT")
        except ftplib.Error as error:
            raise self._refused(error) from error
        except EOFError as error:
            raise self._file.failed("the server closed the connection") from error
        except OSError as error:
            raise self._file.failed(self._broken(error)) from error
        finally:
            ftp.close()

    def _take(self, ftp: ftplib.FTP, have: int, size: int | None) -> None:
        """Write what the server sends behind the first ``have`` bytes."""
        data, have = self._transfer(ftp, have)
        with data, self._file.open(have):
            self._copy(data, size)
        try:
            ftp.voidresp()
        except (OSError, EOFError) as error:
            # The last word may be lost, of a connection that was idle while the file came.
            if self._file.size != size:
                raise self._file.cut(size) from error
        except ftplib.error_temp as error:
            raise self._file.cut(size, f"cut off ({_words(error)})") from error
        if have and self._file.size != size:
            self._restarts = False  # it was told to begin later, and may have begun anywhere
        self._file.check(size)

    def _transfer(self, ftp: ftplib.FTP, have: int) -> tuple[socket.socket, int]:
        """Begin the transfer; return where it comes from, and at which byte it begins."""
        command = f"RETR {self._address.path}"
        if have:
            try:
                return ftp.transfercmd(command, have), have
            except ftplib.Error:
                # Of REST, or of RETR: that will say so again.
                self._restarts = False
        return ftp.transfercmd(command), 0

    def _copy(self, data: socket.socket, size: int | None) -> None:
        """Write all that comes."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while True:
            try:
                count = data.recv_into(buffer)
            except TimeoutError as error:
                raise self._file.cut(size, self._broken(error)) from error
            except OSError as error:
                raise self._file.cut(size) from error
            if not count:
                return
            self._file.write(buffer[:count])

    # --- what went wrong

    def _unreachable(self, error: BaseException) -> TransferError:
        if isinstance(error, ftplib.Error):
            return self._refused(error)
        if isinstance(error, socket.gaierror):
            # No such name, or nobody there to ask.
            again = error.errno == socket.EAI_AGAIN
            return self._file.failed(f"no address of the host {self._address.host!r}: {error.strerror}", passing=again)
        reason = self._broken(error) if isinstance(error, OSError) else "it closed the connection"
        return self._file.failed(f"no connection to the server at port {self._address.port}: {reason}")

    def _login_refused(self, error: ftplib.Error) -> TransferError:
        words = _words(error)
        # Some say with the code of a wrong password that they have no room.
        full = re.search(r"too many|maximum", words, re.IGNORECASE) is not None
        advice = "" if full else "; a user and a password may stand in the URL, or in ~/.netrc where the task runs"
        user = self._address.user.encode(_BYTES).decode(errors="replace")
        return self._file.failed(f"the server does not let in the user {user!r}: {words}{advice}", passing=full)

    def _refused(self, error: ftplib.Error) -> TransferError:
        words = _words(error)
        if words.startswith("550"):
            return self._file.failed(
                f"the server has no such file for this user: {words}; check the URL", passing=False
            )
        if isinstance(error, ftplib.error_proto):
            return self._file.failed(
                f"what answers at port {self._address.port} is no FTP server: {words}", passing=False
            )
        return self._file.failed(f"the server refuses: {words}", passing=not isinstance(error, ftplib.error_perm))

    def _broken(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"the server was silent for {self._timeout_s:g} s"
        return error.strerror or str(error)


def _said_of(ftp: ftplib.FTP, path: str) -> Mapping[str, str]:
    """Return what the server tells of a file. It needs not know these commands, and does not tell why it says no."""
    said = {}
    for command in ("SIZE", "MDTM"):
        with contextlib.suppress(ftplib.error_perm):
            code, _, value = ftp.sendcmd(f"{command} {path}").partition(" ")
            if code == "213" and (command == "MDTM" or value.strip().isdecimal()):
                said[command] = value.strip()
    return said


def _decoded(quoted: str) -> str:
    return unquote_to_bytes(quoted).decode(_BYTES)


def _sent(text: str) -> str:
    return text.encode().decode(_BYTES)


def _netrc(host: str) -> tuple[str, str] | None:
    """Return user and password for a host from the user's file; None if that has none."""
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError) as error:
        raise ValueError(f"~/.netrc on {os.uname().nodename} cannot be used: {error}") from None
    return (_sent(found[0]), _sent(found[2] or "")) if found is not None else None


def _words(error: ftplib.Error) -> str:
    """Return what a server said, on one line."""
    text = str(error).encode(_BYTES, "replace").decode(errors="replace")
    return " ".join(text.split())
