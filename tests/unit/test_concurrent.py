"""PoolExecutor beside the standard library's executors, which say what is right wherever both can do a thing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import multiprocessing
import operator
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future

import pytest

import flowcore
from flowcore import AUTO_LOGNAME, AppFuture, Config, DataFlowKernel, File, python_app
from flowcore.concurrent import PoolExecutor
from flowcore.errors import (
    ConfigurationError,
    DependencyError,
    KernelClosedError,
    NoKernelError,
    UnknownExecutorError,
)
from flowcore.plugins import registry
from flowcore.testing import eventually

WAIT_S = 60
INSTALLED = [plugin.name for plugin in registry.installed("executor")]
#: The core alone has threads.
EXECUTORS = [name for name in ("threads", "htex") if name in INSTALLED]
WORKERS = {"threads": "max_threads", "htex": "max_workers_per_node"}


def options(tmp_path, name="threads", workers=2):
    executor = {"plugin": name, "label": name, WORKERS[name]: workers}
    return {"executors": [executor], "run_dir": str(tmp_path / "runinfo"), "initialize_logging": False}


@pytest.fixture
def make(tmp_path):
    """Makes pools of flowcore of a number of workers; shuts them down."""
    pools = []

    def make(workers=2, name="threads"):
        pools.append(PoolExecutor(options(tmp_path, name, workers)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()


@pytest.fixture(params=["standard", *EXECUTORS])
def anywhere(request, make):
    """A pool of 2 workers: the standard library's, and flowcore's on each executor."""
    if request.param != "standard":
        yield make(2, request.param)
        return
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(params=["standard", "threads"])
def one(request, make):
    """A function that makes a pool with one worker, a thread of this process."""
    made = []

    def one():
        made.append(concurrent.futures.ThreadPoolExecutor(1) if request.param == "standard" else make(1))
        return made[-1]

    yield one
    for pool in made:
        pool.shutdown()


class Gate:
    """A function that waits until the test opens the gate, and says when it has begun."""

    def __init__(self):
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value=None):
        self.begun.set()
        assert self.opened.wait(WAIT_S)
        return value


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


def processes():
    """Return the standard library's pool that makes chunks; of fresh processes, since this one has threads."""
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def divide(a, b):
    return a / b


def keywords(*args, **kwargs):
    return args, list(kwargs.items())


# --- submit


def test_results(anywhere):
    assert anywhere.submit(divide, 6, b=3).result(WAIT_S) == 2


def test_exceptions(anywhere):
    future = anywhere.submit(divide, 1, 0)
    assert isinstance(future.exception(WAIT_S), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        future.result(WAIT_S)


def test_all_kinds_of_functions(anywhere):
    factor = 10
    assert anywhere.submit(lambda x: x * factor, 2).result(WAIT_S) == 20
    assert anywhere.submit(functools.partial(divide, b=2), 8).result(WAIT_S) == 4
    assert anywhere.submit(functools.partial(functools.partial(divide), 8, 2)).result(WAIT_S) == 4
    assert anywhere.submit("a-b".split, "-").result(WAIT_S) == ["a", "b"]
    assert anywhere.submit(int, "7").result(WAIT_S) == 7
    assert anywhere.submit(len, [1, 2]).result(WAIT_S) == 2


def test_what_is_no_function_fails_its_future(anywhere):
    assert isinstance(anywhere.submit(3).exception(WAIT_S), TypeError)


def test_names_that_apps_reserve_are_the_functions_own(anywhere):
    given = {
        "walltime": 3,
        "a": 0,
        "inputs": [1],
        "outputs": "o",
        "stdout": "out.txt",
        "stderr": ("e", "w"),
        "label": None,
        "resource_specification": {"cores": 1},
    }
    assert anywhere.submit(keywords, 1, 2, **given).result(WAIT_S) == ((1, 2), list(given.items()))
    for name, value in given.items():
        assert anywhere.submit(keywords, **{name: value}).result(WAIT_S) == ((), [(name, value)])
    assert not os.path.exists("out.txt")


def test_names_of_submit_itself_are_the_functions_own_too(anywhere):
    assert anywhere.submit(keywords, fn=1, self=2).result(WAIT_S) == ((), [("fn", 1), ("self", 2)])


def test_keyword_arguments_mean_nothing_to_the_kernel(make):
    pool = make()
    future = pool.submit(keywords, stdout=AUTO_LOGNAME, walltime=-1)
    assert future.result(WAIT_S) == ((), [("stdout", AUTO_LOGNAME), ("walltime", -1)])
    assert future.stdout is None
    assert future.outputs == []


def test_defaults_of_reserved_names_are_the_functions_own(anywhere):
    def function(x, walltime=0.000001, stdout="out.txt"):
        return x, walltime, stdout

    assert anywhere.submit(function, 1).result(WAIT_S) == (1, 0.000001, "out.txt")
    assert not os.path.exists("out.txt")


@pytest.mark.parametrize("name", EXECUTORS)
def test_futures_among_the_arguments_are_dependencies(make, name):
    pool = make(2, name)
    foreign: Future[int] = Future()
    first = pool.submit(divide, foreign, 2)
    second = pool.submit(keywords, [first], walltime={"x": (first, foreign)}, y=first)
    assert not second.done()
    foreign.set_result(8)
    assert second.result(WAIT_S) == (([4],), [("walltime", {"x": (4, 8)}), ("y", 4)])
    assert list(pool.map(divide, [first, 1], [2, first], chunksize=2)) == [2, 0.25]
    failed = pool.submit(keywords, walltime=pool.submit(divide, 1, 0))
    assert isinstance(failed.exception(WAIT_S), DependencyError)


def test_a_chain(make):
    pool = make()
    last = pool.submit(int)
    for _ in range(3000):
        last = pool.submit((1).__add__, last)
    assert last.result(WAIT_S) == 3000


def test_futures_are_app_futures(make):
    future = make().submit(dict, a=[5, 6])
    assert isinstance(future, AppFuture)
    assert future["a"][1].result(WAIT_S) == 6


def test_files_are_staged(make, tmp_path):
    (tmp_path / "in.txt").write_text("in")

    def read(file, inputs):
        with open(file) as one, open(inputs[0]) as other:
            return one.read() + other.read()

    file = File(f"file://{tmp_path}/in.txt")
    assert make().submit(read, file, inputs=[file]).result(WAIT_S) == "inin"


def test_an_app_is_refused(make):
    @python_app
    def app(): ...

    with pytest.raises(ConfigurationError) as caught:
        make().submit(app)
    assert str(caught.value) == (
        "PoolExecutor runs plain functions, and <python_app app> is an app, which makes a task when it is called: "
        "call it, or submit the function that it decorates, app.__wrapped__"
    )


def test_tasks_are_named_by_their_functions(make):
    pool = make()

    class Failing:
        def __call__(self):
            raise ValueError

    def names(function, *args, **kwargs):
        error = pool.submit(function, *args, **kwargs).exception(WAIT_S)
        return error.__notes__[0]

    assert "(app 'divide')" in names(divide, 1, 0)
    assert "(app 'divide')" in names(functools.partial(functools.partial(divide, 1), 0))
    assert "(app 'Failing')" in names(Failing())
    assert "(app 'divide')" in names(divide, walltime=1)
    with pytest.raises(ZeroDivisionError) as caught:
        list(pool.map(divide, [1], [0], chunksize=5))
    assert "(app 'divide')" in caught.value.__notes__[0]


SCRIPT = """
import functools, sys
from flowcore.concurrent import PoolExecutor

OFFSET = 100

class Point:
    def __init__(self, x): self.x = x
    def moved(self, by=1): return Point(self.x + by)

def helper(x): return x + OFFSET
def call(function, *args): return function(*args)
def uses_helper(x, walltime=0): return helper(x) + walltime

if __name__ == "__main__":
    with PoolExecutor({"executors": [{"plugin": sys.argv[1]}]}) as pool:
        print(list(pool.map(uses_helper, range(3))), list(pool.map(uses_helper, range(5), chunksize=2)))
        print(pool.submit(uses_helper, 1, walltime=1000).result())
        print(pool.submit(call, helper, 5).result(), pool.submit(call, lambda: OFFSET).result())
        print(pool.submit(functools.partial(uses_helper, 1)).result())
        print(pool.submit(Point(3).moved, by=2).result().x, isinstance(pool.submit(Point, 1).result(), Point))
"""


@pytest.mark.parametrize("name", EXECUTORS)
def test_functions_of_the_main_script(tmp_path, name):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", name], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "[100, 101, 102] [100, 101, 102, 103, 104]",
        "1101",
        "105 100",
        "101",
        "5 True",
    ]


# --- map


@pytest.mark.parametrize("chunksize", [1, 2, 3, 1000])
def test_map(anywhere, chunksize):
    assert list(anywhere.map(pow, range(50), range(50), chunksize=chunksize)) == [i**i for i in range(50)]
    assert list(anywhere.map(pow, [2, 3, 4], [5], chunksize=chunksize)) == [32]
    assert list(anywhere.map(pow, [], [5], chunksize=chunksize)) == []


def test_map_is_an_iterator(anywhere):
    results = anywhere.map(divide, [1, 2, 3], [1, 1, 1])
    assert iter(results) is results
    assert (next(results), next(results), next(results)) == (1, 2, 3)
    with pytest.raises(StopIteration):
        next(results)


def test_map_submits_at_once_and_gives_results_lazily(anywhere):
    taken = []

    def rows():
        for i in (1, 0, 2):
            taken.append(i)
            yield i

    results = anywhere.map(divide, (2, 2, 2), rows())
    assert taken == [1, 0, 2]
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_raises_what_its_arguments_raise(anywhere):
    def rows():
        yield 1
        raise KeyError("rows")

    with pytest.raises(KeyError, match="rows"):
        anywhere.map(divide, [1, 1], rows())


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_such_chunks(make, chunksize):
    with processes() as oracle, pytest.raises(ValueError):
        oracle.map(divide, [], [], chunksize=chunksize)
    with pytest.raises(ValueError, match=f"chunksize={chunksize}: expected at least 1"):
        make().map(divide, [], [], chunksize=chunksize)


def test_chunks_of_map_are_tasks(make):
    pool = make()
    assert list(pool.map(divide, range(10), [1] * 10, chunksize=4)) == list(range(10))
    assert pool.dfk.task_counts() == {"exec_done": 3}


def test_chunks_come_out_as_they_are_done(make, gate):
    pool = make(1)

    def function(i):
        return gate(i) if i >= 4 else i

    results = pool.map(function, range(6), chunksize=2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    gate.opened.set()
    assert list(results) == [4, 5]


def test_a_chunk_that_fails_has_no_results(make):
    with processes() as oracle:
        for pool in (oracle, make()):
            results = pool.map(operator.truediv, [1, 2, 3, 4], [1, 1, 1, 0], chunksize=2)
            assert (next(results), next(results)) == (1, 2)
            with pytest.raises(ZeroDivisionError):
                next(results)
            with pytest.raises(StopIteration):
                next(results)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_times_out(one, gate, chunksize):
    pool = one()
    calls = []

    def function(i):
        calls.append(i)
        return gate(i) if i == 2 else i

    results = pool.map(function, range(8), timeout=0.2, chunksize=chunksize)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(TimeoutError):
        next(results)
    # What is left was cancelled: the next function runs before any of them.
    gate.opened.set()
    assert pool.submit(int, 5).result(WAIT_S) == 5
    assert set(calls) <= {0, 1, 2, 3}


def test_the_time_of_map_counts_from_the_call(one, gate):
    results = one().map(gate, [1], timeout=0)
    assert gate.begun.wait(WAIT_S)
    with pytest.raises(TimeoutError):
        next(results)


def test_a_result_that_is_there_is_had_after_the_time_too(one):
    pool = one()
    results = pool.map(int, ["1"], timeout=0.01)
    pool.submit(int).result(WAIT_S)  # one worker: it came after those of map
    time.sleep(0.02)
    assert list(results) == [1]


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("how", ["close", "forget", "fail"])
def test_map_cancels_what_is_left(one, gate, how, chunksize):
    pool = one()
    calls = []

    def function(i):
        calls.append(i)
        if i == 0 and how == "fail":
            raise ZeroDivisionError
        return gate(i) if i >= chunksize else i

    results = pool.map(function, range(30), chunksize=chunksize)
    if how == "fail":
        with pytest.raises(ZeroDivisionError):
            next(results)
    else:
        assert next(results) == 0
        if how == "close":
            results.close()
        del results
        gc.collect()
    gate.opened.set()
    assert pool.submit(int, 5).result(WAIT_S) == 5
    assert set(calls) < set(range(30))
    assert len(calls) <= 3 * chunksize


def test_map_keeps_no_result_that_it_gave(make):
    class Result:
        pass

    pool = make(1)
    for chunksize in (1, 4):
        results = pool.map(lambda i: Result(), range(4), chunksize=chunksize)
        first = weakref.ref(next(results))
        next(results)
        eventually(lambda first=first: gc.collect() is not None and first() is None, what="the end of the first result")
        assert len(list(results)) == 2


# --- shutdown


def test_submit_after_shutdown(anywhere):
    anywhere.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        anywhere.submit(int)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        anywhere.map(int, ["1"])
    anywhere.shutdown()
    anywhere.shutdown(wait=False, cancel_futures=True)


def test_the_with_block_waits(anywhere):
    with anywhere as pool:
        assert pool is anywhere
        futures = [pool.submit(time.sleep, 0.01) for _ in range(5)]
    assert all(f.done() for f in futures)
    assert all(f.exception(0) is None for f in futures)
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_the_with_block_waits_after_an_exception_too(one, gate):
    pool = one()
    with pytest.raises(ZeroDivisionError), pool:
        future = pool.submit(gate, 3)
        threading.Timer(0.05, gate.opened.set).start()
        raise ZeroDivisionError
    assert future.result(0) == 3


def test_shutdown_without_waiting(one, gate):
    pool = one()
    futures = [pool.submit(gate, i) for i in range(3)]
    pool.shutdown(wait=False)
    pool.shutdown(wait=False)
    assert not any(f.done() for f in futures)
    with pytest.raises(RuntimeError):
        pool.submit(int)
    gate.opened.set()
    pool.shutdown(wait=True)
    assert [f.result(0) for f in futures] == [0, 1, 2]


def test_shutdown_that_cancels(one, gate):
    pool = one()
    running = pool.submit(gate, 1)
    assert gate.begun.wait(WAIT_S)
    waiting = [pool.submit(gate, 2) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(f.cancelled() for f in waiting)
    assert not running.done()
    gate.opened.set()
    pool.shutdown()
    assert running.result(0) == 1


@pytest.mark.parametrize("owned", [True, False])
def test_calls_that_race_with_shutdown_are_refused_or_done(config_of, owned):
    pool = PoolExecutor(config_of()) if owned else PoolExecutor(dfk=flowcore.load(config_of()))
    accepted: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
    refused = threading.Semaphore(0)

    def submit():
        try:
            while True:
                accepted.put(pool.submit(int))
        except RuntimeError:
            refused.release()

    users = [threading.Thread(target=submit) for _ in range(3)]
    for user in users:
        user.start()
    eventually(lambda: accepted.qsize() > 30)
    pool.shutdown()
    for user in users:
        user.join(WAIT_S)
    for _ in users:
        assert refused.acquire(timeout=WAIT_S)
    done = [accepted.get_nowait() for _ in range(accepted.qsize())]
    assert {f.result(0) for f in done} == {0}


def test_several_threads_shut_down(make, gate):
    pool = make()
    future = pool.submit(gate, 1)
    states = []

    def shut():
        pool.shutdown()
        states.append((future.done(), len(threading.enumerate())))

    threads = [threading.Thread(target=shut) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert states == []
    gate.opened.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert [done for done, _ in states] == [True] * 3


def test_ctrl_c_in_the_block_ends_the_run_of_the_pool(config_of, gate):
    with pytest.raises(KeyboardInterrupt), PoolExecutor(config_of()) as pool:
        future = pool.submit(gate)
        gate.begun.wait(WAIT_S)
        raise KeyboardInterrupt
    with pytest.raises(KernelClosedError):
        future.result(0)
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_ctrl_c_in_the_block_leaves_a_run_of_others_alone(config_of, gate):
    with flowcore.load(config_of(1)) as dfk:
        with pytest.raises(KeyboardInterrupt), PoolExecutor() as pool:
            running, waiting = pool.submit(gate, 1), pool.submit(gate)
            gate.begun.wait(WAIT_S)
            raise KeyboardInterrupt
        assert waiting.cancelled()
        gate.opened.set()
        assert dfk.submit(divide, (4, 2)).result(WAIT_S) == 2
        assert running.result(WAIT_S) == 1


def test_ctrl_c_while_the_block_waits_for_its_end(config_of, gate):
    with pytest.raises(KeyboardInterrupt), PoolExecutor(config_of()) as pool:
        future = pool.submit(gate)
        gate.begun.wait(WAIT_S)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KernelClosedError):
        future.result(0)


UNFINISHED = """
import sys, time
from flowcore.concurrent import PoolExecutor
pool = PoolExecutor({"executors": [{"plugin": sys.argv[1]}]})
future = pool.submit(time.sleep, 0.3)
future.add_done_callback(lambda f: print("done", f.exception(), flush=True))
pool.shutdown(wait=False)
print("end of script", flush=True)
"""


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_program_does_not_end_before_what_it_shut_down_without_waiting(tmp_path, name):
    (tmp_path / "script.py").write_text(UNFINISHED)
    done = subprocess.run(
        [sys.executable, "script.py", name], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end of script\ndone None\n", "")


# --- which run


@pytest.fixture
def config_of(tmp_path):
    def config_of(workers=2, **more):
        return Config.from_dict({**options(tmp_path, "threads", workers), **more})

    return config_of


def test_a_pool_of_its_own_is_not_the_loaded_one(config_of):
    with PoolExecutor(config_of()) as pool:
        with pytest.raises(NoKernelError):
            flowcore.dfk()
        with flowcore.load(config_of()) as loaded, PoolExecutor(config_of()) as other:
            assert flowcore.dfk() is loaded
            assert len({pool.dfk.run_dir, other.dfk.run_dir, loaded.run_dir}) == 3
            # A future of one is an argument in another.
            first = pool.submit(int, "1")
            second = other.submit(divide, first, 2)
            assert loaded.submit(divide, (second, 2)).result(WAIT_S) == 0.25
            assert [d.task_counts() for d in (pool.dfk, other.dfk, loaded)] == [{"exec_done": 1}] * 3
        assert pool.submit(int, "1").result(WAIT_S) == 1


def test_configurations_of_all_kinds(tmp_path):
    file = tmp_path / "pool.toml"
    file.write_text('run_dir = "runs"\ninitialize_logging = false\n[[executors]]\nplugin = "threads"\nlabel = "mine"\n')
    for config in (Config(run_dir="runs"), {"run_dir": "runs"}, file, str(file)):
        with PoolExecutor(config) as pool:
            assert pool.submit(int, "3").result(WAIT_S) == 3
    assert list(pool.dfk.executors) == ["mine"]
    assert len(list((tmp_path / "runs").iterdir())) == 4


def test_the_run_of_a_pool_ends_with_it(config_of):
    before = set(threading.enumerate())
    pool = PoolExecutor(config_of())
    assert set(threading.enumerate()) - before
    pool.shutdown()
    assert set(threading.enumerate()) - before == set()
    with pytest.raises(KernelClosedError):
        pool.dfk.submit(int)


def test_a_pool_never_ends_the_run_that_it_was_given(config_of, gate):
    with DataFlowKernel(config_of(1)) as dfk:
        others = dfk.submit(lambda: gate(1))
        waiting = dfk.submit(divide, (2, 1))
        with PoolExecutor(dfk=dfk) as pool:
            assert pool.dfk is dfk
        assert not others.done(), "it waits for its own futures only"
        pool = PoolExecutor(dfk=dfk)
        mine = pool.submit(divide, 4, 2)
        pool.shutdown(wait=False, cancel_futures=True)
        assert mine.cancelled()
        assert not waiting.cancelled()
        gate.opened.set()
        assert (others.result(WAIT_S), waiting.result(WAIT_S)) == (1, 2)
        assert dfk.submit(divide, (6, 2)).result(WAIT_S) == 3


def test_the_loaded_run_is_the_one_when_the_pool_is_made(config_of):
    first = flowcore.load(config_of())
    pool = PoolExecutor()
    assert pool.dfk is first
    flowcore.clear()
    with flowcore.load(config_of()), pytest.raises(KernelClosedError):
        pool.submit(int)
    pool.shutdown()


def test_nothing_loaded():
    with pytest.raises(NoKernelError) as caught:
        PoolExecutor()
    assert str(caught.value) == (
        "PoolExecutor() uses the loaded configuration, and none is loaded: call flowcore.load() first, "
        "or give it a configuration of its own, PoolExecutor(config=...)"
    )


def test_both(config_of):
    with DataFlowKernel(config_of()) as dfk, pytest.raises(ConfigurationError) as caught:
        PoolExecutor({}, dfk)
    assert str(caught.value) == (
        "PoolExecutor(config=..., dfk=...): give one of them. config makes a run that the pool ends; "
        "dfk is a run that exists, which the pool uses and leaves alone"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"config": 3}, "PoolExecutor(config=...) takes a Config, a dict, or the path of a TOML file, got int"),
        ({"dfk": 3}, "PoolExecutor(dfk=...) takes a DataFlowKernel, got int"),
        ({"config": {}, "executors": 3}, "PoolExecutor(executors=3): expected 'all' or a list of executor labels"),
        ({"config": {}, "executors": []}, "PoolExecutor(executors=[]): expected 'all' or a list of executor labels"),
    ],
)
def test_arguments_that_cannot_be(arguments, text):
    with pytest.raises(ConfigurationError) as caught:
        PoolExecutor(**arguments)
    assert str(caught.value) == text
    assert not os.path.exists("runinfo")


def test_a_config_is_used_once(config_of):
    config = config_of()
    PoolExecutor(config).shutdown()
    with pytest.raises(ConfigurationError, match="this Config was loaded before"):
        PoolExecutor(config)


def test_executors_by_label(tmp_path):
    config = {
        "executors": [{"plugin": "threads", "label": "left"}, {"plugin": "threads", "label": "right"}],
        "run_dir": str(tmp_path / "runinfo"),
    }

    def where():
        return threading.current_thread().name.partition("_")[0]

    with flowcore.load(config):
        with PoolExecutor(executors=["right"]) as pool:
            assert {pool.submit(where).result(WAIT_S) for _ in range(20)} == {"right"}
        with PoolExecutor(executors="left") as pool:
            assert set(pool.map(lambda _: where(), range(20))) == {"left"}
        with PoolExecutor() as pool:
            eventually(lambda: pool.submit(where).result(WAIT_S) == "left")
            eventually(lambda: pool.submit(where).result(WAIT_S) == "right")
        with pytest.raises(UnknownExecutorError) as caught:
            PoolExecutor(executors=["rihgt"])
        assert str(caught.value) == (
            "PoolExecutor(executors=...) wants executor 'rihgt', which the configuration does not have "
            "(did you mean 'right'?); its executors: left, right"
        )


def test_a_pool_that_cannot_be_leaves_nothing(config_of):
    before = set(threading.enumerate())
    with pytest.raises(UnknownExecutorError):
        PoolExecutor(config_of(), executors=["nowhere"])
    assert set(threading.enumerate()) == before


# --- with others


def test_wait_and_as_completed(anywhere):
    futures = [anywhere.submit(divide, i, 1) for i in range(20)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=WAIT_S)) == list(range(20))
    failing = anywhere.submit(divide, 1, 0)
    done, left = concurrent.futures.wait([*futures, failing], WAIT_S, concurrent.futures.FIRST_EXCEPTION)
    assert failing in done
    assert not left


def test_waiting_for_the_first(one, gate):
    pool = one()
    first, second = pool.submit(int, 1), pool.submit(gate, 2)
    done, left = concurrent.futures.wait([first, second], WAIT_S, concurrent.futures.FIRST_COMPLETED)
    assert (done, left) == ({first}, {second})
    gate.opened.set()
    assert second.result(WAIT_S) == 2


async def test_asyncio(anywhere):
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        assert await loop.run_in_executor(anywhere, divide, 4, 2) == 2
        assert await asyncio.wrap_future(anywhere.submit(divide, 9, 3)) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(anywhere, divide, 1, 0)
        many = await asyncio.gather(*(loop.run_in_executor(anywhere, divide, i, 1) for i in range(50)))
    assert many == list(range(50))


async def test_a_cancelled_asyncio_future_cancels_the_call(one, gate):
    def outcome():
        try:
            return source.result(WAIT_S)
        except CancelledError:
            return "cancelled"

    pool = one()
    blocker = pool.submit(gate)
    source = pool.submit(int)
    wrapped = asyncio.wrap_future(source)
    wrapped.cancel()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        # The loop passes it on after this one's turn.
        assert await asyncio.to_thread(outcome) == "cancelled"
    assert source.cancelled()
    gate.opened.set()
    assert blocker.result(WAIT_S) is None


def test_callbacks(anywhere):
    heard: queue.SimpleQueue[float] = queue.SimpleQueue()
    anywhere.submit(divide, 4, 2).add_done_callback(lambda f: heard.put(f.result()))
    assert heard.get(timeout=WAIT_S) == 2


def test_a_callback_submits_more(anywhere):
    heard: queue.SimpleQueue[float] = queue.SimpleQueue()

    def more(future):
        heard.put(future.result())
        if future.result() > 1:
            anywhere.submit(divide, future.result(), 2).add_done_callback(more)

    anywhere.submit(divide, 8, 1).add_done_callback(more)
    assert [heard.get(timeout=WAIT_S) for _ in range(4)] == [8, 4, 2, 1]


def test_many_threads_submit(anywhere):
    def use():
        return [f.result(WAIT_S) for f in [anywhere.submit(divide, i, 1) for i in range(200)]]

    with concurrent.futures.ThreadPoolExecutor(4) as users:
        assert [f.result(WAIT_S) for f in [users.submit(use) for _ in range(4)]] == [list(range(200))] * 4


def test_functions_submit_more_to_their_own_pool(make):
    pool = make(2)

    def tree(depth):
        # Waiting for a thread of the same pool would need as many threads as tasks; futures can be passed up.
        return [pool.submit(tree, depth - 1) for _ in range(2)] if depth else []

    level = [pool.submit(tree, 5)]
    count = 0
    while level:
        count += len(level)
        level = [child for future in level for child in future.result(WAIT_S)]
    assert count == 2**6 - 1


# --- memory


def test_a_pool_holds_no_future_that_is_done(make):
    class Value:
        pass

    pool = make()
    value = Value()
    held = weakref.ref(value)
    future = weakref.ref(pool.submit(lambda v: v, value))
    del value
    eventually(lambda: gc.collect() is not None and future() is None and held() is None)


def test_memory_does_not_grow_with_calls_that_are_over(make):
    pool = make()
    for _ in range(20):
        concurrent.futures.wait([pool.submit(int) for _ in range(500)], WAIT_S)
    eventually(lambda: not pool._pending)
    gc.collect()
    assert sum(isinstance(o, AppFuture) for o in gc.get_objects()) < 20


def test_cancelled_calls_are_forgotten_too(make, gate):
    pool = make(1)
    pool.submit(gate)
    for future in [pool.submit(int) for _ in range(100)]:
        assert future.cancel()
    assert len(pool._pending) == 1


# --- types

PROGRAM = """
from collections.abc import Iterator
from concurrent.futures import Executor
from flowcore.concurrent import PoolExecutor

def f(x: int, *, y: str = "") -> float:
    return x / 2

with PoolExecutor({}) as pool:
    reveal_type(pool)
    reveal_type(pool.submit(f, 1, y="a"))
    reveal_type(pool.submit(f, 1).result())
    reveal_type(pool.map(f, [1, 2], timeout=1.0, chunksize=2))
    pool.submit(f, "a")  # error
    pool.submit(f, 1, z=3)  # error
executor: Executor = pool
"""


def test_what_a_type_checker_sees(tmp_path):
    pytest.importorskip("mypy", reason="mypy is a development tool")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    lines = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    assert [line.partition('is "')[2] for line in lines if "Revealed type" in line] == [
        'flowcore.concurrent.PoolExecutor"',
        'flowcore.futures.AppFuture[float]"',
        'float"',
        'collections.abc.Iterator[float]"' if "collections.abc.Iterator" in done.stdout else 'typing.Iterator[float]"',
    ]
    errors = [int(line.split(":")[1]) for line in lines if ": error:" in line]
    marked = [n for n, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# error")]
    assert errors == marked, done.stdout
