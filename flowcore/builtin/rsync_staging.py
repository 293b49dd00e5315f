"""The stager of files that the program ``rsync`` copies: over ssh, or from and to rsync daemons.

Rule of this module: a file's name is data. It is never read as an option, a pattern or a piece of a command line, on
either side: what rsync is to copy stands in a list that it reads (``--files-from``), not among its arguments. For in
those the other side expands ``*``, ``?`` and ``[``, also where it is to write: a copy to ``st*r`` would overwrite a
file ``star`` that is there.

And rsync never asks: it has no terminal, its input is that list, and passwords come by the environment.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import attrs

from flowcore.builtin import rsync_program
from flowcore.plugins.api import (
    ConfigurationError,
    File,
    InTaskStaging,
    StagingContext,
    TransferError,
    at_least,
    component,
    retried,
    shown_url,
)

#: How a version of rsync before 3.2.3, on either side, says that it makes no folders.
_NO_MKPATH = "--mkpath: unknown option"
#: Where rsync keeps what has come of a file, until it has come whole.
_PARTIAL = ".flowcore-partial"
_NO_FILE = "is a folder or a device; only files can be staged"
#: Characters by which rsync takes an argument for a pattern.
_PATTERN = re.compile(r"[*?\[\\]")


def _check_hostname(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    shown = f"RSyncStaging(hostname={shown_url(value)!r})"
    if value.startswith("-") or not re.fullmatch(r"[^\s\0]+", value):
        raise ConfigurationError(f"{shown}: expected user@host, host::module or rsync://host/module")
    host, daemon, module = _plain(value).partition("::")
    if value.startswith("rsync://"):
        try:
            path = _login(value)[1]
        except ValueError as error:
            raise ConfigurationError(f"{shown}: {error}") from None
        if not path.strip("/"):
            raise ConfigurationError(f"{shown}: no module after the host, expected rsync://host/module")
    elif daemon and not (host and module.strip("/")):
        raise ConfigurationError(f"{shown}: expected a host, :: and a module, as in host::module")
    elif not daemon and (":" in host or "/" in host):
        raise ConfigurationError(
            f"{shown}: expected user@host, host::module or rsync://host/module. A port of ssh goes into ssh_command, "
            "as in 'ssh -p 2222 -o BatchMode=yes'"
        )


def _plain(hostname: str) -> str:
    """Return it without the colons of an address in brackets."""
    return re.sub(r"\[[^\]]*\]", "address", hostname)


@component
class RSyncStaging(InTaskStaging):
    """Copies files with rsync, which runs where tasks run; on a cluster or in a cloud that sees no file of this side.

    Paths and ``file:`` URLs are those of the host that is named here: of the one where the program runs, usually. It
    must have rsync, and an ssh server that lets in, without a question, who comes from where tasks run; or an rsync
    daemon. URLs ``rsync://[user[:password]@]host[:port]/module/path`` are those of rsync daemons anywhere; characters
    that mean something in URLs are written in them as in others (``%3F`` for ``?``, ``%25`` for ``%``).

    A daemon whose rsyncd.conf says ``socket options = TCP_NODELAY`` takes 40 ms less for each file.

    What was brought of a file before the connection broke is not brought again. The other side has the whole new file
    or the one before it; the folders that it is in are made. A link to a file is followed; a folder is refused.

    ssh on the worker has to know the other host's key (``known_hosts``) and to have a key that is accepted there.
    ``worker_init`` of the provider is where to put both.

    Args:
        hostname: what to put before paths: ``user@host`` for ssh, ``host::module`` or
            ``rsync://[user[:password]@]host[:port]/module`` for a daemon, whose module then has these paths below its
            own. None: only files of the scheme ``rsync`` are copied.
        rsync_options: further options of rsync, such as ``["--compress", "--bwlimit=10m"]``.
        ssh_command: what to call for ssh, with its options, separated by spaces. It has no terminal to ask anything.
            With ``-o ControlMaster=auto -o ControlPath=~/.ssh/flowcore-%C -o ControlPersist=60``, one login is enough
            for all files that a host copies within a minute.
        timeout_s: seconds of silence after which a connection counts as broken; 1 or more.
        attempts: how often at most to try what may pass.

    Raises:
        ConfigurationError: an option cannot be.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"rsync"})

    hostname: str | None = attrs.field(
        default=None, validator=_check_hostname, repr=lambda value: repr(value and shown_url(value))
    )
    rsync_options: list[str] = attrs.field(factory=list)
    ssh_command: str = "ssh -o BatchMode=yes -o ConnectTimeout=30"
    timeout_s: float = attrs.field(default=60.0, validator=at_least(1))
    attempts: int = attrs.field(default=3, validator=at_least(1))

    def can_stage_in(self, file: File) -> bool:
        """Return whether the scheme is ``rsync``; with a ``hostname``, also ``file``."""
        return file.scheme == "rsync" or (self.hostname is not None and file.scheme == "file")

    def can_stage_out(self, file: File) -> bool:
        """Return whether the scheme is ``rsync``; with a ``hostname``, also ``file``."""
        return self.can_stage_in(file)

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> None:
        """Make a relative path absolute, and say where the file will be.

        Raises:
            TransferError: the URL names no file.
        """
        self._settle(file, "fetch")
        super().stage_in(context, file, parent)

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> None:
        """Make a relative path absolute, and say where the file has to be made.

        Raises:
            TransferError: the URL names no file.
        """
        self._settle(file, "push")
        super().stage_out(context, file, app_future)

    def _settle(self, file: File, action: str) -> None:
        if file.scheme == "file":
            # Of this side, not of where rsync will run.
            file.path = os.path.abspath(file.path) + "/" * file.path.endswith("/")  # noqa: PTH100 - not resolved
        self._place(file, action)

    def fetch(self, file: File, path: Path) -> None:
        """Bring a file.

        Raises:
            TransferError: rsync could not; says why, in rsync's words too.
        """
        place = self._place(file, "fetch")
        with _scratch(path, file, "fetch") as scratch:
            partial = scratch / _PARTIAL
            # A relative one: some versions around 3.2.7 and 3.4.0 find nothing in others, and then refuse what came.
            options = ["--no-relative", f"--partial-dir={_PARTIAL}"]

            def attempt() -> None:
                for left in _others(scratch, partial):  # by an rsync that was killed
                    left.unlink()
                try:
                    self._run("fetch", file, place, [*options, place.argument(), f"{scratch}/"], place.path)
                except TransferError as error:
                    if "failed verification" in error.reason:
                        shutil.rmtree(partial, ignore_errors=True)
                    raise
                found = _others(scratch, partial)
                if not found:
                    reason = "rsync brought nothing: it is a device, or rsync_options leave it out"
                    raise TransferError("fetch", file.url, reason, passing=False)
                if not found[0].is_file():
                    raise TransferError("fetch", file.url, f"it {_NO_FILE}", passing=False)
                found[0].replace(path)

            retried(attempt, self.attempts)

    def push(self, file: File, path: Path) -> None:
        """Take a file away, and make the folders that it is to be in.

        Raises:
            TransferError: rsync could not; says why, in rsync's words too.
        """
        place = self._place(file, "push")
        if not path.is_file():
            raise TransferError("push", file.url, f"{str(path)!r} {_NO_FILE}", passing=False)
        # The folder stands among the arguments as far as it cannot be taken for a pattern.
        parts = PurePosixPath(place.path).parent.parts
        plain = next((i for i, part in enumerate(parts) if _PATTERN.search(part)), len(parts))
        folder = "/".join(parts[:plain])
        makes_folders = True
        with _scratch(path, file, "push") as scratch:
            (scratch / place.path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / place.path).symlink_to(path.absolute())

            def attempt() -> None:
                # Size and time may be those of what is there, and the content another.
                options = ["--relative", "--no-implied-dirs", "--ignore-times"]
                if makes_folders:
                    here, there, name = scratch / folder, place.argument(folder), place.path[len(folder) :]
                    options.append("--mkpath")
                else:
                    here, there, name = scratch, place.argument(), place.path
                self._run("push", file, place, [*options, f"{here}/", there], name.lstrip("/"))

            try:
                retried(attempt, self.attempts)
            except TransferError as error:
                if _NO_MKPATH not in error.reason:
                    raise
                # Older versions make the folders that the list names, but refuse more links among them.
                makes_folders = False
                retried(attempt, self.attempts)

    def _place(self, file: File, action: str) -> _Place:
        try:
            if file.scheme == "rsync":
                place = _Place.of_url(file.url)
            else:
                assert self.hostname is not None
                path = file.path if file.path.startswith("/") else os.path.abspath(file.path)  # noqa: PTH100
                place = _Place.of_prefix(self.hostname, path)
        except ValueError as error:
            raise TransferError(action, file.url, str(error), passing=False) from None
        return place

    def _run(self, action: str, file: File, place: _Place, arguments: list[str], name: str) -> None:
        """Run rsync once.

        Args:
            action: ``fetch`` or ``push``.
            file: for what is said.
            place: at the other side.
            arguments: the further options, source and target.
            name: of the file, from the source's folder on.

        Raises:
            TransferError: it did not end well.
        """
        silence_s = math.ceil(self.timeout_s)
        if place.daemon:
            # Without the second, small messages wait 40 ms for the answer to the one before.
            connection = [f"--contimeout={silence_s}", "--sockopts=TCP_NODELAY"]
        else:
            connection = [f"--rsh={self.ssh_command}"]
        command = [
            *("rsync", "--files-from=-", "--from0", "--protect-args", "--copy-links", "--8-bit-output", "--quiet"),
            f"--timeout={silence_s}",
            *connection,
            *self.rsync_options,
            *arguments,
        ]
        environment = {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
        # With none, it would ask for it where it finds a terminal.
        environment["RSYNC_PASSWORD"] = place.password or os.environ.get("RSYNC_PASSWORD", "")
        try:
            # Not to begin with "#" or ";": that is a comment.
            code, said = rsync_program.run(command, os.fsencode(f"./{name}") + b"\0", environment)
        except FileNotFoundError:
            raise TransferError(
                action,
                file.url,
                f"there is no program rsync on {socket.gethostname()}, where the task runs (PATH: "
                f"{os.environ.get('PATH', '')}). Install it there, as by `apt-get install rsync`, or have worker_init "
                "put its folder on the PATH",
                passing=False,
            ) from None
        except OSError as error:
            reason = f"rsync cannot be run on {socket.gethostname()}: {error.strerror}"
            raise TransferError(action, file.url, reason) from error
        if code == 0:
            return
        if place.password and len(place.password) > 3:  # shorter ones are in every word
            said = said.replace(place.password, "...")
        raise rsync_program.failure(action, file.url, place.prefix.rstrip(":"), code, said)


@attrs.frozen
class _Place:
    """A file at the other side.

    Attributes:
        prefix: what stands before the path among rsync's arguments: ``user@host:`` or ``rsync://host/module``.
        path: the path without a ``/`` at its beginning.
        daemon: whether it is a daemon's.
        password: for the daemon.
    """

    prefix: str
    path: str
    daemon: bool
    password: str | None = attrs.field(default=None, repr=False)

    def argument(self, folder: str = "") -> str:
        """Return a folder as an argument of rsync."""
        return f"{self.prefix}/{folder}/" if folder else f"{self.prefix}/"

    @classmethod
    def of_prefix(cls, hostname: str, path: str) -> _Place:
        """Return the place of an absolute path below what an option names.

        Raises:
            ValueError: it names no file.
        """
        path = _checked(path)
        if hostname.startswith("rsync://"):
            head, module, password = _login(hostname)
            return cls(head + module.rstrip("/"), path, True, password)
        if "::" in _plain(hostname):
            return cls(hostname.rstrip("/"), path, True)
        return cls(f"{hostname}:", path, False)

    @classmethod
    def of_url(cls, url: str) -> _Place:
        """Return the place of an ``rsync:`` URL.

        Raises:
            ValueError: it names no file.
        """
        head, path, password = _login(url)
        module, _, path = path.lstrip("/").partition("/")
        return cls(f"{head}/{module}", _checked(path), True, password)


def _checked(path: str) -> str:
    """Return a path without a ``/`` at its beginning.

    Raises:
        ValueError: it is not that of a file.
    """
    if "\0" in path or ".." in path.split("/"):
        raise ValueError("the path has neither a part '..' nor the character NUL")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.endswith("/"):
        raise ValueError("it names a folder, or nothing; only files can be staged")
    return "/".join(parts)


def _login(url: str) -> tuple[str, str, str | None]:
    """Return of an ``rsync:`` URL: what comes before the path, without the password; the path; the password.

    Raises:
        ValueError: it is no such URL.
    """
    expected = "expected rsync://[user@]host[:port]/module/path"
    if "?" in url or "#" in url:
        raise ValueError("in an rsync: URL, ? is written as %3F, and # as %23")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{error}; {expected}") from None
    if not host or host.startswith("-"):
        raise ValueError(f"it names no host; {expected}")
    server = f"[{host}]" if ":" in host else host
    if parts.username:
        server = f"{unquote(parts.username)}@{server}"
    if port is not None:
        server = f"{server}:{port}"
    password = unquote(parts.password) if parts.password is not None else None
    return f"rsync://{server}", unquote(parts.path, errors="surrogateescape"), password


def _others(folder: Path, one: Path) -> list[Path]:
    """Return what is in a folder besides one."""
    return [path for path in folder.iterdir() if path != one]


@contextlib.contextmanager
def _scratch(path: Path, file: File, action: str) -> Iterator[Path]:
    """Make a folder beside a path, on the same file system, and remove it.

    Raises:
        TransferError: it cannot be made, or what was done in it could not be.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".rsync-", dir=path.parent.absolute()))
        yield folder
    except OSError as error:
        named = f": {error.filename}" if error.filename is not None else ""
        reason = f"{error.strerror or error}, on {socket.gethostname()}{named}"
        raise TransferError(action, file.url, reason, passing=False) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
