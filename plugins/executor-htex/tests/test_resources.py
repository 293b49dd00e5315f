"""Tasks that say what they need: cores, memory, priority, time; and managers that are chosen by another policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.errors import ConfigurationError, UnsupportedResource
from flowcore.executors import HighThroughputExecutor
from flowcore.testing import eventually

Load = Callable[..., flowcore.DataFlowKernel]
WAIT_S = 30


@flowcore.python_app
def look() -> dict[str, Any]:
    import os

    return {
        "cpus": sorted(os.sched_getaffinity(0)),
        **{name: value for name, value in os.environ.items() if name.startswith(("FLOWCORE_", "OMP_"))},
    }


@flowcore.python_app
def note(path: str, word: str, go: str = "") -> None:
    """Append a word when it begins and when it ends, in between wait for a file."""
    import os
    import pathlib
    import time

    def write(text: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{text}\n".encode())
        os.close(fd)

    write(f"+{word}")
    while go and not pathlib.Path(go).exists():
        time.sleep(0.005)
    write(f"-{word}")


@pytest.mark.parametrize(
    ("specification", "text"),
    [
        (
            {"core": 1},
            r"'htex': app 'look': resource_specification=\{'core': 1\}: 'core' is unknown \(did you mean 'cores'",
        ),
        ({"num_nodes": 1, "num_ranks": 1}, "is for MPI tasks: set enable_mpi_mode=True"),
        ({"memory": "2 GB"}, r"memory must be a number from 0 on, not '2 GB'"),
    ],
)
def test_what_is_no_resource_is_refused_at_once(load: Load, specification: dict[str, Any], text: str) -> None:
    load(config={"retries": 3})
    with pytest.raises(UnsupportedResource, match=text) as caught:
        look(resource_specification=specification).result(timeout=WAIT_S)
    assert "attempt 2" not in str(getattr(caught.value, "__notes__", ""))


def test_more_than_a_node_has_is_refused_by_the_first_manager(load: Load) -> None:
    load()
    with pytest.raises(
        UnsupportedResource,
        match="'htex'.*the task wants cores=3, which is the place of 3 workers, and block 0 has 2 on",
    ):
        look(resource_specification={"cores": 3}).result(timeout=WAIT_S)


def test_a_task_with_two_cores_runs_beside_nothing_else(load: Load, tmp_path: Path) -> None:
    load()
    log, go = tmp_path / "log", tmp_path / "go"
    futures = [note(str(log), "a", str(go))]
    eventually(log.exists)
    futures += [note(str(log), "two", resource_specification={"cores": 2})]
    futures += [note(str(log), f"b{i}") for i in range(4)]
    go.touch()
    for future in futures:
        future.result(timeout=WAIT_S)
    words = log.read_text().split()
    assert words[words.index("+two") + 1] == "-two"
    assert words.index("+two") > words.index("-a")
    assert words.index("+two") < words.index("+b0"), "those behind it do not take its place"


def test_a_task_is_told_what_it_was_given_and_the_next_is_not(load: Load) -> None:
    load(max_workers_per_node=1, cpu_affinity="block")
    before = look().result(timeout=WAIT_S)
    seen = look(resource_specification={"cores": 1, "priority": 2, "memory": 10}).result(timeout=WAIT_S)
    assert (seen["FLOWCORE_CORES"], seen["FLOWCORE_PRIORITY"], seen["FLOWCORE_MEMORY"]) == ("1", "2", "10")
    assert look().result(timeout=WAIT_S) == before


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two hardware threads")
def test_a_task_with_two_cores_has_the_hardware_threads_of_two_workers(load: Load) -> None:
    load(cpu_affinity="block")
    [first, *_] = [look().result(timeout=WAIT_S) for _ in range(2)]
    assert (len(first["cpus"]), first["OMP_NUM_THREADS"]) == (
        len(os.sched_getaffinity(0)) // 2,
        first["OMP_NUM_THREADS"],
    )
    both = look(resource_specification={"cores": 2}).result(timeout=WAIT_S)
    assert both["cpus"] == sorted(os.sched_getaffinity(0))
    assert both["OMP_NUM_THREADS"] == str(len(both["cpus"]))
    after = look().result(timeout=WAIT_S)
    assert len(after["cpus"]) == len(first["cpus"])


def test_higher_priorities_run_first(load: Load, tmp_path: Path) -> None:
    kernel = load(max_workers_per_node=1)
    log, go = tmp_path / "log", tmp_path / "go"
    futures = [note(str(log), "first", str(go))]
    eventually(log.exists)
    for word, priority in (("low", -1), ("usual", 0), ("high", 5), ("higher", 7), ("high2", 5)):
        futures.append(note(str(log), word, resource_specification={"priority": priority}))
    kernel.executors["htex"].hold_worker("nobody")  # sent behind all of them
    go.touch()
    for future in futures:
        future.result(timeout=WAIT_S)
    begun = [word[1:] for word in log.read_text().split() if word[0] == "+"]
    assert begun == ["first", "higher", "high", "high2", "usual", "low"]


def test_tasks_share_the_memory_of_a_node(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCORE_MEMORY_GB", "1")
    load()
    log, go = tmp_path / "log", tmp_path / "go"
    first = note(str(log), "a", str(go), resource_specification={"memory": 600})
    beside = note(str(log), "b", resource_specification={"memory": 300})
    beside.result(timeout=WAIT_S)
    assert not first.done()
    second = note(str(log), "c", resource_specification={"memory": 600})
    go.touch()
    for future in (first, second):
        future.result(timeout=WAIT_S)
    words = log.read_text().split()
    assert words.index("+c") > words.index("-a")


def test_a_task_that_needs_longer_than_a_block_has_is_refused(load: Load) -> None:
    load(provider={"plugin": "local", "worker_init": "export SLURM_JOB_END_TIME=$(( $(date +%s) + 600 ))"})
    assert (
        look(resource_specification={"running_time_min": 60}).result(timeout=WAIT_S)["FLOWCORE_RUNNING_TIME_MIN"]
        == "60"
    )
    with pytest.raises(UnsupportedResource, match=r"needs 3600 s of running time, and block 0 has [56]\d\d"):
        look(resource_specification={"running_time_min": 3600}).result(timeout=WAIT_S)


def test_cancelling_what_waits_for_a_place_lets_the_others_go_on(load: Load, tmp_path: Path) -> None:
    load()
    log, go = tmp_path / "log", tmp_path / "go"
    first = note(str(log), "a", str(go))
    eventually(log.exists)
    wide = look(resource_specification={"cores": 2})
    other = look()
    assert not other.done()
    assert wide.cancel()
    other.result(timeout=WAIT_S)
    go.touch()
    first.result(timeout=WAIT_S)


class OnlyFirst:
    """A policy of somebody else's."""

    def __init__(self) -> None:
        self.managers: dict[bytes, Any] = {}

    def add(self, manager: Any) -> None:
        self.managers[manager.identity] = manager

    def discard(self, manager: Any) -> None:
        self.managers.pop(manager.identity, None)

    def __iter__(self) -> Any:
        return iter(self.managers.values())

    def __len__(self) -> int:
        return len(self.managers)


def test_another_policy_from_a_module_beside_the_script(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).read_text()
    start = source.index("class OnlyFirst")
    (tmp_path / "my_policy.py").write_text(
        "from typing import Any\n\n" + source[start : source.index("def test_another")]
    )
    monkeypatch.syspath_prepend(tmp_path)
    load(manager_selection="my_policy:OnlyFirst")
    assert [look().result(timeout=WAIT_S)["FLOWCORE_WORKER_COUNT"] for _ in range(5)] == ["2"] * 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fastest", r"manager_selection='fastest'\): expected one of 'round-robin', 'oldest-block', or 'module:Class'"),
        ("no_such_module:Policy", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("collections:deque", "collections:deque has no add, discard: see"),
        ("fractions:Fraction.x", "AttributeError"),
    ],
)
def test_policies_that_are_none(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        HighThroughputExecutor(manager_selection=name)
