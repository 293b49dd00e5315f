"""What Parsl's documentation describes, where no other test shows it; docs/reference-coverage.md names these tests."""

from __future__ import annotations

import concurrent.futures
import inspect
import io
import logging
import os
import socket
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import (
    AppFuture,
    Config,
    DataFlowKernel,
    File,
    addresses,
    bash_app,
    checkpoints,
    join_app,
    python_app,
    serialize,
)
from flowcore.errors import (
    AppTimeout,
    BadLauncher,
    ConfigurationError,
    DependencyError,
    PluginNotFound,
    SerializationError,
    StagingError,
)
from flowcore.kernel.task import Task
from flowcore.plugins import registry
from flowcore.plugins.api import JobState, Staging, hookimpl
from flowcore.scaling.strategy import Load, simple
from flowcore.testing import FakeBlockExecutor, FakeExecutor, FakeProvider, eventually
from flowcore.walltime import WithWalltime

WAIT_S = 60
INSTALLED = [plugin.name for plugin in registry.installed("executor")]
#: The core alone has threads.
EXECUTORS = [name for name in ("threads", "htex") if name in INSTALLED]
OPTIONS: dict[str, dict[str, Any]] = {
    "threads": {"plugin": "threads", "max_threads": 2},
    "htex": {"plugin": "htex", "label": "htex", "max_workers_per_node": 1},
}

Loading = Callable[..., DataFlowKernel]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Loading]:
    def load(*executors: Any, **options: Any) -> DataFlowKernel:
        made = [OPTIONS[e] if isinstance(e, str) else e for e in executors] or None
        options.setdefault("initialize_logging", False)
        return flowcore.load(Config(executors=made, run_dir=tmp_path / "runinfo", **options))

    yield load
    flowcore.clear()


@python_app
def identity(x: Any) -> Any:
    return x


# --- defaults

DEFAULTS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *[
        (app, {"function": None, "data_flow_kernel": None, "cache": False, "ignore_for_cache": None})
        for app in (python_app, bash_app, join_app)
    ],
    *[(app, {"executors": "all"}) for app in (python_app, bash_app)],
    (
        Config,
        {
            "executors": None, "app_cache": True, "checkpoint_files": None, "checkpoint_mode": None,
            "checkpoint_period": None, "garbage_collect": True, "internal_tasks_max_threads": 10, "retries": 0,
            "retry_handler": None, "run_dir": "runinfo", "strategy": "simple", "strategy_period": 5,
            "max_idletime": 120.0, "monitoring": None, "usage_tracking": False, "initialize_logging": True,
        },
    ),
    (flowcore.set_stream_logger, {"name": "flowcore", "level": logging.DEBUG, "format_string": None, "stream": None}),
    (flowcore.set_file_logger, {"name": "flowcore", "level": logging.DEBUG, "format_string": None}),
    (addresses.address_by_query, {"timeout": 30}),
    (checkpoints.get_all_checkpoints, {"rundir": "runinfo"}),
    (checkpoints.get_last_checkpoint, {"rundir": "runinfo"}),
    (flowcore.load, {"config": None}),
    (DataFlowKernel.submit, {"executors": "all", "cache": False, "ignore_for_cache": None, "join": False}),
    (AppFuture.result, {"timeout": None}),
    (AppFuture.exception, {"timeout": None}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "defaults"), DEFAULTS, ids=lambda v: getattr(v, "__qualname__", ""))
def test_documented_defaults(function: Callable[..., Any], defaults: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_options_of_config_come_in_the_documented_order() -> None:
    documented = next(list(defaults) for function, defaults in DEFAULTS if function is Config)
    assert list(inspect.signature(Config).parameters)[: len(documented)] == documented


# --- what runs when, and what a task sees


def test_tasks_run_beside_each_other_and_beside_the_program(load: Loading) -> None:
    meeting = threading.Barrier(3)

    @python_app
    def meet(x: int) -> int:
        meeting.wait(WAIT_S)
        return 2 * x

    load("threads")
    first, second = meet(3), meet(5)
    assert not first.done()  # the calls have returned, and neither task can end without the other and the program
    meeting.wait(WAIT_S)
    assert (first.result(WAIT_S), second.result(WAIT_S)) == (6, 10)


def test_more_tasks_than_workers_wait_for_their_turn(load: Loading) -> None:
    at_once: list[int] = []
    running = threading.Semaphore(0)

    @python_app
    def count(x: int) -> int:
        running.release()
        at_once.append(running._value)
        running.acquire()
        return x

    load(flowcore.ThreadPoolExecutor(max_threads=2))
    assert [future.result(WAIT_S) for future in [count(i) for i in range(50)]] == list(range(50))
    assert set(at_once) <= {1, 2}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_task_reaches_services_on_the_network(load: Loading, executor: str) -> None:
    @python_app
    def ask(port: int) -> bytes:
        import socket

        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            return connection.recv(100)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        load(executor)
        future = ask(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"an answer")
        assert future.result(WAIT_S) == b"an answer"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_python_app_prints_is_not_captured(
    load: Loading, executor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    @python_app
    def say() -> str:
        print("words of a task", flush=True)  # noqa: T201
        return "returned"

    load(executor)
    future = say()
    assert future.result(WAIT_S) == "returned"
    assert (future.stdout, future.stderr) == (None, None)
    flowcore.clear()
    # A thread writes where the program does; what a worker process writes does not come back.
    assert ("words of a task" in capfd.readouterr().out) is (executor == "threads")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_annotations_in_quotes_need_no_import(load: Loading, executor: str) -> None:
    @python_app
    def scaled(x: list[float] | "nowhere.Array", m: "nowhere.Number" = 2) -> "nowhere.Array":  # type: ignore  # noqa: F821, UP037
        return [m * value for value in x]

    load(executor)
    assert scaled([1.0, 2.0]).result(WAIT_S) == [2.0, 4.0]


@pytest.mark.skipif("htex" not in INSTALLED, reason="flowcore-executor-htex is not installed")
def test_a_worker_keeps_what_an_earlier_task_made(
    load: Loading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The way to do expensive work once per worker: a module of the program remembers its result.
    (tmp_path / "model_of_a_user.py").write_text(
        textwrap.dedent(
            """
            import functools, os, uuid

            @functools.cache
            def model():
                return os.getpid(), uuid.uuid4().hex

            def use(x):
                return x, *model()
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import model_of_a_user

    try:
        load("htex")
        use = python_app(model_of_a_user.use)
        results = [future.result(WAIT_S) for future in [use(i) for i in range(20)]]
    finally:
        del sys.modules["model_of_a_user"]
    assert [x for x, _, _ in results] == list(range(20))
    assert len({made for _, _, made in results}) == 1
    assert {pid for _, pid, _ in results} != {os.getpid()}


# --- options of a call


def test_walltime_is_an_option_of_the_call_and_not_of_the_decorator(load: Loading) -> None:
    for decorator in (python_app, bash_app):
        with pytest.raises(TypeError, match="walltime"):
            decorator(walltime=120)  # type: ignore[call-overload]
    fake = FakeExecutor()
    load(fake)
    app, command = python_app(lambda: 1), bash_app(lambda: "true")
    app(), command()
    attempts = [fake.wait(), fake.wait()]  # no limit, unless it is given
    assert not any(isinstance(attempt.func, WithWalltime) or "walltime" in attempt.kwargs for attempt in attempts)
    app(walltime=60), command(walltime=60)
    limited, given = fake.wait(), fake.wait()
    assert isinstance(limited.func, WithWalltime)
    assert (limited.func.walltime, given.kwargs["walltime"]) == (60, 60)


def test_walltime_of_a_bash_app_and_of_a_python_app_are_one_error(load: Loading) -> None:
    load("threads")
    release = threading.Event()
    command, function = bash_app(lambda: "sleep 100"), python_app(lambda: release.wait(WAIT_S))
    try:
        for future in (command(walltime=0.1), function(walltime=0.1)):
            assert isinstance(future.exception(WAIT_S), AppTimeout)
    finally:
        release.set()


@pytest.mark.parametrize("decorator", [python_app, bash_app])
def test_resources_in_the_signature(load: Loading, decorator: Any) -> None:
    @decorator
    def app(x: int, resource_specification: Any = {"cores": 1, "memory": 1000, "disk": 5}) -> str:  # noqa: B006
        return f"true {x}"

    fake = FakeExecutor()
    load(fake)
    app(1)
    assert fake.wait().resource_specification == {"cores": 1, "memory": 1000, "disk": 5}
    app(1, resource_specification={"memory": 7})
    assert fake.wait().resource_specification == {"memory": 7}


def test_a_list_to_which_the_future_of_its_task_is_added_is_no_cycle(load: Loading) -> None:
    load("threads")
    things: list[Any] = [identity(1)]
    future = identity(things)
    things.append(future)
    assert future.result(WAIT_S) == [1]


# --- futures


class Owner:
    """What an AppFuture asks of its kernel."""

    def task_status(self, task_id: int) -> str:
        return "launched"

    def cancel_task(self, task_id: int) -> bool:
        return False

    def lift(self, function: Any, future: Any, key: Any) -> Any:
        raise AssertionError


def test_results_can_be_set_once_as_in_any_future() -> None:
    good: AppFuture[int] = AppFuture(0, Owner())
    bad: AppFuture[int] = AppFuture(1, Owner())
    ended: list[Any] = []
    for future in (good, bad):
        future.add_done_callback(ended.append)
    good.set_result(5)
    bad.set_exception(KeyError("x"))
    assert (good.result(0), type(bad.exception(0)), ended) == (5, KeyError, [good, bad])
    with pytest.raises(InvalidStateError):
        good.set_result(6)
    with pytest.raises(InvalidStateError):
        bad.set_exception(ValueError())


def test_a_lifted_operator_does_not_wait(load: Loading) -> None:
    load("threads")
    never: Future[Any] = Future()
    whole = identity(never)
    parts = [whole["x"], whole.y, whole["x"][0].z]
    assert all(isinstance(part, AppFuture) and not part.done() for part in parts)
    never.set_exception(OSError("no"))
    assert all(isinstance(part.exception(WAIT_S), DependencyError) for part in parts)


# --- errors and retries


def test_lazy_failure(load: Loading) -> None:
    @python_app
    def step(name: str, *after: Any) -> str:
        if name == "C":
            raise ValueError(name)
        return name

    load("threads")
    a = step("A")
    b, c = step("B", a), step("C", a)
    d, e = step("D", b), step("E", c)
    f = step("F", d, e)
    assert (b.result(WAIT_S), d.result(WAIT_S)) == ("B", "D")
    concurrent.futures.wait([a, b, c, d, e, f], timeout=WAIT_S)
    states = [future.task_status() for future in (a, b, c, d, e, f)]
    assert states == ["exec_done", "exec_done", "failed", "exec_done", "dep_fail", "dep_fail"]


def test_what_a_retry_handler_reads_of_a_task(load: Loading) -> None:
    told: list[Any] = []

    def handler(error: Exception, task: Task) -> float:
        told.append(
            (task.id, task.func_name, task.args, task.kwargs, task.executor, task.try_id, task.fail_count,
             task.fail_cost, task.fail_history, dict(task.resource_specification))
        )  # fmt: skip
        assert 0 < task.time_invoked <= task.try_time_launched <= task.try_time_returned
        assert task.time_returned == 0
        assert isinstance(task.memo_key, str)
        return 0.75

    @python_app(cache=True)
    def fails(x: int, y: int = 0) -> None:
        raise ValueError(x)

    load(flowcore.ThreadPoolExecutor(label="here"), retries=1, retry_handler=handler)
    assert isinstance(fails(identity(3), y=4).exception(WAIT_S), ValueError)
    assert [one[:6] for one in told] == [(1, "fails", (3,), {"y": 4}, "here", n) for n in (0, 1)]
    assert [one[7] for one in told] == [0, 0.75]
    assert [one[9] for one in told] == [{}, {}]
    assert told[-1][8][0] == "ValueError: 3"


# --- memoization


def test_an_edit_of_a_called_function_does_not_invalidate(load: Loading) -> None:
    namespace: dict[str, Any] = {"__name__": "module_of_a_user"}
    exec("def helper(x):\n    return x + 1\ndef outer(x):\n    return helper(x)\n", namespace)
    load("threads")
    assert python_app(namespace["outer"], cache=True)(1).result(WAIT_S) == 2
    exec("def helper(x):\n    return x + 100\n", namespace)
    assert python_app(namespace["outer"], cache=True)(1).result(WAIT_S) == 2
    assert flowcore.dfk().memo_hits == 1


def test_ignored_arguments_of_join_apps(load: Loading) -> None:
    calls: list[int] = []

    @join_app(cache=True, ignore_for_cache=["note"])
    def join(x: int, note: str = "") -> Any:
        calls.append(x)
        return identity(x)

    load("threads")
    assert [join(x, note).result(WAIT_S) for x, note in ((1, "a"), (1, "b"), (2, "a"))] == [1, 1, 2]
    assert calls == [1, 2]


def test_memoization_of_functions_that_are_submitted(load: Loading) -> None:
    calls: list[int] = []

    def count(x: int, note: str = "") -> int:
        calls.append(x)
        return len(calls)

    dfk = load("threads")
    results = [
        dfk.submit(count, (1, note), cache=True, ignore_for_cache=["note"]).result(WAIT_S) for note in ("a", "b")
    ]
    assert (results, dfk.memo_hits) == ([1, 1], 1)
    assert dfk.submit(count, (1,)).result(WAIT_S) == 2


# --- configuration


def test_a_config_can_be_read_and_edited_before_it_is_loaded(load: Loading, tmp_path: Path) -> None:
    config = Config(executors=(flowcore.ThreadPoolExecutor(label=name) for name in "ab"), initialize_logging=False)
    assert [executor.label for executor in config.executors or ()] == ["a", "b"]
    config.retries = 2
    config.run_dir = tmp_path / "elsewhere"
    with pytest.raises(ConfigurationError, match=r"Config\(retries='two'\): expected int, got str"):
        config.retries = "two"  # type: ignore[assignment]
    calls: list[int] = []

    @python_app
    def fails() -> None:
        calls.append(1)
        raise OSError

    with flowcore.load(config) as dfk:
        assert fails().exception(WAIT_S) is not None
        assert dfk.run_dir.parent == tmp_path / "elsewhere"
        assert dfk.config is config
    assert len(calls) == 3


def test_threads_for_internal_tasks(load: Loading) -> None:
    names: set[str] = set()

    @join_app
    def join(n: int) -> Any:
        names.add(threading.current_thread().name)
        return identity(n)

    load("threads", internal_tasks_max_threads=1)
    assert [future.result(WAIT_S) for future in [join(i) for i in range(30)]] == list(range(30))
    assert names == {"_flowcore_internal_0"}


def test_idle_blocks_are_given_back_after_max_idletime(load: Loading) -> None:
    provider = FakeProvider(init_blocks=2, max_blocks=2)
    fake = FakeBlockExecutor(provider)
    load(fake, strategy="simple", strategy_period=0.01, max_idletime=0.05)
    fake.connected |= {"0", "1"}
    eventually(lambda: {s.state for s in provider.jobs.values()} == {JobState.CANCELLED})


def test_without_a_strategy_blocks_stay(load: Loading) -> None:
    provider = FakeProvider(init_blocks=1, max_blocks=5, polling_interval_s=0.01)
    fake = FakeBlockExecutor(provider)
    load(fake, strategy=None, strategy_period=0.01, max_idletime=0)
    fake.connected.add("0")
    futures = [identity(i) for i in range(20)]
    polls = len(provider.polls)
    eventually(lambda: len(provider.polls) > polls + 3)
    assert len(provider.jobs) == 1
    for _ in futures:
        fake.run(fake.wait())
    polls = len(provider.polls)
    eventually(lambda: len(provider.polls) > polls + 3)
    assert [s.state for s in provider.jobs.values()] == [JobState.PENDING]


def test_the_time_that_perf_takes_unless_told() -> None:
    from flowcore.cli.perf import perf

    options = {parameter.name: parameter for parameter in perf.params}
    assert options["target_s"].default == 120
    assert "--time" in options["target_s"].opts
    assert "--resources" in options["resources"].opts
    assert (options["file"].opts, options["file"].required) == (["--config"], True)


def test_a_stream_logger_writes_to_stderr_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("flowcore.reference")
    try:
        assert flowcore.set_stream_logger("flowcore.reference") is logger
        assert flowcore.set_stream_logger("flowcore.reference", stream=stream) is logger
        logger.debug("a line")
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert "a line" in capsys.readouterr().err
    assert "a line" in stream.getvalue()


# --- components that the documentation names, and that other distributions have

ELSEWHERE = [
    ("executor", "WorkQueueExecutor", "flowcore-executor-workqueue"),
    ("executor", "TaskVineExecutor", "flowcore-executor-taskvine"),
    ("executor", "HighThroughputExecutor", "flowcore-executor-htex"),
    ("provider", "AWSProvider", "flowcore-provider-aws"),
    ("provider", "GoogleCloudProvider", "flowcore-provider-googlecloud"),
    ("provider", "SlurmProvider", "flowcore-provider-slurm"),
    ("provider", "TorqueProvider", "flowcore-provider-pbs"),
    ("provider", "CobaltProvider", "flowcore-provider-cobalt"),
    ("provider", "GridEngineProvider", "flowcore-provider-gridengine"),
    ("provider", "CondorProvider", "flowcore-provider-condor"),
    ("provider", "KubernetesProvider", "flowcore-provider-kubernetes"),
    ("channel", "SSHChannel", "flowcore-channel-ssh"),
    ("channel", "SSHInteractiveLoginChannel", "flowcore-channel-ssh"),
    ("staging", "GlobusStaging", "flowcore-staging-globus"),
]


@pytest.mark.parametrize(("kind", "name", "distribution"), ELSEWHERE, ids=[name for _, name, _ in ELSEWHERE])
def test_a_component_of_another_distribution_says_what_to_install(
    kind: str, name: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda kind: [])
    with pytest.raises(PluginNotFound, match=f"^{name} is not installed: pip install {distribution}$"):
        registry.find_class(kind, name)


def test_monitoring_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = registry.installed
    monkeypatch.setattr(registry, "installed", lambda kind: [] if kind == "hooks" else installed(kind))
    with pytest.raises(ConfigurationError) as caught:
        Config(monitoring={"plugin": "monitoring", "hub_address": "127.0.0.1"})
    assert str(caught.value) == (
        "monitoring.plugin: hooks 'monitoring' is not installed: pip install flowcore-monitoring-sqlite"
    )


# --- scaling, and ports


@pytest.mark.parametrize(
    ("tasks", "parallelism", "blocks"),
    [
        *[(0, p, 0) for p in (0.0, 0.5, 1.0)],
        (1000, 0.0, 1),  # the least: one block for any number of tasks
        *[(n, 1.0, expected) for n, expected in ((1, 1), (2, 1), (3, 2), (8, 4), (1000, 4))],  # a slot for each task
        *[(n, 0.5, expected) for n, expected in ((2, 1), (4, 1), (5, 2), (1000, 4))],  # two tasks for each slot
    ],
)
def test_the_documented_parallelism(tasks: int, parallelism: float, blocks: int) -> None:
    load = Load(
        active_tasks=tasks, slots_per_block=2, active_blocks=0, idle_blocks=(), idle_for=0, min_blocks=0, max_blocks=4,
        parallelism=parallelism, max_idletime=120,
    )  # fmt: skip
    assert simple(load).scale_out == blocks


@pytest.mark.skipif("htex" not in INSTALLED, reason="flowcore-executor-htex is not installed")
def test_port_ranges_of_htex() -> None:
    executor = flowcore.HighThroughputExecutor(worker_port_range=(50000, 55000), interchange_port_range=(50000, 55000))
    assert (executor.worker_port_range, executor.interchange_port_range) == ((50000, 55000), (50000, 55000))
    for name in ("worker_port_range", "interchange_port_range"):
        with pytest.raises(ConfigurationError, match=f"{name}"):
            flowcore.HighThroughputExecutor(**{name: (60000, 50000)})


@pytest.mark.parametrize("launcher", [3, "simple", object])
def test_what_is_no_launcher_is_refused_as_such(launcher: Any) -> None:
    from flowcore.providers import LocalProvider

    with pytest.raises(BadLauncher, match="launcher=.*expected Launcher, got "):
        LocalProvider(launcher=launcher)


# --- what plugins may say of objects and files


class Handle:
    """An object that pickle cannot write."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        raise TypeError("pickle cannot")


def test_a_plugin_names_the_serializer_of_an_object(load: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    class Names:
        """Stands for the serializer of a plugin."""

        def serialize(self, obj: Handle) -> bytes:
            return obj.name.encode()

        def deserialize(self, data: bytes) -> Handle:
            return Handle(data.decode())

    class Hooks:
        @hookimpl
        def flowcore_serializer_for(self, obj: object) -> str | None:
            return "names" if isinstance(obj, Handle) else None

    get = registry.get
    monkeypatch.setattr(registry, "get", lambda kind, name: Names if name == "names" else get(kind, name))
    load("threads", hooks=[Hooks()])
    [copy, number] = serialize.loads(serialize.dumps([Handle("x"), 3]))
    assert (copy.name, number) == ("x", 3)
    flowcore.clear()
    with pytest.raises(SerializationError, match="pickle cannot"):
        serialize.dumps(Handle("x"))


def test_a_plugin_chooses_the_stager_of_a_file(load: Loading, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "in.txt").write_text("content")
    asked: list[tuple[str, str, str]] = []

    class Shelf(Staging):
        def can_stage_in(self, file: File) -> bool:
            return file.scheme == "shelf"

        def stage_in(self, context: Any, file: File, parent: Any) -> None:
            file.local_path = str(tmp_path / "shelf" / file.filename)

    class Hooks:
        @hookimpl
        def flowcore_stager_for(self, file: File, executor: str, direction: str) -> Staging | None:
            asked.append((file.url, executor, direction))
            return Shelf() if file.scheme == "shelf" else None

    @python_app
    def read(file: File) -> str:
        return Path(file.filepath).read_text()

    load("threads", hooks=[Hooks()])
    assert read(File("shelf://here/in.txt")).result(WAIT_S) == "content"
    assert asked == [("shelf://here/in.txt", "threads", "in")]


def test_a_file_that_no_stager_can_bring(load: Loading) -> None:
    load("threads")
    error = identity(File("moon://x/y")).exception(WAIT_S)
    assert isinstance(error, StagingError)
    assert "no stager of executor 'threads' can stage in 'moon://x/y'" in str(error)
