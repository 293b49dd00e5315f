"""Mixed work for a long time while workers and managers are killed: does everything end well, and does nothing grow?

One run of flowcore with htex: tasks of a dozen kinds are submitted as fast as a bounded backlog lets them, and every
few seconds a worker or a manager of this run, chosen by chance, is killed or frozen. What must become of each task is
known when it is submitted: a value, an error, or that it was cancelled. A lost worker or manager costs no task: the
retry handler lets attempts that went with one be repeated freely, and everything else once.

Each minute, and at the end, this is checked, and anything that is off makes the exit code 1:

- each task ended as it had to, once, and no later than ``--bound`` seconds after its call;
- the counts agree: what was submitted, what ended here, and the states that the kernel counted;
- blocks that died were replaced;
- the processes, and their descriptors, threads and memory, and the files in shared memory and in the temporary folder
  do not grow: a line is fitted through all samples after the warm-up;
- after the run no process, thread, descriptor or file of it is left.

    python benchmarks/soak.py --minutes 30 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import heapq
import json
import os
import queue
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

import flowcore
from flowcore.errors import AppTimeout, BashExitFailure, DependencyError, ManagerLost, WorkerLost
from flowcore.testing import processes
from flowcore.testing.leftovers import MARK, Leftovers

LABEL = "htex"
MEGABYTE = 10**6
#: Seconds of silence after which a manager is lost here, and of those that are frozen for longer than that.
THRESHOLD_S = 6.0
FROZEN_S = 9.0
SHARED_MEMORY = Path("/dev/shm")


# --- the tasks


@flowcore.python_app
def noop() -> None:
    """Nothing."""


@flowcore.python_app
def double(x: int) -> int:
    """A short task."""
    return 2 * x


@flowcore.python_app
def nap(number: int, seconds: float) -> int:
    """A task that takes its time."""
    time.sleep(seconds)
    return number


@flowcore.python_app
def checksum(data: Any) -> tuple[int, int]:
    """A task with a large argument."""
    view = memoryview(data)
    return view.nbytes, zlib.crc32(view)


@flowcore.python_app
def grow(seed: bytes, size: int) -> bytes:
    """A task with a large result."""
    return seed * (size // len(seed))


@flowcore.python_app
def fail(number: int) -> None:
    """A task that raises."""
    raise ValueError(f"task {number} fails as it should")


@flowcore.python_app
def add(x: int, y: int) -> int:
    """A link of a chain."""
    return x + y


@flowcore.python_app
def total(inputs: Sequence[int] = ()) -> int:
    """The end of a fan-in."""
    return sum(inputs)


@flowcore.bash_app
def say(number: int, stdout: Any = None) -> str:
    """A command."""
    return f"echo said {number}"


@flowcore.bash_app
def leave(code: int) -> str:
    """A command that fails."""
    return f"exit {code}"


@flowcore.python_app
def spin(walltime: float = 0.3) -> None:
    """Longer than its walltime, in the interpreter."""
    while True:
        time.sleep(0.01)


@flowcore.python_app
def block(walltime: float = 0.3) -> None:
    """Longer than its walltime, outside of the interpreter: its worker has to be replaced."""
    time.sleep(60)


@flowcore.python_app
def in_time(x: int, walltime: float = 60) -> int:
    """Far from its walltime."""
    return x


@flowcore.join_app
def doubles(work: Work, first: int, count: int) -> list[Any]:
    """Tasks of a task. Runs in this process."""
    return [work.expect("join: inner", double(x), is_value(2 * x)) for x in range(first, first + count)]


# --- what must become of them


class Wrong(Exception):
    """A task ended in another way than it had to."""


#: Looks at a future that is done; returns what it ended with (``value``, ``error``, ``dependency``, ``cancelled``).
Check = Callable[["concurrent.futures.Future[Any]"], str]


def is_value(expected: Any) -> Check:
    """The task returns this."""

    def check(future: concurrent.futures.Future[Any]) -> str:
        value = future.result()
        if value != expected:
            raise Wrong(f"its value is {value!r:.100}, not {expected!r:.100}")
        return "value"

    return check


def is_error(kind: type[BaseException], text: str = "", outcome: str = "error") -> Check:
    """The task fails with this, and the text is part of the error's."""

    def check(future: concurrent.futures.Future[Any]) -> str:
        error = future.exception()
        if type(error) is not kind or text not in str(error):
            raise Wrong(f"expected {kind.__name__} with {text!r}, got {error!r:.300}")
        return outcome

    return check


@attrs.define(slots=True, eq=False)
class Cancelling:
    """A task that is to be cancelled; ``done`` is what ``cancel()`` said, once it was called."""

    future: concurrent.futures.Future[Any] | None = None
    number: int = 0
    done: bool = False

    def check(self, future: concurrent.futures.Future[Any]) -> str:
        """The task is cancelled if that was promised, and has its value if not."""
        if future.cancelled():
            return "cancelled"
        if self.done:
            raise Wrong(f"cancel() returned True, and it ended with {future!r}")
        return is_value(self.number)(future)


@attrs.define(slots=True, eq=False)
class Expected:
    """A task that is not over."""

    kind: str
    check: Check
    called_at: float


class Work:
    """Submits tasks and checks their ends.

    Args:
        seed: of the choices.
        folder: for files that tasks write.
        bound: seconds that a task may take from its call.
    """

    def __init__(self, seed: int, folder: Path, bound: float) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._bound = bound
        self._number = 0
        self._lock = threading.Lock()
        #: Tasks that are not over, in the order of their calls.
        self.pending: dict[concurrent.futures.Future[Any], Expected] = {}
        self._ended: queue.SimpleQueue[concurrent.futures.Future[Any]] = queue.SimpleQueue()
        self._cancel_at: list[tuple[float, int, Cancelling]] = []
        self.submitted = 0
        #: How many tasks of each kind ended in which way.
        self.outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
        self.problems: list[str] = []
        self.slowest = 0.0
        self._payload = random.Random(seed).randbytes(MEGABYTE)

    def expect(self, kind: str, future: Any, check: Check) -> Any:
        """Take notice of a task; from any thread. Returns its future."""
        with self._lock:
            self.submitted += 1
            self.pending[future] = Expected(kind, check, time.monotonic())
        future.add_done_callback(self._ended.put)
        return future

    def submit(self) -> None:
        """Submit one task, or a few that belong together."""
        self._number += 1
        [make] = self._random.choices(list(KINDS), list(KINDS.values()))
        make(self, self._number)

    def reap(self, timeout_s: float) -> None:
        """Check tasks that have ended; waits for one if there is none."""
        while True:
            try:
                future = self._ended.get(timeout=timeout_s)
            except queue.Empty:
                return
            timeout_s = 0.0
            with self._lock:
                expected = self.pending.pop(future)
            took = time.monotonic() - expected.called_at
            self.slowest = max(self.slowest, took)
            try:
                outcome = expected.check(future)
            except Exception as error:
                outcome = "WRONG"
                what = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error!s:.300}"
                self.problems.append(f"{expected.kind}: {future!r}: {what}")
            self.outcomes[expected.kind, outcome] += 1
            if took > self._bound:
                self.problems.append(f"{expected.kind}: {future!r}: took {took:.0f} s, more than {self._bound:g} s")

    def cancel_due(self) -> None:
        """Cancel what is to be cancelled now."""
        while self._cancel_at and self._cancel_at[0][0] <= time.monotonic():
            cancelling = heapq.heappop(self._cancel_at)[2]
            assert cancelling.future is not None
            cancelling.done = cancelling.future.cancel()

    def overdue(self) -> list[str]:
        """Return a line for each task that should have ended long ago."""
        limit = time.monotonic() - self._bound
        with self._lock:
            late = [(f, e) for f, e in self.pending.items() if e.called_at < limit]
        return [f"{e.kind}: {f!r}: not over {time.monotonic() - e.called_at:.0f} s after its call" for f, e in late]

    def check_counts(self) -> None:
        """Check that what was submitted is pending or has ended."""
        with self._lock:
            submitted, pending = self.submitted, len(self.pending)
        ended = sum(self.outcomes.values())
        if submitted != ended + pending:
            self.problems.append(f"{submitted} tasks were submitted; {ended} ended and {pending} are pending")

    # --- the kinds

    def _no_op(self, number: int) -> None:
        self.expect("no-op", noop(), is_value(None))

    def _short(self, number: int) -> None:
        self.expect("short", double(number), is_value(2 * number))

    def _nap(self, number: int) -> None:
        seconds = 0.001 * 2000 ** self._random.random()
        self.expect("nap", nap(number, seconds), is_value(number))

    def _large_argument(self, number: int) -> None:
        data = number.to_bytes(8) + self._payload[8:]
        kind = self._random.choice((bytes, bytearray))
        self.expect("large argument", checksum(kind(data)), is_value((len(data), zlib.crc32(data))))

    def _large_array(self, number: int) -> None:
        try:
            import numpy
        except ImportError:
            return
        array = numpy.full(MEGABYTE // 8, number, dtype=numpy.int64)
        self.expect("large array", checksum(array), is_value((array.nbytes, zlib.crc32(array.data))))

    def _large_result(self, number: int) -> None:
        seed = number.to_bytes(8)
        self.expect("large result", grow(seed, MEGABYTE), is_value(seed * (MEGABYTE // 8)))

    def _failure(self, number: int) -> None:
        self.expect("failure", fail(number), is_error(ValueError, f"task {number} fails as it should"))

    def _failed_dependency(self, number: int) -> None:
        failed = self.expect("failure", fail(number), is_error(ValueError, f"task {number} fails"))
        check = is_error(DependencyError, f"task {number} fails as it should", "dependency")
        self.expect("failed dependency", double(failed), check)

    def _command(self, number: int) -> None:
        path = self._folder / f"said-{number}"

        def check(future: concurrent.futures.Future[Any]) -> str:
            if future.result() != 0 or path.read_text().splitlines().count(f"said {number}") != 1:
                raise Wrong(f"{path} holds {path.read_text()!r}")
            path.unlink()
            return "value"

        # Written anew by each attempt: a worker may be killed behind the line and before its result.
        self.expect("command", say(number, stdout=(str(path), "w")), check)

    def _failed_command(self, number: int) -> None:
        code = 1 + number % 100
        self.expect("failed command", leave(code), is_error(BashExitFailure, f"unix exit code {code}"))

    def _chain(self, number: int) -> None:
        last: Any = number
        for step in range(1, 7):
            last = self.expect("chain", add(last, 1), is_value(number + step))

    def _fan_in(self, number: int) -> None:
        parts = [self.expect("fan-in: part", double(x), is_value(2 * x)) for x in range(number, number + 12)]
        self.expect("fan-in", total(inputs=parts), is_value(2 * sum(range(number, number + 12))))

    def _join(self, number: int) -> None:
        count = 1 + number % 5
        self.expect("join", doubles(self, number, count), is_value([2 * x for x in range(number, number + count)]))

    def _cancelled(self, number: int) -> None:
        cancelling = Cancelling(number=number)
        cancelling.future = self.expect("cancelled", nap(number, self._random.uniform(0, 2)), cancelling.check)
        at = time.monotonic() + self._random.choice((0.0, self._random.uniform(0, 3)))
        heapq.heappush(self._cancel_at, (at, number, cancelling))

    def _overrun(self, number: int) -> None:
        self.expect("overrun", spin(), is_error(AppTimeout, "walltime of 0.3 s"))

    def _blocking_overrun(self, number: int) -> None:
        self.expect("blocking overrun", block(), is_error(AppTimeout))

    def _within_walltime(self, number: int) -> None:
        self.expect("within walltime", in_time(number), is_value(number))


#: The kinds of tasks, and how often each is chosen.
KINDS: dict[Callable[[Work, int], None], float] = {
    Work._no_op: 30,
    Work._short: 20,
    Work._nap: 8,
    Work._large_argument: 4,
    Work._large_array: 2,
    Work._large_result: 4,
    Work._failure: 3,
    Work._failed_dependency: 2,
    Work._command: 3,
    Work._failed_command: 1,
    Work._chain: 3,
    Work._fan_in: 2,
    Work._join: 2,
    Work._cancelled: 3,
    Work._overrun: 0.3,
    Work._blocking_overrun: 0.1,
    Work._within_walltime: 2,
}


def cost(error: Exception, task: Any) -> float:
    """Decide what a failed attempt costs: nothing if it went with a worker or manager, which this program killed."""
    return 0.0 if isinstance(error, WorkerLost | ManagerLost) else 1.0


# --- the faults


def role_of(process: processes.Process) -> str:
    """Return what a process of this run is."""
    for role in ("interchange", "manager", "worker"):
        if f"flowcore_executor_htex.{role} " in f"{process.command} ":
            return role
    return "submit" if process.pid == os.getpid() else "other"


class Killer:
    """Kills and freezes workers and managers of this process, by chance, in a thread of its own; a context manager.

    Args:
        seed: of the choices.
        every_s: seconds between two faults on average.
    """

    def __init__(self, seed: int, every_s: float) -> None:
        self._random = random.Random(seed)
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")
        #: Frozen processes, and when each goes on.
        self._frozen: list[tuple[float, processes.Process]] = []
        self.done: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._thaw(float("inf"))

    def _run(self) -> None:
        next_at = time.monotonic() + self._every_s
        while not self._stop.wait(0.1):
            now = time.monotonic()
            self._thaw(now)
            if now >= next_at:
                next_at = now + self._random.uniform(0.2, 1.8) * self._every_s
                self._strike(now)

    def _strike(self, now: float) -> None:
        [(role, number, frozen_s)] = self._random.choices(list(FAULTS), list(FAULTS.values()))
        victims = [p for p in processes.descendants(os.getpid()) if role_of(p) == role and p.state not in "ZX"]
        if not victims:
            return
        victim = self._random.choice(victims)
        if send(victim, number):
            self.done[f"{role} {number.name}" + (f" for {frozen_s:g} s" if frozen_s else "")] += 1
            if frozen_s:
                self._frozen.append((now + frozen_s, victim))

    def _thaw(self, now: float) -> None:
        for entry in list(self._frozen):
            if entry[0] <= now:
                self._frozen.remove(entry)
                send(entry[1], signal.SIGCONT)


#: Role, signal, and the seconds after which one that is frozen goes on; and how often each is chosen.
FAULTS: dict[tuple[str, signal.Signals, float], float] = {
    ("worker", signal.SIGKILL, 0.0): 10,
    ("worker", signal.SIGSTOP, 2.0): 3,
    ("manager", signal.SIGKILL, 0.0): 4,
    ("manager", signal.SIGSTOP, 2.0): 2,
    ("manager", signal.SIGSTOP, FROZEN_S): 1,
}


def send(process: processes.Process, number: signal.Signals) -> bool:
    """Send a signal to a process if it is still the one that was seen; return whether it is."""
    now = processes.look(process.pid)
    if now is None or now.started != process.started:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


# --- what may not grow


#: How much a figure may have grown over the whole time behind the warm-up, by its name's last part.
TOLERANCE = {"processes": 2.0, "descriptors": 4.0, "threads": 2.0, "rss_mb": 16.0, "files": 40.0, "mb": 64.0}


class Samples:
    """Figures of the run's processes and files over time.

    Args:
        folders: of files that must not become more, by name.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._began = time.monotonic()
        #: For each figure, the times (s since the beginning) and its values.
        self.series: dict[str, tuple[list[float], list[float]]] = {}

    def take(self) -> None:
        """Look at all processes and folders once."""
        at = time.monotonic() - self._began
        this = processes.look(os.getpid())
        assert this is not None
        by_role: dict[str, list[tuple[float, float, float]]] = {}
        count = 0
        for process in [this, *processes.descendants(os.getpid())]:
            with contextlib.suppress(OSError):  # it has just ended
                by_role.setdefault(role_of(process), []).append(look_at(process.pid))
                count += 1
        self._add("processes", at, count)
        for role in ("submit", "interchange", "manager", "worker"):
            # The mean of those there are: how many there are is another question.
            for position, figure in enumerate(("descriptors", "threads", "rss_mb")):
                values = [seen[position] for seen in by_role.get(role, ())]
                if values:
                    self._add(f"{role} {figure}", at, statistics.fmean(values))
        for name, folder in self._folders.items():
            sizes = [size for _, size in files_below(folder)]
            self._add(f"{name} files", at, len(sizes))
            self._add(f"{name} mb", at, sum(sizes) / MEGABYTE)

    def _add(self, figure: str, at: float, value: float) -> None:
        times, values = self.series.setdefault(figure, ([], []))
        times.append(at)
        values.append(value)

    def growth(self, warm_up_s: float) -> Iterator[tuple[str, float, float, float, bool]]:
        """Fit a line through each figure; yields its name, mean, growth, the growth's standard error, and whether that
        is too much: more than the tolerance, and more than chance explains."""
        for figure, (all_times, all_values) in self.series.items():
            pairs = [(t, v) for t, v in zip(all_times, all_values, strict=True) if t >= warm_up_s]
            if len(pairs) < 10:
                continue
            times, values = zip(*pairs, strict=True)
            slope, _ = statistics.linear_regression(times, values)
            mean_t, mean_v = statistics.fmean(times), statistics.fmean(values)
            spread = sum((t - mean_t) ** 2 for t in times)
            rest = sum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in pairs)
            span = times[-1] - times[0]
            growth, error = slope * span, span * (rest / (len(pairs) - 2) / spread) ** 0.5
            limit = TOLERANCE[figure.rpartition(" ")[2]]
            yield figure, mean_v, growth, error, growth > limit and growth > 3 * error


def look_at(pid: int) -> tuple[float, float, float]:
    """Return the descriptors, the threads and the memory in MB of a process.

    Raises:
        OSError: it is gone.
    """
    folder = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"{pid} has ended")
    descriptors = len(list((folder / "fd").iterdir()))
    return descriptors, float(fields["Threads"]), float(fields["VmRSS"].split()[0]) * 1024 / MEGABYTE


def files_below(folder: Path) -> list[tuple[str, int]]:
    """Return the paths and sizes of all files below a folder, sockets among them; empty if it is not there."""
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                path = Path(base, name)
                found.append((str(path), path.lstat().st_size))
    return found


def open_descriptors() -> collections.Counter[str]:
    """Return what the descriptors of this process lead to, without the numbers of sockets and pipes."""
    found: collections.Counter[str] = collections.Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[str(entry.readlink()).partition("[")[0]] += 1
    return found


def shared_folders(settings: Path) -> list[Path]:
    """Return the folders in shared memory that the settings of this run's managers name."""
    found = set()
    for value in json.loads(settings.read_bytes()).values():
        if isinstance(value, str) and Path(value).is_relative_to(SHARED_MEMORY):
            found.add(SHARED_MEMORY / Path(value).relative_to(SHARED_MEMORY).parts[0])
    return sorted(found)


# --- the run


def configuration(options: argparse.Namespace, folder: Path) -> flowcore.Config:
    """Return the configuration: blocks that die are asked for again, however many did."""
    executor = {
        "plugin": "htex",
        "label": LABEL,
        "address": "127.0.0.1" if options.tcp else None,
        "max_workers_per_node": options.workers,
        "cores_per_worker": 0.01,
        "heartbeat_period": 1,
        "heartbeat_threshold": THRESHOLD_S,
        # The default gives the executor up when all of its blocks have failed, as they do here.
        "block_error_handler": False,
        "provider": {
            "plugin": "local",
            "init_blocks": options.blocks,
            "min_blocks": options.blocks,
            "max_blocks": options.blocks,
        },
    }
    return flowcore.Config.from_dict(
        {
            "executors": [executor],
            "run_dir": str(folder / "runinfo"),
            "retries": 1,
            "retry_handler": cost,
            "strategy": "simple",
            "strategy_period": 1,
        }
    )


class Soak:
    """The whole of it.

    Args:
        options: of the command line.
        folder: for all files; not looked at by the checks.
        temporary: the temporary folder of all processes of the run.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, temporary: Path) -> None:
        self._options = options
        self._folder = folder
        self._temporary = temporary
        self._work = Work(options.seed, folder, options.bound)
        self._faults: collections.Counter[str] = collections.Counter()
        self.problems = self._work.problems

    def run(self) -> None:
        """Run, and say what happened; what was off is in ``problems`` then."""
        options, work = self._options, self._work
        # In the environment of all processes of the run; a test that runs this program has one already.
        mark = f"{MARK}={os.environ.setdefault(MARK, uuid.uuid4().hex)}"
        duration_s = 60 * options.minutes
        descriptors = open_descriptors()
        leftovers = Leftovers(mark)
        with flowcore.load(configuration(options, self._folder)) as run:
            shared = shared_folders(run.run_dir / LABEL / "manager.json")
            folders = {"temporary": self._temporary, **{f"shared memory {i}": path for i, path in enumerate(shared)}}
            samples = Samples(folders)
            try:
                with Killer(options.seed, options.kill_every) as killer:
                    self._faults = killer.done
                    self._submit_for(duration_s, samples)
                self._drain(run)
                self._check_recovered(run)
            finally:
                # An error above must not wait for what may never end.
                began = time.monotonic()
                run.cleanup()
            print(f"cleaned up in {time.monotonic() - began:.1f} s")
        work.check_counts()
        self._check_states(run)
        self._report(samples, duration_s)
        self._check_leftovers(leftovers, descriptors, [self._temporary, *shared], run.run_dir)

    def _submit_for(self, seconds: float, samples: Samples) -> None:
        work = self._work
        interval = min(5.0, max(0.5, seconds / 300))
        began = time.monotonic()
        next_sample = began
        next_minute = began + 60
        while (now := time.monotonic()) < began + seconds:
            for _ in range(64):
                if len(work.pending) >= self._options.backlog:
                    break
                work.submit()
            work.cancel_due()
            work.reap(0.05)
            if now >= next_sample:
                next_sample = now + interval
                samples.take()
                self._stop_if_stuck()
            if now >= next_minute:
                next_minute += 60
                work.check_counts()
                self._say(f"minute {(now - began) / 60:.0f}", samples)

    def _say(self, when: str, samples: Samples) -> None:
        work = self._work
        ended = sum(work.outcomes.values())
        seen = ", ".join(
            f"{name} {values[-1]:,.0f}"
            for name, (_, values) in samples.series.items()
            if name == "processes" or name.endswith((" rss_mb", " files"))
        )
        print(
            f"{when}: {work.submitted:,} submitted, {ended:,} ended, slowest {work.slowest:.1f} s, "
            f"{sum(self._faults.values())} faults, {len(self.problems)} problems; {seen}",
            flush=True,
        )

    def _stop_if_stuck(self) -> None:
        late = self._work.overdue()
        if late:
            self.problems += late
            raise Stuck

    def _drain(self, run: flowcore.DataFlowKernel) -> None:
        """Wait for all that is pending; no further faults."""
        deadline = time.monotonic() + self._options.bound
        while self._work.pending and time.monotonic() < deadline:
            self._work.cancel_due()
            self._work.reap(0.1)
            self._stop_if_stuck()
        # Not of a future: of what the kernel and the executor keep of tasks that are over.
        for what, left in (("the kernel", run.kernel.unfinished()), (LABEL, run.executors[LABEL].outstanding)):
            if left:
                self.problems.append(f"{what} still has {left} tasks when all futures are done")

    def _check_recovered(self, run: flowcore.DataFlowKernel) -> None:
        """All blocks must be there again, with all of their workers, and idle."""
        blocks, workers = self._options.blocks, self._options.workers
        executor: Any = run.executors[LABEL]
        deadline = time.monotonic() + 60
        while True:
            roles = collections.Counter(role_of(p) for p in processes.descendants(os.getpid()) if p.state not in "ZX")
            seen = (roles["manager"], roles["worker"], len(executor.connected_managers()))
            tasks = sum(manager["tasks"] for manager in executor.connected_managers())
            if seen == (blocks, blocks * workers, blocks) and not tasks:
                return
            if time.monotonic() > deadline:
                self.problems.append(
                    f"60 s after the last fault there are {seen[0]} managers of {blocks}, {seen[1]} workers of "
                    f"{blocks * workers}, {seen[2]} connected managers, and {tasks} tasks that they are said to have"
                )
                return
            time.sleep(0.1)

    def _check_states(self, run: flowcore.DataFlowKernel) -> None:
        """The kernel's counts of states must be those of the outcomes seen here."""
        if self.problems:
            return  # they disagree for the reason that is known already
        outcomes: collections.Counter[str] = collections.Counter()
        for (_, outcome), count in self._work.outcomes.items():
            outcomes[outcome] += count
        expected = {
            "exec_done": outcomes["value"],
            "failed": outcomes["error"] + outcomes["cancelled"],
            "dep_fail": outcomes["dependency"],
        }
        counted = run.task_counts()
        if counted != {state: count for state, count in expected.items() if count}:
            self.problems.append(f"the kernel counted {counted}, the outcomes are {expected}")

    def _report(self, samples: Samples, duration_s: float) -> None:
        self._say("the end", samples)
        print("\nfaults: " + ", ".join(f"{count} x {fault}" for fault, count in sorted(self._faults.items())))
        print("\nkinds and outcomes:")
        for (kind, outcome), count in sorted(self._work.outcomes.items()):
            print(f"{kind:24}{outcome:12}{count:>12,}")
        print(f"\n{'growth behind the warm-up':32}{'mean':>12}{'growth':>12}{'+/-':>10}")
        for name, mean, growth, error, too_much in samples.growth(min(300.0, duration_s / 3)):
            print(f"{name:32}{mean:12.1f}{growth:12.2f}{error:10.2f}{'  TOO MUCH' if too_much else ''}")
            if too_much:
                self.problems.append(f"{name} grew by {growth:.2f} +/- {error:.2f}, from about {mean - growth / 2:.1f}")

    def _check_leftovers(
        self, leftovers: Leftovers, before: collections.Counter[str], folders: Sequence[Path], run_dir: Path
    ) -> None:
        self.problems += [f"left behind: {line}" for line in leftovers.wait()]
        self.problems += [f"left open: {count} x {what}" for what, count in (open_descriptors() - before).items()]
        for folder in folders:
            self.problems += [f"left behind: {path} ({size} bytes)" for path, size in files_below(folder)]
        if (run_dir / LABEL / "manager.json").exists():
            self.problems.append("left behind: the file with the run's keys")


class Stuck(Exception):
    """Tasks are not over in time: there is no use in going on."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of each block")
    parser.add_argument("--backlog", type=int, default=200, help="tasks that are submitted and not over, at most")
    parser.add_argument("--kill-every", type=float, default=4.0, help="seconds between two faults, on average")
    parser.add_argument("--bound", type=float, default=120.0, help="seconds that a task may take from its call")
    parser.add_argument("--tcp", action="store_true", help="managers come through TCP, not through a Unix socket")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="flowcore-soak-"))
    temporary = base / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    soak = Soak(options, base, temporary)
    try:
        soak.run()
    except Stuck:
        print("stuck: the run was given up")
    if soak.problems:
        print(f"\n{len(soak.problems)} problems:", *soak.problems[:50], sep="\n  ")
        print(f"\nlogs: {base}")
        sys.exit(1)
    shutil.rmtree(base)
    print("\nnothing is off")


if __name__ == "__main__":
    main()
