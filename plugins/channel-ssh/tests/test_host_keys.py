"""A host that is not the one it should be gets nothing, and the user is told what to do."""

from __future__ import annotations

from typing import Any

import pytest

from flowcore.errors import BadHostKeyException


def refusal(channel: Any) -> str:
    with pytest.raises(BadHostKeyException) as caught:
        channel.execute_wait("true", 30)
    assert str(caught.value).startswith("channel to 127.0.0.1: the server's host key could not be verified (")
    return str(caught.value)


def test_a_host_that_is_not_known(servers, make, tmp_path):
    server = servers["key"]
    file = tmp_path / "known_hosts"
    text = refusal(make(servers, host_keys_filename=str(file), key_filename=str(servers.key)))
    assert f"flowcore-ssh@127.0.0.1:{server.port} shows a host key " in text
    assert server.fingerprint() in text or server.fingerprint("ecdsa") in text
    assert f"which is not known ({file} have no key of [127.0.0.1]:{server.port})" in text
    assert f"then add it: ssh-keyscan -p {server.port} 127.0.0.1 >> {file}" in text
    assert not file.exists()
    assert "Accepted" not in server.log.splitlines()[-1], "nobody was logged in"


def test_the_users_own_file_is_asked(servers, make, tmp_path):
    options = {"host_keys_filename": None, "key_filename": str(servers.key)}
    ssh = tmp_path / "home" / ".ssh"
    assert f"({ssh}/known_hosts and {ssh}/known_hosts2 and " in refusal(make(servers, **options))
    (ssh / "known_hosts").write_text(servers.known_hosts.read_text())
    assert make(servers, **options).execute_wait("true", 30)[0] == 0


def test_unknown_keys_can_be_added(servers, make, tmp_path):
    file = tmp_path / "new" / "known_hosts"
    options = {"host_keys_filename": str(file), "key_filename": str(servers.key)}
    assert make(servers, unknown_host_keys="add", **options).execute_wait("true", 30)[0] == 0
    assert file.read_text().startswith(f"[127.0.0.1]:{servers['key'].port} ")
    assert make(servers, **options).execute_wait("true", 30)[0] == 0
    assert len(file.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_added_to(servers, make, tmp_path):
    (tmp_path / "file").touch()
    channel = make(servers, host_keys_filename=str(tmp_path / "file" / "known"), unknown_host_keys="add")
    assert f"Not a directory: '{tmp_path}/file/known'" in refusal(channel)
    channel = make(servers, host_keys_filename="/proc/none/known", unknown_host_keys="add")
    assert "which cannot be added to /proc/none/known: No such file or directory" in refusal(channel)


@pytest.mark.parametrize("policy", ["add", "accept"])
def test_a_key_that_has_changed_is_never_accepted(own_servers, make, policy):
    server = own_servers["key"]
    before = own_servers.known_hosts.read_text()
    old = {server.fingerprint(), server.fingerprint("ecdsa")}
    channel = make(own_servers, key_filename=str(own_servers.key), unknown_host_keys=policy)
    assert channel.execute_wait("true", 30)[0] == 0
    server.change_host_key()
    text = refusal(channel)
    new = {server.fingerprint(), server.fingerprint("ecdsa")}
    assert any(fingerprint in text for fingerprint in old)
    assert any(fingerprint in text for fingerprint in new)
    assert f"but {own_servers.known_hosts} line 1 has ssh-ed25519 " in text
    assert "for it: somebody may be in between. Ask those who run the host;" in text
    assert f"(ssh-keygen -R '[127.0.0.1]:{server.port}' -f {own_servers.known_hosts})" in text
    assert own_servers.known_hosts.read_text() == before


def test_what_was_accepted_once_must_stay(own_servers, make, tmp_path):
    server = own_servers["key"]
    channel = make(
        own_servers,
        key_filename=str(own_servers.key),
        host_keys_filename=str(tmp_path / "none"),
        unknown_host_keys="accept",
    )
    assert channel.execute_wait("true", 30)[0] == 0
    channel.close()
    assert channel.execute_wait("true", 30)[0] == 0
    assert not (tmp_path / "none").exists()
    old = {server.fingerprint(), server.fingerprint("ecdsa")}
    server.change_host_key()
    text = refusal(channel)
    assert any(f"but had {fingerprint} before: somebody may be in between" in text for fingerprint in old)


def test_a_revoked_key(servers, make, tmp_path):
    file = tmp_path / "known_hosts"
    lines = servers.known_hosts.read_text()
    revoked = "".join(f"@revoked * {line.split(' ', 1)[1]}\n" for line in lines.splitlines())
    file.write_text(lines + revoked)
    text = refusal(make(servers, host_keys_filename=str(file), unknown_host_keys="accept"))
    assert f"which {file} line " in text
    assert "has revoked: this may be somebody else who has that key" in text


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_the_server_is_asked_for_the_key_that_is_known(servers, make, tmp_path, kind):
    file = tmp_path / "known_hosts"
    file.write_text(
        "".join(f"{line}\n" for line in servers.known_hosts.read_text().splitlines() if f" {kind} " in line)
    )
    channel = make(servers, host_keys_filename=str(file), key_filename=str(servers.key))
    assert channel.execute_wait("true", 30)[0] == 0


def test_a_host_by_its_alias(servers, make, tmp_path):
    lines = [line for line in servers.known_hosts.read_text().splitlines() if f":{servers['key'].port} " in line]
    (tmp_path / "known_hosts").write_text("".join(f"cluster {line.split(' ', 1)[1]}\n" for line in lines))
    (tmp_path / "home" / ".ssh" / "config").write_text("HostKeyAlias cluster\n")
    options = {"host_keys_filename": str(tmp_path / "known_hosts"), "key_filename": str(servers.key)}
    assert make(servers, **options).execute_wait("true", 30)[0] == 0
