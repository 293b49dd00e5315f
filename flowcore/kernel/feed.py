"""Delivers task and attempt events to hooks: in batches, in order, from a thread of its own.

Rule of this module: the kernel's hot path only appends to a queue, and only while somebody listens.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flowcore.files import File, shown_url
from flowcore.futures import AppFuture, DataFuture
from flowcore.kernel.machine import Announce
from flowcore.kernel.states import States
from flowcore.kernel.task import Task
from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import AttemptEvent, Events, RunInfo, TaskCall, TaskEvent

Row = tuple[Any, ...]

#: Seconds for which events are gathered before they are delivered together.
PERIOD_S = 0.1
#: So many files of a call are named, and so many tasks that a join waits for.
MOST_NAMED = 1000

# By number: the name of a member of an enumeration is looked up slowly.
_NAMES = tuple(States(n).name if n in States._value2member_map_ else "" for n in range(max(States) + 1))


class EventFeed:
    """Queues events and hands them to the hooks ``flowcore_task_events`` and ``flowcore_attempt_events``.

    Args:
        hooks: whom to deliver to.
        run: passed on with each batch.
    """

    def __init__(self, hooks: HookManager, run: RunInfo) -> None:
        self._hooks = hooks
        self._run = run
        # Appended to by any thread, emptied by one.
        # Plain tuples, which the garbage collector forgets as soon as it has looked at them once: with thousands
        # of objects of any other kind on their way, it is as busy as all else here together.
        self._tasks: deque[Row] = deque()
        self._attempts: deque[Row] = deque()
        self._wake = threading.Event()
        #: Whether that is set: to look at this takes a fraction of the time.
        self._woken = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.wants_tasks = hooks.wanted("flowcore_task_events")
        self.wants_attempts = hooks.wanted("flowcore_attempt_events")

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        return self.wants_tasks or self.wants_attempts

    def start(self) -> None:
        """Start delivering, if anybody listens."""
        if self.active:
            self._thread = threading.Thread(target=self._deliver, name="flowcore-events", daemon=True)
            self._thread.start()

    def task_changed(self, change: Announce) -> None:
        """Queue a change of state. Called by the kernel's shell."""
        if not self.wants_tasks:
            return
        task = change.task
        app = task.spec.app
        state = change.state
        call: TaskCall | None = None
        joins: Sequence[int] = ()
        if state is States.pending:
            if task.needs_preparing or task.kwargs:
                call = call_of(task)
        elif state is States.joining:
            joins = _joined(task.joins)
        history = task.fail_history
        self._tasks.append(  # the fields of a TaskEvent
            (
                task.id, app.name, app.kind, _NAMES[state], change.at, change.try_id, change.executor, task.memo_key,
                task.depends, change.error, 0 if history is None else len(history), task.fail_cost, joins, call,
            )
        )  # fmt: skip
        if not self._woken:
            self._woken = True
            self._wake.set()

    def attempt(self, task: Task, ended_at: float | None, where: str | None, error: BaseException | None) -> None:
        """Queue the beginning or the end of the task's current attempt. Called by the kernel's shell."""
        if self.wants_attempts and task.executor is not None:
            self._attempts.append(  # the fields of an AttemptEvent
                (task.id, task.try_id, task.executor, task.try_time_launched, ended_at, where, error)
            )
            if not self._woken:
                self._woken = True
                self._wake.set()

    def close(self) -> None:
        """Deliver what is queued and end the thread. Idempotent."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _deliver(self) -> None:
        while True:
            self._wake.wait()
            # What happens at about the same time is delivered together; and an error has got all its notes by then.
            self._stop.wait(PERIOD_S)
            stopping = self._stop.is_set()
            # In this order, and before the queues are emptied: what comes in between is found there, or wakes again.
            self._wake.clear()
            self._woken = False
            # Tasks are taken first and delivered last: an attempt has begun for whoever hears that its task runs.
            tasks = [self._tasks.popleft() for _ in range(len(self._tasks))]
            attempts = [self._attempts.popleft() for _ in range(len(self._attempts))]
            if attempts:
                self._hooks.call("flowcore_attempt_events", run=self._run, events=Events(AttemptEvent, attempts))
            if tasks:
                self._hooks.call("flowcore_task_events", run=self._run, events=Events(TaskEvent, tasks))
            if stopping:
                if not (self._tasks or self._attempts):
                    return
                self._wake.set()


def call_of(task: Task) -> TaskCall | None:
    """Return what is worth a record of a task's call; None if nothing is."""
    try:
        return _call_of(task)
    except Exception:  # noqa: BLE001 - an argument of a class of the user's; a call is made though nobody can say of what
        return None


def _call_of(task: Task) -> TaskCall | None:
    spec = task.spec
    kwargs = spec.kwargs
    inputs = _urls(_files(spec.args)) + _urls(_files(value for name, value in kwargs.items() if name != "outputs"))
    streams = [_stream(kwargs.get(name)) for name in ("stdin", "stdout", "stderr")] if spec.app.kind == "bash" else []
    call = TaskCall(spec.app.cache, inputs[:MOST_NAMED], _urls(iter(spec.outputs)), *streams)
    return call if call != TaskCall() else None


def _files(values: Iterable[Any]) -> Iterator[File]:
    """Give the files among arguments, also in their lists and tuples."""
    for value in values:
        if isinstance(value, File):
            yield value
        elif isinstance(value, DataFuture):
            yield value.file_obj
        elif type(value) is list or type(value) is tuple:
            for item in value:
                if isinstance(item, File):
                    yield item
                elif isinstance(item, DataFuture):
                    yield item.file_obj


def _urls(files: Iterator[File]) -> tuple[str, ...]:
    return tuple(shown_url(file.url) for file, _ in zip(files, range(MOST_NAMED), strict=False))


def _stream(value: Any) -> str | None:
    """Return the name of what was given as ``stdin=``, ``stdout=`` or ``stderr=``."""
    if type(value) is tuple and value:
        value = value[0]  # with a mode
    if isinstance(value, DataFuture):
        value = value.file_obj
    if isinstance(value, File):
        return shown_url(value.url)
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _joined(returned: Any) -> tuple[int, ...]:
    """Return the ids of the tasks among what a join_app returned."""
    futures = returned if isinstance(returned, list) else [returned]
    return tuple(
        future.tid
        for future, _ in zip(futures, range(MOST_NAMED), strict=False)
        if isinstance(future, AppFuture | DataFuture) and future.tid is not None
    )
