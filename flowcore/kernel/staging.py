"""Decides which stager moves which file, and puts what it does into a task that is being prepared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flowcore.errors import StagingError
from flowcore.files import STREAMS, File, shown_url, stream_file
from flowcore.futures import DataFuture
from flowcore.kernel import arguments
from flowcore.kernel.task import Task
from flowcore.plugins.executor import Executor
from flowcore.plugins.staging import Staging, StagingContext, StagingPlace, TaskSubmitter

logger = logging.getLogger(__name__)

#: Asked first for the stager of a file: ``(file, executor label, "in" or "out")``.
StagerHook = Callable[[File, str, str], Staging | None]


class DataManager:
    """Stages the files of tasks.

    Args:
        executors: the executors of the run by label.
        default: stagers for executors that have none of their own.
        submit: submits staging tasks.
        run_dir: the run directory.
        run_id: UUID of the run.
        hook: asked first; None where no plugin wants a say.
    """

    def __init__(
        self,
        executors: Mapping[str, Executor],
        default: Sequence[Staging],
        submit: TaskSubmitter,
        run_dir: Path,
        run_id: str,
        hook: StagerHook | None = None,
    ) -> None:
        self._executors = executors
        self._default = tuple(default)
        self._submit = submit
        self._run_dir = run_dir
        self._folder = f"flowcore-{run_id[:8]}"
        self._hook = hook
        self._started: dict[int, Staging] = {}

    # --- for the session

    def start(self, executor: Executor) -> None:
        """Start the stagers of an executor.

        Raises:
            ConfigurationError: one cannot work there.
            StagingError: likewise.
        """
        place = StagingPlace(executor.label, executor.working_dir, self._run_dir)
        for stager in self._stagers(executor):
            self._started[id(stager)] = stager
            stager.start(place)

    def close(self) -> None:
        """Close all stagers that were started."""
        while self._started:
            _, stager = self._started.popitem()
            try:
                stager.close()
            except Exception:
                logger.exception("closing the stager %r failed", stager)

    # --- for the kernel

    def begin(self, task: Task, parents: Mapping[int, Future[Any]]) -> list[Future[Any]]:
        """Begin to bring the task's input files, and arrange for its outputs to be taken.

        Changes the task's ``args``, ``kwargs`` and ``func``, and sets ``stage_outs``.

        Args:
            task: its values are set, and its executor is chosen.
            parents: the futures that files came from, by the id of the File object.

        Returns:
            The futures of files on their way, which stand in the arguments in place of the files.

        Raises:
            StagingError: no stager can move a file.
        """
        assert task.executor is not None
        executor = self._executors[task.executor]
        context = self._context(executor, f"{self._folder}-{task.id}-{task.try_id}")
        coming: list[Future[Any]] = []
        #: What stands for each file, by its URL: a file that is given twice is brought once.
        brought: dict[str, Any] = {}

        def bring(leaf: Any) -> Any:
            if not isinstance(leaf, File):
                return leaf
            if leaf.url not in brought:
                brought[leaf.url] = bring_one(leaf)
            return brought[leaf.url]

        def bring_one(leaf: File) -> Any:
            file = leaf.cleancopy()
            try:
                stager = self.stager_for(file, executor, "in")
            except StagingError:
                if task.spec.app.kind != "join":
                    raise
                return file  # a name to pass on: no worker's stagers are there for it
            future = stager.stage_in(context, file, parents.get(id(leaf)))
            task.func = stager.replace_task(context, file, task.func) or task.func
            if future is None:
                return file
            coming.append(future)
            return future

        streams = STREAMS if task.spec.app.kind == "bash" else ()
        made = {name: task.kwargs.pop(name) for name in ("outputs", *streams) if name in task.kwargs}
        task.args, task.kwargs = arguments.replace_all(task.args, task.kwargs, bring)
        stage_outs: list[Future[Any]] = []

        def take(output: File) -> File:
            file = output.cleancopy()
            stager = self.stager_for(file, executor, "out")
            ran: Future[Any] = Future()
            future = stager.stage_out(context, file, ran)
            task.func = stager.replace_task_stage_out(context, file, task.func) or task.func
            if future is not None:
                stage_outs.append(_StageOut(ran, future))
            return file

        if task.spec.outputs:
            files = [take(output) for output in task.spec.outputs]
            if "outputs" in made:
                made["outputs"] = type(made["outputs"])(files)
        for name in streams:
            if stream_file(made.get(name)) is not None:
                made[name] = _with_file(made[name], take)
        task.kwargs.update(made)
        task.stage_outs = stage_outs
        return coming

    # --- one file at a time, for who asks for it

    def stage_in(self, file: Any, input: Any, executor: str) -> Any:
        """Begin to bring a file to an executor.

        Args:
            file: the File, or a DataFuture that has one.
            input: what the task was given.
            executor: label of the executor.

        Returns:
            The stager's future, or the File as the stager made it; ``input`` if there is no file to bring.

        Raises:
            StagingError: no stager can bring it.
        """
        if isinstance(file, DataFuture):
            file = file.file_obj
        if not isinstance(file, File):
            return input
        file = file.cleancopy()
        there = self._executors[executor]
        parent = input if isinstance(input, DataFuture) else None
        future = self.stager_for(file, there, "in").stage_in(self._context(there), file, parent)
        return file if future is None else future

    def optionally_stage_in(
        self, input: Any, func: Callable[..., Any], executor: str
    ) -> tuple[Any, Callable[..., Any]]:
        """Begin to bring what may be a file; return it as the task gets it, and the function to run.

        Args:
            input: a File, a DataFuture, or anything else, which is returned as it is.
            func: the task's function.
            executor: label of the executor.

        Raises:
            StagingError: no stager can bring it.
        """
        file = input.file_obj if isinstance(input, DataFuture) else input
        if not isinstance(file, File):
            return input, func
        staged = self.stage_in(file, input, executor)
        return staged, self.replace_task(staged if isinstance(staged, File) else file, func, executor)

    def replace_task(self, file: File, func: Callable[..., Any], executor: str) -> Callable[..., Any]:
        """Return the function to run so that a file, as :meth:`stage_in` returned it, is brought first."""
        there = self._executors[executor]
        return self.stager_for(file, there, "in").replace_task(self._context(there), file, func) or func

    def stage_out(self, file: File, executor: str, app_fu: Future[Any]) -> Future[Any] | None:
        """Arrange for a file to be taken once ``app_fu`` is done; return what to wait for, or None.

        Args:
            file: a clean copy of the File, which is given its local path.
            executor: label of the executor.
            app_fu: is done when the app has run.
        """
        there = self._executors[executor]
        return self.stager_for(file, there, "out").stage_out(self._context(there), file, app_fu)

    def replace_task_stage_out(self, file: File, func: Callable[..., Any], executor: str) -> Callable[..., Any]:
        """Return the function to run so that a file, as :meth:`stage_out` made it, is taken afterwards."""
        there = self._executors[executor]
        return self.stager_for(file, there, "out").replace_task_stage_out(self._context(there), file, func) or func

    # --- parts

    def stager_for(self, file: File, executor: Executor, direction: str) -> Staging:
        """Return who moves a file.

        Args:
            file: the file.
            executor: where the task runs.
            direction: ``in`` or ``out``.

        Raises:
            StagingError: nobody can.
        """
        if self._hook is not None:
            chosen = self._hook(file, executor.label, direction)
            if chosen is not None:
                return chosen
        stagers = self._stagers(executor)
        for stager in stagers:
            if stager.can_stage_in(file) if direction == "in" else stager.can_stage_out(file):
                return stager
        names = ", ".join(type(s).__name__ for s in stagers) or "none"
        raise StagingError(
            f"no stager of executor {executor.label!r} can stage {direction} {shown_url(file.url)!r} (scheme "
            f"{file.scheme!r}); it has: {names}. Add one for this scheme to the executor's storage_access"
        )

    def _stagers(self, executor: Executor) -> Sequence[Staging]:
        return executor.storage_access if executor.storage_access is not None else self._default

    def _context(self, executor: Executor, folder: str | None = None) -> StagingContext:
        context = StagingContext(executor.label, executor.working_dir, self._submit, self._run_dir)
        if folder is not None:
            context.folder = folder
        return context


def _with_file(stream: Any, take: Callable[[File], File]) -> Any:
    return (take(stream[0]), *stream[1:]) if isinstance(stream, tuple) else take(stream)


class _StageOut(Future[Any]):
    """Done when a stage-out is; holds the future that tells its stager that the app has run."""

    def __init__(self, ran: Future[Any], stage_out: Future[Any]) -> None:
        super().__init__()
        self.ran = ran
        stage_out.add_done_callback(self._over)

    def _over(self, stage_out: Future[Any]) -> None:
        error = stage_out.exception()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(None)


def app_has_run(task: Task, error: BaseException | None) -> None:
    """Tell the stagers of a task's outputs that its function has run, or failed."""
    for stage_out in task.stage_outs:
        if not stage_out.ran.done():
            if error is None:
                stage_out.ran.set_result(None)
            else:
                stage_out.ran.set_exception(error)
