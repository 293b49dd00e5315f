"""The provider of this host: a block is a process group."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from flowcore.builtin.launchers import SingleNodeLauncher
from flowcore.builtin.local_channel import LocalChannel
from flowcore.plugins.api import (
    Channel,
    ConfigurationError,
    JobState,
    JobStatus,
    Launcher,
    Provider,
    ProviderContext,
    ScaleOutFailed,
    at_least,
    component,
)

#: Seconds that a cancelled block has to end by itself.
GRACE_S = 5.0


def _local_only(instance: object, attribute: attrs.Attribute[Channel], value: Channel) -> None:
    if not isinstance(value, LocalChannel):
        raise ConfigurationError(
            f"LocalProvider(channel={value!r}): runs on this host, through a LocalChannel; "
            "for processes on other hosts use the ad-hoc provider"
        )


@attrs.define(slots=True, eq=False)
class _Job:
    process: subprocess.Popen[bytes]
    stdout_path: str
    stderr_path: str
    cancelled: bool = False
    swept: bool = False


@component
class LocalProvider(Provider):
    """Runs blocks as processes of this host.

    Attributes:
        channel: where commands run; a LocalChannel.
        nodes_per_block: as other providers have it; this host is one node.
        launcher: wraps the worker command.
        init_blocks: blocks to start with.
        min_blocks: blocks to keep.
        max_blocks: blocks to have at most.
        worker_init: shell lines to run before the workers, for example to activate an environment.
        cmd_timeout: accepted as in the reference; a process starts at once.
        parallelism: task slots to provide per active task, 0 to 1.
        move_files: accepted as in the reference; on one host there is nothing to move.
    """

    channel: Channel = attrs.field(factory=LocalChannel, validator=_local_only)
    nodes_per_block: int = attrs.field(default=1, validator=at_least(1))
    launcher: Launcher = attrs.field(factory=SingleNodeLauncher)
    init_blocks: int = attrs.field(default=1, validator=at_least(0))
    min_blocks: int = attrs.field(default=0, validator=at_least(0))
    max_blocks: int = attrs.field(default=1, validator=at_least(0))
    worker_init: str = ""
    cmd_timeout: float = attrs.field(default=30, validator=at_least(0))
    parallelism: float = attrs.field(default=1, validator=at_least(0))
    move_files: bool | None = None

    on_this_host: ClassVar[bool] = True

    def __attrs_post_init__(self) -> None:
        if not self.min_blocks <= self.init_blocks <= self.max_blocks:
            raise ConfigurationError(
                f"LocalProvider(min_blocks={self.min_blocks}, init_blocks={self.init_blocks}, "
                f"max_blocks={self.max_blocks}): must be min_blocks <= init_blocks <= max_blocks"
            )
        self._context: ProviderContext | None = None
        self._jobs: dict[str, _Job] = {}

    @property
    def label(self) -> str:
        """``local``."""
        return "local"

    @property
    def status_polling_interval(self) -> float:
        """Asking is cheap."""
        return 0.2

    def start(self, context: ProviderContext) -> None:
        """Keep the context."""
        self._context = context

    def submit(self, command: str, tasks_per_node: int, job_name: str = "flowcore.local") -> str:
        """Start a process for the block; its id is that of the process."""
        assert self._context is not None, "submit before start"
        script = self._context.script_dir / f"{job_name}.sh"
        for again in itertools.count(1):
            # bash reads a script as it goes: one of the same name may still run.
            if not script.exists():
                break
            script = self._context.script_dir / f"{job_name}.{again}.sh"
        launched = self.launcher(command, tasks_per_node, self.nodes_per_block)
        lines = ["#!/bin/bash", f"export JOBNAME='{job_name}'"]
        for name, value in (("CORES", self.cores_per_node), ("MEMORY_GB", self.mem_per_node)):
            if value is not None:
                lines.append(f"export FLOWCORE_{name}={value}")
        text = "\n".join([*lines, self.worker_init, launched, ""])
        stdout_path, stderr_path = f"{script}.out", f"{script}.err"
        try:
            script.write_text(text, encoding="utf-8")
            with Path(stdout_path).open("wb") as stdout, Path(stderr_path).open("wb") as stderr:
                process = subprocess.Popen(
                    ["/bin/bash", str(script)],
                    cwd=self.channel.abspath("."),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as error:
            raise ScaleOutFailed(self.label, f"cannot start {script}: {error}") from error
        job_id = str(process.pid)
        self._jobs[job_id] = _Job(process, stdout_path, stderr_path)
        return job_id

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return the status of each block's process; UNKNOWN for an id that is not of this provider."""
        return [self._status(job_id) for job_id in job_ids]

    def _status(self, job_id: str) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is None:
            return JobStatus(JobState.UNKNOWN, f"no block of this provider has the id {job_id}")
        code = _exit_code(job)
        message = None
        if code is None:
            state = JobState.RUNNING
        elif job.cancelled:
            state = JobState.CANCELLED
        elif code == 0:
            state = JobState.COMPLETED
        else:
            state = JobState.FAILED
            if code < 0:
                message = f"killed by signal {-code} ({signal.Signals(-code).name})"
        return JobStatus(state, message, code, job.stdout_path, job.stderr_path)

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End the blocks' process groups: asked first, killed after a grace period."""
        jobs = [self._jobs.get(job_id) for job_id in job_ids]
        running = [job for job in jobs if job is not None and _exit_code(job) is None]
        for job in running:
            job.cancelled = True
            _signal(job, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for job in running:
            # The group, not only the script: bash ends at once, the workers may have something to put in order.
            while _group_lives(job) and time.monotonic() < deadline:
                time.sleep(0.02)
            _signal(job, signal.SIGKILL)
            job.process.wait()
            job.swept = True
        return [job is not None for job in jobs]


def _signal(job: _Job, number: signal.Signals) -> None:
    try:
        os.killpg(job.process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _exit_code(job: _Job) -> int | None:
    code = job.process.poll()
    if code is not None and not job.swept:
        # As a batch system does: what the script left running in its group ends with it.
        job.swept = True
        _signal(job, signal.SIGKILL)
    return code


def _group_lives(job: _Job) -> bool:
    """Return whether any process of the job's group runs; one that has ended and is not reaped does not count."""
    job.process.poll()
    try:
        os.killpg(job.process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if not stats:  # no Linux
        return True
    for stat in stats:
        try:
            # `pid (name) state ppid pgrp ...`; the name may hold anything.
            state, _, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has ended
            continue
        if int(group) == job.process.pid and state not in "ZX":
            return True
    return False
