"""SlurmProvider: blocks from Slurm, by sbatch, squeue, sacct and scancel."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from flowcore.plugins.api import (
    Channel,
    ClusterProvider,
    Completed,
    ConfigurationError,
    JobRequest,
    Launcher,
    StatusQuery,
    component,
    local_channel,
    single_node_launcher,
)
from flowcore_provider_slurm import formats


def _one_line(instance: Any, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    # It stands in a line of the script, and what came behind a line break would be run.
    if value is not None and (not value.strip() or not value.isprintable()):
        raise ConfigurationError(f"SlurmProvider({attribute.name}={value!r}): expected one line of text, or None")


def _positive(instance: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value <= 0:
        raise ConfigurationError(f"SlurmProvider({attribute.name}={value!r}): must be more than 0, or None")


def _names_id(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    try:
        groups = re.compile(value).groupindex
    except re.error as error:
        raise ConfigurationError(f"SlurmProvider(regex_job_id={value!r}): is no regular expression: {error}") from None
    if "id" not in groups:
        raise ConfigurationError(
            f"SlurmProvider(regex_job_id={value!r}): lacks the group that matches the id: (?P<id>\\S*)"
        )


def _options(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    try:
        formats.check_options(value)
    except ValueError as error:
        raise ConfigurationError(f"SlurmProvider(scheduler_options={value!r}): {error}") from None


@component
class SlurmProvider(ClusterProvider):
    """Gets blocks as jobs of Slurm.

    Attributes:
        partition: where to submit; None for the cluster's default.
        account: account to charge; None for the user's default.
        qos: quality of service to ask for; None for the default.
        constraint: features that nodes must have, such as ``gpu&a100``.
        channel: where the commands are run.
        nodes_per_block: nodes of one block.
        cores_per_node: cores to ask for on each node, and to tell workers of; None: with ``exclusive`` all are there.
        mem_per_node: memory to ask for on each node, and to tell workers of, in GB; None for the cluster's default.
        init_blocks: blocks to start with.
        min_blocks: blocks to keep.
        max_blocks: blocks to have at most.
        parallelism: task slots to provide per active task, 0 to 1.
        walltime: limit of a block's time, as ``HH:MM:SS`` or ``D-HH:MM:SS``.
        scheduler_options: ``#SBATCH`` lines to put into the script; what they say, the provider does not say.
        regex_job_id: finds the job's id, its group ``id``, in what sbatch prints.
        worker_init: shell lines to run before the workers, for example to activate an environment.
        cmd_timeout: seconds for one command of Slurm.
        exclusive: ask for nodes that no other job is on.
        move_files: copy scripts through the channel; False: its host sees the run directory.
        launcher: starts the worker command on the nodes of a block.
        clusters: names of clusters, separated by commas, of which Slurm is to choose one for each block; None for the
            one that the channel's host belongs to.
    """

    partition: str | None = attrs.field(default=None, validator=_one_line)
    account: str | None = attrs.field(default=None, validator=_one_line)
    qos: str | None = attrs.field(default=None, validator=_one_line)
    constraint: str | None = attrs.field(default=None, validator=_one_line)
    channel: Channel = attrs.field(factory=local_channel)
    nodes_per_block: int = 1
    cores_per_node: int | None = attrs.field(default=None, validator=_positive)
    mem_per_node: float | None = attrs.field(default=None, validator=_positive)
    init_blocks: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1
    walltime: str = "00:10:00"
    scheduler_options: str = attrs.field(default="", validator=_options)
    regex_job_id: str = attrs.field(default=r"Submitted batch job (?P<id>\S*)", validator=_names_id)
    worker_init: str = ""
    cmd_timeout: float = 10
    exclusive: bool = True
    move_files: bool = True
    launcher: Launcher = attrs.field(factory=single_node_launcher)
    clusters: str | None = attrs.field(default=None, validator=_one_line)

    programs: ClassVar[tuple[str, ...]] = ("sbatch", "squeue", "scancel")
    id_variable: ClassVar[str] = "SLURM_JOB_ID"
    silence: ClassVar[tuple[str, ...]] = formats.SILENCE

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        users = formats.given(self.scheduler_options).get("time")
        if users is not None:
            self.walltime_s = formats.seconds(users)

    @property
    def label(self) -> str:
        """``slurm``."""
        return "slurm"

    @property
    def id_in_job(self) -> str:
        """The bash word by which a job's script knows its id; see the contract."""
        return (
            super().id_in_job if self.clusters is None else formats.job_id("${SLURM_JOB_ID:-?}", "$SLURM_CLUSTER_NAME")
        )

    @property
    def variables(self) -> dict[str, object]:
        """What the script of a block exports; see the contract."""
        # Else the steps of a job that was submitted with --export=NONE do not see what worker_init has set.
        return {**super().variables, "SLURM_EXPORT_ENV": "ALL"}

    def directives(self, request: JobRequest) -> list[str]:
        """Return the ``#SBATCH`` lines; see the contract."""
        cores, memory = self.cores_per_node, self.mem_per_node
        wanted: dict[str, object] = {
            "job-name": request.name,
            "output": formats.stream(request.stdout),
            "error": formats.stream(request.stderr),
            "nodes": self.nodes_per_block,
            "ntasks-per-node": request.tasks_per_node,
            "cpus-per-task": None if cores is None else max(1, cores // request.tasks_per_node),
            "mem": None if memory is None else formats.memory(memory),
            "time": self.walltime,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclusive": self.exclusive,
            # A job that Slurm starts again finds that its block has run, and ends; better it says what went wrong.
            "no-requeue": True,
        }
        return formats.directives(wanted, self.scheduler_options)

    def submit_command(self, request: JobRequest) -> str:
        """Return the command line of sbatch; see the contract."""
        return self._sbatch(shlex.quote(request.script))

    def find_command(self, job_name: str) -> str | None:
        """Return the command line of squeue that looks for jobs by their name; see the contract."""
        return formats.find_command(job_name, self.clusters)

    def test_command(self, request: JobRequest) -> str:
        """Return a command line of sbatch that submits nothing; see the contract."""
        return self._sbatch(f"--test-only {shlex.quote(request.script)}")

    def _sbatch(self, arguments: str) -> str:
        clusters = "" if self.clusters is None else f"--clusters={shlex.quote(self.clusters)} "
        within_a_job = self.channel.on_this_host and self.id_variable in os.environ
        return f"{formats.FORGET_JOB if within_a_job else ''}sbatch {clusters}{arguments}"

    def parse_submitted(self, said: Completed) -> str:
        """Return the id of the job; see the contract."""
        return formats.submitted(said.stdout, self.regex_job_id)

    def status_queries(self) -> Sequence[StatusQuery]:
        """Return the ways to ask: squeue, which knows ended jobs for some minutes, then sacct, which knows them all."""
        return (
            StatusQuery("squeue", lambda ids: formats.squeue_command(ids, self.clusters), formats.squeue_statuses),
            StatusQuery("sacct", lambda ids: formats.sacct_command(ids, self.clusters), formats.sacct_statuses),
        )

    def cancel_command(self, job_ids: Sequence[str]) -> str:
        """Return the command line of scancel; see the contract."""
        return formats.scancel_command(job_ids, self.clusters)

    def parse_cancelled(self, said: Completed, job_ids: Sequence[str]) -> list[bool]:
        """Return for each job whether it will end, or has; see the contract."""
        return formats.cancelled(said, job_ids)
