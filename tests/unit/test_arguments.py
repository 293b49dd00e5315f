"""Futures and files among arguments: found once each, replaced where they are, all else left alone."""

from __future__ import annotations

import collections
from concurrent.futures import Future

import pytest

import flowcore
from flowcore import DataFuture, File
from flowcore.errors import ConfigurationError
from flowcore.kernel import arguments


def done(value):
    future: Future = Future()
    future.set_result(value)
    return future


def find(*args, **kwargs):
    return arguments.find(args, kwargs)


# --- finding


@pytest.mark.parametrize("args", [(), (1, "a", None, b"", 1.5, True, 2j)])
def test_plain_values_hold_nothing(args):
    assert arguments.find(args, {}) is None
    assert arguments.find((), {str(n): a for n, a in enumerate(args)}) is None


def test_containers_without_futures():
    found = find([1, {"a": (2, {3})}], x={})
    assert found is not None
    assert found.futures == []
    assert not found.files


@pytest.mark.parametrize(
    "place",
    [
        lambda f: f,
        lambda f: [f],
        lambda f: (f,),
        lambda f: {f},
        lambda f: frozenset([f]),
        lambda f: {"k": f},
        lambda f: {f: 1},
        lambda f: {(1, f): 1},
        lambda f: [1, ({"a": [{"b": (f,)}]},)],
    ],
)
def test_places(place):
    future = done(1)
    assert find(place(future)).futures == [future]
    assert find(x=place(future)).futures == [future]


def test_each_future_once_and_in_order():
    a, b, c = done(1), done(2), done(3)
    assert find(b, [a, b], a, x={c: b}).futures == [b, a, c]


def test_files():
    assert find([File("a")]).files
    assert find(x={"k": (File("a"),)}).files
    assert not find([done(1)]).files
    found = find(DataFuture(done(1), File("a")))
    assert len(found.futures) == 1


def test_a_shared_container_is_no_loop():
    shared = [done(1)]
    assert len(find([shared, shared], x=shared).futures) == 1


@pytest.mark.parametrize("kind", ["list", "dict", "deep"])
def test_loops_are_refused(kind):
    if kind == "dict":
        loop: object = {}
        loop["self"] = loop
    else:
        loop = []
        loop.append(loop if kind == "list" else {"a": (loop,)})
    name = type(loop).__name__
    with pytest.raises(ConfigurationError) as caught:
        find(loop)
    assert str(caught.value) == f"an argument holds a {name} that contains itself: a task cannot be given that"


def test_subclasses_of_containers_are_the_users_own_business():
    Point = collections.namedtuple("Point", "x")
    held = Point(done(1))
    assert find(held).futures == []
    assert arguments.replace(held, arguments.value_of) is held


# --- replacing


def test_values_take_the_places_of_futures():
    one, two = done("one"), done("two")
    value = [one, (two, {"k": {one}}), {two: [one]}, frozenset([one])]
    assert arguments.replace(value, arguments.value_of) == [
        "one",
        ("two", {"k": {"one"}}),
        {"two": ["one"]},
        frozenset(["one"]),
    ]
    assert value[0] is one  # the user's own is left alone


def test_what_has_no_future_is_the_same_object():
    untouched = {"a": [1, (2, {3})]}
    mixed = [untouched, done(1)]
    assert arguments.replace(untouched, arguments.value_of) is untouched
    replaced = arguments.replace(mixed, arguments.value_of)
    assert replaced == [untouched, 1]
    assert replaced[0] is untouched


def test_order_of_dicts_is_kept():
    value = {"z": done(1), "a": 2, "m": done(3)}
    assert list(arguments.replace(value, arguments.value_of).items()) == [("z", 1), ("a", 2), ("m", 3)]


def test_results_that_hold_futures_are_left_as_they_are():
    inner = done(1)
    assert arguments.replace(done([inner]), arguments.value_of) == [inner]


def test_all_arguments():
    args, kwargs = arguments.replace_all((done(1), 2), {"x": [done(3)]}, arguments.value_of)
    assert args == (1, 2)
    assert kwargs == {"x": [3]}


def test_leaves_are_what_is_no_container():
    seen = []
    arguments.replace([1, "a", (File("a"), {"k": None}), object], lambda leaf: seen.append(leaf) or leaf)
    assert [type(leaf) for leaf in seen] == [File, type]


def test_a_wide_argument():
    futures = [done(n) for n in range(10_000)]
    assert find(futures).futures == futures
    assert arguments.replace(futures, arguments.value_of) == list(range(10_000))


# --- what the user changes after the call


def test_snapshot_copies_only_what_holds_a_future():
    future, plain = Future(), [1, 2]
    value = {"a": [future, (plain, {future})], "b": plain}
    copy = arguments.snapshot(value)
    assert copy == value
    assert copy is not value
    assert copy["a"] is not value["a"]
    assert copy["b"] is plain
    assert copy["a"][1][0] is plain
    assert arguments.snapshot(plain) is plain
    assert arguments.snapshot({1: {2: 3}}.keys()) == {1: None}.keys()


def test_changes_after_the_call_are_not_part_of_it(tmp_path):
    there = Future()
    with flowcore.load(flowcore.Config(run_dir=tmp_path, initialize_logging=False)):

        @flowcore.python_app
        def total(values):
            return sum(values)

        values = [1, there]
        future = total(values)
        # A task that waited for its own result would wait for ever.
        values.append(future)
        there.set_result(2)
        assert future.result(timeout=60) == 3
        assert total(values).result(timeout=60) == 6
