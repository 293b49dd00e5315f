"""Runs that really were: recorded by flowcore's monitoring, shown while they go on and when they are over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flowcore_monitoring_sqlite import database, queries
from flowcore_monitoring_sqlite.hub import MonitoringHub

import flowcore
from flowcore import python_app
from flowcore.testing import eventually

WAIT_S = 60


@python_app(executors=["htex"])
def double(x):
    return 2 * x


@python_app(executors=["htex"])
def add(x, y):
    return x + y


@python_app(executors=["htex"])
def fails(x):
    raise ValueError(f"bad value {x}")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runinfo' / 'monitoring.db'}"


def config(tmp_path: Path, executors: list[dict]) -> flowcore.Config:
    return flowcore.Config(
        run_dir=tmp_path / "runinfo",
        initialize_logging=False,
        monitoring=MonitoringHub(workflow_name="real", workflow_version="7", resource_monitoring_interval=0.1),
        executors=executors,
        retries=1,
    )


HTEX = {"plugin": "htex", "label": "htex", "max_workers_per_node": 2}


def test_a_run_while_it_goes_on_and_when_it_is_over(client_of, url: str, tmp_path: Path):
    gate = threading.Event()

    @python_app(executors=["threads"])
    def waits():
        assert gate.wait(WAIT_S)

    def in_database(done: int) -> bool:
        with database.reading(url) as connection:
            return any(run.completed + run.failed >= done for run in queries.runs(connection))

    with flowcore.load(config(tmp_path, [HTEX, {"plugin": "threads"}])):
        sums = [add(double(i), double(i + 1)) for i in range(5)]
        bad = fails(3)
        last = waits()
        assert [total.result(WAIT_S) for total in sums] == [4 * i + 2 for i in range(5)]
        with pytest.raises(ValueError, match="bad value 3"):
            bad.result(WAIT_S)
        eventually(lambda: in_database(16), WAIT_S, "the tasks in the database")
        client = client_of(url)
        live = client.get("/workflow/latest")
        live = client.get(live.headers["Location"])
        assert "data-goes-on" in live.text
        assert "16<span" in live.text
        base = "/workflow/" + live.text.partition('href="/workflow/')[2].partition('"')[0]
        gate.set()
        last.result(WAIT_S)
    over = client.get(base)
    assert "completed" in over.text
    assert "17<span" in over.text
    assert ">real</strong>" in over.text
    assert "exec_done <b>16</b>" in over.text
    assert "failed <b>1</b>" in over.text
    failures = client.get(f"{base}/failures").text
    assert "ValueError: bad value" in failures
    assert "fail_retryable" in failures
    task = client.get(f"{base}/tasks/15").text
    assert "Why it failed" in task
    assert "bad value 3" in task
    graph = client.get(f"{base}/graph").text
    assert graph.count('class="node single"') == 17
    for chart in ("busy", "gantt", "workers", "blocks", "resources"):
        assert client.get(f"{base}/data/{chart}.json").status_code == 200
    assert client.get(f"{base}/data/gantt.json").json()["bars"]


KILLED = """
import os, sys, threading
import flowcore
from flowcore import python_app
from flowcore_monitoring_sqlite.hub import MonitoringHub

@python_app
def quick(x):
    return x

@python_app
def waits():
    threading.Event().wait(600)

flowcore.load(flowcore.Config(run_dir="runinfo", initialize_logging=False,
                              monitoring=MonitoringHub(workflow_name="killed"), executors=[{"plugin": "threads"}]))
for future in [quick(i) for i in range(20)]:
    future.result()
waits()
print("ready", flush=True)
threading.Event().wait(600)
"""


def test_a_run_that_was_killed_says_that_it_was_interrupted(client_of, url: str):
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"

        def recorded() -> bool:
            with database.reading(url) as connection:
                counts = [queries.counts_by_state(connection, run.run_id) for run in queries.runs(connection)]
                return counts == [{"exec_done": 20, "launched": 1}]

        eventually(recorded, WAIT_S, "the tasks in the database")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=WAIT_S)

    def state() -> str:
        with database.reading(url) as connection:
            return queries.find_run(connection).state

    eventually(lambda: state() == "interrupted", WAIT_S, "the end of the writer")
    client = client_of(url)
    base = client.get("/workflow/latest").headers["Location"]
    text = client.get(base).text
    assert "This run was interrupted" in text
    assert "20<span" in text
    assert "never" in text
    assert "never returned" in client.get(f"{base}/tasks/20").text
    assert client.get(f"{base}/data/gantt.json").status_code == 200
