"""The contract of stagers, which move a file to where a task runs, and back.

For each file the core asks the stagers of the executor in turn; the first that says it can is used. A stager
works either as a task of its own (it returns a future) or inside the app's task (it replaces the function).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import attrs

from flowcore.files import File


class TaskSubmitter(Protocol):
    """Submits a staging task to the kernel: ``(function, args, executor label) -> future``."""

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], executor: str | None, /) -> Future[Any]: ...


@attrs.frozen
class StagingContext:
    """What a stager is told about the place it stages for.

    Attributes:
        executor: label of the executor that the task will run on.
        working_dir: folder there for staged files; None where the executor has none.
        submit: submits a task; with ``executor`` None it runs in a thread of this process.
    """

    executor: str
    working_dir: str | None
    submit: TaskSubmitter


class Staging(ABC):  # noqa: B024 - a stager overrides the half it is for
    """Moves files. The default methods refuse every file and do nothing.

    All methods are called by the kernel from whatever thread made the task ready, with no lock held; they must
    not block on a transfer.
    """

    kind: ClassVar[str] = "staging"

    def can_stage_in(self, file: File) -> bool:
        """Return whether this stager can bring the file to a task. Usually decided by the URL's scheme."""
        return False

    def can_stage_out(self, file: File) -> bool:
        """Return whether this stager can take the file from a task to its URL."""
        return False

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> Future[Any] | None:
        """Begin to bring a file.

        Args:
            context: the place.
            file: a clean copy of the user's File, to be given its ``local_path``.
            parent: the future that makes the file, already done; None if the file exists since before.

        Returns:
            A future whose result is the staged File, which the task waits for; or None: there is nothing to
            wait for, and the task gets ``file`` as it now is.
        """
        return None

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> Future[Any] | None:
        """Arrange for a file to be taken from the task once it has run.

        Called before the task runs. ``app_future`` is done when the app's own function has run; it fails if
        that failed.

        Returns:
            A future that is done when the file has arrived, which the file's DataFuture waits for; or None.
        """
        return None

    def replace_task(
        self, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> Callable[..., Any] | None:
        """Return the function that runs instead of ``function``, bringing the file first; None for no change."""
        return None

    def replace_task_stage_out(
        self, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> Callable[..., Any] | None:
        """Return the function that runs instead of ``function``, taking the file afterwards; None: no change."""
        return None
