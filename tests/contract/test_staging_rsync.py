"""The stager rsync passes the suite of stagers: by URLs of a daemon, by paths below one, and by paths over ssh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcore.files import File
from flowcore.plugins import registry
from flowcore.testing import StagingContract, sshd
from flowcore.testing.rsync_server import RsyncDaemon
from flowcore.testing.servers import need
from flowcore.testing.sshd import SSHServers
from flowcore.testing.staging import Source, Target


class OfFarFolder(StagingContract):
    """Files of a folder that stands for the other side. ``url`` makes a File of a path below it."""

    @pytest.fixture
    def far(self, tmp_path: Path) -> Path:
        need("rsync")
        (tmp_path / "far" / "other").mkdir(parents=True)
        (tmp_path / "far" / "a.bin").write_bytes(b"some\0content" * 1000)
        (tmp_path / "far" / "other" / "a.bin").write_bytes(b"other content")
        return tmp_path / "far"

    @pytest.fixture
    def url(self, far: Path) -> Any:
        return lambda path: File(far / path)

    @pytest.fixture
    def source(self, url: Any) -> Source:
        return Source(url("a.bin"), b"some\0content" * 1000)

    @pytest.fixture
    def same_name(self, url: Any) -> Source:
        return Source(url("other/a.bin"), b"other content")

    @pytest.fixture
    def missing(self, url: Any) -> File:
        return url("b.bin")

    @pytest.fixture
    def target(self, url: Any, far: Path) -> Target:
        return Target(url("new/folder/b.bin"), lambda: (far / "new" / "folder" / "b.bin").read_bytes())


class TestUrlsOfADaemon(OfFarFolder):
    @pytest.fixture
    def daemon(self, far: Path) -> Iterator[RsyncDaemon]:
        with RsyncDaemon(far, "me", "pass word") as daemon:
            yield daemon

    @pytest.fixture
    def url(self, daemon: RsyncDaemon) -> Any:
        return lambda path: File(daemon.url(path))

    @pytest.fixture
    def stager(self) -> Any:
        return registry.get("staging", "rsync")()


class TestPathsBelowAModule(OfFarFolder):
    @pytest.fixture
    def stager(self, far: Path) -> Iterator[Any]:
        with RsyncDaemon(far) as daemon:
            yield registry.get("staging", "rsync")(daemon.prefix)

    @pytest.fixture
    def url(self) -> Any:
        return lambda path: File(f"/{path}")


@pytest.fixture(scope="module")
def servers() -> Iterator[SSHServers]:
    sshd.require()
    with SSHServers("key") as servers:
        yield servers


class TestPathsOverSsh(OfFarFolder):
    @pytest.fixture
    def stager(self, servers: SSHServers) -> Any:
        server = servers["key"]
        known = f"-o UserKnownHostsFile={servers.known_hosts}"
        ssh = f"ssh -F none -o BatchMode=yes -p {server.port} -i {servers.key} {known}"
        return registry.get("staging", "rsync")(f"root@{server.address}", ssh_command=ssh)
