"""Delivers the steps of tasks to hooks: in batches, in order, from a thread of its own.

Rule of this module: the kernel's hot path knows nothing of it. The machine keeps the steps, and only while somebody
listens; here they are taken away and told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import AttemptEvent, RunInfo, TaskEvent, TaskEvents

#: Seconds for which steps are gathered before they are delivered together.
PERIOD_S = 0.1
#: Seconds for which a call is held back: most tasks are over by then, and all that happened to them is told at once.
HELD_S = 0.5


class EventFeed:
    """Hands steps to the hooks ``flowcore_task_events`` and ``flowcore_attempt_events``.

    Args:
        hooks: whom to deliver to.
        run: passed on with each batch.
    """

    def __init__(self, hooks: HookManager, run: RunInfo) -> None:
        self._hooks = hooks
        self._run = run
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._wants_tasks = hooks.wanted("flowcore_task_events")
        self._wants_attempts = hooks.wanted("flowcore_attempt_events")
        #: Whether anybody listens.
        self.active = self._wants_tasks or self._wants_attempts

    def start(self, take: Callable[[float], list[Any]]) -> None:
        """Start delivering, if anybody listens.

        Args:
            take: returns the steps since it was called last: the fields of TaskEvents, one behind the other. It is
                given the seconds for which calls are held back.
        """
        if self.active:
            self._thread = threading.Thread(target=self._deliver, args=(take,), name="flowcore-events", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Deliver what there is and end the thread. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _deliver(self, take: Callable[[float], list[Any]]) -> None:
        stopping = False
        while True:
            steps = take(0.0 if stopping else HELD_S)
            if steps:
                self._tell(TaskEvents(steps))
            elif stopping:
                return
            stopping = self._stop.wait(PERIOD_S)

    def _tell(self, events: TaskEvents) -> None:
        # In this order: an attempt has begun for whoever hears that its task runs.
        if self._wants_attempts:
            attempts = [attempt for event in events if (attempt := _attempt_of(event)) is not None]
            if attempts:
                self._hooks.call("flowcore_attempt_events", run=self._run, events=attempts)
        if self._wants_tasks:
            self._hooks.call("flowcore_task_events", run=self._run, events=events)


def _attempt_of(event: TaskEvent) -> AttemptEvent | None:
    """Return the beginning or the end of an attempt that a step is; None if it is neither."""
    if event.executor is None:
        return None
    key = (event.task_id, event.try_id, event.executor)
    if event.state == "launched":
        return AttemptEvent(*key, event.at, None, None, None)
    if event.launched_at is None:
        return None
    return AttemptEvent(*key, event.launched_at, event.ended_at, event.where, event.error)
