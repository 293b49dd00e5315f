"""The life of an executor's blocks: requested, polled, given back, cancelled.

Rule of this module: one :class:`BlockPool` per executor has the table of its blocks; a provider is called with
the pool's lock held, by one thread at a time. A status of UNKNOWN never ends a block, and no strategy takes a block
with work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from flowcore.errors import BlocksFailed, ChannelError, FlowcoreError, ScalingFailed, SchedulerUnavailable, describe
from flowcore.plugins.executor import BlockErrorHandler, BlockExecutor
from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import BlockEvent, RunInfo
from flowcore.plugins.provider import JobState, JobStatus
from flowcore.scaling.asking import Asking
from flowcore.scaling.breaker import HANDFUL, Breaker
from flowcore.scaling.error_handlers import fail, noop_error_handler, simple_error_handler
from flowcore.scaling.record import BlockRecord
from flowcore.scaling.strategy import Decision, Load, Strategy, no_scaling

logger = logging.getLogger(__name__)


#: Seconds that a running block may be without any worker, after it has had some.
DESERTED_S = 30.0
#: Seconds after the first worker of a block has connected from which on it has done work, however it ends.
PROVEN_S = 60.0
#: Seconds for which a defective provider may leave an executor without workers, and in the dark.
DEFECT_S = 300.0


def job_name(run_id: str, label: str, block_id: str) -> str:
    """Return the name of a block's job, which no job of another run has."""
    return f"flowcore.{run_id[:8]}.{label}.block-{block_id}"


@attrs.define(slots=True, eq=False)
class Block:
    """One block.

    Attributes:
        block_id: its id.
        name: of its job.
        job_id: what the provider calls it; None if it was refused, or if that is not known.
        status: the last that is known.
        released: it was given back: it gets no further work, and is cancelled or about to be.
        draining: it was given back, and is cancelled when it has no work any more.
        told: the scheduler has told something of it.
        connected_at: when the first of its workers was seen.
        proven: it has done work.
        hosts: where its workers are.
        unaccepted: its cancelling was not accepted.
        recorded: the last state that stands in the record.
    """

    block_id: str
    name: str
    job_id: str | None
    status: JobStatus
    released: bool = False
    draining: bool = False
    told: bool = False
    connected_at: float | None = None
    proven: bool = False
    hosts: tuple[str, ...] = ()
    unaccepted: bool = False
    recorded: JobState | None = None


class BlockPool:
    """The blocks of one executor. Implements ``flowcore.plugins.executor.BlockControl``.

    Args:
        executor: whose blocks; its provider is started.
        hooks: told of all that happens to them.
        run: passed to the hooks.
        clock: seconds since some point, monotonic.
        record: is told all that another process needs to find the blocks; None: nothing is recorded.
    """

    def __init__(
        self,
        executor: BlockExecutor,
        hooks: HookManager,
        run: RunInfo,
        clock: Callable[[], float] = time.monotonic,
        record: BlockRecord | None = None,
    ) -> None:
        self.executor = executor
        self._hooks = hooks
        self._run = run
        self._clock = clock
        self._record = BlockRecord(None) if record is None else record
        self._lock = threading.RLock()
        self._blocks: dict[str, Block] = {}
        #: Those of them that have not ended: the others may get many.
        self._open: dict[str, Block] = {}
        #: Those whose requests got no answer, or were interrupted: there may be jobs of them, which nobody waits for.
        self._unknown: list[Block] = []
        self._next_id = 0
        self._breaker = Breaker()
        self._asking = Asking(executor, clock)
        self._polled_at: float | None = None
        self._idle_since: float | None = None
        #: Whether there is something that the error handler has not been told.
        self._news = False
        #: Whether somebody else than the strategy asks for blocks.
        self._by_hand = False
        self._ending = False
        self._closed = False
        handler = executor.block_error_handler
        self._handle_errors: BlockErrorHandler = (
            simple_error_handler if handler is True else noop_error_handler if handler is False else handler
        )

    # --- BlockControl

    def scale_out(self, count: int = 1) -> list[str]:
        """Request blocks; return their ids.

        Raises:
            ScalingFailed: the provider refused one, or did not answer; those before it were requested.
        """
        with self._lock:
            self._by_hand = True
            return [self._request() for _ in range(count)]

    def scale_in(self, count: int, max_idletime: float | None = None) -> list[str]:
        """Give blocks back, idle ones first, newest first among the busy.

        Args:
            count: how many at most.
            max_idletime: only blocks that have been idle for this many seconds, and that have got no work when they are
                cancelled; None: also busy ones, and at once.

        Returns:
            The ids of the blocks that were given back.
        """
        return self._give_back(count, max_idletime, drain=max_idletime is not None)

    def status(self) -> dict[str, JobStatus]:
        """Return the last known status of each block, by block id."""
        with self._lock:
            return {b.block_id: b.status for b in self._blocks.values()}

    # --- for the scaler

    def start(self) -> None:
        """Request the initial blocks. A refusal is handled like a block that failed."""
        with self._lock:
            self._scale_out(self.executor.provider.init_blocks)

    def watch(self) -> None:
        """Poll the blocks if it is time, and handle their failures."""
        with self._lock:
            if self._ending:
                return
            now = self._clock()
            interval = self.executor.provider.status_polling_interval
            if self._polled_at is None or now - self._polled_at >= interval:
                self._polled_at = now
                self._poll(now)
                self._cancel([b for b in self._alive() if b.released and not b.draining])
                self._news = True
            self._look_at_workers(now)
            self._end_drained()
            if self._news and self.executor.executor_exception is None:
                self._news = False
                self._look_at_failures(now)
            if self.executor.bad_state_is_set:
                # They would cost, and serve nobody.
                self._cancel([b for b in self._alive() if not b.unaccepted])

    def step(self, strategy: Strategy, max_idletime: float) -> None:
        """Poll the blocks if it is time, handle their failures, and follow the strategy."""
        with self._lock:
            self.watch()
            if self._ending or self.executor.bad_state_is_set:
                return
            decision = self._decide(strategy, max_idletime, self._clock())
            if decision.scale_out:
                self._scale_out(decision.scale_out)
            elif decision.scale_in:
                self._give_back(decision.scale_in, max_idletime if decision.only_idle else None, drain=True)
            elif strategy is no_scaling and self._is_stranded():
                self._fail()

    @property
    def restless(self) -> bool:
        """Whether something may change soon: a block's first worker connects, or one has no work any more."""
        with self._lock:
            alive = self._alive()
            connected = self.executor.connected_blocks() if alive else set()
            return any(b.draining or b.block_id not in connected for b in alive)

    def cancel_all(self) -> list[Block]:
        """Cancel every block, and request no more; return those that may be left. To be called again if there are."""
        with self._lock:
            self._ending = True
            self._find_unknown()
            self._cancel(self._alive())
            return self.left

    @property
    def left(self) -> list[Block]:
        """The blocks that have not ended, or of which that is not known."""
        with self._lock:
            return [*self._alive(), *self._unknown]

    def close(self) -> None:
        """Cancel every block that is left, say which this leaves, and close the provider. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = self.cancel_all()
            for block in left:
                logger.error(
                    "executor %s: block %s may be left: job %s of the name %s",
                    self.executor.label,
                    block.block_id,
                    block.job_id or "(not known)",
                    block.name,
                )
            self._record.write("closed", executor=self.executor.label)
            self._asking.close()

    # --- requesting

    def _scale_out(self, count: int) -> None:
        """Request blocks, as far as that makes sense now."""
        now = self._clock()
        alive = self._alive()
        # One that is given back costs until it is gone.
        room = max(0, self.executor.provider.max_blocks - len(alive))
        hopes = sum(1 for b in alive if not (b.proven or b.released))
        count = self._asking.silence.allowed(self._breaker.allowed(min(count, room), hopes, now), now)
        try:
            for _ in range(count):
                self._request()
        except ScalingFailed:
            pass  # was logged and counted

    def _request(self) -> str:
        label = self.executor.label
        if self._ending:
            raise ScalingFailed(label, "no block is requested any more: its run has ended")
        block_id = str(self._next_id)
        self._next_id += 1
        block = Block(block_id, job_name(self._run.run_id, label, block_id), None, JobStatus(JobState.UNKNOWN))
        self._record.write("requested", executor=label, block=block_id, name=block.name)
        try:
            job_id = self._submit(block)
        except (SchedulerUnavailable, ChannelError) as error:
            self._not_known(block)
            self._record.write("unanswered", executor=label, block=block_id, message=str(error))
            self._asking.unanswered("submit", str(error), request=True)
            raise ScalingFailed(label, str(error)) from error
        except Exception as error:
            self._asking.answered("submit")
            text = str(error) if isinstance(error, FlowcoreError) else f"its provider raised {describe(error)}"
            failed = ScalingFailed(label, text)
            logger.error("%s", failed, exc_info=None if isinstance(error, FlowcoreError) else error)
            self._take_in(block)
            self._update(block, JobStatus(JobState.FAILED, text))
            raise failed from error
        except BaseException:  # Ctrl-C
            self._not_known(block)
            raise
        self._record.write("job", executor=label, block=block_id, job=job_id)
        self._asking.answered("submit")
        block.job_id = job_id
        block.status = JobStatus(JobState.PENDING)
        block.recorded = JobState.PENDING
        self._take_in(block)
        self._tell("flowcore_block_requested", block)
        logger.info("executor %s: block %s is job %s", label, block_id, job_id)
        return block_id

    def _not_known(self, block: Block) -> None:
        block.released = True
        self._unknown.append(block)

    def _submit(self, block: Block) -> str:
        command = self.executor.block_command(block.block_id)
        command = self._hooks.launch_command(self.executor.label, block.block_id, command)
        return self.executor.provider.submit(command, 1, block.name)

    def _find_unknown(self) -> None:
        """Look for the jobs of requests of which it is not known whether there is one: they are to be cancelled."""
        for block in list(self._unknown):
            found = self._asking.find(block.name)
            if found is None:
                continue
            self._unknown.remove(block)
            if found:
                block.job_id = found[0]
                self._record.write("job", executor=self.executor.label, block=block.block_id, job=block.job_id)
                self._take_in(block)
            else:
                self._record.state(self.executor.label, block.block_id, JobStatus(JobState.CANCELLED, "it never was"))

    # --- polling

    def _poll(self, now: float) -> None:
        if self._asking.silence.allowed(1, now):
            self._find_unknown()
        asked = self._alive()
        if not asked:
            return
        connected = self.executor.connected_blocks()
        states = self._asking.statuses(_job_ids(asked))
        silent = [s for s in states if s.state is JobState.UNKNOWN]
        if len(silent) < len(states):
            self._asking.answered("status")
        elif any(b.told for b in asked):
            # A job that was submitted just now may be unknown for a while.
            self._asking.unanswered("status", silent[0].message or "nothing is known of its jobs")
        for block, status in zip(asked, states, strict=True):
            if block.draining:
                # Workers that connected since may not have heard of it.
                self.executor.release_block(block.block_id)
            block.told = block.told or status.state is not JobState.UNKNOWN
            ended_well = status.state in (JobState.COMPLETED, JobState.TIMEOUT)
            if ended_well and not block.released and block.block_id not in connected:
                status = attrs.evolve(
                    status, state=JobState.MISSING, message="it ended before any of its workers connected"
                )
            if block.released and status.terminal:
                status = attrs.evolve(status, state=JobState.CANCELLED)
            self._update(block, status)

    def _look_at_workers(self, now: float) -> None:
        alive = self._alive()
        if not alive:
            return
        connected = self.executor.connected_blocks()
        deserted = self.executor.deserted_blocks()
        hosts = self.executor.block_hosts()
        for block in alive:
            if block.block_id not in connected:
                continue
            if block.connected_at is None:
                block.connected_at = now
            if not block.proven and block.block_id not in deserted and now - block.connected_at >= PROVEN_S:
                block.proven = True
                self._breaker.worked()
            seen = tuple(hosts.get(block.block_id, ()))
            if seen and seen != block.hosts:
                block.hosts = seen
                self._record.write("hosts", executor=self.executor.label, block=block.block_id, hosts=seen)
        self._end_deserted(alive, deserted, now)

    def _end_deserted(self, alive: Sequence[Block], since: dict[str, float], now: float) -> None:
        """Cancel blocks whose workers are all lost, though they run: they would cost, and keep others from coming."""
        for block in alive:
            seconds = since.get(block.block_id, 0.0)
            if block.status.state is not JobState.RUNNING or seconds <= DESERTED_S:
                continue
            if block.released and not block.draining:
                continue
            text = f"it runs, and nothing has been heard of its workers for {seconds:.0f} s"
            logger.warning("executor %s: block %s: %s: it is cancelled", self.executor.label, block.block_id, text)
            if not block.draining:
                self._breaker.failed(block.block_id, now)
            block.draining = False
            self._cancel([block], text)

    # --- failures

    def _look_at_failures(self, now: float) -> None:
        try:
            self._handle_errors(self.executor, self.status())
        except Exception:
            logger.exception("the block error handler of executor %s raised", self.executor.label)
        if self.executor.bad_state_is_set:
            return
        hopes = [b for b in self._alive() if not b.released]
        since = self._asking.defect_since
        if self._breaker.tripped and not hopes:
            self._fail()
        elif hopes and since is not None and now - since >= DEFECT_S:
            deserted = self.executor.deserted_blocks()
            if all(b.connected_at is None or b.block_id in deserted for b in hopes):
                text = (
                    f"it has no workers, and nothing has been known of its blocks for {DEFECT_S:.0f} s: "
                    f"{hopes[0].status.message}. This is a defect of the provider, whose status() must not raise"
                )
                self.executor.set_bad_state_and_fail_all(BlocksFailed(self.executor.label, text))

    def _is_stranded(self) -> bool:
        """Whether tasks wait for blocks that nobody will ask for: the last ones failed, and there is no scaling."""
        return bool(self._breaker.row and self.executor.outstanding and not self._alive() and not self._by_hand)

    def _fail(self) -> None:
        row = self._breaker.row[-HANDFUL:]
        fail(self.executor, {block_id: self._blocks[block_id].status for block_id in row})

    def _count_end(self, block: Block, state: JobState) -> None:
        if block.released:
            return
        if state in (JobState.COMPLETED, JobState.TIMEOUT):
            self._breaker.worked()
        else:
            self._breaker.failed(block.block_id, self._clock())

    # --- following the strategy

    def _decide(self, strategy: Strategy, max_idletime: float, now: float) -> Decision:
        provider = self.executor.provider
        tasks = self.executor.outstanding
        if tasks:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        active = [b for b in self._alive() if not b.released]
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

    # --- giving back

    def _give_back(self, count: int, max_idletime: float | None, drain: bool) -> list[str]:
        with self._lock:
            idle = self.executor.idle_blocks()
            active = [b for b in self._alive() if not b.released]
            order = sorted(active, key=lambda b: (-idle.get(b.block_id, -1.0), -int(b.block_id)))
            if max_idletime is not None:
                order = [b for b in order if idle.get(b.block_id, -1.0) >= max_idletime]
            chosen = order[:count]
            for block in chosen:
                block.released = True
                block.draining = drain
                self.executor.release_block(block.block_id)
            if drain:
                self._end_drained()
            else:
                self._cancel(chosen)
            return [b.block_id for b in chosen]

    def _end_drained(self) -> None:
        """Cancel those blocks that were given back and have no work.

        What is known of them may be older than the last task that they were given, before they were released.
        """
        draining = [b for b in self._alive() if b.draining]
        if not draining:
            return
        idle = self.executor.outstanding == 0
        connected, drained = self.executor.connected_blocks(), self.executor.drained_blocks()
        ended = [b for b in draining if idle or b.block_id in drained or b.block_id not in connected]
        for block in ended:
            block.draining = False
        self._cancel(ended)

    def _cancel(self, blocks: Sequence[Block], why: str | None = None) -> None:
        if not blocks:
            return
        for block in blocks:
            block.released = True
            block.draining = False
        accepted = self._asking.cancel(_job_ids(blocks), again=all(b.unaccepted for b in blocks))
        for block, ok in zip(blocks, accepted, strict=True):
            if ok:
                self._update(block, attrs.evolve(block.status, state=JobState.CANCELLED, message=why))
            elif not block.unaccepted:
                # It still costs: it stays in the table, and the next step asks again.
                block.unaccepted = True
                logger.warning(
                    "executor %s: the cancelling of block %s (job %s) was not accepted, and is asked for again",
                    self.executor.label,
                    block.block_id,
                    block.job_id,
                )

    # --- the table

    def _alive(self) -> list[Block]:
        return list(self._open.values())

    def _take_in(self, block: Block) -> None:
        self._blocks[block.block_id] = self._open[block.block_id] = block

    def _update(self, block: Block, status: JobStatus) -> None:
        changed = status.state is not block.status.state
        block.status = status
        if changed:
            self._news = True
            if status.terminal:
                self._open.pop(block.block_id, None)
            logger.info(
                "executor %s: block %s is %s%s",
                self.executor.label,
                block.block_id,
                status.status_name,
                f": {status.message}" if status.message else "",
            )
            if status.state not in (JobState.UNKNOWN, block.recorded):
                block.recorded = status.state
                self._record.state(self.executor.label, block.block_id, status)
            if status.terminal:
                self._count_end(block, status.state)
                if block.job_id is not None:
                    self.executor.block_ended(block.block_id)
            self._tell("flowcore_block_ended" if status.terminal else "flowcore_block_status_changed", block)

    def _tell(self, hook: str, block: Block) -> None:
        if self._hooks.wanted(hook):
            event = BlockEvent(self.executor.label, block.block_id, block.job_id, block.status, time.time())
            self._hooks.call(hook, run=self._run, event=event)


def _job_ids(blocks: Sequence[Block]) -> list[str]:
    """Return the ids of the jobs of blocks that have some."""
    return [b.job_id for b in blocks if b.job_id is not None]
