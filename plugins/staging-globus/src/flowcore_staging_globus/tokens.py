"""The file with the tokens of logins, which programs of one user share.

Rules of this module: nobody but its user reads the file, and one that others can read is refused; it is replaced as a
whole or not at all; whoever changes it holds its lock, so that two programs do not renew a login at the same time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowcore.plugins.api import StagingError

#: Environment variable that names the file.
VARIABLE = "FLOWCORE_GLOBUS_TOKENS"
#: Seconds before the end of an access token at which it is renewed.
EARLY_S = 60
#: Seconds to wait for another program that is renewing the login.
LOCK_S = 60.0
_VERSION = 1


def path() -> Path:
    """Return where the file is: where :data:`VARIABLE` says, or in the folder of the user's configuration."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "flowcore" / "globus-tokens.json"


@attrs.frozen
class Tokens:
    """The login of one client.

    Attributes:
        access_token: shown with each question.
        refresh_token: gets new access tokens.
        expires_at_s: end of the access token, seconds since the epoch.
        consents: UUIDs of the collections whose files it may reach.
    """

    access_token: str = attrs.field(repr=False)
    refresh_token: str = attrs.field(repr=False)
    expires_at_s: float
    consents: tuple[str, ...] = ()

    def valid(self) -> bool:
        """Return whether the access token has time left."""
        return time.time() < self.expires_at_s - EARLY_S


class TokenFile:
    """The file.

    Args:
        path: its path; None for the usual one.
    """

    def __init__(self, path_: Path | None = None) -> None:
        self.path = path() if path_ is None else path_

    def read(self) -> dict[str, Tokens]:
        """Return the stored logins by client id; empty where there is no file.

        Raises:
            StagingError: the file cannot be read, or others can.
        """
        try:
            # A pipe of that name would keep it waiting.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StagingError(f"cannot read the Globus tokens in {self.path}: {error.strerror}") from error
        try:
            self._check(os.fstat(fd))
        except StagingError:
            os.close(fd)
            raise
        with os.fdopen(fd, encoding="utf-8") as file:
            try:
                return _parsed(json.load(file))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StagingError(
                    f"{self.path} holds no Globus tokens that this version understands ({type(error).__name__}: "
                    f"{error}). Remove it, and run: flowcore globus-auth"
                ) from None

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise StagingError(f"{self.path} is no file; set {VARIABLE} to where the Globus tokens are to be")
        if found.st_uid != os.geteuid():
            raise StagingError(
                f"{self.path} belongs to the user with the number {found.st_uid}, and its Globus tokens are not used; "
                f"set {VARIABLE} to a file of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise StagingError(
                f"others than you may read or change {self.path} (mode {stat.S_IMODE(found.st_mode):04o}), and its "
                f"Globus tokens are not used. If nobody has read them, run: chmod 600 {self.path}; otherwise, after "
                "that, make them void: flowcore globus-auth --logout"
            )

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Tokens]]:
        """Give the stored logins to be changed, and write them afterwards. Others wait meanwhile.

        Raises:
            StagingError: the file cannot be read or written, or another program holds it for too long.
        """
        with self._said("write"):
            if not self.path.parent.is_dir():
                self.path.parent.mkdir(mode=0o700, parents=True)
            fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd)
            stored = self.read()
            before = dict(stored)
            yield stored
            if stored != before:
                with self._said("write"):
                    self._write(stored)
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StagingError(
                        f"another program has held {self.path}.lock for {LOCK_S:.0f} s; end it, or try again"
                    ) from None
                time.sleep(0.02)
            except OSError as error:
                raise StagingError(
                    f"cannot lock {self.path}.lock: {error.strerror}. Set {VARIABLE} to a file on a file system that "
                    "has locks"
                ) from error
            else:
                return

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StagingError(
                f"cannot {what} the Globus tokens in {self.path}: {error.strerror} ({error.filename}). Set {VARIABLE} "
                "to a file that you may write, in a folder of your own"
            ) from error

    def _write(self, stored: Mapping[str, Tokens]) -> None:
        document = {"version": _VERSION, "clients": {client: attrs.asdict(tokens) for client, tokens in stored.items()}}
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)


def _parsed(document: Any) -> dict[str, Tokens]:
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r}")
    return {
        str(client): Tokens(
            str(tokens["access_token"]),
            str(tokens["refresh_token"]),
            float(tokens["expires_at_s"]),
            tuple(str(uuid) for uuid in tokens["consents"]),
        )
        for client, tokens in document["clients"].items()
    }
