"""Runs the example of a pipeline over files that come over HTTP and go by rsync, as a user would."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from flowcore.testing.servers import need

pytest.importorskip("flowcore_executor_htex")
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "data_pipeline.py"), *map(str, arguments)],
        cwd=cwd,
        env={**known, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def example(monkeypatch):
    """The example as a module, to call its functions."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("data_pipeline")
    del sys.modules["data_pipeline"]


def test_pipeline(tmp_path, example):
    need("rsync", "gzip")
    root = Path(sysconfig.get_path("stdlib"))
    for _ in range(2):  # the second time over the results of the first
        done = run("--files", 15, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        assert "Check passed: equal to what is computed directly from the source files." in done.stdout
        assert "folders of their own; these are gone, and nothing runs." in done.stdout
    output = tmp_path / "data-demo-output"
    report = json.loads((output / "results" / "report.json").read_text("utf-8"))
    paths = [str(p.relative_to(output / "results"))[: -len(".json.gz")] for p in output.rglob("*.json.gz")]
    assert report["total"]["files"] == len(paths) >= 15
    assert report["total"]["bytes"] == sum((root / path).stat().st_size for path in paths)
    assert {path.partition("/")[0] for path in paths} == set(report["packages"])
    assert list((output / "scratch").iterdir()) == []
    assert not list((output / "results").rglob(".*"))

    # The check sees each kind of result that is wrong.
    results = output / "results"
    assert example.problems(root, paths, results) == []
    for file in (results / f"{paths[0]}.json", results / f"{paths[1]}.json.gz", results / "report.json"):
        right = file.read_bytes()
        plain = gzip.decompress(right) if file.suffix == ".gz" else right
        changed = plain.replace(b'"lines": ', b'"lines": 1')
        assert changed != plain
        file.write_bytes(gzip.compress(changed) if file.suffix == ".gz" else changed)
        assert len(example.problems(root, paths, results)) == 1
        file.write_bytes(right)


def test_pipeline_fails_when_something_is_left(tmp_path):
    need("rsync", "gzip")
    (tmp_path / "two words" / "scratch").mkdir(parents=True)
    (tmp_path / "two words" / "scratch" / "left").touch()
    done = run("--files", 3, "--output", "two words", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"The check failed: 1 problems. The first:\n  left where workers were: {tmp_path}/two words/" in done.stdout


def test_pipeline_without_rsync_says_what_to_install(tmp_path):
    done = run("--files", 3, cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "rsync is not on the PATH; install Debian's package rsync" in done.stdout
