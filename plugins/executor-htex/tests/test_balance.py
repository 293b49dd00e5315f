"""Balance on a simulated clock: the real Dispatcher and Pools, with events in place of sockets, processes and time.

Nothing here depends on the speed of the machine: a task "takes" what the test says, a message ``HOP_S``. The makespan
is compared with that of an ideal greedy schedule, which gives each task, in order, to the worker that is free first.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flowcore_executor_htex import protocol
from flowcore_executor_htex.dispatch import Dispatcher, Output
from flowcore_executor_htex.pool import STUCK_S, Pool
from flowcore_executor_htex.protocol import ResultItem, TaskItem
from flowcore_executor_htex.tokens import Claims, Tokens

#: Seconds that a message is on its way, between any two: six of them make the round trip of a task.
HOP_S = 50e-6
#: What a worker does for a task besides running its function, in seconds.
OVERHEAD_S = 20e-6
#: The submit side sends so many tasks in one message.
BATCH = 64
#: How much longer than the ideal schedule a run may take.
TOLERANCE = 1.10

#: A task: the name of its function, and the seconds that the call takes.
Task = tuple[str, float]


class Worker:
    """Runs what it is given, in order, and takes a token for each attempt as the worker's process does."""

    def __init__(self, node: Node, rank: int) -> None:
        self._node = node
        self._rank = rank
        self.tokens = Tokens()
        self._claims = Claims(self.tokens.reader)
        self._messages: deque[protocol.Tasks] = deque()
        self._running = False

    def receive(self, message: protocol.Tasks) -> None:
        """Take a message of the manager in."""
        self._messages.append(message)
        self._next()

    def _next(self) -> None:
        while self._messages and not self._running:
            message = self._messages[0]
            if not message.tasks or not self._claims.claim(message.epoch):
                self._messages.popleft()
                continue
            self._running = True
            key = message.tasks.pop(0).key
            simulation = self._node.simulation
            duration = simulation.tasks[key][1]
            simulation.ran.append(key)
            simulation.after(duration + OVERHEAD_S, self._end, key, duration)

    def _end(self, key: int, duration: float) -> None:
        self._running = False
        result = ResultItem(key, protocol.VALUE, b"", 0, round(duration * 1e6))
        self._node.simulation.after(HOP_S, self._node.from_worker, self._rank, [result])
        self._next()


class Node:
    """A manager: the loop of manager.py around its Pool."""

    def __init__(self, simulation: Simulation, name: str, slots: int) -> None:
        self.simulation = simulation
        self.name = name
        self._pool = Pool(slots)
        self.workers = [Worker(self, rank) for rank in range(slots)]
        self._capacity_told = slots
        self._will_look = False
        for rank in range(slots):
            self._pool.ready(rank, 0.0)

    def from_hub(self, header: bytes) -> None:
        """Take a message of the interchange in."""
        message = protocol.decode(header)
        if isinstance(message, protocol.Tasks):
            self._pool.add(message, [])
            self._turn([])

    def from_worker(self, rank: int, results: Sequence[ResultItem]) -> None:
        """Take results of a worker in."""
        self._turn(self._pool.ended(rank, results, self.simulation.now))

    def _look(self) -> None:
        self._will_look = False
        self._turn([])

    def _turn(self, results: list[ResultItem]) -> None:
        pool, simulation = self._pool, self.simulation
        for rank in pool.stuck(simulation.now):
            taken = self.workers[rank].tokens.take_back()
            if taken:
                pool.taken_back(rank, taken, simulation.now)
        for rank, message, _ in pool.assign(simulation.now):
            assert isinstance(message, protocol.Tasks)
            worker = self.workers[rank]
            worker.tokens.put(len(message.tasks))
            message.epoch = worker.tokens.epoch
            simulation.after(HOP_S, worker.receive, message)
        capacity = pool.capacity
        if results or capacity != self._capacity_told:
            self._capacity_told = capacity
            simulation.to_hub(self.name, protocol.Results(results, capacity))
        items, _ = pool.surplus()
        if items:
            simulation.to_hub(self.name, protocol.Tasks(items))
        if pool.ahead and not self._will_look:
            self._will_look = True
            simulation.after(STUCK_S, self._look)


class Simulation:
    """A hub and its nodes on a clock of their own.

    Args:
        tasks: in the order in which they are submitted.
        nodes: number of nodes.
        slots: workers of each.
        per_s: tasks that are submitted per second; infinity: all of them, before the first node is there.
    """

    def __init__(self, tasks: Sequence[Task], nodes: int, slots: int, per_s: float) -> None:
        self.tasks = tasks
        #: The tasks that have begun.
        self.ran: list[int] = []
        #: Seconds since the beginning.
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._ended: dict[int, float] = {}
        self._hub = Dispatcher(math.inf)
        self._nodes = {name: Node(self, name, slots) for name in map(str, range(nodes))}
        sent: set[str] = set()
        for first in range(0, len(tasks), BATCH):
            keys = range(first, min(len(tasks), first + BATCH))
            functions = {tasks[key][0] for key in keys} - sent
            sent |= functions
            message = protocol.Tasks(
                [TaskItem(key, tasks[key][0].encode(), b"") for key in keys], {name.encode(): b"" for name in functions}
            )
            self.after(released(first, per_s), self._from_executor, message)
        for name in self._nodes:
            self.after(0.0, self._greet, name.encode(), protocol.hello(name, "0", name, slots))

    def after(self, seconds: float, event: Callable[..., None], *arguments: Any) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event, arguments))

    def to_hub(self, name: str, message: protocol.Message) -> None:
        """Send a message of a manager."""
        self.after(HOP_S, self._from_manager, name.encode(), message)

    def run(self) -> float:
        """Run until nothing happens any more; return the makespan in seconds. Each task has run exactly once."""
        while self._events:
            self.now, _, event, arguments = heapq.heappop(self._events)
            event(*arguments)
        for node in self._nodes.values():
            for worker in node.workers:
                worker.tokens.close()
        assert sorted(self.ran) == list(range(len(self.tasks)))
        assert sorted(self._ended) == list(range(len(self.tasks)))
        return max(self._ended.values())

    def _from_executor(self, message: protocol.Message) -> None:
        self._deliver(self._hub.from_executor(message, []))

    def _greet(self, identity: bytes, greeting: protocol.Hello) -> None:
        self._deliver(self._hub.greet(identity, greeting, self.now))

    def _from_manager(self, identity: bytes, message: protocol.Message) -> None:
        self._deliver(self._hub.from_manager(identity, message, [], self.now))

    def _deliver(self, outputs: list[Output]) -> None:
        for identity, frames in outputs:
            if identity is None:
                message = protocol.decode(frames[0])
                assert isinstance(message, protocol.Results)
                for result in message.results:
                    assert result.key not in self._ended
                    self._ended[result.key] = self.now
            else:
                node = self._nodes[identity.decode()]
                self.after(HOP_S, node.from_hub, frames[0])


def released(position: int, per_s: float) -> float:
    """Return when a task is submitted, in seconds: with the first one of its batch."""
    return position // BATCH * BATCH / per_s


def ideal(tasks: Sequence[Task], workers: int, per_s: float) -> float:
    """Return the makespan of the greedy schedule: no message takes time, and each task goes to who is free first."""
    free = [0.0] * workers
    for position, (_, duration) in enumerate(tasks):
        heapq.heapreplace(free, max(free[0], released(position, per_s)) + duration + OVERHEAD_S)
    return max(free)


def one_function(durations: Sequence[float]) -> list[Task]:
    return [("f", duration) for duration in durations]


def uniform(generator: random.Random) -> list[Task]:
    return one_function([generator.uniform(0.001, 2) for _ in range(400)])


def log_uniform(generator: random.Random) -> list[Task]:
    return one_function([0.001 * 2000 ** generator.random() for _ in range(1200)])


def bimodal(generator: random.Random) -> list[Task]:
    return one_function([2.0 if generator.random() < 0.1 else 0.001 for _ in range(2000)])


def bimodal_of_two_functions(generator: random.Random) -> list[Task]:
    return [generator.choices([("short", 0.001), ("long", 2.0)], [9, 1])[0] for _ in range(2000)]


def ascending(generator: random.Random) -> list[Task]:
    return sorted(log_uniform(generator))


def descending(generator: random.Random) -> list[Task]:
    return sorted(log_uniform(generator), reverse=True)


def short_then_long(generator: random.Random) -> list[Task]:
    return one_function([0.001] * 10_000 + [generator.uniform(1, 2) for _ in range(100)])


def no_ops_then_long(generator: random.Random) -> list[Task]:
    return one_function([20e-6] * generator.randrange(9000, 11_000) + [generator.uniform(1, 2) for _ in range(24)])


def short_then_long_of_another_function(generator: random.Random) -> list[Task]:
    return [("short", 0.001)] * 10_000 + [("long", generator.uniform(1, 2)) for _ in range(100)]


def long_ones_among_no_ops(generator: random.Random) -> list[Task]:
    """So rare that nothing known of the function tells of them."""
    return one_function([2.0 if position % 400 == 399 else 20e-6 for position in range(12_000)])


def waves(generator: random.Random) -> list[Task]:
    return one_function(([0.001] * 500 + [generator.uniform(0.5, 2) for _ in range(24)]) * 5)


MIXES = [
    uniform,
    log_uniform,
    bimodal,
    bimodal_of_two_functions,
    ascending,
    descending,
    short_then_long,
    no_ops_then_long,
    short_then_long_of_another_function,
    long_ones_among_no_ops,
    waves,
]


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.__name__)
@pytest.mark.parametrize(("nodes", "slots"), [(1, 8), (4, 2)], ids=["one-node", "four-nodes"])
@pytest.mark.parametrize("per_s", [math.inf, 20_000], ids=["all-at-once", "one-by-one"])
def test_the_makespan_is_near_that_of_an_ideal_schedule(
    mix: Callable[[random.Random], list[Task]], nodes: int, slots: int, per_s: float
) -> None:
    tasks = mix(random.Random(1))
    makespan = Simulation(tasks, nodes, slots, per_s).run()
    best = ideal(tasks, nodes * slots, per_s)
    assert makespan <= TOLERANCE * best, f"{makespan:.3f} s, ideally {best:.3f} s: {makespan / best:.3f} times as long"
