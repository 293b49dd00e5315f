"""TorqueProvider: blocks from Torque, and from what speaks like it, such as Slurm's qsub, qstat and qdel."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import attrs

from flowcore.plugins.api import (
    Channel,
    Completed,
    JobRequest,
    JobStatus,
    Launcher,
    StatusQuery,
    component,
    local_channel,
)
from flowcore_provider_pbs import options, qstat, states
from flowcore_provider_pbs.base import PBSProvider, one_word

#: Longest name of a job in Torque's documentation.
_LONGEST_NAME = 15


def _aprun_launcher() -> Launcher:
    from flowcore.launchers import AprunLauncher

    launcher: Launcher = AprunLauncher()
    return launcher


@component
class TorqueProvider(PBSProvider):
    """Gets blocks as jobs of Torque, by qsub, qstat and qdel.

    Attributes:
        channel: where the commands are run.
        account: account to charge.
        queue: queue to ask.
        scheduler_options: ``#PBS`` lines to put into the script; what they say, the provider does not say.
        worker_init: shell lines to run before the workers.
        nodes_per_block: nodes of one block.
        init_blocks: blocks to start with.
        min_blocks: blocks to keep.
        max_blocks: blocks to have at most.
        parallelism: task slots to provide per active task, 0 to 1.
        launcher: starts the worker command on the nodes of a block.
        walltime: limit of a block's time, as ``HH:MM:SS`` or ``D-HH:MM:SS``.
        cmd_timeout: seconds for one command of Torque.
    """

    channel: Channel = attrs.field(factory=local_channel)
    account: str | None = attrs.field(default=None, validator=one_word)
    queue: str | None = attrs.field(default=None, validator=one_word)
    scheduler_options: str = ""
    worker_init: str = ""
    nodes_per_block: int = 1
    init_blocks: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1
    launcher: Launcher = attrs.field(factory=_aprun_launcher)
    walltime: str = "00:20:00"
    cmd_timeout: float = 120

    @property
    def label(self) -> str:
        """``torque``."""
        return "torque"

    def directives(self, request: JobRequest) -> list[str]:
        """Return the ``#PBS`` lines; see the contract."""
        # A node's lines in $PBS_NODEFILE, which MPI takes for its places, are as many as its processors.
        processors = max(request.tasks_per_node, self.cores_per_node or 1)
        memory = None if self.mem_per_node is None else options.megabytes(self.nodes_per_block * self.mem_per_node)
        wanted = (
            ("N", options.job_name(request.name, _LONGEST_NAME)),
            ("A", self.account),
            ("q", self.queue),
            # A job that Torque starts again finds that its block has run, and ends; better it is not started.
            ("r", "n"),
            ("l nodes", f"{self.nodes_per_block}:ppn={processors}"),
            ("l mem", memory),
            ("l walltime", self._clock),
        )
        return options.lines(wanted, self.scheduler_options)

    def submit_command(self, request: JobRequest) -> str:
        """Return the command line of qsub. Slurm's takes no heed of paths in the script."""
        said = options.given(self.scheduler_options)
        streams = {"-o": request.stdout, "-e": request.stderr}
        words = [word for name, path in streams.items() if name[1:] not in said for word in (name, path)]
        return shlex.join(["qsub", *words, request.script])

    def status_queries(self) -> Sequence[StatusQuery]:
        """Return the one way to ask: jobs that have ended are listed for some minutes."""
        return (StatusQuery("qstat -f", lambda ids: f"qstat -f {shlex.join(ids)}", self._parse),)

    def _parse(self, said: Completed) -> Mapping[str, JobStatus]:
        return states.statuses(qstat.read_text(said), states.TORQUE)
