"""What the kernel itself costs per task, beside Parsl's, in one run: both with threads and default settings.

Submitting, running, depending, remembering, checkpointing, waiting; and a million tasks in flowcore alone. Machines
differ and are noisy: read the ratios, which are taken within one run. Each measure of each system has a fresh process;
each figure is the median of ``--repeats`` rounds in which the systems take turns. Times are microseconds per task.

    python benchmarks/kernel.py --measures submit,tasks,waiting --json results.json
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import inspect
import itertools
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report

App = Callable[..., Any]
#: Makes an app of a function; keyword ``cache`` as in the decorators.
Decorate = Callable[..., App]
Figures = dict[str, float]
WORKERS = 2
#: For the memory of a process, in bytes.
_STATM = Path("/proc/self/statm")


def noop(*args: Any) -> None:
    """The task."""


def gather(inputs: Any = ()) -> int:
    """Return how many values came in; both systems look for futures in ``inputs``."""
    return len(inputs)


def remembered(x: int) -> int:
    """A task whose result is kept."""
    return x


# --- the systems


@contextmanager
def flowcore_threads(checkpoint_mode: str | None) -> Iterator[Decorate]:
    """flowcore's kernel with threads."""
    import flowcore

    options = {"executors": [{"plugin": "threads", "max_threads": WORKERS}], "checkpoint_mode": checkpoint_mode}
    with tempfile.TemporaryDirectory() as run_dir, flowcore.load({**options, "run_dir": run_dir}):
        yield flowcore.python_app


@contextmanager
def parsl_threads(checkpoint_mode: str | None) -> Iterator[Decorate]:
    """Parsl's kernel with threads."""
    import parsl
    from parsl.executors import ThreadPoolExecutor

    options: dict[str, Any] = {}
    if checkpoint_mode is not None:
        options["checkpoint_mode"] = checkpoint_mode
        if "memoizer" in inspect.signature(parsl.Config).parameters:  # Versions since 2025 have the option there.
            from parsl.dataflow.memoization import BasicMemoizer

            options = {"memoizer": BasicMemoizer(**options)}
    with tempfile.TemporaryDirectory() as run_dir:
        executor = ThreadPoolExecutor(max_threads=WORKERS)
        with parsl.load(parsl.Config(executors=[executor], run_dir=run_dir, **options)):
            yield parsl.python_app


@contextmanager
def thread_pool(checkpoint_mode: str | None) -> Iterator[Decorate]:
    """concurrent.futures.ThreadPoolExecutor, which knows neither dependencies nor memoization."""
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        yield lambda function: lambda *args: pool.submit(function, *args)


SYSTEMS: dict[str, Callable[[str | None], Any]] = {
    "flowcore": flowcore_threads,
    "parsl": parsl_threads,
    "thread-pool": thread_pool,
}


# --- the measures


class Gate:
    """Holds all workers of a system in tasks, so that what is submitted meanwhile only waits."""

    def __init__(self, decorate: Decorate) -> None:
        self._open = threading.Event()
        entered = threading.Semaphore(0)
        opened = self._open

        def hold() -> None:
            entered.release()
            opened.wait()

        holding = decorate(hold)
        #: Futures of the tasks that hold the workers.
        self.holders = [holding() for _ in range(WORKERS)]
        for _ in range(WORKERS):
            entered.acquire()

    def open(self) -> None:
        """Let the workers go on."""
        self._open.set()


def per_task(seconds: float, count: int) -> float:
    """Return microseconds per task."""
    return 1e6 * seconds / count


def wait(futures: list[Any]) -> None:
    """Wait for all of the futures."""
    for future in futures:
        future.result()


def warm_up(app: App) -> None:
    """Let a system make what it makes once."""
    wait([app() for _ in range(200)])


def rss() -> int:
    """Return the bytes of memory that this process holds now."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    # Only its peak is known here, in kilobytes or, on macOS, bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def submit(decorate: Decorate, count: int) -> Figures:
    """The call of an app alone: no task ends meanwhile. CPU time of the whole process, and time by the clock."""
    app = decorate(noop)
    warm_up(app)
    gate = Gate(decorate)
    cpu, clock = time.process_time(), time.perf_counter()
    futures = [app() for _ in range(count)]
    figures = {
        "submit_cpu_us": per_task(time.process_time() - cpu, count),
        "submit_us": per_task(time.perf_counter() - clock, count),
    }
    gate.open()
    wait(futures)
    return figures


def tasks(decorate: Decorate, count: int) -> Figures:
    """No-op tasks, from the first call to the last result."""
    app = decorate(noop)
    warm_up(app)
    began = time.perf_counter()
    wait([app() for _ in range(count)])
    took = time.perf_counter() - began
    return {"task_us": per_task(took, count), "tasks_per_s": count / took}


def chain(decorate: Decorate, count: int) -> Figures:
    """A chain of tasks that is complete before its first task ends; calls, and what the first end sets off."""
    app = decorate(noop)
    warm_up(app)
    gate = Gate(decorate)
    began = time.perf_counter()
    last = gate.holders[0]
    for _ in range(count):
        last = app(last)
    submitted = time.perf_counter()
    gate.open()
    last.result()
    ended = time.perf_counter()
    return {
        "chain_submit_us": per_task(submitted - began, count),
        "chain_run_us": per_task(ended - submitted, count),
        "chain_link_us": per_task(ended - began, count),
    }


def fan_in(decorate: Decorate, count: int) -> Figures:
    """One task that waits for many: its call, and from the first end of one of them to its result."""
    app, collect = decorate(noop), decorate(gather)
    warm_up(app)
    gate = Gate(decorate)
    futures = [app() for _ in range(count)]
    began = time.perf_counter()
    last = collect(inputs=futures)
    gate.open()
    assert last.result() == count
    return {"fan_in_us": per_task(time.perf_counter() - began, count)}


def memo(decorate: Decorate, count: int) -> Figures:
    """Calls whose results are known: each one's own, and one for all."""
    app = decorate(remembered, cache=True)
    wait([app(x) for x in range(count)])
    began = time.perf_counter()
    wait([app(x) for x in range(count)])
    distinct = time.perf_counter()
    wait([app(0) for _ in range(count)])
    ended = time.perf_counter()
    return {"memo_hit_us": per_task(distinct - began, count), "memo_hit_same_us": per_task(ended - distinct, count)}


def checkpoint(decorate: Decorate, count: int) -> Figures:
    """Cached tasks whose results go to the disk as they end."""
    app = decorate(remembered, cache=True)
    wait([app(-x) for x in range(1, 201)])
    began = time.perf_counter()
    wait([app(x) for x in range(count)])
    return {"checkpointed_us": per_task(time.perf_counter() - began, count)}


def waiting(decorate: Decorate, count: int) -> Figures:
    """Memory of the process per task that waits: for a future of somebody else, and for another task."""
    app = decorate(noop)
    warm_up(app)
    gate = Gate(decorate)
    figures: Figures = {}
    foreign: concurrent.futures.Future[None] = concurrent.futures.Future()
    kept: list[Any] = []
    for figure, awaited in (("waiting_bytes", foreign), ("waiting_for_task_bytes", gate.holders[0])):
        kept += [app(awaited) for _ in range(500)]
        gc.collect()
        before = rss()
        kept += [app(awaited) for _ in range(count)]
        gc.collect()
        figures[figure] = (rss() - before) / count
    foreign.set_result(None)
    gate.open()
    wait(kept)
    return figures


def million(decorate: Decorate, count: int) -> Figures:
    """Very many no-op tasks whose futures are dropped: does memory, or the time of a task, grow with their number?

    They come in waves of a hundredth: the measure is of what remains of tasks that are over, not of a queue.
    """
    app = decorate(noop)
    warm_up(app)
    wave = max(1, count // 100)
    memory, ends = [rss()], [time.perf_counter()]
    for done in range(wave, 100 * wave + 1, wave):
        # In a list of its own, which is dropped: the last result is not always the last to come.
        wait([app() for _ in range(wave)])
        if done % (10 * wave) == 0:
            gc.collect()
            memory.append(rss())
            ends.append(time.perf_counter())
    tenths = [end - begin for begin, end in itertools.pairwise(ends)]
    return {
        "million_rss_10_mb": memory[1] / 1e6,
        "million_rss_50_mb": memory[5] / 1e6,
        "million_rss_100_mb": memory[10] / 1e6,
        "million_growth_bytes_per_task": (memory[10] - memory[1]) / (90 * wave),
        "million_first_tenth_us": per_task(tenths[0], 10 * wave),
        "million_last_tenth_us": per_task(tenths[-1], 10 * wave),
    }


MEASURES: dict[str, Callable[[Decorate, int], Figures]] = {
    "submit": submit,
    "tasks": tasks,
    "chain": chain,
    "fan-in": fan_in,
    "memo": memo,
    "checkpoint": checkpoint,
    "waiting": waiting,
    "million": million,
}
#: How many tasks each measure takes: of flowcore and the bare pool, and of Parsl, which gets fewer where the cost of
#: one does not depend on their number.
COUNTS = {
    "submit": (20000, 2000),
    "tasks": (20000, 2000),
    "chain": (10000, 1000),
    "fan-in": (1000, 1000),
    "memo": (10000, 1500),
    "checkpoint": (5000, 1000),
    "waiting": (20000, 4000),
    "million": (1_000_000, 0),
}
#: What the bare pool can be asked for.
BARE = ("submit", "tasks")
#: With --quick, a share of the tasks.
QUICK = 0.1


def who(measure: str, peers: list[str]) -> list[str]:
    """Return the systems that take a measure."""
    if measure == "million":
        return ["flowcore"]
    return ["flowcore", *(p for p in peers if p != "thread-pool" or measure in BARE)]


def measure_once(system: str, measure: str, count: int) -> Figures:
    """Take one measure of one system in this process."""
    with SYSTEMS[system]("task_exit" if measure == "checkpoint" else None) as decorate:
        return MEASURES[measure](decorate, count)


def isolated(system: str, measure: str, count: int) -> Figures:
    """Take it in a process of its own."""
    return report.isolated(__file__, "--only", system, measure, str(count))


# --- what is shown

#: Text, system, figure, system or figure that it is divided by, what the project wants of it.
RATIOS = [
    ("submit, CPU, share of Parsl's", "submit_cpu_us", "parsl", "below 1"),
    ("submit, CPU, times the bare pool's", "submit_cpu_us", "thread-pool", ""),
    ("no-op tasks/s, times Parsl's", "tasks_per_s", "parsl", "above 1"),
    ("no-op tasks/s, share of the bare pool's", "tasks_per_s", "thread-pool", "at least 0.4"),
    ("chain, per link, share of Parsl's", "chain_link_us", "parsl", "below 1"),
    ("fan-in, per dependency, share of Parsl's", "fan_in_us", "parsl", "below 1"),
    ("memo hit, share of Parsl's", "memo_hit_us", "parsl", "below 1"),
    ("memo hit of one key, share of Parsl's", "memo_hit_same_us", "parsl", "below 1"),
    ("checkpointed task, share of Parsl's", "checkpointed_us", "parsl", "below 1"),
    ("memory of a waiting task, share of Parsl's", "waiting_bytes", "parsl", "at most 0.42"),
    ("memory of a task that waits for a task, share", "waiting_for_task_bytes", "parsl", "at most 0.42"),
]


def comparisons(results: dict[str, Figures]) -> list[tuple[str, float, str]]:
    """Return (what, seen, goal) for all that was measured on both sides."""
    ours = results.get("flowcore", {})
    rows = [
        (text, ours[figure] / results[peer][figure], goal)
        for text, figure, peer, goal in RATIOS
        if figure in ours and results.get(peer, {}).get(figure)
    ]
    for figure in ("waiting_bytes", "waiting_for_task_bytes"):
        if figure in ours:
            rows.append((f"{figure} of flowcore", ours[figure], "at most 1,500"))
    if "million_growth_bytes_per_task" in ours:
        first, last = ours["million_first_tenth_us"], ours["million_last_tenth_us"]
        rows.append(("million tasks: bytes per further task after 10 %", ours["million_growth_bytes_per_task"], "0"))
        rows.append(("million tasks: time of the last tenth by the first's", last / first, "1"))
    return rows


def chosen(text: str, among: dict[str, Any], what: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return the names in a comma-separated list."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in among:
            parser.error(f"unknown {what} {name!r}; choose among {', '.join(among)}")
    return names


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="parsl,thread-pool", help="among: parsl,thread-pool")
    parser.add_argument("--measures", default=",".join(MEASURES), help=f"among: {','.join(MEASURES)}")
    for name, (ours, theirs) in COUNTS.items():
        parser.add_argument(
            f"--{name}", type=int, metavar="N", help=f"tasks (default {ours}{f', of Parsl {theirs}' if theirs else ''})"
        )
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the million is run once")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the tasks: does it work?")
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    # One measure of one system once, in this process.
    parser.add_argument("--only", nargs=3, metavar=("SYSTEM", "MEASURE", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        system, measure, count = options.only
        print(json.dumps(measure_once(system, measure, int(count))))
        return
    peers = chosen(options.peers, {name: 0 for name in SYSTEMS if name != "flowcore"}, "peer", parser)
    measures = chosen(options.measures, MEASURES, "measure", parser)
    repeats = 1 if options.quick else options.repeats
    rounds: dict[str, dict[str, list[float]]] = {}
    for number in range(repeats):
        for measure in measures:
            if measure == "million" and number:
                continue
            for system in who(measure, peers):
                count = getattr(options, measure.replace("-", "_"))
                if count is None:
                    count = COUNTS[measure][system == "parsl"]
                    if options.quick and measure != "waiting":  # fewer would fit into what is allocated already
                        count = max(100, int(count * QUICK))
                print(f"round {number + 1}/{repeats}: {measure}, {count} of {system}", file=sys.stderr, flush=True)
                for figure, value in isolated(system, measure, count).items():
                    rounds.setdefault(system, {}).setdefault(figure, []).append(value)
    results = {
        system: {figure: statistics.median(values) for figure, values in figures.items()}
        for system, figures in rounds.items()
    }
    rows = comparisons(results)
    if options.json:
        ratios = {f"{text} (goal {goal})" if goal else text: seen for text, seen, goal in rows}
        if report.write(report.make(repeats, results, ratios, "flowcore", "parsl"), options.json):
            return
    names = list(dict.fromkeys(figure for figures in results.values() for figure in figures))
    print(f"{'':30}", *(f"{system:>12}" for system in results))
    for name in names:
        cells = (f"{figures[name]:12,.1f}" if name in figures else f"{'':12}" for figures in results.values())
        print(f"{name:30}", *cells)
    print(f"\n{'':52}{'seen':>10}  goal")
    for text, seen, goal in rows:
        print(f"{text:52}{seen:10,.2f}  {goal or '-'}")


if __name__ == "__main__":
    main()
