"""The attempts that no manager has, in the order of their turn."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

from flowcore_executor_htex.protocol import TaskItem

#: An attempt and its payload frames.
Entry = tuple[TaskItem, Sequence[Any]]


def priority_of(item: TaskItem) -> float:
    """Return the priority of an attempt; 0 where it says none."""
    return 0.0 if item.needs is None else item.needs.priority


class Pending:
    """Attempts in the order of their turn: by priority, then as they came."""

    def __init__(self) -> None:
        self._usual: deque[Entry] = deque()
        #: All others, by priority; the heap has each priority once, negated.
        self._others: dict[float, deque[Entry]] = {}
        self._order: list[float] = []

    def add(self, entry: Entry) -> None:
        """Queue an attempt."""
        self._queue(priority_of(entry[0])).append(entry)

    def add_first(self, entry: Entry) -> None:
        """Queue an attempt that has been in the queue before."""
        self._queue(priority_of(entry[0])).appendleft(entry)

    def _queue(self, priority: float) -> deque[Entry]:
        if priority == 0:
            return self._usual
        queue = self._others.get(priority)
        if queue is None:
            queue = self._others[priority] = deque()
            heapq.heappush(self._order, -priority)
        return queue

    def first(self) -> deque[Entry] | None:
        """Return the queue whose turn it is; None if all are empty."""
        order = self._order
        while order and (order[0] < 0 or not self._usual):
            queue = self._others[-order[0]]
            if queue:
                return queue
            del self._others[-heapq.heappop(order)]
        return self._usual or None
