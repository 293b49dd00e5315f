"""What all providers of batch schedulers share, tried with a scheduler of a few lines of bash."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from flowcore.channels import LocalChannel
from flowcore.errors import BadLauncher, ConfigurationError, ScaleOutFailed, SchedulerUnavailable, ScriptPathError
from flowcore.plugins import job_table, registry
from flowcore.plugins.api import (
    Channel,
    ClusterProvider,
    Completed,
    JobRequest,
    JobState,
    JobStatus,
    Launcher,
    ProviderContext,
    QueryUnsupported,
    StatusQuery,
    block_script,
    component,
    local_channel,
    single_node_launcher,
)
from flowcore.testing import ProviderContract, eventually

#: `toy sub|stat|old|del`: a scheduler whose state is a folder. A file `sub`, `stat`, ... in it is run first.
TOY = """\
#!/bin/bash
cd "$TOY_STATE" || exit 9
echo "$*" >> log
verb=$1; shift
if [ -e "$verb" ]; then . "./$verb"; fi
case $verb in
sub)
    id=$(( $(cat last 2>/dev/null || echo 0) + 1 )); echo $id > last
    TOY_ID=$id setsid bash -c '
        echo $$ > "$0.pid"; bash "$1" > "$1.out" 2> "$1.err"; echo $? > "$0.done"
    ' "$PWD/$id" "$1" </dev/null >/dev/null 2>&1 &
    until [ -s $id.pid ]; do sleep 0.01; done
    if [ -e sub.after ]; then . ./sub.after; fi
    echo "job $id is taken" ;;
stat) for id; do if [ -e $id.pid ] && [ ! -e $id.done ]; then echo "$id R"; fi; done ;;
old) for id; do if [ -e $id.done ]; then echo "$id $(cat $id.done)"; fi; done ;;
del)
    for id; do
        if [ -e $id.pid ] && [ ! -e $id.done ]; then kill -KILL -- -$(cat $id.pid); echo 137 > $id.done; fi
    done ;;
esac
"""


def running(said: Completed) -> Mapping[str, JobStatus]:
    return {line.split()[0]: JobStatus(JobState.RUNNING) for line in said.stdout.splitlines()}


def ended(said: Completed) -> Mapping[str, JobStatus]:
    if "no accounting" in said.stderr:
        raise QueryUnsupported(said.stderr.strip())
    codes = (line.split() for line in said.stdout.splitlines())
    return {i: JobStatus(JobState.FAILED if int(c) else JobState.COMPLETED, exit_code=int(c)) for i, c in codes}


@component
class ToyProvider(ClusterProvider):
    channel: Channel = attrs.field(factory=local_channel)
    nodes_per_block: int = 1
    init_blocks: int = 1
    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1
    walltime: str = "00:10:00"
    worker_init: str = ""
    scheduler_options: str = ""
    cmd_timeout: float = 20
    move_files: bool = True
    launcher: Launcher = attrs.field(factory=single_node_launcher)

    programs: ClassVar[tuple[str, ...]] = ("toy",)
    id_variable: ClassVar[str] = "TOY_ID"

    @property
    def label(self) -> str:
        return "toy"

    def directives(self, request: JobRequest) -> list[str]:
        return [f"#TOY name={request.name}"]

    def submit_command(self, request: JobRequest) -> str:
        return f"toy sub {shlex.quote(request.script)}"

    def parse_submitted(self, said: Completed) -> str:
        words = said.stdout.split()
        if words[:1] != ["job"]:
            raise ValueError("no id of a job")
        return words[1]

    def status_queries(self) -> Sequence[StatusQuery]:
        return (
            StatusQuery("stat", lambda ids: f"toy stat {' '.join(ids)}", running),
            StatusQuery("old", lambda ids: f"toy old {' '.join(ids)}", ended),
        )

    def cancel_command(self, job_ids: Sequence[str]) -> str:
        return f"toy del {' '.join(job_ids)}"

    def test_command(self, request: JobRequest) -> str | None:
        return f"bash -n {shlex.quote(request.script)}"


class Toy:
    """The scheduler's state, and how to spoil its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def spoil(self, verb: str, bash: str) -> None:
        (self.folder / verb).write_text(bash)

    def heal(self, verb: str) -> None:
        (self.folder / verb).unlink()

    def asked(self, verb: str) -> list[str]:
        """The arguments of all calls."""
        lines = (self.folder / "log").read_text().splitlines() if (self.folder / "log").exists() else []
        return [line.partition(" ")[2] for line in lines if line.split()[0] == verb]

    def forget(self) -> None:
        """Know nothing of jobs that have ended."""
        self.spoil("old", "exit 0")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    programs, state = tmp_path / "bin", tmp_path / "state"
    programs.mkdir()
    state.mkdir()
    (programs / "toy").write_text(TOY)
    (programs / "toy").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TOY_STATE", str(state))
    yield Toy(state)
    for pid in state.glob("*.pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass


class TestToyProvider(ProviderContract):
    @pytest.fixture
    def provider(self, toy: Toy) -> ToyProvider:
        return ToyProvider()


class TestToyProviderOfAFolder(ProviderContract):
    """The user's own folder for scripts; nothing but the scripts tells how a job ended."""

    @pytest.fixture
    def provider(self, toy: Toy, tmp_path: Path) -> ToyProvider:
        toy.spoil("old", "echo 'no accounting here' >&2; exit 1")
        provider = ToyProvider()
        provider.channel.script_dir = str(tmp_path / "scripts")
        return provider


@pytest.fixture
def start(toy: Toy, tmp_path: Path) -> Iterator[Callable[..., ToyProvider]]:
    folder = tmp_path / "submit_scripts"
    folder.mkdir()
    started: list[ToyProvider] = []

    def start(context: Mapping[str, Any] = {}, **options: Any) -> ToyProvider:
        provider = ToyProvider(**options)
        provider.start(ProviderContext(folder, "label", **context))
        started.append(provider)
        return provider

    yield start
    for provider in started:
        provider.close()


def end(provider: ToyProvider, job: str) -> JobStatus:
    def over() -> JobStatus | None:
        (status,) = provider.status([job])
        return status if status.terminal else None

    status = eventually(over, 30, "the end of the job")
    assert status is not None
    return status


# --- the script


def test_the_script(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    provider = start(scheduler_options="#TOY -x\n#TOY -y\n", worker_init="module load x")
    provider.cores_per_node = 4
    provider.mem_per_node = 1.5
    job = provider.submit("true", 1, "flowcore.htex.block-0")
    end(provider, job)
    script = (tmp_path / "submit_scripts" / "flowcore.htex.block-0.sh").read_text()
    lines = script.splitlines()
    assert lines[:4] == ["#!/bin/bash", "#TOY -x", "#TOY -y", "#TOY name=flowcore.htex.block-0"]
    for line in ("export JOBNAME=flowcore.htex.block-0", "export FLOWCORE_CORES=4", "export FLOWCORE_MEMORY_GB=1.5"):
        assert line in lines
    assert lines.index("module load x") < lines.index("true")


def test_the_preview_is_the_script(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    context = ProviderContext(tmp_path / "submit_scripts", "label", final_script=lambda who, text: f"{text}# {who}\n")
    preview = ToyProvider().preview(context, "true", 2, "name")
    provider = start({"final_script": context.final_script})
    end(provider, provider.submit("true", 2, "name"))
    assert (tmp_path / "submit_scripts" / "name.sh").read_text() == preview
    assert preview.endswith("# toy\n")


def test_hooks_may_change_commands(start: Callable[..., ToyProvider], toy: Toy) -> None:
    seen = []

    def final(channel: str, command: str) -> str:
        seen.append((channel, command))
        return command

    provider = start({"final_command": final})
    provider.submit("true", 1)
    assert [(c, v.split()[:2]) for c, v in seen] == [("LocalChannel", ["toy", "sub"])]


@pytest.mark.parametrize("made", [None, "", "  \n"])
def test_a_launcher_that_starts_nothing(start: Callable[..., ToyProvider], made: Any) -> None:
    with pytest.raises(BadLauncher, match="expected bash that starts it"):
        start(launcher=lambda command, tasks_per_node, nodes_per_block: made).submit("true", 1)


def test_a_script_runs_once(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    provider = start()
    out = tmp_path / "out"
    first = provider.submit(f"echo x >> '{out}'", 1, "name")
    assert end(provider, first).state is JobState.COMPLETED
    # As a scheduler does that lost its memory of the start.
    script = tmp_path / "submit_scripts" / "name.sh"
    code, stdout, _ = provider.execute_wait(f"toy sub '{script}'")
    assert code == 0
    provider.adopt(stdout.split()[1], "name")
    # The mark of its exit is that of the first; what the scheduler says comes first.
    again = end(provider, stdout.split()[1])
    assert again.state is JobState.FAILED
    assert again.exit_code == 98
    assert again.message == "the scheduler started it a second time, and it did nothing then"
    assert "this block has run before" in (again.stderr or "")
    assert out.read_text() == "x\n"


@pytest.mark.parametrize(("command", "code"), [("exec false", 1), ("exit 3", 3), ("kill -KILL $BASHPID", 137)])
def test_the_exit_code_is_recorded_however_the_command_ends(
    start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path, command: str, code: int
) -> None:
    toy.forget()
    provider = start(launcher=registry.get("launcher", "simple")())
    status = end(provider, provider.submit(command, 1, "name"))
    assert (status.state, status.exit_code) == (JobState.FAILED, code)


def test_scripts_go_to_the_users_folder_apart_for_each_run(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    channel = local_channel()
    channel.script_dir = str(tmp_path / "mine")
    provider = start({"run_id": "0123456789"}, channel=channel)
    status = end(provider, provider.submit("echo here", 1, "name"))
    assert sorted(p.name for p in (tmp_path / "mine" / "flowcore-01234567-label").iterdir()) == [
        "name.exit",
        "name.sh",
        "name.sh.err",
        "name.sh.out",
        "name.started",
    ]
    assert "here" in (status.stdout or "").splitlines()


@component
class OtherHost(LocalChannel):
    """This host, as if it were another."""

    script_dir: str | None = None
    on_this_host = False


def test_scripts_and_streams_of_another_host_are_copied(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    provider = start(channel=OtherHost(script_dir=str(tmp_path / "there")))
    (tmp_path / "keys").write_text("secret\n")
    placed = Path(provider.place(tmp_path / "keys"))
    assert placed.read_text() == "secret\n"
    status = end(provider, provider.submit("echo far; echo away >&2", 1, "name"))
    assert (tmp_path / "there" / "flowcore-label" / "name.sh").exists()
    assert status.stdout_path == str(tmp_path / "submit_scripts" / "name.sh.out")
    assert "far" in (status.stdout or "").splitlines()
    assert "away" in (status.stderr or "").splitlines()
    provider.close()
    assert not placed.exists()


def test_a_host_that_sees_the_run_directory_gets_no_copies(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    provider = start(channel=OtherHost(script_dir=str(tmp_path / "there")), move_files=False)
    status = end(provider, provider.submit("echo here", 1, "name"))
    assert status.stdout_path == str(tmp_path / "submit_scripts" / "name.sh.out")
    assert provider.place(tmp_path / "keys") == str(tmp_path / "keys")
    assert not (tmp_path / "there").exists()


def test_a_folder_in_the_users_home(
    start: Callable[..., ToyProvider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    provider = start(channel=LocalChannel(script_dir="~/mine"))
    end(provider, provider.submit("true", 1, "name"))
    assert (tmp_path / "home" / "mine" / "flowcore-label" / "name.sh").exists()


def test_jobs_of_an_array_run_each_once(tmp_path: Path) -> None:
    script = tmp_path / "block.sh"
    script.write_text(block_script("echo ran", "name", base=str(tmp_path / "block")))

    def run(**environment: str) -> tuple[int, str]:
        done = subprocess.run(["bash", script], env={**os.environ, **environment}, capture_output=True, text=True)
        return done.returncode, done.stdout

    assert [run(PBS_ARRAY_INDEX=n) for n in "1221"] == [(0, "ran\n"), (0, "ran\n"), (98, ""), (98, "")]
    assert (tmp_path / "block.1.exit").read_text() == "0\n"
    assert run() == (0, "ran\n")


# --- submitting


def test_a_refusal_has_the_schedulers_words(start: Callable[..., ToyProvider], toy: Toy) -> None:
    provider = start()
    toy.spoil("sub", "echo 'toy: queue nowhere does not exist' >&2; exit 3")
    with pytest.raises(ScaleOutFailed) as caught:
        provider.submit("true", 1, "name")
    assert not isinstance(caught.value, SchedulerUnavailable)
    assert str(caught.value).startswith(
        "provider 'toy' could not submit a block: toy: queue nowhere does not exist (exit code 3 of: toy sub "
    )


def test_no_answer_is_no_refusal(start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path) -> None:
    provider = start()
    toy.spoil("sub", "echo 'toy: Connection refused' >&2; exit 1")
    with pytest.raises(SchedulerUnavailable, match="its scheduler does not answer: toy: Connection refused"):
        provider.submit("true", 1, "name")
    # Should it have been taken, it does nothing.
    toy.heal("sub")
    code, stdout, _ = provider.execute_wait(f"toy sub '{tmp_path}/submit_scripts/name.sh'")
    provider.adopt(stdout.split()[1], "name")
    assert end(provider, stdout.split()[1]).exit_code == 98


def test_a_job_that_began_though_its_submission_got_no_answer(
    start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path
) -> None:
    provider = start(cmd_timeout=0.5)
    go = tmp_path / "go"
    started = tmp_path / "submit_scripts" / "name.started"
    toy.spoil("sub.after", f"until [ -s '{started}' ]; do sleep 0.01; done; sleep 30")
    job = provider.submit(f"until [ -e '{go}' ]; do sleep 0.01; done", 1, "name")
    assert job == "1"
    assert provider.status([job])[0].state is JobState.RUNNING
    go.touch()
    assert end(provider, job).state is JobState.COMPLETED


def test_a_command_that_is_run_nowhere(start: Callable[..., ToyProvider]) -> None:
    with pytest.raises(ScaleOutFailed, match="tasks_per_node=0: a command is run at least once per node"):
        start().submit("true", 0)


def test_the_time_for_a_command(start: Callable[..., ToyProvider]) -> None:
    provider = start()
    code, _, stderr = provider.execute_wait("sleep 30", timeout=0.2)
    assert code == -1
    assert "killed after 0.2 s" in stderr


def test_an_answer_without_an_id(start: Callable[..., ToyProvider], toy: Toy) -> None:
    provider = start()
    toy.spoil("sub", "echo 'Have a nice day'; exit 0")
    with pytest.raises(ScaleOutFailed, match="no id of a job; it said: Have a nice day"):
        provider.submit("true", 1)


def test_a_script_that_cannot_be_written(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    provider = start()
    (tmp_path / "submit_scripts").rmdir()
    with pytest.raises(ScriptPathError, match="No such file or directory"):
        provider.submit("true", 1, "name")


def test_a_job_of_an_ambiguous_submission_that_could_not_be_given_up_is_cancelled_later(
    start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path
) -> None:
    provider = start(cmd_timeout=0.5)
    toy.spoil("sub.after", "sleep 30")
    run = provider.channel.execute_wait
    lost = []

    def broken(cmd: str, *more: Any) -> tuple[int, str, str]:
        if "given-up" in cmd and not lost:
            lost.append(cmd)
            raise OSError("the line is dead")
        return run(cmd, *more)

    provider.channel.execute_wait = broken
    with pytest.raises(SchedulerUnavailable):
        provider.submit("sleep 600", 1, "name")
    assert lost
    eventually((tmp_path / "submit_scripts" / "name.started").exists, 20, "the job's beginning")
    provider.status(["1"])
    assert toy.asked("del") == ["1"]


# --- asking


def test_one_question_for_all_jobs_and_none_for_those_that_ended(
    start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path
) -> None:
    provider = start()
    go = tmp_path / "go"
    waiting = [provider.submit(f"until [ -e '{go}' ]; do sleep 0.01; done", 1) for _ in range(3)]
    over = provider.submit("true", 1)
    end(provider, over)
    before = len(toy.asked("stat")), len(toy.asked("old"))
    assert [s.state for s in provider.status([*waiting, over])] == [JobState.RUNNING] * 3 + [JobState.COMPLETED]
    assert toy.asked("stat")[before[0] :] == [" ".join(waiting)]
    assert len(toy.asked("old")) == before[1]
    go.touch()
    for job in waiting:
        end(provider, job)


def test_many_jobs_are_asked_for_in_chunks(start: Callable[..., ToyProvider], toy: Toy) -> None:
    provider = start()
    provider.chunk_size = 2
    provider.status(["7", "8", "9", "8"])
    assert toy.asked("stat") == ["7 8", "9"]
    assert provider.cancel(["7", "8", "9", "8"]) == [True] * 4
    assert toy.asked("del") == ["7 8", "9"]


@pytest.mark.parametrize("spoiled", ["echo 'Connection refused' >&2; exit 1", "sleep 30"])
def test_a_scheduler_that_does_not_answer_ends_no_job(
    start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = start(cmd_timeout=0.5)
    go = tmp_path / "go"
    job = provider.submit(f"until [ -e '{go}' ]; do sleep 0.01; done", 1)
    toy.spoil("stat", spoiled)
    with caplog.at_level(logging.WARNING, "flowcore"):
        (status,) = provider.status([job])
    assert status.state is JobState.UNKNOWN
    assert str(status.message).startswith("no answer: ")
    assert "no answer" in caplog.text
    toy.spoil("del", spoiled)
    assert provider.cancel([job]) == [False]
    toy.heal("stat")
    toy.heal("del")
    assert provider.status([job])[0].state is JobState.RUNNING
    go.touch()
    assert end(provider, job).state is JobState.COMPLETED


def test_a_query_that_a_site_does_not_have_is_asked_once(start: Callable[..., ToyProvider], toy: Toy) -> None:
    toy.spoil("old", "echo 'no accounting here' >&2; exit 1")
    provider = start()
    for _ in range(3):
        assert end(provider, provider.submit("true", 1)).state is JobState.COMPLETED
    assert len(toy.asked("old")) == 1


def test_a_job_that_is_not_listed_yet(start: Callable[..., ToyProvider], toy: Toy) -> None:
    provider = start()
    toy.spoil("sub", "echo 'job 77 is taken'; exit 0")
    job = provider.submit("true", 1)
    (status,) = provider.status([job])
    assert status.state is JobState.UNKNOWN
    assert status.message == "toy does not list it yet"


def test_a_job_of_whose_end_nothing_tells(
    start: Callable[..., ToyProvider], toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_table, "SETTLE_S", 0.0)
    provider = start()
    toy.spoil("sub", "echo 'job 77 is taken'; exit 0")
    (status,) = provider.status([provider.submit("true", 1)])
    assert status.state is JobState.COMPLETED
    assert status.message == "toy does not list it any more, and nothing tells how it ended"


def test_what_another_process_submitted(start: Callable[..., ToyProvider], tmp_path: Path) -> None:
    first, second = start(), start()
    go = tmp_path / "go"
    job = first.submit(f"echo out; until [ -e '{go}' ]; do sleep 0.01; done", 1, "name")
    second.adopt(job, "name")
    assert second.status([job])[0].state is JobState.RUNNING
    go.touch()
    assert "out" in (end(second, job).stdout or "").splitlines()
    assert second.cancel([job]) == [True]


def test_a_job_is_found_by_its_mark(start: Callable[..., ToyProvider], toy: Toy, tmp_path: Path) -> None:
    provider, other = start(), start()
    go = tmp_path / "go"
    job = provider.submit(f"until [ -e '{go}' ]; do sleep 0.01; done", 1, "begun")
    eventually((tmp_path / "submit_scripts" / "begun.started").exists, 20, "the job's beginning")
    assert other.find("begun") == [job]
    go.touch()
    end(provider, job)
    toy.spoil("sub", "echo 'Connection refused' >&2; exit 1")
    with pytest.raises(SchedulerUnavailable):
        provider.submit("true", 1, "given-up")
    assert other.find("given-up") == []
    # Without a mark the scheduler is asked, and this one cannot tell.
    assert other.find("waiting") is None
    assert not (tmp_path / "submit_scripts" / "waiting.started").exists()
    other.find_command = lambda name: f"echo '7 8 # {name}' | cut -d'#' -f1"
    assert other.find("waiting") == ["7", "8"]
    other.find_command = lambda name: "exit 1"
    assert other.find("waiting") is None


# --- trying it out


def test_a_dry_run(toy: Toy, tmp_path: Path) -> None:
    context = ProviderContext(tmp_path, "label")
    provider = ToyProvider()
    findings = list(provider.dry_run(context, "true", 1))
    assert [f.text for f in findings] == [
        f"scripts go to {tmp_path} on this host",
        "toy found",
        "stat gets an answer",
        "the script would be taken: no objection",
    ]
    assert all(f.ok for f in findings)
    assert not list(tmp_path.glob("*.sh"))
    assert toy.asked("sub") == []
    provider.worker_init = "if"
    *_, last = provider.dry_run(context, "true", 1)
    assert "the script would be refused" in last.text
    assert last.todo == "mend the options of ToyProvider"


def test_a_dry_run_without_a_scheduler(toy: Toy, tmp_path: Path) -> None:
    toy.spoil("stat", "echo 'Connection refused' >&2; exit 1")
    *_, last = ToyProvider().dry_run(ProviderContext(tmp_path, "label"), "true", 1)
    assert last.text.startswith("stat: Connection refused (exit code 1 of: toy stat 1)")
    assert last.todo is not None


def test_a_dry_run_where_the_commands_are_not(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    *_, last = ToyProvider().dry_run(ProviderContext(tmp_path, "label"), "true", 1)
    assert last.text == "toy not found on this host"
    assert last.todo == "run flowcore where the commands of toy are, or give the provider a channel to such a host"


# --- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"walltime": "10"},
            "ToyProvider(walltime='10'): expected HH:MM:SS or D-HH:MM:SS, for example '00:30:00'",
        ),
        ({"walltime": "00:00:00"}, "ToyProvider(walltime='00:00:00'): expected HH:MM:SS"),
        ({"cmd_timeout": 0}, "ToyProvider(cmd_timeout=0): must be more than 0 seconds"),
        ({"init_blocks": 2}, "ToyProvider(min_blocks=0, init_blocks=2, max_blocks=1): min_blocks and"),
        ({"min_blocks": -1}, "ToyProvider(min_blocks=-1, init_blocks=1, max_blocks=1): min_blocks and"),
        ({"nodes_per_block": 0}, "ToyProvider(nodes_per_block=0): must be at least 1"),
        ({"parallelism": 1.5}, "ToyProvider(parallelism=1.5): must be from 0 to 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ToyProvider(**options)
    assert str(caught.value).startswith(text)


def test_the_walltime_in_seconds() -> None:
    assert ToyProvider(walltime="1-00:00:01").walltime_s == 86401.0
