"""The contract of providers, with real Slurms: one without accounting, one with."""

from __future__ import annotations

import pytest
from flowcore_provider_slurm.provider import SlurmProvider

from flowcore.testing import ProviderContract


def small() -> SlurmProvider:
    """Of blocks that share the two cores of a node: a suite's three copies of a command do, too."""
    return SlurmProvider(exclusive=False, scheduler_options="#SBATCH --ntasks-per-node=1", walltime="00:05:00")


class TestSlurm(ProviderContract):
    @pytest.fixture
    def provider(self, cluster):
        return small()


class TestSlurmWithAccounting(ProviderContract):
    """Of a job that has ended, soon only the database knows."""

    @pytest.fixture
    def provider(self, accounting_cluster):
        return small()
