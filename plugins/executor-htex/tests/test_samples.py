"""What tasks use, from the managers' samples to a hook; and what hooks hear of nodes."""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import flowcore
from flowcore.plugins.api import AttemptEvent, NodeEvent, ResourceSample, RunInfo, TaskEvent, hookimpl
from flowcore.testing.waiting import eventually as until

Load = Callable[..., flowcore.DataFlowKernel]
MB = 10**6


class Collector:
    """Keeps all that hooks are told of what tasks use, and of nodes."""

    def __init__(self, period: Any = 0.2) -> None:
        self.period = period
        self.asked: list[str] = []
        self.samples: list[ResourceSample] = []
        self.threads: set[str] = set()

    @hookimpl
    def flowcore_resource_period(self, executor: str) -> Any:
        self.asked.append(executor)
        return self.period

    @hookimpl
    def flowcore_resource_samples(self, run: RunInfo, samples: Sequence[ResourceSample]) -> None:
        assert run.run_id
        self.threads.add(threading.current_thread().name)
        self.samples += samples

    def of(self, future: Any, *kinds: str) -> list[ResourceSample]:
        """Return the samples of a task."""
        return [s for s in list(self.samples) if s.task_id == future.tid and s.kind in (kinds or (s.kind,))]

    def last(self, future: Any) -> ResourceSample:
        """Return the sample of a task's end, when it is there: others may have been sent just before it."""
        [sample] = until(lambda: self.of(future, "end"), timeout_s=10)
        return sample


class NodeCollector:
    def __init__(self) -> None:
        self.events: list[NodeEvent] = []

    @hookimpl
    def flowcore_node_events(self, events: Sequence[NodeEvent]) -> None:
        self.events += events

    def states(self, *states: str) -> list[str]:
        return [e.state for e in self.events if e.state in (states or (e.state,))]


@flowcore.python_app
def burn(seconds: float) -> tuple[float, str]:
    import os
    import time

    began = time.process_time()
    while time.process_time() - began < seconds:
        sum(range(1000))
    return time.process_time() - began, os.environ["FLOWCORE_WORKER_RANK"]


@flowcore.python_app
def hold(size: int, until_there: str) -> int:
    import os
    import time

    data = b"x" * size
    deadline = time.monotonic() + 30
    while not os.path.exists(until_there) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(data)


@flowcore.bash_app
def burn_in_bash(seconds: float) -> str:
    return f"timeout {seconds} sh -c 'while :; do :; done' || true"


@flowcore.python_app
def nothing() -> None:
    pass


@flowcore.python_app
def die() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@flowcore.python_app
def raise_after(seconds: float) -> None:
    import time

    began = time.process_time()
    while time.process_time() - began < seconds:
        sum(range(1000))
    raise ValueError("after all that")


@flowcore.python_app
def traces() -> tuple[int, bool]:
    """Return the number of the manager's threads, and whether this worker shares a page with it."""
    import os

    with open("/proc/self/maps") as maps:
        return len(os.listdir(f"/proc/{os.getppid()}/task")), "flowcore-usage" in maps.read()


def warm_up() -> None:
    """Let both workers load what tasks need, and use some processor time that counts for no other task."""
    ranks: set[str] = set()
    for _ in range(20):
        ranks |= {future.result(timeout=60)[1] for future in [burn(0.2), burn(0.2)]}
        if len(ranks) == 2:
            return
    raise AssertionError(f"only workers {ranks} run tasks")


@pytest.mark.parametrize("options", [{}, {"encrypted": False}, {"address": "127.0.0.1"}], ids=["ipc", "plain", "tcp"])
def test_processor_time_of_a_task(load: Load, options: dict[str, Any]) -> None:
    hook = Collector()
    load(config={"hooks": [hook]}, **options)
    warm_up()
    future = burn(1.0)
    used, rank = future.result(timeout=60)
    last = hook.last(future)
    assert last.cpu_user_s + last.cpu_system_s == pytest.approx(used, abs=0.1)
    assert (last.executor, last.block_id, last.try_id, last.processes) == ("htex", "0", 0, 1)
    assert last.worker == int(rank)
    assert abs(last.at - time.time()) < 60
    assert 0 < last.memory_percent < 100
    samples = hook.of(future)
    assert [s.kind for s in samples][0] == "begin"
    assert [s.kind for s in samples][-1] == "end"
    assert {s.kind for s in samples[1:-1]} == {"running"}
    assert {s.pid for s in samples} == {last.pid}
    spent = [s.cpu_user_s + s.cpu_system_s for s in samples]
    assert spent == sorted(spent)
    assert hook.threads == {"flowcore-htex-receive"}
    assert "htex" in hook.asked


def test_memory_of_a_task_while_it_holds_it(load: Load, tmp_path: Path) -> None:
    hook = Collector()
    load(config={"hooks": [hook]})
    small, large = hold(1, str(tmp_path / "go")), hold(200 * MB, str(tmp_path / "go"))
    until(lambda: hook.of(small) and any(s.memory_resident > 200 * MB for s in hook.of(large)), timeout_s=30)
    (tmp_path / "go").touch()
    assert large.result(timeout=30) == 200 * MB
    small.result(timeout=30)
    assert hook.last(large).memory_resident < 200 * MB, "it holds it no more"
    assert max(s.memory_resident for s in hook.of(small)) < 200 * MB
    sample = max(hook.of(large), key=lambda s: s.memory_resident)
    assert sample.memory_virtual > sample.memory_resident
    assert sample.memory_percent == pytest.approx(
        100 * sample.memory_resident / psutil.virtual_memory().total, rel=0.01
    )


def test_what_a_bash_app_starts_is_counted_with_it(load: Load) -> None:
    hook = Collector()
    load(config={"hooks": [hook]})
    warm_up()
    future = burn_in_bash(2.0)
    assert future.result(timeout=60) == 0
    samples = hook.of(future, "begin", "running")
    assert max(s.processes for s in samples) >= 3, "the worker, timeout and sh at least"
    last = hook.last(future)
    # It need not have had a whole core.
    assert 0.3 < last.cpu_user_s + last.cpu_system_s < 2.5
    assert 0.1 < samples[-1].cpu_user_s + samples[-1].cpu_system_s <= last.cpu_user_s + last.cpu_system_s
    assert last.processes == 1


def test_two_tasks_on_two_workers_are_not_mixed(load: Load, tmp_path: Path) -> None:
    hook = Collector()
    load(config={"hooks": [hook]})
    warm_up()
    idle, busy = hold(1, str(tmp_path / "go")), burn(1.0)
    busy.result(timeout=60)
    (tmp_path / "go").touch()
    idle.result(timeout=60)
    of_idle, of_busy = hook.last(idle), hook.last(busy)
    assert of_busy.cpu_user_s + of_busy.cpu_system_s == pytest.approx(1.0, abs=0.1)
    assert of_idle.cpu_user_s + of_idle.cpu_system_s < 0.4
    for future, last in ((idle, of_idle), (busy, of_busy)):
        assert {(s.pid, s.worker) for s in hook.of(future)} == {(last.pid, last.worker)}
    assert of_idle.pid != of_busy.pid
    assert of_idle.worker != of_busy.worker


def test_a_period_of_zero_means_the_start_and_the_end(load: Load) -> None:
    hook = Collector(0)
    load(config={"hooks": [hook]})
    warm_up()
    future = burn(1.0)
    future.result(timeout=60)
    hook.last(future)
    assert [s.kind for s in hook.of(future)] == ["begin", "end"]


def test_a_task_that_fails_has_its_samples_too(load: Load) -> None:
    hook = Collector()
    load(config={"hooks": [hook], "retries": 1})
    warm_up()
    future = raise_after(0.3)
    with pytest.raises(ValueError, match="after all that"):
        future.result(timeout=60)
    until(lambda: len(hook.of(future, "end")) == 2, timeout_s=10)
    assert [(s.try_id, round(s.cpu_user_s + s.cpu_system_s, 1)) for s in hook.of(future, "end")] == [(0, 0.3), (1, 0.3)]


def test_the_samples_of_the_last_task_come_before_the_end_of_the_run(load: Load) -> None:
    hook = Collector(0)
    with load(config={"hooks": [hook]}):
        futures = [burn(0.15) for _ in range(6)]
    assert all(len(hook.of(future, "end")) == 1 for future in futures)


def test_thousands_of_short_tasks_leave_no_samples(load: Load) -> None:
    hook = Collector(0.1)
    with load(config={"hooks": [hook]}):
        nothing().result(timeout=60)  # the first one loads its function
        hook.samples.clear()
        for future in [nothing() for _ in range(5000)]:
            future.result(timeout=60)
    assert len(hook.samples) < 20, "none, unless a worker was kept off its processor"


@pytest.mark.parametrize("hook", [None, Collector(None), NodeCollector()], ids=["no hook", "no period", "other hooks"])
def test_no_samples_for_nobody(load: Load, hook: Any) -> None:
    with load(config={"hooks": [Collector()]}):
        threads, shares = traces().result(timeout=60)
        assert shares
    with load(config={"hooks": [hook] if hook is not None else []}):
        assert traces().result(timeout=60) == (threads - 1, False)
        burn(0.3).result(timeout=60)
    assert getattr(hook, "samples", []) == []


def test_what_is_no_period_is_refused_in_the_log(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    hook = Collector("often")
    with load(config={"hooks": [hook]}):
        burn(0.3).result(timeout=60)
    assert hook.samples == []
    assert "flowcore_resource_period(executor='htex') returned 'often', which is no number of seconds" in caplog.text


def test_a_hook_that_raises_costs_no_result(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Collector):
        @hookimpl
        def flowcore_resource_samples(self, samples: Sequence[ResourceSample]) -> None:
            raise ZeroDivisionError("in the hook")

    load(config={"hooks": [Broken()]})
    assert burn(0.3).result(timeout=60)[0] >= 0.3
    until(lambda: "hook flowcore_resource_samples of plugin 'Broken' raised" in caplog.text, timeout_s=10)
    assert burn(0.3).result(timeout=60)[0] >= 0.3


# --- the state of tasks, and where attempts ran


class States:
    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    @hookimpl
    def flowcore_task_events(self, events: Sequence[TaskEvent]) -> None:
        self.seen += [(e.task_id, e.state) for e in events]


def test_a_task_is_said_to_run_when_its_first_sample_comes(load: Load) -> None:
    states = States()
    with load(config={"hooks": [Collector(0), states]}):
        short = nothing()
        short.result(timeout=60)
        long = burn(1.0)
        until(lambda: (long.tid, "running") in states.seen, timeout_s=20)
        assert long.task_status() == "running"
    assert [state for task_id, state in states.seen if task_id == long.tid][-3:] == ["launched", "running", "exec_done"]


@pytest.mark.parametrize("hooks", [(), (Collector(0), NodeCollector())], ids=["nobody", "watched"])
def test_a_run_can_be_ended_from_a_callback(load: Load, hooks: Sequence[object]) -> None:
    run = load(config={"hooks": list(hooks)})
    ended = threading.Event()

    def end(_: object) -> None:
        run.cleanup()
        ended.set()

    burn(0.3).add_done_callback(end)
    assert ended.wait(60)


class Attempts:
    def __init__(self) -> None:
        self.events: list[AttemptEvent] = []

    @hookimpl
    def flowcore_attempt_events(self, events: Sequence[AttemptEvent]) -> None:
        self.events += events


def test_who_listens_to_attempts_hears_where_each_ran(load: Load) -> None:
    hook = Attempts()
    with load(config={"hooks": [hook]}):
        _, rank = burn(0.0).result(timeout=60)
        die().exception(timeout=60)
    ran, died = [e.where for e in hook.events if e.ended_at is not None]
    assert ran == f"block 0, host {platform.node()}, worker {rank}"
    assert died is not None
    assert re.fullmatch(rf"block 0, host {platform.node()}, worker \d+", died)


# --- nodes


def test_a_node_comes_lives_and_goes_with_its_run(load: Load) -> None:
    hook = NodeCollector()
    load(config={"hooks": [hook]}, heartbeat_period=0.2)
    nothing().result(timeout=60)
    until(lambda: hook.states("alive"), timeout_s=20)
    [connected] = [e for e in hook.events if e.state == "connected"]
    assert (connected.executor, connected.block_id, connected.workers) == ("htex", "0", 2)
    assert connected.total_memory == psutil.virtual_memory().total
    assert connected.cpu_count == psutil.cpu_count()
    assert connected.python_version == platform.python_version()
    assert connected.manager.startswith(f"{connected.hostname}-")
    assert hook.states("gone") == []
    flowcore.clear()
    assert hook.states("connected", "gone") == ["connected", "gone"]
    assert [e.at for e in hook.events] == sorted(e.at for e in hook.events)
    assert {e.manager for e in hook.events} == {connected.manager}


def test_a_manager_that_is_killed_is_gone_once(load: Load) -> None:
    hook = NodeCollector()
    load(config={"hooks": [hook], "strategy": "none"}, heartbeat_period=0.2, heartbeat_threshold=1)
    nothing().result(timeout=60)
    [connected] = [e for e in hook.events if e.state == "connected"]
    os.kill(int(connected.manager.rpartition("-")[2]), signal.SIGKILL)
    until(lambda: hook.states("gone"), timeout_s=20)
    flowcore.clear()
    assert hook.states("connected", "gone") == ["connected", "gone"]


def test_nodes_are_gone_with_the_interchange(load: Load) -> None:
    hook = NodeCollector()
    load(config={"hooks": [hook], "strategy": "none"})
    nothing().result(timeout=60)
    [interchange] = [
        child for child in psutil.Process().children() if "flowcore_executor_htex.interchange" in child.cmdline()
    ]
    interchange.kill()
    until(lambda: hook.states("gone"), timeout_s=20)
    assert hook.states("connected", "gone") == ["connected", "gone"]
