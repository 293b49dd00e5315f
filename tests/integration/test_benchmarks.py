"""Runs the benchmarks with tiny sizes: that they work, not what they measure."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowcore.plugins import registry
from flowcore.testing.servers import need

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    "htex" not in [plugin.name for plugin in registry.installed("executor")],
    reason="the executor htex is not installed",
)


def run(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark, which imports what lies beside it, for this test alone."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "report", raising=False)
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load("soak", monkeypatch)


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load("throughput", monkeypatch)


def test_throughput(tmp_path: Path) -> None:
    sizes = ("--tasks=300", "--trips=20", "--links=20", "--large=4", "--repeats=1", "--json=report.json")
    done = run("throughput.py", *sizes, "--peers=flowcore-htex-plain,flowcore-htex-tcp,process-pool,hub", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    htex = report["results"]["flowcore-htex"]
    assert htex.keys() == report["results"]["flowcore-htex-tcp"].keys()
    assert {"first_result_s", "tasks_per_s", "mb_bytes_args_per_s", "mb_results_per_s"} <= htex.keys()
    assert all(value > 0 for figures in report["results"].values() for value in figures.values())
    pool = report["results"]["process-pool"]["tasks_per_s"]
    ratios = report["ratios"]
    assert ratios["htex tasks/s, times the process pool's (goal 4)"] == htex["tasks_per_s"] / pool
    assert ratios["htex 1 MB arguments per second, in thousands (goal 1)"] == htex["mb_bytes_args_per_s"] / 1000
    assert not [text for text in ratios if "Parsl" in text], "it was not measured"
    assert report["ranges"] == {text: [ratio, ratio] for text, ratio in ratios.items()}, "there was one round"


def test_the_range_of_a_ratio_is_of_figures_of_one_round(throughput: Any) -> None:
    text = "htex tasks/s, share of the bare hub's (goal 0.33)"
    rounds = {
        "flowcore-htex": [{"tasks_per_s": 10.0}, {"tasks_per_s": 30.0}, {"tasks_per_s": 20.0}],
        "hub": [{"tasks_per_s": 100.0}, {"tasks_per_s": 100.0}, {"tasks_per_s": 40.0}],
    }
    assert throughput.report.ranges(rounds, throughput.ratios) == {text: (0.1, 0.5)}


def test_balance(tmp_path: Path) -> None:
    sizes = ("--seconds=0.5", "--repeats=1", "--mixes=log-uniform,short-then-long", "--json=report.json")
    done = run("balance.py", *sizes, "--peers=process-pool", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    assert {name: list(mixes) for name, mixes in results.items()} == {
        "flowcore-htex": ["log-uniform", "short-then-long"],
        "process-pool": ["log-uniform", "short-then-long"],
    }
    # Sleeping takes no less time than it says: nothing is better than a schedule without any pause by much.
    assert all(value > 0.5 for mixes in results.values() for value in mixes.values())


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    done = run("balance.py", "--mixes=uniforn", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown mix 'uniforn'; choose among uniform, log-uniform" in done.stdout
    done = run("throughput.py", "--peers=parsel", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown peer 'parsel'; choose among" in done.stdout


@pytest.mark.parametrize("transport", [[], ["--tcp"]], ids=["local", "tcp"])
def test_soak(tmp_path: Path, transport: list[str]) -> None:
    done = run("soak.py", "--minutes=0.1", "--kill-every=1", *transport, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "nothing is off" in done.stdout
    assert "SIGKILL" in done.stdout, "nothing was killed"
    assert list(tmp_path.iterdir()) == []


def test_soak_gives_up_what_is_stuck(tmp_path: Path) -> None:
    done = run("soak.py", "--minutes=0.1", "--bound=0", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "stuck: the run was given up" in done.stdout
    assert "s after its call" in done.stdout


def test_soak_sees_a_wrong_outcome(soak: Any, tmp_path: Path) -> None:
    from concurrent.futures import Future

    work = soak.Work(1, tmp_path, 60)
    ends = {"right": 2, "wrong value": 3, "error": ValueError("x"), "other error": KeyError("x")}
    checks = {"error": soak.is_error(ValueError, "x"), "other error": soak.is_error(ValueError, "x")}
    for kind, end in ends.items():
        future = work.expect(kind, Future(), checks.get(kind, soak.is_value(2)))
        future.set_exception(end) if isinstance(end, Exception) else future.set_result(end)
    work.reap(0)
    work.check_counts()
    assert work.outcomes == {
        ("right", "value"): 1,
        ("wrong value", "WRONG"): 1,
        ("error", "error"): 1,
        ("other error", "WRONG"): 1,
    }
    assert len(work.problems) == 2
    assert "its value is 3, not 2" in work.problems[0]
    work.outcomes.clear()
    work.check_counts()
    assert work.problems[-1] == "4 tasks were submitted; 0 ended and 0 are pending"


def test_soak_tells_growth_from_chance(soak: Any) -> None:
    generator = random.Random(1)
    times = [float(second) for second in range(600)]
    samples = soak.Samples({})
    samples.series = {
        "steady rss_mb": (times, [100 + generator.gauss(0, 30) for _ in times]),
        "leaking rss_mb": (times, [100 + generator.gauss(0, 30) + second / 10 for second in times]),
        "leaking descriptors": (times, [20 + second / 60 for second in times]),
        # It grew while it warmed up, and not any more.
        "warmed processes": (times, [10.0 if second > 100 else second / 10 for second in times]),
    }
    assert [name for name, _, _, _, too_much in samples.growth(200) if too_much] == [
        "leaking rss_mb",
        "leaking descriptors",
    ]


# --- staging


def test_staging(tmp_path: Path) -> None:
    need("curl", "rsync", "xargs")
    sizes = ("--files=20", "--size=1000000", "--repeats=1", f"--folder={tmp_path}", "--json=report.json")
    done = run("staging.py", *sizes, "--methods=http,ftp-in-task,rsync,zip", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    results, ratios = report["results"], report["ratios"]
    systems = ["no-staging", "http", "ftp-in-task", "rsync", "zip", "curl-http", "curl-ftp", "rsync-alone", "zipfile"]
    assert list(results) == systems
    assert all(value > 0 for figures in results.values() for value in figures.values())
    overhead = results["http"]["small_ms"] - results["no-staging"]["small_ms"]
    assert ratios["http: staging one small file, ms"] == overhead
    share = results["zip"]["large_mb_per_s"] / results["zipfile"]["large_mb_per_s"]
    assert ratios["zip: large file, share of the throughput of zipfile"] == share
    assert not [text for text in ratios if "parsl" in text], "it was not measured"
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]


def test_staging_refuses(tmp_path: Path) -> None:
    done = run("staging.py", "--methods=htpp", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown method 'htpp'; choose among http, http-in-task" in done.stdout
