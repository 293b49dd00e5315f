"""Finds tasks that would wait for each other for ever.

Rule of this module: looking costs no more than the smaller of what a task waits for and of what waits for it, so that a
join_app over a large graph, or deep inside many joins, stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flowcore.futures import AppFuture, DataFuture
from flowcore.kernel.states import FINAL, States
from flowcore.kernel.task import Task


def find_cycle(task: Task, inner: Sequence[Task], tasks: Mapping[int, Task]) -> list[Task]:
    """Return the tasks of a cycle that comes about when ``task`` waits for ``inner``, in the order of waiting.

    Args:
        task: a task that is about to wait.
        inner: tasks that are not over.
        tasks: all tasks by id.

    Returns:
        ``task``, what it waits for, and so on, up to the one that waits for ``task``; empty if there is no cycle.
    """
    if task in inner:
        return [task]
    if not task.dependents:
        return []
    # One step in each direction in turn: whichever ends first has the answer.
    down = _Search(inner, lambda t: _waits_for(t, tasks))
    up = _Search([task], lambda t: t.dependents or ())
    targets = {t.id for t in inner}
    while True:
        found = down.step()
        if found is None:
            return []
        if found is task:
            return [task, *reversed(down.path(task)[1:])]
        found = up.step()
        if found is None:
            return []
        if found.id in targets:
            return [task, *up.path(found)[:-1]]


def _waits_for(task: Task, tasks: Mapping[int, Task]) -> Iterator[Task]:
    if task.state is States.joining:
        futures = task.joins if isinstance(task.joins, list) else [task.joins]
        owner = task.future.owner
        ids = [f.tid for f in futures if isinstance(f, AppFuture | DataFuture) and f.owner is owner]
    else:
        ids = list(task.depends)
    for tid in ids:
        other = tasks.get(-1 if tid is None else tid)
        if other is not None and other.state not in FINAL:
            yield other


class _Search:
    """Visits what can be reached from some tasks, one at a time."""

    def __init__(self, start: Iterable[Task], following: Callable[[Task], Iterable[Task]]) -> None:
        self._came_from: dict[int, Task | None] = {}
        self._open: list[Task] = []
        self._following = following
        for task in start:
            self._add(task, None)

    def _add(self, task: Task, came_from: Task | None) -> None:
        if task.id not in self._came_from:
            self._came_from[task.id] = came_from
            self._open.append(task)

    def step(self) -> Task | None:
        if not self._open:
            return None
        task = self._open.pop()
        for other in self._following(task):
            self._add(other, task)
        return task

    def path(self, task: Task) -> list[Task]:
        """Return the tasks from ``task`` back to where the search began."""
        path: list[Task] = []
        current: Task | None = task
        while current is not None:
            path.append(current)
            current = self._came_from[current.id]
        return path
