"""What a hostname means, with the user's ssh configuration."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from flowcore_channel_ssh.targets import Target, parse_jump, read_config, resolve

from flowcore.errors import ConfigurationError

CONFIG = """
Host login
  HostName login.example.org
  Port 2222
  User me
  IdentityFile ~/.ssh/cluster
  IdentityFile /keys/%h
  IdentitiesOnly yes
  HostKeyAlias cluster
  UserKnownHostsFile ~/.ssh/cluster_hosts /etc/cluster_hosts
Host inner
  ProxyJump me@login:2200,second
Host piped
  ProxyCommand nc -x proxy %h %p %r
Host *
  User everybody
Match host inner
  HostName inner.example.org
"""


def test_without_a_configuration(tmp_path):
    target = resolve("node1", "")
    assert (target.host, target.port, target.user) == ("node1", 22, getpass.getuser())
    assert target.key_name == "node1"
    home = str(tmp_path / "home" / ".ssh")
    assert target.known_hosts == (f"{home}/known_hosts", f"{home}/known_hosts2", "/etc/ssh/ssh_known_hosts")
    assert (target.identities, target.identities_only, target.proxy_command, target.jumps) == ((), False, None, ())
    assert target.label == f"{getpass.getuser()}@node1:22"
    assert target.command == f"ssh {getpass.getuser()}@node1"


def test_all_that_the_configuration_says(tmp_path):
    home = str(tmp_path / "home" / ".ssh")
    assert resolve("login", CONFIG) == Target(
        name="login",
        host="login.example.org",
        port=2222,
        user="me",
        key_name="cluster",
        known_hosts=(f"{home}/cluster_hosts", "/etc/cluster_hosts", "/etc/ssh/ssh_known_hosts"),
        identities=(f"{home}/cluster", "/keys/login.example.org"),
        identities_only=True,
    )


def test_options_win(tmp_path):
    target = resolve("login", CONFIG, user="you", port=2201, known_hosts="~/mine")
    assert (target.user, target.port, target.host) == ("you", 2201, "login.example.org")
    assert target.known_hosts == (str(tmp_path / "home" / "mine"),)
    assert target.command == "ssh -p 2201 you@login.example.org"
    # They are in what the configuration makes of them, too.
    assert resolve("piped", CONFIG, "you", 2201).proxy_command == "nc -x proxy piped 2201 you"
    assert resolve("piped", CONFIG).proxy_command == "nc -x proxy piped 22 everybody"


def test_a_port_is_in_the_name_of_the_key():
    assert resolve("h", "", port=2222).key_name == "[h]:2222"
    assert resolve("h", "Port 2222").key_name == "[h]:2222"


def test_hosts_on_the_way():
    target = resolve("inner", CONFIG)
    assert (target.host, target.jumps) == ("inner.example.org", ("me@login:2200", "second"))
    assert resolve("x", "Host *\nProxyJump None").jumps == ()
    assert resolve("x", "Host *\nProxyCommand none").proxy_command is None


JUMPS = [
    ("host", ("host", None, 22)),
    ("me@host", ("host", "me", 22)),
    ("me@host:2200", ("host", "me", 2200)),
    ("ssh://me@host:2200/", ("host", "me", 2200)),
    ("[fe80::1]:2200", ("fe80::1", None, 2200)),
]


@pytest.mark.parametrize(("text", "expected"), JUMPS)
def test_entries_of_proxy_jump(text, expected):
    assert parse_jump(text) == expected


@pytest.mark.parametrize("text", ["", "host:", "host:x", "a b:1:2"])
def test_what_is_no_entry_of_proxy_jump(text):
    with pytest.raises(ConfigurationError, match=r"ProxyJump .*: expected \[user@\]host\[:port\]"):
        parse_jump(text)


@pytest.mark.parametrize("text", ["Port many", "Host *\n="])
def test_a_configuration_that_makes_no_sense(text):
    with pytest.raises(ConfigurationError, match="the ssh configuration makes no sense for h: .*; try: ssh -G h"):
        resolve("h", text)


def test_includes(tmp_path):
    ssh = tmp_path / "home" / ".ssh"
    (ssh / "conf.d").mkdir()
    (ssh / "conf.d" / "1").write_text("Host one\n  Port 2201\n")
    (ssh / "conf.d" / "2").write_text("Host two\n  Port 2202\n")
    other = tmp_path / "other"
    other.write_text("Host three\nPort 2203\n")
    (ssh / "config").write_text(f"include conf.d/* none/*\nUser all\nHost four\nInclude = {other}\nPort 2204\n")
    config = read_config("~/.ssh/config")
    ports = {name: resolve(name, config).port for name in ("one", "two", "three", "four", "five")}
    assert ports == {"one": 2201, "two": 2202, "three": 2203, "four": 2204, "five": 22}
    # What stands behind an Include belongs where it stands.
    assert resolve("five", config).user == "all"


def test_no_configuration():
    assert read_config(None) == read_config("~/.ssh/config") == ""


def test_files_that_include_themselves(tmp_path):
    file = tmp_path / "config"
    file.write_text(f"Include {file}\n")
    with pytest.raises(ConfigurationError, match=f"{file}: files that include each other more than 16 deep"):
        read_config(str(file))


def test_a_configuration_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="the ssh configuration .* cannot be read: .*Is a directory"):
        read_config(str(tmp_path))
