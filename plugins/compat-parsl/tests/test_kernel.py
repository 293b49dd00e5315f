"""What a program says to a run: load, clear, the loader, and the methods of the kernel."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

import pytest

import flowcore
from flowcore.errors import AlreadyLoadedError, BadCheckpoint, ConfigurationError, NoKernelError


def test_load_dfk_and_clear(parsl: ModuleType) -> None:
    from parsl.dataflow.dflow import DataFlowKernel, DataFlowKernelLoader

    kernel = parsl.load()
    assert kernel is parsl.dfk() is DataFlowKernelLoader.dfk() is flowcore.dfk()
    assert type(kernel) is DataFlowKernel and isinstance(kernel, flowcore.DataFlowKernel)
    with pytest.raises(AlreadyLoadedError):
        DataFlowKernelLoader.load()
    DataFlowKernelLoader.wait_for_current_tasks()
    parsl.wait_for_current_tasks()
    parsl.clear()
    DataFlowKernelLoader.clear()
    with pytest.raises(NoKernelError):
        parsl.dfk()
    assert DataFlowKernelLoader.load(parsl.Config()) is parsl.dfk()


def test_the_usual_end_of_a_program(parsl: ModuleType) -> None:
    parsl.load()
    parsl.dfk().cleanup()
    parsl.clear()
    with parsl.load() as kernel:
        kernel.cleanup()


def test_a_run_that_flowcore_loaded(parsl: ModuleType) -> None:
    with flowcore.load() as run:
        assert isinstance(run, parsl.DataFlowKernel)
        assert parsl.dfk() is run
        assert parsl.dfk().task_count == 0
        assert parsl.python_app(lambda: 5)().result() == 5
    assert isinstance(flowcore.DataFlowKernel, type)
    assert not isinstance(5, parsl.DataFlowKernel)


def test_a_dict_as_of_old_is_refused(parsl: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a parsl.config.Config, got dict. .* since Parsl 0.6"):
        parsl.load({"sites": []})


def test_submit_with_the_documented_parameters(parsl: ModuleType) -> None:
    with parsl.load() as kernel:
        future = kernel.submit(divmod, (7, 2), "all", False, None, {})
        assert future.result() == (3, 1)
        assert kernel.submit(
            func=sorted, app_args=([1, 2],), executors=["threads"], cache=True, ignore_for_cache=["x"],
            app_kwargs={"reverse": True}, join=False,
        ).result() == [2, 1]  # fmt: skip
        assert kernel.submit(lambda: future, app_args=(), app_kwargs={}, join=True).result() == (3, 1)


def test_several_kernels(parsl: ModuleType) -> None:
    one, other = parsl.DataFlowKernel(parsl.Config()), parsl.DataFlowKernel(parsl.Config())
    try:
        app = parsl.python_app(lambda: 1, data_flow_kernel=other)
        assert app().result() == 1
        assert (one.task_count, other.task_count) == (0, 1)
    finally:
        one.cleanup()
        other.cleanup()


def test_the_tasks_of_a_run(parsl: ModuleType) -> None:
    gate = threading.Event()
    with parsl.load() as kernel:
        future = parsl.python_app(gate.wait)(50)
        after = parsl.python_app(lambda x: x)(future)
        assert sorted(kernel.tasks) == [0, 1]
        record = kernel.tasks[1]
        assert (record["status"].name, record["depends"], record["app_fu"]) == ("pending", [future], after)
        assert kernel.tasks[0]["func_name"] == "wait"
        assert kernel.task_count == 2
        assert record["dfk"] is kernel
        gate.set()
        after.result()


def test_checkpoints(parsl: ModuleType) -> None:
    with parsl.load(parsl.Config(checkpoint_mode="manual")) as kernel:
        parsl.python_app(lambda x: x * 2, cache=True)(4).result()
        folder = kernel.checkpoint(tasks=[])
        assert folder == str(kernel.run_dir / "checkpoint")
        loaded = kernel.load_checkpoints([folder])
        assert [f.result() for f in loaded.values()] == [8]
        assert kernel.load_checkpoints(None) == {}
        with pytest.raises(BadCheckpoint, match="does not exist"):
            kernel.load_checkpoints(["nowhere"])
    from parsl.utils import get_all_checkpoints, get_last_checkpoint

    assert (
        [Path(p) for p in get_all_checkpoints()] == [Path(folder)] == [Path(p) for p in get_last_checkpoint("runinfo")]
    )


def test_states_in_the_log_and_the_end_at_exit(parsl: ModuleType) -> None:
    kernel = parsl.load()
    parsl.python_app(lambda: 1)().result()
    kernel.log_task_states()
    kernel.add_executors([parsl.ThreadPoolExecutor(label="later")])
    assert parsl.python_app(lambda: 2, executors=["later"])().result() == 2
    kernel.atexit_cleanup()
    assert "tasks by state: {'exec_done': 1}" in (kernel.run_dir / "flowcore.log").read_text()


@pytest.mark.parametrize("step", ["launch_task", "handle_exec_update", "update_task_state", "wipe_task"])
def test_steps_of_parsls_own_kernel_say_what_there_is(step: str, parsl: ModuleType) -> None:
    with parsl.load() as kernel:
        with pytest.raises(AttributeError, match=f"DataFlowKernel.{step} is a step of Parsl's own kernel"):
            getattr(kernel, step)
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            kernel.nonsense  # noqa: B018
