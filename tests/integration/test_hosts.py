"""flowcore inside of other programs: web servers, notebooks, several runs at once, and programs that are ended."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import Config, DataFlowKernel, File, bash_app, join_app, python_app
from flowcore.errors import AlreadyLoadedError, DependencyError, JoinError, KernelClosedError, NoKernelError
from flowcore.plugins import registry
from flowcore.testing import eventually
from flowcore.testing.leftovers import Leftovers

HOSTS = Path(__file__).parent / "hosts"
INSTALLED = [plugin.name for plugin in registry.installed("executor")]
#: The core alone has threads.
EXECUTORS = [name for name in ("threads", "htex") if name in INSTALLED]
WAIT_S = 60


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(WAIT_S)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def log_of_run(folder: Path) -> str:
    return (folder / "runinfo" / "000" / "flowcore.log").read_text()


# --- programs that are ended while their tasks run

SITUATIONS = ["result", "with", "wait", "sleep", "bash", "join", "asyncio", "pool"]


def begun(folder: Path) -> bool:
    return (folder / "begun-0").exists() and (folder / "begun-1").exists()


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c(executor: str, situation: str, tmp_path: Path, no_leftovers: Leftovers) -> None:
    with running(HOSTS / "ending.py", executor, situation) as process:
        eventually(lambda: begun(tmp_path), what="the begin of both tasks")
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT, err
    check_interrupted(err, situation)
    assert out == ""
    assert no_leftovers.wait(10) == []
    assert "ended; tasks: " in log_of_run(tmp_path)


def check_interrupted(err: str, situation: str) -> None:
    """Check that a program ended with KeyboardInterrupt, and what flowcore says of its tasks; nothing else."""
    lines = [line for line in err.splitlines() if not line.startswith("flowcore: the program ended while ")]
    # asyncio turns the signal into a cancellation first.
    assert err.count("Traceback (most recent call last)") == (2 if situation == "asyncio" else 1), err
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in err


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_at_a_terminal_goes_to_all_processes(executor: str, tmp_path: Path, no_leftovers: Leftovers) -> None:
    with running(HOSTS / "ending.py", executor, "result") as process:
        eventually(lambda: begun(tmp_path), what="the begin of both tasks")
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT, err
    check_interrupted(err, "result")
    assert no_leftovers.wait(10) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_while_a_run_is_loaded(executor: str, tmp_path: Path, no_leftovers: Leftovers) -> None:
    with running(HOSTS / "ending.py", executor, "loading") as process:
        # In the third load or clear, wherever that is just then.
        eventually((tmp_path / "runinfo" / "002").exists)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT, err
    assert err.rstrip().splitlines()[-1] == "KeyboardInterrupt"
    assert no_leftovers.wait(10) == []


@pytest.mark.parametrize(
    ("situation", "code", "said"),
    [
        ("exit", 3, "the program ended while 3 tasks were not over"),
        ("error", 1, "ValueError: of the program"),
        ("end", 0, "the program ended while 3 tasks were not over"),
        ("clear", 0, ""),
    ],
)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_program_that_ends_by_itself(
    executor: str, situation: str, code: int, said: str, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    with running(HOSTS / "ending.py", executor, situation) as process:
        out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (code, ""), err
    assert said in err if said else err == ""
    assert err.count("Traceback") == (1 if situation == "error" else 0)
    assert no_leftovers.wait(10) == []
    assert "ended; tasks: {'failed': 3}" in log_of_run(tmp_path)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_sigterm(
    number: signal.Signals, executor: str, situation: str, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    with running(HOSTS / "ending.py", executor, situation) as process:
        eventually(lambda: begun(tmp_path), what="the begin of both tasks")
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + number, ""), err
    assert [line for line in err.splitlines() if not line.startswith("flowcore: the program ended while ")] == []
    assert no_leftovers.wait(10) == []
    assert "ended; tasks: " in log_of_run(tmp_path)


# --- web servers


def ask(port: int, path: str, method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("kind", ["threading", "asyncio"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_web_server_whose_requests_are_tasks(
    executor: str, kind: str, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    with running(HOSTS / "web.py", executor, kind) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        def visit(n: int) -> None:
            status, (value, worker) = ask(port, f"/square?n={n}")
            assert (status, value) == (200, n * n)
            assert (worker == process.pid) is (executor == "threads")
            assert ask(port, f"/fail?n={n}") == (500, f"ValueError('no {n}')")
            status, pairs = ask(port, f"/both?n={n}")
            assert (status, [value for value, _ in pairs]) == (200, [n * n, (n + 1) ** 2])
            assert ask(port, f"/shell?n={n}") == (200, 0)
            assert (tmp_path / f"out-{n}.txt").read_text().endswith(f"\n{n}\n")

        with ThreadPoolExecutor(16) as visitors:
            list(visitors.map(visit, range(64)))
        assert ask(port, "/quit", "POST") == (200, "bye")
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert report == {
        "forks": [],
        "zombies": [],
        "left": [],
        "threads": [],
        "counts": {"exec_done": 64 * (1 + 3 + 1), "failed": 64},
    }
    assert no_leftovers.wait(5) == []


# --- notebooks

CELLS = [
    """
    import asyncio, json, os, flowcore
    from flowcore import bash_app, join_app, python_app
    dfk = flowcore.load({"executors": [{"plugin": EXECUTOR}]})
    """,
    """
    OFFSET = 100
    class Point:
        def __init__(self, x): self.x = x
    def helper(x): return x + OFFSET
    @python_app
    def uses_helper(x): return helper(x)
    @python_app
    def call(function, *arguments): return function(*arguments)
    @python_app
    def point(x): return Point(x)
    """,
    """
    print(uses_helper(1).result(), call(helper, 2).result(), call(lambda x: x * OFFSET, 3).result())
    print(isinstance(point(4).result(), Point), call(lambda p: p.x, point(5)).result())
    """,
    """
    print(await uses_helper(1), await asyncio.gather(*(uses_helper(i) for i in range(3))))
    """,
    """
    try:
        await call(lambda: 1 / 0)
    except ZeroDivisionError as error:
        print("caught", error)
    """,
    """
    @bash_app
    def write(word, stdout="word.txt"): return f"echo {word}"
    @join_app
    def twice(x): return [uses_helper(x), uses_helper(x)]
    print(await write("hello"), "hello" in open("word.txt").read(), await twice(5))
    """,
    """
    @python_app(cache=True)
    def cached(x): return ("one", x)
    print(await cached(1), await cached(1), dfk.memo_hits)
    """,
    """
    @python_app(cache=True)
    def cached(x): return ("two", x)
    print(await cached(1), await cached(1), dfk.memo_hits)
    """,
    """
    @python_app(cache=True)
    def cached(x): return ("one", x)
    print(await cached(1), dfk.memo_hits)
    """,
    """
    def helper(x): return x + 2 * OFFSET
    print(await uses_helper(1))
    OFFSET = 1000
    print(await uses_helper(1), await twice(2))
    """,
    """
    def worker(): return os.getpid()
    print((await call(worker)) == os.getpid())
    """,
]
PRINTED = [
    "",
    "",
    "101 102 300\nTrue 5\n",
    "101 [100, 101, 102]\n",
    "caught division by zero\n",
    "0 True [105, 105]\n",
    "('one', 1) ('one', 1) 1\n",
    "('two', 1) ('two', 1) 2\n",
    "('one', 1) 3\n",
    "201\n2001 [2002, 2002]\n",
]
no_notebooks = any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel"))


@pytest.mark.skipif(no_notebooks, reason="nbclient and ipykernel are not installed: see requirements-dev.txt")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_notebook(executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leftovers: Leftovers) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    cells = [textwrap.dedent(cell).strip().replace("EXECUTOR", repr(executor)) for cell in CELLS]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    with running(HOSTS / "notebook.py", "cells.json") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    printed = [*PRINTED, f"{executor == 'threads'}\n"]
    assert json.loads(out) == [[text] if text else [] for text in printed]
    assert no_leftovers.wait(10) == []


# --- several runs in one process


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., DataFlowKernel]]:
    """Starts a run that is not the loaded one."""
    runs: list[DataFlowKernel] = []

    def run(executor: str = "threads", **options: Any) -> DataFlowKernel:
        config = {"executors": [{"plugin": executor, "label": f"{executor}{len(runs)}"}], **options}
        runs.append(DataFlowKernel(Config.from_dict({"run_dir": str(tmp_path / "runinfo"), **config})))
        return runs[-1]

    yield run
    for dfk in runs:
        dfk.cleanup()


def add(x: Any, y: int = 1) -> Any:
    return x + y


def hold(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.005)
    return "held"


@pytest.mark.parametrize("one", EXECUTORS)
@pytest.mark.parametrize("other", EXECUTORS)
def test_runs_wait_for_each_other(run: Callable[..., DataFlowKernel], one: str, other: str) -> None:
    first, second = run(one), run(other)
    here, there = python_app(add, data_flow_kernel=first), python_app(add, data_flow_kernel=second)
    future = here(0)
    for _ in range(100):
        future = here(there(future))
    assert future.result(WAIT_S) == 201
    assert (first.task_counts(), second.task_counts()) == ({"exec_done": 101}, {"exec_done": 100})


def test_all_kinds_of_apps_can_name_their_run(run: Callable[..., DataFlowKernel], tmp_path: Path) -> None:
    dfk = run()
    inner = python_app(add, data_flow_kernel=dfk)
    assert bash_app(lambda: "true", data_flow_kernel=dfk)().result(WAIT_S) == 0
    assert join_app(lambda: [inner(1), inner(2)], data_flow_kernel=dfk)().result(WAIT_S) == [2, 3]
    written = bash_app(lambda outputs: f"echo x > {outputs[0]}", data_flow_kernel=dfk)(outputs=[File(tmp_path / "f")])
    other = run()
    read = python_app(lambda file: Path(file).read_text(), data_flow_kernel=other)
    assert read(written.outputs[0]).result(WAIT_S) == "x\n"
    assert inner([1, 2], [3])[2].result(WAIT_S) == 3
    assert other.task_counts() == {"exec_done": 1}


def test_a_join_app_of_one_run_waits_for_tasks_of_another(run: Callable[..., DataFlowKernel]) -> None:
    first, second = run(), run()
    there = python_app(add, data_flow_kernel=second)
    assert join_app(lambda: [there(i) for i in range(5)], data_flow_kernel=first)().result(WAIT_S) == [1, 2, 3, 4, 5]
    assert (first.task_counts(), second.task_counts()) == ({"exec_done": 1}, {"exec_done": 5})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_run_ends_while_the_other_works(run: Callable[..., DataFlowKernel], executor: str, tmp_path: Path) -> None:
    first, second = run(executor), run(executor)
    gate = tmp_path / "gate"
    held = python_app(hold, data_flow_kernel=first)(str(gate))
    works = python_app(hold, data_flow_kernel=second)(str(gate))
    waits = python_app(add, data_flow_kernel=second)(held)
    joined = join_app(lambda: held, data_flow_kernel=second)()
    eventually(lambda: joined.task_status() == "joining")
    threading.Timer(0.05, gate.touch).start() if executor == "threads" else None  # a thread cannot be stopped
    first.cleanup()
    with pytest.raises(KernelClosedError):
        held.result(0)
    with pytest.raises(DependencyError, match="KernelClosedError"):
        waits.result(WAIT_S)
    with pytest.raises(JoinError, match="KernelClosedError"):
        joined.result(WAIT_S)
    gate.touch()
    assert works.result(WAIT_S) == "held"
    assert python_app(add, data_flow_kernel=second)(1).result(WAIT_S) == 2
    with pytest.raises(KernelClosedError, match="app 'add' was called after its run was cleaned up"):
        python_app(add, data_flow_kernel=first)(1)
    assert second.task_counts() == {"exec_done": 2, "dep_fail": 1, "failed": 1}


def test_a_result_that_comes_after_the_end_of_the_run_that_waits(run: Callable[..., DataFlowKernel]) -> None:
    first, second = run(), run()
    release = threading.Event()
    slow = python_app(release.wait, data_flow_kernel=first)(WAIT_S)
    waits = python_app(add, data_flow_kernel=second)(slow)
    second.cleanup()
    with pytest.raises(KernelClosedError):
        waits.result(0)
    release.set()
    assert slow.result(WAIT_S) is True
    assert second.task_counts() == {"failed": 1}


def test_a_loaded_run_and_others(run: Callable[..., DataFlowKernel], tmp_path: Path) -> None:
    other = run()
    anywhere, there = python_app(add), python_app(add, data_flow_kernel=other)
    config = {"run_dir": str(tmp_path / "loaded")}
    with flowcore.load(config) as first:
        with pytest.raises(AlreadyLoadedError), flowcore.load(config):
            pass
        assert flowcore.dfk() is first
        assert anywhere(there(1)).result(WAIT_S) == 3
    with pytest.raises(NoKernelError):
        anywhere(1)
    with flowcore.load(config) as second:
        assert anywhere(there(1)).result(WAIT_S) == 3
        flowcore.clear()
        flowcore.clear()
        with pytest.raises(NoKernelError):
            anywhere(1)
        with flowcore.load(config) as third:
            assert flowcore.dfk() is third
            second.cleanup()
            assert anywhere(1).result(WAIT_S) == 2
        # Leaving the block of a run that was cleared takes nothing from others.
        flowcore.load(config)
    assert anywhere(1).result(WAIT_S) == 2
    flowcore.clear()
    assert there(1).result(WAIT_S) == 2
    assert other.task_counts() == {"exec_done": 3}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_waiting_while_others_submit(executor: str, tmp_path: Path) -> None:
    work, stop = python_app(add), threading.Event()
    submitted: list[int] = []

    def submit() -> None:
        while not stop.is_set():
            futures = [work(i) for i in range(20)]
            submitted.append(len(futures))
            futures[0].result(WAIT_S)

    with flowcore.load({"executors": [{"plugin": executor}], "run_dir": str(tmp_path / "runinfo")}) as dfk:
        others = [threading.Thread(target=submit) for _ in range(3)]
        for other in others:
            other.start()
        try:
            for _ in range(20):
                mine = [work(i) for i in range(10)]
                flowcore.wait_for_current_tasks()
                assert all(future.done() for future in mine)
            eventually(lambda: len(submitted) > 10)
        finally:
            stop.set()
            for other in others:
                other.join(WAIT_S)
    assert dfk.task_counts() == {"exec_done": 20 * 10 + sum(submitted)}


# --- logging of the host program

LOGGING = """
import io, logging, sys, flowcore
root = logging.StreamHandler(io.StringIO())
logging.getLogger().addHandler(root)
logger = logging.getLogger("flowcore")
before = (logger.level, list(logger.handlers), logger.propagate, logger.disabled, logging.getLogger().level)
config = {"initialize_logging": False, "executors": [{"plugin": sys.argv[1]}]}
with flowcore.load(config) as dfk:
    during = (logger.level, list(logger.handlers), logger.propagate, logger.disabled, logging.getLogger().level)
    flowcore.python_app(divmod)(1, 0).exception()
after = (logger.level, list(logger.handlers), logger.propagate, logger.disabled, logging.getLogger().level)
assert before == during == after, (before, during, after)
assert logging.getLogger().handlers == [root]
assert logging.lastResort is not None
assert not (dfk.run_dir / "flowcore.log").exists()
print(repr(root.stream.getvalue()))
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_program_whose_logging_is_left_alone(executor: str, tmp_path: Path) -> None:
    with running("-c", LOGGING, executor) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (0, "''\n", "")


OWN_LOGS = """
import logging, sys, flowcore
flowcore.set_stream_logger(level=logging.INFO, format_string="stream: %(levelname)s %(message)s")
flowcore.set_file_logger("own.log", level=logging.DEBUG, format_string="%(name)s %(message)s")
flowcore.set_file_logger("kernel.log", name="flowcore.kernel", level=logging.INFO)
for initialize in (True, False):
    with flowcore.load({"initialize_logging": initialize, "executors": [{"plugin": sys.argv[1]}]}) as dfk:
        flowcore.python_app(divmod)(1, 0).exception()
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_logs_of_ones_own(executor: str, tmp_path: Path) -> None:
    with running("-c", OWN_LOGS, executor) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (0, "")
    failed = "task 0 (app 'divmod') failed: ZeroDivisionError"
    assert err.count(f"stream: INFO {failed}") == 2
    assert all(line.startswith("stream: ") for line in err.splitlines())
    assert (tmp_path / "own.log").read_text().count(f"flowcore.kernel.kernel {failed}") == 2
    assert (tmp_path / "kernel.log").read_text().count(failed) == 2
    assert "ended; tasks" not in (tmp_path / "kernel.log").read_text()
    assert log_of_run(tmp_path).count(failed) == 1
    assert not (tmp_path / "runinfo" / "001" / "flowcore.log").exists()
