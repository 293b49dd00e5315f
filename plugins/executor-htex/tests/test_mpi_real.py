"""MPI mode: the nodes of a block are shared out among tasks; real MPI programs run on pretend hosts."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flowcore_executor_htex import mpi
from flowcore_executor_htex.executor import HighThroughputExecutor

import flowcore
from flowcore.errors import (
    AppTimeout,
    BashExitFailure,
    BlocksFailed,
    ConfigurationError,
    UnsupportedResource,
    WorkerLost,
)
from flowcore.testing import eventually
from flowcore.testing import hosts as pretend
from flowcore.testing.hosts import Hosts
from flowcore.testing.servers import need

Load = Callable[..., flowcore.DataFlowKernel]
WAIT_S = 30
FOUR = ("n1", "n2", "n3", "n4")


def nodes(count: int, **more: Any) -> dict[str, Any]:
    """A specification with a rank on each of so many nodes."""
    return {"num_nodes": count, "ranks_per_node": 1, **more}


@pytest.fixture
def load_mpi(load: Load) -> Load:
    """Loads one htex in MPI mode, whose one block says that it has the nodes n1 to n4."""

    def start(worker_init: str = f"export {mpi.NODES_VARIABLE}={','.join(FOUR)}", **options: Any) -> Any:
        provider = {"plugin": "local", "worker_init": worker_init, "init_blocks": 1, "max_blocks": 1}
        defaults = {"enable_mpi_mode": True, "max_workers_per_node": 4, "cores_per_worker": 1e-6}
        return load(**{**defaults, "provider": provider, **options})

    return start


# --- which nodes a task has


@flowcore.python_app
def hold(mark: str, until: str, resource_specification: dict[str, Any]) -> list[str]:
    """Begin, wait for a file, end; return the nodes."""
    import os
    import pathlib
    import time

    pathlib.Path(f"{mark}-begun").touch()
    while not pathlib.Path(until).exists():
        time.sleep(0.005)
    pathlib.Path(f"{mark}-ended").touch()
    return os.environ["FLOWCORE_MPI_NODELIST"].split(",")


@flowcore.python_app
def look(folder: str, resource_specification: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the nodes, and the marks that are there."""
    import os
    import pathlib

    marks = sorted(path.name for path in pathlib.Path(folder).glob("*-*"))
    return os.environ["FLOWCORE_MPI_NODELIST"].split(","), marks


@flowcore.python_app
def occupy(seconds: float, resource_specification: dict[str, Any]) -> tuple[float, float, list[str]]:
    """Return when it began and ended, by the clock that all processes share, and the nodes."""
    import os
    import time

    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic(), os.environ["FLOWCORE_MPI_NODELIST"].split(",")


def test_two_tasks_have_nodes_of_their_own_and_a_third_waits_for_theirs(load_mpi: Load, tmp_path: Path) -> None:
    load_mpi()
    first = hold(str(tmp_path / "first"), str(tmp_path / "go"), resource_specification=nodes(2))
    second = hold(str(tmp_path / "second"), str(tmp_path / "go-on"), resource_specification=nodes(2))
    eventually(lambda: len(list(tmp_path.glob("*-begun"))) == 2, what="both tasks at once")
    third = look(str(tmp_path), resource_specification=nodes(1))
    # There are workers for the third one, and no nodes.
    assert not third.done()
    (tmp_path / "go").touch()
    had, marks = third.result(timeout=WAIT_S)
    assert "first-ended" in marks, "it ran while all nodes were taken"
    (tmp_path / "go-on").touch()
    of_first, of_second = first.result(timeout=WAIT_S), second.result(timeout=WAIT_S)
    assert sorted(of_first + of_second) == list(FOUR)
    assert set(had) < set(of_first)


def test_no_node_is_ever_shared(load_mpi: Load) -> None:
    load_mpi()
    tasks = [occupy(0.002 * (i % 7), resource_specification=nodes(1 + i % 4)) for i in range(40)]
    spans = [task.result(timeout=WAIT_S) for task in tasks]
    assert [len(set(had)) for _, _, had in spans] == [1 + i % 4 for i in range(40)]
    for (begin, end, had), (other_begin, other_end, others) in itertools.combinations(spans, 2):
        if begin < other_end and other_begin < end:
            assert not set(had) & set(others)


def test_a_large_task_gets_its_turn_among_small_ones(load_mpi: Load) -> None:
    load_mpi()
    small = [occupy(0.005, resource_specification=nodes(1)) for _ in range(6)]
    large = occupy(0.0, resource_specification=nodes(4))
    small += [occupy(0.005, resource_specification=nodes(1)) for _ in range(40)]
    begun = large.result(timeout=WAIT_S)[0]
    assert begun < max(task.result(timeout=WAIT_S)[0] for task in small)


def test_nodes_come_back_from_tasks_that_fail_and_workers_that_die(load_mpi: Load) -> None:
    @flowcore.python_app
    def fail(resource_specification: dict[str, Any]) -> None:
        raise ZeroDivisionError

    @flowcore.python_app
    def die(resource_specification: dict[str, Any]) -> None:
        import os

        os.kill(os.getpid(), 9)

    load_mpi()
    failed, died = fail(resource_specification=nodes(4)), die(resource_specification=nodes(4))
    with pytest.raises(ZeroDivisionError):
        failed.result(timeout=WAIT_S)
    with pytest.raises(WorkerLost):
        died.result(timeout=WAIT_S)
    assert sorted(occupy(0, resource_specification=nodes(4)).result(timeout=WAIT_S)[2]) == list(FOUR)


def test_nodes_of_a_cancelled_task_come_back(load_mpi: Load, tmp_path: Path) -> None:
    load_mpi()
    running = hold(str(tmp_path / "running"), str(tmp_path / "never"), resource_specification=nodes(3))
    waiting = hold(str(tmp_path / "waiting"), str(tmp_path / "never"), resource_specification=nodes(3))
    eventually((tmp_path / "running-begun").exists, what="the task's begin")
    assert waiting.cancel()
    assert running.cancel()
    assert sorted(occupy(0, resource_specification=nodes(4)).result(timeout=WAIT_S)[2]) == list(FOUR)
    assert not (tmp_path / "waiting-begun").exists()


def test_more_nodes_than_the_block_has(load_mpi: Load) -> None:
    load_mpi()
    too_large = occupy(0, resource_specification=nodes(5))
    with pytest.raises(UnsupportedResource, match="needs 5 nodes, and .* has 4"):
        too_large.result(timeout=WAIT_S)
    # Nobody waits behind it.
    assert len(occupy(0, resource_specification=nodes(4)).result(timeout=WAIT_S)[2]) == 4


@pytest.mark.parametrize(
    ("specification", "why"),
    [
        ({}, "by two of num_nodes, ranks_per_node, num_ranks"),
        ({"num_nodes": 2, "num_tasks": 2}, r"does not know 'num_tasks' \(did you mean 'num_ranks'\?\)"),
        ({"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 5}, "5 ranks do not fit on 2 nodes"),
    ],
)
def test_specifications_that_are_refused(specification: dict[str, Any], why: str, load_mpi: Load) -> None:
    load_mpi()
    with pytest.raises(UnsupportedResource, match=why):
        occupy(0, resource_specification=specification).result(timeout=WAIT_S)


def test_without_mpi_mode_its_keys_are_refused(load: Load) -> None:
    load()
    with pytest.raises(UnsupportedResource, match="enable_mpi_mode=True"):
        occupy(0, resource_specification=nodes(2)).result(timeout=WAIT_S)


def test_launchers_that_are_none() -> None:
    with pytest.raises(
        ConfigurationError, match=r"mpi_launcher='mpirun'\): expected one of 'srun', 'aprun', 'mpiexec'"
    ):
        HighThroughputExecutor(enable_mpi_mode=True, mpi_launcher="mpirun")


def test_a_worker_for_each_node_unless_it_is_said(load_mpi: Load) -> None:
    @flowcore.python_app
    def count(resource_specification: dict[str, Any]) -> str:
        import os

        return os.environ["FLOWCORE_WORKER_COUNT"]

    load_mpi(max_workers_per_node=None, cores_per_worker=1.0)
    assert count(resource_specification=nodes(1)).result(timeout=WAIT_S) == "4"


# --- where the nodes come from


@pytest.mark.parametrize(
    ("variable", "content", "expected"),
    [
        ("PBS_NODEFILE", "x2\nx2\nx1\nx1\n", ["x2", "x1"]),
        ("COBALT_NODEFILE", "x1\nx2\n", ["x1", "x2"]),
        ("SLURM_JOB_NODELIST", None, ["gpu08", "gpu09"]),
    ],
)
def test_nodes_of_the_batch_job(
    variable: str, content: str | None, expected: list[str], load_mpi: Load, tmp_path: Path
) -> None:
    value = "gpu[08-09]"
    if content is not None:
        value = str(tmp_path / "nodefile")
        Path(value).write_text(content)
    load_mpi(f"export {variable}='{value}'")
    # In the scheduler's order.
    assert occupy(0, resource_specification=nodes(2)).result(timeout=WAIT_S)[2] == expected


def test_without_a_scheduler_there_is_this_host(load_mpi: Load) -> None:
    load_mpi("")
    assert occupy(0, resource_specification=nodes(1)).result(timeout=WAIT_S)[2] == ["localhost"]


def test_nodes_that_cannot_be_known_end_the_block_and_say_so(load_mpi: Load) -> None:
    load_mpi("export PBS_NODEFILE=/missing/nodes", config={"strategy_period": 0.2})
    with pytest.raises(BlocksFailed, match=r"PBS_NODEFILE='/missing/nodes': .*No such file"):
        occupy(0, resource_specification=nodes(1)).result(timeout=WAIT_S)


# --- what a task is told


@flowcore.python_app
def variables(resource_specification: dict[str, Any]) -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name.startswith("FLOWCORE_")}


@flowcore.bash_app
def variables_of_bash(resource_specification: dict[str, Any], stdout: str) -> str:
    return "env | grep ^FLOWCORE_"


@pytest.mark.parametrize("launcher", mpi.LAUNCHERS)
def test_apps_see_the_variables_and_the_next_one_does_not(launcher: str, load_mpi: Load, tmp_path: Path) -> None:
    load_mpi(max_workers_per_node=1, mpi_launcher=launcher)
    full = {"num_nodes": 2, "ranks_per_node": 3, "num_ranks": 5, "priority": 7}
    before = variables(resource_specification=full).result(timeout=WAIT_S)
    expected = mpi.environment(mpi.MpiSpecification(2, 3, 5), ["n1", "n2"], launcher, mpi.mpiexec_flavour())
    assert expected.items() <= before.items()
    assert before["FLOWCORE_PRIORITY"] == "7"
    assert before["FLOWCORE_WORKER_BLOCK_ID"] == "0"
    assert before["FLOWCORE_WORKER_POOL_ID"]

    variables_of_bash(resource_specification=full, stdout=str(tmp_path / "env")).result(timeout=WAIT_S)
    lines = (tmp_path / "env").read_text().splitlines()
    assert {f"{name}={value}" for name, value in expected.items()} <= set(lines)
    assert "FLOWCORE_PRIORITY=7" in lines

    after = variables(resource_specification={"num_nodes": 1, "num_ranks": 1}).result(timeout=WAIT_S)
    expected = mpi.environment(mpi.MpiSpecification(1, 1, 1), ["n1"], launcher, mpi.mpiexec_flavour())
    assert expected.items() <= after.items()
    assert "FLOWCORE_PRIORITY" not in after


# --- with an MPI

#: An MPI program without a compiler: says where it is, and the sum of all ranks' numbers, which only MPI can know.
RANK = """
import ctypes
import os
import socket
import sys

if "OMPI_COMM_WORLD_RANK" in os.environ:
    lib = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
    world, integer, plus = (
        ctypes.byref(ctypes.c_char.in_dll(lib, f"ompi_mpi_{name}")) for name in ("comm_world", "int", "op_sum")
    )
else:
    lib = ctypes.CDLL("libmpich.so.12", mode=ctypes.RTLD_GLOBAL)
    world, integer, plus = 0x44000000, 0x4C000405, 0x58000003
lib.MPI_Init(None, None)
rank, size, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
lib.MPI_Comm_rank(world, ctypes.byref(rank))
lib.MPI_Comm_size(world, ctypes.byref(size))
lib.MPI_Allreduce(ctypes.byref(rank), ctypes.byref(total), 1, integer, plus, world)
# In one piece: the lines of several ranks are not to mix.
os.write(1, f"{socket.gethostname()} {rank.value} {size.value} {total.value}\\n".encode())
lib.MPI_Finalize()
"""


@pytest.fixture
def cluster() -> Iterator[Hosts]:
    """Four pretend hosts."""
    pretend.require()
    with Hosts(4) as hosts:
        yield hosts


@pytest.fixture(params=["openmpi", "mpich"])
def load_cluster(
    request: pytest.FixtureRequest, cluster: Hosts, load_mpi: Load, tmp_path: Path
) -> Callable[[], flowcore.DataFlowKernel]:
    """Loads one htex in MPI mode whose block has these four as its nodes, with the mpiexec of one MPI."""
    program = f"mpiexec.{request.param}"
    need(program)
    programs = tmp_path / "programs"
    programs.mkdir()
    # Not a link: an MPI finds its other programs beside the one that was called.
    _script(programs / "mpiexec", f'exec {shutil.which(program)} "$@"')
    # In place of ssh, with its arguments: options that MPICH gives, the host, the command.
    cases = "\n".join(f'{host.name}) exec {host.prefix} sh -c "$*" ;;' for host in cluster)
    _script(programs / "enter", f'[ "$1" = -x ] && shift\nhost=$1\nshift\ncase $host in\n{cases}\nesac\nexit 255')
    (tmp_path / "rank.py").write_text(RANK)
    network = cluster.head.rpartition(".")[0] + ".0/24"
    (interface,) = (
        name for name, found in psutil.net_if_addrs().items() if any(one.address == cluster.head for one in found)
    )
    worker_init = f"""
        export {mpi.NODES_VARIABLE}={",".join(host.name for host in cluster)}
        export PATH={programs}:$PATH
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent={programs}/enter
        export OMPI_MCA_oob_tcp_if_include={network} OMPI_MCA_btl_tcp_if_include={network}
        export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp
        export HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC={programs}/enter HYDRA_IFACE={interface}
    """
    return lambda: load_mpi(textwrap.dedent(worker_init))


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@flowcore.bash_app
def run_mpi(
    command: str, resource_specification: dict[str, Any], stdout: str, stderr: str, walltime: float | None = None
) -> str:
    return f"$FLOWCORE_MPI_PREFIX {command}"


def call(
    name: str, folder: Path, command: str, specification: dict[str, Any], **options: Any
) -> flowcore.AppFuture[int]:
    """Run a command on all ranks; what it prints is in the files ``name`` and ``name.err``."""
    return run_mpi(
        command,
        resource_specification=specification,
        stdout=str(folder / name),
        stderr=str(folder / f"{name}.err"),
        **options,
    )


def ended(future: flowcore.AppFuture[int], folder: Path, name: str) -> list[list[str]]:
    """Return the words of the lines that ranks printed, behind what the app itself writes."""
    try:
        future.result(timeout=WAIT_S)
    except BashExitFailure:
        pytest.fail((folder / name).read_text() + (folder / f"{name}.err").read_text())
    return [line.split() for line in (folder / name).read_text().split("<--\n")[-1].splitlines()]


def test_ranks_run_on_the_nodes_of_their_task_and_talk_to_each_other(
    load_cluster: Callable[[], Any], cluster: Hosts, tmp_path: Path
) -> None:
    load_cluster()
    first, second, third, fourth = [host.name for host in cluster]
    program = f"{sys.executable} {tmp_path}/rank.py"
    for specification, expected in (
        ({"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 4}, {first: 2, second: 2}),
        ({"num_nodes": 4, "num_ranks": 4}, {first: 1, second: 1, third: 1, fourth: 1}),
        # The last one gets fewer.
        ({"num_nodes": 2, "ranks_per_node": 3, "num_ranks": 4}, {first: 3, second: 1}),
        ({"num_nodes": 1, "ranks_per_node": 3}, {first: 3}),
    ):
        ranks = ended(call("out", tmp_path, program, specification), tmp_path, "out")
        assert Counter(host for host, *_ in ranks) == expected
        size = sum(expected.values())
        assert {tuple(map(int, numbers)) for _, *numbers in ranks} == {
            (rank, size, sum(range(size))) for rank in range(size)
        }
        (tmp_path / "out").unlink()


def test_mpi_tasks_run_side_by_side_on_hosts_of_their_own(
    load_cluster: Callable[[], Any], cluster: Hosts, tmp_path: Path
) -> None:
    load_cluster()
    # Each waits for the other one: they end only if they run at the same time.
    both = "hostname; touch $1; while ! [ -e $2 ]; do sleep 0.01; done"
    _script(tmp_path / "both", f"PATH=/usr/bin:/bin; {both}")
    calls = [(tmp_path / "mark-1", tmp_path / "mark-2"), (tmp_path / "mark-2", tmp_path / "mark-1")]
    spec = {"num_nodes": 2, "ranks_per_node": 2}
    futures = [call(f"out-{i}", tmp_path, f"{tmp_path}/both {a} {b}", spec) for i, (a, b) in enumerate(calls)]
    hosts = [{word for (word,) in ended(future, tmp_path, f"out-{i}")} for i, future in enumerate(futures)]
    assert [len(names) for names in hosts] == [2, 2]
    assert hosts[0] | hosts[1] == {host.name for host in cluster}


def test_a_rank_that_fails_fails_the_app(load_cluster: Callable[[], Any], tmp_path: Path) -> None:
    load_cluster()
    _script(tmp_path / "fail", '[ "$OMPI_COMM_WORLD_RANK$PMI_RANK" = 1 ] || exit 0\necho no luck >&2\nexit 7')
    future = call("out", tmp_path, f"{tmp_path}/fail", {"num_nodes": 2, "ranks_per_node": 1})
    with pytest.raises(BashExitFailure) as caught:
        future.result(timeout=WAIT_S)
    assert caught.value.exitcode == 7
    assert "no luck" in (tmp_path / "out.err").read_text()


@pytest.mark.parametrize("how", ["cancel", "walltime"])
def test_an_mpi_task_that_is_ended_leaves_nothing_on_its_nodes(
    how: str, load_cluster: Callable[[], Any], cluster: Hosts, tmp_path: Path
) -> None:
    load_cluster()
    _script(tmp_path / "stay", f"touch {tmp_path}/begun-$(hostname); exec sleep 600")
    options = {"walltime": 4.0} if how == "walltime" else {}
    future = call("out", tmp_path, f"{tmp_path}/stay", {"num_nodes": 4, "ranks_per_node": 1}, **options)
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 4, what="a rank on each host")
    if how == "cancel":
        assert all(host.processes() for host in cluster)
        assert future.cancel()
    else:
        with pytest.raises(AppTimeout):
            future.result(timeout=WAIT_S)
    eventually(lambda: not any(host.processes() for host in cluster), what="the end of all that ran on the hosts")
    # The nodes are free for others.
    (tmp_path / "out").unlink()
    ranks = ended(call("out", tmp_path, "hostname", {"num_nodes": 4, "ranks_per_node": 1}), tmp_path, "out")
    assert sorted(ranks) == sorted([host.name] for host in cluster)
