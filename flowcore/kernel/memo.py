"""Memoization: what identifies a call, and the table of known results.

A key is made of the app's function (its source, so that an edit invalidates; its bytecode where there is no
source), its kind, and its arguments through the memo hashers. It is the same in every run and on every machine.
Files count by their URL.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from flowcore.errors import MemoizationError
from flowcore.kernel.task import Task
from flowcore.plugins.identity import function_identity
from flowcore.plugins.memo_hasher import MemoHasher

#: Part of every key: raised when the way in which keys are made changes.
KEY_VERSION = b"flowcore-memo-1"
MISSING = object()


class Hashing:
    """Finds the hasher for a value: first the hook, then the hashers in order.

    Args:
        hashers: the memo hashers.
        hook: asked first with ``(value, output_ref)``; None where no plugin wants a say.
    """

    def __init__(self, hashers: Sequence[MemoHasher], hook: Callable[[Any, bool], bytes | None] | None = None) -> None:
        self._hashers = tuple(hashers)
        self._hook = hook

    def __call__(self, value: Any, output_ref: bool = False) -> bytes:
        """Return bytes that identify the value.

        Raises:
            MemoizationError: no hasher is for it; says how to register one.
        """
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
        kind = type(value)
        raise MemoizationError(
            f"unknown type for memoization: {kind.__module__}.{kind.__qualname__} (value {value!r:.80}). Register "
            "a hasher: an implementation of the hook flowcore_memo_hash, or a MemoHasher in the entry-point "
            "group flowcore.memo_hashers; or name the argument in ignore_for_cache"
        )


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


class Memoizer:
    """Makes keys and holds results.

    Args:
        hashing: hashes values.
        known: results of earlier runs, by key.
    """

    def __init__(self, hashing: Hashing, known: Mapping[str, Any] | None = None) -> None:
        self._hashing = hashing
        self._lock = threading.Lock()
        self._table: dict[str, Any] = dict(known or {})
        self._identities: WeakKeyDictionary[Callable[..., Any], bytes] = WeakKeyDictionary()
        self._signatures: WeakKeyDictionary[Callable[..., Any], inspect.Signature | None] = WeakKeyDictionary()

    def key(self, task: Task) -> str:
        """Return the key of a task whose values are set.

        Raises:
            MemoizationError: an argument's type has no hasher; names the argument.
        """
        app = task.spec.app
        digest = hashlib.sha256(KEY_VERSION)
        digest.update(app.kind.encode() + b"\0" + app.name.encode() + b"\0")
        digest.update(self._identity(app.user_func))
        for name, value in sorted(self._named(app.user_func, task).items()):
            if name in app.ignore_for_cache:
                continue
            try:
                hashed = self._hashing(value, name == "outputs")
            except MemoizationError as error:
                raise MemoizationError(f"argument {name!r} of app {app.name!r}: {error}") from None
            digest.update(name.encode() + b"\0" + len(hashed).to_bytes(8, "big") + hashed)
        return digest.hexdigest()

    def _identity(self, function: Callable[..., Any]) -> bytes:
        try:
            if function not in self._identities:
                # Once, so that what a function does to the values that it closes over changes nothing.
                self._identities[function] = self._make_identity(function)
            return self._identities[function]
        except TypeError:  # not weakly referable, e.g. a builtin
            return self._make_identity(function)

    def _make_identity(self, function: Callable[..., Any]) -> bytes:
        """Return what identifies the function, with the values that it was made with."""
        identity = function_identity(function)
        held: list[Any] = []
        if isinstance(function, functools.partial):
            held = [function.args, function.keywords]
        else:
            held = [c.cell_contents for c in getattr(function, "__closure__", None) or () if _is_set(c)]
        for value in held:
            try:
                identity += self._hashing(value)
            except (MemoizationError, RecursionError):
                # No reason to refuse: functions hold modules, loggers, other apps, themselves.
                identity += type(value).__qualname__.encode()
        return identity

    def _named(self, function: Callable[..., Any], task: Task) -> dict[str, Any]:
        # By parameter name, so that f(1), f(x=1) and ignore_for_cache agree.
        named: dict[str, Any] = {}
        signature = self._signature(function)
        kwargs = dict(task.kwargs)
        if signature is not None:
            accepted = signature.parameters
            extra = {k: kwargs.pop(k) for k in list(kwargs) if k not in accepted}
            try:
                bound = signature.bind_partial(*task.args, **kwargs)
            except TypeError:
                kwargs.update(extra)
            else:
                bound.apply_defaults()
                named.update(bound.arguments)
                named.update(extra)
                return named
        named.update({f"*{i}": value for i, value in enumerate(task.args)})
        named.update(kwargs)
        return named

    def _signature(self, function: Callable[..., Any]) -> inspect.Signature | None:
        try:
            if function not in self._signatures:
                self._signatures[function] = inspect.signature(function)
            return self._signatures[function]
        except (TypeError, ValueError):
            return None

    def lookup(self, key: str) -> Any:
        """Return the known result, or :data:`MISSING`."""
        return self._table.get(key, MISSING)

    def store(self, key: str, value: Any) -> None:
        """Remember a result."""
        with self._lock:
            self._table[key] = value

    def __len__(self) -> int:
        return len(self._table)
