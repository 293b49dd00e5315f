from __future__ import annotations

import functools
import gc
from typing import Any

import pytest
from flowcore_executor_htex.functions import FunctionCache, _globals_of

from flowcore import serialize
from flowcore.errors import SerializationError
from flowcore.walltime import WithWalltime


def make(n: int):  # type: ignore[no-untyped-def]
    return lambda: n


def test_a_function_is_serialized_once_and_named_by_its_content() -> None:
    cache = FunctionCache()
    one = make(1)
    assert cache.get(one, "f") is cache.get(one, "f")
    assert cache.get(make(1), "f").digest == cache.get(one, "f").digest
    assert cache.get(make(2), "f").digest != cache.get(one, "f").digest


def test_a_function_that_nobody_holds_or_needs_is_forgotten() -> None:
    cache = FunctionCache()
    function = make(1)
    cached = cache.get(function, "f")
    cached.sent = True
    cache.use(cached)
    del function
    gc.collect()
    assert cache.take_forgotten() == [], "an attempt needs it"
    cache.release(cached.digest)
    assert cache.take_forgotten() == [cached.digest]
    assert cache.get(make(1), "f").sent is False, "it must be sent again"


def test_a_function_that_is_held_is_kept() -> None:
    cache = FunctionCache()
    function = make(1)
    cached = cache.get(function, "f")
    cached.sent = True
    cache.use(cached)
    cache.release(cached.digest)
    assert cache.take_forgotten() == []


def test_many_short_lived_functions_do_not_pile_up() -> None:
    cache = FunctionCache()
    for n in range(500):
        cached = cache.get(make(n), "f")
        cached.sent = True
        cache.use(cached)
        cache.release(cached.digest)
        cache.take_forgotten()
    gc.collect()
    cache.take_forgotten()
    assert len(cache._by_digest) <= 1
    assert len(cache._by_id) <= 1


def test_a_function_that_holds_on_to_something_unpicklable_is_named() -> None:
    generator = (i for i in range(3))
    with pytest.raises(SerializationError, match="the function of app 'grab' cannot be serialized"):
        FunctionCache().get(lambda: next(generator), "grab")


def of_main(source: str, names: dict[str, Any]) -> Any:
    exec(source, names)
    return names["f"]


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: functools.partial(f), lambda f: WithWalltime(f, 1.0, "f")])
def test_a_function_of_main_is_sent_anew_when_what_it_uses_has_changed(wrap: Any) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "N": 1}
    f = wrap(of_main("def helper(): return [N for _ in [0]][0]\ndef f(): return helper()", names))
    cache = FunctionCache()
    first = cache.get(f, "f")
    assert cache.get(f, "f") is first
    names["N"] = 2
    second = cache.get(f, "f")
    assert second is not first
    assert serialize.loads_callable(second.body, "here")() == 2
    exec("def helper(): return 3", names)
    third = cache.get(f, "f")
    assert serialize.loads_callable(third.body, "here")() == 3
    cache.use(first)
    cache.release(first.digest)
    first.sent = second.sent = True
    assert set(cache.take_forgotten()) == {first.digest, second.digest}
    assert cache.get(f, "f") is third


def test_looking_at_what_a_function_uses_touches_no_object() -> None:
    class Touchy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    f = of_main("def f(): return 1 if T is None else 2", {"__name__": "__main__", "T": None})
    f.__globals__["T"] = Touchy()
    assert _globals_of(f)[0]._key == "T"
