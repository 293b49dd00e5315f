"""The fakes, and the check for leftovers, as third parties use them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import flowcore
import flowcore.testing
from flowcore import Config, python_app
from flowcore.errors import ExecutorError, ScaleOutFailed
from flowcore.plugins.api import Attempt, JobState
from flowcore.testing import FakeBlockExecutor, FakeClock, FakeExecutor, FakeProvider, eventually, processes
from flowcore.testing.leftovers import Leftovers


@python_app
def double(x: int) -> int:
    return 2 * x


def load(*executors: FakeExecutor, **options: object) -> flowcore.DataFlowKernel:
    return flowcore.load(Config(executors=list(executors), initialize_logging=False, **options))  # type: ignore[arg-type]


def test_all_names_are_there() -> None:
    for name in flowcore.testing.__all__:
        assert getattr(flowcore.testing, name) is not None
        assert name in dir(flowcore.testing)
    with pytest.raises(AttributeError, match="no attribute 'FakeNews'"):
        flowcore.testing.FakeNews  # noqa: B018


# --- FakeExecutor


def test_a_fake_executor_ends_tasks_as_it_is_told() -> None:
    fake = FakeExecutor()
    with load(fake):
        good, bad, ran = double(1), double(2), double(3)
        first, second, third = fake.wait(), fake.wait(), fake.wait()
        assert [a.args for a in fake.submitted] == [(1,), (2,), (3,)]
        assert fake.outstanding == 3
        fake.begin(first)
        fake.finish(first, 42)
        fake.fail(second, ZeroDivisionError("told so"))
        fake.run(third)
        assert good.result(10) == 42
        with pytest.raises(ZeroDivisionError, match="told so"):
            bad.result(10)
        assert ran.result(10) == 6
        assert fake.outstanding == 0
        assert fake.stopped is False
    assert fake.stopped is True


def test_a_fake_executor_shows_retries() -> None:
    fake = FakeExecutor()
    with load(fake, retries=1):
        future = double(1)
        fake.fail(fake.wait(), OSError())
        second = fake.wait()
        assert second.try_id == 1
        fake.finish(second, 2)
        assert future.result(10) == 2


def test_a_fake_executor_refuses() -> None:
    fake = FakeExecutor()
    fake.refuse_with = ExecutorError("fake", "broken")
    with load(fake), pytest.raises(ExecutorError, match="broken"):
        double(1).result(10)
    assert fake.submitted == []


def test_a_fake_executor_takes_attempts_back() -> None:
    fake = FakeExecutor()
    with load(fake):
        future = double(1)
        attempt = fake.wait()
        assert future.cancel() is True
        with pytest.raises(CancelledError):
            future.result(10)
        assert fake.cancelled == [(attempt.task_id, attempt.try_id)]
        with pytest.raises(ValueError, match="has ended, or was cancelled"):
            fake.finish(attempt)


def test_misuse_of_a_fake_executor() -> None:
    fake = FakeExecutor()
    attempt = Attempt(0, 0, "app", print, (), {}, {})
    with pytest.raises(ValueError, match="was not started"):
        fake.finish(attempt)
    with pytest.raises(AssertionError, match="was given no further attempt within 0 s; it has 0"):
        fake.wait(0)
    with load(fake):
        future = double(1)
        attempt = fake.wait()
        fake.finish(attempt, 1)
        assert future.result(10) == 1
        with pytest.raises(ValueError, match="attempt 0 of task 0 was never submitted"):
            fake.fail(attempt, OSError())


def test_waiting_for_an_attempt_of_another_thread() -> None:
    fake = FakeExecutor()
    with load(fake):
        thread = threading.Timer(0.05, double, (5,))
        thread.start()
        fake.finish(fake.wait(), None)
        thread.join()


# --- FakeProvider, FakeBlockExecutor, FakeClock


def test_a_fake_provider_has_the_states_it_is_given() -> None:
    provider = FakeProvider(max_blocks=3)
    first, second = provider.submit("one", 1, "n1"), provider.submit("two", 1)
    assert [s.state for s in provider.status([second, first, "?"])] == [
        JobState.PENDING,
        JobState.PENDING,
        JobState.UNKNOWN,
    ]
    provider.set_state(first, JobState.FAILED, "reason", 3)
    assert provider.status([first])[0].exit_code == 3
    provider.answering = False
    assert [s.state for s in provider.status([first, second])] == [JobState.UNKNOWN] * 2
    provider.answering = True
    assert provider.cancel([first, second, "?"]) == [True, True, False]
    assert [s.state for s in provider.status([first, second])] == [JobState.FAILED, JobState.CANCELLED]
    provider.refusal = "full"
    with pytest.raises(ScaleOutFailed, match="full"):
        provider.submit("three", 1)
    with pytest.raises(ValueError, match="there is no job 'job9'; jobs: job0, job1"):
        provider.set_state("job9", JobState.RUNNING)


def test_a_fake_block_executor_in_a_run() -> None:
    fake = FakeBlockExecutor(FakeProvider(init_blocks=1), workers=2)
    with load(fake, strategy_period=0.01):
        assert fake.context is not None
        assert fake.context.blocks is not None
        assert list(fake.context.blocks.status()) == ["0"]
        fake.connected.add("0")
        futures = [double(i) for i in range(5)]
        # Five tasks, two at a time in a block.
        eventually(lambda: len(fake.provider.jobs) == 3, 20, "three blocks")  # type: ignore[attr-defined]
        for _ in futures:
            fake.run(fake.wait())
        assert [f.result(10) for f in futures] == [0, 2, 4, 6, 8]
    assert fake.provider.closed == 1  # type: ignore[attr-defined]
    assert {s.state for s in fake.provider.jobs.values()} == {JobState.CANCELLED}  # type: ignore[attr-defined]


def test_a_fake_block_executor_breaks() -> None:
    fake = FakeBlockExecutor()
    with load(fake):
        before = double(1)
        fake.wait()
        fake.set_bad_state_and_fail_all(ExecutorError("fake", "first"))
        fake.set_bad_state_and_fail_all(ExecutorError("fake", "second"))
        for future in (before, double(2)):
            with pytest.raises(ExecutorError, match="first"):
                future.result(10)


def test_a_fake_clock() -> None:
    clock = FakeClock(5)
    clock.advance(2.5)
    assert clock() == 7.5
    with pytest.raises(ValueError, match="time does not go back"):
        clock.advance(-1)


# --- eventually, leftovers


def test_eventually() -> None:
    answers = iter([0, "", None, "yes"])
    assert eventually(lambda: next(answers), 10) == "yes"
    with pytest.raises(AssertionError, match=r"rain did not come true within 0.01 s; last: \[\]"):
        eventually(list, 0.01, "rain")


def test_leftovers_sees_what_comes_and_goes(tmp_path: Path) -> None:
    leftovers = Leftovers()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="mine")
    daemon = threading.Thread(target=go.wait, name="another", daemon=True)
    thread.start()
    daemon.start()
    process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    try:
        left = leftovers.wait(0)
        assert left[0] == "thread 'mine'"
        assert left[1].startswith(f"process {process.pid} (state ")
        assert "/bin/cat" in left[1]
        assert len(left) == 2
        assert "thread 'another' (daemon)" in leftovers.wait(0, all_threads=True)
        assert processes.alive(process.pid)
    finally:
        go.set()
        thread.join()
        daemon.join()
        process.communicate()
    assert leftovers.wait(0, all_threads=True) == []
    assert not processes.alive(process.pid)


def test_descendants_are_found_at_any_depth() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    import os

    found = [p for p in processes.descendants(os.getpid()) if "print(1" in p.command or p.pid == process.pid]
    assert len(found) == 2
    assert found[1].ppid == process.pid
    process.communicate("\n")
    assert process.returncode == 0
