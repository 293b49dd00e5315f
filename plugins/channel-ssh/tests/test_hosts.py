"""Several hosts with a network between them that can be cut."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from flowcore_channel_ssh import commands, connection, link

from flowcore.channels import SSHChannel
from flowcore.errors import SSHException
from flowcore.testing import eventually, hosts, sshd
from flowcore.testing.hosts import Hosts
from flowcore.testing.sshd import SSHServers


@pytest.fixture(scope="module")
def network():
    hosts.require()
    sshd.require()
    with Hosts(3) as made, SSHServers(hosts=made) as servers:
        yield made, servers


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def remote_name(request):
    return request.node.name


@pytest.fixture
def to(network):
    """Makes a channel to a host, by its number; it is closed in the end."""
    pretended, servers = network
    made = []

    def channel(number: int, **options: Any) -> SSHChannel:
        given = {
            "username": servers.user,
            "key_filename": str(servers.key),
            "host_keys_filename": str(servers.known_hosts),
            "connect_timeout_s": 5.0,
            "connect_attempts": 2,
            **options,
        }
        made.append(SSHChannel(pretended[number].address, **given))
        return made[-1]

    yield channel
    for each in made:
        each.close()
    eventually(lambda: not servers.processes(), 10, "the end of what runs through the servers")


def test_each_command_runs_on_its_own_host(network, to):
    pretended, _ = network
    for number, host in enumerate(pretended):
        assert to(number).execute_wait("hostname", 30) == (0, f"{host.name}\n", "")


def test_files_go_from_host_to_host(network, to, tmp_path):
    (tmp_path / "f").write_text("text")
    there = to(0).push_file(str(tmp_path / "f"), "~/here")
    assert Path(to(1).pull_file(there, str(tmp_path / "back"))).read_text() == "text"


def test_root_logs_in_too(network, to):
    assert to(0, username="root").execute_wait("id -u", 30)[1] == "0\n"


def test_a_host_that_does_not_answer(network, to):
    pretended, _ = network
    pretended.cut(pretended[0])
    try:
        with pytest.raises(SSHException) as caught:
            to(0, connect_timeout_s=0.3).execute_wait("true", 30)
    finally:
        pretended.heal(pretended[0])
    address = pretended[0].address
    assert f"@{address}:22 did not answer within 0.3 s: is it up, and does no firewall keep {address} from" in str(
        caught.value
    )


def test_a_cut_that_is_short_is_not_noticed(network, to):
    pretended, _ = network
    channel = to(0)
    channel.connect()
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(channel.execute_wait("echo begun; sleep 0.5; echo done", 30)))
    thread.start()
    pretended.cut(pretended[0])
    thread.join(0.4)
    pretended.heal(pretended[0])
    thread.join(30)
    assert said == [(0, "begun\ndone\n", "")]


def test_an_idle_connection_that_was_cut_is_made_again(network, to):
    pretended, servers = network
    channel = to(0, connect_timeout_s=0.4)
    assert channel.execute_wait("true", 30)[0] == 0
    pretended.cut(pretended[0])
    try:
        with pytest.raises(SSHException, match="did not answer within"):
            channel.execute_wait(f"touch {servers.home}/never", 30)
        with pytest.raises(SSHException, match="did not answer within"):
            channel.isdir("~")
    finally:
        pretended.heal(pretended[0])
    assert channel.execute_wait("echo again", 30)[1] == "again\n"
    assert not (servers.home / "never").exists()


def test_a_cut_while_a_command_runs(network, to, monkeypatch, remote_name):
    pretended, servers = network
    monkeypatch.setattr(commands, "KILL_S", 0.3)
    channel = to(0)
    channel.connect()
    told: list[Exception] = []

    def run():
        with pytest.raises(SSHException) as caught:
            channel.execute_wait(f"echo $$ > ~/{remote_name}; sleep 600", 0.7)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    eventually((servers.home / remote_name).exists, 10, "the command")
    pretended.cut(pretended[0])
    try:
        thread.join(30)
        assert (
            f"@{pretended[0].address}:22 does not answer. A command was to be killed after 0.7 s, and will be"
            in str(told[0])
        )
    finally:
        pretended.heal(pretended[0])
    # The host hears that the connection was closed, and the guard kills the command.
    eventually(lambda: not servers.processes(), 20, "the end of the command")
    assert channel.execute_wait("echo again", 30)[1] == "again\n"


def test_a_cut_that_nobody_tells_of_is_noticed(network, to, monkeypatch):
    """A command without a walltime does not wait for a host that is gone."""
    pretended, servers = network
    monkeypatch.setattr(link, "SILENCE_S", 0.3)
    channel = to(0, keepalive_period_s=1.0)
    channel.connect()
    told: list[Exception] = []

    def run():
        with pytest.raises(SSHException) as caught:
            channel.execute_wait("sleep 600", None)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: [p for p in servers.processes() if p.command == "sleep 600"], 10, "the command")
    pretended.cut(pretended[0])
    try:
        thread.join(30)
        assert "(the host hung up, or was silent for too long) while a command ran. It is not run" in str(told[0])
    finally:
        pretended.heal(pretended[0])
        # Its end of the connection hears nothing, as long as it has nothing to say.
        servers[pretended[0].name].drop_connections()


def test_a_reset_connection(network, to):
    pretended, servers = network
    channel = to(1)
    assert channel.execute_wait("true", 30)[0] == 0
    pretended.reset(pretended[1])
    assert channel.execute_wait("echo again", 30)[1] == "again\n"
    told: list[Exception] = []

    def run():
        with pytest.raises(SSHException) as caught:
            channel.execute_wait("sleep 600", None)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: [p for p in servers.processes() if p.command == "sleep 600"], 10, "the command")
    pretended.reset(pretended[1])
    thread.join(30)
    assert "Connection reset by peer) while a command ran" in str(told[0])


def config(tmp_path: Path, servers: SSHServers, text: str) -> str:
    file = tmp_path / "config"
    file.write_text(f"{text}\nHost *\nUser {servers.user}\nIdentityFile {servers.key}\n")
    return str(file)


def test_through_other_hosts(network, to, tmp_path):
    pretended, servers = network
    first, second, third = pretended
    text = f"Host {third.address}\nProxyJump {first.address},root@{second.name}:22"
    channel = to(2, ssh_config_filename=config(tmp_path, servers, text))
    code, stdout, _ = channel.execute_wait('hostname; echo "$SSH_CLIENT"', 30)
    assert code == 0
    assert stdout.startswith(f"{third.name}\n{second.address} ")
    assert channel.close() is True
    eventually(lambda: not servers.processes(), 10, "the end of the connections on the way")


def test_a_way_that_ends_early(network, to, tmp_path):
    pretended, servers = network
    first, _, third = pretended
    text = f"Host {third.address}\nHostName 127.0.0.1\nPort 9\nProxyJump {first.address}"
    with pytest.raises(SSHException) as caught:
        to(2, ssh_config_filename=config(tmp_path, servers, text)).execute_wait("true", 30)
    where = f"flowcore-ssh@{first.address}:22, on the way, did not reach flowcore-ssh@127.0.0.1:9: "
    assert where in str(caught.value)


def test_a_way_in_circles(network, to, tmp_path):
    pretended, servers = network
    first, second, _ = pretended
    text = f"Host {first.address}\nProxyJump {second.address}\nHost {second.address}\nProxyJump {first.address}"
    with pytest.raises(SSHException, match="more than 8 hosts on the way to .*: look for a circle of ProxyJump"):
        to(0, ssh_config_filename=config(tmp_path, servers, text)).execute_wait("true", 30)
