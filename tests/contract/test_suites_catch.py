"""The suites find what they are for: each defect of ``broken_components.py`` fails the test that is named there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = Path(__file__).with_name("broken_components.py")

RUN = """
import sys, pytest
sys.path.insert(0, {folder!r})
import broken_components as broken

class Collector:
    def pytest_collection_modifyitems(self, items):
        wanted = {{(cls.__name__, name) for cls, name in broken.EXPECTED}}
        items[:] = [i for i in items if (i.cls.__name__, i.originalname) in wanted]

    def pytest_runtest_logreport(self, report):
        # The check for leftovers speaks after the test; a suite, in it.
        if report.failed and (report.when == "call" or report.nodeid.endswith("test_it")):
            print("FOUND", report.nodeid.split("::")[1], flush=True)

for cls, name in broken.EXPECTED:
    assert callable(getattr(cls, name)), (cls, name)
    print("EXPECTED", cls.__name__, flush=True)
options = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--rootdir", ".", "--durations=15"]
pytest.main([*options, "-c", {ini!r}, {file!r}], [Collector()])
"""


@pytest.mark.timeout(300)
def test_every_defect_is_found(tmp_path: Path) -> None:
    ini = tmp_path / "pytest.ini"
    ini.write_text("[pytest]\npython_files = broken_components.py\ntimeout = 60\n")
    code = RUN.format(folder=str(BROKEN.parent), ini=str(ini), file=str(BROKEN))
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=280, check=False)
    expected = re.findall(r"^EXPECTED (\w+)", done.stdout, re.MULTILINE)
    found = re.findall(r"FOUND (\w+)", done.stdout)
    assert len(expected) > 40, done.stderr
    assert sorted(set(expected) - set(found)) == [], done.stdout[-8000:]
