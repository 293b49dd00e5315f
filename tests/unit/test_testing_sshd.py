"""Real ssh servers: each lets in whom it should, they can be stopped and changed, and nothing of them stays."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from flowcore.testing import processes, sshd
from flowcore.testing.hosts import Hosts
from flowcore.testing.hosts import require as require_hosts
from flowcore.testing.sshd import SSHServer, SSHServers
from flowcore.testing.waiting import eventually


@pytest.fixture
def servers():
    sshd.require()
    with SSHServers("key") as made:
        yield made


def folders():
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("flowcore-sshd-")}


def ssh(servers: SSHServers, server: SSHServer, *command: str, key: Path | None = None, user: str = "") -> list[str]:
    """A command line of OpenSSH's client."""
    options = {
        "UserKnownHostsFile": servers.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": key or servers.key,
    }
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return [
        *("ssh", "-F", "none", *given, "-p", str(server.port), f"{user or servers.user}@{server.address}"),
        *command,
    ]


def run(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(ssh(*arguments, **options), capture_output=True, text=True, timeout=30)


def test_each_server_takes_what_its_name_says():
    sshd.require()
    with SSHServers() as servers:
        assert set(servers) == {"key", "password", "interactive", "two-factor", "none"}
        takes = {}
        for name, server in servers.items():
            done = run(servers, server, "true", key=Path("/dev/null"))
            takes[name] = done.stderr.strip().rpartition(": ")[2] if done.returncode else "everybody"
        assert takes == {
            "key": "Permission denied (publickey).",
            "password": "Permission denied (password).",
            "interactive": "Permission denied (keyboard-interactive).",
            "two-factor": "Permission denied (publickey).",
            "none": "everybody",
        }
        assert run(servers, servers["two-factor"], "true").stderr.endswith("(keyboard-interactive).\n")


def test_the_user_and_root_log_in_with_the_key(servers):
    server = servers["key"]
    done = run(servers, server, "id -un; pwd; echo $0")
    assert done.stdout == f"{servers.user}\n{servers.home}\nbash\n", done.stderr
    assert run(servers, server, "id -un", user="root").stdout == "root\n"
    with pytest.raises(KeyError):
        pwd.getpwnam(servers.user)
    assert servers.user not in Path("/etc/shadow").read_text()


def test_keys(servers):
    server = servers["key"]
    assert run(servers, server, "echo in", key=servers.new_key("ecdsa")).stdout == "in\n"
    assert "Permission denied" in run(servers, server, "true", key=servers.new_key(accepted=False)).stderr
    encrypted = servers.new_key("rsa", passphrase="opens it")
    assert "Permission denied" in run(servers, server, "true", key=encrypted).stderr
    opened = ["ssh-keygen", "-y", "-P", "opens it", "-f", encrypted]
    assert subprocess.run(opened, capture_output=True, timeout=30).returncode == 0


def test_a_server_that_is_stopped_and_started(servers):
    server = servers["key"]
    server.stop()
    done = run(servers, server, "true")
    assert "Connection refused" in done.stderr
    server.stop()
    server.start()
    assert run(servers, server, "echo back").stdout == "back\n"
    assert f"Accepted publickey for {servers.user}" in server.log


def test_connections_can_be_dropped(servers):
    server = servers["key"]
    with subprocess.Popen(ssh(servers, server, "echo up; sleep 1000"), stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "up\n"
        assert [p.command for p in server.connections()] == [
            f"sshd: {servers.user} [priv]",
            f"sshd: {servers.user}@notty",
        ]
        server.drop_connections()
        assert client.wait(10) == 255
    assert server.connections() == []
    # What it ran is nobody's child now, and is found nevertheless.
    assert {p.command for p in servers.processes()} >= {"sleep 1000"}
    assert run(servers, server, "echo listens").stdout == "listens\n"


def test_a_host_key_that_changes(servers):
    server = servers["key"]
    before = server.fingerprint()
    server.change_host_key()
    assert server.fingerprint() != before
    done = run(servers, server, "true")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert done.returncode == 255


def test_a_server_in_each_host():
    sshd.require()
    require_hosts()
    with Hosts(2) as hosts, SSHServers("none", hosts=hosts) as servers:
        assert list(servers) == ["none", hosts[0].name, hosts[1].name]
        for host in hosts:
            server = servers[host.name]
            assert (server.address, server.port) == (host.address, 22)
            assert run(servers, server, "hostname").stdout == f"{host.name}\n"
        # From host to host, by name.
        command = ssh(servers, servers[hosts[1].name], "hostname")
        command = [part.replace(hosts[1].address, hosts[1].name) for part in command]
        assert hosts[0].run(*command).stdout == f"{hosts[1].name}\n"


def test_all_goes_with_the_set_also_after_an_exception():
    sshd.require()
    before = folders()
    users = Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text()
    with pytest.raises(ZeroDivisionError), SSHServers("key") as servers:
        # One that has forgotten its parent, and ignores what can be ignored.
        script = "trap '' TERM HUP INT; while :; do sleep 1000; done"
        started = run(servers, servers["key"], f'setsid bash -c "{script}" >/dev/null 2>&1 & echo $!')
        pid = int(started.stdout)
        eventually(lambda: processes.alive(pid), 10)
        1 / 0  # noqa: B018
    assert processes.gone(pid)
    assert folders() == before
    assert not [p for p in processes.everyone() if str(servers.home.parent) in p.command]
    assert (Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text()) == users
    servers.close()
    assert len(servers) == 0


def test_servers_that_do_not_start_leave_nothing(monkeypatch):
    sshd.require()
    before = folders()
    monkeypatch.setattr(sshd, "_CONFIGURATION", "NoSuchWord {address}{port}{folder}{name}{mark}{authentication}\n")
    with pytest.raises(RuntimeError, match=r"does not start: .*(?s:.*)Bad configuration option: NoSuchWord"):
        SSHServers("key").__enter__()
    assert folders() == before


def test_servers_go_with_the_process_that_made_them():
    sshd.require()
    before = folders()
    script = textwrap.dedent(
        """
        import time
        from flowcore.testing.sshd import SSHServers
        with SSHServers("key", "password") as servers:
            print(servers.home.parent, flush=True)
            time.sleep(1000)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        folder = process.stdout.readline().strip()
        listening = [p for p in processes.everyone() if f"sshd -f {folder}/" in p.command]
        process.send_signal(signal.SIGKILL)
    assert len(listening) == 2
    eventually(lambda: all(processes.gone(p.pid) for p in listening))
    eventually(lambda: folders() <= before)


def test_an_authentication_that_is_not_known():
    with pytest.raises(ValueError, match="unknown: fingers; known: key, password, interactive, two-factor, none"):
        SSHServers("key", "fingers")


def test_a_machine_without_the_programs_says_which(monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **options: None if name == "sshd" else which(name, **options))
    with pytest.raises(RuntimeError, match="no ssh servers: sshd not found: install openssh-server"), SSHServers():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="sshd not found"):
        sshd.require()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="sshd not found"):
        sshd.require()


def test_who_is_not_root_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, **options: name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert sshd.missing() == "only root can start servers that let in others"
