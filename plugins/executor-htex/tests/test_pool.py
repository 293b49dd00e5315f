"""The manager's decisions, without sockets and processes."""

from __future__ import annotations

from flowcore_executor_htex import protocol
from flowcore_executor_htex.pool import MAX_DEPTH, Pool
from flowcore_executor_htex.protocol import ResultItem, TaskItem

F = b"f" * 16


def add(pool: Pool, *keys: int, frames: int = 0) -> None:
    payload = [f"{key}-{i}".encode() for key in keys for i in range(frames)]
    pool.add(protocol.Tasks([TaskItem(k, F, b"", frames) for k in keys], {F: b"code"}), payload)


def given(pool: Pool) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for rank, message, _ in pool.assign():
        assert isinstance(message, protocol.Tasks)
        found.setdefault(rank, []).extend(i.key for i in message.tasks)
    return found


def end(pool: Pool, rank: int, *keys: int, us: int = 10**6) -> list[int]:
    items = [ResultItem(k, protocol.VALUE, b"", 0, us) for k in keys]
    return [r.key for r in pool.ended(rank, items)]


def warm(pool: Pool, us: int) -> None:
    """Let the pool see 200 attempts that took so long."""
    for key in range(10**6, 10**6 + 200):
        add(pool, key)
        [rank] = given(pool)
        end(pool, rank, key, us=us)


def test_at_first_each_worker_gets_one() -> None:
    pool = Pool(2)
    add(pool, 1, 2, 3)
    assert given(pool) == {0: [1], 1: [2]}
    assert given(pool) == {}
    assert end(pool, 1, 2) == [2]
    assert given(pool) == {1: [3]}


def test_long_attempts_are_never_queued_behind_others() -> None:
    pool = Pool(2)
    warm(pool, 50_000)
    assert pool.depth == 1
    assert pool.capacity == 2
    add(pool, 1, 2, 3, 4)
    assert given(pool) == {0: [1], 1: [2]}


def test_short_attempts_are_given_in_batches_and_prefetched() -> None:
    pool = Pool(2)
    warm(pool, 10)
    assert 20 < pool.depth <= MAX_DEPTH
    assert pool.capacity > 200
    add(pool, *range(40))
    assert {rank: len(keys) for rank, keys in given(pool).items()} == {0: 20, 1: 20}


def test_after_a_long_attempt_the_pool_is_careful_again() -> None:
    pool = Pool(2)
    warm(pool, 10)
    add(pool, 1)
    [rank] = given(pool)
    end(pool, rank, 1, us=2_000_000)
    assert pool.depth == 1


def test_a_mix_of_short_and_long_attempts_counts_as_long() -> None:
    pool = Pool(1)
    for key in range(300):
        add(pool, key)
        given(pool)
        end(pool, 0, key, us=1_000_000 if key % 20 == 0 else 1000)
    assert pool.depth == 1


def test_prefetch_capacity_is_held_whatever_attempts_take() -> None:
    pool = Pool(2, prefetch_capacity=5)
    assert pool.capacity == 7
    warm(pool, 10**6)
    assert pool.capacity == 7


def test_a_function_goes_to_each_worker_once() -> None:
    pool = Pool(1)
    add(pool, 1)
    [(_, first, _)] = pool.assign()
    end(pool, 0, 1)
    add(pool, 2)
    [(_, second, _)] = pool.assign()
    assert isinstance(first, protocol.Tasks)
    assert isinstance(second, protocol.Tasks)
    assert (first.functions, second.functions) == ({F: b"code"}, {})
    assert pool.forget([F]) == [(0, protocol.Forget([F]), [])]


def test_frames_travel_with_their_attempt() -> None:
    pool = Pool(2)
    add(pool, 1, 2, frames=2)
    assert [(rank, frames) for rank, _, frames in pool.assign()] == [(0, [b"1-0", b"1-1"]), (1, [b"2-0", b"2-1"])]


def test_of_a_dead_worker_only_the_attempt_that_ran_is_lost() -> None:
    pool = Pool(1)
    warm(pool, 10)
    pool.slots[0].ready = True
    add(pool, 1, 2, 3)
    assert given(pool) == {0: [1, 2, 3]}
    assert end(pool, 0, 1, us=10) == [1]
    assert pool.lost(0) == 2
    assert given(pool) == {0: [3]}, "it is given again, alone: nothing is known any more"


def test_what_a_worker_got_that_never_was_ready_has_not_begun() -> None:
    pool = Pool(1)
    add(pool, 1)
    assert given(pool) == {0: [1]}
    assert pool.lost(0) is None
    assert given(pool) == {0: [1]}


def test_results_of_a_former_worker_are_not_taken_twice() -> None:
    pool = Pool(1)
    pool.slots[0].ready = True
    add(pool, 1, 2)
    given(pool)
    pool.lost(0)
    assert end(pool, 0, 1) == []


def test_a_worker_that_retires_has_begun_nothing_of_what_it_was_given() -> None:
    pool = Pool(1)
    warm(pool, 10)
    pool.slots[0].ready = True
    add(pool, 1, 2)
    assert given(pool) == {0: [1, 2]}
    assert end(pool, 0, 1) == [1]
    pool.retiring(0)
    add(pool, 3)
    assert given(pool) == {}
    assert pool.lost(0) is None
    assert given(pool) == {0: [2]}


def test_cancelling_drops_what_waits_and_names_the_worker_to_interrupt() -> None:
    pool = Pool(1)
    add(pool, 1, 2, 3)
    given(pool)
    assert pool.cancel([2]) == []
    assert pool.cancel([1]) == [0]
    end(pool, 0, 1)
    assert given(pool) == {0: [3]}


def test_busy_means_that_no_worker_runs_dry_soon() -> None:
    pool = Pool(2)
    warm(pool, 1)
    assert not pool.busy
    add(pool, *range(400))
    given(pool)
    assert pool.busy
