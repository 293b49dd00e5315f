"""Which manager gets the next attempts: a small policy that may be replaced.

The executor's option ``manager_selection`` names one of ``POLICIES``, or a class of another package as
``module:Class``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowcore_executor_htex.dispatch import Manager


class SelectionPolicy(Protocol):
    """Orders managers that have room. Called by the interchange alone; no method may look at all managers."""

    def add(self, manager: Manager) -> None:
        """The manager has room now, or still has; how much has changed."""

    def discard(self, manager: Manager) -> None:
        """The manager has no room, or is gone. It may not have been added."""

    def __iter__(self) -> Iterator[Manager]:
        """Yield managers with room, the first to be given attempts first. The caller stops when it has found one."""

    def __len__(self) -> int:
        """Return how many managers the next attempts are to be shared out among."""


class RoundRobin:
    """Managers with a free slot first, in turn; then those that only have room to prefetch."""

    def __init__(self) -> None:
        # dicts keep order: the first key is whose turn it is.
        self._free: dict[bytes, Manager] = {}
        self._prefetching: dict[bytes, Manager] = {}

    def add(self, manager: Manager) -> None:
        """Queue the manager, at the end of those of its class."""
        self.discard(manager)
        queue = self._free if manager.free_slots > 0 else self._prefetching
        queue[manager.identity] = manager

    def discard(self, manager: Manager) -> None:
        """Take the manager out."""
        self._free.pop(manager.identity, None)
        self._prefetching.pop(manager.identity, None)

    def __iter__(self) -> Iterator[Manager]:
        """Yield whose turn it is."""
        yield from self._free.values()
        yield from self._prefetching.values()

    def __len__(self) -> int:
        return len(self._free) or len(self._prefetching)


class OldestBlock:
    """Managers of the block that connected first, then of the next: later ones fall idle first, and can be given back.

    Within a block, and to prefetch, in turn.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, RoundRobin] = {}

    def add(self, manager: Manager) -> None:
        """Queue the manager in its block."""
        self._blocks.setdefault(manager.block_id, RoundRobin()).add(manager)

    def discard(self, manager: Manager) -> None:
        """Take the manager out. Its block keeps its turn."""
        if manager.block_id in self._blocks:
            self._blocks[manager.block_id].discard(manager)

    def __iter__(self) -> Iterator[Manager]:
        """Yield those with a free slot, block by block, then the others."""
        for block in self._blocks.values():
            yield from block._free.values()
        for block in self._blocks.values():
            yield from block._prefetching.values()

    def __len__(self) -> int:
        return next((len(block) for block in self._blocks.values() if len(block)), 0)


POLICIES: dict[str, Callable[[], SelectionPolicy]] = {"round-robin": RoundRobin, "oldest-block": OldestBlock}


def make(name: str) -> SelectionPolicy:
    """Return a new policy.

    Raises:
        ValueError: there is none of this name, or it is no policy; says what was expected.
    """
    factory = POLICIES.get(name)
    if factory is None:
        module, _, attribute = name.partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            known = ", ".join(map(repr, POLICIES))
            raise ValueError(f"expected one of {known}, or 'module:Class' ({type(error).__name__}: {error})") from None
    try:
        policy = factory()
    except TypeError as error:
        raise ValueError(f"{name} cannot be called without arguments: {error}") from None
    missing = [m for m in ("add", "discard", "__iter__", "__len__") if not callable(getattr(policy, m, None))]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}: see flowcore_executor_htex.selection.SelectionPolicy")
    return policy
