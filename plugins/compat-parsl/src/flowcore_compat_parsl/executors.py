"""Executors that were written for Parsl, and the options of HighThroughputExecutor that have another name here."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from flowcore.plugins import registry
from flowcore.plugins.api import (
    Attempt,
    BlockControl,
    Executor,
    ExecutorContext,
    FutureExecutor,
    JobStatus,
    Staging,
)


class ParslExecutor(ABC):
    """Base class of executors that a program brings: ``start``, ``submit`` and ``shutdown`` are to be defined.

    flowcore's own executors count as subclasses of it. As a context manager it is shut down at the end.

    Attributes:
        label: unique among the executors of a configuration.
        run_dir, run_id: of the run; set before :meth:`start` is called.
    """

    label: str = "undefined"
    radio_mode: str = "udp"
    storage_access: Sequence[Staging] | None = None
    working_dir: str | None = None
    run_dir: str = "."
    run_id: str | None = None
    hub_address: str | None = None
    hub_port: int | None = None
    monitoring_radio: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    @abstractmethod
    def start(self) -> None:
        """Take resources and be ready for :meth:`submit`."""

    @abstractmethod
    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Begin to run a function, and return its future."""

    @abstractmethod
    def shutdown(self) -> None:
        """Give all resources back."""

    def monitor_resources(self) -> bool:
        """Return whether the use of resources by its tasks may be monitored."""
        return True


ParslExecutor.register(Executor)  # type: ignore[type-abstract]  # an abstract one is meant


class Adapted(FutureExecutor):
    """An executor of flowcore's that has its work done by one that was written for Parsl.

    Args:
        executor: that one.
    """

    def __init__(self, executor: ParslExecutor) -> None:
        super().__init__()
        self.adapted = executor
        self.label = executor.label
        self.storage_access = executor.storage_access
        self.working_dir = executor.working_dir

    def start(self, context: ExecutorContext) -> None:
        """Tell it of the run, and start it."""
        super().start(context)
        self.adapted.run_dir = str(context.run_dir)
        self.adapted.run_id = context.run_id
        self.adapted.start()

    def submit_future(self, attempt: Attempt) -> Future[Any]:
        """Submit to it."""
        specification = dict(attempt.resource_specification)
        return self.adapted.submit(attempt.func, specification, *attempt.args, **attempt.kwargs)

    def shutdown(self) -> None:
        """Shut it down."""
        self.adapted.shutdown()

    def __repr__(self) -> str:
        return repr(self.adapted)


@functools.cache
def high_throughput_executor() -> Any:
    """Return flowcore's HighThroughputExecutor, which also takes options as Parsl's programs write them.

    Raises:
        ImportError: flowcore-executor-htex is not installed.
    """
    base: Any = registry.door("executor", "HighThroughputExecutor")

    class HighThroughputExecutor(base):  # type: ignore[misc]  # a plugin's class
        """flowcore's, with ``max_workers`` as the old name of ``max_workers_per_node``."""

        def __init__(self, *args: Any, **options: Any) -> None:
            if "max_workers" in options:
                options.setdefault("max_workers_per_node", options.pop("max_workers"))
            super().__init__(*args, **options)

        @property
        def max_workers(self) -> int | None:
            """The old name of ``max_workers_per_node``."""
            found: int | None = self.max_workers_per_node
            return found

        # What Parsl's base class of executors with blocks has: the block pool's, which the core gave at the start.

        def start(self, context: ExecutorContext) -> None:
            """Keep the context, and start."""
            self._given = context
            super().start(context)

        @property
        def run_dir(self) -> str:
            """Folder of the run."""
            return str(self._given.run_dir)

        @property
        def run_id(self) -> str:
            """UUID of the run."""
            return self._given.run_id

        @property
        def status_polling_interval(self) -> float:
            """Seconds between two polls of the blocks, the provider's."""
            seconds: float = self.provider.status_polling_interval
            return seconds

        def status(self) -> dict[str, JobStatus]:
            """Return the last known status of each block, by block id."""
            return self._blocks.status()

        @property
        def status_facade(self) -> dict[str, JobStatus]:
            """See :meth:`status`."""
            return self.status()

        def scale_out_facade(self, n: int) -> list[str]:
            """Request blocks; return their ids."""
            return self._blocks.scale_out(n)

        def scale_in_facade(self, n: int, max_idletime: float | None = None) -> list[str]:
            """Give blocks back; return their ids."""
            return self._blocks.scale_in(n, max_idletime)

        @property
        def _blocks(self) -> BlockControl:
            assert self._given.blocks is not None
            return self._given.blocks

    HighThroughputExecutor.__module__ = "parsl.executors"
    HighThroughputExecutor.__qualname__ = "HighThroughputExecutor"
    return HighThroughputExecutor
