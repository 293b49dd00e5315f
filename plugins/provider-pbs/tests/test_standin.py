"""The stand-in for PBS itself: it does what PBS does, as far as tests build on it, and refuses all else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowcore.testing import eventually, processes

Start = Callable[..., Any]
WAIT_S = 20


def submit(cluster: Any, folder: Path, text: str, *options: str) -> str:
    """Submit a script; return the id."""
    script = folder / "job"
    script.write_text(f"#!/bin/bash\n{text}\n")
    return str(cluster.ask("qsub", *options, str(script))).strip()


def over(cluster: Any, job_id: str) -> dict[str, Any]:
    """Wait for the end of a job; return what is known of it."""
    eventually(lambda: cluster.jobs()[job_id]["job_state"] in "FC", WAIT_S, f"the end of {job_id}")
    return dict(cluster.jobs()[job_id])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-l", "select=2:ncpus=2"], ["n1", "n1"]),
        (["-l", "select=2:ncpus=2", "-l", "place=scatter"], ["n1", "n2"]),
        (["-l", "select=2:ncpus=2,place=pack"], ["n1", "n1"]),
        (["-l", "select=2:ncpus=3:mpiprocs=2"], ["n1", "n1", "n2", "n2"]),
        (["-l", "select=ncpus=1+1:ncpus=4:mpiprocs=3"], ["n1", "n2", "n2", "n2"]),
        (["-l", "select=1:ncpus=0+1:ncpus=1"], ["n1"]),
        (["-l", "select=1:host=n2"], ["n2"]),
        ([], ["n1"]),
    ],
)
def test_the_node_file_of_pbs_pro(pbs: Start, tmp_path: Path, options: list[str], expected: list[str]) -> None:
    cluster = pbs()
    job_id = submit(cluster, tmp_path, "cat $PBS_NODEFILE", "-o", f"{tmp_path}/out", *options)
    assert over(cluster, job_id)["Exit_status"] == 0
    assert (tmp_path / "out").read_text().split() == expected


@pytest.mark.parametrize(
    ("nodes", "expected"), [("2:ppn=2", ["n1", "n1", "n2", "n2"]), ("n2:ppn=3", ["n2"] * 3), ("1", ["n1"])]
)
def test_the_node_file_of_torque(pbs: Start, tmp_path: Path, nodes: str, expected: list[str]) -> None:
    cluster = pbs(torque=True)
    text = "cat $PBS_NODEFILE; echo $PBS_NP $PBS_NUM_NODES"
    job_id = submit(cluster, tmp_path, text, "-o", f"{tmp_path}/out", "-l", f"nodes={nodes}")
    said = over(cluster, job_id)
    assert (said["job_state"], said["exit_status"]) == ("C", 0)
    *lines, counts = (tmp_path / "out").read_text().splitlines()
    assert lines == expected
    assert counts == f"{len(expected)} {len(set(expected))}"


def test_a_job_does_not_inherit_the_users_environment(
    pbs: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = pbs()
    monkeypatch.setenv("MINE", "a b")
    monkeypatch.setenv("OTHER", "x")
    for options, expected in (([], "-"), (["-v", "MINE,YOURS=c"], "a b-c"), (["-V"], "a b-")):
        job_id = submit(cluster, tmp_path, 'echo "$MINE-$YOURS"', "-o", f"{tmp_path}/out", *options)
        over(cluster, job_id)
        assert (tmp_path / "out").read_text() == f"{expected}\n"
    job_id = submit(cluster, tmp_path, "env", "-o", f"{tmp_path}/out")
    over(cluster, job_id)
    variables = dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())
    assert variables["PBS_JOBID"] == job_id
    assert variables["PBS_O_WORKDIR"] == str(tmp_path)
    assert variables["PWD"] == variables["HOME"] == str(tmp_path / "home")
    assert variables["PBS_ENVIRONMENT"] == "PBS_BATCH"


def test_where_streams_go(pbs: Start, tmp_path: Path) -> None:
    cluster = pbs()
    text = "echo out; echo err >&2; until [ -e go ]; do sleep 0.02; done"
    names = {"at-end": [], "direct": ["-k", "oed"], "joined": ["-j", "oe"], "joined-direct": ["-j", "oe", "-k", "doe"]}
    jobs = {name: submit(cluster, tmp_path, text, "-N", name, *options) for name, options in names.items()}
    numbers = {name: job_id.partition(".")[0] for name, job_id in jobs.items()}
    streams = {name: [tmp_path / f"{name}.{letter}{number}" for letter in "oe"] for name, number in numbers.items()}
    eventually(lambda: all(path.exists() and path.read_text() for path in streams["direct"]), WAIT_S, "streams")
    assert not streams["at-end"][0].exists()
    (tmp_path / "home" / "go").touch()
    for job_id in jobs.values():
        over(cluster, job_id)
    for name in ("at-end", "direct"):
        assert [path.read_text() for path in streams[name]] == ["out\n", "err\n"]
    for name in ("joined", "joined-direct"):
        assert streams[name][0].read_text() == "out\nerr\n"
    assert not streams["joined"][1].exists()


def test_the_command_line_counts_more_than_the_script(pbs: Start, tmp_path: Path) -> None:
    """Within the script the first of a resource, and the last of other options."""
    cluster = pbs()
    text = "#PBS -l walltime=1:00:00 -p 1\n#PBS -l walltime=2:00:00 -p 2\n#PBS -N one\necho\n#PBS -N two\n"
    job_id = submit(cluster, tmp_path, text, "-h")
    said = cluster.jobs()[job_id]
    assert (said["Resource_List"]["walltime"], said["Priority"], said["Job_Name"]) == ("01:00:00", 2, "one")
    job_id = submit(cluster, tmp_path, text, "-h", "-l", "walltime=3:00:00", "-p", "3", "-N", "three")
    said = cluster.jobs()[job_id]
    assert (said["Resource_List"]["walltime"], said["Priority"], said["Job_Name"]) == ("03:00:00", 3, "three")


@pytest.mark.parametrize(
    ("torque", "options", "exit_code", "stderr"),
    [
        (False, ["-J", "1-10"], 2, "qsub: invalid option -- 'J'"),
        (False, ["-N", "a.b"], 2, "qsub: illegal -N value"),
        (False, ["-N", "1a"], 2, "qsub: illegal -N value"),
        (False, ["-k", "x"], 2, "qsub: illegal -k value"),
        (False, ["-l", "nodes=2"], 187, "qsub: Unknown resource Resource_List.nodes"),
        (False, ["-l", "select=x"], 166, "qsub: Illegal attribute or resource value Resource_List.select"),
        (False, ["-q", "x"], 170, "qsub: Unknown queue"),
        (False, ["another-script"], 2, "usage: qsub"),
        (True, ["-q", "x"], 172, "qsub: submit error (Unknown queue MSG=cannot locate queue)"),
        (True, ["-k", "oed"], 2, "qsub: illegal -k value"),
        (True, ["-N", "sixteen-letters-"], 2, "qsub: illegal -N value"),
        (True, ["-l", "select=1"], 187, "qsub: submit error (Unknown resource type  Resource_List.select)"),
    ],
)
def test_what_is_refused(
    pbs: Start, tmp_path: Path, torque: bool, options: list[str], exit_code: int, stderr: str
) -> None:
    cluster = pbs(torque=torque)
    (tmp_path / "job").write_text("true\n")
    done = cluster.run("qsub", *options, "job")
    assert done.returncode == exit_code
    assert done.stderr.startswith(stderr)
    assert done.stdout == ""
    assert cluster.jobs() == {}


def test_questions_for_jobs_that_are_over_or_unknown(pbs: Start, tmp_path: Path) -> None:
    cluster = pbs()
    job_id = submit(cluster, tmp_path, "exit 2")
    over(cluster, job_id)
    asked = cluster.run("qstat", "-f", "-F", "json", job_id, "999", "7x")
    assert asked.returncode == 153
    assert asked.stderr.splitlines() == [
        "qstat: illegally formed job identifier: 7x",
        f"qstat: {job_id} Job has finished, use -x or -H to obtain historical job information",
        "qstat: Unknown Job Id 999.pbs",
    ]
    assert "Jobs" not in json.loads(asked.stdout)
    assert json.loads(cluster.ask("qstat", "-x", "-f", "-F", "json", job_id))["Jobs"][job_id]["Exit_status"] == 2
    assert cluster.ask("qstat") == ""
    deleted = cluster.run("qdel", job_id, "999.pbs")
    assert (deleted.returncode, deleted.stdout) == (153, "")
    assert deleted.stderr == f"qdel: Job has finished {job_id}\nqdel: Unknown Job Id 999.pbs\n"


def test_the_end_of_a_job_is_the_end_of_its_session(pbs: Start, tmp_path: Path) -> None:
    cluster = pbs(kill_delay=0.3)
    text = f"(trap '' TERM; while :; do sleep 0.1; done) & echo $! > {tmp_path}/child; trap '' TERM; sleep 60; sleep 60"
    job_id = submit(cluster, tmp_path, text)
    child = tmp_path / "child"
    eventually(lambda: child.exists() and child.read_text(), WAIT_S, "the child")
    began = time.monotonic()
    cluster.ask("qdel", job_id)
    said = over(cluster, job_id)
    # The login shell ends by SIGTERM, and what is left is killed.
    assert (said["Exit_status"], said["substate"]) == (271, 91)
    assert time.monotonic() - began < WAIT_S
    eventually(partial(processes.gone, int(child.read_text())), WAIT_S, "the child's end")


def test_nothing_is_left_when_the_stand_in_ends(pbs: Start, tmp_path: Path) -> None:
    cluster = pbs()
    submit(cluster, tmp_path, f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60; sleep 60")
    pid = tmp_path / "pid"
    eventually(lambda: pid.exists() and pid.read_text(), WAIT_S, "the job")
    cluster.close()
    assert processes.gone(int(pid.read_text()))
    assert os.environ["PATH"].split(":")[0].startswith("/tmp/flowcore-pbs-")
    assert not Path(os.environ["PATH"].split(":")[0]).exists()


def test_nodes(pbs: Start, tmp_path: Path) -> None:
    cluster = pbs()
    cluster.node_down("n1")
    job_id = submit(cluster, tmp_path, "sleep 60", "-l", "select=1:ncpus=4")
    waiting = submit(cluster, tmp_path, "sleep 60", "-l", "select=1:ncpus=4")
    assert [cluster.jobs()[i]["job_state"] for i in (job_id, waiting)] == ["R", "Q"]
    nodes = json.loads(cluster.ask("pbsnodes", "-a", "-F", "json"))["nodes"]
    assert {name: node["state"] for name, node in nodes.items()} == {"n1": "down", "n2": "job-busy"}
    assert cluster.ask("qselect", "-s", "Q").split() == [waiting]
    cluster.node_up("n1")
    assert cluster.jobs()[waiting]["exec_host"] == "n1/0*4"
