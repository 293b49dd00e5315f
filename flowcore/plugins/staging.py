"""The contract of stagers, which move a file to where a task runs, and back.

For each file the core asks the stagers of the executor in turn; the first that says it can is used. A stager
works either as a task of its own (it returns a future) or inside the app's task (it replaces the function). Who
copies files by a client of some protocol extends one of the classes in :mod:`flowcore.plugins.transfer`.
"""

from __future__ import annotations

import uuid
from abc import ABC
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs

from flowcore.files import File, safe_name


class TaskSubmitter(Protocol):
    """Submits a staging task to the kernel: ``(function, args, executor label) -> future``.

    Files among the arguments of such a task are not staged themselves.
    """

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], executor: str | None, /) -> Future[Any]: ...


@attrs.frozen
class StagingPlace:
    """What a stager is told when it is started: one executor that it is to stage for.

    Attributes:
        executor: label of the executor.
        working_dir: folder there for staged files; None where the executor has none.
        run_dir: the run directory, on this side.
    """

    executor: str
    working_dir: str | None
    run_dir: Path


@attrs.define
class StagingContext:
    """What a stager is told about the attempt that it stages for; one for all files of an attempt.

    Attributes:
        executor: label of the executor that the task will run on.
        working_dir: folder there for staged files; None where the executor has none.
        submit: submits a task; with ``executor`` None it runs in a thread of this process.
        run_dir: the run directory, on this side.
        folder: a name that no other attempt has, for a folder of its own.
    """

    executor: str
    working_dir: str | None
    submit: TaskSubmitter
    run_dir: Path = Path()
    folder: str = attrs.field(factory=lambda: f"flowcore-{uuid.uuid4().hex}")
    _names: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)

    def local_path(self, file: File, root: str) -> str:
        """Return the path for a file of this attempt: ``ROOT/FOLDER/NAME``.

        Files of one attempt lie side by side, under the last parts of their URLs made safe; who comes second with a
        name gets ``2-NAME``. The same URL has the same path.

        Args:
            file: the file.
            root: where the attempt's folder is to be, usually ``working_dir``. May hold variables of the
                environment (``$TMPDIR``), which :attr:`flowcore.File.filepath` puts in where it is read.
        """
        name = self._names.get(file.url)
        if name is None:
            name = plain = safe_name(file)
            taken = set(self._names.values())
            number = 2
            while name in taken:
                name = f"{number}-{plain}"
                number += 1
            self._names[file.url] = name
        return f"{root.rstrip('/')}/{self.folder}/{name}"


class Staging(ABC):  # noqa: B024 - a stager overrides the half it is for
    """Moves files. The default methods refuse every file and do nothing.

    All methods but :meth:`start` and :meth:`close` are called by the kernel from whatever thread made the task ready,
    with no lock held; they must not block on a transfer.
    """

    kind: ClassVar[str] = "staging"

    def start(self, place: StagingPlace) -> None:
        """Be ready to stage for an executor: check what the options need there, log in.

        Called by the session, from the thread that loads the configuration: once for each executor that has this
        stager, before any of its tasks.

        Raises:
            ConfigurationError: it cannot work for this executor; the load fails.
            StagingError: likewise.
        """
        return

    def close(self) -> None:
        """Give back what was taken: connections, threads, transfers that go on elsewhere. Bounded in time, idempotent.

        Called by the session at the end of a run, after the kernel was closed. The stager may be started again.
        """
        return

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
        """Return the function that runs instead of ``function``, bringing the file first; None for no change.

        Called after :meth:`stage_in`, with the same File.
        """
        return None

    def replace_task_stage_out(
        self, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> Callable[..., Any] | None:
        """Return the function that runs instead of ``function``, taking the file afterwards; None: no change.

        Called after :meth:`stage_out`, with the same File.
        """
        return None
