"""Runs with blocks: taken down whatever fails, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import Config
from flowcore.plugins.api import ExecutorContext, JobState, ProviderContext
from flowcore.scaling import record, scaler
from flowcore.testing import FakeBlockExecutor, FakeProvider

Load = Callable[..., flowcore.DataFlowKernel]


def states(provider: FakeProvider) -> list[JobState]:
    return [status.state for status in provider.jobs.values()]


def test_initial_blocks_are_there_when_the_run_is(load: Load) -> None:
    provider = FakeProvider(init_blocks=2)
    run = load(executors=[FakeBlockExecutor(provider)])
    assert states(provider) == [JobState.PENDING] * 2
    assert provider.context is not None
    assert (provider.context.run_id, provider.context.executor_label) == (run.run_id, "fake_blocks")
    assert provider.names["job0"] == f"flowcore.{run.run_id[:8]}.fake_blocks.block-0"
    run.cleanup()
    assert states(provider) == [JobState.CANCELLED] * 2
    assert provider.closed == 1


def test_a_later_executor_that_cannot_start_takes_the_blocks_of_the_others_down(tmp_path: Path) -> None:
    class Broken(FakeBlockExecutor):
        def start(self, context: ExecutorContext) -> None:
            raise RuntimeError("cannot start")

    good, bad = FakeProvider(init_blocks=2), FakeProvider(init_blocks=2)
    executors = [FakeBlockExecutor(good, "good"), Broken(bad, "bad")]
    with pytest.raises(RuntimeError, match="cannot start"):
        flowcore.load(Config(executors=executors, run_dir=tmp_path))
    assert states(good) == [JobState.CANCELLED] * 2
    assert (bad.jobs, good.closed, bad.closed) == ({}, 1, 1)


def test_a_provider_that_cannot_start_is_closed(tmp_path: Path) -> None:
    class Broken(FakeProvider):
        def start(self, context: ProviderContext) -> None:
            raise ConnectionError("no route to host")

    provider = Broken(init_blocks=1)
    with pytest.raises(ConnectionError):
        flowcore.load(Config(executors=[FakeBlockExecutor(provider)], run_dir=tmp_path))
    assert (provider.jobs, provider.closed) == ({}, 1)


def test_ctrl_c_while_the_first_blocks_are_requested(tmp_path: Path) -> None:
    class Slow(FakeProvider):
        def submit(self, *arguments: Any) -> str:
            import _thread

            # As Ctrl-C at a terminal: it meets the thread that loads, which waits, and not this one.
            _thread.interrupt_main()
            return super().submit(*arguments)

    provider = Slow(init_blocks=2)
    with pytest.raises(KeyboardInterrupt):
        flowcore.load(Config(executors=[FakeBlockExecutor(provider)], run_dir=tmp_path))
    assert set(states(provider)) <= {JobState.CANCELLED}
    assert provider.closed == 1


def test_the_record_of_a_run(load: Load) -> None:
    run = load(executors=[FakeBlockExecutor(FakeProvider(init_blocks=1), label) for label in ("one", "other")])
    entry = record.read(run.run_dir)
    assert entry is not None
    assert entry.run_id == run.run_id
    assert {label: list(executor.blocks) for label, executor in entry.executors.items()} == {
        "one": ["0"],
        "other": ["0"],
    }
    assert [executor.closed_at for executor in entry.executors.values()] == [None, None]
    run.cleanup()
    entry = record.read(run.run_dir)
    assert entry is not None
    assert all(executor.closed_at and not executor.open() for executor in entry.executors.values())


def test_a_run_without_blocks_has_no_record(load: Load) -> None:
    assert not (load().run_dir / record.NAME).exists()


def test_what_is_left_is_told(load: Load, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider(init_blocks=2)
    run = load(executors=[FakeBlockExecutor(provider)])
    monkeypatch.setattr(run.scaler, "_patience_s", 0.0)
    assert scaler.PATIENCE_S >= 30
    provider.accepts_cancels = False
    run.cleanup()
    assert capsys.readouterr().err == (
        "flowcore: jobs may be left: job0 of executor fake_blocks, job1 of executor fake_blocks. "
        f"To cancel them: flowcore blocks --cancel {run.run_dir}\n"
    )
