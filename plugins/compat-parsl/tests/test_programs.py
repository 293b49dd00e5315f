"""Every program of Parsl's user guide runs, through ``flowcore run --parsl`` in a process of its own.

What stands in a program's first lines says where it is from and what was adapted. A program that loads no configuration
of its own runs on threads and on htex.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
CONFIGS = {
    "threads": 'executors = [{plugin = "threads"}]\n',
    "htex": 'executors = [{plugin = "htex", max_workers_per_node = 2}]\n',
}
BOTH = ("threads", "htex")
#: It loads a configuration, or uses none.
OWN = ("own",)

#: A bash app's stdout may begin with the command line.
LINE = r"(?:--> executable follows <--\n[^>]*\n--> end executable <--\n)?"

#: Program, where it runs, and what it prints (a pattern for the whole).
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "hello_world": (BOTH, "Hello, user!\n"),
    "overview_environment": (BOTH, "the answer is 42\nTrue\nTrue\nthe answer is 42\n"),
    "functions_from_modules": (BOTH, r"21\n\[\[3, 5\]\]\n\[\[3, 5\]\]\n"),
    "inputs_and_outputs": (BOTH, "FIRST LINE\n\n"),
    "special_keywords": (BOTH, "6\n"),
    "app_options": (OWN, "gpu gpu\nSuperComputer1, GPUMachine\n1\n"),
    "bash_apps": (BOTH, LINE + "Hello, user!\n\n"),
    "app_futures": (BOTH, r"30\nTrue\nTrue\nOops! You tried to divide by 0\n"),
    "data_futures": (BOTH, r"\[<DataFuture hello1.txt of task 0: waiting>\]\nHello World!\n\n"),
    "python_objects": (BOTH, "hello bob\n"),
    "files": (BOTH, "a readme\n"),
    "staging_noop": (OWN, "staged\nstaged\n"),
    "staging_convert": (BOTH, "SOME TEXT\n\n"),
    "execution": (OWN, "yes\n"),
    "multi_executor": (OWN, "MD_simulate 0\nMD_simulate 1\nMD_simulate 2\n\n"),
    "encryption": (OWN, "sent encrypted\n"),
    "error_handling": (BOTH, "Oops! You tried to divide by 0.\n"),
    "retries": (OWN, "3\n"),
    "retry_handler": (
        OWN,
        r"fails threads \(9,\) 0\nfails 9\nfails threads \(1,\) 0\nfails threads \(1,\) 1\nfails threads \(1,\) 2\n"
        r"fails 1\n",
    ),
    "app_caching": (BOTH, "2\n1\nTrue\nTrue\nTrue\n"),
    "checkpoint_mode_task_exit": (OWN, "8\n1\n"),
    "checkpoint_mode_periodic": (OWN, "8\n1\n"),
    "checkpoint_mode_dfk_exit": (OWN, "8\n1\n"),
    "checkpoint_mode_manual": (OWN, "8\n1\n"),
    "checkpoint_manual": (OWN, r"\S+/runinfo/000/checkpoint\n"),
    "load_with": (OWN, "done\ndone\ndone\nthis Config was loaded before.*: make a fresh one for each run.*\n"),
    "resource_specification": (
        OWN,
        r"started True True\n"
        r"compute \{'cores': 1, 'memory': 1000, 'disk': 1000\} \(4,\)\n8\n"
        r"compute \{'cores': 1, 'memory': 500, 'disk': 500\} \(5,\)\n10\n"
        r"shut down\n",
    ),
    "help_config": (OWN, r"Help on class Config in module flowcore_compat_parsl.config:\n.*retry_handler.*"),
    "bag_of_tasks": (OWN, r"(0\.\d+\n|[\d.e-]+\n){10}"),
    "sequential": (OWN, r"\d+\n\n"),
    "parallel": (OWN, "20\n4 1\n"),
    "pool_executor": (OWN, "1 3\n"),
    "dataflow": (OWN, r"\d\d\n"),
    "mapreduce": (OWN, "12\n"),
    "lifted": (BOTH, "3\n5\n"),
    "join_apps": (BOTH, "joined\n"),
    "foreign_futures": (OWN, "12\n"),
    "logging_faq": (OWN, "True\n"),
    "outputs_faq": (BOTH, LINE + r"Hello world\n\n" + LINE + r"\['-arg', '1', '-d', '2'\]\n\n"),
    "tutorial": (
        OWN,
        r"2024\.04\.29\nHello World!\n45\nHello World!\n" + LINE + r"Hello World!\n\nhello 0 \nhello 1 \nhello 2 \n\n"
        r"Done: False\nResult: Hello World!\nDone: True\n"
        r"\[<DataFuture \S*/hello-world.txt of task \d+: waiting>\]\nDone: False\nHello World!\n\n"
        r"\[<DataFuture \S*/hello-world.txt of task \d+: done>\]\nDone: True\nHello World!\n\n\['1', '2', '3'\]\n"
        r"Random number: (\d+)\nFile contents: \1\n\n5 True\nTrue\n55\na: 3.1\d+ b: 3.1\d+ c: 3.1\d+\nAverage: 3.1\d+\n"
        r"True\n",
    ),
}  # fmt: skip
#: Programs with a test of their own below.
OTHERS = {
    "checkpoint_create", "checkpoint_resume", "function_contents", "join_apps_wrong", "module", "mpi_app", "mpi_htex",
    "workers_import_parsl",
}  # fmt: skip


def run(program: str, executor: str = "own", *, module: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program in the current folder."""
    if executor == "htex":
        pytest.importorskip("flowcore_executor_htex")
    if executor in CONFIGS:
        Path("flowcore.toml").write_text(CONFIGS[executor])
    options = ["--config", "flowcore.toml"] if executor in CONFIGS else []
    start = ["flowcore_compat_parsl"] if module else ["flowcore", "run", "--parsl", *options]
    command = [sys.executable, "-m", *start, str(PROGRAMS / f"{program}.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def needs(program: str) -> None:
    source = (PROGRAMS / f"{program}.py").read_text()
    if "numpy" in source:
        pytest.importorskip("numpy")
    if "HighThroughputExecutor" in source or "htex_local" in source:
        pytest.importorskip("flowcore_executor_htex")


def test_every_program_has_a_case() -> None:
    assert {p.stem for p in PROGRAMS.glob("*.py")} == {*CASES, *OTHERS}


@pytest.mark.parametrize(("program", "executor"), [(p, e) for p, (where, _) in CASES.items() for e in where])
def test_a_program_of_the_guide(program: str, executor: str) -> None:
    needs(program)
    ran = run(program, executor)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(CASES[program][1], ran.stdout, re.DOTALL), ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_program_through_the_package() -> None:
    ran = run("mapreduce", module=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("12\n", "", 0)


# --- programs in several steps or files


def test_a_program_of_several_files(tmp_path: Path) -> None:
    pytest.importorskip("flowcore_executor_htex")
    ran = run("structured/run")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(f"{i} + 1 = {i + 1}\n" for i in range(5))


def test_a_checkpoint_is_resumed() -> None:
    created = run("checkpoint_create")
    assert (created.stdout, created.returncode) == ("[0, 2, 4, 6, 8]\n", 0), created.stderr
    resumed = run("checkpoint_resume")
    assert (resumed.stdout, resumed.returncode) == ("[0, 2, 4, 6, 8]\n5\n", 0), resumed.stderr


# --- what the guide marks as wrong


@pytest.mark.parametrize("executor", BOTH)
def test_functions_that_use_globals(executor: str) -> None:
    """Globals go to workers with the function, so that reading them works; what is written stays there."""
    needs("function_contents")
    ran = run("function_contents", executor)
    assert ran.returncode == 0, ran.stderr
    shared = executor == "threads"
    assert ran.stdout.splitlines() == [
        "bad linear_model: [4.0, 7.0]",
        "good linear_model: [4.0, 7.0]",
        f"bad counter_func: {{'a': {1 if shared else 0}}}",
        "good counter_func: {'a': 1}",
        f"bad append_to_list: {[1, 2] if shared else [1]}",
        "good append_to_list: [1, 2]",
    ]


def test_apps_in_apps_on_threads() -> None:
    ran = run("join_apps_wrong", "threads")
    assert (ran.stdout, ran.returncode) == ("6\nTrue\n", 0), ran.stderr


def test_apps_in_apps_on_workers_say_what_to_do() -> None:
    ran = run("join_apps_wrong", "htex")
    assert ran.returncode == 1
    assert "app 'option_one' was called inside a task, on a worker" in ran.stderr
    assert "Call apps in a join_app" in ran.stderr


# --- workers


@pytest.mark.parametrize("executor", BOTH)
def test_tasks_use_parsl(executor: str) -> None:
    ran = run("workers_import_parsl", executor)
    assert ran.returncode == 0, ran.stderr
    names = ["BLOCK_ID", "COUNT", "POOL_ID", "RANK"] if executor == "htex" else []
    assert ran.stdout.splitlines() == [
        "('2024.04.29', 'FlowcoreError')",
        "('a.txt', '2024.04.29')",
        str([(f"PARSL_WORKER_{name}", True) for name in names]),
    ]


def test_resources_of_an_mpi_app() -> None:
    ran = run("mpi_app", "threads")
    # Threads have no resources to choose from, and say so, or ignore them.
    assert re.match(r"0 mpiexec -n 4 -ppn 2 lmp_mpi -in in.file\n|UnsupportedResource ", ran.stdout), ran.stderr


def test_mpi_apps_on_workers() -> None:
    pytest.importorskip("flowcore_executor_htex")
    ran = run("mpi_htex")
    assert ran.returncode == 0, ran.stderr
    prefix = "mpiexec -n 4 -ppn 2 -hosts NODE001,NODE002"
    assert ran.stdout.splitlines() == [
        f"{prefix} lmp_mpi -in in.file",
        f"{prefix} hostname",
        "2 2 4 NODE001,NODE002",
        "UnsupportedResource",
        "UnsupportedResource",
    ]


# --- configurations of sites: whole where the distributions are installed, and else the name of what is missing

MISSING = re.compile(
    r"ImportError: \w+ is "
    r"(not installed: pip install flowcore-[a-z]+-[a-z]+|not there: this version of flowcore, .*)\n\Z"
)


#: Those whose distributions are all in this repository.
WHOLE = {
    *("adhoc", "bridges", "expanse", "frontera", "frontera_overview", "globus", "illinois", "midway", "polaris_mpi"),
    *("aspire1", "monitoring", "stampede2", "staging_in_task", "staging_separate", "working_dir"),
}


@pytest.mark.parametrize("site", sorted(p.stem for p in (PROGRAMS / "sites").glob("*.py")))
def test_the_configuration_of_a_site(site: str) -> None:
    pytest.importorskip("flowcore_executor_htex")
    ran = run(f"sites/{site}")
    if ran.returncode == 0:
        assert ran.stdout.startswith("Config(executors=["), ran.stdout
    else:
        assert MISSING.search(ran.stderr), ran.stderr
        assert ran.stdout == ""
        assert site not in WHOLE


# --- measuring


def test_parsl_perf() -> None:
    Path("config.py").write_text("from parsl.configs.local_threads import config\n")
    command = [sys.executable, "-m", "flowcore_compat_parsl", "-m", "parsl.benchmark.perf"]
    ran = subprocess.run(
        [*command, "--config", "config.py", "--time", "0.01"], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"Result: [\d,.]+ tasks/s", ran.stdout)


def test_the_usage_of_the_package() -> None:
    command = [sys.executable, "-m", "flowcore_compat_parsl"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "SCRIPT [ARGS]" in ran.stderr
    assert subprocess.run([*command, "--help"], capture_output=True, timeout=60).returncode == 0


def test_a_failing_program_through_the_package_shows_its_own_frames_only() -> None:
    Path("script.py").write_text("import parsl\ndef f():\n    raise parsl.ParslError('no')\nf()\n")
    command = [sys.executable, "-m", "flowcore_compat_parsl", "script.py"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.count("  File ") == 2
    assert ran.stderr.endswith("flowcore.errors.FlowcoreError: no\n")


def test_the_programs_leave_the_real_parsl_alone(tmp_path: Path) -> None:
    """Also where it would be found first."""
    site = tmp_path / "parsl"
    site.mkdir()
    (site / "__init__.py").write_text("raise AssertionError('the real parsl was imported')\n")
    shutil.copy(PROGRAMS / "hello_world.py", tmp_path)
    Path("flowcore.toml").write_text(CONFIGS["threads"])
    command = [sys.executable, "-m", "flowcore", "run", "--parsl", "--config", "flowcore.toml", "hello_world.py"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("Hello, user!\n", "")
