"""join_apps: code that calls apps, and whose result is what those give."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

import flowcore
from flowcore import Config, join_app, python_app
from flowcore.errors import AppTimeout, DependencyCycle, DependencyError, JoinError, JoinTypeError
from flowcore.testing import eventually

WAIT_S = 60


@pytest.fixture(autouse=True)
def run(tmp_path):
    with flowcore.load(Config(run_dir=tmp_path / "runinfo", initialize_logging=False, retries=0)) as dfk:
        yield dfk


@python_app
def double(x):
    return 2 * x


@python_app
def fail(error):
    raise error


def test_one_future():
    @join_app
    def join(x):
        return double(x)

    assert join(double(2)).result(timeout=WAIT_S) == 8


def test_a_choice_that_depends_on_a_value():
    @join_app
    def process(x):
        return double(x) if x > 0 else double(-x)

    @python_app
    def post(x):
        return str(x)

    assert post(process(double(-3))).result(timeout=WAIT_S) == "12"


def test_a_list_keeps_its_order():
    @join_app
    def join():
        return [double(i) for i in range(50)]

    assert join().result(timeout=WAIT_S) == [2 * i for i in range(50)]


def test_an_empty_list():
    @join_app
    def join():
        return []

    assert join().result(timeout=WAIT_S) == []


def test_one_future_twice():
    @join_app
    def join():
        future = double(2)
        return [future, future]

    assert join().result(timeout=WAIT_S) == [4, 4]


def test_futures_of_another_system():
    far, near = Future(), Future()
    near.set_result("near")

    @join_app
    def join():
        return [far, near, double(1)]

    joined = join()
    far.set_result("far")
    assert joined.result(timeout=WAIT_S) == ["far", "near", 2]


def test_a_waiting_join_holds_no_worker_and_says_joining(run):
    far, entered = Future(), threading.Event()

    @join_app
    def join():
        entered.set()
        return far

    # More joins than there are threads to run them.
    joins = [join() for _ in range(50)]
    assert entered.wait(WAIT_S)
    assert double(4).result(timeout=WAIT_S) == 8
    below = double(joins[0])
    far.set_result(21)
    assert below.result(timeout=WAIT_S) == 42
    assert [j.result(timeout=WAIT_S) for j in joins] == [21] * 50
    assert run.task_counts() == {"exec_done": 52}


def test_state_of_a_waiting_join():
    class Told(Future):
        """Says when somebody waits for it, which the kernel does in the state ``joining``."""

        def __init__(self):
            super().__init__()
            self.watched = threading.Event()

        def add_done_callback(self, fn):
            super().add_done_callback(fn)
            self.watched.set()

    far = Told()

    @join_app
    def join():
        return far

    joined = join()
    assert far.watched.wait(WAIT_S)
    assert joined.task_status() == "joining"
    assert not joined.running()
    far.set_result(1)
    assert joined.result(timeout=WAIT_S) == 1
    assert joined.task_status() == "exec_done"


def test_nested_500_deep():
    @join_app
    def nest(depth):
        return nest(depth - 1) if depth else double(21)

    assert nest(500).result(timeout=WAIT_S) == 42


def test_over_2000_inner_tasks():
    @join_app
    def join():
        return [double(i) for i in range(2000)]

    assert sum(join().result(timeout=WAIT_S)) == 2 * sum(range(2000))


# --- failures


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "got None of type NoneType"),
        (3, "got 3 of type int"),
        ("text", "got 'text' of type str"),
        ([3], "got a list with 3 of type int"),
        ([None], "got a list with None of type NoneType"),
        ((), "got () of type tuple"),
    ],
)
def test_what_is_no_future(returned, what, run):
    @join_app
    def join():
        return returned

    error = join().exception(timeout=WAIT_S)
    assert isinstance(error, JoinTypeError)
    assert isinstance(error, TypeError)
    assert str(error) == (
        f"join_app 'join' must return a future or a list of futures, {what}. "
        "Return what calling an app gives; a plain value is the business of a python_app"
    )
    assert run.task_counts() == {"failed": 1}


def test_one_that_is_no_future_among_good_ones():
    @join_app
    def join():
        return [double(1), 5, double(2)]

    with pytest.raises(JoinTypeError, match="a list with 5 of type int"):
        join().result(timeout=WAIT_S)


def test_an_object_that_cannot_even_be_shown():
    class Mute:
        def __repr__(self):
            raise RuntimeError("no repr")

    @join_app
    def join():
        return Mute()

    with pytest.raises(JoinTypeError, match="got an object of type Mute"):
        join().result(timeout=WAIT_S)


def test_its_own_future():
    known: dict[str, Future] = {}
    there = threading.Event()

    @join_app
    def join():
        assert there.wait(WAIT_S)
        return known["self"]

    known["self"] = join()
    there.set()
    error = known["self"].exception(timeout=WAIT_S)
    assert isinstance(error, DependencyCycle)
    assert str(error).startswith(
        "task 0 (app 'join') would wait for itself for ever: its join_app returned its own future."
    )


def test_joins_that_wait_for_each_other():
    known: dict[str, Future] = {}
    there = threading.Event()

    @python_app
    def plus_one(x):
        return x + 1

    @join_app
    def join(other):
        assert there.wait(WAIT_S)
        return known[other]

    known["a"] = join("b")
    known["b+1"] = plus_one(join("a"))
    known["b"] = plus_one(known["b+1"])
    there.set()
    errors = [known[name].exception(timeout=WAIT_S) for name in ("a", "b")]
    cycles = [e for error in errors for e, _ in getattr(error, "root_causes", [(error, None)])]
    assert all(isinstance(c, DependencyCycle) for c in cycles)
    assert "which waits for task" in str(cycles[0])


def test_a_list_that_is_changed_after_the_join_returned_it():
    futures = []
    first = Future()

    @join_app
    def join():
        futures.append(first)
        return futures

    joined = join()
    eventually(lambda: joined.task_status() == "joining", what="the join")
    futures.append(Future())
    first.set_result(1)
    assert joined.result(timeout=WAIT_S) == [1]


def test_code_that_raises():
    @join_app
    def join():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        join().result(timeout=WAIT_S)


def test_one_inner_failure():
    @join_app
    def join():
        return fail(ValueError("inner"))

    error = join().exception(timeout=WAIT_S)
    assert isinstance(error, JoinError)
    assert str(error) == (
        "ValueError: inner in task 1; therefore the join_app of task 0 failed (1 of its futures failed)"
    )
    assert isinstance(error.__cause__, ValueError)


def test_inner_failures_wait_for_all():
    release, ran = threading.Event(), threading.Event()

    @python_app
    def slow():
        assert release.wait(WAIT_S)
        ran.set()

    @join_app
    def join():
        return [double(1), fail(ValueError("a")), fail(KeyError("b")), slow()]

    joined = join()
    release.set()
    error = joined.exception(timeout=WAIT_S)
    assert ran.is_set()
    assert [type(e) for e, _ in error.dependent_exceptions_tids] == [ValueError, KeyError]
    assert "(2 of its futures failed)" in str(error)


def test_root_cause_through_joins_and_dependencies():
    @join_app
    def join():
        return double(fail(ValueError("root")))

    error = double(join()).exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error).startswith("ValueError: root in task ")
    assert len(error.root_causes) == 1


def test_cancelled_inner_future():
    far = Future()

    @join_app
    def join():
        return far

    joined = join()
    far.cancel()
    with pytest.raises(JoinError, match="CancelledError: the future was cancelled"):
        joined.result(timeout=WAIT_S)


def test_cancelling_a_join_that_waits():
    far, entered = Future(), threading.Event()

    @join_app
    def join():
        return far

    far_watched = entered
    original = far.add_done_callback

    def told(fn):
        original(fn)
        far_watched.set()

    far.add_done_callback = told
    joined = join()
    assert entered.wait(WAIT_S)
    assert joined.cancel()
    assert joined.cancelled()
    far.set_result(1)


def test_code_of_a_join_is_retried_and_what_it_joins_is_not(tmp_path):
    flowcore.clear()
    calls = []

    @join_app
    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("once")
        return fail(ValueError("inner"))

    with flowcore.load(Config(run_dir=tmp_path / "again", initialize_logging=False, retries=1)):
        error = flaky().exception(timeout=WAIT_S)
    assert isinstance(error, JoinError)
    assert calls == [1, 1]


def test_memoized_join(run):
    calls = []

    @join_app(cache=True)
    def join(x):
        calls.append(x)
        return [double(x)]

    assert join(3).result(timeout=WAIT_S) == [6]
    assert join(3).result(timeout=WAIT_S) == [6]
    assert calls == [3]
    assert run.memo_hits == 1


def test_walltime_limits_its_own_code():
    release = threading.Event()

    @join_app
    def slow(walltime=0.05):
        release.wait(WAIT_S)
        return double(1)

    with pytest.raises(AppTimeout, match="app 'slow' ran longer than its walltime of 0.05 s"):
        slow().result(timeout=WAIT_S)
    release.set()


def test_walltime_does_not_limit_what_it_waits_for():
    never = Future()

    @join_app
    def quick(walltime=0.05):
        return never

    waiting = quick()
    eventually(lambda: waiting.task_status() == "joining", what="the join")
    assert not waiting.done()
    never.set_result(3)
    assert waiting.result(timeout=WAIT_S) == 3
