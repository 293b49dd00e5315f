"""Fixtures of the stager's tests: a stand-in for Globus, a home of its own for each test, and nothing left behind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_staging_globus.staging import GlobusStaging
from flowcore_staging_globus.tokens import TokenFile, Tokens

from flowcore.testing.leftovers import Leftovers, no_leftovers

__all__ = ["no_leftovers"]

Make = Callable[..., GlobusStaging]


def _stand_in() -> Any:
    # pytest imports test modules without their folder on sys.path; under this name they find it.
    name = "globus_service"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SERVICE = _stand_in()
Endpoint, GlobusService = _SERVICE.Endpoint, _SERVICE.GlobusService


@pytest.fixture(autouse=True)
def own_place(no_leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in its temporary folder, without this machine's logins, and end the run that it may have loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLOWCORE_GLOBUS_TOKENS", str(tmp_path / "home" / "tokens.json"))
    for name in ("CLIENT_ID", "CLIENT_SECRET", "NATIVE_CLIENT_ID"):
        monkeypatch.delenv(f"FLOWCORE_GLOBUS_{name}", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield
    session = sys.modules.get("flowcore.session")
    if session is not None:
        session.clear()


@pytest.fixture
def globus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusService]:
    """The stand-in, which the SDK is led to."""
    with GlobusService(tmp_path / "endpoints") as service:
        monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_TRANSFER", service.url)
        monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", service.url)
        yield service


@pytest.fixture
def lab(globus: GlobusService) -> Endpoint:
    """An endpoint with data."""
    return globus.endpoint("lab")


@pytest.fixture
def cluster(globus: GlobusService) -> Endpoint:
    """The endpoint of the executor: what it shows as ``/`` is a folder of this host."""
    return globus.endpoint("cluster")


@pytest.fixture
def login(globus: GlobusService) -> TokenFile:
    """The user has logged in."""
    return store(globus)


def store(globus: GlobusService, **changes: Any) -> TokenFile:
    """Store a login of a user; return the file."""
    granted = globus.log_in()
    values = {"expires_at_s": 4e9, "consents": (), **changes}
    tokens = Tokens(granted["access_token"], granted["refresh_token"], **values)
    file = TokenFile()
    with file.change() as stored:
        stored[_SERVICE.NATIVE_CLIENT] = tokens
    return file


@pytest.fixture
def make(cluster: Endpoint) -> Iterator[Make]:
    """Makes a stager for the cluster that asks often; it is closed in the end."""
    made: list[GlobusStaging] = []

    def stager(**options: Any) -> GlobusStaging:
        given = {"batch_window_s": 0.02, "poll_interval_s": 0.02, "fault_patience_s": 0.1, **options}
        made.append(GlobusStaging(cluster.uuid, "/", str(cluster.folder), **given))
        return made[-1]

    yield stager
    for each in made:
        each.close()
