"""Options and methods of htex that no other file shows: each does what it says, in a real run where one is needed."""

from __future__ import annotations

import os
import socket
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest
from flowcore_executor_htex import settings as settings_module
from flowcore_executor_htex.manager import GiveUp, count_slots, find_address
from flowcore_executor_htex.settings import ManagerSettings

import flowcore
from flowcore.errors import ConfigurationError, ManagerLost, WorkerLost
from flowcore.executors import HighThroughputExecutor
from flowcore.launchers import SingleNodeLauncher
from flowcore.plugins.api import Staging, StagingContext
from flowcore.providers import LocalProvider
from flowcore.scaling import breaker
from flowcore.testing import eventually

Load = Callable[..., flowcore.DataFlowKernel]
WAIT_S = 30
MANAGER = "{python} -P -m flowcore_executor_htex.manager {settings} --block-id {block_id}"
#: Two blocks that are there from the start, one worker each; they come and go by hand only.
TWO_BLOCKS: dict[str, Any] = {
    "provider": {"plugin": "local", "init_blocks": 2, "max_blocks": 2},
    "max_workers_per_node": 1,
    "config": {"strategy": "none"},
}


@flowcore.python_app
def look(seconds: float = 0.0) -> dict[str, str]:
    """Return the environment, and the hardware threads as ``cpus``."""
    import os
    import time

    time.sleep(seconds)
    return {**os.environ, "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0))))}


@flowcore.python_app
def hold(mark: str, gate: str) -> str:
    """Write the manager's id to a file, wait for another file, and return the id."""
    import os
    import pathlib
    import time

    manager = os.environ["FLOWCORE_WORKER_POOL_ID"]
    pathlib.Path(f"{mark}~").write_text(manager)
    pathlib.Path(f"{mark}~").rename(mark)
    while not pathlib.Path(gate).exists():
        time.sleep(0.005)
    return manager


@flowcore.python_app
def manager_id() -> str:
    import os

    return os.environ["FLOWCORE_WORKER_POOL_ID"]


def htex(dfk: flowcore.DataFlowKernel) -> HighThroughputExecutor:
    executor = dfk.executors["htex"]
    assert isinstance(executor, HighThroughputExecutor)
    return executor


def by_rank(count: int) -> dict[str, dict[str, str]]:
    """Return what each of so many workers sees."""
    found: dict[str, dict[str, str]] = {}

    def all_have_answered() -> bool:
        for future in [look(0.02) for _ in range(2 * count)]:
            seen = future.result(timeout=WAIT_S)
            found[seen["FLOWCORE_WORKER_RANK"]] = seen
        return len(found) == count

    eventually(all_have_answered, what="an answer of each worker")
    return found


def settings(**options: Any) -> ManagerSettings:
    """What a manager is told by an executor without options, and with these instead."""
    usual: dict[str, Any] = {
        "addresses": ("127.0.0.1",), "port": 1, "local_path": "", "cores_per_worker": 1.0, "mem_per_worker": None,
        "max_workers_per_node": None, "cpu_affinity": "none", "accelerators": (), "prefetch_capacity": 0,
        "heartbeat_period": 30.0, "heartbeat_threshold": 120.0, "drain_period": None, "address_probe_timeout": 30.0,
        "log_dir": "", "debug": False, "sys_path": (),
    }  # fmt: skip
    return ManagerSettings(**{**usual, **options})


# --- defaults


def test_defaults_are_those_of_the_reference_but_for_encryption() -> None:
    executor = HighThroughputExecutor()
    provider = executor.provider
    defaults = {field.name: getattr(executor, field.name) for field in attrs.fields(HighThroughputExecutor)}
    assert defaults == {
        "label": "HighThroughputExecutor", "provider": provider, "launch_cmd": None, "address": None,
        "worker_ports": None, "worker_port_range": (54000, 55000), "interchange_port_range": (55000, 56000),
        "storage_access": None, "working_dir": None, "worker_debug": False, "cores_per_worker": 1.0,
        "mem_per_worker": None, "max_workers_per_node": None, "cpu_affinity": "none", "available_accelerators": (),
        "prefetch_capacity": 0, "heartbeat_threshold": 120, "heartbeat_period": 30, "drain_period": None,
        "poll_period": 10, "address_probe_timeout": None, "worker_logdir_root": None, "enable_mpi_mode": False,
        "mpi_launcher": "mpiexec", "manager_selection": "round-robin", "block_error_handler": True, "encrypted": True,
    }  # fmt: skip
    assert isinstance(provider, LocalProvider)
    assert isinstance(provider.launcher, SingleNodeLauncher)
    assert (provider.init_blocks, provider.min_blocks, provider.max_blocks, provider.nodes_per_block) == (1, 0, 1, 1)
    assert (provider.parallelism, provider.worker_init) == (1, "")


# --- how many workers a node has, and where they are


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, 8),
        ({"cores_per_worker": 2.0}, 4),
        ({"cores_per_worker": 3.0}, 2),
        ({"cores_per_worker": 0.5}, 16),
        ({"max_workers_per_node": 3}, 3),
        ({"max_workers_per_node": 100}, 8),
        ({"mem_per_worker": 1.0}, 6),
        ({"mem_per_worker": 4.0}, 1),
        ({"mem_per_worker": 1.0, "max_workers_per_node": 2}, 2),
        ({"accelerators": ("a", "b", "c")}, 3),
        ({"accelerators": ("a", "b", "a", "b")}, 4),
        # In MPI mode tasks need nodes, and workers no cores.
        ({"mpi_mode": True}, 5),
        ({"mpi_mode": True, "max_workers_per_node": 20}, 20),
    ],
)
def test_how_many_workers_a_node_has(options: dict[str, Any], slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCORE_CORES", "8")
    monkeypatch.setenv("FLOWCORE_MEMORY_GB", "6.5")
    assert count_slots(settings(**options), nodes=5) == slots


def test_a_node_counts_its_own_cores_and_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWCORE_CORES", raising=False)
    monkeypatch.delenv("FLOWCORE_MEMORY_GB", raising=False)
    assert count_slots(settings()) == len(os.sched_getaffinity(0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(total=64 * 2**30, available=5 * 2**30))
    assert count_slots(settings(mem_per_worker=2.0, cores_per_worker=1e-6)) == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cores_per_worker": 9.0}, "this node has 8 cores, and a worker needs cores_per_worker=9"),
        ({"mem_per_worker": 7.0}, r"this node has 6\.50 GB of free memory, and a worker needs mem_per_worker=7"),
    ],
)
def test_a_node_without_room_says_what_is_in_the_way(
    options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWCORE_CORES", "8")
    monkeypatch.setenv("FLOWCORE_MEMORY_GB", "6.5")
    with pytest.raises(GiveUp, match=text):
        count_slots(settings(**options))


def test_memory_limits_the_workers(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCORE_MEMORY_GB", "1.1")
    load(mem_per_worker=0.5, max_workers_per_node=5, cores_per_worker=0.1)
    assert {seen["FLOWCORE_WORKER_COUNT"] for seen in by_rank(2).values()} == {"2"}


@pytest.mark.parametrize(
    ("accelerators", "expected"),
    [(2, {"0": "0", "1": "1"}), (["x", "y", "x"], {"0": "x", "1": "y", "2": "x"})],
    ids=["number", "repeated name"],
)
def test_accelerators_are_numbered_or_named_and_may_be_shared(
    accelerators: Any, expected: dict[str, str], load: Load
) -> None:
    load(available_accelerators=accelerators, max_workers_per_node=4, cores_per_worker=0.1)
    seen = by_rank(len(expected))
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        assert {rank: environment[variable] for rank, environment in seen.items()} == expected


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two hardware threads")
@pytest.mark.parametrize("affinity", ["block-reverse", "alternating", "list"])
def test_workers_run_where_the_strategy_says_and_openmp_is_told(affinity: str, load: Load) -> None:
    mine = sorted(os.sched_getaffinity(0))
    if affinity == "block-reverse":
        half = len(mine) // 2
        backwards = mine[::-1]
        expected = [backwards[:half], backwards[half:]]
    elif affinity == "alternating":
        expected = [mine[0::2], mine[1::2]]
    else:
        # All others are left idle.
        expected = [[mine[1]], [mine[1]]]
        affinity = f"list:{mine[1]}:{mine[1]}"
    load(cpu_affinity=affinity, cores_per_worker=0.5)
    for rank, environment in by_rank(2).items():
        threads = expected[int(rank)]
        names = ",".join(map(str, threads))
        assert environment["cpus"] == ",".join(map(str, sorted(threads)))
        assert environment["OMP_NUM_THREADS"] == str(len(threads))
        assert environment["GOMP_CPU_AFFINITY"] == names
        assert environment["KMP_AFFINITY"] == f"explicit,proclist=[{names}]"


# --- how managers start, and where they write


def test_managers_start_by_the_command_and_log_where_it_was_said(load: Load, tmp_path: Path) -> None:
    dfk = load(launch_cmd=f"export BY_COMMAND={{block_id}}; exec {MANAGER}", worker_logdir_root=str(tmp_path / "logs"))
    seen = look().result(timeout=WAIT_S)
    assert (seen["BY_COMMAND"], seen["FLOWCORE_WORKER_BLOCK_ID"]) == ("0", "0")
    assert htex(dfk).worker_logdir == str(tmp_path / "logs" / "htex")
    [log] = (tmp_path / "logs" / "htex" / "block-0").glob("*.log")
    assert f"manager {seen['FLOWCORE_WORKER_POOL_ID']}: 2 workers, interchange at" in log.read_text()
    assert not list(dfk.run_dir.glob("htex/block-*"))


def debug_lines(folder: Path) -> list[int]:
    """Return how many lines of this level are in the logs of the interchange and the manager."""
    logs = [*folder.glob("interchange.log"), *folder.glob("block-*/*.log")]
    return [log.read_text().count(" DEBUG ") for log in logs]


def test_worker_debug_writes_more_to_the_logs(load: Load) -> None:
    usual = load()
    look().result(timeout=WAIT_S)
    flowcore.clear()
    debugging = load(worker_debug=True)
    look().result(timeout=WAIT_S)
    flowcore.clear()
    assert debug_lines(usual.run_dir / "htex") == [0, 0]
    of_interchange, of_manager = debug_lines(debugging.run_dir / "htex")
    assert of_interchange > 0
    assert of_manager > 0


# --- how managers find the interchange


def test_a_manager_takes_the_first_address_that_it_reaches() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = ("127.0.0.9", "127.0.0.1", "127.0.0.8")
        assert find_address(settings(addresses=addresses, port=port)) == "127.0.0.1"


def test_a_manager_looks_for_an_address_as_long_as_it_may() -> None:
    with socket.socket() as bound:
        # Bound, and nobody listens: refused.
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(GiveUp, match=rf"within 0\.4 s \(127\.0\.0\.1:{port}: .*refused"):
            find_address(settings(port=port, address_probe_timeout=0.4))
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (30, 30, 120)),
        ({"address_probe_timeout": 7, "heartbeat_period": 2, "heartbeat_threshold": 9}, (7, 2, 9)),
    ],
    ids=["defaults", "given"],
)
def test_managers_are_told_how_long_to_wait_and_where_to_log(
    options: dict[str, Any], expected: tuple[float, ...], load: Load
) -> None:
    dfk = load(provider={"plugin": "local", "init_blocks": 0}, config={"strategy": "none"}, **options)
    told = settings_module.read(dfk.run_dir / "htex" / "manager.json")
    assert (told.address_probe_timeout, told.heartbeat_period, told.heartbeat_threshold) == expected
    assert told.log_dir == htex(dfk).worker_logdir == str(dfk.run_dir / "htex")


def test_of_the_port_ranges_the_workers_is_used_and_the_other_needs_no_port(load: Load) -> None:
    load(address="127.0.0.1", worker_port_range=(20000, 30000), interchange_port_range=(30000, 30010), poll_period=1)
    look().result(timeout=WAIT_S)
    listening = [
        connection.laddr.port
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 1
    assert 20000 <= listening[0] < 30000
    with pytest.raises(ConfigurationError, match=r"poll_period=0\): must be at least 1"):
        HighThroughputExecutor(poll_period=0)


# --- who has which tasks


@pytest.mark.parametrize(("capacity", "held"), [(0, 1), (3, 4)])
def test_a_node_holds_as_many_tasks_as_was_said(capacity: int, held: int, load: Load, tmp_path: Path) -> None:
    executor = htex(load(max_workers_per_node=1, prefetch_capacity=capacity))
    # So long that nothing is prefetched besides.
    manager = look(0.05).result(timeout=WAIT_S)["FLOWCORE_WORKER_POOL_ID"]
    first = hold(str(tmp_path / "mark"), str(tmp_path / "never"))
    eventually((tmp_path / "mark").exists, what="the begin of the first task")
    others = [hold(str(tmp_path / f"mark-{i}"), str(tmp_path / "never")) for i in range(9)]
    # It goes behind all of them, and is told in the next report.
    executor.hold_worker(manager)
    eventually(lambda: not executor.connected_managers()[0]["active"], what="the report")
    assert executor.connected_managers()[0]["tasks"] == held
    assert executor.outstanding == 10
    assert not any(task.done() for task in (first, *others))


def test_a_manager_on_hold_gets_nothing_more_and_goes_on_with_what_it_has(load: Load, tmp_path: Path) -> None:
    dfk = load(**TWO_BLOCKS)
    executor = htex(dfk)
    eventually(lambda: len(executor.connected_managers()) == 2, what="both managers")
    running = hold(str(tmp_path / "mark"), str(tmp_path / "gate"))
    eventually((tmp_path / "mark").exists, what="the begin of the task")
    held = (tmp_path / "mark").read_text()
    executor.hold_worker(held)
    others = [manager_id() for _ in range(10)]
    (other,) = {task.result(timeout=WAIT_S) for task in others}
    assert other != held
    (tmp_path / "gate").touch()
    assert running.result(timeout=WAIT_S) == held, "its task was not interrupted"
    # It is free now, and gets nothing all the same.
    assert {manager_id().result(timeout=WAIT_S) for _ in range(10)} == {other}
    active = {manager["manager"]: manager["active"] for manager in executor.connected_managers()}
    assert active == {held: False, other: True}
    assert executor.connected_workers == 2


def test_blocks_are_given_back_by_their_idle_time_or_by_force(load: Load, tmp_path: Path) -> None:
    executor = htex(load(**TWO_BLOCKS))
    eventually(lambda: len(executor.connected_managers()) == 2, what="both managers")
    running = hold(str(tmp_path / "mark"), str(tmp_path / "gate"))
    eventually((tmp_path / "mark").exists, what="the begin of the task")
    of_manager = {manager["manager"]: manager["block_id"] for manager in executor.connected_managers()}
    busy = of_manager[(tmp_path / "mark").read_text()]
    idle = {"0": "1", "1": "0"}[busy]
    eventually(lambda: set(executor.idle_blocks()) == {idle}, what="one busy and one idle block")
    assert executor.scale_in(2, max_idletime=1000) == []
    assert executor.scale_in(2, max_idletime=0) == [idle]
    eventually(lambda: [manager["block_id"] for manager in executor.connected_managers()] == [busy])
    (tmp_path / "gate").touch()
    running.result(timeout=WAIT_S)
    second = hold(str(tmp_path / "second"), str(tmp_path / "never"))
    eventually((tmp_path / "second").exists, what="the begin of the second task")
    assert executor.scale_in(1) == [busy], "without an idle time also a busy one"
    # SIGTERM reaches the worker, too: who is first to say so is all the same.
    with pytest.raises((ManagerLost, WorkerLost)):
        second.result(timeout=WAIT_S)
    eventually(lambda: executor.connected_workers == 0)
    assert executor.scale_out(1) == ["2"]
    assert look().result(timeout=WAIT_S)["FLOWCORE_WORKER_BLOCK_ID"] == "2"
    # Those that are gone are among them.
    assert executor.connected_blocks() == {"0", "1", "2"}


# --- blocks that fail


def failing(tmp_path: Path) -> dict[str, Any]:
    """Options with blocks that fail until the file ``well`` is there; each of them leaves a line in ``tried``."""
    worker_init = f"echo tried >>{tmp_path}/tried; [ -e {tmp_path}/well ] || exit 7"
    provider = {"plugin": "local", "init_blocks": 1, "max_blocks": 1, "worker_init": worker_init}
    return {"provider": provider, "config": {"strategy": "simple", "strategy_period": 0.05}}


def test_without_a_handler_blocks_are_asked_for_until_one_works(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the pauses between them add up to half a minute.
    monkeypatch.setattr(breaker, "FIRST_S", 0.1)
    dfk = load(block_error_handler=False, **failing(tmp_path))
    future = look()
    tried = tmp_path / "tried"
    eventually(lambda: tried.exists() and len(tried.read_text().split()) >= 4, what="four blocks")
    assert not htex(dfk).bad_state_is_set
    (tmp_path / "well").touch()
    assert int(future.result(timeout=WAIT_S)["FLOWCORE_WORKER_BLOCK_ID"]) >= 3


def test_a_handler_of_ones_own_is_told_how_blocks_are(load: Load, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    reason = RuntimeError("this will never work")

    def handle(executor: Any, status: dict[str, Any]) -> None:
        told.append({block: job.exit_code for block, job in status.items() if job.terminal})
        if told[-1]:
            executor.set_bad_state_and_fail_all(reason)

    dfk = load(block_error_handler=handle, **failing(tmp_path))
    with pytest.raises(RuntimeError, match="this will never work"):
        look().result(timeout=WAIT_S)
    assert told[-1] == {"0": 7}
    assert htex(dfk).executor_exception is reason
    with pytest.raises(RuntimeError, match="this will never work"):
        look().result(timeout=WAIT_S)


# --- files


class Shelf(Staging):
    """Brings ``shelf:/path`` into the executor's folder, by a task on the executor."""

    def can_stage_in(self, file: flowcore.File) -> bool:
        return file.scheme == "shelf"

    def stage_in(self, context: StagingContext, file: flowcore.File, parent: Future[Any] | None) -> Future[Any]:
        def bring(folder: str) -> flowcore.File:
            import os
            import pathlib

            pathlib.Path(folder).mkdir()
            file.local_path = f"{folder}/{file.filename}"
            text = pathlib.Path(file.path).read_text()
            pathlib.Path(file.local_path).write_text(f"{text}, brought by {os.environ['FLOWCORE_WORKER_POOL_ID']}")
            return file

        return context.submit(bring, (context.working_dir,), context.executor)


@flowcore.python_app
def read(inputs: Sequence[flowcore.File] = ()) -> tuple[str, str]:
    import pathlib

    return str(inputs[0].filepath), pathlib.Path(inputs[0]).read_text()


def test_files_come_by_the_stagers_into_the_folder_that_were_given(load: Load, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("some text")
    dfk = load(storage_access=[Shelf()], working_dir=str(tmp_path / "staged"))
    path, text = read(inputs=[flowcore.File(f"shelf:{tmp_path}/in.txt")]).result(timeout=WAIT_S)
    assert path == str(tmp_path / "staged" / "in.txt")
    [manager] = eventually(htex(dfk).connected_managers)
    assert text == f"some text, brought by {manager['manager']}"


class WrapperLauncher:
    """As the reference shows: no Launcher, and nothing is done about the command's quoting."""

    def __init__(self, wrapper: str) -> None:
        self.wrapper = wrapper
        self.launcher = SingleNodeLauncher()

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        return self.launcher(f"{self.wrapper} {command}", tasks_per_node, nodes_per_block)


@pytest.mark.parametrize("worker_init", ["", "export OTHER=1"])
def test_a_launcher_of_ones_own_that_puts_a_program_before_the_command(
    load: Load, tmp_path: Path, worker_init: str
) -> None:
    wrapper = tmp_path / "worker-wrapper"
    wrapper.write_text('#!/bin/bash\nexport WRAPPED=yes\nexec "$@"\n')
    wrapper.chmod(0o755)
    load(provider=LocalProvider(launcher=WrapperLauncher(str(wrapper)), worker_init=worker_init))
    assert look().result(timeout=WAIT_S)["WRAPPED"] == "yes"
