"""Options: the reference's names, order and defaults; what is refused; what is shown."""

from __future__ import annotations

import inspect

import pytest

from flowcore.channels import OAuthSSHChannel, SSHChannel, SSHInteractiveLoginChannel
from flowcore.errors import ConfigurationError
from flowcore.plugins import registry

SIGNATURES = [
    (
        SSHChannel,
        "hostname username=None password=None script_dir=None envs=None gssapi_auth=False skip_auth=False port=22 "
        "key_filename=None host_keys_filename=None",
    ),
    (SSHInteractiveLoginChannel, "hostname username=None password=None script_dir=None envs=None"),
    (OAuthSSHChannel, "hostname username=None script_dir=None envs=None port=22"),
]


@pytest.mark.parametrize(("cls", "expected"), SIGNATURES)
def test_the_first_options_are_those_of_the_reference(cls, expected):
    parameters = list(inspect.signature(cls).parameters.values())
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert shown[: len(expected.split())] == expected.split()


NAMES = {"ssh": SSHChannel, "ssh_interactive": SSHInteractiveLoginChannel, "oauth_ssh": OAuthSSHChannel}


@pytest.mark.parametrize(("name", "cls"), NAMES.items())
def test_names(name, cls):
    assert registry.get("channel", name) is cls
    assert cls.on_this_host is False


def test_nothing_is_connected_by_constructing():
    for cls, _ in SIGNATURES:
        channel = cls("no-such-host.invalid", script_dir="~/scripts")
        assert channel.script_dir == "~/scripts"
        assert channel.close() is False


REFUSED = [
    ({"hostname": ""}, r"hostname='': expected a name without blanks"),
    ({"hostname": "-oProxyCommand=x"}, r"hostname='-oProxyCommand=x': expected a name without blanks"),
    ({"hostname": "a b"}, r"hostname='a b': expected a name without blanks"),
    ({"hostname": "h", "username": "a\nb"}, r"username='a\\nb': expected a name without blanks"),
    ({"hostname": 3}, r"SSHChannel\(hostname=3\): expected str, got int"),
    ({"hostname": "h", "port": "22"}, r"SSHChannel\(port='22'\): expected int, got str"),
    ({"hostname": "h", "unknown_host_keys": "ignore"}, r"unknown_host_keys='ignore'\): expected Literal\['refuse', "),
    ({"hostname": "h", "connect_attempts": 0}, r"SSHChannel\(connect_attempts=0\): must be at least 1"),
    ({"hostname": "h", "connect_timeout_s": 0}, r"SSHChannel\(connect_timeout_s=0\): must be at least 0.1"),
    ({"hostname": "h", "user": "me"}, r"SSHChannel has no option 'user' \(did you mean 'username'\?\)"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_what_is_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        SSHChannel(**options)


def test_a_secret_of_the_wrong_type_is_not_told():
    for option in ("password", "passphrase"):
        with pytest.raises(ConfigurationError) as caught:
            SSHChannel("h", **{option: 7654321})
        assert f"SSHChannel({option}=...): expected str | None, got int" in str(caught.value)
        assert "7654321" not in str(caught.value)


def test_secrets_are_not_shown():
    shown = repr(SSHChannel("h", password="secret", passphrase="secret"))
    assert "hostname='h'" in shown
    shown += repr(SSHInteractiveLoginChannel("h", password="secret", passphrase="secret"))
    shown += repr(OAuthSSHChannel("h", token="secret"))
    assert "secret" not in shown
