"""Managers, blocks and the interchange: killed, frozen, of another version, on a full disk. Injected for real."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flowcore
from flowcore.errors import BlocksFailed, InterchangeLost, ManagerLost, WorkerLost
from flowcore.executors import HighThroughputExecutor
from flowcore.testing import processes, servers
from flowcore.testing.waiting import eventually

Load = Callable[..., flowcore.DataFlowKernel]
#: Seconds within which a fault is to be known and mended, on a machine that does other things as well.
BOUND_S = 30
#: Heartbeats of these tests: short, and long enough for a machine that stands still for a moment.
BEATS = {"heartbeat_period": 0.3, "heartbeat_threshold": 2.0}
TWO_BLOCKS = {"plugin": "local", "init_blocks": 2, "max_blocks": 2}


@flowcore.python_app
def note(path: str, number: int, seconds: float = 0.0) -> int:
    """Write down that it ran, and under which manager: one write that nobody else's can come into."""
    import os
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {os.getppid()}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return number


@flowcore.python_app
def hold(path: str, number: int, gate: str) -> tuple[int, int]:
    """Note its manager, wait for the gate, and return its number and the manager."""
    import os
    import pathlib
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {os.getppid()}\n".encode())
    manager = os.getppid()
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    os.write(fd, f"{number} {manager} end\n".encode())
    os.close(fd)
    return number, manager


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def running(module: str) -> list[int]:
    """The process ids of htex's processes that run this module."""
    wanted = ["-P", "-m", f"flowcore_executor_htex.{module}"]
    return [p.pid for p in processes.descendants(os.getpid()) if p.command.split()[1:4] == wanted]


def workers_of(manager: int) -> list[int]:
    return [p.pid for p in processes.descendants(manager) if "flowcore_executor_htex.worker" in p.command]


def executor_of(dfk: flowcore.DataFlowKernel) -> HighThroughputExecutor:
    executor = dfk.executors["htex"]
    assert isinstance(executor, HighThroughputExecutor)
    return executor


def wait_for_managers(dfk: flowcore.DataFlowKernel, count: int) -> None:
    eventually(lambda: len(executor_of(dfk).connected_managers()) == count)


class Deliveries:
    """Counts how often each future's outcome is set."""

    def __init__(self, *futures: flowcore.AppFuture[object]) -> None:
        self._counts: collections.Counter[int] = collections.Counter()
        self._all = range(len(futures))
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: self._counts.update([i]))

    def check(self) -> None:
        assert self._counts == collections.Counter(self._all), "each outcome was told once"


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop processes, until the end of the block."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


# --- managers and blocks that are killed


def test_with_a_retry_all_tasks_of_a_killed_manager_run_in_another_block(load: Load, tmp_path: Path) -> None:
    dfk = load(provider=TWO_BLOCKS, config={"retries": 1, "strategy": "none"}, **BEATS)
    wait_for_managers(dfk, 2)
    path = tmp_path / "ran"
    futures = [note(str(path), i, 0.02) for i in range(80)]
    deliveries = Deliveries(*futures)
    eventually(lambda: len({manager for _, manager in lines(path)}) == 2 and len(lines(path)) >= 10)
    victim, _ = running("manager")
    os.kill(victim, signal.SIGKILL)
    assert [f.result(timeout=BOUND_S) for f in futures] == list(range(80))
    deliveries.check()
    counts = collections.Counter(int(number) for number, _ in lines(path))
    assert counts.keys() == set(range(80)), "none was lost"
    for number, count in counts.items():
        managers = [int(manager) for n, manager in lines(path) if int(n) == number]
        # What ran under the manager that was killed, and had not been reported, ran again; all else once.
        assert count == 1 or count == 2 and managers[0] == victim != managers[1], (number, managers)


def test_with_a_retry_all_tasks_of_a_killed_interchange_run_on_another_executor(load: Load, tmp_path: Path) -> None:
    executors = [{"plugin": "htex", "label": label, "max_workers_per_node": 1} for label in ("one", "other")]
    path = tmp_path / "ran"
    load(config={"executors": executors, "retries": 1})
    futures = [note(str(path), i, 0.01) for i in range(60)]
    eventually(lambda: len({manager for _, manager in lines(path)}) == 2)
    interchanges = running("interchange")
    assert len(interchanges) == 2
    os.kill(interchanges[0], signal.SIGKILL)
    futures += [note(str(path), i) for i in range(60, 100)]
    assert [f.result(timeout=BOUND_S) for f in futures] == list(range(100))
    # Nobody chooses the broken one any more.
    assert [note(str(path), i).result(timeout=BOUND_S) for i in range(100, 120)] == list(range(100, 120))


def test_errors_that_many_tasks_share_say_of_each_its_own(load: Load, tmp_path: Path) -> None:
    load(max_workers_per_node=1)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(20)]
    eventually(lambda: len(lines(path)) == 1)
    [interchange] = running("interchange")
    os.kill(interchange, signal.SIGKILL)
    futures.append(note(str(path), 99))
    for number, future in enumerate(futures):
        with pytest.raises(InterchangeLost) as caught:
            future.result(timeout=BOUND_S)
        [told] = caught.value.__notes__
        assert told.startswith(f"flowcore: task {number} ")


def test_the_provider_knows_of_a_lost_block_before_any_heartbeat_is_missed(load: Load, tmp_path: Path) -> None:
    dfk = load(provider=TWO_BLOCKS, max_workers_per_node=1, config={"strategy_period": 0.2})
    wait_for_managers(dfk, 2)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(2)]
    eventually(lambda: len(lines(path)) == 2)
    lost, manager = (int(x) for x in lines(path)[0])
    group = processes.look(manager)
    assert group is not None
    os.killpg(group.pgid, signal.SIGKILL)
    with pytest.raises(ManagerLost, match="its block ended"):
        futures[lost].result(timeout=BOUND_S)
    gate.touch()
    assert futures[1 - lost].result(timeout=BOUND_S)[0] == 1 - lost


@pytest.mark.parametrize(
    ("number", "text"),
    [(signal.SIGKILL, r"nothing was heard of it for \d"), (signal.SIGTERM, r"its block ended|\(SIGTERM\)")],
    ids=["SIGKILL", "SIGTERM"],
)
def test_a_block_that_is_cancelled_by_others(load: Load, tmp_path: Path, number: signal.Signals, text: str) -> None:
    dfk = load(provider=TWO_BLOCKS, max_workers_per_node=1, config={"strategy": "none"}, **BEATS)
    wait_for_managers(dfk, 2)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(2)]
    deliveries = Deliveries(*futures)
    eventually(lambda: len(lines(path)) == 2)
    lost, manager = (int(x) for x in lines(path)[0])
    group = processes.look(manager)
    assert group is not None
    workers = workers_of(manager)
    os.killpg(group.pgid, number)
    # SIGTERM reaches the worker, too: who is first to say so is all the same.
    with pytest.raises((ManagerLost, WorkerLost), match=text):
        futures[lost].result(timeout=BOUND_S)
    gate.touch()
    assert futures[1 - lost].result(timeout=BOUND_S)[0] == 1 - lost
    eventually(lambda: all(processes.gone(pid) for pid in (manager, *workers)))
    assert [f.result(timeout=BOUND_S) for f in [note(str(path), i) for i in range(50)]] == list(range(50))
    deliveries.check()


def test_after_its_only_block_was_cancelled_by_others_a_new_one_does_the_work(load: Load, tmp_path: Path) -> None:
    dfk = load(
        block_error_handler=False,
        config={"retries": 1, "strategy": "simple", "strategy_period": 0.2},
        **BEATS,
    )
    path, gate = tmp_path / "ran", tmp_path / "gate"
    future = hold(str(path), 0, str(gate))
    eventually(lambda: lines(path))
    [first] = running("manager")
    group = processes.look(first)
    assert group is not None
    os.killpg(group.pgid, signal.SIGKILL)
    gate.touch()
    number, second = future.result(timeout=BOUND_S)
    assert (number, second) != (0, first)
    assert executor_of(dfk).connected_blocks() == {"0", "1"}


# --- frozen, and resumed


@pytest.mark.parametrize(("with_workers", "retries"), [(True, 1), (False, 0)], ids=["with workers", "manager alone"])
def test_a_manager_that_was_frozen_is_given_up_and_its_late_results_are_ignored(
    load: Load, tmp_path: Path, with_workers: bool, retries: int
) -> None:
    dfk = load(provider=TWO_BLOCKS, max_workers_per_node=1, config={"retries": retries, "strategy": "none"}, **BEATS)
    wait_for_managers(dfk, 2)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(2)]
    deliveries = Deliveries(*futures)
    eventually(lambda: len(lines(path)) == 2)
    lost, victim = (int(x) for x in lines(path)[0])
    kept, other = (int(x) for x in lines(path)[1])
    workers = workers_of(victim)
    with frozen(victim, *(workers if with_workers else ())):
        wait_for_managers(dfk, 1)
        gate.touch()
        assert futures[kept].result(timeout=BOUND_S) == (kept, other)
        if retries:
            assert futures[lost].result(timeout=BOUND_S) == (lost, other), "the second attempt's, elsewhere"
        else:
            with pytest.raises(ManagerLost, match=rf"manager .*-{victim} on host .*: nothing was heard of it for \d"):
                futures[lost].result(timeout=BOUND_S)
            # Its worker goes on, so that there is a late result.
            eventually(lambda: [str(lost), str(victim), "end"] in lines(path))
    eventually(lambda: all(processes.gone(pid) for pid in (victim, *workers)))
    # Whatever it sent last has been taken in by now: the interchange has answered since.
    assert [f.result(timeout=BOUND_S) for f in [note(str(path), i) for i in range(50)]] == list(range(50))
    deliveries.check()
    if retries:
        assert futures[lost].result() == (lost, other)
        assert dfk.task_counts() == {"exec_done": 52}
    else:
        assert isinstance(futures[lost].exception(), ManagerLost)
        assert dfk.task_counts() == {"exec_done": 51, "failed": 1}


def test_a_manager_that_was_frozen_shorter_than_the_threshold_loses_nothing(load: Load, tmp_path: Path) -> None:
    dfk = load(heartbeat_period=0.3, heartbeat_threshold=5)
    wait_for_managers(dfk, 1)
    path = tmp_path / "ran"
    futures = [note(str(path), i, 0.01) for i in range(100)]
    deliveries = Deliveries(*futures)
    eventually(lambda: lines(path))
    [manager] = running("manager")
    with frozen(manager, *workers_of(manager)):
        time.sleep(1)  # several heartbeats
    assert [f.result(timeout=BOUND_S) for f in futures] == list(range(100))
    assert running("manager") == [manager]
    assert collections.Counter(int(n) for n, _ in lines(path)) == collections.Counter(range(100)), "each ran once"
    deliveries.check()


def test_an_interchange_that_was_frozen_shorter_than_the_threshold_loses_nothing(load: Load, tmp_path: Path) -> None:
    dfk = load(heartbeat_period=0.3, heartbeat_threshold=5)
    wait_for_managers(dfk, 1)
    path = tmp_path / "ran"
    futures = [note(str(path), i, 0.01) for i in range(100)]
    eventually(lambda: lines(path))
    [interchange], [manager] = running("interchange"), running("manager")
    with frozen(interchange):
        # Far more than the socket holds: calling apps is not held up.
        futures += [note(str(path), i) for i in range(100, 5000)]
        time.sleep(1)  # several heartbeats
    deliveries = Deliveries(*futures)
    assert [f.result(timeout=BOUND_S) for f in futures] == list(range(5000))
    assert running("manager") == [manager]
    assert collections.Counter(int(n) for n, _ in lines(path)) == collections.Counter(range(5000)), "each ran once"
    deliveries.check()


def test_after_its_interchange_was_frozen_for_longer_a_new_block_does_the_work(load: Load, tmp_path: Path) -> None:
    dfk = load(
        max_workers_per_node=1,
        block_error_handler=False,
        config={"retries": 1, "strategy": "simple", "strategy_period": 0.2},
        **BEATS,
    )
    wait_for_managers(dfk, 1)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(3)]
    deliveries = Deliveries(*futures)
    eventually(lambda: lines(path))
    [interchange], [first] = running("interchange"), running("manager")
    with frozen(interchange):
        eventually(lambda: processes.gone(first), what="the end of a manager that hears nothing")
    gate.touch()
    outcomes = [f.result(timeout=BOUND_S) for f in futures]
    assert [number for number, _ in outcomes] == [0, 1, 2]
    assert first not in {manager for _, manager in outcomes}
    deliveries.check()
    assert running("interchange") == [interchange]


def test_an_interchange_that_stays_frozen_fails_the_tasks_in_the_end(load: Load, tmp_path: Path) -> None:
    dfk = load(config={"strategy_period": 0.2}, **BEATS)
    wait_for_managers(dfk, 1)
    path = tmp_path / "ran"
    future = hold(str(path), 0, str(tmp_path / "never"))
    eventually(lambda: lines(path))
    [interchange] = running("interchange")
    os.kill(interchange, signal.SIGSTOP)
    with pytest.raises(BlocksFailed, match=r"nothing was heard of the interchange for \d s"):
        future.result(timeout=BOUND_S)
    began = time.monotonic()
    flowcore.clear()
    assert time.monotonic() - began < BOUND_S, "it is killed after STOP_S"
    assert processes.gone(interchange)


def test_when_submit_side_and_interchange_are_killed_at_once_silence_ends_the_manager(tmp_path: Path) -> None:
    script = """
import flowcore, os, pathlib, time
@flowcore.python_app
def hang():
    pathlib.Path("mark").touch()
    time.sleep(1000)
if __name__ == "__main__":
    beats = {"heartbeat_period": 0.3, "heartbeat_threshold": 2}
    flowcore.load({"executors": [{"plugin": "htex", "label": "htex", "max_workers_per_node": 1, **beats}]})
    future = hang()
    time.sleep(1000)
"""
    (tmp_path / "script.py").write_text(script)
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path) as process:
        try:
            eventually((tmp_path / "mark").exists)
            started = processes.descendants(process.pid)
            [interchange] = [p.pid for p in started if "flowcore_executor_htex.interchange" in p.command]
        finally:
            # It must not see the end of the other one, and take its blocks down.
            process.send_signal(signal.SIGSTOP)
            with contextlib.suppress(UnboundLocalError, ProcessLookupError):
                os.kill(interchange, signal.SIGKILL)
            process.kill()
    eventually(lambda: all(processes.gone(p.pid) for p in started), BOUND_S)
    # Nobody is left to remove the folder of the socket and of large arguments, but the next run's start.
    settings = json.loads((tmp_path / "runinfo" / "000" / "htex" / "manager.json").read_text())
    shutil.rmtree(Path(settings["local_path"]).parent, ignore_errors=True)


# --- other versions


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        ("PYTHON = '2.7'", r"has Python 2\.7, the submit side has Python {}\.{}: functions cannot be exchanged"),
        ("PROTOCOL = 9999", r"has flowcore \S+ with protocol 9999, the submit side has flowcore \S+ with protocol \d+"),
    ],
    ids=["Python", "protocol"],
)
def test_a_manager_of_another_version_is_refused_by_name(load: Load, tmp_path: Path, patch: str, text: str) -> None:
    script = tmp_path / "other_version.py"
    script.write_text(
        "import sys\nfrom flowcore_executor_htex import manager, protocol\n"
        f"protocol.{patch}\nsys.exit(manager.main())\n"
    )
    load(
        launch_cmd=f"exec {{python}} -P {script} {{settings}} --block-id {{block_id}}",
        config={"strategy_period": 0.2},
    )
    with pytest.raises(BlocksFailed, match="the interchange refuses this manager") as caught:
        note(str(tmp_path / "ran"), 0).result(timeout=BOUND_S)
    assert re.search(text.format(*sys.version_info[:2]), str(caught.value))
    assert "block 0: FAILED, exit code 1" in str(caught.value)
    assert not (tmp_path / "ran").exists()


# --- a full disk


FULL_DISK = """
import os, pathlib, sys
import flowcore
from flowcore.errors import FlowcoreError

@flowcore.python_app
def note(path, number):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\\n".encode())
    os.close(fd)
    return number

@flowcore.python_app
def reverse(data):
    return data[::-1]

@flowcore.python_app
def kill_itself():
    os.kill(os.getpid(), 9)

@flowcore.bash_app
def talk(stdout=None):
    return "echo hello"

def fill():
    with open("disk/filler", "wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError as error:
                assert error.errno == 28
    try:
        for i in range(1000):
            pathlib.Path(f"disk/filler{i}").touch()
    except OSError as error:
        assert error.errno == 28

if __name__ == "__main__":
    when = sys.argv[1]
    if when == "before":
        fill()
    try:
        htex = {"plugin": "htex", "label": "htex", "max_workers_per_node": 2}
        flowcore.load({"executors": [htex], "run_dir": "disk/runinfo", "strategy_period": 0.2, "retries": 1})
        if when == "start":
            fill()
        futures = [note("ran", i) for i in range(100)]
        log = pathlib.Path("disk/talk")
        if when == "later":
            [f.result(timeout=30) for f in futures]
            log.touch()
            fill()
        futures += [note("ran", i) for i in range(100, 200)]
        dead = kill_itself()
        print("all", [f.result(timeout=30) for f in futures] == list(range(200)))
        large = [os.urandom(1000000) for _ in range(4)]
        print("large", [reverse(data).result(timeout=30) for data in large] == [data[::-1] for data in large])
        for future in (dead, talk(stdout=str(log))):
            try:
                print(future.result(timeout=30))
            except Exception as error:
                print(f"{type(error).__name__}: {error}")
    except FlowcoreError as error:
        print(f"{type(error).__name__}: {error}")
    flowcore.clear()
    print("over", flush=True)
"""


def on_a_small_disk(tmp_path: Path, *arguments: str) -> list[str]:
    """Run the script with a small file system at ``disk``, and as shared memory; return what it printed."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        servers.unavailable("only root, with unshare of util-linux, can mount a small file system")
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(FULL_DISK)
    mounts = (
        "mount -t tmpfs -o size=256k,nr_inodes=200 none disk && mount -t tmpfs -o size=256k none /dev/shm && "
        f'exec {sys.executable} script.py "$@"'
    )
    # The mounts go with the process.
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounts, "sh", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "over", (done.stdout, done.stderr)
    return done.stdout.splitlines()[:-1]


@pytest.mark.parametrize("when", ["start", "later"])
def test_a_disk_that_fills_up_stops_no_task_that_does_not_write_to_it(tmp_path: Path, when: str) -> None:
    said = on_a_small_disk(tmp_path, when)
    assert len(said) == 4, said
    everything, large, killed, talked = said
    assert everything == "all True"
    assert large == "large True", "shared memory is full, too"
    assert killed.startswith("WorkerLost: worker ")
    assert "killed by signal 9 (SIGKILL)" in killed
    assert talked.startswith("BadStdStreamFile: stdout='disk/talk' cannot be ")
    assert "No space left on device" in talked
    counts = collections.Counter(int(line) for line in (tmp_path / "ran").read_text().split())
    assert counts == collections.Counter(range(200)), "each ran once"


def test_a_disk_that_is_full_before_the_run_is_named(tmp_path: Path) -> None:
    [said] = on_a_small_disk(tmp_path, "before")
    assert "disk/runinfo" in said
    assert "No space left on device" in said
