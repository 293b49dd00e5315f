"""Connections that break, servers that are gone: what was not started is done again, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flowcore_channel_ssh import connection
from flowcore_channel_ssh.link import closed_after

from flowcore.channels import SSHChannel
from flowcore.errors import SSHException
from flowcore.testing import eventually, processes


@pytest.fixture
def channel(own_servers, make):
    return make(own_servers, key_filename=str(own_servers.key))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.01)


class Running:
    """A command in a thread of its own, which writes a line when it starts."""

    def __init__(self, channel: Any, folder: Path, walltime: float | None = None) -> None:
        self.outcome: Any = None
        self.starts = folder / "starts"
        self.starts.touch(0o666)
        self.starts.chmod(0o666)
        self._thread = threading.Thread(target=self._run, args=(channel, walltime))
        self._thread.start()
        eventually(self.starts.read_text, 10, "the command")

    def _run(self, channel, walltime):
        try:
            self.outcome = channel.execute_wait(f"echo started >> {self.starts}; sleep 600", walltime)
        except SSHException as error:
            self.outcome = error

    def end(self):
        self._thread.join(30)
        assert self.outcome is not None
        return self.outcome


def test_a_dropped_connection_is_made_again(own_servers, channel, tmp_path, caplog):
    caplog.set_level("INFO", "flowcore.channels.ssh")
    starts = own_servers.home / "starts"
    for _ in range(3):
        assert channel.execute_wait(f"echo started >> {starts}", 30)[0] == 0
        own_servers["key"].drop_connections()
    assert starts.read_text() == "started\n" * 3
    assert caplog.text.count("connected to flowcore-ssh@127.0.0.1:") == 3
    assert channel.isdir("~") is True
    own_servers["key"].drop_connections()
    assert channel.isdir("~") is True


def test_a_command_whose_connection_drops_is_not_run_again(own_servers, channel):
    running = Running(channel, own_servers.home)
    own_servers["key"].drop_connections()
    text = str(running.end())
    assert f"the connection to flowcore-ssh@127.0.0.1:{own_servers['key'].port} was lost (" in text
    assert "while a command ran. It is not run again, since it may have had its effect; what is left of it is" in text
    assert text.endswith(f"killed: echo started >> {running.starts}; sleep 600)")
    eventually(lambda: not own_servers.processes(), 10, "the end of the command")
    assert channel.execute_wait("echo again", 30)[1] == "again\n"
    assert running.starts.read_text() == "started\n"


def test_closing_from_another_thread_ends_a_command(own_servers, channel):
    running = Running(channel, own_servers.home)
    assert channel.close() is True
    assert "while a command ran" in str(running.end())
    eventually(lambda: not own_servers.processes(), 10, "the end of the command")
    assert channel.close() is False
    assert channel.execute_wait("echo again", 30)[1] == "again\n"


def test_a_copy_whose_connection_drops_is_made_again(own_servers, channel, tmp_path, monkeypatch):
    copy = shutil.copyfileobj
    drops = [own_servers["key"].drop_connections]

    def drop(source, target, size):
        target.write(source.read(2))
        if drops:
            drops.pop()()
        copy(source, target, size)

    (tmp_path / "f").write_text("the whole text")
    monkeypatch.setattr(shutil, "copyfileobj", drop)
    there = Path(channel.push_file(str(tmp_path / "f"), "~/scripts"))
    assert there.read_text() == "the whole text"
    assert list(there.parent.iterdir()) == [there], "the half one is gone, too"


def test_folders_are_not_made_twice(own_servers, channel, monkeypatch):
    from flowcore_channel_ssh.files import Files

    make = Files.make

    def drop(self, folders, mode):
        make(self, folders, mode)
        own_servers["key"].drop_connections()
        self.absolute("~")

    monkeypatch.setattr(Files, "make", drop)
    with pytest.raises(SSHException, match="the connection to .* was lost"):
        channel.makedirs("~/new")
    monkeypatch.undo()
    assert channel.isdir("~/new")


def test_a_server_that_comes_back(own_servers, channel, monkeypatch):
    server = own_servers["key"]
    assert channel.execute_wait("true", 30)[0] == 0
    server.stop()
    with pytest.raises(SSHException) as caught:
        channel.execute_wait("true", 30)
    assert (
        f"flowcore-ssh@127.0.0.1:{server.port} was not reached (Connection refused): does an ssh server listen at port "
        f"{server.port}? Look whether this works: ssh -p {server.port} flowcore-ssh@127.0.0.1"
    ) in str(caught.value)
    assert channel.close() is False
    server.start()
    assert channel.execute_wait("echo again", 30)[1] == "again\n"


def test_nothing_is_printed():
    """What fails is raised, and not printed as well."""
    script = (
        "from flowcore.channels import SSHChannel\n"
        "try: SSHChannel('127.0.0.1', port=9, connect_attempts=1, ssh_config_filename=sys.argv[1]).connect()\n"
        "except Exception as error: print(error)\n"
    )
    Path("config").write_text("ProxyCommand echo no ssh here\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{script}", "config"], capture_output=True, text=True, timeout=30
    )
    assert "answers, but not as an ssh server does" in done.stdout
    assert done.stderr == ""


def test_a_host_that_is_nowhere():
    channel = SSHChannel("no-such-host.invalid", connect_attempts=1)
    with pytest.raises(
        SSHException, match=r"there is no host 'no-such-host.invalid' \(.*\): check the option hostname"
    ):
        channel.execute_wait("true", 30)


def test_a_server_of_something_else():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            for _ in range(2):
                with server.accept()[0] as connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        thread = threading.Thread(target=talk)
        thread.start()
        port = server.getsockname()[1]
        channel = SSHChannel("127.0.0.1", "me", port=port, connect_attempts=2)
        with pytest.raises(SSHException, match=f"me@127.0.0.1:{port} answers, but not as an ssh server does"):
            channel.execute_wait("true", 30)
        thread.join(10)


def test_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        channel = SSHChannel("127.0.0.1", "me", port=port, connect_attempts=1, connect_timeout_s=0.3)
        with pytest.raises(SSHException, match="answers, but not as an ssh server does .*is it not overloaded"):
            channel.execute_wait("true", 30)


def test_a_server_that_hangs_up_after_its_greeting():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-short\r\n")
                connection.recv(100)

        thread = threading.Thread(target=talk)
        thread.start()
        channel = SSHChannel("127.0.0.1", "me", port=server.getsockname()[1], connect_attempts=1)
        with pytest.raises(SSHException, match="answers, but not as an ssh server does"):
            channel.execute_wait("true", 30)
        thread.join(10)


def test_too_many_sessions(own_servers, channel):
    link = channel._connection._get(channel._connection._closed)
    sessions = [link.session() for _ in range(10)]
    with pytest.raises(SSHException, match=r"refuses a further session on this connection \(.*\): its MaxSessions"):
        channel.execute_wait("true", 30)
    for session in sessions:
        session.close()
    eventually(lambda: channel.execute_wait("true", 30)[0] == 0, 10)


def test_a_server_that_does_not_answer_within_a_session(own_servers, make):
    """It is stopped like a host that has no memory left: it takes packets, and says nothing."""
    channel = make(own_servers, key_filename=str(own_servers.key), connect_timeout_s=0.5, connect_attempts=1)
    assert channel.execute_wait("true", 30)[0] == 0
    frozen = [*own_servers["key"].connections(), *own_servers["key"]._listeners(processes.everyone())]
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SSHException, match="answers, but not as an ssh server does"):
            channel.execute_wait(f"touch {own_servers.home}/never", 30)
    finally:
        for process in frozen:
            os.kill(process.pid, signal.SIGCONT)
    assert channel.execute_wait("echo again", 30)[1] == "again\n"
    assert not (own_servers.home / "never").exists()


def test_a_session_that_does_not_answer():
    class Silent:
        def __init__(self):
            self.over = threading.Event()
            self.close = self.over.set

    silent = Silent()
    with pytest.raises(TimeoutError, match="no answer within 0.05 s"), closed_after(0.05, silent):
        assert silent.over.wait(10)
    with closed_after(10, silent):
        pass


def test_commands_through_a_proxy_command(own_servers, make, tmp_path):
    server = own_servers["key"]
    relay = (
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    (tmp_path / "relay.py").write_text(relay)
    config = tmp_path / "config"
    config.write_text(f"HostName behind\nHostKeyAlias {server.host_key_name}\nProxyCommand ")
    with config.open("a") as file:
        file.write(f"{sys.executable} {tmp_path}/relay.py 127.0.0.1 %p\n")
    channel = make(own_servers, key_filename=str(own_servers.key), ssh_config_filename=str(config))
    assert channel.execute_wait("echo through", 30)[1] == "through\n"
    server.drop_connections()
    assert channel.execute_wait("echo again", 30)[1] == "again\n"
    # That no relay is left is what the fixture of every test checks.


def test_a_proxy_command_that_fails(own_servers, make, tmp_path):
    (tmp_path / "config").write_text("ProxyCommand sh -c 'echo no way to %h >&2; exit 1'\n")
    channel = make(own_servers, ssh_config_filename=str(tmp_path / "config"), connect_attempts=1)
    with pytest.raises(SSHException) as caught:
        channel.execute_wait("true", 30)
    assert "the ProxyCommand is: sh -c 'echo no way to 127.0.0.1 >&2; exit 1', and said: no way to 127.0.0.1" in str(
        caught.value
    )
