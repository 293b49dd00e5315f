"""A run: :class:`DataFlowKernel` builds its parts from a Config and takes them down again.

:func:`load` makes one the loaded one, which apps run in that name no other.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flowcore import loaded, serialize, signals, staging
from flowcore.apps import App
from flowcore.config import Config
from flowcore.durations import seconds_of
from flowcore.errors import AlreadyLoadedError, ConfigurationError, NoKernelError
from flowcore.futures import AppFuture
from flowcore.kernel import checkpoint as checkpoints
from flowcore.kernel.feed import EventFeed
from flowcore.kernel.kernel import INTERNAL, Kernel
from flowcore.kernel.memo import Memoizer
from flowcore.kernel.staging import DataManager
from flowcore.logs import set_file_logger
from flowcore.memoization import Hashing, installed_hashers
from flowcore.plugins import registry
from flowcore.plugins.executor import BlockExecutor, Executor, ExecutorContext
from flowcore.plugins.hooks import HookManager
from flowcore.plugins.hookspecs import NodeEvent, ResourceSample, RunInfo
from flowcore.plugins.provider import ProviderContext
from flowcore.plugins.serializer import Serializer
from flowcore.plugins.staging import Staging
from flowcore.scaling.blocks import BlockPool
from flowcore.scaling.record import BlockRecord
from flowcore.scaling.scaler import Scaler

if TYPE_CHECKING:
    from flowcore.usage import UsageReports

logger = logging.getLogger(__name__)


class DataFlowKernel:
    """A run of a configuration: executors that are ready, a run directory, and the tasks.

    Use it as a context manager: leaving the block waits for all tasks and cleans up (after an exception, it
    cleans up without waiting). Otherwise call :meth:`cleanup`; at the exit of the interpreter it is called.

    Args:
        config: the configuration; None for the default one, threads in this process.

    Raises:
        ConfigurationError: the configuration was used for an earlier run, or its executors cannot start.
    """

    def __init__(self, config: Config | None = None) -> None:
        config = Config() if config is None else config
        if config.used:
            raise ConfigurationError(
                "this Config was loaded before, and its executors cannot start again: "
                "make a fresh one for each run, for example in a function that returns it"
            )
        config.used = True
        self._config = config
        self._cleaned = False
        self._cleaning = threading.Lock()
        self._pid = os.getpid()
        self.run_id = str(uuid.uuid4())
        self.run_dir = make_run_dir(Path(config.run_dir))
        self._log_handler: logging.Handler | None = None
        self._record: BlockRecord | None = None
        self._usage: UsageReports | None = None
        if config.initialize_logging:
            flowcore_logger = set_file_logger(self.run_dir / "flowcore.log", level=logging.INFO)
            self._log_handler = flowcore_logger.handlers[-1]
        self.run = RunInfo(self.run_id, self.run_dir, repr(config), _program(), time.time())
        logger.info("run %s in %s, configuration %r", self.run_id, self.run_dir, config)
        try:
            self._build(config)
        except BaseException:  # a checkpoint or a hook that is refused
            _forget_reducer(self)
            self._close_log()
            raise
        self._stop_periodic = threading.Event()
        self._periodic: threading.Thread | None = None
        self._feed.start(self.kernel.take_steps)
        atexit.register(self._at_exit)
        try:
            signals.watch(self)
            # Before its executors: hooks hear of the run first, and each start has its finish.
            self.hooks.call("flowcore_run_started", run=self.run)
            self._start(self._executors[INTERNAL])
            self.add_executors(config.executors or [])
        except BaseException:
            self.cleanup()
            raise
        if config.usage_tracking or os.environ.get("FLOWCORE_TRACKING", "").lower() in ("true", "1", "yes"):
            from flowcore import usage  # by nobody who did not ask for it

            self._usage = usage.start(self.run_id, self.run.started_at, len(self.executors))
        if config.checkpoint_mode == "periodic":
            self._periodic = threading.Thread(
                target=self._checkpoint_periodically, name="flowcore-checkpoint", daemon=True
            )
            self._periodic.start()

    # --- for users

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        return self._config

    @property
    def executors(self) -> Mapping[str, Executor]:
        """The configured executors by label."""
        return {label: e for label, e in self._executors.items() if label != INTERNAL}

    def submit(
        self,
        func: Callable[..., Any],
        app_args: Sequence[Any] = (),
        executors: str | Sequence[str] = "all",
        cache: bool = False,
        ignore_for_cache: Sequence[str] | None = None,
        app_kwargs: Mapping[str, Any] | None = None,
        join: bool = False,
    ) -> AppFuture[Any]:
        """Run a function as a task, without a decorator.

        Args:
            func: the function.
            app_args, app_kwargs: its arguments, which may hold futures and files.
            executors: labels of the executors that may run it, or ``"all"``.
            cache, ignore_for_cache: as in :func:`flowcore.python_app`.
            join: treat it as a join_app.

        Returns:
            The task's future.
        """
        labels: Any = "all" if executors == "all" else executors
        app: App[..., Any] = App(func, "join" if join else "python", self, labels, cache, ignore_for_cache)
        return app(*app_args, **(app_kwargs or {}))

    def add_executors(self, executors: Sequence[Executor]) -> None:
        """Start executors and make them available to apps.

        Raises:
            ConfigurationError: a label is taken.
            ExecutorError: one cannot start.
        """
        for executor in executors:
            if executor.label in self._executors:
                raise ConfigurationError(f"there is an executor with the label {executor.label!r} already")
            self._executors[executor.label] = executor
            self._start(executor)
        self.kernel.executors_changed()

    def task_counts(self) -> dict[str, int]:
        """Return the number of tasks by the name of their state."""
        return self.kernel.task_counts()

    @property
    def memo_hits(self) -> int:
        """Number of tasks whose result was known already."""
        return self.kernel.memo_hits

    def checkpoint(self) -> str | None:
        """Write the results of cached apps that are not on disk yet.

        Returns:
            The checkpoint folder; None if the configuration has no ``checkpoint_mode``.
        """
        directory = self.kernel.checkpoint()
        return None if directory is None else str(directory)

    def wait_for_current_tasks(self) -> None:
        """Wait until all tasks that were submitted so far are over, well or not."""
        self.kernel.wait_for_current_tasks()

    def cleanup(self) -> None:
        """End the run: cancel all blocks, shut the executors down, write checkpoints. Idempotent.

        Tasks that are not over fail with :class:`flowcore.errors.KernelClosedError`.
        """
        # Last in, first out. Ctrl-C, or a signal that raises, ends the step that it meets in the middle; all others are
        # still taken, and blocks are cancelled whatever comes.
        steps = contextlib.ExitStack()
        steps.callback(signals.unwatch, self)
        steps.callback(atexit.unregister, self._at_exit)
        steps.callback(self._finish)
        if self._checkpoint is not None:
            steps.callback(self._write_last_checkpoint, self._checkpoint)
        # Once more, should a signal have come between two steps.
        steps.callback(self.scaler.close, _say)
        steps.callback(self.data_manager.close)
        for label, executor in self._executors.items():
            steps.callback(self._shut_down, label, executor)
        steps.callback(self._cancel_blocks)
        steps.callback(self._close_kernel)
        steps.callback(self._end_periodic)
        # Taken from here on, whatever comes: who calls again finds that they were.
        with steps, self._cleaning:
            if self._cleaned:
                steps.pop_all()
            self._cleaned = True

    def __enter__(self) -> DataFlowKernel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait_for_current_tasks()
        finally:  # Ctrl-C while it waits leaves the block too
            try:
                self.cleanup()
            finally:
                _unload(self)

    # --- steps of cleanup

    def _end_periodic(self) -> None:
        self._stop_periodic.set()
        if self._periodic is not None:
            self._periodic.join()

    def _close_kernel(self) -> None:
        left = self.kernel.unfinished()
        if left:
            logger.warning(
                "the run is ended while %d tasks are not over; wait_for_current_tasks() waits for them", left
            )
        try:
            self.kernel.close()
        except Exception:
            logger.exception("settling the tasks that are not over failed")

    def _cancel_blocks(self) -> None:
        try:
            self.scaler.close(_say)
        finally:
            left = self.scaler.left
            if left:
                jobs = ", ".join(f"{job} of executor {label}" for label, job in left)
                _say(f"jobs may be left: {jobs}. To cancel them: flowcore blocks --cancel {self.run_dir}")

    def _shut_down(self, label: str, executor: Executor) -> None:
        try:
            executor.shutdown()
        except Exception:
            logger.exception("shutting executor %s down failed", label)
        self.hooks.call("flowcore_executor_stopped", run=self.run, label=label)

    def _write_last_checkpoint(self, checkpoint: checkpoints.CheckpointFile) -> None:
        if self._config.checkpoint_mode in ("periodic", "dfk_exit"):
            try:
                self.kernel.checkpoint()
            except OSError:
                logger.exception("cannot write the last checkpoint")
        checkpoint.close()

    def _finish(self) -> None:
        self._feed.close()
        counts = self.kernel.task_counts()
        self.hooks.call("flowcore_run_finished", run=self.run, task_counts=counts)
        if self._usage is not None:
            self._usage.finish(len(self.executors), counts.get("failed", 0) + counts.get("dep_fail", 0))
        logger.info("run %s ended; tasks: %s", self.run_id, counts)
        _forget_reducer(self)
        self._close_log()

    # --- parts

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return  # a child that was forked: the run is its parent's
        left = self.kernel.unfinished()
        if left:
            _say(
                f"the program ended while {left} task{'s were' if left > 1 else ' was'} not over, which "
                "end with it. To wait for tasks, use `with flowcore.load(...):` or flowcore.wait_for_current_tasks()"
            )
        self.cleanup()

    def _build(self, config: Config) -> None:
        self.hooks = hooks_of(config)
        self._use_serializers()
        self._feed = EventFeed(self.hooks, self.run)
        self._checkpoint: checkpoints.CheckpointFile | None = None
        if config.checkpoint_mode is not None:
            self._checkpoint = checkpoints.CheckpointFile(self.run_dir / "checkpoint")
        self._executors: dict[str, Executor] = {}
        self._executors[INTERNAL] = registry.get("executor", "threads")(
            label=INTERNAL, max_threads=config.internal_tasks_max_threads
        )
        memoizer = self._make_memoizer() if config.app_cache else None
        #: The kernel proper; apps submit to it.
        self.kernel = Kernel(
            self._executors,
            self.run_dir,
            retries=config.retries,
            retry_handler=config.retry_handler,
            memoizer=memoizer,
            checkpoint=self._checkpoint,
            checkpoint_at_once=config.checkpoint_mode == "task_exit",
            garbage_collect=config.garbage_collect,
            tell_steps=self._feed.active,
            hints=self._hints if self.hooks.wanted("flowcore_failure_hints") else None,
        )
        #: Moves the files of tasks; see :class:`flowcore.kernel.staging.DataManager`.
        self.data_manager = self.kernel.staging = self._make_staging()
        #: Looks after the blocks of executors that have some.
        self.scaler = Scaler(self._strategy(), config.strategy_period, config.max_idletime)

    def _close_log(self) -> None:
        if self._log_handler is not None:
            logging.getLogger("flowcore").removeHandler(self._log_handler)
            # What a full disk did not take is lost; the run has ended all the same.
            with contextlib.suppress(OSError):
                self._log_handler.close()

    def _use_serializers(self) -> None:
        if not self.hooks.wanted("flowcore_serializer_for"):
            return
        hooks = self.hooks
        made: dict[str, Serializer] = {}

        def reduce(obj: Any) -> tuple[Any, ...] | None:
            name = hooks.call("flowcore_serializer_for", obj=obj)
            if name is None:
                return None
            if name not in made:
                made[name] = registry.get("serializer", name)()
            return load_with_serializer, (name, made[name].serialize(obj))

        _install_reducer(self, reduce)

    def _make_memoizer(self) -> Memoizer:
        hashers, problems = installed_hashers()
        for problem in problems:
            logger.error("memo hashers are left out: %s", problem)
        hook: Callable[[Any, bool], bytes | None] | None = None
        if self.hooks.wanted("flowcore_memo_hash"):

            def hook(obj: Any, output_ref: bool) -> bytes | None:
                found: bytes | None = self.hooks.call("flowcore_memo_hash", obj=obj, output_ref=output_ref)
                return found

        known = checkpoints.load(self._config.checkpoint_files or [])
        if known:
            logger.info("%d results were loaded from checkpoints", len(known))
        return Memoizer(Hashing(hashers, hook), known)

    def _make_staging(self) -> DataManager:
        hook: Callable[[Any, str, str], Staging | None] | None = None
        if self.hooks.wanted("flowcore_stager_for"):

            def hook(file: Any, executor: str, direction: str) -> Staging | None:
                found: Staging | None = self.hooks.call(
                    "flowcore_stager_for", file=file, executor=executor, direction=direction
                )
                return found

        return DataManager(
            self._executors, staging.default_staging, self.kernel.run_internal, self.run_dir, self.run_id, hook
        )

    def _strategy(self) -> Any:
        return registry.get("strategy", self._config.strategy or "none")

    def _start(self, executor: Executor) -> None:
        self.data_manager.start(executor)
        pool: BlockPool | None = None
        if isinstance(executor, BlockExecutor):
            if self._record is None:
                self._record = BlockRecord.begin(self.run)
            pool = BlockPool(executor, self.hooks, self.run, record=self._record)
            # Known to the scaler first, which cancels all blocks of its pools, and closes providers, whatever happens.
            self.scaler.add(pool)
            script_dir = (self.run_dir / "submit_scripts").resolve()
            script_dir.mkdir(exist_ok=True)
            self._record.executor(executor.label, executor.provider, script_dir)
            executor.provider.start(
                ProviderContext(
                    script_dir, executor.label, self.run_id, self.hooks.submit_script, self.hooks.channel_command
                )
            )
        period_s = self._resource_period(executor.label)
        executor.start(
            ExecutorContext(
                self.run_id,
                self.run_dir,
                self.kernel.report,
                self.kernel.attempts_running,
                pool,
                period_s,
                None if period_s is None else self._resources_used,
                self._nodes_changed if self.hooks.wanted("flowcore_node_events") else None,
            )
        )
        if pool is not None:
            self.scaler.begin(pool)
        self.hooks.call("flowcore_executor_started", run=self.run, label=executor.label, executor=executor)

    def _resource_period(self, label: str) -> float | None:
        if not self.hooks.wanted("flowcore_resource_samples"):
            return None
        period = self.hooks.call("flowcore_resource_period", executor=label)
        if period is None or (isinstance(period, int | float) and 0 <= period < math.inf):
            return period
        logger.error(
            "flowcore_resource_period(executor=%r) returned %r, which is no number of seconds from 0 on: no samples "
            "are taken there",
            label,
            period,
        )
        return None

    def _resources_used(self, samples: Sequence[ResourceSample]) -> None:
        self.hooks.call("flowcore_resource_samples", run=self.run, samples=samples)

    def _nodes_changed(self, events: Sequence[NodeEvent]) -> None:
        self.hooks.call("flowcore_node_events", run=self.run, events=events)

    def _hints(self, error: BaseException, app_name: str, executor: str | None) -> list[str]:
        hints = self.hooks.call("flowcore_failure_hints", error=error, app_name=app_name, executor=executor)
        return [hint for hint in hints or () if hint]

    def _checkpoint_periodically(self) -> None:
        period = seconds_of(self._config.checkpoint_period or "00:30:00")
        while not self._stop_periodic.wait(period):
            try:
                self.kernel.checkpoint()
            except OSError:
                logger.exception("cannot write the checkpoint; its results are kept for the next one")


def hooks_of(config: Config) -> HookManager:
    """Return the hooks of a run of a configuration: those that are installed, and its own.

    Raises:
        HookError: one does not fit; says which.
    """
    implementations, problems = registry.load_all("hooks")
    for problem in problems:
        logger.error("hooks are left out: %s", problem)
    # A class has options: it takes part where the configuration names it.
    always = [(plugin.name, found) for plugin, found in implementations if not isinstance(found, type)]
    hooks = HookManager(always)
    own = list(config.hooks)
    if config.monitoring is not None:
        own.append(config.monitoring)
    for implementation in own:
        hooks.register(implementation)
    return hooks


def next_run_dir(base: Path) -> Path:
    """Return the folder that the next run below ``base`` would have, ``base/NNN``; neither need exist."""
    taken = [int(p.name) for p in base.iterdir() if p.name.isdigit()] if base.is_dir() else []
    return base / f"{max(taken, default=-1) + 1:03}"


def make_run_dir(base: Path) -> Path:
    """Make and return the folder of a new run, ``base/NNN`` with the next free number, absolute.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        while True:
            path = next_run_dir(base)
            try:
                path.mkdir()
            except FileExistsError:  # another run took it just now
                continue
            return path.resolve()
    except OSError as error:
        raise ConfigurationError(
            f"run_dir={str(base)!r}: cannot make the folder of this run there: {error.strerror or error}"
        ) from error


def _say(text: str) -> None:
    """Tell the user something that his program cannot ask for any more, if he can be told."""
    # The terminal may be gone, and the run has to be taken down all the same.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"flowcore: {text}\n")
        sys.stderr.flush()


def _program() -> str:
    return sys.argv[0] if sys.argv and sys.argv[0] else "interactive"


# --- serialization hooks: the pickler is one for the process, so is what it asks

_reducers: list[tuple[DataFlowKernel, serialize.Reducer]] = []


def load_with_serializer(name: str, data: bytes) -> Any:
    """Turn what a serializer plugin wrote back into the object; pickled objects refer to this function."""
    return registry.get("serializer", name)().deserialize(data)


def _install_reducer(owner: DataFlowKernel, reducer: serialize.Reducer) -> None:
    _reducers.append((owner, reducer))
    serialize.set_reducer(reducer)


def _forget_reducer(owner: DataFlowKernel) -> None:
    _reducers[:] = [(o, r) for o, r in _reducers if o is not owner]
    serialize.set_reducer(_reducers[-1][1] if _reducers else None)


# --- the loaded kernel

_loading = threading.Lock()


def load(
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None, profile: str | None = None
) -> DataFlowKernel:
    """Start a run and make it the one that apps run in.

    Args:
        config: a :class:`flowcore.Config`, a mapping of its options, the path of a TOML file, or None for
            threads in this process.
        profile: with a file, the name of a table ``[profiles.NAME]`` in it, whose keys replace those of the
            top level.

    Returns:
        The run; a context manager.

    Raises:
        AlreadyLoadedError: a run is loaded; :func:`clear` ends it.
        ConfigurationError: the configuration cannot work.
    """
    with _loading:
        if loaded.run is not None:
            raise AlreadyLoadedError(
                f"a configuration is loaded already (run directory {loaded.run.run_dir}): call flowcore.clear() "
                "first, or end its `with` block, or pass data_flow_kernel= to apps to use several at once"
            )
        if profile is not None:
            if not isinstance(config, str | os.PathLike):
                raise ConfigurationError("profile= goes with the path of a configuration file")
            config = Config.from_file(config, profile)
        run = DataFlowKernel(None if config is None else Config.of(config, "flowcore.load()"))
        loaded.run = run
        return run


def clear() -> None:
    """End the loaded run, so that another one can be loaded. Does nothing if none is loaded."""
    run = loaded.run
    if run is not None:
        try:
            run.cleanup()
        finally:
            _unload(run)


def _unload(kernel: DataFlowKernel) -> None:
    with _loading:
        if loaded.run is kernel:
            loaded.run = None


def dfk() -> DataFlowKernel:
    """Return the loaded run.

    Raises:
        NoKernelError: none is loaded.
    """
    run: DataFlowKernel | None = loaded.run
    if run is None:
        raise NoKernelError("no configuration is loaded: call flowcore.load() first")
    return run


def wait_for_current_tasks() -> None:
    """Wait until all tasks of the loaded run that were submitted so far are over.

    Raises:
        NoKernelError: no configuration is loaded.
    """
    dfk().wait_for_current_tasks()
