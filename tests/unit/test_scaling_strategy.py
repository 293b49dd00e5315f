"""The strategies, as tables: load and blocks in, a decision out."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from flowcore.plugins import registry
from flowcore.scaling.strategy import Decision, Load, htex_auto_scale, no_scaling, simple

IDLE_S = 120.0


def load(**values: Any) -> Load:
    """A load of nothing: four slots a block, up to ten blocks."""
    known: dict[str, Any] = {
        "active_tasks": 0,
        "slots_per_block": 4,
        "active_blocks": 0,
        "idle_blocks": (),
        "idle_for": 0.0,
        "min_blocks": 0,
        "max_blocks": 10,
        "parallelism": 1.0,
        "max_idletime": IDLE_S,
    }
    return Load(**{**known, **values})


STAY = Decision()


def out(count: int) -> Decision:
    return Decision(scale_out=count)


def in_(count: int, only_idle: bool = False) -> Decision:
    return Decision(scale_in=count, only_idle=only_idle)


@pytest.mark.parametrize("tasks", [0, 1, 1000])
@pytest.mark.parametrize("blocks", [0, 1, 5])
def test_none_never_scales(tasks: int, blocks: int) -> None:
    assert no_scaling(load(active_tasks=tasks, active_blocks=blocks, idle_for=1e6)) == STAY


# What both scaling strategies do.
COMMON = [
    # (what, load, decision)
    ("nothing to do, nothing there", {}, STAY),
    ("the minimum is kept without tasks", {"min_blocks": 2}, out(2)),
    ("the minimum is completed", {"min_blocks": 2, "active_blocks": 1}, out(1)),
    ("the first task asks for a block", {"active_tasks": 1}, out(1)),
    ("a block full of tasks", {"active_tasks": 4}, out(1)),
    ("one task more than a block has slots", {"active_tasks": 5}, out(2)),
    ("blocks that are there count", {"active_tasks": 9, "active_blocks": 2}, out(1)),
    ("enough blocks", {"active_tasks": 8, "active_blocks": 2}, STAY),
    ("never above the maximum", {"active_tasks": 1000}, out(10)),
    ("never above the maximum, with blocks", {"active_tasks": 1000, "active_blocks": 9}, out(1)),
    ("at the maximum", {"active_tasks": 1000, "active_blocks": 10}, STAY),
    ("a maximum of 0", {"active_tasks": 1000, "max_blocks": 0}, STAY),
    ("above the maximum nothing is asked for", {"active_tasks": 1000, "active_blocks": 12}, STAY),
    ("half of the parallelism", {"active_tasks": 16, "parallelism": 0.5}, out(2)),
    ("a parallelism of 0 still makes progress", {"active_tasks": 16, "parallelism": 0.0}, out(1)),
    (
        "no parallelism beyond the one block",
        {"active_tasks": 16, "parallelism": 0.0, "active_blocks": 1},
        STAY,
    ),
    ("tasks and a larger minimum", {"active_tasks": 1, "min_blocks": 3}, out(3)),
    ("slots unknown: one block tells", {"active_tasks": 100, "slots_per_block": 0}, out(1)),
    ("slots unknown, block under way", {"active_tasks": 100, "slots_per_block": 0, "active_blocks": 1}, STAY),
    ("slots unknown, larger minimum", {"active_tasks": 1, "slots_per_block": 0, "min_blocks": 3}, out(3)),
    ("fractions of a slot", {"active_tasks": 3, "slots_per_block": 0.5}, out(6)),
    ("idle, not for long", {"active_blocks": 3, "idle_for": IDLE_S - 1}, STAY),
    ("idle for long", {"active_blocks": 3, "idle_for": IDLE_S}, in_(3)),
    ("idle for long, down to the minimum", {"active_blocks": 3, "idle_for": IDLE_S, "min_blocks": 2}, in_(1)),
    ("idle for long, at the minimum", {"active_blocks": 2, "idle_for": IDLE_S, "min_blocks": 2}, STAY),
    ("work again: idle_for is 0", {"active_tasks": 1, "active_blocks": 1}, STAY),
]


@pytest.mark.parametrize("strategy", [simple, htex_auto_scale])
@pytest.mark.parametrize(("values", "decision"), [c[1:] for c in COMMON], ids=[c[0] for c in COMMON])
def test_simple_and_auto(strategy: Any, values: dict[str, Any], decision: Decision) -> None:
    assert strategy(load(**values)) == decision


BUSY = {"active_tasks": 1, "active_blocks": 4}
AUTO = [
    # (what, load, decision of htex_auto_scale); simple leaves them all alone
    ("all busy", {**BUSY, "idle_blocks": ()}, STAY),
    ("idle, not for long", {**BUSY, "idle_blocks": (IDLE_S - 1, 1.0)}, STAY),
    ("one idle for long", {**BUSY, "idle_blocks": (IDLE_S, 1.0)}, in_(1, only_idle=True)),
    ("two idle for long", {**BUSY, "idle_blocks": (300.0, IDLE_S, 5.0)}, in_(2, only_idle=True)),
    (
        "no more than the tasks can spare",
        {**BUSY, "active_tasks": 12, "idle_blocks": (300.0,) * 3},
        in_(1, True),
    ),
    ("the tasks need them all", {**BUSY, "active_tasks": 16, "idle_blocks": (300.0,) * 3}, STAY),
    ("down to the minimum", {**BUSY, "min_blocks": 3, "idle_blocks": (300.0,) * 3}, in_(1, only_idle=True)),
    ("at the minimum", {**BUSY, "min_blocks": 4, "idle_blocks": (300.0,) * 3}, STAY),
    (
        "one stays while there are tasks",
        {**BUSY, "parallelism": 0.0, "idle_blocks": (300.0,) * 4},
        in_(3, True),
    ),
    ("slots unknown", {**BUSY, "slots_per_block": 0, "idle_blocks": (300.0,) * 3}, STAY),
    ("never the last one with tasks", {**BUSY, "active_blocks": 1, "idle_blocks": (300.0,)}, STAY),
    (
        "above the maximum",
        {**BUSY, "active_tasks": 1000, "max_blocks": 3, "idle_blocks": (300.0,) * 2},
        in_(1, only_idle=True),
    ),
    # Without tasks, a block that was idle before the last one ended need not wait for the others.
    ("the first to be idle", {"active_blocks": 3, "idle_for": 5.0, "idle_blocks": (IDLE_S, 5.0, 5.0)}, in_(1, True)),
    (
        "the first to be idle, within the minimum",
        {"active_blocks": 3, "idle_for": 5.0, "min_blocks": 3, "idle_blocks": (IDLE_S, 5.0, 5.0)},
        STAY,
    ),
]


@pytest.mark.parametrize(("values", "decision"), [c[1:] for c in AUTO], ids=[c[0] for c in AUTO])
def test_auto_gives_idle_blocks_back_while_others_work(values: dict[str, Any], decision: Decision) -> None:
    assert htex_auto_scale(load(**values)) == decision
    assert simple(load(**values)) == STAY


# The formulas of the documentation that the strategies follow, written down as they stand there.


def fewest(tasks: int, low: int, high: int) -> int:
    """Parallelism 0."""
    return low if tasks == 0 else max(low, 1)


def most(tasks: int, low: int, high: int) -> int:
    """Parallelism 1, of blocks with 2 nodes of 2 workers each."""
    return max(low, min(high, math.ceil(tasks / (2 * 2))))


@pytest.mark.parametrize(("parallelism", "blocks"), [(0.0, fewest), (1.0, most)], ids=["p=0", "p=1"])
@pytest.mark.parametrize(("low", "high"), [(0, 4), (1, 2), (0, 1), (2, 10), (3, 3)])
@pytest.mark.parametrize("tasks", [0, 1, 3, 4, 5, 8, 9, 100])
@pytest.mark.parametrize("strategy", [simple, htex_auto_scale])
def test_the_formulas(strategy: Any, tasks: int, low: int, high: int, parallelism: float, blocks: Any) -> None:
    there = load(active_tasks=tasks, min_blocks=low, max_blocks=high, parallelism=parallelism, slots_per_block=2 * 2)
    assert strategy(there) == out(blocks(tasks, low, high))


#: min:init:max, slots of a block, and how many blocks there are after each number of tasks.
EXAMPLES = [
    # Up to two tasks are stacked on a slot; the fifth overflows into a second block.
    ((0, 0, 4), 2, 0.5, {0: 0, 1: 1, 2: 1, 4: 1, 5: 2, 8: 2, 9: 3, 13: 4, 100: 4}),
    # The example of the configuration: at most two blocks of two workers, one to begin with.
    ((1, 1, 2), 2, 0.5, {0: 1, 1: 1, 4: 1, 5: 2, 9: 2, 100: 2}),
    ((0, 0, 4), 2, 1.0, {0: 0, 2: 1, 3: 2, 5: 3, 8: 4, 9: 4}),
    ((0, 0, 4), 2, 0.0, {0: 0, 1: 1, 100: 1}),
    ((2, 3, 4), 2, 0.0, {0: 3, 100: 3}),
]


@pytest.mark.parametrize(("bounds", "slots", "parallelism", "expected"), EXAMPLES)
@pytest.mark.parametrize("strategy", [simple, htex_auto_scale])
def test_the_examples(
    strategy: Any, bounds: tuple[int, int, int], slots: int, parallelism: float, expected: dict[int, int]
) -> None:
    low, blocks, high = bounds
    for tasks, there in expected.items():
        decision = strategy(
            load(
                active_tasks=tasks, active_blocks=blocks, slots_per_block=slots, parallelism=parallelism,
                min_blocks=low, max_blocks=high,
            )
        )  # fmt: skip
        assert decision.scale_in == 0, "nothing is idle"
        blocks += decision.scale_out
        assert blocks == there, f"{tasks} tasks"


@pytest.mark.parametrize("parallelism", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("tasks", [0, 1, 7, 64])
@pytest.mark.parametrize("blocks", range(1, 6))
@pytest.mark.parametrize("idle", range(6))
def test_auto_never_gives_back_what_it_would_ask_for_again(
    parallelism: float, tasks: int, blocks: int, idle: int
) -> None:
    idle_blocks = (2 * IDLE_S,) * min(idle, blocks)
    there = load(
        active_tasks=tasks, active_blocks=blocks, idle_blocks=idle_blocks, parallelism=parallelism,
        idle_for=0.0 if tasks else 1.0, max_blocks=6,
    )  # fmt: skip
    decision = htex_auto_scale(there)
    if decision.scale_in:
        assert decision.only_idle
        assert decision.scale_in <= len(idle_blocks)
        after = attrs.evolve(
            there, active_blocks=blocks - decision.scale_in, idle_blocks=idle_blocks[decision.scale_in :]
        )
        assert htex_auto_scale(after).scale_out == 0


@pytest.mark.parametrize("tasks", [0, 1, 3, 4, 5, 40, 1000])
@pytest.mark.parametrize("blocks", range(6))
@pytest.mark.parametrize("idle", [0.0, IDLE_S])
def test_decisions_stay_within_the_bounds(tasks: int, blocks: int, idle: float) -> None:
    for strategy in (simple, htex_auto_scale):
        for low, high in ((0, 5), (1, 1), (2, 4)):
            decision = strategy(
                load(
                    active_tasks=tasks,
                    active_blocks=blocks,
                    idle_for=0.0 if tasks else idle,
                    idle_blocks=(idle,) * blocks,
                    min_blocks=low,
                    max_blocks=high,
                )
            )
            assert decision.scale_out >= 0
            assert decision.scale_in >= 0
            assert not (decision.scale_out and decision.scale_in)
            assert blocks + decision.scale_out <= max(high, blocks)
            assert blocks - decision.scale_in >= min(low, blocks)


def test_the_strategies_have_names() -> None:
    found = {name: registry.get("strategy", name) for name in ("none", "simple", "htex_auto_scale")}
    assert found == {"none": no_scaling, "simple": simple, "htex_auto_scale": htex_auto_scale}
