"""The functions that the executor has serialized: each once, and named by its content from then on.

A function that nobody holds any more, and that no attempt needs, is forgotten here and, through the list that
:meth:`FunctionCache.take_forgotten` returns, everywhere else: memory is bounded by the functions that are alive.
"""

from __future__ import annotations

import functools
import hashlib
import types
import weakref
from collections.abc import Callable
from typing import Any

import attrs

from flowcore import serialize

HASH_BYTES = 16
_ABSENT = object()


@attrs.define(slots=True, eq=False)
class CachedFunction:
    """A serialized function: its content hash, its bytes, whether the hub has it, attempts that need it."""

    digest: bytes
    body: bytes
    sent: bool = False
    users: int = 0
    references: int = 0


class FunctionCache:
    """Serialized functions by identity and by content. Not safe for threads: its owner holds a lock."""

    def __init__(self) -> None:
        # By id: a function may be unhashable; the weak reference says when the id is free again.
        self._by_id: dict[int, tuple[CachedFunction, Any, list[_Used]]] = {}
        self._by_digest: dict[bytes, CachedFunction] = {}
        self._dead: list[int] = []
        self._unused: dict[bytes, None] = {}

    def get(self, function: Callable[..., Any], name: str) -> CachedFunction:
        """Return the serialized function.

        Raises:
            SerializationError: it cannot be written.
        """
        entry = self._by_id.get(id(function))
        if entry is not None and entry[1]() is function:
            if not entry[2] or all(used.unchanged() for used in entry[2]):
                return entry[0]
            self._forget(id(function))
        self._drop_dead()
        body = serialize.dumps_callable(function, name)
        digest = hashlib.blake2b(body, digest_size=HASH_BYTES).digest()
        cached = self._by_digest.get(digest)
        if cached is None:
            cached = self._by_digest[digest] = CachedFunction(digest, body)
        key = id(function)
        dead = self._dead
        try:
            reference: Any = weakref.ref(function, lambda _: dead.append(key))
        except TypeError:
            # Cannot be watched (a bound method of a builtin, say): serialized anew each time.
            self._unused[digest] = None
            return cached
        cached.references += 1
        self._by_id[key] = (cached, reference, _globals_of(function))
        return cached

    def use(self, cached: CachedFunction) -> None:
        """An attempt needs the function."""
        cached.users += 1

    def release(self, digest: bytes) -> None:
        """An attempt that needed the function has ended."""
        cached = self._by_digest.get(digest)
        if cached is not None:
            cached.users -= 1
            if cached.users == 0 and cached.references == 0:
                self._unused[digest] = None

    def take_forgotten(self) -> list[bytes]:
        """Return the functions that were sent and are needed no more; they are unknown from now on."""
        self._drop_dead()
        forgotten = []
        for digest in self._unused:
            cached = self._by_digest.get(digest)
            if cached is not None and cached.users == 0 and cached.references == 0:
                del self._by_digest[digest]
                if cached.sent:
                    forgotten.append(digest)
        self._unused.clear()
        return forgotten

    def _drop_dead(self) -> None:
        while self._dead:
            key = self._dead.pop()
            entry = self._by_id.get(key)
            if entry is not None and entry[1]() is None:
                self._forget(key)

    def _forget(self, key: int) -> None:
        cached = self._by_id.pop(key)[0]
        cached.references -= 1
        if cached.references == 0:
            self._unused[cached.digest] = None


def _globals_of(function: Any) -> list[_Used]:
    """Return the global variables that a function of ``__main__`` was sent with, those of its helpers among them.

    In a notebook, a helper may be defined anew, or a constant be set, after the function was sent.
    """
    found: list[_Used] = []
    seen: set[int] = set()
    stack = [function]
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, type) and one.__module__ == "__main__":
            stack += [*vars(one).values(), *one.__bases__]
        elif isinstance(one, types.FunctionType):
            if one.__module__ == "__main__":
                names = one.__globals__
                for name in _names(one.__code__):  # also a helper that is yet to be defined
                    value = names.get(name, _ABSENT)
                    found.append(_Used(names, name, value))
                    stack.append(value)
            _add_closure(one, found, stack)
            stack += [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
        elif isinstance(one, staticmethod | classmethod):
            stack.append(one.__func__)
        elif isinstance(one, property):
            stack += [one.fget, one.fset, one.fdel]
        elif isinstance(one, functools.partial):
            stack += [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, types.MethodType):
            stack.append(one.__func__)
        else:
            # Where a bash_app, a walltime or a decorator keeps the function. Not by getattr: a future would lift it.
            own = getattr(one, "__dict__", {})
            stack += [own[n] for n in ("function", "__wrapped__") if n in own]
            stack.append(type(one))
    return found


class _Used:
    """A global variable, or a cell of a function's closure, and the value that it had.

    Of functions and values weak references where that is possible: a function that refers to itself must not be kept
    alive here.
    """

    __slots__ = ("_key", "_place", "_value")

    def __init__(self, place: Any, key: Any, value: Any) -> None:
        self._place = place
        self._key = key
        try:
            self._value = weakref.ref(value)
        except TypeError:
            self._value = value

    def unchanged(self) -> bool:
        now = _value(self._place, self._key)
        if type(self._value) is not weakref.ref:
            return now is self._value
        held = self._value()
        return held is not None and held is now


def _value(place: Any, key: Any) -> Any:
    if type(place) is dict:
        return place.get(key, _ABSENT)
    function = place()
    try:
        return function.__closure__[key].cell_contents if function is not None else _ABSENT
    except ValueError:  # not set
        return _ABSENT


def _add_closure(function: types.FunctionType, found: list[_Used], stack: list[Any]) -> None:
    place = weakref.ref(function)
    for i in range(len(function.__closure__ or ())):
        value = _value(place, i)
        found.append(_Used(place, i, value))
        stack.append(value)


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
