"""The futures that users hold: :class:`AppFuture` for a task, :class:`DataFuture` for a file it makes.

Rule of this module: it knows no kernel. A future asks its owner through :class:`FutureOwner`.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Generator
from concurrent.futures import Future
from threading import Condition, RLock
from typing import Any, Generic, Protocol, TypeVar, cast

from flowcore.files import File

R = TypeVar("R")
logger = logging.getLogger(__name__)

# The states of concurrent.futures.Future are strings, compared by value there.
_PENDING = "PENDING"
_CANCELLED_STATES = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
_FINISHED = "FINISHED"


class FutureOwner(Protocol):
    """What a future may ask of the kernel that made it."""

    def task_status(self, task_id: int) -> str: ...

    def cancel_task(self, task_id: int) -> bool: ...

    def lift(self, function: Callable[[Any, Any], Any], future: AppFuture[Any], key: Any) -> AppFuture[Any]: ...


class _LazyCondition:
    """A condition variable that is built when somebody first waits.

    A ``threading.Condition`` takes over a kilobyte (its deque of waiters); most futures of a large graph are
    never waited for. Entering costs the same.
    """

    __slots__ = ("_condition", "_lock", "acquire", "release")

    def __init__(self) -> None:
        lock = RLock()
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release
        self._condition: Condition | None = None

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        if self._condition is None:
            self._condition = Condition(self._lock)
        return self._condition.wait(timeout)

    def notify_all(self) -> None:
        if self._condition is not None:
            self._condition.notify_all()


class KernelFuture(Future[R], Generic[R]):
    """A future that the kernel settles in two steps: outcome first, callbacks when its own work is done."""

    def __init__(self) -> None:
        # Instead of Future.__init__: the same fields, with a condition that costs nothing until waited for.
        # A test compares the names with those of the running Python's Future.
        self._condition = cast(Condition, _LazyCondition())
        self._state = _PENDING
        self._result: R | None = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Future[R]], object]] = []

    def settle(self, result: R | None, error: BaseException | None, cancelled: bool = False) -> bool:
        """Set the outcome and wake all waiters, but run no callback yet. For the kernel only.

        The kernel calls :meth:`run_callbacks` after all its own work is done, so that a callback that blocks
        holds nothing up.

        Returns:
            Whether anybody registered a callback.
        """
        with self._condition:
            self._exception = error
            self._result = result
            self._state = "CANCELLED_AND_NOTIFIED" if cancelled else _FINISHED
            for waiter in self._waiters:
                if cancelled:
                    waiter.add_cancelled(self)
                elif error is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()
            return bool(self._done_callbacks)

    def run_callbacks(self) -> None:
        """Run the callbacks of a settled future, each once. For the kernel only."""
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                logger.exception("a done-callback of %r raised", self)

    def __await__(self) -> Generator[Any, None, R]:
        import asyncio

        return asyncio.wrap_future(self).__await__()


class AppFuture(KernelFuture[R]):
    """The result of one call of an app.

    A ``concurrent.futures.Future`` that can also be awaited, indexed (``future["key"]``) and asked for
    attributes (``future.name``); the last two give a future of the part. Names that begin with ``_`` are not
    lifted.
    """

    def __init__(self, tid: int, owner: FutureOwner) -> None:
        super().__init__()
        self._tid = tid
        self._owner = owner
        self._outputs: list[DataFuture] | None = None
        self._stdout: Any = None
        self._stderr: Any = None
        #: Name of the task's last state, set before the outcome is.
        self._final_status: str | None = None

    @property
    def tid(self) -> int:
        """Number of the task in its run, from 0."""
        return self._tid

    @property
    def outputs(self) -> list[DataFuture]:
        """A :class:`DataFuture` for each file of the call's ``outputs``, in order."""
        if self._outputs is None:
            self._outputs = []
        return self._outputs

    @property
    def stdout(self) -> Any:
        """Where the standard output of the app goes: what ``stdout=`` said, with ``AUTO_LOGNAME`` resolved."""
        return self._stdout

    @property
    def stderr(self) -> Any:
        """Where the standard error of the app goes: what ``stderr=`` said, with ``AUTO_LOGNAME`` resolved."""
        return self._stderr

    def task_status(self) -> str:
        """Return the name of the task's state, one of :class:`flowcore.kernel.states.States`."""
        return self._final_status or self._owner.task_status(self._tid)

    def cancel(self) -> bool:
        """Cancel the task if it has not started, or if its executor can take it back.

        Returns:
            True if the task is cancelled now and will have no result; False if it runs or has ended.
        """
        if self._state in _CANCELLED_STATES:
            return True
        return self._state != _FINISHED and self._owner.cancel_task(self._tid)

    def running(self) -> bool:
        """Return True while an executor has the task."""
        return not self.done() and self.task_status() in ("launched", "running", "running_ended")

    def __getitem__(self, key: Any) -> AppFuture[Any]:
        return self._owner.lift(operator.getitem, self, key)

    def __getattr__(self, name: str) -> AppFuture[Any]:
        if name.startswith("_"):
            raise AttributeError(f"AppFuture has no attribute {name!r}; names that begin with _ are not lifted")
        return self._owner.lift(getattr, self, name)

    # A class with __getitem__ would otherwise be iterable, without an end.
    __iter__: None = None

    def __repr__(self) -> str:
        return f"<AppFuture of task {self._tid}: {self.task_status()}>"


class DataFuture(KernelFuture[File]):
    """A file that a task will make; done when the task has ended and the file has been staged out.

    Args:
        parent: the future of the task.
        file: the file.
        tid: number of the task.
    """

    def __init__(self, parent: Future[Any], file: File | str, tid: int | None = None) -> None:
        super().__init__()
        self.parent = parent
        self.file_obj = File(file) if isinstance(file, str) else file
        self._tid = tid

    @property
    def tid(self) -> int | None:
        """Number of the task that makes the file."""
        return self._tid

    @property
    def filepath(self) -> str:
        """Path of the file."""
        return self.file_obj.filepath

    @property
    def filename(self) -> str:
        """Path of the file, as in the reference."""
        return self.filepath

    def cancel(self) -> bool:
        """Cancel the task that makes the file; see :meth:`AppFuture.cancel`."""
        return self.parent.cancel()

    def cancelled(self) -> bool:
        """Return True if the task that makes the file was cancelled."""
        return self.parent.cancelled()

    def running(self) -> bool:
        """Return True while an executor has the task that makes the file."""
        return self.parent.running()

    def __repr__(self) -> str:
        state = "done" if self.done() else "waiting"
        return f"<DataFuture {self.file_obj.url} of task {self._tid}: {state}>"
