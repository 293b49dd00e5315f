"""The memo hashers, where they say more than the contract: above all, what must not be taken for the same."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from flowcore import File
from flowcore.builtin.memo_hashers import NumpyMemoHasher, StandardMemoHasher
from flowcore.errors import MemoizationError
from flowcore.memoization import Hashing
from flowcore.plugins.identity import function_identity

identify = Hashing([NumpyMemoHasher(), StandardMemoHasher()])


class Shade(enum.Enum):
    DARK = 1
    LIGHT = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Data:
    x: int
    y: Any = None


@attrs.define
class Attrs:
    x: int
    y: Any = None


def times(factor: int) -> Callable[[int], int]:
    def product(x: int) -> int:
        return x * factor

    return product


def with_default(factor: int) -> Callable[..., int]:
    def product(x: int, factor: int = factor) -> int:
        return x * factor

    return product


def with_named_default(factor: int) -> Callable[..., int]:
    def product(x: int, *, factor: int = factor) -> int:
        return x * factor

    return product


def recursive() -> Callable[[int], int]:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    return factorial


def both_ways() -> Callable[[int], bool]:
    def even(n: int) -> bool:
        return odd(n - 1) if n else True

    def odd(n: int) -> bool:
        return even(n - 1) if n else False

    return even


def unassigned() -> Callable[[], Any]:
    def read() -> Any:
        return later

    if read is None:
        later = 1
    return read


PLUS, MINUS = (lambda x: x + 1), (lambda x: x - 1)
NOW = datetime.datetime(2024, 4, 1, 12, 30)

DIFFERENT = {
    "numbers": [0, 1, 2, 1.0, True, False, 1 + 0j, decimal.Decimal("1"), decimal.Decimal("1.5")],
    "texts": ["", "a", b"a", bytearray(b"a"), "b", None, "None", "\ud800"],
    "containers": [
        [],
        (),
        set(),
        frozenset(),
        {},
        [[]],
        [()],
        ["a", "b"],
        ["ab"],
        [["a"], "b"],
        [["a", "b"]],
    ],
    "dicts": [{"a": "b"}, {"b": "a"}, {"a": "b", "c": "d"}, {"a": "bc", "d": ""}, {1: "a"}, {"1": "a"}],
    "times": [
        NOW,
        NOW.date(),
        NOW.time(),
        NOW.replace(tzinfo=datetime.UTC),
        datetime.timedelta(1),
        datetime.timedelta(2),
    ],
    "paths": [
        "a",
        pathlib.PurePosixPath("a"),
        pathlib.PurePosixPath("b"),
        File("a"),
        File("b"),
        File("file:///a"),
    ],
    "enums": [Shade.DARK, Shade.LIGHT, Shade, 1, "DARK"],
    "flags": [Access(0), Access.READ, Access.WRITE, Access.READ | Access.WRITE],
    "classes": [
        Data(1),
        Data(2),
        Data(1, 1),
        Attrs(1),
        Attrs(2),
        Data,
        Attrs,
        Data(1, Data(1)),
        {"x": 1, "y": None},
    ],
    "closures": [times(1), times(2), times],
    "defaults": [with_default(1), with_default(2)],
    "named defaults": [with_named_default(1), with_named_default(2)],
    "lambdas of one line": [PLUS, MINUS],
    "partials": [functools.partial(max, 1), functools.partial(max, 2), functools.partial(min, 1), max, min],
    "partials by name": [functools.partial(times, factor=1), functools.partial(times, factor=2)],
    "methods of builtins": ["abc".upper, "abd".upper, "abc".lower, [1].append, [2].append],
    "methods": [Shade.DARK.__repr__, Shade.LIGHT.__repr__],
    "others": [range(3), range(4), uuid.UUID(int=1), uuid.UUID(int=2), len, int, str],
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different(values: list[Any]) -> None:
    hashes = [identify(v) for v in values]
    for i, first in enumerate(hashes):
        for j, second in enumerate(hashes[:i]):
            assert first != second, (values[i], values[j])


SAME = {
    "dicts": lambda: {"a": 1, "b": 2},
    "closures": lambda: times(3),
    "defaults": lambda: with_default(3),
    "recursive functions": recursive,
    "functions that know each other": both_ways,
    "cells that nothing was assigned to": unassigned,
    "partials": lambda: functools.partial(max, [1, 2]),
    "data classes": lambda: Data(1, {"a": {1, 2, 3}}),
    "attrs classes": lambda: Attrs(1, [Data(2)]),
    "paths": lambda: pathlib.Path("a/b"),
    "flags": lambda: Access(0),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME.keys())
def test_same(make: Callable[[], Any]) -> None:
    assert identify(make()) == identify(make())


def test_order_of_dicts_and_sets() -> None:
    assert identify({"a": 1, "b": 2}) == identify({"b": 2, "a": 1})
    assert identify({"a", "b", "c"}) == identify({"c", "b", "a"})
    assert identify([1, 2]) != identify([2, 1])


def test_a_file_is_its_url() -> None:
    here = File("https://host/a.csv")
    here.local_path = "/tmp/a.csv"
    assert identify(here) == identify(File("https://host/a.csv"))


def test_what_has_no_hasher_is_named() -> None:
    class Opaque: ...

    for value in (Opaque(), [1, Opaque()], {"a": Data(1, Opaque())}):
        with pytest.raises(MemoizationError, match="unknown type for memoization: .*Opaque"):
            identify(value)


def test_hashers_for_parts_are_of_any_type() -> None:
    # A part of a container goes to the hasher that is right for it, however long its bytes are.
    class Opaque:
        def __init__(self, text: bytes) -> None:
            self.text = text

    def hook(obj: Any, output_ref: bool) -> bytes | None:
        return obj.text if isinstance(obj, Opaque) else None

    hashing = Hashing([StandardMemoHasher()], hook)

    def of(*texts: bytes) -> bytes:
        return hashing([Opaque(t) for t in texts])

    assert of(b"a", b"bc") != of(b"ab", b"c")
    assert of(b"") != of()
    assert of(b"", b"a") == of(b"", b"a")


# --- the identity of functions


def test_identity_without_source() -> None:
    def made(body: str) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(f"def f(x):\n    {body}\n", names)
        return names["f"]

    assert function_identity(made("return x + 1")) == function_identity(made("return x + 1"))
    assert function_identity(made("return x + 1")) != function_identity(made("return x + 2"))
    assert function_identity(made("return abs(x)")) != function_identity(made("return len(x)"))
    # Functions inside: their constants, and the names that they use.
    inner = "return (lambda: {}(x))()".format
    assert function_identity(made(inner("abs"))) == function_identity(made(inner("abs")))
    assert function_identity(made(inner("abs"))) != function_identity(made(inner("len")))


def test_identity_does_not_depend_on_the_order_of_sets() -> None:
    import os
    import subprocess
    import sys

    code = (
        "from flowcore.plugins.identity import function_identity\n"
        'exec(\'def f(x): return x in {"a", "b", "c", "d"}\')\n'
        "print(function_identity(f).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
    assert len(seen.pop()) == 65


def test_identity_of_what_cannot_be_remembered() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None: ...

    assert function_identity(Unhashable()) == function_identity(Unhashable())
    assert function_identity(len) != function_identity(max)


# --- numpy


def test_numpy_is_not_imported_for_others() -> None:
    import subprocess
    import sys

    code = (
        "from flowcore.builtin.memo_hashers import NumpyMemoHasher\nimport sys\n"
        "assert NumpyMemoHasher().handles(1) is False\nassert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_arrays_in_containers() -> None:
    np = pytest.importorskip("numpy")
    assert identify({"a": [np.arange(3)]}) == identify({"a": [np.arange(3)]})
    assert identify({"a": [np.arange(3)]}) != identify({"a": [np.arange(3) + 1]})
    assert identify(Data(1, np.zeros(2))) != identify(Data(1, np.zeros(3)))
    nested = np.array([{"a": 1}, None], dtype=object)
    assert identify(nested) == identify(np.array([{"a": 1}, None], dtype=object))


def test_arrays_of_objects_without_a_hasher() -> None:
    np = pytest.importorskip("numpy")

    class Opaque: ...

    with pytest.raises(MemoizationError, match="Opaque"):
        identify(np.array([Opaque()], dtype=object))
