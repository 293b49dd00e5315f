"""The stager of members of zip archives passes the suite of stagers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from flowcore.files import File
from flowcore.plugins import registry
from flowcore.testing import StagingContract
from flowcore.testing.staging import Source, Target


class TestZip(StagingContract):
    #: What stands before the archives' names.
    prefix = "zip:{here}/"

    @pytest.fixture
    def stager(self):
        return registry.get("staging", "zip")()

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
            archive.writestr("folder/a.bin", b"some\0content" * 1000)
            archive.writestr("other/a.bin", b"other content")
        return self.prefix.format(here=tmp_path)

    @pytest.fixture
    def source(self, url: str) -> Source:
        return Source(File(f"{url}in.zip/folder/a.bin"), b"some\0content" * 1000)

    @pytest.fixture
    def same_name(self, url: str) -> Source:
        return Source(File(f"{url}in.zip/other/a.bin"), b"other content")

    @pytest.fixture
    def missing(self, url: str) -> File:
        return File(f"{url}in.zip/folder/b.bin")

    @pytest.fixture
    def target(self, url: str, tmp_path: Path) -> Target:
        def read() -> bytes:
            with zipfile.ZipFile(tmp_path / "new" / "out.zip") as archive:
                return archive.read("folder/b.bin")

        return Target(File(f"{url}new/out.zip/folder/b.bin"), read)


class TestRelativePaths(TestZip):
    prefix = "zip:"
