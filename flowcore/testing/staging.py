"""The contract suite of stagers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore import serialize
from flowcore.plugins.api import File, Staging, StagingContext, StagingPlace, shown_url
from flowcore.testing import functions


@attrs.frozen
class Source:
    """A file to be brought: the File of its URL, and its bytes."""

    file: File
    content: bytes


@attrs.frozen
class Target:
    """A file to be made and taken away: the File of its URL, and what reads it at the far end."""

    file: File
    read: Callable[[], bytes]


def read_file(file: File, *more: File) -> bytes:
    """The app of the suite that reads."""
    return b"".join(Path(f.filepath).read_bytes() for f in (file, *more))


def write_file(content: bytes, outputs: list[File]) -> str:
    """The app of the suite that writes."""
    Path(outputs[0].filepath).write_bytes(content)
    return "written"


def _sent(what: Any) -> Any:
    """Return an object as a worker gets it."""
    return serialize.loads(serialize.dumps(what))


def _work(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    function, args = _sent((function, args))
    return _sent(function(*args))


class StagingContract:
    """What every stager promises; see :class:`flowcore.plugins.api.Staging`.

    Subclass it, make the stager in the fixture ``stager``, and say in ``source`` and ``target`` which files it
    can move; both are called with the server (if it needs one) running::

        class TestMyStaging(StagingContract):
            @pytest.fixture
            def stager(self):
                return MyStaging()

            @pytest.fixture
            def source(self, my_server):
                my_server.put("a.txt", b"content")
                return Source(File("my://host/a.txt"), b"content")

            @pytest.fixture
            def same_name(self, my_server):
                my_server.put("other/a.txt", b"other content")
                return Source(File("my://host/other/a.txt"), b"other content")

            @pytest.fixture
            def missing(self):
                return File("my://host/nothing.txt")

            stages_out = False

    The suite does what the session and the kernel do with a stager, and runs tasks in this process; what is to run
    in a task is first sent through the serializer, as to a worker.

    Attributes:
        stages_in: it brings files.
        stages_out: it takes files away.
        looks: it looks whether a file is there. One for files that all tasks see need not.
        bound_s: seconds that one small file takes at most.
    """

    stages_in: bool = True
    stages_out: bool = True
    looks: bool = True
    bound_s: float = 60.0

    @pytest.fixture
    def stager(self) -> Staging:
        """The stager under test. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `stager`")

    @pytest.fixture
    def source(self) -> Source:
        """A file that it can bring. To be overridden, unless ``stages_in`` is False."""
        if not self.stages_in:
            pytest.skip("this stager brings no files")
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `source`")

    @pytest.fixture
    def target(self) -> Target:
        """A file that it can take away. To be overridden, unless ``stages_out`` is False."""
        if not self.stages_out:
            pytest.skip("this stager takes no files away")
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `target`")

    @pytest.fixture
    def same_name(self) -> Source:
        """Another file that it can bring, whose URL ends in the same name. To be overridden, as ``source``."""
        if not self.stages_in:
            pytest.skip("this stager brings no files")
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `same_name`")

    @pytest.fixture
    def missing(self) -> File:
        """A file that it could bring if it were there. To be overridden, as ``source``, if ``looks`` is True."""
        if not self.stages_in or not self.looks:
            pytest.skip("this stager looks at no files")
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `missing`")

    @pytest.fixture
    def started(self, stager: Staging, tmp_path: Path) -> Iterator[Staging]:
        """The stager, started for the executor of the suite."""
        try:
            stager.start(StagingPlace("contract", str(tmp_path / "work"), tmp_path / "run"))
            yield stager
        finally:
            stager.close()

    @pytest.fixture
    def context(self, tmp_path: Path) -> Iterator[StagingContext]:
        """A place with a working directory, whose staging tasks run in a thread."""
        with ThreadPoolExecutor(2) as pool:

            def submit(function: Callable[..., Any], args: tuple[Any, ...], executor: str | None, /) -> Future[Any]:
                # In this process it is given what it was made with, elsewhere a copy.
                return pool.submit(function, *args) if executor is None else pool.submit(_work, function, args)

            yield StagingContext("contract", str(tmp_path / "work"), submit, tmp_path / "run")

    def bring(
        self, stager: Staging, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> tuple[File, Callable[..., Any]]:
        """Do what the kernel does with an input; return the file that the task gets, and what is run."""
        staged = file.cleancopy()
        future = stager.stage_in(context, staged, None)
        function = stager.replace_task(context, staged, function) or function
        if future is not None:
            staged = future.result(self.bound_s)
        assert isinstance(staged, File)
        assert staged.url == file.url
        return staged, _sent(function)

    # --- what it is

    def test_is_a_stager(self, stager: Staging) -> None:
        """It keeps the contract's class."""
        assert isinstance(stager, Staging)
        assert stager.kind == "staging"

    def test_says_what_it_can_move(self, stager: Staging) -> None:
        """It leaves URLs of a scheme that nobody knows to others."""
        file = File("no-such-scheme://host/path/a.txt")
        assert stager.can_stage_in(file) is False
        assert stager.can_stage_out(file) is False

    def test_is_closed_twice_and_started_again(self, stager: Staging, tmp_path: Path) -> None:
        """Two executors may have it, and so may two runs, one after the other."""
        for _ in range(2):
            stager.start(StagingPlace("contract", str(tmp_path / "work"), tmp_path / "run"))
            stager.start(StagingPlace("another", str(tmp_path / "other"), tmp_path / "run"))
            stager.close()
            stager.close()

    # --- in

    def test_brings_a_file(self, started: Staging, context: StagingContext, source: Source) -> None:
        """The task finds the bytes at the file's path, and the user's File stays as it was."""
        assert started.can_stage_in(source.file) is True
        staged, function = self.bring(started, context, source.file, read_file)
        assert function(staged) == source.content
        assert source.file.local_path is None

    def test_brings_a_file_for_several_tasks(self, started: Staging, context: StagingContext, source: Source) -> None:
        """Each task has it, also the second one."""
        for _ in range(2):
            staged, function = self.bring(started, context, source.file, read_file)
            assert function(staged) == source.content

    def test_task_keeps_its_arguments_value_and_exception(
        self, started: Staging, context: StagingContext, source: Source
    ) -> None:
        """What runs instead of the function takes what it takes, and returns and raises what it does."""
        staged, function = self.bring(started, context, source.file, functions.echo)
        assert function(1, staged, a=2) == ((1, staged), {"a": 2})
        staged, function = self.bring(started, context, source.file, functions.refuse)
        with pytest.raises(functions.Refused):
            function(7)

    def test_files_of_one_name(
        self, started: Staging, context: StagingContext, source: Source, same_name: Source
    ) -> None:
        """Files of one task do not get into each other's way, whatever they are called."""
        function: Callable[..., Any] = read_file
        files = []
        for one in (source, same_name):
            file = one.file.cleancopy()
            future = started.stage_in(context, file, None)
            function = started.replace_task(context, file, function) or function
            files.append(file if future is None else future.result(self.bound_s))
        assert _sent(function)(*files) == source.content + same_name.content

    def test_a_file_that_is_not_there(self, started: Staging, context: StagingContext, missing: File) -> None:
        """The error names the URL, without the secrets of it, and no file is there that could be taken for it."""
        assert started.can_stage_in(missing) is True
        file = missing.cleancopy()

        def bring() -> None:
            future = started.stage_in(context, file, None)
            function = started.replace_task(context, file, read_file) or read_file
            _sent(function)(file if future is None else future.result(self.bound_s))

        with pytest.raises(Exception) as caught:
            bring()
        assert shown_url(missing.url) in str(caught.value)
        assert file.local_path is None or not Path(file.filepath).exists()

    # --- out

    def arrange(
        self, stager: Staging, context: StagingContext, file: File, function: Callable[..., Any]
    ) -> tuple[File, Callable[..., Any], Future[Any], Future[Any] | None]:
        """Do what the kernel does with an output, before the task runs."""
        made = file.cleancopy()
        ran: Future[Any] = Future()
        arrived = stager.stage_out(context, made, ran)
        return made, _sent(stager.replace_task_stage_out(context, made, function) or function), ran, arrived

    def test_takes_a_file(self, started: Staging, context: StagingContext, target: Target) -> None:
        """What the task wrote is at the file's URL when the future is done."""
        assert started.can_stage_out(target.file) is True
        file, function, ran, arrived = self.arrange(started, context, target.file, write_file)
        assert arrived is None or not arrived.done(), "it cannot have arrived before the task ran"
        assert function(b"some\0bytes", outputs=[file]) == "written"
        ran.set_result(None)
        if arrived is not None:
            arrived.result(self.bound_s)
        assert target.read() == b"some\0bytes"
        assert target.file.local_path is None

    def test_a_task_that_failed(self, started: Staging, context: StagingContext, target: Target) -> None:
        """Its exception passes, and nobody waits for its file for ever."""
        _, function, ran, arrived = self.arrange(started, context, target.file, functions.refuse)
        with pytest.raises(functions.Refused) as caught:
            function(7)
        ran.set_exception(caught.value)
        if arrived is not None:
            arrived.exception(self.bound_s)
            assert arrived.done()
