"""Attempts over time: when they were at work, on which workers, and for how long.

Rules of this module. The database sums up, and what is fetched is bounded by the size of a chart, not of the run; where
rows are fetched, or only some of the tasks are looked at, the docstring says so. SQL is what SQLite and PostgreSQL have
in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from flowcore_monitoring_sqlite.schema import attempt, task
from sqlalchemy import ColumnElement, Connection, and_, case, desc, func, not_, or_, select

from flowcore_monitoring_dashboard.stretches import BINS, Changes

#: Bars in a chart of tasks.
BARS = 400
#: Lanes in a chart of workers.
LANES = 60
#: Buckets of a histogram for each factor of ten.
_BUCKETS = 5


@attrs.frozen
class Attempts:
    """The attempts of a run, for SQL, with the time at which each began to be at work.

    Executors tell it of attempts that take a while, and some of none. A worker does one thing at a time: an attempt
    that is not told of began when the one before it on its worker ended, or when it was launched, if that was later.

    Attributes:
        c: columns task_id, try_id, executor, block_id, hostname, worker, launched, began, returned. ``began`` is NULL
            for what waits, and texts that are not known are "".
        silent: the executors that never tell; what waits for them counts as at work from its launch.
    """

    c: Any
    source: Any
    silent: tuple[str, ...]

    def with_tasks(self, run_id: str) -> Any:
        """Return the attempts joined with their tasks."""
        return self.source.join(task, and_(task.c.run_id == run_id, task.c.task_id == self.c.task_id))


def _attempts(connection: Connection, run_id: str) -> Attempts:
    """Return the attempts of a run."""
    is_told = attempt.c.task_try_time_running.is_not(None)
    is_over = attempt.c.task_try_time_returned.is_not(None)
    executors = connection.execute(
        select(attempt.c.task_executor, func.max(case((is_told, 1), else_=0)))
        .where(attempt.c.run_id == run_id)
        .group_by(attempt.c.task_executor)
    ).all()
    silent = tuple(sorted(name for name, told in executors if not told))
    launched = func.nullif(attempt.c.task_try_time_launched, 0.0)
    began = case(
        (is_told, attempt.c.task_try_time_running),
        (and_(not_(is_over), attempt.c.task_executor.not_in(silent)), None),
        else_=func.coalesce(attempt.c.task_try_time_free, launched),
    )
    source = (
        select(
            attempt.c.task_id,
            attempt.c.try_id,
            attempt.c.task_executor.label("executor"),
            func.coalesce(attempt.c.block_id, "").label("block_id"),
            func.coalesce(attempt.c.hostname, "").label("hostname"),
            func.coalesce(attempt.c.worker, "").label("worker"),
            launched.label("launched"),
            began.label("began"),
            attempt.c.task_try_time_returned.label("returned"),
        )
        .where(attempt.c.run_id == run_id)
        .subquery("attempts")
    )
    return Attempts(source.c, source, silent)


@attrs.frozen
class Busy:
    """How many attempts were at work, on average, in stretches of time of equal length.

    Attributes:
        times: the beginning of each stretch, epoch seconds.
        width: its length in seconds.
        by_app: a number for each stretch.
        silent: executors that do not tell when attempts begin: waiting for them counts.
    """

    times: tuple[float, ...]
    width: float
    by_app: dict[str, tuple[float, ...]]
    silent: tuple[str, ...]


def busy(connection: Connection, run_id: str, begin: float, end: float, bins: int = BINS) -> Busy:
    """Return how many attempts of each app were at work, from their begin to their end.

    Args:
        connection: to the database.
        run_id: the run.
        begin, end: the time that is looked at, epoch seconds; what has not ended goes on at its end.
        bins: the number of stretches.
    """
    width = max(end - begin, 1e-3) / bins

    def since(moment: ColumnElement[Any]) -> ColumnElement[Any]:
        # What was before counts as at the very beginning; what comes later, or has not come, as behind the end.
        return case((moment < begin, 0.0), (moment <= end, moment - begin), else_=2 * bins * width)

    tries = _attempts(connection, run_id)
    start, stop = since(tries.c.began), since(tries.c.returned)
    from_, to = func.floor(start / width), func.floor(stop / width)
    query = (
        select(task.c.task_func_name, from_, to, func.count(), func.sum(start), func.sum(stop))
        .select_from(tries.with_tasks(run_id))
        .where(tries.c.began <= end)
        .group_by(task.c.task_func_name, from_, to)
    )
    changes: dict[str, Changes] = {}
    for app, first, last, count, started_at, ended_at in connection.execute(query):
        of_app = changes.setdefault(app, Changes(bins, width))
        of_app.add(int(first), int(count), float(started_at))
        of_app.add(int(last), -int(count), -float(ended_at))
    by_app = {app: of_app.means() for app, of_app in changes.items()}
    return Busy(tuple(begin + i * width for i in range(bins)), width, by_app, tries.silent)


@attrs.frozen
class Bar:
    """An attempt in a chart. ``waiting_since`` is when it was launched; ``end`` None: it is at work."""

    task_id: int
    try_id: int
    app: str
    state: str
    waiting_since: float
    begin: float
    end: float | None
    host: str
    worker: str
    error: str | None


def bars(
    connection: Connection,
    run_id: str,
    begin: float,
    end: float,
    app: str | None = None,
    state: str | None = None,
    limit: int = BARS,
) -> tuple[list[Bar], int]:
    """Return attempts within a stretch of time by their begin, and how many there are in all.

    If there are more than ``limit``, those that were at work for longest are returned.

    Args:
        connection: to the database.
        run_id: the run.
        begin, end: epoch seconds.
        app, state: only attempts of tasks of this app, or in this state.
        limit: at most so many.
    """
    tries = _attempts(connection, run_id)
    until = func.coalesce(tries.c.returned, end)
    where: list[ColumnElement[bool]] = [tries.c.began <= end, until >= begin]
    if app is not None:
        where.append(task.c.task_func_name == app)
    if state is not None:
        where.append(task.c.task_state == state)
    source = tries.with_tasks(run_id)
    # The number of all is counted with them: attempts are sorted out once.
    query = (
        select(
            tries.c.task_id, tries.c.try_id, task.c.task_func_name, task.c.task_state, tries.c.launched, tries.c.began,
            tries.c.returned, tries.c.hostname, tries.c.worker, func.count().over(),
        )
        .select_from(source).where(*where).order_by(desc(until - tries.c.began), tries.c.task_id).limit(limit)
    )  # fmt: skip
    found, count = [], 0
    for task_id, try_id, name, now, launched, began, returned, host, worker, number in connection.execute(query):
        found.append(Bar(task_id, try_id, name, now, launched or began, began, returned, host, worker, None))
        count = int(number)
    errors = _errors(connection, run_id, [bar.task_id for bar in found])
    found = [attrs.evolve(bar, error=errors.get((bar.task_id, bar.try_id))) for bar in found]
    return sorted(found, key=lambda bar: (bar.begin, bar.task_id)), count


def _errors(connection: Connection, run_id: str, ids: Sequence[int]) -> dict[tuple[int, int], str]:
    """Return what the attempts of some tasks failed with, by task and attempt."""
    query = select(attempt.c.task_id, attempt.c.try_id, attempt.c.task_fail_history).where(
        attempt.c.run_id == run_id, attempt.c.task_id.in_(ids), attempt.c.task_fail_history.is_not(None)
    )
    return {(task_id, try_id): error for task_id, try_id, error in connection.execute(query)}


@attrs.frozen
class Stretch:
    """What a worker did for a time. ``apps`` are the apps of its attempts, ``task_id`` the only one, or -1."""

    begin: float
    end: float
    count: int
    apps: tuple[str, ...]
    task_id: int


@attrs.frozen
class Lane:
    """A worker: how many attempts it ran, how many seconds it was at work, and when.

    Its number tells it from others of its executor's block on its host.
    """

    host: str
    executor: str
    block_id: str
    worker: str
    count: int
    busy_s: float
    stretches: tuple[Stretch, ...]


def lanes(
    connection: Connection, run_id: str, begin: float, end: float, offset: int = 0, limit: int = LANES
) -> tuple[list[Lane], int]:
    """Return what workers did in a stretch of time, by host, and how many workers there are.

    Attempts that are so short that they would hardly be seen become one stretch.

    Args:
        connection: to the database.
        run_id: the run.
        begin, end: epoch seconds.
        offset: leave out so many workers.
        limit: at most so many.
    """
    texts = (attempt.c.hostname, attempt.c.task_executor, attempt.c.block_id, attempt.c.worker)
    columns = [func.coalesce(text, "") for text in texts]
    known = or_(attempt.c.hostname != "", attempt.c.worker != "")
    named = select(*columns).where(attempt.c.run_id == run_id, known).group_by(*columns)
    workers = sorted(
        map(tuple, connection.execute(named)),
        key=lambda key: (key[0], key[1], _number(key[2]), key[2], _number(key[3]), key[3]),
    )
    shown = workers[offset : offset + limit]
    if not shown:
        return [], len(workers)
    tries = _attempts(connection, run_id)
    until = func.coalesce(tries.c.returned, end)
    # Shorter than this is hardly seen: a few pixels.
    short = (end - begin) / (400 if len(shown) <= 20 else 150)
    # What is short is put together by the database already.
    number = func.floor((until - begin) / short)
    alone = case((until - tries.c.began < short, -1), else_=tries.c.task_id)
    start = case((tries.c.began < begin, begin), else_=tries.c.began)
    stop = case((until > end, end), else_=until)
    app = task.c.task_func_name
    place = (tries.c.hostname, tries.c.executor, tries.c.block_id, tries.c.worker)
    query = (
        select(
            func.min(start), func.max(stop).label("stop"), func.count(), func.sum(stop - start), func.min(app),
            func.max(app), func.min(tries.c.task_id), *place,
        )
        .select_from(tries.with_tasks(run_id))
        .where(tries.c.began <= end, until >= begin, tries.c.hostname.in_({key[0] for key in shown}))
        .group_by(number, alone, *place)
        .order_by("stop", func.min(start))
    )  # fmt: skip
    lanes = {key: _Lane(short) for key in shown}
    for first, last, count, worked, one, other, task_id, *key in connection.execute(query):
        lane = lanes.get(tuple(key))
        if lane is not None:
            lane.add(Stretch(first, last, int(count), tuple(dict.fromkeys((one, other))), task_id), worked)
    found = [
        Lane(host, executor, block_id, worker, lane.count, lane.busy_s, tuple(lane.found))
        for (host, executor, block_id, worker), lane in lanes.items()
    ]
    return found, len(workers)


def _number(text: str) -> int:
    """Return a number that texts are sorted by: 10 comes after 9."""
    return int(text) if text.isdigit() else 0


class _Lane:
    """Puts what one worker did together, in the order of the ends; short stretches become one."""

    def __init__(self, short: float) -> None:
        self._short = short
        self.found: list[Stretch] = []
        self.count = 0
        self.busy_s = 0.0

    def add(self, new: Stretch, worked: float) -> None:
        """Add a stretch in which the worker was at work for so many seconds."""
        last = self.found[-1] if self.found else None
        # It does one thing at a time.
        begin = new.begin if last is None else min(new.end, max(new.begin, last.end))
        self.count += new.count
        self.busy_s += min(worked, new.end - begin)
        if last is not None and self._hardly_seen(last, begin, new.end):
            apps = tuple(sorted({*last.apps, *new.apps}))
            self.found[-1] = Stretch(last.begin, new.end, last.count + new.count, apps, -1)
        else:
            task_id = new.task_id if new.count == 1 else -1
            self.found.append(Stretch(begin, new.end, new.count, new.apps, task_id))

    def _hardly_seen(self, last: Stretch, begin: float, end: float) -> bool:
        short = self._short
        return end - begin < short and begin - last.end < short / 3 and last.end - last.begin < 2 * short


@attrs.frozen
class Durations:
    """How long attempts of an app took.

    Attributes:
        count: attempts that have ended.
        shortest, mean, longest: seconds.
        total: seconds, of all together.
        mean_wait: seconds from launch to begin, on average.
    """

    count: int
    shortest: float
    mean: float
    longest: float
    total: float
    mean_wait: float


def durations(connection: Connection, run_id: str, app: str, limit: int = 10) -> tuple[Durations | None, list[Bar]]:
    """Return how long the attempts of an app took, and those that took longest, the longest first.

    None and nothing, if no attempt has ended.
    """
    tries = _attempts(connection, run_id)
    took = tries.c.returned - tries.c.began
    wait = tries.c.began - func.coalesce(tries.c.launched, tries.c.began)
    query = (
        select(
            func.count().over(), func.min(took).over(), func.sum(took).over(), func.sum(wait).over(), tries.c.task_id,
            tries.c.try_id, task.c.task_state, tries.c.launched, tries.c.began, tries.c.returned, tries.c.hostname,
            tries.c.worker,
        )
        .select_from(tries.with_tasks(run_id))
        .where(task.c.task_func_name == app, took >= 0)
        .order_by(desc(took), tries.c.task_id)
        .limit(limit)
    )  # fmt: skip
    found: Durations | None = None
    bars = []
    for count, shortest, total, waited, task_id, try_id, state, launched, began, ended, *where in connection.execute(
        query
    ):
        if found is None:
            # The first is the longest.
            found = Durations(int(count), shortest, total / count, ended - began, total, (waited or 0.0) / count)
        bars.append(Bar(task_id, try_id, app, state, launched or began, began, ended, where[0], where[1], None))
    return found, bars


@attrs.frozen
class Histogram:
    """How many attempts took how long.

    Attributes:
        steps: (from, to, number), in seconds, in equal steps of the logarithm.
        silent: executors that do not tell when attempts begin.
    """

    steps: tuple[tuple[float, float, int], ...]
    silent: tuple[str, ...]


def histogram(connection: Connection, run_id: str, app: str) -> Histogram:
    """Return how many attempts of an app took how long."""
    tries = _attempts(connection, run_id)
    took = tries.c.returned - tries.c.began
    bucket = func.floor(func.log10(case((took < 1e-4, 1e-4), else_=took)) * _BUCKETS)
    query = (
        select(bucket, func.count())
        .select_from(tries.with_tasks(run_id))
        .where(task.c.task_func_name == app, took >= 0)
        .group_by(bucket)
    )
    counts = {int(number): int(count) for number, count in connection.execute(query)}
    numbers = range(min(counts), max(counts) + 1) if counts else ()
    return Histogram(
        tuple((10 ** (i / _BUCKETS), 10 ** ((i + 1) / _BUCKETS), counts.get(i, 0)) for i in numbers), tries.silent
    )
