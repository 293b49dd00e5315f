"""Pretend hosts: they see each other, can be cut and healed, and nothing of them stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading

import pytest

from flowcore.testing import hosts as module
from flowcore.testing import processes
from flowcore.testing.hosts import Host, Hosts
from flowcore.testing.waiting import eventually


@pytest.fixture
def hosts():
    module.require()
    with Hosts(2) as made:
        yield made


def interfaces():
    return {name for _, name in socket.if_nameindex() if name.startswith("fc")}


def folders():
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("flowcore-hosts-")}


@contextlib.contextmanager
def connection(hosts: Hosts, host: Host):
    """A TCP connection between the head and a process in a host that sends back what it gets; the head's end."""
    script = textwrap.dedent(
        """
        import socket, sys
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as s:
            s.settimeout(None)
            try:
                while data := s.recv(100):
                    s.sendall(data)
            except OSError as error:
                print(type(error).__name__, flush=True)
        """
    )
    with socket.create_server((hosts.head, 0)) as server:
        command = [sys.executable, "-c", script, hosts.head, str(server.getsockname()[1])]
        with host.popen(*command, stdout=subprocess.PIPE, text=True) as process:
            try:
                server.settimeout(30)
                end, (address, _) = server.accept()
                assert address == host.address
                with end:
                    end.settimeout(30)
                    yield end, process
            finally:
                process.kill()


def test_hosts_have_names_and_addresses_of_their_own_and_reach_each_other(hosts, tmp_path):
    first, second = hosts
    assert len(hosts) == 2
    assert hosts[1] is second
    assert first.run("hostname").stdout.strip() == first.name != second.run("hostname").stdout.strip()
    assert first.run("pwd").stdout.strip() == str(tmp_path), "the working directory of the caller"
    assert socket.gethostname() not in (first.name, second.name)
    ask = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
    assert first.run(sys.executable, "-c", ask, second.name).stdout.strip() == second.address
    listen = "import socket; s = socket.create_server(('', 7777)); print('up', flush=True); s.accept()"
    call = f"import socket; print(socket.create_connection(('{second.name}', 7777), timeout=10).getsockname()[0])"
    with second.popen(sys.executable, "-c", listen, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "up\n"
        assert first.run(sys.executable, "-c", call).stdout.strip() == first.address
    # Ports are each host's own: nobody listens at the first.
    assert "Connection refused" in second.run(sys.executable, "-c", call.replace(second.name, first.name)).stderr


def test_a_command_fails_with_its_own_exit_code_and_takes_its_arguments_as_they_are(hosts):
    done = hosts[0].run("sh", "-c", 'echo "$1" >&2; exit 7', "sh", "two  words; $HOME")
    assert (done.returncode, done.stderr) == (7, "two  words; $HOME\n")
    done = subprocess.run(f"{hosts[0].prefix} hostname", shell=True, capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == hosts[0].name


def test_a_process_in_a_host_is_the_one_that_was_started(hosts):
    with hosts[0].popen("sleep", "1000") as process:
        eventually(lambda: [p.pid for p in hosts[0].processes() if p.command == "sleep 1000"] == [process.pid])
        assert hosts[1].processes() == []
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_a_cut_loses_nothing_of_a_connection_that_is_healed(hosts):
    with connection(hosts, hosts[0]) as (end, _), connection(hosts, hosts[1]) as (other, _):
        end.sendall(b"before")
        assert end.recv(100) == b"before"
        hosts.cut(hosts[0])
        end.sendall(b"meanwhile")
        other.sendall(b"others are not cut")
        assert other.recv(100) == b"others are not cut"
        end.settimeout(0.5)
        with pytest.raises(TimeoutError):
            end.recv(100)
        hosts.heal(hosts[0])
        end.settimeout(30)
        assert end.recv(100) == b"meanwhile"


def test_a_reset_is_told_to_both_ends(hosts):
    with connection(hosts, hosts[0]) as (end, process), connection(hosts, hosts[1]) as (other, _):
        end.sendall(b"x")
        assert end.recv(100) == b"x"
        hosts.reset(hosts[0])
        with pytest.raises(ConnectionResetError):
            end.recv(100)
        assert process.stdout.readline() == "ConnectionAbortedError\n"
        other.sendall(b"y")
        assert other.recv(100) == b"y"


def test_without_power_all_of_a_host_is_gone_and_nobody_is_told(hosts):
    with connection(hosts, hosts[0]) as (end, process), hosts[1].popen("sleep", "1000") as other:
        hosts.power_off(hosts[0])
        assert process.wait(10) == -signal.SIGKILL
        assert hosts[0].processes() == []
        end.settimeout(0.5)
        with pytest.raises(TimeoutError):
            end.recv(100)
        assert other.poll() is None
        other.kill()


def test_all_goes_with_the_set_also_after_an_exception():
    module.require()
    before = interfaces(), folders()
    with pytest.raises(ZeroDivisionError), Hosts(3) as hosts:
        assert len(interfaces() - before[0]) == 1
        # One that has forgotten its parent, and ignores what can be ignored.
        script = "trap '' TERM HUP INT; while :; do sleep 1000; done"
        left = hosts[1].popen("setsid", "sh", "-c", script)
        eventually(lambda: hosts[1].processes())
        1 / 0  # noqa: B018
    assert left.wait(10) == -signal.SIGKILL
    assert (interfaces(), folders()) == before
    hosts.close()
    assert len(hosts) == 0


def test_a_set_that_cannot_be_made_leaves_nothing(monkeypatch):
    module.require()
    before = interfaces(), folders()
    ip = module._ip

    def fails_late(where, *lines):
        if "eth0" in lines[0]:
            raise RuntimeError("the last step failed")
        ip(where, *lines)

    monkeypatch.setattr(module, "_ip", fails_late)
    with pytest.raises(RuntimeError, match="the last step failed"), Hosts(2):
        pass
    assert (interfaces(), folders()) == before


def test_sets_at_the_same_time_do_not_clash():
    module.require()
    made: list[tuple[str, str]] = []
    together = threading.Barrier(4, timeout=60)

    def make():
        with Hosts(1) as hosts:
            made.append((hosts.head, hosts[0].run("hostname").stdout.strip()))
            together.wait()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({head for head, _ in made}) == len({name for _, name in made}) == 4


def test_hosts_go_with_the_process_that_made_them():
    module.require()
    before, before_folders = interfaces(), folders()
    script = textwrap.dedent(
        """
        import time
        from flowcore.testing.hosts import Hosts
        with Hosts(2) as hosts:
            print(hosts.head, flush=True)
            time.sleep(1000)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        number = process.stdout.readline().split(".")[2]
        started = processes.descendants(process.pid)
        made = interfaces() - before
        process.kill()
    assert f"fc{number}" in made
    assert len(started) >= 3, "one for each host, and the switch's"
    eventually(lambda: all(processes.gone(p.pid) for p in started))
    eventually(lambda: f"fc{number}" not in interfaces())
    eventually(lambda: folders() <= before_folders)


def test_a_number_of_hosts_that_makes_no_sense():
    for count in (0, module.MAX_HOSTS + 1):
        with pytest.raises(ValueError, match=rf"Hosts\({count}\): expected 1 to 200"):
            Hosts(count)


def test_a_machine_without_the_programs_says_which(monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("ip", "ss") else which(name))
    with pytest.raises(RuntimeError, match="no pretend hosts: ip, ss not found: install iproute2"), Hosts(1):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="ip, ss not found"):
        module.require()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="ip, ss not found"):
        module.require()


def test_who_is_not_root_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert module.missing() == "only root can make namespaces and network interfaces"
