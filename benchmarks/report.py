"""What the benchmarks share: a fresh process for each system, and the report of a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Figures = dict[str, float]
#: The figures of each round, by the system that was measured.
Rounds = Mapping[str, list[Figures]]


def isolated(script: str, *arguments: str) -> dict[str, float]:
    """Run a benchmark's script in a process of its own: what one system leaves behind must not slow the next one down.

    Args:
        script: path of the script, which prints its figures as JSON in the last line.
        arguments: what it is to measure.

    Returns:
        The figures.
    """
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make(rounds: int, results: Any, ratios: dict[str, float], *distributions: str) -> dict[str, Any]:
    """Return the report of a run: where it was taken, of which versions, and what was seen."""
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions(*distributions),
        "rounds": rounds,
        "results": results,
        "ratios": ratios,
    }


def write(report: dict[str, Any], target: str) -> bool:
    """Write a report as JSON to a file, or for ``-`` to stdout; return whether stdout has had it."""
    text = json.dumps(report, indent=2)
    if target == "-":
        print(text)
        return True
    Path(target).write_text(text + "\n", encoding="utf-8")
    return False


def medians(rounds: Rounds) -> dict[str, Figures]:
    """Return the median of each figure of each system."""
    return {
        name: {figure: statistics.median(one[figure] for one in runs) for figure in runs[0]}
        for name, runs in rounds.items()
    }


def ranges(rounds: Rounds, ratios: Callable[[dict[str, Figures]], dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Return the least and the most that each ratio was in any round, of figures that were taken in that same round."""
    count = len(next(iter(rounds.values())))
    each = [ratios({name: runs[number] for name, runs in rounds.items()}) for number in range(count)]
    return {text: (min(r[text] for r in each), max(r[text] for r in each)) for text in each[0]}


def show(
    results: Mapping[str, Figures], ratios: Mapping[str, float], spread: Mapping[str, tuple[float, float]]
) -> None:
    """Print the figures of each system, and each ratio with its range."""
    for name, figures in results.items():
        print(f"{name:20}", "  ".join(f"{figure} {value:,.2f}" for figure, value in figures.items()))
    for text, ratio in ratios.items():
        low, high = spread[text]
        print(f"{ratio:8.2f} {f'({low:.2f} to {high:.2f})':20} {text}")
