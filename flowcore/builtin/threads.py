"""The executor of threads in this process."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

import attrs

from flowcore.plugins.api import (
    Attempt,
    AttemptResult,
    Executor,
    ExecutorContext,
    Staging,
    UnsupportedResource,
    at_least,
    component,
    kill_commands,
)


@component
class ThreadPoolExecutor(Executor):
    """Runs tasks in threads of this process. For work that waits, or that lets go of the interpreter.

    Attributes:
        label: name of the executor.
        max_threads: number of threads; None for four more than the processors, at most 32.
        thread_name_prefix: of the threads' names; empty for the label.
        storage_access: stagers for the tasks' files.
        working_dir: folder for staged files.
    """

    label: str = "threads"
    max_threads: int | None = attrs.field(default=2, validator=at_least(1))
    thread_name_prefix: str = ""
    storage_access: Sequence[Staging] | None = None
    working_dir: str | None = None

    def __attrs_post_init__(self) -> None:
        # None ends a thread.
        self._queue: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._cancelled: set[tuple[int, int]] = set()
        self._waiting: set[tuple[int, int]] = set()
        self._running = 0

    def start(self, context: ExecutorContext) -> None:
        """Start the threads."""
        prefix = self.thread_name_prefix or self.label
        # As of concurrent.futures, where it is for work that mostly waits.
        count = self.max_threads or min(32, (os.cpu_count() or 1) + 4)
        for i in range(count):
            # Daemons: a task that never returns must not keep a finished program alive.
            thread = threading.Thread(target=self._work, args=(context,), name=f"{prefix}_{i}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, attempt: Attempt) -> None:
        """Queue the attempt."""
        if attempt.resource_specification:
            raise UnsupportedResource(
                self.label,
                f"threads have no resources to specify, app {attempt.app_name!r} wants "
                f"{dict(attempt.resource_specification)}; leave resource_specification out",
            )
        self._waiting.add((attempt.task_id, attempt.try_id))
        self._queue.put(attempt)

    def cancel(self, task_id: int, try_id: int) -> bool:
        """Take the attempt back if no thread has begun it."""
        try:
            # Whoever removes the key decides: this call, or the thread that begins the attempt.
            self._waiting.remove((task_id, try_id))
        except KeyError:
            return False
        return True

    @property
    def outstanding(self) -> int:
        """Number of attempts that wait or run."""
        return len(self._waiting) + self._running

    def shutdown(self) -> None:
        """End the threads that wait for work; one that runs a task ends after it, and is not waited for."""
        self._waiting.clear()
        for _ in self._threads:
            self._queue.put(None)
        kill_commands(self._threads)
        for thread in self._threads:
            # A thread that is in a Python function cannot be stopped.
            thread.join(timeout=0.2)

    def _work(self, context: ExecutorContext) -> None:
        waiting = self._waiting
        take = self._queue.get
        report = context.report
        while (attempt := take()) is not None:
            key = (attempt.task_id, attempt.try_id)
            try:
                waiting.remove(key)
            except KeyError:
                continue
            self._running += 1
            try:
                value = attempt.func(*attempt.args, **attempt.kwargs)
            except BaseException as error:  # noqa: BLE001 - the task's own, also SystemExit
                value = None
                result = AttemptResult(*key, None, error)
            else:
                result = AttemptResult(*key, value)
            self._running -= 1
            del attempt
            report((result,))
            del result, value
