"""What charts are made of: compared with sums over all rows, done the slow way."""

from __future__ import annotations

from collections import defaultdict

import pytest
from dashboards import Runs
from flowcore_monitoring_dashboard import attempts, charts, questions, resources
from flowcore_monitoring_dashboard.stretches import Changes
from flowcore_monitoring_sqlite import database, schema
from make_database import MadeRun, write
from sqlalchemy import Connection, Engine, select


@pytest.fixture
def connection(runs: Runs):
    engine = database.reader(runs.url)
    with engine.connect() as found:
        yield found
    engine.dispose()


def tried(run: MadeRun) -> list[tuple[str, dict]]:
    return [(task.app, row) for task in run.made for row in task.tries]


def test_means_of_a_value_that_changes():
    changes = Changes(4, 10.0)
    # 1 from moment 5 on, 3 from 20 to 25; before the beginning 2 until 10, and something that comes too late.
    for stretch, amount, moment in (
        (0, 1, 5.0),
        (2, 2, 20.0),
        (2, -2, 25.0),
        (-3, 2, -30.0),
        (1, -2, 10.0),
        (9, 7, 99.0),
    ):
        changes.add(stretch, amount, amount * moment)
    assert changes.means() == (2.5, 1.0, 2.0, 1.0)
    assert changes.means(2) == (5.0, 2.0, 4.0, 2.0)


def test_a_change_at_the_very_end_belongs_to_the_last_stretch():
    changes = Changes(2, 1.0)
    changes.add(0, 1, 0.0)
    changes.add(2, -1, -2.0)
    assert changes.means() == (1.0, 1.0)


def test_busy_is_the_exact_mean(connection, runs):
    run = runs.small
    begin, end, bins = run.began + 5, run.began + 25, 8
    found = attempts.busy(connection, run.run_id, begin, end, bins)
    width = (end - begin) / bins
    expected = defaultdict(lambda: [0.0] * bins)
    for app, row in tried(run):
        for i in range(bins):
            lo, hi = begin + i * width, begin + (i + 1) * width
            overlap = min(hi, row["task_try_time_returned"]) - max(lo, row["task_try_time_running"])
            expected[app][i] += max(0.0, overlap) / width
    for app, values in found.by_app.items():
        assert values == pytest.approx(expected[app], abs=1e-4), app
    assert {app for app, values in expected.items() if any(values)} <= set(found.by_app)
    assert found.times == pytest.approx([begin + i * width for i in range(bins)])


def test_what_has_not_ended_is_at_work_until_now_and_what_waits_is_not(connection, runs):
    run = runs.going
    now = run.began + 40
    found = attempts.busy(connection, run.run_id, run.began, now, 40)
    rows = [row for _, row in tried(run) if row["task_try_time_launched"] <= now]
    at_work = [r for r in rows if r["task_try_time_running"] <= now - 1 and r["task_try_time_returned"] > now]
    assert at_work
    assert any(r["task_try_time_running"] > now for r in rows), "some wait"
    last = sum(values[-1] for values in found.by_app.values())
    assert len(at_work) - 1e-6 <= last <= run.workers + 1e-6
    bars, _ = attempts.bars(connection, run.run_id, run.began, now)
    assert {bar.task_id for bar in bars if bar.end is None} == {
        r["task_id"] for r in rows if r["task_try_time_running"] <= now < r["task_try_time_returned"]
    }


@pytest.mark.parametrize("share", ["some", "all"])
def test_attempts_that_nobody_told_the_begin_of(engine: Engine, share: str):
    run = MadeRun(80, 1_700_000_000.0, workers=4, nodes=1, failing=0.0)
    table = schema.attempt
    with engine.begin() as connection:
        write(connection, run)
        forget = table.update().values(task_try_time_running=None)
        connection.execute(forget if share == "all" else forget.where(table.c.task_id % 3 == 0))
        free: dict[tuple[str, str], float] = {}
        for _, row in sorted(tried(run), key=lambda item: item[1]["task_try_time_returned"]):
            place = (row["hostname"], row["worker"])
            if free.get(place, 0.0) > row["task_try_time_launched"]:
                of_row = (table.c.task_id == row["task_id"], table.c.try_id == row["try_id"])
                connection.execute(table.update().where(*of_row).values(task_try_time_free=free[place]))
            free[place] = row["task_try_time_returned"]
        end = run.ends
        found = attempts.busy(connection, run.run_id, run.began, end, 50)
        assert found.silent == (("htex",) if share == "all" else ())
        # A worker does one thing at a time: there are never more at work than workers.
        assert max(map(sum, zip(*found.by_app.values(), strict=True))) <= 4 + 1e-6
        real = sum(row["task_try_time_returned"] - row["task_try_time_running"] for _, row in tried(run))
        guessed = sum(sum(values) for values in found.by_app.values()) * found.width
        assert real - 1e-3 <= guessed <= 4 * (end - run.began)
        for lane in attempts.lanes(connection, run.run_id, run.began, end)[0]:
            assert lane.busy_s <= end - run.began
        bars, count = attempts.bars(connection, run.run_id, run.began, end)
        assert len(bars) == count == len(tried(run))
        # Without a worker, all that is known is the launch.
        connection.execute(table.update().values(worker=None, hostname=None, task_try_time_free=None))
        bars, _ = attempts.bars(connection, run.run_id, run.began, end)
        assert all(bar.begin == bar.waiting_since for bar in bars if share == "all" or bar.task_id % 3 == 0)


def test_an_executor_that_never_tells_is_named(engine: Engine, client_of):
    run = MadeRun(30, 1_700_000_000.0)
    with engine.begin() as connection:
        write(connection, run)
        connection.execute(schema.attempt.update().values(task_try_time_running=None))
    note = client_of(str(engine.url)).get(f"/workflow/{run.run_id}/data/busy.json").json()["note"]
    assert note.startswith("Executor htex does not tell when an attempt begins")


def test_bars_are_those_of_the_stretch_of_time_the_longest_if_there_are_too_many(connection, runs):
    run = runs.small
    begin, end = run.began + 5, run.began + 12
    inside = {
        (row["task_id"], row["try_id"]): row["task_try_time_returned"] - row["task_try_time_running"]
        for _, row in tried(run)
        if row["task_try_time_running"] <= end and row["task_try_time_returned"] >= begin
    }
    found, count = attempts.bars(connection, run.run_id, begin, end)
    assert {(bar.task_id, bar.try_id) for bar in found} == set(inside)
    assert count == len(inside)
    assert [bar.begin for bar in found] == sorted(bar.begin for bar in found)
    few, count = attempts.bars(connection, run.run_id, begin, end, limit=3)
    assert count == len(inside)
    assert {(bar.task_id, bar.try_id) for bar in few} == set(sorted(inside, key=inside.get, reverse=True)[:3])


def test_bars_of_one_app_and_state(connection, runs):
    run = runs.small
    found, count = attempts.bars(connection, run.run_id, run.began, run.ends, app="simulate", state="failed")
    assert {bar.task_id for bar in found} == {
        task.task_id for task in run.made if task.app == "simulate" and task.states[-1][1] == "failed"
    }
    assert count == len(found) > 0
    assert all(bar.error for bar in found)


def test_lanes_have_all_workers_and_all_their_time(connection, runs):
    run = runs.small
    found, count = attempts.lanes(connection, run.run_id, run.began, run.ends)
    expected = defaultdict(float)
    numbers = defaultdict(int)
    for _, row in tried(run):
        key = (row["hostname"], row["worker"])
        expected[key] += row["task_try_time_returned"] - row["task_try_time_running"]
        numbers[key] += 1
    assert count == len(expected) == len(found)
    for lane in found:
        key = (lane.host, lane.worker)
        assert lane.busy_s == pytest.approx(expected[key], abs=1e-3)
        assert lane.count == numbers[key] == sum(stretch.count for stretch in lane.stretches)
        for before, after in zip(lane.stretches, lane.stretches[1:], strict=False):
            assert before.end <= after.begin + 1e-9
        for stretch in lane.stretches:
            assert (stretch.task_id >= 0) == (stretch.count == 1)


def test_workers_of_two_blocks_on_one_host_are_two(engine: Engine):
    run = MadeRun(60, 1_700_000_000.0, workers=4, nodes=2)
    with engine.begin() as connection:
        write(connection, run)
        table = schema.attempt
        connection.execute(table.update().where(table.c.hostname == "node001.cluster").values(block_id="7"))
        connection.execute(table.update().values(hostname="here"))
        found, count = attempts.lanes(connection, run.run_id, run.began, run.ends)
        assert count == 4
        assert [(lane.host, lane.executor, lane.block_id, lane.worker) for lane in found] == [
            ("here", "htex", block, worker) for block in "07" for worker in "01"
        ]
        names = [charts._lane_name(lane, found) for lane in found]
        assert names == ["here 0 · 0", "here 0 · 1", "here 7 · 0", "here 7 · 1"]


def test_lanes_come_in_pages_in_the_order_of_numbers(connection, runs):
    run = runs.large
    first, count = attempts.lanes(connection, run.run_id, run.began, run.ends, limit=15)
    rest, _ = attempts.lanes(connection, run.run_id, run.began, run.ends, offset=15, limit=100)
    assert count == len(first) + len(rest) == run.workers
    names = [(lane.host, int(lane.worker)) for lane in (*first, *rest)]
    assert names == sorted(names)


@pytest.mark.parametrize("by", ["workflow", "app", "node"])
def test_used_adds_up_to_all_cpu_seconds(connection, runs, by):
    run = runs.small
    found = resources.used(connection, run.run_id, by)
    cpu = sum(
        0.95 * (row["task_try_time_returned"] - row["task_try_time_running"])
        for task in run.made if task.kind != "join" for row in task.tries
    )  # fmt: skip
    assert found.every == 1
    assert sum(sum(values) for values in found.cores.values()) * found.width == pytest.approx(cpu, rel=1e-3)
    # A task uses 0.95 cores: never more than all workers at once.
    assert max(map(sum, zip(*found.cores.values(), strict=True))) <= 0.95 * run.workers + 1e-6
    if by == "node":
        assert set(found.cores) == {"node000.cluster", "node001.cluster"}
    if by == "app":
        assert {"simulate", "analyse"} <= set(found.cores)


def test_what_was_used_before_the_first_sample_was_used_on_one_core(engine: Engine):
    run = MadeRun(60, 1_700_000_000.0, workers=4, nodes=1, failing=0.0, interval=0.0)
    table = schema.resource
    with engine.begin() as connection:
        write(connection, run)
        # As where the first look comes late: only then is there anything of a short attempt.
        connection.execute(table.delete().where(table.c.sample_kind == "begin"))
        found = resources.used(connection, run.run_id, bins=200)
    cpu = sum(
        0.95 * (r["task_try_time_returned"] - r["task_try_time_running"]) for app, r in tried(run) if app != "merge"
    )
    assert max(found.cores["all tasks"]) <= 4 + 1e-6
    # What the first one used before its sample is before the chart.
    assert sum(found.cores["all tasks"]) * found.width == pytest.approx(cpu, abs=5)


def test_used_of_one_app(connection, runs):
    run = runs.small
    whole = resources.used(connection, run.run_id, "app")
    one = resources.used(connection, run.run_id, app="simulate")
    assert one.cores["all tasks"] == pytest.approx(whole.cores["simulate"], abs=1e-5)


def test_of_many_samples_a_part_is_looked_at_and_stands_for_all(connection, runs, monkeypatch):
    run = runs.large
    exact = resources.used(connection, run.run_id)
    monkeypatch.setattr(resources, "SAMPLES", 1000)
    monkeypatch.setattr(resources, "_FEW_TASKS", 100)
    assert resources._part(connection, run.run_id) == 1, "at least a thousand tasks are looked at"
    monkeypatch.setattr(resources, "_part", lambda *_: 3)
    part = resources.used(connection, run.run_id)
    assert part.every == 3
    assert sum(part.cores["all tasks"]) == pytest.approx(sum(exact.cores["all tasks"]), rel=0.15)


def test_a_run_without_samples(engine: Engine):
    run = MadeRun(10, 1_700_000_000.0, interval=None)
    with engine.begin() as connection:
        write(connection, run)
        assert resources.used(connection, run.run_id).times == ()
        assert not resources.has_samples(connection, run.run_id)
        assert resources.heaviest(connection, run.run_id) == []


def test_used_by_tasks_is_from_sample_to_sample(connection, runs):
    run = runs.small
    again = next(task for task in run.made if len(task.tries) == 2)
    found = resources.used_by_tasks(connection, run.run_id, [again.task_id])[again.task_id]
    assert found.cores.count(None) == 1, "in between the two attempts"
    assert [value for value in found.cores if value is not None] == pytest.approx(
        [0.95] * (len(found.cores) - 1), abs=1e-3
    )
    assert max(value for value in found.memory if value is not None) == pytest.approx(again.memory, rel=1e-6)


def test_used_by_tasks_is_bounded(connection, runs):
    run = runs.small
    task = max(run.made, key=lambda task: task.seconds)
    found = resources.used_by_tasks(connection, run.run_id, [task.task_id], limit=2)[task.task_id]
    assert len(found.times) <= 4


def test_heaviest(connection, runs):
    run = runs.small
    found = resources.heaviest(connection, run.run_id, limit=3)
    ran = [task for task in run.made if task.tries and task.kind != "join"]
    assert found[0].memory == pytest.approx(max(task.memory for task in ran))
    by_cpu = resources.heaviest(connection, run.run_id, "cpu", limit=3)
    assert [row.cpu_s for row in by_cpu] == sorted((row.cpu_s for row in by_cpu), reverse=True)


def test_durations(connection, runs):
    run = runs.small
    took = [
        row["task_try_time_returned"] - row["task_try_time_running"]
        for app, row in tried(run) if app == "simulate"
    ]  # fmt: skip
    found, longest = attempts.durations(connection, run.run_id, "simulate", limit=4)
    assert found.count == len(took)
    assert (found.shortest, found.longest) == pytest.approx((min(took), max(took)), abs=1e-5)
    assert found.mean == pytest.approx(sum(took) / len(took), abs=1e-5)
    waits = [r["task_try_time_running"] - r["task_try_time_launched"] for app, r in tried(run) if app == "simulate"]
    assert found.mean_wait == pytest.approx(sum(waits) / len(waits), abs=1e-5)
    assert [bar.end - bar.begin for bar in longest] == pytest.approx(sorted(took, reverse=True)[:4], abs=1e-5)
    assert attempts.durations(connection, run.run_id, "nothing") == (None, [])


def test_histogram(connection, runs):
    run = runs.small
    took = [r["task_try_time_returned"] - r["task_try_time_running"] for app, r in tried(run) if app == "simulate"]
    found = attempts.histogram(connection, run.run_id, "simulate")
    assert found.silent == ()
    assert sum(count for _, _, count in found.steps) == len(took)
    for low, high, count in found.steps:
        assert count == sum(1 for s in took if low <= s < high)
    assert attempts.histogram(connection, run.run_id, "nothing").steps == ()


def test_tasks_of_a_cause(connection, runs):
    run = runs.small
    cause = next(row["cause"] for task in run.made for row in task.failures)
    expected = sorted({t.task_id for t in run.made for row in t.failures if row["cause"] == cause})
    ids, count = questions.tasks_of_cause(connection, run.run_id, cause, limit=2)
    assert (ids, count) == (expected[:2], len(expected))
    tasks = questions.tasks_by_id(connection, run.run_id, [*ids, 10**6])
    assert [task.task_id for task in tasks] == ids


def test_the_stamp_changes_with_what_is_written_and_only_then(engine: Engine):
    run = MadeRun(20, 1_700_000_000.0)

    def stamps(connection: Connection) -> tuple:
        return questions.stamp(connection, run.run_id), questions.stamp(connection)

    with engine.begin() as connection:
        write(connection, run, run.began + 3)
        before = stamps(connection)
        assert stamps(connection) == before
        write(connection, run, run.began + 5)
        after = stamps(connection)
        assert after[0] != before[0]
        assert after[1] != before[1]
        connection.execute(schema.workflow.update().values(run_state="interrupted"))
        assert stamps(connection) != after
        assert connection.execute(select(schema.workflow.c.run_state)).scalar() == "interrupted"
