"""The contract of executors.

The kernel hands an executor :class:`Attempt` objects and is told their outcomes in batches, through the
:class:`ExecutorContext` that the executor was started with. Outcomes are reported, not returned as futures: a
future per attempt costs more than all else that the submit side does with a short task. Who has futures to
offer (an SDK, a pool) extends :class:`FutureExecutor`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs

from flowcore.plugins.hookspecs import NodeEvent, ResourceSample
from flowcore.plugins.provider import JobStatus, Provider
from flowcore.plugins.staging import Staging


@attrs.define(slots=True, eq=False)
class Attempt:
    """One execution of a task: what to call, with which arguments.

    ``args`` and ``kwargs`` hold values, no futures. ``(task_id, try_id)`` names the attempt in its run.
    """

    task_id: int
    try_id: int
    app_name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    resource_specification: Mapping[str, Any]


@attrs.define(slots=True, eq=False)
class AttemptResult:
    """How an attempt ended: with ``value``, or with ``error`` if that is not None.

    ``where`` says for humans where it ran (``block 0, host n1, worker 3``); None for this process.
    """

    task_id: int
    try_id: int
    value: Any = None
    error: BaseException | None = None
    where: str | None = None


class BlockControl(Protocol):
    """What a block executor may ask of the scaling part of the core."""

    def scale_out(self, count: int = 1) -> list[str]: ...

    def scale_in(self, count: int, max_idletime: float | None = None) -> list[str]: ...

    def status(self) -> dict[str, JobStatus]: ...


@attrs.frozen
class ExecutorContext:
    """What an executor is given when it is started.

    Attributes:
        run_id: UUID of the run.
        run_dir: the run directory; an executor keeps its files below ``run_dir / label``.
        report: call it with attempts that ended, as many at a time as there are. From any thread. It returns
            soon, raises nothing, and ignores what it does not wait for any more.
        running: call it with ``(task_id, try_id)`` of attempts that began to run, where that is known. Optional.
        blocks: for a :class:`BlockExecutor`, the control of its blocks; None for others.
        resource_period_s: seconds between two samples of what attempts use, for executors that can take some; 0: at
            the start and the end of attempts only; None: nobody wants any.
        resources: call it with samples, from any thread, behind results that came with them; None: nobody wants any.
        nodes: call it with what becomes of nodes, likewise; None: nobody listens.
    """

    run_id: str
    run_dir: Path
    report: Callable[[Sequence[AttemptResult]], None]
    running: Callable[[Sequence[tuple[int, int]]], None]
    blocks: BlockControl | None = None
    resource_period_s: float | None = None
    resources: Callable[[Sequence[ResourceSample]], None] | None = None
    nodes: Callable[[Sequence[NodeEvent]], None] | None = None


class Executor(ABC):
    """Runs attempts.

    An executor is made by the user, started once by the session, given attempts by the kernel, and shut down
    once by the session. All its options are checked at construction; resources are taken in :meth:`start`.
    """

    kind: ClassVar[str] = "executor"
    #: Unique among the executors of a configuration. Apps name it in ``executors=[...]``.
    label: str
    #: Stagers to ask for files of tasks that run here, in order; None for the default ones.
    storage_access: Sequence[Staging] | None = None
    #: Where staged files go, on the side where tasks run; None for the run's default.
    working_dir: str | None = None

    @property
    def probe_resources(self) -> Mapping[str, Any]:
        """The smallest ``resource_specification`` that a task must have here, for tasks that try the executor out."""
        return {}

    @abstractmethod
    def start(self, context: ExecutorContext) -> None:
        """Take resources and be ready for :meth:`submit`.

        Called once, by the session, from the thread that loads the configuration. May block for a short time
        (a process that starts), not until workers are there.

        Raises:
            ExecutorError: the executor cannot work; the load fails and what was started is shut down.
        """

    @abstractmethod
    def submit(self, attempt: Attempt) -> None:
        """Accept an attempt, to be reported once through ``context.report``.

        Called by the kernel from any thread, also from several at once, with no lock held; also from inside
        ``report``. Must not block on other attempts or on workers.

        Raises:
            SerializationError: the attempt cannot be sent; it counts as failed and must not be reported.
            UnsupportedResource: its resource specification is unknown or can never be had; likewise.
            ExecutorError: the executor is broken; likewise.
        """

    def cancel(self, task_id: int, try_id: int) -> bool:
        """Take an attempt back, if that is possible.

        Called by the kernel from any thread; idempotent.

        Returns:
            True if the attempt will not run to its end; it must not be reported after that. False if it
            cannot be stopped, is unknown, or has ended.
        """
        return False

    @property
    def outstanding(self) -> int:
        """Number of attempts that were submitted and not yet reported."""
        return 0

    @property
    def bad_state_is_set(self) -> bool:
        """Whether the executor is broken for good; the kernel chooses another one then, where an app has several."""
        return False

    @abstractmethod
    def shutdown(self) -> None:
        """Give all resources back: threads joined, processes ended, sockets closed.

        Called once by the session, after the last :meth:`submit`; also when :meth:`start` failed half-way.
        Attempts that are still unreported are abandoned: the kernel has settled their tasks. Bounded in time.
        """


class FutureExecutor(Executor):
    """Base class for executors that have a future for each attempt (a pool, an SDK of another system)."""

    def __init__(self) -> None:
        self._context: ExecutorContext | None = None
        self._futures: dict[tuple[int, int], Future[Any]] = {}

    def start(self, context: ExecutorContext) -> None:
        """Keep the context. Subclasses call it first."""
        self._context = context

    @abstractmethod
    def submit_future(self, attempt: Attempt) -> Future[Any]:
        """Start the attempt and return its future. Called like :meth:`Executor.submit`."""

    def submit(self, attempt: Attempt) -> None:
        """Submit through :meth:`submit_future` and report when its future is done."""
        self._follow((attempt.task_id, attempt.try_id), self.submit_future(attempt))

    def _follow(self, key: tuple[int, int], future: Future[Any]) -> None:
        context = self._context
        assert context is not None, "submit before start"
        self._futures[key] = future

        def report(done: Future[Any]) -> None:
            if self._futures.pop(key, None) is None:
                return  # cancel() took it back
            if done.cancelled():
                result = AttemptResult(*key, error=CancelledError())
            else:
                error = done.exception()
                result = AttemptResult(*key, None if error is not None else done.result(), error)
            context.report([result])

        future.add_done_callback(report)

    def cancel(self, task_id: int, try_id: int) -> bool:
        """Cancel the attempt's future."""
        future = self._futures.pop((task_id, try_id), None)
        if future is None or future.cancel():
            return future is not None
        # It runs, or has ended in this moment, and its callback found nothing to report.
        self._follow((task_id, try_id), future)
        return False

    @property
    def outstanding(self) -> int:
        """Number of futures that are not done."""
        return len(self._futures)


class BlockExecutor(Executor):
    """An executor whose workers live in blocks, which the core asks a provider for.

    The core requests, polls and cancels the blocks (``flowcore.scaling``); the executor says which command
    starts one and what load there is.
    """

    provider: Provider
    #: True for the default handler, False for none, or a function.
    block_error_handler: bool | BlockErrorHandler = True

    @abstractmethod
    def block_command(self, block_id: str) -> str:
        """Return the shell command that starts this executor's workers on one node of a block.

        Called by the scaling part after :meth:`start`, once per block.
        """

    def preview_command(self, context: ExecutorContext, block_id: str) -> str | None:
        """Return what :meth:`block_command` would return in a run; None if that cannot be told. Touches nothing.

        Called for an executor that is not started, by who wants to see the script of a block.
        """
        return None

    @property
    @abstractmethod
    def workers_per_node(self) -> float:
        """Number of attempts that one node runs at a time; 0 while it is not known."""

    @abstractmethod
    def connected_blocks(self) -> set[str]:
        """Return the ids of all blocks from which any worker has ever connected."""

    @abstractmethod
    def idle_blocks(self) -> dict[str, float]:
        """Return, for each connected block without work, for how many seconds it has had none."""

    def deserted_blocks(self) -> dict[str, float]:
        """Return, for each block that had workers and has none now, for how many seconds it has had none."""
        return {}

    @abstractmethod
    def release_block(self, block_id: str) -> None:
        """Give the block no further attempt: it is about to be cancelled. Idempotent."""

    def drained_blocks(self) -> set[str]:
        """Return the released blocks that have no work, and will get none.

        What is known of a block may be older than its release, and so than the last attempts that it was given: a block
        is not among these before its workers were heard of since.
        """
        return set(self.idle_blocks())

    def block_hosts(self) -> dict[str, list[str]]:
        """Return, for each block with workers, the names of the hosts where they are, as far as known."""
        return {}

    def block_ended(self, block_id: str) -> None:
        """The block has ended: its workers will not be heard of again. Called once, by the scaling thread."""

    @property
    @abstractmethod
    def executor_exception(self) -> Exception | None:
        """Why the executor is broken for good; None while it is not."""

    @property
    def bad_state_is_set(self) -> bool:
        """Whether the executor is broken for good."""
        return self.executor_exception is not None

    @abstractmethod
    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail all attempts, those submitted and those still to come, with this exception.

        Called by block error handlers from the scaling thread; the first call counts.
        """


#: Called after each poll of an executor's blocks with the status of each; may call
#: :meth:`BlockExecutor.set_bad_state_and_fail_all`.
BlockErrorHandler = Callable[[BlockExecutor, dict[str, JobStatus]], None]
