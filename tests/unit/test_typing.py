"""What a type checker sees of apps; and that the package is marked as typed."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import flowcore

mypy = pytest.importorskip("mypy", reason="mypy is a development tool")

PROGRAM = """
from concurrent.futures import Future
from typing import Any
import flowcore
from flowcore import AppFuture, Config, File, bash_app, join_app, python_app

@python_app
def to_text(x: int) -> str:
    return str(x)

@python_app(cache=True, executors=["a"], ignore_for_cache=["x"])
def to_float(x: int, y: int = 0) -> float:
    return float(x)

@bash_app
def say(word: str, stdout: str | None = None) -> str:
    return f"echo {word}"

@bash_app(cache=True)
def say_again(word: str) -> str:
    return f"echo {word}"

@join_app
def both(x: int) -> list[AppFuture[str]]:
    return [to_text(x), to_text(x)]

async def main() -> None:
    foreign: Future[int] = Future()
    reveal_type(to_text(1))
    reveal_type(to_text(to_float(1)))
    reveal_type(to_text(foreign))
    reveal_type(to_float(1, y=2))
    reveal_type(to_float(1, walltime=3))
    reveal_type(say("x"))
    reveal_type(say("x", outputs=[File("a")], stdout=flowcore.AUTO_LOGNAME))
    reveal_type(say_again("x"))
    reveal_type(to_text(1).result())
    reveal_type(await to_text(1))
    reveal_type(say("x").result())
    reveal_type(to_text(1)["key"])
    reveal_type(to_text(1).outputs[0].result())
    reveal_type(flowcore.load(Config(retries=1)).task_counts())
    both(1)

to_text = 3  # error: an app is no int
Config(retries="3")  # error: wrong type
Config(retires=3)  # error: no such option
python_app(cahce=True)  # error: no such option
"""

REVEALED = [
    "AppFuture[str]",
    "AppFuture[str]",
    "AppFuture[str]",
    "AppFuture[float]",
    "AppFuture[float]",
    "AppFuture[int]",
    "AppFuture[int]",
    "AppFuture[int]",
    "str",
    "str",
    "int",
    "AppFuture[Any]",
    "File",
    "dict[str, int]",
]


def test_what_mypy_sees(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    output = done.stdout + done.stderr
    revealed = [re.sub(r"\b(?:\w+\.)+(?=\w)", "", text) for text in re.findall(r'Revealed type is "([^"]+)"', output)]
    assert revealed == REVEALED, output
    lines = PROGRAM.splitlines()
    wrong = {n for n, line in enumerate(lines, 1) if "# error" in line}
    errors = {int(n) for n in re.findall(r"program.py:(\d+): error", output)}
    assert errors == wrong, output


def test_the_package_is_marked_as_typed():
    assert (pathlib.Path(flowcore.__file__).parent / "py.typed").exists()
