"""What runs, apps, nodes and tasks used: CPU and memory, from the samples of their attempts.

Rules of this module. The database sums up, and what is fetched is bounded by the size of a chart, not of the run; where
rows are fetched, or only some of the tasks are looked at, the docstring says so. SQL is what SQLite and PostgreSQL have
in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
from flowcore_monitoring_sqlite.schema import resource, task
from sqlalchemy import ColumnElement, Connection, and_, case, desc, func, literal, or_, select

from flowcore_monitoring_dashboard.stretches import BINS, Changes

#: Samples of resource use that are all looked at; of more, those of a part of the tasks.
SAMPLES = 60_000
#: Runs of fewer tasks are looked at wholly.
_FEW_TASKS = 2_000


@attrs.frozen
class Used:
    """What was used in stretches of time of equal length, by whom.

    Attributes:
        times: the beginning of each stretch, epoch seconds.
        width: its length in seconds.
        cores: by name, CPU seconds per second.
        memory: by name, resident bytes, on average over the stretch.
        every: only one of so many tasks was looked at, and the numbers are estimates; 1: exact.
    """

    times: tuple[float, ...]
    width: float
    cores: dict[str, tuple[float, ...]]
    memory: dict[str, tuple[float, ...]]
    every: int


_cpu = resource.c.psutil_process_time_user + resource.c.psutil_process_time_system


def used(
    connection: Connection, run_id: str, by: str = "workflow", app: str | None = None, bins: int = BINS // 2
) -> Used:
    """Return CPU and memory over time.

    What an attempt used between two samples is spread evenly over that time. Where there are more than
    :data:`SAMPLES` samples, those of every so-many-th task are looked at, and stand for the others.

    Args:
        connection: to the database.
        run_id: the run.
        by: ``workflow`` (one sum), ``app`` or ``node``: who is told apart.
        app: only this app's tasks, if given.
        bins: the number of stretches.
    """
    where: list[ColumnElement[bool]] = [resource.c.run_id == run_id]
    source: Any = resource
    if by == "app" or app is not None:
        source = resource.join(task, and_(task.c.run_id == resource.c.run_id, task.c.task_id == resource.c.task_id))
    if app is not None:
        where.append(task.c.task_func_name == app)
    first, last = connection.execute(
        select(func.min(resource.c.timestamp), func.max(resource.c.timestamp)).where(resource.c.run_id == run_id)
    ).one()
    if first is None:
        return Used((), 1.0, {}, {}, 1)
    every = _part(connection, run_id)
    if every > 1:
        # Not the id itself: neighbours are often of different apps in turn.
        where.append((resource.c.task_id * 7919 % 10007) % every == 0)
    width = max((last - first) / bins, 1e-3)
    name: ColumnElement[Any] = literal("all tasks")
    if by == "app":
        name = task.c.task_func_name
    elif by == "node":
        name = func.coalesce(resource.c.hostname, "?")
    window: dict[str, Any] = {"partition_by": resource.c.task_id, "order_by": resource.c.timestamp}
    s = (
        select(
            name.label("name"),
            (resource.c.timestamp - first).label("at"),
            resource.c.sample_kind.label("kind"),
            _cpu.label("cpu"),
            func.lag(_cpu).over(**window).label("before"),
            (func.lag(resource.c.timestamp).over(**window) - first).label("since"),
            resource.c.psutil_process_memory_resident.label("memory"),
        )
        .select_from(source)
        .where(*where)
        .subquery()
        .c
    )
    # An attempt's first sample has none before it: what it used up to then, it used on one core just before.
    fresh = or_(s.before.is_(None), s.kind == "begin", s.cpu < s.before, s.at - s.since < 1e-6)
    start = case((and_(fresh, s.cpu > 1e-6), s.at - s.cpu), (fresh, s.at - 1e-6), else_=s.since)
    lasted = case((s.at - start < 1e-6, 1e-6), else_=s.at - start)
    # Materialized: each is used several times below.
    m = (
        select(
            s.name,
            start.label("start"),
            s.at,
            (case((fresh, s.cpu), else_=s.cpu - s.before) / lasted).label("cores"),
            func.coalesce(s.memory, 0.0).label("memory"),
        )
        .cte("spread")
        .prefix_with("MATERIALIZED")
        .c
    )
    from_, to = func.floor(m.start / width), func.floor(m.at / width)
    sums = (m.cores, m.cores * m.start, m.cores * m.at, m.memory, m.memory * m.start, m.memory * m.at)
    query = select(m.name, from_, to, *(func.sum(value) for value in sums)).group_by(m.name, from_, to)
    found: dict[str, tuple[Changes, Changes]] = {}
    for label, began, ended, *values in connection.execute(query):
        both = found.setdefault(str(label), (Changes(bins, width), Changes(bins, width)))
        for changes, (rate, rate_start, rate_end) in zip(both, (values[:3], values[3:]), strict=True):
            changes.add(int(began), rate or 0.0, rate_start or 0.0)
            changes.add(int(ended), -(rate or 0.0), -(rate_end or 0.0))
    return Used(
        tuple(first + i * width for i in range(bins)),
        width,
        {label: both[0].means(every) for label, both in found.items()},
        {label: both[1].means(every) for label, both in found.items()},
        every,
    )


def _part(connection: Connection, run_id: str) -> int:
    """Return of how many tasks one is looked at for resource use."""
    samples = int(connection.execute(select(func.count()).where(resource.c.run_id == run_id)).scalar() or 0)
    if samples <= SAMPLES:
        return 1
    tasks = int(connection.execute(select(func.count()).where(task.c.run_id == run_id)).scalar() or 0)
    return min(math.ceil(samples / SAMPLES), tasks // 1000) if tasks > _FEW_TASKS else 1


@attrs.frozen
class UsedByTask:
    """What attempts of a task used, from sample to sample; None in between two attempts.

    Attributes:
        times: of the samples, epoch seconds.
        cores: CPU seconds per second, from each sample to the next.
        memory: resident bytes.
    """

    times: tuple[float, ...]
    cores: tuple[float | None, ...]
    memory: tuple[float | None, ...]


def used_by_tasks(connection: Connection, run_id: str, ids: Sequence[int], limit: int = 500) -> dict[int, UsedByTask]:
    """Return what each of some tasks used, in about ``limit`` samples at most; all their samples are fetched."""
    query = (
        select(
            resource.c.task_id, resource.c.try_id, resource.c.timestamp, _cpu, resource.c.psutil_process_memory_resident
        )
        .where(resource.c.run_id == run_id, resource.c.task_id.in_(ids))
        .order_by(resource.c.task_id, resource.c.timestamp, resource.c.resource_id)
    )  # fmt: skip
    attempts: dict[int, dict[int, list[tuple[float, float, float]]]] = {}
    for task_id, try_id, at, cpu, memory in connection.execute(query):
        attempts.setdefault(task_id, {}).setdefault(try_id, []).append((at, cpu or 0.0, memory or 0.0))
    found = {}
    for task_id, tries in attempts.items():
        step = max(1, math.ceil(sum(map(len, tries.values())) / limit))
        times: list[float] = []
        cores: list[float | None] = []
        held: list[float | None] = []
        for samples in tries.values():
            if times:
                times.append(times[-1])
                cores.append(None)
                held.append(None)
            # The last sample is kept in any case.
            kept = samples[:-1:step] + samples[-1:]
            rates = [
                max(0.0, after[1] - before[1]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
                for before, after in pairwise(kept)
            ]
            times += [sample[0] for sample in kept]
            cores += [*rates, rates[-1] if rates else 0.0]
            held += [sample[2] for sample in kept]
        found[task_id] = UsedByTask(tuple(times), tuple(cores), tuple(held))
    return found


@attrs.frozen
class Heavy:
    """A task with what it used: CPU seconds, and at most so many resident bytes at a time, over all its attempts."""

    task_id: int
    app: str
    state: str
    cpu_s: float
    memory: float


def heaviest(connection: Connection, run_id: str, by: str = "memory", limit: int = 10) -> list[Heavy]:
    """Return the tasks that used most memory, or most CPU (``by="cpu"``)."""
    cpu = func.max(resource.c.psutil_process_time_user + resource.c.psutil_process_time_system).label("cpu")
    memory = func.max(resource.c.psutil_process_memory_resident).label("memory")
    top = (
        select(resource.c.task_id, cpu, memory)
        .where(resource.c.run_id == run_id)
        .group_by(resource.c.task_id)
        .order_by(desc(cpu if by == "cpu" else memory), resource.c.task_id)
        .limit(limit)
        .subquery()
    )
    query = select(top.c.task_id, task.c.task_func_name, task.c.task_state, top.c.cpu, top.c.memory).join(
        task, and_(task.c.run_id == run_id, task.c.task_id == top.c.task_id)
    )
    rows = [Heavy(i, app, state, cpu_s or 0.0, held or 0.0) for i, app, state, cpu_s, held in connection.execute(query)]
    return sorted(rows, key=lambda row: -(row.cpu_s if by == "cpu" else row.memory))


def has_samples(connection: Connection, run_id: str) -> bool:
    """Tell whether any use of resources was recorded in a run."""
    query = select(resource.c.resource_id).where(resource.c.run_id == run_id).limit(1)
    return connection.execute(query).first() is not None
