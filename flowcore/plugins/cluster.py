"""What all providers of batch schedulers share: :class:`ClusterProvider`.

Rule of this module: a provider of one scheduler formats commands and parses what they print, in functions without side
effects; all that touches the world is here. Whatever cannot be told from the outside (a command that timed out, a
scheduler that is away) leaves a job as it was: UNKNOWN at most, never gone.
"""

from __future__ import annotations

import logging
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from flowcore.durations import seconds_of
from flowcore.errors import (
    ChannelError,
    ConfigurationError,
    ScaleOutFailed,
    SchedulerUnavailable,
    ScriptPathError,
)
from flowcore.plugins import registry
from flowcore.plugins.channel import Channel
from flowcore.plugins.job_table import SETTLE_S, JobTable
from flowcore.plugins.launcher import Launcher
from flowcore.plugins.provider import Finding, JobStatus, Provider, ProviderContext, check_blocks, free_stem
from flowcore.plugins.scheduler import Completed, JobRequest, QueryUnsupported, SchedulerSilent, StatusQuery
from flowcore.plugins.script import block_script
from flowcore.plugins.site import Site

logger = logging.getLogger(__name__)


def local_channel() -> Channel:
    """Return a channel to this host, the default of all providers."""
    channel: Channel = registry.get("channel", "local")()
    return channel


def single_node_launcher() -> Launcher:
    """Return the launcher for blocks of one node, the default of most providers."""
    launcher: Launcher = registry.get("launcher", "single_node")()
    return launcher


class ClusterProvider(Provider):
    """Base class of providers that submit scripts to a batch scheduler by its commands.

    A subclass is a ``@component`` whose options are those below and its own. It defines the abstract methods, none of
    which does anything but format and parse.

    Attributes:
        channel: where the scheduler's commands are run.
        nodes_per_block: nodes of one block.
        init_blocks: blocks to start with.
        min_blocks: blocks to keep.
        max_blocks: blocks to have at most.
        parallelism: task slots to provide per active task, 0 to 1.
        launcher: starts the worker command on the nodes of a block.
        walltime: limit of a block's time, as ``HH:MM:SS`` or ``D-HH:MM:SS``.
        worker_init: shell lines to run before the workers.
        scheduler_options: lines to put before the scheduler's directives, or after them, in the script.
        cmd_timeout: seconds for one command of the scheduler.
        move_files: copy scripts through the channel; False: its host sees the run directory.
    """

    channel: Channel
    launcher: Launcher
    walltime: str
    worker_init: str
    scheduler_options: str
    cmd_timeout: float
    move_files: bool = True

    #: The scheduler's commands, which must be found on the PATH of the channel's host.
    programs: ClassVar[tuple[str, ...]]
    #: Environment variable in which the scheduler tells a job its id.
    id_variable: ClassVar[str]
    #: What the scheduler's commands print, in lower case, if it does not answer.
    silence: ClassVar[tuple[str, ...]] = ("connection refused", "connection timed out", "network is unreachable")
    #: Ids that one command names at most.
    chunk_size: ClassVar[int] = 200
    #: Seconds between two questions for the status of jobs.
    polling_interval_s: ClassVar[float] = 10.0

    # --- what a scheduler's provider says

    @abstractmethod
    def directives(self, request: JobRequest) -> list[str]:
        """Return the lines that tell the scheduler what to provide, such as ``#SBATCH --nodes=2``."""

    @abstractmethod
    def submit_command(self, request: JobRequest) -> str:
        """Return the command line that submits the script."""

    @abstractmethod
    def parse_submitted(self, said: Completed) -> str:
        """Return the id of the job that was submitted.

        Raises:
            ValueError: there is none in what the command, whose exit code is 0, has printed.
        """

    @abstractmethod
    def status_queries(self) -> Sequence[StatusQuery]:
        """Return the ways to ask for jobs, in order. Those that one does not tell of are asked of the next.

        They are also used with an id that nobody has, to see whether the scheduler answers.
        """

    @abstractmethod
    def cancel_command(self, job_ids: Sequence[str]) -> str:
        """Return the command line that cancels jobs."""

    def parse_cancelled(self, said: Completed, job_ids: Sequence[str]) -> list[bool]:
        """Return for each job whether it will end, or has."""
        return [said.exit_code == 0] * len(job_ids)

    def silent(self, said: Completed) -> bool:
        """Return whether a command that failed got no answer, rather than a refusal."""
        text = f"{said.stdout}\n{said.stderr}".lower()
        return said.exit_code != 0 and (said.exit_code == -1 or any(sign in text for sign in self.silence))

    def find_command(self, job_name: str) -> str | None:
        """Return the command line that prints the ids of this user's jobs of a name; None: there is none."""
        return None

    def test_command(self, request: JobRequest) -> str | None:
        """Return the command line that has the scheduler check the script without taking it; None: it cannot."""
        return None

    @property
    def id_in_job(self) -> str:
        """The bash word by which a job's script knows its id."""
        return f"${{{self.id_variable}:-?}}"

    # --- options

    def __attrs_post_init__(self) -> None:
        check_blocks(self)
        name = type(self).__name__
        try:
            self.walltime_s = float(seconds_of(self.walltime))
        except ValueError as error:
            raise ConfigurationError(f"{name}(walltime={self.walltime!r}): {error}") from None
        if self.cmd_timeout <= 0:
            raise ConfigurationError(f"{name}(cmd_timeout={self.cmd_timeout!r}): must be more than 0 seconds")
        self._context: ProviderContext | None = None
        self._site: Site | None = None
        self._jobs = JobTable(self.label, self._answer, lambda path: self._there.fetch(path))

    @property
    def status_polling_interval(self) -> float:
        """Seconds between two questions; a scheduler has other users."""
        return self.polling_interval_s

    # --- life

    def start(self, context: ProviderContext) -> None:
        """Connect, and make the folder for scripts on the scheduler's host.

        Raises:
            ScriptPathError: it cannot be made.
            ChannelError: there is no connection.
        """
        self._context = context
        self._site = self._make_site(context)
        self._site.prepare()

    def preview(self, context: ProviderContext, command: str, tasks_per_node: int, job_name: str) -> str:
        """Return the script that :meth:`submit` would write; see the contract."""
        request = self._request(self._make_site(context), job_name, job_name, tasks_per_node)
        return self._script(context, request, command)

    def submit(self, command: str, tasks_per_node: int, job_name: str = "flowcore.auto") -> str:
        """Write the script and submit it; see the contract.

        Raises:
            ScriptPathError: the script cannot be written.
            SchedulerUnavailable: there was no answer. Should the job have been taken nevertheless, it ends at once when
                it begins.
        """
        assert self._context is not None, "submit before start"
        if tasks_per_node < 1:
            raise ScaleOutFailed(
                self.label, f"tasks_per_node={tasks_per_node!r}: a command is run at least once per node"
            )
        self._give_up_doubtful()
        stem = free_stem(self._context.script_dir, job_name)
        request = self._request(self._there, stem, job_name, tasks_per_node)
        try:
            base = self._there.write(stem, self._script(self._context, request, command))
        except ChannelError as error:
            raise SchedulerUnavailable(self.label, str(error)) from error
        job_id = self._submitted(base, self.submit_command(request))
        self._jobs.add(job_id, base)
        return job_id

    def _submitted(self, base: str, command: str) -> str:
        said = self._there.run(command, starts_job=True)
        if said.exit_code == 0:
            try:
                return self.parse_submitted(said)
            except ValueError as error:
                refused = ScaleOutFailed(self.label, f"{error}; it said: {said}")
        elif self.silent(said):
            refused = SchedulerUnavailable(self.label, str(said))
        else:
            raise ScaleOutFailed(self.label, str(said))
        # The job may be there all the same, with an id that nobody told.
        job_id = self._there.give_up(base)
        if job_id is not None:
            return job_id
        raise refused

    def _give_up_doubtful(self) -> None:
        running = self._there.give_up_doubtful()
        if running:
            said = self._there.run(self.cancel_command(running))
            logger.warning("provider %s: jobs that nobody waits for are cancelled: %s: %s", self.label, running, said)

    def adopt(self, job_id: str, job_name: str) -> None:
        """Take over a job that another process submitted; see the contract."""
        self._jobs.add(job_id, f"{self._there.folder}/{job_name}", age_s=SETTLE_S)

    def find(self, job_name: str) -> list[str] | None:
        """Return the id of the job of a block, by the mark of its script or by the job's name; see the contract."""
        mark = self._there.mark(f"{self._there.folder}/{job_name}")
        if mark is None:
            return None
        if mark.given_up or mark.job_id is not None:
            return [] if mark.job_id is None else [mark.job_id]
        command = self.find_command(job_name)
        if command is None:
            return None
        said = self._there.run(command)
        return said.stdout.split() if said.exit_code == 0 else None

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Ask for all jobs that have not ended by one command, or few; see the contract."""
        self._give_up_doubtful()
        return self._jobs.ask(job_ids, self.status_queries(), self.chunk_size)

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Cancel jobs; see the contract. Where the scheduler does not answer, nothing is accepted."""
        accepted = {i: True for i in job_ids if self._jobs.has_ended(i)}
        asked = [i for i in dict.fromkeys(job_ids) if i not in accepted]
        for start in range(0, len(asked), self.chunk_size):
            chunk = asked[start : start + self.chunk_size]
            said = self._there.run(self.cancel_command(chunk))
            answers = [False] * len(chunk) if self.silent(said) else self.parse_cancelled(said, chunk)
            accepted.update(zip(chunk, answers, strict=True))
            if not all(answers):
                logger.warning("provider %s: cancelling %s: %s", self.label, ", ".join(chunk), said)
        for job_id, yes in accepted.items():
            if yes:
                self._jobs.was_cancelled(job_id)
        return [accepted[i] for i in job_ids]

    def close(self) -> None:
        """Remove the files that :meth:`place` copied, and close the channel."""
        if self._site is not None:
            self._give_up_doubtful()
            self._site.close()

    def place(self, path: Path) -> str:
        """Copy a file to the scheduler's host, where that is another; see the contract."""
        return str(path) if self._site is None else self._site.place(path)

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        """Run a command through the channel.

        Args:
            cmd: bash command line.
            timeout: seconds for it; None for ``cmd_timeout``.

        Returns:
            Exit code (-1: it took too long), standard output, standard error.

        Raises:
            ChannelError: the connection failed.
        """
        return self._there.execute(cmd, timeout)

    # --- trying it out

    def dry_run(self, context: ProviderContext, command: str, tasks_per_node: int) -> Iterator[Finding]:
        """Try the channel, the commands and the options out; see the contract."""
        try:
            self.start(context)
        except (ChannelError, ScriptPathError) as error:
            yield Finding(
                f"folder for scripts: {error}", "mend the channel, or set its script_dir to a folder of yours"
            )
            return
        site = self._there
        yield Finding(f"scripts go to {site.folder} on {site.name}")
        missing = site.lacks(*self.programs)
        if missing:
            todo = f"run flowcore where the commands of {self.label} are, or give the provider a channel to such a host"
            yield Finding(f"{', '.join(missing)} not found on {site.name}", todo)
            return
        yield Finding(f"{', '.join(self.programs)} found")
        answer = self._first_answer()
        yield answer
        if answer.ok:
            yield self._tested(context, command, tasks_per_node)

    def _first_answer(self) -> Finding:
        failed = []
        for query in self.status_queries():
            try:
                query.parse(self._answer(query.command(["1"])))
            except SchedulerSilent as error:
                return Finding(f"{query.name}: {error}", "wait until the scheduler is back, or ask its administrators")
            except QueryUnsupported as error:
                failed.append(f"{query.name}: {error}")
            else:
                return Finding(f"{query.name} gets an answer")
        return Finding("; ".join(failed), "ask the administrators how jobs can be asked for here")

    def _tested(self, context: ProviderContext, command: str, tasks_per_node: int) -> Finding:
        stem = free_stem(context.script_dir, "flowcore.dry-run")
        request = self._request(self._there, stem, stem, tasks_per_node)
        test = self.test_command(request)
        if test is None:
            return Finding(f"{self.label} checks no script without taking it: the options are not tried")
        try:
            self._there.write(stem, self._script(context, request, command))
        except (ScriptPathError, ChannelError) as error:
            return Finding(str(error), "mend what it names")
        said = self._there.run(test)
        self._there.run(f"rm -f {shlex.quote(request.script)}")
        if said.exit_code == 0:
            return Finding(f"the script would be taken: {said.stderr.strip() or said.stdout.strip() or 'no objection'}")
        return Finding(f"the script would be refused: {said}", f"mend the options of {type(self).__name__}")

    # --- parts

    @property
    def _there(self) -> Site:
        assert self._site is not None, "the provider was not started"
        return self._site

    def _make_site(self, context: ProviderContext) -> Site:
        return Site(self.channel, context, self.cmd_timeout, self.move_files)

    def _request(self, site: Site, stem: str, job_name: str, tasks_per_node: int) -> JobRequest:
        script = f"{site.folder}/{stem}.sh"
        return JobRequest(job_name, tasks_per_node, script, f"{script}.out", f"{script}.err")

    def _script(self, context: ProviderContext, request: JobRequest, command: str) -> str:
        options = self.scheduler_options.rstrip("\n")
        script = block_script(
            self.launcher(command, request.tasks_per_node, self.nodes_per_block),
            request.name,
            directives=[*([options] if options else []), *self.directives(request)],
            worker_init=self.worker_init,
            variables=self.variables,
            base=request.script.removesuffix(".sh"),
            job_id=self.id_in_job,
        )
        return context.final_script(self.label, script)

    def _answer(self, command: str) -> Completed:
        said = self._there.run(command)
        if self.silent(said):
            raise SchedulerSilent(str(said))
        return said
