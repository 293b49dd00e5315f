"""The thread that looks after a run's blocks: :class:`Scaler`.

Rule of this module: after their start, providers are called by this thread alone, which no signal interrupts. So no job
is left because Ctrl-C met the command that submits or cancels it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from flowcore.scaling.blocks import BlockPool
from flowcore.scaling.strategy import Strategy

logger = logging.getLogger(__name__)

#: A young block is looked at often, so that a failure shows at once.
EAGER_S = 0.25
#: Seconds for which the end of a run asks for the cancelling of its blocks, where that is not accepted.
PATIENCE_S = 60.0
#: Seconds between two such requests, at first and at most.
_AGAIN_S = (0.25, 5.0)


class Scaler:
    """The scaling thread of a run: watches all block pools in turn, and follows the strategy.

    Args:
        strategy: decides.
        period_s: seconds between two decisions.
        max_idletime: seconds after which idle blocks may be given back.
        patience_s: seconds for which :meth:`close` asks for cancelling.
    """

    def __init__(
        self, strategy: Strategy, period_s: float, max_idletime: float, patience_s: float = PATIENCE_S
    ) -> None:
        self._strategy = strategy
        self._period_s = period_s
        self._max_idletime = max_idletime
        self._patience_s = patience_s
        #: The pools that it closes in the end.
        self.pools: list[BlockPool] = []
        #: Those whose blocks it looks after, and those whose first blocks are to be requested.
        self._running: list[BlockPool] = []
        self._beginning: list[tuple[BlockPool, threading.Event]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, pool: BlockPool) -> None:
        """Take a pool in, which is closed with this scaler whatever happens."""
        self.pools.append(pool)

    def begin(self, pool: BlockPool) -> None:
        """Request a pool's first blocks, wait until that is done, and look after them from then on."""
        requested = threading.Event()
        with self._lock:
            self._beginning.append((pool, requested))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flowcore-scaling", daemon=True)
                self._thread.start()
        self._wake.set()
        while not requested.wait(1) and not self._ended.is_set():
            pass

    def close(self, say: Callable[[str], object] = logger.warning) -> None:
        """Cancel all blocks, and end the thread. Idempotent.

        What a signal raises in the calling thread meanwhile (Ctrl-C) is raised when the blocks are cancelled. A further
        Ctrl-C ends the waiting for a scheduler that does not answer.

        Args:
            say: given a line for the user, if there is something to say.
        """
        raised: list[BaseException] = []
        said = False
        while True:
            try:
                self._stop.set()
                self._wake.set()
                if raised and not said:
                    said = True
                    say("the blocks of the run are being cancelled; Ctrl-C again does not wait for that")
                if sum(isinstance(error, KeyboardInterrupt) for error in raised) > 1:
                    self._hurry.set()
                if self._thread is not None and self._thread is not threading.current_thread():
                    self._ended.wait()
                break
            except BaseException as error:  # noqa: BLE001 - raised again below; short, as another one may follow
                raised.append(error)
        self._close_pools()
        if raised:
            raise raised[0]

    @property
    def left(self) -> list[tuple[str, str]]:
        """What could not be cancelled: the labels of executors, and the id of the job, or its name if it has none."""
        return [(p.executor.label, b.job_id or b.name) for p in self.pools for b in p.left]

    # --- the thread

    def _run(self) -> None:
        try:
            # The first block may be asked for just after this thread has started.
            decided_at = time.monotonic() - self._period_s + EAGER_S
            while not self._stop.is_set():
                self._begin_pools()
                now = time.monotonic()
                decide = now - decided_at >= self._period_s
                if decide:
                    decided_at = now
                for pool in self._running:
                    self._look_after(pool, decide)
                left_s = decided_at + self._period_s - time.monotonic()
                pause_s = min(EAGER_S, left_s) if any(map(self._restless, self._running)) else left_s
                self._wake.wait(max(0.0, pause_s))
                self._wake.clear()
            self._cancel_blocks()
            self._close_pools()
        finally:
            self._ended.set()

    def _begin_pools(self) -> None:
        with self._lock:
            beginning, self._beginning = self._beginning, []
        for pool, requested in beginning:
            try:
                pool.start()
            except BaseException:
                logger.exception("requesting the first blocks of executor %s failed", pool.executor.label)
            finally:
                self._running.append(pool)
                requested.set()

    def _look_after(self, pool: BlockPool, decide: bool) -> None:
        try:
            if decide:
                pool.step(self._strategy, self._max_idletime)
            else:
                pool.watch()
        except BaseException:
            # The thread lives on: one executor's defect must not strand the blocks of the others.
            logger.exception("scaling of executor %s failed", pool.executor.label)

    def _restless(self, pool: BlockPool) -> bool:
        try:
            return pool.restless
        except BaseException:
            logger.exception("looking at the blocks of executor %s failed", pool.executor.label)
            return False

    def _cancel_blocks(self) -> None:
        """Cancel all blocks, again and again where that is not accepted; all pools in turn, not one after the other."""
        deadline = time.monotonic() + self._patience_s
        pause_s = _AGAIN_S[0]
        left = _with_blocks(self.pools)
        while left and time.monotonic() < deadline and not self._hurry.wait(pause_s):
            pause_s = min(2 * pause_s, _AGAIN_S[1])
            left = _with_blocks(left)

    def _close_pools(self) -> None:
        for pool in self.pools:
            try:
                pool.close()
            except BaseException:
                logger.exception("cancelling the blocks of executor %s failed", pool.executor.label)


def _with_blocks(pools: Iterable[BlockPool]) -> list[BlockPool]:
    """Cancel the blocks of pools; return those pools that have some left."""
    found = []
    for pool in pools:
        try:
            if pool.cancel_all():
                found.append(pool)
        except BaseException:
            logger.exception("cancelling the blocks of executor %s failed", pool.executor.label)
            found.append(pool)
    return found
