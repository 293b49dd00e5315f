"""What the interchange knows of a manager: what it has, and what is left of it. No decisions."""

from __future__ import annotations

import attrs

from flowcore_executor_htex.protocol import Needs


@attrs.define(slots=True, eq=False)
class Manager:
    """A connected manager. ``capacity`` is how many attempts it wants to have at a time.

    ``needs`` are those of its attempts that have some; ``extra_slots``, ``memory_mb`` and ``nodes`` are what they take
    (slots beyond one for each), and what is left. ``ends_at`` is when its block ends.
    """

    identity: bytes
    manager_id: str
    block_id: str
    hostname: str
    slots: int
    capacity: int
    last_seen: float
    idle_since: float
    total_memory_mb: float = 0.0
    total_nodes: int = 0
    left_s: float = float("inf")
    ends_at: float = float("inf")
    memory_mb: float = attrs.field(init=False)
    nodes: int = attrs.field(init=False)
    extra_slots: int = 0
    outstanding: set[int] = attrs.field(factory=set)
    needs: dict[int, Needs] = attrs.field(factory=dict)
    functions: set[bytes] = attrs.field(factory=set)
    held: bool = False
    #: Messages to it and from it since its greeting.
    sent: int = 0
    received: int = 0
    #: When it is lost unless it is heard of before: its block has ended.
    lost_at: float = float("inf")

    def __attrs_post_init__(self) -> None:
        self.memory_mb = self.total_memory_mb
        self.nodes = self.total_nodes

    @property
    def free_slots(self) -> int:
        """Workers that have nothing to do, as far as the interchange knows; below 0 where some is prefetched."""
        return self.slots - len(self.outstanding) - self.extra_slots

    @property
    def room(self) -> int:
        """Number of attempts that it can be given now."""
        return 0 if self.held else self.capacity - len(self.outstanding) - self.extra_slots

    def take(self, key: int, needs: Needs | None) -> None:
        """It is given an attempt."""
        self.outstanding.add(key)
        if needs is not None and needs.demanding:
            self.needs[key] = needs
            self._change(needs, 1)

    def drop(self, key: int) -> None:
        """It does not have the attempt any more."""
        self.outstanding.discard(key)
        if self.needs and (needs := self.needs.pop(key, None)) is not None:
            self._change(needs, -1)
            if not self.needs:
                # What was added to fractions and taken from them again is not what it was.
                self.memory_mb = self.total_memory_mb

    def _change(self, needs: Needs, sign: int) -> None:
        self.extra_slots += sign * (needs.slots - 1)
        self.memory_mb -= sign * needs.memory_mb
        self.nodes -= sign * needs.nodes

    def fits_now(self, needs: Needs, now: float) -> bool:
        """Return whether it could begin an attempt with such needs at once."""
        return (
            not self.held
            and self.free_slots >= needs.slots
            and self.memory_mb >= needs.memory_mb
            and self.nodes >= needs.nodes
            and self.ends_at - now >= needs.running_time_s
        )

    def fits_when_empty(self, needs: Needs, now: float) -> bool:
        """Return whether it could, if it had nothing else to do."""
        return not self.held and self.ends_at - now >= needs.running_time_s and self.lacks(needs) is None

    def lacks(self, needs: Needs) -> str | None:
        """Return what its like will never have of such needs; None if nothing."""
        if needs.slots > self.slots:
            asked = ", ".join(f"{name.removeprefix('FLOWCORE_').lower()}={x}" for name, x in needs.variables.items())
            return (
                f"the task wants {asked or 'more than a worker has'}, which is the place of {needs.slots} workers, and "
                f"block {self.block_id} has {self.slots} on {self.hostname}: give workers more cores or memory "
                "(cores_per_worker, mem_per_worker), or nodes more workers (max_workers_per_node)"
            )
        for wanted, there, what in (
            (needs.nodes, self.total_nodes, "{} nodes"),
            (needs.memory_mb, self.total_memory_mb, "{:.0f} MB of memory"),
            (needs.running_time_s, self.left_s, "{:g} s of running time"),
        ):
            if wanted > there:
                has = f"{there:.0f}, on {self.hostname}"
                return f"the task needs {what.format(wanted)}, and block {self.block_id} has {has}"
        return None
