"""The README's programs are what they say they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from flowcore_staging_globus import auth, tokens
from flowcore_staging_globus.staging import GlobusStaging

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_python():
    pytest.importorskip("flowcore_executor_htex")
    setting_up, running = block("python").split("with flowcore.load(config):")
    names: dict = {}
    exec(compile(setting_up, "README.md", "exec"), names)
    (executor,) = names["config"].executors
    assert isinstance(executor.storage_access[-1], GlobusStaging)
    compile("if True:" + running, "README.md", "exec")


def test_toml():
    (options,) = tomllib.loads(block("toml"))["executors"]["storage_access"]
    assert options.pop("plugin") == "globus"
    GlobusStaging(**options)


def test_variables():
    known = {auth.CLIENT_ID, auth.CLIENT_SECRET, auth.NATIVE_CLIENT_ID, tokens.VARIABLE}
    assert set(re.findall(r"FLOWCORE_\w+", README)) == known


def test_options():
    for option in re.findall(r"`(\w+_s)`", README):
        assert hasattr(GlobusStaging("037f054a-15cf-11e8-b611-0ac6873fc732"), option)
