"""What once went wrong in this distribution."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def test_a_specification_that_only_a_keyword_can_give(parsl: ModuleType) -> None:
    @parsl.python_app
    def all_of(*values: int, parsl_resource_specification: Any = {}) -> Any:  # noqa: B006 - as in Parsl's documentation
        return values

    with parsl.load():
        assert all_of(1, 2, 3).result(timeout=30) == (1, 2, 3)
        assert all_of(1, parsl_resource_specification={}).result(timeout=30) == (1,)


@pytest.mark.parametrize("another", [False, True], ids=["none loaded", "another loaded"])
def test_a_stager_is_told_the_run_that_asks_it(another: bool, parsl: ModuleType, tmp_path: Path) -> None:
    from parsl.data_provider.staging import Staging
    from parsl.dataflow.dflow import DataFlowKernel

    told: list[Any] = []

    class Beside(Staging):
        def can_stage_in(self, file: Any) -> bool:
            return True

        def can_stage_out(self, file: Any) -> bool:
            return True

        def stage_in(self, dm: Any, executor: str, file: Any, parent_fut: Any) -> None:
            told.append(dm.dfk)
            file.local_path = "here.txt"

        def stage_out(self, dm: Any, executor: str, file: Any, app_fu: Any) -> None:
            told.append(dm.dfk)
            file.local_path = "there.txt"

        def replace_task(self, dm: Any, executor: str, file: Any, func: Any) -> None:
            told.append(dm.dfk)

    def config(name: str) -> Any:
        executor = parsl.ThreadPoolExecutor(label=name, storage_access=[Beside()])
        return parsl.Config(executors=[executor], run_dir=str(tmp_path / name))

    if another:
        parsl.load(config("loaded"))
    kernel = DataFlowKernel(config("own"))

    @parsl.python_app(data_flow_kernel=kernel)
    def copy(inputs: Any = (), outputs: Any = ()) -> None:
        Path(outputs[0].filepath).write_text(Path(inputs[0].filepath).read_text())

    try:
        Path("here.txt").write_text("text")
        future = copy(inputs=[parsl.File("shelf://host/a")], outputs=[parsl.File("shelf://host/b")])
        future.result(timeout=30)
    finally:
        kernel.cleanup()
    assert Path("there.txt").read_text() == "text"
    assert len(told) == 3
    assert all(run is kernel for run in told)


def test_a_stager_of_the_loaded_run_is_told_that(parsl: ModuleType) -> None:
    from parsl.data_provider.staging import Staging

    told: list[Any] = []

    class Beside(Staging):
        def can_stage_in(self, file: Any) -> bool:
            return True

        def stage_in(self, dm: Any, executor: str, file: Any, parent_fut: Any) -> None:
            told.append(dm.dfk)

    @parsl.python_app
    def name_of(file: Any) -> str:
        return str(file.filename)

    executor = parsl.ThreadPoolExecutor(storage_access=[Beside()])
    with parsl.load(parsl.Config(executors=[executor])) as kernel:
        assert name_of(parsl.File("shelf://host/a")).result(timeout=30) == "a"
        assert told == [kernel]
