"""The base classes that programs subclass for providers and launchers of their own.

flowcore's contracts ask for the same methods; these give what Parsl's base classes give besides. flowcore's own classes
count as subclasses of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from flowcore.plugins import api


class ExecutionProvider(api.Provider):
    """Base class of providers: ``submit``, ``status``, ``cancel``, ``label`` and ``status_polling_interval`` are to be
    defined, and the attributes ``nodes_per_block init_blocks min_blocks max_blocks parallelism`` to be set.

    Attributes:
        script_dir: folder for submit scripts; set when a run starts.
    """

    script_dir: str | None = None

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Not issubclass, which would ask this again.
        return api.Provider in other.__mro__ if cls is ExecutionProvider else NotImplemented

    def start(self, context: api.ProviderContext) -> None:
        """Keep what the run tells."""
        self.script_dir = str(context.script_dir)


class ClusterProvider(ExecutionProvider):
    """Base class of providers of batch schedulers: ``submit``, ``cancel`` and ``_status`` are to be defined.

    ``_status`` brings ``resources`` up to date: a dict by job id, whose entries have the key ``status``.

    Args:
        label: a name for messages.
        channel: where the scheduler's commands are run.
        nodes_per_block, init_blocks, min_blocks, max_blocks, parallelism: as all providers have them.
        walltime: ``HH:MM:SS``.
        launcher: starts the workers.
        cmd_timeout: seconds for one command.

    Raises:
        BadLauncher: the launcher is none.
    """

    def __init__(
        self,
        label: str,
        channel: api.Channel,
        nodes_per_block: int,
        init_blocks: int,
        min_blocks: int,
        max_blocks: int,
        parallelism: float,
        walltime: str,
        launcher: api.Launcher,
        cmd_timeout: float = 10,
    ) -> None:
        if not isinstance(launcher, api.Launcher):
            raise api.Launcher.refused_as(f"{type(self).__name__}(launcher={launcher!r}): expected a Launcher")
        self._label = label
        self.channel = channel
        self.nodes_per_block = nodes_per_block
        self.init_blocks = init_blocks
        self.min_blocks = min_blocks
        self.max_blocks = max_blocks
        self.parallelism = parallelism
        self.walltime = walltime
        self.launcher = launcher
        self.cmd_timeout = cmd_timeout
        self.resources: dict[Any, dict[str, Any]] = {}

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return api.ClusterProvider in other.__mro__ if cls is ClusterProvider else NotImplemented

    @property
    def label(self) -> str:
        """The name that it was given."""
        return self._label

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two questions."""
        return 60

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        """Run a command through the channel; return its exit code, standard output and standard error."""
        return self.channel.execute_wait(cmd, timeout or self.cmd_timeout)

    @abstractmethod
    def _status(self) -> None:
        """Bring ``resources`` up to date."""

    def status(self, job_ids: Sequence[Any]) -> list[api.JobStatus]:
        """Return the status of each job, after ``_status`` has asked for it."""
        if job_ids:
            self._status()
        return [self.resources[job_id]["status"] for job_id in job_ids]


class Launcher(api.Launcher):
    """Base class of launchers: ``__call__(command, tasks_per_node, nodes_per_block)`` is to be defined."""

    def __init__(self, debug: bool = True) -> None:
        self.debug = debug

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return api.Launcher in other.__mro__ if cls is Launcher else NotImplemented
