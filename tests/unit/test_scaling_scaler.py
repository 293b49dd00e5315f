"""The scaling thread: when it looks, how it ends, and what signals cannot do to it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowcore.plugins.api import JobState, RunInfo
from flowcore.plugins.hooks import HookManager
from flowcore.scaling.blocks import BlockPool
from flowcore.scaling.scaler import Scaler
from flowcore.scaling.strategy import Decision, Load, no_scaling
from flowcore.testing import FakeBlockExecutor, FakeProvider, eventually

WAIT_S = 30.0


class World:
    """A scaler with pools of fakes."""

    def __init__(self, patience_s: float = 60.0, period_s: float = 0.01) -> None:
        self.decisions: list[Load] = []
        self.scaler = Scaler(self._decide, period_s, 100.0, patience_s)
        self.said: list[str] = []

    def _decide(self, load: Load) -> Decision:
        self.decisions.append(load)
        return Decision()

    def pool(self, begin: bool = True, **options: int) -> FakeProvider:
        """Add a pool; return its provider."""
        provider = FakeProvider(**{"polling_interval_s": 0.01, **options})  # type: ignore[arg-type]
        pool = BlockPool(FakeBlockExecutor(provider), HookManager(), RunInfo("0123abcd", Path(), "", "", 0.0))
        self.scaler.add(pool)
        if begin:
            self.scaler.begin(pool)
        return provider

    def close(self) -> None:
        self.scaler.close(self.said.append)


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**options: float) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_the_first_blocks_are_requested_by_the_thread_before_begin_returns(make_world: Callable[..., World]) -> None:
    world = make_world()
    threads: list[str] = []
    provider = world.pool(begin=False, init_blocks=2)
    submit = provider.submit
    provider.submit = lambda *a: (threads.append(threading.current_thread().name), submit(*a))[1]  # type: ignore[method-assign, func-returns-value]
    world.scaler.begin(world.scaler.pools[0])
    assert list(provider.jobs) == ["job0", "job1"]
    assert threads == ["flowcore-scaling"] * 2


def test_a_pool_that_has_not_begun_is_only_closed(make_world: Callable[..., World]) -> None:
    world = make_world()
    first, other = world.pool(), world.pool(begin=False, init_blocks=1)
    eventually(lambda: len(world.decisions) > 3)
    assert other.jobs == {}
    world.close()
    assert (first.closed, other.closed) == (1, 1)


def test_first_blocks_that_cannot_be_requested_do_not_hold_the_load_up(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    provider = world.pool(begin=False, init_blocks=1)
    world.scaler.pools[0].executor.provider = None  # type: ignore[assignment]
    world.scaler.begin(world.scaler.pools[0])
    assert "requesting the first blocks of executor fake_blocks failed" in caplog.text
    world.scaler.pools[0].executor.provider = provider


def test_decisions_keep_to_the_period_though_blocks_are_looked_at_more_often(make_world: Callable[..., World]) -> None:
    world = make_world(period_s=1000.0)
    provider = world.pool(init_blocks=1)
    eventually(lambda: len(provider.polls) >= 4, WAIT_S, "polls of a young block")
    assert len(world.decisions) <= 1


def test_the_end_asks_again_for_what_was_not_accepted(make_world: Callable[..., World]) -> None:
    world = make_world()
    deaf, good = world.pool(init_blocks=1), world.pool(init_blocks=1)
    deaf.accepts_cancels = False
    closing = threading.Thread(target=world.close)
    closing.start()
    eventually(lambda: len(deaf.cancels) >= 2, WAIT_S, "a second request")
    # Not one after the other.
    assert good.jobs["job0"].state is JobState.CANCELLED
    deaf.accepts_cancels = True
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert deaf.jobs["job0"].state is JobState.CANCELLED
    assert world.scaler.left == []
    assert world.said == []


def test_the_end_is_bounded_and_what_is_left_is_named(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(patience_s=0.3)
    deaf = world.pool(init_blocks=1)
    deaf.accepts_cancels = False
    world.close()
    assert len(deaf.cancels) >= 2
    assert world.scaler.left == [("fake_blocks", "job0")]
    assert "block 0 may be left: job job0 of the name flowcore.0123abcd.fake_blocks.block-0" in caplog.text
    assert deaf.closed == 1
    cancels = len(deaf.cancels)
    world.close()
    assert len(deaf.cancels) == cancels


def interrupted(world: World, deaf: FakeProvider, meanwhile: Callable[[], None]) -> BaseException | None:
    """Close the world in this thread while another does something, which may send signals to it."""
    thread = threading.Thread(target=meanwhile)
    thread.start()
    try:
        world.close()
    except BaseException as error:
        return error
    finally:
        thread.join(WAIT_S)
    return None


def test_ctrl_c_at_the_end_leaves_no_block(make_world: Callable[..., World]) -> None:
    world = make_world()
    deaf = world.pool(init_blocks=1)
    deaf.accepts_cancels = False

    def meanwhile() -> None:
        eventually(lambda: deaf.cancels)
        os.kill(os.getpid(), signal.SIGINT)
        eventually(lambda: world.said)
        seen = len(deaf.cancels)
        eventually(lambda: len(deaf.cancels) > seen, what="further requests, after Ctrl-C")
        deaf.accepts_cancels = True

    assert isinstance(interrupted(world, deaf, meanwhile), KeyboardInterrupt)
    assert deaf.jobs["job0"].state is JobState.CANCELLED
    assert world.said == ["the blocks of the run are being cancelled; Ctrl-C again does not wait for that"]


def test_a_second_ctrl_c_does_not_wait_for_a_scheduler_that_does_not_answer(make_world: Callable[..., World]) -> None:
    world = make_world(patience_s=1000.0)
    deaf = world.pool(init_blocks=1)
    deaf.accepts_cancels = False

    def meanwhile() -> None:
        eventually(lambda: deaf.cancels)
        os.kill(os.getpid(), signal.SIGINT)
        eventually(lambda: world.said)
        os.kill(os.getpid(), signal.SIGINT)

    assert isinstance(interrupted(world, deaf, meanwhile), KeyboardInterrupt)
    assert world.scaler.left == [("fake_blocks", "job0")]


def test_sigterm_never_ends_the_waiting(make_world: Callable[..., World]) -> None:
    world = make_world()
    deaf = world.pool(init_blocks=1)
    deaf.accepts_cancels = False
    caught = threading.Event()

    def end(number: int, frame: object) -> None:
        caught.set()
        raise SystemExit(128 + number)

    def meanwhile() -> None:
        eventually(lambda: deaf.cancels)
        for _ in range(3):
            caught.clear()
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught.wait(WAIT_S)
            seen = len(deaf.cancels)
            eventually(lambda seen=seen: len(deaf.cancels) > seen, what="further requests, after SIGTERM")
        deaf.accepts_cancels = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        error = interrupted(world, deaf, meanwhile)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(error, SystemExit)
    assert error.code == 143
    assert deaf.jobs["job0"].state is JobState.CANCELLED


def test_a_provider_that_ends_its_thread_ends_nothing(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    broken = world.pool(init_blocks=1)
    broken.defects["status"] = SystemExit(3)
    eventually(lambda: "scaling of executor fake_blocks failed" in caplog.text)
    other = world.pool(init_blocks=1)
    polls = len(other.polls)
    eventually(lambda: len(other.polls) > polls + 2)


def test_the_end_of_a_run_from_the_scaling_thread(make_world: Callable[..., World]) -> None:
    world = make_world()
    ended = threading.Event()

    def handle(executor: object, status: object) -> None:
        world.close()
        ended.set()

    provider = FakeProvider(init_blocks=1)
    executor = FakeBlockExecutor(provider, block_error_handler=handle)
    pool = BlockPool(executor, HookManager(), RunInfo("0123abcd", Path(), "", "", 0.0))
    world.scaler.add(pool)
    world.scaler.begin(pool)
    assert ended.wait(WAIT_S)
    assert provider.jobs["job0"].state is JobState.CANCELLED


def test_a_scaler_that_never_began_closes_its_pools() -> None:
    world = World()
    provider = world.pool(begin=False)
    world.close()
    assert provider.closed == 1


def test_beginning_a_pool_wakes_the_thread_at_once() -> None:
    scaler = Scaler(no_scaling, 1000.0, 100.0)
    try:
        for i in range(2):
            provider = FakeProvider(init_blocks=1)
            pool = BlockPool(FakeBlockExecutor(provider), HookManager(), RunInfo("0123abcd", Path(), "", "", 0.0))
            scaler.add(pool)
            began = time.monotonic()
            scaler.begin(pool)
            assert time.monotonic() - began < WAIT_S, i
            pool.executor.connected.add("0")  # type: ignore[attr-defined]
    finally:
        scaler.close()
