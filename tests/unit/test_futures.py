"""AppFuture and DataFuture alone, with an owner that is no kernel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import tracemalloc
from concurrent.futures import CancelledError, Future

import pytest

from flowcore import AppFuture, DataFuture, File
from flowcore.futures import KernelFuture

WAIT_S = 60


class Owner:
    def __init__(self):
        self.status = "pending"
        self.asked = []
        self.cancellable = False

    def task_status(self, task_id):
        return self.status

    def cancel_task(self, task_id):
        self.asked.append(("cancel", task_id))
        return self.cancellable

    def lift(self, function, future, key):
        self.asked.append((function.__name__, future, key))
        return "lifted"


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
def future(owner):
    return AppFuture(7, owner)


def settle(future, result=None, error=None, cancelled=False):
    if future.settle(result, error, cancelled):
        future.run_callbacks()


def test_fields_are_those_of_pythons_future():
    # Some are made when they are first asked for; what Python's own code touches must be there, and alike.
    ours, theirs = KernelFuture(), Future()
    kinds = {name: type(value) for name, value in vars(theirs).items()}
    assert {name: type(getattr(ours, name)) for name in kinds} == kinds
    for name in kinds.keys() - {"_condition"}:
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, name) is getattr(ours, name)
    made = {name for name in vars(KernelFuture()) if not name.startswith("_made_")}
    assert made <= kinds.keys()


def test_a_condition_is_made_once_for_all_who_ask(future):
    asking = threading.Barrier(4)
    conditions: list = []

    def ask():
        asking.wait(WAIT_S)
        conditions.append(future._condition)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len({id(c) for c in conditions}) == 1


def test_is_a_future_in_each_state(future):
    assert isinstance(future, Future)
    assert not future.done()
    assert not future.cancelled()
    settle(future, 5)
    assert future.done()
    assert (future.result(), future.exception()) == (5, None)


def test_error(future):
    error = ValueError("x")
    settle(future, None, error)
    assert future.done()
    assert future.exception() is error
    with pytest.raises(ValueError):
        future.result()


def test_cancelled(future):
    settle(future, None, CancelledError(), True)
    assert future.cancelled()
    assert future.done()
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()


def test_settle_wakes_all_who_wait(future):
    results: list = []
    waiting = [threading.Thread(target=lambda: results.append(future.result(timeout=WAIT_S))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    settle(future, 3)
    for thread in waiting:
        thread.join(WAIT_S)
    assert results == [3] * 5


def test_outcome_is_visible_before_callbacks_run(future):
    called = []
    future.add_done_callback(called.append)
    assert future.settle(1, None)
    assert future.result() == 1
    assert called == []
    future.run_callbacks()
    assert called == [future]
    future.run_callbacks()
    assert called == [future]


def test_settle_says_whether_there_are_callbacks(future, owner):
    assert not future.settle(1, None)
    other = AppFuture(8, owner)
    other.add_done_callback(lambda f: None)
    assert other.settle(1, None)


def test_callbacks_run_in_order_each_once(future):
    called = []
    for n in range(3):
        future.add_done_callback(lambda f, n=n: called.append(n))
    settle(future)
    future.add_done_callback(lambda f: called.append("late"))
    assert called == [0, 1, 2, "late"]


def test_callback_that_raises(future, caplog):
    called = []
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(called.append)
    settle(future)
    assert called == [future]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("when", [concurrent.futures.ALL_COMPLETED, concurrent.futures.FIRST_COMPLETED])
def test_wait(owner, when):
    futures = [AppFuture(n, owner) for n in range(3)]
    settle(futures[0], 1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(concurrent.futures.wait, futures, WAIT_S, when)
        if when == concurrent.futures.ALL_COMPLETED:
            settle(futures[1], None, ValueError())
            settle(futures[2], None, CancelledError(), True)
        done, not_done = waiting.result(timeout=WAIT_S)
    if when == concurrent.futures.ALL_COMPLETED:
        assert (done, not_done) == (set(futures), set())
    else:
        assert futures[0] in done


def test_as_completed_gives_them_in_the_order_of_their_ends(owner):
    futures = [AppFuture(n, owner) for n in range(3)]
    completed = concurrent.futures.as_completed(futures, timeout=WAIT_S)
    for n in (2, 0, 1):
        settle(futures[n], n)
        assert next(completed) is futures[n]


def test_wait_with_a_timeout(future):
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    assert concurrent.futures.wait([future], timeout=0.01).not_done == {future}


# --- asking the owner


def test_status_is_the_owners_until_the_end(future, owner):
    assert future.task_status() == "pending"
    owner.status = "launched"
    assert future.task_status() == "launched"
    future._final_status = "exec_done"
    owner.status = "unsched"
    assert future.task_status() == "exec_done"


@pytest.mark.parametrize(
    ("status", "running"),
    [("pending", False), ("launched", True), ("running", True), ("running_ended", True), ("joining", False),
     ("fail_retryable", False), ("unsched", False)],
)  # fmt: skip
def test_running(future, owner, status, running):
    owner.status = status
    assert future.running() is running
    settle(future, 1)
    assert not future.running()


@pytest.mark.parametrize("cancellable", [True, False])
def test_cancel_asks_the_owner(future, owner, cancellable):
    owner.cancellable = cancellable
    assert future.cancel() is cancellable
    assert owner.asked == [("cancel", 7)]


def test_cancel_of_what_is_over_asks_nobody(future, owner):
    settle(future, 1)
    assert not future.cancel()
    cancelled = AppFuture(8, owner)
    settle(cancelled, None, CancelledError(), True)
    assert cancelled.cancel()
    assert owner.asked == []


def test_lifting(future, owner):
    assert future["key"] == "lifted"
    assert future.name == "lifted"
    assert owner.asked == [("getitem", future, "key"), ("getattr", future, "name")]


def test_names_that_are_not_lifted(future, owner):
    with pytest.raises(AttributeError, match="AppFuture has no attribute '_name'; names that begin with _"):
        future._name  # noqa: B018
    with pytest.raises(TypeError, match="not iterable"):
        iter(future)
    with pytest.raises(TypeError):
        1 in future  # noqa: B015
    assert owner.asked == []


def test_tid_streams_outputs_and_repr(future, owner):
    assert future.tid == 7
    assert (future.stdout, future.stderr) == (None, None)
    assert future.outputs == []
    assert future.outputs is future.outputs
    owner.status = "joining"
    assert repr(future) == "<AppFuture of task 7: joining>"


async def test_await(future):
    asyncio.get_running_loop().call_soon(settle, future, "value")
    assert await future == "value"
    assert await future == "value"  # again


async def test_await_an_error_from_another_thread(future):
    thread = threading.Thread(target=settle, args=(future, None, ValueError("x")))
    thread.start()
    with pytest.raises(ValueError, match="x"):
        await future
    thread.join(WAIT_S)


# --- DataFuture


def test_data_future(future):
    file = File("a/b.txt")
    data = DataFuture(future, file, 7)
    assert (data.tid, data.filepath, data.filename, data.file_obj) == (7, "a/b.txt", "a/b.txt", file)
    assert repr(data) == "<DataFuture a/b.txt of task 7: waiting>"
    settle(data, file)
    assert data.result() is file
    assert repr(data) == "<DataFuture a/b.txt of task 7: done>"
    assert DataFuture(future, "c.txt").file_obj.url == "c.txt"


def test_data_future_asks_its_task(future, owner):
    data = DataFuture(future, File("a"), 7)
    owner.status = "running"
    assert data.running()
    owner.cancellable = True
    assert data.cancel()
    assert owner.asked == [("cancel", 7)]
    assert not data.cancelled()
    settle(future, None, CancelledError(), True)
    assert data.cancelled()


def test_data_future_of_a_foreign_future():
    parent: Future = Future()
    data = DataFuture(parent, File("a"))
    assert data.tid is None
    assert not data.running()
    assert data.cancel()


async def test_data_futures_can_be_awaited(future):
    data = DataFuture(future, File("a"), 7)
    asyncio.get_running_loop().call_soon(settle, data, data.file_obj)
    assert (await data).url == "a"


def test_memory_of_a_future_that_nobody_waits_for(owner):
    # A threading.Condition alone is over a kilobyte with its deque: none is made for most futures.
    gc.collect()
    tracemalloc.start()
    try:
        futures = [AppFuture(n, owner) for n in range(1000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(futures) == 1000
    assert size / 1000 < 700


def test_racing_callbacks_and_settling_lose_no_callback(owner):
    for n in range(300):
        future = AppFuture(n, owner)
        called: list = []
        start = threading.Barrier(2)

        def add(future=future, called=called, start=start):
            start.wait(WAIT_S)
            for _ in range(3):
                future.add_done_callback(called.append)

        thread = threading.Thread(target=add)
        thread.start()
        start.wait(WAIT_S)
        settle(future, n)
        thread.join(WAIT_S)
        assert called == [future] * 3


def test_racing_waiters_and_settling_hang_nobody(owner):
    for n in range(300):
        future = AppFuture(n, owner)
        results: list = []
        start = threading.Barrier(2)

        def wait(future=future, results=results, start=start):
            start.wait(WAIT_S)
            results.append(future.result(timeout=WAIT_S))

        thread = threading.Thread(target=wait)
        thread.start()
        start.wait(WAIT_S)
        settle(future, n)
        thread.join(WAIT_S)
        assert results == [n]


def test_saying_that_it_runs_changes_nothing():
    future = AppFuture(3, Owner())
    called = []
    assert future.set_running_or_notify_cancel() is True
    future.add_done_callback(called.append)
    assert (future.done(), called) == (False, [])
    future.settle(1, None)
    future.run_callbacks()
    assert called == [future]
    cancelled = AppFuture(4, Owner())
    cancelled.settle(None, None, cancelled=True)
    assert cancelled.set_running_or_notify_cancel() is False
