"""What executors are told of who wants to hear more of them than results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.plugins.api import ExecutorContext, NodeEvent, ResourceSample, RunInfo, hookimpl
from flowcore.testing.fakes import FakeExecutor

SAMPLE = ResourceSample(
    1, 0, "fake", "0", "n1", 3, 1.7e9, "end", 77, 2, 1.5, 0.5, 1000, 2000, 0.1, 512, 1024, "running"
)
NODE = NodeEvent("fake", "0", "n1", "n1-77", 4, 64, 10**12, "3.12.1", "connected", 1.7e9)


class Period:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []

    @hookimpl
    def flowcore_resource_period(self, executor: str) -> Any:
        self.asked.append(executor)
        return self.answer


class Taker:
    def __init__(self) -> None:
        self.taken: list[tuple[str, Any]] = []

    @hookimpl
    def flowcore_resource_samples(self, run: RunInfo, samples: Sequence[ResourceSample]) -> None:
        self.taken.append((run.run_id, samples))

    @hookimpl
    def flowcore_node_events(self, run: RunInfo, events: Sequence[NodeEvent]) -> None:
        self.taken.append((run.run_id, events))


Start = Callable[..., tuple[ExecutorContext, flowcore.DataFlowKernel]]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Loads a run with one fake executor and some hooks; returns what the executor was started with, and the run."""
    runs: list[flowcore.DataFlowKernel] = []

    def load(*hooks: Any) -> tuple[ExecutorContext, flowcore.DataFlowKernel]:
        executor = FakeExecutor()
        run = flowcore.DataFlowKernel(
            flowcore.Config(
                executors=[executor],
                run_dir=str(tmp_path),
                hooks=list(hooks),
                strategy="none",
                initialize_logging=False,
            )
        )
        runs.append(run)
        assert executor.context is not None
        return executor.context, run

    yield load
    for run in runs:
        run.cleanup()


def test_nobody_wants_anything(start: Start) -> None:
    context, _ = start()
    assert context.resource_period_s is None
    assert context.resources is None
    assert context.nodes is None


def test_samples_and_nodes_go_to_the_hooks(start: Start) -> None:
    period, taker = Period(2.5), Taker()
    context, run = start(period, taker)
    assert context.resource_period_s == 2.5
    assert period.asked.count("fake") == 1
    assert context.resources is not None
    assert context.nodes is not None
    context.resources([SAMPLE])
    context.nodes([NODE])
    assert taker.taken == [(run.run_id, [SAMPLE]), (run.run_id, [NODE])]


def test_the_first_period_counts_and_zero_is_one(start: Start) -> None:
    # The last one that is registered is asked first.
    context, _ = start(Taker(), Period(7), Period(0), Period(None))
    assert context.resource_period_s == 0
    assert context.resources is not None


def test_a_period_without_anybody_who_takes_samples(start: Start) -> None:
    period = Period(1)
    context, _ = start(period)
    assert context.resource_period_s is None
    assert context.resources is None
    assert period.asked == []


@pytest.mark.parametrize("answer", ["1", -1, float("nan"), float("inf")], ids=str)
def test_what_is_no_period_is_logged_and_means_none(
    start: Start, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "flowcore"):
        context, _ = start(Taker(), Period(answer))
    assert context.resource_period_s is None
    assert context.resources is None
    assert (
        f"flowcore_resource_period(executor='fake') returned {answer!r}, which is no number of seconds from 0 on: "
        "no samples are taken there" in caplog.text
    )
