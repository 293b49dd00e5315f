"""Stagers that were written for Parsl: their methods are given the data manager and the executor's label."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flowcore import staging
from flowcore.kernel.kernel import Kernel
from flowcore.plugins import api

_METHODS = ("stage_in", "stage_out", "replace_task", "replace_task_stage_out")


class Staging(api.Staging):
    """Base class of stagers; flowcore's own count as subclasses of it.

    A subclass defines ``can_stage_in(file)`` or ``can_stage_out(file)`` and, as far as it needs them,
    ``stage_in(dm, executor, file, parent_fut)``, ``stage_out(dm, executor, file, app_fu)``,
    ``replace_task(dm, executor, file, func)`` and ``replace_task_stage_out(dm, executor, file, func)``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in _METHODS:
            if name in cls.__dict__:
                setattr(cls, name, _called_both_ways(cls.__dict__[name]))

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Not issubclass, which would ask this again.
        return api.Staging in other.__mro__ if cls is Staging else NotImplemented

    # What `super()` in a subclass finds.

    def stage_in(self, *where: Any) -> Any:
        """Do nothing."""
        return None

    def stage_out(self, *where: Any) -> Any:
        """Do nothing."""
        return None

    def replace_task(self, *where: Any) -> Any:
        """Change nothing."""
        return None

    def replace_task_stage_out(self, *where: Any) -> Any:
        """Change nothing."""
        return None


def _called_both_ways(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method for flowcore's three arguments, (context, file, other), of one for Parsl's four."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], api.StagingContext):
            context, *rest = args
            return method(self, DataManager(_run_behind(context)), context.executor, *rest, **kwargs)
        return method(self, *args, **kwargs)

    return called


def _run_behind(context: api.StagingContext) -> Any:
    """Return the run that asks a stager, which need not be the loaded one; None if that is not known."""
    from flowcore_compat_parsl import kernel

    owner = getattr(context.submit, "__self__", None)
    return kernel._runs.get(owner) if isinstance(owner, Kernel) else None


class DataManager:
    """Finds the stagers of files, and calls them: the data manager of a run, which Parsl's programs make themselves.

    Args:
        dfk: the run; None for the loaded one.
    """

    def __init__(self, dfk: Any = None) -> None:
        if dfk is None:
            from flowcore_compat_parsl import kernel

            dfk = kernel.dfk()
        self.dfk = dfk

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.dfk.data_manager, name)


def default_staging() -> list[api.Staging]:
    """Return the stagers that Parsl has by default: files, FTP and HTTP."""
    found: list[api.Staging] = staging.default_staging
    return found
