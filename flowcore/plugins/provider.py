"""The contract of providers, which obtain blocks of resources: a batch job, a VM, a pod, a local process."""

from __future__ import annotations

import enum
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from flowcore.errors import ConfigurationError


class JobState(enum.IntEnum):
    """What a scheduler says of a job. The numbers are those of the reference."""

    UNKNOWN = 0
    """The provider cannot tell; never to be taken for "gone"."""
    PENDING = 1
    """In the queue."""
    RUNNING = 2
    """Running."""
    CANCELLED = 3
    """Ended since it was cancelled."""
    COMPLETED = 4
    """Ended with exit code 0."""
    FAILED = 5
    """Ended with an error."""
    TIMEOUT = 6
    """Ended at its walltime; expected of pilot jobs, and no failure."""
    HELD = 7
    """In the queue, and held or suspended."""
    MISSING = 8
    """Ended without any of its workers having connected. Set by the core."""

    @property
    def terminal(self) -> bool:
        """Whether the job has ended and will not change any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.MISSING})


@attrs.frozen
class JobStatus:
    """The state of a job and what is known besides.

    Attributes:
        state: see :class:`JobState`.
        message: the scheduler's reason, for humans.
        exit_code: of the job's script, where known.
        stdout_path: file on this host with the job's standard output.
        stderr_path: likewise, its standard error.
    """

    SUMMARY_TRUNCATION_THRESHOLD: ClassVar[int] = 2048

    state: JobState
    message: str | None = None
    exit_code: int | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state.terminal

    @property
    def status_name(self) -> str:
        """Name of the state."""
        return self.state.name

    @property
    def stdout(self) -> str | None:
        """The whole standard output; None if there is no file."""
        return _read(self.stdout_path, None)

    @property
    def stderr(self) -> str | None:
        """The whole standard error; None if there is no file."""
        return _read(self.stderr_path, None)

    @property
    def stdout_summary(self) -> str | None:
        """The end of the standard output, at most ``SUMMARY_TRUNCATION_THRESHOLD`` characters."""
        return _read(self.stdout_path, self.SUMMARY_TRUNCATION_THRESHOLD)

    @property
    def stderr_summary(self) -> str | None:
        """The end of the standard error, at most ``SUMMARY_TRUNCATION_THRESHOLD`` characters."""
        return _read(self.stderr_path, self.SUMMARY_TRUNCATION_THRESHOLD)


def _read(path: str | None, last_characters: int | None) -> str | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            if last_characters is not None:
                size = file.seek(0, 2)
                file.seek(max(0, size - 4 * last_characters))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    if last_characters is not None and len(text) > last_characters:
        return "..." + text[-last_characters:]
    return text


def _unchanged(whose: str, text: str) -> str:
    return text


@attrs.frozen
class ProviderContext:
    """What a provider is given when its executor is started.

    Attributes:
        script_dir: existing folder on this host for submit scripts and the jobs' standard streams.
        executor_label: label of the executor whose blocks these are.
        run_id: UUID of the run; empty outside of runs.
        final_script: returns what hooks make of a submit script; its arguments are the provider's label and the script.
        final_command: likewise, of a command line that a channel is to run; the channel's class name and the command.
    """

    script_dir: Path
    executor_label: str
    run_id: str = ""
    final_script: Callable[[str, str], str] = _unchanged
    final_command: Callable[[str, str], str] = _unchanged


@attrs.frozen
class Finding:
    """What a check found.

    Attributes:
        text: what was checked, with what was seen.
        todo: what to do about it; None if it is ok.
    """

    text: str
    todo: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return self.todo is None


class Provider(ABC):
    """Submits, polls and cancels jobs. One job is one block.

    All methods are called from the scaling thread of the core, one at a time, except :meth:`start`, which the
    loading thread calls before any other.
    """

    kind: ClassVar[str] = "provider"
    nodes_per_block: int
    init_blocks: int
    min_blocks: int
    max_blocks: int
    #: Task slots to provide per active task, 0 to 1.
    parallelism: float
    #: Number of cores to ask for per node, and to tell workers in ``FLOWCORE_CORES``; None: whatever is there.
    cores_per_node: int | None = None
    #: Memory to ask for per node in GB, and to tell workers in ``FLOWCORE_MEMORY_GB``; None: whatever is there.
    mem_per_node: float | None = None
    #: Seconds after its start at which a block is ended by the scheduler; None: never, or not known.
    walltime_s: float | None = None

    #: Whether blocks run on the host of this process, so that their workers reach it through loopback.
    on_this_host: ClassVar[bool] = False

    @property
    def variables(self) -> dict[str, object]:
        """What the script of a block exports, by name, so that workers know their share of a node."""
        return {"FLOWCORE_CORES": self.cores_per_node, "FLOWCORE_MEMORY_GB": self.mem_per_node}

    @abstractmethod
    def start(self, context: ProviderContext) -> None:
        """Be ready for :meth:`submit`. Called once, before all else."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A name for messages."""

    @property
    @abstractmethod
    def status_polling_interval(self) -> float:
        """Seconds between two calls of :meth:`status`."""

    @abstractmethod
    def submit(self, command: str, tasks_per_node: int, job_name: str = "flowcore.auto") -> str:
        """Ask for one block that runs ``command`` on each of its nodes.

        Args:
            command: shell command.
            tasks_per_node: number of times that the command is run per node.
            job_name: for humans.

        Returns:
            The job's id.

        Raises:
            ScaleOutFailed: with the scheduler's own message. Nothing was submitted.
        """

    @abstractmethod
    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return the status of each job, in the order of ``job_ids``.

        A scheduler that does not answer makes every status ``UNKNOWN``. Asking again is always allowed, also
        for jobs that have long ended.
        """

    @abstractmethod
    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Cancel jobs with all their processes; idempotent.

        Returns:
            For each job whether the request was accepted; a job that has ended counts as accepted.
        """

    def adopt(self, job_id: str, job_name: str) -> None:  # noqa: B027 - most know their jobs by the ids alone
        """Take over a job that another process submitted through a provider of the same options.

        Called after :meth:`start`, before :meth:`status` and :meth:`cancel` are asked for the job.

        Args:
            job_id: what :meth:`submit` returned there.
            job_name: what it was given.
        """

    def find(self, job_name: str) -> list[str] | None:
        """Return the ids of the jobs of a name that have not ended; None if that cannot be told.

        Called after :meth:`start` where it is not known whether there is a job: who submitted it was killed, or
        interrupted, before its id was known. The core gives no two jobs one name, also not those of several runs.
        """
        return None

    def place(self, path: Path) -> str:
        """Return the path at which the nodes of blocks find a file of this host; copy it there if need be.

        Called by executors for what their block commands name. Before :meth:`start`, nothing is copied.

        Raises:
            ChannelError: it cannot be copied.
        """
        return str(path)

    def preview(self, context: ProviderContext, command: str, tasks_per_node: int, job_name: str) -> str | None:
        """Return the script that :meth:`submit` would submit; None if there is none. Touches nothing.

        Args:
            context: as of :meth:`start`, which need not have been called.
            command, tasks_per_node, job_name: as of :meth:`submit`.
        """
        return None

    def dry_run(self, context: ProviderContext, command: str, tasks_per_node: int) -> Iterator[Finding]:
        """Look whether blocks could be had, without asking for any. In place of :meth:`start`; :meth:`close` follows.

        Args:
            context, command, tasks_per_node: as of :meth:`preview`.

        Yields:
            What was found, as it is found. Nothing is raised.
        """
        yield from ()

    def close(self) -> None:  # noqa: B027 - most have none
        """Give resources back (connections). Called once, after the last block was cancelled."""


def check_blocks(provider: Provider) -> None:
    """Refuse numbers of blocks, of nodes, and a parallelism that cannot be.

    Raises:
        ConfigurationError: says which.
    """
    name = type(provider).__name__
    if not (0 <= provider.min_blocks <= provider.max_blocks and 0 <= provider.init_blocks <= provider.max_blocks):
        raise ConfigurationError(
            f"{name}(min_blocks={provider.min_blocks}, init_blocks={provider.init_blocks}, "
            f"max_blocks={provider.max_blocks}): min_blocks and init_blocks must be from 0 to max_blocks"
        )
    if provider.nodes_per_block < 1:
        raise ConfigurationError(f"{name}(nodes_per_block={provider.nodes_per_block!r}): must be at least 1")
    if not 0 <= provider.parallelism <= 1:
        raise ConfigurationError(f"{name}(parallelism={provider.parallelism!r}): must be from 0 to 1")


def free_stem(folder: Path, name: str) -> str:
    """Return ``name``, or if there is a script of it in a folder, ``name.N`` with the first number that is free."""
    # bash reads a script as it goes: one of the same name may still run.
    return next(
        stem
        for stem in itertools.chain([name], (f"{name}.{again}" for again in itertools.count(1)))
        if not (folder / f"{stem}.sh").exists()
    )
