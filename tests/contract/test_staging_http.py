"""The stagers for web servers keep their contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcore import File
from flowcore.plugins.api import Staging
from flowcore.staging import HTTPInTaskStaging, HTTPSeparateTaskStaging
from flowcore.testing import StagingContract
from flowcore.testing.http_server import HTTPFiles
from flowcore.testing.staging import Source


class HTTPContract(StagingContract):
    stages_out = False

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[HTTPFiles]:
        with HTTPFiles(tmp_path / "www", basic_auth=("me", "secret")) as server:
            yield server

    def file(self, server: HTTPFiles, name: str) -> File:
        return File(server.url(name).replace("://", "://me:secret@"))

    @pytest.fixture
    def source(self, server: HTTPFiles) -> Source:
        server.put("in put.bin", b"con\0tent")
        return Source(self.file(server, "in put.bin"), b"con\0tent")

    @pytest.fixture
    def same_name(self, server: HTTPFiles) -> Source:
        server.put("other/in put.bin", b"other")
        return Source(self.file(server, "other/in put.bin"), b"other")

    @pytest.fixture
    def missing(self, server: HTTPFiles) -> File:
        return self.file(server, "nothing.bin")


class TestHTTPSeparateTaskStaging(HTTPContract):
    @pytest.fixture
    def stager(self) -> Staging:
        return HTTPSeparateTaskStaging()


class TestHTTPInTaskStaging(HTTPContract):
    @pytest.fixture
    def stager(self) -> Staging:
        return HTTPInTaskStaging()


class TestHTTPInTaskStagingWithCache(HTTPContract):
    @pytest.fixture
    def stager(self, tmp_path: Path) -> Staging:
        return HTTPInTaskStaging(cache=str(tmp_path / "cache"))
