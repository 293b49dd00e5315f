"""``flowcore doctor``: what it finds to be well, what it finds not to be, and that it leaves nothing behind."""

import collections
import logging
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from flowcore import addresses
from flowcore.builtin.threads import ThreadPoolExecutor
from flowcore.cli import doctor
from flowcore.cli.main import cli
from flowcore.config import Config
from flowcore.errors import ExecutorError
from flowcore.plugins.executor import Executor


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def name_resolves(monkeypatch):
    # Whether the name of the machine that runs the tests resolves is no business of the tests.
    monkeypatch.setattr(addresses, "address_by_hostname", lambda: "localhost")


def invoke(*arguments):
    return CliRunner().invoke(cli, ["doctor", *map(str, arguments)], prog_name="flowcore")


def probe(config, timeout_s=20.0):
    return list(doctor.check_configuration(config, timeout_s))


# --- the command


def test_all_is_well(tmp_path, name_resolves):
    result = invoke()
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for heading in ("Environment", "Plugins", "Addresses", "Configuration"):
        assert f"{heading}\n" in result.output
    assert "  ok      executor threads (flowcore 0.1.0)\n" in result.output
    assert "  ok      the default configuration is valid\n" in result.output
    assert re.search(
        r"  ok      executor threads \(ThreadPoolExecutor\): round trip [\d.]+ ms, "
        r"first result after [\d.]+ s, ran in this process\n",
        result.output,
    )
    assert re.search(r"\nall \d+ checks: ok\n$", result.output)
    assert list(tmp_path.iterdir()) == []


def test_each_executor_of_a_file(tmp_path, name_resolves):
    (tmp_path / "f.toml").write_text(
        "executors = [{plugin = 'threads', label = 'one'}]\n"
        "[profiles.two]\n"
        "executors = [{plugin = 'threads', label = 'left'}, {plugin = 'threads', label = 'right'}]\n"
    )
    result = invoke("f.toml", "--profile", "two")
    assert result.exit_code == 0, result.output
    assert "  ok      f.toml, profile two, is valid\n" in result.output
    assert "ok      executor left (ThreadPoolExecutor): round trip" in result.output
    assert "ok      executor right (ThreadPoolExecutor): round trip" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]


def test_invalid_configuration(tmp_path):
    (tmp_path / "f.toml").write_text("retires = 1\n")
    result = invoke("f.toml")
    assert result.exit_code == 1
    assert re.search(r"  not ok  f\.toml.*retires: Config has no option 'retires' \(did you mean", result.output)
    assert "          to do: mend what it names; flowcore config check shows it again\n" in result.output
    assert "Addresses\n" in result.output
    assert re.search(r"\n\d+ of \d+ checks: not ok\n$", result.output)


def test_profile_without_a_file():
    result = invoke("--profile", "two")
    assert result.exit_code == 2
    assert "--profile goes with a configuration FILE" in result.stderr


def test_in_a_process(tmp_path):
    (tmp_path / "c.py").write_text("import flowcore\ndef fresh_config():\n    return flowcore.Config()\n")
    done = subprocess.run(
        [sys.executable, "-m", "flowcore.cli.main", "doctor", "c.py"], capture_output=True, text=True, timeout=100
    )
    assert done.stderr == ""
    assert "ok      executor threads (ThreadPoolExecutor): round trip" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["c.py"]


# --- executors that do not work


class Broken(Executor):
    """Raises when it is started."""

    label = "broken"

    def start(self, context):
        logging.getLogger("flowcore").error("the disk of\nthe hub is full")
        raise ExecutorError(self.label, "cannot start its hub")

    def submit(self, attempt):
        raise AssertionError("submit without start")

    def shutdown(self):
        pass


class Silent(Executor):
    """Accepts tasks, and never reports them."""

    label = "silent"
    ended = False

    def start(self, context):
        context.run_dir.joinpath("a file").touch()

    def submit(self, attempt):
        pass

    def shutdown(self):
        self.ended = True


class Fails(ThreadPoolExecutor):
    """Refuses each task."""

    def submit(self, attempt):
        error = ExecutorError(self.label, "no worker wants it")
        error.add_note("seen on host n1")
        raise error


def test_executor_that_does_not_start(tmp_path):
    (found,) = probe(Config(executors=[Broken()]))
    assert found.text.splitlines() == [
        "the executors did not start: ExecutorError: executor 'broken': cannot start its hub",
        "log: the disk of the hub is full",
    ]
    assert found.todo == "mend what it names, then run flowcore doctor again"
    assert list(tmp_path.iterdir()) == []


def test_executor_that_does_not_answer(tmp_path):
    silent = Silent()
    found = probe(Config(executors=[silent, ThreadPoolExecutor()]), timeout_s=0.2)
    assert found[0].text == "executor silent (Silent): no result within 0.2 s"
    assert found[0].todo.startswith("if its blocks wait in a queue, give more time with --timeout")
    assert found[1].ok
    assert silent.ended
    assert list(tmp_path.iterdir()) == []


def test_task_that_fails():
    found = probe(Config(executors=[Fails(label="f")]))
    lines = found[0].text.splitlines()
    assert lines[0] == ("executor f (Fails): the probe task failed: ExecutorError: executor 'f': no worker wants it")
    assert "seen on host n1" in lines
    assert found[0].todo == "mend what it names, then run flowcore doctor again"


def test_an_interrupted_probe_is_taken_down(tmp_path):
    silent = Silent()
    findings = doctor.check_configuration(Config(executors=[ThreadPoolExecutor(), silent]), 20.0)
    next(findings)
    assert [p.name.startswith("flowcore-doctor-") for p in tmp_path.iterdir()] == [True]
    findings.close()
    assert silent.ended
    assert list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("threads_")]


def test_blocks_are_told():
    from flowcore.plugins.hookspecs import BlockEvent
    from flowcore.plugins.provider import JobState, JobStatus

    with open("stderr", "w") as file:
        file.write("first\nno such module\n")
    observer = doctor._Observer()
    hooks = observer.as_hooks()
    pending = JobStatus(JobState.PENDING)
    failed = JobStatus(JobState.FAILED, "exit code 3", 3, stderr_path="stderr")
    hooks.flowcore_block_requested(None, BlockEvent("a", "0", "77", pending, 0.0))
    hooks.flowcore_block_status_changed(None, BlockEvent("b", "0", "78", pending, 0.0))
    hooks.flowcore_block_ended(None, BlockEvent("a", "0", "77", failed, 1.0))
    assert observer.of_executor("a") == [
        "block 0 (job 77): FAILED: exit code 3",
        "its stderr ends with: no such module",
    ]
    assert observer.of_executor("b") == ["block 0 (job 78): PENDING"]


def test_hooks_of_the_probe_fit_their_specifications():
    from flowcore.plugins.hooks import HookManager

    HookManager([("doctor", doctor._Observer().as_hooks())])


def test_other_python_on_the_workers():
    found = doctor._same_python("executor x: fine", "2.7.18")
    assert found.text == "executor x: fine, with python 2.7.18"
    assert "through worker_init: functions are sent as bytecode" in found.todo


# --- the environment


def test_run_directory_is_a_file(tmp_path):
    (tmp_path / "runs").touch()
    found = doctor._check_run_dir(tmp_path / "runs" / "x")
    assert found.text.endswith(f"{tmp_path}/runs is no folder")
    assert found.todo == "set run_dir to a folder of yours"


def test_run_directory_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor._check_run_dir(tmp_path / "runs")
    assert found.text == f"run directory {tmp_path}/runs: {tmp_path} cannot be written to"
    assert found.todo == "set run_dir to a folder of yours"


def test_temporary_run_directory_cannot_be_made(tmp_path):
    (tmp_path / "runs").touch()
    (found,) = probe(Config(run_dir=tmp_path / "runs"))
    assert found.text == f"cannot make a run directory in {tmp_path}/runs (Not a directory)"
    assert "nothing of the configuration was tried out" in found.todo


def test_disk_is_full(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**8, 10**8))
    found = doctor._check_run_dir(tmp_path)
    assert found.text.endswith(", 0.1 GB free")
    assert found.todo == "free some space, or set run_dir to a folder on another disk"


@pytest.mark.parametrize(
    ("soft", "hard", "text", "todo"),
    [
        (1024, 4096, "open files: at most 1024", None),
        (256, 4096, "open files: at most 256", "raise the limit before you start flowcore: ulimit -n 1024"),
        (256, -1, "open files: at most 256", "raise the limit before you start flowcore: ulimit -n 1024"),
        (256, 512, "open files: at most 256, and no more than 512 can be had",
         "ask the administrator for a higher limit"),
        (-1, -1, "open files: no limit", None),
    ],
)  # fmt: skip
def test_open_files(monkeypatch, soft, hard, text, todo):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    assert doctor._check_open_files() == doctor.Finding(text, todo)


def test_little_memory(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_MEMORY_BYTES", 1 << 60)
    found = doctor._check_memory()
    assert re.fullmatch(r"memory [\d.]+ GB, [\d.]+ GB available", found.text)
    assert found.todo == "end other programs, or take a machine with more memory"


# --- addresses


def test_address_that_cannot_be_connected_to():
    # 192.0.2.0/24 is for documentation (RFC 5737); this one is nobody's.
    found = doctor._check_address("eth7", "192.0.2.213")
    assert found.text.startswith("eth7 192.0.2.213: this host cannot connect to itself (Cannot assign requested")
    assert found.todo == "look at its firewall; until then give executors another address"


def test_name_that_does_not_resolve(monkeypatch):
    def refuse(*arguments):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(addresses, "address_by_hostname", lambda: "n1")
    monkeypatch.setattr(addresses, "interface_addresses", lambda: {"lo": "127.0.0.1"})
    found = list(doctor.check_addresses())[-1]
    assert found.text == "hostname n1 does not resolve (Name or service not known)"
    assert found.todo == (
        "add it to /etc/hosts; until then give executors an address, not address_by_hostname(): 127.0.0.1"
    )


def test_name_of_the_loopback(name_resolves):
    found = list(doctor.check_addresses())[-1]
    assert found.text == "hostname localhost resolves to 127.0.0.1 (of use on this host only)"
    assert found.ok


def test_no_interface_has_an_address(monkeypatch, name_resolves):
    monkeypatch.setattr(addresses, "interface_addresses", dict)
    assert next(doctor.check_addresses()) == doctor.Finding(
        "no network interface has an IPv4 address", "bring the loopback up: ip link set lo up"
    )


# --- providers


def test_a_dry_run_asks_for_no_blocks(tmp_path, name_resolves):
    (tmp_path / "f.toml").write_text("executors = [{plugin = 'htex', label = 'nodes'}]\n")
    result = invoke("f.toml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Providers\n  ok      executor nodes, local: blocks are processes of this host: they start at once\n" in (
        result.output
    )
    assert "Executors\n" not in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["f.toml"]


def test_no_task_is_run_where_a_provider_cannot_work(tmp_path, name_resolves):
    (tmp_path / "file").write_text("")
    (tmp_path / "f.toml").write_text(
        "[[executors]]\nplugin = 'htex'\nlabel = 'nodes'\n"
        "provider = {plugin = 'adhoc', channels = [{plugin = 'local', script_dir = 'file'}]}\n"
    )
    result = invoke("f.toml")
    assert result.exit_code == 1
    assert re.search(r"not ok  executor nodes, adhoc: .*file/flowcore-<run-id>-nodes on this host", result.output)
    assert "to do: mend the channel, or set its script_dir to a folder of yours\n" in result.output
    assert "Executors\n" not in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.toml", "file"]
