"""The kernel as users meet it: with threads, and with an executor that does what a test tells it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import queue
import threading
import weakref
from concurrent.futures import CancelledError, Future

import pytest

import flowcore
from flowcore import Config, File, bash_app, join_app, python_app
from flowcore.errors import (
    AppExited,
    ConfigurationError,
    DependencyError,
    KernelClosedError,
    SerializationError,
    UnknownExecutorError,
    UnsupportedResource,
)
from flowcore.plugins.api import AttemptResult, Executor, hookimpl

WAIT_S = 60


class Manual(Executor):
    """Keeps attempts until the test says how they end."""

    def __init__(self, label="manual", cancellable=False):
        self.label = label
        self.cancellable = cancellable
        self.attempts = queue.Queue()
        self.cancelled = []
        self.shut_down = False

    def start(self, context):
        self.context = context

    def submit(self, attempt):
        self.attempts.put(attempt)

    def take(self):
        return self.attempts.get(timeout=WAIT_S)

    def end(self, attempt, value=None, error=None, where=None):
        self.context.report([AttemptResult(attempt.task_id, attempt.try_id, value, error, where)])

    def cancel(self, task_id, try_id):
        self.cancelled.append((task_id, try_id))
        return self.cancellable

    def shutdown(self):
        self.shut_down = True


class Refusing(Manual):
    def __init__(self, error, label="refusing"):
        super().__init__(label)
        self.error = error

    def submit(self, attempt):
        raise self.error


@pytest.fixture
def load(tmp_path):
    def load(**options):
        options.setdefault("initialize_logging", False)
        return flowcore.load(Config(run_dir=tmp_path / "runinfo", **options))

    yield load
    flowcore.clear()


@pytest.fixture
def threads(load):
    return load(executors=[flowcore.ThreadPoolExecutor(max_threads=4)])


@pytest.fixture
def manual(load):
    executor = Manual()
    load(executors=[executor])
    return executor


@python_app
def identity(x):
    return x


@python_app
def add(*parts):
    return sum(parts)


@python_app
def fail(error):
    raise error


@python_app
def first_of(*args, **kwargs):
    return args, kwargs


# --- results and failures


def test_result(threads):
    assert identity(3).result(timeout=WAIT_S) == 3


def test_keyword_arguments(threads):
    assert first_of(1, a=2).result(timeout=WAIT_S) == ((1,), {"a": 2})


def test_exception_is_the_apps_own_with_notes(threads):
    class Mine(ValueError):
        pass

    future = fail(Mine("no"))
    with pytest.raises(Mine) as caught:
        future.result(timeout=WAIT_S)
    assert str(caught.value) == "no"
    (note,) = caught.value.__notes__
    assert note == "flowcore: task 0 (app 'fail'), attempt 1, on executor 'threads'"
    assert future.task_status() == "failed"


def test_the_note_says_where(manual):
    future = identity(1)
    manual.end(manual.take(), error=ValueError("x"), where="block 0, host n1, worker 3")
    (note,) = future.exception(timeout=WAIT_S).__notes__
    assert note.endswith("on executor 'manual', block 0, host n1, worker 3")


def test_exception_without_text_fails_its_task(threads):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert type(fail(Mute()).exception(timeout=WAIT_S)) is Mute


def test_end_of_the_interpreter_in_an_app_fails_the_task_alone(threads):
    # As itself, it would end the program that asks for the result.
    error = fail(SystemExit(3)).exception(timeout=WAIT_S)
    assert isinstance(error, AppExited)
    assert isinstance(error.__cause__, SystemExit)
    assert str(error) == "app 'fail' raised SystemExit(3), which is no Exception; return a value instead"
    assert identity(1).result(timeout=WAIT_S) == 1


@pytest.mark.parametrize(
    "error", [SerializationError("argument 'x'", "no"), UnsupportedResource("refusing", "gpus"), OSError("broken")]
)
def test_what_an_executor_refuses_fails_the_task(load, error):
    load(executors=[Refusing(error)])
    assert identity(1).exception(timeout=WAIT_S) is error


def test_threads_have_no_resources(threads):
    future = identity(1, resource_specification={"cores": 2})
    with pytest.raises(UnsupportedResource, match=r"app 'identity' wants \{'cores': 2\}"):
        future.result(timeout=WAIT_S)


# --- retries


@pytest.mark.parametrize("error", [SerializationError("argument 'x'", "no"), UnsupportedResource("refusing", "gpus")])
def test_what_cannot_pass_is_not_tried_again(load, error):
    asked = []
    load(executors=[Refusing(error)], retries=5, retry_handler=lambda *args: asked.append(args) or 1)
    assert identity(1).exception(timeout=WAIT_S) is error
    assert asked == []
    assert not any("earlier attempts" in note for note in getattr(error, "__notes__", []))


def test_retries_and_their_history(load):
    executor = Manual()
    load(executors=[executor], retries=2)
    future = identity(1)
    for n in range(3):
        attempt = executor.take()
        assert (attempt.task_id, attempt.try_id) == (0, n)
        executor.end(attempt, error=ValueError(f"no {n}"))
    with pytest.raises(ValueError) as caught:
        future.result(timeout=WAIT_S)
    assert str(caught.value) == "no 2"
    assert caught.value.__notes__ == [
        "flowcore: task 0 (app 'identity'), attempt 3, on executor 'manual'",
        "flowcore: earlier attempts of task 0 (app 'identity') failed too: 1: ValueError: no 0; 2: ValueError: no 1",
    ]


def test_retry_that_succeeds(load):
    executor = Manual()
    load(executors=[executor], retries=1)
    future = identity(1)
    executor.end(executor.take(), error=ValueError())
    executor.end(executor.take(), "good")
    assert future.result(timeout=WAIT_S) == "good"
    assert flowcore.dfk().task_counts() == {"exec_done": 1}


def test_retry_of_a_task_with_dependencies_gets_its_values_again(load):
    executor = Manual()
    load(executors=[executor], retries=1)
    dependency: Future[int] = Future()
    dependency.set_result(7)
    future = first_of([dependency])
    executor.end(executor.take(), error=ValueError())
    attempt = executor.take()
    assert attempt.args == ([7],)
    executor.end(attempt, "good")
    assert future.result(timeout=WAIT_S) == "good"


def test_a_late_result_of_an_earlier_attempt_is_ignored(load):
    executor = Manual()
    load(executors=[executor], retries=1)
    future = identity(1)
    lost = executor.take()
    executor.end(lost, error=ValueError())
    again = executor.take()
    executor.end(lost, "late")
    assert not future.done()
    executor.end(again, "good")
    executor.end(again, "twice")
    assert future.result(timeout=WAIT_S) == "good"


def test_retry_handler_is_asked_with_exception_and_task(load):
    seen = []

    def handler(exception, task):
        seen.append((exception, task.spec.app.name, task.id))
        return 0.5

    error = ValueError()
    load(retries=1, retry_handler=handler)
    assert fail(error).exception(timeout=WAIT_S) is error
    assert seen == [(error, "fail", 0)] * 3


def test_retry_handler_that_says_there_is_no_point(load):
    calls = []

    @python_app
    def once():
        calls.append(1)
        raise ValueError

    load(retries=50, retry_handler=lambda exception, task: 100)
    assert isinstance(once().exception(timeout=WAIT_S), ValueError)
    assert calls == [1]


def test_retry_handler_that_raises_aborts_the_task(load):
    def handler(exception, task):
        raise KeyError("handler")

    load(retries=50, retry_handler=handler)
    failure = ValueError("app")
    error = fail(failure).exception(timeout=WAIT_S)
    assert isinstance(error, KeyError)
    assert error.__cause__ is failure
    assert "flowcore: raised by the retry handler, on ValueError: app" in error.__notes__


def test_retry_handler_that_returns_no_number(load):
    load(retries=50, retry_handler=lambda exception, task: "much")
    with pytest.raises(ConfigurationError, match="retry_handler must return a number, got 'much'"):
        fail(ValueError()).result(timeout=WAIT_S)


# --- dependencies


def test_values_are_put_into_containers_at_any_depth(threads):
    one, two = identity(1), identity(2)
    args, kwargs = first_of(
        one, [two, (one, {"k": [two]})], {one, 5}, frozenset([two]), {two: one, "a": {"b": (one,)}}, key=[one]
    ).result(timeout=WAIT_S)
    assert args == (1, [2, (1, {"k": [2]})], {1, 5}, frozenset([2]), {2: 1, "a": {"b": (1,)}})
    assert kwargs == {"key": [1]}


def test_containers_without_futures_are_passed_on_as_they_are(threads):
    holder, plain = [identity(1)], [1, {"a": 2}]
    args, _ = first_of(holder, plain).result(timeout=WAIT_S)
    assert args[1] is plain
    assert isinstance(holder[0], Future)  # the user's own list is left alone


def test_inputs_are_waited_for(threads):
    @python_app
    def total(inputs=()):
        return sum(inputs)

    assert total(inputs=[identity(i) for i in range(4)]).result(timeout=WAIT_S) == 6
    assert total([identity(i) for i in range(4)]).result(timeout=WAIT_S) == 6


def test_inputs_of_a_function_that_has_no_such_parameter_are_not_lost(threads):
    with pytest.raises(TypeError, match="inputs"):
        identity(1, inputs=[identity(2)]).result(timeout=WAIT_S)


def test_a_value_that_does_not_fit_its_place_fails_the_task(threads):
    # A list can be in no set.
    with pytest.raises(TypeError, match="unhashable"):
        first_of({identity([])}).result(timeout=WAIT_S)


def test_a_container_that_holds_itself_is_refused(threads):
    loop: list = []
    loop.append(loop)
    with pytest.raises(ConfigurationError, match="a list that contains itself"):
        identity(loop)


def test_one_object_in_two_places_is_no_loop(threads):
    part = [identity(1)]
    assert first_of([part, part]).result(timeout=WAIT_S)[0] == ([[1], [1]],)


def test_a_task_is_not_submitted_before_its_dependencies_are_done(manual):
    dependency: Future[int] = Future()
    inner = identity(1)
    outer = first_of(inner, dependency)
    attempt = manual.take()
    assert outer.task_status() == "pending"
    manual.end(attempt, "a")
    assert manual.attempts.empty()
    dependency.set_result("b")
    last = manual.take()
    assert last.args == ("a", "b")
    manual.end(last, None)
    assert outer.result(timeout=WAIT_S) is None


@pytest.mark.parametrize("early", [True, False])
def test_future_of_another_system(threads, early):
    foreign: Future[int] = Future()
    if early:
        foreign.set_result(20)
    task = add(foreign, identity(1))
    if not early:
        foreign.set_result(20)
    assert task.result(timeout=WAIT_S) == 21


def test_future_of_another_system_that_fails(threads):
    foreign: Future[int] = Future()
    task = identity(foreign)
    foreign.set_exception(OSError("far away"))
    with pytest.raises(DependencyError, match=r"^OSError: far away in <Future at .*>; therefore task 0 did not run"):
        task.result(timeout=WAIT_S)


def test_future_of_another_system_that_is_cancelled(threads):
    foreign: Future[int] = Future()
    task = identity(foreign)
    foreign.cancel()
    with pytest.raises(DependencyError, match="CancelledError: the future was cancelled in <Future"):
        task.result(timeout=WAIT_S)


def test_failed_dependency(threads):
    task = add(fail(ZeroDivisionError("by zero")), identity(1))
    error = task.exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error) == (
        "ZeroDivisionError: by zero in task 0; therefore task 2 did not run (its failed dependencies: task 0)"
    )
    assert task.task_status() == "dep_fail"
    assert error.__cause__ is error.dependent_exceptions_tids[0][0]
    assert [(type(e), tid) for e, tid in error.root_causes] == [(ZeroDivisionError, "task 0")]


def test_two_failed_dependencies(threads):
    error = add(fail(ValueError("a")), fail(KeyError("b"))).exception(timeout=WAIT_S)
    assert str(error).startswith("ValueError: a in task 0; therefore task 2 did not run")
    assert "its failed dependencies: task 0, task 1" in str(error)
    assert "further causes: KeyError: 'b' in task 1" in str(error)


def test_root_cause_of_a_diamond_is_named_once(threads):
    root = fail(ValueError("root"))
    error = add(identity(root), identity(root)).exception(timeout=WAIT_S)
    assert str(error).count("ValueError: root") == 1


def test_a_failing_chain_names_its_root_first(threads):
    n = 3000
    future = fail(ValueError("root"))
    for _ in range(n):
        future = identity(future)
    error = future.exception(timeout=WAIT_S)
    assert isinstance(error, DependencyError)
    assert str(error) == (
        f"ValueError: root in task 0; therefore task {n} did not run (its failed dependencies: task {n - 1})"
    )
    assert flowcore.dfk().task_counts() == {"failed": 1, "dep_fail": n}


def test_a_failed_task_stops_its_dependents_alone(threads):
    bad, good = fail(ValueError()), identity(1)
    below_bad, below_good = identity(bad), identity(good)
    assert below_good.result(timeout=WAIT_S) == 1
    assert isinstance(below_bad.exception(timeout=WAIT_S), DependencyError)


# --- size


def test_chain_of_20_000(threads):
    future = identity(0)
    for _ in range(20_000):
        future = add(future, 1)
    assert future.result(timeout=WAIT_S) == 20_000


def test_chain_of_memo_hits_through_data_futures(threads, tmp_path):
    @python_app(cache=True)
    def step(previous, outputs=()):
        (tmp_path / "same.txt").touch()
        return 1

    file = File(str(tmp_path / "same.txt"))
    step(file, outputs=[file]).result(timeout=WAIT_S)
    # Each link is a hit, and is set off by the one before: the first one is held back until all are there.
    gate: Future[File] = Future()
    future = step(gate, outputs=[file])
    for _ in range(10_000):
        future = step(future.outputs[0], outputs=[file])
    gate.set_result(file)
    assert future.result(timeout=WAIT_S) == 1
    assert flowcore.dfk().memo_hits == 10_001
    assert flowcore.dfk().task_counts() == {"exec_done": 1, "memo_done": 10_001}


def test_wide_fan_in(threads):
    assert add(*[identity(1) for _ in range(2000)]).result(timeout=WAIT_S) == 2000


def test_submitting_from_many_threads(threads):
    def submit(n):
        return [identity((n, i)) for i in range(200)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [f for part in pool.map(submit, range(8)) for f in part]
    assert len({f.tid for f in futures}) == 1600
    assert {f.result(timeout=WAIT_S) for f in futures} == {(n, i) for n in range(8) for i in range(200)}


# --- cancel


def test_cancel_of_a_waiting_task_and_of_its_dependents(manual):
    dependency: Future[int] = Future()
    waiting = identity(dependency)
    dependent = identity(waiting)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.cancel()  # still true
    with pytest.raises(CancelledError):
        waiting.result(timeout=WAIT_S)
    with pytest.raises(DependencyError, match="CancelledError: the future was cancelled in task 0"):
        dependent.result(timeout=WAIT_S)
    dependency.set_result(1)
    assert manual.attempts.empty()
    assert flowcore.dfk().task_counts() == {"failed": 1, "dep_fail": 1}


@pytest.mark.parametrize("cancellable", [True, False])
def test_cancel_of_a_running_task_is_up_to_its_executor(load, cancellable):
    executor = Manual(cancellable=cancellable)
    load(executors=[executor])
    future = identity(1)
    attempt = executor.take()
    assert future.running()
    assert future.cancel() is cancellable
    assert executor.cancelled == [(0, 0)]
    assert future.cancelled() is cancellable
    executor.end(attempt, "late")
    if cancellable:
        with pytest.raises(CancelledError):
            future.result(timeout=WAIT_S)
    else:
        assert future.result(timeout=WAIT_S) == "late"
    assert not future.running()


def test_cancel_in_threads(load):
    load(executors=[flowcore.ThreadPoolExecutor(max_threads=1)])
    started, release = threading.Event(), threading.Event()

    @python_app
    def hold():
        started.set()
        assert release.wait(WAIT_S)
        return "held"

    running, queued = hold(), identity(1)
    try:
        assert started.wait(WAIT_S)
        assert not running.cancel()
        assert queued.cancel()
        assert not queued.running()
    finally:
        release.set()
    assert running.result(timeout=WAIT_S) == "held"
    assert identity(2).result(timeout=WAIT_S) == 2
    assert flowcore.dfk().executors["threads"].outstanding == 0


def test_cancel_of_what_is_over(threads):
    future = identity(1)
    future.result(timeout=WAIT_S)
    assert not future.cancel()
    assert future.result() == 1


def test_cancelled_task_is_not_retried(load):
    executor = Manual(cancellable=True)
    load(executors=[executor], retries=5)
    future = identity(1)
    executor.take()
    assert future.cancel()
    assert executor.attempts.empty()
    assert flowcore.dfk().task_counts() == {"failed": 1}


def test_concurrent_futures_see_a_cancelled_task(manual):
    never: Future[int] = Future()
    futures = [identity(never), identity(never)]
    seen = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: seen.extend(concurrent.futures.as_completed(futures, timeout=WAIT_S)))
        assert futures[1].cancel()
        assert futures[0].cancel()
        waiting.result(timeout=WAIT_S)
    assert set(seen) == set(futures)


# --- callbacks


def test_callback_that_waits_for_a_new_task(threads):
    got: queue.Queue = queue.Queue()

    def callback(future):
        got.put(identity(future.result() + 1).result(timeout=WAIT_S))

    futures = [identity(i) for i in range(2)]
    for future in futures:
        future.add_done_callback(callback)
    assert sorted([got.get(timeout=WAIT_S), got.get(timeout=WAIT_S)]) == [1, 2]


def test_callback_of_a_dependency_runs_when_the_dependents_are_on_their_way(manual):
    first = identity(1)
    second = identity(first)
    done = threading.Event()

    def callback(future):
        # The dependent was submitted already: a callback that blocks holds nothing up.
        attempt = manual.take()
        manual.end(attempt, "second")
        assert second.result(timeout=WAIT_S) == "second"
        done.set()

    attempt = manual.take()
    first.add_done_callback(callback)
    manual.end(attempt, "first")
    assert done.is_set()


def test_callback_that_raises_is_logged_and_the_others_run(manual, caplog):
    future, called = identity(1), []
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR, "flowcore"):
        manual.end(manual.take(), 1)
    assert called == [future]
    assert "a done-callback of <AppFuture of task 0: exec_done> raised" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_callback_on_what_is_done_runs_at_once(threads):
    future, called = identity(1), []
    future.result(timeout=WAIT_S)
    future.add_done_callback(called.append)
    assert called == [future]


def test_callbacks_that_submit_and_call_back_do_not_recurse(manual):
    depth, last = 3000, threading.Event()

    def again(future):
        n = future.result()
        if n == depth:
            last.set()
        else:
            identity(n + 1).add_done_callback(again)

    future = identity(0)
    future.add_done_callback(again)
    while not last.is_set():
        attempt = manual.take()
        manual.end(attempt, attempt.args[0])


# --- end of a run


def test_cleanup_fails_what_is_not_over(load):
    executor = Manual()
    dfk = load(executors=[executor])
    never: Future[int] = Future()
    launched, waiting = identity(1), identity(never)
    below = identity(waiting)
    executor.take()
    dfk.cleanup()
    assert executor.shut_down
    for future, state in ((launched, "launched"), (waiting, "pending"), (below, "pending")):
        with pytest.raises(KernelClosedError) as caught:
            future.result(timeout=WAIT_S)
        assert str(caught.value) == f"task {future.tid} (app 'identity') was {state} when its run was cleaned up"
    assert dfk.task_counts() == {"failed": 3}
    never.set_result(1)
    executor.context.report([AttemptResult(0, 0, "late")])  # ignored, and no error


def test_call_after_cleanup(load):
    dfk = load()
    dfk.cleanup()
    with pytest.raises(KernelClosedError) as caught:
        identity(1)
    assert str(caught.value) == (
        "app 'identity' was called after its run was cleaned up; "
        "call it inside `with flowcore.load(...)`, or load again"
    )


def test_calls_that_race_with_cleanup_end(load):
    dfk = load()
    futures: list[Future] = []
    closed = threading.Event()

    def submit():
        try:
            while not closed.is_set() or len(futures) < 10:
                futures.append(identity(len(futures)))
        except KernelClosedError:
            pass

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(futures) < 50:
        closed.wait(0.001)
    dfk.cleanup()
    closed.set()
    for thread in threads:
        thread.join(WAIT_S)
    not_done = concurrent.futures.wait(futures, timeout=WAIT_S).not_done
    assert not_done == set()


def test_wait_for_current_tasks(manual):
    futures = [identity(i) for i in range(3)]
    waited = threading.Event()

    def wait():
        flowcore.wait_for_current_tasks()
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    for n in range(3):
        assert not waited.is_set()
        manual.end(manual.take(), error=ValueError() if n else None)
    assert waited.wait(WAIT_S)
    thread.join(WAIT_S)
    assert all(f.done() for f in futures)


def test_wait_for_current_tasks_waits_for_no_later_ones(manual):
    old = identity(1)
    attempt = manual.take()
    waiting, waited = threading.Event(), threading.Event()

    def wait():
        waiting.set()
        flowcore.wait_for_current_tasks()
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(WAIT_S)
    manual.end(attempt, 1)
    assert old.result(timeout=WAIT_S) == 1
    assert waited.wait(WAIT_S)
    thread.join(WAIT_S)
    later = identity(2)
    manual.end(manual.take(), 2)
    assert later.result(timeout=WAIT_S) == 2


def test_task_counts(manual):
    never: Future[int] = Future()
    identity(never)
    good, bad = identity(1), identity(2)
    running = identity(3)
    assert flowcore.dfk().task_counts() == {"pending": 1, "launched": 3}
    manual.end(manual.take(), 1)
    manual.end(manual.take(), error=ValueError())
    last = manual.take()
    manual.context.running([(last.task_id, last.try_id)])
    assert running.task_status() == "running"
    assert running.running()
    assert flowcore.dfk().task_counts() == {"pending": 1, "running": 1, "exec_done": 1, "failed": 1}
    assert (good.task_status(), bad.task_status()) == ("exec_done", "failed")


# --- executors


def test_an_app_runs_where_it_says(load):
    one, two = Manual("one"), Manual("two")
    load(executors=[one, two])
    pinned = python_app(identity.__wrapped__, executors=["two"])
    futures = [pinned(i) for i in range(20)]
    for future in futures:
        two.end(two.take(), "two")
        assert future.result(timeout=WAIT_S) == "two"
    assert one.attempts.empty()


def test_an_app_that_says_nothing_runs_anywhere(load):
    one, two = Manual("one"), Manual("two")
    load(executors=[one, two])
    for i in range(200):
        identity(i)
    assert one.attempts.qsize() + two.attempts.qsize() == 200
    assert one.attempts.qsize() > 0
    assert two.attempts.qsize() > 0


def test_an_executor_that_is_not_there(load):
    load(executors=[Manual("alpha"), Manual("beta")])
    app = python_app(identity.__wrapped__, executors=["alpa"])
    with pytest.raises(UnknownExecutorError) as caught:
        app(1)
    assert str(caught.value) == (
        "app 'identity' wants executor 'alpa', which the configuration does not have (did you mean 'alpha'?); "
        "its executors: alpha, beta"
    )


def test_add_executors(manual):
    late = Manual("late")
    flowcore.dfk().add_executors([late])
    app = python_app(identity.__wrapped__, executors="late")
    future = app(1)
    late.end(late.take(), "late")
    assert future.result(timeout=WAIT_S) == "late"
    with pytest.raises(ConfigurationError, match="there is an executor with the label 'late' already"):
        flowcore.dfk().add_executors([Manual("late")])


def test_attempts_are_what_the_contract_says(manual):
    future = first_of(1, resource_specification={"cores": 2}, key="x")
    attempt = manual.take()
    assert attempt.app_name == "first_of"
    assert attempt.args == (1,)
    assert attempt.kwargs == {"key": "x"}
    assert attempt.resource_specification == {"cores": 2}
    assert attempt.func(*attempt.args, **attempt.kwargs) == ((1,), {"key": "x"})
    manual.end(attempt, 1)
    assert future.result(timeout=WAIT_S) == 1


def test_hints_of_plugins_become_notes(load):
    class Hints:
        @hookimpl
        def flowcore_failure_hints(self, error, app_name, executor):
            return f"try more memory for {app_name} on {executor}" if isinstance(error, MemoryError) else None

    load(hooks=[Hints()])
    error = fail(MemoryError()).exception(timeout=WAIT_S)
    assert error.__notes__[-1] == "flowcore: try more memory for fail on threads"
    assert len(fail(ValueError()).exception(timeout=WAIT_S).__notes__) == 1


def test_a_hook_that_raises_breaks_nothing(load, caplog):
    class Broken:
        @hookimpl
        def flowcore_failure_hints(self, error, app_name, executor):
            raise RuntimeError("hook")

    load(hooks=[Broken()])
    with caplog.at_level(logging.ERROR, "flowcore"):
        assert isinstance(fail(ValueError()).exception(timeout=WAIT_S), ValueError)
    assert "hook flowcore_failure_hints of plugin 'Broken' raised" in caplog.text


# --- memory


class Big:
    pass


def test_arguments_and_results_are_let_go(load):
    executor = Manual()
    load(executors=[executor])
    big = Big()
    gone = weakref.ref(big)
    future = first_of(big, [big], key=big)
    below = first_of(future, big)
    del big
    attempt = executor.take()
    executor.end(attempt, 1)
    del attempt
    attempt = executor.take()
    executor.end(attempt, 2)
    del attempt
    assert below.result(timeout=WAIT_S) == 2
    gc.collect()
    assert gone() is None
    assert future.result() == 1


def test_records_of_finished_tasks_are_forgotten(load):
    executor = Manual()
    dfk = load(executors=[executor])
    futures = [identity(i) for i in range(10)]
    for _ in range(9):
        executor.end(executor.take(), 1)
    assert dfk.kernel.unfinished() == 1
    assert [f.task_status() for f in futures] == ["exec_done"] * 9 + ["launched"]


def test_a_future_that_is_dropped_lets_its_result_go(manual):
    future = identity(1)
    attempt = manual.take()
    result = Big()
    gone = weakref.ref(result)
    manual.end(attempt, result)
    del attempt, result, future
    gc.collect()
    assert gone() is None


# --- AppFuture, as the kernel makes it


async def test_app_futures_can_be_awaited(threads):
    assert await identity(3) == 3
    assert await asyncio.gather(*(identity(i) for i in range(10))) == list(range(10))
    with pytest.raises(ZeroDivisionError):
        await fail(ZeroDivisionError())


async def test_cancelling_what_awaits_cancels_the_task(manual):
    never: Future[int] = Future()
    future = identity(never)

    async def wait():
        return await future

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert future.cancelled()


def test_lifted_items_and_attributes(threads):
    class Point:
        def __init__(self, x):
            self.x = x
            self._hidden = 1

    nested = identity({"a": [Point(5), Point(6)]})
    assert nested["a"][1].x.result(timeout=WAIT_S) == 6
    assert add(nested["a"][0].x, 1).result(timeout=WAIT_S) == 6
    with pytest.raises(KeyError):
        nested["b"].result(timeout=WAIT_S)
    with pytest.raises(AttributeError, match="nothing"):
        nested.nothing.result(timeout=WAIT_S)
    with pytest.raises(DependencyError, match=r"^KeyError: 'b'"):
        nested["b"]["c"].result(timeout=WAIT_S)


def test_private_names_are_not_lifted(threads):
    future = identity(1)
    with pytest.raises(AttributeError, match="names that begin with _ are not lifted"):
        future._hidden  # noqa: B018
    assert not hasattr(future, "__len__")
    future.result(timeout=WAIT_S)
    assert flowcore.dfk().task_counts() == {"exec_done": 1}  # asking made no task


def test_app_futures_are_not_iterable(threads):
    with pytest.raises(TypeError, match="not iterable"):
        list(identity([1]))


def test_wait_and_as_completed(threads):
    futures = [identity(i) for i in range(20)] + [fail(ValueError())]
    done, not_done = concurrent.futures.wait(futures, timeout=WAIT_S)
    assert (len(done), not_done) == (21, set())
    more = [identity(i) for i in range(20)]
    assert {f.result() for f in concurrent.futures.as_completed(more, timeout=WAIT_S)} == set(range(20))


def test_wait_for_the_first_exception(manual):
    futures = [identity(i) for i in range(3)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            concurrent.futures.wait, futures, timeout=WAIT_S, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        manual.end(manual.take(), error=ValueError())
        done, not_done = waiting.result(timeout=WAIT_S)
    assert done == {futures[0]}
    assert len(not_done) == 2


def test_result_with_a_timeout(manual):
    future = identity(1)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    manual.end(manual.take(), 1)
    assert future.exception(timeout=WAIT_S) is None


def test_task_numbers_and_repr(manual):
    futures = [identity(i) for i in range(3)]
    assert [f.tid for f in futures] == [0, 1, 2]
    assert repr(futures[1]) == "<AppFuture of task 1: launched>"
    manual.take()
    manual.end(manual.take(), 1)
    assert repr(futures[1]) == "<AppFuture of task 1: exec_done>"
    assert not futures[1].running()


def test_outputs_of_a_task(manual, tmp_path):
    @python_app
    def make(outputs=()):
        raise AssertionError("the executor of this test runs nothing")

    files = [File(str(tmp_path / name)) for name in "ab"]
    future = make(outputs=files)
    assert [o.file_obj for o in future.outputs] == files
    assert [o.tid for o in future.outputs] == [0, 0]
    reader = identity(future.outputs[1])
    assert not future.outputs[0].done()
    assert future.outputs[0].running()
    manual.end(manual.take(), "made")
    assert future.outputs[0].result(timeout=WAIT_S) is files[0]
    attempt = manual.take()
    assert attempt.args[0].url == files[1].url
    manual.end(attempt, 1)
    assert reader.result(timeout=WAIT_S) == 1
    assert identity(1).outputs == []


def test_outputs_of_a_failed_and_of_a_cancelled_task(manual, tmp_path):
    @python_app
    def make(wait, outputs=()):
        raise AssertionError("the executor of this test runs nothing")

    file = File(str(tmp_path / "a"))
    failed = make(1, outputs=[file])
    error = ValueError()
    manual.end(manual.take(), error=error)
    assert failed.outputs[0].exception(timeout=WAIT_S) is error
    never: Future[int] = Future()
    cancelled = make(never, outputs=[file])
    assert cancelled.outputs[0].cancel()
    assert cancelled.cancelled()
    assert cancelled.outputs[0].cancelled()
    assert concurrent.futures.wait(cancelled.outputs, timeout=WAIT_S).not_done == set()


def test_outputs_given_by_position(threads, tmp_path):
    @python_app
    def make(text, outputs):
        for output in outputs:
            with open(output, "w") as file:
                file.write(text)

    future = make("hello", [File(str(tmp_path / "a.txt"))])
    assert future.outputs[0].result(timeout=WAIT_S).filepath == str(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "hello"


def test_all_kinds_of_apps_share_one_graph(threads, tmp_path):
    @bash_app
    def write(text, outputs=()):
        return f"printf %s {text} > {outputs[0]}"

    @python_app
    def read(path):
        with open(path) as file:
            return file.read()

    @join_app
    def both(text):
        return [identity(text), identity(len(text))]

    written = write(identity("word"), outputs=[File(str(tmp_path / "w.txt"))])
    assert both(read(written.outputs[0])).result(timeout=WAIT_S) == ["word", 4]
