"""The writer: what a journal tells is in the tables, once, whatever happens on the way."""

from __future__ import annotations

import sqlite3
import threading
import time

import attrs
import pytest
from flowcore_monitoring_sqlite import database, load, queries, recorder, records, schema, tally
from flowcore_monitoring_sqlite import writer as writers
from flowcore_monitoring_sqlite.writer import Writer
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from flowcore.plugins.api import TaskCall, TaskEvent

WAIT_S = 30


@pytest.fixture
def drain(url):
    """Brings a journal into the database, as if its program had gone; returns whether all is there."""

    def drain(scribe, gone=True):
        writer = Writer(scribe.folder, scribe.run_id, url, lambda: gone)
        try:
            return writer.run(orphan_s=WAIT_S)
        finally:
            writer.close()

    return drain


@pytest.fixture
def ask(url):
    """Asks the database: calls a function with a connection and further arguments."""

    def ask(question, *args, **options):
        with database.reading(url) as connection:
            return question(connection, *args, **options)

    return ask


def test_a_task_is_recorded_from_its_call_to_its_end(scribe, drain, ask):
    made = scribe()
    made.run_task(0, "first")
    made.run_task(1, "second", at=1005.0, depends=(0,), call=TaskCall(True, ("a.txt",), ("b.txt",), None, "o", "e"))
    made.end()
    assert drain(made)
    run = ask(queries.find_run)
    assert (run.name, run.state, run.completed, run.failed, run.duration_s) == ("made.py", "completed", 2, 0, 100.0)
    story = ask(queries.task_story, run.run_id, 1)
    task = story.task
    assert (task.name, task.kind, task.state, task.executor) == ("second", "python", "exec_done", "htex")
    assert (task.invoked, task.returned, task.depends, task.memoize) == (1005.0, 1008.0, (0,), True)
    assert (task.inputs, task.outputs, task.stdout, task.stderr) == (("a.txt",), ("b.txt",), "o", "e")
    assert story.states == (("pending", 1005.0, 0), ("launched", 1006.0, 0), ("exec_done", 1008.0, 0))
    (attempt,) = story.tries
    assert (attempt.block_id, attempt.hostname, attempt.worker) == ("0", "n1", "3")
    assert (attempt.launched, attempt.returned, attempt.error) == (1006.0, 1008.0, None)
    assert [t.task_id for t in story.waited_for] == [0]
    assert ask(queries.task_story, run.run_id, 0).dependents == (1,)
    assert ask(queries.task_story, run.run_id, 2) is None


def test_what_comes_later_of_a_task_changes_its_row(scribe, drain, url, ask):
    made = scribe()
    event = TaskEvent(0, "app", "join", "pending", None, 1001.0, 0, None, None, (), None)
    error = ValueError("no")
    later = event._replace(executor="a", memo_key="k")
    again = event._replace(executor="b", try_id=1, fail_count=1, fail_cost=1.0)
    steps = [
        event,
        later._replace(state="launched", at=1002.0),
        later._replace(state="running", at=1003.0),
        later._replace(
            state="fail_retryable", at=1004.5, error=error, fail_count=1, fail_cost=1.0, launched_at=1002.0,
            ended_at=1004.0, where="somewhere",
        ),
        again._replace(state="launched", at=1005.0),
        again._replace(state="joining", at=1006.0, joins=(5, 6), launched_at=1005.0, ended_at=1006.0),
        again._replace(state="exec_done", at=1007.0),
    ]  # fmt: skip
    # Each step in a transaction of its own.
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    for step in steps:
        made.tasks(step)
        assert writer.step() == (False, True)
        assert ask(queries.counts_by_state, made.run_id) == {step.state: 1}
    writer.close()
    made.end()
    assert drain(made)
    story = ask(queries.task_story, made.run_id, 0)
    assert (story.task.executor, story.task.hashsum, story.task.fail_count, story.task.returned) == (
        "b",
        "k",
        1,
        1007.0,
    )
    first, second = story.tries
    assert (first.running, first.returned, first.hostname, first.error) == (
        1003.0,
        1004.0,
        "somewhere",
        "ValueError: no",
    )
    assert (second.executor, second.running, second.joins, second.error) == ("b", None, (5, 6), None)
    assert [f.state for f in story.failures] == ["fail_retryable"]
    assert [s for s, _, _ in story.states] == [
        "pending", "launched", "running", "fail_retryable", "launched", "joining", "exec_done",
    ]  # fmt: skip


def test_an_attempt_that_waited_for_its_worker_says_until_when(scribe, url, ask):
    made = scribe()
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    # Each is launched a second after its call; in batches of their own.
    for n, (at, took_s, worker) in enumerate([(1001.0, 4.0, 1), (1002.0, 5.0, 1), (1002.0, 5.0, 2), (1009.0, 1.0, 1)]):
        made.run_task(n, at=at, took_s=took_s, where=f"block 0, host n1, worker {worker}")
        writer.step()
    writer.close()

    assert ask(_free) == [None, 1006.0, None, None]


def test_a_batch_that_is_written_again_says_the_same(scribe, url, ask, monkeypatch):
    made = scribe()
    made.run_task(0, at=1001.0, took_s=4.0)
    made.run_task(1, at=1002.0, took_s=5.0)
    made.end()
    write, refused = recorder.write, []

    def refuse(connection, batch, before, after):
        write(connection, batch, before, after)
        if not refused:
            refused.append(after)
            raise OperationalError("COMMIT", {}, Exception("database is locked"))

    monkeypatch.setattr(recorder, "write", refuse)
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    assert writer.run()
    writer.close()
    assert refused

    assert ask(_free) == [None, 1006.0]


def test_a_task_that_was_launched_as_it_was_called_was_pending_for_a_moment(scribe, drain, ask):
    made = scribe()
    made.tasks(TaskEvent(0, "app", "python", "launched", None, 1001.0, 0, "a", None, (), None, call=TaskCall(True)))
    made.end()
    assert drain(made)
    story = ask(queries.task_story, made.run_id, 0)
    assert (story.task.state, story.task.invoked, story.task.memoize) == ("launched", 1001.0, True)
    assert story.states == (("pending", 1001.0, 0), ("launched", 1001.0, 0))
    assert [t.launched for t in story.tries] == [1001.0]


def test_what_is_told_at_once_is_recorded_as_if_it_were_told_one_by_one(scribe, drain, ask):
    made = scribe()
    over = TaskEvent(
        0, "app", "python", "failed", None, 1004.0, 0, "a", None, (), ValueError("x"), fail_count=1, fail_cost=1.0,
        called_at=1001.0, launched_at=1002.0, ended_at=1003.0, where="block 0, host n1, worker 3",
    )  # fmt: skip
    refused = TaskEvent(1, "app", "python", "dep_fail", None, 1005.0, 0, None, None, (0,), None, called_at=1001.5)
    made.tasks(over, refused)
    made.end()
    assert drain(made)
    story = ask(queries.task_story, made.run_id, 0)
    assert (story.task.state, story.task.invoked, story.task.returned) == ("failed", 1001.0, 1004.0)
    assert story.states == (("pending", 1001.0, 0), ("launched", 1002.0, 0), ("failed", 1004.0, 0))
    assert [(t.launched, t.returned, t.hostname, t.worker) for t in story.tries] == [(1002.0, 1003.0, "n1", "3")]
    assert [f.text for f in story.failures] == ["x"]
    story = ask(queries.task_story, made.run_id, 1)
    assert story.states == (("pending", 1001.5, 0), ("dep_fail", 1005.0, 0))
    assert not story.tries
    assert ask(queries.counts_by_state, made.run_id) == {"failed": 1, "dep_fail": 1}


def test_blocks_nodes_and_samples_are_recorded(scribe, drain, url, ask):
    made = scribe()
    made.run_task(0)
    made.write(records.BLOCK, "htex", "0", "77", "PENDING", None, 1001.0)
    made.write(records.BLOCK, "htex", "0", "77", "RUNNING", None, 1003.0)
    made.write(records.BLOCK, "htex", "0", "77", "FAILED", "node\x00down", 1009.0)
    made.write(records.BLOCK, "htex", "1", "78", "PENDING", None, 1002.0)
    node = ["htex", "0", "n1", "m1", 4, 8, 16 * 10**9, "3.11.2"]
    made.write(records.NODES, [[*node, "connected", 1004.0]])
    made.write(records.NODES, [[*node, "alive", 1005.0], [*node[:3], "m2", *node[4:], "connected", 1005.0]])
    made.write(records.NODES, [[*node, "gone", 1006.0]])
    for at, cpu, memory in ((1002.0, 0.5, 100), (1003.0, 1.5, 300)):
        made.write(
            records.RESOURCES, 1.0,
            [[0, 0, "htex", "0", "n1", 3, at, "running", 99, 2, cpu, 0.0, memory, 1000, 0.1, 5, 6, "running"]],
        )  # fmt: skip
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    writer.step()
    writer.close()
    blocks = ask(queries.blocks, made.run_id)
    assert [(b.block_id, b.job_id, b.status) for b in blocks] == [("0", "77", "FAILED"), ("1", "78", "PENDING")]
    assert (blocks[0].requested, blocks[0].running, blocks[0].ended) == (1001.0, 1003.0, 1009.0)
    assert blocks[0].message == "node\\x00down"
    nodes = {n.uid: n for n in ask(queries.nodes, made.run_id)}
    assert (nodes["m1"].active, nodes["m1"].connected, nodes["m1"].last_heartbeat) == (False, 1004.0, 1006.0)
    assert (nodes["m2"].active, nodes["m2"].worker_count, nodes["m2"].cpu_count) == (True, 4, 8)
    assert ask(queries.workers, made.run_id) == 4
    (use,) = ask(queries.task_story, made.run_id, 0).use
    assert (use.samples, use.cpu_s, use.memory) == (2, 1.5, 300)
    points = ask(queries.resource_series, made.run_id)
    assert [(p.at, p.memory, p.attempts) for p in points] == [(1002.0, 100.0, 1), (1003.0, 300.0, 1)]
    assert [round(p.cores, 3) for p in points] == [0.5, 1.0]
    made.end()
    assert drain(made)
    assert ask(queries.workers, made.run_id) == 0


def test_files_that_are_moved_are_recorded(scribe, drain, ask):
    made = scribe()
    call = TaskCall(False, ("http://h/a.csv", "/local/b.csv"), ("ftp://h/c.csv",))
    made.run_task(0, "app", call=call)
    made.tasks(
        TaskEvent(
            1,
            "stage_in",
            "internal",
            "pending",
            None,
            1.0,
            0,
            None,
            None,
            (),
            None,
            call=TaskCall(False, ("http://h/a",)),
        ),
        TaskEvent(1, "stage_in", "internal", "exec_done", "pending", 3.0, 0, "htex", None, (), None),
    )
    made.end()
    assert drain(made)
    found = ask(queries.transfers, made.run_id)
    assert [(t.task_id, t.url, t.direction, t.staging) for t in found] == [
        (0, "http://h/a.csv", "in", "in_task"),
        (0, "ftp://h/c.csv", "out", "in_task"),
        (1, "http://h/a", "in", "task"),
    ]
    assert (found[2].state, found[2].invoked, found[2].returned) == ("exec_done", 1.0, 3.0)


def test_failures_are_grouped_by_cause(scribe, drain, ask):
    made = scribe()
    for n in range(10):
        made.run_task(n, "a" if n < 7 else "b", error=ValueError(f"bad value {n}") if n < 8 else KeyError("k"))
    made.end()
    assert drain(made)
    first, second = ask(queries.failures, made.run_id, examples=3)
    assert (first.cause, first.count, first.examples, first.apps) == (
        "ValueError: bad value N", 8, (0, 1, 2), {"a": 7, "b": 1},
    )  # fmt: skip
    assert (second.cause, second.count, second.text) == ("KeyError: 'k'", 2, "'k'")
    assert ask(queries.run, made.run_id).failed == 10


def test_a_journal_is_brought_in_once_however_often(scribe, url, ask):
    made = scribe()
    for n in range(50):
        made.run_task(n)
    for _ in range(3):
        writer = Writer(made.folder, made.run_id, url, lambda: False)
        writer.open()
        while writer.step()[1]:
            pass
        writer.close()
    assert ask(_count, schema.status) == 150
    assert ask(_count, schema.attempt) == 50


def _free(connection):
    table = schema.attempt
    return list(connection.execute(select(table.c.task_try_time_free).order_by(table.c.task_id)).scalars())


def _count(connection, table):
    return connection.execute(select(func.count()).select_from(table)).scalar()


def test_a_batch_that_somebody_else_has_written_is_refused(scribe, url, ask):
    made = scribe()
    made.run_task(0)
    one, other = (Writer(made.folder, made.run_id, url, lambda: False) for _ in range(2))
    one.open()
    other.open()
    one.step()
    with pytest.raises(recorder.Moved, match="the database has the run's journal up to"):
        other.step()
    one.close()
    other.close()
    assert ask(_count, schema.task) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_again(scribe, url, ask, monkeypatch):
    made = scribe()
    for n in range(10):
        made.run_task(n)
    made.end()
    write, lost = recorder.write, []

    def lose(connection, batch, before, after):
        write(connection, batch, before, after)
        if not lost:
            lost.append(after)
            connection.connection.driver_connection.commit()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(recorder, "write", lose)
    problems = []
    writer = Writer(made.folder, made.run_id, url, lambda: True, problems.append)
    assert writer.run(orphan_s=WAIT_S)
    writer.close()
    assert problems == ["server closed the connection", None]
    assert ask(_count, schema.status) == 30
    assert ask(queries.run, made.run_id).state == "completed"


def test_a_row_that_no_database_takes_does_not_hold_up_the_others(scribe, drain, ask, caplog):
    made = scribe()
    made.run_task(0)
    made.run_task(0)  # the same number again: cannot be
    made.run_task(1)
    made.write("of the future", 1, 2)
    made.end()
    assert drain(made)
    assert ask(_count, schema.task) == 2
    assert "a record of the kind 'of the future' is left out" in caplog.text


def test_a_conflict_leaves_out_one_row_only(scribe, url, ask, caplog):
    made = scribe()
    made.run_task(0)
    for _ in range(2):
        writer = Writer(made.folder, made.run_id, url, lambda: False)
        writer.open()
        writer.step()
        writer.close()
        made.states.clear()
        made.run_task(0)
        made.run_task(1)
    assert ask(_count, schema.task) == 2
    assert "a row of task is left out: UNIQUE constraint failed" in caplog.text


def test_a_run_whose_program_is_gone_is_interrupted(scribe, drain, ask):
    made = scribe()
    made.run_task(0)
    made.tasks(TaskEvent(1, "app", "python", "pending", None, 1001.0, 0, None, None, (), None))
    assert drain(made)
    run = ask(queries.find_run)
    assert (run.state, run.completed, run.time_completed) == ("interrupted", 1, None)


def test_a_run_whose_program_ends_before_the_writer_s_eyes_lasted_until_then(scribe, url, ask):
    made = scribe(time_began=time.time() - 50)
    made.run_task(0)
    there = [True, True, True]
    writer = Writer(made.folder, made.run_id, url, lambda: not (there and there.pop()))
    assert writer.run()
    run = ask(queries.find_run)
    assert run.state == "interrupted"
    assert run.duration_s == pytest.approx(50, abs=WAIT_S)
    # Another one, later, has not seen it end.
    with writer._engine.begin() as connection:
        connection.execute(schema.workflow.update().values(heartbeat=1500.0, run_state="running"))
    run = ask(queries.find_run)
    assert run.state == "silent"
    writer.close()
    later = Writer(made.folder, made.run_id, url, lambda: True)
    assert later.run()
    later.close()
    assert ask(queries.find_run).heartbeat == 1500.0


def test_a_record_that_was_being_written_is_left_out(scribe, drain, ask):
    made = scribe()
    made.run_task(0)
    with next(made.folder.glob("*.journal")).open("ab") as file:
        file.write(b"\x00\x01\x00\x00half")
    assert drain(made)
    assert ask(queries.find_run).state == "interrupted"


def test_a_locked_database_is_waited_for(scribe, url, ask, tmp_path):
    made = scribe()
    made.run_task(0)
    made.end()
    engine = database.writer(url)
    with engine.begin() as connection:
        schema.create_or_migrate(connection)
    engine.dispose()
    holder = sqlite3.connect(tmp_path / "runinfo" / "monitoring.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    refused = threading.Event()
    problems = []

    def tell(problem):
        problems.append(problem)
        refused.set()

    writer = Writer(made.folder, made.run_id, url, lambda: False, tell)
    thread = threading.Thread(target=writer.run)
    thread.start()
    assert refused.wait(WAIT_S)
    assert problems[0] == "database is locked"
    holder.execute("COMMIT")
    holder.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    writer.close()
    assert problems[-1] is None
    assert ask(queries.find_run).completed == 1


def test_a_writer_without_a_program_gives_up_after_its_time(scribe, url, tmp_path):
    made = scribe()
    made.run_task(0)
    writer = Writer(made.folder, made.run_id, f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}", lambda: True)
    assert writer.run(orphan_s=0.0) is False
    writer.close()
    assert list(made.folder.glob("*.journal"))


def test_files_of_the_journal_that_are_written_are_removed(scribe, url, ask):
    made = scribe(segment_bytes=2000)
    for n in range(100):
        made.run_task(n)
    before = len(list(made.folder.glob("*.journal")))
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    while writer.step()[1]:
        pass
    writer.close()
    assert before > 5
    assert len(list(made.folder.glob("*.journal"))) == 1
    assert ask(_count, schema.task) == 100


def test_what_is_before_a_damage_is_written(scribe, url, ask):
    made = scribe()
    made.run_task(0)
    path = next(made.folder.glob("*.journal"))
    whole = path.stat().st_size
    made.run_task(1)
    data = bytearray(path.read_bytes())
    data[whole + 12] ^= 1
    path.write_bytes(data)
    writer = Writer(made.folder, made.run_id, url, lambda: True)
    with pytest.raises(load.JournalError, match="is damaged at byte"):
        writer.run()
    writer.close()
    assert ask(_count, schema.task) == 1


def test_a_run_that_is_silent_says_so(scribe, url, ask):
    made = scribe()
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    writer.step()
    assert ask(queries.find_run).state == "running"
    engine = database.writer(url)
    with engine.begin() as connection:
        connection.execute(schema.workflow.update().values(heartbeat=1500.0))
    engine.dispose()
    run = ask(queries.find_run)
    assert (run.state, run.duration_s) == ("silent", 500.0)
    writer.close()


def test_a_writer_steps_back_while_processors_are_short(monkeypatch):
    now = {"wall": 0.0, "cpu": 0.0, "idle": 0.0}
    monkeypatch.setattr(writers.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(writers.time, "process_time", lambda: now["cpu"])
    monkeypatch.setattr(writers, "idle_s", lambda: now["idle"])
    pace = writers.Pace()

    def after(wall, cpu, left, idle=2.0):
        now["wall"] += 1.0
        now["idle"] += idle
        pace.begin()
        now["wall"] += wall
        now["cpu"] += cpu
        now["idle"] += idle * wall
        return pace.after(left)

    small = pytest.approx(0.2 / writers.SHARE - 0.2)
    # It has had a processor all the time, and another one was idle.
    assert after(0.21, 0.2, 0) == writers.PERIOD_S
    assert after(0.21, 0.2, writers.BATCH_BYTES + 1) == 0.0
    # It had to wait for one, or all others were at work: a small share of one is for it.
    assert after(0.5, 0.2, writers.BATCH_BYTES) == small
    assert after(0.21, 0.2, writers.BATCH_BYTES, idle=0.1) == small
    assert after(4.0, 2.0, writers.BATCH_BYTES) == writers.LONGEST_STEP_S
    # But there is much to write already, for which the end of the run would have to wait.
    assert after(1.0, 0.5, writers.BACKLOG_BYTES + 1) == 0.0


def test_how_long_processors_were_idle_is_known_here():
    assert 0 < writers.idle_s() < float("inf")


def test_tasks_are_counted_before_their_rows_are_written(scribe, url, ask):
    made = scribe()
    for n in range(30):
        made.run_task(n, "good")
    made.run_task(30, "bad", error=ValueError())
    made.tasks(TaskEvent(31, "good", "python", "pending", None, 1001.0, 0, None, None, (), None))
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    writer.count()
    assert ask(_count, schema.task) == 0
    assert ask(queries.counts_by_state, made.run_id) == {"pending": 1, "exec_done": 30, "failed": 1}
    assert [(app.name, app.total) for app in ask(queries.counts_by_app, made.run_id)] == [("good", 31), ("bad", 1)]
    # Another writer goes on where this one was, and counts nothing twice.
    writer.close()
    made.run_task(32, "good")
    other = Writer(made.folder, made.run_id, url, lambda: False)
    other.open()
    while other.step()[1]:
        pass
    other.close()
    assert ask(_count, schema.task) == 33
    assert ask(queries.counts_by_state, made.run_id) == {"pending": 1, "exec_done": 31, "failed": 1}


def test_what_comes_between_the_count_and_the_rows_is_counted_too(scribe, url, ask, monkeypatch):
    made = scribe()
    made.run_task(0)
    look, late = tally.Tally.look, []

    def slow(self):
        found = look(self)
        if not late:
            late.append(1)
            made.run_task(1)
            made.end()
        return found

    monkeypatch.setattr(tally.Tally, "look", slow)
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    assert writer.run()
    writer.close()
    assert ask(queries.counts_by_state, made.run_id) == {"exec_done": 2}


def test_apps_are_counted_whatever_their_names(scribe, drain, ask):
    made = scribe()
    made.run_task(0, "a\x00b")
    made.run_task(1, "c" * 1000)
    made.end()
    assert drain(made)
    assert sorted(app.name for app in ask(queries.counts_by_app, made.run_id)) == ["a\\x00b", "c" * 500]


def test_counts_that_were_not_written_are_counted_again(scribe, url, ask, monkeypatch):
    made = scribe()
    made.run_task(0)
    write, refused = tally.Tally.write, []

    def refuse(self, connection):
        write(self, connection)
        if not refused:
            refused.append(self.position)
            raise OperationalError("COMMIT", {}, Exception("database is locked"))

    monkeypatch.setattr(tally.Tally, "write", refuse)
    writer = Writer(made.folder, made.run_id, url, lambda: True)
    assert writer.run(orphan_s=WAIT_S)
    writer.close()
    assert refused
    assert ask(queries.counts_by_state, made.run_id) == {"exec_done": 1}


def test_the_rate_of_a_run_is_that_of_late(scribe, url, ask):
    now = time.time()
    made = scribe(time_began=now - 1000)
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    for at, number in ((now - 600, 50), (now - 30, 20), (now - 10, 40)):
        for n in range(number):
            made.run_task(int(at) * 100 + n, at=at - 3)
        writer.step()
    run = ask(queries.find_run)
    assert ask(queries.rate, run, now) == pytest.approx(1.0)
    assert ask(queries.rate, run, now, 20.0) == pytest.approx(2.0)
    writer.close()
    assert ask(queries.rate, attrs.evolve(run, state="completed"), now) is None


def test_the_mark_changes_with_what_is_written(scribe, url, ask):
    made = scribe()
    writer = Writer(made.folder, made.run_id, url, lambda: False)
    writer.open()
    marks = []
    for n in range(3):
        made.run_task(n)
        writer.step()
        marks.append(ask(queries.mark, made.run_id))
    writer.close()
    assert len(set(marks)) == 3
    assert ask(queries.mark, made.run_id) == marks[-1]
    assert ask(queries.mark, "unknown") == ""
