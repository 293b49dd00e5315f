"""What managers cost the interchange of htex: 1, 64, 1,024 and 8,192 of them, of 32 slots each, in one run.

The managers are simulated: the real protocol, sockets, keys and heartbeats, and no workers; each attempt is answered
at once, as one that took 1 ms. The interchange is a real one, started and fed by a real HighThroughputExecutor
without a kernel. A scenario (a number of managers, encrypted or not) has fresh processes and is bounded in time:

    attach    all managers connect at once, until each has been answered
    idle      nothing is submitted: heartbeats, and the reports to the executor
    load      no-op attempts for some seconds, at most a window of them outstanding
    trips     single attempts, one after another

Machines differ and are noisy: read the ratios, which are taken within one run; each figure is the median of
``--repeats`` rounds in which all scenarios take turns. What the interchange itself costs is its CPU time per task;
tasks/s and the round trips are also the simulation's, which shares this machine's cores.

    python benchmarks/scale.py --managers 1,64,1024 --both --json scale.json --plot scale.svg
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report

Figures = dict[str, float]

SLOTS = 32
#: What simulated attempts are said to have taken, and how many a manager asks for beyond its slots then.
TASK_US = 1000
PREFETCH = 20 * SLOTS
#: File descriptors that a simulated manager takes: its socket's bell and its connection.
DESCRIPTORS = 2
#: Simulated managers per process at most.
MOST = 4096
#: Attempts outstanding at most under load.
WINDOW = 20000
#: Seconds that a scenario may take to attach, and to end what is outstanding.
ATTACH_S = 120.0
DRAIN_S = 60.0


def noop() -> None:
    """The task."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open files as far as this process may; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# --- simulated managers


class Managers:
    """Some simulated managers, in this process.

    Args:
        settings: those that the executor wrote for its managers.
        first: number of the first one.
        count: how many.
    """

    def __init__(self, settings: Any, first: int, count: int) -> None:
        import zmq
        from flowcore_executor_htex import protocol, security, wire
        from flowcore_executor_htex.worker import NONE

        self._protocol, self._wire, self._none = protocol, wire, NONE
        self._period = settings.heartbeat_period
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.max_sockets = count + 16
        self._epoll = select.epoll()
        self._by_fd: dict[int, Any] = {}
        self._sockets: list[Any] = []
        self._answered: set[Any] = set()
        for number in range(first, first + count):
            socket = self._context.socket(zmq.DEALER)
            socket.set_hwm(0)
            socket.linger = 0
            socket.identity = f"simulated-{number}".encode()
            security.be_client(socket, settings.server_public_key, settings.public_key, settings.secret_key)
            socket.connect(f"tcp://{settings.addresses[0]}:{settings.port}")
            greeting = protocol.hello(f"simulated-{number}", str(number), f"node{number}", SLOTS)
            wire.send(socket, protocol.encode(greeting))
            fd = int(socket.getsockopt(zmq.FD))
            self._by_fd[fd] = socket
            self._sockets.append(socket)
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Serve until stdin is closed; print a line when all have been answered."""
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        for socket in self._sockets:
            # What came while the others were made rang before anyone listened.
            self._serve(socket)
        count = len(self._sockets)
        pause = self._period / count
        beats, beat_at = 0, time.monotonic() + pause
        told = False
        while True:
            if not told and len(self._answered) == count:
                told = True
                print("attached", flush=True)
            for fd, _ in self._epoll.poll(max(0.0, beat_at - time.monotonic())):
                if fd == sys.stdin.fileno():
                    self._context.destroy(linger=0)
                    return
                self._serve(self._by_fd[fd])
            now = time.monotonic()
            while now >= beat_at:
                beat_at += pause
                beats += 1
                socket = self._sockets[beats % count]
                self._wire.send(socket, self._protocol.encode(self._protocol.Heartbeat()))
                self._serve(socket)

    def _serve(self, socket: Any) -> None:
        # Until nothing waits: the socket's bell rings once for all that has come.
        protocol, wire = self._protocol, self._wire
        while wire.waiting(socket):
            header, _ = wire.receive(socket)
            message = protocol.decode(header)
            if isinstance(message, protocol.Tasks):
                results = [
                    protocol.ResultItem(item.key, protocol.VALUE, self._none, duration_us=TASK_US)
                    for item in message.tasks
                ]
                wire.send(socket, protocol.encode(protocol.Results(results, SLOTS + PREFETCH)))
            elif isinstance(message, protocol.Heartbeat):
                self._answered.add(socket)


def simulate(settings_file: str, first: int, count: int) -> None:
    """Be the process of some simulated managers."""
    from flowcore_executor_htex import settings

    raise_descriptor_limit()
    Managers(settings.read(Path(settings_file)), first, count).run()


@contextmanager
def simulated(settings_file: Path, count: int) -> Iterator[float]:
    """Attach managers; gives the seconds that it took, counted from when the processes run.

    Raises:
        TimeoutError: not all were answered in time.
    """
    share = min(MOST, (raise_descriptor_limit() - 100) // DESCRIPTORS)
    processes: list[Any] = []
    try:
        for first in range(0, count, share):
            command = [sys.executable, __file__, "--simulate", str(settings_file), str(first)]
            processes.append(
                subprocess.Popen(
                    [*command, str(min(share, count - first))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
        began = time.perf_counter()
        for process in processes:
            left = began + ATTACH_S - time.perf_counter()
            if not select.select([process.stdout], [], [], max(0.0, left))[0] or not process.stdout.readline():
                raise TimeoutError(f"{count} managers were not all answered within {ATTACH_S:g} s")
        yield time.perf_counter() - began
    finally:
        for process in processes:
            process.stdin.close()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


# --- the submit side


class Submitter:
    """A real executor without a kernel, and how many of its attempts have ended."""

    def __init__(self, run_dir: Path, encrypted: bool) -> None:
        import psutil
        from flowcore_executor_htex.executor import HighThroughputExecutor

        from flowcore.plugins.api import ExecutorContext

        self.executor = HighThroughputExecutor(label="scale", address="127.0.0.1", encrypted=encrypted)
        self._changed = threading.Condition()
        self._begun = 0
        self.ended = 0
        self.executor.start(ExecutorContext("scale", run_dir, self._report, lambda attempts: None))
        self.settings_file = run_dir / "scale" / "manager.json"
        #: The executor has no other child.
        [self.interchange] = psutil.Process().children()

    def _report(self, results: Sequence[Any]) -> None:
        with self._changed:
            self.ended += len(results)
            self._changed.notify_all()

    def submit(self) -> None:
        """Submit one no-op attempt."""
        from flowcore.plugins.api import Attempt

        self.executor.submit(Attempt(self._begun, 0, "noop", noop, (), {}, {}))
        self._begun += 1

    def wait(self, outstanding: int) -> None:
        """Wait until at most so many attempts are outstanding.

        Raises:
            TimeoutError: they are not in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._begun - self.ended <= outstanding, DRAIN_S):
                raise TimeoutError(f"{self._begun - self.ended} attempts did not end within {DRAIN_S:g} s")

    def cpu_s(self) -> float:
        """Return the CPU time that the interchange has used."""
        times = self.interchange.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Return the interchange's resident memory in bytes."""
        return int(self.interchange.memory_info().rss)


def measure(managers: int, encrypted: bool, seconds: float, trips: int) -> Figures:
    """Run one scenario; return its figures by name."""
    with tempfile.TemporaryDirectory() as run_dir:
        submitter = Submitter(Path(run_dir), encrypted)
        try:
            before = submitter.memory()
            with simulated(submitter.settings_file, managers) as attach_s:
                return {"attach_s": attach_s, **_measure_attached(submitter, managers, before, seconds, trips)}
        finally:
            submitter.executor.shutdown()


def _measure_attached(submitter: Submitter, managers: int, before: int, seconds: float, trips: int) -> Figures:
    figures = {"manager_kB": (submitter.memory() - before) / managers / 1e3}

    used = submitter.cpu_s()
    began = time.perf_counter()
    time.sleep(seconds)
    figures["idle_cpu_percent"] = 100 * (submitter.cpu_s() - used) / (time.perf_counter() - began)

    # Each manager gets the function now, and says how many attempts it wants.
    for _ in range(2 * managers + 2000):
        submitter.submit()
    submitter.wait(0)
    used = submitter.cpu_s()
    ended = submitter.ended
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        submitter.wait(WINDOW - 500)
        for _ in range(500):
            submitter.submit()
    submitter.wait(0)
    tasks = submitter.ended - ended
    figures["tasks_per_s"] = tasks / (time.perf_counter() - began)
    figures["interchange_us_per_task"] = 1e6 * (submitter.cpu_s() - used) / tasks

    times: list[float] = []
    last = time.perf_counter() + 5 * seconds
    while len(times) < trips and time.perf_counter() < last:
        sent = time.perf_counter()
        submitter.submit()
        submitter.wait(0)
        times.append(1e3 * (time.perf_counter() - sent))
    times.sort()
    figures["round_trip_median_ms"] = statistics.median(times)
    figures["round_trip_p99_ms"] = times[min(len(times) - 1, int(0.99 * len(times)))]
    figures["manager_kB_used"] = (submitter.memory() - before) / managers / 1e3
    return figures


# --- the report


def name_of(managers: int, encrypted: bool) -> str:
    """Return the name of a scenario in the report."""
    return f"{managers} {'encrypted' if encrypted else 'plain'}"


def ratios(results: dict[str, Figures], sizes: Sequence[int], encryptions: Sequence[bool]) -> dict[str, float]:
    """Return what more managers, and encryption, cost."""
    base = 64 if 64 in sizes else min(sizes)
    found = {}
    for encrypted in encryptions:
        few = results[name_of(base, encrypted)]
        for size in sizes:
            if size <= base:
                continue
            many = results[name_of(size, encrypted)]
            text = f"with {name_of(size, encrypted)} managers, times that with {base}"
            for figure in ("tasks_per_s", "interchange_us_per_task", "round_trip_p99_ms"):
                found[f"{figure} {text}"] = many[figure] / few[figure]
    if len(encryptions) == 2:
        for size in sizes:
            for figure in ("tasks_per_s", "interchange_us_per_task", "round_trip_median_ms", "attach_s"):
                ratio = results[name_of(size, True)][figure] / results[name_of(size, False)][figure]
                found[f"{figure} with {size} managers, encrypted, times that without"] = ratio
    return found


#: Figure, and what stands above its panel.
PANELS = (
    ("tasks_per_s", "tasks per second"),
    ("interchange_us_per_task", "interchange: CPU per task, µs"),
    ("round_trip_p99_ms", "round trip, 99th percentile, ms"),
    ("manager_kB_used", "interchange: memory per manager, kB"),
    ("idle_cpu_percent", "interchange: CPU while idle, %"),
    ("attach_s", "all managers attached, s"),
)


def plot(results: dict[str, Figures], sizes: Sequence[int], encryptions: Sequence[bool], target: str) -> None:
    """Draw all figures over the number of managers, in a file whose name says the format (.svg, .png)."""
    # By name: who only checks types need not have it.
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    for panel, (name, title) in zip(axes.flat, PANELS, strict=True):
        for encrypted in encryptions:
            values = [results[name_of(size, encrypted)][name] for size in sizes]
            panel.plot(sizes, values, marker="o", label="encrypted" if encrypted else "plain")
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        if name == "manager_kB_used":
            panel.set_yscale("log")  # what the interchange needs without managers is divided by their number, too
        else:
            panel.set_ylim(bottom=0)
        panel.set_title(title)
        panel.set_xlabel(f"managers of {SLOTS} slots")
        panel.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(target)


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == ["--simulate"]:
        simulate(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--managers", default="1,64,1024,8192", help="numbers of managers")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plain", action="store_true", help="without encryption")
    which.add_argument("--both", action="store_true", help="with and without, and what encryption costs")
    parser.add_argument("--seconds", type=float, default=5, help="of load, and of idling")
    parser.add_argument("--trips", type=int, default=1000, help="round trips per round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures (.svg or .png); needs matplotlib")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one scenario once, in this process
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, not options.plain, options.seconds, options.trips)))
        return
    encryptions = [True, False] if options.both else [not options.plain]
    limit = raise_descriptor_limit()
    sizes = []
    for size in sorted({int(size) for size in options.managers.split(",")}):
        if size < 1:
            parser.error(f"--managers {options.managers}: expected numbers from 1 on")
        if size + 100 > limit:
            print(f"{size} managers are left out: this host allows {limit} open files (ulimit -Hn)", file=sys.stderr)
        else:
            sizes.append(size)
    if not sizes:
        parser.error("no number of managers is left")
    rounds: dict[str, list[Figures]] = {}
    for number in range(options.repeats):
        for size in sizes:
            for encrypted in encryptions:
                name = name_of(size, encrypted)
                print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
                arguments = ["--only", str(size), f"--seconds={options.seconds}", f"--trips={options.trips}"]
                figures = report.isolated(__file__, *arguments, *([] if encrypted else ["--plain"]))
                rounds.setdefault(name, []).append(figures)
    results = {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in rounds.items()
    }
    if options.plot:
        plot(results, sizes, encryptions, options.plot)
    seen = ratios(results, sizes, encryptions)
    if options.json:
        made = report.make(options.repeats, results, seen, "flowcore", "flowcore-executor-htex", "pyzmq")
        if report.write(made, options.json):
            return
    for name, figures in results.items():
        print(f"{name:16}", "  ".join(f"{figure} {value:,.2f}" for figure, value in figures.items()))
    for text, ratio in seen.items():
        print(f"{ratio:8.2f}  {text}")


if __name__ == "__main__":
    main()
