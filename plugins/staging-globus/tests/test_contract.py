"""The stager keeps the contract of its kind, with the stand-in moving the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowcore_staging_globus.staging import GlobusStaging
from globus_service import Endpoint, GlobusService

from flowcore.files import File
from flowcore.plugins import registry
from flowcore.testing.staging import Source, StagingContract, Target


class TestGlobusStaging(StagingContract):
    @pytest.fixture
    def stager(self, globus: GlobusService, login, tmp_path: Path):
        here = Endpoint("33333333-aaaa-4bbb-8ccc-000000000003", tmp_path, "here")
        globus.endpoints[here.uuid] = here
        return GlobusStaging(here.uuid, "/", str(tmp_path), batch_window_s=0.02, poll_interval_s=0.02)

    @pytest.fixture
    def source(self, lab: Endpoint):
        return Source(File(lab.put("/data/a.txt", b"content")), b"content")

    @pytest.fixture
    def same_name(self, lab: Endpoint):
        return Source(File(lab.put("/other/a.txt", b"other content")), b"other content")

    @pytest.fixture
    def missing(self, lab: Endpoint):
        return File(f"globus://{lab.uuid}/nothing.txt")

    @pytest.fixture
    def target(self, lab: Endpoint):
        return Target(File(f"globus://{lab.uuid}/results/b.txt"), lambda: lab.at("/results/b.txt").read_bytes())


def test_name():
    assert registry.get("staging", "globus") is GlobusStaging
