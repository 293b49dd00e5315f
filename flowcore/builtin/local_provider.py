"""The provider of this host: a block is a process group."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from flowcore.builtin.launchers import SingleNodeLauncher
from flowcore.builtin.local_channel import LocalChannel
from flowcore.plugins.api import (
    Channel,
    ConfigurationError,
    Finding,
    JobState,
    JobStatus,
    Launcher,
    Provider,
    ProviderContext,
    ScaleOutFailed,
    at_least,
    block_script,
    check_blocks,
    component,
    free_stem,
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
    """A process group. ``process`` is its leader, None if another process has started it."""

    name: str
    pid: int
    script: Path
    process: subprocess.Popen[bytes] | None = None
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
    nodes_per_block: int = 1
    launcher: Launcher = attrs.field(factory=SingleNodeLauncher)
    init_blocks: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    worker_init: str = ""
    cmd_timeout: float = attrs.field(default=30, validator=at_least(0))
    parallelism: float = 1
    move_files: bool | None = None

    on_this_host: ClassVar[bool] = True

    def __attrs_post_init__(self) -> None:
        check_blocks(self)
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
        script = self._context.script_dir / f"{free_stem(self._context.script_dir, job_name)}.sh"
        text = self.preview(self._context, command, tasks_per_node, job_name)
        try:
            script.write_text(text, encoding="utf-8")
            with Path(f"{script}.out").open("wb") as stdout, Path(f"{script}.err").open("wb") as stderr:
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
        self._jobs[job_id] = _Job(job_name, process.pid, script, process)
        return job_id

    def adopt(self, job_id: str, job_name: str) -> None:
        """Take over a process group of another process, whatever has that number now; see the contract."""
        assert self._context is not None, "adopt before start"
        if job_id not in self._jobs:
            self._jobs[job_id] = _Job(job_name, int(job_id), self._context.script_dir / f"{job_name}.sh")

    def find(self, job_name: str) -> list[str] | None:
        """Return the process groups in which the block's script runs, or what it has started; see the contract."""
        assert self._context is not None, "find before start"
        script = self._context.script_dir / f"{job_name}.sh"
        running = _running()
        if not running:
            return None
        return sorted({str(group) for pid, group in running if _is_of(pid, job_name, script)})

    def preview(self, context: ProviderContext, command: str, tasks_per_node: int, job_name: str) -> str:
        """Return the script of a block; see the contract."""
        script = block_script(
            self.launcher(command, tasks_per_node, self.nodes_per_block),
            job_name,
            worker_init=self.worker_init,
            variables=self.variables,
        )
        return context.final_script(self.label, script)

    def dry_run(self, context: ProviderContext, command: str, tasks_per_node: int) -> Iterator[Finding]:
        """Say what blocks are; see the contract."""
        yield Finding("blocks are processes of this host: they start at once")

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return the status of each block's process; UNKNOWN for an id that is not of this provider."""
        return [self._status(job_id) for job_id in job_ids]

    def _status(self, job_id: str) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is None:
            return JobStatus(JobState.UNKNOWN, f"no block of this provider has the id {job_id}")
        runs, code = _look(job)
        message = None
        if runs:
            state = JobState.RUNNING
        elif job.cancelled:
            state = JobState.CANCELLED
        elif code is None:
            state, message = JobState.COMPLETED, "it has ended, and nothing tells how"
        elif code == 0:
            state = JobState.COMPLETED
        else:
            state = JobState.FAILED
            if code < 0:
                message = f"killed by signal {-code} ({signal.Signals(-code).name})"
        return JobStatus(state, message, code, f"{job.script}.out", f"{job.script}.err")

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End the blocks' process groups: asked first, killed after a grace period."""
        jobs = [self._jobs.get(job_id) for job_id in job_ids]
        running = [job for job in jobs if job is not None and _look(job)[0]]
        for job in running:
            job.cancelled = True
            _signal(job, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for job in running:
            # The group, not only the script: bash ends at once, the workers may have something to put in order.
            while _group_lives(job) and time.monotonic() < deadline:
                time.sleep(0.02)
            _signal(job, signal.SIGKILL)
            if job.process is not None:
                job.process.wait()
            job.swept = True
        return [job is not None for job in jobs]


def _signal(job: _Job, number: signal.Signals) -> None:
    if job.process is None and not _group_lives(job):
        return  # the number may be another's by now
    try:
        os.killpg(job.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _look(job: _Job) -> tuple[bool, int | None]:
    """Return whether the job runs, and its exit code where that is known."""
    if job.process is None:
        return _group_lives(job), None
    code = job.process.poll()
    if code is not None and not job.swept:
        # As a batch system does: what the script left running in its group ends with it.
        job.swept = True
        _signal(job, signal.SIGKILL)
    return code is None, code


def _group_lives(job: _Job) -> bool:
    """Return whether any process of the job's group runs; one that has ended and is not reaped does not count."""
    if job.process is not None:
        job.process.poll()
    try:
        os.killpg(job.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    running = _running()
    if not running:  # no Linux: whose group it is can only be told of our own
        return job.process is not None
    members = [pid for pid, group in running if group == job.pid]
    return bool(members) and (job.process is not None or any(_is_of(pid, job.name, job.script) for pid in members))


def _running() -> list[tuple[int, int]]:
    """Return the ids of all processes that run and of their groups; none where there is no ``/proc``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # `pid (name) state ppid pgrp ...`; the name may hold anything.
            state, _, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has ended
            continue
        if state not in "ZX":
            found.append((int(stat.parent.name), int(group)))
    return found


def _is_of(pid: int, job_name: str, script: Path) -> bool:
    """Return whether a process runs the script of a job, or was started by it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return False
    return os.fsencode(script) in command[:2] or f"JOBNAME={job_name}".encode() in environment
