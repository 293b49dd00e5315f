"""Fixtures of the Slurm provider's tests: clusters, which all tests share, and a folder of its own for each test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_provider_slurm.provider import SlurmProvider

import flowcore
import flowcore.launchers
from flowcore.builtin.local_channel import LocalChannel
from flowcore.executors import HighThroughputExecutor
from flowcore.plugins.api import ProviderContext
from flowcore.testing import slurm
from flowcore.testing.leftovers import Leftovers, no_leftovers
from flowcore.testing.slurm import SlurmCluster
from flowcore.testing.waiting import eventually

__all__ = ["no_leftovers"]


@pytest.fixture(autouse=True)
def _own_folder(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    flowcore.clear()


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Three nodes, no accounting."""
    slurm.require()
    with SlurmCluster(3, min_job_age_s=300) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def limited(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlurmProvider, str]:
    """A job on the last node that reaches its time limit, and its provider.

    Slurm counts in minutes, so it is submitted before all tests, and looked at by the last.
    """
    provider = SlurmProvider(
        partition="short", walltime="00:01:00", exclusive=False, channel=LocalChannel(envs=slurm_cluster.env)
    )
    provider.start(ProviderContext(tmp_path_factory.mktemp("limited"), "limited"))
    return provider, provider.submit("echo begun; sleep 1000", 1, "limited")


@pytest.fixture(scope="session")
def shared(slurm_cluster: SlurmCluster, limited: tuple[SlurmProvider, str]) -> SlurmCluster:
    """The cluster of most tests."""
    return slurm_cluster


@pytest.fixture(scope="session")
def shared_with_accounting() -> Iterator[SlurmCluster]:
    """One node, and a database, which is soon all that knows of an ended job."""
    slurm.require(accounting=True)
    with SlurmCluster(1, accounting=True, min_job_age_s=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The shared cluster, for Slurm's commands in this test; no job of the test is left behind."""
    yield from _used(shared, monkeypatch)


@pytest.fixture
def accounting_cluster(shared_with_accounting: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The cluster that has a database."""
    yield from _used(shared_with_accounting, monkeypatch)


def _used(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    cluster.use(monkeypatch)
    before = set(cluster.jobs())

    def empty() -> bool:
        return set(cluster.jobs()) <= before

    yield cluster
    try:
        # Slurm takes a moment to end what was cancelled.
        eventually(empty, 20, "an empty queue")
    except AssertionError:
        left = set(cluster.jobs()) - before
        cluster.ask("scancel", *left)
        eventually(empty, 30, "the end of the jobs that the test left")
        pytest.fail(f"the test left jobs in the queue: {sorted(left)}", pytrace=False)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., SlurmProvider]]:
    """Starts providers of small blocks; whatever they submit is cancelled in the end."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    with contextlib.ExitStack() as ended:

        def start(**options: Any) -> SlurmProvider:
            provider = SlurmProvider(**{"exclusive": False, "walltime": "00:05:00", **options})
            provider.start(ProviderContext(folder, "htex"))
            submitted: list[str] = []
            submit = provider.submit

            def noting(command: str, tasks_per_node: int = 1, job_name: str = "block") -> str:
                submitted.append(submit(command, tasks_per_node, job_name))
                return submitted[-1]

            provider.submit = noting  # type: ignore[method-assign]
            ended.callback(provider.close)
            ended.callback(lambda: provider.cancel(submitted))
            return provider

        yield start


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are looked at more often than a scheduler with other users should be asked."""
    monkeypatch.setattr(SlurmProvider, "polling_interval_s", 0.5)


@pytest.fixture
def load(cluster: SlurmCluster, quick: None, tmp_path: Path) -> Iterator[Callable[..., flowcore.DataFlowKernel]]:
    """Loads an htex whose blocks are jobs of the cluster, with the given options of the provider."""

    def load(
        config: dict[str, Any] | None = None, htex: dict[str, Any] | None = None, **options: Any
    ) -> flowcore.DataFlowKernel:
        provider = SlurmProvider(**{"launcher": flowcore.launchers.SrunLauncher(), "walltime": "00:05:00", **options})
        executor = HighThroughputExecutor(
            label="htex", address=cluster.hosts.head, max_workers_per_node=2, provider=provider, **(htex or {})
        )
        settings = {"run_dir": str(tmp_path / "runinfo"), "strategy_period": 0.5, "max_idletime": 2, **(config or {})}
        return flowcore.load(flowcore.Config(executors=[executor], **settings))

    yield load
    # Before the cluster is looked at for jobs that were left.
    flowcore.clear()
