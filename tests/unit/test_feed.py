"""The feed of events: what it says of calls, and that a hook of the run's start may refuse the run."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

import flowcore
from flowcore import File, bash_app, join_app, python_app
from flowcore.errors import ConfigurationError
from flowcore.kernel.calls import call_of
from flowcore.kernel.task import AppInfo, TaskSpec
from flowcore.plugins.api import TaskCall, TaskEvent, TaskEvents, hookimpl

WAIT_S = 30


class Recorder:
    def __init__(self):
        self.tasks = []
        self.attempts = []
        self.order = []
        self.told = threading.Event()

    @hookimpl
    def flowcore_task_events(self, events):
        self.tasks += events
        self.order += [("task", e.task_id, e.state) for e in events]
        self.told.set()

    @hookimpl
    def flowcore_attempt_events(self, events):
        self.attempts += events
        self.order += [("attempt", e.task_id, "began" if e.ended_at is None else "ended") for e in events]

    def of(self, task_id, state):
        return [e for e in self.tasks if (e.task_id, e.state) == (task_id, state)]


@python_app
def identity(x, **kwargs):
    return x


@python_app(cache=True)
def cached(x):
    return x


@python_app
def fails(x):
    raise ValueError(x)


def test_the_first_event_of_a_task_tells_its_files_without_secrets(load, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("1")

    @bash_app
    def copy(inputs=(), outputs=(), stdout=None, stderr=None):
        return f"cat {inputs[0]} | tee {outputs[0]}"

    recorder = Recorder()
    with load(hooks=[recorder]):
        target = File(tmp_path / "out.txt")
        made = copy(inputs=[File(source)], outputs=[target], stdout=str(tmp_path / "log.txt"), stderr=("e.txt", "w"))
        made.result(timeout=WAIT_S)
        identity(made.outputs[0]).result(timeout=WAIT_S)
    first = recorder.of(0, "pending")[0].call
    assert first.inputs == (str(source),)
    assert first.outputs == (str(tmp_path / "out.txt"),)
    assert (first.stdin, first.stdout, first.stderr) == (None, str(tmp_path / "log.txt"), "e.txt")
    assert first.memoize is False
    assert recorder.of(1, "pending")[0].call.inputs == (str(tmp_path / "out.txt"),)
    assert [e.call for e in recorder.tasks if e.state != "pending"] == [None] * sum(
        e.state != "pending" for e in recorder.tasks
    )


def test_secrets_in_the_urls_of_files_are_not_told(load):
    recorder = Recorder()
    with load(hooks=[recorder]):
        # No stager has this scheme: the task fails, and its event tells the file all the same.
        identity(File("odd://me:secret@host/a.csv?token=secret")).exception(timeout=WAIT_S)
    assert recorder.of(0, "pending")[0].call.inputs == ("odd://me:...@host/a.csv?...",)


def test_a_call_that_has_nothing_to_tell_tells_nothing(load):
    recorder = Recorder()
    with load(hooks=[recorder]):
        identity(1, b=2).result(timeout=WAIT_S)
        cached(1).result(timeout=WAIT_S)
    assert recorder.of(0, "pending")[0].call is None
    assert recorder.of(1, "pending")[0].call.memoize is True


def test_an_argument_that_cannot_be_looked_at_is_not_told():
    class Odd:
        def __fspath__(self):
            raise RuntimeError("odd")

    info = AppInfo("f", "bash", print, print, cache=True)
    assert call_of(TaskSpec(info, print, (), {"stdout": Odd()})) is None


def test_failures_are_counted_and_joins_are_named(load):
    @join_app
    def join():
        return [identity(1), identity(2)]

    recorder = Recorder()
    with load(hooks=[recorder], retries=1):
        fails(1).exception(timeout=WAIT_S)
        join().result(timeout=WAIT_S)
    assert [(e.state, e.try_id, e.fail_count, e.fail_cost) for e in recorder.tasks if e.task_id == 0] == [
        ("pending", 0, 0, 0),
        ("launched", 0, 0, 0),
        ("fail_retryable", 0, 1, 1),
        ("launched", 1, 1, 1),
        ("failed", 1, 2, 2),
    ]
    assert recorder.of(1, "joining")[0].joins == (2, 3)
    assert [e.joins for e in recorder.tasks if e.state != "joining"] == [()] * (len(recorder.tasks) - 1)


def test_an_attempt_has_begun_for_whoever_hears_that_its_task_runs(load):
    recorder = Recorder()
    with load(hooks=[recorder]) as run:
        for _ in range(300):
            future = Future()
            future.set_result(1)
            identity(future)
            run.kernel.attempts_running([(_, 0)])
    began = set()
    for kind, task_id, what in recorder.order:
        if (kind, what) == ("attempt", "began"):
            began.add(task_id)
        elif (kind, what) == ("task", "running"):
            assert task_id in began


def test_the_error_of_an_event_has_its_notes(load):
    seen = []

    class Notes(Recorder):
        @hookimpl
        def flowcore_task_events(self, events):
            seen.extend(list(e.error.__notes__) for e in events if e.state == "failed")

    with load(hooks=[Notes()], retries=1):
        fails(1).exception(timeout=WAIT_S)
    assert any("earlier attempts of task 0" in note for note in seen[0])


def test_a_batch_is_a_sequence_of_events():
    call = TaskCall(memoize=True)
    waits = TaskEvent(0, "f", "python", "pending", None, 1.0, 0, None, None, (), None, called_at=1.0)
    runs = TaskEvent(1, "f", "python", "launched", None, 2.5, 0, "htex", None, (), None, call=call, called_at=2.0)
    batch = TaskEvents([*waits, *runs])
    both = [runs._replace(state="pending", at=2.0), runs._replace(before="pending", call=None)]
    assert list(batch) == [waits, *both]
    assert len(batch) == 3
    assert batch.columns == list(map(list, zip(waits, runs, strict=True)))
    assert batch[0] == waits
    assert batch[-1].before == "pending"
    assert list(batch[1:]) == both
    assert waits in batch
    with pytest.raises(IndexError):
        batch[3]


def test_an_event_that_stands_for_all_from_the_call_on_is_told_as_these():
    error = ValueError()
    over = TaskEvent(
        3, "f", "python", "failed", None, 5.0, 0, "htex", None, (), error, fail_count=1, fail_cost=1.0, called_at=2.0,
        launched_at=3.0, ended_at=4.0, where="there",
    )  # fmt: skip
    refused = TaskEvent(4, "f", "python", "dep_fail", None, 5.0, 0, None, None, (3,), error, called_at=2.0)
    before = over._replace(error=None, fail_count=0, fail_cost=0.0, launched_at=None, ended_at=None, where=None)
    assert list(TaskEvents([*over, *refused])) == [
        before._replace(state="pending", at=2.0),
        before._replace(state="launched", before="pending", at=3.0),
        over._replace(before="launched"),
        refused._replace(state="pending", at=2.0, error=None),
        refused._replace(before="pending"),
    ]


def test_a_hook_may_refuse_the_run_that_begins(load):
    class Refusing:
        @hookimpl
        def flowcore_run_started(self):
            raise ConfigurationError("there is no room for records")

    with pytest.raises(ConfigurationError, match="there is no room for records"):
        load(hooks=[Refusing()])
    with pytest.raises(flowcore.errors.NoKernelError):
        flowcore.dfk()


def test_no_other_hook_refuses(load, caplog):
    class Refusing:
        @hookimpl
        def flowcore_executor_started(self):
            raise ConfigurationError("not here")

    with load(hooks=[Refusing()]):
        assert identity(1).result(timeout=WAIT_S) == 1
    assert "hook flowcore_executor_started of plugin 'Refusing' raised" in caplog.text
