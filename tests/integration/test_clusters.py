"""Whole workflows on hosts that are reached over ssh: with a real Slurm behind it, and without any scheduler.

The hosts are pretend ones. Those of the ad-hoc cluster do not see the run directory, as nobody else sees a laptop's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowcore
from flowcore import python_app
from flowcore.plugins import cluster as cluster_module
from flowcore.testing import eventually, sshd
from flowcore.testing import hosts as pretended
from flowcore.testing import slurm as slurms
from flowcore.testing.hosts import Host, Hosts
from flowcore.testing.slurm import SlurmCluster
from flowcore.testing.sshd import SSHServers

pytest.importorskip("flowcore_executor_htex")
pytest.importorskip("flowcore_channel_ssh")
pytest.importorskip("flowcore_provider_slurm")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    pretended.require()
    with Hosts(4) as made:
        yield made


@pytest.fixture(scope="module")
def servers(hosts: Hosts) -> Iterator[SSHServers]:
    sshd.require()
    with SSHServers(hosts=hosts) as made:
        yield made


@pytest.fixture(scope="module")
def slurm(hosts: Hosts) -> Iterator[SlurmCluster]:
    """Its nodes are the first two hosts; the third is where its users log in."""
    slurms.require()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_module.ClusterProvider, "polling_interval_s", 0.5)
        with SlurmCluster(hosts, count=2) as made:
            yield made


def channel(servers: SSHServers, host: Host, script_dir: Path, **options: object) -> dict[str, object]:
    return {
        "plugin": "ssh",
        "hostname": host.address,
        "username": "root",
        "key_filename": str(servers.key),
        "host_keys_filename": str(servers.known_hosts),
        "ssh_config_filename": None,
        "script_dir": str(script_dir),
        **options,
    }


@python_app
def where() -> str:
    import os
    import socket
    import time

    time.sleep(0.2)
    return f"{socket.gethostname()} {os.getpid()}"


@python_app
def total(numbers: list[int]) -> int:
    return sum(numbers)


@python_app
def square(number: int) -> tuple[int, str]:
    import socket
    import time

    time.sleep(0.1)
    return number**2, socket.gethostname()


@python_app
def add_up(parts: list[tuple[int, str]]) -> tuple[int, list[str]]:
    return sum(number for number, _ in parts), sorted({host for _, host in parts})


def test_an_ad_hoc_cluster_that_does_not_see_the_run_directory(
    hosts: Hosts, servers: SSHServers, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runinfo"
    run_dir.mkdir()
    three = hosts[1:]
    for host in three:
        hidden = host.run("mount", "-t", "tmpfs", "none", str(run_dir))
        assert hidden.returncode == 0, hidden.stderr
    workers = {
        "plugin": "htex",
        "label": "adhoc",
        "address": hosts.head,
        "max_workers_per_node": 2,
        "worker_logdir_root": str(tmp_path / "logs"),
        "provider": {
            "plugin": "adhoc",
            "channels": [channel(servers, host, tmp_path / f"scripts-{host.name}") for host in three],
        },
    }
    try:
        with flowcore.load({"executors": [workers], "run_dir": str(run_dir), "strategy": "none"}) as run:
            executor = run.executors["adhoc"]
            eventually(lambda: len(executor.connected_managers()) == 3, 60, "three managers")
            places = [future.result(60).split()[0] for future in [where() for _ in range(30)]]
            assert set(places) == {host.name for host in three}
            assert total([square_of(n) for n in range(5)]).result(30) == 30
        for host in three:
            ours = [p.command for p in host.processes() if "flowcore_executor_htex" in p.command]
            assert ours == [], f"left on {host.name}"
            # The run's keys went there, and are gone.
            assert not list((tmp_path / f"scripts-{host.name}").rglob("manager.json"))
            assert list((tmp_path / f"scripts-{host.name}").rglob("*.started"))
    finally:
        for host in three:
            host.run("umount", str(run_dir))


def square_of(number: int) -> int:
    return number * number


def test_a_host_that_is_cut_off_and_another_one_that_goes_on(hosts: Hosts, servers: SSHServers, tmp_path: Path) -> None:
    workers = {
        "plugin": "htex",
        "label": "adhoc",
        "address": hosts.head,
        "max_workers_per_node": 1,
        "heartbeat_period": 0.5,
        "heartbeat_threshold": 3,
        "provider": {
            "plugin": "adhoc",
            "cmd_timeout": 5,
            "channels": [channel(servers, h, tmp_path / h.name, connect_timeout_s=2.0) for h in hosts[2:]],
        },
    }
    config = {"executors": [workers], "run_dir": str(tmp_path / "runinfo"), "strategy": "none", "retries": 2}
    try:
        with flowcore.load(config) as run:
            executor = run.executors["adhoc"]
            eventually(lambda: len(executor.connected_managers()) == 2, 60, "two managers")
            futures = [where() for _ in range(20)]
            hosts.cut(hosts[2])
            places = {future.result(60).split()[0] for future in futures}
            assert hosts[3].name in places
            # Nobody says that its block has ended.
            assert executor.executor_exception is None
            hosts.heal(hosts[2])
    finally:
        hosts.heal(hosts[2])


def test_slurm_through_a_login_host(hosts: Hosts, servers: SSHServers, slurm: SlurmCluster, tmp_path: Path) -> None:
    """A fan-out and a fan-in, with blocks from none to two and back, and none left."""
    login = hosts[3]
    workers = {
        "plugin": "htex",
        "label": "slurm",
        "address": hosts.head,
        "max_workers_per_node": 1,
        "provider": {
            "plugin": "slurm",
            "channel": channel(servers, login, tmp_path / "scripts", envs=dict(slurm.env)),
            "exclusive": False,
            "init_blocks": 0,
            "max_blocks": 2,
            "walltime": "00:05:00",
            "launcher": {"plugin": "srun"},
        },
    }
    config = {
        "executors": [workers],
        "run_dir": str(tmp_path / "runinfo"),
        "strategy": "htex_auto_scale",
        "strategy_period": 0.5,
        "max_idletime": 1.0,
    }
    with flowcore.load(config) as run:
        executor = run.executors["slurm"]
        assert slurm.jobs() == []
        number, places = add_up([square(n) for n in range(40)]).result(60)
        assert number == sum(n * n for n in range(40))
        assert set(places) <= set(slurm.nodes)
        eventually(lambda: slurm.jobs() == [], 60, "the blocks' end")
        assert executor.executor_exception is None
        # And from none again.
        assert add_up([square(2)]).result(60)[0] == 4
    eventually(lambda: slurm.jobs() == [], 20, "the end of the jobs that were cancelled")


def test_a_program_that_is_terminated_leaves_no_job(slurm: SlurmCluster, hosts: Hosts, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""\
            import time, flowcore
            from flowcore.plugins.cluster import ClusterProvider

            @flowcore.python_app
            def forever():
                import time
                time.sleep(600)

            workers = {{
                "plugin": "htex", "label": "slurm", "address": {hosts.head!r}, "max_workers_per_node": 1,
                "provider": {{"plugin": "slurm", "exclusive": False, "walltime": "00:05:00"}},
            }}
            run = flowcore.load({{"executors": [workers]}})
            task = forever()
            while not run.executors["slurm"].connected_managers():
                time.sleep(0.05)
            print("up", flush=True)
            task.result()
            """
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, str(program)],
            env={**os.environ, **slurm.env},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
                assert len(slurm.jobs()) == 1
                process.send_signal(number)
                assert process.wait(60) != 0
            finally:
                process.kill()
        eventually(lambda: slurm.jobs() == [], 10, "the end of its job")
