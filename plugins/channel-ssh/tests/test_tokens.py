"""Where tokens come from. The package oauth-ssh is replaced by a stand-in: it needs an account of Globus."""

from __future__ import annotations

import sys
import types

import pytest
from flowcore_channel_ssh import tokens

from flowcore.channels import OAuthSSHChannel
from flowcore.errors import AuthException, OptionalModuleMissing


@pytest.fixture
def oauth_ssh(monkeypatch):
    """A stand-in for the module of oauth-ssh that has tokens."""
    asked: list[str] = []
    module = types.ModuleType("oauth_ssh.oauth_ssh_token")

    def find_access_token(fqdn):
        asked.append(fqdn)
        if fqdn == "new.example.org":
            raise RuntimeError("No token found. Use `oauth-ssh-token authorize new.example.org`.")
        return "kept token"

    module.find_access_token = find_access_token
    monkeypatch.setitem(sys.modules, "oauth_ssh", types.ModuleType("oauth_ssh"))
    monkeypatch.setitem(sys.modules, "oauth_ssh.oauth_ssh_token", module)
    return asked


def test_who_is_nearest_is_asked(oauth_ssh, monkeypatch):
    assert tokens.find("h.example.org", None) == "kept token"
    assert oauth_ssh == ["h.example.org"]
    monkeypatch.setenv("FLOWCORE_OAUTH_SSH_TOKEN", "of the environment")
    assert tokens.find("h.example.org", None) == "of the environment"
    assert tokens.find("h.example.org", "of the option") == "of the option"
    assert tokens.find("h.example.org", lambda: "fresh") == "fresh"
    assert oauth_ssh == ["h.example.org"]


def test_a_token_that_must_be_asked_for(oauth_ssh):
    with pytest.raises(AuthException) as caught:
        OAuthSSHChannel("new.example.org").execute_wait("true", 30)
    assert "oauth-ssh-token authorize new.example.org" in str(caught.value)


def test_a_function_that_fails():
    def broken():
        raise RuntimeError("the vault is closed")

    with pytest.raises(AuthException, match="authentication failed .RuntimeError: the vault is closed"):
        OAuthSSHChannel("h.example.org", token=broken).execute_wait("true", 30)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "oauth_ssh", None)
    with pytest.raises(OptionalModuleMissing) as caught:
        OAuthSSHChannel("h.example.org").execute_wait("true", 30)
    assert str(caught.value) == (
        "missing oauth_ssh: OAuthSSHChannel needs a token for h.example.org: pip install 'flowcore-channel-ssh[oauth]' "
        "and once `oauth-ssh-token authorize h.example.org`, or give token=, or set FLOWCORE_OAUTH_SSH_TOKEN"
    )


def test_a_token_of_the_environment_logs_in(servers, make, monkeypatch):
    monkeypatch.setenv("FLOWCORE_OAUTH_SSH_TOKEN", servers.password)
    assert make(servers, "interactive", OAuthSSHChannel).execute_wait("id -un", 30)[1] == "flowcore-ssh\n"
