"""Each channel keeps the contract, against real servers, as a user to whom folders can be closed."""

from __future__ import annotations

import pytest
from flowcore_channel_ssh import commands

from flowcore.channels import OAuthSSHChannel, SSHInteractiveLoginChannel
from flowcore.testing import ChannelContract


class OfTheUser(ChannelContract):
    superuser = False

    @pytest.fixture
    def remote_dir(self, remote_dir):
        return remote_dir

    @pytest.fixture(autouse=True)
    def little_patience(self, monkeypatch):
        monkeypatch.setattr(commands, "DRAIN_S", 0.2)


class TestSSHChannel(OfTheUser):
    @pytest.fixture
    def channel(self, servers, make):
        return make(servers, key_filename=str(servers.key))


class TestSSHInteractiveLoginChannel(OfTheUser):
    @pytest.fixture
    def channel(self, servers, make):
        answers = {"Password: ": servers.password}
        return make(
            servers,
            "two-factor",
            SSHInteractiveLoginChannel,
            key_filename=str(servers.key),
            prompt=lambda text, echo: answers[text.split(": ", 1)[1]],
        )


class TestOAuthSSHChannel(OfTheUser):
    @pytest.fixture
    def channel(self, servers, make):
        return make(servers, "interactive", OAuthSSHChannel, token=servers.password)
