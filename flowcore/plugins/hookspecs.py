"""The hooks: who wants a say in what the core does. Implementations come through the entry-point group
``flowcore.hooks`` and are marked with ``flowcore.plugins.api.hookimpl``. A module or an object takes part in every run;
a class, which has options, in those whose configuration names it (``monitoring = {plugin = "..."}``).

Rule of this module: a hook never runs with a kernel lock held, and what it raises is logged with the name of
its plugin and breaks nothing. Hooks about tasks are called in batches from a thread of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pluggy

from flowcore.files import File
from flowcore.plugins.provider import JobStatus

PROJECT = "flowcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@attrs.frozen
class RunInfo:
    """A run: its UUID, its folder, the configuration's repr, the main program, when it began (epoch s)."""

    run_id: str
    run_dir: Path
    config: str
    program: str
    started_at: float


@attrs.frozen
class TaskEvent:
    """A task changed its state. ``at`` is epoch seconds; ``error`` is set for states of failure.

    ``depends`` (task ids) and ``app_kind`` say the same for all events of a task.
    """

    task_id: int
    app_name: str
    app_kind: str
    state: str
    at: float
    try_id: int
    executor: str | None
    memo_key: str | None
    depends: Sequence[int]
    error: BaseException | None


@attrs.frozen
class AttemptEvent:
    """An attempt began (``ended_at`` None) or ended on an executor. Times are epoch seconds."""

    task_id: int
    try_id: int
    executor: str
    launched_at: float
    ended_at: float | None
    where: str | None
    error: BaseException | None


@attrs.frozen
class BlockEvent:
    """A block was requested, changed its status, or ended."""

    executor: str
    block_id: str
    job_id: str | None
    status: JobStatus
    at: float


# --- the run


@hookspec
def flowcore_run_started(run: RunInfo) -> None:
    """A configuration was loaded; nothing is submitted yet. Loading thread."""


@hookspec
def flowcore_run_finished(run: RunInfo, task_counts: dict[str, int]) -> None:
    """The run was cleaned up; ``task_counts`` gives the number of tasks by state. Cleaning thread."""


@hookspec
def flowcore_task_events(run: RunInfo, events: Sequence[TaskEvent]) -> None:
    """Tasks changed their states; in the order of the changes, each once. Event thread."""


@hookspec
def flowcore_attempt_events(run: RunInfo, events: Sequence[AttemptEvent]) -> None:
    """Attempts began or ended. Event thread."""


# --- executors, providers, launchers, channels


@hookspec
def flowcore_executor_started(run: RunInfo, label: str, executor: Any) -> None:
    """An executor is ready for tasks. Loading thread."""


@hookspec
def flowcore_executor_stopped(run: RunInfo, label: str) -> None:
    """An executor was shut down. Cleaning thread."""


@hookspec
def flowcore_block_requested(run: RunInfo, event: BlockEvent) -> None:
    """A provider accepted a block. Scaling thread."""


@hookspec
def flowcore_block_status_changed(run: RunInfo, event: BlockEvent) -> None:
    """A block has another state than at the last poll. Scaling thread."""


@hookspec
def flowcore_block_ended(run: RunInfo, event: BlockEvent) -> None:
    """A block reached its last state. Scaling thread."""


@hookspec
def flowcore_launch_command(executor: str, block_id: str, command: str) -> str | None:
    """Return another worker command for a block, before its launcher wraps it; None leaves it.

    Each is given what the one before made of it. Scaling thread.
    """


@hookspec
def flowcore_submit_script(provider: str, script: str) -> str | None:
    """Return another submit script, before it is submitted; None leaves it.

    Each is given what the one before made of it. Scaling thread.
    """


@hookspec
def flowcore_channel_command(channel: str, command: str) -> str | None:
    """Return another command line for a channel to run; None leaves it.

    Each is given what the one before made of it. Scaling thread.
    """


# --- serializers, memo hashers, staging


@hookspec(firstresult=True)
def flowcore_serializer_for(obj: object) -> str | None:
    """Return the name of the serializer (group ``flowcore.serializers``) for an object; None for the default.

    Called for each object that is not of a built-in type, where it is sent, from any thread: be quick.
    """


@hookspec(firstresult=True)
def flowcore_memo_hash(obj: object, output_ref: bool) -> bytes | None:
    """Return bytes that identify an argument for memoization; None leaves it to the memo hashers. Any thread."""


@hookspec(firstresult=True)
def flowcore_stager_for(file: File, executor: str, direction: str) -> Any:
    """Return the stager (a ``Staging``) for a file; ``direction`` is ``in`` or ``out``; None: the usual search."""


# --- failures


@hookspec
def flowcore_failure_hints(error: BaseException, app_name: str, executor: str | None) -> str | None:
    """Return a sentence on what to try, which is added to a failed task's exception as a note; or None."""
