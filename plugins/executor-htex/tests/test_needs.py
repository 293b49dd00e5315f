"""What a resource_specification means, and what is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flowcore_executor_htex.needs import needs_of, seconds_left
from flowcore_executor_htex.protocol import Needs


def make(specification: dict[str, Any], **options: Any) -> Needs | None:
    return needs_of(specification, **{"cores_per_worker": 1.0, "mem_per_worker": None, "mpi_mode": False, **options})


def test_nothing_is_needed_by_default() -> None:
    assert make({}) is None


@pytest.mark.parametrize(
    ("cores", "per_worker", "slots"),
    [(1, 1.0, 1), (4, 1.0, 4), (4, 2.0, 2), (3, 2.0, 2), (0.5, 1.0, 1), (1, 0.5, 2), (0.3, 0.1, 3), (2, 1e-6, 2000000)],
)
def test_cores_are_counted_in_workers(cores: float, per_worker: float, slots: int) -> None:
    needs = make({"cores": cores}, cores_per_worker=per_worker)
    assert needs is not None
    assert needs.slots == slots
    assert needs.demanding is (slots > 1)


@pytest.mark.parametrize("specification", [{"cores": 10**20}, {"cores": 1e300}, {"memory": 1e300}])
def test_a_number_that_is_too_large_is_one_that_can_be_sent(specification: dict[str, Any]) -> None:
    needs = make(specification, mem_per_worker=1e-3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(needs), type=Needs) == needs


def test_memory_is_the_nodes_or_the_workers() -> None:
    needs = make({"memory": 3000})
    assert needs is not None
    assert (needs.slots, needs.memory_mb) == (1, 3000.0)
    needs = make({"memory": 3000, "cores": 2}, mem_per_worker=1.0)
    assert needs is not None
    assert (needs.slots, needs.memory_mb) == (3, 0.0)


def test_priority_and_running_time() -> None:
    needs = make({"priority": -2.5})
    assert needs is not None
    assert (needs.priority, needs.demanding) == (-2.5, False)
    needs = make({"running_time_min": 60})
    assert needs is not None
    assert (needs.running_time_s, needs.demanding) == (60.0, True)


def test_all_that_is_given_is_told_to_the_task() -> None:
    needs = make({"cores": 2, "priority": 1})
    assert needs is not None
    assert needs.variables == {"FLOWCORE_CORES": "2", "FLOWCORE_PRIORITY": "1"}


def test_mpi_tasks() -> None:
    needs = make({"num_nodes": 2, "ranks_per_node": 4, "priority": 3}, mpi_mode=True)
    assert needs is not None
    assert (needs.nodes, needs.ranks, needs.ranks_per_node, needs.priority) == (2, 8, 4, 3.0)
    assert needs.demanding


@pytest.mark.parametrize(
    ("specification", "options", "text"),
    [
        ({"core": 1}, {}, r"'core' is unknown \(did you mean 'cores'\?\); this executor knows cores, memory, priority"),
        ({"num_nodes": 1}, {}, "'num_nodes' is for MPI tasks: set enable_mpi_mode=True"),
        ({"cores": "2"}, {}, r"cores must be a number from 0 on, not '2' \(str\)"),
        ({"cores": True}, {}, "cores must be a number"),
        ({"memory": -1}, {}, "memory must be a number from 0 on, not -1"),
        ({"priority": float("nan")}, {}, "priority must be a number, not nan"),
        ({"running_time_min": None}, {}, "running_time_min must be a number"),
        ({"priority": 10**400}, {}, "priority must be a number, not 1000"),
        ({"num_nodes": 10**12, "num_ranks": 10**12}, {"mpi_mode": True}, "is more than any machine has"),
        ({}, {"mpi_mode": True}, "an MPI task must say how many nodes and ranks it needs"),
        ({"num_nodes": 2, "cores": 2}, {"mpi_mode": True}, "MPI mode does not know 'cores'"),
    ],
)
def test_what_is_no_specification(specification: dict[str, Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(specification, **options)


@pytest.mark.parametrize(
    ("environment", "walltime_s", "left_s"),
    [
        ({}, None, None),
        ({}, 60.0, 60.0),
        ({"SLURM_JOB_END_TIME": "1100"}, 3600.0, 100.0),
        ({"COBALT_ENDTIME": "1005.5"}, None, 5.5),
        ({"SLURM_JOB_END_TIME": "900"}, None, 0.0),
        ({"SLURM_JOB_END_TIME": "soon"}, 60.0, 60.0),
    ],
)
def test_when_a_block_ends(environment: dict[str, str], walltime_s: float | None, left_s: float | None) -> None:
    assert seconds_left(environment, walltime_s, 1000.0) == left_s


def test_what_has_passed_is_not_left() -> None:
    assert seconds_left({}, 60.0, 1000.0, passed_s=20.0) == 40.0
    assert seconds_left({}, 60.0, 1000.0, passed_s=90.0) == 0.0
