"""``flowcore blocks``: what it shows of runs that go on, ended, or were killed; and what it cancels, and does not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from flowcore.cli.blocks import duration, since
from flowcore.cli.main import cli
from flowcore.plugins.api import JobState, JobStatus, ProviderContext, RunInfo
from flowcore.providers import LocalProvider
from flowcore.scaling import survey
from flowcore.scaling.record import NAME, BlockRecord, Process, read
from flowcore.testing import FakeProvider, eventually, processes


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["blocks", *map(str, arguments)], prog_name="flowcore")


@pytest.fixture
def dead() -> Process:
    """A process of this host that is gone."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        return Process.of(process.pid)


class Run:
    """The record of a run below ``runinfo``, as a run of that process would write it."""

    def __init__(self, number: str, process: Process, provider: Any = None) -> None:
        self.folder = Path("runinfo") / number
        (self.folder / "submit_scripts").mkdir(parents=True)
        self.record = BlockRecord.begin(RunInfo("0123abcd-45", self.folder, "", "sim.py", 0.0))
        self.be(process)
        self.add("htex", LocalProvider() if provider is None else provider)

    def be(self, process: Process) -> None:
        """Be of another process."""
        [first, *others] = (self.folder / NAME).read_text().splitlines()
        line = json.dumps({**json.loads(first), **attrs.asdict(process)})
        (self.folder / NAME).write_text("\n".join([line, *others, ""]))

    def add(self, label: str, provider: Any) -> None:
        self.record.executor(label, provider, (self.folder / "submit_scripts").resolve())

    def block(self, block_id: str, job: str | None, executor: str = "htex") -> None:
        name = f"flowcore.0123abcd.{executor}.block-{block_id}"
        self.record.write("requested", executor=executor, block=block_id, name=name)
        if job is not None:
            self.record.write("job", executor=executor, block=block_id, job=job)

    def state(self, block_id: str, state: JobState, message: str | None = None, code: int | None = None) -> None:
        self.record.state("htex", block_id, JobStatus(state, message, code))

    def states(self) -> dict[str, str]:
        run = read(self.folder)
        assert run is not None
        return {b.block_id: b.state.name for b in run.executors["htex"].blocks.values()}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """The provider that every executor's record describes."""
    provider = FakeProvider()
    monkeypatch.setattr(survey, "build", lambda kind, values, path: provider)
    monkeypatch.setattr(survey, "_AGAIN_S", (0.001, 0.01))
    return provider


@pytest.fixture
def killed(dead: Process) -> Run:
    """A run that was killed and has left a running, a waiting and an ended block."""
    run = Run("003", dead)
    run.block("0", "17")
    run.state("0", JobState.RUNNING)
    run.record.write("hosts", executor="htex", block="0", hosts=[f"n{i}" for i in range(6)])
    run.block("1", "18")
    run.state("1", JobState.PENDING, "Resources")
    run.block("2", "19")
    run.state("2", JobState.FAILED, "OUT_OF_MEMORY", 137)
    return run


def rows(result: Result) -> list[list[str]]:
    return [line.split() for line in result.output.splitlines() if line.startswith(" htex")]


# --- showing


def test_what_is_left_of_a_run_that_was_killed(killed: Run, fake: FakeProvider, dead: Process) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.HELD, "JobHeldUser")}
    result = invoke()
    assert result.exit_code == 0, result.output
    first = result.output.splitlines()[0]
    assert first.startswith(f"run runinfo/003 of sim.py: killed: process {dead.pid} of {dead.host}, begun ")
    assert first.endswith("is gone")
    running, held = rows(result)
    assert running[:4] == ["htex", "0", "17", "RUNNING"]
    assert "n0, n1, n2, n3 and 2 more" in result.output
    assert held == ["htex", "1", "18", "HELD", "-", "-", "JobHeldUser"], "since when is not known"
    assert "ended: 1 FAILED (--all shows them)" in result.output
    assert "to cancel what is left: flowcore blocks --cancel runinfo/003" in result.output
    assert fake.adopted == [(j, f"flowcore.0123abcd.htex.block-{i}") for i, j in enumerate(("17", "18"))]
    assert fake.context == ProviderContext(Path("runinfo/003/submit_scripts").resolve(), "htex", "0123abcd-45")
    assert (fake.cancels, fake.commands, fake.closed) == ([], {}, 1)
    assert killed.states() == {"0": "RUNNING", "1": "PENDING", "2": "FAILED"}, "looking writes nothing"


def test_all_blocks(killed: Run, fake: FakeProvider) -> None:
    result = invoke("--all")
    assert [row[:4] for row in rows(result)] == [
        ["htex", "0", "17", "RUNNING"],
        ["htex", "1", "18", "RUNNING"],
        ["htex", "2", "19", "FAILED"],
    ]
    assert "exit code 137: OUT_OF_MEMORY" in result.output
    assert "--all" not in result.output


def test_where_the_scheduler_does_not_answer_the_last_known_is_shown(killed: Run, fake: FakeProvider) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.PENDING)}
    fake.answering = False
    result = invoke()
    running, pending = rows(result)
    assert running[3] == "RUNNING"
    assert (pending[3], pending[-1]) == ("PENDING", "Resources")
    text = "executor htex: what is shown is what the run knew last: the fake scheduler does not answer\n"
    assert text in result.output


def test_jobs_of_which_nothing_is_known_say_so(killed: Run, fake: FakeProvider) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.UNKNOWN, "not listed yet")}
    result = invoke()
    running, pending = rows(result)
    assert running[3] == "RUNNING"
    assert pending[3] == "PENDING"
    assert " ".join(pending).endswith("not listed yet")
    assert "knew last" not in result.output


@pytest.mark.parametrize(
    ("method", "error", "text"),
    [
        ("start", OSError("no route to host"), "its scheduler cannot be reached: OSError: no route to host"),
        ("status", KeyError("x"), "its provider raised KeyError: 'x'"),
    ],
)
def test_a_scheduler_that_cannot_be_asked(
    killed: Run, fake: FakeProvider, method: str, error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(fake, method, broken)
    result = invoke()
    assert result.exit_code == 0
    assert [row[3] for row in rows(result)] == ["RUNNING", "PENDING"]
    assert f"executor htex: what is shown is what the run knew last: {text}" in result.output
    assert fake.closed == 1


def test_a_scheduler_that_takes_too_long(killed: Run, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go = threading.Event()
    monkeypatch.setattr(fake, "start", lambda context: go.wait(30))
    try:
        result = invoke("--timeout", "0.1")
    finally:
        go.set()
    assert "there was no answer within 0.1 s" in result.output
    assert [row[3] for row in rows(result)] == ["RUNNING", "PENDING"]
    eventually(lambda: fake.closed, what="the end of the thread")


def test_secrets_that_would_be_needed_are_named(killed: Run, fake: FakeProvider) -> None:
    line = json.loads((killed.folder / NAME).read_text().splitlines()[1])
    killed.record.write("executor", **{**{k: v for k, v in line.items() if k not in ("type", "at")}, "left_out": ["x"]})
    fake.start = None  # type: ignore[method-assign, assignment]
    assert "Not recorded, since it is secret or has no name: x" in invoke().output


def test_a_provider_that_is_gone(killed: Run) -> None:
    killed.record.write(
        "executor", executor="htex", provider={"plugin": "slrum"}, left_out=[], on_this_host=False, script_dir="/x"
    )
    result = invoke()
    assert "provider.plugin: no provider 'slrum' is installed" in result.output
    assert "; give its configuration with --config FILE" in result.output


def test_a_provider_without_a_name(killed: Run) -> None:
    killed.add("htex", FakeProvider())
    text = "its provider is not known: flowcore.testing.fakes.FakeProvider is no installed plugin, and so has no name; "
    assert text in invoke().output


def test_the_provider_of_a_configuration(killed: Run, tmp_path: Path) -> None:
    killed.add("htex", FakeProvider())
    (tmp_path / "conf.py").write_text(
        "from flowcore import Config\n"
        "from flowcore.plugins.api import JobState, JobStatus\n"
        "from flowcore.testing import FakeBlockExecutor, FakeProvider\n"
        "class Own(FakeProvider):\n"
        "    def status(self, ids):\n"
        "        return [JobStatus(JobState.HELD, 'told')] * len(ids)\n"
        "config = Config(executors=[FakeBlockExecutor(Own(), 'htex')])\n"
    )
    assert [row[3] for row in rows(invoke("--config", "conf.py"))] == ["HELD", "HELD"]
    killed.block("0", "1", "other")
    text = "executor other: what is shown is what the run knew last: conf.py has no executor 'other' with blocks"
    assert text in invoke("--config", "conf.py").output


def test_blocks_that_are_processes_of_another_host(killed: Run, dead: Process) -> None:
    killed.be(attrs.evolve(dead, host="login7"))
    result = invoke()
    assert "; whether it goes on cannot be told from here" in result.output
    assert "its blocks are processes of the host login7, and this is" in result.output


def test_a_run_that_goes_on(killed: Run, fake: FakeProvider) -> None:
    killed.be(Process.of(os.getpid()))
    result = invoke("runinfo/003")
    assert f"run runinfo/003 of sim.py: goes on: process {os.getpid()} of " in result.output
    assert "to cancel" not in result.output


def test_a_run_that_ended(killed: Run, fake: FakeProvider) -> None:
    killed.be(Process.of(os.getpid()))
    for block in "01":
        killed.state(block, JobState.CANCELLED)
    killed.record.write("closed", executor="htex")
    result = invoke()
    assert "run runinfo/003 of sim.py: ended " in result.output
    assert "no block is left\n\nended: 2 CANCELLED, 1 FAILED (--all shows them)\n" in result.output
    assert fake.context is None, "there is nothing to ask for"


def test_a_run_that_ended_and_left_something(killed: Run, fake: FakeProvider) -> None:
    killed.record.write("closed", executor="htex")
    result = invoke()
    assert [row[3] for row in rows(result)] == ["RUNNING", "RUNNING"]
    assert "to cancel what is left: flowcore blocks --cancel runinfo/003" in result.output


def test_json(killed: Run, fake: FakeProvider, dead: Process) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.PENDING, "Priority")}
    told = json.loads(invoke("--json").output)
    assert {k: told[k] for k in ("run_dir", "run_id", "program", "host", "pid", "alive", "over")} == {
        "run_dir": "runinfo/003", "run_id": "0123abcd-45", "program": "sim.py", "host": dead.host, "pid": dead.pid,
        "alive": False, "over": True,
    }  # fmt: skip
    [executor] = told["executors"]
    assert (executor["label"], executor["problem"]) == ("htex", None)
    first, second = executor["blocks"]
    assert (first["job_id"], first["state"], first["hosts"]) == ("17", "RUNNING", [f"n{i}" for i in range(6)])
    assert (second["job_id"], second["state"], second["message"]) == ("18", "PENDING", "Priority")
    assert isinstance(second["since"], float)
    assert len(json.loads(invoke("--json", "--all").output)["executors"][0]["blocks"]) == 3


# --- which run


def test_the_newest_run(killed: Run, dead: Process, fake: FakeProvider) -> None:
    assert "run runinfo/003" in invoke().output
    assert "run runinfo/003" in invoke("runinfo").output
    Run("010", dead)
    assert "run runinfo/010 of sim.py: " in invoke().output
    assert "no block has been asked for" in invoke().output
    assert "run runinfo/003" in invoke("runinfo/003").output


def test_runs_without_blocks() -> None:
    Path("runinfo/000").mkdir(parents=True)
    result = invoke()
    assert (result.exit_code, result.output) == (0, "run runinfo/000: it has asked for no blocks\n")
    assert invoke("--json").output == "null\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 1, "runinfo: there is no run yet; give the folder of a run, such as runinfo/003"),
        (["nowhere"], 1, "nowhere: there is no such folder; give the folder of a run"),
        (["--cancel"], 2, "--cancel goes with RUN_DIR, the folder of the run whose jobs are to be cancelled"),
        (["--force", "x"], 2, "--force goes with --cancel"),
        (["--profile", "x"], 2, "--profile goes with --config"),
    ],
)
def test_what_is_refused(arguments: list[str], code: int, text: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code
    assert text in result.output


# --- cancelling


def test_cancel(killed: Run, fake: FakeProvider) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.COMPLETED, "by itself")}
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 0
    assert result.output == (
        "executor htex, block 0, job 17: cancelled\n"
        "executor htex, block 1, job 18: had ended before (COMPLETED: by itself)\n"
    )
    assert fake.cancels == [["17"]]
    assert killed.states() == {"0": "CANCELLED", "1": "COMPLETED", "2": "FAILED"}
    again = invoke("--cancel", "runinfo/003")
    assert (again.exit_code, again.output) == (0, "run runinfo/003: no block is left\n")
    assert len(fake.cancels) == 1
    assert "no block is left" in invoke().output


def test_cancelling_that_is_not_accepted(killed: Run, fake: FakeProvider) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.PENDING, "Priority")}
    fake.accepts_cancels = False
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 1
    assert "block 0, job 17: not cancelled: this was not accepted, and it is RUNNING\n" in result.output
    assert "block 1, job 18: not cancelled: this was not accepted, and it is PENDING: Priority\n" in result.output
    assert killed.states()["0"] == "RUNNING"


def test_jobs_that_take_their_time_to_end(killed: Run, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.RUNNING)}
    monkeypatch.setattr(fake, "cancel", lambda job_ids: [True] * len(job_ids))
    result = invoke("--cancel", "runinfo/003", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "block 0, job 17: was cancelled, and has not ended yet: it is RUNNING\n" in result.output
    polls = len(fake.polls)
    status = fake.status

    def ending(job_ids: Any) -> Any:
        if len(fake.polls) > polls + 3:
            fake.jobs = dict.fromkeys(("17", "18"), JobStatus(JobState.CANCELLED))
        return status(job_ids)

    monkeypatch.setattr(fake, "status", ending)
    result = invoke("--cancel", "runinfo/003")
    assert (result.exit_code, result.output.count(": cancelled\n")) == (0, 2)


def test_a_job_whose_id_nobody_knows_is_found_by_its_name(killed: Run, fake: FakeProvider) -> None:
    killed.block("3", None)
    killed.block("4", None)
    fake.jobs["77"] = JobStatus(JobState.PENDING)
    fake.names["77"] = "flowcore.0123abcd.htex.block-3"
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 0
    assert "block 3, job 77: cancelled\n" in result.output
    assert "block 4: had ended before (CANCELLED: there is no job of its name)\n" in result.output
    assert fake.jobs["77"].state is JobState.CANCELLED


def test_a_job_that_cannot_be_looked_for(killed: Run, fake: FakeProvider) -> None:
    killed.block("3", None)
    fake.finds = False
    assert ["htex", "3", "-", "UNKNOWN"] in [row[:4] for row in rows(invoke())]
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 1
    assert (
        "block 3: not known: it was asked for, and nobody knows its id; look for a job of the name "
        "flowcore.0123abcd.htex.block-3\n"
    ) in result.output


@pytest.mark.parametrize("method", ["start", "cancel", "find"])
def test_one_executor_that_cannot_be_reached_does_not_keep_the_others(
    killed: Run, dead: Process, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.block("3", None)
    killed.add("other", LocalProvider(worker_init="other"))
    killed.block("0", "99", "other")
    good, bad = FakeProvider(), FakeProvider()

    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(bad, method, broken)
    monkeypatch.setattr(survey, "build", lambda kind, values, path: good if values["worker_init"] else bad)
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 1
    assert "executor htex: not cancelled: its " in result.output
    assert "RuntimeError: a defect. Its jobs: 17, 18, flowcore.0123abcd.htex.block-3\n" in result.output
    assert "executor other, block 0, job 99: cancelled\n" in result.output
    assert (good.closed, bad.closed) == (1, 1)


def test_cancel_as_json(killed: Run, fake: FakeProvider) -> None:
    fake.jobs = {"17": JobStatus(JobState.RUNNING), "18": JobStatus(JobState.COMPLETED)}
    result = invoke("--cancel", "runinfo/003", "--json")
    assert json.loads(result.output) == [
        {"executor": "htex", "block_id": "0", "job_id": "17", "text": "cancelled", "left": False},
        {"executor": "htex", "block_id": "1", "job_id": "18", "text": "had ended before (COMPLETED)", "left": False},
    ]


def test_a_run_that_goes_on_is_left_alone(killed: Run, fake: FakeProvider, dead: Process) -> None:
    killed.be(Process.of(os.getpid()))
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 1
    assert f"run runinfo/003 goes on, and looks after its blocks: process {os.getpid()} of " in result.output
    assert "End it, which cancels them, or add --force" in result.output
    killed.be(attrs.evolve(dead, host="login7"))
    result = invoke("--cancel", "runinfo/003")
    assert result.exit_code == 1
    assert f"run runinfo/003 may go on: whether process {dead.pid} of login7 runs cannot be told" in result.output
    assert fake.cancels == []


def test_force(killed: Run, fake: FakeProvider) -> None:
    killed.be(Process.of(os.getpid()))
    assert invoke("--cancel", "--force", "runinfo/003").exit_code == 0
    assert fake.cancels == [["17", "18"]]


def test_what_is_left_of_a_run_that_ended_may_be_cancelled_though_its_process_lives(
    killed: Run, fake: FakeProvider
) -> None:
    killed.be(Process.of(os.getpid()))
    killed.record.write("closed", executor="htex")
    assert invoke("--cancel", "runinfo/003").exit_code == 0
    assert fake.cancels == [["17", "18"]]


# --- processes of this host


@pytest.fixture
def local(dead: Process) -> Iterator[tuple[Run, Callable[..., subprocess.Popen[bytes]]]]:
    """A run whose blocks are processes, which another provider has started."""
    run = Run("000", dead)
    started: list[subprocess.Popen[bytes]] = []

    def block(number: str, text: str, name: str | None = None, tell: bool = True) -> subprocess.Popen[bytes]:
        name = name or f"flowcore.0123abcd.htex.block-{number}"
        script = (run.folder / "submit_scripts" / f"{name}.sh").resolve()
        script.write_text(f"export JOBNAME={name}\n{text}\n")
        process = subprocess.Popen(["/bin/bash", str(script)], start_new_session=True)
        started.append(process)
        run.block(number, str(process.pid) if tell else None)
        return process

    yield run, block
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_local_blocks_are_cancelled(local: Any) -> None:
    run, block = local
    first = block("0", f"sleep 600 & echo $! > {run.folder}/pid; wait")
    lost = block("1", "sleep 600; true", tell=False)
    over = block("2", "true")
    eventually((run.folder / "pid").exists)
    child = eventually(lambda: (run.folder / "pid").read_text().strip())
    over.wait(30)
    result = invoke("--cancel", run.folder)
    assert result.exit_code == 0, result.output
    assert result.output == (
        f"executor htex, block 0, job {first.pid}: cancelled\n"
        f"executor htex, block 1, job {lost.pid}: cancelled\n"
        f"executor htex, block 2, job {over.pid}: had ended before (COMPLETED: it has ended, and nothing tells how)\n"
    )
    for pid in (first.pid, int(child), lost.pid):
        eventually(lambda pid=pid: processes.gone(pid))


def test_what_a_script_has_left_is_cancelled(local: Any) -> None:
    run, block = local
    script = block("0", f"sleep 600 & echo $! > {run.folder}/pid")
    script.wait(30)
    child = int((run.folder / "pid").read_text())
    assert [row[2:4] for row in rows(invoke(run.folder))] == [[str(script.pid), "RUNNING"]]
    assert invoke("--cancel", run.folder).exit_code == 0
    eventually(lambda: processes.gone(child))


def test_a_process_that_has_the_number_of_a_block_by_now_is_left_alone(local: Any) -> None:
    run, block = local
    other = block("0", "sleep 600; true", name="something-else")
    result = invoke("--cancel", run.folder)
    assert (result.exit_code, "had ended before" in result.output) == (0, True)
    assert other.poll() is None


# --- times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"),
        (7500, "2 h 5 min"), (86399, "23 h 59 min"), (86400, "1 d 0 h"), (273600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_since() -> None:
    noon = time.mktime((2026, 5, 1, 12, 0, 0, 0, 0, -1))
    assert since(noon - 90, noon) == "11:58:30 (1 min)"
    assert since(noon - 13 * 3600, noon) == "2026-04-30 23:00 (13 h 0 min)"
    assert since(None, noon) == "-"
