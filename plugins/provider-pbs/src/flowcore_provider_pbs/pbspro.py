"""PBSProProvider: blocks from PBS Pro and OpenPBS."""

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
    at_least,
    component,
    local_channel,
    single_node_launcher,
)
from flowcore_provider_pbs import options, qstat, states
from flowcore_provider_pbs.base import PBSProvider, one_word

#: Longest name of a job in PBS Pro since version 13.
_LONGEST_NAME = 230


@component
class PBSProProvider(PBSProvider):
    """Gets blocks as jobs of PBS Pro or OpenPBS, by qsub, qstat and qdel.

    Attributes:
        channel: where the commands are run.
        account: account to charge.
        queue: queue to ask.
        scheduler_options: ``#PBS`` lines to put into the script; what they say, the provider does not say.
        select_options: what to ask of each node besides, such as ``ngpus=4:mem=64gb``.
        worker_init: shell lines to run before the workers.
        nodes_per_block: nodes of one block.
        cpus_per_node: cores to ask for on each node.
        init_blocks: blocks to start with.
        min_blocks: blocks to keep.
        max_blocks: blocks to have at most.
        parallelism: task slots to provide per active task, 0 to 1.
        launcher: starts the worker command on the nodes of a block.
        walltime: limit of a block's time, as ``HH:MM:SS`` or ``D-HH:MM:SS``.
        cmd_timeout: seconds for one command of PBS.
    """

    channel: Channel = attrs.field(factory=local_channel)
    account: str | None = attrs.field(default=None, validator=one_word)
    queue: str | None = attrs.field(default=None, validator=one_word)
    scheduler_options: str = ""
    select_options: str = attrs.field(default="", validator=one_word)
    worker_init: str = ""
    nodes_per_block: int = 1
    cpus_per_node: int = attrs.field(default=1, validator=at_least(1))
    init_blocks: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1
    launcher: Launcher = attrs.field(factory=single_node_launcher)
    walltime: str = "00:20:00"
    cmd_timeout: float = 120

    @property
    def label(self) -> str:
        """``pbspro``."""
        return "pbspro"

    def directives(self, request: JobRequest) -> list[str]:
        """Return the ``#PBS`` lines; see the contract."""
        said = options.given(self.scheduler_options)
        own_nodes = not said & {"l select", "l nodes"}
        wanted = (
            ("N", options.job_name(request.name, _LONGEST_NAME)),
            ("A", self.account),
            ("q", self.queue),
            ("o", request.stdout),
            ("e", request.stderr),
            # Write them where they belong at once, not into a spool until the end: a job that is lost has said why.
            ("k", "oed"),
            # A job that PBS starts again finds that its block has run, and ends; better it is not started.
            ("r", "n"),
            ("l select", self._select(request) if own_nodes else None),
            # Else two chunks may be of one host.
            ("l place", "scatter" if own_nodes and self.nodes_per_block > 1 else None),
            ("l walltime", self._clock),
        )
        return options.lines(wanted, self.scheduler_options)

    def _select(self, request: JobRequest) -> str:
        users = self.select_options.strip(": ")
        asked = {part.partition("=")[0] for part in users.split(":")}
        chunk = {
            "ncpus": self.cores_per_node or self.cpus_per_node,
            # Lines of a node in $PBS_NODEFILE, which MPI takes for its places.
            "mpiprocs": request.tasks_per_node,
            "mem": None if self.mem_per_node is None else options.megabytes(self.mem_per_node),
        }
        parts = [f"{name}={value}" for name, value in chunk.items() if value is not None and name not in asked]
        return ":".join([str(self.nodes_per_block), *parts, *([users] if users else [])])

    def submit_command(self, request: JobRequest) -> str:
        """Return the command line of qsub."""
        return shlex.join(["qsub", request.script])

    def find_command(self, job_name: str) -> str:
        """Return the command line of qselect; see the contract."""
        return f"qselect -N {shlex.quote(options.job_name(job_name, _LONGEST_NAME))}"

    def status_queries(self) -> Sequence[StatusQuery]:
        """Return the three ways to ask: for the queue, for its history too, and where there is no history.

        The first one leaves out jobs that have ended. It leaves out others as well in versions whose JSON is invalid,
        or has the first job only; the text of the others is right in all of them.
        """
        return (
            StatusQuery("qstat -f -F json", lambda ids: f"qstat -f -F json {shlex.join(ids)}", self._parse_json),
            StatusQuery("qstat -x -f", lambda ids: f"qstat -x -f {shlex.join(ids)}", self._parse_text),
            StatusQuery("qstat -f", lambda ids: f"qstat -f {shlex.join(ids)}", self._parse_text),
        )

    def _parse_json(self, said: Completed) -> Mapping[str, JobStatus]:
        return states.statuses(qstat.read_json(said), states.PBSPRO)

    def _parse_text(self, said: Completed) -> Mapping[str, JobStatus]:
        return states.statuses(qstat.read_text(said), states.PBSPRO)
