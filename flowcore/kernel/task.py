"""The records of the kernel: what an app is, what a call asked for, what has become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

import attrs

from flowcore.files import File
from flowcore.futures import AppFuture
from flowcore.kernel.states import States
from flowcore.plugins.hookspecs import TaskCall

AppKind = Literal["python", "bash", "join", "internal"]
_NOTHING: Mapping[str, Any] = {}


@attrs.define(slots=True, eq=False)
class AppInfo:
    """What all calls of an app share.

    Attributes:
        func: what an executor calls; for a bash_app the object that runs the command line.
        user_func: the decorated function.
        executors: labels of the executors that may run it; None for any.
        cache: whether results are memoized.
        ignore_for_cache: names of arguments that do not count for memoization.
    """

    name: str
    kind: AppKind
    func: Callable[..., Any]
    user_func: Callable[..., Any]
    executors: tuple[str, ...] | None = None
    cache: bool = False
    ignore_for_cache: tuple[str, ...] = ()


@attrs.define(slots=True, eq=False)
class TaskSpec:
    """One call of an app: its arguments as the user gave them, and the options of the call.

    Attributes:
        func: what an executor calls; the app's, or that with a walltime around it.
        outputs: the call's ``outputs``, which are also in ``kwargs`` where the function takes them.
        log_label: the call's ``label``, for ``AUTO_LOGNAME``.
    """

    app: AppInfo
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    resource_specification: Mapping[str, Any] = _NOTHING
    outputs: Sequence[File] = ()
    log_label: str | None = None


@attrs.define(slots=True, eq=False)
class Task:
    """One task, as the kernel knows it. Changed by the machine only, except where said otherwise.

    Retry handlers are given it; they may read ``id``, ``func_name``, ``args``, ``kwargs``, ``executor``, ``try_id``,
    ``fail_count``, ``fail_cost``, ``fail_history`` (texts), ``memo_key``, ``resource_specification`` and the times
    (epoch seconds; 0.0 for what has not happened).

    Attributes:
        waiting: number of futures that must be done before the next step.
        dependents: tasks that wait for this one.
        args, kwargs, func: the call with values for futures, set by the shell when it prepared the task;
            before that, as the user gave them.
        executor: label of the executor of the current attempt, chosen by the shell.
        joins: what a join_app returned.
        where: where the last attempt that ended ran, as far as its executor told.
        call: what is worth a record of the call, where somebody records.
        deciding: the attempt has failed, and the retry handler is asked what that costs.
        twin: the future of an equal cached call that was made before and runs; waited for instead of running.
    """

    id: int
    spec: TaskSpec
    future: AppFuture[Any]
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    needs_preparing: bool
    state: States = States.unsched
    waiting: int = 0
    dependents: list[Task] | None = None
    depends: Sequence[int] = ()
    executor: str | None = None
    try_id: int = 0
    fail_cost: float = 0
    fail_history: list[str] | None = None
    memo_key: str | None = None
    twin: Future[Any] | None = None
    stage_outs: Sequence[Any] = ()
    joins: Any = None
    value: Any = None
    from_memo: bool = False
    cancelled: bool = False
    deciding: bool = False
    where: str | None = None
    call: TaskCall | None = None
    time_invoked: float = 0.0
    try_time_launched: float = 0.0
    try_time_returned: float = 0.0
    time_returned: float = 0.0

    @property
    def func_name(self) -> str:
        """Name of the app."""
        return self.spec.app.name

    @property
    def fail_count(self) -> int:
        """Number of attempts that have failed."""
        return len(self.fail_history or ())

    @property
    def resource_specification(self) -> Mapping[str, Any]:
        """The call's ``resource_specification``."""
        return self.spec.resource_specification

    def __str__(self) -> str:
        return f"task {self.id} (app {self.spec.app.name!r})"


#: Decides what a failed attempt costs of the budget ``Config.retries``.
RetryHandler = Callable[[Exception, Task], float]
