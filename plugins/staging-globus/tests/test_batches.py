"""Which transfers go together, and when Globus is asked: a ledger that is told the time."""

from __future__ import annotations

import itertools
from concurrent.futures import Future

import pytest
from flowcore_staging_globus import batches
from flowcore_staging_globus.batches import Batch, Item, Ledger, State, Step
from flowcore_staging_globus.mapping import Location
from flowcore_staging_globus.outcomes import Stop
from flowcore_staging_globus.problems import Problem

BUSY = Problem("busy", passing=True)


def item(
    name: str = "a", action: str = "fetch", source: str = "x", destination: str = "y", due_at: float = 1000
) -> Item:
    there, here = Location(source, f"/{name}"), Location(destination, f"/{name}")
    return Item(action, f"globus://{source}/{name}", there, here, due_at, Future())


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(window_s=1, interval_s=2, patience_s=10, outage_s=60)


def opened(ledger: Ledger, now: float = 0, **options: object) -> Batch:
    """A batch that Globus took just now."""
    ledger.add(item(**options), now - 1)
    ((step, batch),) = ledger.due(now)
    assert step is Step.SUBMIT
    ledger.submitted(batch, "t-1", now)
    return batch


def test_what_comes_within_the_window_goes_together(ledger):
    ledger.add(item("a"), 0)
    ledger.add(item("b"), 0.9)
    assert ledger.due(0.99) == []
    assert ledger.next_at() == 1
    ((step, batch),) = ledger.due(1)
    assert step is Step.SUBMIT
    assert [i.url for i in batch.items] == ["globus://x/a", "globus://x/b"]


@pytest.mark.parametrize("other", [{"action": "push"}, {"source": "z"}, {"destination": "z"}])
def test_other_directions_and_endpoints_go_apart(ledger, other):
    ledger.add(item("a"), 0)
    ledger.add(item("b", **other), 0)
    assert len(ledger.due(1)) == 2


def test_files_whose_task_was_ended_by_others_go_apart_from_new_ones(ledger):
    again = item("b")
    again.tries = 2
    ledger.add(item("a"), 0)
    ledger.add(again, 0)
    assert len(ledger.due(1)) == 2


def test_what_comes_after_the_submission_goes_with_the_next(ledger):
    ledger.add(item("a"), 0)
    ((_, first),) = ledger.due(1)
    ledger.add(item("b"), 1)
    ledger.failed(first, BUSY, 1)
    assert len(first.items) == 1
    assert {step for step, _ in ledger.due(10)} == {Step.SUBMIT}
    assert len(ledger.due(10)) == 2


def test_a_batch_is_bounded(ledger):
    for n in range(batches.MOST_ITEMS + 1):
        ledger.add(item(str(n)), 0)
    ((_, full),) = ledger.due(0)
    assert len(full.items) == batches.MOST_ITEMS
    ledger.submitted(full, "t", 0)
    ((_, rest),) = ledger.due(1)
    assert len(rest.items) == 1


def test_two_files_for_one_place_are_in_two_tasks(ledger):
    ledger.add(item("a"), 0)
    ledger.add(item("b"), 0)
    ledger.add(item("a"), 0)
    assert [[i.url[-1] for i in batch.items] for _, batch in ledger.due(1)] == [["a", "b"], ["a"]]


def test_when_to_look_again(ledger):
    """Only what may make something due earlier wakes the thread."""
    assert ledger.add(item("a", due_at=50), 0) is True
    assert ledger.add(item("b", due_at=60), 0) is False
    assert ledger.add(item("c", due_at=40), 0) is True
    for n in range(batches.MOST_ITEMS - 4):
        assert ledger.add(item(str(n), due_at=60), 0) is False
    assert ledger.add(item("last", due_at=60), 0) is True
    assert ledger.next_at() == 0


def test_a_batch_that_has_ended_is_not_another_one(ledger):
    batch = opened(ledger)
    ledger.ended(batch)
    ledger.add(item("a"), 0)
    ledger.ended(batch)
    assert len(list(ledger.batches())) == 1


def test_open_tasks_are_bounded_and_the_others_gather_meanwhile(ledger, monkeypatch):
    monkeypatch.setattr(batches, "MOST_OPEN", 2)
    for n in range(4):
        ledger.add(item("a", source=f"s{n}"), 0)
    first, second = [batch for _, batch in ledger.due(1)]
    ledger.submitted(first, "t1", 1)
    ledger.submitted(second, "t2", 1)
    ledger.add(item("b", source="s3"), 2)
    assert [step for step, _ in ledger.due(2.9)] == []
    # Nothing is due before something about the open ones is.
    assert ledger.next_at() == 3
    ledger.ended(first)
    ((step, third),) = ledger.due(2.9)
    assert step is Step.SUBMIT
    assert third.items[0].source.endpoint == "s2"
    ledger.submitted(third, "t3", 2.9)
    ledger.ended(second)
    ((_, fourth),) = ledger.due(2.9)
    assert len(fourth.items) == 2


def test_old_tasks_are_asked_about_less_often(ledger):
    batch = opened(ledger, due_at=1e9)
    times = []
    now = 0.0
    for _ in range(400):
        now = ledger.next_at()
        assert ledger.due(now) == [(Step.ASK, batch)]
        times.append(now)
        assert ledger.asked(batch, {"status": "ACTIVE", "nice_status": "OK"}, now) is False
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(times)]
    assert times[0] == 2
    assert gaps[0] == 2
    assert gaps == sorted(gaps)
    assert gaps[-1] == batches.LONGEST_INTERVAL_S


def test_the_end_of_a_task(ledger):
    batch = opened(ledger)
    assert ledger.asked(batch, {"status": "SUCCEEDED"}, 5) is True
    ledger.ended(batch)
    assert not ledger
    assert ledger.next_at() is None


def test_deadline(ledger):
    batch = opened(ledger, due_at=5)
    assert ledger.due(4) == [(Step.ASK, batch)]
    ledger.asked(batch, {"status": "ACTIVE"}, 4)
    assert ledger.next_at() == 5
    assert ledger.due(5) == [(Step.CANCEL, batch)]
    assert batch.stop is Stop.DEADLINE
    ledger.cancelled(batch, 5)
    assert ledger.due(5) == [(Step.ASK, batch)]
    assert ledger.asked(batch, {"status": "FAILED"}, 5) is True


def test_a_task_that_does_not_stop(ledger):
    batch = opened(ledger, due_at=5)
    ledger.due(5)
    ledger.cancelled(batch, 5)
    assert ledger.asked(batch, {"status": "ACTIVE"}, 5) is False
    assert ledger.due(5 + batches.STOPPING_S) == [(Step.END, batch)]


def test_a_cancellation_that_does_not_get_through(ledger, monkeypatch):
    monkeypatch.setattr(batches, "STOPPING_S", 25)
    batch = opened(ledger, due_at=5)
    now = 5.0
    seen = []
    while not seen or seen[-1] is not Step.END:
        ((step, _),) = ledger.due(now)
        seen.append(step)
        if step is Step.CANCEL:
            assert ledger.failed(batch, BUSY, now) is False
            now = ledger.next_at()
    assert seen[:2] == [Step.CANCEL, Step.CANCEL]
    assert now == 5 + batches.STOPPING_S


def test_an_outage_while_a_task_is_stopped_makes_no_haste(ledger):
    batch = opened(ledger, due_at=5)
    ledger.due(5)
    now = 5 + batches.STOPPING_S
    assert ledger.due(now) == [(Step.END, batch)]
    ledger.failed(batch, BUSY, now)
    assert ledger.due(now) == []
    assert ledger.next_at() > now


def test_deadline_before_the_submission(ledger):
    ledger.add(item(due_at=0.5), 0)
    assert ledger.next_at() == 0.5
    ((step, batch),) = ledger.due(0.5)
    assert step is Step.DROP
    ledger.ended(batch)
    assert not ledger


def test_the_first_deadline_counts_for_all(ledger):
    ledger.add(item("a", due_at=50), 0)
    ledger.add(item("b", due_at=40), 0)
    assert ledger.due(1)[0][1].due_at == 40


def test_faults_that_waiting_does_not_mend(ledger):
    batch = opened(ledger)
    bad = {"status": "ACTIVE", "nice_status": "PERMISSION_DENIED"}
    ledger.asked(batch, bad, 2)
    ledger.asked(batch, {"status": "ACTIVE", "nice_status": "OK"}, 4)
    ledger.asked(batch, bad, 6)
    ledger.asked(batch, bad, 15.9)
    assert batch.state is State.OPEN
    assert ledger.next_at() == 16
    ledger.asked(batch, bad, 16)
    assert batch.stop is Stop.HOPELESS
    assert ledger.due(16) == [(Step.CANCEL, batch)]


def test_a_task_that_goes_on_with_other_files_is_not_hopeless(ledger):
    batch = opened(ledger)
    for now in range(2, 40, 4):
        ledger.asked(batch, {"status": "ACTIVE", "nice_status": "PERMISSION_DENIED", "bytes_transferred": now}, now)
    assert batch.state is State.OPEN
    ledger.asked(batch, {"status": "ACTIVE", "nice_status": "PERMISSION_DENIED", "bytes_transferred": 38}, 48)
    assert batch.stop is Stop.HOPELESS


def test_suspended(ledger):
    batch = opened(ledger)
    ledger.asked(batch, {"status": "INACTIVE"}, 2)
    assert ledger.due(2) == [(Step.CANCEL, batch)]
    assert batch.stop is Stop.SUSPENDED


def test_pauses_between_attempts_grow(ledger):
    batch = opened(ledger)
    pauses = []
    for _ in range(5):
        now = batch.next_at
        assert ledger.failed(batch, BUSY, now) is False
        pauses.append(batch.next_at - now)
    # The last attempt is made at the end of the patience.
    assert pauses == [2, 4, 8, 16, 30]
    assert ledger.failed(batch, BUSY, batch.next_at) is True


def test_an_answer_ends_an_outage(ledger):
    batch = opened(ledger)
    for now in (2, 30, 58):
        assert ledger.failed(batch, BUSY, now) is False
    ledger.asked(batch, {"status": "ACTIVE"}, 60)
    assert ledger.failed(batch, BUSY, 100) is False
    assert batch.next_at == 102


def test_retry_after(ledger):
    batch = opened(ledger)
    assert ledger.failed(batch, Problem("busy", passing=True, retry_after_s=45), 2) is False
    assert batch.next_at == 47
    # Longer than the patience.
    assert ledger.failed(batch, Problem("busy", passing=True, retry_after_s=3600), 47) is True


def test_what_does_not_pass_is_the_end(ledger):
    batch = opened(ledger)
    assert ledger.failed(batch, Problem("no"), 2) is True


def test_nobody_waits(ledger):
    ledger.add(item("a"), 0)
    ledger.add(item("b"), 0)
    batch = next(ledger.batches())
    batch.items[0].future.cancel()
    assert ledger.due(0.5) == []
    batch.items[1].future.cancel()
    assert ledger.due(0.5) == [(Step.DROP, batch)]


def test_nobody_waits_for_an_open_task(ledger):
    batch = opened(ledger)
    batch.items[0].future.cancel()
    assert ledger.due(0.5) == [(Step.CANCEL, batch)]
    assert batch.stop is Stop.UNWANTED
