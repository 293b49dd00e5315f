"""Where workers run: pure functions, and what a real worker sees of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from flowcore_executor_htex import placement, protocol
from flowcore_executor_htex.dispatch import Dispatcher
from flowcore_executor_htex.executor import HighThroughputExecutor

import flowcore
from flowcore.errors import BlocksFailed, ConfigurationError
from flowcore.testing import eventually

Load = Callable[..., flowcore.DataFlowKernel]
EIGHT = range(8)


@pytest.mark.parametrize(
    ("affinity", "workers", "expected"),
    [
        ("none", 2, [[], []]),
        ("block", 2, [[0, 1], [2, 3]]),
        ("block-reverse", 2, [[3, 2], [1, 0]]),
        ("alternating", 2, [[0, 2], [1, 3]]),
        ("block", 3, [[0], [1], [2, 3]]),
        ("alternating", 3, [[0, 3], [1], [2]]),
        ("block", 4, [[0], [1], [2], [3]]),
        ("list:0-1,3:2", 2, [[0, 1, 3], [2]]),
    ],
)
def test_threads_of_each_worker(affinity: str, workers: int, expected: list[list[int]]) -> None:
    assert [placement.threads_of(affinity, rank, workers, range(4)) for rank in range(workers)] == expected


@pytest.mark.parametrize("affinity", ["block", "block-reverse", "alternating"])
@pytest.mark.parametrize("workers", [1, 3, 5, 7])
def test_all_threads_are_given_once_and_shares_are_even(affinity: str, workers: int) -> None:
    shares = [placement.threads_of(affinity, rank, workers, range(208)) for rank in range(workers)]
    assert sorted(thread for share in shares for thread in share) == list(range(208))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("affinity", ["block", "block-reverse", "alternating"])
def test_more_workers_than_threads_share_them(affinity: str) -> None:
    shares = [placement.threads_of(affinity, rank, 4, [5, 6]) for rank in range(4)]
    assert sorted(thread for share in shares for thread in share) == [5, 5, 6, 6]


def test_the_example_of_twelve_workers() -> None:
    text = "list:" + ":".join(f"{8 * i}-{8 * i + 7},{104 + 8 * i}-{111 + 8 * i}" for i in range(12))
    assert [len(threads) for threads in placement.parse_list(text)] == [16] * 12


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        ("sideways", "expected one of 'none', 'block', 'block-reverse', 'alternating', or 'list:0-3:4-7'"),
        ("list:", "'' is neither a number nor a range"),
        ("list:0-x", "'0-x' is neither a number nor a range"),
        ("list:3-1", "the range '3-1' ends before it begins"),
    ],
)
def test_affinities_that_are_none(affinity: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HighThroughputExecutor(cpu_affinity=affinity)
    assert f"HighThroughputExecutor(cpu_affinity={affinity!r}): {message}" in str(caught.value)


def test_a_list_that_does_not_fit_the_node() -> None:
    with pytest.raises(ValueError, match="is for 3 workers, and this node has 2: they must agree"):
        placement.threads_of("list:0:1:2", 0, 2, EIGHT)
    with pytest.raises(ValueError, match=r"gives worker 1 the hardware threads \[9\], .* it has 0-7"):
        placement.threads_of("list:0:1,9", 1, 2, EIGHT)


def test_variables() -> None:
    assert placement.environment([], None) == {}
    assert placement.environment([4, 6], "gpu1") == {
        "OMP_NUM_THREADS": "2",
        "GOMP_CPU_AFFINITY": "4,6",
        "KMP_AFFINITY": "explicit,proclist=[4,6]",
        "CUDA_VISIBLE_DEVICES": "gpu1",
        "ROCR_VISIBLE_DEVICES": "gpu1",
        "ZE_AFFINITY_MASK": "gpu1",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }


def test_names_of_accelerators() -> None:
    assert placement.accelerator_names(3) == ["0", "1", "2"]
    assert placement.accelerator_names(["a", "a", "b"]) == ["a", "a", "b"]
    with pytest.raises(ConfigurationError, match="available_accelerators=-1"):
        HighThroughputExecutor(available_accelerators=-1)


@flowcore.python_app
def place(seconds: float) -> tuple[str, list[int], str | None, str | None]:
    import os
    import time

    time.sleep(seconds)
    variables = os.environ
    return (
        variables["FLOWCORE_WORKER_RANK"],
        sorted(os.sched_getaffinity(0)),
        variables.get("OMP_NUM_THREADS"),
        variables.get("CUDA_VISIBLE_DEVICES"),
    )


def places() -> dict[str, tuple[list[int], str | None, str | None]]:
    """Return what each of the workers says, by rank."""
    found: dict[str, tuple[list[int], str | None, str | None]] = {}

    def both() -> bool:
        for future in [place(0.05) for _ in range(4)]:
            rank, *rest = future.result(timeout=30)
            found[rank] = (rest[0], rest[1], rest[2])
        return len(found) == 2

    eventually(both, what="an answer of both workers")
    return found


def test_workers_are_bound_to_their_threads(load: Load) -> None:
    load(cpu_affinity="block", cores_per_worker=0.5)
    mine = sorted(os.sched_getaffinity(0))
    expected = {str(r): placement.threads_of("block", r, 2, mine) for r in range(2)}
    assert places() == {r: (threads, str(len(threads)), None) for r, threads in expected.items()}


def test_workers_are_given_an_accelerator_each(load: Load) -> None:
    # Never more workers than accelerators.
    load(available_accelerators=["gpu-a", "gpu-b"], max_workers_per_node=5, cores_per_worker=0.1)
    assert {rank: found[2] for rank, found in places().items()} == {"0": "gpu-a", "1": "gpu-b"}


def test_a_list_that_does_not_fit_ends_the_block_and_says_so(load: Load) -> None:
    load(cpu_affinity="list:0", cores_per_worker=0.5)
    with pytest.raises(BlocksFailed, match="is for 1 workers, and this node has 2: they must agree"):
        place(0).result(timeout=60)


def test_workers_listen_on_a_port_that_was_named(load: Load) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    load(address="127.0.0.1", worker_ports=(port, port + 1))
    assert place(0).result(timeout=30)[0] in ("0", "1")
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    with pytest.raises(ConfigurationError, match=r"worker_ports=\(0, 1\)\): ports are from 1 to 65535"):
        HighThroughputExecutor(worker_ports=(0, 1))


def test_infinitely_many_workers() -> None:
    assert HighThroughputExecutor(max_workers_per_node=float("inf")).max_workers_per_node is None


@pytest.mark.parametrize("command", ["start {debug}", "start {0}", "start {python", "{python.missing}"])
def test_launch_commands_with_places_that_are_none(command: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Its places are \{python\}, \{settings\} and \{block_id\}"):
        HighThroughputExecutor(launch_cmd=command)


def test_any_share_of_a_core() -> None:
    assert HighThroughputExecutor(cores_per_worker=1e-6).cores_per_worker == 1e-6
    with pytest.raises(ConfigurationError, match=r"cores_per_worker=0\.0\): must be more than 0"):
        HighThroughputExecutor(cores_per_worker=0.0)


def test_a_launcher_for_mpi_that_is_none() -> None:
    with pytest.raises(
        ConfigurationError, match=r"mpi_launcher='mpirun'\): expected one of 'srun', 'aprun', 'mpiexec'"
    ):
        HighThroughputExecutor(enable_mpi_mode=True, mpi_launcher="mpirun")


def test_mpi_mode_and_affinity_exclude_each_other() -> None:
    with pytest.raises(
        ConfigurationError, match=r"enable_mpi_mode=True, cpu_affinity='block'\): in MPI mode the launcher"
    ):
        HighThroughputExecutor(enable_mpi_mode=True, cpu_affinity="block")


# --- drain


def test_a_manager_that_drains_gets_nothing_more_and_is_told_so_last() -> None:
    dispatcher = Dispatcher(10)
    dispatcher.greet(b"m", protocol.hello("m1", "0", "host", 2), 0.0)
    function = b"f" * 16
    tasks = protocol.Tasks([protocol.TaskItem(i, function, b"") for i in range(2)], {function: b"code"})
    assert [identity for identity, _ in dispatcher.from_executor(tasks, [])] == [b"m"]
    ((identity, (header,)),) = dispatcher.from_manager(b"m", protocol.Hold("m1"), [], 1.0)
    assert (identity, protocol.decode(header)) == (b"m", protocol.Hold("m1"))
    done = protocol.Results([protocol.ResultItem(0, protocol.VALUE, b"")], 2)
    dispatcher.from_manager(b"m", done, [], 2.0)
    assert dispatcher.from_executor(protocol.Tasks([protocol.TaskItem(5, function, b"")], {}), []) == []
    assert dispatcher.pending == 1


def test_blocks_drain_and_others_take_over(load: Load, tmp_path: Path) -> None:
    provider = {"plugin": "local", "init_blocks": 1, "min_blocks": 0, "max_blocks": 1}
    load(drain_period=1.0, provider=provider, config={"strategy": "simple", "strategy_period": 0.2, "max_idletime": 60})
    results = [place(0.2) for _ in range(30)]
    assert {future.result(timeout=60)[0] for future in results} == {"0", "1"}
    logs = list((tmp_path / "runinfo" / "000" / "htex").glob("block-*/*.log"))
    assert len(logs) > 1, "one block did all the work: it did not drain"
    assert any("drained" in log.read_text() for log in logs)
