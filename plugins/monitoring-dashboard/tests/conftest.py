"""Fixtures: a database with runs of all kinds, a dashboard of it, a browser; and nothing left behind."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_monitoring_dashboard.access import Access
from flowcore_monitoring_dashboard.application import Source, application
from sqlalchemy import Engine

from flowcore.testing.leftovers import Leftovers, no_leftovers
from flowcore.testing.servers import need, unavailable

# Tests import what lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
from dashboards import Client, Runs, Served, dashboard, make_runs
from make_database import engine_of

__all__ = ["no_leftovers"]

#: Options of a browser that has no screen, no sandbox of its own, and asks nobody on the network.
CHROMIUM = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
]


@pytest.fixture(scope="module")
def playwright_of_all() -> Iterator[Any]:
    """What drives browsers. It keeps an event loop running, beside which tests of other modules could run none."""
    need("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("the Python package playwright is not installed: pip install -r requirements-dev.txt")
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def browser(playwright_of_all: Any, own_place: None) -> Iterator[Any]:
    """A headless chromium, which is gone when the test has ended, with all its processes."""
    started = playwright_of_all.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
    yield started
    started.close()


@pytest.fixture(autouse=True)
def own_place(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in its temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWCORE_DASHBOARD_URL", raising=False)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs, which tests do not change."""
    return make_runs(f"sqlite:///{tmp_path_factory.mktemp('database') / 'monitoring.db'}")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database of the test's own, with tables and no run; its URL is that of ``tmp_path / "own.db"``."""
    made = engine_of(f"sqlite:///{tmp_path / 'own.db'}")
    yield made
    made.dispose()


Serve = Callable[..., Client]


@pytest.fixture
def client_of() -> Iterator[Serve]:
    """Makes a client of a dashboard, without a network in between."""
    with contextlib.ExitStack() as stack:

        def make(url: str) -> Client:
            source = Source(url)
            stack.callback(source.close)
            return Client(application(source, Access(loopback=True)))

        yield make


@pytest.fixture
def client(client_of: Serve, runs: Runs) -> Client:
    """A client of the dashboard of :func:`runs`."""
    return client_of(runs.url)


@pytest.fixture(scope="session")
def served(runs: Runs) -> Iterator[Served]:
    """The dashboard of :func:`runs`, as a process."""
    with dashboard(runs.url) as found:
        yield found
