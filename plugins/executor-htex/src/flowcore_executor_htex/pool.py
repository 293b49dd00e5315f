"""The manager's decisions, without sockets and processes: which worker gets which attempts.

Rule of this module: a worker is given more than one attempt at a time only while attempts are known to be so
short that nothing ever waits noticeably behind another (``QUEUE_US``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs

from flowcore_executor_htex import protocol
from flowcore_executor_htex.protocol import ResultItem, TaskItem

#: Work that may wait in front of one worker, and the most attempts that it may be.
QUEUE_US = 3000.0
MAX_DEPTH = 160
#: Work that this node asks for beyond its slots, so that none idles while the interchange is busy elsewhere.
PREFETCH_US = 20000.0
MAX_PREFETCH_PER_SLOT = 1024
#: Attempts that take longer than this are never queued behind others.
SHORT_US = 2000.0
#: What a worker does for an attempt besides running its function.
OVERHEAD_US = 15.0
#: Weight of the newest attempt in the running mean.
WEIGHT = 0.1

Payload = Sequence[Any]


@attrs.define(slots=True, eq=False)
class Slot:
    """A worker.

    ``given`` are the attempts that it has, in order: the first one runs. A worker that is ``retiring`` runs none and
    ends by itself.
    """

    rank: int
    ready: bool = False
    retiring: bool = False
    given: deque[tuple[TaskItem, Payload]] = attrs.field(factory=deque)
    functions: set[bytes] = attrs.field(factory=set)


#: What to send: the worker's rank, the message, its payload frames.
Assignment = tuple[int, protocol.Message, list[Any]]


class Pool:
    """The slots of a node, and the attempts that wait for one.

    Args:
        slots: number of workers.
        prefetch_capacity: attempts to hold beyond them whatever they take.
    """

    def __init__(self, slots: int, prefetch_capacity: int = 0) -> None:
        self.slots = [Slot(rank) for rank in range(slots)]
        self._prefetch = prefetch_capacity
        self._queue: deque[tuple[TaskItem, Payload]] = deque()
        self._functions: dict[bytes, bytes] = {}
        self._mean_us: float | None = None
        self._deviation_us = 0.0

    # --- estimates

    @property
    def _estimate_us(self) -> float | None:
        """What an attempt takes, on the long side; None before the first has ended."""
        if self._mean_us is None:
            return None
        return self._mean_us + 2 * self._deviation_us + OVERHEAD_US

    @property
    def depth(self) -> int:
        """How many attempts a worker may have at a time."""
        estimate = self._estimate_us
        if estimate is None or estimate > SHORT_US:
            return 1
        return min(MAX_DEPTH, 1 + int(QUEUE_US / estimate))

    @property
    def capacity(self) -> int:
        """How many attempts this node wants to have at a time."""
        slots = len(self.slots)
        estimate = self._estimate_us
        if estimate is None or estimate > SHORT_US:
            return slots + self._prefetch
        ahead = min(slots * MAX_PREFETCH_PER_SLOT, int(slots * PREFETCH_US / estimate))
        return slots + max(self._prefetch, ahead)

    @property
    def empty(self) -> bool:
        """Whether there is no attempt here, waiting or running."""
        return not self._queue and not any(slot.given for slot in self.slots)

    @property
    def busy(self) -> bool:
        """Whether every worker has several attempts: then none idles if the manager rests for a moment."""
        return all(len(slot.given) > MAX_DEPTH // 4 for slot in self.slots)

    # --- messages in

    def add(self, message: protocol.Tasks, payload: Sequence[Any]) -> None:
        """Queue attempts."""
        if message.functions:
            self._functions.update(message.functions)
        position = 0
        for item in message.tasks:
            self._queue.append((item, payload[position : position + item.frames] if item.frames else ()))
            position += item.frames

    def retiring(self, rank: int) -> None:
        """The worker ends by itself, and runs nothing any more."""
        self.slots[rank].retiring = True

    def ended(self, rank: int, results: Sequence[ResultItem]) -> list[ResultItem]:
        """Take results of a worker in; return those that are wanted."""
        slot = self.slots[rank]
        wanted = []
        for result in results:
            if slot.given and slot.given[0][0].key == result.key:
                slot.given.popleft()
                wanted.append(result)
                self._learn(float(result.duration_us))
        return wanted

    def lost(self, rank: int) -> int | None:
        """The worker's process is gone: queue again what it had not begun.

        Returns:
            The key of the attempt that it ran; None if it ran none.
        """
        slot = self.slots[rank]
        given, slot.given = slot.given, deque()
        slot.functions = set()
        running = given.popleft()[0].key if given and slot.ready and not slot.retiring else None
        slot.ready = slot.retiring = False
        self._queue.extendleft(reversed(given))
        # Whatever made it die may be in the queue: be careful again.
        self._mean_us = None
        return running

    def cancel(self, keys: Sequence[int]) -> list[int]:
        """Drop attempts that have not begun.

        Returns:
            Ranks of workers that run a cancelled attempt and have nothing else: ending them interrupts it.
        """
        cancelled = set(keys)
        self._queue = deque(entry for entry in self._queue if entry[0].key not in cancelled)
        return [s.rank for s in self.slots if len(s.given) == 1 and s.given[0][0].key in cancelled]

    def forget(self, functions: Sequence[bytes]) -> list[Assignment]:
        """Drop functions here and in the workers that know them."""
        out: list[Assignment] = []
        for function in functions:
            self._functions.pop(function, None)
            for slot in self.slots:
                if function in slot.functions:
                    slot.functions.discard(function)
                    out.append((slot.rank, protocol.Forget([function]), []))
        return out

    # --- decisions out

    def assign(self) -> list[Assignment]:
        """Return what to give to which worker now."""
        queue = self._queue
        if not queue:
            return []
        out: list[Assignment] = []
        depth = self.depth
        open_slots = [slot for slot in self.slots if len(slot.given) < depth and not slot.retiring]
        if depth > 1:
            # The emptiest first, so that a free worker is never passed over.
            open_slots.sort(key=lambda slot: len(slot.given))
        for position, slot in enumerate(open_slots):
            if not queue:
                break
            left = len(open_slots) - position
            count = min(depth - len(slot.given), -(-len(queue) // left))
            out.append(self._give(slot, count))
        return out

    def _give(self, slot: Slot, count: int) -> Assignment:
        items: list[TaskItem] = []
        functions: dict[bytes, bytes] = {}
        frames: list[Any] = []
        for _ in range(count):
            entry = self._queue.popleft()
            item, payload = entry
            slot.given.append(entry)
            items.append(item)
            frames += payload
            if item.function not in slot.functions:
                slot.functions.add(item.function)
                functions[item.function] = self._functions[item.function]
        return slot.rank, protocol.Tasks(items, functions), frames

    def _learn(self, duration_us: float) -> None:
        if self._mean_us is None:
            self._mean_us = duration_us
            # One attempt says little of the next: expect more until there is experience.
            self._deviation_us = duration_us
            return
        off = duration_us - self._mean_us
        self._mean_us += WEIGHT * off
        self._deviation_us += WEIGHT * (abs(off) - self._deviation_us)
