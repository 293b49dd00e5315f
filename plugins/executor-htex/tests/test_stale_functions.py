"""Functions that were sent and whose parts change afterwards are sent anew, and none is kept alive by being watched."""

from __future__ import annotations

import gc
import textwrap
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from flowcore_executor_htex.functions import CachedFunction, FunctionCache

from flowcore import serialize


class Main:
    """A ``__main__`` in which cells of a notebook are run."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, cell: str) -> None:
        exec(textwrap.dedent(cell), self.names)


@pytest.fixture
def main() -> Main:
    return Main()


def call(cached: CachedFunction) -> Any:
    """What a worker returns that was sent the function."""
    return serialize.loads_callable(cached.body, "here")()


USES = {
    "global": "def f(): return helper()",
    "decorator": """
        import functools
        def decorate(function):
            @functools.wraps(function)
            def wrapper(*args): return function(*args)
            return wrapper
        @decorate
        def f(): return helper()
        """,
    "decorator without wraps": """
        def decorate(function):
            return lambda: function()
        @decorate
        def f(): return helper()
        """,
    "argument of a partial": """
        import functools
        def run(callback): return callback()
        def inner(): return helper()
        f = functools.partial(run, inner)
        """,
    "keyword of a partial": """
        import functools
        def run(callback=None): return callback()
        def inner(): return helper()
        f = functools.partial(run, callback=inner)
        """,
}


@pytest.mark.parametrize("source", USES.values(), ids=USES)
def test_a_helper_that_is_defined_anew(source: str, main: Main) -> None:
    main.run("def helper(): return 1")
    main.run(source)
    cache, f = FunctionCache(), main.names["f"]
    first = cache.get(f, "f")
    assert cache.get(f, "f") is first
    assert call(first) == 1
    main.run("def helper(): return 2")
    second = cache.get(f, "f")
    assert second is not first
    assert cache.get(f, "f") is second
    assert call(second) == 2


@pytest.mark.parametrize("source", USES.values(), ids=USES)
def test_a_helper_that_is_defined_after_the_function_was_sent(source: str, main: Main) -> None:
    main.run(source)
    cache, f = FunctionCache(), main.names["f"]
    first = cache.get(f, "f")
    assert cache.get(f, "f") is first
    with pytest.raises(NameError):
        call(first)
    main.run("def helper(): return 1")
    assert call(cache.get(f, "f")) == 1


def test_a_helper_that_is_deleted(main: Main) -> None:
    main.run("def helper(): return 1\ndef f(): return helper()")
    cache, f = FunctionCache(), main.names["f"]
    assert call(cache.get(f, "f")) == 1
    main.run("del helper")
    with pytest.raises(NameError):
        call(cache.get(f, "f"))


def counter() -> tuple[Callable[[], int], Callable[[int], None]]:
    value = 1

    def get() -> int:
        return value

    def put(new: int) -> None:
        nonlocal value
        value = new

    return get, put


def test_a_variable_around_the_function_that_is_set_anew() -> None:
    get, put = counter()
    cache = FunctionCache()
    first = cache.get(get, "get")
    assert cache.get(get, "get") is first
    put(2)
    second = cache.get(get, "get")
    assert second is not first
    assert call(second) == 2
    put(1)
    assert call(cache.get(get, "get")) == 1


def test_a_variable_around_the_function_that_is_set_later() -> None:
    def make() -> tuple[Callable[[], Any], Callable[[], None]]:
        def get() -> Any:
            return later

        def begin() -> None:
            nonlocal later
            later = 1

        if get is None:
            later: Any = None
        return get, begin

    get, begin = make()
    cache = FunctionCache()
    first = cache.get(get, "get")
    assert cache.get(get, "get") is first
    begin()
    assert call(cache.get(get, "get")) == 1


def recursive_closure() -> Callable[[], Any]:
    def f(n: int = 3) -> Any:
        return f(n - 1) if n else 0

    return f


def test_a_function_that_refers_to_itself_is_not_kept_alive(main: Main) -> None:
    main.run("def f(n=3): return f(n - 1) if n else 0")
    cache = FunctionCache()
    functions: dict[str, Any] = {"global": main.names["f"], "closure": recursive_closure()}
    digests = set()
    for name, function in functions.items():
        cached = cache.get(function, name)
        assert call(cached) == 0
        cached.sent = True
        digests.add(cached.digest)
    references = [weakref.ref(function) for function in functions.values()]
    assert cache.take_forgotten() == []
    main.run("def f(n=3): return 1")
    functions.clear()
    del function
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert set(cache.take_forgotten()) == digests
    assert not cache._by_id


def test_a_helper_that_was_replaced_is_not_kept_alive(main: Main) -> None:
    main.run("def helper(): return 1\ndef f(): return helper()")
    cache, f = FunctionCache(), main.names["f"]
    cache.get(f, "f")
    old = weakref.ref(main.names["helper"])
    main.run("def helper(): return 2")
    gc.collect()
    assert old() is None
    assert call(cache.get(f, "f")) == 2
