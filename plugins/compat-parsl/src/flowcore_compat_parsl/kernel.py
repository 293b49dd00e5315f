"""``load``, ``DataFlowKernel`` and what else a program says to a run: flowcore's, with the methods that Parsl adds.

A run that flowcore loaded (``flowcore run --config``) is the same to a program as one that it loads itself.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal

from flowcore import concurrent, loaded, session
from flowcore.config import Config
from flowcore.errors import ConfigurationError
from flowcore.kernel import checkpoint as checkpoints
from flowcore.kernel.task import Task
from flowcore_compat_parsl.records import TaskRecord

logger = logging.getLogger("flowcore.compat.parsl")

#: What Parsl's kernel does with a task by methods of its own, and flowcore's machine by itself.
_STEPS = frozenset(
    {
        "check_staging_inhibited", "handle_app_update", "handle_exec_update", "handle_join_update", "launch_if_ready",
        "launch_task", "update_task_state", "wipe_task",
    }
)  # fmt: skip

#: The runs by their kernels, which is all that a task knows.
_runs: weakref.WeakKeyDictionary[Any, DataFlowKernel] = weakref.WeakKeyDictionary()


class _Either(type):
    """Every run of flowcore's is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, session.DataFlowKernel)


class DataFlowKernel(session.DataFlowKernel, metaclass=_Either):
    """A run of a configuration; see :class:`flowcore.DataFlowKernel`."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        _runs[self.kernel] = self

    def __getattr__(self, name: str) -> Any:
        if name in _STEPS:
            raise AttributeError(
                f"DataFlowKernel.{name} is a step of Parsl's own kernel; in flowcore a task takes its steps by itself: "
                "see the states in DataFlowKernel.tasks, or write a hook (flowcore_task_events)"
            )
        raise AttributeError(f"DataFlowKernel has no attribute {name!r}")

    @property
    def tasks(self) -> dict[int, TaskRecord]:
        """The records of the tasks that are not over, by number; of all tasks with ``garbage_collect=False``."""
        return {task.id: TaskRecord(task, self.config) for task in self.kernel.tasks()}

    @property
    def task_count(self) -> int:
        """Number of tasks that were made so far."""
        return sum(self.task_counts().values())

    def checkpoint(self, tasks: Sequence[Any] | None = None) -> str | None:
        """Write results that are not on disk yet; all of them, also where ``tasks`` names some."""
        return super().checkpoint()

    def load_checkpoints(self, checkpointDirs: Sequence[str] | None) -> dict[str, Future[Any]]:
        """Return the results in checkpoints, as futures that are done, by key.

        Raises:
            BadCheckpoint: one does not exist.
        """
        results: dict[str, Future[Any]] = {}
        for key, value in checkpoints.load(checkpointDirs or []).items():
            results[key] = Future()
            results[key].set_result(value)
        return results

    def log_task_states(self) -> None:
        """Write the number of tasks by state to the log."""
        logger.info("tasks by state: %s", self.task_counts())

    def atexit_cleanup(self) -> None:
        """End the run; see :meth:`cleanup`."""
        self.cleanup()


def seen_as_parsl(run: session.DataFlowKernel) -> DataFlowKernel:
    """Give a run that flowcore made the methods that Parsl documents, and return it."""
    if type(run) is session.DataFlowKernel:
        run.__class__ = DataFlowKernel
    assert isinstance(run, DataFlowKernel)
    _runs[run.kernel] = run
    return run


def run_of(task: Task) -> DataFlowKernel | None:
    """Return the run of a task; None for one that was made behind this package's back and is not the loaded one."""
    owner = task.future.owner
    known = _runs.get(owner)
    if known is None and loaded.run is not None and loaded.run.kernel is owner:
        return seen_as_parsl(loaded.run)
    return known


def load(config: Config | None = None) -> DataFlowKernel:
    """Start a run and make it the one that apps run in.

    Args:
        config: the configuration; None for threads in this process.

    Raises:
        ConfigurationError: another one is loaded, or it cannot work; or it is a dict, as of Parsl before 0.6.
    """
    if config is not None and not isinstance(config, Config | str | os.PathLike):
        raise ConfigurationError(
            f"parsl.load() takes a parsl.config.Config, got {type(config).__name__}. Configurations are objects, as "
            "since Parsl 0.6: Config(executors=[...])"
        )
    return seen_as_parsl(session.load(config))


def clear() -> None:
    """End the loaded run; see :func:`flowcore.clear`."""
    session.clear()


def dfk() -> DataFlowKernel:
    """Return the loaded run.

    Raises:
        NoKernelError: none is loaded.
    """
    return seen_as_parsl(session.dfk())


def wait_for_current_tasks() -> None:
    """Wait until all tasks of the loaded run are over.

    Raises:
        NoKernelError: no configuration is loaded.
    """
    session.wait_for_current_tasks()


class DataFlowKernelLoader:
    """The functions :func:`load`, :func:`clear`, :func:`dfk` and :func:`wait_for_current_tasks` as class methods."""

    @classmethod
    def load(cls, config: Config | None = None) -> DataFlowKernel:
        """See :func:`load`."""
        return load(config)

    @classmethod
    def clear(cls) -> None:
        """See :func:`clear`."""
        clear()

    @classmethod
    def dfk(cls) -> DataFlowKernel:
        """See :func:`dfk`."""
        return dfk()

    @classmethod
    def wait_for_current_tasks(cls) -> None:
        """See :func:`wait_for_current_tasks`."""
        wait_for_current_tasks()


class ParslPoolExecutor(concurrent.PoolExecutor):
    """flowcore's PoolExecutor; see there."""

    def __init__(
        self,
        config: Config | None = None,
        dfk: session.DataFlowKernel | None = None,
        executors: Sequence[str] | Literal["all"] = "all",
    ) -> None:
        super().__init__(config, dfk, executors)
        seen_as_parsl(self.dfk)
