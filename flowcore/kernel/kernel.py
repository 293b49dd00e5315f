"""The shell around the state machine: locks, clocks, futures, executors and user code.

Rules of this module. Events are handled by the thread that posts them, under one lock that is held only inside
the machine; there is no kernel thread (a hop to one costs more than all that it would do, see ARCHITECTURE.md).
Actions are performed without the lock. An event that comes up while this thread performs actions waits in the
thread's own queue, so a chain of any length does not recurse. Done-callbacks of users run last, when all
actions are done: one that blocks holds nothing up.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flowcore.errors import (
    AppExited,
    ConfigurationError,
    DependencyError,
    JoinError,
    JoinTypeError,
    KernelClosedError,
    UnknownExecutorError,
    add_note,
    describe,
    note_for,
)
from flowcore.files import AUTO_LOGNAME, STREAMS, stream_file
from flowcore.futures import AppFuture, DataFuture, KernelFuture
from flowcore.kernel import arguments, machine, staging
from flowcore.kernel.calls import call_of
from flowcore.kernel.checkpoint import CheckpointFile
from flowcore.kernel.memo import MISSING, Memoizer
from flowcore.kernel.states import FINAL, States
from flowcore.kernel.task import AppInfo, RetryHandler, Task, TaskSpec
from flowcore.plugins.component import close_match
from flowcore.plugins.executor import Attempt, AttemptResult, Executor

logger = logging.getLogger(__name__)

#: Label of the executor for join_apps, lifted operators and staging on this side.
INTERNAL = "_flowcore_internal"

#: Returns a sentence on what to try about a failure, or nothing.
Hinter = Callable[[BaseException, str, "str | None"], Sequence[str]]


class _ThreadState(threading.local):
    """What one thread is doing for the kernel."""

    def __init__(self) -> None:
        self.acting = False
        #: Events that came up while the thread performs actions.
        self.events: deque[machine.Event] = deque()
        self.calling = False
        #: Settled futures whose callbacks the thread is to run.
        self.callbacks: deque[KernelFuture[Any]] = deque()


class Kernel:
    """Runs tasks: takes calls in, gives attempts to executors, settles futures.

    Args:
        executors: started or soon-to-be-started executors by label, with one labelled :data:`INTERNAL`.
        run_dir: the run directory.
        retries: budget of failure costs per task.
        retry_handler: decides the cost of a failure; None: each costs 1.
        memoizer: known results; None: nothing is memoized.
        checkpoint: where results go; None: nowhere.
        checkpoint_at_once: write each result as it comes; else on :meth:`checkpoint`.
        garbage_collect: forget tasks that are over.
        tell_steps: whether somebody takes the steps that tasks make, with :meth:`take_steps`.
        hints: asked for advice on failures.
    """

    def __init__(
        self,
        executors: Mapping[str, Executor],
        run_dir: Path,
        *,
        retries: float = 0,
        retry_handler: RetryHandler | None = None,
        memoizer: Memoizer | None = None,
        checkpoint: CheckpointFile | None = None,
        checkpoint_at_once: bool = False,
        garbage_collect: bool = True,
        tell_steps: bool = False,
        hints: Hinter | None = None,
    ) -> None:
        self.executors = executors
        self.run_dir = run_dir
        #: Set by the session once it has the stagers; files are an error before.
        self.staging: staging.DataManager | None = None
        self.memo_hits = 0
        self._retry_handler = retry_handler
        self._memoizer = memoizer
        self._checkpoint = checkpoint
        self._checkpoint_at_once = checkpoint_at_once
        #: A deque: threads add to it at any time.
        self._unwritten: deque[tuple[str, Any]] = deque()
        #: Held while results are written: a checkpoint() that finds nothing to do waits for the one that took it.
        self._writing = threading.Lock()
        self._tell_steps = tell_steps
        self._hints = hints
        self._ids = itertools.count()
        # Reentrant: a signal handler of the user may ask for counts while this thread is in the machine.
        self._lock = threading.RLock()
        self._thread = _ThreadState()
        self._closed = False
        self._retries = retries
        self._machine = machine.Machine(retries, retry_handler is not None, not garbage_collect, tell_steps)
        self._perform: dict[type, Callable[[Any], None]] = {
            machine.Submit: self._submit,
            machine.Settle: self._settle,
            machine.Prepare: self._prepare,
            machine.FinishStaging: self._finish_staging,
            machine.Watch: self._watch,
            machine.BeginJoin: self._begin_join,
            machine.CollectJoin: self._collect_join,
            machine.CollectStageOuts: self._collect_stage_outs,
            machine.AskRetryCost: self._ask_retry_cost,
            machine.TellStagers: self._tell_stagers,
            machine.CancelAttempt: self._cancel_attempt,
        }
        self._labels: list[str] = []
        self._lone: str | None = None
        self.executors_changed()

    # --- for the session and the apps

    def executors_changed(self) -> None:
        """Take notice of executors that were added."""
        self._labels = [label for label in self.executors if label != INTERNAL]
        self._lone = self._labels[0] if len(self._labels) == 1 else None

    def submit(self, spec: TaskSpec) -> AppFuture[Any]:
        """Take one call in and return its future at once. From any thread.

        Raises:
            UnknownExecutorError: the app names an executor that is not there.
            ConfigurationError: an argument is a container that contains itself, or an output is no File.
            KernelClosedError: the run was cleaned up.
        """
        if self._closed:
            raise KernelClosedError(
                f"app {spec.app.name!r} was called after its run was cleaned up; "
                "call it inside `with flowcore.load(...)`, or load again"
            )
        app = spec.app
        if app.executors is not None:
            self._check_labels(app)
        found = arguments.find(spec.args, spec.kwargs)
        if found is not None and found.nested:
            # What the user does to a list afterwards (append this call's own future, say) is not part of the call.
            spec.args, spec.kwargs = arguments.snapshot_all(spec.args, spec.kwargs)
        task_id = next(self._ids)
        future: AppFuture[Any] = AppFuture(task_id, self)
        memoized = app.cache and self._memoizer is not None
        needs_preparing = memoized or (found is not None and bool(found.files or found.futures))
        task = Task(task_id, spec, future, spec.func, spec.args, spec.kwargs, needs_preparing)
        if app.kind == "bash" and ("stdout" in spec.kwargs or "stderr" in spec.kwargs):
            self._name_logs(task)
        if spec.outputs:
            task.needs_preparing = needs_preparing = True
            future._outputs = [DataFuture(future, file, task_id) for file in spec.outputs]
        if not needs_preparing:
            task.executor = self._choose(app)
        if self._tell_steps and (needs_preparing or spec.kwargs):
            task.call = call_of(spec)
        self._post(machine.Submitted(task, () if found is None else found.futures, time.time()))
        return future

    def report(self, results: Sequence[AttemptResult]) -> None:
        """Take the outcomes of attempts in. Executors call this, from any thread."""
        try:
            for result in results:
                if result.error is not None:
                    self._note_failure(result)
            self._post(machine.AttemptsEnded(results, time.time()))
        except Exception:
            # The executor's thread must live on; a defect here is this module's.
            logger.exception("handling the results of %d attempts failed", len(results))

    def attempts_running(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Take notice of attempts that began to run. Executors call this, from any thread."""
        self._post(machine.AttemptsRunning(attempts, time.time()))

    def tasks(self) -> list[Task]:
        """Return the records of the tasks that are not over, or of all if they are kept. To be read only."""
        return list(self._machine.tasks.values())

    def take_steps(self, held_s: float) -> list[Any]:
        """Return the changes of tasks' states since the last call: see :meth:`machine.Machine.take_steps`."""
        with self._lock:
            return self._machine.take_steps(time.time(), held_s)

    def task_status(self, task_id: int) -> str:
        """Return the name of a task's state; ``unsched`` for one that is not known (any more)."""
        task = self._machine.tasks.get(task_id)
        return (task.state if task is not None else States.unsched).name

    def task_counts(self) -> dict[str, int]:
        """Return the number of tasks in each state, for the states that occur."""
        with self._lock:
            return {state.name: n for state, n in self._machine.counts.items() if n}

    def unfinished(self) -> int:
        """Return the number of tasks that are not over."""
        return self._machine.unfinished

    def cancel_task(self, task_id: int) -> bool:
        """Cancel a task if possible; returns whether it is cancelled now."""
        task = self._machine.tasks.get(task_id)
        if task is None:
            return False
        self._post(machine.CancelRequested(task_id, time.time()))
        return task.cancelled

    def lift(self, function: Callable[[Any, Any], Any], future: AppFuture[Any], key: Any) -> AppFuture[Any]:
        """Return a future of ``function(result, key)``, computed in this process when the result is there."""
        name = getattr(function, "__name__", "lifted")
        app = AppInfo(name, "internal", function, function, executors=(INTERNAL,))
        return self.submit(TaskSpec(app, function, (future, key), {}))

    def run_internal(self, function: Callable[..., Any], args: tuple[Any, ...], executor: str | None) -> AppFuture[Any]:
        """Submit a task of the core's own (staging); ``executor`` None: in a thread of this process."""
        name = getattr(function, "__name__", type(function).__name__)
        app = AppInfo(name, "internal", function, function, executors=(executor or INTERNAL,))
        return self.submit(TaskSpec(app, function, args, {}))

    def wait_for_current_tasks(self) -> None:
        """Wait until all tasks that are known now are over; later ones are not waited for."""
        futures.wait([task.future for task in self.tasks()])

    def checkpoint(self) -> Path | None:
        """Write all results that are not written yet.

        Returns:
            The checkpoint folder; None if the run has no checkpoints.
        """
        if self._checkpoint is None:
            return None
        with self._writing:
            results: list[tuple[str, Any]] = []
            while self._unwritten:
                results.append(self._unwritten.popleft())
            try:
                self._checkpoint.append(results)
            except BaseException:  # Ctrl-C too
                self._unwritten.extendleft(reversed(results))
                raise
        return self._checkpoint.directory

    def close(self) -> None:
        """Take no more calls, and fail every task that is not over. Idempotent."""
        self._closed = True

        def abandoned(task: Task) -> BaseException:
            return KernelClosedError(f"{task} was {task.state.name} when its run was cleaned up")

        self._post(machine.Aborted(abandoned, time.time()))

    # --- the loop

    def _post(self, event: machine.Event) -> None:
        thread = self._thread
        events = thread.events
        if thread.acting:
            events.append(event)
            return
        thread.acting = True
        perform = self._perform
        lock = self._lock
        handle = self._machine.handle
        problem: BaseException | None = None
        try:
            while True:
                actions: list[Any] = []
                try:
                    with lock:
                        actions = handle(event)
                except Exception as error:  # noqa: BLE001 - a defect; what else is queued must not suffer
                    problem = problem or error
                for action in actions:
                    try:
                        perform[type(action)](action)
                    except Exception as error:  # noqa: BLE001 - likewise; its own task must end
                        problem = problem or error
                        self._give_up(action.task, error)
                if not events:
                    break
                event = events.popleft()
        finally:
            thread.acting = False
        callbacks = thread.callbacks
        if callbacks and not thread.calling:
            thread.calling = True
            try:
                while callbacks:
                    callbacks.popleft().run_callbacks()
            finally:
                thread.calling = False
        if problem is not None:
            raise problem

    def _give_up(self, task: Task, error: Exception) -> None:
        if task.state is States.joining or task.state is States.running_ended:
            self._post(machine.Finished(task.id, task.try_id, None, error, time.time()))
        else:
            self._attempt_failed(task, error)

    # --- actions

    def _submit(self, action: machine.Submit) -> None:
        task = action.task
        spec = task.spec
        assert task.executor is not None
        attempt = Attempt(
            task.id, task.try_id, spec.app.name, task.func, task.args, task.kwargs, spec.resource_specification
        )
        try:
            self.executors[task.executor].submit(attempt)
        except Exception as error:  # noqa: BLE001 - whatever an executor raises fails this attempt
            self._attempt_failed(task, error)

    def _attempt_failed(self, task: Task, error: BaseException) -> None:
        self._post(machine.AttemptsEnded([AttemptResult(task.id, task.try_id, None, error)], time.time()))

    def _prepare(self, action: machine.Prepare) -> None:
        task = action.task
        spec = task.spec
        args, kwargs = spec.args, spec.kwargs
        parents: dict[int, Future[Any]] = {}
        try:
            found = arguments.find(args, kwargs)
            if found is not None and found.futures:
                failures = [
                    (failure, self._name_future(future))
                    for future in found.futures
                    if (failure := _failure_of(future)) is not None
                ]
                if failures:
                    self._post(machine.DependenciesFailed(task.id, DependencyError(failures, task.id), time.time()))
                    return
                parents = {id(f.file_obj): f for f in found.futures if isinstance(f, DataFuture)}
                args, kwargs = arguments.replace_all(args, kwargs, arguments.value_of)
            task.args, task.kwargs, task.func = args, dict(kwargs), spec.func
            if spec.app.cache and self._memoizer is not None:
                if task.memo_key is None:
                    task.memo_key = self._memoizer.key(task)
                if self._known_or_on_its_way(task, self._memoizer, task.memo_key):
                    return
            task.executor = self._choose(spec.app)
            coming: list[Future[Any]] = []
            # A file may also have come as the result of a future.
            now = arguments.find(task.args, task.kwargs, loops=True)
            # Tasks that move files have files that are not to be moved; what a lifted operator is given is passed on.
            if spec.app.kind != "internal" and (spec.outputs or (now is not None and now.files)):
                assert self.staging is not None
                coming = self.staging.begin(task, parents)
        # A user's hasher or stager may raise anything, so may a value that is to stand in a set, and a list that is
        # changed at this moment.
        except Exception as error:  # noqa: BLE001
            self._attempt_failed(task, error)
            return
        self._post(machine.Prepared(task.id, coming, time.time()))

    def _finish_staging(self, action: machine.FinishStaging) -> None:
        task = action.task
        try:
            found = arguments.find(task.args, task.kwargs, loops=True)
            for future in found.futures if found is not None else ():
                failure = _failure_of(future)
                if failure is not None:
                    add_note(failure, f"flowcore: brings a file that {task} needs")
                    self._attempt_failed(task, failure)
                    return
            task.args, task.kwargs = arguments.replace_all(task.args, task.kwargs, arguments.value_of)
        except Exception as error:  # noqa: BLE001 - a list of the user's may change at this moment
            self._attempt_failed(task, error)
            return
        self._post(machine.Prepared(task.id, (), time.time()))

    def _watch(self, action: machine.Watch) -> None:
        task_id, try_id = action.task.id, action.task.try_id

        def done(future: Future[Any]) -> None:
            self._post(machine.FutureDone(task_id, try_id, time.time()))

        action.future.add_done_callback(done)

    def _begin_join(self, action: machine.BeginJoin) -> None:
        task = action.task
        if isinstance(task.joins, list):
            task.joins = list(task.joins)  # the user may still append to it
        futures = task.joins if isinstance(task.joins, list) else [task.joins]
        wrong = [f for f in futures if not isinstance(f, Future)]
        if wrong:
            problem = (
                f"join_app {task.spec.app.name!r} must return a future or a list of futures, got "
                f"{'a list with ' if isinstance(task.joins, list) else ''}{_shown(wrong[0])}. "
                "Return what calling an app gives; a plain value is the business of a python_app"
            )
            self._post(machine.Finished(task.id, task.try_id, None, JoinTypeError(problem), time.time()))
            return
        self._post(machine.JoinReturned(task.id, task.try_id, futures, time.time()))

    def _collect_join(self, action: machine.CollectJoin) -> None:
        task = action.task
        futures: list[Future[Any]] = task.joins if isinstance(task.joins, list) else [task.joins]
        failures = [(e, self._name_future(f)) for f in futures if (e := _failure_of(f)) is not None]
        error: BaseException | None = None
        value: Any = None
        if failures:
            error = JoinError(failures, task.id)
        else:
            values = [f.result() for f in futures]
            value = values if isinstance(task.joins, list) else values[0]
        self._post(machine.Finished(task.id, task.try_id, value, error, time.time()))

    def _collect_stage_outs(self, action: machine.CollectStageOuts) -> None:
        task = action.task
        failures = [e for f in task.stage_outs if (e := _failure_of(f)) is not None]
        error = failures[0] if failures else None
        self._post(machine.Finished(task.id, task.try_id, task.value, error, time.time()))

    def _ask_retry_cost(self, action: machine.AskRetryCost) -> None:
        task, failure = action.task, action.failure
        assert self._retry_handler is not None and isinstance(failure, Exception)
        cost, error = 0.0, None
        try:
            cost = self._retry_handler(failure, task)
            if not isinstance(cost, int | float):
                raise ConfigurationError(f"retry_handler must return a number, got {cost!r}")
        except Exception as problem:  # noqa: BLE001 - a user's function
            add_note(problem, f"flowcore: raised by the retry handler, on {describe(failure)}")
            with contextlib.suppress(Exception):  # a class that lets nothing be set
                problem.__cause__ = problem.__cause__ or failure
            error = problem
        self._post(machine.RetryCost(task.id, task.try_id, failure, cost, error, time.time()))

    def _cancel_attempt(self, action: machine.CancelAttempt) -> None:
        task = action.task
        if task.executor is not None and self.executors[task.executor].cancel(task.id, task.try_id):
            actions: list[machine.Action] = []
            with self._lock:
                self._machine.cancel_now(task, time.time(), actions)
            for following in actions:
                self._perform[type(following)](following)

    def _settle(self, action: machine.Settle) -> None:
        task = action.task
        error = action.error
        value = action.value
        if task.memo_key is not None:
            if task.from_memo:
                with self._lock:
                    self.memo_hits += 1
            elif error is None:
                self._remember(task.memo_key, value)
            if self._memoizer is not None:
                self._memoizer.end(task.memo_key, task.future)
        if error is not None and task.state is States.failed and not task.cancelled:
            self._note_attempts(task, error)
            logger.info("%s failed: %s", task, describe(error))
        future = task.future
        callbacks = self._thread.callbacks
        future._final_status = task.state.name
        if future.settle(value, error, task.cancelled):
            callbacks.append(future)
        for output in future._files():
            if output.settle(None if error is not None else output.file_obj, error, task.cancelled):
                callbacks.append(output)
        # The record may live on (in a closure, with keep_finished); what it was called with need not.
        task.args, task.kwargs, task.value, task.joins = (), {}, None, None

    def _tell_stagers(self, action: machine.TellStagers) -> None:
        staging.app_has_run(action.task, action.error)

    # --- parts of actions

    def _check_labels(self, app: AppInfo) -> None:
        for label in app.executors or ():
            if label not in self.executors:
                raise unknown_executor(f"app {app.name!r}", label, self._labels)

    def _known_or_on_its_way(self, task: Task, memoizer: Memoizer, key: str) -> bool:
        """Settle a task whose result is known, or let it wait for the equal task that runs; False: it must run."""
        # Not a join_app: one that returns an equal call of itself would wait for itself. Nor twice for one that failed.
        may_wait = task.spec.app.kind != "join" and (task.twin is None or task.twin.cancelled())
        if may_wait:
            task.twin = memoizer.begin(key, task.future)
            if task.state in FINAL:
                # Cancelled meanwhile, perhaps before its key was there: nobody else ends what was just begun.
                memoizer.end(key, task.future)
                return True
        waits = may_wait and task.twin is not None
        # After begin: a result that comes in between is not missed.
        value = memoizer.lookup(key)
        # Files that the equal task is about to make anew may be there in part.
        if value is not MISSING and not (waits and task.spec.outputs) and _outputs_exist(task.spec):
            self._post(machine.MemoHit(task.id, value, time.time()))
            return True
        if waits and task.twin is not None:
            self._post(machine.TwinRuns(task.id, task.twin, time.time()))
            return True
        return False

    def _choose(self, app: AppInfo) -> str:
        if app.kind == "join":
            return INTERNAL
        if self._lone and app.executors is None:
            return self._lone
        labels = self._labels if app.executors is None else app.executors
        label = random.choice(labels)  # noqa: S311 - spreads load, no secret
        if len(labels) > 1 and self.executors[label].bad_state_is_set:
            # An attempt there would fail at once: while another one works, it goes to that.
            label = random.choice([one for one in labels if not self.executors[one].bad_state_is_set] or labels)  # noqa: S311
        return label

    def _name_logs(self, task: Task) -> None:
        kwargs = task.spec.kwargs
        label = f"_{task.spec.log_label}" if task.spec.log_label else ""
        for stream in STREAMS:
            if kwargs.get(stream) is AUTO_LOGNAME:
                folder = self.run_dir / "task_logs" / f"{task.id // 10000:04}"
                kwargs[stream] = str(folder / f"task_{task.id:04}_{task.spec.app.name}{label}.{stream}")
        task.future._stdout, task.future._stderr = (self._stream_of(task, kwargs.get(s)) for s in STREAMS)

    def _stream_of(self, task: Task, stream: Any) -> Any:
        file = stream_file(stream)
        return stream if file is None else DataFuture(task.future, file, task.id)

    def _name_future(self, future: Future[Any]) -> str:
        if isinstance(future, AppFuture | DataFuture):
            # The app's name is in the failure's notes; records of tasks that are over are gone.
            return f"task {future.tid}"
        return repr(future)

    def _remember(self, key: str, value: Any) -> None:
        assert self._memoizer is not None
        if self._checkpoint is not None:
            if self._checkpoint_at_once:
                try:
                    self._checkpoint.append([(key, value)])
                except OSError:
                    logger.exception("cannot write to the checkpoint in %s", self._checkpoint.directory)
            else:
                self._unwritten.append((key, value))
        # After its record: an equal call that finds it here is completed, too.
        self._memoizer.store(key, value)

    def _note_failure(self, result: AttemptResult) -> None:
        task = self._machine.tasks.get(result.task_id)
        if not isinstance(result.error, Exception):
            name = task.spec.app.name if task is not None else "unknown"
            error = AppExited(f"app {name!r} raised {result.error!r}, which is no Exception; return a value instead")
            error.__cause__ = result.error
            result.error = error
        if task is not None and result.error is not None:
            where = f", {result.where}" if result.where else ""
            note = f"{task}, attempt {result.try_id + 1}, on executor {task.executor!r}{where}"
            result.error = note_for(task.id, result.error, f"flowcore: {note}")
            if self._retries:
                logger.info("%s failed: %s", note, describe(result.error))

    def _note_attempts(self, task: Task, error: BaseException) -> None:
        history = task.fail_history or []
        if len(history) > 1:
            earlier = "; ".join(f"{i}: {text}" for i, text in enumerate(history[:-1], 1))
            add_note(error, f"flowcore: earlier attempts of {task} failed too: {earlier}")
        if self._hints is not None:
            for hint in self._hints(error, task.spec.app.name, task.executor):
                add_note(error, f"flowcore: {hint}")


def unknown_executor(who: str, label: str, known: Sequence[str]) -> UnknownExecutorError:
    """Return the error for a label that the configuration does not have."""
    return UnknownExecutorError(
        f"{who} wants executor {label!r}, which the configuration does not have"
        f"{close_match(label, known)}; its executors: {', '.join(known)}"
    )


def _outputs_exist(spec: TaskSpec) -> bool:
    """Return whether the files that an earlier call made are still there, as far as can be seen from here."""
    return all(Path(file.filepath).exists() for file in spec.outputs if file.scheme == "file")


def _shown(value: Any) -> str:
    kind = type(value).__name__
    try:
        return f"{value!r:.80} of type {kind}"
    except Exception:  # noqa: BLE001 - a user's __repr__
        return f"an object of type {kind}"


def _failure_of(future: Future[Any]) -> BaseException | None:
    """Return what a done future failed with; a cancelled one counts as failed."""
    if future.cancelled():
        from concurrent.futures import CancelledError

        return CancelledError("the future was cancelled")
    return future.exception()
