"""The manager's decisions, without sockets and processes."""

from __future__ import annotations

from typing import Any

from flowcore_executor_htex import protocol
from flowcore_executor_htex.pool import OVERHEAD_US, QUEUE_US, STUCK_S, Pool
from flowcore_executor_htex.protocol import ResultItem, TaskItem

F = b"f" * 16


def add(pool: Pool, *keys: int, frames: int = 0) -> None:
    payload = [f"{key}-{i}".encode() for key in keys for i in range(frames)]
    pool.add(protocol.Tasks([TaskItem(k, F, b"", frames) for k in keys], {F: b"code"}), payload)


def given(pool: Pool) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for rank, message, _ in pool.assign(0.0):
        assert isinstance(message, protocol.Tasks)
        found.setdefault(rank, []).extend(i.key for i in message.tasks)
    return found


def end(pool: Pool, rank: int, *keys: int, us: int = 10**6) -> list[int]:
    items = [ResultItem(k, protocol.VALUE, b"", 0, us) for k in keys]
    return [r.key for r in pool.ended(rank, items, 0.0)]


def started(slots: int, **options: Any) -> Pool:
    """Return a pool whose workers are ready."""
    pool = Pool(slots, **options)
    for rank in range(slots):
        pool.ready(rank, 0.0)
    return pool


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
    pool = started(2)
    warm(pool, 50_000)
    assert pool.capacity == 2
    add(pool, 1, 2, 3, 4)
    assert given(pool) == {0: [1], 1: [2]}


def test_short_attempts_are_given_in_batches_and_prefetched() -> None:
    pool = started(2)
    warm(pool, 10)
    assert pool.capacity > 200
    add(pool, *range(40))
    assert {rank: len(keys) for rank, keys in given(pool).items()} == {0: 20, 1: 20}
    add(pool, *range(40, 1000))
    given(pool)
    [depth] = {len(slot.given) for slot in pool.slots}
    assert 0.9 * QUEUE_US < depth * (10 + OVERHEAD_US) <= QUEUE_US


def test_after_a_long_attempt_the_pool_is_careful_again() -> None:
    pool = started(2)
    warm(pool, 10)
    add(pool, 1)
    [rank] = given(pool)
    end(pool, rank, 1, us=2_000_000)
    assert pool.capacity == 2
    add(pool, 2, 3, 4)
    assert given(pool) == {0: [2], 1: [3]}


def test_a_mix_of_short_and_long_attempts_counts_as_long() -> None:
    pool = started(1)
    for key in range(300):
        add(pool, key)
        given(pool)
        end(pool, 0, key, us=1_000_000 if key % 20 == 0 else 1000)
    add(pool, 1000, 1001)
    assert given(pool) == {0: [1000]}


def test_what_is_known_of_one_function_is_not_believed_of_another() -> None:
    pool = started(2)
    warm(pool, 10)
    other = b"g" * 16
    pool.add(protocol.Tasks([TaskItem(k, other, b"") for k in range(4)], {other: b""}), [])
    add(pool, *range(10, 40))
    assert given(pool) == {0: [0], 1: [1]}, "one of a function that nothing is known of, and nothing behind it"
    end(pool, 0, 0, us=10)
    assert given(pool) == {0: [2, 3, *range(10, 40)]}
    assert [entry[0].key for entry in pool.slots[1].given] == [1]


def test_what_waits_behind_an_attempt_that_turns_out_long_goes_to_others() -> None:
    pool = started(2)
    warm(pool, 10)
    add(pool, *range(10))
    assert given(pool) == {0: [0, 1, 2, 3, 4], 1: [5, 6, 7, 8, 9]}
    assert pool.ahead
    assert pool.stuck(STUCK_S / 2) == []
    pool.ended(1, [ResultItem(k, protocol.VALUE, b"", 0, 10) for k in (5, 6, 7, 8, 9)], STUCK_S)
    assert pool.stuck(2 * STUCK_S) == [0]
    pool.taken_back(0, 4, 2 * STUCK_S)
    assert pool.stuck(2 * STUCK_S) == []
    again = given(pool)
    assert 0 not in again or again[0] == []
    assert again[1][0] == 1, "in their order, and before all that came later"
    assert end(pool, 0, 0) == [0]


def test_an_attempt_that_has_run_for_long_counts_before_it_ends() -> None:
    pool = started(2)
    warm(pool, 10)
    add(pool, 1, 2, 3, 4)
    given(pool)
    pool.taken_back(0, 1, 2.0)
    add(pool, 10, 11, 12, 13)
    pool.taken_back(1, 1, 2.0)
    assert given(pool) == {}, "both run something, and nothing is short any more"


def test_a_worker_that_still_starts_gives_its_attempt_back_to_one_that_is_free() -> None:
    pool = Pool(2)
    add(pool, 1, 2)
    assert given(pool) == {0: [1], 1: [2]}
    pool.ready(0, 1.0)
    assert end(pool, 0, 1) == [1]
    assert pool.stuck(1.0) == [1]
    pool.taken_back(1, 1, 1.0)
    assert given(pool) == {0: [2]}


def test_what_is_beyond_the_capacity_goes_back() -> None:
    pool = started(2)
    warm(pool, 10)
    add(pool, *range(200))
    assert pool.surplus() == ([], [])
    given(pool)
    pool.taken_back(0, 50, 10.0)  # its first attempt has run for ten seconds
    items, frames = pool.surplus()
    assert frames == []
    assert pool.capacity == 2
    assert not pool.surplus()[0]
    held = [entry[0].key for slot in pool.slots for entry in slot.given]
    assert sorted([*held, *(item.key for item in items)]) == list(range(200))


def test_frames_go_back_with_their_attempts() -> None:
    pool = started(1)
    add(pool, 1, 2, 3, frames=2)
    given(pool)
    items, frames = pool.all_waiting()
    assert [item.key for item in items] == [2, 3]
    assert frames == [b"2-0", b"2-1", b"3-0", b"3-1"]


def demanding(pool: Pool, key: int, **needs: Any) -> None:
    pool.add(protocol.Tasks([TaskItem(key, F, b"", needs=protocol.Needs(**needs))], {F: b"code"}), [])


def test_an_attempt_takes_the_workers_whose_cores_it_needs() -> None:
    pool = started(4)
    demanding(pool, 1, slots=3)
    add(pool, 2, 3)
    assert given(pool) == {0: [1], 3: [2]}
    assert [slot.lent for slot in pool.slots] == [False, True, True, False]
    demanding(pool, 4, slots=2)
    end(pool, 3, 2)
    assert given(pool) == {}, "what becomes free is kept for it"
    end(pool, 0, 1)
    assert given(pool) == {0: [4], 2: [3]}
    end(pool, 0, 4)
    assert not any(slot.lent for slot in pool.slots)


def test_attempts_have_nodes_for_themselves() -> None:
    pool = started(4, nodes=["a", "b", "c"])
    for key in (1, 2):
        demanding(pool, key, nodes=2)
    demanding(pool, 3, nodes=1)
    [(rank, message, _)] = pool.assign(0.0)
    assert (rank, pool.slots[0].nodes) == (0, ["a", "b"])
    pool.slots[0].ready = True
    assert pool.lost(0) == 1
    pool.ready(0, 0.0)
    assert given(pool) == {0: [2], 1: [3]}
    assert [slot.nodes for slot in pool.slots] == [["a", "b"], ["c"], [], []]
    assert end(pool, 1, 3) == [3]
    assert end(pool, 0, 2) == [2]
    demanding(pool, 4, nodes=3)
    assert given(pool) == {0: [4]}


def test_what_is_taken_back_before_it_began_gives_its_nodes_and_workers_back() -> None:
    pool = Pool(3, nodes=["n2", "n10", "n1"])
    demanding(pool, 1, nodes=3, slots=2)
    assert given(pool) == {0: [1]}
    pool.ready(2, 0.0)
    assert pool.stuck(0.0) == [0]
    pool.taken_back(0, 1, 0.0)
    assert not any(slot.lent for slot in pool.slots)
    assert given(pool) == {2: [1]}
    assert pool.slots[2].nodes == ["n2", "n10", "n1"], "the scheduler's order is kept"


def test_cancelling_names_the_workers_that_have_it() -> None:
    pool = started(2)
    warm(pool, 10)
    add(pool, 1, 2, 3, 4)
    assert given(pool) == {0: [1, 2], 1: [3, 4]}
    assert pool.holders([4, 1]) == [0, 1]
    pool.taken_back(0, 1, 0.0)
    pool.taken_back(1, 1, 0.0)
    assert pool.cancel([4, 1]) == [0]
    assert given(pool) == {}, "the first worker is ended, and the other runs something"
    assert end(pool, 0, 1) == [], "its result is not wanted any more"
    end(pool, 1, 3)
    assert given(pool) == {1: [2]}
    assert pool.lost(0) is None
    pool.ready(0, 0.0)
    add(pool, 5)
    assert given(pool) == {0: [5]}


def test_what_a_dead_worker_has_not_begun_is_not_lost() -> None:
    pool = started(1)
    add(pool, 1)
    assert given(pool) == {0: [1]}
    assert pool.lost(0, waiting=1) is None, "its token was still there"
    pool.ready(0, 0.0)
    assert given(pool) == {0: [1]}
    assert pool.lost(0) == 1


def test_what_a_retiring_worker_had_for_itself_is_free_when_it_is_gone() -> None:
    pool = started(2, nodes=["a", "b"])
    demanding(pool, 1, nodes=2)
    assert given(pool) == {0: [1]}
    pool.retiring(0)
    assert end(pool, 0, 1) == [1]
    demanding(pool, 2, nodes=1)
    assert given(pool) == {}
    pool.lost(0)
    assert given(pool) == {1: [2]}


def test_prefetch_capacity_is_held_whatever_attempts_take() -> None:
    pool = Pool(2, prefetch_capacity=5)
    assert pool.capacity == 7
    warm(pool, 10**6)
    assert pool.capacity == 7


def test_a_function_goes_to_each_worker_once() -> None:
    pool = Pool(1)
    add(pool, 1)
    [(_, first, _)] = pool.assign(0.0)
    end(pool, 0, 1)
    add(pool, 2)
    [(_, second, _)] = pool.assign(0.0)
    assert isinstance(first, protocol.Tasks)
    assert isinstance(second, protocol.Tasks)
    assert (first.functions, second.functions) == ({F: b"code"}, {})
    assert pool.forget([F]) == [(0, protocol.Forget([F]), [])]


def test_frames_travel_with_their_attempt() -> None:
    pool = Pool(2)
    add(pool, 1, 2, frames=2)
    assert [(rank, frames) for rank, _, frames in pool.assign(0.0)] == [(0, [b"1-0", b"1-1"]), (1, [b"2-0", b"2-1"])]


def test_of_a_dead_worker_only_the_attempt_that_ran_is_lost() -> None:
    pool = started(1)
    warm(pool, 10)
    add(pool, 1, 2, 3)
    assert given(pool) == {0: [1, 2, 3]}
    assert end(pool, 0, 1, us=10) == [1]
    assert pool.lost(0) == 2
    pool.ready(0, 0.0)
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
    pool = started(1)
    warm(pool, 10)
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
    assert given(pool) == {}
    pool.lost(0)
    assert given(pool) == {0: [3]}


def test_busy_means_that_no_worker_runs_dry_soon() -> None:
    pool = started(2)
    warm(pool, 1)
    assert not pool.busy
    add(pool, *range(400))
    given(pool)
    assert pool.busy
