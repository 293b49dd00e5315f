"""Which manager gets the next attempts: a small policy that may be replaced.

The executor's option ``manager_selection`` names one of ``POLICIES``, or a class of another package as
``module:Class``.
"""

from __future__ import annotations

import bisect
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowcore_executor_htex.members import Manager


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
        #: A block's turn, by its id, and its managers, by its turn.
        self._turns: dict[str, int] = {}
        self._blocks: list[RoundRobin] = []
        #: Turns of the blocks that have managers with a free slot, and with room to prefetch; in order.
        self._free: list[int] = []
        self._prefetching: list[int] = []

    def add(self, manager: Manager) -> None:
        """Queue the manager in its block."""
        turn = self._turns.setdefault(manager.block_id, len(self._blocks))
        if turn == len(self._blocks):
            self._blocks.append(RoundRobin())
        self._blocks[turn].add(manager)
        self._note(turn)

    def discard(self, manager: Manager) -> None:
        """Take the manager out. Its block keeps its turn."""
        turn = self._turns.get(manager.block_id)
        if turn is not None:
            self._blocks[turn].discard(manager)
            self._note(turn)

    def _note(self, turn: int) -> None:
        block = self._blocks[turn]
        for turns, managers in ((self._free, block._free), (self._prefetching, block._prefetching)):
            at = bisect.bisect_left(turns, turn)
            there = at < len(turns) and turns[at] == turn
            if managers and not there:
                turns.insert(at, turn)
            elif there and not managers:
                del turns[at]

    def __iter__(self) -> Iterator[Manager]:
        """Yield those with a free slot, block by block, then the others."""
        for turn in self._free:
            yield from self._blocks[turn]._free.values()
        for turn in self._prefetching:
            yield from self._blocks[turn]._prefetching.values()

    def __len__(self) -> int:
        """Return the number of those of the block whose turn it is."""
        turns = self._free or self._prefetching
        return len(self._blocks[turns[0]]) if turns else 0


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
