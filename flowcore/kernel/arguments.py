"""Futures and files among the arguments of a call: find them once, put values in their places later.

They are looked for in positional and keyword arguments and, at any depth, in lists, tuples, dicts (keys and
values) and sets. Containers that hold none are passed on as the very objects that the user gave.
Nothing here recurses: containers may be in each other to any depth, and each is visited once, however many share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from flowcore.errors import ConfigurationError
from flowcore.files import File

_LEAF = frozenset({int, float, str, bytes, bool, type(None), complex})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})


class Found:
    """What :func:`find` met: the futures, each once and in order, whether one is in a container, and the Files."""

    __slots__ = ("_seen", "files", "futures", "nested")

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.files: list[File] = []
        self.nested = False
        #: Futures and containers.
        self._seen: set[int] = set()

    def look_at(self, value: Any, loops: bool) -> None:
        if type(value) not in _CONTAINERS:
            self._take(value, False)
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        # The containers that lead to where we are, and what is left to see of each.
        inside = {id(value)}
        path = [(id(value), _parts(value))]
        while path:
            here, parts = path[-1]
            for part in parts:
                kind = type(part)
                if kind in _LEAF:
                    continue
                if kind not in _CONTAINERS:
                    self._take(part, True)
                elif id(part) not in self._seen:
                    self._seen.add(id(part))
                    inside.add(id(part))
                    path.append((id(part), _parts(part)))
                    break
                elif id(part) in inside and not loops:
                    raise ConfigurationError(
                        f"an argument holds a {kind.__name__} that contains itself: a task cannot be given that"
                    )
            else:
                path.pop()
                inside.discard(here)

    def _take(self, value: Any, nested: bool) -> None:
        if isinstance(value, Future):
            if nested:
                self.nested = True
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self.futures.append(value)
        elif isinstance(value, File):
            self.files.append(value)


def _parts(container: Any) -> Iterable[Any]:
    """Return an iterator of what is in a container; of a dict, keys and values in turn."""
    return iter(container) if type(container) is not dict else itertools.chain.from_iterable(container.items())


def find(args: tuple[Any, ...], kwargs: dict[str, Any], loops: bool = False) -> Found | None:
    """Return the futures and files among the arguments; None if all are plain values.

    Args:
        args, kwargs: the arguments.
        loops: whether a container may contain itself, as what a task returned may.

    Raises:
        ConfigurationError: a container contains itself.
    """
    found: Found | None = None
    for value in itertools.chain(args, kwargs.values()) if kwargs else args:
        if type(value) not in _LEAF:
            found = found or Found()
            found.look_at(value, loops)
    return found


def replace(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return ``value`` with ``leaf`` applied to all that is no container.

    A container in which nothing changed is shared, unless it holds a future.
    """
    if type(value) in _LEAF:
        return value
    if type(value) not in _CONTAINERS:
        return leaf(value)
    #: What stands for each container; itself while it is looked at.
    made: dict[int, Any] = {id(value): value}
    path: list[tuple[Any, Iterable[Any], list[Any]]] = [(value, _parts(value), [])]
    while True:
        container, parts, new = path[-1]
        for part in parts:
            kind = type(part)
            if kind in _LEAF:
                new.append(part)
            elif kind not in _CONTAINERS:
                new.append(leaf(part))
            elif id(part) in made:
                new.append(made[id(part)])
            else:
                made[id(part)] = part
                path.append((part, _parts(part), []))
                break
        else:
            path.pop()
            result = _rebuilt(container, new)
            if not path:
                return result
            made[id(container)] = result
            path[-1][2].append(result)


def _rebuilt(container: Any, parts: list[Any]) -> Any:
    if all(new is old and not isinstance(old, Future) for new, old in zip(parts, _parts(container), strict=True)):
        return container
    kind = type(container)
    if kind is dict:
        return dict(zip(parts[::2], parts[1::2], strict=True))
    return parts if kind is list else kind(parts)


def replace_all(
    args: Iterable[Any], kwargs: dict[str, Any], leaf: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply :func:`replace` to positional and keyword arguments; what two of them share stays shared."""
    replaced: tuple[tuple[Any, ...], dict[str, Any]] = replace((tuple(args), kwargs), leaf)
    return replaced


def value_of(leaf: Any) -> Any:
    """Return a future's result, and anything else as it is. The future must be done and not failed."""
    return leaf.result() if isinstance(leaf, Future) else leaf


def snapshot(value: Any) -> Any:
    """Return ``value`` with a copy of each container that holds a future, at any depth; all else is shared."""
    return replace(value, lambda leaf: leaf)


def snapshot_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Apply :func:`snapshot` to positional and keyword arguments."""
    return replace_all(args, kwargs, lambda leaf: leaf)
