"""The interchange's decisions, without sockets."""

from __future__ import annotations

import random
from typing import Any

import pytest
from flowcore_executor_htex import protocol
from flowcore_executor_htex.dispatch import BATCH, LAST_WORDS_S, LOOK_AT, Dispatcher, Output
from flowcore_executor_htex.selection import OldestBlock

from flowcore.errors import BadMessage

F = b"f" * 16


def tasks(*keys: int, function: bytes = F, known: bool = False) -> protocol.Tasks:
    return protocol.Tasks([protocol.TaskItem(k, function, b"") for k in keys], {} if known else {function: b"code"})


def results(*keys: int, capacity: int = 2) -> protocol.Results:
    return protocol.Results([protocol.ResultItem(k, protocol.VALUE, b"") for k in keys], capacity)


def join(dispatcher: Dispatcher, name: str, slots: int = 2, now: float = 0.0, block: str = "0") -> list[Output]:
    return dispatcher.greet(name.encode(), protocol.hello(name, block, "host", slots), now)


def sent(outputs: list[Output]) -> dict[bytes | None, list[Any]]:
    """Decode outputs: messages by destination."""
    found: dict[bytes | None, list[Any]] = {}
    for identity, frames in outputs:
        message = protocol.decode(frames[0])
        if not isinstance(message, protocol.Heartbeat):
            found.setdefault(identity, []).append(message)
    return found


def keys_of(messages: list[Any]) -> list[int]:
    return [i.key for m in messages if isinstance(m, protocol.Tasks) for i in m.tasks]


def test_tasks_wait_for_a_manager_and_no_one_gets_more_than_its_slots() -> None:
    dispatcher = Dispatcher(10)
    assert dispatcher.from_executor(tasks(1, 2, 3), []) == []
    assert dispatcher.pending == 3
    assert keys_of(sent(join(dispatcher, "m"))[b"m"]) == [1, 2]
    assert dispatcher.pending == 1
    out = sent(dispatcher.from_manager(b"m", results(1), [], 1))
    assert [r.key for r in out[None][0].results] == [1]
    assert keys_of(out[b"m"]) == [3]


def test_a_function_is_sent_once_per_manager() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", 1)
    first = sent(dispatcher.from_executor(tasks(1), []))
    assert first[b"m"][0].functions == {F: b"code"}
    dispatcher.from_executor(tasks(2, known=True), [])
    again = sent(dispatcher.from_manager(b"m", results(1), [], 1))
    assert again[b"m"][0].functions == {}
    other = sent([*join(dispatcher, "n", 1), *dispatcher.from_executor(tasks(3, known=True), [])])
    assert other[b"n"][0].functions == {F: b"code"}


def test_a_forgotten_function_is_sent_anew() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1), [])
    dispatcher.from_manager(b"m", results(1), [], 1)
    assert sent(dispatcher.from_executor(protocol.Forget([F]), []))[b"m"] == [protocol.Forget([F])]
    assert sent(dispatcher.from_executor(tasks(2), []))[b"m"][0].functions == {F: b"code"}


def test_free_slots_are_shared_out_evenly_before_anything_is_prefetched() -> None:
    dispatcher = Dispatcher(10)
    for name in "abc":
        join(dispatcher, name)
        dispatcher.from_manager(name.encode(), results(capacity=100), [], 0)
    out = sent(dispatcher.from_executor(tasks(*range(6)), []))
    assert {name: len(keys_of(m)) for name, m in out.items()} == {b"a": 2, b"b": 2, b"c": 2}
    more = sent(dispatcher.from_executor(tasks(*range(10, 310), known=True), []))
    shares = sorted(len(keys_of(m)) for m in more.values())
    assert sum(shares) == 294
    assert shares[0] >= 50


def test_batches_are_bounded() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_manager(b"m", results(capacity=5000), [], 0)
    out = dispatcher.from_executor(tasks(*range(2000)), [])
    sizes = [len(protocol.decode(frames[0]).tasks) for _, frames in out]  # type: ignore[union-attr]
    assert sum(sizes) == 2000
    assert max(sizes) <= BATCH


def test_payload_frames_follow_their_tasks() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "a", 1)
    join(dispatcher, "b", 1)
    items = [protocol.TaskItem(1, F, b"", 2), protocol.TaskItem(2, F, b"", 0), protocol.TaskItem(3, F, b"", 1)]
    out = dispatcher.from_executor(protocol.Tasks(items, {F: b""}), [b"1a", b"1b", b"3a"])
    out += dispatcher.from_manager(b"b", results(2, capacity=1), [], 1)
    got = {}
    for _identity, (header, *frames) in out:
        message = protocol.decode(header)
        if isinstance(message, protocol.Tasks):
            for item in message.tasks:
                got[item.key] = [frames.pop(0) for _ in range(item.frames)]
    assert got == {1: [b"1a", b"1b"], 2: [], 3: [b"3a"]}


def test_a_silent_manager_is_lost_with_its_tasks_and_its_late_results_are_dropped() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", now=0)
    dispatcher.from_executor(tasks(1, 2, 3), [])
    assert dispatcher.tick(9.9) == []
    lost = sent(dispatcher.tick(10.1))[None][0].results
    assert sorted(r.key for r in lost) == [1, 2]
    assert {r.kind for r in lost} == {protocol.MANAGER_LOST}
    late = sent(dispatcher.from_manager(b"m", results(1), [], 11))
    assert None not in late
    assert isinstance(late[b"m"][0], protocol.Stop)
    assert dispatcher.pending == 1


def test_heartbeats_keep_a_manager_and_are_answered() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", now=0)
    answer = dispatcher.from_manager(b"m", protocol.Heartbeat(), [], 8)
    assert [protocol.decode(frames[0]) for _, frames in answer] == [protocol.Heartbeat(1)]
    assert dispatcher.tick(17) == []
    assert b"m" in dispatcher.managers


def test_heartbeats_tell_of_messages_that_were_lost() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1, 2), [])
    dispatcher.from_manager(b"m", results(1), [], 1)
    [(_, frames)] = dispatcher.from_manager(b"m", protocol.Heartbeat(1), [], 2)
    assert protocol.decode(frames[0]) == protocol.Heartbeat(2), "a heartbeat, and the tasks"
    out = sent(dispatcher.from_manager(b"m", protocol.Heartbeat(4), [], 3))
    assert [(r.key, r.kind) for r in out[None][0].results] == [(2, protocol.MANAGER_LOST)]
    assert b"2 of its messages were lost" in out[None][0].results[0].body
    assert out[b"m"][0].again, "another manager is to take its place"
    assert dispatcher.managers == {}


def test_a_manager_that_a_message_does_not_reach_is_lost() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1), [])
    [lost] = sent(dispatcher.unreachable(b"m"))[None][0].results
    assert lost.kind == protocol.MANAGER_LOST
    assert b"its connection is gone" in lost.body
    assert dispatcher.unreachable(b"m") == []


def test_managers_of_a_block_that_ended_are_lost_soon_unless_they_are_heard_of() -> None:
    dispatcher = Dispatcher(100)
    for name, block in (("a", "0"), ("b", "0"), ("c", "1")):
        join(dispatcher, name, 1, block=block)
    dispatcher.from_executor(tasks(1, 2, 3), [])
    dispatcher.from_executor(protocol.Ended("0"), [])
    dispatcher.from_executor(protocol.Ended("no such block"), [])
    assert dispatcher.tick(LAST_WORDS_S / 2) == []
    dispatcher.from_manager(b"b", protocol.Heartbeat(), [], LAST_WORDS_S / 2)
    [lost] = sent(dispatcher.tick(LAST_WORDS_S + 1))[None][0].results
    assert lost.kind == protocol.MANAGER_LOST
    assert b"its block ended" in lost.body
    assert set(dispatcher.managers) == {b"b", b"c"}, "the provider was wrong about one"


def test_a_cancelled_task_that_waits_never_starts() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.from_executor(tasks(1, 2, 3), [])
    dispatcher.from_executor(protocol.Cancel([2]), [])
    assert keys_of(sent(join(dispatcher, "m", 5))[b"m"]) == [1, 3]


def test_a_cancelled_task_that_runs_is_passed_on_and_its_result_dropped() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1, 2, 3), [])
    out = sent(dispatcher.from_executor(protocol.Cancel([1]), []))
    assert protocol.Cancel([1]) in out[b"m"]
    assert keys_of(out[b"m"]) == [3], "its place is free for the next one"
    late = sent(dispatcher.from_manager(b"m", results(1, 2), [], 1))
    assert [r.key for r in late[None][0].results] == [2]


def test_frames_of_dropped_results_are_dropped_too() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1, 2), [])
    dispatcher.from_executor(protocol.Cancel([1]), [])
    message = protocol.Results([protocol.ResultItem(k, protocol.VALUE, b"", 1) for k in (1, 2)], 2)
    [(_, frames)] = [o for o in dispatcher.from_manager(b"m", message, [b"one", b"two"], 1) if o[0] is None]
    assert frames[1:] == [b"two"]


def test_a_held_manager_or_block_gets_nothing_more() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "a", block="0")
    join(dispatcher, "b", block="1")
    dispatcher.from_executor(protocol.Hold(block_id="0"), [])
    assert set(sent(dispatcher.from_executor(tasks(1, 2, 3), []))) == {b"b"}
    dispatcher.from_executor(protocol.Hold(manager_id="b"), [])
    assert b"b" not in sent(dispatcher.from_manager(b"b", results(1, 2), [], 1))
    assert [m.active for m in dispatcher.report(0).managers] == [False, False]


def test_a_manager_that_says_goodbye_is_gone_at_once() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    dispatcher.from_executor(tasks(1), [])
    [lost] = sent(dispatcher.from_manager(b"m", protocol.Stop("its block ended"), [], 1))[None][0].results
    assert lost.kind == protocol.MANAGER_LOST
    assert b"its block ended" in lost.body
    assert dispatcher.managers == {}
    assert dispatcher.report(2).blocks == ["0"], "the block did connect once"


def test_a_manager_of_another_version_is_refused() -> None:
    dispatcher = Dispatcher(10)
    greeting = protocol.hello("m", "0", "node1", 2)
    greeting.python = "2.7"
    [(identity, frames)] = dispatcher.greet(b"m", greeting, 0)
    answer = protocol.decode_greeting(frames[0])
    assert identity == b"m"
    assert isinstance(answer, protocol.Refused)
    assert "Python 2.7" in answer.reason
    assert dispatcher.managers == {}


@pytest.mark.parametrize("message", [results(1), protocol.Heartbeat()])
def test_the_executor_cannot_say_what_managers_say(message: protocol.Message) -> None:
    with pytest.raises(BadMessage, match="is no message of an executor"):
        Dispatcher(10).from_executor(message, [])


def test_a_manager_cannot_say_what_the_executor_says() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m")
    with pytest.raises(BadMessage, match="is no message of a manager"):
        dispatcher.from_manager(b"m", protocol.Cancel([1]), [], 0)


def needing(key: int, **needs: Any) -> protocol.Tasks:
    return protocol.Tasks([protocol.TaskItem(key, F, b"", needs=protocol.Needs(**needs))], {F: b"code"})


def ask(dispatcher: Dispatcher, message: protocol.Message) -> dict[bytes, list[int]]:
    """Return the keys that each manager is given when the executor sends this."""
    return {i: keys_of(m) for i, m in sent(dispatcher.from_executor(message, [])).items() if i is not None}


def end(dispatcher: Dispatcher, name: str, *keys: int, capacity: int = 4) -> dict[bytes, list[int]]:
    out = sent(dispatcher.from_manager(name.encode(), results(*keys, capacity=capacity), [], 1))
    return {i: keys_of(m) for i, m in out.items() if i is not None}


def test_higher_priorities_go_first_and_equals_in_their_order() -> None:
    dispatcher = Dispatcher(10)
    for message in (tasks(1), needing(2, priority=5), needing(3, priority=-1), needing(4, priority=5), tasks(5)):
        dispatcher.from_executor(message, [])
    join(dispatcher, "m", 1)
    order = [*dispatcher.managers[b"m"].outstanding]
    for _ in range(4):
        order += end(dispatcher, "m", order[-1], capacity=1)[b"m"]
    assert order == [2, 4, 1, 5, 3]


def test_an_attempt_with_needs_goes_where_it_can_begin_at_once() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "small", 2)
    join(dispatcher, "large", 4)
    assert ask(dispatcher, needing(1, slots=3)) == {b"large": [1]}
    assert ask(dispatcher, tasks(2, 3, 4)) == {b"small": [2, 4], b"large": [3]}


def test_a_manager_runs_empty_for_what_would_never_have_a_place() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", 4)
    assert ask(dispatcher, tasks(1, 2, 3, 4)) == {b"m": [1, 2, 3, 4]}
    assert ask(dispatcher, needing(5, slots=3)) == {}
    assert ask(dispatcher, tasks(6, 7, 8)) == {}
    assert end(dispatcher, "m", 1) == {}
    assert end(dispatcher, "m", 2) == {}
    assert end(dispatcher, "m", 3) == {b"m": [5]}
    assert end(dispatcher, "m", 4) == {b"m": [6]}
    assert end(dispatcher, "m", 5) == {b"m": [7, 8]}


def test_what_waits_behind_it_goes_to_other_managers() -> None:
    dispatcher = Dispatcher(10)
    for name in "ab":
        join(dispatcher, name, 2)
    ask(dispatcher, tasks(1, 2, 3, 4))
    assert ask(dispatcher, needing(5, slots=2)) == {}
    assert ask(dispatcher, tasks(6, 7)) == {}
    kept = next(n for n in "ab" if n.encode() == dispatcher._kept_free.identity)  # type: ignore[union-attr]
    other = "b" if kept == "a" else "a"
    holds = sorted(dispatcher.managers[other.encode()].outstanding)
    assert end(dispatcher, other, holds[0], capacity=2) == {other.encode(): [6]}
    first, second = sorted(dispatcher.managers[kept.encode()].outstanding)
    assert end(dispatcher, kept, first, capacity=2) == {}
    assert end(dispatcher, kept, second, capacity=2) == {kept.encode(): [5]}


def test_a_higher_priority_is_not_kept_waiting_by_what_is_set_aside() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", 2)
    ask(dispatcher, tasks(1, 2))
    ask(dispatcher, needing(3, slots=2))
    ask(dispatcher, needing(4, priority=1))
    assert end(dispatcher, "m", 1, capacity=2) == {b"m": [4]}
    assert end(dispatcher, "m", 2, capacity=2) == {}
    assert end(dispatcher, "m", 4, capacity=2) == {b"m": [3]}


def test_a_place_for_what_is_set_aside_by_priority() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", 2)
    ask(dispatcher, tasks(1))
    for key in range(10, 30):
        ask(dispatcher, needing(key, slots=2))
    ask(dispatcher, needing(99, slots=2, priority=3))
    assert end(dispatcher, "m", 1, capacity=2) == {b"m": [99]}
    assert end(dispatcher, "m", 99, capacity=2) == {b"m": [10]}
    for key in range(10, 29):
        assert end(dispatcher, "m", key, capacity=2) == {b"m": [key + 1]}
    assert end(dispatcher, "m", 29, capacity=2) == {}
    assert dispatcher.pending == 0


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ({"slots": 3}, "is the place of 3 workers, and block 0 has 2 on host"),
        ({"memory_mb": 2000.0}, "needs 2000 MB of memory, and block 0 has 1000, on host"),
        ({"nodes": 5}, "needs 5 nodes, and block 0 has 4, on host"),
        ({"running_time_s": 100.0}, "needs 100 s of running time, and block 0 has 60, on host"),
    ],
)
def test_what_can_never_be_had_is_said(needs: dict[str, Any], text: str) -> None:
    dispatcher = Dispatcher(10)
    assert ask(dispatcher, needing(1, **needs)) == {}
    greeting = protocol.hello("m", "0", "host", 2, nodes=4, memory_mb=1000.0, left_s=60.0)
    [message] = sent(dispatcher.greet(b"m", greeting, 0))[None]
    assert [(r.key, r.kind) for r in message.results] == [(1, protocol.UNFIT)]
    assert text in message.results[0].body.decode()
    assert dispatcher.pending == 0
    assert ask(dispatcher, tasks(2)) == {b"m": [2]}


def test_memory_and_nodes_are_shared_out() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.greet(b"m", protocol.hello("m", "0", "host", 4, nodes=4, memory_mb=1000.0), 0)
    assert ask(dispatcher, needing(1, memory_mb=600.0)) == {b"m": [1]}
    assert ask(dispatcher, needing(2, memory_mb=600.0)) == {}
    assert end(dispatcher, "m", 1) == {b"m": [2]}
    assert ask(dispatcher, needing(3, nodes=3)) == {b"m": [3]}
    assert ask(dispatcher, needing(4, nodes=2)) == {}
    assert end(dispatcher, "m", 3) == {b"m": [4]}


def test_a_block_near_its_end_gets_nothing_that_cannot_finish() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.greet(b"old", protocol.hello("old", "0", "host", 2, left_s=100.0), 0)
    dispatcher.from_manager(b"old", protocol.Heartbeat(), [], 50)
    assert ask(dispatcher, needing(1, running_time_s=60.0)) == {}
    assert ask(dispatcher, needing(2, running_time_s=40.0)) == {b"old": [2]}
    out = sent(dispatcher.greet(b"new", protocol.hello("new", "1", "host", 2, left_s=100.0), 51))
    assert keys_of(out[b"new"]) == [1]


def test_a_cancelled_attempt_that_is_set_aside_keeps_no_place() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "m", 2)
    ask(dispatcher, tasks(1))
    assert ask(dispatcher, needing(2, slots=2)) == {}
    assert ask(dispatcher, tasks(3)) == {}
    assert ask(dispatcher, protocol.Cancel([2])) == {b"m": [3]}


def test_what_a_manager_gives_back_goes_first_and_elsewhere() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "a", 1)
    dispatcher.from_manager(b"a", results(capacity=9), [], 0)
    assert ask(dispatcher, tasks(1, 2, 3)) == {b"a": [1, 2, 3]}
    dispatcher.from_manager(b"a", results(capacity=1), [], 0)
    ask(dispatcher, tasks(4))
    join(dispatcher, "b", 1)
    back = protocol.Tasks([protocol.TaskItem(k, F, b"", 1) for k in (2, 3, 77)])
    out = dispatcher.from_manager(b"a", back, [b"2", b"3", b"77"], 1)
    assert out == [], "b has the fourth, and is full"
    assert dispatcher.pending == 2
    [(identity, frames), *_] = [o for o in dispatcher.from_manager(b"b", results(4, capacity=1), [], 1) if o[0] == b"b"]
    assert keys_of([protocol.decode(frames[0])]) == [2]
    assert frames[1:] == [b"2"]


def test_what_is_given_back_is_taken_though_some_of_it_was_cancelled() -> None:
    dispatcher = Dispatcher(10)
    join(dispatcher, "a", 1)
    dispatcher.from_manager(b"a", results(capacity=9), [], 0)
    other = b"g" * 16
    dispatcher.from_executor(tasks(1, 2), [])
    dispatcher.from_executor(tasks(3, function=other), [])
    dispatcher.from_manager(b"a", results(capacity=1), [], 0)
    dispatcher.from_executor(protocol.Cancel([3]), [])
    dispatcher.from_executor(protocol.Forget([other]), [])
    back = [protocol.TaskItem(2, F, b""), protocol.TaskItem(3, other, b"")]
    dispatcher.from_manager(b"a", protocol.Tasks(back), [], 1)
    assert dispatcher.managers[b"a"].outstanding == {1}
    assert dispatcher.pending == 1
    strange = protocol.Tasks([protocol.TaskItem(1, b"?" * 16, b"")])
    with pytest.raises(BadMessage, match="another function"):
        dispatcher.from_manager(b"a", strange, [], 1)


def test_fractions_of_memory_add_up() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.greet(b"m", protocol.hello("m", "0", "host", 4, memory_mb=16000.0), 0)
    for key, memory in enumerate((0.1, 0.2, 0.7)):
        ask(dispatcher, needing(key, memory_mb=memory))
    end(dispatcher, "m", 0, 1, 2)
    assert ask(dispatcher, needing(9, memory_mb=16000.0)) == {b"m": [9]}


def test_what_only_another_block_can_take_keeps_nobody_waiting() -> None:
    dispatcher = Dispatcher(10**9)
    dispatcher.greet(b"old", protocol.hello("old", "0", "host", 4, left_s=100.0), 0)
    dispatcher.tick(50)
    for key in range(20):
        assert ask(dispatcher, needing(key, running_time_s=60.0)) == {}
    assert ask(dispatcher, tasks(100, 101)) == {b"old": [100, 101]}
    assert ask(dispatcher, needing(102, slots=2)) == {b"old": [102]}
    out = sent(dispatcher.greet(b"new", protocol.hello("new", "1", "host", 4, left_s=100.0), 51))
    assert keys_of(out[b"new"]) == [0, 1, 2, 3]
    assert dispatcher.pending == 16


def test_among_many_managers_the_one_that_fits_is_found() -> None:
    dispatcher = Dispatcher(10**9)
    for number in range(LOOK_AT + 20):
        join(dispatcher, f"m{number}", 1)
    dispatcher.greet(b"large", protocol.hello("large", "1", "host", 4), 0)
    assert ask(dispatcher, needing(1, slots=3)) == {}, "not among those that are looked at for each message"
    assert keys_of(sent(dispatcher.tick(1))[b"large"]) == [1]
    assert ask(dispatcher, needing(2, slots=9)) == {}
    [message] = sent(dispatcher.tick(2))[None]
    assert [(r.key, r.kind) for r in message.results] == [(2, protocol.UNFIT)]


def test_a_policy_that_counts_wrong_does_no_harm() -> None:
    class Wrong(OldestBlock):
        def __len__(self) -> int:
            return 0

    dispatcher = Dispatcher(10, Wrong())
    join(dispatcher, "m", 2)
    assert ask(dispatcher, tasks(1, 2)) == {b"m": [1, 2]}


def test_in_mpi_mode_a_block_has_one_manager() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.greet(b"a", protocol.hello("a", "0", "n1", 2, nodes=4), 0)
    [(_, frames)] = dispatcher.greet(b"b", protocol.hello("b", "0", "n2", 2, nodes=4), 0)
    answer = protocol.decode_greeting(frames[0])
    assert isinstance(answer, protocol.Refused)
    assert "SingleNodeLauncher" in answer.reason
    assert len(dispatcher.managers) == 1


@pytest.mark.parametrize("slots", [0, -1, 10**9])
def test_a_manager_that_cannot_be_is_refused(slots: int) -> None:
    dispatcher = Dispatcher(10)
    [(_, frames)] = dispatcher.greet(b"m", protocol.hello("m", "0", "node1", slots), 0)
    answer = protocol.decode_greeting(frames[0])
    assert isinstance(answer, protocol.Refused)
    assert f"{slots} workers" in answer.reason


def test_the_oldest_block_is_filled_first() -> None:
    dispatcher = Dispatcher(10, OldestBlock())
    for name, block in (("a", "0"), ("b", "1"), ("c", "0")):
        join(dispatcher, name, 2, block=block)
    assert ask(dispatcher, tasks(1, 2, 3)) == {b"a": [1, 3], b"c": [2]}
    assert ask(dispatcher, tasks(4, 5)) == {b"c": [4], b"b": [5]}


def test_every_task_is_reported_exactly_once_whatever_happens() -> None:
    generator = random.Random(11)
    dispatcher = Dispatcher(5)
    now, next_key, names = 0.0, 0, iter(f"m{i}" for i in range(10**6))
    submitted: set[int] = set()
    reported: list[int] = []
    cancelled: set[int] = set()
    holding: dict[bytes, list[int]] = {}

    def take(outputs: list[Output]) -> None:
        for identity, messages in sent(outputs).items():
            for message in messages:
                if identity is None:
                    reported.extend(r.key for r in message.results)
                elif isinstance(message, protocol.Tasks):
                    holding.setdefault(identity, []).extend(i.key for i in message.tasks)

    for _ in range(4000):
        now += generator.random() * 0.2
        step = generator.randrange(6)
        if step == 0:
            count = generator.randrange(1, 9)
            keys = range(next_key, next_key + count)
            next_key += count
            submitted.update(keys)
            if generator.random() < 0.7:
                take(dispatcher.from_executor(tasks(*keys), []))
                continue
            for key in keys:
                needs = {"slots": generator.randrange(1, 5), "priority": float(generator.randrange(-1, 2))}
                take(dispatcher.from_executor(needing(key, **needs), []))
        elif step == 1 and len(dispatcher.managers) < 5:
            take(join(dispatcher, next(names), generator.randrange(1, 4), now))
        elif step == 2 and submitted:
            key = generator.randrange(next_key)
            if key not in reported:
                cancelled.add(key)
                take(dispatcher.from_executor(protocol.Cancel([key]), []))
        elif step == 3 and holding and generator.random() < 0.3:
            identity = generator.choice(sorted(holding))
            back, holding[identity] = holding[identity][1:], holding[identity][:1]
            take(dispatcher.from_manager(identity, tasks(*back, known=True), [], now))
        elif step in (3, 4) and holding:
            identity = generator.choice(sorted(holding))
            done = [holding[identity].pop(0) for _ in range(generator.randrange(len(holding[identity]) + 1))]
            take(dispatcher.from_manager(identity, results(*done, capacity=generator.randrange(1, 6)), [], now))
        else:
            for identity in list(dispatcher.managers):
                if generator.random() < 0.9:
                    take(dispatcher.from_manager(identity, protocol.Heartbeat(), [], now))
            take(dispatcher.tick(now))
    take(join(dispatcher, "last", 2**20, now))
    while any(holding.get(i) for i in dispatcher.managers):
        for identity in list(dispatcher.managers):
            done, holding[identity] = holding.get(identity, []), []
            take(dispatcher.from_manager(identity, results(*done, capacity=10**6), [], now))
    assert len(reported) == len(set(reported))
    assert set(reported) | cancelled == submitted
    assert not set(reported) - submitted
    assert dispatcher.pending == 0
