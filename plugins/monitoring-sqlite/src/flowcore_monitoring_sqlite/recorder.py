"""Turns records of the journal into rows, and writes these.

Rules of this module. What a batch of records says, and up to where in the journal they reach, goes into the database
in one transaction: so each event is written once, whoever is killed when. The position that the database has must be
the one that the batch begins at; else somebody else has written meanwhile.
"""

from __future__ import annotations

import json
import logging
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
from sqlalchemy import Compiled, Connection, Table, bindparam, func, select, update
from sqlalchemy.exc import DataError, IntegrityError

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_sqlite import records, schema
from flowcore_monitoring_sqlite.journal import START, Position
from flowcore_monitoring_sqlite.queries import BAD, FINAL, GOOD

logger = logging.getLogger(__name__)

Row = dict[str, Any]
#: The values of a row in the order of the table's columns; None for what is not known (yet).
Values = list[Any]

_WHERE = re.compile(r"block (?P<block_id>[^,]+), host (?P<hostname>[^,]+)(?:, worker (?P<worker>[^,]+))?")


class Moved(FlowcoreError):
    """Another process has written this part of the journal.

    Args:
        text: where the database is.
    """


class Batch:
    """The rows that some records make. What several of them say of one task becomes one row.

    Args:
        run_id: the run.
        free: when the last attempt on each worker ended, by executor and place; kept up to date.
    """

    def __init__(self, run_id: str, free: dict[tuple[str | None, str], float]) -> None:
        self.run_id = run_id
        self.free = free
        #: Events in the batch.
        self.events = 0
        self.new: dict[Table, list[Row]] = {}
        #: Rows of the table ``status``, most of all: its columns in their order, but for the number.
        self.states: list[tuple[Any, ...]] = []
        self.new_tasks: dict[int, Values] = {}
        self.changed_tasks: dict[int, Values] = {}
        self.new_tries: dict[tuple[int, int], Values] = {}
        self.changed_tries: dict[tuple[int, int], Values] = {}
        #: Block, host and worker of the texts that say where.
        self._places: dict[str, tuple[str | None, ...]] = {}
        self.nodes: dict[str, Row] = {}
        self.run: Row | None = None
        self.end: Mapping[str, Any] | None = None
        self._readers: dict[str, Callable[..., None]] = {
            records.BEGIN: self._begin,
            records.TASKS: self._tasks,
            records.BLOCK: self._block,
            records.RESOURCES: self._resources,
            records.NODES: self._nodes,
            records.END: self._end,
        }
        self._decode = msgspec.msgpack.Decoder().decode

    def add(self, record: bytes) -> None:
        """Take a record in. One of a kind that this version does not know is left out."""
        kind, *facts = self._decode(record)
        reader = self._readers.get(kind)
        if reader is None:
            logger.warning("a record of the kind %r is left out: this version does not know it", kind)
        else:
            reader(*facts)

    # --- kinds of records

    def _begin(self, facts: Row) -> None:
        self.events += 1
        self.run = {**facts, "run_id": self.run_id}

    def _end(self, facts: Mapping[str, Any]) -> None:
        self.events += 1
        self.end = facts

    def _tasks(self, *columns: Any) -> None:
        self.events += len(columns[0])
        run_id = self.run_id
        states, new_tasks, changed_tasks, new_tries = self.states, self.new_tasks, self.changed_tasks, self.new_tries
        for (
            task_id, name, kind, state, before, at, try_id, executor, hashsum, depends, error, fail_count, fail_cost,
            joins, call, called_at, launched_at, ended_at, where,
        ) in zip(*records.unpacked(columns), strict=False):  # fmt: skip
            if before is None and state != "pending":
                # All from its call on.
                states.append((task_id, "pending", called_at, run_id, 0))
                if launched_at is not None:
                    states.append((task_id, "launched", launched_at, run_id, 0))
            states.append((task_id, state, at, run_id, try_id))
            row = new_tasks.get(task_id)
            if row is None:
                if before is None:
                    row = new_tasks[task_id] = _new_task(run_id, task_id, name, kind, depends, called_at)
                    if call is not None:
                        self._call(row, kind, name, call)
                else:
                    row = changed_tasks.get(task_id)
                    if row is None:
                        row = changed_tasks[task_id] = [None] * len(_TASK)
            row[_STATE], row[_STATE_TIME], row[_FAIL_COUNT], row[_FAIL_COST] = state, at, fail_count, fail_cost
            if executor is not None:
                row[_EXECUTOR] = executor
            if hashsum is not None:
                row[_HASHSUM] = hashsum
            if state == "launched":
                new_tries[task_id, try_id] = _new_try(run_id, task_id, try_id, executor, at)
            elif launched_at is not None:
                if before is None:
                    new_tries[task_id, try_id] = _new_try(run_id, task_id, try_id, executor, launched_at)
                row_of_try = self._try(task_id, try_id)
                if where is not None:
                    # A worker does one thing at a time.
                    free = self.free.get((executor, where), 0.0)
                    row_of_try[_TRY_FREE] = free if free > launched_at else None
                    self.free[executor, where] = ended_at
                self._end_try(row_of_try, ended_at, where, error)
            if state in FINAL:
                row[_RETURNED] = at
            elif state == "running":
                self._try(task_id, try_id)[_TRY_RUNNING] = at
            elif joins:
                self._try(task_id, try_id)[_TRY_JOINS] = ",".join(map(str, joins))
            if error is not None:
                self._failure(task_id, try_id, at, state, error)

    def _block(
        self, executor: str, block_id: str, job_id: str | None, state: str, message: str | None, at: float
    ) -> None:
        self.events += 1
        self.new.setdefault(schema.block, []).append(
            {
                "run_id": self.run_id, "executor_label": executor, "block_id": block_id, "job_id": job_id,
                "timestamp": at, "status": state, "message": clean(message),
            }
        )  # fmt: skip

    def _resources(self, period: float | None, rows: Sequence[Sequence[Any]]) -> None:
        self.events += len(rows)
        made = self.new.setdefault(schema.resource, [])
        for (
            task_id, try_id, executor, block_id, hostname, worker, at, kind, pid, processes, user, system,
            resident, virtual, percent, read, written, state,
        ) in rows:  # fmt: skip
            made.append(
                {
                    "run_id": self.run_id, "task_id": task_id, "try_id": try_id, "timestamp": at,
                    "resource_monitoring_interval": period, "psutil_process_pid": pid,
                    "psutil_process_memory_percent": percent, "psutil_process_children_count": processes - 1,
                    "psutil_process_time_user": user, "psutil_process_time_system": system,
                    "psutil_process_memory_virtual": virtual, "psutil_process_memory_resident": resident,
                    "psutil_process_disk_read": read, "psutil_process_disk_write": written,
                    "psutil_process_status": state, "task_executor": executor, "block_id": block_id,
                    "hostname": hostname, "worker": str(worker), "sample_kind": kind,
                }
            )  # fmt: skip

    def _nodes(self, rows: Sequence[Sequence[Any]]) -> None:
        self.events += len(rows)
        for executor, block_id, hostname, manager, workers, cpus, memory, python, state, at in rows:
            before = self.nodes.get(manager)
            self.nodes[manager] = {
                "run_id": self.run_id, "uid": manager, "task_executor": executor, "hostname": hostname,
                "block_id": block_id, "cpu_count": cpus, "total_memory": memory, "active": state != "gone",
                "worker_count": workers, "python_v": python, "last_heartbeat": at,
                "timestamp": before["timestamp"] if before else at,
            }  # fmt: skip

    # --- parts

    def _try(self, task_id: int, try_id: int) -> Values:
        key = (task_id, try_id)
        row = self.new_tries.get(key)
        if row is None:
            row = self.changed_tries.get(key)
        if row is None:
            row = self.changed_tries[key] = [None] * len(_TRY)
        return row

    def _end_try(self, row: Values, ended_at: float, where: str | None, error: Sequence[Any] | None) -> None:
        row[_TRY_RETURNED] = ended_at
        if where:
            place = self._places.get(where)
            if place is None:
                found = _WHERE.fullmatch(where)
                place = self._places[where] = found.groups() if found else (None, where, None)
            row[_TRY_BLOCK], row[_TRY_HOST], row[_TRY_WORKER] = place
        if error is not None:
            row[_TRY_FAILURE] = clean(f"{error[0]}: {error[2]}")

    def _call(self, row: Values, kind: str, name: str, call: Sequence[Any]) -> None:
        memoize, inputs, outputs, *streams = call
        files = [json.dumps(urls) if urls else None for urls in (inputs, outputs)]
        row[_MEMOIZE : _MEMOIZE + 1], row[_INPUTS : _INPUTS + 5] = [memoize], [*files, *streams]
        own = kind == "internal" and name.startswith("stage_")
        staging = "task" if own else "in_task"
        moved = [(url, "in") for url in inputs] + [(url, "out") for url in outputs]
        for url, direction in moved:
            # A path is no transfer, but for a task that does nothing else.
            scheme = url.partition("://")[0] if "://" in url else "file"
            if own or (kind != "internal" and scheme != "file"):
                self.new.setdefault(schema.transfer, []).append(
                    {
                        "run_id": self.run_id, "task_id": row[_TASK_ID], "url": clean(url), "staging": staging,
                        "direction": "out" if name == "stage_out" else direction,
                    }
                )  # fmt: skip

    def _failure(self, task_id: int, try_id: int, at: float, state: str, error: Sequence[Any]) -> None:
        name, cause, text, notes, trace = error
        self.new.setdefault(schema.failure, []).append(
            {
                "run_id": self.run_id, "task_id": task_id, "try_id": try_id, "timestamp": at,
                "task_status_name": state, "exception_type": clean(name),
                "cause": records.general_cause(clean(cause) or ""), "text": clean(text),
                "notes": clean(notes) or None, "traceback": clean(trace),
            }
        )  # fmt: skip


#: Columns of the tables ``task`` and ``try``, in the order of their rows here, and the places of some.
_TASK = tuple(schema.task.c.keys())
_TASK_ID, _MEMOIZE, _HASHSUM, _INPUTS, _RETURNED, _FAIL_COUNT, _FAIL_COST, _STATE, _STATE_TIME, _EXECUTOR = map(
    _TASK.index,
    (
        "task_id", "task_memoize", "task_hashsum", "task_inputs", "task_time_returned", "task_fail_count",
        "task_fail_cost", "task_state", "task_state_time", "task_executor",
    ),
)  # fmt: skip
_TRY = tuple(schema.attempt.c.keys())
#: What comes later of an attempt than its launch.
_TRY_LATER = (
    "block_id", "hostname", "worker", "task_try_time_running", "task_try_time_free", "task_try_time_returned",
    "task_fail_history", "task_joins",
)  # fmt: skip
_TRY_BLOCK, _TRY_HOST, _TRY_WORKER, _TRY_RUNNING, _TRY_FREE, _TRY_RETURNED, _TRY_FAILURE, _TRY_JOINS = map(
    _TRY.index, _TRY_LATER
)


def _new_task(run_id: str, task_id: int, name: str, kind: str, depends: Sequence[int], at: float) -> Values:
    return [
        run_id, task_id, ",".join(map(str, depends)) if depends else "", name, kind, False, None, None, None, None,
        None, None, at, None, 0, 0.0, "pending", at, None,
    ]  # fmt: skip


def _new_try(run_id: str, task_id: int, try_id: int, executor: str | None, launched_at: float) -> Values:
    return [run_id, task_id, try_id, None, None, None, executor, launched_at, None, None, None, None, None]


def clean(text: str | None) -> str | None:
    """Return a text as every database takes it."""
    return text.replace("\x00", "\\x00") if text and "\x00" in text else text


#: Columns of the table ``journal``: where its records are written up to, and where they are counted.
WRITTEN = ("segment", "position")
COUNTED = ("counted_segment", "counted_position")

_STATUS = ("task_id", "task_status_name", "timestamp", "run_id", "try_id")
#: What comes later of a task than its call: what is always told, and what leaves the column as it is where it is None.
_TASK_TOLD = ("task_state", "task_state_time", "task_fail_count", "task_fail_cost")
_TASK_LATER = ("task_executor", "task_hashsum", "task_time_returned")


def position_of(connection: Connection, run_id: str, columns: Sequence[str] = WRITTEN) -> Position:
    """Return how far the run's journal is in the database."""
    table = schema.journal
    row = connection.execute(select(*(table.c[name] for name in columns)).where(table.c.run_id == run_id)).first()
    return START if row is None else Position(*row)


def has_ended(connection: Connection, run_id: str) -> bool:
    """Return whether the database has the last record of the run's journal."""
    query = select(schema.workflow.c.run_state).where(schema.workflow.c.run_id == run_id)
    return connection.execute(query).scalar() == "completed"


def write(connection: Connection, batch: Batch, before: Position, after: Position) -> None:
    """Write a batch, in the connection's transaction.

    Args:
        connection: within a transaction.
        batch: what to write.
        before, after: where in the journal the batch begins and ends.

    Raises:
        Moved: the database is not at ``before``.
        SQLAlchemyError: the database does not take it now.
    """
    move(connection, batch.run_id, before, after)
    _write_run(connection, batch)
    _insert_tuples(connection, schema.task, _TASK, list(map(tuple, batch.new_tasks.values())))
    _insert_tuples(connection, schema.attempt, _TRY, list(map(tuple, batch.new_tries.values())))
    task_keys = [(batch.run_id, task_id) for task_id in batch.changed_tasks]
    _update(connection, schema.task, _TASK_TOLD, _TASK_LATER, task_keys, batch.changed_tasks.values())
    try_keys = [(batch.run_id, *key) for key in batch.changed_tries]
    _update(connection, schema.attempt, (), _TRY_LATER, try_keys, batch.changed_tries.values())
    _insert_tuples(connection, schema.status, _STATUS, batch.states)
    for table, new in batch.new.items():
        _insert(connection, table, new)
    if batch.nodes:
        _write_nodes(connection, batch)
    if batch.end is not None:
        finish(connection, batch.run_id, "completed", batch.end["at"], batch.end["lost"])


def move(
    connection: Connection, run_id: str, before: Position, after: Position, columns: Sequence[str] = WRITTEN
) -> None:
    """Note how far the journal is in the database.

    Args:
        connection: within a transaction.
        run_id: the run.
        before, after: the place where what is written in this transaction begins, and where it ends.
        columns: what is noted: how far it is :data:`WRITTEN`, or how far :data:`COUNTED`.

    Raises:
        Moved: another process was here.
    """
    table = schema.journal
    there = [table.c[name] == value for name, value in zip(columns, attrs.astuple(before), strict=True)]
    to = dict(zip(columns, attrs.astuple(after), strict=True))
    if connection.execute(update(table).where(table.c.run_id == run_id, *there).values(to)).rowcount == 1:
        return
    found = connection.execute(
        select(*(table.c[name] for name in columns)).where(table.c.run_id == run_id)
    ).first()  # fmt: skip
    if found is not None or before != START:
        raise Moved(f"the database has the run's journal up to {found and Position(*found)}, and not up to {before}")
    start = dict(zip((*WRITTEN, *COUNTED), attrs.astuple(START) * 2, strict=True))
    connection.execute(table.insert().values(start | to | {"run_id": run_id}))


def _write_run(connection: Connection, batch: Batch) -> None:
    if batch.run is not None:
        new = {"heartbeat": time.time(), "run_state": "running", "events_lost": 0}
        counts = {"tasks_failed_count": 0, "tasks_completed_count": 0}
        _insert(connection, schema.workflow, [{**batch.run, **new, **counts}])
    else:
        beat(connection, batch.run_id)


def _insert(connection: Connection, table: Table, rows: list[Row]) -> None:
    if rows:
        columns = [name for name in table.c.keys() if name in rows[0]]  # noqa: SIM118 - no mapping
        _insert_tuples(connection, table, columns, list(map(operator.itemgetter(*columns), rows)))


def _insert_tuples(connection: Connection, table: Table, columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    """Insert rows of values in the order of the columns."""
    if not rows:
        return
    statement = table.insert().compile(dialect=connection.dialect, column_keys=columns)
    try:
        _execute(connection, statement, columns, rows)
    except (IntegrityError, DataError):
        # A row that the database will never take must not hold up the others for ever.
        for row in rows:
            try:
                _execute(connection, statement, columns, [row])
            except (IntegrityError, DataError) as error:
                logger.error("a row of %s is left out: %s", table.name, error.orig)


def _update(
    connection: Connection,
    table: Table,
    told: Sequence[str],
    later: Sequence[str],
    keys: list[tuple[Any, ...]],
    rows: Iterable[Values],
) -> None:
    """Change rows.

    Args:
        connection: within a transaction.
        table: of which.
        told: columns that are set.
        later: columns that are set where the new value is not None.
        keys: the values of the primary key of each row.
        rows: the new values of all columns, in their order.
    """
    if not keys:
        return
    primary = [column.name for column in table.primary_key]
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in told}
    values |= {
        name: func.coalesce(bindparam(f"new_{name}", type_=table.c[name].type), table.c[name]) for name in later
    }  # fmt: skip
    where = [table.c[name] == bindparam(f"key_{name}") for name in primary]
    statement = update(table).where(*where).values(values).compile(dialect=connection.dialect)
    names = [*(f"key_{name}" for name in primary), *(f"new_{name}" for name in (*told, *later))]
    places = operator.itemgetter(*(table.c.keys().index(name) for name in (*told, *later)))
    parameters = [(*key, *places(row)) for key, row in zip(keys, rows, strict=True)]
    _execute(connection, statement, names, parameters)


def _execute(
    connection: Connection, statement: Compiled, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Execute a statement for each row of its parameters, which are in the order of the names.

    Straight by the driver: what SQLAlchemy does with each row takes longer than SQLite does.
    """
    order = getattr(statement, "positiontup", None)
    parameters: Any
    if order is None:
        parameters = [dict(zip(names, row, strict=True)) for row in rows]
    elif list(order) == list(names):
        parameters = list(rows)
    else:
        parameters = list(map(operator.itemgetter(*map(list(names).index, order)), rows))
    with connection.begin_nested():
        connection.exec_driver_sql(str(statement), parameters)


def _write_nodes(connection: Connection, batch: Batch) -> None:
    table = schema.node
    known = set(
        connection.execute(
            select(table.c.uid).where(table.c.run_id == batch.run_id, table.c.uid.in_(batch.nodes))
        ).scalars()
    )
    _insert(connection, table, [row for uid, row in batch.nodes.items() if uid not in known])
    for uid in known:
        row = {name: value for name, value in batch.nodes[uid].items() if name not in ("run_id", "uid", "timestamp")}
        connection.execute(update(table).where(table.c.run_id == batch.run_id, table.c.uid == uid).values(row))


def beat(connection: Connection, run_id: str) -> None:
    """Give a sign of life of a run."""
    connection.execute(update(schema.workflow).where(schema.workflow.c.run_id == run_id).values(heartbeat=time.time()))


def finish(connection: Connection, run_id: str, state: str, completed_at: float | None, lost: int = 0) -> None:
    """Note the end of a run.

    Args:
        connection: within a transaction.
        run_id: the run.
        state: ``completed`` or ``interrupted``.
        completed_at: when it ended, where that is known.
        lost: events that could not be kept.
    """
    count = (
        select(schema.task.c.task_state, func.count())
        .where(schema.task.c.run_id == run_id)
        .group_by(schema.task.c.task_state)
    )
    counts: dict[str, int] = {name: int(number) for name, number in connection.execute(count)}
    values: dict[str, Any] = {
        "run_state": state,
        "time_completed": completed_at,
        "tasks_completed_count": sum(counts.get(name, 0) for name in GOOD),
        "tasks_failed_count": sum(counts.get(name, 0) for name in BAD),
        "events_lost": lost,
    }
    connection.execute(update(schema.workflow).where(schema.workflow.c.run_id == run_id).values(values))
    # Nobody hears of the nodes of a run that is over.
    connection.execute(update(schema.node).where(schema.node.c.run_id == run_id).values(active=False))
