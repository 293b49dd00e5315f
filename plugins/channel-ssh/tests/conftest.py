"""Fixtures of the channels' tests: real ssh servers, a home of its own for each test, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flowcore.channels import SSHChannel
from flowcore.plugins.api import Channel
from flowcore.testing import eventually, sshd
from flowcore.testing.leftovers import Leftovers, no_leftovers
from flowcore.testing.sshd import SSHServer, SSHServers

__all__ = ["no_leftovers"]

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_place(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in its temporary folder, without this machine's keys, agent and configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="session")
def all_servers() -> Iterator[SSHServers]:
    sshd.require()
    with SSHServers() as servers:
        yield servers


@pytest.fixture
def servers(all_servers: SSHServers) -> Iterator[SSHServers]:
    """A server for each authentication, which the test must not change; through them nothing is left running."""
    yield all_servers
    eventually(lambda: not all_servers.processes(), 5, "the end of what runs through the servers")


@pytest.fixture
def own_servers() -> Iterator[SSHServers]:
    """A server that takes keys, for this test alone."""
    sshd.require()
    with SSHServers("key") as servers:
        yield servers


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a channel to a server, which is closed in the end."""
    with ExitStack() as stack:

        def channel(servers: SSHServers, server: SSHServer | str = "key", cls: Any = SSHChannel, **options: Any) -> Any:
            server = servers[server] if isinstance(server, str) else server
            given = {
                "username": servers.user,
                "port": server.port,
                "host_keys_filename": str(servers.known_hosts),
                **options,
            }
            made: Channel = cls(server.address, **given)
            stack.callback(made.close)
            return made

        yield channel


@pytest.fixture
def remote_dir(all_servers: SSHServers, tmp_path: Path) -> str:
    """An existing, empty folder of the servers' user."""
    path = all_servers.home / tmp_path.name
    path.mkdir(0o755, exist_ok=True)
    owner = all_servers.home.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    return str(path)
