"""``Memoizer`` on records, and ``id_for_memo``."""

from __future__ import annotations

from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from flowcore.errors import MemoizationError


def area(width: int, height: int = 1, note: str = "") -> int:
    return width * height


def record(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {
        "func": area, "func_name": "area", "args": args, "kwargs": kwargs, "ignore_for_cache": ["note"],
        "memoize": True, "hashsum": None, "id": 0, "join": False,
    }  # fmt: skip


def done(value: Any = None, error: Exception | None = None) -> Future[Any]:
    future: Future[Any] = Future()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


def test_equal_calls_have_one_hash(parsl: ModuleType) -> None:
    from parsl.dataflow.memoization import Memoizer

    memoizer = Memoizer(None)
    key = memoizer.make_hash(record(2, 3))
    assert key == memoizer.make_hash(record(2, height=3, note="ignored"))
    assert key != memoizer.make_hash(record(3, 2))


def test_look_up_check_and_update(parsl: ModuleType) -> None:
    from parsl.dataflow.memoization import Memoizer

    memoizer = Memoizer(None, True, {})
    task = record(2, 3)
    assert memoizer.check_memo(task) is None
    assert task["hashsum"] == memoizer.make_hash(task)
    with pytest.raises(KeyError):
        memoizer.hash_lookup(task["hashsum"])
    memoizer.update_memo(task, done(error=OSError("failures are not remembered")))
    assert memoizer.check_memo(task) is None
    memoizer.update_memo(task, done(6))
    assert memoizer.hash_lookup(task["hashsum"]).result() == 6
    found = memoizer.check_memo(record(2, height=3))
    assert found is not None and found.result() == 6
    again = Memoizer(None, checkpoint={task["hashsum"]: done(6)}).check_memo(record(2, 3))
    assert again is not None and again.result() == 6
    assert Memoizer(None, memoize=False, checkpoint={task["hashsum"]: done(6)}).check_memo(task) is None
    assert memoizer.check_memo({**record(2, 3), "memoize": False}) is None


def test_the_hash_is_the_one_of_the_run(parsl: ModuleType) -> None:
    from parsl.dataflow.memoization import Memoizer

    keys: list[Any] = []

    def handler(error: Exception, task: Any) -> float:
        memoizer = Memoizer(task["dfk"])
        assert memoizer.check_memo(task) is None
        keys.append((task["hashsum"], memoizer.make_hash(task)))
        return 1

    with parsl.load(parsl.Config(retry_handler=handler)), pytest.raises(ZeroDivisionError):
        parsl.python_app(divmod, cache=True)(1, 0).result()
    assert len(keys) == 1 and keys[0][0] == keys[0][1]


def test_unknown_types(parsl: ModuleType) -> None:
    from parsl.dataflow.memoization import Memoizer, id_for_memo

    class Grid:
        pass

    with pytest.raises(MemoizationError, match="unknown type for memoization"):
        Memoizer(None).make_hash(record(Grid()))
    assert id_for_memo({"a": 3, "b": 4}) == id_for_memo({"b": 4, "a": 3}) != id_for_memo({"a": 3})
    assert isinstance(id_for_memo("x", output_ref=True), bytes)
