"""Workflows on htex whose blocks are jobs of a real Slurm, and what becomes of them when parts of it go."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import flowcore
from flowcore import python_app
from flowcore.errors import BlocksFailed, SchedulerUnavailable
from flowcore.plugins.api import RAN_BEFORE, JobState, hookimpl
from flowcore.testing.waiting import eventually


@python_app
def where(seconds=0.2):
    """The host that it runs on."""
    import socket
    import time

    time.sleep(seconds)
    return socket.gethostname()


@python_app
def distinct(names):
    """The fan-in."""
    return sorted(set(names))


@python_app
def once(folder, number, until=None):
    """Notes that it ran, and waits for a file."""
    import os
    import time
    from pathlib import Path

    with Path(folder, f"ran-{number}").open("a") as file:
        file.write("x")
    while until is not None and not os.path.exists(until):
        time.sleep(0.05)
    return number


@pytest.fixture
def jobs(cluster):
    """The jobs of this test that are in the queue."""
    before = set(cluster.jobs())
    return lambda: sorted(set(cluster.jobs()) - before)


class Watch:
    """What became of blocks."""

    def __init__(self):
        self.ended = {}

    @hookimpl
    def flowcore_block_ended(self, event):
        self.ended[event.job_id] = event.status


# --- scaling


def test_a_fan_out_and_fan_in_over_two_nodes_with_blocks_from_none(load, cluster, jobs):
    load({"strategy": "htex_auto_scale"}, nodes_per_block=2, init_blocks=0, max_blocks=1)
    assert jobs() == []
    both = distinct([where() for _ in range(20)]).result(60)
    assert len(both) == 2
    assert set(both) <= set(cluster.nodes)
    eventually(lambda: not jobs(), 60, "that the block is given back")
    # And again.
    assert len(distinct([where() for _ in range(20)]).result(60)) == 2


def test_more_blocks_while_there_is_more_to_do(load, cluster, jobs):
    load({"strategy": "htex_auto_scale"}, nodes_per_block=1, init_blocks=0, max_blocks=2)
    results = [where(0.5) for _ in range(24)]
    eventually(lambda: len(jobs()) == 2, 60, "two blocks")
    assert len({r.result(60) for r in results}) == 2
    eventually(lambda: not jobs(), 60, "that the blocks are given back")


def test_no_job_is_left_when_a_program_ends_with_an_exception(cluster, jobs, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import flowcore
            from flowcore.executors import HighThroughputExecutor
            from flowcore.providers import SlurmProvider

            provider = SlurmProvider(nodes_per_block=2, max_blocks=1)
            executor = HighThroughputExecutor(address="{cluster.hosts.head}", provider=provider)
            flowcore.load(flowcore.Config(executors=[executor]))

            @flowcore.python_app
            def one():
                return 1

            assert one().result() == 1
            1 / 0
            """
        )
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    eventually(lambda: not jobs(), 20, "an empty queue")


# --- refusals


def test_the_schedulers_message_reaches_the_task(load):
    load(partition="nosuch")
    with pytest.raises(BlocksFailed, match="invalid partition specified: nosuch"):
        where().result(60)


# --- faults


def test_a_scheduler_that_is_away_for_30_seconds_ends_nothing(load, start, cluster, jobs):
    """What runs goes on, also while more blocks are asked for in vain; they come when it is back."""
    watch = Watch()
    load({"hooks": [watch], "max_idletime": 600}, max_blocks=2)
    where(0).result(60)
    block = jobs()
    assert len(block) == 1
    other = start()
    job = other.submit("until [ -e go ]; do sleep 0.05; done", 1, "other")
    eventually(lambda: other.status([job])[0].state is JobState.RUNNING, 30, "that the other job runs")
    cluster.stop_controller()
    back_at = time.monotonic() + 30
    try:
        # What its provider says of it meanwhile.
        (status,) = other.status([job])
        assert status.state is JobState.UNKNOWN
        assert status.message.startswith("no answer: slurm_load_jobs error: Unable to contact slurm controller")
        assert other.cancel([job]) == [False]
        with pytest.raises(SchedulerUnavailable, match="its scheduler does not answer: sbatch: error: Batch job"):
            other.submit("touch never", 1, "never")
        while time.monotonic() < back_at:
            assert len(distinct([where() for _ in range(20)]).result(60)) == 1
    finally:
        cluster.start_controller()
    assert watch.ended == {}
    (status,) = other.status([job])
    assert (status.state, status.message) == (JobState.RUNNING, None)
    Path("go").touch()
    eventually(lambda: other.status([job])[0].exit_code == 0, 30, "the other job's end")

    def both_work() -> bool:
        return len(distinct([where() for _ in range(20)]).result(60)) == 2

    eventually(both_work, 90, "work of a second block")
    assert watch.ended == {}
    assert jobs()[:1] == block
    assert not Path("never").exists()


def test_a_lost_node_loses_no_task_that_may_be_retried(load, cluster, tmp_path):
    """Its tasks run on the other node, before Slurm notices and ends the block; then there is another block."""
    watch = Watch()
    load(
        {"retries": 2, "hooks": [watch], "max_idletime": 600},
        {"heartbeat_period": 1, "heartbeat_threshold": 5},
        init_blocks=2,
        max_blocks=2,
        scheduler_options=f"#SBATCH --exclude={cluster.nodes[2]}",
    )
    first = cluster.hosts[0]

    def both_work() -> bool:
        return len(distinct([where() for _ in range(20)]).result(60)) == 2

    eventually(both_work, 60, "work of both blocks")
    (job,) = cluster.ask("squeue", "--noheader", "--format=%A", f"--nodelist={first.name}").split()
    tasks = [once(str(tmp_path), i, until=str(tmp_path / "go")) for i in range(4)]
    eventually(lambda: len(list(tmp_path.glob("ran-*"))) == 4, 30, "the beginning of all tasks")
    cluster.hosts.power_off(first)
    try:
        Path("go").touch()
        assert [t.result(60) for t in tasks] == [0, 1, 2, 3]
        eventually(lambda: job in watch.ended, 60, "that Slurm notices")
        assert watch.ended[job].state is JobState.FAILED
        assert watch.ended[job].message.startswith("NODE_FAIL")
    finally:
        cluster.hosts.heal(first)
        cluster.start_node(first.name)
    eventually(both_work, 60, "work of a new block")


def test_a_block_that_slurm_runs_a_second_time_does_no_task_twice(load, cluster, jobs, tmp_path):
    """The controller forgets that the block runs, and starts its job again, on another node."""
    watch = Watch()
    load({"hooks": [watch]}, max_blocks=1, scheduler_options=f"#SBATCH --exclude={cluster.nodes[2]} --begin=now+2")
    go = str(tmp_path / "go")
    tasks = [once(str(tmp_path), i, until=go) for i in range(2)] + [once(str(tmp_path), i) for i in range(2, 6)]
    eventually(jobs, 30, "the block's job")
    (job,) = jobs()
    waiting = cluster.written_down()
    eventually(lambda: len(list(tmp_path.glob("ran-*"))) == 2, 30, "the beginning of the tasks")
    cluster.kill_controller(waiting)
    (here,) = {line.split()[1] for line in _started(tmp_path) if line.split()[0] == job}
    cluster.stop_node(here)
    cluster.start_controller()
    try:
        eventually(lambda: job in watch.ended, 40, "the end of the second run")
        ended = watch.ended[job]
        assert (ended.state, ended.exit_code) == (JobState.FAILED, RAN_BEFORE)
        assert ended.message == "the scheduler started it a second time, and it did nothing then"
        assert f"flowcore: this block has run before, or was given up ({job} {here}): not run again" in ended.stderr
        assert here not in cluster.ask("squeue", "--noheader", "--states=all", "--format=%N", f"--jobs={job}")
        # The first runs still, and does the work.
        Path(go).touch()
        assert [t.result(60) for t in tasks] == list(range(6))
        assert {p.read_text() for p in tmp_path.glob("ran-*")} == {"x"}
    finally:
        flowcore.clear()
        cluster.start_node(here)


def _started(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.rglob("*.started")]
