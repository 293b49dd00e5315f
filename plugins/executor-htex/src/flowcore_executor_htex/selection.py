"""Which manager gets the next attempts: a small policy that may be replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowcore_executor_htex.dispatch import Manager


class SelectionPolicy(Protocol):
    """Orders managers that have room. Called by the dispatcher; must not look at all managers per call."""

    def add(self, manager: Manager) -> None:
        """The manager has room now."""

    def discard(self, manager: Manager) -> None:
        """The manager has no room, or is gone."""

    def next(self) -> Manager | None:
        """Return a manager with room, or None."""

    def __len__(self) -> int: ...


class RoundRobin:
    """Managers with a free slot first, in turn; then those that only have room to prefetch."""

    def __init__(self) -> None:
        # dicts keep order: the first key is whose turn it is.
        self._free: dict[bytes, Manager] = {}
        self._prefetching: dict[bytes, Manager] = {}

    def add(self, manager: Manager) -> None:
        """Queue the manager, at the end of those of its class."""
        self.discard(manager)
        queue = self._free if manager.outstanding_count < manager.slots else self._prefetching
        queue[manager.identity] = manager

    def discard(self, manager: Manager) -> None:
        """Take the manager out."""
        self._free.pop(manager.identity, None)
        self._prefetching.pop(manager.identity, None)

    def next(self) -> Manager | None:
        """Return whose turn it is."""
        for queue in (self._free, self._prefetching):
            for manager in queue.values():
                return manager
        return None

    def __len__(self) -> int:
        return len(self._free) or len(self._prefetching)
