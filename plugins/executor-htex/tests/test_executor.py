"""htex through the public API, and the contract suites of executors."""

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import flowcore
from flowcore.errors import (
    ConfigurationError,
    DeserializationError,
    ExecutorError,
    NoKernelError,
    SerializationError,
    WorkerLost,
)
from flowcore.executors import HighThroughputExecutor
from flowcore.testing.waiting import eventually as until

Load = Callable[..., flowcore.DataFlowKernel]


@flowcore.python_app
def double(x: int) -> int:
    return 2 * x


@flowcore.python_app
def where() -> tuple[int, str, str, str, str]:
    e = os.environ
    return (
        os.getpid(),
        e["FLOWCORE_WORKER_RANK"],
        e["FLOWCORE_WORKER_COUNT"],
        e["FLOWCORE_WORKER_POOL_ID"],
        e["FLOWCORE_WORKER_BLOCK_ID"],
    )


@flowcore.python_app
def size(data: object) -> int:
    return len(data)  # type: ignore[arg-type]


@flowcore.python_app
def buffer(n: int) -> bytearray:
    return bytearray(n)


def test_tens_of_thousands_of_tasks_give_their_own_results(load: Load) -> None:
    load()
    futures = [double(i) for i in range(20000)]
    assert [f.result(timeout=60) for f in futures] == [2 * i for i in range(20000)]


def test_a_chain_of_futures(load: Load) -> None:
    load()
    last = double(0)
    for _ in range(300):
        last = double(last)
    assert last.result(timeout=60) == 0


def test_tasks_run_in_worker_processes_that_know_who_they_are(load: Load) -> None:
    load()
    seen = {where().result(timeout=30) for _ in range(50)}
    assert os.getpid() not in {s[0] for s in seen}
    assert {s[1] for s in seen} <= {"0", "1"}
    assert {s[2] for s in seen} == {"2"}
    assert {s[4] for s in seen} == {"0"}


def test_exceptions_keep_their_type_and_say_where_they_were_raised(load: Load) -> None:
    class OwnError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} and {b}")

    @flowcore.python_app
    def fails() -> None:
        raise OwnError(1, 2)

    load()
    with pytest.raises(OwnError, match="1 and 2") as caught:
        fails().result(timeout=30)
    [note] = caught.value.__notes__
    assert "app 'fails'), attempt 1, on executor 'htex', block 0, host" in note
    assert "in fails" in str(caught.value.__cause__), "the remote traceback"


def test_large_arguments_and_results_travel_unharmed(load: Load) -> None:
    load()
    assert size(b"x" * 3_000_000).result(timeout=30) == 3_000_000
    assert size(bytearray(3_000_000)).result(timeout=30) == 3_000_000
    assert buffer(3_000_000).result(timeout=30) == bytearray(3_000_000)
    mixed = [size(bytearray(n)) for n in (10, 70_000, 0, 200_000, 1)]
    assert [f.result(timeout=30) for f in mixed] == [10, 70_000, 0, 200_000, 1]


def test_futures_can_be_awaited(load: Load) -> None:
    load()

    async def main() -> list[int]:
        return list(await asyncio.gather(*(double(i) for i in range(5))))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_a_join_app_waits_for_tasks_on_workers(load: Load) -> None:
    @flowcore.join_app
    def many(n: int):  # type: ignore[no-untyped-def]
        return [double(i) for i in range(n)]

    load()
    assert sum(many(500).result(timeout=30)) == sum(2 * i for i in range(500))


def test_bash_apps_and_files(load: Load, tmp_path: Path) -> None:
    @flowcore.bash_app
    def write(text: str, outputs: list[flowcore.File] = [], stdout=flowcore.AUTO_LOGNAME):  # type: ignore[no-untyped-def]  # noqa: B006
        return f"echo {text} > {outputs[0]}; echo written"

    @flowcore.python_app
    def read(path: flowcore.File) -> str:
        with open(path) as file:
            return file.read()

    load()
    written = write("hello", outputs=[flowcore.File(tmp_path / "out.txt")])
    assert read(written.outputs[0]).result(timeout=30) == "hello\n"
    assert "written" in Path(written.stdout).read_text()


def test_functions_of_a_script_and_of_modules_beside_it(tmp_path: Path) -> None:
    beside = "import flowcore\n\n@flowcore.python_app\ndef triple(x):\n    return 3 * x\n"
    (tmp_path / "helper_beside.py").write_text(beside)
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import flowcore, helper_beside
            OFFSET = 100
            class Shape:
                def __init__(self, n): self.n = n
            class OwnError(Exception): pass
            def helper(x): return x + OFFSET
            @flowcore.python_app
            def uses_globals(x): return helper(x)
            @flowcore.python_app
            def call(function, x): return function(x)
            @flowcore.python_app
            def shape(n): return Shape(n)
            @flowcore.python_app
            def fails(): raise OwnError("mine")
            if __name__ == "__main__":
                with flowcore.load({"executors": [{"plugin": "htex", "max_workers_per_node": 1}]}):
                    assert uses_globals(1).result() == 101
                    assert call(helper, 2).result() == 102
                    assert call(lambda x: -x, 2).result() == -2
                    assert helper_beside.triple(2).result() == 6
                    assert isinstance(shape(3).result(), Shape) and shape(3).result().n == 3
                    try: fails().result()
                    except OwnError as error: assert str(error) == "mine"
                    else: raise AssertionError
                print("all well")
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("all well\n", 0), done.stderr


def test_an_argument_that_cannot_be_sent_is_named_and_fails_its_task_alone(load: Load) -> None:
    load()
    with pytest.raises(SerializationError, match=r"positional argument 0 \(of type generator\) of app 'size'"):
        size(i for i in range(3)).result(timeout=30)
    with pytest.raises(SerializationError, match=r"argument 'data' \(of type generator\) of app 'size' cannot be"):
        size(data=(i for i in range(3))).result(timeout=30)
    assert double(1).result(timeout=30) == 2


class _OnlyHere:
    """An importer of one module, which no worker has."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name == "only_here" else None  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None: ...

    def exec_module(self, module: types.ModuleType) -> None:
        exec("def secret():\n    return 1\n", module.__dict__)


def test_a_function_that_the_worker_cannot_import(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, _OnlyHere()])
    module = importlib.import_module("only_here")
    load()
    try:
        with pytest.raises(DeserializationError, match="No module named 'only_here'") as caught:
            flowcore.python_app(module.secret)().result(timeout=30)
    finally:
        del sys.modules["only_here"]
    assert "block 0, host" in str(caught.value)
    assert "worker_init" in str(caught.value)
    assert "define the function in the main script" in str(caught.value)


def test_a_result_that_cannot_be_sent_back(load: Load) -> None:
    @flowcore.python_app
    def generator():  # type: ignore[no-untyped-def]
        return (i for i in range(3))

    load()
    with pytest.raises(SerializationError, match="the result of the app cannot be serialized"):
        generator().result(timeout=30)


def test_a_result_that_cannot_be_loaded_here(load: Load) -> None:
    class OnlyThere:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return __import__, ("module_that_is_nowhere",)

    @flowcore.python_app
    def result() -> OnlyThere:
        return OnlyThere()

    load()
    with pytest.raises(DeserializationError, match="the result of the task cannot be loaded here"):
        result().result(timeout=30)
    assert double(1).result(timeout=30) == 2


def test_an_app_that_is_called_inside_a_task_points_to_join_apps(load: Load) -> None:
    inner = double

    @flowcore.python_app
    def outer() -> int:
        return inner(1).result()

    load()
    with pytest.raises(NoKernelError, match=r"app 'double' was called inside a task, on a worker.*join_app"):
        outer().result(timeout=30)


def test_cancelling_a_waiting_and_a_running_task(load: Load, tmp_path: Path) -> None:
    @flowcore.python_app
    def wait_for(path: str, mark: str) -> None:
        import pathlib
        import time

        pathlib.Path(mark).touch()
        while not pathlib.Path(path).exists():
            time.sleep(0.01)

    load(max_workers_per_node=1)
    gate, first_mark, second_mark = (str(tmp_path / n) for n in ("gate", "first", "second"))
    running = wait_for(gate, first_mark)
    until(lambda: os.path.exists(first_mark))
    waiting = wait_for(gate, second_mark)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert running.cancel(), "its worker is ended and replaced"
    assert double(2).result(timeout=30) == 4
    assert not os.path.exists(second_mark)


def test_what_a_dead_worker_had_started_is_ended(load: Load, tmp_path: Path) -> None:
    @flowcore.python_app
    def start_and_die(mark: str) -> None:
        import os
        import pathlib
        import subprocess
        import time

        child = subprocess.Popen(["sh", "-c", f"echo $$ >{mark}; exec sleep 1000"], start_new_session=True)
        while not pathlib.Path(mark).exists() or not pathlib.Path(mark).read_text().strip():
            time.sleep(0.01)
        assert child.poll() is None
        os.kill(os.getpid(), 9)

    load()
    mark = tmp_path / "pid"
    with pytest.raises(WorkerLost):
        start_and_die(str(mark)).result(timeout=30)
    until(lambda: not psutil.pid_exists(int(mark.read_text())), what="the end of its command")


def test_what_is_connected_is_told(load: Load) -> None:
    dfk = load()
    double(1).result(timeout=30)
    executor = dfk.executors["htex"]
    assert isinstance(executor, HighThroughputExecutor)
    until(lambda: executor.connected_workers == 2)
    assert executor.connected_blocks() == {"0"}
    [manager] = executor.connected_managers()
    assert (manager["worker_count"], manager["block_id"], manager["active"]) == (2, "0", True)
    until(lambda: "0" in executor.idle_blocks())
    assert executor.outstanding == 0
    executor.hold_worker(manager["manager"])
    until(lambda: executor.connected_managers()[0]["active"] is False)


def test_blocks_come_and_go_on_demand(load: Load) -> None:
    dfk = load(provider={"plugin": "local", "init_blocks": 0, "max_blocks": 2}, config={"strategy": "none"})
    executor = dfk.executors["htex"]
    assert isinstance(executor, HighThroughputExecutor)
    future = double(4)
    assert executor.connected_blocks() == set()
    assert executor.scale_out(2) == ["0", "1"]
    assert future.result(timeout=30) == 8
    until(lambda: executor.connected_workers == 4)
    assert len(executor.scale_in(1)) == 1
    until(lambda: executor.connected_workers == 2)
    assert double(5).result(timeout=30) == 10


def test_the_simple_strategy_gets_a_block_when_there_is_work(load: Load) -> None:
    load(provider={"plugin": "local", "init_blocks": 0, "max_blocks": 1}, config={"strategy_period": 0.1})
    assert double(4).result(timeout=30) == 8


def test_the_interchange_cannot_have_a_taken_port(load: Load) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ExecutorError, match=f"cannot bind 127.0.0.1 to any port from {port} to {port} for workers"):
            load(worker_port_range=(port, port + 1), address="127.0.0.1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"label": "a/b"}, "the label names a folder in the run directory"),
        ({"max_workers_per_node": 0}, r"max_workers_per_node=0\): must be at least 1"),
        ({"max_workers_per_node": "4"}, r"max_workers_per_node='4'\): expected int | None, got str"),
        ({"worker_port_range": (10, 5)}, "expected .low, high. with 1 <= low < high"),
        ({"heartbeat_period": 50, "heartbeat_threshold": 20}, "the threshold must be longer than the period"),
        ({"max_worker_per_node": 1}, "did you mean 'max_workers_per_node'"),
        ({"provider": "local"}, "expected Provider, got str"),
    ],
)
def test_options_are_checked_at_once(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        HighThroughputExecutor(**options)  # type: ignore[arg-type]


def test_two_htex_side_by_side(tmp_path: Path) -> None:
    def block(label: str) -> dict[str, object]:
        return {"plugin": "htex", "label": label, "max_workers_per_node": 1}

    @flowcore.python_app(executors=["b"])
    def on_b() -> str:
        return os.environ["FLOWCORE_WORKER_POOL_ID"]

    @flowcore.python_app(executors=["a"])
    def on_a() -> str:
        return os.environ["FLOWCORE_WORKER_POOL_ID"]

    with flowcore.load({"executors": [block("a"), block("b")], "run_dir": str(tmp_path / "runinfo")}):
        assert on_a().result(timeout=30) == on_a().result(timeout=30) != on_b().result(timeout=30)


def test_the_interchange_and_managers_never_import_what_could_unpickle() -> None:
    code = (
        "import sys; import flowcore_executor_htex.interchange; import flowcore_executor_htex.manager; "
        "print('flowcore.serialize' in sys.modules, 'dill' in sys.modules, 'cloudpickle' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
