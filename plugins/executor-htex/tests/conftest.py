"""Fixtures of htex's tests: each in its own folder, and nothing left behind (see flowcore.testing)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.testing.leftovers import Leftovers, no_leftovers

__all__ = ["no_leftovers"]


@pytest.fixture(autouse=True)
def _own_folder(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    flowcore.clear()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., flowcore.DataFlowKernel]]:
    """Loads one htex with 2 workers and the given options; ends it after the test."""

    def start(*, config: dict[str, Any] | None = None, **options: Any) -> flowcore.DataFlowKernel:
        executor = {"plugin": "htex", "label": "htex", "max_workers_per_node": 2, **options}
        return flowcore.load({"executors": [executor], "run_dir": str(tmp_path / "runinfo"), **(config or {})})

    yield start
    flowcore.clear()
