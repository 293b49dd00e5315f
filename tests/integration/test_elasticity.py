"""Runs the simulation of the scaling strategies, small: it is the same each time, and says what it must."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "elasticity.py"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def elasticity(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, imported for this test alone, as it imports what lies beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "report", raising=False)
    spec = importlib.util.spec_from_file_location("elasticity", BENCHMARKS / "elasticity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "elasticity", module)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_of_the_seed() -> None:
    done = run("--hours=3", "--json=first.json")
    assert done.returncode == 0, done.stderr
    names = [line.partition("  ")[0] for line in done.stdout.splitlines()[1:]]
    first = json.loads(Path("first.json").read_text())
    assert list(first["results"]) == names
    assert run("--hours=3", "--json=again.json").returncode == 0
    again = json.loads(Path("again.json").read_text())
    assert (again["results"], again["ratios"]) == (first["results"], first["ratios"])
    assert run("--hours=3", "--seed=2", "--json=other.json").returncode == 0
    assert json.loads(Path("other.json").read_text())["results"] != first["results"]


def test_what_strategies_cost(elasticity: Any) -> None:
    def figures(*arguments: Any, **options: Any) -> dict[str, float]:
        world = elasticity.simulate(elasticity.Scenario(*arguments, **options), 6, 180.0, 1)
        return dict(world.run())

    fixed = figures("none", init=20, walltime_s=1e6)
    simple, auto = figures("simple"), figures("htex_auto_scale")
    assert fixed["node_hours"] > simple["node_hours"] > auto["node_hours"]
    assert fixed["burst_mean_min"] < simple["burst_mean_min"]
    assert (fixed["blocks"], fixed["lost_tasks"]) == (20, 0)
    # Less parallelism costs less and takes longer; so does less patience, which asks for blocks more often.
    thrifty = figures("htex_auto_scale", parallelism=0.25)
    assert thrifty["node_hours"] < auto["node_hours"]
    assert thrifty["burst_mean_min"] > auto["burst_mean_min"]
    patient = figures("htex_auto_scale", max_idletime=900.0)
    assert patient["node_hours"] > auto["node_hours"]
    assert patient["blocks"] < auto["blocks"]
    # No block with work is ever given back: what is run again was in a block that its walltime ended.
    assert auto["lost_tasks"] == 0
    assert figures("simple", parallelism=0.0, walltime_s=1200.0)["lost_tasks"] > 0


def test_a_day_without_tasks_is_refused() -> None:
    done = run("--hours=0.0001")
    assert done.returncode == 2
    assert "--hours 0.0001: no task arrives in so short a time" in done.stderr


def test_the_plot() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: see requirements-bench.txt")
    done = run("--hours=1", "--plot=plot.svg")
    assert done.returncode == 0, done.stderr
    assert "<svg" in Path("plot.svg").read_text()
