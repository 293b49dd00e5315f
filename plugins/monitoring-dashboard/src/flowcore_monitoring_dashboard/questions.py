"""What pages ask of the database beyond what :mod:`flowcore_monitoring_sqlite.queries` answers, and what is no chart.

Rule of this module: SQL is what SQLite and PostgreSQL have in common, and what is fetched is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowcore_monitoring_sqlite import queries
from flowcore_monitoring_sqlite.schema import attempt, block, failure, journal, resource, status, tally, task, workflow
from sqlalchemy import Connection, func, select


def stamp(connection: Connection, run_id: str | None = None) -> tuple[Any, ...]:
    """Return a value that differs whenever something was written that a page shows.

    Args:
        connection: to the database.
        run_id: the run that the page is about; None for all.
    """
    newest = [
        select(func.max(column)).scalar_subquery()
        for column in (status.c.status_id, failure.c.failure_id, resource.c.resource_id, block.c.event_id)
    ]
    marks: tuple[Any, ...] = tuple(connection.execute(select(*newest)).one())
    counted = (journal.c.counted_segment, journal.c.counted_position)
    if run_id is None:
        marks += tuple(connection.execute(select(*map(func.sum, counted))).one())
        counts = (
            select(workflow.c.run_state, func.count()).group_by(workflow.c.run_state).order_by(workflow.c.run_state)
        )
        return marks + tuple(map(tuple, connection.execute(counts)))
    how_far = select(journal.c.segment, journal.c.position, *counted).where(journal.c.run_id == run_id)
    run = select(workflow.c.run_state, workflow.c.time_completed).where(workflow.c.run_id == run_id)
    return (*marks, *map(tuple, connection.execute(how_far)), *map(tuple, connection.execute(run)))


def tasks_of_cause(
    connection: Connection, run_id: str, cause: str, limit: int = 100, offset: int = 0
) -> tuple[list[int], int]:
    """Return ids of tasks that failed for a cause, at an attempt or for good, and how many there are."""
    where = (failure.c.run_id == run_id, failure.c.cause == cause)
    count = connection.execute(select(func.count(func.distinct(failure.c.task_id))).where(*where)).scalar()
    query = select(failure.c.task_id).where(*where).distinct().order_by(failure.c.task_id).limit(limit).offset(offset)
    return list(connection.execute(query).scalars()), int(count or 0)


def tracebacks(connection: Connection, run_id: str, cause: str) -> str | None:
    """Return a traceback of a failure for a cause; None if none was kept."""
    query = (
        select(failure.c.traceback)
        .where(failure.c.run_id == run_id, failure.c.cause == cause, failure.c.traceback.is_not(None))
        .order_by(failure.c.failure_id)
        .limit(1)
    )
    found = connection.execute(query).scalar()
    return None if found is None else str(found)


def total_tasks(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the numbers of tasks by state of each of some runs."""
    query = (
        select(tally.c.run_id, tally.c.task_state, func.sum(tally.c.task_count))
        .where(tally.c.run_id.in_(run_ids), tally.c.task_count > 0)
        .group_by(tally.c.run_id, tally.c.task_state)
    )
    found: dict[str, dict[str, int]] = {run_id: {} for run_id in run_ids}
    if not run_ids:
        return found
    for run_id, state, count in connection.execute(query):
        found[run_id][state] = int(count)
    return found


def last_moment(connection: Connection, run_id: str) -> float | None:
    """Return when a run's last attempt ended, or its last task changed: the end of charts; None if nothing happened."""
    ended = select(func.max(attempt.c.task_try_time_returned)).where(attempt.c.run_id == run_id).scalar_subquery()
    changed = select(func.max(task.c.task_state_time)).where(task.c.run_id == run_id).scalar_subquery()
    found = [moment for moment in connection.execute(select(ended, changed)).one() if moment is not None]
    return max(found, default=None)


def tasks_by_id(connection: Connection, run_id: str, ids: Sequence[int]) -> list[queries.Task]:
    """Return some tasks by their ids; those that are not there are left out."""
    found = (queries.tasks(connection, run_id, limit=1, after=task_id - 1) for task_id in ids)
    return [tasks[0] for task_id, tasks in zip(ids, found, strict=True) if tasks and tasks[0].task_id == task_id]
