"""What the benchmarks share: a fresh process for each system, and the report of a run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


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
