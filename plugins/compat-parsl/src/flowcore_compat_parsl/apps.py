"""The decorators and the classes behind them: flowcore's apps, which also take what Parsl's programs write.

That is ``parsl_resource_specification``, as an argument of a call and as a default in a signature.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from flowcore import apps
from flowcore.futures import AppFuture
from flowcore.kernel.task import AppKind

SPECIFICATION = "parsl_resource_specification"

Executors = Sequence[str] | Literal["all"]


class AppBase(apps.App[..., Any]):
    """A decorated function.

    Args:
        func: the function.
        data_flow_kernel: the run to use; None for the loaded one.
        executors: labels of the executors that may run it, or ``"all"``.
        cache: reuse the result of an earlier call with equal arguments.
        ignore_for_cache: names of arguments that do not make calls different for ``cache``.
    """

    #: What kind of app flowcore takes it for.
    kind: AppKind = "python"

    def __init__(
        self,
        func: Callable[..., Any],
        data_flow_kernel: Any = None,
        executors: Executors = "all",
        cache: bool = False,
        ignore_for_cache: Sequence[str] | None = None,
    ) -> None:
        super().__init__(func, self.kind, data_flow_kernel, executors, cache, ignore_for_cache)
        try:
            parameters = inspect.signature(func).parameters
        except ValueError:  # some builtins have none
            parameters = {}  # type: ignore[assignment]
        own = parameters.get(SPECIFICATION)
        self._takes = own is not None or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._default = None if own is None or own.default is own.empty else own.default
        #: Its place among the positional arguments.
        by_place = own is not None and own.kind is own.POSITIONAL_OR_KEYWORD
        self._place = list(parameters).index(SPECIFICATION) if by_place else sys.maxsize

    def __call__(self, *args: Any, **kwargs: Any) -> AppFuture[Any]:
        """Make a task of this call; see :meth:`flowcore.apps.App.__call__`."""
        given = args[self._place] if len(args) > self._place else kwargs.get(SPECIFICATION, self._default)
        if given:
            kwargs.setdefault("resource_specification", _in_flowcores_words(given))
        if SPECIFICATION in kwargs and not self._takes:
            del kwargs[SPECIFICATION]
        return super().__call__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        info = self._info
        executors = "all" if info.executors is None else list(info.executors)
        return _rebuilt, (self.kind, self.__wrapped__, executors, info.cache, list(info.ignore_for_cache))


def _in_flowcores_words(specification: Any) -> Any:
    """Return a specification with the keys in small letters; CosmicTagger in the guide calls the ranks tasks."""
    if not isinstance(specification, dict):
        return specification
    words = {str(key).lower(): value for key, value in specification.items()}
    if "num_tasks" in words and "num_ranks" not in words:
        words["num_ranks"] = words.pop("num_tasks")
    return words


class PythonApp(AppBase):
    """A Python function as an app; with ``join``, one that returns futures to be waited for. Else as AppBase."""

    def __init__(
        self,
        func: Callable[..., Any],
        data_flow_kernel: Any = None,
        cache: bool = False,
        executors: Executors = "all",
        ignore_for_cache: Sequence[str] | None = None,
        join: bool = False,
    ) -> None:
        self.kind = "join" if join else "python"
        super().__init__(func, data_flow_kernel, executors, cache, ignore_for_cache)


class BashApp(AppBase):
    """A function that returns a command line as an app that runs it with bash. Else as AppBase."""

    kind = "bash"

    def __init__(
        self,
        func: Callable[..., Any],
        data_flow_kernel: Any = None,
        cache: bool = False,
        executors: Executors = "all",
        ignore_for_cache: Sequence[str] | None = None,
    ) -> None:
        super().__init__(func, data_flow_kernel, executors, cache, ignore_for_cache)


class _JoinApp(AppBase):
    kind = "join"


_OF_KIND: dict[str, type[AppBase]] = {"join": _JoinApp, "bash": BashApp, "python": PythonApp}


def _rebuilt(
    kind: str, function: Callable[..., Any], executors: Executors, cache: bool, ignore: Sequence[str]
) -> AppBase:
    return _OF_KIND[kind](function, None, executors=executors, cache=cache, ignore_for_cache=ignore)


def _decorate(function: Callable[..., Any] | None, cls: type[AppBase], *options: Any) -> Any:
    kernel, cache, executors, ignore = options

    def decorate(function: Callable[..., Any]) -> AppBase:
        return cls(function, kernel, cache=cache, executors=executors, ignore_for_cache=ignore)

    return decorate if function is None else decorate(function)


def python_app(
    function: Callable[..., Any] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Executors = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a Python function an app; see :func:`flowcore.python_app`."""
    return _decorate(function, PythonApp, data_flow_kernel, cache, executors, ignore_for_cache)


def bash_app(
    function: Callable[..., Any] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    executors: Executors = "all",
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a function that returns a command line an app; see :func:`flowcore.bash_app`."""
    return _decorate(function, BashApp, data_flow_kernel, cache, executors, ignore_for_cache)


def join_app(
    function: Callable[..., Any] | None = None,
    data_flow_kernel: Any = None,
    cache: bool = False,
    ignore_for_cache: Sequence[str] | None = None,
) -> Any:
    """Make a function that calls apps and returns their futures an app; see :func:`flowcore.join_app`."""
    return _decorate(function, _JoinApp, data_flow_kernel, cache, "all", ignore_for_cache)
