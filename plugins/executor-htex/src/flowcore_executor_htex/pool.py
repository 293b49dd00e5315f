"""The manager's decisions, without sockets and processes: which worker gets which attempts.

Rules of this module. A worker is given more than one attempt at a time only while attempts of these functions are known
to be so short that nothing ever waits noticeably behind another (``QUEUE_US``); where that turns out wrong, what waits
is taken back from it (``STUCK_S``). Time is an argument, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from flowcore_executor_htex import protocol
from flowcore_executor_htex.protocol import Needs, Place, ResultItem, TaskItem

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
#: With others behind it, an attempt that has run for so long is no short one: they are taken back.
STUCK_S = 0.006

Payload = Sequence[Any]
#: An attempt, its payload frames, and the time that it was expected to take in microseconds.
Given = tuple[TaskItem, Payload, float]


class Estimate:
    """What attempts take: a running mean, and a running mean of the distance to it."""

    __slots__ = ("_deviation_us", "_mean_us", "us")

    def __init__(self, duration_us: float) -> None:
        self._mean_us = duration_us
        # One attempt says little of the next: expect more until there is experience.
        self._deviation_us = duration_us
        #: Microseconds that the next one takes, on the long side.
        self.us = 3 * duration_us + OVERHEAD_US

    def learn(self, duration_us: float) -> None:
        """Take another attempt in."""
        off = duration_us - self._mean_us
        self._mean_us += WEIGHT * off
        self._deviation_us += WEIGHT * (abs(off) - self._deviation_us)
        self.us = self._mean_us + 2 * self._deviation_us + OVERHEAD_US


@attrs.define(slots=True, eq=False)
class Slot:
    """A worker.

    ``given`` are the attempts that it has, in order: the first one runs, since ``since``; ``load_us`` is what they were
    expected to take. A worker that is ``retiring`` runs none and ends by itself. One that is ``lent`` has none, since
    the attempt of another worker needs its cores.
    """

    rank: int
    ready: bool = False
    retiring: bool = False
    given: deque[Given] = attrs.field(factory=deque)
    load_us: float = 0.0
    since: float = 0.0
    lent: bool = False
    borrowed: list[Slot] = attrs.field(factory=list)
    nodes: list[str] = attrs.field(factory=list)
    functions: set[bytes] = attrs.field(factory=set)


#: What to send: the worker's rank, the message, its payload frames.
Assignment = tuple[int, protocol.Message, list[Any]]
#: Makes the place of an attempt from its needs, the ranks of the slots that it has, and its nodes.
PlaceOf = Callable[[Needs, Sequence[int], Sequence[str]], Place]


def _plain_place(needs: Needs, ranks: Sequence[int], nodes: Sequence[str]) -> Place:
    return Place([], needs.variables)


class Pool:
    """The slots of a node, and the attempts that wait for one.

    Args:
        slots: number of workers.
        prefetch_capacity: attempts to hold beyond them whatever they take.
        nodes: names of the nodes that attempts can have for themselves (MPI).
        place_of: what a worker is to set for an attempt with needs.
    """

    def __init__(
        self, slots: int, prefetch_capacity: int = 0, nodes: Iterable[str] = (), place_of: PlaceOf = _plain_place
    ) -> None:
        self.slots = [Slot(rank) for rank in range(slots)]
        self._prefetch = prefetch_capacity
        self._place_of = place_of
        self._nodes = list(nodes)
        self._free_nodes = list(self._nodes)
        self._queue: deque[tuple[TaskItem, Payload]] = deque()
        #: Attempts that need more than a free worker. The interchange sends them when there is place for them.
        self._demanding: deque[tuple[TaskItem, Payload]] = deque()
        self._functions: dict[bytes, bytes] = {}
        self._estimates: dict[bytes, Estimate] = {}
        self._overall: Estimate | None = None

    # --- estimates

    @property
    def capacity(self) -> int:
        """How many attempts this node wants to have at a time."""
        slots = len(self.slots)
        overall = self._overall
        if overall is None or overall.us > SHORT_US:
            return slots + self._prefetch
        ahead = min(slots * MAX_PREFETCH_PER_SLOT, int(slots * PREFETCH_US / overall.us))
        return slots + max(self._prefetch, ahead)

    @property
    def empty(self) -> bool:
        """Whether there is no attempt here, waiting or running."""
        return not self._queue and not self._demanding and not any(slot.given for slot in self.slots)

    @property
    def busy(self) -> bool:
        """Whether every worker has several attempts: then none idles if the manager rests for a moment."""
        return all(len(slot.given) > MAX_DEPTH // 4 for slot in self.slots)

    @property
    def ahead(self) -> bool:
        """Whether a worker has attempts behind the one that it runs: then :meth:`stuck` is to be asked soon."""
        return any(len(slot.given) > 1 for slot in self.slots)

    @property
    def working(self) -> bool:
        """Whether a worker has an attempt. For any thread."""
        return any(slot.given for slot in self.slots)

    def runs(self, rank: int, key: int) -> bool:
        """Return whether a worker is at this attempt, as far as is known."""
        given = self.slots[rank].given
        return bool(given) and given[0][0].key == key

    def _learn(self, function: bytes, duration_us: float) -> None:
        estimate = self._estimates.get(function)
        if estimate is None:
            self._estimates[function] = Estimate(duration_us)
        else:
            estimate.learn(duration_us)
        if self._overall is None:
            self._overall = Estimate(duration_us)
        else:
            self._overall.learn(duration_us)

    # --- messages in

    def add(self, message: protocol.Tasks, payload: Sequence[Any]) -> None:
        """Queue attempts."""
        if message.functions:
            self._functions.update(message.functions)
        position = 0
        for item in message.tasks:
            entry = (item, payload[position : position + item.frames] if item.frames else ())
            position += item.frames
            if item.needs is not None and item.needs.demanding:
                self._demanding.append(entry)
            else:
                self._queue.append(entry)

    def ready(self, rank: int, now: float) -> None:
        """The worker has started."""
        slot = self.slots[rank]
        slot.ready = True
        slot.since = now

    def retiring(self, rank: int) -> None:
        """The worker ends by itself, and runs nothing any more."""
        self.slots[rank].retiring = True

    def ended(self, rank: int, results: Sequence[ResultItem], now: float) -> list[ResultItem]:
        """Take results of a worker in; return those that are wanted."""
        slot = self.slots[rank]
        given = slot.given
        wanted = []
        for result in results:
            if given and given[0][0].key == result.key:
                item, _, expected_us = given.popleft()
                slot.load_us = slot.load_us - expected_us if given else 0.0
                result.worker = rank
                wanted.append(result)
                self._learn(item.function, float(result.duration_us))
        slot.since = now
        if wanted and not slot.retiring and (slot.borrowed or slot.nodes):
            self._release(slot)
        return wanted

    def lost(self, rank: int, waiting: int = 0) -> int | None:
        """The worker's process is gone: queue again what it had not begun.

        Args:
            rank: the worker's.
            waiting: how many of its attempts it has certainly not begun.

        Returns:
            The key of the attempt that it ran; None if it ran none.
        """
        slot = self.slots[rank]
        given, slot.given = slot.given, deque()
        slot.functions = set()
        slot.load_us = 0.0
        self._release(slot)
        running = given.popleft()[0].key if len(given) > waiting and slot.ready and not slot.retiring else None
        slot.ready = slot.retiring = False
        self._queue_again(given)
        # Whatever made it die may be in the queue: be careful again.
        self._overall = None
        self._estimates.clear()
        return running

    def _queue_again(self, given: Sequence[Given]) -> None:
        for item, payload, _ in reversed(given):
            queue = self._demanding if item.needs is not None and item.needs.demanding else self._queue
            queue.appendleft((item, payload))

    def _release(self, slot: Slot) -> None:
        for other in slot.borrowed:
            other.lent = False
        # In the scheduler's order, in which neighbours are.
        free = {*self._free_nodes, *slot.nodes}
        self._free_nodes = [node for node in self._nodes if node in free]
        slot.borrowed, slot.nodes = [], []

    def holders(self, keys: Sequence[int]) -> list[int]:
        """Return the ranks of workers that have one of some attempts, begun or not."""
        wanted = set(keys)
        return [s.rank for s in self.slots if any(entry[0].key in wanted for entry in s.given)]

    def taken_back(self, rank: int, count: int, now: float) -> None:
        """A worker's last attempts were taken back from it: queue them again.

        That it has not come to them says something of the one that it runs.
        """
        slot = self.slots[rank]
        back = [slot.given.pop() for _ in range(min(count, len(slot.given)))][::-1]
        if not slot.given:
            self._release(slot)
        self._queue_again(back)
        # Until it has ended what it runs, it is given nothing.
        slot.load_us = QUEUE_US if slot.given else 0.0
        if slot.given and slot.ready:
            self._learn(slot.given[0][0].function, (now - slot.since) * 1e6)

    def cancel(self, keys: Sequence[int]) -> list[int]:
        """Drop attempts, after those that workers have not begun were taken back from :meth:`holders`.

        Returns:
            Ranks of workers that run a cancelled attempt and have nothing else: they are to be ended, which interrupts
            it, and are given nothing until they are replaced.
        """
        cancelled = set(keys)
        self._queue = deque(entry for entry in self._queue if entry[0].key not in cancelled)
        self._demanding = deque(entry for entry in self._demanding if entry[0].key not in cancelled)
        running = [s for s in self.slots if len(s.given) == 1 and s.given[0][0].key in cancelled]
        for slot in running:
            slot.given.clear()
            slot.retiring = True
        return [slot.rank for slot in running]

    def forget(self, functions: Sequence[bytes]) -> list[Assignment]:
        """Drop functions here and in the workers that know them."""
        out: list[Assignment] = []
        for function in functions:
            self._functions.pop(function, None)
            self._estimates.pop(function, None)
            for slot in self.slots:
                if function in slot.functions:
                    slot.functions.discard(function)
                    out.append((slot.rank, protocol.Forget([function]), []))
        return out

    def surplus(self) -> tuple[list[TaskItem], list[Any]]:
        """Take out attempts that wait here beyond what this node wants to have; others may be free for them.

        Returns:
            The attempts and their payload frames.
        """
        room = self.capacity - sum(len(slot.given) for slot in self.slots)
        if len(self._queue) <= max(0, room):
            return [], []
        return self._take_out(len(self._queue) - max(0, room))

    def all_waiting(self) -> tuple[list[TaskItem], list[Any]]:
        """Take out all attempts that wait here, as :meth:`surplus` does: this node drains."""
        return self._take_out(len(self._queue))

    def _take_out(self, count: int) -> tuple[list[TaskItem], list[Any]]:
        entries = [self._queue.pop() for _ in range(count)][::-1]
        return [item for item, _ in entries], [frame for _, payload in entries for frame in payload]

    # --- decisions out

    def stuck(self, now: float) -> list[int]:
        """Return the ranks of workers whose waiting attempts are to be taken back, since another could run them."""
        idle = any(s.ready and not s.given and not s.lent and not s.retiring for s in self.slots)
        return [
            s.rank
            for s in self.slots
            if (len(s.given) > 1 and now - s.since > STUCK_S) or (idle and s.given and not s.ready)
        ]

    def assign(self, now: float) -> list[Assignment]:
        """Return what to give to which worker now."""
        out: list[Assignment] = []
        if self._demanding:
            self._assign_demanding(out, now)
            if self._demanding:
                return out  # what becomes free is for it
        queue = self._queue
        if not queue:
            return out
        open_slots = [
            slot
            for slot in self.slots
            if not slot.lent and not slot.retiring and slot.load_us < QUEUE_US and len(slot.given) < MAX_DEPTH
        ]
        # The emptiest first, so that a free worker is never passed over; those that still start last among them.
        open_slots.sort(key=lambda slot: len(slot.given) + (not slot.ready))
        for position, slot in enumerate(open_slots):
            if not queue:
                break
            left = len(open_slots) - position
            entries = self._next(slot, -(-len(queue) // left))
            if entries:
                out.append(self._give(slot, entries, now))
        return out

    def _next(self, slot: Slot, count: int) -> list[Given]:
        """Take up to so many attempts for a worker from the head of the queue, as long as they are short together."""
        entries: list[Given] = []
        queue, estimates = self._queue, self._estimates
        load_us = slot.load_us
        empty = not slot.given
        count = min(count, MAX_DEPTH - len(slot.given)) if slot.ready else 1 - len(slot.given)
        while queue and len(entries) < count:
            item, payload = queue[0]
            estimate = estimates.get(item.function)
            expected_us = QUEUE_US if estimate is None or estimate.us > SHORT_US else estimate.us
            load_us += expected_us
            if load_us > QUEUE_US and not empty:
                break
            empty = False
            queue.popleft()
            entries.append((item, payload, expected_us))
        return entries

    def _assign_demanding(self, out: list[Assignment], now: float) -> None:
        while self._demanding:
            item, payload = self._demanding[0]
            needs = item.needs
            assert needs is not None
            free = [s for s in self.slots if not s.given and not s.lent and not s.retiring]
            free.sort(key=lambda slot: not slot.ready)
            if len(free) < needs.slots or len(self._free_nodes) < needs.nodes:
                return
            self._demanding.popleft()
            slot, *borrowed = free[: max(1, needs.slots)]
            slot.borrowed = borrowed
            for other in borrowed:
                other.lent = True
            slot.nodes, self._free_nodes = self._free_nodes[: needs.nodes], self._free_nodes[needs.nodes :]
            out.append(self._give(slot, [(item, payload, QUEUE_US)], now))

    def _give(self, slot: Slot, entries: Sequence[Given], now: float) -> Assignment:
        items: list[TaskItem] = []
        functions: dict[bytes, bytes] = {}
        frames: list[Any] = []
        if not slot.given:
            slot.since = now
        for entry in entries:
            item, payload, expected_us = entry
            slot.given.append(entry)
            slot.load_us += expected_us
            if item.needs is not None:
                item.place = self._place_of(item.needs, [slot.rank, *(s.rank for s in slot.borrowed)], slot.nodes)
            items.append(item)
            frames += payload
            if item.function not in slot.functions:
                slot.functions.add(item.function)
                functions[item.function] = self._functions[item.function]
        return slot.rank, protocol.Tasks(items, functions), frames
