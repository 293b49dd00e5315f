"""Large and odd shapes of graphs, as users meet them: nothing recurses, and twice the tasks are twice the work.

The clock is never asked: work is counted, in calls of flowcore's functions, at one size and at twice that. What is
quadratic inside one call shows at full size, where it would last for hours.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import json
import logging
import pickle
import queue
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import DataFlowKernel, join_app, python_app, serialize
from flowcore.errors import DependencyError, JoinError, KernelClosedError
from flowcore.testing.waiting import eventually

WAIT_S = 100
MANY = 100_000
#: Sizes at which work is counted, the second twice the first.
SOME, TWICE = 300, 600
PACKAGE = str(Path(flowcore.__file__).parent)


@pytest.fixture(autouse=True)
def no_deeper_recursion() -> Iterator[None]:
    """Python's own limit is all that is needed, and nobody raises it behind the user's back."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    after = sys.getrecursionlimit()
    sys.setrecursionlimit(before)
    assert after == 1000


@pytest.fixture
def dfk(load: Callable[..., DataFlowKernel]) -> DataFlowKernel:
    return load()


@python_app
def same(x: Any) -> Any:
    return x


@python_app
def after(*previous: Any) -> int:
    """Return the largest of the values, and one more."""
    return 1 + max(previous, default=0)


@python_app
def total(*parts: Any, inputs: Any = ()) -> int:
    return int(sum(parts) + sum(inputs))


@python_app
def fail(error: Exception) -> None:
    raise error


@python_app(cache=True)
def cached(x: Any) -> int:
    return 1


# --- shapes. Each takes a future that the test ends when all tasks are there, and returns the last future.


def chain(gate: Future[int], n: int) -> Any:
    future: Any = gate
    for _ in range(n):
        future = after(future)
    return future


def fan_in(gate: Future[int], n: int) -> Any:
    return total(inputs=[same(gate) for _ in range(n)])


def fan_out(gate: Future[int], n: int) -> Any:
    one = same(gate)
    futures = [same(one) for _ in range(n)]
    return total(*futures)


def foreign_fan_out(gate: Future[int], n: int) -> Any:
    return total(*[same(gate) for _ in range(n)])


def diamonds(gate: Future[int], n: int, width: int = 10) -> Any:
    """A chain of diamonds: each one's tasks all depend on the end of the one before."""
    joint: Any = gate
    for _ in range(n // (width + 1)):
        joint = after(*[after(joint) for _ in range(width)])
    return joint


def grid(gate: Future[int], n: int) -> Any:
    """Each task depends on the one above and on the one to the left."""
    side = int(n**0.5)
    row: list[Any] = [gate] * side
    for _ in range(side):
        left: list[Any] = []
        for above in row:
            left.append(after(above, *left[-1:]))
        row = left
    return row[-1]


def memo_hits(gate: Future[int], n: int) -> Any:
    future: Any = cached(gate)
    for _ in range(n):
        future = cached(future)
    return future


class Endless:
    """Every item of it is itself."""

    def __getitem__(self, key: object) -> Endless:
        return self

    @property
    def next(self) -> Endless:
        return self


def lifted(gate: Future[Any], n: int) -> Any:
    future: Any = same(gate)
    for i in range(n // 2):
        future = future[i].next
    return future


def failing_chain(gate: Future[int], n: int) -> Any:
    future: Any = fail(gate)
    for _ in range(n):
        future = same(future)
    return future


class Work:
    """Counts calls of functions in flowcore, and of C functions from there, in this thread and all that start."""

    def __init__(self) -> None:
        self.calls = 0

    def _count(self, frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(PACKAGE):
            self.calls += 1

    def __enter__(self) -> Work:
        threading.setprofile(self._count)
        sys.setprofile(self._count)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def work_of(load: Callable[..., DataFlowKernel], shape: Callable[[Future[Any], int], Future[Any]], n: int) -> int:
    """Return the number of calls that ``n`` tasks of a shape need, from the first to the end of all."""
    with Work() as work:  # before the run, whose threads are to be counted
        dfk = load()
        dfk.wait_for_current_tasks()
        work.calls = 0
        gate: Future[Any] = Future()
        future = shape(gate, n)
        gate.set_result(Endless() if shape is lifted else ValueError("root") if shape is failing_chain else 0)
        future.exception(timeout=WAIT_S)
        dfk.wait_for_current_tasks()
        calls = work.calls
    flowcore.clear()
    return calls


@pytest.mark.parametrize(
    "shape",
    [chain, fan_in, fan_out, foreign_fan_out, diamonds, grid, memo_hits, lifted, failing_chain],
    ids=lambda shape: shape.__name__,
)
def test_twice_the_tasks_are_twice_the_work(load: Callable[..., DataFlowKernel], shape: Any) -> None:
    work_of(load, shape, 10)  # imports, and all that is made once
    once, twice = work_of(load, shape, SOME), work_of(load, shape, TWICE)
    assert once > SOME  # something was counted
    # What is quadratic is four times as much; what is made per run is the same.
    assert twice < 2.5 * once


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(chain, MANY), (fan_in, 0), (fan_out, 0), (foreign_fan_out, 0)],
    ids=["chain", "fan_in", "fan_out", "foreign_fan_out"],
)
def test_100_000_tasks(dfk: DataFlowKernel, shape: Any, expected: int) -> None:
    gate: Future[int] = Future()
    future = shape(gate, MANY)
    assert not future.done()
    gate.set_result(0)
    assert future.result(timeout=WAIT_S) == expected
    assert sum(dfk.task_counts().values()) >= MANY


@pytest.mark.parametrize(
    ("depth", "width"), [(400, 100), (20_000, 2), (2, 20_000)], ids=["400x100", "20_000x2", "2x20_000"]
)
def test_diamonds(dfk: DataFlowKernel, depth: int, width: int) -> None:
    gate: Future[int] = Future()
    future = diamonds(gate, depth * (width + 1), width)
    gate.set_result(0)
    assert future.result(timeout=WAIT_S) == 2 * depth
    assert dfk.task_counts() == {"exec_done": depth * (width + 1)}


def test_layers_in_which_all_depend_on_all(dfk: DataFlowKernel) -> None:
    # 100 tasks in a layer, and 10,000 edges to the next one.
    gate: Future[int] = Future()
    layer: list[Any] = [gate] * 100
    for _ in range(40):
        layer = [after(*layer) for _ in layer]
    gate.set_result(0)
    assert [f.result(timeout=WAIT_S) for f in layer] == [40] * 100


def test_grid(dfk: DataFlowKernel) -> None:
    gate: Future[int] = Future()
    future = grid(gate, 40_000)
    gate.set_result(0)
    assert future.result(timeout=WAIT_S) == 2 * 200 - 1


def test_one_list_of_100_000_in_many_places(dfk: DataFlowKernel) -> None:
    gate: Future[int] = Future()
    futures = [same(gate) for _ in range(MANY)]

    @python_app
    def lengths(*args: Any, inputs: Any = (), **kwargs: Any) -> list[int]:
        return [len(inputs), len(args[0]["deep"][0]), len(args[1]), len(args[2]), len(kwargs), sum(inputs)]

    # A set of values that are all alike has one.
    future = lengths({"deep": [futures]}, set(futures), (*futures,), inputs=futures, named=futures)
    gate.set_result(1)
    assert future.result(timeout=WAIT_S) == [MANY, MANY, 1, MANY, 1, MANY]
    assert all(isinstance(f, Future) for f in futures)


def test_lifted_chain(dfk: DataFlowKernel) -> None:
    endless = Endless()
    gate: Future[Endless] = Future()
    future = lifted(gate, 20_000)
    gate.set_result(endless)
    assert future.result(timeout=WAIT_S) is endless


def test_lifted_items_of_one_future(dfk: DataFlowKernel) -> None:
    numbers = same(list(range(5000)))
    assert total(*[numbers[i] for i in range(5000)]).result(timeout=WAIT_S) == sum(range(5000))


def test_chain_of_100_000_memo_hits(dfk: DataFlowKernel) -> None:
    cached(1).result(timeout=WAIT_S)
    gate: Future[int] = Future()
    future = memo_hits(gate, MANY)
    gate.set_result(1)
    assert future.result(timeout=WAIT_S) == 1
    assert dfk.memo_hits == MANY + 1
    assert dfk.task_counts() == {"exec_done": 1, "memo_done": MANY + 1}


# --- joins


def test_join_of_10_000(dfk: DataFlowKernel) -> None:
    @join_app
    def join() -> Any:
        return [same(i) for i in range(10_000)]

    assert join().result(timeout=WAIT_S) == list(range(10_000))
    assert dfk.task_counts() == {"exec_done": 10_001}


def test_join_of_10_000_that_fail(dfk: DataFlowKernel) -> None:
    @join_app
    def join() -> Any:
        return [fail(ValueError(i)) for i in range(10_000)]

    error = join().exception(timeout=WAIT_S)
    assert isinstance(error, JoinError)
    assert str(error) == (
        "ValueError: 0 in task 1; therefore the join_app of task 0 failed (10000 of its futures failed)"
    )
    assert len(error.dependent_exceptions_tids) == len(error.root_causes) == 10_000


def test_nested_joins(dfk: DataFlowKernel) -> None:
    depth = 5000

    @join_app
    def nest(level: int) -> Any:
        return nest(level - 1) if level else same("bottom")

    assert nest(depth).result(timeout=WAIT_S) == "bottom"
    assert dfk.task_counts() == {"exec_done": depth + 2}


def test_nested_joins_that_fail(dfk: DataFlowKernel) -> None:
    depth = 5000

    @join_app
    def nest(level: int) -> Any:
        return [nest(level - 1), same(level)] if level else fail(ValueError("bottom"))

    error = same(nest(depth)).exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error).startswith("ValueError: bottom in task ")
    assert len(traceback.format_exception(error)) < 50
    assert len(serialize.dumps_exception(error, "")) < 5000


def test_a_tree_of_joins(dfk: DataFlowKernel) -> None:
    @join_app
    def add_up(numbers: list[int]) -> Any:
        if len(numbers) <= 2:
            return total(*numbers)
        middle = len(numbers) // 2
        return total_of(add_up(numbers[:middle]), add_up(numbers[middle:]))

    @join_app
    def total_of(*parts: int) -> Any:
        return total(*parts)

    assert add_up(list(range(2000))).result(timeout=WAIT_S) == sum(range(2000))


# --- what fails in large shapes


def fail_a_chain(n: int) -> list[Any]:
    """Return the futures of a chain of n + 1 tasks, all over, of which the first raised ``ValueError("root")``."""
    gate: Future[Any] = Future()
    futures: list[Any] = [fail(gate)]
    for _ in range(n):
        futures.append(same(futures[-1]))
    gate.set_result(ValueError("root"))
    assert isinstance(futures[-1].exception(timeout=WAIT_S), DependencyError)
    return futures


def test_a_failed_chain_of_100_000(dfk: DataFlowKernel) -> None:
    error = fail_a_chain(MANY)[-1].exception()
    assert dfk.task_counts() == {"failed": 1, "dep_fail": MANY}
    text = f"ValueError: root in task 0; therefore task {MANY} did not run (its failed dependencies: task {MANY - 1})"
    assert str(error) == text
    assert repr(error) == f"DependencyError({text!r})"
    assert [(repr(e), tid) for e, tid in error.root_causes] == [("ValueError('root')", "task 0")]
    shown = "".join(traceback.format_exception(error))
    assert shown.index("ValueError: root") < shown.index(text)
    assert len(shown.splitlines()) < 50
    stream = io.StringIO()
    logging.StreamHandler(stream).handle(
        logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
    )
    assert text in stream.getvalue()
    error.add_note("a note")
    for copied in (
        copy.copy,
        copy.deepcopy,
        lambda e: pickle.loads(pickle.dumps(e)),
        lambda e: serialize.loads(serialize.dumps(e)),
        lambda e: serialize.loads_exception(serialize.dumps_exception(e, "Traceback: there")),
    ):
        twin = copied(error)
        assert type(twin) is DependencyError
        assert str(twin) == text
        assert twin.task_id == MANY
        assert twin.__notes__ == ["a note"]
        assert repr(twin.__cause__) == "ValueError('root')"
        assert [(repr(e), tid) for e, tid in twin.root_causes] == [("ValueError('root')", "task 0")]
        assert [tid for _, tid in twin.dependent_exceptions_tids] == [f"task {MANY - 1}"]
    assert len(pickle.dumps(error)) < 2000  # not the whole chain


def test_a_failed_chain_is_freed(dfk: DataFlowKernel) -> None:
    futures = fail_a_chain(MANY)
    error = futures[-1].exception()
    between = [weakref.ref(future.exception()) for future in futures[10_000::10_000]]
    del futures
    gc.collect()
    # It can be walked, as long as somebody holds its end.
    assert all(ref() is not None for ref in between)
    steps = 0
    while isinstance(error, DependencyError):
        (error, _), *_ = error.dependent_exceptions_tids
        steps += 1
    assert steps == MANY
    del error
    # A thread of the executor may hold the last thing that it did until it gets something else to do.
    flowcore.clear()
    eventually(lambda: gc.collect() >= 0 and [ref() for ref in between] == [None] * len(between), WAIT_S)


def test_every_text_of_a_failed_chain(dfk: DataFlowKernel) -> None:
    # A user prints all failures, the last one first: none of the texts may be found by a walk along the chain.
    n = 3000
    futures = fail_a_chain(n)
    with Work() as work:
        for future in reversed(futures[1:]):
            assert str(future.exception()).startswith("ValueError: root in task 0; ")
    assert work.calls < 100 * n


def test_fan_in_of_100_000_that_fail(dfk: DataFlowKernel) -> None:
    gate: Future[int] = Future()
    futures = [same(gate) for _ in range(MANY)]
    future = same(total(inputs=futures))
    gate.set_exception(ValueError("root"))
    error = future.exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error).startswith("ValueError: root in <Future at ")
    below: Any = error.dependent_exceptions_tids[0][0]
    assert len(below.dependent_exceptions_tids) == MANY
    assert [repr(e) for e, _ in below.root_causes] == ["ValueError('root')"]
    # An error is read by people, and logged.
    assert len(str(below)) < 1000
    assert len("".join(traceback.format_exception(below))) < 10_000
    assert str(pickle.loads(pickle.dumps(below))) == str(below)


def test_fan_in_of_many_causes(dfk: DataFlowKernel) -> None:
    n = 2000
    error = same(total(*[same(fail(ValueError(i))) for i in range(n)])).exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert [e.args for e, _ in error.root_causes] == [(i,) for i in range(n)]
    assert str(error).startswith("ValueError: 0 in task ")
    assert len(str(error)) < 1000


def test_a_failure_in_the_middle_of_a_grid(dfk: DataFlowKernel) -> None:
    side, bad = 60, (20, 30)
    rows: list[list[Any]] = []
    for y in range(side):
        rows.append([])
        for x in range(side):
            near = ([rows[y - 1][x]] if y else []) + ([rows[y][x - 1]] if x else [])
            rows[y].append(total("no number", *near) if (x, y) == bad else after(*near))
    errors = {(x, y): rows[y][x].exception(timeout=WAIT_S) for y in range(side) for x in range(side)}
    failed = {place for place, error in errors.items() if error is not None}
    assert failed == {(x, y) for x in range(bad[0], side) for y in range(bad[1], side)}
    # There are far more ways from the corner to the middle than there are tasks.
    corner = errors[side - 1, side - 1]
    assert isinstance(corner, DependencyError)
    assert [e for e, _ in corner.root_causes] == [errors[bad]]
    assert isinstance(errors[bad], TypeError)


def test_a_chain_that_is_cancelled_in_the_middle(dfk: DataFlowKernel) -> None:
    gate: Future[int] = Future()
    futures: list[Any] = [after(gate)]
    for _ in range(MANY):
        futures.append(after(futures[-1]))
    middle = MANY // 2
    assert futures[middle].cancel()
    error = futures[-1].exception(timeout=WAIT_S)  # though its first half still waits
    assert isinstance(error, DependencyError)
    assert str(error).startswith(f"CancelledError: the future was cancelled in task {middle}; ")
    assert not futures[middle - 1].done()
    gate.set_result(0)
    assert futures[middle - 1].result(timeout=WAIT_S) == middle
    with pytest.raises(CancelledError):
        futures[middle].result(timeout=WAIT_S)
    assert dfk.task_counts() == {"exec_done": middle, "failed": 1, "dep_fail": MANY - middle}


def test_the_end_of_a_run_with_100_000_waiting_tasks(dfk: DataFlowKernel) -> None:
    gate: Future[int] = Future()
    futures: list[Any] = [after(gate)]
    for _ in range(MANY // 2):
        futures.append(after(futures[-1]))
    futures += [after(futures[0]) for _ in range(MANY // 2)]
    dfk.cleanup()
    assert all(isinstance(future.exception(timeout=0), KernelClosedError) for future in futures)
    assert set(dfk.task_counts()) == {"failed"}
    gate.set_result(1)  # nobody listens any more


# --- where dependencies may be


class Counting(Future[Any]):
    """Counts those who want to hear of its end."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners = 0

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        self.listeners += 1
        super().add_done_callback(fn)


@python_app
def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def test_keys_and_frozensets_in_each_other(dfk: DataFlowKernel) -> None:
    one, two = same(1), same(2)
    args, kwargs = arguments(
        {(one, frozenset([two])): {two: frozenset([(one, two)])}},
        frozenset([frozenset([one]), (two, frozenset([frozenset([one, 3])]))]),
        named=[{frozenset([one, two]): {(one,): [({two},)]}}],
    ).result(timeout=WAIT_S)
    assert args == (
        {(1, frozenset([2])): {2: frozenset([(1, 2)])}},
        frozenset([frozenset([1]), (2, frozenset([frozenset([1, 3])]))]),
    )
    assert kwargs == {"named": [{frozenset([1, 2]): {(1,): [({2},)]}}]}


def test_two_keys_that_become_one(dfk: DataFlowKernel) -> None:
    args, _ = arguments({same(1): "first", same(1): "last"}, {same(1), same(1), 1}).result(timeout=WAIT_S)
    assert args == ({1: "last"}, {1})


def test_one_future_in_very_many_places(dfk: DataFlowKernel) -> None:
    n = 20_000
    foreign, own = Counting(), same(2)
    future = total(*[foreign] * n, inputs=[own, foreign] * n)
    assert foreign.listeners == 1
    foreign.set_result(1)
    assert future.result(timeout=WAIT_S) == n + 3 * n
    assert dfk.task_counts() == {"exec_done": 2}


def test_containers_that_many_share(dfk: DataFlowKernel) -> None:
    # Written out, the list has more entries than there is memory for.
    shared: Any = [same(1)]
    for _ in range(60):
        shared = [shared, shared]
    value = same(shared).result(timeout=WAIT_S)
    for _ in range(60):
        value = value[-1]
    assert value == [1]


def nested(inner: Any, depth: int) -> Any:
    for i in range(depth):
        inner = ([inner], (inner,), {"k": inner})[i % 3]
    return inner


def innermost(value: Any) -> Any:
    while isinstance(value, list | tuple | dict):
        value = value["k"] if isinstance(value, dict) else value[0]
    return value


@pytest.mark.parametrize("depth", [10, 5000])
def test_containers_of_any_depth(dfk: DataFlowKernel, depth: int) -> None:
    gate: Future[str] = Future()
    future = same(nested(gate, depth))
    beside, plain = arguments(nested("plain", depth), gate), same(nested("plain", depth))
    gate.set_result("found")
    assert innermost(future.result(timeout=WAIT_S)) == "found"
    (value, _), _ = beside.result(timeout=WAIT_S)
    assert innermost(value) == innermost(plain.result(timeout=WAIT_S)) == "plain"


def test_results_of_any_depth(dfk: DataFlowKernel) -> None:
    deep = nested("bottom", 5000)

    @python_app
    def make() -> Any:
        return deep

    assert same(same(make())).result(timeout=WAIT_S) is deep


def test_results_that_contain_themselves(dfk: DataFlowKernel) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = [loop]

    @python_app
    def make() -> Any:
        return loop

    assert same(make()).result(timeout=WAIT_S) is loop
    assert arguments(make(), [make()]).result(timeout=WAIT_S)[0][1][0] is loop


# --- futures of other systems


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop

    async def ended() -> None:
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(ended(), loop).result(WAIT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT_S)
    loop.close()


def test_coroutines(dfk: DataFlowKernel, loop: asyncio.AbstractEventLoop) -> None:
    async def number(i: int) -> int:
        await asyncio.sleep(0)
        return i

    numbers = [asyncio.run_coroutine_threadsafe(number(i), loop) for i in range(500)]
    assert total(*numbers, inputs=numbers).result(timeout=WAIT_S) == 2 * sum(range(500))


def test_a_coroutine_that_raises(dfk: DataFlowKernel, loop: asyncio.AbstractEventLoop) -> None:
    async def bad() -> int:
        raise OSError("far away")

    error = same([asyncio.run_coroutine_threadsafe(bad(), loop)]).exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error).startswith("OSError: far away in <Future at ")


def test_a_coroutine_that_is_cancelled(dfk: DataFlowKernel, loop: asyncio.AbstractEventLoop) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    far = asyncio.run_coroutine_threadsafe(never(), loop)
    future = same({"k": (far,)})
    assert far.cancel()
    error = future.exception(timeout=WAIT_S)
    assert str(error).startswith("CancelledError: the future was cancelled in <Future at ")


def test_a_join_of_coroutines(dfk: DataFlowKernel, loop: asyncio.AbstractEventLoop) -> None:
    async def number(i: int) -> int:
        return i

    @join_app
    def join() -> Any:
        return [asyncio.run_coroutine_threadsafe(number(i), loop) for i in range(100)]

    assert join().result(timeout=WAIT_S) == list(range(100))


def test_tasks_between_those_of_a_pool(dfk: DataFlowKernel) -> None:
    with ThreadPoolExecutor(2) as pool:
        future: Any = pool.submit(int, 0)
        for _ in range(200):
            future = pool.submit(after(future).result, WAIT_S)
        assert same(future).result(timeout=WAIT_S) == 200


@pytest.mark.parametrize("early", [True, False])
def test_many_foreign_futures_that_are_cancelled(dfk: DataFlowKernel, early: bool) -> None:
    futures: list[Future[int]] = [Future() for _ in range(1000)]

    def cancel() -> None:
        assert all(future.cancel() for future in futures)

    if early:
        cancel()
    task = total(inputs=futures)
    if not early:
        cancel()
    error = task.exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert len(error.dependent_exceptions_tids) == 1000
    assert {type(e) for e, _ in error.root_causes} == {CancelledError}
    assert len(str(error)) < 2000


def test_a_foreign_future_that_ends_while_tasks_come(dfk: DataFlowKernel) -> None:
    # Each one ends at some moment of the call that is given it.
    futures: list[Future[int]] = [Future() for _ in range(3000)]
    ready: queue.SimpleQueue[Future[int] | None] = queue.SimpleQueue()

    def end() -> None:
        while (future := ready.get()) is not None:
            future.set_result(1)

    thread = threading.Thread(target=end)
    thread.start()
    tasks = []
    for future in futures:
        ready.put(future)
        tasks.append(same(future))
    ready.put(None)
    thread.join(WAIT_S)
    assert [task.result(timeout=WAIT_S) for task in tasks] == [1] * 3000


# --- memory

COUNTED = """
import gc, json, resource, sys
from pathlib import Path

import flowcore
from flowcore import Config

@flowcore.python_app
def noop():
    pass

def memory():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc").is_dir() else 0
    return sys.getallocatedblocks(), pages * resource.getpagesize()

waves, wave = int(sys.argv[1]), 10_000
samples = []
with flowcore.load(Config(run_dir=sys.argv[2], initialize_logging=False, garbage_collect=True)) as dfk:
    for number in range(waves + 1):
        if number % (waves // 5) == 0 and number:
            samples.append(memory())
        if number < waves:
            for _ in range(wave):
                noop()
            dfk.wait_for_current_tasks()
    print(json.dumps({"tasks": dfk.task_counts(), "samples": samples}))
"""


def test_memory_does_not_grow_over_a_million_tasks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(COUNTED)
    command = [sys.executable, str(script), "100", str(tmp_path / "runinfo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    found = json.loads(done.stdout)
    assert found["tasks"] == {"exec_done": 1_000_000}
    # The first fifth is warm-up; four more follow.
    (blocks, rss), *_, (last_blocks, last_rss) = found["samples"]
    assert len(found["samples"]) == 5
    further = 800_000
    # One object, however small, that stayed for each task would be 800,000 blocks.
    assert last_blocks - blocks < further / 100
    assert (last_rss - rss) / further < 8


def test_finished_tasks_are_forgotten(load: Callable[..., DataFlowKernel]) -> None:
    dfk = load()
    ids = [future.tid for future in [same(i) for i in range(2000)]]
    dfk.wait_for_current_tasks()
    assert {dfk.kernel.task_status(tid) for tid in ids} == {"unsched"}
    assert dfk.task_counts() == {"exec_done": 2000}


def test_finished_tasks_are_kept_where_wanted(load: Callable[..., DataFlowKernel]) -> None:
    dfk = load(garbage_collect=False)
    ids = [future.tid for future in [same(i) for i in range(2000)]]
    bad = fail(ValueError()).tid
    dfk.wait_for_current_tasks()
    assert {dfk.kernel.task_status(tid) for tid in ids} == {"exec_done"}
    assert dfk.kernel.task_status(bad) == "failed"
    assert dfk.task_counts() == {"exec_done": 2000, "failed": 1}


def test_values_of_tasks_are_not_kept(dfk: DataFlowKernel) -> None:
    class Large:
        pass

    value = Large()
    ref = weakref.ref(value)
    last = same([same(value)])
    dfk.wait_for_current_tasks()
    del value, last
    # A thread may hold the last thing that it did, until it gets something else to do.
    eventually(lambda: same(0).result(timeout=WAIT_S) == 0 and gc.collect() >= 0 and ref() is None)
