"""No block outlives its run, however a program ends, or is ended; and what SIGKILL leaves is found.

The blocks are processes of this host that would sleep on for long. Batch systems are tested with their plugins.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcore.plugins import registry
from flowcore.testing import eventually
from flowcore.testing.leftovers import Leftovers

PROGRAM = Path(__file__).parent / "hosts" / "orphans.py"
WAIT_S = 60
pytestmark = pytest.mark.skipif(
    "htex" not in [plugin.name for plugin in registry.installed("executor")],
    reason="the executor htex is not installed",
)


@contextlib.contextmanager
def running(situation: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), situation],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def blocks(no_leftovers: Leftovers) -> list[str]:
    """The sleeping blocks that run."""
    return [p.command for p in no_leftovers.new_processes() if p.command == "sleep 600"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowcore", "blocks", *arguments], capture_output=True, text=True, timeout=WAIT_S
    )


@pytest.mark.parametrize(
    ("situation", "code", "said"),
    [
        ("end", 0, ""),
        ("clear", 0, ""),
        ("exit", 3, ""),
        ("error", 1, "ValueError: of the program"),
        ("half-way", 1, "RuntimeError: cannot start"),
    ],
)
def test_programs_that_end(situation: str, code: int, said: str, no_leftovers: Leftovers) -> None:
    with running(situation) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (code, "")
    assert (said in err) if said else err == ""
    assert blocks(no_leftovers) == []
    assert no_leftovers.wait(10) == []
    assert "no block is left" in command().stdout


SIGNALS = {
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
    "SIGTERM": [signal.SIGTERM],
    "SIGTERM thrice": [signal.SIGTERM] * 3,
    "SIGHUP": [signal.SIGHUP],
    "Ctrl-C, SIGTERM": [signal.SIGINT, signal.SIGTERM],
    "SIGTERM, Ctrl-C": [signal.SIGTERM, signal.SIGINT],
}


@pytest.mark.parametrize(
    ("situation", "how"),
    [
        *(("waits", how) for how in SIGNALS),
        *((situation, how) for situation in ("late", "deaf") for how in ("Ctrl-C", "Ctrl-C twice", "SIGTERM thrice")),
    ],
)
def test_programs_that_are_ended(situation: str, how: str, no_leftovers: Leftovers) -> None:
    with running(situation) as process:
        eventually(Path("ready").exists)
        for number in SIGNALS[how]:
            os.kill(process.pid, number)
            # Into the middle of the clean-up, wherever that is; or behind it.
            time.sleep(0.05)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode in {-signal.SIGINT, -signal.SIGTERM, 143, 129}, err
    assert blocks(no_leftovers) == []
    assert no_leftovers.wait(10) == []
    assert "no block is left" in command().stdout


def test_what_a_killed_program_left_is_cancelled(no_leftovers: Leftovers) -> None:
    with running("killed") as process:
        process.communicate(timeout=WAIT_S)
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: len(blocks(no_leftovers)) == 2)
    seen = command()
    assert seen.stdout.count("RUNNING") == 2, seen.stderr
    done = command("--cancel", "runinfo/000")
    assert (done.returncode, done.stdout.count(": cancelled\n")) == (0, 2), done.stderr
    assert blocks(no_leftovers) == []
    assert no_leftovers.wait(10) == []
    assert command("--cancel", "runinfo/000").stdout == "run runinfo/000: no block is left\n"


def test_killed_at_any_moment(no_leftovers: Leftovers) -> None:
    """Also while a block is being asked for, or cancelled: its job may be there, and no id in the record."""
    seed = int(os.environ.get("FLOWCORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    chance = random.Random(seed)
    for number in range(8):
        Path("ready").unlink(missing_ok=True)
        with running("grows") as process:
            enough = chance.randrange(8)
            eventually(lambda enough=enough: Path("ready").exists() and int(Path("ready").read_text() or 0) >= enough)
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            process.wait(WAIT_S)
        done = command("--cancel", f"runinfo/{number:03}")
        assert done.returncode == 0, (done.stdout, done.stderr, seed)
        assert blocks(no_leftovers) == [], seed
    assert no_leftovers.wait(10) == []


def test_a_program_that_goes_on_keeps_its_blocks(no_leftovers: Leftovers) -> None:
    with running("waits") as process:
        eventually(lambda: len(blocks(no_leftovers)) == 2)
        done = command("--cancel", "runinfo/000")
        assert done.returncode == 1
        assert f"run runinfo/000 goes on, and looks after its blocks: process {process.pid} of " in done.stderr
        assert len(blocks(no_leftovers)) == 2
        forced = command("--cancel", "--force", "runinfo/000")
        assert forced.returncode == 0, forced.stderr
        assert blocks(no_leftovers) == []
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    assert no_leftovers.wait(10) == []
