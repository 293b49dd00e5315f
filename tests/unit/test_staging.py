"""Files of tasks: where they come to be, when they are there, and what is left of them."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

import flowcore
from flowcore import File, bash_app, join_app, python_app, serialize, staging
from flowcore.errors import (
    BashExitFailure,
    ConfigurationError,
    DependencyError,
    FlowcoreError,
    MissingOutputs,
    StagingError,
    TransferError,
)
from flowcore.files import safe_name, shown_url
from flowcore.futures import DataFuture
from flowcore.plugins import transfer
from flowcore.plugins.api import (
    CopyingStaging,
    InTaskStaging,
    SeparateTaskStaging,
    Staging,
    StagingContext,
    StagingPlace,
    fresh,
    retried,
)

WAIT_S = 30


class Shelf(CopyingStaging):
    """Copies ``shelf:/path`` URLs, and counts what it did."""

    schemes = frozenset({"shelf"})

    def __init__(self):
        self.did = []

    def fetch(self, file, path):
        self.did.append(("fetch", file.url, str(path)))
        try:
            with fresh(path) as new:
                new.write_bytes(Path(file.path).read_bytes())
        except OSError as error:
            raise TransferError("fetch", file.url, str(error.strerror)) from error

    def push(self, file, path):
        self.did.append(("push", file.url, str(path)))
        with fresh(Path(file.path)) as new:
            new.write_bytes(path.read_bytes())


class InTask(Shelf, InTaskStaging):
    pass


class Separate(Shelf, SeparateTaskStaging):
    pass


@pytest.fixture(params=[InTask, Separate], ids=["in task", "separate"])
def stager(request):
    return request.param()


@pytest.fixture
def run(load, stager):
    """Loads threads that have the stager, and options."""

    def run(*more, **options):
        executor = flowcore.ThreadPoolExecutor(
            storage_access=[*staging.default_staging, stager, *more], working_dir=options.pop("working_dir", None)
        )
        return load(executors=[executor], **options)

    return run


def shelf(tmp_path, name, content=None):
    path = tmp_path / "shelf" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_text(content)
    return File(f"shelf:{path}")


@python_app
def read(*files, inputs=(), **named):
    return [Path(f).read_text() for f in (*files, *inputs, *named.values())]


@python_app
def paths(*files):
    return [f.filepath for f in files]


# --- names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/d/a.txt?x=1#y", "a.txt"),
        ("https://h/", "file"),
        ("https://h/d/..", "file"),
        ("https://h/d/%2e%2e", "file"),
        ("https://h/d/%2Fetc%2Fpasswd", "passwd"),
        ("https://h/a%20b;rm%20-rf%20$HOME.txt", "a_b_rm_-rf__HOME.txt"),
        ("https://h/x%00y%0az", "x_y_z"),
        ("https://h/größe.dat", "größe.dat"),
        ("https://h/..\\..\\x", ".._.._x"),
        ("https://h/`id`|$(id)", "_id____id_"),
        ("ftp://h/" + "n" * 500 + ".tar.gz", "n" * 197 + ".gz"),
        ("/d/100%25.txt", "100%25.txt"),
    ],
)
def test_names_from_a_network_are_made_safe(url, name):
    assert safe_name(File(url)) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a.txt", "https://h/a.txt"),
        ("https://me:secret@h:1/a?token=x&y#z", "https://...@h:1/a?..."),
        ("https://token@h/a", "https://...@h/a"),
        ("ftp://me:secret@h/a", "ftp://me:...@h/a"),
        ("ftp://me@h/a", "ftp://me@h/a"),
        ("rsync://u:p@h:873/m/a", "rsync://u:...@h:873/m/a"),
        ("odd?name@x.txt", "odd?name@x.txt"),
        ("file:///a@b:c", "file:///a@b:c"),
    ],
)
def test_messages_show_no_secrets(url, shown):
    assert shown_url(url) == shown
    assert str(TransferError("fetch", url, "why")) == f"cannot fetch {shown}: why"
    assert repr(File(url)) == f"File({shown!r})"


def test_an_error_of_a_transfer_survives_a_trip():
    error = TransferError("push", "ftp://u:secret@h/a", "why", passing=False, retry_after_s=3.0)
    data = serialize.dumps_exception(error, "")
    back = serialize.loads_exception(data)
    assert b"secret" not in data
    assert (str(back), back.passing, back.retry_after_s) == (str(error), False, 3.0)
    assert isinstance(back, StagingError) and isinstance(back, FlowcoreError)


def test_variables_in_a_path_are_put_in_where_it_is_read(monkeypatch, tmp_path):
    file = File("https://h/a.txt")
    file.local_path = "$PLACE/${OTHER}_x/a.txt"
    monkeypatch.setenv("PLACE", "/here")
    monkeypatch.setenv("OTHER", "there")
    assert file.filepath == "/here/there_x/a.txt"
    monkeypatch.delenv("OTHER")
    with pytest.raises(ValueError, match=r"names \$OTHER, which is not set on "):
        file.filepath  # noqa: B018
    file.local_path = "~/a.txt"
    monkeypatch.setenv("HOME", "/home/me")
    assert os.fspath(file) == "/home/me/a.txt"
    file.local_path = "$TMPDIR/a.txt"
    monkeypatch.setenv("TMPDIR", "/scratch")
    assert str(file) == "/scratch/a.txt"
    monkeypatch.delenv("TMPDIR")
    assert Path(file.filepath).parent.is_dir()


def test_files_of_an_attempt_lie_side_by_side():
    context = StagingContext("e", "/work", lambda *a: None, Path("run"), "attempt")
    first, index, second = File("x://h/a.bam"), File("x://h/a.bam.bai"), File("x://other/a.bam")
    assert context.local_path(first, "/work/") == "/work/attempt/a.bam"
    assert context.local_path(index, "/work") == "/work/attempt/a.bam.bai"
    assert context.local_path(second, "/work") == "/work/attempt/2-a.bam"
    assert context.local_path(first.cleancopy(), "/work") == "/work/attempt/a.bam"


# --- files in


def test_files_wherever_they_stand_in_a_call(run, tmp_path):
    files = [shelf(tmp_path, f"{n}.txt", n) for n in "abcde"]

    @python_app
    def found(first, nested, inputs=(), named=None):
        return "".join(Path(f).read_text() for f in (first, nested["k"][0], *inputs, named))

    with run():
        future = found(files[0], {"k": (files[1],)}, inputs=[files[2], files[3]], named=files[4])
        assert future.result(WAIT_S) == "abcde"
    assert all(file.local_path is None for file in files)


def test_files_of_one_name_and_the_same_file_twice(run, tmp_path, stager):
    one, other = shelf(tmp_path, "1/a.txt", "one"), shelf(tmp_path, "2/a.txt", "other")
    with run():
        assert read(one, other, one).result(WAIT_S) == ["one", "other", "one"]
    assert len(stager.did) == 2, "a file that is given twice is brought once"


def test_a_bash_app_sees_paths(run, tmp_path):
    @bash_app
    def cat(*files, inputs=(), stdout=None):
        return f"cat {files[0]} {inputs[0]}"

    file = shelf(tmp_path, "a b;c.txt", "text")
    with run():
        future = cat(file, inputs=[file], stdout=(str(tmp_path / "out"), "w"))
        assert future.result(WAIT_S) == 0
    assert (tmp_path / "out").read_text().endswith("texttext")


def test_a_file_that_a_task_returns(run, tmp_path):
    @python_app
    def which(url):
        return [File(url)]

    file = shelf(tmp_path, "a.txt", "text")
    with run():
        assert read(which(file.url)[0]).result(WAIT_S) == ["text"]


def test_where_files_come_to(run, tmp_path, stager):
    with run(working_dir=str(tmp_path / "work")) as kernel:
        (path,) = paths(shelf(tmp_path, "a.txt", "text")).result(WAIT_S)
    assert Path(path).parent.parent == tmp_path / "work"
    assert Path(path).parent.name.startswith(f"flowcore-{kernel.run_id[:8]}-")
    assert Path(path).exists() is isinstance(stager, Separate)


def test_without_a_working_dir(run, tmp_path, stager, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    with run() as kernel:
        (path,) = paths(shelf(tmp_path, "a.txt", "text")).result(WAIT_S)
    root = kernel.run_dir / "files" if isinstance(stager, Separate) else tmp_path / "scratch"
    assert Path(path).parent.parent == root


def test_a_working_dir_with_a_variable(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    with run(working_dir="$SCRATCH/mine"):
        (path,) = paths(shelf(tmp_path, "a.txt", "text")).result(WAIT_S)
    assert Path(path).parent.parent == tmp_path / "scratch" / "mine"


def test_a_working_dir_that_cannot_be(run, tmp_path):
    (tmp_path / "file").touch()
    with run(working_dir=str(tmp_path / "file")):
        error = read(shelf(tmp_path, "a.txt", "text")).exception(WAIT_S)
    assert isinstance(error, StagingError)
    assert str(error).startswith("cannot make the folder '") and "Set the executor's working_dir" in str(error)


def test_a_file_that_cannot_be_brought(run, tmp_path):
    missing = shelf(tmp_path, "nothing.txt")
    with run():
        error = read(missing).exception(WAIT_S)
    assert str(error) == f"cannot fetch {missing.url}: No such file or directory"
    assert list(tmp_path.rglob("*nothing*")) == []


def test_a_file_that_comes_with_a_retry(run, tmp_path, stager):
    missing = shelf(tmp_path, "late.txt")
    kept = stager.fetch

    def fetch(file, path):
        try:
            kept(file, path)
        finally:
            Path(missing.path).write_text("now")

    stager.fetch = fetch
    with run(retries=1):
        assert read(missing).result(WAIT_S) == ["now"]


def test_what_brings_a_file_has_no_retries_of_its_own(run, tmp_path, stager):
    missing = shelf(tmp_path, "nothing.txt")
    with run(retries=2):
        error = read(missing).exception(WAIT_S)
    assert len(stager.did) == 3
    if isinstance(stager, Separate):
        assert error.__notes__[0].startswith("flowcore: task 3 (app 'stage_in'), attempt 1, on executor 'threads'")
        assert error.__notes__[1] == "flowcore: brings a file that task 0 (app 'read') needs"
    assert error.__notes__[-1].startswith("flowcore: earlier attempts of task 0 (app 'read') failed too: ")


def test_who_cannot_be_brought_by_any(run, stager):
    with run():
        error = read(File("gopher://me:secret@h/a")).exception(WAIT_S)
    assert str(error) == (
        "no stager of executor 'threads' can stage in 'gopher://me:...@h/a' (scheme 'gopher'); it has: "
        f"NoOpFileStaging, FTPSeparateTaskStaging, HTTPSeparateTaskStaging, {type(stager).__name__}. "
        "Add one for this scheme to the executor's storage_access"
    )


def test_join_apps_pass_files_on(run, tmp_path):
    @join_app
    def twice(file):
        return [read(file), read(file)]

    with run():
        assert twice(shelf(tmp_path, "a.txt", "text")).result(WAIT_S) == [["text"], ["text"]]


# --- files out


@python_app
def write(text, outputs=()):
    for file in outputs:
        Path(file).write_text(text)
    return [file.filepath for file in outputs]


def in_task(load, tmp_path, **options):
    stager = InTask()
    executor = flowcore.ThreadPoolExecutor(
        storage_access=[*staging.default_staging, stager], working_dir=str(tmp_path / "work")
    )
    return stager, load(executors=[executor], **options)


def test_outputs_become_inputs(load, tmp_path):
    target = shelf(tmp_path, "out.txt")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        made = write("text", outputs=[target])
        assert read(made.outputs[0]).result(WAIT_S) == ["text"]
        assert made.outputs[0].result() is target or made.outputs[0].result().url == target.url
        folder = Path(made.result()[0]).parent
    assert Path(target.path).read_text() == "text"
    assert not folder.exists()
    assert [did[0] for did in stager.did] == ["push", "fetch"]


def test_a_file_that_is_changed_in_place(load, tmp_path):
    @python_app
    def append(inputs, outputs):
        assert inputs[0].filepath == outputs[0].filepath
        with open(outputs[0], "a") as file:
            file.write(" and more")

    file = shelf(tmp_path, "a.txt", "text")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        append([file], outputs=[file]).result(WAIT_S)
    assert Path(file.path).read_text() == "text and more"


def test_an_output_that_was_not_made(load, tmp_path):
    @python_app
    def forgets(outputs=()):
        return None

    target = shelf(tmp_path, "out.txt")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        future = forgets(outputs=[target])
        assert isinstance(future.exception(WAIT_S), MissingOutputs)
        assert future.outputs[0].exception(WAIT_S) is future.exception()
    assert f"missing: {target.url} (at {tmp_path}/work/flowcore-" in str(future.exception())
    assert not Path(target.path).exists()
    assert stager.did == []


def test_a_task_that_fails_leaves_nothing(load, tmp_path):
    @python_app
    def fails(file, outputs=()):
        Path(outputs[0]).write_text("half")
        raise ZeroDivisionError("as it does")

    target = shelf(tmp_path, "out.txt")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        future = fails(shelf(tmp_path, "in.txt", "text"), outputs=[target])
        assert isinstance(future.exception(WAIT_S), ZeroDivisionError)
        assert isinstance(read(future.outputs[0]).exception(WAIT_S), DependencyError)
    assert not Path(target.path).exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_nobody_else_may_enter_the_folder_of_an_attempt(load, tmp_path):
    @python_app
    def mode(file):
        return Path(file).parent.stat().st_mode

    _, kernel = in_task(load, tmp_path)
    with kernel:
        assert stat.S_IMODE(mode(shelf(tmp_path, "in.txt", "text")).result(WAIT_S)) == 0o700


@pytest.mark.parametrize("with_mode", [False, True], ids=["a File", "a File and a mode"])
def test_streams_of_a_bash_app(load, tmp_path, with_mode):
    @bash_app
    def say(stdout=None, stderr=None):
        return "echo hello; echo oops >&2"

    out, err = shelf(tmp_path, "out.txt"), shelf(tmp_path, "err.txt")
    _, kernel = in_task(load, tmp_path)
    with kernel:
        future = say(stdout=(out, "w") if with_mode else out, stderr=err)
        assert isinstance(future.stdout, DataFuture) and isinstance(future.stderr, DataFuture)
        assert future.outputs == []
        (text,) = read(future.stdout).result(WAIT_S)
        assert future.stderr.result(WAIT_S).url == err.url
    assert text.splitlines()[-1] == "hello"
    assert Path(err.path).read_text() == "oops\n"
    assert list((tmp_path / "work").iterdir()) == []


def test_streams_of_a_command_that_fails(load, tmp_path):
    """They say why, so they are taken all the same."""

    @bash_app
    def fails(stdout=None, stderr=None, outputs=()):
        return f"echo half > {outputs[0]}; echo why >&2; exit 3"

    out, err = shelf(tmp_path, "out.txt"), shelf(tmp_path, "err.txt")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        future = fails(stderr=(err, "w"), outputs=[out])
        error = future.exception(WAIT_S)
        assert (type(error), error.exitcode) == (BashExitFailure, 3)
        assert future.stderr.exception(WAIT_S) is error
        assert Path(err.path).read_text() == "why\n"
        assert not Path(out.path).exists()

        def no(file, path):
            raise TransferError("push", file.url, "nobody is there")

        stager.push = no
        error = fails(stderr=err, outputs=[out]).exception(WAIT_S)
    assert isinstance(error, BashExitFailure)
    assert f"flowcore: cannot push {err.url}: nobody is there" in error.__notes__


def test_a_stream_of_a_local_file(load, tmp_path):
    @bash_app
    def say(stdout=None):
        return "echo hello"

    with load():
        future = say(stdout=File(tmp_path / "out.txt"))
        assert future.stdout.result(WAIT_S).filepath == str(tmp_path / "out.txt")
        failed = say(stdout=File("https://h/out.txt"))
        error = failed.exception(WAIT_S)
        assert "can stage out 'https://h/out.txt'" in str(error)
        assert failed.stdout.exception(WAIT_S) is error


def test_a_python_app_has_no_streams(load, tmp_path):
    """``stdout`` is a parameter as any other there."""

    @python_app
    def length(stdout):
        return len(Path(stdout).read_text())

    _, kernel = in_task(load, tmp_path)
    with kernel:
        assert length(stdout=shelf(tmp_path, "a.txt", "text")).result(WAIT_S) == 4


def test_memo_keys_are_of_urls(load, tmp_path):
    calls = []

    @python_app(cache=True)
    def count(file):
        calls.append(file.filepath)
        return len(calls)

    file = shelf(tmp_path, "a.txt", "text")
    stager, kernel = in_task(load, tmp_path)
    with kernel:
        assert count(file).result(WAIT_S) == 1
        assert count(File(file.url)).result(WAIT_S) == 1
    assert len(stager.did) == 1, "a known result needs no file"


# --- the life of a stager


class Told(Staging):
    def __init__(self):
        self.told = []

    def start(self, place):
        self.told.append((place.executor, place.working_dir))

    def close(self):
        self.told.append("closed")
        raise RuntimeError("as it does")


def test_stagers_are_started_and_closed(load):
    told = Told()
    one = flowcore.ThreadPoolExecutor(label="one", storage_access=[told], working_dir="/w")
    two = flowcore.ThreadPoolExecutor(label="two", storage_access=[told])
    with load(executors=[one, two]):
        assert told.told == [("one", "/w"), ("two", None)]
    assert told.told[2:] == ["closed"]


def test_a_stager_that_cannot_start_ends_the_load(load):
    class Refuses(Staging):
        def start(self, place):
            raise ConfigurationError(f"not for {place.executor}")

    with pytest.raises(ConfigurationError, match="not for threads"):
        load(executors=[flowcore.ThreadPoolExecutor(storage_access=[Told(), Refuses()])])
    with pytest.raises(ConfigurationError):
        flowcore.dfk()


def test_default_stagers(load):
    assert [type(s).__name__ for s in staging.default_staging] == [
        "NoOpFileStaging",
        "FTPSeparateTaskStaging",
        "HTTPSeparateTaskStaging",
    ]
    assert staging.default_staging[0] is not staging.default_staging[0]
    assert "RSyncStaging" in dir(staging)


def test_the_data_manager(load, tmp_path, stager, run):
    file = shelf(tmp_path, "a.txt", "text")
    with run() as kernel:
        manager = kernel.data_manager
        staged, function = manager.optionally_stage_in(file, Path.read_text, "threads")
        if isinstance(stager, Separate):
            staged = staged.result(WAIT_S)
        assert function(Path(staged.filepath)) == "text"
        assert manager.optionally_stage_in(5, len, "threads") == (5, len)
        assert manager.stage_in("text", "text", "threads") == "text"
        with pytest.raises(StagingError):
            manager.stage_in(File("gopher://h/a"), None, "threads")


def test_names_in_a_config(tmp_path):
    config = flowcore.Config(
        executors=[
            {
                "plugin": "threads",
                "storage_access": [{"plugin": "noop"}, {"plugin": "http_in_task", "timeout_s": 5.0, "cache": True}],
            }
        ]
    )
    stagers = config.executors[0].storage_access
    assert [type(s).__name__ for s in stagers] == ["NoOpFileStaging", "HTTPInTaskStaging"]
    assert stagers[1].timeout_s == 5.0


# --- what base classes share


def test_what_fails_is_tried_again_later_and_later(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def attempt():
        raise TransferError("fetch", "x://h/a", "no")

    with pytest.raises(TransferError) as caught:
        retried(attempt, 4)
    assert caught.value.__notes__ == ["flowcore: tried 4 times"]
    assert len(pauses) == 3
    for pause, expected in zip(pauses, (0.5, 1, 2), strict=True):
        assert 0.8 * expected <= pause <= 1.2 * expected


def test_a_whole_file_or_none(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), fresh(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]
    with fresh(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "new")]


def test_a_stager_that_does_one_half(tmp_path):
    class In(InTaskStaging):
        schemes = frozenset({"x"})

        def fetch(self, file, path):
            path.touch()

    file = File("x://h/a")
    assert (In().can_stage_in(file), In().can_stage_out(file)) == (True, False)
    with pytest.raises(TransferError, match="cannot push x://h/a: In takes no files away"):
        In().push(file, tmp_path / "a")


def test_calls_around_calls_share_a_folder(tmp_path):
    """A stager of somebody else's may have wrapped the function in between."""
    stager = InTask()
    context = StagingContext("e", str(tmp_path / "work"), lambda *a: None)
    files = [shelf(tmp_path, "a.txt", "a"), shelf(tmp_path, "b.txt", "b")]

    def function():
        return sorted(p.name for p in Path(files[0].filepath).parent.iterdir())

    for file in files:
        stager.stage_in(context, file, None)
        call = stager.replace_task(context, file, function)
        function = lambda call=call: call()  # noqa: E731
    assert function() == ["a.txt", "b.txt"]
    assert list((tmp_path / "work").iterdir()) == []


def test_attempts_at_once_have_folders_of_their_own(load, tmp_path):
    both = threading.Barrier(2, timeout=WAIT_S)

    @python_app
    def meet(file):
        both.wait()
        return file.filepath, Path(file).read_text()

    file = shelf(tmp_path, "a.txt", "text")
    _, kernel = in_task(load, tmp_path)
    with kernel:
        (one, text), (other, same) = [f.result(WAIT_S) for f in [meet(file), meet(file)]]
    assert (text, same) == ("text", "text")
    assert one != other


def test_a_place_says_where():
    place = StagingPlace("e", None, Path("run"))
    assert (place.executor, place.working_dir, place.run_dir) == ("e", None, Path("run"))


def test_pauses_have_a_bound():
    assert transfer.FIRST_PAUSE_S * 2**10 > transfer.LONGEST_PAUSE_S
