"""What users' objects may do to a run: each task comes to an end, and the others do not notice."""

from __future__ import annotations

import concurrent.futures
import math
import threading
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path

import pytest

import flowcore
from flowcore import Config, DataFlowKernel, DataFuture, File, futures, join_app, python_app
from flowcore.errors import ConfigurationError
from flowcore.kernel import checkpoint
from flowcore.testing import eventually

WAIT_S = 60


@python_app
def give(*values):
    return values


# --- arguments


def test_a_list_that_contains_itself_by_the_time_its_call_is_prepared(load):
    dfk = load()
    dependency, values = Future(), [1]
    future = give(dependency, values)
    values.append(values)
    dependency.set_result(1)
    with pytest.raises(ConfigurationError, match="holds a list that contains itself"):
        future.result(timeout=WAIT_S)
    assert dfk.task_counts() == {"failed": 1}


class Unhashable:
    def __hash__(self):
        raise ValueError("no hash today")


@pytest.mark.parametrize("around", [lambda f: {f}, lambda f: frozenset([f]), lambda f: {f: 1}, lambda f: [({f}, 2)]])
def test_a_value_that_raises_where_it_is_to_stand(around, load):
    dfk = load()
    dependency = Future()
    future = give(around(dependency))
    dependency.set_result(Unhashable())
    with pytest.raises(ValueError, match="no hash today"):
        future.result(timeout=WAIT_S)
    assert dfk.task_counts() == {"failed": 1}
    assert give(1).result(timeout=WAIT_S) == (1,)


def test_what_arguments_share_is_shared_in_the_call(load):
    @python_app
    def shared(a, b, c, *, d):
        return a[0], a is b, c[0] is c[1], c[0] is a, d is a

    load()
    dependency = Future()
    dependency.set_result(1)
    for values in ([1], [dependency]):
        assert shared(values, values, [values, values], d=values).result(timeout=WAIT_S) == (1, True, True, True, True)


# --- exceptions


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses a note, as all that would be set on it."""

    number: int


@python_app
def fail():
    raise Frozen(5)


@pytest.mark.parametrize("retries", [0, 2])
def test_an_exception_that_refuses_a_note(retries, load):
    dfk = load(retries=retries)
    with pytest.raises(AttributeError):  # as dataclasses do it
        Frozen(5).add_note("note")
    assert fail().exception(timeout=WAIT_S) == Frozen(5)
    assert dfk.task_counts() == {"failed": 1}


def test_a_retry_handler_that_raises_an_exception_that_refuses_a_note(load):
    def handler(error, task):
        raise Frozen(6)

    dfk = load(retries=1, retry_handler=handler)
    assert fail().exception(timeout=WAIT_S) == Frozen(6)
    assert dfk.task_counts() == {"failed": 1}


# --- joins


def test_a_join_through_another_run_is_no_cycle(tmp_path):
    one, two = (DataFlowKernel(Config(run_dir=tmp_path / name, initialize_logging=False)) for name in ("one", "two"))
    begin, end = threading.Event(), threading.Event()

    @python_app(data_flow_kernel=two)
    def elsewhere(number):
        assert end.wait(WAIT_S)
        return number

    @join_app(data_flow_kernel=one)
    def outer():
        assert begin.wait(WAIT_S)
        return joining

    @join_app(data_flow_kernel=one)
    def inner():
        return others[2]

    @python_app(data_flow_kernel=one)
    def use(value):
        return value

    try:
        others = [elsewhere(number) for number in range(3)]
        waiting = outer()
        joining = inner()
        used = use(waiting)
        # The task of the other run has the number of the one that waits for the join here.
        assert (others[2].tid, waiting.tid, used.tid) == (2, 0, 2)
        eventually(lambda: joining.task_status() == "joining")
        begin.set()
        eventually(lambda: waiting.done() or waiting.task_status() == "joining")
        end.set()
        assert used.result(timeout=WAIT_S) == 2
    finally:
        begin.set()
        end.set()
        one.cleanup()
        two.cleanup()


def test_outputs_of_a_join_app_are_those_of_its_call(load, tmp_path):
    @python_app
    def make(outputs=()):
        Path(outputs[0]).write_text("made")
        return 1

    @join_app
    def plain(name):
        return make(outputs=[File(name)])

    @join_app
    def with_outputs(outputs=()):
        return make(outputs=outputs)

    load()
    path = str(tmp_path / "a")
    for future in (plain(path, outputs=[File(path)]), with_outputs(outputs=[File(path)])):
        assert future.result(timeout=WAIT_S) == 1
        assert Path(future.outputs[0].result(timeout=WAIT_S)).read_text() == "made"


# --- walltimes


@pytest.mark.parametrize("walltime", [math.inf, threading.TIMEOUT_MAX * 2])
def test_a_walltime_of_centuries_is_no_limit(walltime, load):
    @python_app
    def by_default(walltime=walltime):
        return walltime

    load()
    assert give(1, walltime=walltime).result(timeout=WAIT_S) == (1,)
    by_default().result(timeout=WAIT_S)


@pytest.mark.parametrize("walltime", [math.nan, -math.inf, 0, -1])
def test_a_walltime_that_is_no_positive_number_is_refused(walltime, load):
    dfk = load()
    with pytest.raises(ConfigurationError, match=r"app 'give': walltime=\S+: expected a positive number of seconds"):
        give(1, walltime=walltime)
    assert dfk.task_counts() == {}


# --- checkpoints


def test_ctrl_c_while_checkpoint_writes_loses_no_result(load, monkeypatch):
    @python_app(cache=True)
    def square(number):
        return number * number

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    dfk = load(checkpoint_mode="manual")
    assert [square(n).result(timeout=WAIT_S) for n in range(5)] == [0, 1, 4, 9, 16]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.serialize, "dumps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dfk.checkpoint()
    assert dfk.checkpoint() is not None
    run_dir = dfk.run_dir
    flowcore.clear()
    assert sorted(checkpoint.load([run_dir]).values()) == [0, 1, 4, 9, 16]


# --- futures that are made by hand


def test_a_data_future_made_by_hand_calls_back(tmp_path):
    file = File(str(tmp_path / "a"))
    good, bad = DataFuture(Future(), file), DataFuture(Future(), file)
    called: list = []
    for future in (good, bad):
        future.add_done_callback(called.append)
    problem = OSError("no such disk")
    good.set_result(file)
    bad.set_exception(problem)
    assert called == [good, bad]
    good.add_done_callback(called.append)
    assert called == [good, bad, good]
    assert concurrent.futures.wait([good, bad], WAIT_S).done == {good, bad}
    assert good.result() is file
    assert bad.exception() is problem
    for future in (good, bad):
        with pytest.raises(InvalidStateError):
            future.set_result(file)
        with pytest.raises(InvalidStateError):
            future.set_exception(problem)
    assert (good.result(), bad.exception()) == (file, problem)


@pytest.mark.parametrize("how", ["set_result", "set_exception"])
def test_a_callback_cannot_slip_between_the_state_and_the_calls(how, monkeypatch):
    # add_done_callback looks at the state and adds to the list with this lock held; so must be who sets the state.
    lock = threading.Lock()
    monkeypatch.setattr(futures, "_settling", lock)
    held: list = []

    class Watched(DataFuture):
        @property
        def _state(self):
            return self.__dict__["state"]

        @_state.setter
        def _state(self, state):
            held.append(lock.locked())
            self.__dict__["state"] = state

    for somebody_waits in (False, True):
        future = Watched(Future(), "a")
        if somebody_waits:
            assert future._condition
        held.clear()
        getattr(future, how)(OSError("no such disk"))
        assert future.done()
        assert held == [True]
