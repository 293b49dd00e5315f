"""What recording a run costs: no-op tasks per second with and without it, in one run, beside Parsl's monitoring.

flowcore's htex with two workers, encrypted, runs without monitoring, and with a MonitoringHub that writes to an SQLite
file; Parsl's htex the same, where Parsl is installed with its monitoring. All take turns, each in a fresh process.
Machines differ and are noisy: read the ratios, and the microseconds of processor time per task in the user's process,
which noise touches less. Memory is what that process holds beyond what it held before the tasks, whose futures are
dropped as they come. ``behind_s`` is how long after the last result the run had ended, and the database had everything.

``flowcore-watched`` is a run with somebody who asks twice a second how many tasks are over, as ``flowcore status
--watch`` does: ``status_late_s`` is how old the answers were, at worst.

    python benchmarks/monitoring.py --tasks 50000 --repeats 5 --json results.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report

import flowcore

App = Callable[..., Any]
Figures = dict[str, float]
WORKERS = 2
#: Tasks that are on their way at once: results are dropped as they come, so that only what is kept of tasks is seen.
WINDOW = 5000
#: Enough for seconds, where all others get more.
PARSL_TASKS = 1000


def noop() -> None:
    """The task."""


@contextmanager
def flowcore_htex(folder: str, monitored: bool) -> Iterator[Callable[[Callable[..., Any]], App]]:
    """flowcore's htex, with or without a MonitoringHub."""
    monitoring = {"monitoring": {"plugin": "monitoring"}} if monitored else {}
    config = {"executors": [{"plugin": "htex", "max_workers_per_node": WORKERS}], "run_dir": folder, **monitoring}
    with flowcore.load(config):
        yield flowcore.python_app


class Watch:
    """Asks the database how many tasks of a run are over, from another process, and compares that with the truth.

    Args:
        run: the run.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        url = f"sqlite:///{run.run_dir.parent / 'monitoring.db'}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--follow", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        #: When so many tasks were over, in truth.
        self._truth: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._note)
        self._thread.start()

    def _note(self) -> None:
        while not self._stop.wait(0.02):
            self._truth.append((time.time(), self._run.task_counts().get("exec_done", 0)))

    def late_s(self) -> float:
        """End, and return how old the answers were, at worst; seconds."""
        assert self._process.stdin is not None
        self._stop.set()
        self._thread.join()
        answers, _ = self._process.communicate()
        worst = 0.0
        for line in answers.splitlines():
            asked, number = json.loads(line)
            # As many were over until this moment, and more after it.
            since = max((at for at, over in self._truth if over <= number), default=asked)
            worst = max(worst, min(asked, self._truth[-1][0]) - since)
        return worst


def follow(url: str) -> None:
    """Print twice a second when was asked how many tasks of the newest run are over, and the answer."""
    from flowcore_monitoring_sqlite import database, queries

    while not select.select([sys.stdin], [], [], 0.5)[0]:
        with database.reading(url) as connection:
            asked = time.time()
            print(json.dumps([asked, queries.find_run(connection).completed]), flush=True)


@contextmanager
def parsl_htex(folder: str, monitored: bool) -> Iterator[Callable[[Callable[..., Any]], App]]:
    """Parsl's htex, with or without its MonitoringHub."""
    import parsl

    # Its workers are found on PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monitoring = None
    if monitored:
        from parsl.monitoring import MonitoringHub

        monitoring = MonitoringHub(hub_address="127.0.0.1", logging_endpoint=f"sqlite:///{folder}/monitoring.db")
    executor = parsl.HighThroughputExecutor(max_workers_per_node=WORKERS, address="127.0.0.1")
    with parsl.load(parsl.Config(executors=[executor], run_dir=folder, monitoring=monitoring)):
        yield parsl.python_app


SYSTEMS: dict[str, tuple[Any, bool]] = {
    "flowcore": (flowcore_htex, False),
    "flowcore-monitored": (flowcore_htex, True),
    "flowcore-watched": (flowcore_htex, True),
    "parsl": (parsl_htex, False),
    "parsl-monitored": (parsl_htex, True),
}


def resident() -> float:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(app: App, count: int) -> None:
    """Run tasks, with a bounded number on their way."""
    futures: list[Any] = []
    for _ in range(count):
        futures.append(app())
        if len(futures) == WINDOW:
            for future in futures[: WINDOW // 2]:
                future.result()
            del futures[: WINDOW // 2]
    for future in futures:
        future.result()


def measure(name: str, tasks: int) -> Figures:
    """Measure one system once."""
    make, monitored = SYSTEMS[name]
    with tempfile.TemporaryDirectory() as folder:
        with make(folder, monitored) as decorate:
            app = decorate(noop)
            run(app, 500)
            watch = Watch(flowcore.dfk()) if name == "flowcore-watched" else None
            before, cpu, began = resident(), time.process_time(), time.perf_counter()
            run(app, tasks)
            took, used = time.perf_counter() - began, time.process_time() - cpu
            held = resident() - before
            late_s = None if watch is None else watch.late_s()
            ended = time.perf_counter()
        figures = {"tasks_per_s": tasks / took, "cpu_us_per_task": 1e6 * used / tasks, "memory_mb": held / 1e6}
        if monitored:
            figures["behind_s"] = time.perf_counter() - ended
            figures["database_bytes_per_task"] = size_of_database(folder) / tasks
        if late_s is not None:
            figures["status_late_s"] = late_s
    return figures


def size_of_database(folder: str) -> int:
    """Return the bytes of the databases in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("monitoring.db"))


RATIOS = [
    ("flowcore: tasks/s with monitoring, share of those without (goal 0.85)", "flowcore-monitored", "flowcore"),
    ("Parsl: tasks/s with monitoring, share of those without", "parsl-monitored", "parsl"),
    ("with monitoring: flowcore's tasks/s, times Parsl's", "flowcore-monitored", "parsl-monitored"),
]


def ratios(results: dict[str, Figures]) -> dict[str, float]:
    """Return the ratios of what ran."""
    return {
        text: results[ours]["tasks_per_s"] / results[theirs]["tasks_per_s"]
        for text, ours, theirs in RATIOS
        if ours in results and theirs in results
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50_000, help="no-op tasks per round; Parsl gets fewer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--only", choices=SYSTEMS, help=argparse.SUPPRESS)  # one system once, in this process
    parser.add_argument("--follow", metavar="URL", help=argparse.SUPPRESS)  # for flowcore-watched
    options = parser.parse_args()
    if options.follow:
        follow(options.follow)
        return
    if options.only:
        print(json.dumps(measure(options.only, options.tasks)))
        return
    systems = ["flowcore", "flowcore-monitored", "flowcore-watched"]
    if importlib.util.find_spec("parsl") is None:
        print("Parsl is not installed here, and is left out", file=sys.stderr)
    else:
        systems += ["parsl", "parsl-monitored"]
    rounds: dict[str, list[Figures]] = {}
    for number in range(options.repeats):
        # Every other round backwards: who comes first would always meet the machine in the same state.
        for name in systems[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            tasks = min(options.tasks, PARSL_TASKS) if name.startswith("parsl") else options.tasks
            rounds.setdefault(name, []).append(report.isolated(__file__, "--only", name, f"--tasks={tasks}"))
    results = report.medians(rounds)
    seen, spread = ratios(results), report.ranges(rounds, ratios)
    if options.json:
        made = report.make(
            options.repeats, results, seen, "flowcore", "flowcore-executor-htex",
            "flowcore-monitoring-sqlite", "sqlalchemy", "parsl",
        )  # fmt: skip
        made["ranges"] = spread
        if report.write(made, options.json):
            return
    report.show(results, seen, spread)


if __name__ == "__main__":
    main()
