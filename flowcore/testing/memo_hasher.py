"""The contract suite of memo hashers."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest

from flowcore.memoization import Hashing, installed_hashers
from flowcore.plugins.api import File, HashPart, MemoHasher
from flowcore.testing import functions

# What a fresh interpreter runs: it reads values and a hasher, and writes their hashes.
_PROBE = """
import pickle, sys
sys.path[:], made_of, values = pickle.load(sys.stdin.buffer)
from flowcore.testing.memo_hasher import hash_all
sys.stdout.buffer.write(pickle.dumps(hash_all(pickle.loads(made_of)(), pickle.loads(values))))
"""


def hash_all(hasher: MemoHasher, values: Sequence[Any], output_ref: bool = False) -> list[bytes]:
    """Return the hashes of values; their parts go to the installed hashers, this one first."""
    part = _part(hasher)
    return [hasher.hash(value, output_ref, part) for value in values]


def _part(hasher: MemoHasher) -> HashPart:
    installed, problems = installed_hashers()
    assert not problems, problems
    return Hashing([hasher, *installed])


class MemoHasherContract:
    """What every memo hasher promises; see :class:`flowcore.plugins.api.MemoHasher`.

    Subclass it, make the hasher in the fixture ``hasher``, and say in ``values`` what it is for::

        class TestMyHasher(MemoHasherContract):
            @pytest.fixture
            def hasher(self):
                return MyHasher()

            @pytest.fixture
            def values(self):
                return [MyTable([]), MyTable([1]), MyTable([2])]

            @pytest.fixture
            def equal_pairs(self):
                return [(MyTable([1, 2]), MyTable([2, 1]))]

    The values' classes must be importable, since values travel to another interpreter.
    """

    #: What it is not for.
    foreign: Any = object()

    @pytest.fixture
    def hasher(self) -> MemoHasher:
        """The hasher under test. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `hasher`")

    @pytest.fixture
    def values(self) -> Sequence[Any]:
        """Values that it handles, all different from one another."""
        return [
            None,
            True,
            0,
            1,
            2.5,
            "",
            "1",
            "grün",
            b"1",
            [],
            [1],
            [[1]],
            [1, 2],
            [2, 1],
            [12],
            (1, 2),
            {},
            {"a": 1},
            {"a": 2},
            {"b": 1},
            {"ab": "c"},
            {"a": "bc"},
            {1, 2},
            frozenset({1, 2}),
            {"a", "b", "c", "d"},
            functions.Colour.RED,
            functions.Colour.GREEN,
            functions.Point(1, 2),
            functions.Point(2, 1),
            functions.Point(1, {"x", "y", "z"}),
            functions.add,
            functions.refuse,
            functions.Refused,
            File("a.csv"),
            File("https://host/a.csv"),
        ]

    @pytest.fixture
    def equal_pairs(self) -> Sequence[tuple[Any, Any]]:
        """Pairs of equal values that look different."""
        return [
            ({"a": 1, "b": [2, {"c": 3, "d": 4}]}, {"b": [2, {"d": 4, "c": 3}], "a": 1}),
            ({"x", "y", "z"}, {"z", "y", "x"}),
            (functions.Point(1, {"a": 1, "b": 2}), functions.Point(1, {"b": 2, "a": 1})),
        ]

    def test_is_a_memo_hasher(self, hasher: MemoHasher) -> None:
        """It keeps the contract's class, and is made without arguments."""
        assert isinstance(hasher, MemoHasher)
        assert hasher.kind == "memo_hasher"
        assert isinstance(type(hasher)(), MemoHasher)

    def test_handles_what_it_is_for(self, hasher: MemoHasher, values: Sequence[Any]) -> None:
        """It says so, and says no to all else."""
        assert values
        for value in values:
            assert hasher.handles(value) is True, value
        assert hasher.handles(self.foreign) is False

    def test_returns_bytes(self, hasher: MemoHasher, values: Sequence[Any]) -> None:
        """For arguments and for references to outputs alike."""
        for output_ref in (False, True):
            assert {type(h) for h in hash_all(hasher, values, output_ref)} == {bytes}

    def test_equal_values_give_equal_bytes(
        self, hasher: MemoHasher, values: Sequence[Any], equal_pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        """Also copies of them, from another instance, and however they were built."""
        hashes = hash_all(hasher, values)
        assert hash_all(hasher, values) == hashes
        copies = [pickle.loads(cloudpickle.dumps(v)) for v in values]
        assert hash_all(type(hasher)(), copies) == hashes
        for one, other in equal_pairs:
            assert hash_all(hasher, [one]) == hash_all(hasher, [other]), f"{one!r} and {other!r}"

    def test_different_values_give_different_bytes(self, hasher: MemoHasher, values: Sequence[Any]) -> None:
        """All pairs of the values."""
        hashed = list(zip(values, hash_all(hasher, values), strict=True))
        for (one, first), (other, second) in itertools.combinations(hashed, 2):
            assert first != second, f"{one!r} and {other!r}"

    @pytest.mark.parametrize("seed", ["1", "4242"])
    def test_the_same_in_a_fresh_interpreter(self, hasher: MemoHasher, values: Sequence[Any], seed: str) -> None:
        """Neither addresses nor the order of sets nor anything else of this process is in the bytes."""
        written = subprocess.run(
            [sys.executable, "-c", _PROBE],
            input=pickle.dumps((sys.path, cloudpickle.dumps(type(hasher)), cloudpickle.dumps(list(values)))),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert written.returncode == 0, written.stderr.decode()
        there = pickle.loads(written.stdout)
        for value, here, other in zip(values, hash_all(hasher, values), there, strict=True):
            assert here == other, value

    def test_from_several_threads(self, hasher: MemoHasher, values: Sequence[Any]) -> None:
        """It is called from any thread."""
        expected = hash_all(hasher, values)
        with ThreadPoolExecutor(4) as pool:
            assert all(hashes == expected for hashes in pool.map(hash_all, [hasher] * 20, [values] * 20))
