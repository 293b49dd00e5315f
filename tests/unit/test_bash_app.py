"""bash_apps: command lines, their streams, their exit codes, their end."""

from __future__ import annotations

import os
import pathlib
import signal

import psutil
import pytest

import flowcore
from flowcore import AUTO_LOGNAME, Config, File, bash_app, python_app
from flowcore.errors import (
    AppBadFormatting,
    AppTimeout,
    BadStdStreamFile,
    BashAppNoReturn,
    BashExitFailure,
    DependencyError,
    MissingOutputs,
)

WAIT_S = 60


@pytest.fixture(autouse=True)
def run(tmp_path):
    with flowcore.load(Config(run_dir=tmp_path / "runinfo", initialize_logging=False)) as dfk:
        yield dfk


@bash_app
def sh(command, stdout=None, stderr=None, inputs=(), outputs=()):
    return command


def header(command):
    return f"--> executable follows <--\n{command}\n--> end executable <--\n"


def test_result_is_zero():
    assert sh("true").result(timeout=WAIT_S) == 0


# --- streams


@pytest.mark.parametrize("make", [str, pathlib.Path, lambda p: File(str(p))], ids=["str", "Path", "File"])
def test_stdout_and_stderr(tmp_path, make):
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    future = sh("echo hello; echo oops >&2", stdout=make(out), stderr=make(err))
    future.result(timeout=WAIT_S)
    assert out.read_text() == header("echo hello; echo oops >&2") + "hello\n"
    assert err.read_text() == "oops\n"


def test_future_knows_its_streams(tmp_path):
    path, pair = str(tmp_path / "a"), (str(tmp_path / "b"), "w")
    future = sh("true", stdout=path, stderr=pair)
    assert future.stdout == path
    assert future.stderr == pair
    future.result(timeout=WAIT_S)
    assert sh("true").stdout is None


def test_streams_are_appended_to(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before\n")
    sh("echo 1", stdout=str(path)).result(timeout=WAIT_S)
    sh("echo 2", stdout=str(path)).result(timeout=WAIT_S)
    assert path.read_text() == f"before\n{header('echo 1')}1\n{header('echo 2')}2\n"


@pytest.mark.parametrize(("mode", "kept"), [("w", False), ("wb", False), ("w+", False), ("a", True), ("at", True)])
def test_stream_with_a_mode(tmp_path, mode, kept):
    path = tmp_path / "out.txt"
    path.write_text("before\n")
    sh("echo 1", stdout=(path, mode)).result(timeout=WAIT_S)
    assert path.read_text() == ("before\n" if kept else "") + header("echo 1") + "1\n"


def test_stream_with_mode_x_must_be_new(tmp_path):
    path = tmp_path / "out.txt"
    sh("echo 1", stdout=(str(path), "x")).result(timeout=WAIT_S)
    with pytest.raises(BadStdStreamFile, match=r"stdout='.*out.txt' cannot be opened with mode 'x'.*File exists"):
        sh("echo 1", stdout=(str(path), "x")).result(timeout=WAIT_S)


def test_folders_of_streams_are_made(tmp_path):
    path = tmp_path / "not" / "there" / "yet.txt"
    sh("echo 1", stdout=str(path)).result(timeout=WAIT_S)
    assert path.read_text().endswith("1\n")


def test_both_streams_in_one_file(tmp_path):
    path = str(tmp_path / "both")
    sh("echo a; echo b >&2; echo c", stdout=path, stderr=path).result(timeout=WAIT_S)
    assert pathlib.Path(path).read_text().endswith("a\nb\nc\n")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "expected a path, (path, mode), a File or flowcore.AUTO_LOGNAME, got int"),
        (("a", "w", "x"), "a tuple must be (path, mode), for example ('out.txt', 'w')"),
        (("a", 3), "a tuple must be (path, mode)"),
        (("a", "q"), "with mode 'q'"),
        ("/dev/null/x", "'/dev/null/x' cannot be opened with mode 'a+'"),
        (("/etc/hostname", "r"), "'/etc/hostname' cannot be written with mode 'r'; use 'w' or 'a'"),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_bad_streams(stream, target, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    with pytest.raises(BadStdStreamFile) as caught:
        sh(f"touch {ran}", **{stream: target}).result(timeout=WAIT_S)
    assert str(caught.value).startswith(f"{stream}=")
    assert message in str(caught.value)
    assert not ran.exists()


def test_auto_logname(run):
    @bash_app
    def echo(text, stdout=AUTO_LOGNAME, stderr=AUTO_LOGNAME):
        return f"echo {text}; echo no >&2"

    first, second = echo("a"), echo("b", label="mine")
    folder = run.run_dir / "task_logs" / "0000"
    assert first.stdout == str(folder / "task_0000_echo.stdout")
    assert second.stdout == str(folder / "task_0001_echo_mine.stdout")
    assert second.stderr == str(folder / "task_0001_echo_mine.stderr")
    first.result(timeout=WAIT_S)
    second.result(timeout=WAIT_S)
    assert pathlib.Path(first.stdout).read_text().endswith("a\n")
    assert pathlib.Path(second.stderr).read_text() == "no\n"


def test_label_and_walltime_reach_a_function_that_takes_them(tmp_path):
    @bash_app
    def show(label="l", walltime=30, stdout=None):
        return f"echo {label} {walltime} {stdout}"

    path = str(tmp_path / "out")
    show(stdout=path).result(timeout=WAIT_S)
    assert pathlib.Path(path).read_text().endswith(f"l 30 {path}\n")


def test_options_that_the_function_does_not_take(tmp_path):
    @bash_app
    def bare():
        return "echo out; echo err >&2"

    out, err = tmp_path / "out", tmp_path / "err"
    bare(stdout=str(out), stderr=str(err), walltime=WAIT_S, inputs=[1]).result(timeout=WAIT_S)
    assert out.read_text().endswith("out\n")
    assert err.read_text() == "err\n"


# --- command lines


def test_multi_line_scripts(tmp_path):
    path = tmp_path / "out"
    sh(
        f"""
        set -e
        words=(one "two three")
        for word in "${{words[@]}}"; do
            echo "<$word>"
        done > {path}
        """
    ).result(timeout=WAIT_S)
    assert path.read_text() == "<one>\n<two three>\n"


def test_set_e_ends_a_script(tmp_path):
    path = tmp_path / "reached"
    with pytest.raises(BashExitFailure):
        sh(f"set -e\nfalse\ntouch {path}").result(timeout=WAIT_S)
    assert not path.exists()


def test_nothing_is_on_stdin():
    assert sh("! read line").result(timeout=WAIT_S) == 0


def test_arguments_may_be_futures(tmp_path):
    @python_app
    def word():
        return "from a future"

    @bash_app
    def write(text, target, outputs=()):
        return f"echo '{text}' > {target}; cp {target} {outputs[0]}"

    made = write(word(), File(str(tmp_path / "x")), outputs=[File(str(tmp_path / "y"))])
    assert pathlib.Path(made.outputs[0].result(timeout=WAIT_S)).read_text() == "from a future\n"


@pytest.mark.parametrize(
    "error", [IndexError("tuple index out of range"), KeyError("x"), AttributeError("a"), ValueError("v")]
)
def test_command_lines_that_cannot_be_formatted(error):
    @bash_app
    def bad():
        raise error

    with pytest.raises(AppBadFormatting) as caught:
        bad().result(timeout=WAIT_S)
    assert str(caught.value) == (
        f"bash_app 'bad' failed while it made its command line: {type(error).__name__}: {error}"
    )
    assert caught.value.__cause__ is error


def test_a_template_without_its_value():
    @bash_app
    def bad(name):
        return "echo {} {}".format(name)  # noqa: F524, UP032

    with pytest.raises(AppBadFormatting, match="Replacement index 1 out of range"):
        bad("x").result(timeout=WAIT_S)


def test_other_errors_of_the_function_are_its_own():
    @bash_app
    def bad():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        bad().result(timeout=WAIT_S)


@pytest.mark.parametrize("returned", [None, 3, b"echo", ["echo"]])
def test_a_function_that_returns_no_command_line(returned):
    @bash_app
    def bad():
        return returned

    with pytest.raises(BashAppNoReturn) as caught:
        bad().result(timeout=WAIT_S)
    assert str(caught.value) == (
        f"bash_app 'bad' must return its command line as a string, it returned {returned!r} "
        f"of type {type(returned).__name__}; does it lack a return?"
    )


# --- exit codes


@pytest.mark.parametrize("code", [1, 9, 127, 255])
def test_exit_codes(code):
    with pytest.raises(BashExitFailure) as caught:
        sh(f"exit {code}").result(timeout=WAIT_S)
    assert caught.value.exitcode == code
    assert caught.value.app_name == "sh"
    assert str(caught.value) == (
        f"bash_app sh failed with unix exit code {code} (its stderr was not kept: call it with "
        "stderr=flowcore.AUTO_LOGNAME)"
    )


def test_the_command_line_stands_in_the_failure():
    @bash_app
    def fail(code, more=""):
        return f"exit {code} {more}"

    error = fail(3).exception(timeout=WAIT_S)
    assert "flowcore: the command line was: exit 3 " in error.__notes__
    long = fail(3, "# " + "x" * 10000).exception(timeout=WAIT_S).__notes__[0]
    assert long.endswith("xxx...")
    assert len(long) < 3000


def test_death_by_signal():
    with pytest.raises(BashExitFailure) as caught:
        sh("kill -KILL $$").result(timeout=WAIT_S)
    assert caught.value.exitcode == -signal.SIGKILL
    assert "exit code -9 (killed by signal 9 (SIGKILL))" in str(caught.value)


def test_tail_of_stderr(tmp_path):
    path = str(tmp_path / "err")
    with pytest.raises(BashExitFailure) as caught:
        sh("seq 100000 >&2; echo 'the reason' >&2; exit 3", stderr=path).result(timeout=WAIT_S)
    assert caught.value.stderr_tail.endswith("\n100000\nthe reason")
    assert len(caught.value.stderr_tail) <= 2000
    assert str(caught.value).startswith("bash_app sh failed with unix exit code 3; its stderr ends with:\n")
    assert str(caught.value).endswith("\nthe reason")


def test_tail_of_a_stderr_that_others_wrote_to(tmp_path):
    @bash_app
    def fail(words, stderr=str(tmp_path / "shared.err")):
        return f"{words} exit 1"

    assert fail("echo first disaster >&2;").exception(timeout=WAIT_S).stderr_tail == "first disaster"
    assert fail("").exception(timeout=WAIT_S).stderr_tail == ""
    assert fail("echo second >&2;").exception(timeout=WAIT_S).stderr_tail == "second"


def test_stderr_that_is_no_text(tmp_path):
    with pytest.raises(BashExitFailure) as caught:
        sh(r"printf '\xff\xfe bad' >&2; exit 1", stderr=str(tmp_path / "err")).result(timeout=WAIT_S)
    assert caught.value.stderr_tail.endswith("bad")


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(BashExitFailure, match="no-such-command-of-flowcore") as caught:
        sh("no-such-command-of-flowcore", stderr=str(tmp_path / "err")).result(timeout=WAIT_S)
    assert caught.value.exitcode == 127


# --- outputs


def test_missing_outputs(tmp_path):
    there, missing = File(str(tmp_path / "there")), File(str(tmp_path / "missing"))
    future = sh(f"touch {there}", outputs=[there, missing])
    with pytest.raises(MissingOutputs) as caught:
        future.result(timeout=WAIT_S)
    assert str(caught.value) == (
        f"bash_app 'sh' ended well but did not make all its outputs; missing: {tmp_path / 'missing'}"
    )
    assert [f.url for f in caught.value.outputs] == [missing.url]
    assert isinstance(future.outputs[0].exception(timeout=WAIT_S), MissingOutputs)


def test_exit_code_before_missing_outputs(tmp_path):
    with pytest.raises(BashExitFailure):
        sh("exit 1", outputs=[File(str(tmp_path / "missing"))]).result(timeout=WAIT_S)


def test_dependents_of_a_failed_command(tmp_path):
    failed = sh("exit 4", outputs=[File(str(tmp_path / "x"))])
    with pytest.raises(DependencyError, match="BashExitFailure: bash_app sh failed with unix exit code 4 .* in task 0"):
        sh("true", inputs=[failed.outputs[0]]).result(timeout=WAIT_S)


# --- walltime


def test_walltime_kills_all_that_the_command_started(tmp_path):
    pids = tmp_path / "pids"
    # A child and a grandchild, one of them deaf to SIGTERM.
    command = f"""
    trap '' TERM
    bash -c 'echo $$ >> {pids}; sleep 1000 & echo $! >> {pids}; wait' &
    while [ $(wc -l < {pids} 2>/dev/null || echo 0) -lt 2 ]; do :; done
    echo $$ >> {pids}
    sleep 1000
    """
    with pytest.raises(AppTimeout) as caught:
        sh(command, walltime=3).result(timeout=WAIT_S)
    assert str(caught.value) == "bash_app 'sh' ran longer than its walltime of 3 s and was killed"
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 3
    alive = []
    for pid in started:
        try:
            process = psutil.Process(pid)
            process.wait(timeout=10)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            pass
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            alive.append(pid)
    assert alive == []


def test_walltime_that_is_not_used_up():
    assert sh("true", walltime=WAIT_S).result(timeout=WAIT_S) == 0


def test_a_command_leaves_no_open_files(tmp_path):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    sh("true", stdout=str(tmp_path / "o")).result(timeout=WAIT_S)
    before = open_files()
    for _ in range(5):
        sh("exit 1", stdout=str(tmp_path / "o"), stderr=str(tmp_path / "e")).exception(timeout=WAIT_S)
        sh("true", stdout=str(tmp_path / "o"), stderr="/dev/null/x").exception(timeout=WAIT_S)
    assert open_files() == before
