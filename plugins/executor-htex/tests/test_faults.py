"""Faults, injected for real: each ends in a named error, soon, and the run goes on where it can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from flowcore_executor_htex import executor

import flowcore
from flowcore.errors import (
    AppTimeout,
    BlocksFailed,
    ExecutorError,
    InterchangeLost,
    KernelClosedError,
    ManagerLost,
    WorkerLost,
)
from flowcore.testing.waiting import eventually as until

Load = Callable[..., flowcore.DataFlowKernel]
#: Looks at blocks so often that a test of a block that fails need not wait.
EAGER = {"strategy_period": 0.2}


@flowcore.python_app
def double(x: int) -> int:
    return 2 * x


@flowcore.python_app
def kill_self(number: int) -> None:
    import os

    os.kill(os.getpid(), number)


@flowcore.python_app
def leave(code: int) -> None:
    import os

    os._exit(code)


@flowcore.python_app
def wait_for(path: str, mark: str) -> int:
    import pathlib
    import time

    pathlib.Path(mark).touch()
    while not pathlib.Path(path).exists():
        time.sleep(0.01)
    return 1


@flowcore.python_app
def dies_once(mark: str) -> str:
    import os
    import pathlib

    if not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        os.kill(os.getpid(), 9)
    return "second time"


def processes(module: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"flowcore_executor_htex.{module}" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (signal.SIGABRT, "SIGABRT")]
)
def test_a_worker_that_is_killed_costs_its_task_only(load: Load, number: int, name: str) -> None:
    load()
    others = [double(i) for i in range(200)]
    with pytest.raises(WorkerLost, match=rf"killed by signal {number:d} \({name}\)") as caught:
        kill_self(number).result(timeout=30)
    assert "on executor 'htex', block 0" in caught.value.__notes__[0]
    others += [double(i) for i in range(200)]
    assert [f.result(timeout=30) for f in others] == [2 * i for i in range(200)] * 2


def test_a_task_that_leaves_its_process(load: Load) -> None:
    load()
    with pytest.raises(WorkerLost, match="exited with code 3"):
        leave(3).result(timeout=30)
    assert double(1).result(timeout=30) == 2


def test_with_a_retry_the_task_of_a_lost_worker_runs_again(load: Load, tmp_path: Path) -> None:
    load(config={"retries": 1})
    assert dies_once(str(tmp_path / "mark")).result(timeout=30) == "second time"


@flowcore.python_app
def sleep_in_c(seconds: float, walltime: float = 0.3) -> None:
    """Waits in the C library: an exception for the thread comes only when that returns."""
    import time

    time.sleep(seconds)


@flowcore.python_app
def hold_the_interpreter(walltime: float = 0.3) -> None:
    """Never lets another thread of its process run."""
    import re

    re.match("(a|a)*$", "a" * 60 + "b")


@flowcore.python_app
def own_pid() -> int:
    import os

    return os.getpid()


def test_a_worker_with_a_call_that_overran_its_walltime_is_replaced(load: Load) -> None:
    load(max_workers_per_node=1)
    before = own_pid().result(timeout=30)
    late = sleep_in_c(1000)
    following = [own_pid() for _ in range(5)]
    with pytest.raises(AppTimeout, match=r"app 'sleep_in_c' ran longer than its walltime of 0\.3 s"):
        late.result(timeout=30)
    pids = {f.result(timeout=30) for f in following}
    assert len(pids) == 1
    assert before not in pids
    assert not psutil.pid_exists(before)


def test_a_worker_whose_call_ends_after_its_walltime_is_kept(load: Load) -> None:
    load(max_workers_per_node=1)
    before = own_pid().result(timeout=30)
    with pytest.raises(AppTimeout):
        sleep_in_c(0.5).result(timeout=30)
    assert own_pid().result(timeout=30) == before


def test_a_call_that_holds_the_interpreter_is_ended_with_its_worker(load: Load) -> None:
    load(max_workers_per_node=1)
    before = own_pid().result(timeout=30)
    late = hold_the_interpreter()
    following = own_pid()
    with pytest.raises(AppTimeout, match="without returning to the interpreter, .* its worker was ended"):
        late.result(timeout=30)
    assert following.result(timeout=30) != before


def test_what_a_worker_calls_before_its_first_task(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site_start.py").write_text(
        "import os\ndef begin():\n    os.environ['SEEN_RANK'] = os.environ['FLOWCORE_WORKER_RANK']\n"
        "def broken():\n    raise OSError('no licence')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    @flowcore.python_app
    def rank() -> str:
        import os

        return os.environ["SEEN_RANK"]

    monkeypatch.setenv("FLOWCORE_WORKER_STARTUP", "site_start:begin")
    load()
    assert rank().result(timeout=30) in ("0", "1")
    flowcore.clear()
    monkeypatch.setenv("FLOWCORE_WORKER_STARTUP", "site_start:begin,site_start:broken")
    load()
    with pytest.raises(ExecutorError, match="site_start:broken failed in the worker: OSError: no licence"):
        rank().result(timeout=30)


def test_a_killed_manager_is_noticed_and_its_tasks_fail(load: Load, tmp_path: Path) -> None:
    dfk = load(heartbeat_period=0.3, heartbeat_threshold=1)
    future = wait_for(str(tmp_path / "never"), str(tmp_path / "mark"))
    until(lambda: (tmp_path / "mark").exists())
    [manager] = processes("manager")
    workers = processes("worker")
    manager.kill()
    with pytest.raises((ManagerLost, BlocksFailed), match="nothing was heard of it for|blocks ended without"):
        future.result(timeout=30)
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)
    assert dfk.task_counts() == {"failed": 1}


def test_a_killed_interchange_fails_everything_at_once(load: Load, tmp_path: Path) -> None:
    load()
    future = wait_for(str(tmp_path / "never"), str(tmp_path / "mark"))
    until(lambda: (tmp_path / "mark").exists())
    [interchange] = processes("interchange")
    interchange.kill()
    with pytest.raises(InterchangeLost, match=r"its interchange process ended \(signal 9\); see .*interchange.log"):
        future.result(timeout=5)
    with pytest.raises(InterchangeLost):
        double(1).result(timeout=5)


def test_a_block_whose_worker_init_fails_says_so(load: Load) -> None:
    load(provider={"plugin": "local", "worker_init": "echo no such module >&2; exit 7"}, config=EAGER)
    with pytest.raises(BlocksFailed) as caught:
        double(1).result(timeout=30)
    text = str(caught.value)
    assert "block 0: FAILED, exit code 7" in text
    assert "its stderr ends with:\n      no such module" in text


def test_a_block_without_flowcore_says_so(load: Load, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60)
    command = f"exec {bare}/bin/python -m flowcore_executor_htex.manager {{settings}} --block-id {{block_id}}"
    load(launch_cmd=command, config=EAGER)
    with pytest.raises(BlocksFailed, match="No module named 'flowcore_executor_htex'|Error while finding module"):
        double(1).result(timeout=30)


def test_a_node_without_room_for_a_worker_says_so(load: Load) -> None:
    load(mem_per_worker=1e6, config=EAGER)
    with pytest.raises(BlocksFailed, match=r"a worker needs mem_per_worker=1e\+06: there is room for none"):
        double(1).result(timeout=30)


def test_an_address_that_no_manager_reaches_says_so(load: Load, tmp_path: Path) -> None:
    # The interchange listens on one address of this host, and the manager is told another.
    (tmp_path / "mislead.py").write_text(
        "import sys, pathlib\n"
        "p = pathlib.Path(sys.argv[1])\n"
        "p.write_text(p.read_text().replace('127.0.0.1', '127.0.0.9'))\n"
    )
    manager = "{python} -P -m flowcore_executor_htex.manager {settings} --block-id {block_id}"
    command = f"{{python}} {tmp_path}/mislead.py {{settings}}; exec {manager}"
    load(launch_cmd=command, address_probe_timeout=0.5, address="127.0.0.1", config=EAGER)
    with pytest.raises(BlocksFailed, match=r"the interchange cannot be reached from .*127\.0\.0\.9.*address="):
        double(1).result(timeout=30)


def test_cleaning_up_fails_what_runs_and_leaves_no_process(load: Load, tmp_path: Path) -> None:
    load()
    future = wait_for(str(tmp_path / "never"), str(tmp_path / "mark"))
    until(lambda: (tmp_path / "mark").exists())
    started = psutil.Process().children(recursive=True)
    assert len(started) >= 4
    flowcore.clear()
    with pytest.raises(KernelClosedError, match="was launched when its run was cleaned up"):
        future.result(timeout=1)
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def test_when_the_submit_side_is_killed_everything_ends(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import flowcore, os, time
        @flowcore.python_app
        def f(): return os.getpid()
        @flowcore.python_app
        def hang(): time.sleep(1000)
        if __name__ == "__main__":
            flowcore.load({"executors": [{"plugin": "htex", "max_workers_per_node": 2}]})
            f().result()
            futures = [hang(), hang()]
            print("ready", flush=True)
            time.sleep(1000)
        """
    )
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    _, alive = psutil.wait_procs(started, timeout=15)
    assert alive == []


def test_ctrl_c_while_the_interchange_starts_ends_it_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: made.append(popen(*a, **k)) or made[-1])
    monkeypatch.setattr(executor, "select", types.SimpleNamespace(select=interrupted))
    with pytest.raises(KeyboardInterrupt):
        load()
    assert [process.returncode for process in made] == [0], "it ended by itself: its link was closed"


def test_ctrl_c_ends_the_run_within_seconds(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import flowcore, time
        @flowcore.python_app
        def hang(): time.sleep(1000)
        if __name__ == "__main__":
            with flowcore.load({"executors": [{"plugin": "htex", "max_workers_per_node": 1}]}):
                print("ready", flush=True)
                hang().result()
        """
    )
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=15)
    assert "KeyboardInterrupt" in stderr
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
