"""``Timer``, and the poller and the strategy of blocks as objects: flowcore's block pools, stepped from outside.

A run polls its blocks by itself. These are for programs that watch or drive scaling in ways of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from flowcore import session
from flowcore.errors import ConfigurationError
from flowcore.plugins import registry
from flowcore.scaling import blocks, strategy

logger = logging.getLogger("flowcore.compat.parsl")


class Timer:
    """Calls a function again and again, from a thread of its own, until it is closed.

    Args:
        callback: the function; what it raises is logged.
        args: its arguments.
        interval: seconds between the end of a call and the next one.
        name: of the thread.
    """

    def __init__(self, callback: Callable[..., Any], *args: Any, interval: float = 5, name: str | None = None) -> None:
        self.interval = interval
        self.callback = callback
        self.cb_args = args
        self._closed = threading.Event()
        self._called_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name or "parsl-timer", daemon=True)
        self._thread.start()

    def make_callback(self) -> None:
        """Call the function now; the next call is an interval later."""
        self._called_at = time.monotonic()
        try:
            self.callback(*self.cb_args)
        except Exception:
            logger.exception("the callback of %s raised", self._thread.name)
        self._called_at = time.monotonic()

    def close(self, timeout: float | None = None) -> None:
        """End the thread, and wait for it.

        Args:
            timeout: seconds to wait at most; None: no limit.
        """
        self._closed.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closed.wait(max(0.0, self._called_at + self.interval - time.monotonic())):
            if time.monotonic() >= self._called_at + self.interval:
                self.make_callback()


class Strategy:
    """A scaling strategy by its name, and the executors that it is for.

    Args:
        strategy: ``simple``, ``htex_auto_scale`` or ``none``, or another one that is installed; None as ``none``.
        max_idletime: seconds after which idle blocks may be given back.
    """

    def __init__(self, *, strategy: str | None, max_idletime: float) -> None:
        self.max_idletime = max_idletime
        self.executors: list[Any] = []
        self._decide = registry.get("strategy", strategy or "none")

    def add_executors(self, executors: Sequence[Any]) -> None:
        """Take executors in."""
        self.executors.extend(executors)

    def __call__(self, load: strategy.Load) -> strategy.Decision:
        """Return the decision for a load; see :mod:`flowcore.scaling.strategy`."""
        decision: strategy.Decision = self._decide(load)
        return decision


class JobStatusPoller(Timer):
    """Polls the blocks of executors and scales them, in an interval of its own.

    Args:
        strategy: name of the strategy.
        max_idletime: seconds after which idle blocks may be given back.
        strategy_period: seconds between two polls.
        monitoring: not used: flowcore's monitoring listens to hooks.
    """

    def __init__(
        self, *, strategy: str | None, max_idletime: float, strategy_period: float, monitoring: Any = None
    ) -> None:
        self._strategy = Strategy(strategy=strategy, max_idletime=max_idletime)
        self._pools: list[blocks.BlockPool] = []
        super().__init__(self.poll, interval=strategy_period, name="JobStatusPoller")

    def add_executors(self, executors: Sequence[Any]) -> None:
        """Take executors in.

        Raises:
            ConfigurationError: one is not an executor with blocks of the loaded run.
        """
        pools = {id(pool.executor): pool for pool in session.dfk().scaler.pools}
        for executor in executors:
            if id(executor) not in pools:
                raise ConfigurationError(
                    f"JobStatusPoller: executor {getattr(executor, 'label', executor)!r} has no blocks in the loaded "
                    "run: load a configuration with it first"
                )
            self._pools.append(pools[id(executor)])
        self._strategy.add_executors(executors)

    def poll(self) -> None:
        """Poll the blocks of all executors, handle failures, and follow the strategy."""
        for pool in list(self._pools):
            pool.step(self._strategy, self._strategy.max_idletime)
