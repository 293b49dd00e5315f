"""What stagers share that copy files with a client of a protocol. They say how one file is copied; when, is said here.

Such a stager is given to the process that copies (a worker, perhaps on another machine): its options must be picklable,
and it keeps no connection. A third party's stager is this much::

    @component
    class MyStaging(InTaskStaging):
        schemes = frozenset({"my"})

        def fetch(self, file, path):
            with fresh(path) as new:
                my_client.download(file.url, new)

        def push(self, file, path):
            my_client.upload(path, file.url)
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from flowcore.errors import StagingError, TransferError, add_note
from flowcore.files import STREAMS, File, stream_file
from flowcore.outputs import check_outputs
from flowcore.plugins.staging import Staging, StagingContext

T = TypeVar("T")

#: Seconds before a second attempt; doubled before each further one.
FIRST_PAUSE_S = 0.5
#: Seconds that are waited at most before an attempt, whatever the other side says.
LONGEST_PAUSE_S = 60.0


class CopyingStaging(Staging):
    """Copies files: what :class:`SeparateTaskStaging` and :class:`InTaskStaging` have in common.

    Attributes:
        schemes: URL schemes of the files that it copies.
    """

    schemes: ClassVar[frozenset[str]] = frozenset()

    def can_stage_in(self, file: File) -> bool:
        """Return whether the file's scheme is one of :attr:`schemes`, and :meth:`fetch` is there."""
        return file.scheme in self.schemes and type(self).fetch is not CopyingStaging.fetch

    def fetch(self, file: File, path: Path) -> None:
        """Make the file at ``path``, whole or not at all.

        Called where the task runs, in any thread; the folder of ``path`` is there. What is there under that
        name is replaced; see :func:`fresh`.

        Raises:
            TransferError: it cannot be brought.
        """
        raise TransferError("fetch", file.url, f"{type(self).__name__} brings no files", passing=False)

    def push(self, file: File, path: Path) -> None:
        """Take the file at ``path`` to the file's URL, whole or not at all as far as the other side lets that be.

        Called where the task runs, in any thread.

        Raises:
            TransferError: it cannot be taken away.
        """
        raise TransferError("push", file.url, f"{type(self).__name__} takes no files away", passing=False)


class SeparateTaskStaging(CopyingStaging):
    """Brings each file by a task of its own, on the executor of the task that needs it.

    The two may run on different nodes: they must see the same file system. Files come to the executor's
    ``working_dir``, or to ``files`` in the run directory, and stay there.
    """

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> Future[Any]:
        """Submit the task that brings the file."""
        root = context.working_dir or str(context.run_dir.absolute() / "files")
        file.local_path = context.local_path(file, root)
        return context.submit(stage_in, (self, file), context.executor)


class InTaskStaging(CopyingStaging):
    """Copies each file inside the attempt that needs or makes it, so that no file system has to be shared.

    An attempt has a folder of its own, in the executor's ``working_dir`` or else in the folder for temporary files
    where it runs. It goes, with all that is in it, when the attempt has ended.
    """

    def can_stage_out(self, file: File) -> bool:
        """Return whether the file's scheme is one of :attr:`schemes`, and :meth:`push` is there."""
        return file.scheme in self.schemes and type(self).push is not CopyingStaging.push

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> None:
        """Say where the file will be."""
        file.local_path = context.local_path(file, context.working_dir or "$TMPDIR")

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> None:
        """Say where the file has to be made."""
        file.local_path = context.local_path(file, context.working_dir or "$TMPDIR")

    def replace_task(self, context: StagingContext, file: File, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that fetches the file first."""
        call = StagedCall.of(function)
        return StagedCall(call.function, (*call.fetches, (self, file)), call.pushes)

    def replace_task_stage_out(
        self, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a call that pushes the file afterwards."""
        call = StagedCall.of(function)
        return StagedCall(call.function, call.fetches, (*call.pushes, (self, file)))


def stage_in(stager: CopyingStaging, file: File) -> File:
    """Fetch a file to its local path and return it: the task of :class:`SeparateTaskStaging`."""
    path = Path(file.filepath)
    with _said(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    stager.fetch(file, path)
    return file


class StagedCall:
    """Calls a function with its files beside it, in a folder that goes afterwards. Runs where the task runs.

    Args:
        function: what to call.
        fetches: who brings which file before the call, to its local path.
        pushes: who takes which file from its local path after a call that went well.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        fetches: tuple[tuple[CopyingStaging, File], ...] = (),
        pushes: tuple[tuple[CopyingStaging, File], ...] = (),
    ) -> None:
        self.function = function
        self.fetches = fetches
        self.pushes = pushes
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> StagedCall:
        """Return the function itself if it is such a call, else one of it without files."""
        return function if isinstance(function, StagedCall) else cls(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Bring the files, call the function, take the files; return what the function returned.

        Of a call that fails, only the streams of a command (``stdout``, ``stderr``) are taken.

        Raises:
            TransferError: a file could not be brought or taken.
            MissingOutputs: the function did not make a file that is to be taken.
            Exception: what the function raised.
        """
        with contextlib.ExitStack() as folders:
            for folder in sorted({Path(file.filepath).parent for _, file in (*self.fetches, *self.pushes)}):
                folders.enter_context(_own_folder(folder))
            for stager, file in self.fetches:
                stager.fetch(file, Path(file.filepath))
            try:
                value = self.function(*args, **kwargs)
            except Exception as error:
                self._push_streams(kwargs, error)
                raise
            check_outputs(f"app {self.__name__!r}", [file for _, file in self.pushes])
            for stager, file in self.pushes:
                stager.push(file, Path(file.filepath))
            return value

    def _push_streams(self, options: Mapping[str, Any], failure: Exception) -> None:
        """Take what a command that failed has written to its streams: it says why."""
        streams = (stream_file(options.get(name)) for name in STREAMS)
        paths = {file.filepath for file in streams if file is not None}
        for stager, file in self.pushes:
            if file.filepath in paths and Path(file.filepath).exists():
                try:
                    stager.push(file, Path(file.filepath))
                except Exception as error:  # noqa: BLE001 - the failure counts
                    add_note(failure, f"flowcore: {error}")


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and remove it at the end; what another call around this one has made is left to that."""
    with _said(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            # For this user alone: others on the node have no business here.
            folder.mkdir(mode=0o700)
        except FileExistsError:
            made = False
        else:
            made = True
    try:
        yield
    finally:
        if made:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StagingError(
            f"cannot make the folder {str(folder)!r} for staged files on {os.uname().nodename}: {error.strerror}. "
            "Set the executor's working_dir to a folder where tasks may write"
        ) from error


@contextlib.contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, and rename to ``path`` at the end; on an error, remove what was written.

    A reader finds a whole file or none. What is written under the name may be left between attempts of one
    fetch, to go on from.
    """
    # A name of its own, should another process make the same file.
    new = path.with_name(f".{path.name[:200]}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        new.unlink(missing_ok=True)
        yield new
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def retried(attempt: Callable[[], T], attempts: int) -> T:
    """Call ``attempt``, again after a pause while it raises a :class:`TransferError` that may pass.

    Pauses double, from :data:`FIRST_PAUSE_S` on, with a little chance, so that many who failed together do not come
    back together. Where the other side says when to come again, that is kept, up to :data:`LONGEST_PAUSE_S`.

    Args:
        attempt: what to call.
        attempts: how often at most.

    Raises:
        TransferError: what the last call raised; says how many there were.
    """
    for number in range(1, attempts + 1):
        try:
            return attempt()
        except TransferError as error:
            if not error.passing:
                raise
            if number == attempts:
                if attempts > 1:
                    error.add_note(f"flowcore: tried {attempts} times")
                raise
            pause_s = FIRST_PAUSE_S * 2 ** (number - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if error.retry_after_s is not None:
                pause_s = max(pause_s, error.retry_after_s)
        time.sleep(min(pause_s, LONGEST_PAUSE_S))
    raise AssertionError("attempts must be at least 1")
