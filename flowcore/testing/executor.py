"""The contract suites of executors."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowcore.plugins.api import (
    Attempt,
    AttemptResult,
    BlockExecutor,
    Executor,
    ExecutorContext,
    ExecutorError,
    JobState,
    ProviderContext,
    RunInfo,
    SerializationError,
    UnsupportedResource,
)
from flowcore.plugins.hooks import HookManager
from flowcore.scaling.blocks import BlockPool
from flowcore.testing import functions
from flowcore.testing.leftovers import Leftovers
from flowcore.testing.waiting import eventually


class Run:
    """An executor that runs as a session would run it, and what it has reported.

    Args:
        executor: made, not started.
        run_dir: the run directory.
    """

    def __init__(self, executor: Executor, run_dir: Path) -> None:
        self.executor = executor
        self.run_dir = run_dir
        #: All that was reported, in its order.
        self.results: list[AttemptResult] = []
        #: All that was said to have begun.
        self.begun: list[tuple[int, int]] = []
        #: Called with each batch, in the thread that reports it.
        self.on_report: Callable[[Sequence[AttemptResult]], None] | None = None
        self.pool: BlockPool | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._next_id = 0

    def start(self) -> None:
        """Start the executor, with blocks if it has any."""
        run_id = str(uuid.uuid4())
        executor = self.executor
        if isinstance(executor, BlockExecutor):
            self.pool = BlockPool(executor, HookManager(), RunInfo(run_id, self.run_dir, "", "contract", time.time()))
            scripts = self.run_dir / "submit_scripts"
            scripts.mkdir()
            executor.provider.start(ProviderContext(scripts, executor.label))
        executor.start(ExecutorContext(run_id, self.run_dir, self._report, self._running, self.pool))
        if self.pool is not None:
            # One, whatever the provider would begin with: the suite names the blocks.
            self.pool.scale_out(1)

    def stop(self) -> None:
        """Cancel the blocks and shut the executor down; once, as the session does."""
        if self._stopped:
            return
        self._stopped = True
        if self.pool is not None:
            self.pool.close()
        self.executor.shutdown()

    def attempt(
        self,
        func: Callable[..., Any],
        *args: Any,
        try_id: int = 0,
        resource_specification: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Attempt:
        """Return an attempt of a new task."""
        with self._changed:
            task_id, self._next_id = self._next_id, self._next_id + 1
        name = getattr(func, "__name__", "app")
        return Attempt(task_id, try_id, name, func, args, kwargs, resource_specification or {})

    def submit(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Attempt:
        """Submit an attempt of a new task and return it."""
        attempt = self.attempt(func, *args, **kwargs)
        self.executor.submit(attempt)
        return attempt

    def wait(self, attempts: Sequence[Attempt], timeout_s: float) -> list[AttemptResult]:
        """Return the results of attempts, in their order, once all are reported.

        Raises:
            AssertionError: one is not in time, or was reported twice.
        """
        keys = [(a.task_id, a.try_id) for a in attempts]
        with self._changed:
            self._changed.wait_for(lambda: set(keys) <= self._keys(), timeout_s)
            missing = set(keys) - self._keys()
            assert not missing, f"not reported within {timeout_s:g} s: (task, try) {sorted(missing)}"
            found: dict[tuple[int, int], AttemptResult] = {}
            for result in self.results:
                key = (result.task_id, result.try_id)
                assert key not in found, f"reported twice: (task, try) {key}"
                found[key] = result
        return [found[key] for key in keys]

    def has(self, attempt: Attempt) -> bool:
        """Return whether an attempt was reported."""
        with self._changed:
            return (attempt.task_id, attempt.try_id) in self._keys()

    def _keys(self) -> set[tuple[int, int]]:
        return {(r.task_id, r.try_id) for r in self.results}

    def _report(self, results: Sequence[AttemptResult]) -> None:
        with self._changed:
            self.results.extend(results)
            self._changed.notify_all()
        if self.on_report is not None:
            self.on_report(results)

    def _running(self, attempts: Sequence[tuple[int, int]]) -> None:
        with self._changed:
            self.begun.extend(attempts)


class ExecutorContract:
    """What every executor promises; see :class:`flowcore.plugins.api.Executor`.

    Subclass it, and make the executor, with few slots, in the fixture ``executor``::

        class TestMyExecutor(ExecutorContract):
            slots = 2

            @pytest.fixture
            def executor(self):
                return MyExecutor(label="mine", max_workers=2)

    The workers must be able to import flowcore. An executor with blocks uses :class:`BlockExecutorContract`.

    Attributes:
        serializes: attempts leave this process, so an argument that cannot be pickled is refused at
            :meth:`~flowcore.plugins.api.Executor.submit`. False: the very objects arrive.
        slots: at least as many attempts as the executor runs at a time.
        cancels_waiting: an attempt that has not begun can be cancelled.
        cancels_running: an attempt that has begun can be cancelled.
        reports_begin: the executor calls ``context.running``.
        result_bound_s: seconds within which a small attempt is reported, starting workers included.
        shutdown_bound_s: seconds that a shutdown takes at most.
    """

    serializes: bool = True
    slots: int = 2
    cancels_waiting: bool = True
    cancels_running: bool = False
    reports_begin: bool = False
    result_bound_s: float = 60.0
    shutdown_bound_s: float = 20.0

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test, made and not started. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `executor`")

    @pytest.fixture(autouse=True)
    def _before(self) -> Leftovers:
        # Autouse: looks before the executor is made.
        return Leftovers()

    @pytest.fixture
    def run(self, executor: Executor, tmp_path: Path) -> Iterator[Run]:
        """The executor, started."""
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        run = Run(executor, run_dir.resolve())
        try:
            run.start()
            yield run
        finally:
            run.stop()

    @contextmanager
    def held(self, run: Run, tmp_path: Path, count: int | None = None) -> Iterator[list[Attempt]]:
        """Keep every slot busy inside the block; the attempts end when it does."""
        go = tmp_path / f"go-{uuid.uuid4().hex}"
        started = [tmp_path / f"started-{uuid.uuid4().hex}" for _ in range(count or self.slots)]
        blockers = [run.submit(functions.hold, str(path), str(go)) for path in started]
        try:
            eventually(lambda: any(p.exists() for p in started), self.result_bound_s, "an attempt's beginning")
            yield blockers
        finally:
            go.touch()

    def result(self, run: Run, attempt: Attempt) -> AttemptResult:
        """Return what is reported of one attempt."""
        return run.wait([attempt], self.result_bound_s)[0]

    def assert_works(self, run: Run) -> None:
        """The executor still runs attempts."""
        assert self.result(run, run.submit(functions.add, 20, b=22)).value == 42

    # --- what it is

    def test_is_an_executor(self, executor: Executor) -> None:
        """It keeps the contract's class, kind and label."""
        assert isinstance(executor, Executor)
        assert executor.kind == "executor"
        assert isinstance(executor.label, str)
        assert executor.label
        assert executor.working_dir is None or isinstance(executor.working_dir, str)

    def test_making_one_takes_no_resources(self, _before: Leftovers, executor: Executor) -> None:
        """Threads and processes begin in start(), not in the constructor."""
        assert executor is not None
        assert _before.wait(0, all_threads=True) == []

    # --- results

    def test_reports_a_value(self, run: Run) -> None:
        """A value comes back under the attempt's ids, without an error."""
        attempt = run.submit(functions.add, 1, b=2)
        result = self.result(run, attempt)
        assert (result.task_id, result.try_id) == (attempt.task_id, attempt.try_id)
        assert result.value == 3
        assert result.error is None
        assert result.where is None or isinstance(result.where, str)

    @pytest.mark.parametrize(
        "value",
        [None, False, 0, "", "grüße\n\0", b"\xff" * 3_000_000, [1, {"a": (2, {3})}], functions.Point(1, "y")],
        ids=["None", "False", "0", "empty", "text", "3MB", "nested", "object"],
    )
    def test_arguments_and_values_arrive_unchanged(self, run: Run, value: Any) -> None:
        """Positional and named arguments, of any size, go there and back."""
        result = self.result(run, run.submit(functions.echo, value, named=value))
        assert result.error is None
        assert result.value == ((value,), {"named": value})

    def test_reports_an_exception_of_its_own_type(self, run: Run) -> None:
        """What the function raises comes back as it was, of its own class, with its arguments."""
        builtin, own = run.submit(functions.divide, 1, 0), run.submit(functions.refuse, 7)
        first, second = run.wait([builtin, own], self.result_bound_s)
        assert type(first.error) is ZeroDivisionError
        assert type(second.error) is functions.Refused
        assert second.error.args == (7, "not today")
        assert second.error.code == 7
        assert first.value is None
        assert second.value is None

    def test_an_app_that_exits_fails_alone(self, run: Run) -> None:
        """SystemExit in an attempt is that attempt's error, and the workers go on."""
        assert self.result(run, run.submit(functions.leave)).error is not None
        self.assert_works(run)

    def test_each_attempt_is_reported_once(self, run: Run) -> None:
        """Of many attempts each is reported once, with its own value."""
        attempts = [run.submit(functions.add, i) for i in range(200)]
        results = run.wait(attempts, self.result_bound_s)
        assert [r.value for r in results] == [i + 1 for i in range(200)]
        eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")
        run.stop()
        assert len(run.results) == 200

    def test_the_tries_of_a_task_are_told_apart(self, run: Run) -> None:
        """One task's attempts 0, 1 and 2 are three attempts."""
        template = run.attempt(functions.echo)
        tries = [Attempt(template.task_id, i, "echo", functions.echo, (i,), {}, {}) for i in range(3)]
        for attempt in tries:
            run.executor.submit(attempt)
        results = run.wait(tries, self.result_bound_s)
        assert [r.value[0][0] for r in results] == [0, 1, 2]

    def test_submitting_from_several_threads(self, run: Run) -> None:
        """Attempts submitted from several threads at once are all reported."""
        attempts: list[Attempt] = []

        def submit() -> None:
            for i in range(25):
                attempts.append(run.submit(functions.add, i))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(attempts) == 100
        results = run.wait(attempts, self.result_bound_s)
        assert sorted(r.value for r in results) == sorted(list(range(1, 26)) * 4)

    def test_submitting_from_inside_report(self, run: Run) -> None:
        """The kernel submits the next link of a chain in the thread that reports the last one."""
        links: list[Attempt] = []
        over = threading.Event()

        def next_link(results: Sequence[AttemptResult]) -> None:
            for result in results:
                if result.error is None and result.value < 50:
                    links.append(run.submit(functions.add, result.value))
                else:
                    over.set()

        run.on_report = next_link
        links.append(run.submit(functions.add, 0))
        assert over.wait(self.result_bound_s), f"the chain stopped after {len(run.results)} links"
        # A link may be reported before the submit() that it came from has returned.
        assert sorted(r.value for r in run.wait(links, 0)) == list(range(1, 51))

    def test_submitting_does_not_wait_for_workers(self, run: Run, tmp_path: Path) -> None:
        """submit() returns while all slots are busy."""
        with self.held(run, tmp_path) as blockers:
            waiting = [run.submit(functions.add, i) for i in range(50)]
            assert not all(run.has(b) for b in blockers)
        run.wait([*blockers, *waiting], self.result_bound_s)

    def test_says_what_began(self, run: Run) -> None:
        """context.running is told of attempts that were submitted, each once."""
        attempts = [run.submit(functions.add, i) for i in range(5)]
        run.wait(attempts, self.result_bound_s)
        keys = {(a.task_id, a.try_id) for a in attempts}
        if self.reports_begin:
            eventually(lambda: set(run.begun) == keys, 10, "the beginning of every attempt")
        assert set(run.begun) <= keys
        assert len(run.begun) == len(set(run.begun))

    # --- what cannot be sent

    def test_an_argument_that_cannot_be_pickled(self, run: Run) -> None:
        """It is refused at submit() and not reported; or, within a process, it arrives as it is."""
        thing = functions.Unwritable()
        attempt = run.attempt(functions.echo, 1, thing=thing)
        if not self.serializes:
            run.executor.submit(attempt)
            assert self.result(run, attempt).value[1]["thing"] is thing
            return
        with pytest.raises(SerializationError) as caught:
            run.executor.submit(attempt)
        assert "'thing'" in str(caught.value)
        assert "echo" in str(caught.value)
        self.assert_works(run)
        assert not run.has(attempt)
        eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")

    @pytest.mark.parametrize("func", [functions.make_unwritable, functions.raise_unwritable])
    def test_an_outcome_that_cannot_be_pickled(self, run: Run, func: Callable[[], Any]) -> None:
        """It is reported, as an error that names it, or as what it is; nothing hangs."""
        result = self.result(run, run.submit(func))
        if self.serializes:
            assert result.error is not None
            assert "Unwritable" in repr(result.error)
        else:
            assert isinstance(result.error or result.value, functions.Unwritable | functions.UnwritableError)
        self.assert_works(run)

    def test_an_unknown_resource_is_refused(self, run: Run) -> None:
        """A resource specification that nobody knows is refused at submit(), by its name."""
        attempt = run.attempt(functions.add, 1, resource_specification={"no_such_resource": 1})
        with pytest.raises(UnsupportedResource, match="no_such_resource"):
            run.executor.submit(attempt)
        self.assert_works(run)
        assert not run.has(attempt)

    # --- cancelling

    def test_cancelling_what_waits(self, run: Run, tmp_path: Path) -> None:
        """An attempt that is cancelled before it begins never begins, and is not reported."""
        mark = tmp_path / "mark"
        with self.held(run, tmp_path) as blockers:
            # Behind as many others that no prefetching brings it to a worker.
            before = [run.submit(functions.add, i) for i in range(4 * self.slots)]
            victim = run.submit(functions.touch, str(mark))
            cancelled = run.executor.cancel(victim.task_id, victim.try_id)
            assert cancelled is self.cancels_waiting
            run.executor.cancel(victim.task_id, victim.try_id)
        after = [run.submit(functions.add, i) for i in range(2 * self.slots)]
        run.wait([*blockers, *before, *after], self.result_bound_s)
        if not self.cancels_waiting:
            assert self.result(run, victim).error is None
        eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")
        assert mark.exists() is not self.cancels_waiting
        assert run.has(victim) is not self.cancels_waiting

    def test_cancelling_what_runs(self, run: Run, tmp_path: Path) -> None:
        """True means that it will not run to its end and is not reported; False, that it goes on."""
        started, go = tmp_path / "started", tmp_path / "go"
        victim = run.submit(functions.hold, str(started), str(go))
        eventually(started.exists, self.result_bound_s, "the attempt's beginning")
        cancelled = run.executor.cancel(victim.task_id, victim.try_id)
        assert cancelled is self.cancels_running
        if cancelled:
            # Its slot is free again, though nobody made the file.
            many = [run.submit(functions.add, i) for i in range(2 * self.slots)]
            run.wait(many, self.result_bound_s)
            eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")
            go.touch()
            assert not run.has(victim)
        else:
            go.touch()
            assert self.result(run, victim).value == str(started)

    def test_cancelling_what_is_unknown_or_over(self, run: Run) -> None:
        """There is nothing to take back: False, and no error."""
        assert run.executor.cancel(987654, 0) is False
        attempt = run.submit(functions.add, 1)
        self.result(run, attempt)
        eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")
        assert run.executor.cancel(attempt.task_id, attempt.try_id) is False
        assert run.executor.cancel(attempt.task_id, attempt.try_id + 1) is False

    # --- load

    def test_outstanding(self, run: Run, tmp_path: Path) -> None:
        """It counts what was submitted and not yet reported."""
        assert run.executor.outstanding == 0
        with self.held(run, tmp_path) as blockers:
            waiting = [run.submit(functions.add, i) for i in range(10)]
            expected = len(blockers) + len(waiting)
            if not any(run.has(a) for a in waiting):
                assert run.executor.outstanding == expected
            else:
                assert 0 < run.executor.outstanding < expected
        run.wait([*blockers, *waiting], self.result_bound_s)
        eventually(lambda: run.executor.outstanding == 0, 10, "outstanding == 0")

    # --- the end

    def test_shutdown_after_work(self, _before: Leftovers, run: Run) -> None:
        """Threads and processes are gone; files are below the executor's own folder."""
        self.assert_works(run)
        began = time.monotonic()
        run.stop()
        assert time.monotonic() - began < self.shutdown_bound_s
        assert _before.wait(min(5.0, self.shutdown_bound_s), all_threads=True) == []
        places = {p.name for p in run.run_dir.iterdir()}
        assert places <= {run.executor.label, "submit_scripts"}

    def test_shutdown_amid_work(self, _before: Leftovers, run: Run, tmp_path: Path) -> None:
        """It does not wait for attempts that run or wait, and those that wait never begin."""
        mark = tmp_path / "mark"
        with self.held(run, tmp_path):
            for _ in range(20 * self.slots):
                run.submit(functions.touch, str(mark))
            began = time.monotonic()
            run.stop()
            assert time.monotonic() - began < self.shutdown_bound_s
        # A thread that is in a task ends after it, now that the task can end.
        assert _before.wait(10, all_threads=True) == []
        assert not mark.exists()

    def test_shutdown_without_start(self, _before: Leftovers, executor: Executor) -> None:
        """The session shuts down what it could not start."""
        began = time.monotonic()
        executor.shutdown()
        assert time.monotonic() - began < self.shutdown_bound_s
        assert _before.wait(min(5.0, self.shutdown_bound_s), all_threads=True) == []


class BlockExecutorContract(ExecutorContract):
    """What an executor with blocks promises besides; see :class:`flowcore.plugins.api.BlockExecutor`.

    Give the executor a provider that runs blocks on this host, for example ``LocalProvider(init_blocks=1,
    max_blocks=2)``.
    """

    reports_begin: bool = False

    def _blocks(self, run: Run) -> tuple[BlockExecutor, BlockPool]:
        assert isinstance(run.executor, BlockExecutor)
        assert run.pool is not None
        return run.executor, run.pool

    def test_is_a_block_executor(self, executor: Executor) -> None:
        """It keeps the contract's class."""
        assert isinstance(executor, BlockExecutor)
        assert executor.executor_exception is None
        assert executor.bad_state_is_set is False
        assert isinstance(executor.block_error_handler, bool) or callable(executor.block_error_handler)

    def test_block_command_is_shell(self, run: Run) -> None:
        """Each block has a command of its own, and bash can read it."""
        executor, _ = self._blocks(run)
        first, second = executor.block_command("100"), executor.block_command("101")
        assert first != second
        for command in (first, second):
            checked = subprocess.run(
                ["/bin/bash", "-n"], input=command, text=True, capture_output=True, timeout=30, check=False
            )
            assert checked.returncode == 0, checked.stderr

    def test_tells_load_and_connections(self, run: Run, tmp_path: Path) -> None:
        """A block that did work has connected; without work it is idle, and ever longer."""
        executor, _ = self._blocks(run)
        with self.held(run, tmp_path) as blockers:
            assert executor.workers_per_node > 0
            assert executor.connected_blocks() == {"0"}
            assert "0" not in executor.idle_blocks()
        run.wait(blockers, self.result_bound_s)
        idle = eventually(executor.idle_blocks, self.result_bound_s, "an idle block")
        assert set(idle) == {"0"}
        assert idle["0"] >= 0
        eventually(lambda: executor.idle_blocks()["0"] > idle["0"], 30, "a longer idle time")

    def test_a_block_can_be_given_back_and_another_taken(self, run: Run) -> None:
        """A released block gets no attempts; those that come later run in the next block."""
        executor, pool = self._blocks(run)
        self.assert_works(run)
        executor.release_block("0")
        executor.release_block("0")
        late = run.submit(functions.add, 1)
        assert pool.scale_in(1) == ["0"]
        assert pool.status()["0"].state is JobState.CANCELLED
        assert pool.scale_out(1) == ["1"]
        assert self.result(run, late).value == 2
        self.assert_works(run)
        # It says which blocks have ever connected.
        assert executor.connected_blocks() == {"0", "1"}

    def test_a_released_block_drains(self, run: Run, tmp_path: Path) -> None:
        """It is told to have no work when it has none, and not before."""
        executor, _ = self._blocks(run)
        with self.held(run, tmp_path) as blockers:
            executor.release_block("0")
            assert "0" not in executor.drained_blocks()
            assert set(executor.block_hosts()) <= {"0"}
        run.wait(blockers, self.result_bound_s)
        eventually(lambda: executor.drained_blocks() == {"0"}, self.result_bound_s, "a block without work")

    def test_bad_state_fails_all(self, run: Run, tmp_path: Path) -> None:
        """Attempts that are there and those to come fail with the first exception that was set."""
        executor, _ = self._blocks(run)
        reason = ExecutorError(executor.label, "told so by the test")
        with self.held(run, tmp_path) as blockers:
            waiting = [run.submit(functions.add, i) for i in range(10)]
            executor.set_bad_state_and_fail_all(reason)
            executor.set_bad_state_and_fail_all(ExecutorError(executor.label, "a second reason"))
            results = run.wait([*blockers, *waiting], self.result_bound_s)
        assert {str(r.error) for r in results[len(blockers) :]} == {str(reason)}
        assert executor.bad_state_is_set
        assert executor.executor_exception is reason
        late = run.attempt(functions.add, 1)
        try:
            executor.submit(late)
        except ExecutorError as error:
            assert error is reason
        else:
            assert str(self.result(run, late).error) == str(reason)
        eventually(lambda: executor.outstanding == 0, 10, "outstanding == 0")
