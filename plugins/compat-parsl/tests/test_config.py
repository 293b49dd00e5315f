"""``Config``, the executors in it, and what a retry handler is told."""

from __future__ import annotations

import datetime
import math
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

import flowcore
from flowcore.errors import ConfigurationError


def test_options_may_be_set_before_the_load(parsl: ModuleType) -> None:
    from parsl.configs.local_threads import config

    seen: list[str] = []

    def handler(error: Exception, record: Any) -> float:
        seen.append(record["func_name"])
        return 0.5

    config.retries = 1
    config.retry_handler = handler
    config.checkpoint_mode = "periodic"
    config.checkpoint_period = "01:00:00"
    config.run_dir = "elsewhere"
    with pytest.raises(ConfigurationError, match="retries='two'"):
        config.retries = "two"

    @parsl.python_app
    def fails() -> None:
        raise OSError("no")

    with parsl.load(config) as kernel:
        assert kernel.run_dir.parent.name == "elsewhere"
        with pytest.raises(OSError):
            fails().result()
    assert seen == ["fails"] * 3


def test_it_is_a_config_of_flowcore(parsl: ModuleType) -> None:
    config = parsl.Config([parsl.ThreadPoolExecutor()], False, retries=2)
    assert isinstance(config, flowcore.Config)
    assert (config.app_cache, config.retries, len(config.executors)) == (False, 2, 1)
    assert repr(config).startswith("Config(executors=[ThreadPoolExecutor(")
    with pytest.raises(ConfigurationError, match=r"Config has no option 'retris' \(did you mean 'retries'\?\)"):
        parsl.Config(retris=2)
    with pytest.raises(ConfigurationError, match="checkpoint_mode='always'"):
        parsl.Config(checkpoint_mode="always")


def test_executors_may_be_any_iterable(parsl: ModuleType) -> None:
    config = parsl.Config(executors=(parsl.ThreadPoolExecutor(label=str(i)) for i in range(2)))
    assert [e.label for e in config.executors] == ["0", "1"]


def test_tracking_is_a_consent_to_others(parsl: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "flowcore"):
        assert parsl.Config(usage_tracking=True).usage_tracking is False
    assert "flowcore sends nothing" in caplog.text


def test_the_old_names_of_htex(parsl: ModuleType) -> None:
    htex = pytest.importorskip("flowcore_executor_htex.executor")
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.executor import HighThroughputExecutor as Same
    from parsl.executors.status_handling import BlockProviderExecutor

    assert Same is HighThroughputExecutor is parsl.HighThroughputExecutor
    executor = HighThroughputExecutor(max_workers=3, poll_period=10)
    assert (executor.max_workers_per_node, executor.max_workers) == (3, 3)
    assert isinstance(executor, htex.HighThroughputExecutor) and isinstance(executor, BlockProviderExecutor)
    assert HighThroughputExecutor(max_workers_per_node=math.inf).max_workers_per_node is None
    with pytest.raises(ConfigurationError, match="HighThroughputExecutor has no option 'max_wrokers'"):
        HighThroughputExecutor(max_wrokers=3)


# --- executors that were written for Parsl


def make_pool(parsl: ModuleType) -> Any:
    from parsl.executors.base import ParslExecutor

    class Pool(ParslExecutor):
        """A pool of threads."""

        def __init__(self, label: str) -> None:
            self.label = label
            self.calls: list[Any] = []

        def start(self) -> None:
            self.calls.append(("start", self.run_dir, self.run_id))
            self.pool = ThreadPoolExecutor(1)

        def submit(self, func: Any, resource_specification: Any, *args: Any, **kwargs: Any) -> Future[Any]:
            self.calls.append(("submit", resource_specification))
            return self.pool.submit(func, *args, **kwargs)

        def shutdown(self) -> None:
            self.calls.append("shutdown")
            self.pool.shutdown()

    return Pool("mine")


def test_an_executor_that_was_written_for_parsl(parsl: ModuleType) -> None:
    pool = make_pool(parsl)
    with parsl.load(parsl.Config(executors=[pool, parsl.ThreadPoolExecutor()], retries=1)) as kernel:
        app = parsl.python_app(lambda x: 6 / x, executors=["mine"])
        assert app(3, parsl_resource_specification={"cores": 1}).result() == 2
        with pytest.raises(ZeroDivisionError):
            app(0).result()
    assert pool.calls[0] == ("start", str(kernel.run_dir), kernel.run_id)
    assert pool.calls[1] == ("submit", {"cores": 1})
    assert pool.calls[-1] == "shutdown"


def test_such_an_executor_as_a_context_manager(parsl: ModuleType) -> None:
    from parsl.executors.base import ParslExecutor

    with make_pool(parsl) as pool:
        pool.start()
        assert pool.submit(max, {}, 1, 2).result() == 2
        assert pool.monitor_resources()
    assert pool.calls[-1] == "shutdown"
    assert isinstance(parsl.ThreadPoolExecutor(), ParslExecutor)
    with pytest.raises(TypeError, match="abstract"):
        ParslExecutor()


# --- what a retry handler is told

KEYS = """
    dfk func_name status depends app_fu exec_fu executor retries_left fail_count fail_cost fail_history
    checkpoint hashsum task_launch_lock func fn_hash args kwargs time_invoked time_returned try_time_launched
    try_time_returned memoize ignore_for_cache from_memo id try_id resource_specification join joins join_lock
""".split()  # noqa: SIM905 - a long table


def test_the_record_has_every_documented_key(parsl: ModuleType) -> None:
    from parsl.dataflow.states import States
    from parsl.dataflow.taskrecord import TaskRecord

    records: list[dict[str, Any]] = []

    def handler(error: Exception, record: Any) -> float:
        assert isinstance(record, TaskRecord)
        records.append(record.copy())
        assert record.get("absent", 5) == 5
        with pytest.raises(KeyError):
            record["absent"]
        with pytest.raises(TypeError):
            record["id"] = 5
        return 1

    def first() -> int:
        return 4

    def fails(x: int, y: int = 0, skipped: int = 0) -> None:
        raise OSError("no")

    config = parsl.Config(retries=1, retry_handler=handler)
    with parsl.load(config) as kernel:
        one = parsl.python_app(first)()
        app = parsl.python_app(fails, cache=True, ignore_for_cache=["skipped"])
        future = app(one, y=2, parsl_resource_specification={})
        with pytest.raises(OSError):
            future.result()
    assert len(records) == 2
    for number, record in enumerate(records):
        assert sorted(record) == sorted(KEYS)
        assert record["dfk"] is kernel
        assert (record["func_name"], record["func"], record["executor"]) == ("fails", fails, "threads")
        assert record["status"] in (States.launched, States.running)
        assert (record["depends"], record["app_fu"], record["exec_fu"]) == ([one], future, None)
        assert (record["args"], record["kwargs"]) == ((4,), {"y": 2})
        assert (record["id"], record["try_id"], record["retries_left"]) == (1, number, 1 - number)
        assert record["fail_cost"] == number
        assert record["fail_count"] == len(record["fail_history"]) in (number, number + 1)
        assert (record["memoize"], record["checkpoint"], record["from_memo"]) == (True, True, False)
        assert record["ignore_for_cache"] == ["skipped"]
        assert (record["join"], record["joins"], record["resource_specification"]) == (False, None, {})
        assert isinstance(record["hashsum"], str) and len(record["fn_hash"]) == 64
        assert isinstance(record["time_invoked"], datetime.datetime)
        assert isinstance(record["try_time_launched"], datetime.datetime)
        for lock in ("task_launch_lock", "join_lock"):
            with record[lock]:
                pass


def test_the_record_of_a_pools_task(parsl: ModuleType) -> None:
    from parsl.concurrent import ParslPoolExecutor

    seen: list[Any] = []

    def handler(error: Exception, record: Any) -> float:
        seen.append((record["func_name"], record["retries_left"], record["dfk"]))
        return 1

    with ParslPoolExecutor(parsl.Config(retries=1, retry_handler=handler)) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
        assert seen == [("divmod", 1, pool.dfk), ("divmod", 0, pool.dfk)]
        assert isinstance(pool.dfk, parsl.DataFlowKernel)


def test_a_handler_that_raises_ends_the_task(parsl: ModuleType) -> None:
    def handler(error: Exception, record: Any) -> float:
        raise RuntimeError("the handler itself")

    with (
        parsl.load(parsl.Config(retries=5, retry_handler=handler)),
        pytest.raises(RuntimeError, match="the handler itself"),
    ):
        parsl.python_app(lambda: 1 / 0)().result()
