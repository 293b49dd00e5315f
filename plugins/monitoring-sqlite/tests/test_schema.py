"""The tables: made, brought up to date from version 1, refused where they are another program's, or newer."""

from __future__ import annotations

import sqlite3

import pytest
from flowcore_monitoring_sqlite import database, load, queries, schema
from flowcore_monitoring_sqlite.schema import SchemaError
from sqlalchemy import inspect, select

#: As version 1 had them.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE workflow (run_id VARCHAR(36) NOT NULL PRIMARY KEY, workflow_name TEXT NOT NULL,
  workflow_version TEXT NOT NULL, time_began DOUBLE NOT NULL, time_completed DOUBLE, host TEXT NOT NULL,
  user TEXT NOT NULL, rundir TEXT NOT NULL,
  tasks_failed_count INTEGER NOT NULL, tasks_completed_count INTEGER NOT NULL, run_state TEXT NOT NULL,
  python_version TEXT, flowcore_version TEXT, config TEXT);
CREATE TABLE task (run_id VARCHAR(36) NOT NULL, task_id INTEGER NOT NULL, task_depends TEXT NOT NULL,
  task_func_name TEXT NOT NULL, task_app_kind TEXT NOT NULL, task_memoize BOOLEAN NOT NULL, task_hashsum TEXT,
  task_inputs TEXT, task_outputs TEXT, task_stdin TEXT, task_stdout TEXT, task_stderr TEXT,
  task_time_invoked DOUBLE NOT NULL, task_time_returned DOUBLE, task_fail_count INTEGER NOT NULL,
  task_fail_cost DOUBLE NOT NULL, task_state TEXT NOT NULL, task_state_time DOUBLE NOT NULL, task_executor TEXT,
  PRIMARY KEY (run_id, task_id)) WITHOUT ROWID;
CREATE TABLE try (run_id VARCHAR(36) NOT NULL, task_id INTEGER NOT NULL, try_id INTEGER NOT NULL, block_id TEXT,
  hostname TEXT, worker TEXT, task_executor TEXT NOT NULL, task_try_time_launched DOUBLE, task_try_time_running DOUBLE,
  task_try_time_returned DOUBLE, task_fail_history TEXT, task_joins TEXT,
  PRIMARY KEY (run_id, task_id, try_id)) WITHOUT ROWID;
CREATE TABLE status (status_id INTEGER NOT NULL PRIMARY KEY, task_id INTEGER NOT NULL, task_status_name TEXT NOT NULL,
  timestamp DOUBLE NOT NULL, run_id VARCHAR(36) NOT NULL, try_id INTEGER NOT NULL);
CREATE TABLE resource (resource_id INTEGER NOT NULL PRIMARY KEY, run_id VARCHAR(36) NOT NULL, task_id INTEGER NOT NULL,
  try_id INTEGER NOT NULL, timestamp DOUBLE NOT NULL, resource_monitoring_interval DOUBLE, psutil_process_pid INTEGER,
  psutil_process_memory_percent DOUBLE, psutil_process_children_count INTEGER, psutil_process_time_user DOUBLE,
  psutil_process_time_system DOUBLE, psutil_process_memory_virtual DOUBLE, psutil_process_memory_resident DOUBLE,
  psutil_process_disk_read DOUBLE, psutil_process_disk_write DOUBLE, psutil_process_status TEXT, task_executor TEXT,
  block_id TEXT, hostname TEXT, worker TEXT, sample_kind TEXT);
CREATE TABLE node (run_id VARCHAR(36) NOT NULL, uid VARCHAR(200) NOT NULL, task_executor TEXT, hostname TEXT NOT NULL,
  block_id TEXT, cpu_count INTEGER, total_memory BIGINT, active BOOLEAN NOT NULL, worker_count INTEGER, python_v TEXT,
  timestamp DOUBLE NOT NULL, last_heartbeat DOUBLE NOT NULL, PRIMARY KEY (run_id, uid));
CREATE TABLE block (event_id INTEGER NOT NULL PRIMARY KEY, run_id VARCHAR(36) NOT NULL, executor_label TEXT NOT NULL,
  block_id TEXT NOT NULL, job_id TEXT, timestamp DOUBLE NOT NULL, status TEXT NOT NULL);
CREATE TABLE journal (run_id VARCHAR(36) NOT NULL PRIMARY KEY, segment INTEGER NOT NULL, position BIGINT NOT NULL);
INSERT INTO workflow VALUES ('old', 'old.py', '1', 100.0, 160.0, 'h', 'u', '/runs/000', 0, 1, 'completed',
  '3.11', '0.0', '');
INSERT INTO task VALUES ('old', 0, '', 'app', 'python', 0, NULL, NULL, NULL, NULL, NULL, NULL, 101.0, 102.0, 0, 0.0,
  'exec_done', 102.0, 'htex');
"""


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    return f"sqlite:///{path}"


def test_new_tables_have_the_reference_s_columns(tmp_path):
    engine = database.writer(f"sqlite:///{tmp_path / 'new.db'}")
    with engine.begin() as connection:
        schema.create_or_migrate(connection)
        schema.create_or_migrate(connection)
        assert schema.version_of(connection) == schema.VERSION
        columns = {
            t: {c["name"] for c in inspect(connection).get_columns(t)} for t in inspect(connection).get_table_names()
        }
    engine.dispose()
    assert {"run_id", "workflow_name", "time_began", "time_completed", "rundir"} <= columns["workflow"]
    assert {"task_id", "task_depends", "task_func_name", "task_hashsum", "task_fail_cost"} <= columns["task"]
    assert {"try_id", "block_id", "hostname", "task_executor", "task_try_time_running"} <= columns["try"]
    assert {"task_status_name", "timestamp", "try_id"} <= columns["status"]
    assert {"psutil_process_time_user", "psutil_process_memory_resident"} <= columns["resource"]
    assert {"cpu_count", "total_memory", "python_v", "last_heartbeat"} <= columns["node"]
    assert {"executor_label", "block_id", "job_id", "status"} <= columns["block"]


def test_a_reader_of_version_1_is_told_what_to_run(old):
    text = f"has version 1 of the tables, and this is version {schema.VERSION}: `flowcore monitoring migrate`"
    with pytest.raises(SchemaError, match=text), database.reading(old):
        pass


def test_version_1_becomes_this_version(old):
    assert load.migrate(old).endswith(f"version 1 of the tables was made version {schema.VERSION}")
    assert load.migrate(old).endswith(f"has version {schema.VERSION} of the tables already")
    with database.reading(old) as connection:
        (run,) = queries.runs(connection)
        assert (run.name, run.state, run.completed) == ("old.py", "completed", 1)
        assert queries.counts_by_state(connection, "old") == {"exec_done": 1}
        assert queries.failures(connection, "old") == []
        assert queries.task_story(connection, "old", 0).task.name == "app"


def test_migrated_tables_are_those_that_are_made_new(old, tmp_path):
    load.migrate(old)
    new = f"sqlite:///{tmp_path / 'new.db'}"
    found = []
    for url in (old, new):
        engine = database.writer(url)
        with engine.begin() as connection:
            schema.create_or_migrate(connection)
            look = inspect(connection)
            found.append({t: {c["name"] for c in look.get_columns(t)} for t in look.get_table_names()})
        engine.dispose()
    assert found[0] == found[1]


def test_every_version_has_its_step():
    assert sorted(schema.MIGRATIONS) == list(range(2, schema.VERSION + 1))


def test_a_newer_database_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path / 'new.db'}"
    engine = database.writer(url)
    with engine.begin() as connection:
        schema.create_or_migrate(connection)
        connection.execute(schema.schema_version.update().values(version=99))
    text = "has version 99 of the tables.*pip install -U flowcore-monitoring-sqlite"
    with pytest.raises(SchemaError, match=text), engine.begin() as connection:
        schema.create_or_migrate(connection)
    engine.dispose()
    with pytest.raises(SchemaError, match="has version 99"), database.reading(url):
        pass


def test_the_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE workflow (run_id TEXT)")
    connection.close()
    engine = database.writer(f"sqlite:///{path}")
    with pytest.raises(SchemaError, match=r"tables of another program \(workflow\)"), engine.begin() as connection:
        schema.create_or_migrate(connection)
    engine.dispose()


def test_an_empty_database_has_no_runs(tmp_path):
    path = tmp_path / "empty.db"
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(SchemaError, match="no tables of flowcore's monitoring"), database.reading(f"sqlite:///{path}"):
        pass
    with pytest.raises(SchemaError, match="nothing to migrate"):
        load.migrate(f"sqlite:///{path}")


def test_readers_cannot_write(tmp_path):
    url = f"sqlite:///{tmp_path / 'new.db'}"
    engine = database.writer(url)
    with engine.begin() as connection:
        schema.create_or_migrate(connection)
    engine.dispose()
    with pytest.raises(database.DatabaseError, match="readonly"), database.reading(url) as connection:
        assert connection.execute(select(schema.schema_version)).scalar() == schema.VERSION
        connection.execute(schema.schema_version.delete())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nonsense", "'nonsense' is no database's URL: a database's URL is sqlite:////absolute/path"),
        ("nodb://host/x", "there is no database of the kind 'nodb'"),
        ("sqlite://", "is a database in memory, which nobody else can read: name a file"),
        ("sqlite:///:memory:", "is a database in memory"),
    ],
)
def test_a_wrong_url_is_explained(url, text):
    with pytest.raises(database.DatabaseError) as caught:
        database.writer(url)
    assert text in str(caught.value)


def test_no_password_is_shown():
    with pytest.raises(database.DatabaseError) as caught:
        database.writer("nodb://me:secret@host/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(database.DatabaseError) as caught:
        database.writer("no db://me:secret@host:x/y")
    assert "secret" not in str(caught.value)
    assert database.shown("postgresql://me:secret@host/x?password=secret2") == "postgresql://me:***@host/x"
