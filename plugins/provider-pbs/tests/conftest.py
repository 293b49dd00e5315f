"""Fixtures of the tests of PBS's providers: each in its own folder, and nothing left behind (see flowcore.testing)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.testing import slurm as slurms
from flowcore.testing.leftovers import Leftovers, no_leftovers
from flowcore.testing.slurm import SlurmCluster
from flowcore.testing.waiting import eventually

__all__ = ["no_leftovers"]


def _standin() -> Any:
    # pytest imports test modules without their folder on sys.path.
    path = Path(__file__).parent / "standin" / "cluster.py"
    spec = importlib.util.spec_from_file_location("flowcore_provider_pbs_standin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PBSCluster = _standin().PBSCluster


@pytest.fixture(autouse=True)
def _own_folder(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    flowcore.clear()


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a stand-in for PBS (see ``standin/cluster.py``), whose commands this test's then are; ends it after it."""
    with ExitStack() as stack:

        def start(nodes: Mapping[str, int] | Any = (("n1", 4), ("n2", 4)), **options: Any) -> Any:
            nodes = dict(nodes) if isinstance(nodes, tuple) else nodes
            cluster = stack.enter_context(PBSCluster(nodes, folder=tmp_path, **options))
            cluster.use(monkeypatch)
            return cluster

        yield start


@pytest.fixture(scope="session")
def shared_slurm() -> Iterator[SlurmCluster]:
    """A real Slurm, which has Torque's commands."""
    slurms.require(torque=True)
    with SlurmCluster(2, torque=True) as made:
        yield made


@pytest.fixture
def slurm(shared_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster of all tests, whose qsub, qstat and qdel this test's are; the test leaves no job in it."""
    shared_slurm.use(monkeypatch)
    yield shared_slurm
    eventually(lambda: shared_slurm.jobs() == [], 30, "an empty queue")
