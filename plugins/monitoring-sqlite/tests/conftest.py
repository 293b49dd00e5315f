"""Fixtures of the monitoring's tests: journals that were written by hand, real runs, and nothing left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from flowcore_monitoring_sqlite import records
from flowcore_monitoring_sqlite.hub import MonitoringHub
from flowcore_monitoring_sqlite.journal import JournalWriter
from flowcore_monitoring_sqlite.owner import RUN_FILE, Owner, start_of, write_file

import flowcore
from flowcore.plugins.api import TaskCall, TaskEvent, TaskEvents
from flowcore.testing.leftovers import Leftovers, no_leftovers

__all__ = ["no_leftovers"]

RUN_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def own_place(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in its temporary folder, and end the run that it may have loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWCORE_MONITORING_DATABASE", raising=False)
    yield
    flowcore.clear()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of the database that runs of this test have by default."""
    return f"sqlite:///{tmp_path / 'runinfo' / 'monitoring.db'}"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., flowcore.DataFlowKernel]:
    """Loads a configuration that records its run; ``hub`` are options of the MonitoringHub."""

    def load(hub: dict[str, Any] | None = None, **options: Any) -> flowcore.DataFlowKernel:
        return flowcore.load(
            flowcore.Config(
                run_dir=tmp_path / "runinfo", initialize_logging=False, monitoring=MonitoringHub(**hub or {}), **options
            )
        )

    return load


class Scribe:
    """Writes the journal of a run that never was: times are whole seconds, so that a test can name them."""

    def __init__(self, folder: Path, url: str, run_id: str = RUN_ID, segment_bytes: int = 2**25, **facts: Any) -> None:
        self.folder = folder
        self.run_id = run_id
        self.journal = JournalWriter(folder, segment_bytes)
        self.encoder = records.Encoder()
        self.states: dict[int, str] = {}
        self.called: dict[int, float] = {}
        owner = Owner(run_id, url, socket.gethostname(), os.getpid(), start_of(os.getpid()))
        write_file(folder / RUN_FILE, attrs.asdict(owner))
        known = {
            "workflow_name": "made.py", "workflow_version": "1", "time_began": 1000.0, "host": "h", "user": "u",
            "rundir": "/runs/007", "pid": 1, "python_version": "3.11.0", "flowcore_version": "0.1.0", "config": "c",
        }  # fmt: skip
        self.write(records.BEGIN, known | facts)

    def write(self, kind: str, *facts: Any) -> None:
        self.journal.append(self.encoder.encode(kind, *facts))

    def tasks(self, *events: TaskEvent) -> None:
        """Write steps of tasks; each from the state in which the one before has left its task."""
        steps = []
        for event in events:
            called_at = self.called.setdefault(event.task_id, event.at if event.called_at is None else event.called_at)
            steps.append(event._replace(before=self.states.get(event.task_id), called_at=called_at))
            self.states[event.task_id] = event.state
        columns = TaskEvents([value for step in steps for value in step]).columns
        self.write(records.TASKS, *records.packed(columns))

    def run_task(
        self, task_id: int, app: str = "app", at: float = 1001.0, depends: tuple[int, ...] = (), took_s: float = 2.0,
        error: BaseException | None = None, executor: str = "htex", where: str | None = "block 0, host n1, worker 3",
        call: TaskCall | None = None,
    ) -> None:  # fmt: skip
        """Write all of a task that is launched a second after its call and ends well, or with an error."""
        end = at + 1 + took_s
        last = "exec_done" if error is None else "failed"
        first = TaskEvent(task_id, app, "python", "pending", None, at, 0, None, None, depends, None, call=call)
        then = first._replace(executor=executor, call=None)
        self.tasks(
            first,
            then._replace(state="launched", at=at + 1),
            then._replace(
                state=last, at=end, error=error, fail_count=int(error is not None), launched_at=at + 1, ended_at=end,
                where=where,
            ),
        )  # fmt: skip

    def end(self, at: float = 1100.0, lost: int = 0) -> None:
        self.write(records.END, {"at": at, "lost": lost})


@pytest.fixture
def scribe(tmp_path: Path, url: str) -> Iterator[Callable[..., Scribe]]:
    """Begins journals in ``runinfo/007/monitoring``, or in another folder."""
    made: list[Scribe] = []

    def begin(folder: Path | None = None, **options: Any) -> Scribe:
        (tmp_path / "runinfo").mkdir(exist_ok=True)
        made.append(Scribe(folder or tmp_path / "runinfo" / "007" / "monitoring", url, **options))
        return made[-1]

    yield begin
    for one in made:
        one.journal.close()
