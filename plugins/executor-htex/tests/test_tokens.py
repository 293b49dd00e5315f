"""Tokens: the right to begin an attempt belongs to one side, whatever happens at the same time."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest
from flowcore_executor_htex.tokens import Claims, Tokens


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    made = Tokens()
    yield made
    made.close()


def test_a_worker_begins_as_many_as_it_has_tokens_for(tokens: Tokens) -> None:
    claims = Claims(tokens.reader)
    tokens.put(2)
    assert [claims.claim(0) for _ in range(3)] == [True, True, False]


def test_what_was_taken_back_is_not_begun_and_what_came_later_is(tokens: Tokens) -> None:
    claims = Claims(tokens.reader)
    tokens.put(3)
    assert claims.claim(0)
    assert tokens.take_back() == 2
    tokens.put(1)
    assert tokens.epoch == 1
    assert not claims.claim(0), "the rest of the first batch is another's now"
    assert claims.claim(1)
    assert not claims.claim(1)


def test_with_nothing_to_take_back_nothing_changes(tokens: Tokens) -> None:
    assert tokens.take_back() == 0
    assert tokens.epoch == 0


def test_each_attempt_is_begun_once_while_both_sides_race(tokens: Tokens) -> None:
    """A worker that begins batches, and a manager that takes back at random and gives again."""
    total = 4000
    batches: list[tuple[int, list[int]]] = []
    arrived = threading.Semaphore(0)
    begun: list[int] = []

    def work() -> None:
        claims = Claims(tokens.reader)
        position = 0
        while True:
            arrived.acquire()
            epoch, keys = batches[position]
            position += 1
            if not keys:
                return
            for key in keys:
                if not claims.claim(epoch):
                    break
                begun.append(key)

    worker = threading.Thread(target=work)
    worker.start()
    generator = random.Random(5)
    waiting = list(range(total))
    given: list[int] = []

    def give(keys: list[int]) -> None:
        tokens.put(len(keys))
        batches.append((tokens.epoch, keys))
        arrived.release()

    while waiting:
        size = generator.randrange(1, 20)
        batch, waiting = waiting[:size], waiting[size:]
        given += batch
        give(batch)
        if generator.random() < 0.5:
            # As the pool does it: the last ones that were given are those that were not begun.
            taken = tokens.take_back()
            waiting = given[len(given) - taken :] + waiting
            del given[len(given) - taken :]
    batches.append((0, []))
    arrived.release()
    worker.join(10)
    assert not worker.is_alive()
    assert sorted(begun) == list(range(total))


def test_both_ends_are_closed() -> None:
    made = Tokens()
    reader = made.reader
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(reader, 1)
