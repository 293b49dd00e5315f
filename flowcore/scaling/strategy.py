"""Scaling strategies: load and blocks in, a decision out.

Rule of this module: pure functions, without a clock and without memory. A strategy is a function of a :class:`Load`;
its name in a configuration is that of its entry point in the group ``flowcore.strategies``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs


@attrs.frozen
class Load:
    """What a strategy is told of one executor.

    Attributes:
        active_tasks: attempts waiting or running.
        slots_per_block: attempts that a block runs at a time; 0 while it is not known.
        active_blocks: blocks that are running or in the queue.
        idle_blocks: seconds for which each idle block has been idle, longest first.
        idle_for: seconds for which the executor has had no active task; 0 while it has one.
        min_blocks, max_blocks, parallelism: the provider's.
        max_idletime: the configuration's, in seconds.
    """

    active_tasks: int
    slots_per_block: float
    active_blocks: int
    idle_blocks: tuple[float, ...]
    idle_for: float
    min_blocks: int
    max_blocks: int
    parallelism: float
    max_idletime: float


@attrs.frozen
class Decision:
    """What to do: request ``scale_out`` blocks, give ``scale_in`` back (idle ones only if ``only_idle``)."""

    scale_out: int = 0
    scale_in: int = 0
    only_idle: bool = False


Strategy = Callable[[Load], Decision]


def no_scaling(load: Load) -> Decision:
    """Leave the initial blocks as they are."""
    return Decision()


def simple(load: Load) -> Decision:
    """Scale out with the load; once everything has been idle for ``max_idletime``, scale in to the minimum."""
    if load.active_tasks == 0:
        excess = load.active_blocks - load.min_blocks
        if excess > 0 and load.idle_for >= load.max_idletime:
            return Decision(scale_in=excess)
        return Decision(scale_out=max(0, -excess))
    return Decision(scale_out=max(0, _wanted(load) - load.active_blocks))


def htex_auto_scale(load: Load) -> Decision:
    """Like :func:`simple`; besides, give back each block that has been idle for ``max_idletime``, while others work."""
    decision = simple(load)
    if decision != Decision() or (load.active_tasks and not load.slots_per_block):
        return decision
    # What `simple` would at once ask for again stays.
    excess = load.active_blocks - (_wanted(load) if load.active_tasks else load.min_blocks)
    ripe = sum(1 for seconds in load.idle_blocks if seconds >= load.max_idletime)
    count = min(excess, ripe)
    return Decision(scale_in=count, only_idle=True) if count > 0 else Decision()


def _wanted(load: Load) -> int:
    """Return how many blocks the tasks should have: ``1 / parallelism`` of them share a slot."""
    # Nothing is known of a block's size before the first one is there: ask for one.
    slots = load.slots_per_block
    needed = math.ceil(load.active_tasks * load.parallelism / slots) if slots else 1
    return min(load.max_blocks, max(1, load.min_blocks, needed))
