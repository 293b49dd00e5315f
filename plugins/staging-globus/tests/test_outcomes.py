"""What Globus's documents about a task mean for each of its files: pure functions."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from flowcore_staging_globus.batches import Item
from flowcore_staging_globus.mapping import Location
from flowcore_staging_globus.outcomes import (
    MOST_TRIES,
    Condition,
    Failed,
    Fine,
    Report,
    Stop,
    condition,
    general_reason,
    judge,
    pause_messages,
)

TASK = {"task_id": "t-1", "source_endpoint_display_name": "lab", "destination_endpoint_display_name": "cluster"}


def item(name: str, tries: int = 1) -> Item:
    return Item(
        "fetch",
        f"globus://x/{name}",
        Location("x", f"/in/{name}"),
        Location("y", f"/out/{name}"),
        0,
        Future(),
        tries=tries,
    )


def error(code: str, path: str | None = None, time: str = "2026-01-01") -> dict:
    details = f"Error (transfer)\nServer: s\nFile: {path}\nMessage: no\n---\n" if path else "the details"
    return {"code": code, "description": "described", "details": details, "is_error": True, "time": time}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"status": "SUCCEEDED"}, Condition.ENDED),
        ({"status": "FAILED", "nice_status": "PERMISSION_DENIED"}, Condition.ENDED),
        ({"status": "INACTIVE"}, Condition.SUSPENDED),
        ({"status": "ACTIVE", "nice_status": "OK"}, Condition.GOING),
        ({"status": "ACTIVE", "nice_status": None}, Condition.GOING),
        ({"status": "ACTIVE", "nice_status": "Queued"}, Condition.GOING),
        ({"status": "ACTIVE", "nice_status": "CONNECT_FAILED"}, Condition.GOING),
        ({"status": "ACTIVE", "nice_status": "PAUSED", "is_paused": True}, Condition.GOING),
        ({"status": "ACTIVE", "nice_status": "FILE_NOT_FOUND"}, Condition.HOPELESS),
        ({"status": "ACTIVE", "nice_status": "PERMISSION_DENIED"}, Condition.HOPELESS),
        ({}, Condition.GOING),
    ],
)
def test_conditions(task, expected):
    assert condition(task) is expected


def test_all_arrived():
    assert judge([item("a"), item("b")], Report({**TASK, "status": "SUCCEEDED"}), None) == [Fine.ARRIVED] * 2


def test_some_were_left_out():
    report = Report({**TASK, "status": "SUCCEEDED"}, skipped={"/in/b": ("FILE_NOT_FOUND", "Error\nno such file")})
    good, bad = judge([item("a"), item("b")], report, None)
    assert good is Fine.ARRIVED
    assert bad == Failed(
        "Globus task t-1 from 'lab' to 'cluster' left it out: FILE_NOT_FOUND (Error; no such file). Is the path the "
        "endpoint's own, and not the one of the file system behind it?",
        passing=False,
    )


def test_a_failed_task_tells_each_file():
    report = Report(
        {**TASK, "status": "FAILED"},
        [error("PERMISSION_DENIED", "/out/b")],
        frozenset({("/in/a", "/out/a")}),
    )
    first, second, third = judge([item("a"), item("b"), item("c")], report, Stop.HOPELESS)
    assert first is Fine.ARRIVED
    assert isinstance(second, Failed)
    assert second.reason.startswith(
        "Globus task t-1 from 'lab' to 'cluster' could not move it: PERMISSION_DENIED (Error"
    )
    assert not second.passing
    assert third is Fine.AGAIN


def test_the_others_are_not_tried_for_ever():
    report = Report({**TASK, "status": "FAILED"}, [error("PERMISSION_DENIED", "/out/b")])
    _, again = judge([item("b", MOST_TRIES), item("c", MOST_TRIES)], report, Stop.HOPELESS)
    assert isinstance(again, Failed)
    assert "the transfer was held up, and was cancelled; its last fault was PERMISSION_DENIED" in again.reason


def test_nobody_is_tried_again_when_nobody_is_to_blame():
    report = Report({**TASK, "status": "FAILED", "fatal_error": {"code": "ENDPOINT_GONE", "description": "gone"}})
    (outcome,) = judge([item("a")], report, None)
    assert outcome == Failed(
        "Globus task t-1 from 'lab' to 'cluster': the transfer failed; Globus says: ENDPOINT_GONE (gone)"
    )


def test_nobody_is_tried_again_after_the_deadline():
    report = Report({**TASK, "status": "FAILED"}, [error("FILE_NOT_FOUND", "/in/a")])
    first, second = judge([item("a"), item("b")], report, Stop.DEADLINE)
    assert isinstance(first, Failed)
    assert isinstance(second, Failed)
    assert "it did not arrive within deadline_s" in second.reason


def test_the_newest_fault_is_told():
    report = Report({"task_id": "t-1", "status": "FAILED"}, [error("CONNECT_FAILED"), error("TIMEOUT")])
    assert general_reason(report, Stop.DEADLINE) == (
        "Globus task t-1: it did not arrive within deadline_s, and the transfer was cancelled; "
        "its last fault was CONNECT_FAILED (the details)"
    )


def test_the_state_is_told_where_there_is_no_event():
    task = {
        "task_id": "t",
        "status": "ACTIVE",
        "nice_status": "CONNECT_FAILED",
        "nice_status_short_description": "no one",
    }
    assert general_reason(Report(task), Stop.DEADLINE).endswith("its state was CONNECT_FAILED (no one)")
    assert "its state" not in general_reason(Report({**task, "nice_status": "Queued"}), Stop.DEADLINE)


def test_long_details_are_cut():
    report = Report({**TASK, "status": "FAILED"}, [{**error("TIMEOUT"), "details": "x" * 10_000}])
    assert len(general_reason(report, None)) < 600


def test_pauses():
    assert pause_messages({"source_pause_message": "a", "pause_rules": [{"message": "b"}, {"message": "a"}]}) == (
        "and says: a; b"
    )
    assert pause_messages({}) == "without a message"
    report = Report(TASK, pause="and says: a")
    assert "an endpoint's administrator has paused it, and says: a" in general_reason(report, Stop.DEADLINE)
