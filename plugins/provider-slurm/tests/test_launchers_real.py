"""SrunLauncher and SrunMPILauncher within jobs of a real Slurm with two nodes: what runs where, and how it ends."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore.launchers import SrunLauncher, SrunMPILauncher
from flowcore.plugins.api import Launcher
from flowcore.testing import eventually, processes, slurm
from flowcore.testing.servers import need
from flowcore.testing.slurm import CORES, SlurmCluster

WAIT_S = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    slurm.require()
    with SlurmCluster(2) as cluster:
        yield cluster


@pytest.fixture(params=[SrunLauncher, SrunMPILauncher], ids=["srun", "srun_mpi"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    launcher: Launcher = request.param()
    return launcher


@attrs.frozen
class Ended:
    """A job that has ended: its state and exit code by Slurm, and what it has written."""

    state: str
    code: str
    out: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Job:
    """A batch job with both nodes, whose script is that of a launcher."""

    def __init__(self, cluster: SlurmCluster, folder: Path, script: str, *options: str) -> None:
        self.cluster = cluster
        self.out = folder / "out"
        (folder / "script").write_text(f"#!/bin/bash\n{script}\n")
        command = ["sbatch", "--parsable", "--no-requeue", "--nodes=2", f"--output={self.out}", *options]
        self.job_id = cluster.ask(*command, str(folder / "script")).strip()

    def ended(self) -> Ended:
        eventually(lambda: self.job_id not in self.cluster.jobs(), WAIT_S, f"the end of job {self.job_id}")
        shown = self.cluster.ask("scontrol", "show", "job", self.job_id)
        state, code = (re.search(rf"\b{name}=(\S+)", shown) for name in ("JobState", "ExitCode"))
        assert state and code, shown
        return Ended(state[1], code[1], self.out.read_text())


@pytest.fixture
def submit(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Submits a job; cancels it if it is still there after the test."""
    jobs: list[Job] = []

    def start(script: str, *options: str) -> Job:
        jobs.append(Job(cluster, tmp_path, script, *options))
        return jobs[-1]

    yield start
    for job in jobs:
        cluster.run("scancel", job.job_id)
        eventually(lambda job=job: job.job_id not in cluster.jobs(), WAIT_S, "the end of the job")  # type: ignore[misc]


def working(cluster: SlurmCluster) -> list[processes.Process]:
    """Return what jobs have on the nodes, Slurm's own daemons left out."""
    everything = [p for host in cluster.hosts for p in host.processes() if p.state not in "ZX"]
    return [p for p in everything if not re.match(r"(\S*/)?slurm(step)?d\b", p.command)]


@pytest.mark.parametrize(
    ("tasks_per_node", "options"),
    [
        (1, ["--ntasks-per-node=1"]),
        (2, ["--ntasks-per-node=2"]),
        (1, ["--ntasks-per-node=1", "--exclusive"]),
        (1, ["--ntasks-per-node=1", f"--cpus-per-task={CORES}"]),
        # More copies than the job has cores.
        (3, ["--ntasks-per-node=1"]),
        # Nothing of the environment is handed on to steps.
        (1, ["--ntasks-per-node=1", "--export=NONE"]),
    ],
    ids=str,
)
def test_each_node_runs_its_copies_as_the_script_would(
    tasks_per_node: int, options: list[str], launcher: Launcher, cluster: SlurmCluster, submit: Any, tmp_path: Path
) -> None:
    value = "two\nlines; 'and' \"quotes\" $x {}"
    (tmp_path / "value").write_text(value)
    command = f"""
        if [ "$GIVEN" != "$(cat '{tmp_path}/value')" ] || [ "$PWD" != '{tmp_path}' ]; then
            echo "$GIVEN in $PWD"
            exit 1
        fi
        echo "ran on $(hostname) {{}}" # the end"""
    before = f"cd '{tmp_path}'\nexport GIVEN=$(cat value)\n"
    ended = submit(before + launcher(command, tasks_per_node, 2), *options).ended()
    assert (ended.state, ended.code) == ("COMPLETED", "0:0"), ended.out
    ran = Counter(line for line in ended.lines if line.startswith("ran on "))
    assert ran == {f"ran on {node} {{}}": tasks_per_node for node in cluster.nodes}
    assert working(cluster) == []


@pytest.mark.parametrize("options", [["--exclusive"], [f"--cpus-per-task={CORES}"]], ids=["exclusive", "cpus-per-task"])
def test_a_copy_has_all_cores_of_its_node(options: list[str], launcher: Launcher, submit: Any) -> None:
    # Its parent says which step it is in: "slurmstepd: [12.0]".
    command = """
        step=$(ps -o args= -p $PPID | grep -o '[0-9]*\\.[0-9]*')
        echo "step $(scontrol show step --oneliner "$step" | grep -o 'CPUs=[0-9]*')"
        """
    ended = submit(launcher(command, 1, 2), "--ntasks-per-node=1", *options).ended()
    # One step on both nodes, or one on each.
    expected = 2 * CORES if isinstance(launcher, SrunLauncher) else CORES
    assert [line for line in ended.lines if line.startswith("step")] == [f"step CPUs={expected}"] * 2, ended.out


def test_a_copy_that_fails(launcher: Launcher, cluster: SlurmCluster, submit: Any) -> None:
    command = f'if [ "$(hostname)" = {cluster.nodes[0]} ]; then exit 3; fi\nsleep 1\necho done'
    ended = submit(launcher(command, 1, 2), "--ntasks-per-node=1").ended()
    assert (ended.state, ended.code) == ("FAILED", "3:0")
    assert ended.lines.count("done") == 1


@pytest.mark.parametrize("how", ["cancel", "signal for the script"])
def test_the_copies_end_with_the_job(
    how: str, launcher: Launcher, cluster: SlurmCluster, submit: Any, tmp_path: Path
) -> None:
    job = submit(launcher(f"touch '{tmp_path}/begun-'$(hostname)\nsleep 300\necho never", 1, 2), "--ntasks-per-node=1")
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2, WAIT_S, "the copies")
    assert len(working(cluster)) > 2
    if how == "cancel":
        cluster.ask("scancel", job.job_id)
    else:
        cluster.ask("scancel", "--batch", "--signal=TERM", job.job_id)
    ended = job.ended()
    assert ended.state == ("CANCELLED" if how == "cancel" else "FAILED")
    assert ended.code == "143:0" or how == "cancel"
    assert "never" not in ended.out
    eventually(lambda: working(cluster) == [], what="the end of all on the nodes")


def test_a_task_may_call_srun(launcher: Launcher, submit: Any) -> None:
    # Without --overlap it would wait for the end of the step that it is part of.
    command = 'echo "inner $(srun --nodes=1 --ntasks=1 --immediate=30 hostname)"'
    ended = submit(launcher(command, 1, 2), "--ntasks-per-node=1").ended()
    assert (ended.state, len(re.findall(r"^inner \S+$", ended.out, re.M))) == ("COMPLETED", 2), ended.out


#: An MPI program without a compiler: says where it is, its rank and the number of ranks.
RANK = """
import ctypes
import os
import socket

if "OMPI_COMM_WORLD_RANK" in os.environ:
    lib = ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
    world = ctypes.byref(ctypes.c_char.in_dll(lib, "ompi_mpi_comm_world"))
else:
    lib, world = ctypes.CDLL("libmpich.so.12", mode=ctypes.RTLD_GLOBAL), 0x44000000
lib.MPI_Init(None, None)
rank, size = ctypes.c_int(), ctypes.c_int()
lib.MPI_Comm_rank(world, ctypes.byref(rank))
lib.MPI_Comm_size(world, ctypes.byref(size))
lib.MPI_Barrier(world)
os.write(1, f"rank {rank.value} of {size.value} on {socket.gethostname()}\\n".encode())
lib.MPI_Finalize()
"""


@pytest.mark.parametrize("mpiexec", ["mpiexec.openmpi", "mpiexec.mpich"])
def test_mpi_programs_within_copies(mpiexec: str, cluster: SlurmCluster, submit: Any, tmp_path: Path) -> None:
    need(mpiexec)
    (tmp_path / "rank.py").write_text(RANK)
    network = cluster.hosts.head.rpartition(".")[0] + ".0/24"
    before = f"""
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
        export OMPI_MCA_oob_tcp_if_include={network} OMPI_MCA_btl_tcp_if_include={network}
        export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp
        """
    # Each of two workers starts a program on all nodes of the block.
    command = f"{mpiexec} -n 4 {sys.executable} {tmp_path}/rank.py"
    ended = submit(f"{before}\n{SrunMPILauncher()(command, 1, 2)}", "--ntasks-per-node=2").ended()
    assert ended.state == "COMPLETED", ended.out
    found = re.findall(r"^rank (\d) of 4 on (\S+)$", ended.out, re.MULTILINE)
    assert Counter(rank for rank, _ in found) == dict.fromkeys("0123", 2)
    assert Counter(host for _, host in found) == dict.fromkeys(cluster.nodes, 4)
