"""Logging in, in each way that OpenSSH knows, and what is said when nobody is let in."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import paramiko
import pytest
from flowcore_channel_ssh import auth
from flowcore_channel_ssh.auth import Credentials, Refused, authenticate, load_key
from flowcore_channel_ssh.targets import resolve

from flowcore.channels import OAuthSSHChannel, SSHChannel, SSHInteractiveLoginChannel
from flowcore.errors import AuthException, OptionalModuleMissing
from flowcore.testing import eventually
from flowcore.testing.servers import need


def logs_in(channel: Any) -> bool:
    code, stdout, stderr = channel.execute_wait("id -un", 30)
    assert code == 0, stderr
    return stdout == "flowcore-ssh\n"


def refusal(channel: Any) -> str:
    with pytest.raises(AuthException) as caught:
        channel.execute_wait("true", 30)
    assert caught.value.hostname == "127.0.0.1"
    return str(caught.value)


# --- keys


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_each_type(servers, make, kind):
    assert logs_in(make(servers, key_filename=str(servers.new_key(kind))))


def test_of_several_keys_the_one_that_is_accepted(servers, make):
    other = servers.new_key(accepted=False)
    assert logs_in(make(servers, key_filename=[str(other), str(servers.key)]))


def test_a_key_that_is_not_accepted(servers, make):
    key = servers.new_key(accepted=False)
    text = refusal(make(servers, key_filename=str(key)))
    assert f"flowcore-ssh@127.0.0.1:{servers['key'].port} did not let us in; it takes: publickey; tried: " in text
    assert f"key {key} (SHA256:" in text
    assert "): refused. Have the key accepted there, in ~/.ssh/authorized_keys, and look whether this works:" in text
    assert f"ssh -p {servers['key'].port} flowcore-ssh@127.0.0.1" in text


def test_without_any_key(servers, make):
    text = refusal(make(servers, password="secret"))
    assert "it takes: publickey; there was nothing of that to try. Name a key with key_filename=, or have it" in text


def test_files_of_keys_that_are_none(servers, make, tmp_path):
    (tmp_path / "text").write_text("no key")
    text = refusal(make(servers, key_filename=[str(tmp_path / "none"), str(tmp_path / "text"), str(tmp_path)]))
    assert f"key {tmp_path}/none: there is no such file" in text
    assert f"key {tmp_path}/text: it is no private key that can be used (" in text
    assert f"key {tmp_path}: [Errno 21] Is a directory" in text


def test_encrypted_keys(servers, make):
    key = str(servers.new_key(passphrase="opens it"))
    assert logs_in(make(servers, key_filename=key, passphrase="opens it"))
    assert logs_in(make(servers, key_filename=key, password="opens it"))
    # A passphrase does not harm a key that needs none.
    assert logs_in(make(servers, key_filename=str(servers.key), passphrase="opens it"))
    text = refusal(make(servers, key_filename=key))
    assert f"key {key}: it is encrypted: give passphrase=, or have it in the agent: ssh-add {key}" in text
    text = refusal(make(servers, key_filename=key, passphrase="does not"))
    assert f"key {key}: it is encrypted, and with another passphrase" in text
    assert "does not" not in text


def test_encrypted_keys_in_the_older_format(servers):
    key = str(servers.new_key("rsa", passphrase="opens it"))
    convert = ["ssh-keygen", "-p", "-m", "PEM", "-P", "opens it", "-N", "opens it", "-f", key]
    subprocess.run(convert, check=True, capture_output=True, timeout=20)
    assert load_key(key, "opens it").get_name() == "ssh-rsa"
    with pytest.raises(ValueError, match="give passphrase="):
        load_key(key, None)
    with pytest.raises(ValueError, match="with another passphrase"):
        load_key(key, "does not")


def test_the_default_keys(servers, make, tmp_path):
    shutil.copy(servers.new_key(accepted=False), tmp_path / "home" / ".ssh" / "id_ed25519")
    shutil.copy(servers.new_key("ecdsa"), tmp_path / "home" / ".ssh" / "id_ecdsa")
    assert logs_in(make(servers, password=None))


def test_keys_and_user_of_the_configuration(servers, make, tmp_path):
    (tmp_path / "home" / ".ssh" / "config").write_text(f"User {servers.user}\nIdentityFile {servers.key}\n")
    assert logs_in(make(servers, username=None))
    assert "there was nothing of that to try" in refusal(make(servers, ssh_config_filename=None))


@pytest.fixture
def agent(tmp_path, monkeypatch):
    need("ssh-agent", "ssh-add")
    socket = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        eventually(socket.exists, 10, "the agent")
        yield
        process.terminate()


def test_keys_of_the_agent(servers, make, agent, tmp_path):
    for key in (servers.new_key(accepted=False), servers.new_key()):
        subprocess.run(["ssh-add", "-q", key], check=True, timeout=20)
        key.unlink()
    assert logs_in(make(servers, password=None))
    (tmp_path / "home" / ".ssh" / "config").write_text("IdentitiesOnly yes\n")
    assert "there was nothing of that to try" in refusal(make(servers, password=None))


def test_a_key_of_a_file_is_not_shown_again_from_the_agent(servers, make, agent):
    key = servers.new_key(accepted=False)
    subprocess.run(["ssh-add", "-q", key], check=True, timeout=20)
    assert refusal(make(servers, key_filename=str(key))).count("SHA256:") == 1


def test_an_agent_that_is_none(servers, make, tmp_path, monkeypatch):
    (tmp_path / "agent").touch()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    assert logs_in(make(servers, key_filename=str(servers.key)))
    text = refusal(make(servers, password=None))
    assert f"tried: the agent at {tmp_path}/agent: Connection refused. Name a key with key_filename=" in text


def test_a_server_that_has_enough(servers, make):
    keys = [str(servers.new_key(accepted=False)) for _ in range(7)]
    text = refusal(make(servers, key_filename=keys))
    assert text.count(": refused") == 5
    assert "Then it closed the connection" in text


# --- passwords and questions


def test_passwords(servers, make):
    assert logs_in(make(servers, "password", password=servers.password))
    text = refusal(make(servers, "password", password="not this one"))
    assert "it takes: password; tried: the password: refused" in text
    text = refusal(make(servers, "password", key_filename=str(servers.key)))
    assert "it takes: password; there was nothing of that to try. Give password=" in text


def test_a_password_answers_the_question_for_one(servers, make):
    assert logs_in(make(servers, "interactive", password=servers.password))
    text = refusal(make(servers, "interactive", password="not this one"))
    assert "it takes: keyboard-interactive; tried: answers to its questions: " in text


def test_two_factors(servers, make):
    key = str(servers.key)
    assert logs_in(make(servers, "two-factor", key_filename=key, password=servers.password))
    text = refusal(make(servers, "two-factor", key_filename=key))
    assert "it takes: keyboard-interactive; there was nothing of that to try. Give password=; or use " in text
    assert "SSHInteractiveLoginChannel, which puts the server's questions to you" in text


def test_questions_to_the_user(servers, make):
    asked = []

    def prompt(text, echo):
        asked.append((text, echo))
        return servers.password

    channel = make(servers, "two-factor", SSHInteractiveLoginChannel, key_filename=str(servers.key), prompt=prompt)
    channel.connect()
    assert asked == [(f"flowcore-ssh@127.0.0.1:{servers['two-factor'].port}: Password: ", False)]
    assert logs_in(channel)
    assert len(asked) == 1
    assert channel.close() is True


def test_a_password_that_is_given_is_not_asked_for(servers, make):
    def prompt(text, echo):
        raise AssertionError(text)

    assert logs_in(make(servers, "interactive", SSHInteractiveLoginChannel, password=servers.password, prompt=prompt))


def test_a_prompt_that_fails(servers, make):
    def prompt(text, echo):
        raise RuntimeError("nobody is here")

    text = refusal(make(servers, "interactive", SSHInteractiveLoginChannel, prompt=prompt))
    assert "tried: answers to its questions: prompt failed with RuntimeError: nobody is here" in text


class FakeTransport:
    """Takes what it is told to, in the order of factors."""

    def __init__(self, *factors: str, questions: list[list[tuple[str, bool]]] | None = None) -> None:
        self.left = list(factors)
        self.questions = questions or []
        self.got: list[Any] = []

    def is_authenticated(self):
        return not self.left

    def is_active(self):
        return True

    def auth_none(self, user):
        raise paramiko.BadAuthenticationType("", self.left[:1])

    def _passed(self, *got):
        self.got.append(got)
        del self.left[0]
        return self.left[:1]

    def auth_password(self, user, password, fallback):
        return self._passed(user, password)

    def auth_gssapi_with_mic(self, user, host, delegate):
        return self._passed(user, host, delegate)

    def auth_interactive(self, user, handler):
        answers = [handler("Title", " Read this. ", prompts) for prompts in self.questions]
        if "" in (answer for each in answers for answer in each):
            raise paramiko.AuthenticationException("Authentication failed.")
        return self._passed(answers)


def log_in(transport: FakeTransport, **options: Any) -> str:
    return authenticate(transport, resolve("h", "", "me"), Credentials(keys=(), **options))


def test_several_questions_in_several_rounds():
    asked = []

    def ask(text, prompt, echo):
        asked.append((text, prompt, echo))
        return f"answer {len(asked)}"

    transport = FakeTransport(
        "keyboard-interactive", questions=[[("Password: ", False)], [("Code: ", True), ("PIN: ", False)], []]
    )
    assert log_in(transport, ask=ask, password="secret") == "answers to its questions"
    assert transport.got == [([["secret"], ["answer 1", "answer 2"], []],)]
    said = "me@h:22: Title\nRead this.\n"
    assert asked == [(said, "Code: ", True), (said, "PIN: ", False)]


def test_a_question_for_which_nobody_is_there():
    transport = FakeTransport("keyboard-interactive", questions=[[("Password: ", False)], [("Code: ", True)]])
    with pytest.raises(Refused, match="answers to its questions: it asks 'Code:', and there is nobody to answer"):
        log_in(transport, password="secret")


def test_a_password_that_was_refused_is_not_shown_again():
    class Refuses(FakeTransport):
        def auth_none(self, user):
            raise paramiko.BadAuthenticationType("", ["password", "keyboard-interactive"])

        def auth_password(self, user, password, fallback):
            self.got.append(password)
            raise paramiko.AuthenticationException("Authentication failed.")

    transport = Refuses("password", questions=[[("Password: ", False)]])
    with pytest.raises(Refused, match="tried: the password: refused"):
        log_in(transport, password="secret")
    assert transport.got == ["secret"]


def test_a_server_that_does_not_take_what_it_said_it_would():
    class Lies(FakeTransport):
        def auth_password(self, user, password, fallback):
            raise paramiko.BadAuthenticationType("Bad authentication type", ["publickey"])

    with pytest.raises(Refused, match="tried: the password: it takes no such thing"):
        log_in(Lies("password"), password="secret")


# --- others


def test_a_host_that_lets_in_everybody(servers, make):
    assert logs_in(make(servers, "none", skip_auth=True))
    assert logs_in(make(servers, "none", password="not asked for"))
    text = refusal(make(servers, "key", skip_auth=True, key_filename=str(servers.key)))
    assert "it takes: publickey; skip_auth=True shows it nothing: leave that out" in text


def test_gssapi_that_cannot_be_had():
    with pytest.raises(OptionalModuleMissing) as caught:
        SSHChannel("h", gssapi_auth=True)
    assert "missing gssapi" in str(caught.value)
    assert f"(here: {paramiko.__version__}): pip install 'flowcore-channel-ssh[gssapi]'" in str(caught.value)


def test_gssapi_is_passed_on():
    transport = FakeTransport("gssapi-with-mic", "password")
    assert log_in(transport, gssapi=True, password="secret") == "GSSAPI, then the password"
    assert transport.got == [("me", "h", False), ("me", "secret")]


def test_a_token_is_the_answer(servers, make):
    def fresh():
        return servers.password

    for server in ("interactive", "password"):
        assert logs_in(make(servers, server, OAuthSSHChannel, token=fresh))
    text = refusal(make(servers, "interactive", OAuthSSHChannel, token="another"))
    assert "tried: answers to its questions" in text
    # Keys are not shown: it is for hosts that take tokens.
    shutil.copy(servers.key, Path("home", ".ssh", "id_ed25519"))
    assert "it takes: publickey; there was nothing of that to try" in refusal(
        make(servers, "key", OAuthSSHChannel, token="t")
    )


# --- secrets


def test_hosts_on_the_way_get_no_password():
    shown = Credentials(keys=("k",), passphrase="p", password="secret", nothing=True).of_jump()
    assert (shown.keys, shown.passphrase, shown.password, shown.nothing) == ((), "p", None, False)
    assert "secret" not in repr(Credentials(password="secret", passphrase="secret"))


def test_no_secret_is_told(servers, make, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "paramiko")
    wrong = "wrong-secret"
    texts = []
    for server in ("password", "interactive", "two-factor"):
        channel = make(servers, server, password=servers.password, passphrase="phrase", key_filename=str(servers.key))
        assert logs_in(channel)
        texts.append(repr(channel))
        texts.append(refusal(make(servers, server, password=wrong, key_filename=str(servers.key))))
    channel = make(servers, "interactive", OAuthSSHChannel, token=servers.password)
    assert logs_in(channel)
    texts += [repr(channel), refusal(make(servers, "interactive", OAuthSSHChannel, token=wrong)), caplog.text]
    assert "Authentication (keyboard-interactive) successful!" in caplog.text, "paramiko's log was looked at"
    for secret in (servers.password, wrong, "phrase"):
        assert all(secret not in text for text in texts)


def test_a_server_that_hangs_up_instead_of_answering():
    class HangsUp(FakeTransport):
        def auth_none(self, user):
            raise paramiko.AuthenticationException("Authentication failed: transport shut down or saw EOF")

    with pytest.raises(auth.Hangup, match="saw EOF"):
        log_in(HangsUp("password"), password="x")


def test_a_secret_is_not_shown_to_a_server_that_hung_up_on_it():
    class HangsUp(FakeTransport):
        def is_active(self):
            return False

        def auth_password(self, user, password, fallback):
            raise paramiko.AuthenticationException("Authentication failed: transport shut down or saw EOF")

    with pytest.raises(Refused, match="tried: the password: .* saw EOF.* Then it closed the connection"):
        log_in(HangsUp("password"), password="x")


def test_a_file_of_a_key_that_may_not_be_read(monkeypatch, tmp_path):
    def refuse(*args: Any) -> Any:
        raise PermissionError(13, os.strerror(13), "key")

    monkeypatch.setattr(paramiko.PKey, "from_path", refuse)
    with pytest.raises(PermissionError):
        load_key("key", "passphrase")
