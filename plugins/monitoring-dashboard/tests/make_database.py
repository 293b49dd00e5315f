"""Databases as flowcore's monitoring leaves them, of workflows that never ran: of any size, at any moment of their run.

As a program: ``python make_database.py FILE [TASKS]`` writes one run of that size.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
import uuid
from collections import Counter, defaultdict
from typing import Any

import attrs
from flowcore_monitoring_sqlite import schema
from sqlalchemy import Engine, Table, create_engine, event
from sqlalchemy.engine import Connection

Row = dict[str, Any]
END_STATES = {"exec_done", "memo_done", "failed", "dep_fail"}
MB = 1 << 20


@attrs.define
class Made:
    """A task of the made run, with all that ever happens to it."""

    task_id: int
    app: str
    kind: str
    depends: list[int]
    seconds: float
    memory: float
    states: list[tuple[float, str, int]] = attrs.Factory(list)
    tries: list[Row] = attrs.Factory(list)
    failures: list[Row] = attrs.Factory(list)
    ready: float = 0.0
    ended: float = 0.0
    good: bool = True


@attrs.define
class MadeRun:
    """A workflow of five apps on a few nodes: prepare, simulate (bash), analyse, merge (join), report; and stage_in.

    Attributes:
        tasks: how many.
        began: epoch seconds.
        name: of the workflow.
        failing: fraction of simulations that fail for good; twice as many fail once.
        workers, nodes: how many, over all nodes.
        interval: seconds between resource samples; None for none at all.
        shape: "layers", or "chain": each task waits for the one before.
    """

    tasks: int
    began: float
    name: str = "climate.py"
    failing: float = 0.02
    workers: int = 32
    nodes: int = 4
    interval: float | None = 5.0
    shape: str = "layers"
    seed: int = 1
    run_id: str = ""
    made: list[Made] = attrs.field(factory=list, repr=False)

    def __attrs_post_init__(self) -> None:
        """Let the workflow run, in no time."""
        chance = random.Random(self.seed)
        self.run_id = self.run_id or str(uuid.UUID(int=chance.getrandbits(128), version=4))
        self._make_tasks(chance)
        self._schedule(chance)

    @property
    def ends(self) -> float:
        """When the last task has ended."""
        return max(task.ended for task in self.made)

    def _make_tasks(self, chance: random.Random) -> None:
        def add(app: str, kind: str, depends: list[int], seconds: float, memory: float) -> int:
            self.made.append(Made(len(self.made), app, kind, depends, seconds, memory))
            return len(self.made) - 1

        if self.shape == "chain":
            for i in range(self.tasks):
                add("step", "python", [i - 1] if i else [], chance.uniform(0.2, 1), 50 * MB)
            return
        n = self.tasks
        stages = [add("stage_in", "internal", [], chance.uniform(0.2, 0.6), 20 * MB) for _ in range(max(1, n // 100))]
        prepared = [add("prepare", "python", [s], chance.uniform(0.5, 2), 80 * MB) for s in stages]
        count = max(2, int(n * 0.55))
        sims = [
            add(
                "simulate", "bash", [chance.choice(prepared)], chance.lognormvariate(1.2, 0.6), chance.uniform(2e8, 9e8)
            )
            for _ in range(count)
        ]
        rest = max(1, n - len(self.made) - max(1, n // 200) - 1)
        analysed = [
            add("analyse", "python", chance.sample(sims, min(2, len(sims))), chance.uniform(0.3, 2.5), 3e8)
            for _ in range(rest)
        ]
        merges = max(1, n - len(self.made) - 1)
        merged = [add("merge", "join", analysed[i::merges][:20], chance.uniform(0.1, 0.3), 4e7) for i in range(merges)]
        add("report", "python", merged[:50], 3.0, 1e8)

    def _schedule(self, chance: random.Random) -> None:
        per_node = max(1, self.workers // self.nodes)
        free = [(self.began + 2 + 0.1 * i, i) for i in range(self.workers)]
        heapq.heapify(free)
        # Tasks in the order in which they are ready; the graph leads from lower to higher ids.
        waiting: Counter[int] = Counter({task.task_id: len(task.depends) for task in self.made})
        followers: defaultdict[int, list[int]] = defaultdict(list)
        for task in self.made:
            for other in task.depends:
                followers[other].append(task.task_id)
            task.states.append((self.began + 0.0005 * task.task_id, "pending", 0))
        ready = [(task.states[0][0], task.task_id) for task in self.made if not task.depends]
        heapq.heapify(ready)
        while ready:
            at, number = heapq.heappop(ready)
            task = self.made[number]
            task.ready = at
            bad = next((other for other in task.depends if not self.made[other].good), None)
            if bad is not None:
                task.good = False
                self._end(task, at, "dep_fail", 0, ("DependencyError", f"Dependency failure for task {number}: {bad}"))
            elif task.app == "prepare" and chance.random() < 0.2:
                self._end(task, at, "memo_done", 0, None)
            else:
                self._attempts(task, at, free, per_node, chance)
            for follower in followers[number]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    latest = max(self.made[other].ended for other in self.made[follower].depends)
                    heapq.heappush(ready, (max(latest, self.made[follower].states[0][0]), follower))

    def _attempts(
        self, task: Made, at: float, free: list[tuple[float, int]], per_node: int, chance: random.Random
    ) -> None:
        fate = chance.random() if task.app == "simulate" else 1.0
        fails = 2 if fate < self.failing else 1 if fate < 3 * self.failing else 0
        for number in range(fails + 1 if fails < 2 else 2):
            launched = at + 0.002
            begin, worker = heapq.heappop(free)
            begin = max(begin, launched + 0.003)
            failing = number < fails
            end = begin + task.seconds * (chance.uniform(0.2, 0.7) if failing else 1.0)
            heapq.heappush(free, (end, worker))
            node = worker // per_node
            why = _why(chance, task, node) if failing else None
            task.states.append((launched, "launched", number))
            task.states.append((begin, "running", number))
            task.tries.append(
                {
                    "run_id": self.run_id, "task_id": task.task_id, "try_id": number, "block_id": str(node // 2),
                    "hostname": f"node{node:03d}.cluster", "worker": str(worker % per_node), "task_executor": "htex",
                    "task_try_time_launched": launched, "task_try_time_running": begin, "task_try_time_returned": end,
                    "task_fail_history": f"{why[0]}: {why[1]}" if why else None,
                    "task_joins": ",".join(map(str, task.depends[:3])) if task.kind == "join" else None,
                }
            )  # fmt: skip
            at = end
            if why and number == 0:
                task.states.append((end, "fail_retryable", number))
                self._fail(task, end, "fail_retryable", number, why)
            elif why:
                task.good = False
                self._end(task, end, "failed", number, why)
            else:
                self._end(task, end, "exec_done", number, None)

    def _end(self, task: Made, at: float, state: str, number: int, why: tuple[str, str] | None) -> None:
        task.states.append((at, state, number))
        task.ended = at
        if why:
            self._fail(task, at, state, number, why)

    def _fail(self, task: Made, at: float, state: str, number: int, why: tuple[str, str]) -> None:
        kind, text = why
        task.failures.append(
            {
                "run_id": self.run_id, "task_id": task.task_id, "try_id": number, "timestamp": at,
                "task_status_name": state, "exception_type": kind,
                "cause": f"{kind}: " + "".join("N" if c.isdigit() else c for c in text), "text": text,
                "notes": f"ran on: executor htex, attempt {number + 1}\nto try: look at its stderr",
                "traceback": "Traceback (most recent call last):\n"
                '  File "/home/ada/climate.py", line 41, in simulate\n    grid.solve(step)\n'
                f"{kind}: {text}" if task.task_id < 500 else None,
            }
        )  # fmt: skip

    # --- what is in the database at a moment

    def rows(self, now: float, state: str = "") -> dict[Table, list[Row]]:
        """Return all rows as they are at a moment.

        Args:
            now: epoch seconds.
            state: of the run: running, completed or interrupted; by default what is so at that moment.
        """
        run = self.run_id
        over = now >= self.ends
        state = state or ("completed" if over else "running")
        out: dict[Table, list[Row]] = {t: [] for t in schema.metadata.sorted_tables if t is not schema.schema_version}
        counts: Counter[str] = Counter()
        for task in self.made:
            seen = [entry for entry in task.states if entry[0] <= now]
            if not seen:
                continue
            at, last, _ = seen[-1]
            counts[last] += 1
            failures = [row for row in task.failures if row["timestamp"] <= now]
            tries = [row for row in task.tries if row["task_try_time_launched"] <= now]
            out[schema.task].append(
                {
                    "run_id": run, "task_id": task.task_id, "task_depends": ",".join(map(str, task.depends)),
                    "task_func_name": task.app, "task_app_kind": task.kind, "task_memoize": task.app == "prepare",
                    "task_hashsum": f"{task.task_id:032x}" if task.app == "prepare" else None,
                    "task_inputs": f'["file:///data/in-{task.task_id}.nc"]' if task.app == "prepare" else None,
                    "task_outputs": None, "task_stdin": None, "task_stdout": None,
                    "task_stderr": f"/runs/task_{task.task_id}.stderr" if task.kind == "bash" else None,
                    "task_time_invoked": task.states[0][0], "task_time_returned": at if last in END_STATES else None,
                    "task_fail_count": len(failures), "task_fail_cost": float(len(failures)), "task_state": last,
                    "task_state_time": at, "task_executor": "htex" if tries else None,
                }
            )  # fmt: skip
            out[schema.status].extend(
                {"task_id": task.task_id, "task_status_name": name, "timestamp": when, "run_id": run, "try_id": number}
                for when, name, number in seen
            )
            for row in tries:
                shown = dict(row)
                for key in ("task_try_time_running", "task_try_time_returned"):
                    if shown[key] > now:
                        shown[key] = None
                if shown["task_try_time_returned"] is None:
                    shown["task_fail_history"] = None
                out[schema.attempt].append(shown)
                out[schema.resource].extend(self._samples(task, row, now))
            out[schema.failure].extend(failures)
            if task.app == "stage_in":
                out[schema.transfer].append(
                    {"run_id": run, "task_id": task.task_id, "url": f"https://data.example.org/{task.task_id}.nc",
                     "direction": "in", "staging": "task"}
                )  # fmt: skip
        out[schema.status].sort(key=lambda row: row["timestamp"])
        self._places(out, now, over)
        failed = counts["failed"] + counts["dep_fail"]
        out[schema.workflow].append(
            {
                "run_id": run, "workflow_name": self.name, "workflow_version": "2026-11-26", "time_began": self.began,
                "time_completed": self.ends + 0.5 if state == "completed" else None, "host": "login1.cluster",
                "user": "ada", "rundir": f"/home/ada/runinfo/{self.seed:03d}", "tasks_failed_count": failed,
                "tasks_completed_count": counts["exec_done"] + counts["memo_done"], "run_state": state,
                "heartbeat": time.time() if state == "running" else now, "pid": 4711, "python_version": "3.12.1",
                "flowcore_version": "0.1.0", "config": "Config(executors=[...])", "events_lost": 0,
            }
        )  # fmt: skip
        place = int((now - self.began) * 1000)
        out[schema.journal].append(
            {"run_id": run, "segment": 0, "position": place, "counted_segment": 0, "counted_position": place}
        )
        tally = Counter((row["task_func_name"], row["task_state"]) for row in out[schema.task])
        out[schema.tally] += [
            {"run_id": run, "task_func_name": app, "task_state": last, "task_count": count}
            for (app, last), count in tally.items()
        ]
        out[schema.progress] += [
            {
                "run_id": run, "timestamp": at,
                "tasks_ended": sum((row["task_time_returned"] or now + 1) <= at for row in out[schema.task]),
            }
            for at in (now - 120, now - 60, now)
        ]  # fmt: skip
        return out

    def _samples(self, task: Made, attempt: Row, now: float) -> list[Row]:
        if self.interval is None or task.kind == "join":
            return []
        begin, end = attempt["task_try_time_running"], attempt["task_try_time_returned"]
        times = [begin]
        while self.interval and times[-1] + self.interval < end:
            times.append(times[-1] + self.interval)
        times.append(end)
        return [
            {
                "run_id": self.run_id, "task_id": task.task_id, "try_id": attempt["try_id"], "timestamp": at,
                "resource_monitoring_interval": self.interval, "psutil_process_pid": 1000 + task.task_id % 5000,
                "psutil_process_memory_percent": 1.0, "psutil_process_children_count": 1,
                "psutil_process_time_user": 0.9 * (at - begin), "psutil_process_time_system": 0.05 * (at - begin),
                "psutil_process_memory_virtual": 2 * task.memory,
                "psutil_process_memory_resident": task.memory * (0.3 + 0.7 * (at - begin) / (end - begin)),
                "psutil_process_disk_read": 1e6 * (at - begin), "psutil_process_disk_write": 3e6 * (at - begin),
                "psutil_process_status": "running", "task_executor": "htex", "block_id": attempt["block_id"],
                "hostname": attempt["hostname"], "worker": attempt["worker"],
                "sample_kind": "begin" if at == begin else "end" if at == end else "running",
            }
            for at in times
            if at <= now
        ]  # fmt: skip

    def _places(self, out: dict[Table, list[Row]], now: float, over: bool) -> None:
        blocks = sorted({str(node // 2) for node in range(self.nodes)})
        for i, block_id in enumerate(blocks):
            steps = [(0.1, "PENDING", None), (1.8, "RUNNING", None)]
            changes = [(self.began + s, name, message) for s, name, message in steps]
            if over:
                changes.append((self.ends + 0.3, "CANCELLED" if i else "COMPLETED", None))
            out[schema.block].extend(
                {"run_id": self.run_id, "executor_label": "htex", "block_id": block_id, "job_id": f"8{i:04d}",
                 "timestamp": at, "status": name, "message": message}
                for at, name, message in changes if at <= now
            )  # fmt: skip
        out[schema.block].append(
            {"run_id": self.run_id, "executor_label": "htex", "block_id": str(len(blocks)), "job_id": "89999",
             "timestamp": self.began + 0.2, "status": "FAILED", "message": "QOSMaxSubmitJobPerUserLimit"}
        )  # fmt: skip
        for node in range(self.nodes):
            connected = self.began + 2 + 0.05 * node
            if connected <= now:
                out[schema.node].append(
                    {"run_id": self.run_id, "uid": f"manager-{node}", "task_executor": "htex",
                     "hostname": f"node{node:03d}.cluster", "block_id": str(node // 2), "cpu_count": 64,
                     "total_memory": 256 << 30, "active": not over, "worker_count": max(1, self.workers // self.nodes),
                     "python_v": "3.12.1", "timestamp": connected, "last_heartbeat": min(now, self.ends)}
                )  # fmt: skip


def _why(chance: random.Random, task: Made, node: int) -> tuple[str, str]:
    """Return the exception that an attempt fails with: its type and text."""
    return chance.choices(
        [
            ("BashExitFailure", f"simulate of task {task.task_id} failed with exit code 3"),
            ("WorkerLost", f"the worker on node{node:03d} was killed by signal 9 (SIGKILL)"),
            ("ValueError", f"grid point {chance.randrange(1000)} has no temperature"),
        ],
        (6, 3, 2),
    )[0]


def engine_of(url: str) -> Engine:
    """Return an engine that writes as flowcore's monitoring does; the tables are there."""
    engine = create_engine(url)
    if url.startswith("sqlite"):

        @event.listens_for(engine, "connect")
        def _options(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")

    with engine.begin() as connection:
        schema.create_or_migrate(connection)
    return engine


def write(connection: Connection, run: MadeRun, now: float | None = None, state: str = "") -> None:
    """Bring a run into the database as it is at a moment, in place of what was there of it.

    Args:
        connection: in a transaction.
        run: the run.
        now: epoch seconds; by default, after its end.
        state: of the run, if not what is so at that moment.
    """
    for table, rows in run.rows(run.ends + 1 if now is None else now, state).items():
        connection.execute(table.delete().where(table.c.run_id == run.run_id))
        for start in range(0, len(rows), 50_000):
            connection.execute(table.insert(), rows[start : start + 50_000])


def main() -> None:
    """Write one run."""
    path, tasks = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    engine = engine_of(f"sqlite:///{path}")
    # A run in which something goes on at any time, whatever its size.
    workers = max(8, tasks // 200)
    run = MadeRun(tasks, time.time() - 3600, workers=workers, nodes=max(2, workers // 32))
    with engine.begin() as connection:
        write(connection, run)
    engine.dispose()


if __name__ == "__main__":
    main()
