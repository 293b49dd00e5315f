"""The decorators: a function becomes an app, a call of an app becomes a task.

Reserved keyword arguments (``inputs outputs stdout stderr walltime resource_specification``, and ``label`` of
bash_apps) are options of the call. Their defaults may stand in the function's signature. The function is given
those that it has as parameters.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from flowcore import loaded
from flowcore.bash import BashCommand
from flowcore.errors import ConfigurationError
from flowcore.files import File
from flowcore.futures import AppFuture, DataFuture
from flowcore.kernel.task import AppInfo, AppKind, TaskSpec
from flowcore.outputs import WithOutputs
from flowcore.walltime import WithWalltime

P = ParamSpec("P")
R = TypeVar("R")

RESERVED = frozenset({"inputs", "outputs", "stdout", "stderr", "walltime", "resource_specification", "label"})

#: How many functions with another walltime an app keeps.
_MOST_VARIANTS = 64


class App(Generic[P, R]):
    """A decorated function. Calling it makes a task and returns its future at once.

    Made by :func:`python_app`, :func:`bash_app` and :func:`join_app`; ``__wrapped__`` is the function.
    """

    def __init__(
        self,
        function: Callable[P, R],
        kind: AppKind,
        data_flow_kernel: Any,
        executors: Sequence[str] | Literal["all"],
        cache: bool,
        ignore_for_cache: Sequence[str] | None,
    ) -> None:
        name = _check(function, kind, ignore_for_cache)
        labels = executor_labels(executors, f"@{kind}_app")
        if data_flow_kernel is not None and not hasattr(data_flow_kernel, "kernel"):
            raise ConfigurationError(
                f"@{kind}_app(data_flow_kernel={data_flow_kernel!r}): expected what flowcore.load() returns, "
                f"got {type(data_flow_kernel).__name__}"
            )
        self._dfk = data_flow_kernel
        parameters: Mapping[str, inspect.Parameter] = {}
        try:
            parameters = inspect.signature(function).parameters
        except ValueError:
            pass  # some builtins have none
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._accepts = frozenset(RESERVED & parameters.keys())
        self._positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        #: From this many positional arguments on, a reserved one is among them.
        self._reserved_from = next((i for i, n in enumerate(self._positional, 1) if n in RESERVED), sys.maxsize)
        if any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in parameters.values()):
            self._reserved_from = sys.maxsize
        self._defaults = {
            name: p.default
            for name, p in parameters.items()
            if name in RESERVED and p.default is not p.empty and p.default is not None
        }
        body: Callable[..., Any] = BashCommand(function, name, self._accepts) if kind == "bash" else function
        self._info = AppInfo(name, kind, body, function, labels, cache, tuple(ignore_for_cache or ()))
        self._variants: dict[tuple[float | None, bool], Callable[..., Any]] = {}
        self.__wrapped__ = function
        functools.update_wrapper(self, function, updated=())

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AppFuture[R]: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> AppFuture[R]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> AppFuture[R]:
        """Make a task of this call.

        Raises:
            NoKernelError: no configuration is loaded.
            UnknownExecutorError: the app names an executor that the configuration does not have.
            ConfigurationError: a reserved keyword argument has a value that it cannot have.
        """
        kernel = (self._dfk or loaded.for_app(self._info.name)).kernel
        if not kwargs and not self._defaults and len(args) < self._reserved_from:
            return cast(AppFuture[R], kernel.submit(TaskSpec(self._info, self._info.func, args, kwargs)))
        return cast(AppFuture[R], kernel.submit(self._spec(args, kwargs)))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # An app defined in a class body is a method, as its function would be.
        return self if instance is None else functools.partial(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        info = self._info
        labels = "all" if info.executors is None else list(info.executors)
        return App, (self.__wrapped__, info.kind, None, labels, info.cache, list(info.ignore_for_cache))

    def __repr__(self) -> str:
        return f"<{self._info.kind}_app {self._info.name}>"

    def _spec(self, args: tuple[Any, ...], given: dict[str, Any]) -> TaskSpec:
        info = self._info
        if self._reserved_from <= len(args) <= len(self._positional):
            # Options of the call, though given by position.
            first = self._reserved_from - 1
            by_name = dict(zip(self._positional[first:], args[first:], strict=False))
            if not by_name.keys() & given.keys():
                args, given = args[:first], {**by_name, **given}
        kwargs = {**self._defaults, **given} if self._defaults else given
        if not RESERVED.intersection(kwargs):
            return TaskSpec(info, info.func, args, kwargs)
        walltime = kwargs.get("walltime")
        if walltime is not None:
            if type(walltime) not in (int, float) or not walltime > 0:
                raise ConfigurationError(
                    f"app {info.name!r}: walltime={walltime!r}: expected a positive number of seconds"
                )
            if walltime > threading.TIMEOUT_MAX:  # centuries, or infinity: no limit
                walltime = kwargs["walltime"] = None
        resources = kwargs.get("resource_specification") or {}
        if not isinstance(resources, dict):
            raise ConfigurationError(
                f"app {info.name!r}: resource_specification={resources!r}: expected a dict, "
                f"got {type(resources).__name__}"
            )
        outputs = kwargs.get("outputs") or ()
        if outputs:
            kwargs = {**kwargs, "outputs": _files(outputs, info.name)}
            outputs = kwargs["outputs"]
        inputs = kwargs.get("inputs")
        if inputs is not None and not isinstance(inputs, list | tuple):
            kwargs = {**kwargs, "inputs": _listed(inputs, info.name)}
        label = kwargs.get("label")
        kept = {k: v for k, v in kwargs.items() if k not in RESERVED or self._passes(k)}
        checked = bool(outputs) and info.kind == "python"
        func = info.func if info.kind == "bash" else self._function(walltime, checked)
        if checked:
            kept["outputs"] = outputs
        return TaskSpec(info, func, args, kept, resources, tuple(outputs), label)

    def _function(self, walltime: float | None, outputs: bool) -> Callable[..., Any]:
        """Return what a call with these options runs, where no command sees to them: one object for all such calls."""
        function = self._variants.get((walltime, outputs))
        if function is None:
            function = self._info.func
            if outputs:
                function = WithOutputs(function, self._info.name, self._passes("outputs"))
            if walltime is not None:
                function = WithWalltime(function, walltime, self._info.name)
            if len(self._variants) >= _MOST_VARIANTS:
                self._variants.clear()  # walltimes that are computed
            function = self._variants.setdefault((walltime, outputs), function)
        return function

    def _passes(self, option: str) -> bool:
        if option in self._accepts:
            return True
        if self._info.kind == "bash":
            # The command needs them, whether the function does or not.
            return option in ("outputs", "stdout", "stderr", "walltime", "inputs")
        # What inputs holds must be waited for; a function without the parameter says so itself.
        # ``label``, ``stdout`` and ``stderr`` are options of bash_apps only.
        return option in ("inputs", "label", "stdout", "stderr") or (option == "outputs" and self._takes_any)


def _listed(inputs: Any, app_name: str) -> list[Any]:
    if isinstance(inputs, str | bytes | os.PathLike | Mapping) or not getattr(type(inputs), "__iter__", None):
        raise ConfigurationError(
            f"app {app_name!r}: inputs={inputs!r:.80} of type {type(inputs).__name__}: expected a list of futures, "
            "files and values; for a single one inputs=[...]"
        )
    return list(inputs)


def _files(outputs: Any, app_name: str) -> list[File]:
    files = []
    if not isinstance(outputs, list | tuple):
        raise ConfigurationError(f"app {app_name!r}: outputs={outputs!r}: expected a list of File objects")
    for output in outputs:
        if isinstance(output, DataFuture):
            output = output.file_obj
        elif isinstance(output, str | os.PathLike) and not isinstance(output, File):
            output = File(output)
        if not isinstance(output, File):
            raise ConfigurationError(
                f"app {app_name!r}: outputs holds {output!r} of type {type(output).__name__}: expected a File, or the "
                "path or URL of one"
            )
        files.append(output)
    return files


def executor_labels(executors: Any, who: str) -> tuple[str, ...] | None:
    """Return the labels that an option ``executors`` names; None for ``"all"``.

    Raises:
        ConfigurationError: it is neither a label, nor a list of them, nor ``"all"``; ``who`` begins the text.
    """
    if executors == "all":
        return None
    labels = [executors] if isinstance(executors, str) else executors
    if not isinstance(labels, list | tuple) or not labels or not all(isinstance(e, str) for e in labels):
        raise ConfigurationError(f"{who}(executors={executors!r}): expected 'all' or a list of executor labels")
    return tuple(labels)


def _check(function: Any, kind: AppKind, ignore_for_cache: Sequence[str] | None) -> str:
    decorator = f"@{kind}_app"
    if not callable(function):
        raise ConfigurationError(f"{decorator} decorates a function, got {function!r}")
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise ConfigurationError(
            f"{decorator}: {function!r} has no __name__; give it one, for a partial with functools.update_wrapper"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{decorator}: {name!r} is a generator function; a task gives one result: return a list instead"
        )
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{decorator}: {name!r} is a coroutine function; decorate an ordinary one")
    if isinstance(ignore_for_cache, str):
        raise ConfigurationError(
            f"{decorator}(ignore_for_cache={ignore_for_cache!r}): expected a list of names, [{ignore_for_cache!r}]"
        )
    return name


def _decorate(
    function: Any, kind: AppKind, kernel: Any, executors: Any, cache: bool, ignore: Sequence[str] | None
) -> Any:
    if function is None:
        return lambda decorated: App(decorated, kind, kernel, executors, cache, ignore)
    return App(function, kind, kernel, executors, cache, ignore)


@overload
def python_app(
    function: Callable[P, R],
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> App[P, R]: ...


@overload
def python_app(
    function: None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Callable[[Callable[P, R]], App[P, R]]: ...


def python_app(
    function: Callable[P, R] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a Python function an app.

    Args:
        function: the function; left out where the decorator is used with arguments.
        data_flow_kernel: the :class:`flowcore.DataFlowKernel` to run in; None for the loaded one.
        cache: reuse the result of an earlier call with equal arguments.
        executors: labels of the executors that may run it, or ``"all"``.
        ignore_for_cache: names of arguments that do not make calls different for ``cache``.

    Raises:
        ConfigurationError: the function cannot be an app (a generator, a coroutine function).
    """
    return _decorate(function, "python", data_flow_kernel, executors, cache, ignore_for_cache)


@overload
def bash_app(
    function: Callable[P, str],
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> App[P, int]: ...


@overload
def bash_app(
    function: None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Callable[[Callable[P, str]], App[P, int]]: ...


def bash_app(
    function: Callable[P, str] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Sequence[str] | Literal["all"] = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a function that returns a command line an app that runs it with bash.

    The future's result is 0; any other exit code is a :class:`flowcore.errors.BashExitFailure`. The arguments
    are those of :func:`python_app`.

    Raises:
        ConfigurationError: the function cannot be an app.
    """
    return _decorate(function, "bash", data_flow_kernel, executors, cache, ignore_for_cache)


@overload
def join_app(
    function: Callable[P, Any],
    data_flow_kernel: Any = None,
    cache: bool = False,
    ignore_for_cache: Sequence[str] | None = None,
) -> App[P, Any]: ...


@overload
def join_app(
    function: None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    ignore_for_cache: Sequence[str] | None = None,
) -> Callable[[Callable[P, Any]], App[P, Any]]: ...


def join_app(
    function: Callable[P, Any] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a function that calls apps, and returns a future or a list of futures, an app.

    It runs in a thread of this process; its future has the values of the futures that it returned, and no
    worker is held while they are awaited. The arguments are those of :func:`python_app`.

    Raises:
        ConfigurationError: the function cannot be an app.
    """
    return _decorate(function, "join", data_flow_kernel, "all", cache, ignore_for_cache)
