"""What qsub and qdel print, recorded and made up, and what PBS is told."""

from __future__ import annotations

import inspect
import re
import shlex
from typing import Any

import attrs
import pytest
from flowcore_provider_pbs import commands, options
from flowcore_provider_pbs.pbspro import PBSProProvider
from flowcore_provider_pbs.torque import TorqueProvider

from flowcore.plugins import registry
from flowcore.plugins.api import Completed, ConfigurationError, JobRequest
from flowcore.plugins.component import options as component_options

BOTH = [PBSProProvider, TorqueProvider]


def said(stdout: str = "", stderr: str = "", exit_code: int = 0) -> Completed:
    return Completed("qsub x", exit_code, stdout, stderr)


@pytest.fixture
def simple() -> Any:
    return registry.get("launcher", "simple")()


# --- qsub


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("40.pbs\n", "40.pbs"),
        ("2.aurora-pbs-0001.hostmgmt.cm.aurora.alcf.anl.gov\n", "2.aurora-pbs-0001.hostmgmt.cm.aurora.alcf.anl.gov"),
        ("42940.carah.localdomain\n", "42940.carah.localdomain"),
        ("7\n", "7"),
        ("45[].pbs\n", "45[].pbs"),
        ("Requested 2 nodes, queue 'prod': 12.5 node hours.\nThank you!\n  99.pbs01  \n\n", "99.pbs01"),
        ("99.pbs01\nYour project has 12 hours left.\n", "99.pbs01"),
    ],
)
def test_the_id_of_a_job(stdout: str, job_id: str) -> None:
    assert commands.submitted(said(stdout)) == job_id


@pytest.mark.parametrize("stdout", ["", "\n", "submitted\n", "qsub: waiting for job 40.pbs to start\n", "40.\n"])
def test_no_id(stdout: str) -> None:
    with pytest.raises(ValueError, match="qsub printed no job id"):
        commands.submitted(said(stdout))


# --- qdel

IDS = ["1.pbs", "2.pbs", "31.pbs"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code", "expected"),
    [
        ("", "", 0, [True, True, True]),
        ("", "qdel: Unknown Job Id 2.pbs\n", 153, [True, True, True]),
        ("", "qdel: Job has finished 2.pbs\n", 35, [True, True, True]),
        ("", "qdel: Unknown Job Id Error 1.carah\n", 153, [True, True, True]),
        ("", "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 1.carah\n", 170, [True] * 3),
        ("", "qdel: Unauthorized Request  2.pbs\n", 159, [True, False, True]),
        ("", "qdel: Unauthorized Request  1.pbs\nqdel: Job has finished 2.pbs\n", 35, [False, True, True]),
        # An id within another is none.
        ("", "qdel: Unauthorized Request  31.pbs\n", 159, [True, True, False]),
        ("", "usage:\n\tqdel [-W force|suppress_email=X] [-x] job_identifier...\n", 2, [False, False, False]),
        ("", "bash: Zeile 1: qdel: Kommando nicht gefunden.\n", 127, [False, False, False]),
        # Slurm's says nothing of jobs that are gone, and has their number as its exit code.
        ("", "", 2, [True, True, True]),
        ("", "", 137, [False, False, False]),
        ("qdel: Kill job error on job id 2: Access/permission denied\n", "", 1, [True, False, True]),
    ],
)
def test_which_jobs_were_cancelled(stdout: str, stderr: str, exit_code: int, expected: list[bool]) -> None:
    assert commands.cancelled(said(stdout, stderr, exit_code), IDS) == expected


# --- no answer


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code"),
    [
        ('{"pbs_server":"aqua"}\n', "Connection refused\nqstat: cannot connect to server aqua (errno=15010)\n", 255),
        ("", "No route to host\nqstat: cannot connect to server aqua (errno=15010)\n", 255),
        ("", "Unknown Host.\nqsub: cannot connect to server polaris (errno=15008)\n", 160),
        ("", "Connexion refusée\nqstat: cannot connect to server aqua (errno=15010)\n", 255),
        ("", "Couldn't connect to cluster: pbs\n", 162),
        ("", "Cannot connect to default server host 'carah' - check pbs_server daemon and/or trqauthd.\n", 1),
        ("", "socket_connect_unix failed: 15137\nqstat: cannot connect to server (null) (errno=15137) could not "
             "connect to trqauthd\n", 33),
        ("", "Communication failure.\nqstat: cannot connect to server carah (errno=15096)\n", 248),
        ("", "qsub: submit error (Pbs Server is currently too busy to service this request)\n", 1),
        ("", "qstat: End of File\n", 1),
        ("", "qsub: Failed to recv data from background qsub\n", 1),
        ("", "Problem loading jobs.\n", 255),
        ("qdel: Kill job error on job id 7: Unable to contact slurm controller (connect failure)\n", "", 1),
        ("", "", -1),
    ],
)  # fmt: skip
def test_no_answer(kind: type[Any], stdout: str, stderr: str, exit_code: int, simple: Any) -> None:
    assert kind(launcher=simple).silent(said(stdout, stderr, exit_code))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("qsub: Unknown queue\n", 170),
        ("qsub: submit error (Unknown queue MSG=cannot locate queue)\n", 172),
        ("qsub: Illegal attribute or resource value\n", 166),
        ("qsub: script file:: No such file or directory\n", 1),
        ("qsub: Job violates queue and/or server resource limits\n", 188),
        ("bash: qsub: command not found\n", 127),
        ("warning: the server was down: connection refused\n", 0),
    ],
)
def test_an_answer(kind: type[Any], stderr: str, exit_code: int, simple: Any) -> None:
    assert not kind(launcher=simple).silent(said("", stderr, exit_code))


# --- what PBS is told

REQUEST = JobRequest("flowcore.htex.block-0", 1, "/r/b.sh", "/r/b.sh.out", "/r/b.sh.err")


@pytest.mark.parametrize(
    ("given", "tasks_per_node", "expected"),
    [
        ({}, 1, [
            "#PBS -N flowcore-htex-block-0", "#PBS -o /r/b.sh.out", "#PBS -e /r/b.sh.err", "#PBS -k oed", "#PBS -r n",
            "#PBS -l select=1:ncpus=1:mpiprocs=1", "#PBS -l walltime=00:20:00",
        ]),
        ({"account": "my_lab", "queue": "prod@other", "nodes_per_block": 2, "cpus_per_node": 64,
          "walltime": "1-02:03:04", "select_options": "ngpus=4"}, 2, [
            "#PBS -N flowcore-htex-block-0", "#PBS -A my_lab", "#PBS -q prod@other", "#PBS -o /r/b.sh.out",
            "#PBS -e /r/b.sh.err", "#PBS -k oed", "#PBS -r n", "#PBS -l select=2:ncpus=64:mpiprocs=2:ngpus=4",
            "#PBS -l place=scatter", "#PBS -l walltime=26:03:04",
        ]),
        # What the user says is not said again.
        ({"nodes_per_block": 2, "queue": "prod", "scheduler_options":
          "#PBS -l filesystems=home:eagle\n#PBS -l place=scatter:excl\n#PBS -r y -k n -j oe\n#PBS -N mine -q debug"},
         1, [
            "#PBS -o /r/b.sh.out", "#PBS -e /r/b.sh.err", "#PBS -l select=2:ncpus=1:mpiprocs=1",
            "#PBS -l walltime=00:20:00",
        ]),
        ({"nodes_per_block": 2, "scheduler_options": "#PBS -lselect=1:ncpus=4+1:ncpus=8 -o /x -e /y -koe -ry"}, 1, [
            "#PBS -N flowcore-htex-block-0", "#PBS -l walltime=00:20:00",
        ]),
        ({"select_options": ":mpiprocs=16:ncpus=32:mem=10gb:"}, 1, [
            "#PBS -N flowcore-htex-block-0", "#PBS -o /r/b.sh.out", "#PBS -e /r/b.sh.err", "#PBS -k oed", "#PBS -r n",
            "#PBS -l select=1:mpiprocs=16:ncpus=32:mem=10gb", "#PBS -l walltime=00:20:00",
        ]),
    ],
)  # fmt: skip
def test_what_pbs_pro_is_told(given: dict[str, Any], tasks_per_node: int, expected: list[str], simple: Any) -> None:
    made = PBSProProvider(launcher=simple, **given)
    request = attrs.evolve(REQUEST, tasks_per_node=tasks_per_node)
    assert made.directives(request) == expected
    assert made.submit_command(request) == "qsub /r/b.sh"


@pytest.mark.parametrize(
    ("given", "tasks_per_node", "expected"),
    [
        ({}, 1, ["#PBS -N re-htex-block-0", "#PBS -r n", "#PBS -l nodes=1:ppn=1", "#PBS -l walltime=00:20:00"]),
        ({"account": "lab", "queue": "q", "nodes_per_block": 2, "walltime": "100:00:00"}, 3, [
            "#PBS -N re-htex-block-0", "#PBS -A lab", "#PBS -q q", "#PBS -r n", "#PBS -l nodes=2:ppn=3",
            "#PBS -l walltime=100:00:00",
        ]),
        ({"scheduler_options": "#PBS -l nodes=n7:ppn=4,mem=4gb\n#PBS -r y"}, 1, [
            "#PBS -N re-htex-block-0", "#PBS -l walltime=00:20:00",
        ]),
    ],
)  # fmt: skip
def test_what_torque_is_told(given: dict[str, Any], tasks_per_node: int, expected: list[str], simple: Any) -> None:
    made = TorqueProvider(launcher=simple, **given)
    assert made.directives(attrs.evolve(REQUEST, tasks_per_node=tasks_per_node)) == expected
    assert made.submit_command(REQUEST) == "qsub -o /r/b.sh.out -e /r/b.sh.err /r/b.sh"


def test_shares_of_a_node(simple: Any) -> None:
    pro, torque = PBSProProvider(launcher=simple), TorqueProvider(launcher=simple, nodes_per_block=2)
    for made in (pro, torque):
        made.cores_per_node, made.mem_per_node = 8, 1.5
    assert "#PBS -l select=1:ncpus=8:mpiprocs=1:mem=1536mb" in pro.directives(REQUEST)
    assert {"#PBS -l nodes=2:ppn=8", "#PBS -l mem=3072mb"} < set(torque.directives(REQUEST))


def test_paths_with_blanks(simple: Any) -> None:
    request = JobRequest("b", 1, "/my run/b.sh", "/my run/b.sh.out", "/my run/b.sh.err")
    assert "#PBS -o '/my run/b.sh.out'" in PBSProProvider(launcher=simple).directives(request)
    assert shlex.split(PBSProProvider(launcher=simple).submit_command(request)) == ["qsub", "/my run/b.sh"]
    said_to_torque = shlex.split(TorqueProvider(launcher=simple).submit_command(request))
    assert said_to_torque == ["qsub", "-o", "/my run/b.sh.out", "-e", "/my run/b.sh.err", "/my run/b.sh"]


def test_where_the_user_has_streams(simple: Any) -> None:
    made = TorqueProvider(launcher=simple, scheduler_options="#PBS -o /x")
    assert made.submit_command(REQUEST) == "qsub -e /r/b.sh.err /r/b.sh"


@pytest.mark.parametrize(
    ("name", "longest", "expected"),
    [
        ("flowcore.htex.block-0", 230, "flowcore-htex-block-0"),
        ("flowcore.htex.block-0", 15, "re-htex-block-0"),
        ("block-10", 15, "block-10"),
        ("7 of 9", 230, "of-9"),
        ("Grüße_1", 230, "Gr--e_1"),
        ("...", 15, "flowcore"),
        ("x" * 300, 230, "x" * 230),
    ],
)
def test_names_of_jobs(name: str, longest: int, expected: str) -> None:
    assert options.job_name(name, longest) == expected
    assert re.fullmatch(rf"[A-Za-z][A-Za-z0-9_-]{{0,{longest - 1}}}", expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", set()),
        ("#PBS -l walltime=1:00:00,mem=4gb -q x", {"l walltime", "l mem", "q"}),
        ("#PBS -lplace=scatter\n# a comment\n#PBS  -koed\n", {"l place", "k"}),
        ("#PBS -W depend=afterok:1.pbs -V -h", {"W", "V", "h"}),
        ("#PBS -A 'my lab' -N\tname", {"A", "N"}),
        # qsub will say what is wrong.
        ("#PBS -A 'my lab", set()),
        ("#PBS -% x", set()),
        ("##PBS -q x", set()),
    ],
)
def test_what_lines_say(lines: str, expected: set[str]) -> None:
    assert options.given(lines) == expected


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("-l place=scatter", r"'-l place=scatter' does not begin with #PBS: it would be run as a command, and qsub"),
        ("#PBS -q x\nmodule load y", r"'module load y' does not begin with #PBS"),
        ("#PBS -t 1-10", r"'#PBS -t 1-10': a job array is no block: let max_blocks say how many jobs there may be"),
        ("#PBS -I", r"a block cannot be interactive"),
        ("#PBS -l mem=1gb,walltime=2:00:00", r"give it as the option walltime, which workers are told too"),
    ],
)
def test_lines_that_are_refused(kind: type[Any], lines: str, why: str, simple: Any) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        kind(launcher=simple, scheduler_options=lines)
    assert str(caught.value).startswith(f"{kind.__name__}(scheduler_options=")


# --- options

REFERENCE = {
    PBSProProvider: "channel account queue scheduler_options select_options worker_init nodes_per_block cpus_per_node "
    "init_blocks min_blocks max_blocks parallelism launcher walltime cmd_timeout",
    TorqueProvider: "channel account queue scheduler_options worker_init nodes_per_block init_blocks min_blocks "
    "max_blocks parallelism launcher walltime cmd_timeout",
}


@pytest.mark.parametrize("kind", BOTH)
def test_options_are_those_of_the_reference(kind: type[Any]) -> None:
    found = component_options(kind)
    assert list(found) == REFERENCE[kind].split()
    defaults = {name: p.default for name, p in found.items() if p.default is not inspect.Parameter.empty}
    plain = {"account": None, "queue": None, "scheduler_options": "", "select_options": "", "worker_init": "",
             "nodes_per_block": 1, "cpus_per_node": 1, "init_blocks": 1, "min_blocks": 0, "max_blocks": 1,
             "parallelism": 1, "walltime": "00:20:00", "cmd_timeout": 120}  # fmt: skip
    assert {name: value for name, value in defaults.items() if name in plain} == {
        name: value for name, value in plain.items() if name in found
    }


def test_default_launchers() -> None:
    assert type(PBSProProvider().launcher).__name__ == "SingleNodeLauncher"
    assert type(TorqueProvider().launcher).__name__ == "AprunLauncher"


def test_options_that_are_refused(simple: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"PBSProProvider\(cpus_per_node=0\): must be at least 1"):
        PBSProProvider(cpus_per_node=0)
    for name in ("account", "queue", "select_options"):
        with pytest.raises(ConfigurationError, match=rf"PBSProProvider\({name}='a\\nb'\): expected text without"):
            PBSProProvider(**{name: "a\nb"})
    with pytest.raises(ConfigurationError, match=r"TorqueProvider\(queue='a b'\): expected text without blanks"):
        TorqueProvider(launcher=simple, queue="a b")
    with pytest.raises(ConfigurationError, match=r"walltime='2h'\): expected HH:MM:SS"):
        TorqueProvider(launcher=simple, walltime="2h")
    with pytest.raises(ConfigurationError, match="PBSProProvider has no option 'cpu_per_node'.*'cpus_per_node'"):
        PBSProProvider(cpu_per_node=4)
