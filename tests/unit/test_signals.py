"""What happens to SIGTERM and SIGHUP while runs are there, and what to handlers of the program."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import Config, DataFlowKernel, signals

Load = Callable[..., flowcore.DataFlowKernel]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Begin and end with what a process is started with."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in signals.NUMBERS]


DEFAULTS = [signal.SIG_DFL, signal.SIG_DFL]


def test_while_a_run_is_there(load: Load) -> None:
    with load():
        assert handlers() == [signals._end, signals._end]
    assert handlers() == DEFAULTS


def test_until_the_last_of_several_is_over(tmp_path: Path) -> None:
    first, second = (DataFlowKernel(Config(run_dir=tmp_path, initialize_logging=False)) for _ in range(2))
    first.cleanup()
    first.cleanup()
    assert handlers() == [signals._end, signals._end]
    second.cleanup()
    assert handlers() == DEFAULTS


def test_a_load_that_fails(tmp_path: Path) -> None:
    class Broken(flowcore.ThreadPoolExecutor):
        def start(self, context: Any) -> None:
            assert handlers() == [signals._end, signals._end]
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        flowcore.load(Config(executors=[Broken()], run_dir=tmp_path))
    assert handlers() == DEFAULTS


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "function"])
def test_a_handler_of_the_program_is_left_alone(load: Load, own: Any) -> None:
    signal.signal(signal.SIGTERM, own)
    with load():
        assert handlers() == [own, signals._end]
    assert handlers() == [own, signal.SIG_DFL]


def test_a_handler_that_comes_later_is_left_alone(load: Load) -> None:
    def own(number: int, frame: object) -> None: ...

    with load():
        signal.signal(signal.SIGTERM, own)
    assert handlers() == [own, signal.SIG_DFL]


def test_a_run_of_another_thread(tmp_path: Path) -> None:
    runs: list[DataFlowKernel] = []
    thread = threading.Thread(
        target=lambda: runs.append(DataFlowKernel(Config(run_dir=tmp_path, initialize_logging=False)))
    )
    thread.start()
    thread.join()
    assert handlers() == DEFAULTS
    runs[0].cleanup()


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    Path("script.py").write_text(text)
    return subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=60, check=False)


def test_after_a_run_that_ended_in_another_thread_the_signal_has_its_effect() -> None:
    done = run_script(
        "import flowcore, os, signal, threading\n"
        "run = flowcore.load()\n"
        "ending = threading.Thread(target=flowcore.clear)\n"
        "ending.start()\n"
        "ending.join()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('not ended')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


FORKED = """
import flowcore, os, pathlib, signal, sys, time
from flowcore.testing import FakeBlockExecutor, FakeProvider

class Provider(FakeProvider):
    def cancel(self, job_ids):
        with open("cancelled", "a") as file:
            file.write(f"{os.getpid()} {job_ids}\\n")
        return super().cancel(job_ids)

run = flowcore.load(flowcore.Config(executors=[FakeBlockExecutor(Provider(init_blocks=1))]))
children = []
for how in ("signal", "exit"):
    child = os.fork()
    if child == 0:
        if how == "exit":
            sys.exit(5)
        pathlib.Path("ready").touch()
        time.sleep(100)
    children.append(child)
while not pathlib.Path("ready").exists():
    time.sleep(0.01)
os.kill(children[0], signal.SIGTERM)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
print(pathlib.Path("cancelled").exists(), run.executors["fake_blocks"].provider.jobs["job0"].status_name)
print(os.getpid())
"""


def test_a_child_that_is_forked_does_not_end_the_run() -> None:
    done = run_script(FORKED)
    assert done.returncode == 0, done.stderr
    codes, blocks, pid = done.stdout.splitlines()
    assert codes == f"[-{int(signal.SIGTERM)}, 5]"
    assert blocks == "False PENDING"
    assert Path("cancelled").read_text() == f"{pid} ['job0']\n"


def test_a_terminal_that_is_gone_does_not_keep_the_run_from_its_end() -> None:
    done = run_script(
        "import flowcore, os, sys, time\n"
        "run = flowcore.load()\n"
        "flowcore.python_app(time.sleep)(100)\n"
        "os.close(2)\n"
        "sys.stderr = open(os.open('/dev/full', os.O_WRONLY), 'w')\n"
    )
    assert "ended; tasks: {'failed': 1}" in Path("runinfo/000/flowcore.log").read_text(), done
