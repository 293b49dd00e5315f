"""What is to be done next about the transfers that are open: which of them go together, and when Globus is asked.

Rule of this module: pure. It is told what happened and what time it is, and says what is due; it does no I/O, reads no
clock and takes no lock.

A *batch* is one task of Globus with the files of many transfers: of one direction, between the same two endpoints. It
gathers files for a short time, or until there is room for another task, and is then sealed and submitted::

    gathering ──▶ submitting ──▶ open ──▶ ended
                                  └──▶ stopping ──▶ ended
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import attrs

from flowcore_staging_globus import outcomes
from flowcore_staging_globus.mapping import Location
from flowcore_staging_globus.problems import Problem

#: Files in one task of Globus, at most: they all wait for the last of them.
MOST_ITEMS = 200
#: Tasks of Globus at a time, at most. Globus works on few tasks of a user at a time, and lets the others wait.
MOST_OPEN = 20
#: Seconds between two questions about a task, at most.
LONGEST_INTERVAL_S = 30.0
#: Seconds that are waited for the end of a task that was cancelled.
STOPPING_S = 30.0
#: Seconds between two attempts to reach Globus, at most, unless it wants to be left alone for longer.
LONGEST_PAUSE_S = 60.0

Key = tuple[str, str, str, int]


@attrs.define(eq=False)
class Item:
    """The transfer of one file.

    Attributes:
        action: ``fetch`` or ``push``.
        url: the file's URL.
        source, destination: where it is, and where it shall be.
        due_at: when it has to have arrived.
        future: gets ``value``, or an error.
        value: what the future gets when the file has arrived.
        tries: in how many tasks of Globus it has been.
    """

    action: str
    url: str
    source: Location
    destination: Location
    due_at: float
    future: Future[Any]
    value: Any = None
    tries: int = 1

    @property
    def key(self) -> Key:
        """What transfers of one batch have in common."""
        return (self.action, self.source.endpoint, self.destination.endpoint, self.tries)


class State(enum.Enum):
    """What has become of a batch."""

    GATHERING = "gathering"
    SUBMITTING = "submitting"
    OPEN = "open"
    STOPPING = "stopping"


@attrs.define(eq=False)
class Batch:
    """Transfers that go in one task of Globus.

    Attributes:
        items: they.
        next_at: when something is due.
        due_at: when the first of them has to have arrived.
        opened_at: when Globus took it.
        submission_id: by which Globus knows a submission again.
        task_id: of the task.
        stop: why it was cancelled.
        cancelled: Globus was told to.
        last: the last document about the task.
        pause: what administrators say who have paused the task; None while it is not paused.
        failures, failing_since, problem: attempts to reach Globus that failed since the last that did not.
        hopeless_since: since when the task cannot go on.
        places: paths of the files' destinations.
    """

    items: list[Item]
    next_at: float
    due_at: float
    state: State = State.GATHERING
    opened_at: float = 0.0
    submission_id: str | None = None
    task_id: str | None = None
    stop: outcomes.Stop | None = None
    cancelled: bool = False
    last: Mapping[str, Any] = attrs.field(factory=dict)
    pause: str | None = None
    failures: int = 0
    failing_since: float = 0.0
    problem: Problem | None = None
    hopeless_since: float | None = None
    places: set[str] = attrs.field(factory=set)

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for any of its files."""
        return any(not item.future.done() for item in self.items)

    @property
    def wakes_at(self) -> float:
        """When something is due, or overdue."""
        return self.next_at if self.state is State.STOPPING else min(self.next_at, self.due_at)


class Step(enum.Enum):
    """What is due about a batch."""

    SUBMIT = "submit"
    ASK = "ask"
    CANCEL = "cancel"
    #: All is known that will be: find out what became of each file.
    END = "end"
    #: It has not been submitted and will not be.
    DROP = "drop"


class Ledger:
    """The transfers that are open.

    Args:
        window_s: seconds that a batch waits for more files.
        interval_s: seconds between two questions about a young task; older ones are asked about less often.
        patience_s: seconds that a task may be held up by what waiting does not mend.
        outage_s: seconds that Globus may be out of reach.
    """

    def __init__(self, window_s: float, interval_s: float, patience_s: float, outage_s: float) -> None:
        self._window_s = window_s
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._outage_s = outage_s
        self._gathering: dict[Key, Batch] = {}
        self._full: list[Batch] = []
        self._sealed: list[Batch] = []

    def batches(self) -> Iterator[Batch]:
        """All batches that have not ended."""
        return itertools.chain(self._sealed, self._full, self._gathering.values())

    def __bool__(self) -> bool:
        return bool(self._sealed or self._full or self._gathering)

    def add(self, item: Item, now: float) -> bool:
        """Take a transfer in.

        Returns:
            Whether something may be due earlier than :meth:`next_at` said before.
        """
        batch = self._gathering.get(item.key)
        if batch is not None and item.destination.path in batch.places:
            # In one task, Globus would have two files for one place.
            self._fill(batch, now)
            batch = None
        if batch is None:
            batch = self._gathering[item.key] = Batch([], now + self._window_s, item.due_at)
        batch.items.append(item)
        batch.places.add(item.destination.path)
        batch.due_at = min(batch.due_at, item.due_at)
        if len(batch.items) >= MOST_ITEMS:
            self._fill(batch, now)
        return len(batch.items) in (1, MOST_ITEMS) or batch.due_at == item.due_at

    def _fill(self, batch: Batch, now: float) -> None:
        del self._gathering[batch.items[0].key]
        batch.next_at = now
        self._full.append(batch)

    def due(self, now: float) -> list[tuple[Step, Batch]]:
        """Return what is to be done now. Batches that are to be submitted are sealed by this."""
        steps = []
        for batch in list(self.batches()):
            step = self._due(batch, now)
            if step is not None:
                steps.append((step, batch))
        return steps

    def next_at(self) -> float | None:
        """Return when something will be due, without new events; None: not before there is one."""
        room = len(self._sealed) < MOST_OPEN
        times = [batch.wakes_at for batch in self._sealed]
        times += [
            batch.wakes_at if room else batch.due_at for batch in itertools.chain(self._full, self._gathering.values())
        ]
        return min(times, default=None)

    def _due(self, batch: Batch, now: float) -> Step | None:
        if batch.task_id is None:
            return self._due_before(batch, now)
        if batch.state is State.OPEN:
            if not batch.wanted:
                self._begin_to_stop(batch, outcomes.Stop.UNWANTED, now)
            elif now >= batch.due_at:
                self._begin_to_stop(batch, outcomes.Stop.DEADLINE, now)
        if now < batch.next_at:
            return None
        if batch.state is State.STOPPING and now >= batch.due_at:
            return Step.END
        return Step.CANCEL if batch.state is State.STOPPING and not batch.cancelled else Step.ASK

    def _due_before(self, batch: Batch, now: float) -> Step | None:
        if not batch.wanted:
            return Step.DROP
        if now >= batch.due_at:
            batch.stop = outcomes.Stop.DEADLINE
            return Step.DROP
        if now < batch.next_at:
            return None
        if batch.state is State.GATHERING:
            if len(self._sealed) >= MOST_OPEN:
                return None
            self._seal(batch)
        return Step.SUBMIT

    def _seal(self, batch: Batch) -> None:
        self.ended(batch)
        batch.state = State.SUBMITTING
        self._sealed.append(batch)

    def _begin_to_stop(self, batch: Batch, stop: outcomes.Stop, now: float) -> None:
        batch.state = State.STOPPING
        batch.stop = stop
        batch.next_at = now
        batch.due_at = now + STOPPING_S

    def submitted(self, batch: Batch, task_id: str, now: float) -> None:
        """Globus has taken a batch as a task."""
        self._reached(batch)
        batch.task_id = task_id
        batch.state = State.OPEN
        batch.opened_at = now
        batch.next_at = now + self._interval_s

    def asked(self, batch: Batch, task: Mapping[str, Any], now: float) -> bool:
        """Globus has told about a task.

        Returns:
            Whether that is the end of it.
        """
        self._reached(batch)
        if outcomes.progress(task) != outcomes.progress(batch.last):
            batch.hopeless_since = None
        batch.last = task
        age_s = now - batch.opened_at
        batch.next_at = now + min(max(age_s / 10, self._interval_s), max(LONGEST_INTERVAL_S, self._interval_s))
        condition = outcomes.condition(task)
        if condition is outcomes.Condition.ENDED:
            return True
        if batch.state is State.STOPPING:
            batch.next_at = now + self._interval_s
        elif condition is outcomes.Condition.SUSPENDED:
            self._begin_to_stop(batch, outcomes.Stop.SUSPENDED, now)
        elif condition is outcomes.Condition.GOING:
            batch.hopeless_since = None
        else:
            batch.hopeless_since = now if batch.hopeless_since is None else batch.hopeless_since
            if now - batch.hopeless_since >= self._patience_s:
                self._begin_to_stop(batch, outcomes.Stop.HOPELESS, now)
            else:
                batch.next_at = min(batch.next_at, batch.hopeless_since + self._patience_s)
        return False

    def cancelled(self, batch: Batch, now: float) -> None:
        """Globus was told to cancel a task."""
        self._reached(batch)
        batch.cancelled = True
        batch.next_at = now

    def failed(self, batch: Batch, problem: Problem, now: float) -> bool:
        """Globus could not be asked, or has refused.

        Returns:
            Whether that is the end of it.
        """
        if not batch.failures:
            batch.failing_since = now
        batch.failures += 1
        batch.problem = problem
        wanted_s = problem.retry_after_s or 0.0
        left_s = batch.failing_since + self._outage_s - now
        pause_s = min(self._interval_s * 2 ** min(batch.failures - 1, 20), LONGEST_PAUSE_S, left_s)
        batch.next_at = now + max(pause_s, wanted_s)
        if batch.state is State.STOPPING and now < batch.due_at:
            batch.next_at = min(batch.next_at, batch.due_at)
        return not problem.passing or left_s <= 0 or wanted_s > left_s

    def ended(self, batch: Batch) -> None:
        """Forget a batch."""
        for batches in (self._sealed, self._full):
            if batch in batches:
                batches.remove(batch)
        key = batch.items[0].key
        if self._gathering.get(key) is batch:
            del self._gathering[key]

    def _reached(self, batch: Batch) -> None:
        batch.failures = 0
        batch.problem = None
