"""htex keeps the contract of executors whose workers live in blocks."""

from __future__ import annotations

import pytest

from flowcore.executors import HighThroughputExecutor
from flowcore.providers import LocalProvider
from flowcore.testing import BlockExecutorContract


class TestHtex(BlockExecutorContract):
    slots = 2
    cancels_running = True

    @pytest.fixture
    def executor(self) -> HighThroughputExecutor:
        provider = LocalProvider(init_blocks=1, max_blocks=2)
        return HighThroughputExecutor(label="htex", max_workers_per_node=2, provider=provider)


class TestHtexInPlainTextOverTcp(TestHtex):
    @pytest.fixture
    def executor(self) -> HighThroughputExecutor:
        provider = LocalProvider(init_blocks=1, max_blocks=2)
        return HighThroughputExecutor(
            label="htex", max_workers_per_node=2, provider=provider, encrypted=False, address="127.0.0.1"
        )
