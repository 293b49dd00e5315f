from __future__ import annotations

import gc

import pytest
from flowcore_executor_htex.functions import FunctionCache

from flowcore.errors import SerializationError


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
