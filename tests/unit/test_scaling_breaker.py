"""Blocks that fail again and again, and schedulers that do not answer: how often is asked, and when it is enough."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcore.errors import BlocksFailed, ChannelError, ScalingFailed, SchedulerUnavailable
from flowcore.plugins.api import JobState, RunInfo
from flowcore.plugins.hooks import HookManager
from flowcore.scaling.blocks import DEFECT_S, DESERTED_S, PROVEN_S, BlockPool
from flowcore.scaling.breaker import FIRST_S, HANDFUL, LONGEST_S, LONGEST_SILENT_S, Breaker, Silence
from flowcore.scaling.error_handlers import windowed_error_handler
from flowcore.scaling.strategy import Decision, Load, no_scaling
from flowcore.testing import FakeBlockExecutor, FakeClock, FakeProvider


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level another test has left behind."""
    caplog.set_level(logging.WARNING, "flowcore")


HOUR_S = 3600.0

# --- the breaker


def test_the_pauses_grow_and_are_bounded() -> None:
    breaker = Breaker()
    now = 0.0
    for i in range(100):
        breaker.failed(str(i), now)
        pause_s = min(FIRST_S * 2**i, LONGEST_S)
        assert breaker.allowed(7, 0, now + pause_s - 0.1) == 0
        assert breaker.allowed(7, 0, now + pause_s) > 0
        now += pause_s


@pytest.mark.parametrize(
    ("failures", "wanted", "hopes", "allowed"),
    [
        (0, 7, 0, 7),
        (0, 7, 9, 7),
        (1, 7, 0, HANDFUL - 1),
        (1, 2, 0, 2),
        (1, 7, 2, HANDFUL - 3),
        (HANDFUL - 1, 7, 0, 1),
        (HANDFUL - 1, 7, 1, 0),
        # Others live: one more may be tried, now and then.
        (HANDFUL + 10, 7, 0, 1),
        (HANDFUL + 10, 7, 1, 0),
        (HANDFUL + 10, 7, 5, 0),
        (1, 0, 0, 0),
    ],
)
def test_no_more_than_a_handful_may_fail_in_a_row(failures: int, wanted: int, hopes: int, allowed: int) -> None:
    breaker = Breaker()
    for i in range(failures):
        breaker.failed(str(i), 0.0)
    assert breaker.allowed(wanted, hopes, LONGEST_S) == allowed


@pytest.mark.parametrize(
    ("story", "row", "tripped"),
    [
        ("", "", False),
        ("f" * (HANDFUL - 1), "0123", False),
        ("f" * HANDFUL, "01234", True),
        ("ffffwf", "5", False),
        ("fffffffw", "", False),
        ("w" + "f" * HANDFUL, "12345", True),
    ],
)
def test_a_block_that_worked_ends_the_row(story: str, row: str, tripped: bool) -> None:
    breaker = Breaker()
    for i, what in enumerate(story):
        breaker.failed(str(i), 0.0) if what == "f" else breaker.worked()
    assert ("".join(breaker.row), breaker.tripped) == (row, tripped)
    if not row:
        assert breaker.allowed(5, 0, 0.0) == 5


def test_requests_to_a_silent_scheduler_get_rare_and_stay_possible() -> None:
    silence = Silence()
    assert silence.allowed(3, 0.0) == 3
    now, asked = 0.0, []
    while now < 600:
        if silence.allowed(3, now):
            asked.append(now)
            assert silence.unanswered("submit", now, request=True) is (len(asked) == 1)
        now += 1
    between = [after - before for before, after in zip(asked, asked[1:], strict=False)]
    assert between[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert set(between[5:]) == {LONGEST_SILENT_S}
    assert silence.allowed(3, now + LONGEST_SILENT_S) == 1, "one, to see"
    assert silence.answered("submit", now) == now
    assert silence.allowed(3, now) == 3
    assert silence.answered("submit", now) is None


def test_who_answers_one_question_and_not_the_other_is_silent() -> None:
    silence = Silence()
    assert silence.unanswered("submit", 0.0, request=True)
    assert silence.answered("status", 1.0) is None
    assert silence.allowed(1, 1.0) == 0
    assert not silence.unanswered("status", 2.0, request=False)
    assert silence.answered("submit", 3.0) is None
    assert silence.answered("status", 4.0) == 4.0


# --- in a pool


class World:
    """A pool of an executor that has work for ever."""

    def __init__(self, handler: Any = False, **provider: Any) -> None:
        self.provider = FakeProvider(**{"max_blocks": 3, **provider})
        self.executor = FakeBlockExecutor(self.provider, block_error_handler=handler)
        self.clock = FakeClock()
        run = RunInfo("0123abcd", Path(), "", "", 0.0)
        self.pool = BlockPool(self.executor, HookManager(), run, self.clock)
        self.wanted = 1

    def run(self, seconds: float, meanwhile: Callable[[], object] = lambda: None, tick_s: float = 1.0) -> None:
        """Let time pass, as a run does that wants so many blocks."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.advance(tick_s)
            meanwhile()
            self.pool.step(lambda load: Decision(scale_out=max(0, self.wanted - load.active_blocks)), HOUR_S)

    def end(self, state: JobState, **facts: Any) -> None:
        """Give all jobs that have not ended a state."""
        for job_id, status in self.provider.jobs.items():
            if not status.terminal:
                self.provider.set_state(job_id, state, **facts)

    def states(self) -> list[str]:
        return [status.status_name for status in self.pool.status().values()]


@pytest.mark.parametrize("handler", [False, windowed_error_handler, lambda executor, status: None])
def test_a_scheduler_that_refuses_everything_is_asked_a_handful_of_times(handler: Any) -> None:
    world = World(handler)
    world.provider.refusal = "sbatch: error: first line\nInvalid account or account/partition combination specified"
    world.run(HOUR_S)
    asked = 3 if handler is windowed_error_handler else HANDFUL
    assert world.states() == ["FAILED"] * asked
    text = str(world.executor.executor_exception)
    assert text.count("\n    Invalid account or account/partition combination specified\n") == asked
    assert isinstance(world.executor.executor_exception, BlocksFailed)


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (JobState.FAILED, "FAILED"),
        (JobState.COMPLETED, "MISSING"),
        (JobState.TIMEOUT, "MISSING"),
        (JobState.CANCELLED, "CANCELLED"),
    ],
)
@pytest.mark.parametrize("connects", [False, True])
def test_a_scheduler_that_kills_every_block_gets_a_handful(state: JobState, seen: str, connects: bool) -> None:
    world = World()
    if connects:
        world.executor.connected = {str(i) for i in range(1000)}
        seen = state.name

    world.run(300, lambda: world.end(state, message="killed by the scheduler: QOSUsage"))
    if connects and seen in ("COMPLETED", "TIMEOUT"):
        assert len(world.states()) > 100, "their workers came, and they ended well: they did their work"
        assert not world.executor.bad_state_is_set
        return
    assert world.states() == [seen] * HANDFUL
    text = str(world.executor.executor_exception)
    assert [f"block {i}: {seen}" in text for i in range(HANDFUL)] == [True] * HANDFUL


def test_blocks_of_many_hours_may_be_killed_in_the_end() -> None:
    world = World()
    world.executor.connected = {str(i) for i in range(100)}
    for _ in range(20):
        world.run(PROVEN_S + 60)
        world.end(JobState.FAILED, message="PREEMPTED")
    world.run(60)
    assert not world.executor.bad_state_is_set
    assert len(world.states()) == 21


def test_others_that_wait_or_work_keep_the_executor_and_requests_get_rare() -> None:
    world = World(max_blocks=10)
    world.run(1)
    world.provider.set_state("job0", JobState.RUNNING)
    world.executor.connected = {"0"}
    world.run(PROVEN_S + 2)
    world.wanted = 5
    world.provider.refusal = "QOSMaxSubmitJobPerUserLimit"
    world.run(24 * HOUR_S, tick_s=10)
    assert not world.executor.bad_state_is_set
    refused = world.states().count("FAILED")
    assert HANDFUL < refused < 24 * HOUR_S / LONGEST_S + 12
    # It ends well: all begins anew.
    world.provider.refusal = None
    world.end(JobState.COMPLETED)
    world.run(3)
    assert world.states().count("PENDING") == 5


def test_after_failures_few_are_asked_for_until_one_has_worked() -> None:
    world = World(max_blocks=10)
    world.wanted = 4
    world.run(1)
    world.end(JobState.FAILED)
    world.run(1)
    assert world.states() == ["FAILED"] * 4
    world.run(HOUR_S)
    assert world.states() == ["FAILED"] * 4 + ["PENDING"], "it may wait in the queue for long"
    world.executor.connected = {"4"}
    world.provider.set_state("job4", JobState.RUNNING)
    world.run(PROVEN_S - 2)
    assert world.states() == ["FAILED"] * 4 + ["RUNNING"]
    world.run(4)
    assert world.states() == ["FAILED"] * 4 + ["RUNNING"] + ["PENDING"] * 3


def test_blocks_whose_workers_are_lost_again_and_again() -> None:
    world = World()

    def lose_all() -> None:
        world.end(JobState.RUNNING)
        world.executor.connected |= set(world.pool.status())
        world.executor.deserted = dict.fromkeys(world.pool.status(), DESERTED_S + 1)

    world.run(HOUR_S, lose_all)
    assert world.states() == ["CANCELLED"] * HANDFUL
    text = str(world.executor.executor_exception)
    assert text.count("it runs, and nothing has been heard of its workers for 31 s") == HANDFUL


@pytest.mark.parametrize("by_hand", [False, True])
def test_without_scaling_nobody_asks_for_another_block(by_hand: bool) -> None:
    world = World(init_blocks=1, handler=True)
    world.pool.start()
    world.end(JobState.FAILED, exit_code=127)
    if by_hand:
        world.pool.scale_out()
        world.end(JobState.FAILED)

    def step() -> None:
        world.clock.advance(5)
        world.pool.step(no_scaling, HOUR_S)

    step()
    assert not world.executor.bad_state_is_set, "nobody waits"
    world.executor._open[0, 0] = None  # type: ignore[assignment]
    world.executor.fail = lambda attempt, error: None  # type: ignore[method-assign, assignment]
    step()
    assert world.executor.bad_state_is_set is not by_hand
    if not by_hand:
        assert "block 0: FAILED, exit code 127" in str(world.executor.executor_exception)


def test_what_the_user_requests_is_requested() -> None:
    world = World()
    world.provider.refusal = "no"
    world.run(1)
    world.provider.refusal = None
    assert world.pool.scale_out(2) == ["1", "2"]


# --- silence


def test_a_scheduler_that_does_not_answer_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(handler=True)
    world.provider.unavailable = "Unable to contact slurm controller"
    submits: list[float] = []
    submit = world.provider.submit

    def noting(*arguments: Any) -> str:
        submits.append(world.clock.now)
        return submit(*arguments)

    world.provider.submit = noting  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "flowcore"):
        world.run(HOUR_S)
    assert world.states() == []
    assert not world.executor.bad_state_is_set
    assert len(submits) < HOUR_S / LONGEST_SILENT_S + 8
    assert caplog.text.count("the scheduler does not answer, and is asked again") == 1
    assert "Unable to contact slurm controller" in caplog.text
    world.provider.unavailable = None
    with caplog.at_level(logging.WARNING, "flowcore"):
        world.run(LONGEST_SILENT_S + 1)
    assert world.states() == ["PENDING"]
    assert "the scheduler answers again, after 36" in caplog.text
    assert len(caplog.records) == 2


def test_no_answer_is_told_to_who_asks() -> None:
    world = World()
    world.provider.unavailable = "timed out"
    with pytest.raises(ScalingFailed) as caught:
        world.pool.scale_out()
    assert str(caught.value) == (
        "executor 'fake_blocks': provider 'fake' cannot submit a block now, its scheduler does not answer: timed out"
    )


def test_a_job_of_a_request_without_an_answer_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(handler=True)
    submit = world.provider.submit

    def late(*arguments: Any) -> str:
        submit(*arguments)
        raise SchedulerUnavailable("fake", "Socket timed out on send/recv operation")

    with monkeypatch.context() as patch:
        patch.setattr(world.provider, "submit", late)
        world.run(1)
    assert world.states() == []
    world.run(30)
    assert world.provider.jobs["job0"].state is JobState.CANCELLED
    states = {block: status.status_name for block, status in world.pool.status().items()}
    assert states == {"0": "CANCELLED", "1": "PENDING"}, "and another one was asked for"


def test_a_connection_that_fails_is_no_refusal() -> None:
    world = World(handler=True)
    world.provider.defects["submit"] = ChannelError("the ssh session failed", None, "login1")
    world.run(HOUR_S)
    assert world.states() == []
    assert not world.executor.bad_state_is_set


def test_an_outage_while_blocks_run(caplog: pytest.LogCaptureFixture) -> None:
    world = World(handler=True)
    world.run(1)
    world.end(JobState.RUNNING)
    world.run(2)
    world.provider.answering = False
    world.wanted = 3
    with caplog.at_level(logging.WARNING, "flowcore"):
        world.run(HOUR_S)
    assert world.states()[0] == "UNKNOWN"
    assert [r.getMessage() for r in caplog.records] == [
        "executor fake_blocks: the scheduler does not answer, and is asked again; blocks are taken to be as before: "
        "the fake scheduler does not answer"
    ]
    world.provider.answering = True
    world.run(2)
    assert "the scheduler answers again, after 3600 s" in caplog.text
    assert world.states() == ["RUNNING", "PENDING", "PENDING"]


def test_a_job_that_is_not_listed_yet_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    world = World(handler=True)
    world.provider.answering = False
    world.run(30)
    assert world.states() == ["UNKNOWN"]
    assert caplog.text == ""


# --- defects of providers


def test_a_provider_whose_submit_is_broken_ends_the_executor(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.provider.defects["submit"] = KeyError("partition")
    world.run(HOUR_S)
    assert world.states() == ["FAILED"] * HANDFUL
    assert str(world.executor.executor_exception).count("its provider raised KeyError: 'partition'") == HANDFUL
    assert caplog.text.count("Traceback") == HANDFUL


@pytest.mark.parametrize("wrong", ["raises", "answers too little"])
def test_a_provider_whose_status_is_broken(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World(handler=True)
    world.run(1)
    if wrong == "raises":
        world.provider.defects["status"] = TypeError("'NoneType' object is not subscriptable")
    else:
        world.provider.status = lambda job_ids: []  # type: ignore[method-assign]
    world.executor.connected = {"0"}
    world.run(2 * DEFECT_S)
    assert not world.executor.bad_state_is_set, "its workers work"
    assert caplog.text.count("Traceback") == 1
    world.executor.deserted = {"0": 100.0}
    world.run(1)
    text = str(world.executor.executor_exception)
    assert "it has no workers, and nothing has been known of its blocks for 300 s: the status() of its provider" in text
    assert ("'NoneType' object is not" in text) if wrong == "raises" else ("0 answers for 1 jobs" in text)


def test_a_status_that_raises_for_a_while_ends_nothing() -> None:
    world = World(handler=True)
    world.run(1)
    world.provider.defects["status"] = RuntimeError("now and then")
    world.run(DEFECT_S - 10)
    del world.provider.defects["status"]
    world.run(2)
    world.provider.defects["status"] = RuntimeError("now and then")
    world.run(DEFECT_S - 10)
    assert not world.executor.bad_state_is_set


def test_a_connection_that_is_lost_for_long_is_no_defect() -> None:
    world = World(handler=True)
    world.run(1)
    world.provider.defects["status"] = ChannelError("the ssh session failed", None, "login1")
    world.run(HOUR_S)
    assert world.states() == ["UNKNOWN"]
    assert not world.executor.bad_state_is_set


@pytest.mark.parametrize("wrong", ["raises", "answers too little"])
def test_a_cancel_that_is_broken_is_tried_again(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.run(1)
    if wrong == "raises":
        world.provider.defects["cancel"] = ZeroDivisionError()
    else:
        whole = world.provider.cancel
        world.provider.cancel = lambda job_ids: []  # type: ignore[method-assign]
    world.pool.scale_in(1)
    world.wanted = 0
    world.run(30)
    assert world.states() == ["PENDING"]
    assert caplog.text.count("Traceback") == 1
    if wrong == "raises":
        del world.provider.defects["cancel"]
    else:
        world.provider.cancel = whole  # type: ignore[method-assign]
    world.run(2)
    assert world.states() == ["CANCELLED"]


def test_blocks_of_a_broken_executor_are_given_back() -> None:
    world = World()
    world.wanted = 2
    world.run(1)
    world.executor.set_bad_state_and_fail_all(RuntimeError("broken"))
    world.run(1)
    assert world.states() == ["CANCELLED"] * 2


def test_a_block_that_is_given_back_counts_until_it_is_gone() -> None:
    world = World(max_blocks=2)
    world.wanted = 2
    world.run(1)
    world.provider.accepts_cancels = False
    world.pool.scale_in(1)
    world.run(5)
    assert world.states() == ["PENDING", "PENDING"], "a third one would be more than max_blocks"
    world.provider.accepts_cancels = True
    world.run(2)
    assert world.states() == ["PENDING", "CANCELLED", "PENDING"]


def test_the_load_is_told_of_active_blocks_only() -> None:
    world = World(max_blocks=4)
    world.wanted = 4
    world.run(1)
    world.provider.accepts_cancels = False
    world.pool.scale_in(1)
    seen: list[Load] = []

    def spy(load: Load) -> Decision:
        seen.append(load)
        return Decision()

    world.pool.step(spy, HOUR_S)
    assert seen[0].active_blocks == 3
