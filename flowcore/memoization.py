"""What identifies a value for memoization: bytes that are the same in every run and on every machine.

Three doors lead here, asked in this order: :func:`id_for_memo`, with which a program registers its own types; the hook
``flowcore_memo_hash``; and the memo hashers of plugins and of the core.

Rule of this module: a value that nobody can identify is an error that says how to mend it, never a guess.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from flowcore.errors import MemoizationError
from flowcore.plugins import registry
from flowcore.plugins.memo_hasher import MemoHasher


class Hashing:
    """Identifies values: by registered functions first, then by the hook, then by the hashers in order.

    Args:
        hashers: the memo hashers.
        hook: asked with ``(value, output_ref)``; None where no plugin wants a say.
    """

    def __init__(self, hashers: Sequence[MemoHasher], hook: Callable[[Any, bool], bytes | None] | None = None) -> None:
        self._hashers = tuple(hashers)
        self._hook = hook

    def __call__(self, value: Any, output_ref: bool = False) -> bytes:
        """Return bytes that identify the value.

        Raises:
            MemoizationError: nobody can identify it; says how to register a function that does.
        """
        registered = id_for_memo.dispatch(type(value))
        if registered is not _by_default:
            return self._ask(registered, value, output_ref)
        if self._hook is not None:
            hashed = self._hook(value, output_ref)
            if hashed is not None:
                return hashed

        def part(inner: Any) -> bytes:
            # Of one length, so that the parts of two containers never run into each other.
            return hashlib.sha256(self(inner, output_ref)).digest()

        for hasher in self._hashers:
            if hasher.handles(value):
                return hasher.hash(value, output_ref, part)
        name = _name(type(value))
        raise MemoizationError(
            f"unknown type for memoization: {name} (value {value!r:.80}). Register a function for it with "
            "@flowcore.memoization.id_for_memo.register, or name the argument in ignore_for_cache; plugins have the "
            "hook flowcore_memo_hash and the entry-point group flowcore.memo_hashers"
        )

    def _ask(self, registered: Callable[..., Any], value: Any, output_ref: bool) -> bytes:
        # What the function asks of id_for_memo about parts of the value is answered as here, hook included.
        before = getattr(_current, "hashing", None)
        _current.hashing = self
        try:
            identity = registered(value, output_ref=output_ref)
        finally:
            _current.hashing = before
        if not isinstance(identity, bytes):
            raise MemoizationError(
                f"the function registered with id_for_memo for {_name(type(value))} returned {identity!r:.80} of type "
                f"{type(identity).__name__}: it must return bytes"
            )
        return identity


def _by_default(obj: object, output_ref: bool = False) -> bytes:
    """Return bytes that identify a value for memoization: the same for equal values, others for others.

    Register a function for a type of your own, and for its subclasses, before the first call with such a value::

        @id_for_memo.register
        def _(grid: Grid, output_ref: bool = False) -> bytes:
            return b"Grid" + id_for_memo([grid.shape, grid.cells])

    Args:
        obj: the value.
        output_ref: it is part of the call's ``outputs``: what it is called counts, not what it holds now.

    Raises:
        MemoizationError: its type is unknown.
    """
    hashing: Hashing = getattr(_current, "hashing", None) or _of_this_process()
    return hashing(obj, output_ref)


#: A single-dispatch function (:func:`functools.singledispatch`).
id_for_memo = functools.singledispatch(_by_default)
id_for_memo.__name__ = id_for_memo.__qualname__ = "id_for_memo"  # type: ignore[attr-defined]

#: The Hashing that is asking a registered function, in each thread.
_current = threading.local()


def installed_hashers() -> tuple[list[MemoHasher], list[str]]:
    """Return the memo hashers of all plugins, then the core's, and a message for each that cannot be had."""
    found, problems = registry.load_all("memo_hasher")
    # Those of plugins first: they may be more specific than the core's.
    found.sort(key=lambda pair: pair[0].distribution == registry.CORE)
    return [cls() for _, cls in found], problems


@functools.cache
def _of_this_process() -> Hashing:
    return Hashing(installed_hashers()[0])


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
