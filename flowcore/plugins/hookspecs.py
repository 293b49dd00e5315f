"""The hooks: who wants a say in what the core does. Implementations come through the entry-point group
``flowcore.hooks`` and are marked with ``flowcore.plugins.api.hookimpl``. A module or an object takes part in every run;
a class, which has options, in those whose configuration names it (``monitoring = {plugin = "..."}``).

Rule of this module: a hook never runs with a kernel lock held, and what it raises is logged with the name of
its plugin and breaks nothing. Hooks about tasks are called in batches from a thread of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

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


#: So many files of a call are named, and so many tasks that a join waits for.
MOST_NAMED = 1000


class TaskCall(NamedTuple):
    """What a call was given, as far as it is of interest to who records it. Files are URLs without secrets.

    ``inputs`` are the files among all arguments, ``memoize`` says whether the result is looked up and kept. Long
    lists are cut.
    """

    memoize: bool = False
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None


class TaskEvent(NamedTuple):
    """A task changed its state, from ``before`` (None: it is new). ``at`` is epoch seconds; ``error`` is set for
    states of failure.

    ``depends`` (task ids), ``app_kind`` and ``called_at`` say the same for all events of a task; ``executor`` and
    ``memo_key`` are those that are known when it is told. ``fail_count`` is the number of attempts that have failed,
    ``fail_cost`` what they cost of the budget. ``joins`` are the ids of the tasks that a join_app waits for, in its
    event ``joining``. ``call`` comes with the first event of a task whose call has something in it that is worth a
    record; None for all others. An attempt begins with the event ``launched``; the event that follows from its end says
    when it was launched and when it ended, and where it ran if its executor told.
    """

    task_id: int
    app_name: str
    app_kind: str
    state: str
    before: str | None
    at: float
    try_id: int
    executor: str | None
    memo_key: str | None
    depends: Sequence[int]
    error: BaseException | None
    fail_count: int = 0
    fail_cost: float = 0.0
    joins: Sequence[int] = ()
    call: TaskCall | None = None
    called_at: float | None = None
    launched_at: float | None = None
    ended_at: float | None = None
    where: str | None = None


class AttemptEvent(NamedTuple):
    """An attempt began (``ended_at`` None) or ended on an executor. Times are epoch seconds."""

    task_id: int
    try_id: int
    executor: str
    launched_at: float
    ended_at: float | None
    where: str | None
    error: BaseException | None


_WIDTH = len(TaskEvent._fields)


class TaskEvents(Sequence[TaskEvent]):
    """A batch of events of tasks.

    There are several for each task, and an object for each would cost more than all else that is done with it: they are
    made when they are looked at.

    Args:
        fields: the fields of all events, one event behind the other; those of one task in their order. What happened to
            a task from its call on is one event as long as nobody was told of it: with ``before`` None, the newest
            ``state`` at ``at``, ``called_at``, and ``launched_at`` if an attempt has ended.
    """

    __slots__ = ("_events", "_fields")

    def __init__(self, fields: Sequence[Any]) -> None:
        self._fields = fields
        self._events: list[TaskEvent] | None = None

    @property
    def columns(self) -> list[Sequence[Any]]:
        """The values of each field, in the order of the events; for who looks at all of them. See ``fields``."""
        return [self._fields[field::_WIDTH] for field in range(_WIDTH)]

    def __len__(self) -> int:
        return len(self._made())

    def __iter__(self) -> Iterator[TaskEvent]:
        return iter(self._made())

    @overload
    def __getitem__(self, index: int) -> TaskEvent: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[TaskEvent]: ...

    def __getitem__(self, index: int | slice) -> TaskEvent | Sequence[TaskEvent]:
        return self._made()[index]

    def _made(self) -> list[TaskEvent]:
        if self._events is None:
            self._events = []
            for row in zip(*[iter(self._fields)] * _WIDTH, strict=True):
                event = TaskEvent._make(row)
                if event.before is None and event.state != "pending":
                    self._events += _unfolded(event)
                else:
                    self._events.append(event)
        return self._events


def _unfolded(event: TaskEvent) -> list[TaskEvent]:
    """Return the events from a call on that one stands for."""
    called_at, launched_at = event.called_at, event.launched_at
    assert called_at is not None
    events = [
        event._replace(
            state="pending", at=called_at, error=None, fail_count=0, fail_cost=0.0, launched_at=None, ended_at=None,
            where=None,
        )
    ]  # fmt: skip
    if launched_at is not None:
        events.append(events[0]._replace(state="launched", before="pending", at=launched_at, call=None))
    return [*events, event._replace(before=events[-1].state, call=None)]


@attrs.frozen
class BlockEvent:
    """A block was requested, changed its status, or ended."""

    executor: str
    block_id: str
    job_id: str | None
    status: JobStatus
    at: float


@attrs.frozen
class ResourceSample:
    """What an attempt used of its node: the process that runs it, and all that this has started.

    Attributes:
        task_id, try_id: the attempt.
        executor: label of its executor.
        block_id, hostname, worker: where it runs; ``worker`` is the worker's number on its node.
        at: when this was so, in epoch seconds by the clock of that node.
        kind: ``begin`` for the first sample of an attempt, soon after it began; ``end`` for one that was taken when its
            function had ended; ``running`` for those between them.
        pid: the process that runs the attempt.
        processes: how many there were, with that one.
        cpu_user_s, cpu_system_s: processor time in seconds since the attempt began, with that of processes which have
            ended meanwhile.
        memory_resident, memory_virtual: bytes that all these processes held at that moment, one added to the other.
        memory_percent: the first of these, of the node's memory.
        disk_read, disk_write: bytes from and to storage since the attempt began; 0 where the kernel does not say.
        status: what the process did, in psutil's words (``running``, ``sleeping``, ``disk-sleep``).
    """

    task_id: int
    try_id: int
    executor: str
    block_id: str
    hostname: str
    worker: int
    at: float
    kind: str
    pid: int
    processes: int
    cpu_user_s: float
    cpu_system_s: float
    memory_resident: int
    memory_virtual: int
    memory_percent: float
    disk_read: int
    disk_write: int
    status: str


@attrs.frozen
class NodeEvent:
    """The workers of a node came, are still there, or went.

    Attributes:
        executor: label of their executor.
        block_id, hostname: which node of which block.
        manager: id of the process that keeps the workers. One that lost its connection may come again under it.
        workers: how many there are.
        cpu_count: hardware threads of the node.
        total_memory: bytes of the node.
        python_version: of the workers (``3.12.4``).
        state: ``connected``; ``alive``, from time to time; ``gone``, once for each ``connected``.
        at: epoch seconds.
    """

    executor: str
    block_id: str
    hostname: str
    manager: str
    workers: int
    cpu_count: int
    total_memory: int
    python_version: str
    state: str
    at: float


# --- the run


@hookspec
def flowcore_run_started(run: RunInfo) -> None:
    """A configuration was loaded; nothing is submitted yet. Loading thread.

    A ``ConfigurationError`` refuses the load; what else is raised is logged.
    """


@hookspec
def flowcore_run_finished(run: RunInfo, task_counts: dict[str, int]) -> None:
    """The run was cleaned up; ``task_counts`` gives the number of tasks by state. Cleaning thread."""


@hookspec
def flowcore_task_events(run: RunInfo, events: TaskEvents) -> None:
    """Tasks changed their states; each change once, those of one task in their order. Event thread.

    A call is told half a second later, or with what happens to its task next.
    """


@hookspec
def flowcore_attempt_events(run: RunInfo, events: Sequence[AttemptEvent]) -> None:
    """Attempts began or ended. Event thread; before the events of tasks that came of it."""


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


@hookspec(firstresult=True)
def flowcore_resource_period(executor: str) -> float | None:
    """Return the seconds between two samples of what attempts on this executor use.

    0 asks for samples at the start and the end of attempts alone, None (from all) for no samples at all. Called once
    for each executor, when it starts. Loading thread.
    """


@hookspec
def flowcore_resource_samples(run: RunInfo, samples: Sequence[ResourceSample]) -> None:
    """Samples were taken, of executors that can take some. Attempts that took a moment have none.

    Called from the thread that takes results in, behind these: be quick. Samples are lost before a result waits.
    """


@hookspec
def flowcore_node_events(run: RunInfo, events: Sequence[NodeEvent]) -> None:
    """Workers of nodes came, are still there, or went. As quick, from that thread; at the end, the cleaning thread."""


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
