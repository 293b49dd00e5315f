"""Workflows on htex whose blocks are jobs of PBS, with two pretend hosts as their nodes; and what is left of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.errors import BlocksFailed
from flowcore.plugins.api import ClusterProvider
from flowcore.testing import eventually
from flowcore.testing import hosts as pretend
from flowcore.testing.hosts import Hosts
from flowcore.testing.servers import need
from flowcore.testing.slurm import SlurmCluster

pytest.importorskip("flowcore_executor_htex")

Start = Callable[..., Any]
Load = Callable[..., flowcore.DataFlowKernel]
WAIT_S = 60


@flowcore.python_app
def where(number: int) -> tuple[int, str]:
    import socket
    import time

    time.sleep(0.1)
    return number, socket.gethostname()


@flowcore.python_app
def gather(parts: list[tuple[int, str]]) -> tuple[int, list[str]]:
    return sum(number for number, _ in parts), sorted({host for _, host in parts})


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClusterProvider, "polling_interval_s", 0.2)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    pretend.require()
    with Hosts(2) as made:
        yield made


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads one htex with blocks of a provider."""

    def start(
        provider: dict[str, Any], address: str = "127.0.0.1", config: dict[str, Any] | None = None, **options: Any
    ) -> flowcore.DataFlowKernel:
        executor = {
            "plugin": "htex",
            "label": "htex",
            "address": address,
            "max_workers_per_node": 1,
            "provider": {"max_blocks": 1, **provider},
            **options,
        }
        defaults = {"run_dir": str(tmp_path / "runinfo"), "strategy_period": 0.2, "max_idletime": 0.5}
        return flowcore.load({"executors": [executor], **defaults, **(config or {})})

    return start


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def login(folder: Path, hosts: Hosts, **programs: str) -> str:
    """Return shell lines that put a way between nodes in place of ssh, and programs under the names they need."""
    folder.mkdir()
    cases = "\n".join(f'{host.name}) exec {host.prefix} sh -c "$*" ;;' for host in hosts)
    enter = 'while case $1 in -*) ;; *) false ;; esac; do shift; done\nhost=$1\nshift\n[ "$1" = -- ] && shift\n'
    script(folder / "enter", f"{enter}case $host in\n{cases}\nesac\nexit 255")
    for name, program in programs.items():
        need(program)
        # Not a link: an MPI finds its other programs beside the one that was called.
        script(folder / name, f'exec {shutil.which(program)} "$@"')
    network = hosts.head.rpartition(".")[0] + ".0/24"
    return f"""
export PATH={folder}:$PATH PARALLEL_SSH={folder}/enter
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent={folder}/enter
export OMPI_MCA_oob_tcp_if_include={network} OMPI_MCA_btl_tcp_if_include={network}
export HYDRA_LAUNCHER=ssh HYDRA_LAUNCHER_EXEC={folder}/enter HYDRA_IFACE=eth0
"""


@pytest.mark.parametrize(
    ("launcher", "programs"),
    [
        ("mpiexec", {"mpiexec": "mpiexec.openmpi"}),
        ("mpiexec", {"mpiexec": "mpiexec.mpich"}),
        ("mpirun", {"mpirun": "mpirun.openmpi"}),
        ("gnu_parallel", {"parallel": "parallel"}),
    ],
)
def test_a_workflow_on_two_nodes_with_blocks_from_none(
    pbs: Start, hosts: Hosts, load: Load, tmp_path: Path, launcher: str, programs: dict[str, str]
) -> None:
    cluster = pbs(hosts)
    provider = {
        "plugin": "pbspro",
        "nodes_per_block": 2,
        "cpus_per_node": 2,
        "init_blocks": 0,
        "launcher": {"plugin": launcher},
        "worker_init": login(tmp_path / "programs", hosts, **programs),
    }
    with load(provider, hosts.head, {"strategy": "htex_auto_scale"}) as run:
        executor = run.executors["htex"]
        assert cluster.jobs() == {}
        first = [where(n) for n in range(4)]
        eventually(lambda: len(executor.connected_managers()) == 2, WAIT_S, "a manager on each node")
        total, places = gather(first + [where(n) for n in range(4, 30)]).result(WAIT_S)
        assert total == sum(range(30))
        assert places == sorted(host.name for host in hosts)
        (said,) = cluster.jobs().values()
        assert said["exec_host"] == "+".join(f"{host.name}/0*2" for host in hosts)
        eventually(lambda: cluster.queue() == [], WAIT_S, "the idle block's end")
        assert executor.executor_exception is None
    for host in hosts:
        eventually(lambda host=host: host.processes() == [], WAIT_S, f"the end of all processes of {host.name}")


def test_a_workflow_on_two_nodes_of_torque(slurm: SlurmCluster, load: Load, tmp_path: Path) -> None:
    """By Torque's commands of Slurm, over a real Slurm."""
    assert slurm.hosts is not None
    provider = {
        "plugin": "torque",
        "nodes_per_block": 2,
        "launcher": {"plugin": "mpirun"},
        "worker_init": login(tmp_path / "programs", slurm.hosts, mpirun="mpirun.openmpi"),
    }
    with load(provider, slurm.hosts.head, {"strategy": "none"}) as run:
        eventually(lambda: len(run.executors["htex"].connected_managers()) == 2, WAIT_S, "a manager on each node")
        assert len(slurm.jobs()) == 1
        total, places = gather([where(n) for n in range(30)]).result(WAIT_S)
        assert (total, places) == (sum(range(30)), sorted(slurm.nodes))
    eventually(lambda: slurm.jobs() == [], WAIT_S, "the block's end")


def test_a_server_that_is_away_costs_no_block(pbs: Start, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    cluster = pbs()
    with load({"plugin": "pbspro"}, config={"strategy": "none"}) as run:
        assert where(1).result(WAIT_S)[0] == 1
        cluster.stop_server()
        try:
            eventually(lambda: "qstat: cannot connect to server pbs" in caplog.text, WAIT_S, "a question in vain")
            assert [where(n).result(WAIT_S)[0] for n in range(3)] == [0, 1, 2]
        finally:
            cluster.start_server()
        assert run.executors["htex"].executor_exception is None
    assert [said["substate"] for said in cluster.jobs().values()] == [91]


# --- what the user is told


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"queue": "wrong"}, "qsub: Unknown queue"),
        ({"select_options": "fish=1"}, "qsub: Unknown resource: fish"),
    ],
)
def test_a_refusal_reaches_the_user(pbs: Start, load: Load, options: dict[str, Any], why: str) -> None:
    cluster = pbs()
    load({"plugin": "pbspro", **options})
    with pytest.raises(BlocksFailed, match=why):
        where(1).result(WAIT_S)
    assert cluster.jobs() == {}


def test_what_a_block_wrote_reaches_the_user(pbs: Start, load: Load) -> None:
    pbs()
    load({"plugin": "pbspro", "worker_init": "echo 'no module named fish' >&2; exit 5"})
    with pytest.raises(BlocksFailed, match="no module named fish"):
        where(1).result(WAIT_S)


# --- what is left


def test_no_job_is_left_behind(pbs: Start, load: Load) -> None:
    cluster = pbs((("n1", 1),))
    with load({"plugin": "pbspro", "init_blocks": 2, "max_blocks": 2}, config={"strategy": "none"}):
        assert where(1).result(WAIT_S)[0] == 1
        assert sorted(cluster.jobs()[i]["job_state"] for i in cluster.queue()) == ["Q", "R"]
    assert cluster.queue() == []

    with pytest.raises(ZeroDivisionError), load({"plugin": "pbspro"}, config={"strategy": "none"}):
        eventually(cluster.queue, WAIT_S, "a job")
        raise ZeroDivisionError
    assert cluster.queue() == []
