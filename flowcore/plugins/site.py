"""The host at the other end of a channel, as a provider uses it: commands, and the files of blocks.

Rule of this module: one :class:`Site` serves one executor of one run. Where the other end sees this host's files, none
is copied; a command that the channel could not run, or that took too long, is told by its exit code, -1.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path, PurePosixPath

from flowcore.errors import ChannelError, ScriptPathError
from flowcore.plugins.channel import Channel
from flowcore.plugins.provider import ProviderContext
from flowcore.plugins.scheduler import Completed
from flowcore.plugins.script import Mark, give_up_command, mark_command

logger = logging.getLogger(__name__)


class Site:
    """The host at the other end of a channel.

    Args:
        channel: leads there.
        context: of the provider.
        timeout_s: seconds for one command.
        move_files: False: the other end sees the run directory of this host.

    Attributes:
        folder: for scripts, on that host; it may be relative, or begin with ``~``, before :meth:`prepare`.
    """

    def __init__(self, channel: Channel, context: ProviderContext, timeout_s: float, move_files: bool = True) -> None:
        self.channel = channel
        self._context = context
        self._timeout_s = timeout_s
        #: Whether this host does not see the files of that one.
        self._elsewhere = move_files and not channel.on_this_host
        self.folder = str(context.script_dir)
        if channel.script_dir is not None and move_files:
            # The user's folder serves all runs, and all executors of them.
            run = filter(None, ("flowcore", context.run_id[:8], context.executor_label))
            self.folder = str(PurePosixPath(channel.script_dir) / "-".join(run))
        self._placed: dict[Path, str] = {}
        #: Scripts that may have been taken, and could not be given up yet: their bases.
        self._doubtful: set[str] = set()

    @property
    def name(self) -> str:
        """The host, for humans."""
        return "this host" if self.channel.on_this_host else str(getattr(self.channel, "hostname", "the other host"))

    def prepare(self) -> None:
        """Connect, and make the folder.

        Raises:
            ScriptPathError: it cannot be made.
            ChannelError: there is no connection.
        """
        try:
            self.channel.makedirs(self.folder, exist_ok=True)
            self.folder = self.channel.abspath(self.folder)
        except OSError as error:
            raise ScriptPathError(f"{self.folder} on {self.name}", error.strerror or str(error)) from error

    def execute(self, command: str, timeout_s: float | None = None, starts_job: bool = False) -> tuple[int, str, str]:
        """Run a command, after hooks have had their say.

        Args:
            command: bash command line.
            timeout_s: seconds for it; None for the site's.
            starts_job: a job may get the command's environment: it is the user's. That of others is English.

        Returns:
            Exit code (-1: it took too long), standard output, standard error.

        Raises:
            ChannelError: the connection failed.
        """
        command = self._context.final_command(type(self.channel).__name__, command)
        envs = {} if starts_job else {"LC_ALL": "C"}
        return self.channel.execute_wait(command, timeout_s or self._timeout_s, envs)

    def run(self, command: str, timeout_s: float | None = None, starts_job: bool = False) -> Completed:
        """Run a command, as :meth:`execute`; a connection that failed is an exit code of -1, too."""
        try:
            return Completed(command, *self.execute(command, timeout_s, starts_job))
        except (ChannelError, OSError) as error:
            return Completed(command, -1, "", str(error))

    def lacks(self, *programs: str) -> list[str]:
        """Return those of some programs that are not found there."""
        missing = "; ".join(f"command -v {program} >/dev/null || echo {program}" for program in programs)
        said = self.run(f"{missing}; true")
        return said.stdout.split() if said.exit_code == 0 else list(programs)

    # --- files

    def write(self, stem: str, script: str) -> str:
        """Write a script, and copy it there if need be.

        Returns:
            The base of its files there: their path without endings.

        Raises:
            ScriptPathError: it cannot be written.
            ChannelError: it cannot be copied.
        """
        path = self._context.script_dir / f"{stem}.sh"
        try:
            path.write_text(script, encoding="utf-8")
        except OSError as error:
            raise ScriptPathError(str(path), error.strerror or str(error)) from error
        if self._elsewhere or self.folder != str(self._context.script_dir):
            self.channel.push_file(str(path), self.folder)
        return f"{self.folder}/{stem}"

    def place(self, path: Path) -> str:
        """Return where a file of this host is found there; it is copied once, if need be.

        Raises:
            ChannelError: it cannot be copied.
        """
        if not self._elsewhere:
            return str(path)
        if path not in self._placed:
            self._placed[path] = self.channel.push_file(str(path), self.folder)
        return self._placed[path]

    def fetch(self, path: str) -> str | None:
        """Return where a file of that host is found here; it is copied if need be. None if it cannot be had."""
        if not self._elsewhere:
            return path
        try:
            return self.channel.pull_file(path, str(self._context.script_dir))
        except (ChannelError, OSError) as error:
            logger.info("%s cannot be fetched from %s: %s", path, self.name, error)
            return None

    def close(self) -> None:
        """Remove what :meth:`place` copied, and close the channel."""
        if self._placed:
            # They may hold a run's keys.
            self.run(f"rm -f {shlex.join(self._placed.values())}")
            self._placed.clear()
        self.channel.close()

    # --- scripts of which it is not known whether they were taken

    def give_up(self, base: str) -> str | None:
        """See to it that a script of which it is not known whether it was taken does nothing when it begins.

        Returns:
            The id of the job if it has begun already: it is a job like others after all.
        """
        said = self.run(give_up_command(base))
        if said.exit_code != 0:
            self._doubtful.add(base)
            logger.warning("whether there is a job of %s.sh on %s is not known: %s", base, self.name, said)
            return None
        self._doubtful.discard(base)
        return Mark.read(said.stdout).job_id

    def mark(self, base: str) -> Mark | None:
        """Return what is known of a script by its mark; None if that cannot be told. Changes nothing."""
        said = self.run(mark_command(base))
        return Mark.read(said.stdout) if said.exit_code == 0 else None

    def give_up_doubtful(self) -> list[str]:
        """Give up what could not be given up before.

        Returns:
            The ids of jobs that have begun. Nobody waits for them: they are to be cancelled.
        """
        return [job_id for base in sorted(self._doubtful) if (job_id := self.give_up(base)) is not None]
