"""The state machine: events in, actions out.

Rules of this module: no I/O, no clock, no lock, no thread, no user code. ``handle`` is called by one thread at
a time (the shell holds its lock) and returns what the shell is to do, in order. An event about an attempt or a
task that is over is stale and ignored; a step that the table in :mod:`.states` does not have is a defect, and
raises with the last events of its task.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import attrs

from flowcore.errors import DependencyCycle, FlowcoreError, InvalidTransition, describe
from flowcore.futures import AppFuture, DataFuture
from flowcore.kernel.cycles import find_cycle
from flowcore.kernel.states import FINAL, TRANSITIONS, States
from flowcore.kernel.task import Task
from flowcore.plugins.executor import AttemptResult
from flowcore.plugins.hookspecs import MOST_NAMED

# --- events: what happened. `at` is epoch seconds.


@attrs.define(slots=True, eq=False)
class Submitted:
    """A call was made; ``dependencies`` are the futures among its arguments, each once."""

    task: Task
    dependencies: Sequence[Future[Any]]
    at: float


@attrs.define(slots=True, eq=False)
class FutureDone:
    """A future that the shell was told to watch for a task is done."""

    task_id: int
    try_id: int
    at: float


@attrs.define(slots=True, eq=False)
class Prepared:
    """The task's values and executor are set, and its result is not known yet.

    ``staging`` are the futures of files on their way.
    """

    task_id: int
    staging: Sequence[Future[Any]]
    at: float


@attrs.define(slots=True, eq=False)
class MemoHit:
    """The task's result was known."""

    task_id: int
    value: Any
    at: float


@attrs.define(slots=True, eq=False)
class TwinRuns:
    """Another task computes the same result at this moment: wait for its future, then prepare again."""

    task_id: int
    twin: Future[Any]
    at: float


@attrs.define(slots=True, eq=False)
class DependenciesFailed:
    """Values cannot be had for the task's futures."""

    task_id: int
    error: BaseException
    at: float


@attrs.define(slots=True, eq=False)
class AttemptsEnded:
    """Attempts ended on an executor, or failed on the way there."""

    results: Sequence[AttemptResult]
    at: float


@attrs.define(slots=True, eq=False)
class AttemptsRunning:
    """An executor says that attempts began to run."""

    attempts: Sequence[tuple[int, int]]
    at: float


@attrs.define(slots=True, eq=False)
class RetryCost:
    """The retry handler has spoken on an attempt's failure; ``error`` is what it raised."""

    task_id: int
    try_id: int
    failure: BaseException
    cost: float
    error: BaseException | None
    at: float


@attrs.define(slots=True, eq=False)
class JoinReturned:
    """A join_app returned these futures."""

    task_id: int
    try_id: int
    futures: Sequence[Future[Any]]
    at: float


@attrs.define(slots=True, eq=False)
class Finished:
    """The join or the stage-out of an attempt is over, with a value or an error."""

    task_id: int
    try_id: int
    value: Any
    error: BaseException | None
    at: float


@attrs.define(slots=True, eq=False)
class CancelRequested:
    """The user wants the task cancelled."""

    task_id: int
    at: float


@attrs.define(slots=True, eq=False)
class Aborted:
    """The run ends: every task that is not over fails with an error that ``make_error`` gives."""

    make_error: Callable[[Task], BaseException]
    at: float


Event = (
    Submitted
    | FutureDone
    | Prepared
    | MemoHit
    | TwinRuns
    | DependenciesFailed
    | AttemptsEnded
    | AttemptsRunning
    | RetryCost
    | JoinReturned
    | Finished
    | CancelRequested
    | Aborted
)


# --- actions: what the shell is to do


@attrs.define(slots=True, eq=False)
class Watch:
    """Post FutureDone for the task when the future is done."""

    task: Task
    future: Future[Any]


@attrs.define(slots=True, eq=False)
class Prepare:
    """Put values for futures, look the result up, begin to stage; post what came of it."""

    task: Task


@attrs.define(slots=True, eq=False)
class FinishStaging:
    """All staged files are there: put them in, then post Prepared again."""

    task: Task


@attrs.define(slots=True, eq=False)
class Submit:
    """Give the task's current attempt to its executor."""

    task: Task


@attrs.define(slots=True, eq=False)
class AskRetryCost:
    """Call the user's retry handler; post RetryCost."""

    task: Task
    failure: BaseException


@attrs.define(slots=True, eq=False)
class BeginJoin:
    """Look at what the join_app returned; post JoinReturned with its futures."""

    task: Task


@attrs.define(slots=True, eq=False)
class CollectJoin:
    """All joined futures are done: post Finished with their values."""

    task: Task


@attrs.define(slots=True, eq=False)
class CollectStageOuts:
    """All files have been taken out: post Finished with the task's value."""

    task: Task


@attrs.define(slots=True, eq=False)
class TellStagers:
    """The task's function has run, or failed with ``error``: its files may be taken out, or will not be."""

    task: Task
    error: BaseException | None


@attrs.define(slots=True, eq=False)
class CancelAttempt:
    """Take the current attempt back from its executor, if that works."""

    task: Task


@attrs.define(slots=True, eq=False)
class Settle:
    """The task is over: record the result, set its futures."""

    task: Task
    value: Any
    error: BaseException | None


Action = (
    Watch
    | Prepare
    | FinishStaging
    | Submit
    | AskRetryCost
    | BeginJoin
    | CollectJoin
    | CollectStageOuts
    | TellStagers
    | CancelAttempt
    | Settle
)

# Members of an enumeration, and their names, are looked up slowly (a tenth of a microsecond each in CPython 3.11).
DEP_FAIL = States.dep_fail
EXEC_DONE = States.exec_done
FAIL_RETRYABLE = States.fail_retryable
FAILED = States.failed
JOINING = States.joining
LAUNCHED = States.launched
MEMO_DONE = States.memo_done
PENDING = States.pending
RUNNING = States.running
RUNNING_ENDED = States.running_ended
UNSCHED = States.unsched
_NAMES = {state: state.name for state in States}

#: How many of the last steps, of all tasks, are remembered for the message of an InvalidTransition.
HISTORY = 2000


class Machine:
    """Holds all tasks of a run and decides what happens next.

    Args:
        retries: how much cost of failed attempts a task may have and still be tried again.
        ask_retry_cost: whether a retry handler decides the cost; else every failure costs 1.
        keep_finished: keep the records of tasks that are over.
        keep_steps: keep each change of a task's state, for :meth:`take_steps`.
    """

    def __init__(
        self,
        retries: float = 0,
        ask_retry_cost: bool = False,
        keep_finished: bool = False,
        keep_steps: bool = False,
    ) -> None:
        self.tasks: dict[int, Task] = {}
        self.counts: dict[States, int] = dict.fromkeys(States, 0)
        self.unfinished = 0
        self._keep_steps = keep_steps
        #: The steps to tell: the fields of TaskEvents, one event behind the other. No object for each, however small:
        #: so many of them keep the garbage collector busier than all else here.
        self._steps: list[Any] = []
        #: Tasks of which nothing was told yet: they wait, or are launched.
        self._untold: dict[int, Task] = {}
        self._retries = retries
        self._ask_retry_cost = ask_retry_cost
        self._keep_finished = keep_finished
        self._make_abort_error: Callable[[Task], BaseException] | None = None
        self._history: deque[tuple[int, str, States]] = deque(maxlen=HISTORY)
        self._handlers: dict[type, Callable[[Any, list[Action]], None]] = {
            Submitted: self._submitted,
            FutureDone: self._future_done,
            Prepared: self._prepared,
            MemoHit: self._memo_hit,
            TwinRuns: self._twin_runs,
            DependenciesFailed: self._dependencies_failed,
            AttemptsEnded: self._attempts_ended,
            AttemptsRunning: self._attempts_running,
            RetryCost: self._retry_cost,
            JoinReturned: self._join_returned,
            Finished: self._finished,
            CancelRequested: self._cancel_requested,
            Aborted: self._aborted,
        }

    def handle(self, event: Event) -> list[Action]:
        """Take an event in; return what is to be done, in order.

        Raises:
            InvalidTransition: the event makes no sense in its task's state.
        """
        actions: list[Action] = []
        self._handlers[type(event)](event, actions)
        return actions

    def take_steps(self, now: float = 0.0, held_s: float = 0.0) -> list[Any]:
        """Return the changes of tasks' states since the last call: the fields of TaskEvents.

        They stand one event behind the other, those of a task in their order.

        Args:
            now: epoch seconds.
            held_s: tasks that were called within so many seconds before are not told of until more happens to them.
        """
        newest, self._steps = self._steps, []

        def due(task: Task) -> bool:
            # So too if the clock was set back meanwhile.
            return not 0 <= now - task.time_invoked < held_s

        # They are in the order of their calls.
        for task in list(itertools.takewhile(due, self._untold.values())):
            del self._untold[task.id]
            self._tell_call(task, task.state)
        self._steps += newest
        taken, self._steps = self._steps, []
        return taken

    # --- steps

    def _move(self, task: Task, state: States, event: str, at: float, error: BaseException | None = None) -> None:
        before = task.state
        if state not in TRANSITIONS[before]:
            steps = "\n".join(f"  {e}: {s.name}" for i, e, s in self._history if i == task.id) or "  none"
            raise InvalidTransition(
                task.id,
                f"{task} cannot go from {before.name} to {state.name} on {event}. Its last steps:\n{steps}",
            )
        counts = self.counts
        if before is not UNSCHED:
            counts[before] -= 1
        counts[state] += 1
        task.state = state
        self._history.append((task.id, event, state))
        if self._keep_steps:
            # Most tasks are soon over: all that happened to them is one step then, since each has its price.
            if before is UNSCHED:
                self._untold[task.id] = task
            elif state is not LAUNCHED or task.id not in self._untold:
                self._keep(task, state, before, at, error)

    def _keep(self, task: Task, state: States, before: States, at: float, error: BaseException | None) -> None:
        first = self._untold.pop(task.id, None) is not None
        if first and state not in FINAL:
            self._tell_call(task, before)
            first = False
        history = task.fail_history
        failed = 0 if history is None else len(history)
        launched_at = ended_at = where = None
        if state is not RUNNING and (before is LAUNCHED or before is RUNNING):
            # Of an attempt that is cancelled or abandoned, no end is reported.
            launched_at, reported_at = task.try_time_launched, task.try_time_returned
            ended_at, where = (reported_at, task.where) if reported_at >= launched_at else (at, None)
        name = None if first else _NAMES[before]
        self._tell(task, state, name, at, error, failed, task.fail_cost, launched_at, ended_at, where)

    def _tell_call(self, task: Task, state: States) -> None:
        """Tell that a task was called, and launched if it is."""
        self._tell(task, state, None, task.try_time_launched if state is LAUNCHED else task.time_invoked)

    def _tell(
        self, task: Task, state: States, before: str | None, at: float, error: BaseException | None = None,
        failed: int = 0, cost: float = 0, launched_at: float | None = None, ended_at: float | None = None,
        where: str | None = None,
    ) -> None:  # fmt: skip
        app = task.spec.app
        self._steps.extend(
            (
                task.id, app.name, app.kind, _NAMES[state], before, at, task.try_id, task.executor,
                task.memo_key, task.depends, error, failed, cost,
                _joined(task.joins) if state is JOINING else (), task.call if before is None else None,
                task.time_invoked, launched_at, ended_at, where,
            )
        )  # fmt: skip

    def _wait_for(self, task: Task, futures: Sequence[Future[Any]], actions: list[Action]) -> None:
        waiting = 0
        for future in futures:
            other = self._unfinished_task(future)
            if other is not None:
                if other.dependents is None:
                    other.dependents = []
                other.dependents.append(task)
                waiting += 1
                continue
            # Of another system, of another kernel, or over but not yet set by the shell.
            if not future.done():
                waiting += 1
                actions.append(Watch(task, future))
        task.waiting = waiting

    def _unfinished_task(self, future: Future[Any]) -> Task | None:
        """Return the task of this kernel that will settle the future; None if there is none (any more)."""
        if not isinstance(future, AppFuture | DataFuture):
            return None
        # A DataFuture is settled with its task.
        parent = future if isinstance(future, AppFuture) else future.parent
        task = self.tasks.get(-1 if future.tid is None else future.tid)
        return task if task is not None and task.future is parent and task.state not in FINAL else None

    def _one_less(self, task: Task, actions: list[Action]) -> None:
        if task.state in FINAL:
            return
        task.waiting -= 1
        if task.waiting == 0:
            self._go_on(task, actions)

    def _go_on(self, task: Task, actions: list[Action]) -> None:
        """Nothing holds the task up any more: take the next step."""
        state = task.state
        if state is PENDING or state is FAIL_RETRYABLE:
            actions.append(FinishStaging(task) if task.executor is not None else Prepare(task))
        elif state is JOINING:
            actions.append(CollectJoin(task))
        else:
            actions.append(CollectStageOuts(task))

    def _launch(self, task: Task, event: str, at: float, actions: list[Action]) -> None:
        task.try_time_launched = at
        self._move(task, LAUNCHED, event, at)
        actions.append(Submit(task))

    def _end(
        self,
        task: Task,
        state: States,
        event: str,
        at: float,
        actions: list[Action],
        value: Any,
        error: BaseException | None,
    ) -> None:
        task.time_returned = at
        self._move(task, state, event, at, error)
        self.unfinished -= 1
        if not self._keep_finished:
            del self.tasks[task.id]
        actions.append(Settle(task, value, error))
        # After Settle: what waits for this task finds its future set.
        if task.dependents is not None:
            dependents, task.dependents = task.dependents, None
            for dependent in dependents:
                self._one_less(dependent, actions)

    def _fail(self, task: Task, failure: BaseException, cost: float, at: float, actions: list[Action]) -> None:
        task.fail_cost += cost
        if task.fail_cost <= self._retries:
            self._move(task, FAIL_RETRYABLE, "attempt failed", at, failure)
            task.try_id += 1
            # Anew: its executor may be one that takes no more.
            task.executor = None
            actions.append(Prepare(task))
        else:
            self._end(task, FAILED, "attempt failed", at, actions, None, failure)

    # --- events

    def _submitted(self, event: Submitted, actions: list[Action]) -> None:
        task = event.task
        at = event.at
        task.time_invoked = at
        if event.dependencies:
            task.depends = tuple(
                f.tid
                for f in event.dependencies
                if isinstance(f, AppFuture | DataFuture) and f.tid is not None and f.owner is task.future.owner
            )
        # In this order: an interrupt in between leaves no record that is half made.
        self._move(task, PENDING, "submitted", at)
        self.unfinished += 1
        self.tasks[task.id] = task
        if self._make_abort_error is not None:
            # The call was made just as the run ended.
            self._end(task, FAILED, "run ended", at, actions, None, self._make_abort_error(task))
            return
        if event.dependencies:
            self._wait_for(task, event.dependencies, actions)
            if task.waiting:
                return
        if task.needs_preparing or event.dependencies:
            actions.append(Prepare(task))
        else:
            self._launch(task, "submitted", at, actions)

    def _future_done(self, event: FutureDone, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is not None and task.try_id == event.try_id:
            self._one_less(task, actions)

    def _prepared(self, event: Prepared, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state in FINAL:
            return
        self._wait_for(task, event.staging, actions)
        if task.waiting == 0:
            self._launch(task, "prepared", event.at, actions)

    def _memo_hit(self, event: MemoHit, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is not None and task.state not in FINAL:
            task.from_memo = True
            self._end(task, MEMO_DONE, "memo hit", event.at, actions, event.value, None)

    def _twin_runs(self, event: TwinRuns, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state in FINAL:
            return
        self._wait_for(task, (event.twin,), actions)
        if task.waiting == 0:
            self._go_on(task, actions)

    def _dependencies_failed(self, event: DependenciesFailed, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is not None and task.state not in FINAL:
            state = DEP_FAIL if task.state is PENDING else FAILED
            self._end(task, state, "dependency failed", event.at, actions, None, event.error)

    def _attempts_ended(self, event: AttemptsEnded, actions: list[Action]) -> None:
        tasks = self.tasks
        at = event.at
        for result in event.results:
            task = tasks.get(result.task_id)
            if task is None or task.try_id != result.try_id or task.deciding:
                continue
            state = task.state
            failure = result.error
            # Before its launch, a task can fail in preparation (staging, memo hashing); all else is stale.
            may_end = state is LAUNCHED or state is RUNNING
            if not may_end and not (failure is not None and state in (PENDING, FAIL_RETRYABLE)):
                continue
            task.try_time_returned = at
            task.where = result.where
            if failure is None:
                if task.spec.app.kind == "join":
                    task.joins = result.value
                    self._move(task, JOINING, "attempt ended", at)
                    actions.append(BeginJoin(task))
                elif task.stage_outs:
                    task.value = result.value
                    self._move(task, RUNNING_ENDED, "attempt ended", at)
                    actions.append(TellStagers(task, None))
                    self._wait_for(task, task.stage_outs, actions)
                    if task.waiting == 0:
                        self._go_on(task, actions)
                else:
                    self._end(task, EXEC_DONE, "attempt ended", at, actions, result.value, None)
                continue
            self._attempt_failed(task, failure, at, actions)

    def _attempt_failed(self, task: Task, failure: BaseException, at: float, actions: list[Action]) -> None:
        if task.fail_history is None:
            task.fail_history = []
        task.fail_history.append(describe(failure))
        if task.stage_outs:
            actions.append(TellStagers(task, failure))
        if isinstance(failure, FlowcoreError) and not failure.may_pass:
            # What cannot be sent, hashed or had will not be at the next attempt either.
            self._fail(task, failure, math.inf, at, actions)
        elif task.spec.app.kind == "internal":
            # What brings a file is done again by the next attempt of the task that needs it.
            self._fail(task, failure, math.inf, at, actions)
        elif self._ask_retry_cost and isinstance(failure, Exception):
            # What else is heard of this attempt until the answer comes is stale: it has ended.
            task.deciding = True
            actions.append(AskRetryCost(task, failure))
        else:
            self._fail(task, failure, 1, at, actions)

    def _attempts_running(self, event: AttemptsRunning, actions: list[Action]) -> None:
        for task_id, try_id in event.attempts:
            task = self.tasks.get(task_id)
            if task is not None and task.try_id == try_id and task.state is LAUNCHED:
                self._move(task, RUNNING, "running", event.at)

    def _retry_cost(self, event: RetryCost, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state in FINAL or task.try_id != event.try_id:
            return
        task.deciding = False
        if event.error is not None:
            self._end(task, FAILED, "retry handler raised", event.at, actions, None, event.error)
        else:
            self._fail(task, event.failure, event.cost, event.at, actions)

    def _join_returned(self, event: JoinReturned, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state is not JOINING or task.try_id != event.try_id:
            return
        # All other edges lead to older tasks: only a join can close a cycle.
        inner = [t for f in event.futures if (t := self._unfinished_task(f)) is not None]
        cycle = find_cycle(task, inner, self.tasks)
        if cycle:
            error = DependencyCycle(task.id, [str(t) for t in cycle])
            self._end(task, FAILED, "join in a cycle", event.at, actions, None, error)
            return
        self._wait_for(task, event.futures, actions)
        if task.waiting == 0:
            self._go_on(task, actions)

    def _finished(self, event: Finished, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state in FINAL or task.try_id != event.try_id:
            return
        if event.error is None:
            self._end(task, EXEC_DONE, "finished", event.at, actions, event.value, None)
        elif task.state is JOINING:
            # The futures that were joined have had their own retries.
            self._end(task, FAILED, "join failed", event.at, actions, None, event.error)
        else:
            self._attempt_failed(task, event.error, event.at, actions)

    def _cancel_requested(self, event: CancelRequested, actions: list[Action]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state in FINAL:
            return
        if task.state is LAUNCHED or task.state is RUNNING:
            actions.append(CancelAttempt(task))
        else:
            self.cancel_now(task, event.at, actions)

    def cancel_now(self, task: Task, at: float, actions: list[Action]) -> None:
        """End the task as cancelled: it has not started, or its executor has taken it back."""
        if task.state not in FINAL:
            task.cancelled = True
            self._end(task, FAILED, "cancelled", at, actions, None, CancelledError())

    def _aborted(self, event: Aborted, actions: list[Action]) -> None:
        self._make_abort_error = event.make_error
        for task in list(self.tasks.values()):
            if task.state not in FINAL:
                task.dependents = None
                error = event.make_error(task)
                self._end(task, FAILED, "run ended", event.at, actions, None, error)


def _joined(returned: Any) -> tuple[int, ...]:
    """Return the ids of the tasks among what a join_app returned."""
    futures = returned if isinstance(returned, list) else [returned]
    return tuple(
        future.tid
        for future, _ in zip(futures, range(MOST_NAMED), strict=False)
        if isinstance(future, AppFuture | DataFuture) and future.tid is not None
    )
