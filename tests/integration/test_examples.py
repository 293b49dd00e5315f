"""Runs every example, and the first script of the README, as a user would: as a program of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowcore import Config
from flowcore.kernel import checkpoint
from flowcore.plugins import registry
from flowcore.testing.waiting import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
INSTALLED = [plugin.name for plugin in registry.installed("executor")]
#: The example's executors that this environment has; the core alone has threads.
EXECUTORS = [name for name in ("threads", "htex") if name in INSTALLED]


def run(script: Path, *arguments: object, cwd: Path, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a script; its standard error goes with its output, where a failed assertion shows it."""
    # Only the script itself may be the reason that it finds what it imports.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def census(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(EXAMPLES / "stdlib_census.py", *arguments, cwd=cwd)


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


def test_hello(tmp_path: Path) -> None:
    done = run(EXAMPLES / "hello.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "The sum is 285.\n")
    assert (tmp_path / "sum.txt").read_text() == "The sum is 285.\n"


def test_first_script_of_the_readme(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block
    script = tmp_path / "first.py"
    script.write_text(block[1], encoding="utf-8")
    done = run(script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "The sum is 285.\n")
    assert block[1] in (EXAMPLES / "hello.py").read_text("utf-8"), "examples/hello.py and the README differ"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_census_reuses_the_results_of_an_earlier_run(tmp_path: Path, executor: str) -> None:
    arguments = ("--executor", executor, "--workers", 2, "--limit", 60)

    first = census(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stdout
    assert "Check passed: equal to a sequential computation" in first.stdout
    assert "Reused" not in first.stdout
    report = json.loads((tmp_path / "census-output" / "report.json").read_text("utf-8"))
    assert report["total"]["modules"] == 60
    assert report["a closer look"], "no module earned a closer look: the join_app is not tested"
    assert "# Census of" in (tmp_path / "census-output" / "report.md").read_text("utf-8")
    run_dir = tmp_path / "census-output" / "runinfo" / "000"
    assert f"Run directory: {run_dir}" in first.stdout
    known = len(checkpoint.load([run_dir]))
    assert known == 60 + len(report["a closer look"])

    second = census(*arguments, cwd=tmp_path)
    assert second.returncode == 0, second.stdout
    assert "Check passed" in second.stdout
    assert f"Reused {known} of {known} cached results" in second.stdout
    assert json.loads((tmp_path / "census-output" / "report.json").read_text("utf-8")) == report


@pytest.mark.parametrize("executor", EXECUTORS)
def test_census_goes_on_after_an_interrupt(tmp_path: Path, executor: str) -> None:
    run_dir = tmp_path / "census-output" / "runinfo" / "000"
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "stdlib_census.py"), "--executor", executor, "--workers", "1"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            eventually((run_dir / "checkpoint" / checkpoint.FILE_NAME).is_file, what="a checkpoint")
            eventually(lambda: len(checkpoint.load([run_dir])) >= 100, what="a checkpoint of 100 results")
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, output
    assert "Interrupted. What was computed is in the checkpoint" in output

    # It had begun with the first files, and these are spread over all.
    second = census("--executor", executor, "--limit", 200, "--no-check", cwd=tmp_path)
    assert second.returncode == 0, second.stdout
    assert number(r"Reused ([\d,]+) of", second.stdout) > 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_census_survives_whatever_lies_in_a_folder(tmp_path: Path, executor: str) -> None:
    root = tmp_path / "tree"
    (root / "package" / "site-packages").mkdir(parents=True)
    (root / "package" / "site-packages" / "installed.py").write_text("import installed\n")
    good = "import os\n\n\ndef f(x):\n    return 1 if x and os else [y for y in x if y]\n"
    (root / "package" / "good.py").write_text(good)
    (root / "package" / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    (root / "123.py").write_text("def f(): pass\n")
    (root / "has a space and 'quotes'.py").write_text("def f(): pass\n")
    (root / "has\ta tab and\na line end.py").write_text("def f(): pass\n")
    (root / os.fsdecode(b"not-utf8-\xff.py")).write_text("def f(): pass\n")
    (root / "package" / "no_syntax.py").write_text("def f(:\n")
    (root / "package" / "zero.py").write_bytes(b"\0")
    (root / "package" / "unknown_coding.py").write_text("# coding: nonsense\n")
    (root / "package" / "not_utf8.py").write_bytes(b"x = '\xff'\n")

    done = census("--executor", executor, "--workers", 2, "--root", root, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "census-output" / "report.json").read_text("utf-8"))
    assert report["total"] == {"modules": 11, "lines": 9, "functions": 5, "classes": 0, "not parsed": 4}
    # 1, the conditional expression, the `and`, and the `if` of the comprehension.
    assert report["most complex functions"][0] == [4, "package.good", "f", 4]
    assert report["most imported modules"] == [[1, "os"]]


def test_census_fails_when_a_result_is_wrong(tmp_path: Path) -> None:
    arguments = ("--executor", "threads", "--limit", 20)
    first = census(*arguments, "--no-check", cwd=tmp_path)
    assert first.returncode == 0, first.stdout
    assert "Check" not in first.stdout
    runs = tmp_path / "census-output" / "runinfo"

    # A later checkpoint, in which a module has one line more than it has.
    known = checkpoint.load([runs / "000"])
    key, module = next((k, v) for k, v in known.items() if "lines" in v)
    later = checkpoint.CheckpointFile(runs / "001" / "checkpoint")
    later.append([(key, {**module, "lines": module["lines"] + 1})])
    later.close()

    second = census(*arguments, cwd=tmp_path)
    assert second.returncode == 1, second.stdout
    assert number(r"The check failed: ([\d,]+) differences", second.stdout) > 0
    assert f"lines: {module['lines'] + 1}, sequentially {module['lines']}" in second.stdout


def test_census_takes_a_configuration_file(tmp_path: Path) -> None:
    file = EXAMPLES / "flowcore.toml"
    done = census("--config", file, "--profile", "threads", "--limit", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "executor: threads" in done.stdout


def test_census_says_what_is_wrong_with_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("retrys = 1\n")
    done = census("--config", "mine.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("mine.toml: retrys: Config has no option 'retrys' (did you mean 'retries'?)")


def test_census_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    done = census("--root", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, f"There is no Python file below {tmp_path}\n")


@pytest.mark.parametrize("profile", [None, "threads"])
def test_example_configuration(profile: str | None) -> None:
    if profile is None and "htex" not in INSTALLED:
        pytest.skip("the executor htex is not installed")
    config = Config.from_file(EXAMPLES / "flowcore.toml", profile)
    assert config.executors is not None
    assert [e.label for e in config.executors] == ["processes" if profile is None else "threads"]
