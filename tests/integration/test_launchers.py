"""Launchers with their real tools, over three hosts that are reached by ssh: what runs where, and how it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.launchers import GnuParallelLauncher, MpiExecLauncher, MpiRunLauncher
from flowcore.plugins import registry
from flowcore.plugins.api import Launcher
from flowcore.testing import eventually, processes, sshd
from flowcore.testing import hosts as pretend
from flowcore.testing.hosts import Hosts
from flowcore.testing.servers import need
from flowcore.testing.sshd import SSHServers

INSTALLED = [plugin.name for plugin in registry.installed("executor")]
#: A launcher, the tool that it calls, the program that this is here.
TOOLS = {
    "mpiexec-openmpi": (MpiExecLauncher, "mpiexec", "mpiexec.openmpi"),
    "mpiexec-mpich": (MpiExecLauncher, "mpiexec", "mpiexec.mpich"),
    "mpirun-openmpi": (MpiRunLauncher, "mpirun", "mpirun.openmpi"),
    "mpirun-mpich": (MpiRunLauncher, "mpirun", "mpirun.mpich"),
    "parallel": (GnuParallelLauncher, "parallel", "parallel"),
}
WAIT_S = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Hosts, SSHServers]]:
    """Three hosts that let root in."""
    pretend.require()
    sshd.require()
    with Hosts(3) as hosts, SSHServers(hosts=hosts) as servers:
        yield hosts, servers


@pytest.fixture
def hosts(cluster: tuple[Hosts, SSHServers]) -> Hosts:
    return cluster[0]


@pytest.fixture
def environment(cluster: tuple[Hosts, SSHServers], tmp_path: Path) -> dict[str, str]:
    """The variables of a job with these nodes, and an ``ssh`` that knows them and has the key."""
    hosts, servers = cluster
    programs = tmp_path / "programs"
    programs.mkdir()
    trusted = f"-i {servers.key} -o UserKnownHostsFile={servers.known_hosts} -o BatchMode=yes -o ConnectTimeout=10"
    script(programs / "ssh", f'exec {shutil.which("ssh")} {trusted} "$@"')
    nodefile = tmp_path / "nodefile"
    nodefile.write_text("".join(f"{host.name}\n" * 2 for host in hosts))
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PBS_NODEFILE": str(nodefile),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


@pytest.fixture(params=TOOLS)
def launcher(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Launcher:
    return tool(request.param, tmp_path)


def tool(name: str, tmp_path: Path) -> Launcher:
    """Return a launcher, and put the tool that it calls first on PATH."""
    cls, called, real = TOOLS[name]
    need(real)
    if called != real:
        # Not a link: an MPI finds its other programs beside the one that was called.
        script(tmp_path / "programs" / called, f'exec {real} "$@"')
    launcher: Launcher = cls()
    return launcher


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@contextlib.contextmanager
def job(hosts: Hosts, text: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a job's script on its first node; end what it leaves."""
    process = subprocess.Popen(
        hosts[0].command("/bin/bash", "-c", text),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                processes.kill(running(hosts))
                process.kill()


def run(hosts: Hosts, text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with job(hosts, text, environment) as process:
        out, err = process.communicate(timeout=WAIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def running(hosts: Hosts) -> list[processes.Process]:
    """Return what runs on the hosts, servers of ssh left out."""
    return [p for host in hosts for p in host.processes() if p.state not in "ZX" and not p.command.startswith("sshd:")]


def test_each_node_runs_its_copies_as_the_script_would(
    launcher: Launcher, hosts: Hosts, environment: dict[str, str], tmp_path: Path
) -> None:
    value = "two\nlines; 'and' \"quotes\" $x {}"
    command = f"""
        if [ "$GIVEN" != "$(cat '{tmp_path}/value')" ] || [ "$PWD" != '{tmp_path}' ]; then
            echo "$GIVEN in $PWD" >&2
            exit 1
        fi
        echo "ran on $(hostname) $CORES {{}}" # the end"""
    (tmp_path / "value").write_text(value)
    before = f"cd '{tmp_path}'\nexport GIVEN=$(cat value)\n"
    done = run(hosts, before + launcher(command, 2, 3), environment)
    assert done.returncode == 0, done.stderr
    ran = Counter(line for line in done.stdout.splitlines() if line.startswith("ran on "))
    assert ran == {f"ran on {host.name} {os.cpu_count()} {{}}": 2 for host in hosts}
    assert running(hosts) == []


def test_a_copy_that_fails(
    launcher: Launcher, request: pytest.FixtureRequest, hosts: Hosts, environment: dict[str, str]
) -> None:
    name = request.node.callspec.params["launcher"]
    ends_others = "openmpi" in name
    command = f"""
        if [ "$(hostname)" = {hosts[1].name} ]; then exit 7; fi
        sleep {30 if ends_others else 1}
        echo done"""
    done = run(hosts, launcher(command, 1, 3), environment)
    # parallel: the number of nodes where one failed.
    assert done.returncode == (1 if name == "parallel" else 7)
    assert done.stdout.splitlines().count("done") == (0 if ends_others else 2)
    assert running(hosts) == []


def test_a_copy_whose_program_is_killed(
    launcher: Launcher, request: pytest.FixtureRequest, hosts: Hosts, environment: dict[str, str], tmp_path: Path
) -> None:
    name = request.node.callspec.params["launcher"]
    ends_others = "openmpi" in name
    # As the kernel does where memory is short. What is last is not to be the shell's own process.
    script(tmp_path / "work", f'[ "$(hostname)" = {hosts[2].name} ] && kill -9 $$; sleep {30 if ends_others else 1}')
    done = run(hosts, launcher(f"'{tmp_path}/work' && echo done", 1, 3), environment)
    assert done.returncode == (1 if name == "parallel" else 137)
    assert done.stdout.splitlines().count("done") == (0 if ends_others else 2)


def test_a_signal_for_the_script_ends_the_copies_on_all_nodes(
    launcher: Launcher, hosts: Hosts, environment: dict[str, str], tmp_path: Path
) -> None:
    command = f"touch '{tmp_path}/begun-'$(hostname)-$BASHPID\nsleep 300\necho never"
    with job(hosts, launcher(command, 2, 3), environment) as process:
        eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 6, WAIT_S, "the copies")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143
    assert "never" not in out
    eventually(lambda: running(hosts) == [], what="the end of all on the hosts")


def test_a_copy_has_time_to_put_things_in_order(hosts: Hosts, environment: dict[str, str], tmp_path: Path) -> None:
    need("mpiexec.mpich")
    launcher = tool("mpiexec-mpich", tmp_path)
    script(
        tmp_path / "work",
        f"trap \"sleep 0.3; touch '{tmp_path}/ended-'$(hostname); exit\" TERM\n"
        f"touch '{tmp_path}/begun-'$(hostname)\nwhile :; do sleep 0.05; done",
    )
    with job(hosts, launcher(f"true\n'{tmp_path}/work'\ntrue", 1, 3), environment) as process:
        eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 3, WAIT_S, "the copies")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    assert len(list(tmp_path.glob("ended-*"))) == 3


def test_a_node_that_cannot_be_reached(hosts: Hosts, environment: dict[str, str], tmp_path: Path) -> None:
    launcher = tool("parallel", tmp_path)
    (tmp_path / "nodefile").write_text(f"{hosts[0].name}\nmissing\n{hosts[2].name}\n")
    done = run(hosts, launcher("echo ran on $(hostname)", 1, 3), environment)
    assert done.returncode == 1
    assert {f"ran on {hosts[0].name}", f"ran on {hosts[2].name}"} <= set(done.stdout.splitlines())
    assert "Could not resolve hostname missing" in done.stderr


def test_open_mpi_hands_many_variables_on(hosts: Hosts, environment: dict[str, str], tmp_path: Path) -> None:
    launcher = tool("mpiexec-openmpi", tmp_path)
    before = "for i in {1..300}; do export \"NAME_$i=$(printf '%0100d' $i)\"; done\n"
    done = run(hosts, before + launcher("env | grep -c ^NAME_", 1, 3), environment)
    assert done.stdout.splitlines().count("300") == 3


# --- htex


@flowcore.python_app
def where(folder: str, count: int) -> str:
    """Return this host's name when as many hosts are at work."""
    import pathlib
    import socket
    import time

    pathlib.Path(folder, socket.gethostname()).touch()
    deadline = time.monotonic() + 50
    while len(list(pathlib.Path(folder).iterdir())) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return socket.gethostname()


@pytest.mark.skipif("htex" not in INSTALLED, reason="flowcore-executor-htex is not installed")
@pytest.mark.parametrize("name", ["mpiexec-openmpi", "parallel"])
def test_workers_on_all_nodes(
    name: str,
    hosts: Hosts,
    environment: dict[str, str],
    load: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher = tool(name, tmp_path)
    # Here, names of hosts are not known.
    (tmp_path / "nodefile").write_text("".join(f"{host.address}\n" for host in hosts))
    for variable in ("PATH", "PBS_NODEFILE", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(variable, environment[variable])
    network = hosts.head.rpartition(".")[0] + ".0/24"
    monkeypatch.setenv("OMPI_MCA_oob_tcp_if_include", network)
    monkeypatch.setenv("OMPI_MCA_btl_tcp_if_include", network)
    provider = flowcore.providers.LocalProvider(launcher=launcher, nodes_per_block=3)
    load(
        executors=[
            flowcore.HighThroughputExecutor(label="htex", address=hosts.head, max_workers_per_node=1, provider=provider)
        ]
    )
    (tmp_path / "seen").mkdir()
    futures = [where(str(tmp_path / "seen"), 3) for _ in hosts]
    assert sorted(future.result(timeout=WAIT_S) for future in futures) == sorted(host.name for host in hosts)
    flowcore.clear()
    eventually(lambda: running(hosts) == [], what="the end of all on the hosts")
