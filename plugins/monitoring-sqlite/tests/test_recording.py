"""Runs that are recorded: what is in the database is what happened, also after a kill, a lock or a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flowcore_monitoring_sqlite import database, queries, schema
from flowcore_monitoring_sqlite import hub as hubs
from flowcore_monitoring_sqlite import load as loading
from flowcore_monitoring_sqlite.hub import MonitoringHub
from sqlalchemy import func, select

import flowcore
from flowcore import File, bash_app, join_app, python_app
from flowcore.errors import ConfigurationError
from flowcore.testing import eventually, processes
from flowcore.testing.servers import unavailable

WAIT_S = 60


@python_app
def identity(x):
    return x


@python_app(cache=True)
def cached(x):
    return x


@python_app
def fails(x):
    raise ValueError(f"bad value {x}")


@pytest.fixture
def ask(url):
    def ask(question, *args, **options):
        with database.reading(url) as connection:
            return question(connection, *args, **options)

    return ask


def story(ask, task_id):
    return ask(queries.task_story, ask(queries.find_run).run_id, task_id)


def count(connection, table):
    return connection.execute(select(func.count()).select_from(table)).scalar()


def test_a_run_is_recorded(load, ask, tmp_path):
    @join_app
    def join():
        return [identity(1), identity(2)]

    @bash_app
    def script(inputs=(), stderr=None):
        return f"cat {inputs[0]}; echo oh >&2; exit 3"

    (tmp_path / "in.txt").write_text("x")
    with load(retries=1) as run:
        first = identity(1)
        identity(first).result(timeout=WAIT_S)
        bad = fails(7)
        identity(bad).exception(timeout=WAIT_S)
        join().result(timeout=WAIT_S)
        cached(1).result(timeout=WAIT_S)
        cached(1).result(timeout=WAIT_S)
        script(inputs=[File(tmp_path / "in.txt")], stderr=flowcore.AUTO_LOGNAME).exception(timeout=WAIT_S)
        counts = run.task_counts()
        run_dir = run.run_dir
        # Live: within two seconds of the truth.
        eventually(lambda: ask(queries.counts_by_state, run.run_id) == counts, WAIT_S, "the events in the database")
        assert ask(queries.find_run, "0").state == "running"
    found = ask(queries.find_run)
    assert (found.run_id, found.state, found.host) == (run.run_id, "completed", os.uname().nodename)
    assert (found.completed, found.failed) == (counts["exec_done"] + counts["memo_done"], 3)
    assert found.run_dir == str(run_dir)
    assert ask(queries.counts_by_state, run.run_id) == counts
    assert story(ask, 1).task.depends == (0,)
    assert [t.error for t in story(ask, 2).tries] == ["ValueError: bad value 7"] * 2
    assert story(ask, 3).task.state == "dep_fail"
    assert story(ask, 3).failures[0].cause == "ValueError: bad value N"
    joining = story(ask, 4)
    assert (joining.task.kind, joining.tries[0].joins) == ("join", (5, 6))
    assert story(ask, 8).task.state == "memo_done"
    assert story(ask, 8).task.hashsum == story(ask, 7).task.hashsum is not None
    assert story(ask, 8).task.memoize
    script_story = story(ask, 9)
    assert script_story.task.inputs == (str(tmp_path / "in.txt"),)
    assert script_story.task.stderr.endswith(".stderr")
    assert "exit code 3" in script_story.failures[-1].text
    # Nothing is left of the journal.
    assert not (run_dir / "monitoring").exists()


def test_a_program_names_its_workflow(load, ask):
    with load({"workflow_name": "climate", "workflow_version": "7"}):
        pass
    with load():
        pass
    second, first = ask(queries.runs)
    assert (first.name, first.version) == ("climate", "7")
    assert second.name == Path(sys.argv[0]).name
    assert ask(queries.find_run, first.run_id[:8]).run_id == first.run_id
    assert ask(queries.find_run, "1").run_id == second.run_id


def test_a_hub_may_record_another_run_afterwards(tmp_path, ask):
    hub = MonitoringHub()
    for _ in range(2):
        config = flowcore.Config(run_dir=tmp_path / "runinfo", initialize_logging=False, monitoring=hub)
        with flowcore.load(config):
            identity(1).result(timeout=WAIT_S)
    assert [run.completed for run in ask(queries.runs)] == [1, 1]


def test_two_runs_share_a_database(tmp_path, ask):
    def config():
        return flowcore.Config(run_dir=tmp_path / "runinfo", initialize_logging=False, monitoring=MonitoringHub())

    with flowcore.DataFlowKernel(config()) as one, flowcore.DataFlowKernel(config()) as other:
        futures = [run.submit(abs, (-n,)) for n in range(300) for run in (one, other)]
        for future in futures:
            future.result(timeout=WAIT_S)
    assert [run.completed for run in ask(queries.runs)] == [300, 300]
    assert ask(count, schema.status) == 3 * 600


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"logging_endpoint": "runs.db"}, "MonitoringHub(logging_endpoint='runs.db'): that is no database's URL"),
        ({"logging_endpoint": "nodb://me:secret@h/x"}, "there is no database of the kind 'nodb'"),
        ({"logging_endpoint": "sqlite:////nowhere/at/all.db"}, "unable to open database file"),
        ({"logdir": "/proc/nothing"}, "the journal of the run cannot be written in /proc/nothing"),
        ({"resource_monitoring_interval": -1}, "must be at least 0"),
        ({"hub_prot": 1}, "has no option 'hub_prot' (did you mean 'hub_port'?)"),
    ],
)
def test_what_cannot_work_is_refused_at_the_load(load, options, text, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(options)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.glob("runinfo/*/monitoring"))
    # Another run is none the worse for it.
    with load():
        assert identity(1).result(timeout=WAIT_S) == 1


def test_a_postgresql_server_that_is_not_there_is_refused_at_the_load(load):
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigurationError, match="connection failed|Connection refused") as caught:
        load({"logging_endpoint": "postgresql://me:secret@127.0.0.1:1/x"})
    assert "secret" not in str(caught.value)
    assert "postgresql://me:...@127.0.0.1:1/x" in str(caught.value)


def test_the_password_of_the_database_is_nowhere(tmp_path):
    hub = MonitoringHub(logging_endpoint="postgresql://me:secret@h/x")
    assert "secret" not in repr(hub)


def test_the_reference_s_options_are_taken():
    hub = MonitoringHub(
        "127.0.0.1", 55055, (55050, 56000), "name", "1", None, ".", True, True, 10
    )  # fmt: skip
    assert (hub.resource_monitoring_interval, hub.logdir, hub.monitoring_debug) == (10, ".", True)
    assert hub.flowcore_resource_period("htex") == 10
    assert MonitoringHub(resource_monitoring_enabled=False).flowcore_resource_period("htex") is None
    assert MonitoringHub().flowcore_resource_period("htex") == 30


def test_a_relative_database_is_that_of_the_folder_at_the_load(load, tmp_path, monkeypatch):
    with load({"logging_endpoint": "sqlite:///mine.db"}):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        identity(1).result(timeout=WAIT_S)
    with database.reading(f"sqlite:///{tmp_path / 'mine.db'}") as connection:
        assert queries.find_run(connection).completed == 1


def test_the_journal_goes_where_it_is_told(load, tmp_path, ask):
    with load({"logdir": str(tmp_path / "logs"), "monitoring_debug": True}):
        assert list((tmp_path / "logs").glob("monitoring-*/events-000001.journal"))
        identity(1).result(timeout=WAIT_S)
    assert ask(queries.find_run).completed == 1
    (log,) = (tmp_path / "logs").glob("monitoring-*/*")
    assert log.name == "writer.log"
    assert "events are written" in log.read_text()


# --- faults


def writer_pid(run):
    return run.config.monitoring._recording._process.pid


def test_a_writer_that_is_killed_is_followed_by_another_one(load, ask):
    with load() as run:
        total = 0
        for _ in range(3):
            futures = [identity(n) for n in range(400)]
            total += len(futures)
            pid = writer_pid(run)
            os.kill(pid, signal.SIGKILL)
            for future in futures:
                future.result(timeout=WAIT_S)
            eventually(lambda pid=pid: writer_pid(run) != pid, WAIT_S, "another writer")
    assert ask(queries.find_run).completed == total
    assert ask(count, schema.task) == total
    assert ask(count, schema.status) == 3 * total
    assert ask(count, schema.attempt) == total


def until_refused(run, text):
    recording = run.config.monitoring._recording
    eventually(lambda: text in recording._why(), WAIT_S, "the database's refusal")


def test_a_locked_database_delays_the_end_and_no_task(load, ask, url, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hubs, "QUIET_S", 0.5)
    with load() as run:
        identity(0).result(timeout=WAIT_S)
        eventually(lambda: ask(queries.counts_by_state, run.run_id) == {"exec_done": 1}, WAIT_S, "the first task")
        holder = sqlite3.connect(tmp_path / "runinfo" / "monitoring.db", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        futures = [identity(n) for n in range(200)]
        for future in futures:
            future.result(timeout=WAIT_S)
        assert ask(queries.counts_by_state, run.run_id) == {"exec_done": 1}
        until_refused(run, "database is locked")

        def release():
            # Once the end of the run has said what it waits for.
            eventually(lambda: "waiting for it" in capsys_text(capsys, said), WAIT_S, "its words")
            holder.execute("COMMIT")
            holder.close()

        said = []
        thread = threading.Thread(target=release)
        thread.start()
    thread.join(WAIT_S)
    assert "has not got all events yet (database is locked): waiting for it" in said[-1]
    assert ask(queries.find_run).completed == 201


def capsys_text(capsys, said):
    said.append((said[-1] if said else "") + capsys.readouterr().err)
    return said[-1]


def test_a_database_that_stays_away_leaves_a_journal_that_can_be_imported(load, ask, url, tmp_path, capsys):
    with load({"end_timeout": 1.0}) as run:
        identity(0).result(timeout=WAIT_S)
        eventually(lambda: ask(queries.counts_by_state, run.run_id) == {"exec_done": 1}, WAIT_S, "the first task")
        holder = sqlite3.connect(tmp_path / "runinfo" / "monitoring.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for n in range(50):
            identity(n).result(timeout=WAIT_S)
        until_refused(run, "database is locked")
    said = capsys.readouterr().err
    folder = run.run_dir / "monitoring"
    assert f"They are in {folder}. To load them: flowcore monitoring import {folder}" in said
    assert "database is locked" in said
    holder.execute("COMMIT")
    holder.close()
    assert ask(queries.find_run).state == "running"
    # By the run directory, too.
    assert "events were loaded" in loading.load(run.run_dir, None)
    # What remains tells why.
    assert [path.name for path in folder.iterdir()] == ["writer.log"]
    found = ask(queries.find_run)
    assert (found.state, found.completed) == ("completed", 51)
    assert ask(count, schema.status) == 3 * 51
    with pytest.raises(loading.JournalError, match="all that happened in the run is in its database"):
        loading.load(run.run_dir, None)


PROGRAM = """
import sys
import flowcore
from flowcore_monitoring_sqlite.hub import MonitoringHub

@flowcore.python_app
def identity(x):
    return x

with flowcore.load(flowcore.Config(run_dir="runinfo", initialize_logging=False, monitoring=MonitoringHub())):
    n = 0
    while True:
        futures = [identity(n + i) for i in range(100)]
        for future in futures:
            future.result()
        n += len(futures)
        print(n, flush=True)
"""


def test_a_program_that_is_killed_leaves_a_run_that_was_interrupted(ask, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen([sys.executable, "program.py"], stdout=subprocess.PIPE, text=True) as process:
        try:
            seen = 0
            for line in process.stdout:
                seen = int(line)
                if seen >= 3000:
                    break
            # While it goes on, the database follows; its lines fit into the pipe.
            eventually(lambda: ask(queries.find_run).completed >= seen, WAIT_S, "the tasks in the database")
        finally:
            process.kill()
    eventually(lambda: ask(queries.find_run).state == "interrupted", WAIT_S, "the end of its writer")
    run = ask(queries.find_run)
    assert run.completed >= seen
    assert run.name == "program.py"
    states = ask(queries.counts_by_state, run.run_id)
    assert sum(states.values()) == ask(count, schema.task)
    assert run.completed == states["exec_done"]
    eventually(lambda: not list(tmp_path.glob("runinfo/*/monitoring")), WAIT_S, "the end of its journal")


def test_a_program_that_is_killed_with_its_writer_leaves_a_journal_that_can_be_imported(ask, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen([sys.executable, "program.py"], stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if int(line) >= 60_000:  # a second or more: more than what is gathered at a time
                    break
            (writer,) = (p for p in processes.everyone() if p.ppid == process.pid and "monitoring_sqlite" in p.command)
            process.send_signal(signal.SIGSTOP)  # it starts no other one
            os.kill(writer.pid, signal.SIGKILL)
        finally:
            process.kill()
    eventually(lambda: writer.pid not in {p.pid for p in processes.everyone()}, WAIT_S, "the writer's end")
    before = ask(queries.find_run)
    assert before.state == "running"
    assert "events were loaded" in loading.load(tmp_path / "runinfo" / "000", None)
    run = ask(queries.find_run)
    assert run.state == "interrupted"
    assert run.completed >= before.completed
    assert ask(queries.counts_by_state, run.run_id)["exec_done"] == run.completed
    assert not list(tmp_path.glob("runinfo/*/monitoring/*.journal"))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        unavailable("a small file system can only be mounted by root")
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        unavailable(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place):
    """Take all room of a disk, for a file of the name ``ballast``."""
    with (place / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_of_the_database_is_waited_for(load, small_disk, tmp_path, capsys):
    endpoint = f"sqlite:///{small_disk / 'runs.db'}"
    with load({"logging_endpoint": endpoint, "end_timeout": 3}) as run:
        (small_disk / "ballast").write_bytes(bytes(900_000 - (small_disk / "runs.db").stat().st_size))
        for _ in range(20):
            futures = [identity(n) for n in range(500)]
            for future in futures:
                future.result(timeout=WAIT_S)
    said = capsys.readouterr().err
    assert "database or disk is full" in said
    assert "flowcore monitoring import" in said
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert "events were loaded" in loading.load(run.run_dir, None)
    with database.reading(endpoint) as connection:
        found = queries.find_run(connection)
        assert (found.state, found.completed) == ("completed", 10_000)
        assert count(connection, schema.status) == 30_000


def test_a_full_disk_of_the_journal_stops_no_task_and_is_told(load, small_disk, ask, capsys, monkeypatch):
    monkeypatch.setattr(hubs, "MOST_KEPT", 100_000)
    with load({"logdir": str(small_disk)}):
        fill(small_disk)
        for _ in range(10):
            futures = [identity(n) for n in range(1000)]
            for future in futures:
                assert future.result(timeout=WAIT_S) is not None
    said = capsys.readouterr().err
    assert "the monitoring has lost" in said
    run = ask(queries.find_run)
    # The end of the run has found room.
    assert run.state == "completed"
    assert 0 < run.events_lost <= 50_000


def test_a_full_disk_of_the_journal_that_gets_room_again_loses_nothing(load, small_disk, ask, capsys):
    with load({"logdir": str(small_disk)}):
        fill(small_disk)
        for future in [identity(n) for n in range(1000)]:
            future.result(timeout=WAIT_S)
        (small_disk / "ballast").unlink()
        for future in [identity(n) for n in range(1000)]:
            future.result(timeout=WAIT_S)
    assert "lost" not in capsys.readouterr().err
    run = ask(queries.find_run)
    assert (run.state, run.completed, run.events_lost) == ("completed", 2000, 0)


def test_ctrl_c_at_the_end_leaves_the_journal(load, tmp_path, capsys, monkeypatch):
    with pytest.raises(KeyboardInterrupt), load({"end_timeout": WAIT_S}) as run:
        holder = sqlite3.connect(tmp_path / "runinfo" / "monitoring.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        identity(1).result(timeout=WAIT_S)
        recording = run.config.monitoring._recording

        def interrupted():
            raise KeyboardInterrupt

        monkeypatch.setattr(recording, "_wait", interrupted)
    holder.close()
    assert f"flowcore monitoring import {run.run_dir / 'monitoring'}" in capsys.readouterr().err


@pytest.mark.timeout(240)
def test_a_hundred_thousand_tasks_are_all_recorded(load, ask):
    number = 100_000
    with load({"end_timeout": 120}) as run:
        for future in [identity(0) for _ in range(number)]:
            future.result(timeout=WAIT_S)
        kinds = [fails(n) for n in range(20)]
        for future in kinds:
            future.exception(timeout=WAIT_S)
    found = ask(queries.find_run)
    assert (found.state, found.completed, found.failed) == ("completed", number, 20)
    assert ask(queries.counts_by_state, run.run_id) == {"exec_done": number, "failed": 20}
    assert ask(count, schema.attempt) == number + 20
    assert ask(count, schema.status) == 3 * (number + 20)
    assert ask(count, schema.failure) == 20


def test_a_writer_that_cannot_begin_is_told_with_its_last_words(load, monkeypatch):
    monkeypatch.setattr(hubs.sys, "executable", shutil.which("false"))
    with pytest.raises(ConfigurationError, match="ended before it began; its last words: none"):
        load()


def test_the_journal_of_another_run_is_left_alone(tmp_path):
    from flowcore.plugins.api import RunInfo

    run = RunInfo("id", tmp_path / "000", "", "program.py", 1.0)
    folder = tmp_path / "000" / "monitoring"
    folder.mkdir(parents=True)
    (folder / "events-000001.journal").write_bytes(b"of another run")
    with pytest.raises(ConfigurationError, match="cannot be written in .*monitoring: File exists"):
        MonitoringHub().flowcore_run_started(run)
    assert (folder / "events-000001.journal").read_bytes() == b"of another run"
