"""A run from load() to its end: its folder, its log, its hooks, and what is left behind."""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import Future

import pytest

import flowcore
from flowcore import Config, DataFlowKernel, join_app, python_app
from flowcore.errors import (
    BadCheckpoint,
    ConfigurationError,
    ExecutorError,
    HookError,
    KernelClosedError,
    NoKernelError,
)
from flowcore.kernel.states import FINAL_STATES, TRANSITIONS, States
from flowcore.plugins.api import Executor, hookimpl
from flowcore.session import make_run_dir
from flowcore.testing import eventually

WAIT_S = 60
LOGGER = logging.getLogger("flowcore")


@pytest.fixture
def config(tmp_path):
    def config(**options):
        options.setdefault("initialize_logging", False)
        return Config(run_dir=tmp_path / "runinfo", **options)

    yield config
    flowcore.clear()


@python_app
def identity(x):
    return x


@python_app
def fail(error):
    raise error


# --- run folders


def test_runs_are_numbered(config, tmp_path):
    for n in range(3):
        with flowcore.load(config()) as dfk:
            assert dfk.run_dir == tmp_path / "runinfo" / f"{n:03}"
            assert dfk.run_dir.is_dir()


def test_numbers_go_on_after_the_highest(tmp_path):
    for name in ("000", "007", "1234", "junk", "9x"):
        (tmp_path / name).mkdir()
    assert make_run_dir(tmp_path) == tmp_path / "1235"


def test_run_folder_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_run_dir(pathlib.Path("deep/runs"))
    assert path == tmp_path / "deep" / "runs" / "000"


def test_a_run_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        flowcore.load({"run_dir": str(tmp_path / "file")})
    assert str(caught.value) == (
        f"run_dir={str(tmp_path / 'file')!r}: cannot make the folder of this run there: File exists"
    )


RACE = """
import pathlib, sys
from flowcore.session import make_run_dir
from flowcore.testing import eventually
base = pathlib.Path(sys.argv[1])
sys.stdin.readline()
for _ in range(50):
    print(make_run_dir(base).name)
"""


def test_processes_that_race_for_folders_get_different_ones(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path / "runs")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    names: list[str] = []
    for racer in racers:
        out, _ = racer.communicate(timeout=WAIT_S)
        assert racer.returncode == 0
        names += out.split()
    assert len(names) == 150
    assert len(set(names)) == 150


def test_threads_that_race_for_folders(tmp_path):
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.extend(make_run_dir(tmp_path).name for _ in range(30))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(names) == [f"{n:03}" for n in range(120)]


# --- load and clear


def test_load_without_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with flowcore.load() as dfk:
        assert identity(3).result(timeout=WAIT_S) == 3
        assert list(dfk.executors) == ["threads"]
        assert dfk.run_dir == tmp_path / "runinfo" / "000"


def test_load_of_a_dict(tmp_path):
    with flowcore.load({"run_dir": str(tmp_path), "executors": [{"plugin": "threads", "label": "mine"}]}) as dfk:
        assert list(dfk.executors) == ["mine"]


def test_load_of_a_file_with_a_profile(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(f'run_dir = "{tmp_path}"\nretries = 1\n[profiles.more]\nretries = 5\n')
    with flowcore.load(file) as dfk:
        assert dfk.config.retries == 1
    with flowcore.load(str(file), profile="more") as dfk:
        assert dfk.config.retries == 5


@pytest.mark.parametrize("wrong", [None, {}])
def test_profile_without_a_file(wrong):
    with pytest.raises(ConfigurationError, match="profile= goes with the path of a configuration file"):
        flowcore.load(wrong, profile="x")


def test_clear_is_idempotent_and_makes_room(config):
    flowcore.clear()
    first = flowcore.load(config())
    assert flowcore.dfk() is first
    flowcore.clear()
    flowcore.clear()
    with pytest.raises(NoKernelError):
        flowcore.dfk()
    second = flowcore.load(config())
    assert flowcore.dfk() is second
    first.cleanup()  # once more, and the second one is unharmed
    assert identity(1).result(timeout=WAIT_S) == 1


def test_cleanup_without_clear_keeps_the_run_loaded(config):
    dfk = flowcore.load(config())
    dfk.cleanup()
    assert flowcore.dfk() is dfk
    with pytest.raises(KernelClosedError):
        identity(1)


def test_the_with_block_waits_for_tasks(config):
    release = threading.Event()

    @python_app
    def hold():
        assert release.wait(WAIT_S)
        return "held"

    with flowcore.load(config()) as dfk:
        future = hold()
        below = identity(future)
        threading.Timer(0.05, release.set).start()
    assert (future.result(timeout=0), below.result(timeout=0)) == ("held", "held")
    assert dfk.task_counts() == {"exec_done": 2}


def test_the_with_block_waits_for_failures_too_and_does_not_raise_them(config):
    with flowcore.load(config()):
        future = fail(ValueError())
    assert isinstance(future.exception(timeout=0), ValueError)


def test_the_with_block_does_not_wait_after_an_exception(config):
    never: Future[int] = Future()
    with pytest.raises(ZeroDivisionError), flowcore.load(config()):
        future = identity(never)
        raise ZeroDivisionError
    with pytest.raises(KernelClosedError, match=r"task 0 \(app 'identity'\) was pending when its run was cleaned up"):
        future.result(timeout=0)
    with pytest.raises(NoKernelError):
        flowcore.dfk()


def test_ctrl_c_while_the_with_block_waits_ends_the_run(config):
    never: Future[int] = Future()
    with pytest.raises(KeyboardInterrupt), flowcore.load(config()):
        future = identity(never)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KernelClosedError):
        future.result(timeout=0)
    with pytest.raises(NoKernelError):
        flowcore.dfk()


def test_threads_end_with_their_run(config):
    before = set(threading.enumerate())
    with flowcore.load(config()):
        identity(1).result(timeout=WAIT_S)
        assert {t.name for t in set(threading.enumerate()) - before} >= {"threads_0", "threads_1"}
    assert set(threading.enumerate()) - before == set()


def test_the_end_of_the_interpreter_cleans_up(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, flowcore\n"
        "from flowcore import Config, python_app\n"
        "from flowcore.plugins.api import hookimpl\n"
        "class H:\n"
        "    @hookimpl\n"
        "    def flowcore_run_finished(self, run, task_counts): print('finished', task_counts, flush=True)\n"
        "@python_app\n"
        "def f(x): return x\n"
        "flowcore.load(Config(run_dir=sys.argv[1], hooks=[H()]))\n"
        "print(f(3).result())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs")], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3\nfinished {'exec_done': 1}\n"


# --- a load that fails


class Broken(Executor):
    def __init__(self, label="broken"):
        self.label = label
        self.shut_down = 0

    def start(self, context):
        raise ExecutorError(self.label, "no power")

    def submit(self, attempt):
        raise AssertionError("it never started")

    def shutdown(self):
        self.shut_down += 1


class Misfit:
    @hookimpl
    def flowcore_run_started(self, run, no_such_argument):
        pass


def failing(name, config):
    if name == "executor":
        return config(executors=[flowcore.ThreadPoolExecutor(), Broken()], initialize_logging=True), ExecutorError
    if name == "checkpoint":
        return config(checkpoint_files=["/nowhere"], initialize_logging=True), BadCheckpoint
    return config(hooks=[Misfit()], initialize_logging=True), HookError


@pytest.mark.parametrize("name", ["executor", "checkpoint", "hook"])
def test_a_load_that_fails_leaves_nothing(config, name):
    broken, error = failing(name, config)
    handlers, threads = list(LOGGER.handlers), set(threading.enumerate())
    with pytest.raises(error):
        flowcore.load(broken)
    assert LOGGER.handlers == handlers
    assert set(threading.enumerate()) == threads
    with pytest.raises(NoKernelError):
        flowcore.dfk()
    with flowcore.load(config()):
        assert identity(1).result(timeout=WAIT_S) == 1


def test_what_was_started_is_shut_down_when_another_executor_cannot_start(config):
    events = []

    class Spy:
        @hookimpl
        def flowcore_run_started(self, run):
            events.append("run started")

        @hookimpl
        def flowcore_run_finished(self, run, task_counts):
            events.append("run finished")

    broken = Broken()
    with pytest.raises(ExecutorError, match="executor 'broken': no power"):
        flowcore.load(config(executors=[flowcore.ThreadPoolExecutor(), broken], hooks=[Spy()]))
    assert broken.shut_down == 1
    assert events == ["run started", "run finished"]


def test_a_shutdown_that_fails_stops_no_other(config, caplog):
    class Clinging(flowcore.ThreadPoolExecutor):
        def shutdown(self):
            super().shutdown()
            raise OSError("will not go")

    last = Broken("last")
    last.start = lambda context: None
    run = config(executors=[last, Clinging(label="clinging")])
    with caplog.at_level(logging.ERROR, "flowcore"), flowcore.load(run):
        pass
    assert last.shut_down == 1
    assert "shutting executor clinging down failed" in caplog.text


def test_ctrl_c_during_the_clean_up_does_not_stop_it(config):
    events = []

    class Spy:
        @hookimpl
        def flowcore_run_finished(self, run, task_counts):
            events.append("run finished")

    class Interrupted(flowcore.ThreadPoolExecutor):
        def shutdown(self):
            super().shutdown()
            raise KeyboardInterrupt

    handlers, first = list(LOGGER.handlers), Broken("first")
    first.start = lambda context: None
    executors = [first, Interrupted(label="interrupted")]
    dfk = DataFlowKernel(config(executors=executors, hooks=[Spy()], initialize_logging=True))
    with pytest.raises(KeyboardInterrupt):
        dfk.cleanup()
    assert first.shut_down == 1
    assert events == ["run finished"]
    assert LOGGER.handlers == handlers


# --- logging


def test_the_log_of_a_run(config):
    before = list(LOGGER.handlers)
    with flowcore.load(config(initialize_logging=True)) as dfk:
        assert len(LOGGER.handlers) == len(before) + 1
        identity(1).result(timeout=WAIT_S)
    assert LOGGER.handlers == before
    text = (dfk.run_dir / "flowcore.log").read_text()
    assert f"run {dfk.run_id} in {dfk.run_dir}, configuration Config(" in text
    assert f"run {dfk.run_id} ended; tasks: {{'exec_done': 1}}" in text


def test_no_log(config):
    before = list(LOGGER.handlers)
    with flowcore.load(config(initialize_logging=False)) as dfk:
        identity(1).result(timeout=WAIT_S)
        assert LOGGER.handlers == before
        assert not (dfk.run_dir / "flowcore.log").exists()


def test_logs_of_two_runs_are_apart(config):
    with flowcore.load(config(initialize_logging=True)) as first:
        pass
    with flowcore.load(config(initialize_logging=True)) as second:
        pass
    assert second.run_id not in (first.run_dir / "flowcore.log").read_text()


def test_own_loggers(tmp_path):
    import io

    stream = io.StringIO()
    logger = flowcore.set_stream_logger("flowcore.test", logging.WARNING, "%(levelname)s %(message)s", stream)
    flowcore.set_file_logger(tmp_path / "own.log", "flowcore.test", logging.INFO)
    try:
        logger.info("quiet")
        logger.warning("loud")
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    assert stream.getvalue() == "WARNING loud\n"
    text = (tmp_path / "own.log").read_text()
    assert "[INFO]  quiet" in text
    assert "[WARNING]  loud" in text


# --- several kernels at once


def test_two_kernels_in_one_process(config, tmp_path):
    other = DataFlowKernel(
        Config(
            run_dir=tmp_path / "other",
            initialize_logging=False,
            executors=[flowcore.ThreadPoolExecutor(thread_name_prefix="other")],
        )
    )
    try:
        with flowcore.load(config()) as loaded:

            def where(*after):
                return threading.current_thread().name.rpartition("_")[0]

            here, there = python_app(where), python_app(where, data_flow_kernel=other)
            # Each waits for tasks of the other.
            first = here()
            second = there(first)
            third = here([second])
            assert third.result(timeout=WAIT_S) == "threads"
            assert second.result(timeout=WAIT_S) == "other"
            assert loaded.task_counts() == {"exec_done": 2}
            assert other.task_counts() == {"exec_done": 1}
            assert (first.tid, second.tid, third.tid) == (0, 0, 1)
        assert there().result(timeout=WAIT_S) == "other"
    finally:
        other.cleanup()
    with pytest.raises(KernelClosedError):
        there()


def test_a_kernel_as_a_context_manager_without_load(config):
    with DataFlowKernel(config()) as dfk:
        assert python_app(identity.__wrapped__, data_flow_kernel=dfk)(1).result(timeout=WAIT_S) == 1
        with pytest.raises(NoKernelError):
            identity(1)


def test_task_counts_and_config_are_public(config):
    made = config(retries=2)
    with flowcore.load(made) as dfk:
        assert dfk.config is made
        assert dfk.task_counts() == {}
        assert dfk.memo_hits == 0


# --- hooks


class Recorder:
    """Keeps all that hooks tell of a run."""

    def __init__(self):
        self.run = []
        self.tasks = []
        self.attempts = []
        self.threads = set()

    @hookimpl
    def flowcore_run_started(self, run):
        self.run.append(("run started", run))

    @hookimpl
    def flowcore_executor_started(self, run, label, executor):
        self.run.append(("executor started", label))

    @hookimpl
    def flowcore_executor_stopped(self, run, label):
        self.run.append(("executor stopped", label))

    @hookimpl
    def flowcore_run_finished(self, run, task_counts):
        self.run.append(("run finished", task_counts))

    @hookimpl
    def flowcore_task_events(self, run, events):
        self.threads.add(threading.current_thread().name)
        self.tasks += list(events)

    @hookimpl
    def flowcore_attempt_events(self, run, events):
        self.attempts += list(events)

    def states(self):
        found = defaultdict(list)
        for event in self.tasks:
            found[event.task_id].append(event.state)
        return dict(found)


def test_hooks_hear_of_the_run_in_order(config):
    recorder = Recorder()
    with flowcore.load(config(hooks=[recorder])) as dfk:
        identity(1).result(timeout=WAIT_S)
    what = [(name, about) for name, about in recorder.run if about != "_flowcore_internal"]
    assert [name for name, _ in what] == ["run started", "executor started", "executor stopped", "run finished"]
    run = what[0][1]
    assert (run.run_id, run.run_dir) == (dfk.run_id, dfk.run_dir)
    assert "Config(" in run.config
    assert what[1][1] == what[2][1] == "threads"
    assert what[3][1] == {"exec_done": 1}


def test_hooks_hear_of_every_task_and_attempt(config):
    recorder = Recorder()
    calls = []

    @python_app
    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise OSError("once")
        return "good"

    @join_app
    def join():
        return identity("inner")

    @python_app(cache=True)
    def cached(x):
        return x

    never: Future[int] = Future()
    with flowcore.load(config(hooks=[recorder], retries=1)) as dfk:
        identity(1).result(timeout=WAIT_S)  # 0
        flaky().result(timeout=WAIT_S)  # 1
        error = ValueError("x")
        bad = fail(error)  # 2
        identity(bad).exception(timeout=WAIT_S)  # 3
        join().result(timeout=WAIT_S)  # 4 and 5
        cached(1).result(timeout=WAIT_S)  # 6
        cached(1).result(timeout=WAIT_S)  # 7
        cancelled = identity(never)  # 8
        cancelled.cancel()
    assert recorder.states() == {
        0: ["pending", "launched", "exec_done"],
        1: ["pending", "launched", "fail_retryable", "launched", "exec_done"],
        2: ["pending", "launched", "fail_retryable", "launched", "failed"],
        3: ["pending", "dep_fail"],
        4: ["pending", "launched", "joining", "exec_done"],
        5: ["pending", "launched", "exec_done"],
        6: ["pending", "launched", "exec_done"],
        7: ["pending", "memo_done"],
        8: ["pending", "failed"],
    }
    assert recorder.threads == {"flowcore-events"}
    times = [e.at for e in recorder.tasks]
    assert all(dfk.run.started_at <= at for at in times)
    about = {(e.task_id, e.app_name, e.app_kind) for e in recorder.tasks}
    assert {(3, "identity", "python"), (4, "join", "join"), (7, "cached", "python")} <= about
    assert {e.depends for e in recorder.tasks if e.task_id == 3} == {(2,)}
    assert [e.error for e in recorder.tasks if e.task_id == 2][-1] is error
    assert {e.memo_key for e in recorder.tasks if e.task_id == 7 and e.state == "memo_done"} == {
        e.memo_key for e in recorder.tasks if e.task_id == 6 and e.state == "exec_done"
    }
    ends = {(e.task_id, e.try_id): e for e in recorder.attempts if e.ended_at is not None}
    begins = {(e.task_id, e.try_id): e for e in recorder.attempts if e.ended_at is None}
    expected = {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (4, 0), (5, 0), (6, 0)}
    assert begins.keys() == ends.keys() == expected
    assert len(recorder.attempts) == 2 * len(expected)
    assert isinstance(ends[1, 0].error, OSError)
    assert ends[1, 1].error is None
    assert all(e.executor == "threads" for key, e in begins.items() if key[0] != 4)
    assert all(begins[key].launched_at <= ends[key].ended_at for key in expected)


def test_an_attempt_that_an_executor_refuses_ends_too(config):
    recorder = Recorder()
    with flowcore.load(config(hooks=[recorder])):
        identity(1, resource_specification={"cores": 1}).exception(timeout=WAIT_S)
    assert [(e.ended_at is None, e.error is None) for e in recorder.attempts] == [(True, True), (False, False)]


def test_what_happens_during_a_delivery_is_delivered_next(config):
    class Submitting(Recorder):
        @hookimpl
        def flowcore_task_events(self, run, events):
            self.tasks += list(events)
            if len(self.tasks) < 10:
                identity(1).result(timeout=WAIT_S)

    recorder = Submitting()
    with flowcore.load(config(hooks=[recorder])):
        identity(0)
        eventually(lambda: len(recorder.states()) >= 4, WAIT_S, "four tasks")
    states = recorder.states()
    assert set(map(tuple, states.values())) == {("pending", "launched", "exec_done")}


def legal(states):
    path = [States.unsched, *(States[name] for name in states)]
    return all(after in TRANSITIONS[before] for before, after in zip(path, path[1:], strict=False))


def test_events_of_each_task_come_in_order_and_none_is_lost(config):
    # Short turns of the interpreter, so that threads cut in everywhere.
    recorder = Recorder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with flowcore.load(config(hooks=[recorder], executors=[flowcore.ThreadPoolExecutor(max_threads=4)])) as dfk:

            def submit():
                futures = [identity(0) for _ in range(4)]
                for _ in range(400):
                    futures.append(identity(futures[-4]))

            users = [threading.Thread(target=submit) for _ in range(3)]
            for user in users:
                user.start()
            for user in users:
                user.join(WAIT_S)
    finally:
        sys.setswitchinterval(interval)
    count = dfk.task_counts()["exec_done"]
    assert count == 3 * 404
    states = recorder.states()
    assert len(states) == count
    wrong = {t: s for t, s in states.items() if not legal(s) or States[s[-1]] not in FINAL_STATES}
    assert wrong == {}
    assert len(recorder.attempts) == 2 * count


def test_hooks_that_nobody_implements_cost_no_thread(config):
    with flowcore.load(config()):
        assert "flowcore-events" not in {t.name for t in threading.enumerate()}


def test_monitoring_is_a_hook_object_too(config):
    recorder = Recorder()
    with flowcore.load(config(monitoring=recorder)):
        identity(1).result(timeout=WAIT_S)
    assert recorder.states() == {0: ["pending", "launched", "exec_done"]}


def test_a_hook_that_raises_breaks_no_run(config, caplog):
    class Raising:
        @hookimpl
        def flowcore_task_events(self, run, events):
            raise RuntimeError("hook")

        @hookimpl
        def flowcore_run_started(self, run):
            raise RuntimeError("hook")

    recorder = Recorder()
    with caplog.at_level(logging.ERROR, "flowcore"), flowcore.load(config(hooks=[Raising(), recorder])):
        assert identity(1).result(timeout=WAIT_S) == 1
    assert "Raising" in caplog.text
    assert recorder.states() == {0: ["pending", "launched", "exec_done"]}


def test_a_hook_that_does_not_fit_is_refused(config):
    with pytest.raises(HookError) as caught:
        flowcore.load(config(hooks=[Misfit()]))
    assert "Misfit" in str(caught.value)
    assert "no_such_argument" in str(caught.value)


def run_script(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_program_that_ends_before_its_tasks_says_so(tmp_path):
    done = run_script(
        tmp_path,
        """
import flowcore, threading
started = threading.Event()
def wait():
    started.set()
    threading.Event().wait()
flowcore.load()
flowcore.python_app(wait)()
started.wait()
""",
    )
    assert done.returncode == 0
    assert done.stderr == (
        "flowcore: the program ended while 1 task was not over, which end with it. To wait for tasks, use "
        "`with flowcore.load(...):` or flowcore.wait_for_current_tasks()\n"
    )


def test_commands_on_threads_end_with_the_program(tmp_path):
    done = run_script(
        tmp_path,
        """
import flowcore, pathlib, time
@flowcore.bash_app
def sh(): return "sleep 1000 & echo $! > child; echo $$ > shell; wait"
flowcore.load()
future = sh()
while not (pathlib.Path("shell").exists() and pathlib.Path("shell").read_text().strip()):
    time.sleep(0.01)
""",
    )
    assert done.returncode == 0
    for name in ("shell", "child"):
        pid = int((tmp_path / name).read_text())
        eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}") or "Z" in stat(pid), what=f"the end of {name}")


def stat(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_python_m_flowcore_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "flowcore", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert flowcore.__version__ in done.stdout


def test_failures_are_named_in_the_log(tmp_path):
    def bad():
        raise ValueError("boo")

    with flowcore.load({"run_dir": str(tmp_path / "runs")}) as dfk:
        flowcore.python_app(bad)()
    assert "task 0 (app 'bad') failed: ValueError: boo" in (dfk.run_dir / "flowcore.log").read_text()


def test_a_hook_refuses_a_run_that_has_not_begun(load):
    """Only that one may, and only so: whoever cannot work says it before anything is submitted."""
    told = []

    class Refuses:
        @hookimpl
        def flowcore_run_started(self, run):
            raise ConfigurationError("there is no such database")

        @hookimpl
        def flowcore_run_finished(self, run, task_counts):
            told.append(task_counts)
            raise ConfigurationError("of no effect")

    with pytest.raises(ConfigurationError, match="there is no such database"):
        load(hooks=[Refuses()])
    assert told == [{}]
    with load():
        pass
