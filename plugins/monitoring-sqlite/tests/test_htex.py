"""Runs on htex: blocks, nodes, workers, and what tasks use, are in the database."""

from __future__ import annotations

import pytest
from flowcore_monitoring_sqlite import database, queries

from flowcore import python_app
from flowcore.testing import eventually

WAIT_S = 60


@python_app
def burn(seconds, size):
    import time

    held = b"x" * size
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return len(held)


@python_app
def noop():
    pass


@pytest.fixture
def htex():
    pytest.importorskip("flowcore_executor_htex")
    from flowcore.executors import HighThroughputExecutor

    return HighThroughputExecutor(max_workers_per_node=2)


@pytest.fixture
def ask(url):
    def ask(question, *args, **options):
        with database.reading(url) as connection:
            return question(connection, *args, **options)

    return ask


def test_a_run_on_htex_is_recorded_with_what_tasks_use(load, htex, ask):
    with load({"resource_monitoring_interval": 0.2}, executors=[htex]) as run:
        burn(1.5, 50_000_000).result(timeout=WAIT_S)
        eventually(lambda: ask(queries.workers, run.run_id) == 2, WAIT_S, "the workers")
        for future in [noop() for _ in range(500)]:
            future.result(timeout=WAIT_S)
        eventually(lambda: ask(queries.task_story, run.run_id, 0).use, WAIT_S, "the samples")
    story = ask(queries.task_story, run.run_id, 0)
    (attempt,) = story.tries
    assert attempt.block_id == "0"
    assert attempt.hostname
    assert attempt.worker in ("0", "1")
    assert attempt.launched < attempt.returned
    (use,) = story.use
    assert use.samples >= 2
    assert 0.5 < use.cpu_s < 3
    assert use.memory > 50_000_000
    points = ask(queries.resource_series, run.run_id)
    assert max(p.cores for p in points) > 0.3
    assert max(p.memory for p in points) > 50_000_000
    (block,) = ask(queries.blocks, run.run_id)
    assert (block.executor, block.block_id) == (htex.label, "0")
    assert block.running is not None
    assert block.ended is not None
    (node,) = ask(queries.nodes, run.run_id)
    assert (node.executor, node.worker_count, node.active) == (htex.label, 2, False)
    assert ask(queries.find_run).completed == 501
    assert ask(queries.counts_by_state, run.run_id) == {"exec_done": 501}


def test_nothing_is_sampled_where_nobody_wants_it(load, htex, ask):
    with load({"resource_monitoring_enabled": False}, executors=[htex]) as run:
        burn(0.5, 10).result(timeout=WAIT_S)
    assert ask(queries.resource_series, run.run_id) == []
    assert ask(queries.find_run).completed == 1
