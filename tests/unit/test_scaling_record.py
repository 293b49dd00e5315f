"""The record of blocks: what is written when, and what another process reads in it."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore.errors import ConfigurationError, ScalingFailed
from flowcore.plugins.api import JobState, RunInfo
from flowcore.plugins.hooks import HookManager
from flowcore.providers import LocalProvider
from flowcore.scaling.blocks import BlockPool
from flowcore.scaling.record import NAME, BlockRecord, ExecutorEntry, Process, read, runs
from flowcore.scaling.strategy import no_scaling
from flowcore.testing import FakeBlockExecutor, FakeClock, FakeProvider


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level another test has left behind."""
    caplog.set_level(logging.WARNING, "flowcore")


class World:
    """A pool that writes a record."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / NAME
        self.provider = FakeProvider()
        self.executor = FakeBlockExecutor(self.provider, block_error_handler=False)
        self.clock = FakeClock()
        run = RunInfo("0123abcd", run_dir, "", "sim.py", 0.0)
        self.record = BlockRecord.begin(run)
        self.record.executor("fake_blocks", LocalProvider(worker_init="x"), run_dir / "submit_scripts")
        self.pool = BlockPool(self.executor, HookManager(), run, self.clock, self.record)

    def step(self) -> None:
        self.clock.advance(5)
        self.pool.step(no_scaling, 100.0)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def read(self) -> ExecutorEntry:
        run = read(self.path.parent)
        assert run is not None
        return run.executors["fake_blocks"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_said_of_the_run(world: World) -> None:
    run = read(world.path.parent)
    assert run is not None
    assert (run.run_id, run.program) == ("0123abcd", "sim.py")
    assert run.process == Process.of(os.getpid())
    assert run.process.alive
    assert run.process.host == socket.gethostname()
    entry = run.executors["fake_blocks"]
    assert entry.provider is not None
    assert (entry.provider["plugin"], entry.provider["worker_init"]) == ("local", "x")
    assert (entry.left_out, entry.why, entry.on_this_host) == ((), None, True)
    assert entry.script_dir == str(world.path.parent / "submit_scripts")
    assert (entry.closed_at, entry.blocks) == (None, {})
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


def test_a_request_stands_there_before_it_is_made(world: World) -> None:
    seen: list[list[dict[str, Any]]] = []
    submit = world.provider.submit

    def looking(*arguments: Any) -> str:
        seen.append(world.lines())
        return submit(*arguments)

    world.provider.submit = looking  # type: ignore[method-assign]
    world.pool.scale_out(2)
    [first, second] = seen
    assert first[-1]["type"] == "requested"
    assert first[-1]["name"] == "flowcore.0123abcd.fake_blocks.block-0"
    assert [line["type"] for line in second[-3:]] == ["requested", "job", "requested"]


def test_the_life_of_blocks(world: World) -> None:
    world.pool.scale_out(3)
    world.provider.set_state("job0", JobState.RUNNING)
    world.executor.connected, world.executor.hosts = {"0"}, {"0": ["n1", "n2"]}
    world.provider.set_state("job1", JobState.PENDING, "Resources")
    world.provider.set_state("job2", JobState.FAILED, "OUT_OF_MEMORY", 137)
    world.step()
    entry = world.read()
    facts = {b.block_id: (b.job_id, b.state, b.message, b.exit_code, b.hosts) for b in entry.blocks.values()}
    assert facts == {
        "0": ("job0", JobState.RUNNING, None, None, ("n1", "n2")),
        "1": ("job1", JobState.PENDING, None, None, ()),
        "2": ("job2", JobState.FAILED, "OUT_OF_MEMORY", 137, ()),
    }
    assert [b.block_id for b in entry.open()] == ["0", "1"]
    lines = len(world.lines())
    for _ in range(5):
        world.step()
    assert len(world.lines()) == lines, "only what changes is written"
    world.pool.close()
    entry = world.read()
    assert entry.open() == []
    assert entry.closed_at is not None


def test_silence_changes_nothing_that_is_recorded(world: World) -> None:
    world.pool.scale_out()
    world.provider.set_state("job0", JobState.RUNNING)
    world.step()
    since = world.read().blocks["0"].since
    lines = len(world.lines())
    world.provider.answering = False
    world.step()
    world.provider.answering = True
    world.step()
    assert len(world.lines()) == lines
    assert (world.read().blocks["0"].state, world.read().blocks["0"].since) == (JobState.RUNNING, since)


def test_requests_that_failed(world: World) -> None:
    world.provider.refusal = "no such partition"
    with pytest.raises(ScalingFailed):
        world.pool.scale_out()
    world.provider.unavailable = "timed out"
    with pytest.raises(ScalingFailed):
        world.pool.scale_out()
    refused, unanswered = world.read().blocks.values()
    assert (refused.job_id, refused.state) == (None, JobState.FAILED)
    assert "no such partition" in (refused.message or "")
    assert (unanswered.job_id, unanswered.state) == (None, JobState.UNKNOWN)
    assert "timed out" in (unanswered.message or "")
    world.provider.unavailable = None
    world.step()
    assert world.read().open() == [], "there is no job of its name"


def test_what_is_left_at_the_end(world: World) -> None:
    world.pool.scale_out(2)
    world.provider.accepts_cancels = False
    world.pool.close()
    entry = world.read()
    assert entry.closed_at is not None
    assert [(b.block_id, b.state) for b in entry.open()] == [("0", JobState.PENDING), ("1", JobState.PENDING)]


def test_a_provider_that_has_no_name(tmp_path: Path) -> None:
    record = BlockRecord.begin(RunInfo("0123abcd", tmp_path, "", "", 0.0))
    record.executor("htex", FakeProvider(), tmp_path)
    run = read(tmp_path)
    assert run is not None
    assert run.executors["htex"].provider is None
    assert run.executors["htex"].why == "flowcore.testing.fakes.FakeProvider is no installed plugin, and so has no name"


def test_no_record_where_none_is_wanted() -> None:
    BlockRecord(None).write("run", run_id="x")


# --- damage


def test_a_run_without_blocks(tmp_path: Path) -> None:
    assert read(tmp_path) is None


def test_every_beginning_of_a_record_can_be_read(world: World) -> None:
    """Whenever the writer is killed, all jobs but the one that is being asked for have their ids there."""
    world.pool.scale_out(3)
    world.pool.close()
    data = world.path.read_bytes()
    first = data.index(b"\n") + 1
    told: dict[str, str | None] = {}
    for end in range(first, len(data) + 1):
        world.path.write_bytes(data[:end])
        run = read(world.path.parent)
        assert run is not None
        executors = run.executors.get("fake_blocks")
        now = {b.block_id: b.job_id for b in executors.blocks.values()} if executors else {}
        assert now.items() >= {block: job for block, job in told.items() if job}.items()
        assert sum(job is None for job in now.values()) <= 1
        told = now
    assert told == {"0": "job0", "1": "job1", "2": "job2"}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n", b"{}\n", b"[1, 2]\n", b"nonsense\n", b'{"type": "job", "at": 1}\n', b"\n\n",
        b'{"type": "job", "executor": "fake_blocks", "block": "77", "job": "9", "at": 1}\n',
        b'{"type": "state", "executor": "fake_blocks", "block": "0", "state": "ASLEEP", "at": 1}\n',
        b'{"type": "later", "executor": "fake_blocks", "block": "0", "at": 1}\n',
        b'{"type": "state", "executor": "fake_blocks", "block": "0", "sta',
    ],
)  # fmt: skip
def test_lines_that_cannot_be_read_are_skipped(world: World, line: bytes) -> None:
    world.pool.scale_out()
    with world.path.open("ab") as file:
        file.write(line if line.endswith(b"\n") else line + b"\n")
    world.pool.scale_out()
    assert [b.job_id for b in world.read().blocks.values()] == ["job0", "job1"]


def test_a_record_that_says_nothing_of_its_run(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"type": "job", "executor": "x", "block": "0", "job": "1", "at": 1}\n')
    with pytest.raises(ConfigurationError, match="does not say whose record it is: its first line is missing"):
        read(tmp_path)


def test_a_record_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(ConfigurationError, match="cannot read the record of blocks, .*: Is a directory"):
        read(tmp_path)


def test_a_disk_that_is_full_stops_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.pool.scale_out()
    size = world.path.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The next line is cut off in its middle, and those behind it have no room at all.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))
    try:
        assert world.pool.scale_out(2) == ["1", "2"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert len(caplog.records) == 1
    assert f"blocks cannot be recorded in {world.path}: File too large" in caplog.text
    assert world.path.read_bytes()[size:].startswith(b'{"type": "requested"')
    world.pool.scale_out()
    assert [b.job_id for b in world.read().blocks.values()] == ["job0", "job3"]


# --- processes and runs


def test_a_process_is_known_by_more_than_its_number() -> None:
    own = Process.of(os.getpid())
    assert own.alive is True
    assert own.started is not None
    assert attrs.evolve(own, started=own.started + 1).alive is False
    assert attrs.evolve(own, boot="another").alive is False
    assert attrs.evolve(own, host="elsewhere").alive is None
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        other = Process.of(process.pid)
        assert other.alive is True
        process.kill()
        process.wait()
        assert other.alive is False


def test_a_process_that_ended_and_was_not_reaped_is_not_alive() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        other = Process.of(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert other.alive is False


@pytest.mark.parametrize(("pid", "alive"), [(os.getpid(), True), (1, True), (2**22 + 1, False)])
def test_where_there_is_no_proc_the_number_has_to_do(pid: int, alive: bool) -> None:
    assert Process(pid, None, socket.gethostname(), None).alive is alive


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("010", "002", "1000", "notes", "99"):
        (tmp_path / name).mkdir()
    (tmp_path / "2000").touch()
    assert [p.name for p in runs(tmp_path)] == ["002", "010", "99", "1000"]
    assert runs(tmp_path / "nothing") == []
