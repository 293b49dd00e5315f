"""Components whose behaviour the test decides: nothing runs, nothing is asked for, and all is written down.

Rule of this module: no pytest, no processes, no sleeping; a misuse by the test is an error that says so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flowcore.plugins.api import (
    Attempt,
    AttemptResult,
    BlockErrorHandler,
    BlockExecutor,
    Executor,
    ExecutorContext,
    JobState,
    JobStatus,
    Provider,
    ProviderContext,
    ScaleOutFailed,
    SchedulerUnavailable,
    Staging,
)


class FakeClock:
    """A clock that goes when it is told to; call it for the time.

    Args:
        now: seconds to begin with.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self.now += seconds


class FakeExecutor(Executor):
    """An executor whose attempts are ended by the test.

    ::

        fake = FakeExecutor()
        with flowcore.load(Config(executors=[fake])):
            future = app()
            fake.finish(fake.wait(), 42)
            assert future.result() == 42

    Args:
        label: its label.
        cancels: whether :meth:`cancel` takes attempts back.
        storage_access: stagers for its tasks' files.
        working_dir: folder for staged files.

    Attributes:
        submitted: all attempts that were accepted, in their order.
        cancelled: keys ``(task_id, try_id)`` of those that were taken back.
        refuse_with: while not None, :meth:`submit` raises this.
        context: what it was started with; None before.
        stopped: whether it was shut down.
    """

    def __init__(
        self,
        label: str = "fake",
        *,
        cancels: bool = True,
        storage_access: Sequence[Staging] | None = None,
        working_dir: str | None = None,
    ) -> None:
        self.label = label
        self.storage_access = storage_access
        self.working_dir = working_dir
        self.cancels = cancels
        self.submitted: list[Attempt] = []
        self.cancelled: list[tuple[int, int]] = []
        self.refuse_with: Exception | None = None
        self.context: ExecutorContext | None = None
        self.stopped = False
        self._open: dict[tuple[int, int], Attempt] = {}
        self._taken = 0
        # No lock is held while a result is reported: the kernel may submit from in there.
        self._changed = threading.Condition()

    def start(self, context: ExecutorContext) -> None:
        """Keep the context."""
        self.context = context

    def submit(self, attempt: Attempt) -> None:
        """Write the attempt down, or raise ``refuse_with``."""
        if self.refuse_with is not None:
            raise self.refuse_with
        with self._changed:
            self.submitted.append(attempt)
            self._open[attempt.task_id, attempt.try_id] = attempt
            self._changed.notify_all()

    def cancel(self, task_id: int, try_id: int) -> bool:
        """Take an attempt back that the test has not ended, if ``cancels``."""
        with self._changed:
            if not self.cancels or self._open.pop((task_id, try_id), None) is None:
                return False
            self.cancelled.append((task_id, try_id))
            return True

    @property
    def outstanding(self) -> int:
        """Number of attempts that the test has not ended."""
        return len(self._open)

    def shutdown(self) -> None:
        """Forget all attempts."""
        self.stopped = True
        with self._changed:
            self._open.clear()

    # --- for the test

    def wait(self, timeout_s: float = 10.0) -> Attempt:
        """Return the next attempt that this method has not yet returned, waiting for it.

        Raises:
            AssertionError: there is none in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.submitted) > self._taken, timeout_s):
                raise AssertionError(
                    f"executor {self.label!r} was given no further attempt within {timeout_s:g} s; "
                    f"it has {len(self.submitted)}"
                )
            self._taken += 1
            return self.submitted[self._taken - 1]

    def begin(self, attempt: Attempt) -> None:
        """Say that an attempt began to run."""
        self._started().running([(attempt.task_id, attempt.try_id)])

    def finish(self, attempt: Attempt, value: object = None, where: str | None = None) -> None:
        """End an attempt with a value."""
        self._end([attempt], AttemptResult(attempt.task_id, attempt.try_id, value, None, where))

    def fail(self, attempt: Attempt, error: BaseException, where: str | None = None) -> None:
        """End an attempt with an exception."""
        self._end([attempt], AttemptResult(attempt.task_id, attempt.try_id, None, error, where))

    def run(self, attempt: Attempt) -> None:
        """End an attempt with what its function does, in this thread."""
        try:
            value = attempt.func(*attempt.args, **attempt.kwargs)
        except BaseException as error:  # noqa: BLE001 - the task's own
            self.fail(attempt, error)
        else:
            self.finish(attempt, value)

    def _started(self) -> ExecutorContext:
        if self.context is None:
            raise ValueError(f"executor {self.label!r} was not started")
        return self.context

    def _end(self, attempts: Sequence[Attempt], *results: AttemptResult) -> None:
        context = self._started()
        with self._changed:
            for attempt in attempts:
                if self._open.pop((attempt.task_id, attempt.try_id), None) is None:
                    raise ValueError(
                        f"attempt {attempt.try_id} of task {attempt.task_id} was never submitted to executor "
                        f"{self.label!r}, or has ended, or was cancelled"
                    )
        context.report(results)


class FakeProvider(Provider):
    """A provider whose jobs have the states that the test gives them.

    Args:
        init_blocks, min_blocks, max_blocks, nodes_per_block, parallelism: as of every provider.
        polling_interval_s: seconds between two polls.

    Attributes:
        jobs: status by job id, in the order of submission.
        commands: command by job id.
        names: job name by job id.
        polls: the ids of each call of :meth:`status`.
        cancels: the ids of each call of :meth:`cancel`.
        refusal: while not None, :meth:`submit` raises ScaleOutFailed with this message.
        unavailable: while not None, :meth:`submit` raises SchedulerUnavailable with this message.
        answering: False: every status is UNKNOWN.
        accepts_cancels: False: :meth:`cancel` accepts nothing.
        finds: False: :meth:`find` cannot tell.
        defects: what methods raise, by their names.
        adopted: the pairs of job id and name of each call of :meth:`adopt`.
        closed: how often it was closed.
        context: what it was started with; None before.
    """

    def __init__(
        self,
        *,
        init_blocks: int = 0,
        min_blocks: int = 0,
        max_blocks: int = 10,
        nodes_per_block: int = 1,
        parallelism: float = 1.0,
        polling_interval_s: float = 1.0,
    ) -> None:
        self.init_blocks = init_blocks
        self.min_blocks = min_blocks
        self.max_blocks = max_blocks
        self.nodes_per_block = nodes_per_block
        self.parallelism = parallelism
        self.polling_interval_s = polling_interval_s
        self.jobs: dict[str, JobStatus] = {}
        self.commands: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.polls: list[list[str]] = []
        self.cancels: list[list[str]] = []
        self.refusal: str | None = None
        self.unavailable: str | None = None
        self.answering = True
        self.accepts_cancels = True
        self.finds = True
        self.defects: dict[str, BaseException] = {}
        self.adopted: list[tuple[str, str]] = []
        self.closed = 0
        self.context: ProviderContext | None = None

    @property
    def label(self) -> str:
        """``fake``."""
        return "fake"

    @property
    def status_polling_interval(self) -> float:
        """As given."""
        return self.polling_interval_s

    def start(self, context: ProviderContext) -> None:
        """Keep the context."""
        self.context = context

    def submit(self, command: str, tasks_per_node: int, job_name: str = "flowcore.auto") -> str:
        """Write a PENDING job down, or refuse."""
        self._raise("submit")
        if self.unavailable is not None:
            raise SchedulerUnavailable(self.label, self.unavailable)
        if self.refusal is not None:
            raise ScaleOutFailed(self.label, self.refusal)
        job_id = f"job{len(self.jobs)}"
        self.jobs[job_id] = JobStatus(JobState.PENDING)
        self.commands[job_id] = command
        self.names[job_id] = job_name
        return job_id

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return what the test has set."""
        self.polls.append(list(job_ids))
        self._raise("status")
        unknown = JobStatus(JobState.UNKNOWN, "the fake scheduler does not answer")
        return [self.jobs.get(job_id, unknown) if self.answering else unknown for job_id in job_ids]

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Cancel the jobs that have not ended, unless told not to accept it."""
        self.cancels.append(list(job_ids))
        self._raise("cancel")
        for job_id in job_ids:
            if self.accepts_cancels and job_id in self.jobs and not self.jobs[job_id].terminal:
                self.jobs[job_id] = JobStatus(JobState.CANCELLED)
        return [self.accepts_cancels and job_id in self.jobs for job_id in job_ids]

    def adopt(self, job_id: str, job_name: str) -> None:
        """Write it down; a job that is not known is taken to run."""
        self.adopted.append((job_id, job_name))
        self.jobs.setdefault(job_id, JobStatus(JobState.RUNNING))
        self.names.setdefault(job_id, job_name)

    def find(self, job_name: str) -> list[str] | None:
        """Return the jobs of this name that have not ended, unless told that it cannot tell."""
        self._raise("find")
        if not self.finds:
            return None
        return [job_id for job_id, name in self.names.items() if name == job_name and not self.jobs[job_id].terminal]

    def close(self) -> None:
        """Count the call."""
        self.closed += 1
        self._raise("close")

    def _raise(self, method: str) -> None:
        if method in self.defects:
            raise self.defects[method]

    # --- for the test

    def set_state(
        self,
        job_id: str,
        state: JobState,
        message: str | None = None,
        exit_code: int | None = None,
        stdout_path: str | None = None,
        stderr_path: str | None = None,
    ) -> None:
        """Give a job the state that the next :meth:`status` tells."""
        if job_id not in self.jobs:
            raise ValueError(f"there is no job {job_id!r}; jobs: {', '.join(self.jobs) or 'none'}")
        self.jobs[job_id] = JobStatus(state, message, exit_code, stdout_path, stderr_path)


class FakeBlockExecutor(FakeExecutor, BlockExecutor):
    """A :class:`FakeExecutor` with blocks: what its workers do is what the test says.

    Args:
        provider: where its blocks come from; None for a new :class:`FakeProvider`.
        label: its label.
        workers: attempts that one node runs at a time.
        block_error_handler: as of every block executor.

    Attributes:
        connected: ids of blocks whose workers have connected.
        idle: seconds by id of the blocks that are idle.
        deserted: seconds by id of the blocks whose workers are all lost.
        hosts: names of hosts by id of the blocks whose workers are there.
        busy: ids of blocks that have got work since their idle time was told: what :meth:`drained_blocks` leaves out.
        released: the ids given to :meth:`release_block`, in their order.
        ended: the ids given to :meth:`block_ended`, in their order.
    """

    def __init__(
        self,
        provider: Provider | None = None,
        label: str = "fake_blocks",
        *,
        workers: float = 1,
        block_error_handler: bool | BlockErrorHandler = True,
    ) -> None:
        super().__init__(label)
        self.provider: Provider = FakeProvider() if provider is None else provider
        self.block_error_handler = block_error_handler
        self.workers = workers
        self.connected: set[str] = set()
        self.idle: dict[str, float] = {}
        self.deserted: dict[str, float] = {}
        self.hosts: dict[str, list[str]] = {}
        self.busy: set[str] = set()
        self.released: list[str] = []
        self.ended: list[str] = []
        self._exception: Exception | None = None

    def submit(self, attempt: Attempt) -> None:
        """Write the attempt down, or raise why the executor is broken."""
        if self._exception is not None:
            raise self._exception
        super().submit(attempt)

    def block_command(self, block_id: str) -> str:
        """Return a command that does nothing and names the block."""
        return f"true block {block_id}"

    @property
    def workers_per_node(self) -> float:
        """As given."""
        return self.workers

    def connected_blocks(self) -> set[str]:
        """Return ``connected``."""
        return set(self.connected)

    def idle_blocks(self) -> dict[str, float]:
        """Return ``idle``."""
        return dict(self.idle)

    def deserted_blocks(self) -> dict[str, float]:
        """Return ``deserted``."""
        return dict(self.deserted)

    def drained_blocks(self) -> set[str]:
        """Return the idle blocks that are not ``busy``."""
        return set(self.idle) - self.busy

    def block_hosts(self) -> dict[str, list[str]]:
        """Return ``hosts``."""
        return dict(self.hosts)

    def release_block(self, block_id: str) -> None:
        """Write it down."""
        self.released.append(block_id)

    def block_ended(self, block_id: str) -> None:
        """Write it down."""
        self.ended.append(block_id)

    @property
    def executor_exception(self) -> Exception | None:
        """Why the executor is broken."""
        return self._exception

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail all attempts; the first call counts."""
        if self._exception is not None:
            return
        self._exception = exception
        for attempt in list(self._open.values()):
            self.fail(attempt, exception)
