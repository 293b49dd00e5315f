"""Networks that are cut, healed and reset, and hosts that lose their power, with managers on pretend hosts."""

from __future__ import annotations

import collections
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flowcore
from flowcore.errors import ManagerLost
from flowcore.executors import HighThroughputExecutor
from flowcore.plugins.api import Launcher, component
from flowcore.providers import LocalProvider
from flowcore.testing import hosts as pretend
from flowcore.testing import processes
from flowcore.testing.hosts import Host, Hosts
from flowcore.testing.waiting import eventually

Load = Callable[..., flowcore.DataFlowKernel]
#: Seconds within which a fault is to be known and mended, on a machine that does other things as well.
BOUND_S = 40


@component
class OnHosts(Launcher):
    """Runs the command on one pretend host after the other: a block each."""

    prefixes: list[str]

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        self.prefixes.append(self.prefixes.pop(0))
        return f"exec {self.prefixes[-1]} bash -c {shlex.quote(command)}"


class Elsewhere(LocalProvider):
    """Its blocks are not on this host: they come through the network."""

    on_this_host = False


@flowcore.python_app
def note(path: str, number: int, seconds: float = 0.0) -> tuple[int, str]:
    """Write down that it ran, by one write that nobody else's can come into; return its number and host."""
    import os
    import socket
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {socket.gethostname()}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return number, socket.gethostname()


@flowcore.python_app
def hold(path: str, number: int, gate: str) -> tuple[int, str]:
    """Write down that it runs, wait for the gate, and return its number and host."""
    import os
    import pathlib
    import socket
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {socket.gethostname()}\n".encode())
    os.close(fd)
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    return number, socket.gethostname()


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def counts(path: Path) -> collections.Counter[int]:
    return collections.Counter(int(number) for number, _ in lines(path))


def managers_of(dfk: flowcore.DataFlowKernel) -> set[str]:
    """The hosts of all connected managers."""
    executor = dfk.executors["htex"]
    assert isinstance(executor, HighThroughputExecutor)
    return {manager["hostname"] for manager in executor.connected_managers()}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    pretend.require()
    with Hosts(2) as made:
        yield made


@pytest.fixture
def load_on(hosts: Hosts, load: Load) -> Iterator[Load]:
    """Loads htex with a block on each of the first ``blocks`` hosts, and waits until all are connected."""

    def start(blocks: int = 2, retries: int = 0, **options: object) -> flowcore.DataFlowKernel:
        provider = Elsewhere(
            launcher=OnHosts([host.prefix for host in hosts[:blocks]]), init_blocks=blocks, max_blocks=blocks
        )
        dfk = load(provider=provider, address=hosts.head, config={"retries": retries, "strategy": "none"}, **options)
        eventually(lambda: managers_of(dfk) == {host.name for host in hosts[:blocks]})
        return dfk

    yield start
    # Before the hosts go.
    flowcore.clear()


def test_a_cut_that_heals_before_the_threshold_loses_nothing(load_on: Load, hosts: Hosts, tmp_path: Path) -> None:
    dfk = load_on(heartbeat_period=0.5, heartbeat_threshold=15)
    path = tmp_path / "ran"
    futures = [note(str(path), i, 0.01) for i in range(200)]
    eventually(lambda: len({host for _, host in lines(path)}) == 2)
    hosts.cut(hosts[0])
    futures += [note(str(path), i, 0.01) for i in range(200, 300)]
    time.sleep(1.5)  # three heartbeats
    assert any(not future.done() for future in futures), "what the host has, or has done, is kept from us"
    hosts.heal(hosts[0])
    assert [f.result(timeout=BOUND_S)[0] for f in futures] == list(range(300))
    assert counts(path) == collections.Counter(range(300)), "each ran once"
    assert managers_of(dfk) == {host.name for host in hosts}


def test_a_cut_that_heals_after_the_threshold_costs_the_host(load_on: Load, hosts: Hosts, tmp_path: Path) -> None:
    dfk = load_on(retries=1, max_workers_per_node=1, heartbeat_period=0.3, heartbeat_threshold=2)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(2)]
    told: list[int] = []
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: told.append(i))
    eventually(lambda: len(lines(path)) == 2)
    first, second = hosts
    [lost] = [int(number) for number, host in lines(path) if host == first.name]
    there = first.processes()
    hosts.cut(first)
    eventually(lambda: managers_of(dfk) == {second.name}, what="the loss of the host")
    gate.touch()
    assert futures[lost].result(timeout=BOUND_S) == (lost, second.name)
    hosts.heal(first)
    eventually(lambda: all(processes.gone(p.pid) for p in there), what="the end of a manager that was given up")
    assert [note(str(path), i).result(timeout=BOUND_S)[1] for i in range(10, 20)] == [second.name] * 10
    assert futures[1 - lost].result(timeout=BOUND_S) == (1 - lost, second.name)
    assert futures[lost].result() == (lost, second.name)
    assert sorted(told) == [0, 1], "each outcome was told once"
    assert counts(path) == collections.Counter({0: 1, 1: 1, lost: 2} | dict.fromkeys(range(10, 20), 1))


def test_a_host_without_power_is_named(load_on: Load, hosts: Hosts, tmp_path: Path) -> None:
    load_on(max_workers_per_node=1, heartbeat_period=0.3, heartbeat_threshold=2)
    path, gate = tmp_path / "ran", tmp_path / "gate"
    futures = [hold(str(path), i, str(gate)) for i in range(2)]
    eventually(lambda: len(lines(path)) == 2)
    first, second = hosts
    [lost] = [int(number) for number, host in lines(path) if host == first.name]
    hosts.power_off(first)
    with pytest.raises(ManagerLost, match=rf"on host {first.name} was lost with the task: nothing was heard of it"):
        futures[lost].result(timeout=BOUND_S)
    gate.touch()
    assert futures[1 - lost].result(timeout=BOUND_S) == (1 - lost, second.name)


@flowcore.python_app
def carry(path: str, number: int, gate: str, ballast: bytes) -> tuple[int, bytes]:
    """Like hold, with something in both directions that can be seen in a socket."""
    import os
    import pathlib
    import socket
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number} {socket.gethostname()}\n".encode())
    os.close(fd)
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
    return number, ballast


def unsent(prefix: list[str], address: str) -> int:
    """Bytes in sockets to an address which the other end has not confirmed."""
    command = [*prefix, "ss", "--no-header", "--numeric", "--tcp", "state", "established", "dst", address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    return max((int(line.split()[1]) for line in shown.splitlines()), default=0)


@pytest.mark.parametrize("direction", ["results", "tasks"])
def test_what_was_on_its_way_when_a_connection_broke_is_done_elsewhere(
    load_on: Load, hosts: Hosts, tmp_path: Path, direction: str
) -> None:
    # The threshold is never reached: it is not by silence that the loss is to be noticed.
    load_on(max_workers_per_node=1, heartbeat_period=0.3, heartbeat_threshold=2 * BOUND_S, retries=1)
    path, gate, ballast = tmp_path / "ran", tmp_path / "gate", os.urandom(30000)
    told: list[int] = []

    def call(number: int) -> flowcore.AppFuture[tuple[int, bytes]]:
        future = carry(str(path), number, str(gate), ballast)
        future.add_done_callback(lambda _: told.append(number))
        return future

    first, second = hosts
    futures = [call(0)]
    eventually(lambda: len(lines(path)) == 1)
    if lines(path)[0][1] == (second.name if direction == "results" else first.name):
        first, second = second, first
    # The first task runs on the host that is cut, if a result is to be lost, else on the other one.
    hosts.cut(first)
    if direction == "results":
        gate.touch()
        eventually(lambda: unsent(first.command(), hosts.head) >= len(ballast))
    else:
        futures += [call(i) for i in range(1, 4)]
        eventually(lambda: unsent([], first.address) >= len(ballast))
        gate.touch()
    # What is in its sockets goes with them; the other ends learn of it when the network is back.
    hosts.reset(first)
    hosts.heal(first)
    assert [future.result(timeout=BOUND_S) for future in futures] == [(i, ballast) for i in range(len(futures))]
    assert sorted(told) == list(range(len(futures))), "each outcome was told once"
    assert {host for _, host in lines(path)[1:]} == {second.name}
    assert counts(path) == collections.Counter({0: 2} if direction == "results" else range(4))


@pytest.mark.parametrize(
    ("number", "cut"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGKILL, True)],
    ids=["SIGKILL", "SIGTERM", "SIGKILL behind a cut"],
)
def test_when_the_submit_side_is_killed_its_hosts_are_left(
    hosts: Hosts, tmp_path: Path, number: signal.Signals, cut: bool
) -> None:
    host: Host = hosts[0]
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import flowcore, pathlib, time

            @flowcore.python_app
            def hang(i):
                pathlib.Path(f"mark{{i}}").touch()
                time.sleep(1000)

            if __name__ == "__main__":
                provider = {{
                    "plugin": "local",
                    "launcher": {{"plugin": "wrapped", "prepend": {host.prefix!r}}},
                }}
                htex = {{"plugin": "htex", "max_workers_per_node": 2, "address": {hosts.head!r}, "provider": provider,
                        "heartbeat_period": 0.3, "heartbeat_threshold": 2}}
                flowcore.load({{"executors": [htex]}})
                futures = [hang(i) for i in range(2)]
                time.sleep(1000)
            """
        )
    )
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path) as process:
        try:
            eventually(lambda: (tmp_path / "mark0").exists() and (tmp_path / "mark1").exists())
            started = processes.descendants(process.pid)
            there = [p.pid for p in host.processes()]
            assert len(there) == 3, "a manager and its workers"
            if cut:
                hosts.cut(host)
        finally:
            process.send_signal(number)
    # The interchange at once; managers when it says so, or when it has been silent for the threshold.
    eventually(lambda: all(processes.gone(p.pid) for p in started), BOUND_S)
    assert host.processes() == []
    assert os.listdir(tmp_path / "runinfo" / "000" / "HighThroughputExecutor")
