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

import msgspec
from sqlalchemy import Connection, Table, Update, bindparam, func, select, update
from sqlalchemy.exc import DataError, IntegrityError

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_sqlite import records, schema
from flowcore_monitoring_sqlite.journal import START, Position
from flowcore_monitoring_sqlite.queries import BAD, FINAL, GOOD

logger = logging.getLogger(__name__)

Row = dict[str, Any]

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
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        #: Events in the batch.
        self.events = 0
        #: When the last of them was that is about a task; epoch seconds.
        self.newest = 0.0
        self.new: dict[Table, list[Row]] = {}
        #: Rows of the table ``status``, most of all: its columns in their order, but for the number.
        self.states: list[tuple[Any, ...]] = []
        self.new_tasks: dict[int, Row] = {}
        self.changed_tasks: dict[int, Row] = {}
        self.new_tries: dict[tuple[int, int], Row] = {}
        self.changed_tries: dict[tuple[int, int], Row] = {}
        self.nodes: dict[str, Row] = {}
        self.run: Row | None = None
        self.end: Mapping[str, Any] | None = None
        self._readers: dict[str, Callable[..., None]] = {
            records.BEGIN: self._begin,
            records.TASKS: self._tasks,
            records.ATTEMPTS: self._attempts,
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

    def _tasks(self, rows: Sequence[Sequence[Any]]) -> None:
        self.events += len(rows)
        run_id = self.run_id
        states = self.states
        for (
            task_id, name, kind, state, at, try_id, executor, hashsum, depends, error, fail_count, fail_cost, joins,
            call,
        ) in rows:  # fmt: skip
            states.append((task_id, state, at, run_id, try_id))
            if state == "pending":
                row = self.new_tasks[task_id] = _new_task(run_id, task_id, name, kind, depends, at)
                if call is not None:
                    self._call(row, kind, name, call)
            else:
                found = self.new_tasks.get(task_id)
                if found is None:
                    found = self.changed_tasks.get(task_id)
                    if found is None:
                        found = self.changed_tasks[task_id] = _changed_task(task_id)
                row = found
            row["task_state"], row["task_state_time"] = state, at
            row["task_fail_count"], row["task_fail_cost"] = fail_count, fail_cost
            if executor is not None:
                row["task_executor"] = executor
            if hashsum is not None:
                row["task_hashsum"] = hashsum
            if state in FINAL:
                row["task_time_returned"] = at
            elif state == "running":
                self._try(task_id, try_id)["task_try_time_running"] = at
            elif joins:
                self._try(task_id, try_id)["task_joins"] = ",".join(map(str, joins))
            if error is not None:
                self._failure(task_id, try_id, at, state, error)
        self.newest = rows[-1][4] if rows else self.newest

    def _attempts(self, rows: Sequence[Sequence[Any]]) -> None:
        self.events += len(rows)
        for task_id, try_id, executor, launched, ended, where, error in rows:
            if ended is None:
                self.new_tries[task_id, try_id] = {
                    "run_id": self.run_id, "task_id": task_id, "try_id": try_id, "task_executor": executor,
                    "task_try_time_launched": launched, "task_try_time_running": None, "task_try_time_returned": None,
                    "block_id": None, "hostname": None, "worker": None, "task_fail_history": None, "task_joins": None,
                }  # fmt: skip
                continue
            row = self._try(task_id, try_id)
            row["task_try_time_returned"] = ended
            if where:
                found = _WHERE.fullmatch(where)
                row.update(found.groupdict() if found else {"hostname": where})
            if error is not None:
                row["task_fail_history"] = _clean(f"{error[0]}: {error[2]}")

    def _block(
        self, executor: str, block_id: str, job_id: str | None, state: str, message: str | None, at: float
    ) -> None:
        self.events += 1
        self.new.setdefault(schema.block, []).append(
            {
                "run_id": self.run_id, "executor_label": executor, "block_id": block_id, "job_id": job_id,
                "timestamp": at, "status": state, "message": _clean(message),
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

    def _try(self, task_id: int, try_id: int) -> Row:
        key = (task_id, try_id)
        row = self.new_tries.get(key)
        if row is None:
            row = self.changed_tries.get(key)
        if row is None:
            row = self.changed_tries[key] = {
                "b_task_id": task_id, "b_try_id": try_id, **dict.fromkeys(_TRY_CHANGES)
            }  # fmt: skip
        return row

    def _call(self, row: Row, kind: str, name: str, call: Sequence[Any]) -> None:
        memoize, inputs, outputs, stdin, stdout, stderr = call
        row["task_memoize"] = memoize
        row["task_inputs"] = json.dumps(inputs) if inputs else None
        row["task_outputs"] = json.dumps(outputs) if outputs else None
        row["task_stdin"], row["task_stdout"], row["task_stderr"] = stdin, stdout, stderr
        own = kind == "internal" and name.startswith("stage_")
        staging = "task" if own else "in_task"
        moved = [(url, "in") for url in inputs] + [(url, "out") for url in outputs]
        for url, direction in moved:
            # A path is no transfer, but for a task that does nothing else.
            scheme = url.partition("://")[0] if "://" in url else "file"
            if own or (kind != "internal" and scheme != "file"):
                self.new.setdefault(schema.transfer, []).append(
                    {
                        "run_id": self.run_id, "task_id": row["task_id"], "url": _clean(url), "staging": staging,
                        "direction": "out" if name == "stage_out" else direction,
                    }
                )  # fmt: skip

    def _failure(self, task_id: int, try_id: int, at: float, state: str, error: Sequence[Any]) -> None:
        name, cause, text, notes, trace = error
        self.new.setdefault(schema.failure, []).append(
            {
                "run_id": self.run_id, "task_id": task_id, "try_id": try_id, "timestamp": at,
                "task_status_name": state, "exception_type": _clean(name),
                "cause": records.general_cause(_clean(cause) or ""), "text": _clean(text),
                "notes": _clean(notes) or None, "traceback": _clean(trace),
            }
        )  # fmt: skip


def _new_task(run_id: str, task_id: int, name: str, kind: str, depends: Sequence[int], at: float) -> Row:
    return {
        "run_id": run_id, "task_id": task_id, "task_func_name": name, "task_app_kind": kind,
        "task_depends": ",".join(map(str, depends)) if depends else "", "task_time_invoked": at,
        "task_memoize": False, "task_hashsum": None, "task_inputs": None, "task_outputs": None, "task_stdin": None,
        "task_stdout": None, "task_stderr": None, "task_time_returned": None, "task_executor": None,
    }  # fmt: skip


def _changed_task(task_id: int) -> Row:
    return {"b_task_id": task_id, "task_executor": None, "task_hashsum": None, "task_time_returned": None}


def _clean(text: str | None) -> str | None:
    """Return a text as every database takes it."""
    return text.replace("\x00", "\\x00") if text and "\x00" in text else text


#: What comes later of an attempt; None leaves what is there.
_TRY_CHANGES = (
    "block_id",
    "hostname",
    "worker",
    "task_try_time_running",
    "task_try_time_returned",
    "task_fail_history",
    "task_joins",
)


def _change(table: Table, keys: Iterable[str], always: Iterable[str], where_told: Iterable[str]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in always}
    values |= {name: func.coalesce(bindparam(name, type_=table.c[name].type), table.c[name]) for name in where_told}
    return (
        update(table)
        .where(table.c.run_id == bindparam("b_run_id"), *(table.c[key] == bindparam(f"b_{key}") for key in keys))
        .values(values)
    )


_STATUS_COLUMNS = ("task_id", "task_status_name", "timestamp", "run_id", "try_id")
_CHANGE_TASK = _change(
    schema.task,
    ("task_id",),
    ("task_state", "task_state_time", "task_fail_count", "task_fail_cost"),
    ("task_executor", "task_hashsum", "task_time_returned"),
)
_CHANGE_TRY = _change(schema.attempt, ("task_id", "try_id"), (), _TRY_CHANGES)


def position_of(connection: Connection, run_id: str) -> Position | None:
    """Return how far the run's journal is in the database; None if nothing of it is."""
    row = connection.execute(
        select(schema.journal.c.segment, schema.journal.c.position).where(schema.journal.c.run_id == run_id)
    ).first()
    return None if row is None else Position(*row)


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
    _move(connection, batch.run_id, before, after)
    _write_run(connection, batch)
    _insert(connection, schema.task, list(batch.new_tasks.values()))
    _insert(connection, schema.attempt, list(batch.new_tries.values()))
    run_id = {"b_run_id": batch.run_id}
    for statement, rows in ((_CHANGE_TASK, batch.changed_tasks), (_CHANGE_TRY, batch.changed_tries)):
        if rows:
            connection.execute(statement, [row | run_id for row in rows.values()])
    _insert_tuples(connection, schema.status, _STATUS_COLUMNS, batch.states)
    for table, new in batch.new.items():
        _insert(connection, table, new)
    if batch.nodes:
        _write_nodes(connection, batch)
    if batch.end is not None:
        finish(connection, batch.run_id, "completed", batch.end["at"], batch.end["lost"])


def _move(connection: Connection, run_id: str, before: Position, after: Position) -> None:
    table = schema.journal
    moved = connection.execute(
        update(table)
        .where(
            table.c.run_id == run_id, table.c.segment == before.segment, table.c.position == before.position
        )
        .values(segment=after.segment, position=after.position)
    ).rowcount  # fmt: skip
    if moved == 1:
        return
    there = position_of(connection, run_id)
    if there is not None or before != START:
        raise Moved(f"the database has the run's journal up to {there}, and not up to {before}")
    connection.execute(table.insert().values(run_id=run_id, segment=after.segment, position=after.position))


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
    """Insert rows of values in the order of the columns.

    Straight by the driver: what SQLAlchemy does with each row takes longer than SQLite does.
    """
    if not rows:
        return
    preparer = connection.dialect.identifier_preparer
    mark = {"qmark": "?", "format": "%s", "pyformat": "%s"}.get(connection.dialect.paramstyle)
    statement = "INSERT INTO {} ({}) VALUES ({})".format(  # noqa: S608 - names of this plugin's tables
        preparer.format_table(table),
        ", ".join(preparer.format_column(table.c[name]) for name in columns),
        ", ".join([str(mark)] * len(columns)),
    )

    def insert(some: list[tuple[Any, ...]]) -> None:
        with connection.begin_nested():
            if mark is None:
                connection.execute(table.insert(), [dict(zip(columns, row, strict=True)) for row in some])
            else:
                connection.exec_driver_sql(statement, some)

    try:
        insert(rows)
    except (IntegrityError, DataError):
        # A row that the database will never take must not hold up the others for ever.
        for row in rows:
            try:
                insert([row])
            except (IntegrityError, DataError) as error:
                logger.error("a row of %s is left out: %s", table.name, error.orig)


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
