"""The life of blocks, with a provider and a clock that do what the test says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcore.errors import BlocksFailed, ScalingFailed
from flowcore.plugins.api import BlockEvent, JobState, RunInfo, hookimpl
from flowcore.plugins.hooks import HookManager
from flowcore.scaling.blocks import DESERTED_S, BlockPool
from flowcore.scaling.error_handlers import simple_error_handler, windowed_error_handler
from flowcore.scaling.scaler import Scaler
from flowcore.scaling.strategy import Decision, Load, no_scaling, simple
from flowcore.testing import FakeBlockExecutor, FakeClock, FakeProvider

IDLE_S = 100.0


class Log:
    """Writes the block hooks down."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, JobState]] = []

    def _note(self, what: str, event: BlockEvent) -> None:
        assert event.executor == "fake_blocks"
        self.events.append((what, event.block_id, event.status.state))

    @hookimpl
    def flowcore_block_requested(self, event: BlockEvent) -> None:
        self._note("requested", event)

    @hookimpl
    def flowcore_block_status_changed(self, event: BlockEvent) -> None:
        self._note("changed", event)

    @hookimpl
    def flowcore_block_ended(self, event: BlockEvent) -> None:
        self._note("ended", event)


class World:
    """A pool with all that is around it."""

    def __init__(self, *plugins: Any, handler: Any = True, workers: float = 1, **provider: Any) -> None:
        self.provider = FakeProvider(**provider)
        self.executor = FakeBlockExecutor(self.provider, workers=workers, block_error_handler=handler)
        self.clock = FakeClock()
        self.log = Log()
        hooks = HookManager([("log", self.log), *((str(i), p) for i, p in enumerate(plugins))])
        run = RunInfo("0123abcd-4567-89ef", Path(), "", "", 0.0)
        self.pool = BlockPool(self.executor, hooks, run, self.clock)

    def step(self, strategy: Callable[[Load], Decision] = no_scaling, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.pool.step(strategy, IDLE_S)

    def states(self) -> list[str]:
        return [status.status_name for status in self.pool.status().values()]


# --- requesting


def test_initial_blocks() -> None:
    world = World(init_blocks=2)
    world.pool.start()
    assert world.states() == ["PENDING", "PENDING"]
    assert world.provider.commands == {"job0": "true block 0", "job1": "true block 1"}
    assert world.provider.names == {
        "job0": "flowcore.0123abcd.fake_blocks.block-0",
        "job1": "flowcore.0123abcd.fake_blocks.block-1",
    }
    assert world.log.events == [("requested", "0", JobState.PENDING), ("requested", "1", JobState.PENDING)]


def test_a_plugin_may_change_the_command() -> None:
    class Nice:
        @hookimpl
        def flowcore_launch_command(self, executor: str, block_id: str, command: str) -> str | None:
            return f"nice {command}" if block_id == "1" else None

    world = World(Nice())
    assert world.pool.scale_out(2) == ["0", "1"]
    assert list(world.provider.commands.values()) == ["true block 0", "nice true block 1"]


def test_a_refused_block() -> None:
    world = World()
    world.pool.scale_out()
    world.provider.refusal = "QOSMaxSubmitJobPerUserLimit"
    with pytest.raises(ScalingFailed) as caught:
        world.pool.scale_out(2)
    assert str(caught.value) == (
        "executor 'fake_blocks': provider 'fake' could not submit a block: QOSMaxSubmitJobPerUserLimit"
    )
    assert world.states() == ["PENDING", "FAILED"]
    assert "QOSMaxSubmitJobPerUserLimit" in (world.pool.status()["1"].message or "")
    assert world.log.events[-1] == ("ended", "1", JobState.FAILED)
    # Ids are not used again.
    world.provider.refusal = None
    assert world.pool.scale_out() == ["2"]


def test_refused_initial_blocks_do_not_break_the_load(caplog: pytest.LogCaptureFixture) -> None:
    world = World(init_blocks=3)
    world.provider.refusal = "no"
    world.pool.start()
    assert world.states() == ["FAILED"]
    assert "could not submit a block: no" in caplog.text


# --- polling


def test_states_are_followed() -> None:
    world = World()
    world.pool.scale_out()
    world.executor.connected = {"0"}
    for state in (JobState.HELD, JobState.PENDING, JobState.RUNNING, JobState.RUNNING, JobState.TIMEOUT):
        world.provider.set_state("job0", state)
        world.step()
    assert world.log.events == [
        ("requested", "0", JobState.PENDING),
        ("changed", "0", JobState.HELD),
        ("changed", "0", JobState.PENDING),
        ("changed", "0", JobState.RUNNING),
        ("ended", "0", JobState.TIMEOUT),
    ]
    polls = len(world.provider.polls)
    world.step()
    assert len(world.provider.polls) == polls, "a block that has ended is not asked for again"


def test_polls_keep_to_the_interval() -> None:
    world = World(polling_interval_s=10.0)
    world.pool.scale_out(2)
    world.step()
    assert world.provider.polls == [["job0", "job1"]]
    world.step(seconds=9.0)
    assert len(world.provider.polls) == 1
    world.step(seconds=1.0)
    assert len(world.provider.polls) == 2


def test_unknown_never_ends_a_block() -> None:
    world = World()
    world.pool.scale_out(3)
    world.provider.set_state("job1", JobState.RUNNING)
    world.step()
    world.provider.answering = False
    for _ in range(50):
        world.step(simple)
    assert world.states() == ["UNKNOWN"] * 3
    assert not world.executor.bad_state_is_set
    assert len(world.provider.jobs) == 3, "a scheduler that does not answer is no reason for more blocks"
    assert not [e for e in world.log.events if e[0] == "ended"]
    world.provider.answering = True
    world.step()
    assert world.states() == ["PENDING", "RUNNING", "PENDING"]


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.TIMEOUT])
def test_a_block_whose_workers_never_connected_is_missing(state: JobState) -> None:
    world = World(handler=False)
    world.pool.scale_out(2)
    world.executor.connected = {"1"}
    world.provider.set_state("job0", state, exit_code=0)
    world.provider.set_state("job1", state, exit_code=0)
    world.step()
    assert world.states() == ["MISSING", state.name]
    assert world.pool.status()["0"].message == "it ended before any of its workers connected"
    assert world.pool.status()["0"].exit_code == 0


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_other_ends_are_told_as_they_are(state: JobState) -> None:
    world = World(handler=False)
    world.pool.scale_out()
    world.provider.set_state("job0", state, "the scheduler's reason")
    world.step()
    assert world.states() == [state.name]
    assert world.pool.status()["0"].message == "the scheduler's reason"


# --- giving back


def test_scale_in_takes_the_longest_idle_then_the_newest() -> None:
    world = World()
    world.pool.scale_out(5)
    world.executor.idle = {"1": 5.0, "3": 50.0}
    assert world.pool.scale_in(3) == ["3", "1", "4"]
    assert world.provider.cancels == [["job3", "job1", "job4"]]
    # Told before the cancelling, so that they get no further attempt.
    assert world.executor.released == ["3", "1", "4"]
    assert world.states() == ["PENDING", "CANCELLED", "PENDING", "CANCELLED", "CANCELLED"]
    assert world.pool.scale_in(9) == ["2", "0"]
    assert world.pool.scale_in(1) == []


def test_scale_in_of_idle_blocks_only() -> None:
    world = World()
    world.pool.scale_out(4)
    world.executor.idle = {"0": 10.0, "1": 99.0, "2": 100.0}
    assert world.pool.scale_in(4, max_idletime=IDLE_S) == ["2"]
    assert world.pool.scale_in(4, max_idletime=IDLE_S) == []
    assert world.pool.scale_in(4, max_idletime=10.0) == ["1", "0"]
    assert world.states()[3] == "PENDING"


def test_a_strategy_s_decision_for_idle_blocks_only() -> None:
    world = World()
    world.pool.scale_out(3)
    world.executor.idle = {"0": 1.0, "1": 500.0}
    world.step(lambda load: Decision(scale_in=2, only_idle=True))
    assert world.states() == ["PENDING", "CANCELLED", "PENDING"]
    world.step(lambda load: Decision(scale_in=2))
    assert world.states() == ["CANCELLED"] * 3


def test_a_cancelling_that_is_not_accepted_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.pool.scale_out(2)
    world.provider.accepts_cancels = False
    assert world.pool.scale_in(1) == ["1"]
    assert world.states() == ["PENDING", "PENDING"], "it still costs"
    assert "block 1 (job job1) was not accepted" in caplog.text
    world.step()
    assert world.provider.cancels == [["job1"], ["job1"]]
    world.provider.accepts_cancels = True
    world.step()
    assert world.states() == ["PENDING", "CANCELLED"]
    world.step()
    assert len(world.provider.cancels) == 3
    assert world.executor.released == ["1"]


def test_what_was_given_back_counts_as_cancelled_however_it_ends() -> None:
    world = World()
    world.pool.scale_out()
    world.provider.accepts_cancels = False
    world.pool.scale_in(1)
    world.provider.set_state("job0", JobState.FAILED, exit_code=143)
    world.step()
    assert world.states() == ["CANCELLED"]
    assert not world.executor.bad_state_is_set


# --- what was given back drains first


def test_a_block_that_has_just_got_work_keeps_it() -> None:
    world = World()
    world.pool.scale_out(2)
    world.executor.connected = {"0", "1"}
    world.executor.idle = {"0": 300.0, "1": 300.0}
    world.executor._open[0, 0] = None  # type: ignore[assignment]
    # What was told of block 1 is older than the task that it has.
    world.executor.busy = {"1"}
    world.step(lambda load: Decision(scale_in=2, only_idle=True))
    assert world.executor.released == ["1", "0"], "neither gets more"
    assert world.provider.cancels == [["job0"]]
    for _ in range(5):
        world.step()
        assert world.states() == ["CANCELLED", "PENDING"]
        assert world.pool.restless
    world.executor.busy.clear()
    world.step()
    assert world.states() == ["CANCELLED", "CANCELLED"]
    assert not world.pool.restless
    # It was told again that it gets none, should one of its workers have come later.
    assert set(world.executor.released[2:]) == {"1"}


def test_tasks_that_come_while_all_blocks_are_given_back_are_not_lost() -> None:
    world = World()
    world.pool.scale_out(2)
    world.executor.connected = {"0", "1"}
    world.executor.idle = {"0": 300.0}

    def burst(load: Load) -> Decision:
        assert load.active_tasks == 0
        world.executor._open[0, 0] = None  # type: ignore[assignment]
        world.executor.idle.clear()
        return Decision(scale_in=2)

    world.step(burst)
    assert world.states() == ["PENDING", "PENDING"]
    world.executor.idle = {"1": 0.1}
    world.step()
    assert world.states() == ["PENDING", "CANCELLED"]
    world.executor._open.clear()
    world.step()
    assert world.states() == ["CANCELLED", "CANCELLED"]


def test_blocks_that_wait_in_the_queue_have_nothing_to_drain() -> None:
    world = World()
    world.pool.scale_out(2)
    world.executor._open[0, 0] = None  # type: ignore[assignment]
    world.step(lambda load: Decision(scale_in=1))
    assert world.states() == ["PENDING", "CANCELLED"]


def test_a_block_that_drains_and_loses_its_workers_is_cancelled() -> None:
    world = World()
    world.pool.scale_out()
    world.executor.connected, world.executor.idle, world.executor.busy = {"0"}, {"0": 300.0}, {"0"}
    world.executor._open[0, 0] = None  # type: ignore[assignment]
    world.provider.set_state("job0", JobState.RUNNING)
    assert world.pool.scale_in(1, max_idletime=IDLE_S) == ["0"]
    world.step()
    assert world.states() == ["RUNNING"]
    world.executor.deserted = {"0": DESERTED_S + 1}
    world.step()
    assert world.states() == ["CANCELLED"]


# --- requests that were interrupted


class Interrupted(BaseException):
    """As Ctrl-C raises it, in the middle of a command."""


def interrupt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next request be interrupted when the job is there."""
    submit = world.provider.submit

    def interrupted(*arguments: Any) -> str:
        submit(*arguments)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(world.provider, "submit", interrupted)
        with pytest.raises(Interrupted):
            world.pool.scale_out()


def test_a_job_whose_request_was_interrupted_is_found_and_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(max_blocks=1)
    interrupt(world, monkeypatch)
    assert world.states() == []
    world.step()
    assert world.states() == ["CANCELLED"]
    assert world.provider.cancels == [["job0"]]
    assert world.provider.jobs["job0"].state is JobState.CANCELLED


def test_it_is_found_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    interrupt(world, monkeypatch)
    world.pool.close()
    assert world.provider.jobs["job0"].state is JobState.CANCELLED
    assert world.pool.left == []


def test_a_job_that_never_was(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    interrupt(world, monkeypatch)
    world.provider.set_state("job0", JobState.COMPLETED)
    world.pool.close()
    assert world.pool.left == []
    assert world.provider.cancels == []


@pytest.mark.parametrize("why", ["cannot tell", "raises"])
def test_a_job_that_cannot_be_looked_for_is_named(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(max_blocks=1)
    interrupt(world, monkeypatch)
    if why == "raises":
        world.provider.defects["find"] = OSError("no")
    world.provider.finds = False
    world.step(lambda load: Decision(scale_out=1 - load.active_blocks))
    assert world.states() == ["PENDING"], "it does not keep another one from coming"
    world.pool.close()
    assert [b.block_id for b in world.pool.left] == ["0"]
    assert "block 0 may be left: job (not known) of the name flowcore.0123abcd.fake_blocks.block-0" in caplog.text


# --- following the strategy


def test_the_load_that_a_strategy_is_told() -> None:
    seen: list[Load] = []

    def spy(load: Load) -> Decision:
        seen.append(load)
        return Decision()

    world = World(min_blocks=1, max_blocks=7, nodes_per_block=3, parallelism=0.5, workers=4)
    world.pool.scale_out(3)
    world.pool.scale_in(1)
    world.executor.idle = {"0": 3.0, "1": 8.0, "2": 99.0}
    world.step(spy)
    world.step(spy, seconds=5.0)
    assert [load.idle_for for load in seen] == [0.0, 5.0]
    assert seen[1] == Load(
        active_tasks=0,
        slots_per_block=12,
        active_blocks=2,
        idle_blocks=(8.0, 3.0),
        idle_for=5.0,
        min_blocks=1,
        max_blocks=7,
        parallelism=0.5,
        max_idletime=IDLE_S,
    )


def test_work_ends_the_idle_time() -> None:
    seen: list[Load] = []

    def spy(load: Load) -> Decision:
        seen.append(load)
        return Decision()

    world = World()
    world.step(spy)
    world.step(spy, seconds=30.0)
    world.executor._open[0, 0] = None  # type: ignore[assignment]
    world.step(spy)
    world.executor._open.clear()
    world.step(spy)
    world.step(spy, seconds=2.0)
    assert [(load.active_tasks, load.idle_for) for load in seen] == [(0, 0), (0, 30), (1, 0), (0, 0), (0, 2)]


def test_a_strategy_that_scales_out() -> None:
    world = World()
    world.step(lambda load: Decision(scale_out=2 - load.active_blocks))
    assert world.states() == ["PENDING", "PENDING"]
    world.step(lambda load: Decision(scale_out=2 - load.active_blocks))
    assert len(world.states()) == 2


# --- failures


def test_repeated_failures_end_the_executor(tmp_path: Path) -> None:
    world = World(max_blocks=10)
    err = tmp_path / "err"
    err.write_text("ModuleNotFoundError: No module named 'flowcore'\n")
    want_one = lambda load: Decision(scale_out=1 - load.active_blocks)  # noqa: E731
    for i in range(3):
        assert not world.executor.bad_state_is_set
        world.step()
        world.step(want_one, seconds=10.0)
        world.provider.set_state(f"job{i}", JobState.FAILED, exit_code=1, stderr_path=str(err))
    world.step(want_one)
    assert world.executor.bad_state_is_set
    error = world.executor.executor_exception
    assert isinstance(error, BlocksFailed)
    assert str(error) == (
        "executor 'fake_blocks': its blocks ended without doing their work:\n"
        "  block 0: FAILED, exit code 1\n"
        "    its stderr ends with:\n"
        "      ModuleNotFoundError: No module named 'flowcore'\n"
        "  block 1: FAILED, exit code 1\n"
        "    its stderr ends with:\n"
        "      ModuleNotFoundError: No module named 'flowcore'\n"
        "  block 2: FAILED, exit code 1\n"
        "    its stderr ends with:\n"
        "      ModuleNotFoundError: No module named 'flowcore'\n"
        "  Check the provider's worker_init and that flowcore can be imported by the python on the nodes"
    )
    # A broken executor gets no further block.
    world.step(want_one)
    assert len(world.provider.jobs) == 3


def test_one_lost_block_that_has_worked_does_not_end_the_executor() -> None:
    world = World(init_blocks=1, max_blocks=1)
    world.pool.start()
    world.executor.connected = {"0"}
    want_one = lambda load: Decision(scale_out=1 - load.active_blocks)  # noqa: E731
    for i in range(3):
        world.provider.set_state(f"job{i}", JobState.FAILED, exit_code=137)
        assert not world.executor.bad_state_is_set
        world.step()
        world.step(want_one, seconds=10.0)
    assert world.executor.ended == ["0", "1", "2"]
    assert "its blocks ended again and again" in str(world.executor.executor_exception)
    assert "worker_init" not in str(world.executor.executor_exception)


def test_a_block_whose_workers_are_all_lost_makes_room_for_another(caplog: pytest.LogCaptureFixture) -> None:
    world = World(init_blocks=2, max_blocks=2)
    world.pool.start()
    for job in ("job0", "job1"):
        world.provider.set_state(job, JobState.RUNNING)
    world.executor.connected = {"0", "1"}
    world.executor.deserted = {"1": DESERTED_S - 1, "77": 1e6}
    world.step()
    assert world.states() == ["RUNNING", "RUNNING"]
    world.executor.deserted = {"1": DESERTED_S + 1}
    with caplog.at_level(logging.WARNING):
        world.step()
    assert world.states() == ["RUNNING", "CANCELLED"]
    assert "block 1: it runs, and nothing has been heard of its workers for 31 s: it is cancelled" in caplog.text
    assert not world.executor.bad_state_is_set


def test_refusals_count_as_failures() -> None:
    world = World(max_blocks=10)
    world.provider.refusal = "invalid account"
    for _ in range(4):
        world.step(lambda load: Decision(scale_out=1), seconds=10.0)
    assert world.executor.bad_state_is_set
    text = str(world.executor.executor_exception)
    assert text.count("could not submit a block: invalid account") == 3
    assert text.startswith("executor 'fake_blocks': it could get no blocks:\n")
    assert text.endswith("\n  Check the options of its provider, and what the scheduler allows")


def test_where_fewer_blocks_may_ever_be_fewer_failures_suffice() -> None:
    world = World(init_blocks=1, max_blocks=1)
    world.pool.start()
    world.provider.set_state("job0", JobState.FAILED, "OUT_OF_MEMORY")
    world.step()
    assert "block 0: FAILED: OUT_OF_MEMORY" in str(world.executor.executor_exception)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN, JobState.HELD])
def test_a_block_that_may_yet_work_keeps_the_executor(state: JobState) -> None:
    world = World(max_blocks=10)
    world.pool.scale_out(5)
    for i in range(4):
        world.provider.set_state(f"job{i}", JobState.FAILED)
    world.provider.set_state("job4", state)
    world.step()
    assert not world.executor.bad_state_is_set
    world.provider.set_state("job4", JobState.FAILED)
    world.step()
    assert world.executor.bad_state_is_set


def test_a_block_that_did_its_work_keeps_the_executor() -> None:
    world = World(max_blocks=10)
    world.pool.scale_out(5)
    world.executor.connected = {"0"}
    world.provider.set_state("job0", JobState.TIMEOUT)
    for i in range(1, 5):
        world.provider.set_state(f"job{i}", JobState.FAILED)
    world.step()
    assert not world.executor.bad_state_is_set


def test_no_handler() -> None:
    world = World(handler=False)
    world.pool.scale_out(4)
    for i in range(4):
        world.provider.set_state(f"job{i}", JobState.FAILED)
    world.step()
    assert not world.executor.bad_state_is_set


def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def handle(executor: Any, status: Any) -> None:
        raise RuntimeError("a defect of the handler")

    world = World(handler=handle)
    world.step(lambda load: Decision(scale_out=1))
    assert "the block error handler of executor fake_blocks raised" in caplog.text
    assert "a defect of the handler" in caplog.text
    assert world.states() == ["PENDING"], "scaling goes on"


def test_a_handler_of_the_user() -> None:
    seen: list[Any] = []
    world = World(handler=lambda executor, status: seen.append((executor, sorted(status))))
    world.pool.scale_out(2)
    world.step()
    assert seen == [(world.executor, ["0", "1"])]


def test_windowed_handler() -> None:
    world = World(handler=windowed_error_handler, max_blocks=10)
    world.pool.scale_out(6)
    world.executor.connected = {"0", "1", "2", "3", "4", "5"}
    world.provider.set_state("job0", JobState.COMPLETED)
    world.provider.set_state("job1", JobState.FAILED)
    world.provider.set_state("job2", JobState.FAILED)
    world.step()
    assert not world.executor.bad_state_is_set
    # A block that runs is no obstacle, other than with the simple handler.
    world.provider.set_state("job3", JobState.FAILED)
    world.step()
    text = str(world.executor.executor_exception)
    assert [f"block {i}:" in text for i in range(6)] == [False, True, True, True, False, False]


def test_thresholds_can_be_chosen() -> None:
    world = World(handler=False, max_blocks=10)
    world.pool.scale_out(2)
    for job in list(world.provider.jobs):
        world.provider.set_state(job, JobState.FAILED)
    world.step()
    status = world.pool.status()
    simple_error_handler(world.executor, status)
    windowed_error_handler(world.executor, status)
    assert not world.executor.bad_state_is_set
    windowed_error_handler(world.executor, status, threshold=2)
    assert world.executor.bad_state_is_set


def test_stdout_is_shown_where_stderr_is_empty(tmp_path: Path) -> None:
    world = World(init_blocks=1, max_blocks=1)
    world.pool.start()
    (tmp_path / "err").write_text(" \n")
    (tmp_path / "out").write_text("no space left\non device\n")
    world.provider.set_state(
        "job0", JobState.FAILED, stdout_path=str(tmp_path / "out"), stderr_path=str(tmp_path / "err")
    )
    world.step()
    text = str(world.executor.executor_exception)
    assert "    its stdout ends with:\n      no space left\n      on device\n" in text
    assert "its stderr" not in text


def test_only_the_end_of_a_stream_is_shown(tmp_path: Path) -> None:
    world = World(init_blocks=1, max_blocks=1)
    world.pool.start()
    (tmp_path / "err").write_text("begin\n" + "x" * 100_000 + "\nend")
    world.provider.set_state("job0", JobState.FAILED, stderr_path=str(tmp_path / "err"))
    world.step()
    text = str(world.executor.executor_exception)
    assert "begin" not in text
    assert "x\n      end\n" in text
    assert len(text) < 3000


# --- the end


def test_close_cancels_every_block() -> None:
    world = World()
    world.pool.scale_out(4)
    world.provider.set_state("job0", JobState.RUNNING)
    world.provider.set_state("job1", JobState.FAILED)
    world.step()
    world.provider.answering = False
    world.step()
    world.pool.close()
    world.pool.close()
    assert world.provider.cancels == [["job0", "job2", "job3"]]
    assert world.provider.closed == 1
    assert world.states() == ["CANCELLED", "FAILED", "CANCELLED", "CANCELLED"]


def test_close_asks_again_for_what_was_not_accepted() -> None:
    world = World()
    world.pool.scale_out()
    world.provider.accepts_cancels = False
    world.pool.scale_in(1)
    world.provider.accepts_cancels = True
    world.pool.close()
    assert world.provider.cancels == [["job0"], ["job0"]]


def test_close_closes_the_provider_though_cancelling_raises(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.pool.scale_out()
    world.provider.defects["cancel"] = ConnectionError("gone")
    world.pool.close()
    assert world.provider.closed == 1
    assert "executor fake_blocks: the cancel() of its provider raised" in caplog.text
    assert "block 0 may be left: job job0 of the name flowcore.0123abcd.fake_blocks.block-0" in caplog.text
    assert [b.block_id for b in world.pool.left] == ["0"]


def test_nothing_is_requested_after_the_end() -> None:
    world = World()
    world.pool.scale_out()
    world.pool.close()
    with pytest.raises(ScalingFailed, match="no block is requested any more: its run has ended"):
        world.pool.scale_out()
    world.step(lambda load: Decision(scale_out=1))
    assert len(world.provider.jobs) == 1


# --- the thread


def test_the_scaler_steps_its_pools_and_survives_their_defects(caplog: pytest.LogCaptureFixture) -> None:
    broken, good = World(), World()
    broken.pool.scale_out()
    polled = threading.Event()
    twice: list[int] = []

    def strategy(load: Load) -> Decision:
        twice.append(1)
        if len(twice) == 3:
            polled.set()
        return Decision()

    def raising(*_: Any) -> Any:
        raise RuntimeError("a defect of the executor")

    broken.executor.connected_blocks = raising  # type: ignore[method-assign]
    scaler = Scaler(strategy, 0.01, IDLE_S)
    with caplog.at_level(logging.ERROR, "flowcore"):
        for pool in (broken.pool, good.pool):
            scaler.add(pool)
            scaler.begin(pool)
        assert polled.wait(20)
        scaler.close()
    assert "a defect of the executor" in caplog.text
    assert broken.provider.closed == 1
    assert good.provider.closed == 1
    assert broken.states() == ["CANCELLED"]
    scaler.close()
    assert good.provider.closed == 1


def test_a_scaler_without_pools_has_no_thread() -> None:
    before = threading.active_count()
    scaler = Scaler(no_scaling, 1.0, IDLE_S)
    assert threading.active_count() == before
    scaler.close()


def test_one_pool_that_cannot_be_closed_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broken, good = World(), World()
    broken.provider.defects["close"] = ConnectionError("gone")
    scaler = Scaler(no_scaling, 1.0, IDLE_S)
    scaler.add(broken.pool)
    scaler.add(good.pool)
    scaler.close()
    assert good.provider.closed == 1
    assert "closing the provider of executor fake_blocks failed" in caplog.text
