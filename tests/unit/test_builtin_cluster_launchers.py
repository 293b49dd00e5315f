"""The launchers for clusters: how they call their tools, by stand-ins for these that write down what they were told."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcore.launchers import (
    AprunLauncher,
    GnuParallelLauncher,
    JsrunLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    SingleNodeLauncher,
    SrunLauncher,
    SrunMPILauncher,
)
from flowcore.testing import eventually, processes
from flowcore.testing.servers import need

STAND_INS = Path(__file__).parents[1] / "stand_ins" / "tools.py"
LAUNCHERS = [
    SrunLauncher,
    SrunMPILauncher,
    AprunLauncher,
    JsrunLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    GnuParallelLauncher,
]
COMMAND = "cd /\nif true; then\n  work --name 'a \"b\"' # the end\nfi"

OPEN_MPI_4 = "mpiexec (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/"
OPEN_MPI_5 = "mpiexec (Open MPI) 5.0.3"
MPICH = "HYDRA build details:\n    Version:                                 4.0.2"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005"
PALS = "mpiexec version 1.2.12 revision c49fd4b"


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, first on PATH; no job's variables are set."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM", "PBS", "LSB", "PE_"))]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def called(programs: Path, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Runs a script; returns the words of each call of a tool, but for the three that start the copy."""

    def run(script: str, tool: str, says: str = "", before: str = "") -> list[list[str]]:
        calls = tmp_path / "calls"
        calls.mkdir()
        answer = f"case $1 in --version | --help) cat <<'END'\n{says}\nEND\nexit ;; esac"
        # A word to a line; the file for a call of its own.
        program(programs, tool, f"{answer}\nprintf '%s\\0' \"$@\" >'{calls}'/$$")
        done = bash(f"{before}\n{script}")
        assert done.returncode == 0, done.stderr
        words = [file.read_text().split("\0")[:-1] for file in calls.iterdir()]
        assert all(call[-2] == "-c" for call in words if call)
        return sorted(call[:-3] + ([] if call[-3] == "/bin/bash" else [call[-3]]) for call in words)

    return run


@pytest.fixture
def nodefile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Path) -> Path:
    """The node file of a job: two nodes, with a line for each of their slots."""
    file = tmp_path / "nodefile"
    file.write_text("x2\nx1\nx2\nx1\n\n")
    monkeypatch.setenv("PBS_NODEFILE", str(file))
    return file


def bash(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options
    )


def stand_in(folder: Path, *tools: str) -> None:
    subprocess.run([sys.executable, STAND_INS, "install", folder, *tools], check=True)


# --- all of them


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        (SrunLauncher, {"debug": True, "overrides": ""}),
        (SrunMPILauncher, {"debug": True, "overrides": ""}),
        (AprunLauncher, {"debug": True, "overrides": ""}),
        (JsrunLauncher, {"debug": True, "overrides": ""}),
        (MpiExecLauncher, {"debug": True, "bind_cmd": "--bind-to", "overrides": ""}),
        (MpiRunLauncher, {"debug": True, "bash_location": "/bin/bash", "overrides": ""}),
        (GnuParallelLauncher, {"debug": True}),
    ],
)
def test_options_are_those_of_the_reference(launcher: type, options: dict[str, Any]) -> None:
    parameters = inspect.signature(launcher).parameters.values()
    assert [(p.name, p.default) for p in parameters] == list(options.items())


@pytest.mark.parametrize("tasks_per_node", [1, 3])
@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("launcher", [*LAUNCHERS, SingleNodeLauncher])
def test_shellcheck_has_no_objection(launcher: Any, debug: bool, nodes: int, tasks_per_node: int) -> None:
    need("shellcheck")
    script = launcher(debug=debug)(COMMAND, tasks_per_node, nodes)
    # SC2016, "expressions do not expand in single quotes": what stands there is for the shells of the copies.
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC2016", "-"],
        input=f"{script}\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("launcher", "tool", "advice"),
    [
        (SrunLauncher, "srun", "this launcher is for jobs of Slurm"),
        (SrunMPILauncher, "srun", "this launcher is for jobs of Slurm"),
        (AprunLauncher, "aprun", "this launcher is for Crays with ALPS"),
        (JsrunLauncher, "jsrun", "this launcher is for jobs of LSF with IBM's Job Step Manager"),
        (MpiExecLauncher, "mpiexec", "load the module of an MPI in worker_init"),
        (MpiRunLauncher, "mpirun", "load the module of an MPI in worker_init"),
        (GnuParallelLauncher, "parallel", "this launcher needs GNU parallel, and perl on each node"),
    ],
)
def test_a_tool_that_is_not_there(launcher: Any, tool: str, advice: str, programs: Path) -> None:
    done = bash(launcher()(COMMAND, 1, 2), env={"PATH": str(programs)})
    assert done.returncode == 127
    assert done.stderr == f"flowcore: {tool} not found on PATH={programs}: {advice}\n"


@pytest.mark.parametrize("launcher", [MpiExecLauncher, MpiRunLauncher, GnuParallelLauncher])
@pytest.mark.parametrize("variable", [None, "", "/missing/nodes", "empty"])
def test_without_the_names_of_nodes_nothing_starts(
    launcher: Any, variable: str | None, programs: Path, tmp_path: Path
) -> None:
    for tool in ("mpiexec", "mpirun", "parallel"):
        program(programs, tool, f'echo "GNU parallel"; [ "$1" = --version ] || touch {tmp_path}/started')
    (tmp_path / "empty").write_text("\n")
    before = "" if variable is None else f"export PBS_NODEFILE='{variable}'\n"
    done = bash(before + launcher()(COMMAND, 1, 2), cwd=tmp_path)
    assert done.returncode == 96
    assert (
        f"flowcore: PBS_NODEFILE='{variable or ''}' names no nodes, so {launcher.__name__} cannot tell" in done.stderr
    )
    assert "set it in worker_init (export PBS_NODEFILE=FILE), or use the launcher of the scheduler" in done.stderr
    assert not (tmp_path / "started").exists()


def test_fewer_nodes_than_were_asked_for(called: Any, nodefile: Path, programs: Path) -> None:
    script = MpiExecLauncher(debug=False)(COMMAND, 1, 3)
    assert called(script, "mpiexec", MPICH) == [["-ppn", "1", "-hosts", "x2,x1", "-n", "2", "--bind-to", "none"]]
    assert bash(script).stderr == (
        f"flowcore: 3 nodes were asked for, and {nodefile} names 2: x2 x1; workers are started on these\n"
    )


@pytest.mark.parametrize(
    ("launcher", "tool"), [(SrunLauncher, "srun"), (AprunLauncher, "aprun"), (JsrunLauncher, "jsrun")]
)
def test_overrides_are_words_of_a_shell_behind_the_others(launcher: Any, tool: str, called: Any) -> None:
    script = launcher(overrides='--one "$ONE"\n  --two\n# three\n--four="a b"')(COMMAND, 1, 2)
    (words,) = called(script, tool, before="ONE='1 1'")
    assert words[-4:] == ["--one", "1 1", "--two", "--four=a b"]


def test_it_speaks_only_if_it_is_to(programs: Path) -> None:
    stand_in(programs, "srun")
    done = bash(SrunLauncher(debug=False)("echo hello; exit 3", 1, 1))
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 3)
    said = bash(SrunLauncher()("echo hello; exit 3", 1, 1)).stdout.splitlines()
    assert said[0].startswith("flowcore: srun --nodes=1 --ntasks=1 --ntasks-per-node=1 ")
    assert said[1] == "hello"
    assert said[2].endswith(" exited with 3")


@pytest.mark.parametrize("launcher", [SrunLauncher, SrunMPILauncher, AprunLauncher, JsrunLauncher])
def test_copies_know_the_cores_of_their_node_and_have_a_folder_for_temporary_files(
    launcher: Any, programs: Path
) -> None:
    stand_in(programs, "srun", "aprun", "jsrun")
    done = bash(f"export TMPDIR=/missing\n{launcher(debug=False)('echo $CORES ${TMPDIR-none}', 1, 2)}")
    assert done.stdout == f"{os.cpu_count()} none\n" * 2, done.stderr


def test_where_a_copy_fails_the_others_go_on(programs: Path, tmp_path: Path) -> None:
    stand_in(programs, "srun")
    command = f"mkdir '{tmp_path}/taken' 2>/dev/null && exit 5\nsleep 0.1\necho done"
    for launcher in (SrunLauncher(debug=False), SrunMPILauncher(debug=False)):
        done = bash(launcher(command, 2, 2))
        assert (done.returncode, done.stdout) == (5, "done\n" * 3)
        (tmp_path / "taken").rmdir()


def test_a_tool_that_hands_no_signal_on(programs: Path, tmp_path: Path) -> None:
    # As a tool that is a shell's script: it ends at once, and the one that it has called gets its signal later.
    stand_in(tmp_path, "aprun")
    program(programs, "aprun", f'"{tmp_path}/aprun" "$@"\nexit $?')
    script = AprunLauncher()(f"touch '{tmp_path}/begun'\nsleep 300\necho never", 1, 1)
    with subprocess.Popen(["/bin/bash", "-c", script], stdout=subprocess.PIPE, text=True) as block:
        eventually((tmp_path / "begun").exists, what="the copy")
        family = processes.descendants(block.pid)
        block.send_signal(signal.SIGTERM)
        said, _ = block.communicate(timeout=60)
    assert block.returncode == 143
    assert said.endswith("flowcore: ended by a signal, and with it what was started\n")
    eventually(lambda: all(processes.gone(p.pid) for p in family), what="the end of all")


# --- Slurm

SRUN = ["--export=ALL", "--cpu-bind=none", "--kill-on-bad-exit=0", "--wait=0"]


@pytest.mark.parametrize(
    ("tasks_per_node", "nodes", "says", "before", "expected"),
    [
        (1, 1, "", "", ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1", *SRUN]),
        (3, 4, "", "", ["--nodes=4", "--ntasks=12", "--ntasks-per-node=3", *SRUN]),
        (1, 2, "  --overlap  Force", "", ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", *SRUN, "--overlap"]),
        (
            3,
            2,
            "",
            "export SLURM_CPUS_ON_NODE=2",
            ["--nodes=2", "--ntasks=6", "--ntasks-per-node=3", *SRUN, "--overcommit"],
        ),
        (2, 1, "", "export SLURM_CPUS_ON_NODE=2", ["--nodes=1", "--ntasks=2", "--ntasks-per-node=2", *SRUN]),
    ],
)
def test_srun(tasks_per_node: int, nodes: int, says: str, before: str, expected: list[str], called: Any) -> None:
    assert called(SrunLauncher()(COMMAND, tasks_per_node, nodes), "srun", says, before) == [expected]


def test_srun_mpi_calls_srun_for_each_copy(called: Any) -> None:
    words = called(SrunMPILauncher(overrides="--mem=0")(COMMAND, 2, 3), "srun", "--overlap")
    more = ["--nodes=1", "--ntasks=1", "--mpi=none", *SRUN, "--overlap", "--mem=0"]
    assert words == sorted([f"--relative={node}", *more] for node in (0, 1, 2) for _ in range(2))


def test_srun_mpi_gives_copies_what_the_script_knows_of_the_job(programs: Path) -> None:
    stand_in(programs, "srun")
    before = "export SLURM_JOB_NODELIST='n[1-2]' SLURM_NTASKS=8 SLURM_PROCID=0\n"
    command = "env | grep -e ^SLURM -e ^PMI | sort"
    copy = "SLURM_JOB_NODELIST=n[1-2]\nSLURM_NTASKS=8\n"
    assert bash(before + SrunMPILauncher(debug=False)(command, 1, 1)).stdout == copy
    # What a step adds, the other one keeps.
    step = "PMI_RANK=0\nSLURM_JOB_NODELIST=n[1-2]\nSLURM_NTASKS=1\nSLURM_PROCID=0\nSLURM_STEP_ID=7\n"
    assert bash(before + SrunLauncher(debug=False)(command, 1, 1)).stdout == step


# --- ALPS, Job Step Manager


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("", ["-n", "6", "-N", "3", "-cc", "none"]),
        ("-j 2", ["-n", "6", "-N", "3", "-cc", "none", "-j", "2"]),
        ("-d 64 -cc depth", ["-n", "6", "-N", "3", "-d", "64", "-cc", "depth"]),
        ("--cc=depth", ["-n", "6", "-N", "3", "--cc=depth"]),
    ],
)
def test_aprun(overrides: str, expected: list[str], called: Any) -> None:
    assert called(AprunLauncher(overrides=overrides)(COMMAND, 3, 2), "aprun") == [expected]


@pytest.mark.parametrize(
    ("tasks_per_node", "overrides", "hosts", "expected"),
    [
        (1, "", "", "-n 2 -r 1 -a 1 -c ALL_CPUS -g ALL_GPUS -b none"),
        (1, "-c 42 -g6", "", "-n 2 -r 1 -a 1 -b none -c 42 -g6"),
        (1, "--bind=rs -X 1", "", "-n 2 -r 1 -a 1 -c ALL_CPUS -g ALL_GPUS --bind=rs -X 1"),
        (4, "", "batch1 1 a1 42 a2 42 ", "-n 8 -r 4 -a 1 -c 10 -b none"),
        (4, "-g 1", "batch1 1 a1 42 a2 42", "-n 8 -r 4 -a 1 -c 10 -b none -g 1"),
        (4, "", "batch1 1 a1 2", "-n 8 -r 4 -a 1 -c 1 -b none"),
        (4, "", "", "-n 8 -r 4 -a 1 -c 1 -b none"),
    ],
)
def test_jsrun(tasks_per_node: int, overrides: str, hosts: str, expected: str, called: Any) -> None:
    script = JsrunLauncher(overrides=overrides)(COMMAND, tasks_per_node, 2)
    assert called(script, "jsrun", before=f"export LSB_MCPU_HOSTS='{hosts}'") == [expected.split()]


# --- MPI


def without_names(words: list[str]) -> tuple[list[str], set[str]]:
    """Split the words of a call into those that are not, and the names of variables that Open MPI is to hand on."""
    names = {name for option, name in zip(words, words[1:], strict=False) if option == "-x"}
    return [word for word in words if word != "-x" and word not in names], names


@pytest.mark.parametrize(
    ("says", "options", "expected"),
    [
        (OPEN_MPI_4, {}, "--map-by ppr:3:node:oversubscribe --host x2:3,x1:3 -n 6 --bind-to none"),
        (OPEN_MPI_5, {}, "--map-by ppr:3:node:oversubscribe --host x2:3,x1:3 -n 6 --bind-to none"),
        (MPICH, {}, "-ppn 3 -hosts x2,x1 -n 6 --bind-to none"),
        (INTEL, {"overrides": "-iface ib0"}, "-ppn 3 -hosts x2,x1 -n 6 --bind-to none -iface ib0"),
        (
            PALS,
            {"bind_cmd": "--cpu-bind", "overrides": "--depth=64 --ppn 1"},
            "-ppn 3 -hosts x2,x1 -n 6 --cpu-bind none --depth=64 --ppn 1",
        ),
        (MPICH, {"bind_cmd": ""}, "-ppn 3 -hosts x2,x1 -n 6"),
        ("", {}, "-ppn 3 -hosts x2,x1 -n 6 --bind-to none"),
    ],
)
def test_mpiexec(says: str, options: dict[str, str], expected: str, called: Any, nodefile: Path) -> None:
    before = "export GIVEN=1 OMPI_MCA_btl=tcp HOSTNAME; IFS=:"
    (words,) = called(MpiExecLauncher(**options)(COMMAND, 3, 2), "mpiexec", says, before)
    words, names = without_names(words)
    assert words == expected.split()
    # All others hand the environment on by themselves. Open MPI does so with its own variables.
    assert {"PATH", "GIVEN", "PBS_NODEFILE"} <= names if "Open" in says else not names
    assert not names & {"HOSTNAME", "PWD", "OMPI_MCA_btl"}


@pytest.mark.parametrize(
    ("before", "nodes", "expected"),
    [
        ("", 2, "-ppn 3 -hosts x2,x1 -n 6 --bind-to none --one"),
        ("unset PBS_NODEFILE; export SLURM_JOB_NODELIST='n[1-2]'", 2, "-ppn 3 -n 6 --bind-to none --one"),
        ("unset PBS_NODEFILE; export PE_HOSTFILE=/file", 2, "-ppn 3 -n 6 --bind-to none --one"),
        ("unset PBS_NODEFILE", 1, "-ppn 3 -n 3 --bind-to none --one"),
    ],
)
def test_mpirun(before: str, nodes: int, expected: str, called: Any, nodefile: Path) -> None:
    script = MpiRunLauncher(overrides="--one")(COMMAND, 3, nodes)
    assert called(script, "mpirun", MPICH, f"set -eu; {before}") == [expected.split()]


def test_mpirun_with_another_bash(called: Any, nodefile: Path) -> None:
    script = MpiRunLauncher(bash_location="/opt/my bash/bin/bash")(COMMAND, 1, 2)
    (words,) = called(script, "mpirun", MPICH)
    assert words[-1] == "/opt/my bash/bin/bash"


# --- GNU parallel


def test_another_parallel_is_refused(nodefile: Path, programs: Path) -> None:
    program(programs, "parallel", "echo \"parallel: invalid option -- '-'\" >&2; exit 1")
    done = bash(GnuParallelLauncher()(COMMAND, 1, 2))
    assert done.returncode == 127
    assert done.stderr == (
        f"flowcore: {programs}/parallel is not GNU parallel, but perhaps that of moreutils: put GNU parallel before it "
        "on PATH, in worker_init\n"
    )


def test_a_node_that_fails_at_once_gets_no_work_of_others(nodefile: Path, programs: Path, tmp_path: Path) -> None:
    need("parallel")
    names = [f"node{number}" for number in range(20)]
    nodefile.write_text("\n".join(names))
    # In place of ssh: writes down where it was to lead to.
    program(programs, "ssh", f'echo "$1" >>{tmp_path}/logins\n[ "$1" = node0 ] && exit 255\ncat >/dev/null')
    # As where logins take their time.
    done = bash(f"export PARALLEL='--delay 0.05'\n{GnuParallelLauncher(debug=False)('true', 1, 20)}")
    assert done.returncode == 1, done.stderr
    assert sorted((tmp_path / "logins").read_text().split()) == sorted(names)


def test_what_is_on_command_lines_tells_nothing_of_the_environment(
    nodefile: Path, programs: Path, tmp_path: Path
) -> None:
    # All users of a host can read them. In place of parallel: writes down its words, and what it lets ssh read.
    program(
        programs,
        "parallel",
        f"""if [ "$1" = --version ]; then echo GNU parallel; exit; fi
printf '%s\n' "$@" >{tmp_path}/words
cat "${{6##* <}}" >{tmp_path}/input""",
    )
    done = bash(f"export SECRET=hush\nf() {{ echo 1; }}\nexport -f f\n{GnuParallelLauncher()(COMMAND, 2, 2)}")
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert re.fullmatch(r"ssh </proc/\d+/fd/\d+", words.pop(5))
    options = "--jobs 1 --ungroup --hostgroups --ssh --sshlogin @x2/x2 --sshlogin @x1/x1"
    assert words == [*options.split(), "/bin/bash -c 'eval \"$(cat)\"'", ":::", "flowcore@x2", "flowcore@x1"]
    sent = (tmp_path / "input").read_text()
    assert "export SECRET=hush\n" in sent
    assert "declare -fx f\n" in sent
    assert f"cd -- {Path.cwd()}\n" in sent


def test_parallel_with_another_ssh(nodefile: Path, programs: Path, tmp_path: Path) -> None:
    need("parallel")
    stand_in(tmp_path, "ssh")
    program(programs, "ssh", "exit 255")
    before = f"export PARALLEL_SSH={tmp_path}/ssh TMPDIR={tmp_path}/temporary\nmkdir $TMPDIR\n"
    done = bash(before + GnuParallelLauncher(debug=False)("echo $TMPDIR", 1, 2))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/temporary\n" * 2), done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
