"""Where a worker runs on its node: which hardware threads, which accelerator. Pure functions.

Rule of this module: a worker's place depends on its rank alone, so that a worker which replaces another has the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

STRATEGIES = ("none", "block", "block-reverse", "alternating")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_list(text: str) -> list[list[int]]:
    """Return the hardware threads of each worker of ``list:0-3,8:4-7,9``.

    Raises:
        ValueError: it is not of this form.
    """
    workers: list[list[int]] = []
    for part in text.removeprefix("list:").split(":"):
        threads: list[int] = []
        for piece in part.split(","):
            match = _RANGE.fullmatch(piece.strip())
            if match is None:
                raise ValueError(f"{piece!r} is neither a number nor a range like 0-7")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ValueError(f"the range {piece!r} ends before it begins")
            threads += range(first, last + 1)
        workers.append(threads)
    return workers


def check(affinity: str) -> None:
    """Check a value of the option ``cpu_affinity``.

    Raises:
        ValueError: it names no strategy, and is no list; says which there are.
    """
    if affinity in STRATEGIES:
        return
    if not affinity.startswith("list:"):
        raise ValueError(f"expected one of {', '.join(map(repr, STRATEGIES))}, or 'list:0-3:4-7' for two workers")
    parse_list(affinity)


def threads_of(affinity: str, rank: int, workers: int, available: Sequence[int]) -> list[int]:
    """Return the hardware threads of one worker; empty for no restriction.

    Args:
        affinity: the option ``cpu_affinity``.
        rank: the worker, from 0.
        workers: number of workers on the node.
        available: the hardware threads of the node, in order.

    Raises:
        ValueError: the node cannot give what the list asks for; says why.
    """
    if affinity == "none":
        return []
    if affinity.startswith("list:"):
        lists = parse_list(affinity)
        if len(lists) != workers:
            raise ValueError(
                f"cpu_affinity={affinity!r} is for {len(lists)} workers, and this node has {workers}: they must agree"
            )
        missing = sorted(set(lists[rank]) - set(available))
        if missing:
            raise ValueError(
                f"cpu_affinity={affinity!r} gives worker {rank} the hardware threads {missing}, which this node "
                f"does not have; it has {_shown(available)}"
            )
        return lists[rank]
    if affinity == "alternating":
        # A node with fewer threads than workers is shared, not refused: cores_per_worker below 1 asks for it.
        return list(available[rank::workers]) or [available[rank % len(available)]]
    ordered = list(available) if affinity == "block" else list(reversed(available))
    # Shares differ by one thread at most, and none is left over.
    first, last = rank * len(ordered) // workers, (rank + 1) * len(ordered) // workers
    return ordered[first:last] or [ordered[first]]


def accelerator_names(accelerators: int | Sequence[str]) -> list[str]:
    """Return the names of a node's accelerators; of a number, those from 0 on."""
    return [str(i) for i in range(accelerators)] if isinstance(accelerators, int) else list(accelerators)


def environment(threads: Sequence[int], accelerator: str | None) -> dict[str, str]:
    """Return the environment variables that tell libraries of a worker's place.

    For OpenMP those of the standard, of GCC's and of LLVM's and Intel's runtime; for accelerators those of CUDA, ROCm
    and Level Zero.
    """
    variables: dict[str, str] = {}
    if threads:
        names = ",".join(map(str, threads))
        variables |= {
            "OMP_NUM_THREADS": str(len(threads)),
            "GOMP_CPU_AFFINITY": names,
            "KMP_AFFINITY": f"explicit,proclist=[{names}]",
        }
    if accelerator is not None:
        variables |= {
            "CUDA_VISIBLE_DEVICES": accelerator,
            "ROCR_VISIBLE_DEVICES": accelerator,
            "ZE_AFFINITY_MASK": accelerator,
            "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
        }
    return variables


def _shown(threads: Sequence[int]) -> str:
    consecutive = list(threads) == list(range(threads[0], threads[-1] + 1))
    return f"{threads[0]}-{threads[-1]}" if consecutive and len(threads) > 1 else ", ".join(map(str, threads))
