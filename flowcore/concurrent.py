"""``PoolExecutor``: flowcore behind the interface of :mod:`concurrent.futures`.

Rule of this module: what a program may expect of a standard executor it gets; what flowcore adds (futures among the
arguments are dependencies, files are staged, results are :class:`AppFuture`) comes on top. Plain functions go in, and
no keyword argument is taken from them: ``fn(walltime=3)`` is a call with ``walltime=3``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast

from flowcore import session
from flowcore.apps import RESERVED, App, executor_labels
from flowcore.config import Config
from flowcore.errors import ConfigurationError, NoKernelError
from flowcore.futures import AppFuture
from flowcore.kernel.kernel import unknown_executor
from flowcore.kernel.task import AppInfo, TaskSpec

P = ParamSpec("P")
T = TypeVar("T")


class PoolExecutor(futures.Executor):
    """Runs functions as tasks, with the methods of a :class:`concurrent.futures.Executor`.

    Functions need no decorator. ::

        with PoolExecutor({"executors": [{"plugin": "htex"}]}) as pool:
            print(list(pool.map(pow, range(100), range(100), chunksize=10)))

    Args:
        config: a :class:`flowcore.Config`, a mapping of its options, or the path of a TOML file: the pool makes a
            run of its own of it, which is not the loaded one, and ends that run in :meth:`shutdown`.
        dfk: the run to use, which the pool never ends. Neither ``config`` nor ``dfk``: the loaded one.
        executors: labels of the executors that may run the functions, or ``"all"``.

    Raises:
        ConfigurationError: both ``config`` and ``dfk`` are given, or the configuration cannot work.
        NoKernelError: neither is given, and no configuration is loaded.
        UnknownExecutorError: the run has no executor of such a label.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        dfk: session.DataFlowKernel | None = None,
        executors: Sequence[str] | Literal["all"] = "all",
    ) -> None:
        self._labels = executor_labels(executors, "PoolExecutor")
        if config is not None and dfk is not None:
            raise ConfigurationError(
                "PoolExecutor(config=..., dfk=...): give one of them. config makes a run that the pool ends; "
                "dfk is a run that exists, which the pool uses and leaves alone"
            )
        self._owns_run = config is not None
        if config is not None:
            self._dfk = session.DataFlowKernel(Config.of(config, "PoolExecutor(config=...)"))
        else:
            self._dfk = _given_run(dfk)
        try:
            known = list(self._dfk.executors)
            for label in self._labels or ():
                if label not in known:
                    raise unknown_executor("PoolExecutor(executors=...)", label, known)
        except ConfigurationError:
            if self._owns_run:
                self._dfk.cleanup()
            raise
        #: Guards the next two.
        self._changed = threading.Condition()
        self._shut = False
        #: Number of calls of submit() that are between the check of _shut and the entry in _pending.
        self._entering = 0
        #: Futures of this pool that are not done; each takes itself out.
        self._pending: set[AppFuture[Any]] = set()
        self._ending = threading.Lock()

    @property
    def dfk(self) -> session.DataFlowKernel:
        """The run that the pool uses."""
        return self._dfk

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AppFuture[T]:
        """Run ``fn(*args, **kwargs)`` as a task and return its future at once.

        Futures among the arguments, also inside of lists, tuples, dicts and sets, are waited for, and the function
        gets their values; files are staged in. All keyword arguments are the function's own, also those that
        apps reserve (``inputs``, ``stdout``, ``walltime``, ...).

        Raises:
            RuntimeError: the pool was shut down.
            KernelClosedError: the run that the pool uses was cleaned up.
            ConfigurationError: ``fn`` is an app.
        """
        if isinstance(fn, App):
            raise ConfigurationError(
                f"PoolExecutor runs plain functions, and {fn!r} is an app, which makes a task when it is called: "
                "call it, or submit the function that it decorates, app.__wrapped__"
            )
        with self._changed:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown of this PoolExecutor")
            self._entering += 1
        try:
            name = _name_of(fn)
            function: Callable[..., Any] = fn
            arguments: tuple[Any, ...] = args
            named: dict[str, Any] = kwargs
            if not RESERVED.isdisjoint(named):
                function = _Named(fn, tuple(named), name)
                arguments, named = (*arguments, *named.values()), {}
            app = AppInfo(name, "python", function, fn, self._labels)
            future = cast(AppFuture[T], self._dfk.kernel.submit(TaskSpec(app, function, arguments, named)))
            self._pending.add(future)
            future.add_done_callback(cast(Callable[[futures.Future[T]], object], self._pending.discard))
            return future
        finally:
            with self._changed:
                self._entering -= 1
                if not self._entering:
                    self._changed.notify_all()

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Return an iterator over the results of ``fn`` for each element of the iterables, in their order.

        All calls are submitted at once. What is left is cancelled when the iterator raises, and when it is closed or
        forgotten between its first result and its end.

        Args:
            fn: the function.
            iterables: its arguments; the shortest one counts.
            timeout: seconds from this call in which each result must be there; None: no limit.
            chunksize: number of calls in one task. Of a task that fails no result is had.

        Raises:
            ValueError: ``chunksize`` is less than 1.
            TimeoutError: by the iterator: a result is not there in time.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize={chunksize!r}: expected at least 1")
        # The standard library's own map() is made of submit() and cancel(), which are ours.
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = super().map(_Each(fn, _name_of(fn)), _chunks(chunksize, *iterables), timeout=timeout)
        return _chained(cast("Iterator[list[T]]", chunks))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the run that the pool made. Idempotent.

        Args:
            wait: return when this pool's futures are done, and its own run has ended; else both come to pass
                in the background, and the interpreter does not exit before.
            cancel_futures: cancel what is not done. What runs is interrupted where the executor can do that,
                see :meth:`flowcore.AppFuture.cancel`, and else finishes.
        """
        with self._changed:
            self._shut = True
        if cancel_futures:
            self._cancel_pending()
        if wait:
            self._end()
        elif self._owns_run:
            threading.Thread(target=self._end, name="flowcore-pool-end", daemon=False).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Shut down and wait. After Ctrl-C or the like, also during that, end the tasks instead."""
        interrupted = True
        try:
            if kind is None or issubclass(kind, Exception):
                self.shutdown(wait=True)
                interrupted = False
        finally:
            if interrupted:
                self._abandon()
        return None

    def _abandon(self) -> None:
        with self._changed:
            self._shut = True
        if self._owns_run:
            self._dfk.cleanup()
        else:
            self._cancel_pending()

    def _cancel_pending(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._entering)
        for future in list(self._pending):
            future.cancel()

    def _end(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._entering)
        # Whoever comes second waits for the first, and finds nothing to do.
        with self._ending:
            futures.wait(list(self._pending))
            if self._owns_run:
                self._dfk.cleanup()


class _Named:
    """Calls a function with its last positional arguments given by name.

    So a name that is an option of a call to the kernel, or to a stager, reaches the function as a plain argument.
    """

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...], name: str) -> None:
        self.function = function
        self.names = names
        self.__name__ = name

    def __call__(self, *args: Any) -> Any:
        first = len(args) - len(self.names)
        return self.function(*args[:first], **dict(zip(self.names, args[first:], strict=True)))


class _Each:
    """Calls a function for each tuple of arguments of a chunk. One object for all chunks: it is sent once."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.__name__ = name

    def __call__(self, chunk: list[tuple[Any, ...]]) -> list[Any]:
        return [self.function(*args) for args in chunk]


def _chunks(size: int, *iterables: Iterable[Any]) -> Iterator[list[tuple[Any, ...]]]:
    rows = zip(*iterables, strict=False)
    while chunk := list(islice(rows, size)):
        yield chunk


def _chained(chunks: Iterator[list[T]]) -> Iterator[T]:
    for chunk in chunks:
        # Reversed and popped: no result is held after it was given out.
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _name_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def _given_run(dfk: Any) -> session.DataFlowKernel:
    if dfk is None:
        try:
            return session.dfk()
        except NoKernelError:
            raise NoKernelError(
                "PoolExecutor() uses the loaded configuration, and none is loaded: call flowcore.load() first, "
                "or give it a configuration of its own, PoolExecutor(config=...)"
            ) from None
    if not isinstance(dfk, session.DataFlowKernel):
        raise ConfigurationError(f"PoolExecutor(dfk=...) takes a DataFlowKernel, got {type(dfk).__name__}")
    return dfk
