"""What qstat prints, recorded and made up: good, odd, empty, cut, in another language, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from flowcore_provider_pbs import qstat, states

from flowcore.plugins.api import Completed, JobState, QueryUnsupported, SchedulerSilent

RUNNING, PENDING, HELD = JobState.RUNNING, JobState.PENDING, JobState.HELD
COMPLETED, FAILED, CANCELLED, TIMEOUT = JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT
UNKNOWN = JobState.UNKNOWN


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> Completed:
    return Completed("qstat -f", exit_code, stdout, stderr)


def pro_states(answer: Mapping[str, qstat.Attributes]) -> dict[str, JobState]:
    found = states.statuses(answer, states.PBSPRO)
    return {job_id: found[job_id].state for job_id in answer if job_id in found}


# --- JSON

OVER_7 = "qstat: 7.pbs Job has finished, use -x or -H to obtain historical job information\n"
UNKNOWN_9 = "qstat: Unknown Job Id 9.pbs\n"
HEAD = '{\n\t"timestamp":1616013438,\n\t"pbs_version":"19.0.0",\n\t"pbs_server":"pbs"'
FINISHED = """,
    "Jobs":{
        "40.pbs":{
            "Job_Name":"pbs_sleep",
            "Job_Owner":"pbsuser@pbs",
            "resources_used":{
                "cpupercent":0,
                "cput":"00:00:00",
                "mem":"5620kb",
                "ncpus":1,
                "vmem":"25632kb",
                "walltime":"00:00:10"
            },
            "job_state":"F",
            "queue":"workq",
            "Error_Path":"pbs:/home/u/pbs_sleep.e40",
            "exec_host":"pbs/0",
            "Hold_Types":"n",
            "Rerunable":"True",
            "Resource_List":{
                "ncpus":1,
                "nodect":1,
                "select":"1:ncpus=1",
                "walltime":"00:02:00"
            },
            "substate":92,
            "Variable_List":{
                "PBS_O_HOME":"/home/pbsuser",
                "PBS_O_LANG":"de_DE.UTF-8",
                "GREETING":"schöne Grüße"
            },
            "comment":"Job run at Wed Mar 17 at 20:36 on (pbs:ncpus=1) and finished",
            "Exit_status":0
        }
    }
}
"""


def job(job_id: str, letter: str, variable: str = '"PBS_O_HOME":"/home/u"') -> str:
    return f'"{job_id}":{{"Job_Name":"b","job_state":"{letter}","Variable_List":{{{variable}}},"comment":"why"}}'


def document(*jobs: str) -> str:
    return HEAD + (',"Jobs":{' + ",".join(jobs) + "}" if jobs else "") + "}\n"


def test_a_job_of_json() -> None:
    (attributes,) = qstat.read_json(said(HEAD + FINISHED)).values()
    assert attributes["job_state"] == "F"
    assert attributes["exit_status"] == "0"
    assert attributes["substate"] == "92"
    assert attributes["resource_list.walltime"] == "00:02:00"
    assert attributes["resources_used.walltime"] == "00:00:10"
    assert attributes["variable_list.greeting"] == "schöne Grüße"


@pytest.mark.parametrize(
    ("what", "stdout", "stderr", "exit_code", "expected"),
    [
        ("one", HEAD + FINISHED, "", 0, {"40.pbs": COMPLETED}),
        ("two", document(job("1.pbs", "R"), job("2.pbs", "Q")), "", 0, {"1.pbs": RUNNING, "2.pbs": PENDING}),
        ("none", document(), "", 0, {}),
        ("nothing at all", "", "", 0, {}),
        ("one is unknown", document(job("1.pbs", "R")), UNKNOWN_9, 153, {"1.pbs": RUNNING}),
        ("all are unknown", document(), "qstat: Unknown Job Id 8.pbs\n" + UNKNOWN_9, 153, {}),
        ("over", document(), OVER_7, 35, {}),
        ("no id", document(), "qstat: illegally formed job identifier: 231512525x\n", 1, {}),
        ("a shell that warns", document(), "bash: warning: setlocale: LC_ALL: no such locale\n" + UNKNOWN_9, 153, {}),
        ("an array", document(job("45[].pbs", "B")), "", 0, {"45[].pbs": RUNNING}),
        ("a line break", document(job("1.pbs", "R", '"A":"x\ny"')), "", 0, {"1.pbs": RUNNING}),
        # What some versions print is no JSON: there is another way to ask.
        ("unescaped quotes", document(job("1.pbs", "R", '"F":"() { eval "$(x)" }"')), "", 0, {}),
        ("a number with zeros", document(job("1.pbs", "R", '"F":005')), "", 0, {}),
        ("a backslash", document(job("1.pbs", "R", r'"F":"a\,b"')), "", 0, {}),
        ("two times Jobs", document(job("1.pbs", "R"), '"Jobs":{' + job("2.pbs", "R")), "", 0, {}),
        ("cut", (HEAD + FINISHED)[:900], "", 0, {}),
        ("another document", "[]", "", 0, {}),
        ("jobs that are none", HEAD + ',"Jobs":["1.pbs"]}', "", 0, {}),
        ("a job that is none", HEAD + ',"Jobs":{"1.pbs":"R"}}', "", 0, {}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)  # fmt: skip
def test_answers_in_json(what: str, stdout: str, stderr: str, exit_code: int, expected: dict[str, JobState]) -> None:
    assert pro_states(qstat.read_json(said(stdout, stderr, exit_code))) == expected


# --- text

PRO_TEXT = """\
Job Id: 45.dev8
    Job_Name = hello.sh
    Job_Owner = yuansuan@host
    resources_used.walltime = 00:00:07
    job_state = F
    queue = workq
    Error_Path = host:/home/yuansuan/a-very-long-folder-name/and-another-one/hello.sh.e4
\t5
    Hold_Types = n
    Resource_List.select = 1:ncpus=4:mpiprocs=4:mem=3221225472:job_tags=normal:
\tjobfs=104857600
    Resource_List.walltime = 00:20:00
    substate = 93
    Variable_List = PBS_O_HOME=/home/yuansuan,PBS_O_LANG=C,
\tPBS_O_PATH=/usr/bin,NOTE=a = b
    comment = Job run at Wed Mar 17 at 20:36 on (host:ncpus=4:mem=3145728kb) a
\tnd failed
    Exit_status = 7

Job Id: 46.dev8
    Job_Name = hello.sh
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T
\t: 8)

"""
TORQUE_TEXT = """\
Job Id: 42940.carah.localdomain
    Job_Name = block-0
    Job_Owner = u@carah.localdomain
    resources_used.cput = 00:00:00
    resources_used.walltime = 00:20:12
    job_state = C
    queue = batch
    server = carah.localdomain
    ctime = Tue May 29 18:23:01 2018
    exec_host = node11/0+node11/1
    Hold_Types = n
    mtime = Tue May 29 18:27:33 2018
    Resource_List.nodes = 1:ppn=2
    Resource_List.walltime = 00:20:00
    Variable_List = PBS_O_QUEUE=batch,PBS_O_HOME=/home/u,BASH_FUNC_module()=() {
          eval `/usr/bin/modulecmd bash $*`\\\\
}
    comment = Job started on Tue May 29 at 18:23
    exit_status = 271
    submit_args = -o /projects/trans_scratch/validations/workspace/temp/out -N b
        lock-0 /home/u/block-0.sh
    fault_tolerant = False

"""
#: Of Slurm's own qstat.
SLURM_TEXT = """\
Job Id:\t7
\tJob_Name = flowcore
\tJob_Owner = root@vm
\tjob_state = R
\tqueue = debug
\tqtime = Wed Nov 25 21:54:22 2026
\tmtime = Wed Nov 25 21:54:22 2026
\tctime = Wed Nov 25 21:56:22 2026
\texec_host = fc0h1/1+fc0h2/1
\tPriority = 4294901757
\teuser = root(0)
\tegroup = root(0)
\tResource_List.walltime = 00:02:00
\tResource_List.nodect = 2
\tResource_List.ncpus = 2

Job Id:\t8
\tJob_Name = flowcore
\tjob_state = C
\tqueue = debug
\tqtime = Wed Nov 25 21:54:22 2026
\tmtime = Wed Nov 25 21:54:22 2026
\tctime = Wed Nov 25 21:54:50 2026
\tResource_List.walltime = 00:02:00

Job Id:\t9
\tJob_Name = flowcore
\tjob_state = C
\tmtime = Wed Nov 25 21:54:22 2026
\tctime = Wed Nov 25 21:56:40 2026
\tResource_List.walltime = 00:02:00

"""


def test_long_lines_are_joined() -> None:
    jobs = qstat.read_text(said(PRO_TEXT))
    attributes = jobs["45.dev8"]
    assert attributes["resource_list.select"] == "1:ncpus=4:mpiprocs=4:mem=3221225472:job_tags=normal:jobfs=104857600"
    assert attributes["error_path"].endswith("hello.sh.e45")
    assert attributes["variable_list"].endswith("C,PBS_O_PATH=/usr/bin,NOTE=a = b")
    assert attributes["comment"].endswith("3145728kb) and failed")
    assert attributes["exit_status"] == "7"
    assert jobs["46.dev8"]["comment"] == "Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T: 8)"
    (attributes,) = qstat.read_text(said(TORQUE_TEXT)).values()
    assert attributes["submit_args"].endswith("-N block-0 /home/u/block-0.sh")
    assert attributes["exit_status"] == "271"
    assert attributes["comment"] == "Job started on Tue May 29 at 18:23"
    # A tab before each attribute, and no line is cut.
    assert qstat.read_text(said(SLURM_TEXT))["7"]["queue"] == "debug"


def test_a_variable_does_not_change_a_job() -> None:
    text = "Job Id: 1.pbs\n    job_state = R\n    Variable_List = A=x\n    job_state = F\n    comment = fine\n"
    assert qstat.read_text(said(text)) == {"1.pbs": {"job_state": "R", "variable_list": "A=x", "comment": "fine"}}


@pytest.mark.parametrize(
    ("what", "stdout", "stderr", "exit_code", "expected"),
    [
        ("two", PRO_TEXT, "", 0, {"45.dev8": FAILED, "46.dev8": PENDING}),
        ("no job", "", "", 0, {}),
        ("cut", PRO_TEXT[:500], "", 0, {"45.dev8": FAILED}),
        ("cut before the state", PRO_TEXT[:60], "", 0, {"45.dev8": UNKNOWN}),
        ("the short form", "Job id            Name\n----------------  ----\n10.ip-10-0-6-1*  STDIN R\n", "", 0, {}),
        ("one is unknown", PRO_TEXT, "qstat: Unknown Job Id 9.pbs\n", 153, {"45.dev8": FAILED, "46.dev8": PENDING}),
        ("unknown", "", "qstat: Unknown Job Id 9.pbs\n", 153, {}),
        ("of Torque", "", "qstat: Unknown Job Id Error 9.carah\n", 153, {}),
        ("of Slurm", "", "", 153, {}),
        ("carriage returns", PRO_TEXT.replace("\n", "\r\n"), "", 0, {"45.dev8": FAILED, "46.dev8": PENDING}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)  # fmt: skip
def test_answers_in_text(what: str, stdout: str, stderr: str, exit_code: int, expected: dict[str, JobState]) -> None:
    assert pro_states(qstat.read_text(said(stdout, stderr, exit_code))) == expected


def test_jobs_are_known_by_the_short_ids_that_some_sites_print() -> None:
    found = states.statuses(qstat.read_json(said(document(job("2.aurora-pbs-0001.hostmgmt", "H")))), states.PBSPRO)
    assert list(found) == ["2", "2.aurora-pbs-0001", "2.aurora-pbs-0001.hostmgmt"]


# --- no answer

READERS = [qstat.read_json, qstat.read_text]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("qstat: Unauthorized Request \n", 159),
        ("bash: ligne 1: qstat : commande introuvable\n", 127),
        ("qstat: internal error: schöne Bescherung\n", 2),
        ("", 1),
        ("qstat: Unknown Job Id 9.pbs\nqstat: Batch protocol error\n", 31),
    ],
)
def test_what_is_not_understood_is_no_answer(read: Callable[..., Any], stderr: str, exit_code: int) -> None:
    with pytest.raises(SchedulerSilent) as caught:
        read(said("", stderr, exit_code))
    assert stderr.strip() in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "stderr",
    [
        "qstat: invalid option -- 'F'\nusage:\n\tqstat [-f] [-J] [-p] [-t] [-x] [-E] [ job_identifier... ]\n",
        "qstat: illegal -F value\n",
        "qstat: PBS is not configured to maintain job history 40.pbs\n",
    ],
)
def test_what_a_site_does_not_have(read: Callable[..., Any], stderr: str) -> None:
    with pytest.raises(QueryUnsupported):
        read(said("", stderr, 2))


# --- what attributes mean


def ended(letter: str = "F", **attributes: Any) -> dict[str, str]:
    limits = {"resource_list.walltime": "00:20:00", "resources_used.walltime": "00:01:00"}
    return {"job_state": letter, **limits, **{name: str(value) for name, value in attributes.items()}}


RAN = "Job run at Wed Mar 17 at 20:36 on (n1:ncpus=1)"


@pytest.mark.parametrize(
    ("attributes", "state", "message", "exit_code"),
    [
        ({"job_state": "Q"}, PENDING, None, None),
        ({"job_state": "Q", "comment": "Not Running: Not enough free nodes available"}, PENDING,
         "Not Running: Not enough free nodes available", None),
        ({"job_state": "T"}, PENDING, None, None),
        ({"job_state": "W"}, PENDING, None, None),
        ({"job_state": "R", "comment": RAN}, RUNNING, RAN, None),
        ({"job_state": "E", "exit_status": "0"}, RUNNING, None, None),
        ({"job_state": "B"}, RUNNING, None, None),
        ({"job_state": "H"}, HELD, "held", None),
        ({"job_state": "H", "hold_types": "u"}, HELD, "held by its user", None),
        ({"job_state": "H", "hold_types": "s", "comment": "job held, too many failed attempts to run"}, HELD,
         "held by the system: job held, too many failed attempts to run", None),
        ({"job_state": "H", "hold_types": "uo"}, HELD, "held by its user and an operator", None),
        ({"job_state": "S"}, HELD, "suspended", None),
        ({"job_state": "U"}, HELD, "suspended", None),
        ({"job_state": "M"}, UNKNOWN, "moved to another server", None),
        ({"job_state": "Z"}, UNKNOWN, "in state 'Z'", None),
        ({}, UNKNOWN, "in state ''", None),
        # ended by itself
        (ended(exit_status=0, substate=92, comment=f"{RAN} and finished"), COMPLETED, None, 0),
        (ended("X", exit_status=0), COMPLETED, None, 0),
        (ended(exit_status=3, substate=93, comment=f"{RAN} and failed"), FAILED, None, 3),
        (ended(exit_status=143, substate=93), FAILED, None, 143),
        (ended(exit_status=271, substate=93, comment=f"{RAN} and failed"), FAILED,
         f"ended by signal 15, SIGTERM (exit status 271: {RAN} and failed)", -15),
        (ended(exit_status=265, substate=93), FAILED, "ended by signal 9, SIGKILL (exit status 265)", -9),
        (ended(exit_status=400), FAILED, "ended by signal 144 (exit status 400)", -144),
        # deleted
        (ended(exit_status=271, substate=91, comment=f"{RAN} and terminated"), CANCELLED,
         f"ended by signal 15, SIGTERM (exit status 271: {RAN} and terminated)", -15),
        (ended(exit_status=265, substate=91), CANCELLED, "ended by signal 9, SIGKILL (exit status 265)", -9),
        (ended(exit_status=1, substate=91, comment=f"{RAN} and terminated"), CANCELLED, f"{RAN} and terminated", 1),
        (ended(substate=91, comment="Job and terminated"), CANCELLED, "Job and terminated", None),
        (ended(substate=91), CANCELLED, "deleted before it began", None),
        (ended("C", exit_status=271, substate=59), CANCELLED, "ended by signal 15, SIGTERM (exit status 271)", -15),
        # at its limits
        (ended(exit_status=-29, substate=93, comment=f"{RAN} and exceeded resource walltime"), TIMEOUT,
         "ended at its walltime 00:20:00", None),
        (ended(exit_status=271, comment=f"{RAN} and exceeded resource walltime"), TIMEOUT,
         "ended at its walltime 00:20:00", None),
        ({**ended(exit_status=271), "resources_used.walltime": "00:20:12"}, TIMEOUT,
         "ended at its walltime 00:20:00", None),
        ({**ended("C", exit_status=265), "resources_used.walltime": "1:00:20:12"}, TIMEOUT,
         "ended at its walltime 00:20:00", None),
        ({**ended(exit_status=0), "resources_used.walltime": "00:20:12"}, COMPLETED, None, 0),
        (ended(exit_status=271, comment="job killed: vmem 192GB exceeded limit 190GB"), FAILED,
         "ended by signal 15, SIGTERM (exit status 271: job killed: vmem 192GB exceeded limit 190GB)", -15),
        (ended(exit_status=-27), FAILED, "it used more memory than it had asked for (Exit_status -27)", None),
        # not run
        (ended(exit_status=-1, comment="no such user"), FAILED,
         "it could not be started (Exit_status -1: no such user)", None),
        (ended(exit_status=-4), FAILED, "its node was restarted (Exit_status -4)", None),
        (ended(exit_status=-17), FAILED, "PBS ended it (Exit_status -17)", None),
        (ended(substate=93, comment="Job held by a hook"), FAILED, "Job held by a hook", None),
        (ended(), FAILED, "ended without an exit status", None),
        (ended(exit_status="none"), FAILED, "ended without an exit status", None),
    ],
)  # fmt: skip
def test_what_attributes_mean(
    attributes: dict[str, str], state: JobState, message: str | None, exit_code: int | None
) -> None:
    status = states.job_status(attributes, states.PBSPRO)
    assert status is not None
    assert (status.state, status.message, status.exit_code) == (state, message, exit_code)


def test_what_slurms_qstat_tells() -> None:
    """It has no exit status: what is not known here is read from what the job has recorded."""
    found = states.statuses(qstat.read_text(said(SLURM_TEXT)), states.TORQUE)
    assert {job_id: status.state for job_id, status in found.items()} == {"7": RUNNING, "9": TIMEOUT}
    (status,) = states.statuses({"1": {"job_state": "U"}}, states.TORQUE).values()
    assert status.state is UNKNOWN


def test_what_torque_tells() -> None:
    found = states.statuses(qstat.read_text(said(TORQUE_TEXT)), states.TORQUE)
    assert found["42940.carah.localdomain"].state is TIMEOUT


def test_the_recorded_document_is_json() -> None:
    assert list(json.loads(HEAD + FINISHED)["Jobs"]) == ["40.pbs"]
