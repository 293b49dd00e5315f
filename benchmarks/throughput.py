"""No-op tasks per second, round trips, chains and submit rates of flowcore and its peers, in one run.

Everyone has two workers and default settings. Machines differ and are noisy: read the ratios, which are taken within
one run; each figure is the median of ``--repeats`` rounds in which all systems take turns, each in a fresh process.

    python benchmarks/throughput.py --peers parsl,process-pool,hub --json results.json
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report

sys.path.insert(0, str(Path(__file__).parent))

Submit = Callable[..., Any]
PEERS = ("hub", "process-pool", "thread-pool", "parsl", "parsl-threads")
WORKERS = 2


def noop(*args: Any) -> None:
    """The task."""


@contextmanager
def flowcore_htex() -> Iterator[tuple[Submit, Submit]]:
    """flowcore's htex, encrypted, with its default logging."""
    import flowcore

    executor = {"plugin": "htex", "max_workers_per_node": WORKERS}
    with tempfile.TemporaryDirectory() as run_dir, flowcore.load({"executors": [executor], "run_dir": run_dir}):
        app = flowcore.python_app(noop)
        yield app, app


@contextmanager
def flowcore_threads() -> Iterator[tuple[Submit, Submit]]:
    """flowcore's kernel with threads."""
    import flowcore

    executor = {"plugin": "threads", "max_threads": WORKERS}
    with tempfile.TemporaryDirectory() as run_dir, flowcore.load({"executors": [executor], "run_dir": run_dir}):
        app = flowcore.python_app(noop)
        yield app, app


@contextmanager
def _pool(kind: type[concurrent.futures.Executor]) -> Iterator[tuple[Submit, Submit | None]]:
    with kind(WORKERS) as pool:  # type: ignore[call-arg]
        yield lambda *args: pool.submit(noop, *args), None


def process_pool() -> Any:
    """concurrent.futures.ProcessPoolExecutor."""
    return _pool(concurrent.futures.ProcessPoolExecutor)


def thread_pool() -> Any:
    """concurrent.futures.ThreadPoolExecutor."""
    return _pool(concurrent.futures.ThreadPoolExecutor)


@contextmanager
def _parsl(executor: Any) -> Iterator[tuple[Submit, Submit]]:
    import parsl

    with tempfile.TemporaryDirectory() as run_dir:
        config = parsl.Config(executors=[executor], run_dir=run_dir)
        with parsl.load(config):
            app = parsl.python_app(noop)
            yield app, app


def parsl_htex() -> Any:
    """Parsl's htex with its defaults."""
    import parsl

    # Its workers are found on PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return _parsl(parsl.HighThroughputExecutor(max_workers_per_node=WORKERS, address="127.0.0.1"))


def parsl_threads() -> Any:
    """Parsl's threads."""
    from parsl.executors import ThreadPoolExecutor

    return _parsl(ThreadPoolExecutor(max_threads=WORKERS))


SYSTEMS: dict[str, Callable[[], Any]] = {
    "flowcore-htex": flowcore_htex,
    "flowcore-threads": flowcore_threads,
    "process-pool": process_pool,
    "thread-pool": thread_pool,
    "parsl": parsl_htex,
    "parsl-threads": parsl_threads,
}
#: Enough tasks for about a second; the slow ones get fewer.
COUNTS = {"parsl": 1000, "parsl-threads": 3000, "process-pool": 10000}


def percentile(times: Sequence[float], share: float) -> float:
    """Return a percentile of some times."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(name: str, tasks: int, trips: int, links: int) -> dict[str, float]:
    """Run all measurements of one system once; return figures by name."""
    if name == "hub":
        from hub import BareHub

        with BareHub() as hub:
            times = hub.round_trips(trips)
            return {
                "tasks_per_s": tasks / hub.run(tasks, 64),
                "tasks_per_s_batch_8": tasks / hub.run(tasks, 8),
                "round_trip_median_ms": 1e3 * statistics.median(times),
                "round_trip_p99_ms": 1e3 * percentile(times, 0.99),
            }
    tasks = min(tasks, COUNTS.get(name, tasks))
    with SYSTEMS[name]() as (submit, chain):
        submit().result()
        for future in [submit() for _ in range(200)]:
            future.result()
        began = time.perf_counter()
        futures = [submit() for _ in range(tasks)]
        submitted = time.perf_counter()
        for future in futures:
            future.result()
        ended = time.perf_counter()
        figures = {"tasks_per_s": tasks / (ended - began), "submit_per_s": tasks / (submitted - began)}
        del futures
        times = []
        for _ in range(trips):
            t = time.perf_counter()
            submit().result()
            times.append(time.perf_counter() - t)
        figures["round_trip_median_ms"] = 1e3 * statistics.median(times)
        figures["round_trip_p99_ms"] = 1e3 * percentile(times, 0.99)
        if chain is not None:
            began = time.perf_counter()
            last = chain()
            for _ in range(links - 1):
                last = chain(last)
            last.result()
            figures["chain_links_per_s"] = links / (time.perf_counter() - began)
        return figures


def isolated(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run :func:`measure` in a process of its own."""
    sizes = [f"--{size}={getattr(options, size)}" for size in ("tasks", "trips", "links")]
    return report.isolated(__file__, "--only", name, *sizes)


def ratios(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the ratios that the project's goals are stated in, for the systems that ran."""
    wanted = [
        ("htex tasks/s, times the process pool's (goal 4)", "flowcore-htex", "process-pool", "tasks_per_s"),
        ("htex tasks/s, times Parsl htex's (goal 20)", "flowcore-htex", "parsl", "tasks_per_s"),
        ("htex tasks/s, share of the bare hub's (goal 0.33)", "flowcore-htex", "hub", "tasks_per_s"),
        ("htex round trip, times the bare hub's (goal at most 2)", "flowcore-htex", "hub", "round_trip_median_ms"),
        ("htex round trip, share of Parsl's (goal at most 0.25)", "flowcore-htex", "parsl", "round_trip_median_ms"),
        ("htex chain links/s, times Parsl htex's", "flowcore-htex", "parsl", "chain_links_per_s"),
        ("kernel with threads, share of the bare pool's (goal 0.4)", "flowcore-threads", "thread-pool", "tasks_per_s"),
        ("kernel with threads, times Parsl's", "flowcore-threads", "parsl-threads", "tasks_per_s"),
    ]
    found = {}
    for text, ours, theirs, figure in wanted:
        if figure in results.get(ours, {}) and figure in results.get(theirs, {}):
            found[text] = results[ours][figure] / results[theirs][figure]
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="parsl,process-pool,thread-pool,hub", help=f"among: {','.join(PEERS)}")
    parser.add_argument("--tasks", type=int, default=30000, help="no-op tasks per round; slow systems get fewer")
    parser.add_argument("--trips", type=int, default=500, help="round trips per round")
    parser.add_argument("--links", type=int, default=2000, help="tasks of the chain")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one system once, in this process
    options = parser.parse_args()
    peers = [p for p in options.peers.split(",") if p]
    for peer in peers:
        if peer not in PEERS:
            parser.error(f"unknown peer {peer!r}; choose among {', '.join(PEERS)}")
    if options.only:
        print(json.dumps(measure(options.only, options.tasks, options.trips, options.links)))
        return
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(options.repeats):
        for name in ["flowcore-htex", "flowcore-threads", *peers]:
            print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            rounds.setdefault(name, []).append(isolated(name, options))
    results = {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in rounds.items()
    }
    seen = ratios(results)
    if options.json:
        made = report.make(options.repeats, results, seen, "flowcore", "parsl", "pyzmq")
        if report.write(made, options.json):
            return
    for name, figures in results.items():
        print(f"{name:18}", "  ".join(f"{figure} {value:,.2f}" for figure, value in figures.items()))
    for text, ratio in seen.items():
        print(f"{ratio:8.2f}  {text}")


if __name__ == "__main__":
    main()
