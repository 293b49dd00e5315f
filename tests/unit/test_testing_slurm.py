"""A Slurm for tests: its jobs run on pretend hosts, its parts can be stopped and started, and nothing of it stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from flowcore.testing import processes
from flowcore.testing import slurm as module
from flowcore.testing.hosts import Hosts
from flowcore.testing.slurm import SlurmCluster
from flowcore.testing.waiting import eventually


@pytest.fixture(scope="module")
def shared():
    module.require()
    with SlurmCluster(2) as made:
        yield made


@pytest.fixture
def cluster(shared):
    """The module's cluster; what the test submitted is cancelled."""
    yield shared
    shared.ask("scancel", "--user=root")
    eventually(lambda: not shared.jobs(), 30, "an empty queue")


def folders():
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("flowcore-slurm-")}


def submit(cluster: SlurmCluster, command: str, *options: str) -> str:
    said = cluster.ask("sbatch", "--parsable", "--output=%j.out", *options, "--wrap", command)
    return said.strip()


def output(cluster: SlurmCluster, job_id: str) -> str:
    """What a job wrote, once it has left the queue."""
    eventually(lambda: job_id not in cluster.jobs(), 30, f"the end of job {job_id}")
    return Path(f"{job_id}.out").read_text()


def test_a_job_runs_on_hosts_of_their_own(cluster):
    job = submit(cluster, 'hostname; srun hostname; echo "$SLURM_CPUS_ON_NODE"', "--nodes=2", "--exclusive")
    first, *all_of_it = output(cluster, job).split()
    assert first == cluster.nodes[0] == cluster.hosts[0].name
    assert sorted(all_of_it) == [str(module.CORES), *cluster.nodes]
    assert cluster.nodes != [os.uname().nodename] * 2


def test_its_commands_are_those_of_a_test_that_uses_it(cluster, monkeypatch):
    cluster.use(monkeypatch)
    shown = subprocess.run(
        "squeue --noheader; sinfo --noheader --format=%R:%a", shell=True, capture_output=True, text=True
    )
    assert (shown.stderr, shown.stdout.split()) == ("", ["debug:up", "short:up", "closed:down"])


def test_what_failed_says_why(cluster):
    with pytest.raises(RuntimeError, match=r"sbatch --parsable .* failed with 1: .*invalid partition specified"):
        submit(cluster, "true", "--partition=none")


def test_a_job_that_is_held_waits(cluster):
    waits = submit(cluster, "true", "--begin=now+1hour")
    assert cluster.jobs() == [waits]
    cluster.hold(waits)
    assert "JobHeld" in cluster.ask("squeue", "--noheader", "--format=%r", f"--jobs={waits}")
    cluster.release(waits)
    assert "JobHeld" not in cluster.ask("squeue", "--noheader", "--format=%r", f"--jobs={waits}")


def test_without_its_controller_nobody_answers_and_jobs_go_on(cluster):
    job = submit(cluster, "until [ -e go ]; do sleep 0.05; done; echo done")
    eventually(lambda: Path(f"{job}.out").exists(), 30, "the job's beginning")
    cluster.stop_controller()
    with pytest.raises(RuntimeError, match="Unable to contact slurm controller"):
        cluster.jobs()
    cluster.start_controller()
    assert cluster.jobs() == [job]
    cluster.kill_controller()
    with pytest.raises(RuntimeError, match="slurmctld does not run: it was process"):
        cluster.kill_controller()
    Path("go").touch()
    eventually(lambda: Path(f"{job}.out").read_text() == "done\n", 30, "the job's end")
    cluster.start_controller()
    assert output(cluster, job) == "done\n"


def test_a_controller_that_forgets(cluster):
    first = submit(cluster, "true", "--hold")
    written = cluster.written_down()
    second = submit(cluster, "true", "--hold")
    assert cluster.jobs() == [first, second]
    cluster.kill_controller(written)
    cluster.start_controller()
    assert cluster.jobs() == [first]


def test_a_paused_controller_lets_everybody_wait(cluster):
    cluster.pause_controller()
    try:
        assert "Socket timed out" in cluster.run("squeue").stderr
    finally:
        cluster.resume_controller()
    assert cluster.jobs() == []


def test_a_node_that_was_stopped_comes_back(cluster):
    first, second = cluster.nodes
    job = submit(cluster, "until [ -e go ]; do sleep 0.05; done; echo done", f"--nodelist={first}")
    eventually(lambda: Path(f"{job}.out").exists(), 30, "the job's beginning")
    cluster.stop_node(first)
    cluster.start_node(first)
    # Of two cores it has one; just after the node has come, Slurm may not know how many it has.
    assert cluster.state(first) in ("mixed", "allocated")
    assert cluster.state(second) == "idle"
    Path("go").touch()
    assert output(cluster, job) == "done\n"


def test_a_node_without_power_comes_back(cluster):
    first = cluster.hosts[0]
    cluster.hosts.power_off(first)
    with pytest.raises(RuntimeError, match=f"slurmd-{first.name} does not run: it was process"):
        cluster.stop_node(first.name)
    cluster.hosts.heal(first)
    cluster.start_node(first.name)
    job = submit(cluster, "hostname", f"--nodelist={first.name}")
    assert output(cluster, job) == f"{first.name}\n"


def test_all_goes_with_the_cluster_also_after_an_exception():
    module.require()
    before = folders()
    # One that has left its job, ignores what can be ignored, and bears nobody's mark.
    stubborn = (
        "setsid env --unset=FLOWCORE_TEST_MARK sh -c \"trap '' TERM HUP INT; while :; do sleep 1000; done\" &\nwait"
    )
    with pytest.raises(ZeroDivisionError), Hosts(1) as hosts, SlurmCluster(hosts) as cluster:
        submit(cluster, stubborn)
        folder = (folders() - before).pop()
        eventually(lambda: any(p.command == "sleep 1000" for p in hosts[0].processes()), 30, "the job")
        daemons = processes.carrying(f"{module._MARK}={tempfile.gettempdir()}/{folder}")
        assert {"munged", "slurmctld", "slurmd"} <= {os.path.basename(p.command.split()[0]) for p in daemons}
        try:
            1 / 0  # noqa: B018
        finally:
            cluster.close()
            assert hosts[0].processes() == [], "they go with the cluster, not with the hosts"
            assert all(processes.gone(p.pid) for p in daemons)
    assert folders() == before
    cluster.close()


def test_a_cluster_goes_with_the_process_that_made_it():
    module.require()
    before = folders()
    script = textwrap.dedent(
        """
        import time
        from flowcore.testing.slurm import SlurmCluster
        with SlurmCluster(1) as cluster:
            cluster.ask("sbatch", "--wrap", "sleep 1000")
            print(cluster.env["SLURM_CONF"], flush=True)
            time.sleep(1000)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        folder = os.path.dirname(process.stdout.readline().strip())
        daemons = processes.carrying(f"{module._MARK}={folder}")
        process.kill()
    assert len(daemons) >= 3
    eventually(lambda: all(processes.gone(p.pid) for p in daemons), 30, "the end of the daemons")
    eventually(lambda: folders() <= before, 30, "the folder's end")


def test_one_that_does_not_start_says_why_and_leaves_nothing(monkeypatch):
    module.require()
    before = folders()
    monkeypatch.setattr(module, "_CONFIGURATION", module._CONFIGURATION + "NoSuchOption=1\n")
    with (
        pytest.raises(
            RuntimeError, match=r"(?s)Slurm does not start: .*Parsing error at unrecognized key: NoSuchOption"
        ),
        SlurmCluster(1),
    ):
        pass
    assert folders() == before


def test_two_at_a_time_do_not_clash(cluster):
    # The second host is none of its nodes.
    with Hosts(2) as hosts, SlurmCluster(hosts, count=1) as other:
        assert other.nodes == [hosts[0].name]
        assert other.name != cluster.name
        job = submit(other, "hostname; sleep 1000")
        eventually(lambda: Path(f"{job}.out").exists(), 30, "the job's beginning")
        assert (other.jobs(), cluster.jobs()) == ([job], [])


def test_accounting_knows_how_jobs_ended():
    module.require(accounting=True)
    with SlurmCluster(1, accounting=True) as cluster:
        good, bad = submit(cluster, "exit 0"), submit(cluster, "exit 3")
        asked = ("sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State,ExitCode")
        expected = [f"{good}|COMPLETED|0:0", f"{bad}|FAILED|3:0"]
        eventually(lambda: cluster.ask(*asked).split() == expected, 30, "what accounting knows of the jobs' ends")
        said = cluster.ask("sbatch", f"--clusters={cluster.name}", "--wrap", "true")
        assert said.split()[-3:] == ["on", "cluster", cluster.name]


def test_torque_commands_and_what_torque_gives_a_job():
    module.require(torque=True)
    with SlurmCluster(2, torque=True) as cluster:
        assert shutil.which("qsub", path=cluster.env["PATH"]) == f"{cluster.torque_path}/qsub"
        Path("job").write_text("#!/bin/sh\n#PBS -N torque\necho $PBS_JOBNAME $PBS_JOBID\ncat $PBS_NODEFILE\n")
        asked = cluster.ask("qsub", "-l", "nodes=2:ppn=2,walltime=00:01:00", "-o", "out", "-e", "err", "job")
        job = asked.strip()
        eventually(lambda: "job_state = C" in cluster.ask("qstat", "-f", job), 30, "the job's end")
        first, second = cluster.nodes
        assert Path("out").read_text().split() == ["torque", job, first, first, second, second]
        assert first in cluster.ask("pbsnodes")
        waits = cluster.ask("qsub", "-h", "-o", "out", "-e", "err", "job").strip()
        cluster.ask("qdel", waits)
        assert cluster.jobs() == []


def test_a_machine_without_the_programs_says_which(monkeypatch):
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **more: None if name in ("slurmd", "slurmdbd") else which(name, **more)
    )
    with pytest.raises(RuntimeError, match="no Slurm: slurmd not found: install slurmd"), SlurmCluster(1):
        pass
    assert module.missing(accounting=True) == "slurmd, slurmdbd not found: install slurmd, slurmdbd"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Slurm: slurmd not found"):
        module.require()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no Slurm: slurmd not found"):
        module.require()


def test_torque_that_cannot_be_had_says_why(monkeypatch, tmp_path):
    module.require()
    monkeypatch.setitem(module._PERL_PACKAGES, "NoSuchModule.pm", "libno-such-perl")
    assert module.missing(torque=True) == "Perl lacks modules: install libno-such-perl"
    monkeypatch.delitem(module._PERL_PACKAGES, "NoSuchModule.pm")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "TORQUE_PACKAGE", "no-such-package")
    reason = module.missing(torque=True)
    assert reason.startswith("apt-get --quiet download no-such-package (in ")
    assert "Unable to locate package no-such-package" in reason
    assert os.listdir(tmp_path / "cache" / "flowcore-testing") == []
    kept = tmp_path / "cache" / "flowcore-testing" / "no-such-package_1_all.deb"
    kept.touch()
    assert module._torque_package() == str(kept)
