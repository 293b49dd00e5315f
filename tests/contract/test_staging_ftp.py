"""The stagers of files on FTP servers pass the suite of stagers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcore.files import File
from flowcore.plugins import registry
from flowcore.testing import StagingContract
from flowcore.testing.ftp_server import FTPFiles
from flowcore.testing.staging import Source


class FTPSuite(StagingContract):
    stages_out = False

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[FTPFiles]:
        with FTPFiles(tmp_path / "ftp", user=("me", "s3cret")) as server:
            yield server

    @pytest.fixture
    def source(self, server: FTPFiles) -> Source:
        content = b"some\r\n\0content" * 1000
        return Source(File(server.put("folder/a.bin", content)), content)

    @pytest.fixture
    def same_name(self, server: FTPFiles) -> Source:
        return Source(File(server.put("other/a.bin", b"other content")), b"other content")

    @pytest.fixture
    def missing(self, server: FTPFiles) -> File:
        return File(server.url("nothing.bin"))


class TestSeparateTask(FTPSuite):
    @pytest.fixture
    def stager(self) -> Any:
        return registry.get("staging", "ftp")()


class TestInTask(FTPSuite):
    @pytest.fixture
    def stager(self) -> Any:
        return registry.get("staging", "ftp_in_task")()


class TestSeparateTaskCached(FTPSuite):
    @pytest.fixture
    def stager(self, tmp_path: Path) -> Any:
        return registry.get("staging", "ftp")(cache=str(tmp_path / "cache"))


class TestInTaskCached(FTPSuite):
    @pytest.fixture
    def stager(self, tmp_path: Path) -> Any:
        return registry.get("staging", "ftp_in_task")(cache=str(tmp_path / "cache"))
