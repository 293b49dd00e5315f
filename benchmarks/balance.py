"""How evenly tasks of very different lengths are shared out: the makespan beside that of an ideal greedy schedule.

Everyone has 8 workers and tasks that sleep. The ideal schedule gives each task, in the order of the calls, to whichever
worker is free first, and nothing else takes time. A ratio of 1 is perfect; each is the median of ``--repeats`` rounds
in which the systems take turns, each in a fresh process. All tasks are calls of one function, of which nothing is known
beforehand.

    python benchmarks/balance.py --mixes uniform,short-then-long --json results.json
"""

from __future__ import annotations

import argparse
import concurrent.futures
import heapq
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report

#: Makes an app of a function.
Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]
WORKERS = 8
#: How long a task sleeps: from this to that, in seconds.
SHORTEST, LONGEST = 0.001, 2.0


def nap(seconds: float) -> None:
    """The task."""
    import time  # Parsl sends the function without its module.

    time.sleep(seconds)


# --- the mixes: functions of the work that there is to do (seconds of sleep in total) and of a source of chance


def until(total: float, draw: Callable[[], float]) -> list[float]:
    """Return durations that add up to about as much as there is to do."""
    durations: list[float] = []
    while sum(durations) < total:
        durations.append(draw())
    return durations


def uniform(total: float, generator: random.Random) -> list[float]:
    """Any length is as likely as any other."""
    return until(total, lambda: generator.uniform(SHORTEST, LONGEST))


def log_uniform(total: float, generator: random.Random) -> list[float]:
    """Milliseconds are as many as tenths of a second."""
    return until(total, lambda: SHORTEST * (LONGEST / SHORTEST) ** generator.random())


def bimodal(total: float, generator: random.Random) -> list[float]:
    """Either very short or long, one of ten."""
    return until(total, lambda: LONGEST if generator.random() < 0.1 else SHORTEST)


def ascending(total: float, generator: random.Random) -> list[float]:
    """The longest last: the worst order even for an ideal schedule."""
    return sorted(log_uniform(total, generator))


def descending(total: float, generator: random.Random) -> list[float]:
    """The longest first."""
    return sorted(log_uniform(total, generator), reverse=True)


def short_then_long(total: float, generator: random.Random) -> list[float]:
    """Thousands that teach a system to send many at a time, then long ones."""
    short = [SHORTEST] * int(0.1 * total / SHORTEST)
    return short + until(0.9 * total, lambda: generator.uniform(LONGEST / 2, LONGEST))


def no_ops_then_long(total: float, generator: random.Random) -> list[float]:
    """The same with tasks that take no time at all."""
    return [0.0] * int(0.1 * total / SHORTEST) + until(total, lambda: generator.uniform(LONGEST / 2, LONGEST))


MIXES: dict[str, Callable[[float, random.Random], list[float]]] = {
    "uniform": uniform,
    "log-uniform": log_uniform,
    "bimodal": bimodal,
    "ascending": ascending,
    "descending": descending,
    "short-then-long": short_then_long,
    "no-ops-then-long": no_ops_then_long,
}


def ideal(durations: Sequence[float]) -> float:
    """Return the makespan of the greedy schedule in seconds."""
    free = [0.0] * WORKERS
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


# --- the systems. More workers than this machine has cores: they only sleep.


@contextmanager
def flowcore_htex() -> Iterator[Decorate]:
    """flowcore's htex, encrypted."""
    import flowcore

    executor = {"plugin": "htex", "max_workers_per_node": WORKERS, "cores_per_worker": 0.01}
    with tempfile.TemporaryDirectory() as run_dir, flowcore.load({"executors": [executor], "run_dir": run_dir}):
        yield flowcore.python_app


@contextmanager
def process_pool() -> Iterator[Decorate]:
    """concurrent.futures.ProcessPoolExecutor."""
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        yield lambda function: lambda *args: pool.submit(function, *args)


@contextmanager
def parsl_htex() -> Iterator[Decorate]:
    """Parsl's htex with its defaults."""
    import parsl

    # Its workers are found on PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    executor = parsl.HighThroughputExecutor(max_workers_per_node=WORKERS, cores_per_worker=0.01, address="127.0.0.1")
    with tempfile.TemporaryDirectory() as run_dir, parsl.load(parsl.Config(executors=[executor], run_dir=run_dir)):
        yield parsl.python_app


SYSTEMS: dict[str, Callable[[], Any]] = {
    "flowcore-htex": flowcore_htex,
    "parsl": parsl_htex,
    "process-pool": process_pool,
}
PEERS = ("parsl", "process-pool")


def measure(name: str, mixes: Sequence[str], seconds: float, seed: int) -> dict[str, float]:
    """Run the mixes once in one system; return each one's makespan, divided by the ideal one."""
    figures = {}
    with SYSTEMS[name]() as decorate:
        app = decorate(nap)
        # Until all workers are there and have the function.
        for future in [app(0.2) for _ in range(4 * WORKERS)]:
            future.result()
        for mix in mixes:
            durations = MIXES[mix](seconds * WORKERS, random.Random(seed))
            began = time.perf_counter()
            for future in [app(duration) for duration in durations]:
                future.result()
            figures[mix] = (time.perf_counter() - began) / ideal(durations)
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help=f"among: {','.join(PEERS)}")
    parser.add_argument("--mixes", default=",".join(MIXES), help=f"among: {','.join(MIXES)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="about what each mix ideally takes")
    parser.add_argument("--seed", type=int, default=1, help="for the durations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one system once, in this process
    options = parser.parse_args()
    mixes, peers = ([name for name in text.split(",") if name] for text in (options.mixes, options.peers))
    for kind, names, known in (("mix", mixes, MIXES), ("peer", peers, PEERS)):
        for name in names:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}; choose among {', '.join(known)}")
    if options.only:
        print(json.dumps(measure(options.only, mixes, options.seconds, options.seed)))
        return
    rounds: dict[str, list[dict[str, float]]] = {}
    arguments = ("--mixes", ",".join(mixes), f"--seconds={options.seconds}", f"--seed={options.seed}")
    for number in range(options.repeats):
        for name in ["flowcore-htex", *peers]:
            print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            rounds.setdefault(name, []).append(report.isolated(__file__, "--only", name, *arguments))
    results = {
        name: {mix: statistics.median(run[mix] for run in runs) for mix in mixes} for name, runs in rounds.items()
    }
    if options.json:
        goals = {
            f"htex, {mix}: makespan by the ideal one (goal at most 1.1)": results["flowcore-htex"][mix] for mix in mixes
        }
        made = report.make(options.repeats, results, goals, "flowcore", "flowcore-executor-htex", "parsl")
        if report.write(made, options.json):
            return
    print(f"{'makespan by the ideal one; goal at most 1.1':48}", *(f"{name:>14}" for name in results))
    for mix in mixes:
        print(f"{mix:48}", *(f"{figures[mix]:14.3f}" for figures in results.values()))


if __name__ == "__main__":
    main()
