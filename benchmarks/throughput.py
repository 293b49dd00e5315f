"""What moving tasks costs, for flowcore and its peers, in one run: no-op tasks per second, round trips, chains, submit
rates, arguments and results of 1 MB, and the seconds to the first result.

Everyone has two workers and default settings. Machines differ and are noisy: read the ratios, which are taken within
one run; each figure is the median of ``--repeats`` rounds in which all systems take turns, each in a fresh process.
Behind each ratio stands its range, from the least to the most of any round: where it is wide, the ratio says little.

flowcore's htex is measured three times: as it is by default (encrypted, through a Unix socket on this host),
as ``flowcore-htex-plain`` without encryption, and as ``flowcore-htex-tcp`` in the way of managers on other hosts, over
TCP.

    python benchmarks/throughput.py --peers parsl,process-pool,hub --json results.json
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import importlib.util
import itertools
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

App = Callable[..., Any]
#: Makes an app of a function.
Decorate = Callable[[Callable[..., Any]], App]
Figures = dict[str, float]
PEERS = (
    "flowcore-htex-plain",
    "flowcore-htex-tcp",
    "hub",
    "process-pool",
    "thread-pool",
    "parsl",
    "parsl-threads",
)
WORKERS = 2
MEGABYTE = 10**6


def noop(*args: Any) -> None:
    """The task."""


def make(size: int) -> bytes:
    """A task with a result of so many bytes."""
    return b"r" * size


@contextmanager
def _flowcore(**executor: Any) -> Iterator[Decorate]:
    import flowcore

    with tempfile.TemporaryDirectory() as run_dir, flowcore.load({"executors": [executor], "run_dir": run_dir}):
        yield flowcore.python_app


def flowcore_htex(**options: Any) -> Any:
    """flowcore's htex, with its default logging."""
    return _flowcore(plugin="htex", max_workers_per_node=WORKERS, **options)


def flowcore_threads() -> Any:
    """flowcore's kernel with threads."""
    return _flowcore(plugin="threads", max_threads=WORKERS)


@contextmanager
def _pool(kind: type[concurrent.futures.Executor]) -> Iterator[Decorate]:
    with kind(WORKERS) as pool:  # type: ignore[call-arg]
        yield lambda function: lambda *args: pool.submit(function, *args)


def process_pool() -> Any:
    """concurrent.futures.ProcessPoolExecutor."""
    return _pool(concurrent.futures.ProcessPoolExecutor)


def thread_pool() -> Any:
    """concurrent.futures.ThreadPoolExecutor."""
    return _pool(concurrent.futures.ThreadPoolExecutor)


@contextmanager
def _parsl(executor: Any) -> Iterator[Decorate]:
    import parsl

    with tempfile.TemporaryDirectory() as run_dir:
        config = parsl.Config(executors=[executor], run_dir=run_dir)
        with parsl.load(config):
            yield parsl.python_app


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
    "flowcore-htex-plain": lambda: flowcore_htex(encrypted=False),
    "flowcore-htex-tcp": lambda: flowcore_htex(address="127.0.0.1"),
    "flowcore-threads": flowcore_threads,
    "process-pool": process_pool,
    "thread-pool": thread_pool,
    "parsl": parsl_htex,
    "parsl-threads": parsl_threads,
}
#: Enough tasks for about a second; the slow ones get fewer.
COUNTS = {"parsl": 1000, "parsl-threads": 3000, "process-pool": 10000}
LARGE_COUNTS = {"parsl": 40}
#: Those whose tasks are called in another process; for the others, an argument of any size is a pointer.
SERIALIZING = ("flowcore-htex", "flowcore-htex-plain", "flowcore-htex-tcp", "process-pool", "parsl")


def percentile(times: Sequence[float], share: float) -> float:
    """Return a percentile of some times."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure_hub(options: argparse.Namespace) -> Figures:
    """Measure the bare hub once."""
    from hub import BareHub

    with BareHub() as hub:
        times = hub.round_trips(options.trips)
        return {
            "tasks_per_s": options.tasks / hub.run(options.tasks, 64),
            "tasks_per_s_batch_8": options.tasks / hub.run(options.tasks, 8),
            "round_trip_median_ms": 1e3 * statistics.median(times),
            "round_trip_p99_ms": 1e3 * percentile(times, 0.99),
        }


def measure(name: str, options: argparse.Namespace) -> Figures:
    """Run all measurements of one system once, in a process that has done nothing yet; return figures by name."""
    if name == "hub":
        return measure_hub(options)
    package = name.partition("-")[0]
    if package in ("flowcore", "parsl"):
        importlib.import_module(package)  # what that takes is not part of the first result
    began = time.perf_counter()
    with SYSTEMS[name]() as decorate:
        app = decorate(noop)
        app().result()
        figures = {"first_result_s": time.perf_counter() - began}
        for future in [app() for _ in range(200)]:
            future.result()
        figures |= throughput(app, min(options.tasks, COUNTS.get(name, options.tasks)))
        figures |= round_trips(app, options.trips)
        if package in ("flowcore", "parsl"):  # a bare pool knows no dependencies
            figures |= chain(app, options.links)
            figures["round_trips_per_link"] = 1e3 / figures["chain_links_per_s"] / figures["round_trip_median_ms"]
        if name in SERIALIZING:
            figures |= large(decorate, min(options.large, LARGE_COUNTS.get(name, options.large)))
        return figures


def throughput(app: App, count: int) -> Figures:
    """No-op tasks, from the first call to the last result, and the calls alone."""
    began = time.perf_counter()
    futures = [app() for _ in range(count)]
    submitted = time.perf_counter()
    for future in futures:
        future.result()
    ended = time.perf_counter()
    return {"tasks_per_s": count / (ended - began), "submit_per_s": count / (submitted - began)}


def round_trips(app: App, count: int) -> Figures:
    """Tasks one after another: the time from a call to its result."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        app().result()
        times.append(time.perf_counter() - began)
    return {
        "round_trip_median_ms": 1e3 * statistics.median(times),
        "round_trip_p99_ms": 1e3 * percentile(times, 0.99),
    }


def chain(app: App, count: int) -> Figures:
    """Tasks that each wait for the one before."""
    began = time.perf_counter()
    last = app()
    for _ in range(count - 1):
        last = app(last)
    last.result()
    return {"chain_links_per_s": count / (time.perf_counter() - began)}


def large(decorate: Decorate, count: int) -> Figures:
    """Tasks with 1 MB to carry: one way in an argument, bytes or an array, or the other way as the result."""
    consume, produce = decorate(noop), decorate(make)
    noise = os.urandom(MEGABYTE - 8)
    numbers = itertools.count()
    figures = {
        # Another one each time: no system may send one only once.
        "mb_bytes_args_per_s": per_second(lambda: consume(next(numbers).to_bytes(8) + noise), count),
        "mb_results_per_s": per_second(lambda: produce(MEGABYTE), count),
    }
    if importlib.util.find_spec("numpy") is not None:
        import numpy

        array = numpy.random.default_rng(1).random(MEGABYTE // 8)
        figures["mb_array_args_per_s"] = per_second(lambda: consume(array.copy()), count)
    return figures


def per_second(call: Callable[[], Any], count: int) -> float:
    """Return the rate of some calls, from the first to the last result; no result is kept."""
    for future in [call() for _ in range(4)]:
        future.result()
    began = time.perf_counter()
    futures = [call() for _ in range(count)]
    futures.reverse()
    while futures:
        futures.pop().result()
    return count / (time.perf_counter() - began)


def isolated(name: str, options: argparse.Namespace) -> Figures:
    """Run :func:`measure` in a process of its own."""
    sizes = [f"--{size}={getattr(options, size)}" for size in ("tasks", "trips", "links", "large")]
    return report.isolated(__file__, "--only", name, *sizes)


#: What the project's goals say: a text, whose figure is divided by whose, and which figure.
RATIOS = [
    ("htex tasks/s, times the process pool's (goal 4)", "flowcore-htex", "process-pool", "tasks_per_s"),
    ("htex tasks/s, times Parsl htex's (goal 40)", "flowcore-htex", "parsl", "tasks_per_s"),
    ("htex tasks/s, share of the bare hub's (goal 0.33)", "flowcore-htex", "hub", "tasks_per_s"),
    ("htex round trip, times the bare hub's (goal at most 2)", "flowcore-htex", "hub", "round_trip_median_ms"),
    ("htex round trip, share of Parsl's (goal at most 0.25)", "flowcore-htex", "parsl", "round_trip_median_ms"),
    ("htex chain links/s, times Parsl htex's", "flowcore-htex", "parsl", "chain_links_per_s"),
    ("htex 1 MB arguments/s, times Parsl htex's", "flowcore-htex", "parsl", "mb_bytes_args_per_s"),
    ("htex 1 MB arguments/s, times the process pool's", "flowcore-htex", "process-pool", "mb_bytes_args_per_s"),
    ("htex 1 MB results/s, times Parsl htex's", "flowcore-htex", "parsl", "mb_results_per_s"),
    ("htex 1 MB results/s, times the process pool's", "flowcore-htex", "process-pool", "mb_results_per_s"),
    ("htex first result, share of Parsl's time", "flowcore-htex", "parsl", "first_result_s"),
    ("encryption: tasks/s, share of those without", "flowcore-htex", "flowcore-htex-plain", "tasks_per_s"),
    ("encryption: round trip, times that without", "flowcore-htex", "flowcore-htex-plain", "round_trip_median_ms"),
    ("encryption: 1 MB arguments/s, share", "flowcore-htex", "flowcore-htex-plain", "mb_bytes_args_per_s"),
    ("TCP: tasks/s, share of those through a Unix socket", "flowcore-htex-tcp", "flowcore-htex", "tasks_per_s"),
    ("TCP: 1 MB arguments/s, share", "flowcore-htex-tcp", "flowcore-htex", "mb_bytes_args_per_s"),
    ("kernel with threads, share of the bare pool's (goal 0.4)", "flowcore-threads", "thread-pool", "tasks_per_s"),
    ("kernel with threads, times Parsl's", "flowcore-threads", "parsl-threads", "tasks_per_s"),
]
#: Goals that are no comparison: a text, and which of htex's figures, in units of the goal.
FIGURES = [
    ("htex 1 MB arguments per second, in thousands (goal 1)", "mb_bytes_args_per_s", 1000),
    ("htex 1 MB arrays per second, in thousands (goal 1)", "mb_array_args_per_s", 1000),
    ("htex first result after load(), in seconds (goal at most 1)", "first_result_s", 1),
    ("htex chain: round trips per link (goal at most 1)", "round_trips_per_link", 1),
]


def ratios(results: dict[str, Figures]) -> dict[str, float]:
    """Return the ratios that the project's goals are stated in, for the systems that ran."""
    found = {}
    for text, ours, theirs, figure in RATIOS:
        if figure in results.get(ours, {}) and figure in results.get(theirs, {}):
            found[text] = results[ours][figure] / results[theirs][figure]
    for text, figure, unit in FIGURES:
        if figure in results["flowcore-htex"]:
            found[text] = results["flowcore-htex"][figure] / unit
    return found


def main() -> None:
    """Run from the command line."""
    default = "flowcore-htex-plain,flowcore-htex-tcp,parsl,process-pool,thread-pool,hub"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=default, help=f"among: {','.join(PEERS)}")
    parser.add_argument("--tasks", type=int, default=30000, help="no-op tasks per round; slow systems get fewer")
    parser.add_argument("--trips", type=int, default=500, help="round trips per round")
    parser.add_argument("--links", type=int, default=2000, help="tasks of the chain")
    parser.add_argument("--large", type=int, default=500, help="tasks with 1 MB; slow systems get fewer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one system once, in this process
    options = parser.parse_args()
    peers = [p for p in options.peers.split(",") if p]
    for peer in peers:
        if peer not in PEERS:
            parser.error(f"unknown peer {peer!r}; choose among {', '.join(PEERS)}")
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    systems = ["flowcore-htex", "flowcore-threads", *peers]
    rounds: dict[str, list[Figures]] = {}
    for number in range(options.repeats):
        # Every other round backwards: who comes first would always meet the machine in the same state.
        for name in systems[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            rounds.setdefault(name, []).append(isolated(name, options))
    results = report.medians(rounds)
    seen, spread = ratios(results), report.ranges(rounds, ratios)
    if options.json:
        made = report.make(options.repeats, results, seen, "flowcore", "flowcore-executor-htex", "parsl", "pyzmq")
        made["ranges"] = spread
        if report.write(made, options.json):
            return
    report.show(results, seen, spread)


if __name__ == "__main__":
    main()
