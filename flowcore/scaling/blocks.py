"""The life of an executor's blocks: requested, polled, cancelled.

Rule of this module: one :class:`BlockPool` per executor has the table of its blocks; a provider is called with
the pool's lock held, by one thread at a time. A status of UNKNOWN never ends a block.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from flowcore.errors import ExecutionProviderException, ScalingFailed
from flowcore.plugins.executor import BlockErrorHandler, BlockExecutor
from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import BlockEvent, RunInfo
from flowcore.plugins.provider import JobState, JobStatus
from flowcore.scaling.error_handlers import noop_error_handler, simple_error_handler
from flowcore.scaling.strategy import Decision, Load, Strategy

logger = logging.getLogger(__name__)


#: Seconds that a running block may be without any worker, after it has had some.
DESERTED_S = 30.0


@attrs.define(slots=True, eq=False)
class Block:
    """One block. ``released``: it was scaled in by the core."""

    block_id: str
    job_id: str | None
    status: JobStatus
    released: bool = False


class BlockPool:
    """The blocks of one executor. Implements ``flowcore.plugins.executor.BlockControl``.

    Args:
        executor: whose blocks; its provider is started.
        hooks: told of all that happens to them.
        run: passed to the hooks.
        clock: seconds since some point, monotonic.
    """

    def __init__(
        self,
        executor: BlockExecutor,
        hooks: HookManager,
        run: RunInfo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executor = executor
        self._hooks = hooks
        self._run = run
        self._clock = clock
        self._lock = threading.RLock()
        self._blocks: dict[str, Block] = {}
        self._polled_at: float | None = None
        self._idle_since: float | None = None
        self._closed = False
        handler = executor.block_error_handler
        self._handle_errors: BlockErrorHandler = (
            simple_error_handler if handler is True else noop_error_handler if handler is False else handler
        )

    # --- BlockControl

    def scale_out(self, count: int = 1) -> list[str]:
        """Request blocks; return their ids.

        Raises:
            ScalingFailed: the provider refused one; those before it were requested.
        """
        requested = []
        with self._lock:
            for _ in range(count):
                block_id = str(len(self._blocks))
                command = self.executor.block_command(block_id)
                command = self._hooks.through(
                    "flowcore_launch_command",
                    "command",
                    executor=self.executor.label,
                    block_id=block_id,
                    command=command,
                )
                name = f"flowcore.{self.executor.label}.block-{block_id}"
                try:
                    job_id = self.executor.provider.submit(command, 1, name)
                except ExecutionProviderException as error:
                    status = JobStatus(JobState.FAILED, str(error))
                    self._blocks[block_id] = Block(block_id, None, status)
                    self._tell("flowcore_block_ended", self._blocks[block_id])
                    raise ScalingFailed(self.executor.label, str(error)) from error
                self._blocks[block_id] = block = Block(block_id, job_id, JobStatus(JobState.PENDING))
                self._tell("flowcore_block_requested", block)
                logger.info("executor %s: block %s is job %s", self.executor.label, block_id, job_id)
                requested.append(block_id)
        return requested

    def scale_in(self, count: int, max_idletime: float | None = None) -> list[str]:
        """Give blocks back, idle ones first, newest first among the busy.

        Args:
            count: how many at most.
            max_idletime: only blocks that have been idle for this many seconds; None: also busy ones.

        Returns:
            The ids of the blocks that were cancelled.
        """
        with self._lock:
            idle = self.executor.idle_blocks()
            active = [b for b in self._blocks.values() if not b.status.terminal and not b.released]
            order = sorted(active, key=lambda b: (-idle.get(b.block_id, -1.0), -int(b.block_id)))
            if max_idletime is not None:
                order = [b for b in order if idle.get(b.block_id, -1.0) >= max_idletime]
            chosen = order[:count]
            for block in chosen:
                block.released = True
                self.executor.release_block(block.block_id)
            self._cancel(chosen)
            return [b.block_id for b in chosen]

    def status(self) -> dict[str, JobStatus]:
        """Return the last known status of each block, by block id."""
        with self._lock:
            return {b.block_id: b.status for b in self._blocks.values()}

    # --- for the session

    def start(self) -> None:
        """Request the initial blocks. A refusal is handled like a block that failed."""
        self._scale_out(self.executor.provider.init_blocks)

    def step(self, strategy: Strategy, max_idletime: float) -> None:
        """Poll the blocks if it is time, handle their failures, and follow the strategy."""
        with self._lock:
            now = self._clock()
            interval = self.executor.provider.status_polling_interval
            if self._polled_at is None or now - self._polled_at >= interval:
                self._polled_at = now
                self._poll()
                self._cancel([b for b in self._blocks.values() if b.released and not b.status.terminal])
            if self.executor.executor_exception is None:
                self._handle_errors(self.executor, self.status())
            if self.executor.bad_state_is_set:
                return
            decision = self._decide(strategy, max_idletime, now)
            if decision.scale_out:
                self._scale_out(decision.scale_out)
            elif decision.scale_in:
                self.scale_in(decision.scale_in, max_idletime if decision.only_idle else None)

    def close(self) -> None:
        """Cancel every block. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._cancel([b for b in self._blocks.values() if not b.status.terminal])
            finally:
                self.executor.provider.close()

    # --- parts

    def _scale_out(self, count: int) -> None:
        try:
            self.scale_out(count)
        except ScalingFailed as error:
            logger.error("%s", error)

    def _decide(self, strategy: Strategy, max_idletime: float, now: float) -> Decision:
        provider = self.executor.provider
        tasks = self.executor.outstanding
        if tasks:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        active = [b for b in self._blocks.values() if not b.status.terminal and not b.released]
        idle = self.executor.idle_blocks()
        return strategy(
            Load(
                active_tasks=tasks,
                slots_per_block=self.executor.workers_per_node * provider.nodes_per_block,
                active_blocks=len(active),
                idle_blocks=tuple(sorted((idle[b.block_id] for b in active if b.block_id in idle), reverse=True)),
                idle_for=0.0 if self._idle_since is None else now - self._idle_since,
                min_blocks=provider.min_blocks,
                max_blocks=provider.max_blocks,
                parallelism=provider.parallelism,
                max_idletime=max_idletime,
            )
        )

    def _poll(self) -> None:
        alive = [b for b in self._blocks.values() if not b.status.terminal and b.job_id is not None]
        if not alive:
            return
        connected = self.executor.connected_blocks()
        states = self.executor.provider.status([b.job_id for b in alive if b.job_id is not None])
        for block, status in zip(alive, states, strict=True):
            ended_well = status.state in (JobState.COMPLETED, JobState.TIMEOUT)
            if ended_well and not block.released and block.block_id not in connected:
                status = attrs.evolve(
                    status, state=JobState.MISSING, message="it ended before any of its workers connected"
                )
            if block.released and status.terminal:
                status = attrs.evolve(status, state=JobState.CANCELLED)
            self._update(block, status)
        self._end_deserted(alive)

    def _end_deserted(self, blocks: Sequence[Block]) -> None:
        """Cancel blocks whose workers are all lost, though they run: they would cost, and keep others from coming."""
        since = self.executor.deserted_blocks()
        deserted = [
            b
            for b in blocks
            if not b.released and b.status.state is JobState.RUNNING and since.get(b.block_id, 0.0) > DESERTED_S
        ]
        for block in deserted:
            logger.warning(
                "executor %s: block %s runs, and nothing has been heard of its workers for %.0f s: it is cancelled",
                self.executor.label,
                block.block_id,
                since[block.block_id],
            )
        self._cancel(deserted)

    def _cancel(self, blocks: Sequence[Block]) -> None:
        known = [b for b in blocks if b.job_id is not None]
        if not known:
            return
        for block in known:
            block.released = True
        accepted = self.executor.provider.cancel([b.job_id for b in known if b.job_id is not None])
        for block, ok in zip(known, accepted, strict=True):
            if ok:
                self._update(block, attrs.evolve(block.status, state=JobState.CANCELLED))
            else:
                # It still costs: it stays in the table, and the next step asks again.
                logger.warning(
                    "executor %s: the cancelling of block %s (job %s) was not accepted",
                    self.executor.label,
                    block.block_id,
                    block.job_id,
                )

    def _update(self, block: Block, status: JobStatus) -> None:
        changed = status.state is not block.status.state
        block.status = status
        if changed:
            logger.info(
                "executor %s: block %s is %s%s",
                self.executor.label,
                block.block_id,
                status.status_name,
                f": {status.message}" if status.message else "",
            )
            if status.terminal:
                self.executor.block_ended(block.block_id)
            self._tell("flowcore_block_ended" if status.terminal else "flowcore_block_status_changed", block)

    def _tell(self, hook: str, block: Block) -> None:
        if self._hooks.wanted(hook):
            event = BlockEvent(self.executor.label, block.block_id, block.job_id, block.status, time.time())
            self._hooks.call(hook, run=self._run, event=event)


class Scaler:
    """The scaling thread of a run: steps all block pools in turn.

    Args:
        strategy: decides.
        period_s: seconds between two decisions.
        max_idletime: seconds after which idle blocks may be given back.
    """

    #: A young block is looked at often, so that a failure shows at once.
    _EAGER_S = 0.25

    def __init__(self, strategy: Strategy, period_s: float, max_idletime: float) -> None:
        self._strategy = strategy
        self._period_s = period_s
        self._max_idletime = max_idletime
        #: The pools that it looks after.
        self.pools: list[BlockPool] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, pool: BlockPool) -> None:
        """Take a pool in; the first one starts the thread."""
        self.pools.append(pool)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="flowcore-scaling", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread, then cancel all blocks. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for pool in self.pools:
            try:
                pool.close()
            except Exception:
                logger.exception("cancelling the blocks of executor %s failed", pool.executor.label)

    def _loop(self) -> None:
        # The first block may be asked for just after this thread has started.
        pause_s = min(self._EAGER_S, self._period_s)
        while not self._stop.wait(pause_s):
            for pool in list(self.pools):
                try:
                    pool.step(self._strategy, self._max_idletime)
                except Exception:
                    logger.exception("scaling of executor %s failed", pool.executor.label)
            pause_s = self._pause()

    def _pause(self) -> float:
        try:
            waiting = any(
                not s.terminal and block not in pool.executor.connected_blocks()
                for pool in list(self.pools)
                for block, s in pool.status().items()
            )
        except Exception:
            # The thread lives on: one executor's defect must not strand the blocks of the others.
            logger.exception("looking at the blocks failed")
            waiting = False
        return min(self._EAGER_S, self._period_s) if waiting else self._period_s
