"""Files of the other host, over SFTP.

Rule of this module: nobody sees half a file. It is written under a name of its own, with the rights that it shall have,
and renamed when it is whole; what fails leaves nothing. Paths may begin with ``~``, the user's home; relative ones
begin there too, as commands do.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import paramiko

from flowcore.plugins.api import BadPermsScriptPath, BadScriptPath, FileCopyException, FileExists
from flowcore_channel_ssh.link import Link

T = TypeVar("T")
#: Rights of files that are pushed: scripts are run, and may hold what is nobody else's.
_MODE = 0o700
_PIECE = 32768


class Files:
    """The files of a link's host.

    Its methods raise what paramiko raises when the connection is lost, and ``OSError`` with the path for what the host
    refuses, besides what they say.

    Args:
        link: the connection.
        token: is in the names of files that are not whole: those of a connection that was lost are found again.
    """

    def __init__(self, link: Link, token: str) -> None:
        self._token = token
        self._target = link.target
        self._sftp = link.sftp()

    def push(self, source: str, dest_dir: str) -> str:
        """Copy a file of this host into a folder, which is made if need be; return its path there.

        Raises:
            FileCopyException, BadScriptPath, BadPermsScriptPath: as in the contract.
        """
        host = self._target.host
        try:
            folder = self.absolute(dest_dir)
            self._make_folder(folder)
        except PermissionError as error:
            raise self._no_rights(error) from error
        except OSError as error:
            raise self._unless_lost(error, BadScriptPath(error, host)) from error
        try:
            with Path(source).open("rb") as file:
                return self._write(file, posixpath.join(folder, Path(source).name))
        except PermissionError as error:
            raise self._no_rights(error) from error
        except OSError as error:
            raise self._unless_lost(error, FileCopyException(error, host)) from error

    def pull(self, remote_source: str, local_dir: str) -> str:
        """Copy a file into a folder of this host, which is made if need be; return its path here.

        Raises:
            FileExists, FileCopyException: as in the contract.
        """
        host = self._target.host
        destination = Path(local_dir) / posixpath.basename(remote_source)
        if destination.exists():
            raise FileExists(None, host, str(destination))
        part = destination.with_name(f".{destination.name}.{self._token}.part")
        try:
            Path(local_dir).mkdir(parents=True, exist_ok=True)
            source = self.absolute(remote_source)
            with part.open("xb") as file:
                part.chmod(_MODE)
                self._told("read it", source, lambda: self._sftp.getfo(_bytes(source), file))
            part.rename(destination)
        except OSError as error:
            raise self._unless_lost(error, FileCopyException(error, host)) from error
        finally:
            part.unlink(missing_ok=True)
        return str(destination)

    def missing(self, path: str, exist_ok: bool) -> list[str]:
        """Return the folders that have to be made for a folder to be there, the first first."""
        path = self.absolute(path)
        if self.is_folder(path):
            if not exist_ok:
                raise FileExistsError(errno.EEXIST, f"exists on {self._target.label}", path)
            return []
        folders = [path]
        while (parent := posixpath.dirname(folders[-1])) not in ("", "/") and not self.is_folder(parent):
            folders.append(parent)
        return folders[::-1]

    def make(self, folders: list[str], mode: int) -> None:
        """Make folders, each in the one before; the last gets the mode."""
        for folder in folders:
            wanted = mode if folder == folders[-1] else 0o777
            self._told("make this folder", folder, partial(self._sftp.mkdir, _bytes(folder), wanted))

    def is_folder(self, path: str) -> bool:
        """Return whether there is such a folder."""
        try:
            found = self._told("look at it", path, lambda: self._sftp.stat(_bytes(self.absolute(path))))
        except FileNotFoundError:
            return False
        return found.st_mode is not None and stat.S_ISDIR(found.st_mode)

    def absolute(self, path: str) -> str:
        """Return a path that begins with ``/``."""
        first, _, rest = path.partition("/")
        if first == "~":
            path = rest
        elif first.startswith("~"):
            raise FileNotFoundError(
                errno.ENOENT, f"of another user's home on {self._target.label}: write the whole path instead", path
            )
        if path.startswith("/"):
            return path
        home = self._told("tell its home", "~", lambda: self._sftp.normalize("."))
        return posixpath.normpath(posixpath.join(home, path))

    # --- parts

    def _make_folder(self, folder: str) -> None:
        try:
            self.make(self.missing(folder, exist_ok=True), _MODE)
        except OSError:
            if self._lost() or not self.is_folder(folder):  # somebody else may just have made it
                raise

    def _write(self, source: Any, path: str) -> str:
        folder, name = posixpath.split(path)
        part = posixpath.join(folder, f".{name}.{self._token}.part")
        self._remove(part)
        written = self._told("make files there", folder, lambda: self._sftp.open(_bytes(part), "wx"))
        try:
            with written:
                written.chmod(_MODE)
                written.set_pipelined(True)
                shutil.copyfileobj(source, written, _PIECE)
            size = self._told("look at it", part, lambda: self._sftp.stat(_bytes(part))).st_size
            if size != source.tell():
                raise OSError(errno.EIO, f"{size} of {source.tell()} bytes arrived on {self._target.label}", path)
            self._told("make it", path, lambda: self._sftp.posix_rename(_bytes(part), _bytes(path)))
        except BaseException:
            self._remove(part)
            raise
        return path

    def _remove(self, part: str) -> None:
        try:
            self._sftp.remove(_bytes(part))
        except (paramiko.SSHException, EOFError, OSError):  # it is known why; nobody takes such a name for a script
            pass

    def _told(self, doing: str, path: str, do: Callable[[], T]) -> T:
        """Do something; let an error of the host's say what, who and where."""
        try:
            return do()
        except OSError as error:
            if self._lost() or isinstance(error, TimeoutError):
                raise EOFError(str(error)) from error
            text = f"{self._target.label} cannot {doing}: {error.strerror or error}"
            raise OSError(error.errno or errno.EIO, text, path) from error

    def _unless_lost(self, error: OSError, told: Exception) -> Exception:
        """Return the exception for an error that is not that of a lost connection."""
        if self._lost() or isinstance(error, TimeoutError):
            return EOFError(str(error))
        return told

    def _no_rights(self, error: PermissionError) -> BadPermsScriptPath:
        text = f"{error.strerror}. Set the channel's script_dir to a folder of yours, as ~/flowcore"
        return BadPermsScriptPath(PermissionError(error.errno, text, error.filename), self._target.host)

    def _lost(self) -> bool:
        channel = self._sftp.get_channel()
        return bool(channel.closed) or not channel.get_transport().is_active()


def _bytes(path: str) -> bytes:
    # Names of files are bytes, of no encoding.
    return os.fsencode(path)
