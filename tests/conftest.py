"""Every test has a folder of its own, and leaves no process, no thread and no loaded configuration behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
