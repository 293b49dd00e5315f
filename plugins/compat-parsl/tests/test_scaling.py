"""Timer, strategy and poller as objects; providers and launchers of a program's own."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from flowcore.errors import ConfigurationError
from flowcore.testing import eventually


def test_a_timer_calls_again_and_again(parsl: ModuleType) -> None:
    from parsl.utils import Timer

    calls: list[Any] = []
    thrice = threading.Event()

    def callback(*args: Any) -> None:
        calls.append((args, threading.current_thread().name))
        if len(calls) == 3:
            thrice.set()
        raise ValueError("is logged")

    timer = Timer(callback, 1, 2, interval=0.01, name="ticks")
    try:
        assert thrice.wait(30)
    finally:
        timer.close(timeout=30)
    assert calls[0] == ((1, 2), "ticks")
    after = len(calls)
    timer.close()
    assert len(calls) == after


def test_a_timer_is_called_by_hand(parsl: ModuleType) -> None:
    from parsl.utils import Timer

    calls: list[int] = []
    timer = Timer(calls.append, 7, interval=1000)
    timer.make_callback()
    timer.close()
    assert calls == [7]


def test_a_strategy_by_its_name(parsl: ModuleType) -> None:
    from parsl.jobs.strategy import Strategy

    from flowcore.errors import PluginNotFound
    from flowcore.scaling.strategy import Decision, Load

    load = Load(
        active_tasks=4, slots_per_block=2, active_blocks=0, idle_blocks=(), idle_for=0, min_blocks=0, max_blocks=9,
        parallelism=0.5, max_idletime=60,
    )  # fmt: skip
    assert Strategy(strategy="simple", max_idletime=60)(load) == Decision(scale_out=1)
    nothing = Strategy(strategy=None, max_idletime=60)
    assert nothing(load) == Decision()
    nothing.add_executors(["an executor"])
    assert nothing.executors == ["an executor"]
    with pytest.raises(PluginNotFound, match="'sinple'"):
        Strategy(strategy="sinple", max_idletime=60)


def test_a_poller_scales_the_executors_of_a_run(parsl: ModuleType) -> None:
    pytest.importorskip("flowcore_executor_htex")
    from parsl.jobs.job_status_poller import JobStatusPoller
    from parsl.jobs.states import JobState
    from parsl.utils import Timer

    # No blocks at first, and a run that leaves it so.
    provider = parsl.providers.LocalProvider(init_blocks=0, max_blocks=1)
    executor = parsl.HighThroughputExecutor(label="htex", max_workers_per_node=1, provider=provider)
    with parsl.load(parsl.Config(executors=[executor], strategy="none")):
        future = parsl.python_app(lambda: 5)()
        poller = JobStatusPoller(strategy="simple", max_idletime=60, strategy_period=0.05)
        try:
            assert isinstance(poller, Timer)
            with pytest.raises(ConfigurationError, match="executor 'threads' has no blocks in the loaded run"):
                poller.add_executors([parsl.ThreadPoolExecutor()])
            poller.add_executors([executor])
            assert future.result(timeout=60) == 5
            poller.poll()
            assert [s.state for s in poller._pools[0].status().values()] == [JobState.RUNNING]
        finally:
            poller.close()


def test_blocks_are_watched_and_scaled_through_their_executor(parsl: ModuleType) -> None:
    pytest.importorskip("flowcore_executor_htex")
    from parsl.jobs.states import JobState

    provider = parsl.providers.LocalProvider(init_blocks=0, max_blocks=2)
    executor = parsl.HighThroughputExecutor(label="htex", max_workers_per_node=1, provider=provider)
    with parsl.load(parsl.Config(executors=[executor], strategy="none")) as kernel:
        assert (executor.run_dir, executor.run_id) == (str(kernel.run_dir), kernel.run_id)
        assert executor.status() == {}
        assert executor.scale_out_facade(1) == ["0"]
        assert parsl.python_app(lambda: 5)().result(timeout=60) == 5
        assert (executor.connected_workers, executor.workers_per_node, executor.outstanding) == (1, 1, 0)
        assert list(executor.status_facade) == ["0"]
        assert executor.scale_in_facade(1) == ["0"]
        assert executor.status()["0"].state is JobState.CANCELLED
        assert executor.status_polling_interval == provider.status_polling_interval > 0


def test_a_provider_and_a_launcher_that_were_written_for_parsl(parsl: ModuleType) -> None:
    pytest.importorskip("flowcore_executor_htex")
    from parsl.jobs.states import JobState, JobStatus
    from parsl.launchers.base import Launcher
    from parsl.providers.base import ExecutionProvider

    class Twice(Launcher):
        def __init__(self, word: str) -> None:
            super().__init__(debug=False)
            self.word = word

        def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
            return f"export WORD={self.word}\n{command}"

    class Processes(ExecutionProvider):
        nodes_per_block = 1
        init_blocks = 1
        min_blocks = 0
        max_blocks = 1
        parallelism = 1.0

        def __init__(self, launcher: Launcher) -> None:
            self.launcher = launcher
            self.jobs: dict[str, subprocess.Popen[bytes]] = {}

        @property
        def label(self) -> str:
            return "processes"

        @property
        def status_polling_interval(self) -> int:
            return 1

        def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.processes") -> str:
            script = self.launcher(command, tasks_per_node, self.nodes_per_block)
            assert self.script_dir is not None
            process = subprocess.Popen(f"exec bash -c {shlex.quote(script)}", shell=True, cwd=self.script_dir)
            self.jobs[str(process.pid)] = process
            return str(process.pid)

        def status(self, job_ids: Sequence[Any]) -> list[JobStatus]:
            ended = [self.jobs[i].poll() for i in job_ids]
            return [JobStatus(JobState.RUNNING if e is None else JobState.COMPLETED) for e in ended]

        def cancel(self, job_ids: Sequence[Any]) -> list[bool]:
            for job in job_ids:
                self.jobs[job].terminate()
                self.jobs[job].wait()
            return [True for _ in job_ids]

    provider = Processes(Twice("launched"))
    executor = parsl.HighThroughputExecutor(max_workers_per_node=1, provider=provider)

    @parsl.python_app
    def word() -> str:
        import os

        return os.environ["WORD"]

    with parsl.load(parsl.Config(executors=[executor], strategy="none")):
        assert word().result(timeout=60) == "launched"
    eventually(lambda: all(p.poll() is not None for p in provider.jobs.values()))


def test_flowcores_own_are_instances_of_the_base_classes(parsl: ModuleType) -> None:
    from parsl.launchers.base import Launcher
    from parsl.providers.base import ExecutionProvider

    provider = parsl.providers.LocalProvider()
    assert isinstance(provider, ExecutionProvider) and not isinstance(provider, Launcher)
    assert isinstance(parsl.launchers.SimpleLauncher(), Launcher)
    assert issubclass(ExecutionProvider, parsl.providers.base.ExecutionProvider)
    with pytest.raises(TypeError, match="abstract"):
        ExecutionProvider()


def test_error_handlers_are_functions_of_an_executor_and_its_blocks(parsl: ModuleType) -> None:
    from parsl.jobs.error_handlers import noop_error_handler, simple_error_handler, windowed_error_handler
    from parsl.jobs.states import JobState, JobStatus

    class Blocks:
        label = "blocks"
        provider = parsl.providers.LocalProvider(max_blocks=5)
        failures: list[Exception] = []

        def connected_blocks(self) -> set[str]:
            return set()

        def set_bad_state_and_fail_all(self, exception: Exception) -> None:
            self.failures.append(exception)

    executor: Any = Blocks()
    bad = {str(i): JobStatus(JobState.FAILED, "no partition") for i in range(3)}
    noop_error_handler(executor, bad)
    assert executor.failures == []
    simple_error_handler(executor, bad, threshold=3)
    windowed_error_handler(executor, {"0": JobStatus(JobState.COMPLETED), **bad}, threshold=3)
    assert len(executor.failures) == 2
    assert "no partition" in str(executor.failures[0])


def test_a_provider_of_a_batch_scheduler_as_it_was_subclassed(parsl: ModuleType) -> None:
    from parsl.channels import LocalChannel
    from parsl.jobs.states import JobState, JobStatus
    from parsl.launchers import SimpleLauncher
    from parsl.launchers.errors import BadLauncher
    from parsl.providers.base import ExecutionProvider
    from parsl.providers.cluster_provider import ClusterProvider

    class Mine(ClusterProvider):  # type: ignore[misc,valid-type]
        def submit(self, command: str, tasks_per_node: int, job_name: str = "x") -> str:
            code, out, _ = self.execute_wait(f"echo {shlex.quote(command)}")
            assert code == 0
            self.resources[out.strip()] = {"status": JobStatus(JobState.PENDING)}
            return out.strip()

        def _status(self) -> None:
            for resource in self.resources.values():
                resource["status"] = JobStatus(JobState.RUNNING)

        def cancel(self, job_ids: Sequence[str]) -> list[bool]:
            return [True for _ in job_ids]

    options: Any = ("mine", LocalChannel(), 1, 1, 0, 2, 0.5, "00:10:00")
    provider = Mine(*options, SimpleLauncher())
    assert isinstance(provider, ExecutionProvider)
    assert (provider.label, provider.cmd_timeout, provider.status_polling_interval) == ("mine", 10, 60)
    assert [s.state for s in provider.status([provider.submit("job7", 1)])] == [JobState.RUNNING]
    assert provider.status([]) == []
    with pytest.raises(BadLauncher):
        Mine(*options, "srun")


def test_flowcores_own_providers_of_batch_schedulers_count_as_such(parsl: ModuleType) -> None:
    from parsl.providers import LocalProvider, SlurmProvider
    from parsl.providers.cluster_provider import ClusterProvider

    assert issubclass(SlurmProvider, ClusterProvider)
    assert not issubclass(LocalProvider, ClusterProvider)
