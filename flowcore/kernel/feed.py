"""Delivers task and attempt events to hooks: in batches, in order, from a thread of its own.

Rule of this module: the kernel's hot path only appends to a queue, and only while somebody listens.
"""

from __future__ import annotations

import threading
from collections import deque

from flowcore.kernel.machine import Announce
from flowcore.kernel.task import Task
from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import AttemptEvent, RunInfo, TaskEvent

#: Seconds between two batches while events keep coming.
PERIOD_S = 0.1


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
        self._tasks: deque[TaskEvent] = deque()
        self._attempts: deque[AttemptEvent] = deque()
        self._wake = threading.Event()
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
        self._tasks.append(
            TaskEvent(
                task_id=task.id,
                app_name=app.name,
                app_kind=app.kind,
                state=change.state.name,
                at=change.at,
                try_id=change.try_id,
                executor=change.executor,
                memo_key=task.memo_key,
                depends=task.depends,
                error=change.error,
            )
        )
        self._wake.set()

    def attempt(self, task: Task, ended_at: float | None, where: str | None, error: BaseException | None) -> None:
        """Queue the beginning or the end of the task's current attempt. Called by the kernel's shell."""
        if self.wants_attempts and task.executor is not None:
            self._attempts.append(
                AttemptEvent(task.id, task.try_id, task.executor, task.try_time_launched, ended_at, where, error)
            )
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
            self._wake.clear()
            tasks = [self._tasks.popleft() for _ in range(len(self._tasks))]
            attempts = [self._attempts.popleft() for _ in range(len(self._attempts))]
            if tasks:
                self._hooks.call("flowcore_task_events", run=self._run, events=tasks)
            if attempts:
                self._hooks.call("flowcore_attempt_events", run=self._run, events=attempts)
            if self._stop.is_set():
                if not (self._tasks or self._attempts):
                    return
                self._wake.set()
            else:
                self._stop.wait(PERIOD_S)
