"""The futures that users hold: :class:`AppFuture` for a task, :class:`DataFuture` for a file it makes.

Rule of this module: it knows no kernel. A future asks its owner through :class:`FutureOwner`.
"""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, Generic, Protocol, TypeVar, cast

from flowcore.files import File, shown_url

R = TypeVar("R")
logger = logging.getLogger(__name__)

# The states of concurrent.futures.Future are strings, compared by value there.
_PENDING = "PENDING"
_CANCELLED_STATES = ("CANCELLED", "CANCELLED_AND_NOTIFIED")
_FINISHED = "FINISHED"

#: Guards, in all futures of the kernel, the step from pending to settled and the making of a condition. Held for
#: a few instructions; inside a future's condition, never around it.
_settling = threading.Lock()


class FutureOwner(Protocol):
    """What a future may ask of the kernel that made it."""

    def task_status(self, task_id: int) -> str: ...

    def cancel_task(self, task_id: int) -> bool: ...

    def lift(self, function: Callable[[Any, Any], Any], future: AppFuture[Any], key: Any) -> AppFuture[Any]: ...


class KernelFuture(Future[R], Generic[R]):
    """A future that the kernel settles in two steps: outcome first, callbacks when its own work is done.

    Its condition variable, and its lists, are made when somebody needs them: a ``threading.Condition`` takes over a
    kilobyte, and most futures of a large graph are never waited for. Whoever finds no condition knows that nobody
    waits.
    """

    def __init__(self) -> None:
        # Instead of Future.__init__: the same fields, those made on demand as properties. A test compares the names
        # with those of the running Python's Future.
        self._state = _PENDING
        self._result: R | None = None
        self._exception: BaseException | None = None
        self._made_condition: threading.Condition | None = None
        self._made_waiters: list[Any] | None = None
        self._made_callbacks: list[Callable[[Future[R]], object]] | None = None

    # What is made on demand is made before the lock is taken: an allocation may run a user's finalizer.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        if self._made_condition is None:
            condition = threading.Condition()
            with _settling:
                if self._made_condition is None:
                    self._made_condition = condition
        return self._made_condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        # Only ever asked for by who holds the condition.
        if self._made_waiters is None:
            self._made_waiters = []
        return self._made_waiters

    @property
    def _done_callbacks(self) -> list[Callable[[Future[R]], object]]:
        if self._made_callbacks is None:
            self._made_callbacks = []
        return self._made_callbacks

    def done(self) -> bool:
        """Return True if the task is over: with a result, an error, or cancelled."""
        return self._state != _PENDING

    def cancelled(self) -> bool:
        """Return True if the task was cancelled."""
        return self._state in _CANCELLED_STATES

    def result(self, timeout: float | None = None) -> R:
        """Wait for the task and return its result.

        Args:
            timeout: seconds to wait at most; None: no limit.

        Raises:
            TimeoutError: the task is not over yet.
            CancelledError: it was cancelled.
            Exception: what it failed with.
        """
        if self._state == _FINISHED and self._exception is None:
            return cast(R, self._result)
        return super().result(timeout)

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call ``fn(future)`` when the task is over, or now if it is. What it raises is logged."""
        first = [fn]
        with _settling:
            if self._state == _PENDING:
                if self._made_callbacks is None:
                    self._made_callbacks = first
                else:
                    self._made_callbacks.append(fn)
                return
        self._call(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether the task was not cancelled. What runs is known to its kernel: nothing is set here."""
        return not self.cancelled()

    def set_result(self, result: R) -> None:
        """Set the outcome, as of any future that somebody else makes; a task's is set by its kernel.

        Raises:
            InvalidStateError: it has one.
        """
        self._set_by_hand(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """Set the outcome, as :meth:`set_result`."""
        self._set_by_hand(None, exception)

    def _set_by_hand(self, result: R | None, error: BaseException | None) -> None:
        # What Future itself does is no match for add_done_callback of these futures.
        if self.done():
            raise InvalidStateError(f"{self._state}: {self!r}")
        if self.settle(result, error):
            self.run_callbacks()

    def settle(self, result: R | None, error: BaseException | None, cancelled: bool = False) -> bool:
        """Set the outcome and wake all waiters, but run no callback yet. For the kernel only.

        The kernel calls :meth:`run_callbacks` after all its own work is done, so that a callback that blocks
        holds nothing up.

        Returns:
            Whether anybody registered a callback.
        """
        with _settling:
            condition = self._made_condition
            if condition is None:
                self._set(result, error, cancelled)
                return self._made_callbacks is not None
        with condition:
            with _settling:
                self._set(result, error, cancelled)
            for waiter in self._made_waiters or ():
                if cancelled:
                    waiter.add_cancelled(self)
                elif error is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            condition.notify_all()
            return self._made_callbacks is not None

    def _set(self, result: R | None, error: BaseException | None, cancelled: bool) -> None:
        self._exception = error
        self._result = result
        self._state = "CANCELLED_AND_NOTIFIED" if cancelled else _FINISHED

    def run_callbacks(self) -> None:
        """Run the callbacks of a settled future, each once. For the kernel only."""
        callbacks, self._made_callbacks = self._made_callbacks, None
        for callback in callbacks or ():
            self._call(callback)

    def _call(self, callback: Callable[[Future[R]], object]) -> None:
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
    def owner(self) -> FutureOwner:
        """The kernel that runs the task."""
        return self._owner

    @property
    def outputs(self) -> list[DataFuture]:
        """A :class:`DataFuture` for each file of the call's ``outputs``, in order."""
        if self._outputs is None:
            self._outputs = []
        return self._outputs

    @property
    def stdout(self) -> Any:
        """Where the standard output of the app goes: what ``stdout=`` said, with ``AUTO_LOGNAME`` resolved.

        For a File, the :class:`DataFuture` of it, which may be passed to other apps.
        """
        return self._stdout

    @property
    def stderr(self) -> Any:
        """Where the standard error of the app goes; see :attr:`stdout`."""
        return self._stderr

    def _files(self) -> Sequence[DataFuture]:
        """Return the futures of all files that the task makes, streams that are Files among them. For the kernel."""
        if self._outputs is None and self._stdout is None and self._stderr is None:
            return ()
        return [f for f in (*(self._outputs or ()), self._stdout, self._stderr) if isinstance(f, DataFuture)]

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
    def owner(self) -> FutureOwner | None:
        """The kernel that runs the task; None where the parent is a future of another system."""
        return self.parent.owner if isinstance(self.parent, AppFuture) else None

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
        return f"<DataFuture {shown_url(self.file_obj.url)} of task {self._tid}: {state}>"
