"""Records: events as they are delivered survive the journal, errors keep what explains them, causes group."""

from __future__ import annotations

import msgspec
import pytest
from flowcore_monitoring_sqlite import records
from flowcore_monitoring_sqlite.records import Encoder, failure_of, general_cause

from flowcore.errors import BashExitFailure, DependencyError
from flowcore.plugins.api import TaskEvent
from flowcore.serialize import RemoteTraceback


def decoded(*facts):
    return msgspec.msgpack.decode(Encoder().encode(*facts))


def event(error=None, name="app"):
    return TaskEvent(1, name, "python", "failed", None, 2.0, 0, "htex", None, (0,), error)


def test_an_event_is_a_list_of_its_fields():
    assert decoded(records.TASKS, [event()]) == [
        "tasks",
        [[1, "app", "python", "failed", None, 2.0, 0, "htex", None, [0], None, 0, 0.0, [], *[None] * 5]],
    ]


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def test_an_error_keeps_its_text_its_notes_and_its_traceback():
    error = raised(ValueError("wrong\nvery"))
    error.add_note("flowcore: first\n  line")
    error.add_note("second")
    name, cause, text, notes, trace = decoded(records.TASKS, [event(error)])[1][0][10]
    assert (name, cause, text) == ("ValueError", "ValueError: wrong", "wrong\nvery")
    assert notes == "flowcore: first line\nsecond"
    assert "in raised" in trace


def test_the_traceback_from_another_process_is_kept():
    error = ValueError("there")
    error.__cause__ = RemoteTraceback("Traceback of the worker")
    assert failure_of(error, True)[4] == "Traceback of the worker"


def test_what_failed_for_another_failure_has_that_as_its_cause():
    root = raised(KeyError("x"))
    error = DependencyError([(root, "task 0")], 1)
    name, cause, text, _, trace = failure_of(error, True)
    assert (name, cause, trace) == ("DependencyError", "KeyError: 'x'", None)
    assert "therefore task 1 did not run" in text


def test_a_class_whose_text_cannot_be_had_is_recorded():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    assert failure_of(Broken(), False)[:3] == (
        "Broken",
        "Broken: (its text cannot be had: __str__ failed)",
        "(its text cannot be had: __str__ failed)",
    )


def test_tracebacks_of_a_batch_are_bounded():
    batch = [event(raised(ValueError(n))) for n in range(records.TRACEBACKS + 30)]
    encoder = Encoder()
    for _ in range(2):  # each batch anew
        errors = [row[10] for row in msgspec.msgpack.decode(encoder.encode(records.TASKS, batch))[1]]
        assert [error[4] is not None for error in errors] == [True] * records.TRACEBACKS + [False] * 30


def test_long_texts_are_cut_in_their_middle():
    text = failure_of(ValueError("a" * 9000 + "z"), False)[2]
    assert len(text) < 8100
    assert text.startswith("aaa")
    assert text.endswith("aaz")
    assert "1001 characters are left out" in text


def test_text_that_is_none_and_numbers_that_are_too_large_are_mended():
    assert decoded(records.TASKS, [event(name="a\udcff")])[1][0][1] == "a\\udcff"
    assert decoded(records.BEGIN, {"a\udcff": 2**70})[1] == {"a\\udcff": float(2**70)}
    assert decoded(records.TASKS, [event(ValueError("a\udcff"))])[1][0][10][2] == "a\\udcff"


def test_what_is_no_plain_value_is_recorded_as_text():
    assert decoded(records.BEGIN, {"a": object}) == ["begin", {"a": "<class 'object'>"}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: bad value 3", "ValueError: bad value 41"),
        ("FileNotFoundError: no file '/data/a/17.csv'", "FileNotFoundError: no file '/data/b/x.csv'"),
        ("RuntimeError: <object at 0x7f00aa>", "RuntimeError: <object at 0x1>"),
        (
            "OSError: id 11111111-2222-3333-4444-555555555555 is gone",
            "OSError: id aaaaaaaa-2222-3333-4444-555555555555 is gone",
        ),
        ("ValueError: 1.5 is too much", "ValueError: 2 is too much"),
    ],
)
def test_causes_that_differ_in_numbers_are_one(one, other):
    assert general_cause(one) == general_cause(other)


def test_causes_that_differ_otherwise_are_several():
    causes = ["ValueError: a", "KeyError: a", "ValueError: b", "HTTP404: a", "HTTP500: a"]
    assert len({general_cause(cause) for cause in causes}) == len(causes)


def test_exit_codes_and_signals_tell_causes_apart():
    def cause(code):
        return general_cause(failure_of(BashExitFailure("run", code), False)[1])

    assert cause(1).startswith("BashExitFailure: bash_app run failed with unix exit code 1 ")
    assert len({cause(1), cause(2), cause(-9)}) == 3


def test_the_last_words_of_a_command_are_part_of_its_cause():
    error = BashExitFailure("run", 3, "many\nlines\nno licence")
    assert failure_of(error, False)[1].endswith("exit code 3; its stderr ends with: no licence")


def test_a_long_cause_is_cut():
    assert len(general_cause("ValueError: " + "x" * 1000)) == records.CAUSE_LIMIT
