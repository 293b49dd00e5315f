"""``Config``: flowcore's, whose retry handler is given Parsl's task record, and which takes Parsl's own executors.

Rule of this module: what a program sets later (``config.retry_handler = ...``) is treated as what it gave at first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flowcore import config
from flowcore.kernel.task import Task
from flowcore.plugins.executor import Executor
from flowcore_compat_parsl.executors import Adapted, ParslExecutor
from flowcore_compat_parsl.records import TaskRecord

logger = logging.getLogger("flowcore.compat.parsl")


class RecordHandler:
    """A retry handler of flowcore's that asks one of Parsl's.

    Args:
        handler: ``(exception, task_record) -> cost``.
    """

    def __init__(self, handler: Callable[[Exception, TaskRecord], float], owner: Config) -> None:
        self.__wrapped__ = handler
        self._config = owner

    def __call__(self, error: Exception, task: Task) -> float:
        """Return the cost that the handler gives."""
        return self.__wrapped__(error, TaskRecord(task, self._config))

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


class Config(config.Config):
    """The options of a run: Parsl's in Parsl's order, and by name what else :class:`flowcore.Config` has (``hooks``).

    ``usage_tracking`` is taken and does nothing: it is a consent to send data to Parsl's project. The one to flowcore's
    usage reports is ``FLOWCORE_TRACKING`` in the environment.
    """

    def __init__(
        self,
        executors: Iterable[Executor | ParslExecutor] | None = None,
        app_cache: bool = True,
        checkpoint_files: Sequence[str | os.PathLike[str]] | None = None,
        checkpoint_mode: str | None = None,
        checkpoint_period: str | None = None,
        garbage_collect: bool = True,
        internal_tasks_max_threads: int = 10,
        retries: int = 0,
        retry_handler: Callable[[Exception, TaskRecord], float] | None = None,
        run_dir: str | os.PathLike[str] = "runinfo",
        strategy: str | None = "simple",
        strategy_period: float | int = 5,
        max_idletime: float = 120.0,
        monitoring: Any = None,
        usage_tracking: bool = False,
        initialize_logging: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(
            executors=self._adapted("executors", executors),
            app_cache=app_cache,
            checkpoint_files=checkpoint_files,
            checkpoint_mode=checkpoint_mode,
            checkpoint_period=checkpoint_period,
            garbage_collect=garbage_collect,
            internal_tasks_max_threads=internal_tasks_max_threads,
            retries=retries,
            retry_handler=self._adapted("retry_handler", retry_handler),
            run_dir=run_dir,
            strategy=strategy,
            strategy_period=strategy_period,
            max_idletime=max_idletime,
            monitoring=monitoring,
            usage_tracking=self._adapted("usage_tracking", usage_tracking),
            initialize_logging=initialize_logging,
            **others,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._adapted(name, value))

    def _adapted(self, option: str, value: Any) -> Any:
        if option == "executors" and isinstance(value, Iterable) and not isinstance(value, str | dict):
            # flowcore's own are instances of both.
            return [e if isinstance(e, Executor) or not isinstance(e, ParslExecutor) else Adapted(e) for e in value]
        if option == "retry_handler" and callable(value) and not isinstance(value, RecordHandler):
            return RecordHandler(value, self)
        if option == "usage_tracking" and value is True:
            logger.info("usage_tracking=True is a consent to send data to Parsl's project; flowcore sends nothing")
            return False
        return value
