"""Fixtures: each test in its own folder, nothing left behind, and Parsl's names only where a test asks for them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import flowcore_compat_parsl
import pytest

import flowcore
from flowcore.testing.leftovers import Leftovers, no_leftovers

__all__ = ["no_leftovers"]


@pytest.fixture(autouse=True)
def own_folder(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert "parsl" not in sys.modules, "a test left Parsl's names behind, or imported the real one"
    monkeypatch.chdir(tmp_path)
    yield
    flowcore.clear()
    flowcore_compat_parsl.uninstall()


@pytest.fixture
def parsl() -> ModuleType:
    """The module ``parsl`` of this distribution."""
    flowcore_compat_parsl.install()
    return importlib.import_module("parsl")


@pytest.fixture
def get(parsl: ModuleType) -> Callable[[str], object]:
    """Returns the object of a dotted name."""
    return pkgutil.resolve_name
