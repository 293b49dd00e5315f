"""The questions that the command line and the dashboard ask of the database.

Rules of this module. Functions take a connection that may only read, and return plain records; times are seconds since
1970. Work on many rows is the database's: what is fetched does not grow with the number of tasks, but where said so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Connection, RowMapping, String, case, desc, func, literal_column, select

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_sqlite.schema import (
    NOT_GOOD,
    attempt,
    block,
    failure,
    journal,
    node,
    progress,
    resource,
    status,
    tally,
    task,
    transfer,
    workflow,
)

#: States in which a task ends well, and not well.
GOOD = ("exec_done", "memo_done")
BAD = ("failed", "dep_fail")
FINAL = (*GOOD, *BAD)
#: All states in the order in which a task goes through them.
STATES = (
    "pending", "launched", "running", "joining", "running_ended", "fail_retryable",
    "exec_done", "memo_done", "failed", "dep_fail",
)  # fmt: skip
#: Bytes of the journal that may be counted and not written; what a few thousand tasks take.
BEHIND_BYTES = 1_000_000
#: Seconds without a sign of life after which a run that goes on counts as silent.
SILENT_S = 60.0


class RunNotFound(FlowcoreError):
    """The database has no such run.

    Args:
        text: what was looked for, and what there is.
    """


@attrs.frozen
class Run:
    """A run.

    Attributes:
        state: ``running``, ``completed``, ``interrupted`` (its program was gone before it ended), or ``silent`` (it
            should go on, and nothing has been heard of it for a minute).
        completed, failed: tasks that ended well, and not well.
        duration_s: until now for one that goes on; until the last sign of life for one that was interrupted.
    """

    run_id: str
    name: str
    version: str
    state: str
    time_began: float
    time_completed: float | None
    heartbeat: float
    duration_s: float
    host: str
    user: str
    run_dir: str
    completed: int
    failed: int
    events_lost: int
    python_version: str | None
    flowcore_version: str | None
    config: str | None


@attrs.frozen
class AppCounts:
    """The tasks of one app: how many, and in which states."""

    name: str
    total: int
    by_state: dict[str, int]

    @property
    def completed(self) -> int:
        """Tasks that ended well."""
        return sum(self.by_state.get(state, 0) for state in GOOD)

    @property
    def failed(self) -> int:
        """Tasks that ended, and not well."""
        return sum(self.by_state.get(state, 0) for state in BAD)


@attrs.frozen
class Task:
    """A task as it was last heard of. ``depends`` are task ids; files are URLs."""

    task_id: int
    name: str
    kind: str
    state: str
    state_time: float
    executor: str | None
    invoked: float
    returned: float | None
    depends: tuple[int, ...]
    fail_count: int
    fail_cost: float
    memoize: bool
    hashsum: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stdin: str | None
    stdout: str | None
    stderr: str | None


@attrs.frozen
class Try:
    """An attempt. Times are None for what has not happened, or was not told."""

    try_id: int
    executor: str
    block_id: str | None
    hostname: str | None
    worker: str | None
    launched: float | None
    running: float | None
    returned: float | None
    error: str | None
    joins: tuple[int, ...]


@attrs.frozen
class Failure:
    """A failure of an attempt (``state`` fail_retryable) or of a task."""

    task_id: int
    try_id: int
    at: float
    state: str
    exception_type: str
    cause: str
    text: str
    notes: tuple[str, ...]
    traceback: str | None


@attrs.frozen
class Use:
    """What an attempt used: the highest memory (bytes), all CPU time (s) and all bytes read and written."""

    try_id: int
    samples: int
    cpu_s: float
    memory: float
    disk_read: float
    disk_write: float


@attrs.frozen
class Transfer:
    """A file that was moved, or is; ``task_id`` moves it. Times are those of that task."""

    task_id: int
    url: str
    direction: str
    staging: str
    state: str | None
    invoked: float | None
    returned: float | None


@attrs.frozen
class Story:
    """All that is known of one task.

    Attributes:
        states: (state, time, try_id) in the order in which they came.
        waited_for: the tasks that it depends on (at most 1,000 of them).
        dependents: ids of tasks that depend on it (at most 1,000 of them).
    """

    task: Task
    states: tuple[tuple[str, float, int], ...]
    tries: tuple[Try, ...]
    failures: tuple[Failure, ...]
    waited_for: tuple[Task, ...]
    dependents: tuple[int, ...]
    use: tuple[Use, ...]
    transfers: tuple[Transfer, ...]


@attrs.frozen
class FailureGroup:
    """Tasks that ended for one cause, or attempts that were made again for it.

    Attributes:
        state: failed, dep_fail or fail_retryable.
        examples: ids of the first tasks.
        apps: names of apps with the number of their tasks.
    """

    cause: str
    state: str
    count: int
    first: float
    last: float
    examples: tuple[int, ...]
    apps: dict[str, int]
    text: str
    notes: tuple[str, ...]


@attrs.frozen
class Block:
    """A block; times are those of its first events of that kind.

    Attributes:
        status: the last one.
        requested, running, ended: None for what has not happened.
    """

    executor: str
    block_id: str
    job_id: str | None
    status: str
    message: str | None
    requested: float
    running: float | None
    ended: float | None


@attrs.frozen
class Node:
    """A manager and its node."""

    uid: str
    executor: str | None
    hostname: str
    block_id: str | None
    cpu_count: int | None
    total_memory: int | None
    active: bool
    worker_count: int | None
    python_version: str | None
    connected: float
    last_heartbeat: float


@attrs.frozen
class UsePoint:
    """What was used in one stretch of time.

    Attributes:
        at: its beginning.
        cores: CPU seconds per second.
        memory: resident bytes, of all attempts together.
        attempts: attempts that were seen.
    """

    at: float
    cores: float
    memory: float
    attempts: int


# --- runs


def runs(connection: Connection, limit: int = 100, offset: int = 0) -> list[Run]:
    """Return runs, the newest first."""
    rows = connection.execute(
        select(workflow).order_by(desc(workflow.c.time_began)).limit(limit).offset(offset)
    ).mappings()
    return [_run(connection, row) for row in rows.all()]


def number_of_runs(connection: Connection) -> int:
    """Return how many runs there are."""
    return int(connection.execute(select(func.count()).select_from(workflow)).scalar() or 0)


def run(connection: Connection, run_id: str) -> Run:
    """Return one run.

    Raises:
        RunNotFound: there is none of that id.
    """
    row = connection.execute(select(workflow).where(workflow.c.run_id == run_id)).mappings().first()
    if row is None:
        raise RunNotFound(f"there is no run {run_id!r} in this database")
    return _run(connection, row)


def find_run(connection: Connection, which: str | None = None) -> Run:
    """Return the run that a user means.

    Args:
        connection: to the database.
        which: the number or the path of a run directory (``3``, ``003``, ``runinfo/003``), the beginning of a run's
            id, or None for the newest run.

    Raises:
        RunNotFound: there is none, or several.
    """
    newest_first = select(workflow).order_by(desc(workflow.c.time_began))
    if which is None:
        row = connection.execute(newest_first.limit(1)).mappings().first()
        if row is None:
            raise RunNotFound("no run is recorded in this database")
        return _run(connection, row)
    by_id = connection.execute(newest_first.where(workflow.c.run_id.startswith(which, autoescape=True))).mappings()
    found: Sequence[RowMapping] = by_id.all() if len(which) >= 4 or not which.isdigit() else []
    if not found:
        found = [row for row in connection.execute(newest_first).mappings() if _is_folder(row["rundir"], which)]
    if not found:
        known = ", ".join(f"{Path(r.run_dir).name} ({r.run_id[:8]})" for r in runs(connection, 5)) or "none"
        raise RunNotFound(f"there is no run {which!r} in this database; the newest ones: {known}")
    if len(found) > 1:
        several = ", ".join(f"{row['run_id'][:13]} in {row['rundir']}" for row in found[:5])
        raise RunNotFound(f"{which!r} fits {len(found)} runs: {several}; name one by its id or its folder's path")
    return _run(connection, found[0])


def _is_folder(run_dir: str, which: str) -> bool:
    folder = Path(run_dir)
    if which.isdigit():
        return folder.name.isdigit() and int(folder.name) == int(which)
    return folder == Path(which).absolute() or folder == Path(which).resolve()


def _run(connection: Connection, row: RowMapping, now: float | None = None) -> Run:
    now = time.time() if now is None else now
    state = row["run_state"]
    completed, failed = row["tasks_completed_count"], row["tasks_failed_count"]
    if state == "running":
        counts = counts_by_state(connection, row["run_id"])
        completed, failed = (sum(counts.get(name, 0) for name in names) for names in (GOOD, BAD))
        if now - row["heartbeat"] > SILENT_S:
            state = "silent"
    end = row["time_completed"] or (now if state == "running" else row["heartbeat"])
    return Run(
        run_id=row["run_id"],
        name=row["workflow_name"],
        version=row["workflow_version"],
        state=state,
        time_began=row["time_began"],
        time_completed=row["time_completed"],
        heartbeat=row["heartbeat"],
        duration_s=max(0.0, end - row["time_began"]),
        host=row["host"],
        user=row["user"],
        run_dir=row["rundir"],
        completed=completed,
        failed=failed,
        events_lost=row["events_lost"],
        python_version=row["python_version"],
        flowcore_version=row["flowcore_version"],
        config=row["config"],
    )


# --- tasks


def counts_by_state(connection: Connection, run_id: str, app: str | None = None) -> dict[str, int]:
    """Return the number of tasks in each state that occurs, in the order of :data:`STATES`."""
    query = (
        select(tally.c.task_state, func.sum(tally.c.task_count))
        .where(tally.c.run_id == run_id, tally.c.task_count > 0)
        .group_by(tally.c.task_state)
    )
    if app is not None:
        query = query.where(tally.c.task_func_name == app)
    return _in_order({state: int(count) for state, count in connection.execute(query)})


def counts_by_app(connection: Connection, run_id: str) -> list[AppCounts]:
    """Return the apps of a run with the number of their tasks, the one with the most tasks first."""
    query = select(tally.c.task_func_name, tally.c.task_state, tally.c.task_count).where(
        tally.c.run_id == run_id, tally.c.task_count > 0
    )
    apps: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(query):
        apps.setdefault(name, {})[state] = int(count)
    found = [AppCounts(name, sum(states.values()), _in_order(states)) for name, states in apps.items()]
    return sorted(found, key=lambda app: (-app.total, app.name))


def _in_order(counts: dict[str, int]) -> dict[str, int]:
    return {state: counts[state] for state in (*STATES, *sorted(set(counts) - set(STATES))) if state in counts}


def rate(connection: Connection, run: Run, now: float, span_s: float = 60.0) -> float | None:
    """Return how many tasks of a run that goes on have ended per second, of late; None for another one.

    Args:
        connection: to the database.
        run: the run.
        now: epoch seconds.
        span_s: how long back to look, at most two minutes; only to its beginning for a younger run.
    """
    if run.state != "running":
        return None
    span_s = min(span_s, max(1.0, now - run.time_began))
    notes = select(progress.c.tasks_ended).where(progress.c.run_id == run.run_id).limit(1)
    by_time = progress.c.timestamp
    # Before that, as of the oldest note that there is; none is that old in the beginning of a run.
    before = connection.execute(notes.where(by_time < now - span_s).order_by(desc(by_time))).scalar()
    return max(0, run.completed + run.failed - (before or 0)) / span_s


def tasks(
    connection: Connection,
    run_id: str,
    app: str | None = None,
    state: str | None = None,
    limit: int = 100,
    offset: int = 0,
    after: int | None = None,
) -> list[Task]:
    """Return tasks of a run by their ids.

    Args:
        connection: to the database.
        run_id: the run.
        app: only this app's.
        state: only those in this state.
        limit: at most so many.
        offset: leave out so many.
        after: only ids above this; quicker than a large offset.
    """
    query = select(task).where(task.c.run_id == run_id).order_by(task.c.task_id).limit(limit).offset(offset)
    if app is not None:
        query = query.where(task.c.task_func_name == app)
    if state is not None:
        query = query.where(task.c.task_state == state)
        if state not in GOOD:
            query = query.where(NOT_GOOD)  # finds the index
    if after is not None:
        query = query.where(task.c.task_id > after)
    return [_task(row) for row in connection.execute(query).mappings()]


def task_story(connection: Connection, run_id: str, task_id: int) -> Story | None:
    """Return all that is known of one task; None if there is no such task."""
    mine = (task.c.run_id == run_id, task.c.task_id == task_id)
    row = connection.execute(select(task).where(*mine)).mappings().first()
    if row is None:
        return None
    found = _task(row)
    states = connection.execute(
        select(status.c.task_status_name, status.c.timestamp, status.c.try_id)
        .where(status.c.run_id == run_id, status.c.task_id == task_id)
        .order_by(status.c.status_id)
    )
    used = connection.execute(
        select(
            resource.c.try_id,
            func.count().label("samples"),
            func.max(resource.c.psutil_process_time_user + resource.c.psutil_process_time_system).label("cpu"),
            func.max(resource.c.psutil_process_memory_resident).label("memory"),
            func.max(resource.c.psutil_process_disk_read).label("read"),
            func.max(resource.c.psutil_process_disk_write).label("written"),
        )
        .where(resource.c.run_id == run_id, resource.c.task_id == task_id)
        .group_by(resource.c.try_id)
        .order_by(resource.c.try_id)
    )
    return Story(
        task=found,
        states=tuple((name, at, try_id) for name, at, try_id in states),
        tries=tuple(tries(connection, run_id, task_id)),
        failures=tuple(_failures_of(connection, run_id, task_id)),
        waited_for=tuple(_tasks_of(connection, run_id, found.depends)),
        dependents=tuple(_dependents(connection, run_id, task_id)),
        use=tuple(
            Use(u.try_id, u.samples, u.cpu or 0.0, u.memory or 0.0, u.read or 0.0, u.written or 0.0) for u in used
        ),
        transfers=tuple(transfers(connection, run_id, task_id)),
    )


def tries(connection: Connection, run_id: str, task_id: int) -> list[Try]:
    """Return the attempts of a task, in their order."""
    query = select(attempt).where(attempt.c.run_id == run_id, attempt.c.task_id == task_id).order_by(attempt.c.try_id)
    return [
        Try(
            try_id=row["try_id"],
            executor=row["task_executor"],
            block_id=row["block_id"],
            hostname=row["hostname"],
            worker=row["worker"],
            launched=row["task_try_time_launched"] or None,
            running=row["task_try_time_running"],
            returned=row["task_try_time_returned"],
            error=row["task_fail_history"],
            joins=_ids(row["task_joins"]),
        )
        for row in connection.execute(query).mappings()
    ]


def transfers(connection: Connection, run_id: str, task_id: int | None = None, limit: int = 1000) -> list[Transfer]:
    """Return the files that were moved in a run, or by one task."""
    query = (
        select(transfer, task.c.task_state, task.c.task_time_invoked, task.c.task_time_returned)
        .outerjoin(task, (task.c.run_id == transfer.c.run_id) & (task.c.task_id == transfer.c.task_id))
        .where(transfer.c.run_id == run_id)
        .order_by(transfer.c.transfer_id)
        .limit(limit)
    )
    if task_id is not None:
        query = query.where(transfer.c.task_id == task_id)
    return [
        Transfer(
            row["task_id"], row["url"], row["direction"], row["staging"], row["task_state"],
            row["task_time_invoked"], row["task_time_returned"],
        )
        for row in connection.execute(query).mappings()
    ]  # fmt: skip


def edges(connection: Connection, run_id: str, limit: int = 100_000) -> list[tuple[int, str, str, tuple[int, ...]]]:
    """Return (task id, app, state, ids of tasks that it depends on) of the tasks of a run, at most ``limit``."""
    query = (
        select(task.c.task_id, task.c.task_func_name, task.c.task_state, task.c.task_depends)
        .where(task.c.run_id == run_id)
        .order_by(task.c.task_id)
        .limit(limit)
    )
    return [(task_id, name, state, _ids(depends)) for task_id, name, state, depends in connection.execute(query)]


def joins(connection: Connection, run_id: str) -> dict[int, tuple[int, ...]]:
    """Return, by the id of a join_app's task, the ids of the tasks that its last attempt waited for."""
    query = (
        select(attempt.c.task_id, attempt.c.task_joins)
        .where(attempt.c.run_id == run_id, attempt.c.task_joins.is_not(None))
        .order_by(attempt.c.task_id, attempt.c.try_id)
    )
    return {task_id: _ids(joined) for task_id, joined in connection.execute(query)}


def _task(row: RowMapping) -> Task:
    return Task(
        task_id=row["task_id"],
        name=row["task_func_name"],
        kind=row["task_app_kind"],
        state=row["task_state"],
        state_time=row["task_state_time"],
        executor=row["task_executor"],
        invoked=row["task_time_invoked"],
        returned=row["task_time_returned"],
        depends=_ids(row["task_depends"]),
        fail_count=row["task_fail_count"],
        fail_cost=row["task_fail_cost"],
        memoize=bool(row["task_memoize"]),
        hashsum=row["task_hashsum"],
        inputs=_urls(row["task_inputs"]),
        outputs=_urls(row["task_outputs"]),
        stdin=row["task_stdin"],
        stdout=row["task_stdout"],
        stderr=row["task_stderr"],
    )


def _ids(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()


def _urls(text: str | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def _tasks_of(connection: Connection, run_id: str, ids: Sequence[int]) -> list[Task]:
    query = select(task).where(task.c.run_id == run_id, task.c.task_id.in_(ids[:1000])).order_by(task.c.task_id)
    return [_task(row) for row in connection.execute(query).mappings()] if ids else []


def _dependents(connection: Connection, run_id: str, task_id: int) -> list[int]:
    # The text is searched, which reads the rows of all later tasks: bounded, and once per page.
    depends: ColumnElement[str] = literal_column("','", String) + task.c.task_depends + literal_column("','", String)
    query = (
        select(task.c.task_id)
        .where(
            task.c.run_id == run_id,
            task.c.task_id > task_id,
            task.c.task_depends != "",
            depends.contains(f",{task_id},"),
        )
        .order_by(task.c.task_id)
        .limit(1000)
    )
    return list(connection.execute(query).scalars())


# --- failures


def _failures_of(connection: Connection, run_id: str, task_id: int) -> list[Failure]:
    query = (
        select(failure).where(failure.c.run_id == run_id, failure.c.task_id == task_id).order_by(failure.c.failure_id)
    )
    return [
        Failure(
            task_id=row["task_id"],
            try_id=row["try_id"],
            at=row["timestamp"],
            state=row["task_status_name"],
            exception_type=row["exception_type"],
            cause=row["cause"],
            text=row["text"],
            notes=_lines(row["notes"]),
            traceback=row["traceback"],
        )
        for row in connection.execute(query).mappings()
    ]


def failures(
    connection: Connection, run_id: str, states: Sequence[str] = BAD, examples: int = 5, limit: int = 100
) -> list[FailureGroup]:
    """Return failures grouped by cause, the most frequent cause first.

    Args:
        connection: to the database.
        run_id: the run.
        states: ``failed`` and ``dep_fail`` are ends of tasks; ``fail_retryable`` are attempts that were made again.
        examples: how many task ids to give of each.
        limit: how many groups.
    """
    mine = (failure.c.run_id == run_id, failure.c.task_status_name.in_(states))
    groups = connection.execute(
        select(
            failure.c.cause,
            failure.c.task_status_name,
            func.count().label("count"),
            func.min(failure.c.timestamp).label("first"),
            func.max(failure.c.timestamp).label("last"),
            func.min(failure.c.failure_id).label("example"),
        )
        .where(*mine)
        .group_by(failure.c.cause, failure.c.task_status_name)
        .order_by(desc("count"), failure.c.cause)
        .limit(limit)
    ).all()
    if not groups:
        return []
    shown = connection.execute(select(failure).where(failure.c.failure_id.in_([g.example for g in groups])))
    texts = {row["failure_id"]: row for row in shown.mappings()}
    apps: dict[tuple[str, str], dict[str, int]] = {}
    by_app = (
        select(failure.c.cause, failure.c.task_status_name, task.c.task_func_name, func.count())
        .join(task, (task.c.run_id == failure.c.run_id) & (task.c.task_id == failure.c.task_id))
        .where(*mine)
        .group_by(failure.c.cause, failure.c.task_status_name, task.c.task_func_name)
    )
    for cause, state, app, number in connection.execute(by_app):
        apps.setdefault((cause, state), {})[app] = int(number)
    found = []
    for group in groups:
        first = connection.execute(
            select(failure.c.task_id)
            .where(
                failure.c.run_id == run_id,
                failure.c.cause == group.cause,
                failure.c.task_status_name == group.task_status_name,
            )
            .order_by(failure.c.failure_id)
            .limit(examples)
        ).scalars()
        found.append(
            FailureGroup(
                cause=group.cause,
                state=group.task_status_name,
                count=int(group[2]),
                first=group.first,
                last=group.last,
                examples=tuple(first),
                apps=apps.get((group.cause, group.task_status_name), {}),
                text=texts[group.example]["text"],
                notes=_lines(texts[group.example]["notes"]),
            )
        )
    return found


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


# --- blocks, nodes, resources


def blocks(connection: Connection, run_id: str) -> list[Block]:
    """Return the blocks of a run in the order in which they were asked for."""
    query = select(block).where(block.c.run_id == run_id).order_by(block.c.event_id)
    found: dict[tuple[str, str], Block] = {}
    for row in connection.execute(query).mappings():
        key = (row["executor_label"], row["block_id"])
        at, state = row["timestamp"], row["status"]
        before = found.get(key) or Block(*key, row["job_id"], state, None, at, None, None)
        found[key] = attrs.evolve(
            before,
            job_id=row["job_id"] or before.job_id,
            status=state,
            message=row["message"] or before.message,
            running=before.running or (at if state == "RUNNING" else None),
            ended=before.ended or (None if state in ("PENDING", "RUNNING", "UNKNOWN", "HELD") else at),
        )
    return list(found.values())


def nodes(connection: Connection, run_id: str) -> list[Node]:
    """Return the managers of a run in the order in which they connected."""
    query = select(node).where(node.c.run_id == run_id).order_by(node.c.timestamp, node.c.uid)
    return [
        Node(
            uid=row["uid"],
            executor=row["task_executor"],
            hostname=row["hostname"],
            block_id=row["block_id"],
            cpu_count=row["cpu_count"],
            total_memory=row["total_memory"],
            active=bool(row["active"]),
            worker_count=row["worker_count"],
            python_version=row["python_v"],
            connected=row["timestamp"],
            last_heartbeat=row["last_heartbeat"],
        )
        for row in connection.execute(query).mappings()
    ]


def workers(connection: Connection, run_id: str) -> int:
    """Return the number of workers that are connected."""
    query = select(func.sum(node.c.worker_count)).where(node.c.run_id == run_id, node.c.active)
    return int(connection.execute(query).scalar() or 0)


def resource_series(
    connection: Connection,
    run_id: str,
    points: int = 200,
    app: str | None = None,
    task_id: int | None = None,
    hostname: str | None = None,
) -> list[UsePoint]:
    """Return what was used over time: by a run, or by one app, task or node of it.

    Args:
        connection: to the database.
        run_id: the run.
        points: at most so many stretches of time; they are never shorter than the period of the samples.
        app, task_id, hostname: take only these into account.
    """
    where: list[ColumnElement[bool]] = [resource.c.run_id == run_id]
    source: Any = resource
    if app is not None:
        source = resource.join(task, (task.c.run_id == resource.c.run_id) & (task.c.task_id == resource.c.task_id))
        where.append(task.c.task_func_name == app)
    if task_id is not None:
        where.append(resource.c.task_id == task_id)
    if hostname is not None:
        where.append(resource.c.hostname == hostname)
    first, last, period = connection.execute(
        select(
            func.min(resource.c.timestamp),
            func.max(resource.c.timestamp),
            func.max(resource.c.resource_monitoring_interval),
        )
        .select_from(source)
        .where(*where)
    ).one()
    if first is None:
        return []
    width = max((last - first) / points, float(period or 0), 0.1)
    one = (resource.c.task_id, resource.c.try_id)
    cpu = resource.c.psutil_process_time_user + resource.c.psutil_process_time_system
    before = func.lag(cpu).over(partition_by=one, order_by=(resource.c.timestamp, resource.c.resource_id))
    samples = (
        select(
            *one,
            func.floor((resource.c.timestamp - first) / width).label("stretch"),
            resource.c.psutil_process_memory_resident.label("memory"),
            # What an attempt used up to its first sample belongs to that.
            (cpu - func.coalesce(before, 0.0)).label("cpu"),
        )
        .select_from(source)
        .where(*where)
        .subquery()
    )
    each = (
        select(
            samples.c.stretch,
            func.avg(samples.c.memory).label("memory"),
            func.sum(case((samples.c.cpu > 0, samples.c.cpu), else_=0.0)).label("cpu"),
        )
        .group_by(samples.c.stretch, samples.c.task_id, samples.c.try_id)
        .subquery()
    )
    query = (
        select(each.c.stretch, func.sum(each.c.cpu), func.sum(each.c.memory), func.count())
        .group_by(each.c.stretch)
        .order_by(each.c.stretch)
    )
    return [
        UsePoint(first + int(stretch) * width, (used or 0.0) / width, memory or 0.0, int(number))
        for stretch, used, memory, number in connection.execute(query)
    ]


def mark(connection: Connection, run_id: str) -> str:
    """Return a text that changes whenever something of the run is written: for pages that look again."""
    query = (
        select(journal.c.segment, journal.c.position, journal.c.counted_position, workflow.c.run_state)
        .select_from(workflow.outerjoin(journal, journal.c.run_id == workflow.c.run_id))
        .where(workflow.c.run_id == run_id)
    )
    row = connection.execute(query).first()
    return "" if row is None else "-".join(map(str, row))


def rows_are_behind(connection: Connection, run_id: str) -> bool:
    """Return whether much of what tasks are counted by is not written yet: all but counts are of the past then."""
    row = connection.execute(select(journal).where(journal.c.run_id == run_id)).mappings().first()
    if row is None:
        return False
    further = row["counted_position"] - row["position"]
    return bool(row["counted_segment"] > row["segment"] or further > BEHIND_BYTES)


def longest_at_work(connection: Connection, run_id: str, limit: int = 5) -> list[Task]:
    """Return the tasks that are at work and have been for longest."""
    query = (
        select(task)
        .where(task.c.run_id == run_id, task.c.task_state.in_(("launched", "running")), NOT_GOOD)
        .order_by(task.c.task_state_time)
        .limit(limit)
    )
    return [_task(row) for row in connection.execute(query).mappings()]
