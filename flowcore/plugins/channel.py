"""The contract of channels: where a provider's commands run, this host or another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar


class Channel(ABC):
    """Runs commands and moves files on the host of a scheduler.

    Called by providers from the scaling thread; an implementation need not be safe for several threads.
    """

    kind: ClassVar[str] = "channel"
    #: Whether commands run on this host and paths mean the same files as here: then nothing needs to be copied.
    on_this_host: ClassVar[bool] = False
    #: Folder on the other host for scripts; None until the user or a provider sets it.
    script_dir: str | None = None

    @abstractmethod
    def execute_wait(
        self, cmd: str, walltime: float | None = None, envs: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run a shell command in a process group of its own and wait for it.

        What it leaves running in the background is not waited for, and goes on; if that holds the command's streams
        open, what it writes to them within a moment is returned, too.

        Args:
            cmd: bash command line.
            walltime: seconds after which the command and all its children are killed; None waits for ever.
            envs: environment variables to add.

        Returns:
            Exit code, standard output, standard error. A command that was killed at its walltime has the exit
            code -1 and a message about it at the end of its standard error.
        """

    @abstractmethod
    def push_file(self, source: str, dest_dir: str) -> str:
        """Copy a file of this host into a folder of the other; return its path there.

        Raises:
            FileCopyException: it could not be copied.
            BadPermsScriptPath: the folder cannot be written.
        """

    @abstractmethod
    def pull_file(self, remote_source: str, local_dir: str) -> str:
        """Copy a file of the other host into a folder of this one; return its path here.

        Raises:
            FileExists: the destination exists.
            FileCopyException: it could not be copied.
        """

    @abstractmethod
    def makedirs(self, path: str, mode: int = 0o700, exist_ok: bool = False) -> None:
        """Make a folder and its parents.

        Raises:
            OSError: it exists and ``exist_ok`` is False, or it cannot be made.
        """

    @abstractmethod
    def isdir(self, path: str) -> bool:
        """Return whether the path is an existing folder."""

    @abstractmethod
    def abspath(self, path: str) -> str:
        """Return the absolute path."""

    @abstractmethod
    def close(self) -> bool:
        """Close the connection; return whether there was one to close. Idempotent."""

    @staticmethod
    def killed_message(cmd: str, walltime: float) -> str:
        """Return what :meth:`execute_wait` adds to the standard error of a command that was killed."""
        return f"\nflowcore: the command was killed after {walltime:g} s: {cmd}\n"
