"""A run that is killed goes on where it was: what its user saw completed is never computed again.

A program is killed with SIGKILL at random moments of its start, its work and its end, again and again. What it said to
be completed before must be a memo hit in each later run, and have the right value. A failure tells its seed, and
``FLOWCORE_TEST_SEED`` repeats it, as far as the moments of another process can be repeated.
"""

from __future__ import annotations

import os
import random
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import Config, python_app
from flowcore.checkpoints import get_all_checkpoints
from flowcore.kernel import checkpoint
from flowcore.plugins import registry
from flowcore.testing.leftovers import Leftovers
from flowcore.testing.waiting import eventually

SCRIPT = Path(__file__).parent / "scripts" / "killed_run.py"
WAIT_S = 60
HTEX = "htex" in [plugin.name for plugin in registry.installed("executor")]


@python_app(cache=True)
def twice(x: int) -> int:
    return 2 * x


@contextmanager
def seeded() -> Iterator[random.Random]:
    """Yield a source of random numbers whose seed a failure tells."""
    seed = int(os.environ.get("FLOWCORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"repeat with FLOWCORE_TEST_SEED={seed}")
        raise


class Workflow:
    """A workflow that is run again and again, each time to be killed.

    Args:
        place: a folder of its own.
        tasks: how many tasks it has in the end.
        mode, executor: of its configuration.
    """

    def __init__(self, place: Path, tasks: int, mode: str = "task_exit", executor: str = "threads") -> None:
        place.mkdir()
        self.place = place
        self.tasks = tasks
        self.mode, self.executor = mode, executor
        self.executed = place / "executed"
        self.executed.touch()
        #: Checksums of the values of all tasks that were said to be completed.
        self.seen: dict[int, int] = {}
        #: How many runs ended before they were killed.
        self.ended = 0

    def command(self, up_to: int) -> list[str]:
        """Return the command line for so many tasks."""
        files = [self.place / "runinfo", self.executed]
        return [*map(str, [sys.executable, SCRIPT, *files]), self.mode, self.executor, str(up_to)]

    def run(self, up_to: int, pause_s: float = 0.0, lines: int | None = None, last: str | None = None) -> list[str]:
        """Start the program, kill it, check what it did, and return what it said.

        Args:
            up_to: how many tasks it has this time.
            pause_s: seconds to wait before it is killed, after
            lines: it has said so many lines, or
            last: it has said this word; neither: it was started.
        """
        before = set(self.seen)
        offset = self.executed.stat().st_size
        errors = self.place / "stderr"
        with errors.open("ab") as stderr:
            process = subprocess.Popen(self.command(up_to), stdout=subprocess.PIPE, stderr=stderr, text=True)
        said: list[str] = []
        with process:
            try:
                assert process.stdout is not None
                while (lines is not None and len(said) < lines) or last is not None:
                    line = process.stdout.readline()
                    if not line:
                        break
                    said.append(line.strip())
                    if last is not None and line.startswith(last):
                        break
                try:
                    process.wait(pause_s)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    self.ended += 1
            finally:
                process.kill()
            # What it had said, and nobody had read, was seen as well.
            said += [line.strip() for line in process.stdout]
        assert process.returncode in (0, -9), errors.read_text()
        again = before & set(self.executions(offset))
        assert not again, f"tasks {sorted(again)[:20]} were completed, and were executed again"
        for line in said:
            word, *numbers = line.split()
            if word == "done":
                number, crc = map(int, numbers)
                assert self.seen.setdefault(number, crc) == crc, f"task {number} has another value now"
        return said

    def kill_at_random(self, chance: random.Random, up_to: int) -> None:
        """Run it once, and kill it at some moment."""
        at = chance.choice(["start", "work", "work", "work", "end"])
        if at == "start":
            self.run(up_to, chance.uniform(0, 0.25 if self.executor == "threads" else 1))
        elif at == "end":
            self.run(up_to, chance.uniform(0, 0.03), last="all")
        else:
            new = max(1, up_to - len(self.seen))
            self.run(up_to, chance.choice([0, chance.uniform(0, 0.003)]), lines=len(self.seen) + chance.randrange(new))

    def finish(self) -> None:
        """Run it to its end, and check all that it has ever said."""
        before = len(self.seen)
        offset = self.executed.stat().st_size
        said = self.run(self.tasks, WAIT_S, last="end")
        assert said[-1] == "end", (self.place / "stderr").read_text()
        (hits,) = (int(line.split()[1]) for line in said if line.startswith("all "))
        assert hits >= before
        assert len(self.executions(offset)) == self.tasks - hits
        script = runpy.run_path(str(SCRIPT))
        value: Any = script["value"]
        expected = {}
        text = ""
        for number in range(self.tasks):
            text = value(number, text if number % 3 == 2 else None)
            expected[number] = script["crc"](text)
        assert self.seen == expected
        # And once more, for which nothing is left to be done.
        offset = self.executed.stat().st_size
        assert f"all {self.tasks}" in self.run(self.tasks, WAIT_S, last="end")
        assert self.executions(offset) == []

    def executions(self, offset: int) -> list[int]:
        """Return the numbers of the tasks that were executed since EXECUTED had a size."""
        with self.executed.open("rb") as file:
            file.seek(offset)
            return [int(line) for line in file.read().splitlines()]


def test_killed_100_times(tmp_path: Path) -> None:
    tasks, kills = 2500, 50

    def live(workflow: Workflow, chance: random.Random) -> int:
        for number in range(1, kills + 1):
            workflow.kill_at_random(chance, tasks * number // kills)
        seen = len(workflow.seen)
        workflow.finish()
        return seen

    with seeded() as chance, ThreadPoolExecutor(2) as pool:
        workflows = [Workflow(tmp_path / name, tasks) for name in ("one", "two")]
        chances = [random.Random(chance.random()) for _ in workflows]
        # Most of it was done by runs that were killed, and most runs were killed before their end.
        for seen in pool.map(live, workflows, chances):
            assert seen > tasks / 4
        assert sum(workflow.ended for workflow in workflows) < kills


@pytest.mark.parametrize("mode", ["manual", "dfk_exit", "periodic"])
def test_what_checkpoint_returned_from_survives(tmp_path: Path, mode: str) -> None:
    tasks, kills = 900, 6
    with seeded() as chance:
        workflow = Workflow(tmp_path / "one", tasks, mode)
        for number in range(1, kills + 1):
            workflow.kill_at_random(chance, tasks * number // kills)
        # One that reaches its end counts for those that it left to it.
        workflow.run(tasks, last="end")
        assert len(workflow.seen) == tasks
        workflow.finish()


def test_periodic_checkpoints_survive(tmp_path: Path) -> None:
    # The program asks for no checkpoint of its last 100 tasks, and its end never comes: the run's thread writes them.
    workflow = Workflow(tmp_path / "one", 50, "periodic")
    stored = tmp_path / "one" / "runinfo" / "000" / "checkpoint"
    with subprocess.Popen([*workflow.command(50), "stay"], stdout=subprocess.DEVNULL) as process:
        try:
            eventually(
                lambda: get_all_checkpoints(tmp_path / "one" / "runinfo") and len(checkpoint.load([stored])) == 50
            )
        finally:
            process.kill()
    assert "all 50" in workflow.run(50, WAIT_S, last="end")
    assert len(workflow.executions(0)) == 50


@pytest.mark.skipif(not HTEX, reason="flowcore-executor-htex is not installed")
def test_killed_with_processes_elsewhere(tmp_path: Path, no_leftovers: Leftovers) -> None:
    tasks, kills = 1500, 10
    with seeded() as chance:
        workflow = Workflow(tmp_path / "one", tasks, executor="htex")
        for number in range(1, kills + 1):
            workflow.kill_at_random(chance, tasks * number // kills)
        workflow.finish()
    # A manager that came too late to hear of the end waits for the heartbeat_threshold.
    eventually(lambda: not no_leftovers.new_processes(), WAIT_S, "the end of all managers")


def test_a_memo_hit_does_not_come_before_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The user of the second call sees a completed task, too.
    writing, go_on = threading.Event(), threading.Event()
    append = checkpoint.CheckpointFile.append

    def slow(self: checkpoint.CheckpointFile, results: Any) -> None:
        writing.set()
        assert go_on.wait(WAIT_S)
        append(self, results)

    monkeypatch.setattr(checkpoint.CheckpointFile, "append", slow)
    with flowcore.load(Config(run_dir=tmp_path / "runinfo", checkpoint_mode="task_exit")):
        first = twice(4)
        assert writing.wait(WAIT_S)
        second = twice(4)
        try:
            assert not second.done()
        finally:
            go_on.set()
        assert first.result(WAIT_S) == second.result(WAIT_S) == 8


def test_checkpoint_waits_for_another_one_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of the run's own thread, say, that has just taken what the user wants to be written.
    writing, go_on = threading.Event(), threading.Event()
    append = checkpoint.CheckpointFile.append

    def slow(self: checkpoint.CheckpointFile, results: Any) -> None:
        if results:  # the second one finds none
            writing.set()
            assert go_on.wait(WAIT_S)
        append(self, results)

    with flowcore.load(Config(run_dir=tmp_path / "runinfo", checkpoint_mode="manual")) as dfk:
        assert twice(4).result(WAIT_S) == 8
        monkeypatch.setattr(checkpoint.CheckpointFile, "append", slow)
        with ThreadPoolExecutor(2) as pool:
            try:
                first = pool.submit(dfk.checkpoint)
                assert writing.wait(WAIT_S)
                second = pool.submit(dfk.checkpoint)
                with pytest.raises(TimeoutError):
                    second.result(0.2)
            finally:
                go_on.set()
            assert first.result(WAIT_S) == second.result(WAIT_S)
        assert list(checkpoint.load([dfk.run_dir]).values()) == [8]
