"""The executor of threads, where it says more than the contract."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.errors import ConfigurationError, UnsupportedResource
from flowcore.executors import ThreadPoolExecutor
from flowcore.plugins.api import Attempt, AttemptResult, ExecutorContext


def attempt(func: Any, *args: Any, **resources: Any) -> Attempt:
    return Attempt(0, 0, "my_app", func, args, {}, resources)


class Started:
    def __init__(self, **options: Any) -> None:
        self.executor = ThreadPoolExecutor(**options)
        self.results: list[AttemptResult] = []
        self.reported = threading.Event()
        self.executor.start(ExecutorContext("id", Path(), self._report, lambda keys: None))

    def _report(self, results: Any) -> None:
        self.results += results
        self.reported.set()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: Any) -> None:
        self.executor.shutdown()


@pytest.mark.parametrize(
    ("options", "name"),
    [({}, "threads_0"), ({"label": "io"}, "io_0"), ({"thread_name_prefix": "p"}, "p_0")],
)
def test_thread_names(options: dict[str, Any], name: str) -> None:
    with Started(max_threads=1, **options) as run:
        run.executor.submit(attempt(lambda: threading.current_thread().name))
        assert run.reported.wait(10)
    assert run.results[0].value == name


def test_it_runs_in_this_process_with_the_very_objects() -> None:
    thing = object()
    with Started() as run:
        run.executor.submit(attempt(lambda x: x, thing))
        assert run.reported.wait(10)
    assert run.results[0].value is thing


def test_a_thread_exists_per_slot() -> None:
    barrier = threading.Barrier(4)
    with Started(max_threads=3) as run:
        for i in range(3):
            run.executor.submit(Attempt(i, 0, "a", barrier.wait, (10,), {}, {}))
        barrier.wait(10)
        assert len([t for t in threading.enumerate() if t.name.startswith("threads_")]) == 3


def test_resources_are_refused_with_advice() -> None:
    with Started() as run:
        with pytest.raises(UnsupportedResource) as caught:
            run.executor.submit(attempt(print, cores=2))
        assert run.executor.outstanding == 0
    assert str(caught.value) == (
        "executor 'threads': threads have no resources to specify, app 'my_app' wants {'cores': 2}; "
        "leave resource_specification out"
    )


def test_base_exceptions_do_not_end_the_thread() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Started(max_threads=1) as run:
        run.executor.submit(attempt(interrupt))
        assert run.reported.wait(10)
        run.reported.clear()
        run.executor.submit(Attempt(1, 0, "a", int, ("7",), {}, {}))
        assert run.reported.wait(10)
    assert isinstance(run.results[0].error, KeyboardInterrupt)
    assert run.results[1].value == 7


def test_arguments_and_values_are_let_go() -> None:
    import gc
    import weakref

    class Thing: ...

    thing = Thing()
    gone = weakref.ref(thing)
    with Started(max_threads=1) as run:
        run.executor.submit(attempt(lambda x: None, thing))
        del thing
        assert run.reported.wait(10)
        # The idle thread does not hold on to what its last task was given.
        run.reported.clear()
        run.executor.submit(Attempt(1, 0, "a", int, (), {}, {}))
        assert run.reported.wait(10)
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("options", [{"max_threads": 0}, {"max_threads": "2"}, {"label": 3}, {"threads": 3}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ThreadPoolExecutor(**options)


def test_threads_for_the_processors(tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(max_threads=None)
    with flowcore.load(flowcore.Config(executors=[executor], run_dir=tmp_path, initialize_logging=False)):
        assert len(executor._threads) == min(32, (os.cpu_count() or 1) + 4)
