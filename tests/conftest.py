"""Every test has a folder of its own, and leaves no process, no thread and no loaded configuration behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore.testing.leftovers import Leftovers, no_leftovers

__all__ = ["no_leftovers"]


@pytest.fixture(autouse=True)
def own_place(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in its temporary folder, and end the run that it may have loaded."""
    monkeypatch.chdir(tmp_path)
    yield
    session = sys.modules.get("flowcore.session")
    if session is not None:
        session.clear()


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., flowcore.DataFlowKernel]:
    """Loads a configuration of the given options, in the test's folder and without a log; it ends with the test."""

    def load(**options: Any) -> flowcore.DataFlowKernel:
        return flowcore.load(flowcore.Config(run_dir=tmp_path / "runinfo", initialize_logging=False, **options))

    return load
