"""MPI tasks without MPI: what may be asked for, the nodes of a job, the commands that start the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flowcore_executor_htex import mpi
from flowcore_executor_htex.mpi import MpiSpecification


class Index:
    """An integer of another library."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


# --- what a task asks for


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ({"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 4}, (2, 2, 4)),
        ({"num_nodes": 2, "ranks_per_node": 4}, (2, 4, 8)),
        ({"num_nodes": 2, "num_ranks": 8}, (2, 4, 8)),
        ({"ranks_per_node": 4, "num_ranks": 8}, (2, 4, 8)),
        ({"num_nodes": 1, "num_ranks": 1}, (1, 1, 1)),
        # The last node gets fewer.
        ({"num_nodes": 2, "num_ranks": 7}, (2, 4, 7)),
        ({"ranks_per_node": 4, "num_ranks": 5}, (2, 4, 5)),
        ({"num_nodes": 2, "ranks_per_node": 4, "num_ranks": 5}, (2, 4, 5)),
        ({"num_nodes": Index(3), "ranks_per_node": 1}, (3, 1, 3)),
    ],
)
def test_two_of_three_define_the_third(specification: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert MpiSpecification.of(specification) == MpiSpecification(*expected)


@pytest.mark.parametrize("nodes", range(1, 6))
@pytest.mark.parametrize("ranks", range(1, 12))
def test_no_node_is_left_empty_and_none_is_overfull(nodes: int, ranks: int) -> None:
    try:
        spec = MpiSpecification.of({"num_nodes": nodes, "num_ranks": ranks})
    except ValueError as error:
        assert "leave the others empty" in str(error)
        per_node = -(-ranks // nodes)
        assert -(-ranks // per_node) < nodes
        return
    filled = [min(spec.ranks_per_node, ranks - i * spec.ranks_per_node) for i in range(nodes)]
    assert sum(filled) == ranks
    assert min(filled) >= 1
    # What it was completed to means the same.
    assert MpiSpecification.of({"num_nodes": nodes, "ranks_per_node": spec.ranks_per_node, "num_ranks": ranks}) == spec


EXAMPLE = "for example {'num_nodes': 2, 'ranks_per_node': 4} for 8 ranks on 2 nodes"
BY_TWO = "an MPI task must say how many nodes and ranks it needs, by two of num_nodes, ranks_per_node, num_ranks"


@pytest.mark.parametrize(
    ("specification", "why"),
    [
        ({}, f"{BY_TWO}; {EXAMPLE}"),
        ({"num_nodes": 2}, f"{BY_TWO}; {EXAMPLE}"),
        ({"num_nodes": 2, "num_ranks": "4"}, f"num_ranks must be a whole number from 1 on, not '4' (str); {EXAMPLE}"),
        ({"num_nodes": 2.0}, f"num_nodes must be a whole number from 1 on, not 2.0 (float); {EXAMPLE}"),
        ({"ranks_per_node": True}, f"ranks_per_node must be a whole number from 1 on, not True (bool); {EXAMPLE}"),
        ({"num_nodes": None}, f"num_nodes must be a whole number from 1 on, not None (NoneType); {EXAMPLE}"),
        ({"num_nodes": 0, "num_ranks": 4}, f"num_nodes must be a whole number from 1 on, not 0; {EXAMPLE}"),
        ({"num_nodes": 2, "num_ranks": -4}, f"num_ranks must be a whole number from 1 on, not -4; {EXAMPLE}"),
        (
            {"num_nodes": 2, "ranks_per_node": 2, "num_ranks": 5},
            "5 ranks do not fit on 2 nodes with 2 on each, which are 4. Leave one of the three out, or ask for "
            "num_nodes=3",
        ),
        (
            {"num_nodes": 4, "ranks_per_node": 4, "num_ranks": 8},
            "8 ranks with 4 on a node fill 2 of 4 nodes, and leave the others empty. Ask for num_nodes=2, or for 16 "
            "ranks",
        ),
        (
            {"num_nodes": 4, "num_ranks": 5},
            "5 ranks with 2 on a node fill 3 of 4 nodes, and leave the others empty. Ask for num_nodes=3, or for 8 "
            "ranks",
        ),
        (
            {"num_nodes": 2, "num_tasks": 8, "ranks_per_node": 4},
            "MPI mode does not know 'num_tasks' (did you mean 'num_ranks'?); it knows num_nodes, ranks_per_node, "
            "num_ranks, priority, running_time_min",
        ),
        (
            {"PPN": 2},
            "MPI mode does not know 'PPN' (did you mean 'ranks_per_node'?); it knows num_nodes, ranks_per_node, "
            "num_ranks, priority, running_time_min",
        ),
        (
            {"RANKS_PER_NODE": 4},
            "MPI mode does not know 'RANKS_PER_NODE' (did you mean 'ranks_per_node'?); it knows num_nodes, "
            "ranks_per_node, num_ranks, priority, running_time_min",
        ),
        (
            {"gpus": 4},
            "MPI mode does not know 'gpus'; it knows num_nodes, ranks_per_node, num_ranks, priority, running_time_min",
        ),
        ({7: 4}, "MPI mode does not know 7; it knows num_nodes, ranks_per_node, num_ranks, priority, running_time_min"),
    ],
)
def test_what_is_refused_and_why(specification: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError) as caught:
        MpiSpecification.of(specification)
    assert str(caught.value) == f"resource_specification={specification!r}: {why}"


def test_launchers() -> None:
    for launcher in ("srun", "aprun", "mpiexec"):
        mpi.check_launcher(launcher)
    with pytest.raises(ValueError, match=r"one of 'srun', 'aprun', 'mpiexec' \(did you mean 'mpiexec'\?\)"):
        mpi.check_launcher("MPIexec")
    with pytest.raises(ValueError, match="one of 'srun', 'aprun', 'mpiexec'$"):
        mpi.check_launcher("")


# --- nodes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ["n1"]),
        ("n1,n2", ["n1", "n2"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("n[01-03,7],login", ["n01", "n02", "n03", "n7", "login"]),
        ("n[3,1-2]", ["n3", "n1", "n2"]),
        ("gpu-a[1-2]b[3-4]", ["gpu-a1b3", "gpu-a1b4", "gpu-a2b3", "gpu-a2b4"]),
        ("r[1-2][07,08]", ["r107", "r108", "r207", "r208"]),
        ("n[1-2].cluster.org,m-0[1-2]-ib", ["n1.cluster.org", "n2.cluster.org", "m-01-ib", "m-02-ib"]),
        ("[1-2]", ["1", "2"]),
        (" n1 , n2,", ["n1", "n2"]),
        ("", []),
    ],
)
def test_hostlists(text: str, expected: list[str]) -> None:
    assert mpi.expand_hostlist(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("n[1-3", "the brackets of 'n[1-3' do not match"),
        ("m,n1-3],k", "the brackets of 'n1-3]' do not match"),
        ("n[1,[2]]", "the brackets of 'n[1,[2]]' do not match"),
        ("n[]", "'' in [] is neither a number nor a range like 01-16"),
        ("n[1,]", "'' in [1,] is neither a number nor a range like 01-16"),
        ("n[a-c]", "'a-c' in [a-c] is neither a number nor a range like 01-16"),
        ("n[1-2-3]", "'1-2-3' in [1-2-3] is neither"),
        ("n[3-1]", "the range '3-1' ends before it begins"),
        ("n[1-999999999999]", "[1-999999999999] names more than 131072 nodes"),
        ("n[1-70000,1-70000]", "[1-70000,1-70000] names more than 131072 nodes"),
        ("n[1-1000]m[1-1000]", "it names more than 131072 nodes"),
        ("n[1-100000],m[1-100000]", "it names more than 131072 nodes"),
    ],
)
def test_hostlists_that_are_none(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        mpi.expand_hostlist(text)
    assert why in str(caught.value)


@pytest.mark.timeout(10)
def test_hostlists_are_read_in_linear_time() -> None:
    for text in ("[" * 50_000, "a" * 50_000 + "[", "a[1]" * 10_000, "]" * 50_000, "n[" + "1," * 50_000):
        try:
            mpi.expand_hostlist(text)
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        # PBS and Cobalt: a line per rank or slot. Grid Engine: slots, queue and processors follow.
        ("PBS_NODEFILE", "n2\nn2\nn1\nn1\nn2\n"),
        ("COBALT_NODEFILE", "n2\nn1\n"),
        ("PE_HOSTFILE", "n2 4 all.q@n2 UNDEFINED\nn1 2 all.q@n1 <NULL>\n\n"),
        ("LSB_DJOB_HOSTFILE", "n2\nn2\nn1"),
    ],
)
def test_files_of_nodes(variable: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "nodes"
    file.write_text(content)
    assert mpi.nodes_of_job({variable: str(file)}) == ["n2", "n1"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["localhost"]),
        ({"SLURM_JOB_NODELIST": "", "FLOWCORE_MPI_NODES": " "}, ["localhost"]),
        ({"SLURM_JOB_NODELIST": "n[1-2]"}, ["n1", "n2"]),
        ({"SLURM_NODELIST": "n[1-2]"}, ["n1", "n2"]),
        ({"LSB_MCPU_HOSTS": "n2 4 n1 16 n2 1"}, ["n2", "n1"]),
        ({"FLOWCORE_MPI_NODES": "a,b , a"}, ["a", "b"]),
        ({"FLOWCORE_MPI_NODES": "127.0.0.1,127.0.0.2"}, ["127.0.0.1", "127.0.0.2"]),
        # Slurm sets PBS_NODEFILE where it imitates PBS; what the user says goes before all.
        ({"SLURM_JOB_NODELIST": "n1", "PBS_NODEFILE": "/missing"}, ["n1"]),
        ({"FLOWCORE_MPI_NODES": "x", "SLURM_JOB_NODELIST": "n1", "PBS_NODEFILE": "/missing"}, ["x"]),
    ],
)
def test_nodes_of_a_job(environment: dict[str, str], expected: list[str]) -> None:
    assert mpi.nodes_of_job(environment) == expected


MEND = (
    "The manager must run on the first node of the job (SingleNodeLauncher); or name the nodes in worker_init: "
    "export FLOWCORE_MPI_NODES=node1,node2"
)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("PBS_NODEFILE", "/missing/nodes", "[Errno 2] No such file or directory: '/missing/nodes'"),
        ("SLURM_JOB_NODELIST", "n[1-", "the brackets of 'n[1-' do not match"),
        ("LSB_MCPU_HOSTS", "n1 4 n2", "it is not of the form 'node1 4 node2 4'"),
        ("LSB_MCPU_HOSTS", "n1 n2", "it is not of the form 'node1 4 node2 4'"),
        ("FLOWCORE_MPI_NODES", ",", "it names no node"),
        # Nothing gets into a command line that is no name.
        ("FLOWCORE_MPI_NODES", "a b", "'a b' is no name of a node"),
        ("FLOWCORE_MPI_NODES", "a:2", "'a:2' is no name of a node"),
        ("FLOWCORE_MPI_NODES", "-hosts", "'-hosts' is no name of a node"),
        ("FLOWCORE_MPI_NODES", "a,$(reboot)", "'$(reboot)' is no name of a node"),
    ],
)
def test_nodes_that_cannot_be_known(variable: str, value: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        mpi.nodes_of_job({variable: value})
    assert str(caught.value) == f"the nodes of this batch job are not known: {variable}={value!r}: {why}. {MEND}"


def test_files_that_name_no_node(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ValueError, match="PBS_NODEFILE=.*: it names no node"):
        mpi.nodes_of_job({"PBS_NODEFILE": str(tmp_path / "empty")})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="PBS_NODEFILE=.*: 'utf-8' codec can't decode"):
        mpi.nodes_of_job({"PBS_NODEFILE": str(tmp_path / "binary")})
    with pytest.raises(ValueError, match="PBS_NODEFILE=.*Is a directory"):
        mpi.nodes_of_job({"PBS_NODEFILE": str(tmp_path)})


# --- commands

SIDE = MpiSpecification(num_nodes=2, ranks_per_node=2, num_ranks=4)


def test_variables_are_those_of_the_reference() -> None:
    assert mpi.environment(SIDE, ["NODE001", "NODE002"], "mpiexec", mpi.HYDRA) == {
        "FLOWCORE_NUM_NODES": "2",
        "FLOWCORE_RANKS_PER_NODE": "2",
        "FLOWCORE_NUM_RANKS": "4",
        "FLOWCORE_MPI_NODELIST": "NODE001,NODE002",
        "FLOWCORE_MPIEXEC_PREFIX": "mpiexec -n 4 -ppn 2 -hosts NODE001,NODE002",
        "FLOWCORE_SRUN_PREFIX": "srun --ntasks 4 --ntasks-per-node 2 --nodes 2 --nodelist NODE001,NODE002",
        "FLOWCORE_APRUN_PREFIX": "aprun -n 4 -N 2 -L NODE001,NODE002",
        "FLOWCORE_MPI_PREFIX": "mpiexec -n 4 -ppn 2 -hosts NODE001,NODE002",
    }


@pytest.mark.parametrize("launcher", mpi.LAUNCHERS)
@pytest.mark.parametrize("flavour", [mpi.HYDRA, mpi.OPEN_MPI])
def test_the_prefix_is_that_of_the_launcher(launcher: str, flavour: str) -> None:
    variables = mpi.environment(SIDE, ["a", "b"], launcher, flavour)
    assert variables["FLOWCORE_MPI_PREFIX"] == variables[f"FLOWCORE_{launcher.upper()}_PREFIX"]
    assert variables["FLOWCORE_MPI_PREFIX"].split()[0] == launcher


def test_open_mpi_has_options_of_its_own() -> None:
    variables = mpi.environment(MpiSpecification(2, 4, 7), ["a", "b"], "srun", mpi.OPEN_MPI)
    assert variables["FLOWCORE_MPIEXEC_PREFIX"] == "mpiexec -n 7 --host a:4,b:4 --map-by ppr:4:node:oversubscribe"


def test_aprun_takes_numbers_of_nodes() -> None:
    variables = mpi.environment(SIDE, ["nid00012", "nid00340"], "aprun", mpi.HYDRA)
    assert variables["FLOWCORE_MPI_PREFIX"] == "aprun -n 4 -N 2 -L 12,340"
    assert variables["FLOWCORE_MPI_NODELIST"] == "nid00012,nid00340"


@pytest.mark.parametrize(
    ("says", "flavour"),
    [
        ("mpiexec (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/", mpi.OPEN_MPI),
        ("mpiexec (Open MPI) 5.0.3", mpi.OPEN_MPI),
        ("mpirun (IBM Spectrum MPI) 10.4.0.3", mpi.OPEN_MPI),
        ("prterun (PRRTE) 3.0.2", mpi.OPEN_MPI),
        ("HYDRA build details:\n    Version:  4.0.2", mpi.HYDRA),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230306", mpi.HYDRA),
        ("PALS 1.2.12", mpi.HYDRA),
        ("", mpi.HYDRA),
    ],
)
def test_flavours_of_mpiexec(says: str, flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mpiexec"
    program.write_text(f"#!/bin/sh\n[ $# = 1 ] && [ $1 = --version ] && echo '{says}'\nexit 3\n")
    program.chmod(0o755)
    assert mpi.mpiexec_flavour(str(program)) == flavour
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert mpi.mpiexec_flavour() == flavour


def test_an_mpiexec_that_is_missing_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mpi.mpiexec_flavour(str(tmp_path / "missing")) == mpi.HYDRA
    program = tmp_path / "mpiexec"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(mpi, "VERSION_S", 0.2)
    assert mpi.mpiexec_flavour(str(program)) == mpi.HYDRA
