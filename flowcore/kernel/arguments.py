"""Futures and files among the arguments of a call: find them once, put values in their places later.

They are looked for in positional and keyword arguments and, at any depth, in lists, tuples, dicts (keys and
values) and sets. Containers that hold none are passed on as the very objects that the user gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from flowcore.errors import ConfigurationError
from flowcore.files import File

_LEAF = frozenset({int, float, str, bytes, bool, type(None), complex})
_CONTAINERS = (list, tuple, dict, set, frozenset)


class Found:
    """What :func:`find` met: the futures, each once and in order, whether one is in a container, and any File."""

    __slots__ = ("_seen", "files", "futures", "nested")

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.files = False
        self.nested = False
        self._seen: set[int] = set()

    def look_at(self, value: Any, inside: tuple[int, ...] = ()) -> None:
        kind = type(value)
        if kind in _LEAF:
            return
        if isinstance(value, Future):
            if inside:
                self.nested = True
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self.futures.append(value)
        elif isinstance(value, File):
            self.files = True
        elif kind in _CONTAINERS:
            if id(value) in inside:
                raise ConfigurationError(
                    f"an argument holds a {kind.__name__} that contains itself: a task cannot be given that"
                )
            if kind is dict:
                for key, entry in value.items():
                    if type(key) not in _LEAF:
                        self.look_at(key, (*inside, id(value)))
                    if type(entry) not in _LEAF:
                        self.look_at(entry, (*inside, id(value)))
            else:
                for entry in value:
                    if type(entry) not in _LEAF:
                        self.look_at(entry, (*inside, id(value)))


def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found | None:
    """Return the futures and files among the arguments; None if all are plain values.

    Raises:
        ConfigurationError: a container contains itself.
    """
    found: Found | None = None
    for value in args:
        if type(value) not in _LEAF:
            found = found or Found()
            found.look_at(value)
    for value in kwargs.values():
        if type(value) not in _LEAF:
            found = found or Found()
            found.look_at(value)
    return found


def replace(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return ``value`` with ``leaf`` applied to all that is no container; shared where nothing changed."""
    kind = type(value)
    if kind in _LEAF:
        return value
    if kind is dict:
        pairs = [(replace(k, leaf), replace(v, leaf)) for k, v in value.items()]
        same = all(k is k0 and v is v0 for (k, v), (k0, v0) in zip(pairs, value.items(), strict=True))
        return value if same else dict(pairs)
    if kind in _CONTAINERS:
        parts = [replace(part, leaf) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same else kind(parts)
    return leaf(value)


def replace_all(
    args: Iterable[Any], kwargs: dict[str, Any], leaf: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply :func:`replace` to positional and keyword arguments."""
    return tuple([replace(a, leaf) for a in args]), {k: replace(v, leaf) for k, v in kwargs.items()}


def value_of(leaf: Any) -> Any:
    """Return a future's result, and anything else as it is. The future must be done and not failed."""
    return leaf.result() if isinstance(leaf, Future) else leaf


def snapshot(value: Any) -> Any:
    """Return ``value`` with a copy of each container that holds a future, at any depth; all else is shared."""
    kind = type(value)
    if kind in _LEAF or kind not in _CONTAINERS:
        return value
    parts = [part for pair in value.items() for part in pair] if kind is dict else list(value)
    copies = [snapshot(part) for part in parts]
    if not any(copy is not part or isinstance(part, Future) for copy, part in zip(copies, parts, strict=True)):
        return value
    if kind is dict:
        return dict(zip(copies[::2], copies[1::2], strict=True))
    return copies if kind is list else kind(copies)


def snapshot_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply :func:`snapshot` to positional and keyword arguments."""
    return tuple([snapshot(a) for a in args]), {k: snapshot(v) for k, v in kwargs.items()}
