"""What Slurm is asked and what it prints: tables of outputs that were recorded with Slurm 22.05, and damaged ones."""

from __future__ import annotations

import pytest
from flowcore_provider_slurm import formats
from flowcore_provider_slurm.provider import SlurmProvider

from flowcore.plugins.api import Completed, JobState, QueryUnsupported, SchedulerSilent


def said(stdout: str = "", stderr: str = "", exit_code: int = 0, command: str = "squeue") -> Completed:
    return Completed(command, exit_code, stdout, stderr)


def row(number: object, state: str, code: int = 0, cluster: str = "c", reason: str = "None") -> str:
    """A line as of squeue."""
    return f"{number:<24}{state:<24}{code:<12}{cluster:<48}{reason:<120}\n"


# --- squeue

SQUEUE = (
    row(8, "PENDING", reason="PartitionDown")
    + row(10, "CANCELLED", reason="Priority")
    + row(1, "COMPLETED")
    + row(2, "FAILED", 3 << 8, reason="NonZeroExitCode")
    + row(3, "FAILED", 9, reason="JobLaunchFailure")
    + row(7, "PENDING", reason="JobHeldUser")
    + row(4, "RUNNING")
    + row(5, "COMPLETING")
    + row(6, "NODE_FAIL", 256, reason="NodeDown")
    + row(11, "TIMEOUT", 15, reason="TimeLimit")
    + row(12, "OUT_OF_MEMORY", 125 << 8, reason="OutOfMemory")
    + row(13, "PENDING", reason="ReqNodeNotAvail, UnavailableNodes:n[1-3]")
    + row(14, "PENDING", reason="launch_failed_requeued_held")
    + row(15, "PENDING", reason="QOSUsageThreshold")
)


def test_squeue_tells_of_all_jobs():
    found = formats.squeue_statuses(said(SQUEUE))
    assert {name: (s.state.name, s.message, s.exit_code) for name, s in found.items() if ";" not in name} == {
        "8": ("PENDING", "PartitionDown (the partition starts no jobs now; sinfo shows others)", None),
        "10": ("CANCELLED", None, None),
        "1": ("COMPLETED", None, 0),
        "2": ("FAILED", "NonZeroExitCode", 3),
        "3": ("FAILED", "JobLaunchFailure: killed by signal 9 (SIGKILL)", -9),
        "7": ("HELD", "JobHeldUser (scontrol release lets it go on)", None),
        "4": ("RUNNING", None, None),
        "5": ("RUNNING", "COMPLETING", None),
        "6": ("FAILED", "NODE_FAIL: NodeDown", None),
        "11": ("TIMEOUT", "TimeLimit", None),
        "12": ("FAILED", "OUT_OF_MEMORY: OutOfMemory", 125),
        "13": ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-3]", None),
        "14": ("HELD", "launch_failed_requeued_held", None),
        "15": ("PENDING", "QOSUsageThreshold", None),
    }


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code", "jobs"),
    [
        ("", "", 0, []),  # several jobs, none of which it knows
        ("", "slurm_load_jobs error: Invalid job id specified\n", 1, []),  # one that it does not know
        (row(5, "RUNNING"), "slurm_load_jobs error: Invalid job id specified\n", 1, ["5", "5;c"]),  # of two clusters
        ("Welcome!\n\n25.11. maintenance\n2026-11-25 back\n" + row(5, "RUNNING"), "", 0, ["5", "5;c"]),
        (row(5, "RUNNING").strip(), "squeue: error: plugin x cannot be loaded\n", 0, ["5", "5;c"]),
    ],
)
def test_squeue_does_not_know_all_jobs(stdout, stderr, exit_code, jobs):
    assert list(formats.squeue_statuses(said(stdout, stderr, exit_code))) == jobs


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code"),
    [
        ("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1),
        ("", "slurm_load_jobs error: Socket timed out on send/recv operation\n", 1),
        ("", "", 1),
        ("", "bash: squeue: command not found\n", 127),
        (SQUEUE, "squeue: error: something else\n", 1),
        # One cluster does not know the job, the other is away.
        ("", "slurm_load_jobs error: Invalid job id specified\nsqueue: error: 'x' can't be reached now\n", 1),
    ],
)
def test_squeue_that_fails_tells_nothing(stdout, stderr, exit_code):
    with pytest.raises(SchedulerSilent, match=rf"\(exit code {exit_code} of: squeue\)"):
        formats.squeue_statuses(said(stdout, stderr, exit_code))


@pytest.mark.parametrize("length", [1, 2, 24, 27, 48, 50])
def test_a_damaged_line_is_no_answer(length):
    damaged = SQUEUE + row(4711, "RUNNING")[:length].rstrip()
    if length < 4:
        damaged = SQUEUE + "4711"[:length]
    with pytest.raises(SchedulerSilent, match=r"this line of its answer cannot be read: '4.*' \(of: squeue\)"):
        formats.squeue_statuses(said(damaged))


def test_each_cluster_has_a_job_of_that_number():
    found = formats.squeue_statuses(said(row(5, "RUNNING", cluster="a") + row(5, "FAILED", 256, cluster="b")))
    assert (found["5;a"].state, found["5;b"].state) == (JobState.RUNNING, JobState.FAILED)


@pytest.mark.parametrize("states", [("REVOKED", "RUNNING"), ("RUNNING", "REVOKED")])
def test_of_a_federation_one_cluster_runs_the_job(states):
    first, second = states
    found = formats.squeue_statuses(said(row(5, first, cluster="a") + row(5, second, cluster="b")))
    assert found["5"].state is JobState.RUNNING


# --- sacct

SACCT = """\
1|COMPLETED|0:0|c
2|FAILED|3:0|c
3|FAILED|0:9|c
10|CANCELLED by 1000|0:0|c
11|TIMEOUT|0:0|c
12|NODE_FAIL|1:0|
"""


def test_sacct_tells_of_jobs_that_have_ended():
    found = formats.sacct_statuses(said(SACCT + "4|RUNNING|0:0|c\n5|PENDING|0:0|c\n6|NOVEL_STATE|0:0|c\n"))
    assert {name: (s.state.name, s.message, s.exit_code) for name, s in found.items() if ";" not in name} == {
        "1": ("COMPLETED", None, 0),
        "2": ("FAILED", None, 3),
        "3": ("FAILED", "killed by signal 9 (SIGKILL)", -9),
        "10": ("CANCELLED", "by 1000", None),
        "11": ("TIMEOUT", None, None),
        "12": ("FAILED", "NODE_FAIL", None),
    }
    assert found["2;c"] == found["2"]
    assert formats.sacct_statuses(said()) == {}


@pytest.mark.parametrize(
    "text",
    [
        "Slurm accounting storage is disabled\n",
        "SLURM accounting storage is disabled\n",
        "bash: line 1: sacct: command not found\n",
        "/bin/sh: 1: sacct: not found\n",
    ],
)
def test_a_site_without_accounting_is_not_asked_again(text):
    with pytest.raises(QueryUnsupported, match=text.strip()):
        formats.sacct_statuses(said("", text, 1))


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code"),
    [
        ("", "sacct: error: Problem talking to the database: Connection refused\n", 1),
        ("", "sacct: fatal: Bad job/step specified: xyz\n", 1),
        ("1|COMP", "", 0),
        ("1|COMPLETED|0", "", 0),
        ("1", "", 0),
        ("1|COMPLETED|zero|c", "", 0),
    ],
)
def test_sacct_that_fails_tells_nothing(stdout, stderr, exit_code):
    with pytest.raises(SchedulerSilent):
        formats.sacct_statuses(said(stdout, stderr, exit_code))


# --- states


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((w, JobState.PENDING) for w in ("PD", "PENDING", "CF", "CONFIGURING", "RQ", "REQUEUED", "REQUEUE_FED")),
        *((w, JobState.RUNNING) for w in ("R", "RUNNING", "CG", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT")),
        *((w, JobState.HELD) for w in ("S", "SUSPENDED", "ST", "STOPPED", "REQUEUE_HOLD", "RESV_DEL_HOLD")),
        *((w, JobState.HELD) for w in ("SE", "SPECIAL_EXIT")),
        *((w, JobState.COMPLETED) for w in ("CD", "COMPLETED", "completed")),
        *((w, JobState.CANCELLED) for w in ("CA", "CANCELLED")),
        *((w, JobState.TIMEOUT) for w in ("TO", "TIMEOUT")),
        *((w, JobState.FAILED) for w in ("F", "FAILED", "BF", "BOOT_FAIL", "DL", "DEADLINE", "NF", "NODE_FAIL")),
        *((w, JobState.FAILED) for w in ("OOM", "OUT_OF_MEMORY", "PR", "PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL")),
        *((w, JobState.UNKNOWN) for w in ("RV", "REVOKED", "NOVEL_STATE", "X")),
    ],
)
def test_every_state_of_slurm(word, state):
    assert formats.squeue_statuses(said(row(1, word)))["1"].state is state


def test_a_state_that_is_not_known_is_told():
    assert formats.squeue_statuses(said(row(1, "NOVEL_STATE")))["1"].message == "NOVEL_STATE"


def test_a_job_that_failed_otherwise_than_by_its_script_has_no_exit_code():
    (status, _) = formats.squeue_statuses(said(row(1, "FAILED", reason="JobLaunchFailure"))).values()
    assert (status.exit_code, status.message) == (None, "JobLaunchFailure")
    assert "killed by signal 99 (unknown here)" in str(formats.squeue_statuses(said(row(1, "FAILED", 99)))["1"].message)


# --- commands


def test_one_command_asks_for_all_jobs():
    squeue = formats.squeue_command(["1", "2", "3"], None)
    assert squeue.startswith('squeue --noheader --states=all --user="$(id -u)" --Format=JobID:24,')
    assert squeue.endswith(" --jobs=1,2,3")
    assert formats.sacct_command(["1", "2"], None) == (
        "sacct --allocations --noheader --parsable2 --format=JobIDRaw,State,ExitCode,Cluster --jobs=1,2"
    )
    assert formats.scancel_command(["1", "2"], None) == "scancel 1 2"


def test_jobs_are_asked_of_their_clusters():
    assert formats.scancel_command(["1", "2"], "a") == "scancel --clusters=a 1 2"
    assert formats.scancel_command(["1;b", "2;b"], None) == "scancel --clusters=b 1 2"
    assert formats.scancel_command(["1;a", "2", "3;a", "1;b"], None) == (
        "(code=0; scancel --clusters=a 1 3 || code=$?; scancel 2 || code=$?; scancel --clusters=b 1 || code=$?; "
        "exit $code)"
    )
    assert formats.squeue_command(["1;a"], "a,b").startswith("squeue --clusters=a --noheader ")
    assert formats.scancel_command(["1;a b"], None) == "scancel --clusters='a b' 1"


@pytest.mark.parametrize(
    ("clusters", "command"),
    [
        (None, 'squeue --noheader --user="$(id -u)" --name=a.b --format=%A'),
        ("x", "squeue --noheader --user=\"$(id -u)\" --name=a.b --format='%A;x' --clusters=x"),
        (
            "x,y",
            "squeue --noheader --user=\"$(id -u)\" --name=a.b --format='%A;x' --clusters=x && "
            "squeue --noheader --user=\"$(id -u)\" --name=a.b --format='%A;y' --clusters=y",
        ),
        ("all", None),
    ],
)
def test_jobs_are_found_by_their_name(clusters, command):
    assert formats.find_command("a.b", clusters) == command
    assert formats.find_command("a,b", clusters) is None


# --- sbatch

DEFAULT = SlurmProvider().regex_job_id


@pytest.mark.parametrize(
    ("stdout", "pattern", "job_id"),
    [
        ("Submitted batch job 14\n", DEFAULT, "14"),
        ("Submitted batch job 32 on cluster tiny\n", DEFAULT, "32;tiny"),
        ("Welcome!\nSubmitted batch job 14\nYour quota: 3 jobs on cluster x\n", DEFAULT, "14"),
        ("31\n", r"^(?P<id>\d+)", "31"),
        ("JobId=7 accepted", r"JobId=(?P<id>\d+)", "7"),
    ],
)
def test_the_id_of_a_job(stdout, pattern, job_id):
    assert formats.submitted(stdout, pattern) == job_id


@pytest.mark.parametrize("stdout", ["", "\n", "sbatch: queued\n", "Submitted batch job \n", "Submitted batch"])
def test_no_id(stdout):
    with pytest.raises(ValueError, match=r"sbatch named no job: nothing that it printed fits 'Submitted batch job"):
        formats.submitted(stdout, DEFAULT)


# --- scancel


@pytest.mark.parametrize(
    ("stderr", "exit_code", "accepted"),
    [
        ("", 0, [True, True]),
        ("scancel: error: Kill job error on job id 1: Access/permission denied\n", 210, [False, True]),
        ("scancel: error: Kill job error on job id 1: Job/step already completing or completed\n", 1, [True, True]),
        ("scancel: error: Kill job error on job id 2: Invalid job id specified\n", 1, [True, True]),
        ("scancel: error: Invalid job id xyz\n", 1, [False, False]),
        ("bash: scancel: command not found\n", 127, [False, False]),
        ("", -1, [False, False]),
    ],
)
def test_what_scancel_says(stderr, exit_code, accepted):
    assert formats.cancelled(said("", stderr, exit_code), ["1", "2;c"]) == accepted


# --- silence


@pytest.mark.parametrize(
    "text",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "scancel: error: Kill job error on job id 5: Socket timed out on send/recv operation",
        "sacct: error: Problem talking to the database: Connection refused",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Munge encode failed: Failed to access '/run/munge/munge.socket.2'",
        "slurm_load_jobs error: Protocol authentication error",
        "sbatch: error: Batch job submission failed: Slurm backup controller in standby mode",
    ],
)
def test_no_answer(text):
    assert SlurmProvider().silent(said("", text + "\n", 1))


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: invalid partition specified: x\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
        "sbatch: error: Invalid --time specification",
        "bash: sbatch: command not found",
    ],
)
def test_a_refusal_is_an_answer(text):
    assert not SlurmProvider().silent(said("", text + "\n", 1))
