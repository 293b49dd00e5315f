"""The tables of the database, and how older ones are brought up to date.

Rules of this module. Tables and columns that the reference has keep its names, so that users' SQL goes on working; all
times are seconds since 1970 (UTC), as floating-point numbers, and NULL is no time. A database says which version it
has (table ``schema_version``). Who writes brings an older one up to date, step by step; who only
reads says what to run.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Inspector,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import OperationalError, ProgrammingError

from flowcore.plugins.api import FlowcoreError

#: The version that this module describes.
VERSION = 3

metadata = MetaData()

#: Characters of an app's name by which its tasks are counted.
LONGEST_NAME = 500

#: A UUID as text.
_RUN_ID = String(36)
# SQLite counts a column up by itself only where its type is exactly INTEGER.
_COUNTER = BigInteger().with_variant(Integer, "sqlite")

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, nullable=False),
)

#: One row for each run.
workflow = Table(
    "workflow",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("workflow_name", Text, nullable=False),
    Column("workflow_version", Text, nullable=False),
    Column("time_began", Double, nullable=False),
    # NULL while the run goes on, and for ever if it was interrupted.
    Column("time_completed", Double),
    Column("host", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("rundir", Text, nullable=False),
    # Set at the end of the run; while it goes on, count the tasks by task_state.
    Column("tasks_failed_count", Integer, nullable=False, default=0),
    Column("tasks_completed_count", Integer, nullable=False, default=0),
    # running, completed, or interrupted: the program was gone before the run was ended.
    Column("run_state", Text, nullable=False, default="running"),
    # When the writer last gave a sign of life.
    Column("heartbeat", Double, nullable=False),
    Column("pid", Integer),
    Column("python_version", Text),
    Column("flowcore_version", Text),
    Column("config", Text),
    # Events that could not be kept, since no disk took them; 0 unless something went badly wrong.
    Column("events_lost", Integer, nullable=False, default=0),
    Index("workflow_began", "time_began"),
)

#: One row for each task.
task = Table(
    "task",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    # Task ids, joined by commas.
    Column("task_depends", Text, nullable=False, default=""),
    Column("task_func_name", Text, nullable=False),
    # python, bash, join; internal: of flowcore itself, such as the bringing of a file.
    Column("task_app_kind", Text, nullable=False),
    Column("task_memoize", Boolean, nullable=False, default=False),
    Column("task_hashsum", Text),
    # URLs of files as JSON lists.
    Column("task_inputs", Text),
    Column("task_outputs", Text),
    Column("task_stdin", Text),
    Column("task_stdout", Text),
    Column("task_stderr", Text),
    Column("task_time_invoked", Double, nullable=False),
    Column("task_time_returned", Double),
    Column("task_fail_count", Integer, nullable=False, default=0),
    Column("task_fail_cost", Double, nullable=False, default=0.0),
    # The state of the last event, and when that was.
    Column("task_state", Text, nullable=False),
    Column("task_state_time", Double, nullable=False),
    # Executor of the last attempt.
    Column("task_executor", Text),
    sqlite_with_rowid=False,
)

#: Of a task that has not ended well. An index of all tasks would cost each of them.
NOT_GOOD = text("task_state NOT IN ('exec_done', 'memo_done')")
_task_not_good = Index(
    "task_not_good",
    task.c.run_id,
    task.c.task_state,
    task.c.task_state_time,
    sqlite_where=NOT_GOOD,
    postgresql_where=NOT_GOOD,
)

#: How many tasks of each app are in each state. Up to date before the rows of the tasks are, where these come slowly.
tally = Table(
    "tally",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("task_func_name", String(LONGEST_NAME), primary_key=True),
    Column("task_state", String(20), primary_key=True),
    Column("task_count", Integer, nullable=False),
    sqlite_with_rowid=False,
)

#: How many tasks had ended when, in the last minutes of what was heard of the run.
progress = Table(
    "progress",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("timestamp", Double, primary_key=True),
    Column("tasks_ended", Integer, nullable=False),
    sqlite_with_rowid=False,
)

#: One row for each attempt.
attempt = Table(
    "try",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("try_id", Integer, primary_key=True, autoincrement=False),
    Column("block_id", Text),
    Column("hostname", Text),
    Column("worker", Text),
    Column("task_executor", Text, nullable=False),
    Column("task_try_time_launched", Double),
    # Where the executor told.
    Column("task_try_time_running", Double),
    # Where it did not: when the attempt before it on its worker ended, if that was after its own launch.
    Column("task_try_time_free", Double),
    Column("task_try_time_returned", Double),
    # What the attempt failed with; NULL where it did not.
    Column("task_fail_history", Text),
    # Ids of the tasks that a join_app waits for, joined by commas.
    Column("task_joins", Text),
    sqlite_with_rowid=False,
)

#: One row for each change of a task's state, in the order in which they happened.
status = Table(
    "status",
    metadata,
    Column("status_id", _COUNTER, primary_key=True, autoincrement=True),
    Column("task_id", Integer, nullable=False),
    Column("task_status_name", Text, nullable=False),
    Column("timestamp", Double, nullable=False),
    Column("run_id", _RUN_ID, nullable=False),
    Column("try_id", Integer, nullable=False),
    Index("status_by_task", "run_id", "task_id"),
)

#: One row for each failure: of an attempt that is made again, and of a task.
failure = Table(
    "failure",
    metadata,
    Column("failure_id", _COUNTER, primary_key=True, autoincrement=True),
    Column("run_id", _RUN_ID, nullable=False),
    Column("task_id", Integer, nullable=False),
    Column("try_id", Integer, nullable=False),
    Column("timestamp", Double, nullable=False),
    # fail_retryable: another attempt followed; failed, dep_fail: the task's end.
    Column("task_status_name", Text, nullable=False),
    Column("exception_type", Text, nullable=False),
    # Type and text without what differs from task to task: equal causes group failures.
    Column("cause", Text, nullable=False),
    Column("text", Text, nullable=False),
    # Where it ran, earlier attempts, what to try: a line each.
    Column("notes", Text),
    # Of the first failures of a kind only.
    Column("traceback", Text),
    Index("failure_by_task", "run_id", "task_id"),
    Index("failure_by_cause", "run_id", "cause", "task_status_name"),
)

#: What the processes of an attempt used, at one moment.
resource = Table(
    "resource",
    metadata,
    Column("resource_id", _COUNTER, primary_key=True, autoincrement=True),
    Column("run_id", _RUN_ID, nullable=False),
    Column("task_id", Integer, nullable=False),
    Column("try_id", Integer, nullable=False),
    Column("timestamp", Double, nullable=False),
    # Seconds between two samples; 0: only at the beginning and the end of an attempt.
    Column("resource_monitoring_interval", Double),
    Column("psutil_process_pid", Integer),
    Column("psutil_process_memory_percent", Double),
    # Processes below the worker.
    Column("psutil_process_children_count", Integer),
    # Seconds of CPU, and bytes read and written, since the attempt began; memory in bytes at the moment.
    Column("psutil_process_time_user", Double),
    Column("psutil_process_time_system", Double),
    Column("psutil_process_memory_virtual", Double),
    Column("psutil_process_memory_resident", Double),
    Column("psutil_process_disk_read", Double),
    Column("psutil_process_disk_write", Double),
    Column("psutil_process_status", Text),
    Column("task_executor", Text),
    Column("block_id", Text),
    Column("hostname", Text),
    Column("worker", Text),
    # begin, running or end of the attempt.
    Column("sample_kind", Text),
    Index("resource_by_task", "run_id", "task_id", "timestamp"),
    Index("resource_by_time", "run_id", "timestamp"),
)

#: One row for each manager of a node, brought up to date as it gives signs of life.
node = Table(
    "node",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    # The manager.
    Column("uid", String(200), primary_key=True),
    Column("task_executor", Text),
    Column("hostname", Text, nullable=False),
    Column("block_id", Text),
    Column("cpu_count", Integer),
    # Bytes.
    Column("total_memory", BigInteger),
    Column("active", Boolean, nullable=False),
    Column("worker_count", Integer),
    Column("python_v", Text),
    # When it connected.
    Column("timestamp", Double, nullable=False),
    Column("last_heartbeat", Double, nullable=False),
)

#: One row for each change of a block's status, in the order in which they happened.
block = Table(
    "block",
    metadata,
    Column("event_id", _COUNTER, primary_key=True, autoincrement=True),
    Column("run_id", _RUN_ID, nullable=False),
    Column("executor_label", Text, nullable=False),
    Column("block_id", Text, nullable=False),
    Column("job_id", Text),
    Column("timestamp", Double, nullable=False),
    # PENDING, RUNNING, COMPLETED, ...
    Column("status", Text, nullable=False),
    # What the provider said of it.
    Column("message", Text),
    Index("block_by_run", "run_id", "executor_label", "block_id"),
)

#: One row for each file that is moved for a task.
transfer = Table(
    "transfer",
    metadata,
    Column("transfer_id", _COUNTER, primary_key=True, autoincrement=True),
    Column("run_id", _RUN_ID, nullable=False),
    # The task that moves the file: its times, state and executor are the transfer's.
    Column("task_id", Integer, nullable=False),
    # Without passwords and queries.
    Column("url", Text, nullable=False),
    # in or out.
    Column("direction", Text, nullable=False),
    # task: by a task of its own, which does nothing else; in_task: inside the task that needs or makes the file.
    Column("staging", Text, nullable=False),
    Index("transfer_by_run", "run_id", "task_id"),
)

#: How much of a run's journal is in the database, and how much is counted in the table ``tally``.
journal = Table(
    "journal",
    metadata,
    Column("run_id", _RUN_ID, primary_key=True),
    Column("segment", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("counted_segment", Integer, nullable=False),
    Column("counted_position", BigInteger, nullable=False),
)


class SchemaError(FlowcoreError):
    """The database is none of this plugin, or of another version of it.

    Args:
        text: what was found, and what to do.
    """


def _to_2(connection: Connection) -> None:
    """Version 2 tells the causes of failures, and the files that were moved; it has signs of life of runs."""
    for table in (failure, transfer):
        table.create(connection, checkfirst=True)
    _add_columns(connection, workflow, "heartbeat", "pid", "events_lost")
    _add_columns(connection, block, "message")


def count_again(connection: Connection) -> None:
    """Make the numbers of the table ``tally`` those of the rows of tasks."""
    by = (task.c.run_id, task.c.task_func_name, task.c.task_state)
    connection.execute(tally.delete())
    connection.execute(tally.insert().from_select(list(tally.c), select(*by, func.count()).group_by(*by)))


def _to_3(connection: Connection) -> None:
    """Version 3 has the numbers of tasks ahead of their rows, and when the workers of attempts were free."""
    for table in (tally, progress):
        table.create(connection, checkfirst=True)
    _add_columns(connection, journal, "counted_segment", "counted_position")
    _add_columns(connection, attempt, "task_try_time_free")
    connection.execute(journal.update().values(counted_segment=journal.c.segment, counted_position=journal.c.position))
    count_again(connection)
    connection.execute(text("DROP INDEX IF EXISTS task_by_state"))
    _task_not_good.create(connection, checkfirst=True)


#: The steps: the one at key N makes version N of version N - 1.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _to_2, 3: _to_3}


def version_of(connection: Connection) -> int | None:
    """Return the version of the tables in a database; None if it has none.

    Raises:
        SchemaError: there are tables, and they are not this plugin's.
    """
    found = inspect(connection)
    names = set(found.get_table_names())
    if schema_version.name in names:
        version = connection.execute(select(schema_version.c.version)).scalar()
        if version is not None:
            return int(version)
    foreign = sorted(names & {"workflow", "task", "try", "status"})
    if foreign:
        raise SchemaError(
            f"the database has tables of another program ({', '.join(foreign)}) and no table schema_version; "
            "use another database"
        )
    return None


def create_or_migrate(connection: Connection) -> None:
    """Make the tables, or bring older ones up to date; in the connection's transaction.

    Raises:
        SchemaError: the tables are of a newer version of this plugin, or of another program.
    """
    version = version_of(connection)
    if version is None:
        metadata.create_all(connection)
        connection.execute(schema_version.delete())
        connection.execute(schema_version.insert().values(version=VERSION))
        return
    _refuse_newer(version)
    while version < VERSION:
        version += 1
        MIGRATIONS[version](connection)
        connection.execute(schema_version.update().values(version=version))


def check(connection: Connection) -> None:
    """Go on only if the tables are of this version; for who reads only.

    Raises:
        SchemaError: they are not; says what to run.
    """
    try:
        version = version_of(connection)
    except (OperationalError, ProgrammingError) as error:
        raise SchemaError(f"the database cannot be read: {error.orig}") from error
    if version is None:
        raise SchemaError("the database has no tables of flowcore's monitoring: no run was recorded in it")
    _refuse_newer(version)
    if version < VERSION:
        raise SchemaError(
            f"the database has version {version} of the tables, and this is version {VERSION}: "
            "`flowcore monitoring migrate` brings it up to date"
        )


def _refuse_newer(version: int) -> None:
    if version > VERSION:
        raise SchemaError(
            f"the database has version {version} of the tables, and this flowcore-monitoring-sqlite knows version "
            f"{VERSION} and older ones: pip install -U flowcore-monitoring-sqlite"
        )


def _add_columns(connection: Connection, table: Table, *names: str) -> None:
    found: Inspector = inspect(connection)
    present = {column["name"] for column in found.get_columns(table.name)}
    quote = connection.dialect.identifier_preparer
    for name in names:
        if name in present:
            continue
        column = table.c[name]
        kind = column.type.compile(connection.dialect)
        # Rows that are there need a value where the column must have one.
        rest = "" if column.nullable else " NOT NULL DEFAULT 0"
        connection.exec_driver_sql(f"ALTER TABLE {quote.quote(table.name)} ADD COLUMN {quote.quote(name)} {kind}{rest}")
