"""``id_for_memo``: programs say what identifies values of their own types."""

from __future__ import annotations

import abc
import hashlib
from collections import OrderedDict

import pytest

from flowcore import python_app
from flowcore.errors import MemoizationError
from flowcore.memoization import id_for_memo
from flowcore.plugins.api import hookimpl

WAIT_S = 60


class Grid:
    def __init__(self, *cells):
        self.cells = cells


class FineGrid(Grid):
    pass


class Shape(abc.ABC):  # noqa: B024 - what is registered is the class, not what it does
    """Registered by its abstract class."""


class Square(Shape):
    def __init__(self, side):
        self.side = side


class Wrong:
    pass


class Unknown:
    pass


ASKED: list = []


@id_for_memo.register
def _(grid: Grid, output_ref: bool = False) -> bytes:
    ASKED.append((type(grid).__name__, output_ref))
    return b"grid" + id_for_memo(list(grid.cells), output_ref=output_ref)


@id_for_memo.register
def _(shape: Shape, output_ref: bool = False) -> bytes:
    return repr(vars(shape)).encode()


@id_for_memo.register(Wrong)
def _(wrong, output_ref=False):
    return "text"


@pytest.fixture(autouse=True)
def nothing_asked():
    ASKED.clear()


CALLS: list = []


@python_app(cache=True)
def count(value):
    CALLS.append(value)
    return len(CALLS)


def test_what_the_core_knows():
    assert id_for_memo(1) == id_for_memo(1) != id_for_memo(2)
    assert id_for_memo([1, {"a": 2}]) == id_for_memo([1, {"a": 2}])
    assert id_for_memo({"a": 3, "b": 4}) == id_for_memo({"b": 4, "a": 3})
    assert isinstance(id_for_memo(None), bytes)


def test_own_types_and_their_subclasses():
    assert id_for_memo(Grid(1)) == id_for_memo(Grid(1)) != id_for_memo(Grid(2))
    assert id_for_memo(FineGrid(1)).startswith(b"grid")
    assert id_for_memo(Square(1)) != id_for_memo(Square(2))


def test_inside_containers_and_own_types_inside_own_types():
    assert id_for_memo({"g": [Grid(Grid(1))]}) == id_for_memo({"g": [Grid(Grid(1))]})
    assert id_for_memo((Grid(1), OrderedDict(a=Grid(2)))) != id_for_memo((Grid(1), OrderedDict(a=Grid(3))))


def test_unknown_types():
    with pytest.raises(MemoizationError, match="unknown type for memoization: .*Unknown"):
        id_for_memo(Unknown())
    # Also where a registered function asks for a part of its value.
    with pytest.raises(MemoizationError, match="id_for_memo.register"):
        id_for_memo(Grid(Unknown()))


def test_a_function_that_returns_no_bytes():
    with pytest.raises(MemoizationError, match="Wrong returned 'text' of type str: it must return bytes"):
        id_for_memo([Wrong()])


def test_in_apps(load):
    load()
    assert count(Grid(1, 2)).result(WAIT_S) == count(Grid(1, 2)).result(WAIT_S)
    assert count(Grid(1, 2)).result(WAIT_S) != count(Grid(2, 1)).result(WAIT_S)
    assert isinstance(count(Unknown()).exception(WAIT_S), MemoizationError)


def test_output_ref(load):
    load()

    @python_app(cache=True)
    def make(grid, outputs=()):
        return 1

    id_for_memo([Grid(1)], output_ref=True)
    assert ASKED == [("Grid", True)]
    ASKED.clear()
    make(Grid(1)).result(WAIT_S)
    assert ASKED == [("Grid", False)]


def test_before_the_hook_of_a_plugin_which_is_asked_for_parts(load):
    class Plugin:
        @hookimpl
        def flowcore_memo_hash(self, obj, output_ref):
            ASKED.append(obj)
            return hashlib.sha256(b"plugin").digest() if isinstance(obj, Unknown) else None

    load(hooks=[Plugin()])
    grid, part = Grid(), Unknown()
    grid.cells = (part,)
    count(grid).result(WAIT_S)
    assert part in ASKED
    assert grid not in ASKED
