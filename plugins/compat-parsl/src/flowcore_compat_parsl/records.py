"""Parsl's view of a task, its record, and the memoizer that works on records.

Rule of this module: a record is a view. It shows the task as it is when a key is asked for, and changes nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from flowcore import session
from flowcore.kernel import arguments, memo, states
from flowcore.kernel.task import AppInfo, Task, TaskSpec
from flowcore.memoization import Hashing, installed_hashers
from flowcore.plugins.api import function_identity


def final_states() -> list[states.States]:
    """Return the states that a task never leaves, in a list as Parsl has them."""
    return list(states.FINAL_STATES)


class TaskRecord(Mapping[str, Any]):
    """What is known of a task, under the keys that Parsl documents. Read-only.

    ``exec_fu`` is None: flowcore's executors report results and make no futures. The locks are there for programs that
    take them; flowcore does not.

    Args:
        task: the task.
        config: the configuration of its run; None for that of the loaded one.
    """

    def __init__(self, task: Task, config: Any = None) -> None:
        self.task = task
        self._config = config
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Any:
        return _KEYS[key](self)

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    def __repr__(self) -> str:
        return f"<TaskRecord of {self.task}, {self.task.state.name}>"

    def copy(self) -> dict[str, Any]:
        """Return what it says now as a dict."""
        return dict(self)

    @property
    def _dfk(self) -> Any:
        from flowcore_compat_parsl.kernel import run_of

        return run_of(self.task)

    def _retries_left(self) -> Any:
        config = self._config if self._config is not None else self._dfk.config
        return config.retries - self.task.fail_cost

    def _depends(self) -> list[Future[Any]]:
        found = arguments.find(self.task.spec.args, self.task.spec.kwargs)
        return [] if found is None else found.futures


def _time(seconds: float) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(seconds) if seconds else None


def _fn_hash(task: Task) -> str:
    return hashlib.sha256(function_identity(task.spec.app.user_func)).hexdigest()


_KEYS: dict[str, Callable[[TaskRecord], Any]] = {
    "dfk": lambda r: r._dfk,
    "func_name": lambda r: r.task.spec.app.name,
    "status": lambda r: r.task.state,
    "depends": lambda r: r._depends(),
    "app_fu": lambda r: r.task.future,
    "exec_fu": lambda r: None,
    "executor": lambda r: r.task.executor,
    "retries_left": lambda r: r._retries_left(),
    "fail_count": lambda r: len(r.task.fail_history or ()),
    "fail_cost": lambda r: r.task.fail_cost,
    "fail_history": lambda r: list(r.task.fail_history or ()),
    "checkpoint": lambda r: r.task.spec.app.cache,
    "hashsum": lambda r: r.task.memo_key,
    "task_launch_lock": lambda r: r._lock,
    "func": lambda r: r.task.spec.app.user_func,
    "fn_hash": lambda r: _fn_hash(r.task),
    "args": lambda r: r.task.args,
    "kwargs": lambda r: dict(r.task.kwargs),
    "time_invoked": lambda r: _time(r.task.time_invoked),
    "time_returned": lambda r: _time(r.task.time_returned),
    "try_time_launched": lambda r: _time(r.task.try_time_launched),
    "try_time_returned": lambda r: _time(r.task.try_time_returned),
    "memoize": lambda r: r.task.spec.app.cache,
    "ignore_for_cache": lambda r: list(r.task.spec.app.ignore_for_cache),
    "from_memo": lambda r: r.task.from_memo,
    "id": lambda r: r.task.id,
    "try_id": lambda r: r.task.try_id,
    "resource_specification": lambda r: dict(r.task.spec.resource_specification),
    "join": lambda r: r.task.spec.app.kind == "join",
    "joins": lambda r: r.task.joins,
    "join_lock": lambda r: r._lock,
}


class Memoizer:
    """Makes keys of tasks and holds results, with flowcore's own way of making keys.

    Args:
        dfk: the run; for its hook ``flowcore_memo_hash``, None for none.
        memoize: False makes every look-up find nothing.
        checkpoint: results to begin with: futures that are done, by key.
    """

    def __init__(
        self, dfk: Any = None, memoize: bool = True, checkpoint: Mapping[str, Future[Any]] | None = None
    ) -> None:
        hook = None
        if isinstance(dfk, session.DataFlowKernel) and dfk.hooks.wanted("flowcore_memo_hash"):

            def hook(value: Any, output_ref: bool) -> bytes | None:
                found: bytes | None = dfk.hooks.call("flowcore_memo_hash", obj=value, output_ref=output_ref)
                return found

        self.memoize = memoize
        self._memoizer = memo.Memoizer(Hashing(installed_hashers()[0], hook))
        for key, future in (checkpoint or {}).items():
            self._memoizer.store(key, future.result())

    def make_hash(self, task: Mapping[str, Any]) -> str:
        """Return the key of a task.

        Raises:
            MemoizationError: an argument's type is unknown.
        """
        return self._memoizer.key(task.task if isinstance(task, TaskRecord) else _task(task))

    def hash_lookup(self, hashsum: str) -> Future[Any]:
        """Return the result that is known under a key, in a future.

        Raises:
            KeyError: none is.
        """
        value = self._memoizer.lookup(hashsum)
        if value is memo.MISSING:
            raise KeyError(hashsum)
        future: Future[Any] = Future()
        future.set_result(value)
        return future

    def check_memo(self, task: Mapping[str, Any]) -> Future[Any] | None:
        """Return the known result of a task's call in a future, or None; sets the record's ``hashsum``."""
        if not self.memoize or not task["memoize"]:
            return None
        key = self.make_hash(task)
        self._set_key(task, key)
        try:
            return self.hash_lookup(key)
        except KeyError:
            return None

    def update_memo(self, task: Mapping[str, Any], r: Future[Any]) -> None:
        """Remember the result of a task; a failure is not remembered."""
        if self.memoize and task["memoize"] and r.exception() is None:
            self._memoizer.store(task["hashsum"] or self.make_hash(task), r.result())

    def _set_key(self, task: Mapping[str, Any], key: str) -> None:
        if isinstance(task, TaskRecord):
            task.task.memo_key = key
        else:
            task["hashsum"] = key  # type: ignore[index]  # a dict, as Parsl's records are


def _task(record: Mapping[str, Any]) -> Task:
    """Return a task that has of a record in a dict what its key is made of."""
    function = record["func"]
    kind: Any = "join" if record.get("join") else "python"
    name = record.get("func_name") or function.__name__
    app = AppInfo(name, kind, function, function, None, True, tuple(record.get("ignore_for_cache") or ()))
    args, kwargs = tuple(record.get("args") or ()), dict(record.get("kwargs") or {})
    future: Any = Future()
    return Task(
        id=record.get("id", 0),
        spec=TaskSpec(app, function, args, kwargs),
        future=future,
        func=function,
        args=args,
        kwargs=kwargs,
        needs_preparing=False,
    )
