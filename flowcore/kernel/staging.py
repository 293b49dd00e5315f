"""Decides which stager moves which file, and puts what it does into a task that is being prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from flowcore.errors import StagingError
from flowcore.files import File
from flowcore.kernel import arguments
from flowcore.kernel.task import Task
from flowcore.plugins.executor import Executor
from flowcore.plugins.staging import Staging, StagingContext, TaskSubmitter

#: Asked first for the stager of a file: ``(file, executor label, "in" or "out")``.
StagerHook = Callable[[File, str, str], Staging | None]


class FileStaging:
    """Stages the files of tasks.

    Args:
        executors: the executors of the run by label.
        default: stagers for executors that have none of their own.
        submit: submits staging tasks.
        hook: asked first; None where no plugin wants a say.
    """

    def __init__(
        self,
        executors: Mapping[str, Executor],
        default: Sequence[Staging],
        submit: TaskSubmitter,
        hook: StagerHook | None = None,
    ) -> None:
        self._executors = executors
        self._default = tuple(default)
        self._submit = submit
        self._hook = hook

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
        context = StagingContext(task.executor, executor.working_dir, self._submit)
        coming: list[Future[Any]] = []

        def bring(leaf: Any) -> Any:
            if not isinstance(leaf, File):
                return leaf
            file = leaf.cleancopy()
            stager = self.stager_for(file, executor, "in")
            future = stager.stage_in(context, file, parents.get(id(leaf)))
            task.func = stager.replace_task(context, file, task.func) or task.func
            if future is None:
                return file
            coming.append(future)
            return future

        outputs = task.kwargs.pop("outputs", None)
        task.args, task.kwargs = arguments.replace_all(task.args, task.kwargs, bring)
        if outputs is not None:
            task.kwargs["outputs"] = outputs
        if task.spec.outputs:
            self._arrange_outputs(task, executor, context)
        return coming

    def _arrange_outputs(self, task: Task, executor: Executor, context: StagingContext) -> None:
        stage_outs: list[Future[Any]] = []
        files: list[File] = []
        for output in task.spec.outputs:
            file = output.cleancopy()
            stager = self.stager_for(file, executor, "out")
            ran: Future[Any] = Future()
            future = stager.stage_out(context, file, ran)
            task.func = stager.replace_task_stage_out(context, file, task.func) or task.func
            files.append(file)
            if future is not None:
                stage_outs.append(_StageOut(ran, future))
        if "outputs" in task.kwargs:
            task.kwargs["outputs"] = type(task.kwargs["outputs"])(files)
        task.stage_outs = stage_outs

    def stager_for(self, file: File, executor: Executor, direction: str) -> Staging:
        if self._hook is not None:
            chosen = self._hook(file, executor.label, direction)
            if chosen is not None:
                return chosen
        stagers = executor.storage_access if executor.storage_access is not None else self._default
        for stager in stagers:
            if stager.can_stage_in(file) if direction == "in" else stager.can_stage_out(file):
                return stager
        names = ", ".join(type(s).__name__ for s in stagers) or "none"
        raise StagingError(
            f"no stager of executor {executor.label!r} can stage {direction} {file.url!r} (scheme "
            f"{file.scheme!r}); it has: {names}. Add one for this scheme to the executor's storage_access"
        )


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
