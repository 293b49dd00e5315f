"""How workers get Parsl's names: a variable in the command of their block, and a function that it names."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import flowcore_compat_parsl
import pytest
from flowcore_compat_parsl import hooks, worker

from flowcore.plugins import registry


def test_the_hook_is_silent_where_parsl_is_not_used() -> None:
    assert hooks.flowcore_launch_command("run") is None


def test_the_hook_puts_the_variable_before_the_command(parsl: ModuleType) -> None:
    command = hooks.flowcore_launch_command('echo "$FLOWCORE_WORKER_STARTUP"\nexit 3')
    assert command is not None
    for before, after in [
        ({}, "flowcore_compat_parsl.worker:start\n"),
        ({"FLOWCORE_WORKER_STARTUP": "mine:go"}, "mine:go,flowcore_compat_parsl.worker:start\n"),
    ]:
        ran = subprocess.run(["bash", "-c", command], env=before, capture_output=True, text=True)
        assert (ran.stdout, ran.returncode) == (after, 3)


def test_a_simple_command_stays_one(parsl: ModuleType) -> None:
    command = hooks.flowcore_launch_command("/bin/bash -c 'echo \"$FLOWCORE_WORKER_STARTUP\"; exit 3'")
    ran = subprocess.run(
        ["bash", "-c", f"nice {command}"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert (ran.stdout, ran.returncode) == ("flowcore_compat_parsl.worker:start\n", 3)


def test_scripts_have_the_variables_of_both(parsl: ModuleType) -> None:
    script = "#!/bin/bash\nexport FLOWCORE_CORES=4\nexport FLOWCORE_MEMORY_GB=1.5\nexport OTHER=1\n"
    assert (hooks.flowcore_submit_script(script) or "").splitlines() == [
        "#!/bin/bash",
        "export FLOWCORE_CORES=4",
        "export PARSL_CORES=4",
        "export FLOWCORE_MEMORY_GB=1.5",
        "export PARSL_MEMORY_GB=1.5",
        "export OTHER=1",
    ]


def test_the_hook_is_found_by_every_run() -> None:
    plugins = {p.name: p for p in registry.installed("hooks")}
    assert plugins["compat-parsl"].distribution == "flowcore-compat-parsl"
    assert registry.get("hooks", "compat-parsl") is hooks
    assert registry.get("compat", "parsl") is flowcore_compat_parsl.install


def test_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FLOWCORE_", "PARSL_")):
            monkeypatch.delenv(name)
    environment = {"FLOWCORE_WORKER_RANK": "3", "FLOWCORE_CORES": "8", "FLOWCORE_WORKER_STARTUP": "x:y", "OTHER": "1"}
    program = (
        "from flowcore_compat_parsl.worker import start; start(); import os, parsl\n"
        "print(sorted((k, v) for k, v in os.environ.items() if k.startswith('PARSL')), parsl.__version__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "[('PARSL_CORES', '8'), ('PARSL_WORKER_RANK', '3')] 2024.04.29\n"
    assert worker.STARTUP == "flowcore_compat_parsl.worker:start"


def test_apps_and_classes_of_a_program_travel(parsl: ModuleType) -> None:
    pytest.importorskip("flowcore_executor_htex")

    @parsl.python_app
    def other(x: int) -> int:
        return x + 1

    @parsl.python_app
    def app(file: object, error: object, function: object) -> object:
        from parsl.app.errors import BashExitFailure
        from parsl.data_provider.files import File

        return isinstance(file, File), isinstance(error, BashExitFailure), other.__wrapped__(1), repr(function)

    executor = parsl.HighThroughputExecutor(max_workers_per_node=1)
    with parsl.load(parsl.Config(executors=[executor], strategy="none")):
        error = parsl.app.errors.BashExitFailure("x", 3)
        assert app(parsl.File("a"), error, other).result(timeout=60) == (True, True, 2, "<python_app other>")
