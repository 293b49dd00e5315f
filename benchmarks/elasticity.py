"""What the scaling strategies cost, and how long tasks wait with them: a day of bursty load, simulated.

The strategies, the block pool and its circuit breaker are the real ones; tasks, workers, the batch queue and the clock
are simulated. Bursts of tasks come more often by day than by night, small ones more often than large ones, and a task
now and then between them. A block waits in the queue, its workers need a moment to start, and at its walltime it is
ended: what it ran is run again by another. Every scenario has the same load and the same queue.

    node hours      of all blocks, from when they left the queue to their end
    wait            of a task, until a worker began it: the mean, and what 95 of 100 wait at most
    burst           from the arrival of a burst to the end of its last task, the mean
    used            the share of the paid slots that ran tasks
    makespan        from the beginning of the day to the end of the last task

    python benchmarks/elasticity.py --seed 7 --queue 10 --json elasticity.json --plot elasticity.svg
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import logging
import random
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import report

from flowcore.plugins import registry
from flowcore.plugins.api import (
    Attempt,
    BlockExecutor,
    ExecutorContext,
    JobState,
    JobStatus,
    Provider,
    ProviderContext,
    RunInfo,
)
from flowcore.plugins.hooks import HookManager
from flowcore.scaling.blocks import BlockPool
from flowcore.testing import FakeClock

Figures = dict[str, float]

HOUR_S = 3600.0
MAX_BLOCKS = 20
SLOTS = 16
#: Seconds between a block's leaving the queue and its workers' first task.
START_S = 20.0
WALLTIME_S = 4 * HOUR_S
#: Seconds between two decisions, and between two looks at the queue.
PERIOD_S, POLL_S = 5.0, 10.0
#: The simulation of a scenario ends after so many days, whatever there is to do.
LONGEST_DAYS = 3
#: Seconds between two points of the plot.
SAMPLE_S = 60.0


# --- the load


@attrs.define(slots=True, eq=False)
class Task:
    """A task: when it arrives, how long it runs, and which burst it belongs to (-1: none). Times are in seconds."""

    arrives: float
    runs: float
    burst: int
    began: float = -1.0
    ended: float = -1.0


def day(generator: random.Random, hours: float) -> list[Task]:
    """Return the tasks of a day, in the order of their arrival."""
    tasks: list[Task] = []
    at, number = 0.0, 0
    while True:
        # Two bursts an hour from 8 to 20 o'clock, one in two hours otherwise.
        busy = 8 <= (at / HOUR_S) % 24 < 20
        at += generator.expovariate((2.0 if busy else 0.5) / HOUR_S)
        if at >= hours * HOUR_S:
            break
        size = min(3000, 1 + int(generator.lognormvariate(4.6, 1.2)))
        typical = generator.lognormvariate(4.4, 0.9)
        tasks.extend(Task(at, typical * generator.lognormvariate(0, 0.4), number) for _ in range(size))
        number += 1
    at = 0.0
    while (at := at + generator.expovariate(6 / HOUR_S)) < hours * HOUR_S:
        tasks.append(Task(at, generator.lognormvariate(4.4, 0.9), -1))
    return sorted(tasks, key=lambda task: task.arrives)


# --- the cluster


@attrs.define(slots=True, eq=False)
class Job:
    """A block: when it leaves the queue, when it is ended at the latest, and when it ended. ``running``: its tasks."""

    block_id: str
    leaves: float
    limit: float
    ended: float = float("inf")
    running: set[Task] = attrs.field(factory=set)
    connected: bool = False
    held: bool = False
    idle_since: float = 0.0


class Cluster(Provider):
    """A batch queue.

    Args:
        world: is told of jobs that begin and end.
        waits: draws the seconds that a job waits.
        walltime_s, init_blocks, min_blocks, max_blocks, parallelism: as of every provider.
    """

    nodes_per_block = 1

    def __init__(
        self, world: World, waits: Any, walltime_s: float, init: int, minimum: int, maximum: int, parallelism: float
    ) -> None:
        self._world = world
        self._waits = waits
        self.walltime_s = walltime_s
        self.init_blocks, self.min_blocks, self.max_blocks = init, minimum, maximum
        self.parallelism = parallelism
        self.jobs: dict[str, Job] = {}

    label = "simulated"
    status_polling_interval = POLL_S

    def start(self, context: ProviderContext) -> None:
        """There is nothing to start."""

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:
        """Put a job into the queue; ``command`` is the id of its block."""
        leaves = self._world.clock() + self._waits()
        assert self.walltime_s is not None
        self.jobs[command] = job = Job(command, leaves, leaves + self.walltime_s)
        self._world.at(leaves + START_S, self._world.connect, job)
        self._world.at(job.limit, self._world.end, job)
        return command

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return what the queue says."""
        now = self._world.clock()

        def state(job: Job) -> JobState:
            if job.ended <= now:
                return JobState.TIMEOUT
            return JobState.RUNNING if job.leaves <= now else JobState.PENDING

        return [JobStatus(state(self.jobs[job_id])) for job_id in job_ids]

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End jobs now."""
        for job_id in job_ids:
            self._world.end(self.jobs[job_id])
        return [True] * len(job_ids)


class Workers(BlockExecutor):
    """The workers of all blocks: tasks go to them in the order of their arrival, to one block after the other."""

    label = "simulated"
    block_error_handler = True
    workers_per_node = SLOTS
    executor_exception: Exception | None = None

    def __init__(self, world: World) -> None:
        self._world = world
        self.waiting: deque[Task] = deque()
        self.running = 0
        self._turn: deque[Job] = deque()

    def start(self, context: ExecutorContext) -> None:
        """There is nothing to start."""

    def submit(self, attempt: Attempt) -> None:
        """Tasks come from the simulation, and no kernel is there to submit any."""
        raise AssertionError(f"attempt {attempt.task_id} was submitted to a simulated executor")

    def shutdown(self) -> None:
        """There is nothing to end."""

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """A block failed, which no scenario has."""
        raise exception

    def block_command(self, block_id: str) -> str:
        """Return what :meth:`Cluster.submit` takes."""
        return block_id

    @property
    def outstanding(self) -> int:
        """Number of tasks that wait or run."""
        return len(self.waiting) + self.running

    def connected_blocks(self) -> set[str]:
        """Return the blocks that ever had workers."""
        return {job.block_id for job in self._world.cluster.jobs.values() if job.connected}

    def idle_blocks(self) -> dict[str, float]:
        """Return how long each block without work has had none."""
        now = self._world.clock()
        return {job.block_id: now - job.idle_since for job in self._turn if not job.running}

    def release_block(self, block_id: str) -> None:
        """Give a block no further task."""
        self._world.cluster.jobs[block_id].held = True

    # --- for the simulation

    def joined(self, job: Job) -> None:
        """The workers of a block are there."""
        job.connected, job.idle_since = True, self._world.clock()
        self._turn.append(job)
        self.hand_out()

    def left(self, job: Job) -> None:
        """The workers of a block are gone: what they ran is run again, before all else."""
        if job.connected:
            self._turn.remove(job)
        self.running -= len(job.running)
        lost = sorted(job.running, key=lambda task: task.arrives)
        for task in lost:
            task.began = -1.0
        self.waiting.extendleft(reversed(lost))
        self._world.lost += len(lost)
        job.running.clear()
        self.hand_out()

    def hand_out(self) -> None:
        """Give waiting tasks to free workers."""
        now = self._world.clock()
        full = 0
        while self.waiting and full < len(self._turn):
            job = self._turn[0]
            self._turn.rotate(-1)
            if job.held or len(job.running) == SLOTS:
                full += 1
                continue
            full = 0
            task = self.waiting.popleft()
            task.began = now
            job.running.add(task)
            self.running += 1
            self._world.at(now + task.runs, self._world.finish, job, task)


# --- one scenario


@attrs.frozen
class Scenario:
    """How blocks are scaled: the name of a strategy, and what it is told."""

    strategy: str
    parallelism: float = 1.0
    max_idletime: float = 120.0
    init: int = 0
    minimum: int = 0
    walltime_s: float = WALLTIME_S

    @property
    def short(self) -> str:
        """What tells it from others of its strategy."""
        if self.strategy == "none":
            return f"{self.init} blocks"
        return f"p={self.parallelism:g} idle={self.max_idletime:g}s"

    def __str__(self) -> str:
        return f"{self.strategy} {self.short}"


@attrs.frozen
class Sample:
    """What there is at a time (s): blocks that run, and tasks that wait or run."""

    at: float
    running: int
    tasks: int


class World:
    """The simulation of one scenario.

    Args:
        scenario: how blocks are scaled.
        tasks: the load; its tasks get their times.
        queue_s: seconds that half of the jobs wait in the queue at most.
        seed: of the queue.
    """

    def __init__(self, scenario: Scenario, tasks: Sequence[Task], queue_s: float, seed: int) -> None:
        generator = random.Random(seed)
        self.clock = FakeClock()
        self.lost = 0
        #: For the plot.
        self.samples: list[Sample] = []
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._count = 0
        self._scenario = scenario
        self._tasks = tasks
        self._strategy = registry.get("strategy", scenario.strategy)
        self.cluster = Cluster(
            self,
            lambda: queue_s * generator.lognormvariate(0, 0.8),
            scenario.walltime_s,
            scenario.init,
            scenario.minimum,
            MAX_BLOCKS,
            scenario.parallelism,
        )
        self.workers = Workers(self)
        self.workers.provider = self.cluster
        run = RunInfo("simulated", Path(), "", "elasticity", 0.0)
        self.pool = BlockPool(self.workers, HookManager(), run, self.clock)
        for task in tasks:
            self.at(task.arrives, self.arrive, task)

    def at(self, time: float, what: Any, *arguments: Any) -> None:
        """Let something happen at a time."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, arguments))

    def arrive(self, task: Task) -> None:
        """A task is submitted."""
        self.workers.waiting.append(task)
        self.workers.hand_out()

    def connect(self, job: Job) -> None:
        """The workers of a block have started."""
        if job.ended == float("inf"):
            self.workers.joined(job)

    def end(self, job: Job) -> None:
        """A block ends."""
        if job.ended == float("inf"):
            job.ended = self.clock()
            self.workers.left(job)

    def finish(self, job: Job, task: Task) -> None:
        """A task ends, unless its block did before."""
        if task not in job.running or task.began + task.runs > self.clock():
            return
        job.running.discard(task)
        self.workers.running -= 1
        task.ended = self.clock()
        if not job.running:
            job.idle_since = task.ended
        self.workers.hand_out()

    def run(self) -> Figures:
        """Simulate until all tasks have ended; return the figures."""
        self.pool.start()
        left = LONGEST_DAYS * 24 * HOUR_S
        decide_at, sample_at = PERIOD_S, 0.0
        last = self._tasks[-1]
        while self.clock.now < left and (last.ended < 0 or self.workers.outstanding):
            while self._events and self._events[0][0] <= decide_at:
                time, _, what, arguments = heapq.heappop(self._events)
                self.clock.now = time
                what(*arguments)
            self.clock.now = decide_at
            self.pool.step(self._strategy, self._scenario.max_idletime)
            if decide_at >= sample_at:
                self._sample()
                sample_at += SAMPLE_S
            decide_at += PERIOD_S
        self.pool.close()
        return self._figures()

    def _sample(self) -> None:
        now = self.clock.now
        running = sum(1 for job in self.cluster.jobs.values() if job.leaves <= now < job.ended)
        self.samples.append(Sample(now, running, self.workers.outstanding))

    def _figures(self) -> Figures:
        unfinished = sum(task.ended < 0 for task in self._tasks)
        if unfinished:
            raise RuntimeError(f"{self._scenario}: {unfinished} tasks did not end within {LONGEST_DAYS} days")
        node_s = sum(max(0.0, job.ended - job.leaves) for job in self.cluster.jobs.values())
        waits = sorted(task.began - task.arrives for task in self._tasks)
        bursts: dict[int, float] = {}
        for task in self._tasks:
            if task.burst >= 0:
                bursts[task.burst] = max(bursts.get(task.burst, 0.0), task.ended - task.arrives)
        return {
            "node_hours": node_s / HOUR_S,
            "wait_mean_min": statistics.mean(waits) / 60,
            "wait_p95_min": waits[int(0.95 * len(waits))] / 60,
            "burst_mean_min": statistics.mean(bursts.values()) / 60 if bursts else 0.0,
            "used_percent": 100 * sum(task.runs for task in self._tasks) / (node_s * SLOTS),
            "makespan_h": max(task.ended for task in self._tasks) / HOUR_S,
            "blocks": len(self.cluster.jobs),
            "lost_tasks": self.lost,
        }


def scenarios() -> list[Scenario]:
    """Return what is compared. Those without scaling have all their blocks for as long as they need them."""
    for_ever = LONGEST_DAYS * 24 * HOUR_S
    fixed = [Scenario("none", init=blocks, walltime_s=for_ever) for blocks in (4, 10, MAX_BLOCKS)]
    scaled = [
        Scenario(strategy, parallelism, idle)
        for strategy in ("simple", "htex_auto_scale")
        for parallelism, idle in ((1.0, 120.0), (0.5, 120.0), (0.25, 120.0), (0.0, 120.0), (1.0, 30.0), (1.0, 900.0))
    ]
    return [*fixed, *scaled]


def simulate(scenario: Scenario, hours: float, queue_s: float, seed: int) -> World:
    """Return a world in which the load of a day was run; its figures are those of :meth:`World.run`."""
    return World(scenario, day(random.Random(seed), hours), queue_s, seed + 1)


# --- the report


def ratios(results: dict[str, Figures]) -> dict[str, float]:
    """Return what each scenario costs, and how long bursts take, times what the most blocks without scaling do."""
    base = results[f"none {MAX_BLOCKS} blocks"]
    found = {}
    for name, figures in results.items():
        for figure in ("node_hours", "burst_mean_min"):
            if not base[figure]:
                continue  # a short day without bursts
            found[f"{figure} of {name}, times that of {MAX_BLOCKS} blocks"] = figures[figure] / base[figure]
    return found


#: Figure, heading, format.
COLUMNS = (
    ("node_hours", "node hours", ".1f"),
    ("burst_mean_min", "burst, min", ".1f"),
    ("wait_mean_min", "wait, min", ".1f"),
    ("wait_p95_min", "wait p95", ".1f"),
    ("used_percent", "used, %", ".0f"),
    ("makespan_h", "makespan, h", ".2f"),
    ("blocks", "blocks", ".0f"),
    ("lost_tasks", "run again", ".0f"),
)


def table(results: dict[str, Figures]) -> str:
    """Return the figures as a table."""
    lines = [f"{'':34}" + "".join(f"{heading:>13}" for _, heading, _ in COLUMNS)]
    for name, figures in results.items():
        lines.append(f"{name:34}" + "".join(f"{figures[figure]:>13{form}}" for figure, _, form in COLUMNS))
    return "\n".join(lines)


#: Marker, color and where its labels stand, of each strategy in the plot.
LOOKS = {"none": ("s", "C7", (5, 4)), "simple": ("o", "C0", (5, 4)), "htex_auto_scale": ("^", "C1", (-5, -9))}
#: Whose blocks the plot shows over the day.
DRAWN = (Scenario("simple"), Scenario("htex_auto_scale"), Scenario("htex_auto_scale", parallelism=0.25))


def plot(worlds: dict[Scenario, tuple[Figures, Sequence[Sample]]], target: str) -> None:
    """Draw cost against time, and the blocks over the day, in a file whose name says the format (.svg, .png)."""
    # By name: who only checks types need not have it.
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, (trade, over_time) = pyplot.subplots(1, 2, figsize=(14, 6), layout="constrained")
    for scenario, (values, _) in worlds.items():
        marker, color, offset = LOOKS[scenario.strategy]
        place = (values["node_hours"], values["burst_mean_min"])
        trade.plot(*place, marker, color=color)
        side = "left" if offset[0] > 0 else "right"
        trade.annotate(scenario.short, place, offset, textcoords="offset points", fontsize=7, color=color, ha=side)
    for strategy, (marker, color, _) in LOOKS.items():
        trade.plot([], [], marker, color=color, label=strategy)
    trade.set(xscale="log", yscale="log", xlabel="node hours", ylabel="arrival of a burst to its end, mean, minutes")
    trade.margins(0.15)
    trade.grid(alpha=0.3, which="both")
    trade.legend()
    load = worlds[DRAWN[0]][1]
    hours = [sample.at / HOUR_S for sample in load]
    over_time.fill_between(hours, [s.tasks / SLOTS for s in load], color="0.85", label="tasks / slots of a block")
    for scenario in DRAWN:
        samples = worlds[scenario][1]
        hours = [sample.at / HOUR_S for sample in samples]
        over_time.step(hours, [s.running for s in samples], where="post", label=f"blocks of {scenario}", linewidth=1)
    over_time.set(ylim=(0, 1.2 * MAX_BLOCKS), xlabel="hour of the day", ylabel="running blocks")
    over_time.grid(alpha=0.3)
    over_time.legend(fontsize=8, loc="upper left")
    figure.savefig(target)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the load and of the queue")
    parser.add_argument("--hours", type=float, default=24, help="in which tasks arrive")
    parser.add_argument(
        "--queue", type=float, default=3, help="minutes that half of the blocks wait in the queue at most"
    )
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw the figures (.svg or .png); needs matplotlib")
    options = parser.parse_args()
    if not day(random.Random(options.seed), options.hours):
        parser.error(f"--hours {options.hours:g}: no task arrives in so short a time")
    logging.getLogger("flowcore").setLevel(logging.ERROR)
    worlds: dict[Scenario, tuple[Figures, Sequence[Sample]]] = {}
    for scenario in scenarios():
        print(f"{scenario} ...", file=sys.stderr, flush=True)
        world = simulate(scenario, options.hours, options.queue * 60, options.seed)
        worlds[scenario] = world.run(), world.samples
    if options.plot:
        plot(worlds, options.plot)
    results = {str(scenario): figures for scenario, (figures, _) in worlds.items()}
    if options.json and report.write(report.make(1, results, ratios(results), "flowcore"), options.json):
        return
    print(table(results))


if __name__ == "__main__":
    main()
