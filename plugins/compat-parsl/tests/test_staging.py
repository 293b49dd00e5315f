"""Stagers that were written for Parsl, the data manager, and data futures."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowcore.errors import StagingError


def make_stager(parsl: ModuleType, in_task: bool) -> Any:
    """A stager for URLs of the scheme ``shelf``, which are files of the folder ``shelf``."""
    from parsl.data_provider.data_manager import DataManager
    from parsl.data_provider.staging import Staging

    class Shelf(Staging):
        def __init__(self) -> None:
            self.told: list[Any] = []

        def can_stage_in(self, file: Any) -> bool:
            return file.scheme == "shelf"

        def can_stage_out(self, file: Any) -> bool:
            return file.scheme == "shelf"

        def stage_in(self, dm: Any, executor: str, file: Any, parent_fut: Any) -> Any:
            assert isinstance(dm, DataManager) and dm.dfk is parsl.dfk()
            self.told.append((executor, file.url, parent_fut))
            file.local_path = file.filename
            if in_task:
                return super().stage_in(dm, executor, file, parent_fut)

            @parsl.python_app(executors=[executor], data_flow_kernel=dm.dfk)
            def fetch(name: str, outputs: Any = ()) -> None:
                Path(name).write_text((Path("shelf") / name).read_text())

            return fetch(file.filename, outputs=[file]).outputs[0]

        def stage_out(self, dm: Any, executor: str, file: Any, app_fu: Any) -> Any:
            file.local_path = file.filename
            if in_task:
                return None

            @parsl.python_app(executors=[executor], data_flow_kernel=dm.dfk)
            def put(name: str, ran: Any) -> None:
                (Path("shelf") / name).write_text(Path(name).read_text())

            return put(file.filename, app_fu)

        def replace_task(self, dm: Any, executor: str, file: Any, func: Any) -> Any:
            if not in_task:
                return None

            def with_file(*args: Any, **kwargs: Any) -> Any:
                Path(file.local_path).write_text((Path("shelf") / file.filename).read_text())
                return func(*args, **kwargs)

            return with_file

        def replace_task_stage_out(self, dm: Any, executor: str, file: Any, func: Any) -> Any:
            if not in_task:
                return None

            def with_file(*args: Any, **kwargs: Any) -> Any:
                value = func(*args, **kwargs)
                (Path("shelf") / file.filename).write_text(Path(file.local_path).read_text())
                return value

            return with_file

    return Shelf()


@pytest.mark.parametrize("in_task", [False, True], ids=["separate tasks", "in the task"])
def test_a_stager_that_was_written_for_parsl(in_task: bool, parsl: ModuleType) -> None:
    from parsl.data_provider.data_manager import default_staging

    Path("shelf").mkdir()
    Path("shelf/in.txt").write_text("some text")
    stager = make_stager(parsl, in_task)
    executor = parsl.ThreadPoolExecutor(storage_access=[*default_staging, stager])

    @parsl.python_app
    def upper(inputs: Any = (), outputs: Any = ()) -> None:
        Path(outputs[0]).write_text(Path(inputs[0]).read_text().upper())

    with parsl.load(parsl.Config(executors=[executor])):
        future = upper(inputs=[parsl.File("shelf://host/in.txt")], outputs=[parsl.File("shelf://host/out.txt")])
        future.outputs[0].result()
    assert Path("shelf/out.txt").read_text() == "SOME TEXT"
    assert stager.told == [("threads", "shelf://host/in.txt", None)]


def test_flowcores_own_stagers_are_stagers(parsl: ModuleType) -> None:
    from parsl.data_provider.data_manager import default_staging
    from parsl.data_provider.file_noop import NoOpFileStaging
    from parsl.data_provider.staging import Staging
    from parsl.data_provider.staging import default_staging as same

    assert isinstance(NoOpFileStaging(), Staging)
    assert isinstance(default_staging, list) and isinstance(default_staging[0], NoOpFileStaging)
    assert [type(s) for s in same] == [type(s) for s in default_staging]
    assert not isinstance(5, Staging)


def test_the_data_manager(parsl: ModuleType) -> None:
    from parsl.data_provider.data_manager import DataManager

    with parsl.load() as kernel:
        manager = DataManager(kernel)
        file = parsl.File("a.txt")
        staged = manager.stage_in(file, file, "threads")
        assert staged is not file and staged.filepath == "a.txt"
        assert manager.stage_in("text", "text", "threads") == "text"
        assert manager.optionally_stage_in(5, len, "threads") == (5, len)
        assert manager.optionally_stage_in(file, len, "threads")[1] is len
        assert manager.replace_task(file, len, "threads") is len
        assert manager.replace_task_stage_out(file, len, "threads") is len
        assert manager.stage_out(file, "threads", Future()) is None
        with pytest.raises(StagingError, match="no stager of executor 'threads' can stage in 'moon://x/y'"):
            manager.stage_in(parsl.File("moon://x/y"), None, "threads")


def test_a_data_future_follows_its_parent(parsl: ModuleType) -> None:
    from parsl.app.futures import DataFuture

    parent: Future[int] = Future()
    future = DataFuture(parent, "a.txt", tid=4)
    assert (future.done(), future.tid, future.filepath, future.filename) == (False, 4, "a.txt", "a.txt")
    parent.set_result(0)
    assert isinstance(future.result(timeout=5), parsl.File)
    broken: Future[int] = Future()
    future = DataFuture(fut=broken, file_obj=parsl.File("b.txt"))
    broken.set_exception(OSError("no"))
    with pytest.raises(OSError):
        future.result(timeout=5)
    cancelled: Future[int] = Future()
    future = DataFuture(cancelled, "c.txt")
    cancelled.cancel()
    with pytest.raises(CancelledError):
        future.result(timeout=5)


def test_data_futures_of_apps_are_data_futures(parsl: ModuleType) -> None:
    from parsl.app.futures import DataFuture
    from parsl.dataflow.futures import AppFuture

    with parsl.load():
        future = parsl.bash_app(lambda outputs=(): f"touch {outputs[0]}")(outputs=[parsl.File("a.txt")])
        assert isinstance(future, AppFuture)
        assert isinstance(future.outputs[0], DataFuture)
        assert not isinstance(future, DataFuture)
        future.result()
