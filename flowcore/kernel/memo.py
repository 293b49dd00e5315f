"""Memoization: what identifies a call, and the table of known results.

A key is made of the app's function (its source, so that an edit invalidates; its bytecode where there is no
source), its kind, and its arguments through the memo hashers. It is the same in every run and on every machine.
Files count by their URL. Of equal calls that are made at the same time, one runs and the others wait for its result.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any
from weakref import WeakKeyDictionary

from flowcore.errors import MemoizationError
from flowcore.kernel.task import Task
from flowcore.memoization import Hashing
from flowcore.plugins.identity import function_identity

#: Part of every key: raised when the way in which keys are made changes.
KEY_VERSION = b"flowcore-memo-1"
MISSING = object()


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
        #: Futures of tasks whose result is on its way.
        self._computing: dict[str, Future[Any]] = {}
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

    def begin(self, key: str, future: Future[Any]) -> Future[Any] | None:
        """Take the computing of a result on, unless another task has.

        Returns:
            The future of the task that computes it; None if that is the caller now, who ends it with :meth:`end`.
        """
        with self._lock:
            first = self._computing.setdefault(key, future)
        return None if first is future else first

    def end(self, key: str, future: Future[Any]) -> None:
        """Give up what :meth:`begin` took on, if it was this task: its result was stored, or there is none."""
        with self._lock:
            if self._computing.get(key) is future:
                del self._computing[key]

    def store(self, key: str, value: Any) -> None:
        """Remember a result."""
        with self._lock:
            self._table[key] = value

    def __len__(self) -> int:
        return len(self._table)
