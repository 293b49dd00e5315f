"""SlurmProvider and a real Slurm: what it says of jobs, and what becomes of them when parts of it go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flowcore_provider_slurm.provider import SlurmProvider

from flowcore.errors import ScaleOutFailed, SchedulerUnavailable
from flowcore.plugins.api import RAN_BEFORE, JobState, JobStatus, ProviderContext
from flowcore.testing.waiting import eventually

#: Ends when the file is there.
WAIT = "until [ -e go ]; do sleep 0.05; done"


def status(provider: SlurmProvider, job: str) -> JobStatus:
    return provider.status([job])[0]


def until(provider: SlurmProvider, job: str, *states: JobState, bound_s: float = 40) -> JobStatus:
    """The status of a job, once its state is one of these."""
    seen: list[JobStatus] = []

    def reached() -> bool:
        seen.append(status(provider, job))
        return seen[-1].state in states

    eventually(reached, bound_s, f"{' or '.join(s.name for s in states)} of job {job}")
    return seen[-1]


def output(job: JobStatus) -> str:
    assert job.stdout is not None
    return job.stdout


# --- what Slurm says


def test_a_job_has_the_users_locale(cluster, start, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    provider = start()
    job = provider.submit('echo "locale $LC_ALL"')
    assert output(until(provider, job, JobState.COMPLETED)).splitlines()[-1] == "locale C.UTF-8"


def test_a_job_of_one_of_several_clusters_knows_its_id(cluster, start):
    provider = start(clusters=cluster.name)
    assert provider.id_in_job == "${SLURM_JOB_ID:-?};$SLURM_CLUSTER_NAME"


def test_a_wrong_partition_is_refused_with_slurms_words(cluster, start):
    with pytest.raises(
        ScaleOutFailed, match=r"(?s)'slurm' could not submit a block: sbatch: error: .*nosuch"
    ) as caught:
        start(partition="nosuch").submit("true")
    assert not isinstance(caught.value, SchedulerUnavailable)
    assert "Invalid partition name specified (exit code 1 of: sbatch /" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "state", "message"),
    [
        ({"partition": "closed"}, JobState.PENDING, "PartitionDown (the partition starts no jobs now; sinfo shows oth"),
        ({"nodes_per_block": 9}, JobState.PENDING, "PartitionConfig (the partition does not have so many nodes, or "),
        ({"partition": "short"}, JobState.PENDING, "PartitionTimeLimit (the walltime is longer than the partition "),
        ({"scheduler_options": "#SBATCH --hold"}, JobState.HELD, "JobHeldUser (scontrol release lets it go on)"),
        ({"scheduler_options": "#SBATCH --begin=now+1hour"}, JobState.PENDING, "BeginTime"),
    ],
)
def test_why_a_job_waits(cluster, start, options, state, message):
    provider = start(**options)
    job = provider.submit("true")
    eventually(lambda: (status(provider, job).message or "").startswith(message), 20, f"the reason {message}")
    assert status(provider, job).state is state
    assert provider.cancel([job]) == [True]
    assert until(provider, job, JobState.CANCELLED).message is None


def test_a_held_job_goes_on_when_it_is_released(cluster, start):
    provider = start(scheduler_options="#SBATCH --hold")
    job = provider.submit("echo done")
    until(provider, job, JobState.HELD)
    cluster.release(job)
    assert output(until(provider, job, JobState.COMPLETED)).splitlines()[-1] == "done"


def test_a_job_that_waits_for_room(cluster, start):
    provider = start(exclusive=True, nodes_per_block=2)
    first, second = provider.submit(WAIT), provider.submit("true")
    until(provider, first, JobState.RUNNING)
    eventually(lambda: status(provider, second).message == "Resources", 20, "the reason")
    Path("go").touch()
    assert until(provider, second, JobState.COMPLETED).exit_code == 0


def test_a_job_that_a_signal_killed(cluster, start):
    provider = start()
    job = provider.submit("kill -KILL $$")
    ended = until(provider, job, JobState.FAILED, JobState.COMPLETED)
    assert ended.state is JobState.FAILED
    assert ended.exit_code == -9
    assert ended.message.endswith("killed by signal 9 (SIGKILL)")


def test_a_job_that_takes_too_much_memory(cluster, start):
    provider = start(mem_per_node=0.25, scheduler_options="#SBATCH --ntasks-per-node=1")
    job = provider.submit("python3 -c 'import time; x = bytearray(600_000_000); time.sleep(60)'")
    ended = until(provider, job, JobState.FAILED)
    assert "exceeded memory limit" in ended.stderr


def test_what_is_asked_for_is_what_a_job_has(cluster, start, tmp_path):
    provider = start(nodes_per_block=2, cores_per_node=2, mem_per_node=1.5, walltime="00:07:00", exclusive=False)
    shown = "scontrol --oneliner show job $SLURM_JOB_ID; echo cores $FLOWCORE_CORES memory $FLOWCORE_MEMORY_GB"
    said = output(until(provider, provider.submit(shown, 2, "a name"), JobState.COMPLETED))
    for words in (
        "JobName=a name ",
        "NumNodes=2 ",
        "NumCPUs=4 ",
        "CPUs/Task=1 ",
        "TimeLimit=00:07:00 ",
        "Requeue=0 ",
        "mem=3G,",
        "cores 2 memory 1.5",
    ):
        assert words in said


def test_folders_with_strange_names(cluster, tmp_path):
    folder = tmp_path / 'a %j 100% #1 it\'s "quoted" ü'
    folder.mkdir()
    provider = SlurmProvider(exclusive=False)
    provider.start(ProviderContext(folder, "htex"))
    job = provider.submit("echo hello", 1, "block 0")
    assert output(until(provider, job, JobState.COMPLETED)).splitlines()[-1] == "hello"
    assert {path.suffix for path in folder.iterdir()} >= {".out", ".err", ".sh"}


def test_what_worker_init_sets_reaches_the_steps_of_a_job(cluster, start):
    provider = start(scheduler_options="#SBATCH --export=NONE", worker_init="export FLAVOUR=vanilla")
    job = provider.submit("srun --ntasks=1 bash -c 'echo $FLAVOUR'")
    assert output(until(provider, job, JobState.COMPLETED)).splitlines()[-1] == "vanilla"


def test_a_job_is_found_by_its_name(cluster, start):
    provider = start(scheduler_options="#SBATCH --hold")
    jobs = [provider.submit("true", 1, name) for name in ("one", "a two", "one")]
    assert provider.find("a two") == [jobs[1]]
    assert sorted(provider.find("one")) == sorted([jobs[0], jobs[2]])
    assert provider.find("three") == []
    provider.cancel(jobs)
    until(provider, jobs[1], JobState.CANCELLED)
    assert provider.find("a two") == []


def test_a_dry_run_submits_nothing(cluster, tmp_path):
    def run(**options):
        provider = SlurmProvider(**options)
        try:
            return [(f.ok, f.text) for f in provider.dry_run(ProviderContext(tmp_path, "htex"), "true", 1)]
        finally:
            provider.close()

    before = cluster.jobs()
    found = run()
    assert all(ok for ok, _ in found)
    assert [text for _, text in found][1:3] == ["sbatch, squeue, scancel found", "squeue gets an answer"]
    assert re.match(r"the script would be taken: sbatch: Job \d+ to start at ", found[-1][1])
    ok, text = run(partition="nosuch")[-1]
    assert not ok
    assert text.startswith("the script would be refused: sbatch: error: invalid partition specified: nosuch")
    assert cluster.jobs() == before
    assert list(tmp_path.glob("*.sh")) == []


# --- parts of Slurm that go


def test_a_submission_without_an_answer_does_nothing_when_it_begins(cluster, start, monkeypatch):
    """Slurm takes the job, and is too slow to say so."""
    provider = start(cmd_timeout=2)
    before = set(cluster.jobs())
    cluster.pause_controller()
    try:
        with pytest.raises(SchedulerUnavailable, match="killed after 2 s: sbatch "):
            provider.submit("touch harm")
    finally:
        cluster.resume_controller()
    monkeypatch.setattr(provider, "cmd_timeout", 10)
    eventually(lambda: set(cluster.jobs()) <= before, 30, "the end of a job that was perhaps taken")
    assert not Path("harm").exists()


def test_a_job_that_is_requeued_does_not_run_again(cluster, start):
    provider = start(scheduler_options="#SBATCH --requeue")
    job = provider.submit("echo begun >> begun; sleep 1000")
    eventually(lambda: Path("begun").exists(), 30, "the job's beginning")
    cluster.ask("scontrol", "requeue", job)
    # It waits two minutes before it begins again, unless it is told. Its node refuses what begins in the second in
    # which the first run was ended.
    eventually(lambda: "PENDING" in cluster.ask("squeue", "--noheader", "--format=%T", f"--jobs={job}"), 30, "requeued")
    assert status(provider, job).state is JobState.PENDING
    cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now+2")
    ended = until(provider, job, JobState.FAILED)
    assert ended.exit_code == RAN_BEFORE
    assert ended.message == "the scheduler started it a second time, and it did nothing then"
    assert "flowcore: this block has run before" in ended.stderr
    assert Path("begun").read_text() == "begun\n"


# --- accounting


def test_accounting_knows_the_ends_of_jobs_that_slurm_has_forgotten(accounting_cluster, start):
    provider = start()
    good, bad, killed = provider.submit("exit 0"), provider.submit("exit 3"), provider.submit("kill -KILL $$")
    eventually(lambda: not accounting_cluster.jobs(), 30, "an empty queue")

    def forgotten() -> bool:
        known = accounting_cluster.run("squeue", "--noheader", "--states=all", "--format=%A").stdout.split()
        return not set(known) & {good, bad, killed}

    eventually(forgotten, 60, "that the controller forgets the jobs")
    # Files on which it could rely instead.
    for path in Path("scripts").glob("*.exit"):
        path.unlink()
    found = eventually(lambda: _all_ended(provider.status([good, bad, killed])), 30, "what accounting knows")
    assert [(s.state, s.exit_code) for s in found] == [
        (JobState.COMPLETED, 0),
        (JobState.FAILED, 3),
        (JobState.FAILED, -9),
    ]


def _all_ended(states: list[JobStatus]) -> list[JobStatus] | None:
    return states if all(s.terminal for s in states) else None


def test_the_clusters_option(accounting_cluster, start):
    name = accounting_cluster.name
    provider = start(clusters=name)
    runs, over = provider.submit(WAIT), provider.submit("exit 3")
    assert [re.fullmatch(r"\d+;(\w+)", job)[1] for job in (runs, over)] == [name, name]
    until(provider, runs, JobState.RUNNING)
    assert until(provider, over, JobState.FAILED).exit_code == 3
    assert provider.find("a block") == []
    assert provider.cancel([runs, over]) == [True, True]
    until(provider, runs, JobState.CANCELLED)
    with pytest.raises(ScaleOutFailed, match="No cluster 'nosuch' known by database"):
        start(clusters="nosuch").submit("true")


def test_a_flowcore_that_is_itself_a_job_submits_others(cluster, start, monkeypatch):
    """What Slurm gave that job is not taken over by the new one; here, srun would refuse it."""
    provider = start(cores_per_node=2, mem_per_node=1)
    for variable, value in {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "none"}.items():
        monkeypatch.setenv(variable, value)
    job = provider.submit("srun --ntasks=1 bash -c 'echo $SLURM_JOB_ID $SLURM_CPU_BIND'")
    ended = until(provider, job, JobState.COMPLETED, JobState.FAILED)
    assert (ended.state, ended.stderr) == (JobState.COMPLETED, "")
    assert output(ended).splitlines()[-1].startswith(job)
