"""PBSProProvider on a stand-in for PBS Pro: what it promises as a provider, and what PBS does to jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_provider_pbs.pbspro import PBSProProvider

from flowcore.plugins.api import (
    ConfigurationError,
    JobState,
    JobStatus,
    ProviderContext,
    ScaleOutFailed,
    SchedulerUnavailable,
)
from flowcore.testing import ProviderContract, eventually

Start = Callable[..., Any]
WAIT_S = 20


class TestContract(ProviderContract):
    """What every provider promises."""

    @pytest.fixture
    def provider(self, pbs: Start) -> PBSProProvider:
        pbs()
        return PBSProProvider()


class TestContractWithoutHistory(ProviderContract):
    """Likewise, where the server forgets a job as soon as it has ended: the job's own record tells how it did."""

    @pytest.fixture
    def provider(self, pbs: Start) -> PBSProProvider:
        pbs(history=False)
        return PBSProProvider()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PBSProProvider]]:
    """Makes and starts providers; cancels their jobs and closes them in the end."""
    made: list[tuple[PBSProProvider, list[str]]] = []

    def start(**options: Any) -> PBSProProvider:
        provider = PBSProProvider(**options)
        folder = tmp_path / f"scripts-{len(made)}"
        folder.mkdir()
        provider.start(ProviderContext(folder, "test"))
        ids: list[str] = []
        made.append((provider, ids))
        submit = provider.submit

        def noting(command: str, tasks_per_node: int = 1, job_name: str = "block") -> str:
            ids.append(submit(command, tasks_per_node, job_name))
            return ids[-1]

        provider.submit = noting  # type: ignore[method-assign]
        return provider

    yield start
    for provider, ids in made:
        provider.cancel(ids)
        provider.close()


def status(provider: PBSProProvider, job_id: str) -> JobStatus:
    (found,) = provider.status([job_id])
    return found


def becomes(provider: PBSProProvider, job_id: str, state: JobState) -> JobStatus:
    def there() -> JobStatus | None:
        found = status(provider, job_id)
        assert found.state is state or not found.terminal, found
        return found if found.state is state else None

    found = eventually(there, WAIT_S, f"state {state.name} of {job_id}")
    assert found is not None
    return found


Make = Callable[..., PBSProProvider]


# --- what a job is


def test_a_job_whose_id_nobody_was_told_is_found_by_its_name(pbs: Start, make: Callable[..., PBSProProvider]) -> None:
    pbs()
    job = make(scheduler_options="#PBS -h").submit("true", 1, "flowcore.12345678.htex.block-0")
    assert make().find("flowcore.12345678.htex.block-0") == [job]
    assert make().find("flowcore.12345678.htex.block-1") == []


def test_nodes_of_a_job(pbs: Start, make: Make, tmp_path: Path) -> None:
    pbs()
    command = f'cat "$PBS_NODEFILE" > {tmp_path}/nodes; pwd > {tmp_path}/folder'
    # Each node is there as often as its command is to run.
    provider = make(nodes_per_block=2)
    becomes(provider, provider.submit(command, 2), JobState.COMPLETED)
    assert (tmp_path / "nodes").read_text().split() == ["n1", "n1", "n2", "n2"]
    # A server that may put both chunks on one host is told not to.
    assert becomes(provider, provider.submit(command), JobState.COMPLETED).message is None
    assert (tmp_path / "nodes").read_text().split() == ["n1", "n2"]
    assert (tmp_path / "folder").read_text().strip() == str(tmp_path / "home")


def test_what_the_user_says_counts(pbs: Start, make: Make) -> None:
    cluster = pbs(queues={"workq": {}, "prod": {}}, accounts=["lab"])
    options = "#PBS -l place=pack\n#PBS -N mine -m n\n#PBS -r y\n"
    provider = make(
        account="lab", queue="prod", select_options="mpiprocs=3", nodes_per_block=2, scheduler_options=options
    )
    job_id = provider.submit("true")
    said = cluster.jobs()[job_id]
    assert said["Resource_List"]["select"] == "2:ncpus=1:mpiprocs=3"
    assert said["Resource_List"]["place"] == "pack"
    assert said["Resource_List"]["walltime"] == "00:20:00"
    assert (said["Job_Name"], said["queue"], said["Account_Name"]) == ("mine", "prod", "lab")
    assert (said["Mail_Points"], said["Rerunable"], said["Keep_Files"]) == ("n", "True", "oed")


def test_streams_can_be_read_while_a_job_runs(pbs: Start, make: Make, tmp_path: Path) -> None:
    pbs()
    provider = make()
    provider.submit("echo begun >&2; sleep 60")
    stream = tmp_path / "scripts-0" / "block.sh.err"
    eventually(lambda: stream.exists() and "begun" in stream.read_text(), WAIT_S, "the job's words")


def test_an_old_version_that_writes_streams_at_the_end(pbs: Start, make: Make) -> None:
    pbs(defects=["no_direct_write"])
    with pytest.raises(ScaleOutFailed, match="qsub: illegal -k value"):
        make().submit("true")
    provider = make(scheduler_options="#PBS -k n")
    found = becomes(provider, provider.submit("echo yes; exit 3"), JobState.FAILED)
    assert "yes" in (found.stdout or "").splitlines()


# --- refusals


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"queue": "wrong"}, r"qsub: Unknown queue \(exit code 170 of: qsub .*block.sh\)"),
        ({"queue": "closed"}, "qsub: Queue is not enabled"),
        ({"account": "nobody"}, "qsub: Invalid Account"),
        ({"select_options": "fish=1"}, "qsub: Unknown resource: fish"),
        ({"scheduler_options": "#PBS -l filesystems=home\n#PBS -l fish=2"}, "Unknown resource Resource_List.fish"),
        ({"walltime": "03:00:00"}, "qsub: Job violates queue and/or server resource limits"),
        ({"scheduler_options": "#PBS -Z"}, "qsub: directive error: -Z"),
    ],
)
def test_the_servers_refusal_reaches_the_user(pbs: Start, make: Make, options: dict[str, Any], why: str) -> None:
    cluster = pbs(queues={"workq": {"max_walltime": "02:00:00"}, "closed": {"enabled": False}}, accounts=["lab"])
    with pytest.raises(ScaleOutFailed, match=why) as caught:
        make(**{"account": "lab", **options}).submit("true")
    assert str(caught.value).startswith("provider 'pbspro' could not submit a block: ")
    assert not isinstance(caught.value, SchedulerUnavailable)
    assert cluster.jobs() == {}


def test_a_full_queue(pbs: Start, make: Make) -> None:
    pbs(queues={"workq": {"max_queued": 1}})
    provider = make()
    provider.submit("sleep 60")
    with pytest.raises(ScaleOutFailed, match="Maximum number of jobs already in queue"):
        provider.submit("true")


def test_a_line_that_is_no_directive() -> None:
    with pytest.raises(ConfigurationError, match=r"'-l place=pack' does not begin with #PBS"):
        PBSProProvider(scheduler_options="-l place=pack")


# --- states


def test_why_a_job_waits(pbs: Start, make: Make) -> None:
    pbs((("n1", 2),))
    first, second, third = make(cpus_per_node=2), make(cpus_per_node=1), make(cpus_per_node=3)
    running, waiting, never = first.submit("sleep 60"), second.submit("true"), third.submit("true")
    assert (becomes(first, running, JobState.RUNNING).message or "").startswith("Job run at ")
    found = status(second, waiting)
    assert found.state is JobState.PENDING
    assert found.message == "Not Running: Insufficient amount of resource: ncpus (R: 1 A: 0 T: 2)"
    assert (status(third, never).message or "").startswith("Can Never Run: ")
    assert first.cancel([running]) == [True]
    becomes(second, waiting, JobState.COMPLETED)


def test_a_held_job(pbs: Start, make: Make) -> None:
    cluster = pbs((("n1", 1),))
    provider = make()
    provider.submit("sleep 60")
    job_id = provider.submit("true")
    cluster.ask("qhold", "-h", "us", job_id)
    assert (status(provider, job_id).state, status(provider, job_id).message) == (
        JobState.HELD,
        "held by the system and its user: Not Running: Insufficient amount of resource: ncpus (R: 1 A: 0 T: 1)",
    )
    cluster.ask("qrls", "-h", "us", job_id)
    assert status(provider, job_id).state is JobState.PENDING


def test_a_job_that_waits_for_its_time_and_one_that_is_suspended(pbs: Start, make: Make) -> None:
    cluster = pbs()
    waits, runs = make(scheduler_options="#PBS -a 203701010000.00"), make()
    job_id = waits.submit("true")
    assert cluster.jobs()[job_id]["job_state"] == "W"
    assert status(waits, job_id).state is JobState.PENDING
    job_id = runs.submit("sleep 60")
    becomes(runs, job_id, JobState.RUNNING)
    cluster.ask("qsig", "-s", "suspend", job_id)
    assert becomes(runs, job_id, JobState.HELD)
    cluster.ask("qsig", "-s", "resume", job_id)
    assert becomes(runs, job_id, JobState.RUNNING)


def test_a_job_that_exits_has_not_ended(pbs: Start, make: Make) -> None:
    cluster = pbs(exiting=0.5)
    provider = make()
    job_id = provider.submit("exit 4")
    eventually(lambda: cluster.jobs()[job_id]["job_state"] == "E", WAIT_S, "state E")
    assert status(provider, job_id).state is JobState.RUNNING
    assert becomes(provider, job_id, JobState.FAILED).exit_code == 4


# --- ends


@pytest.mark.parametrize("exit_status", [-29, 0])
def test_the_walltime(pbs: Start, make: Make, exit_status: int) -> None:
    """As new servers tell it, and as older ones do, by the signal and the time used."""
    pbs(walltime_exit=exit_status)
    provider = make(walltime="00:00:01")
    found = becomes(provider, provider.submit("sleep 60"), JobState.TIMEOUT)
    assert found.message == "ended at its walltime 00:00:01"
    assert "=>> PBS: job killed: walltime" in (found.stderr or "")


def test_a_job_that_somebody_deletes(pbs: Start, make: Make) -> None:
    cluster = pbs((("n1", 1),))
    provider = make()
    runs, waits = provider.submit("sleep 60"), provider.submit("true")
    becomes(provider, runs, JobState.RUNNING)
    cluster.ask("qdel", waits, runs)
    found = becomes(provider, runs, JobState.CANCELLED)
    assert found.exit_code == -15
    assert (found.message or "").startswith("ended by signal 15, SIGTERM (exit status 271: Job run at ")
    assert (becomes(provider, waits, JobState.CANCELLED).message or "").endswith(" and terminated")


def test_a_job_that_kills_itself(pbs: Start, make: Make) -> None:
    pbs()
    provider = make()
    found = becomes(provider, provider.submit("kill -9 $PPID $$; sleep 60"), JobState.FAILED)
    assert (found.message or "").startswith("ended by signal 9, SIGKILL (exit status 265: Job run at ")


def test_a_job_that_the_server_has_forgotten(pbs: Start, make: Make) -> None:
    cluster = pbs()
    provider = make()
    jobs = [provider.submit(f"exit {code}") for code in (0, 5)]
    for job_id in jobs:
        eventually(lambda job_id=job_id: cluster.jobs()[job_id]["job_state"] == "F", WAIT_S, "its end")
        cluster.forget(job_id)
    assert [found.state for found in provider.status(jobs)] == [JobState.COMPLETED, JobState.FAILED]
    assert status(provider, jobs[1]).exit_code == 5
    assert provider.cancel(jobs) == [True, True]


def test_cancelling_jobs_in_all_states(pbs: Start, make: Make) -> None:
    cluster = pbs((("n1", 1),))
    provider = make()
    over = provider.submit("true")
    eventually(lambda: cluster.jobs()[over]["job_state"] == "F", WAIT_S, "its end")
    runs, waits, held = (provider.submit("sleep 60") for _ in range(3))
    becomes(provider, runs, JobState.RUNNING)
    cluster.ask("qhold", held)
    assert provider.cancel([over, runs, waits, held, "999999"]) == [True] * 5
    for job_id in (runs, waits, held):
        becomes(provider, job_id, JobState.CANCELLED)
    assert cluster.queue() == []


# --- faults


def test_a_server_that_is_away(pbs: Start, make: Make) -> None:
    cluster = pbs()
    provider = make()
    job_id = provider.submit("sleep 60")
    becomes(provider, job_id, JobState.RUNNING)
    cluster.stop_server()
    found = status(provider, job_id)
    assert found.state is JobState.UNKNOWN
    assert "qstat: cannot connect to server pbs (errno=15010)" in (found.message or "")
    assert provider.cancel([job_id]) == [False]
    with pytest.raises(SchedulerUnavailable, match="its scheduler does not answer: Connection refused"):
        provider.submit("true")
    cluster.start_server()
    assert status(provider, job_id).state is JobState.RUNNING
    assert provider.cancel([job_id]) == [True]
    becomes(provider, job_id, JobState.CANCELLED)


def test_a_job_that_is_run_a_second_time_does_nothing(pbs: Start, make: Make, tmp_path: Path) -> None:
    cluster = pbs()
    provider = make(scheduler_options="#PBS -r y")
    job_id = provider.submit(f"echo run >> {tmp_path}/runs; sleep 60")
    eventually((tmp_path / "runs").exists, WAIT_S, "its first run")
    cluster.ask("qrerun", job_id)
    found = becomes(provider, job_id, JobState.FAILED)
    assert found.message == "the scheduler started it a second time, and it did nothing then"
    assert "this block has run before" in (found.stderr or "")
    assert cluster.jobs()[job_id]["run_count"] == 2
    assert (tmp_path / "runs").read_text() == "run\n"


def test_the_server_is_asked_not_to_run_a_job_a_second_time(pbs: Start, make: Make) -> None:
    cluster = pbs()
    provider = make()
    job_id = provider.submit("sleep 60")
    becomes(provider, job_id, JobState.RUNNING)
    refused = cluster.run("qrerun", job_id)
    assert (refused.returncode, refused.stderr) == (190, f"qrerun: job is not rerunnable {job_id}\n")
    assert status(provider, job_id).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("defect", "history"),
    [
        ("unescaped", True),
        ("unescaped", False),
        ("leading_zero", True),
        ("repeated_jobs", True),
        ("first_only", False),
        ("no_json", True),
        ("no_json", False),
    ],
)
def test_defects_of_some_versions(pbs: Start, make: Make, defect: str, history: bool) -> None:
    pbs(defects=[defect], history=history)
    provider = make()
    runs = [provider.submit("sleep 60") for _ in range(3)]
    failed = provider.submit("exit 6")
    assert becomes(provider, failed, JobState.FAILED).exit_code == 6
    assert [found.state for found in provider.status([*runs, failed])] == [*[JobState.RUNNING] * 3, JobState.FAILED]


@pytest.mark.parametrize("history", [True, False])
def test_what_doctor_sees(pbs: Start, tmp_path: Path, history: bool) -> None:
    cluster = pbs(history=history)
    provider = PBSProProvider()
    findings = list(provider.dry_run(ProviderContext(tmp_path, "test"), "true", 1))
    provider.close()
    assert [finding.text for finding in findings if not finding.ok] == []
    texts = [finding.text for finding in findings]
    assert "qsub, qstat, qdel found" in texts
    assert "qstat -f -F json gets an answer" in texts
    assert texts[-1].endswith("the options are not tried")
    assert cluster.jobs() == {}


def test_long_names_of_servers(pbs: Start, make: Make) -> None:
    cluster = pbs(name="aurora-pbs-0001.hostmgmt.cm.aurora.alcf.anl.gov")
    provider = make()
    job_id = provider.submit("sleep 60")
    assert job_id == "40.aurora-pbs-0001.hostmgmt.cm.aurora.alcf.anl.gov"
    becomes(provider, job_id, JobState.RUNNING)
    # Where nobody could tell it from others.
    assert "40.aurora-pbs-0*" in cluster.ask("qstat")
