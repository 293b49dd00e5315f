"""Stagers that were written for Parsl: their methods are given the data manager and the executor's label."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowcore.errors import PluginNotFound
from flowcore.files import File
from flowcore.futures import DataFuture
from flowcore.kernel.kernel import Kernel
from flowcore.plugins import api, registry

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
    """Finds the stagers of files, and calls them.

    Args:
        dfk: the run; None for the loaded one.
    """

    def __init__(self, dfk: Any = None) -> None:
        if dfk is None:
            from flowcore_compat_parsl import kernel

            dfk = kernel.dfk()
        self.dfk = dfk

    def stage_in(self, file: Any, input: Any, executor: str) -> Any:
        """Begin to bring a file to an executor.

        Args:
            file: the File, or a DataFuture that has one.
            input: what the task was given.
            executor: label of the executor.

        Returns:
            The stager's future, or the File as the stager made it; ``input`` if there is no file to bring.
        """
        parent = input if isinstance(input, DataFuture) else None
        if isinstance(file, DataFuture):
            file = file.file_obj
        if not isinstance(file, File):
            return input
        file = file.cleancopy()
        future = self._stager(file, executor, "in").stage_in(self._context(executor), file, parent)
        return file if future is None else future

    def optionally_stage_in(self, input: Any, func: Callable[..., Any], executor: str) -> tuple[Any, Any]:
        """Begin to bring what may be a file; return it as the task gets it, and the function to run."""
        if not isinstance(input, File | DataFuture):
            return input, func
        file = input.file_obj if isinstance(input, DataFuture) else input
        return self.stage_in(file, input, executor), self.replace_task(file, func, executor)

    def replace_task(self, file: File, func: Callable[..., Any], executor: str) -> Callable[..., Any]:
        """Return the function to run so that the file is brought first."""
        return self._stager(file, executor, "in").replace_task(self._context(executor), file, func) or func

    def replace_task_stage_out(self, file: File, func: Callable[..., Any], executor: str) -> Callable[..., Any]:
        """Return the function to run so that the file is taken afterwards."""
        return self._stager(file, executor, "out").replace_task_stage_out(self._context(executor), file, func) or func

    def stage_out(self, file: File, executor: str, app_fu: Future[Any]) -> Future[Any] | None:
        """Arrange for a file to be taken once ``app_fu`` is done; return what to wait for, or None."""
        return self._stager(file, executor, "out").stage_out(self._context(executor), file, app_fu)

    def _stager(self, file: File, executor: str, direction: str) -> api.Staging:
        found: api.Staging = self.dfk.kernel.staging.stager_for(file, self.dfk.executors[executor], direction)
        return found

    def _context(self, executor: str) -> api.StagingContext:
        working_dir = self.dfk.executors[executor].working_dir
        return api.StagingContext(executor, working_dir, self.dfk.kernel.run_internal)


def default_staging() -> list[api.Staging]:
    """Return the stagers that Parsl has by default, as far as they are installed: files, FTP and HTTP."""
    found = []
    for name in ("NoOpFileStaging", "FTPSeparateTaskStaging", "HTTPSeparateTaskStaging"):
        try:
            found.append(registry.load(registry.find_class("staging", name))())
        except PluginNotFound:  # a file that needs it says so
            continue
    return found
