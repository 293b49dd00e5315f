"""A real Slurm for tests, whose nodes are pretend hosts; without systemd, and in about two seconds.

::

    with SlurmCluster(2) as cluster:
        cluster.use(monkeypatch)            # sbatch, squeue, ... of this test mean this cluster
        cluster.run("sbatch", "--wrap", "hostname")
        cluster.stop_controller()           # nobody answers; what runs goes on
        cluster.start_controller()
        cluster.hosts.power_off(cluster.hosts[0])

Its partitions are ``debug``, the default, with all nodes; ``short``, of the last node, where a job may take a minute;
and ``closed``, which is down. A node says that it has :data:`CORES` cores and :data:`MEMORY_MB` MB, whatever is there.

Rule of this module: all that is made goes in every case, and nothing of this machine's own Slurm is touched. All files
are in one temporary folder, the daemons' sockets too; they listen in the network of the pretend hosts. A small process,
the keeper, waits for the end of its stdin, then kills the daemons and the processes of jobs, and removes the folder:
:meth:`SlurmCluster.close` lets it go, and so does the end of the process that made the cluster, whatever its reason.

The daemons are nobody's children and do not have a test's mark in their environment (see
:mod:`flowcore.testing.leftovers`), so that a test may stop and start those of a cluster that it shares with others.
The processes of a job have the mark: a job takes over the environment of the test that submitted it.

It needs Linux, root and Debian's packages slurmctld, slurmd, slurm-client and munge (other systems' will do), with
``accounting`` slurmdbd and mariadb-server, with ``torque`` libslurm-perl, libslurmdb-perl, libswitch-perl and
:data:`TORQUE_PACKAGE`; :func:`missing` says what is missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from flowcore.testing import hosts as pretended
from flowcore.testing import processes
from flowcore.testing.hosts import Host, Hosts
from flowcore.testing.waiting import eventually

if TYPE_CHECKING:
    import pytest

#: What each node has, by what Slurm is told.
CORES = 2
MEMORY_MB = 4000
#: Has qsub, qstat, qdel and pbsnodes that speak to Slurm. It cannot be installed beside Grid Engine, and takes the name
#: mpirun: it is unpacked for a cluster instead.
TORQUE_PACKAGE = "slurm-wlm-torque"
#: Seconds for one command; for daemons to be there or gone.
_BOUND_S = 30.0
_DATABASE_PORT = 6819
#: Programs of administrators are not on everybody's PATH.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmstepd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
_ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "mariadb": "mariadb-client",
}
_PERL_PACKAGES = {"Slurm.pm": "libslurm-perl", "Slurmdb.pm": "libslurmdb-perl", "Switch.pm": "libswitch-perl"}
#: Looks for files, since loading Slurm's modules reads its configuration.
_PERL_LACKS = 'for $f (@ARGV) { next if grep { -e "$_/$f" } @INC; print "$f "; $bad = 1 } exit $bad // 0'
#: In the environment of a cluster's daemons, and of what they start that is not a job's: its folder.
_MARK = "FLOWCORE_TESTING_SLURM"
_CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# A node is back as soon as its daemon is, and has what is written here.
ReturnToService=2
SlurmdParameters=config_overrides
LaunchParameters=disable_send_gids
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
# Start a job at once, and look at the queue every other second.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1,bf_resolution=60
# Notice soon what is gone.
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=5
BatchStartTimeout=10
KillWait=2
CompleteWait=0
MinJobAge={min_job_age_s}
InactiveLimit=0
WaitTime=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
"""
_NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr={address} CPUs={cores} Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket={cores} ThreadsPerCore=1 RealMemory={memory_mb} State=UNKNOWN\n"
)
_PARTITIONS = """\
PartitionName=debug Nodes={nodes} Default=YES MaxTime=60 DefaultTime=10 State=UP
PartitionName=short Nodes={last} MaxTime=1 DefaultTime=1 State=UP
PartitionName=closed Nodes={last} MaxTime=60 State=DOWN
"""
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePass={folder}/munge/socket
"""
_DATABASE_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoInAddrAny
DbdHost={host}
DbdAddr={address}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
#: Torque's node file, a line per slot, which its servers write and Slurm's plugin does not.
_NODE_FILE_PROLOG = """\
#!/bin/bash
file={folder}/nodes/$SLURM_JOB_ID
if [ ! -s "$file" ]; then
    new=$(mktemp)
    IFS=, read -ra shares <<<"$SLURM_TASKS_PER_NODE"  # as 2(x3),1
    counts=()
    for share in "${{shares[@]}}"; do
        times=1
        [[ $share == *x* ]] && times=${{share##*x}} && times=${{times%)}}
        for ((i = 0; i < times; i++)); do counts+=("${{share%%(*}}"); done
    done
    i=0
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        for ((slot = 0; slot < counts[i]; slot++)); do echo "$node"; done
        i=$((i + 1))
    done >"$new"
    mv "$new" "$file"
fi
echo "export PBS_NODEFILE=$file"
"""
#: What has lost its parent in a job becomes the step's child, so that Slurm finds it when the job ends, as it does
#: where it has cgroups. The numbers are PR_SET_CHILD_SUBREAPER, 1.
_STEP_DAEMON = """\
#!/bin/sh
exec {python} -IS -c 'import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])' {program} "$@"
"""
#: These daemons listen where this host's name leads to, and that shall be the network of the pretend hosts.
_AT_HEAD = ("unshare", "--mount", "sh", "-c", 'mount --bind hosts /etc/hosts && exec "$0"')
_KEEP = "import sys; from flowcore.testing import slurm; slurm._keep(*sys.argv[1:])"


def missing(accounting: bool = False, torque: bool = False) -> str:
    """Return why this machine cannot have such a cluster; empty if it can.

    Args:
        accounting: as of :class:`SlurmCluster`.
        torque: likewise.
    """
    needed = {**_PACKAGES, **(_ACCOUNTING_PACKAGES if accounting else {})}
    absent = {program: package for program, package in needed.items() if _which(program) is None}
    if absent:
        return f"{', '.join(absent)} not found: install {', '.join(sorted(set(absent.values())))}"
    if torque:
        looked = subprocess.run(["perl", "-e", _PERL_LACKS, *_PERL_PACKAGES], capture_output=True, text=True)
        if looked.returncode:
            lacks = ", ".join(_PERL_PACKAGES[name] for name in looked.stdout.split()) or looked.stderr.strip()
            return f"Perl lacks modules: install {lacks}"
        try:
            _torque_package()
        except RuntimeError as error:
            return str(error)
    return pretended.missing()


def require(accounting: bool = False, torque: bool = False) -> None:
    """Skip the test that calls this where there can be no such cluster; fail it there with ``CI=true``.

    Args:
        accounting: as of :class:`SlurmCluster`.
        torque: likewise.
    """
    from flowcore.testing import servers

    reason = missing(accounting, torque)
    if reason:
        servers.unavailable(f"no Slurm: {reason}")


class SlurmCluster:
    """A Slurm that runs: a context manager. Several may run at a time.

    Args:
        hosts: the nodes, which stay the caller's; or their number, for hosts of its own.
        count: so many of the hosts, the first ones, are nodes; None for all.
        accounting: have a database, for sacct and sacctmgr, and for ``--clusters``. It takes two seconds more.
        torque: have Torque's commands, and in each job the variables of Torque, ``PBS_NODEFILE`` too.
        min_job_age_s: seconds after its end at which Slurm forgets a job, so that only accounting knows it; at least 2.

    Raises:
        RuntimeError: this machine cannot have it, or it does not start; says why.

    Attributes:
        hosts: the nodes' hosts. This host is where the controller runs, with the address ``hosts.head``.
        name: the cluster's name.
        nodes: the nodes' names, those of their hosts.
        env: what to add to the environment of Slurm's commands.
        torque_path: folder with qsub, qstat, qdel and pbsnodes; None without ``torque``. It is the first of ``env``'s
            PATH too.
    """

    def __init__(
        self,
        hosts: Hosts | int = 2,
        accounting: bool = False,
        torque: bool = False,
        min_job_age_s: int = 30,
        count: int | None = None,
    ) -> None:
        self.hosts = Hosts(hosts) if isinstance(hosts, int) else hosts
        self._own_hosts = isinstance(hosts, int)
        self._accounting = accounting
        self._torque = torque
        self._min_job_age_s = min_job_age_s
        self._count = count
        self._keeper: subprocess.Popen[str] | None = None
        self._folder = Path()
        self.name = ""
        self.nodes: list[str] = []
        self.env: dict[str, str] = {}
        self.torque_path: str | None = None

    def __enter__(self) -> SlurmCluster:
        """Start it, and wait until all nodes are idle."""
        reason = missing(self._accounting, self._torque)
        if reason:
            raise RuntimeError(f"no Slurm: {reason}")
        try:
            if self._own_hosts:
                self.hosts.__enter__()
            self.nodes = [host.name for host in self.hosts][: self._count]
            self.name = f"flowcore{self.hosts.head.split('.')[2]}"
            self._start()
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    # --- its user's side

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let Slurm's commands of this process, and of what it starts, mean this cluster.

        Args:
            monkeypatch: sets the variables, until its own end.
        """
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    def run(self, *command: str, timeout: float = _BOUND_S) -> subprocess.CompletedProcess[str]:
        """Run a command that means this cluster on this host, and wait for it.

        Args:
            command: program and arguments.
            timeout: seconds.

        Returns:
            Its exit code, and what it wrote.

        Raises:
            subprocess.TimeoutExpired: it took longer.
        """
        environment = {**os.environ, **self.env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)

    def ask(self, *command: str) -> str:
        """Run a command like :meth:`run`, and return what it wrote to its standard output.

        Args:
            command: program and arguments.

        Raises:
            RuntimeError: it failed; has what it said.
        """
        done = self.run(*command)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {said}")
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that are in the queue: that wait, run, or have yet to end all their processes."""
        return sorted(self.ask("squeue", "--noheader", "--format=%A").split(), key=int)

    def state(self, node: str) -> str:
        """Return a node's state as sinfo has it: idle, allocated, mixed, down, ..., with a * if it does not answer.

        Args:
            node: its name.
        """
        return self.ask("sinfo", "--noheader", "--partition=debug", f"--nodes={node}", "--format=%T").strip()

    def hold(self, job_id: str) -> None:
        """Let a job that waits not start."""
        self.ask("scontrol", "hold", job_id)

    def release(self, job_id: str) -> None:
        """Let a job that is held start."""
        self.ask("scontrol", "release", job_id)

    # --- faults

    def stop_controller(self) -> None:
        """End the controller as an administrator does: it writes down what it knows. Jobs go on."""
        self._end("slurmctld", signal.SIGTERM)

    def written_down(self) -> Path:
        """Let the controller write down all that it knows, and return a copy of that for :meth:`kill_controller`."""
        self.stop_controller()
        copy = self._folder / f"state-{time.monotonic_ns()}"
        shutil.copytree(self._folder / "state", copy)
        self.start_controller()
        return copy

    def kill_controller(self, written: Path | None = None) -> None:
        """Kill the controller: it forgets what it has not written down, which it does 5 seconds late. Jobs go on.

        It forgets jobs that it was given since, also if they run, and gives their numbers to others; a node that gets a
        job with the number of one that it runs is drained.

        Args:
            written: when it starts again, this is all that it knows.
        """
        self._end("slurmctld", signal.SIGKILL)
        if written is not None:
            shutil.rmtree(self._folder / "state")
            shutil.copytree(written, self._folder / "state")

    def start_controller(self) -> None:
        """Start the controller, and wait until it answers."""
        self._daemon(*_AT_HEAD, "slurmctld")
        eventually(lambda: self.run("scontrol", "ping").returncode == 0, _BOUND_S, "the controller's answer")

    def pause_controller(self) -> None:
        """Let the controller do nothing: who asks it waits for an answer, for 5 seconds with Slurm's commands."""
        self._signal("slurmctld", signal.SIGSTOP)

    def resume_controller(self) -> None:
        """Let a paused controller go on."""
        self._signal("slurmctld", signal.SIGCONT)

    def stop_node(self, node: str) -> None:
        """End a node's daemon. Its jobs go on, and the controller notices after about 15 seconds.

        Args:
            node: its name.
        """
        self._end(f"slurmd-{node}", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        """Start a node's daemon, also after its host was powered off and healed, and wait until it answers.

        Args:
            node: its name.
        """
        self._node_daemon(node)
        usable = ("idle", "mixed", "allocated", "completing")
        eventually(lambda: self.state(node) in usable, _BOUND_S, f"node {node}")

    # --- life

    def close(self) -> None:
        """Kill its daemons and jobs, and remove its files. Idempotent."""
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                try:
                    _, said = keeper.communicate(timeout=2 * _BOUND_S)  # the end of its stdin ends it
                except BaseException:
                    keeper.kill()
                    keeper.wait()
                    raise
                if keeper.returncode:
                    raise RuntimeError(f"Slurm in {self._folder} does not end: {said.strip()}")
        finally:
            if self._own_hosts:
                self.hosts.close()

    def _start(self) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEP, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C in a terminal is for the test, which ends the cluster.
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        folder = self._keeper.stdout.readline().rstrip("\n")
        if not Path(folder).is_absolute():
            raise RuntimeError(f"Slurm's keeper does not start: {folder}{self._keeper.stdout.read()}")
        self._folder = Path(folder)
        for name in ("munge", "run", "log", "spool", "state"):
            (self._folder / name).mkdir()
        try:
            torque = self._unpack_torque() if self._torque else None
            self._configure()
            self._start_munge()
            if self._accounting:
                self._start_accounting()
            self._daemon(*_AT_HEAD, "slurmctld")
            for node in self.nodes:
                self._node_daemon(node)
            self.env = {"SLURM_CONF": str(self._folder / "slurm.conf"), "PATH": _path(torque)}
            self.torque_path = torque
            eventually(self._idle, _BOUND_S, "idle nodes")
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"Slurm does not start: {error}\n{self._logs()}") from error

    def _start_munge(self) -> None:
        key = self._folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", *(f"--{option}={key.with_name(name)}" for option, name in files.items()))

    def _start_accounting(self) -> None:
        folder = self._folder / "mysql"
        server = _which("mariadbd") or ""
        common = ("--no-defaults", "--user=root", f"--datadir={folder}")
        self._daemon("mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db")
        # A crash of the machine may cost a test's database its last second.
        options = ("--skip-networking", f"--socket={folder / 'socket'}", "--innodb-flush-log-at-trx-commit=0")
        self._daemon("setsid", "--fork", server, *common, *options)
        eventually((folder / "socket").exists, _BOUND_S, "the database")
        self._daemon(*_AT_HEAD, "slurmdbd", MYSQL_UNIX_PORT=str(folder / "socket"))
        # Without its answer the controller does not begin.
        eventually(lambda: _answers(self.hosts.head, _DATABASE_PORT), _BOUND_S, "slurmdbd")

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        values = {"name": self.name, "host": host, "address": self.hosts.head, "folder": self._folder}
        parts = [_CONFIGURATION.format(min_job_age_s=self._min_job_age_s, **values)]
        if self._accounting:
            parts.append(_ACCOUNTING.format(**values))
        if self._torque:
            parts.append(f"TaskProlog={self._folder}/prolog\n")
        for node in self.nodes:
            parts.append(_NODE.format(name=node, address=self._host(node).address, cores=CORES, memory_mb=MEMORY_MB))
        parts.append(_PARTITIONS.format(nodes=",".join(self.nodes), last=self.nodes[-1]))
        files = {
            "slurm.conf": "".join(parts),
            "slurmdbd.conf": _DATABASE_DAEMON.format(**values),
            "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
            "plugstack.conf": "optional spank_pbs.so\n" if self._torque else "",
            "slurmstepd": _STEP_DAEMON.format(python=shlex.quote(sys.executable), program=_which("slurmstepd")),
            "hosts": f"127.0.0.1 localhost\n{self.hosts.head} {socket.gethostname()} {host}\n",
        }
        for name, text in files.items():
            file = self._folder / name
            # Slurm's database daemon does not take a configuration that others may read.
            file.touch(mode={"slurmdbd.conf": 0o600, "slurmstepd": 0o755}.get(name, 0o644))
            file.write_text(text, encoding="ascii")

    def _unpack_torque(self) -> str:
        """Unpack Torque's commands, and write what gives jobs their node file; return their folder."""
        unpacked = self._folder / "torque"
        subprocess.run(["dpkg", "--extract", _torque_package(), unpacked], check=True, timeout=_BOUND_S)
        folder = unpacked / "usr" / "bin"
        for program in ("sbatch", "srun", "salloc", "squeue", "scancel", "scontrol", "sinfo"):
            # The commands look for Slurm's beside themselves.
            (folder / program).symlink_to(_which(program) or "")
        nodes = self._folder / "nodes"
        nodes.mkdir()
        nodes.chmod(0o1777)  # the users of jobs write there
        prolog = self._folder / "prolog"
        prolog.write_text(_NODE_FILE_PROLOG.format(folder=self._folder), encoding="ascii")
        prolog.chmod(0o755)
        return str(folder)

    def _daemon(self, program: str, *arguments: str, host: Host | None = None, **environment: str) -> None:
        """Run a program that makes itself a daemon, and wait until it has."""
        command = (_which(program) or program, *arguments)
        log = self._folder / "log" / f"{program}.out"
        with log.open("w+") as said:
            done = subprocess.run(
                host.command(*command) if host else command,
                # Not that of the test: what bears its mark is a leftover of it.
                env={
                    "PATH": _path(),
                    "SLURM_CONF": str(self._folder / "slurm.conf"),
                    _MARK: str(self._folder),
                    **environment,
                },
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=_BOUND_S,
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program} failed with {done.returncode}: {said.read().strip()}")

    def _host(self, node: str) -> Host:
        host: Host = self.hosts[self.nodes.index(node)]
        return host

    def _node_daemon(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, "-d", str(self._folder / "slurmstepd"), host=self._host(node))

    def _end(self, daemon: str, number: signal.Signals) -> None:
        pid = self._signal(daemon, number)
        eventually(lambda: processes.gone(pid), _BOUND_S, f"the end of {daemon}")

    def _signal(self, daemon: str, number: signal.Signals) -> int:
        try:
            pid = int((self._folder / "run" / f"{daemon}.pid").read_text())
        except OSError as error:
            raise RuntimeError(f"{daemon} does not run: {error}") from error
        process = processes.look(pid)
        # The file of one that was killed is still there, and its number may be another's now.
        if process is None or not processes.carrying(f"{_MARK}={self._folder}", [process]):
            raise RuntimeError(f"{daemon} does not run: it was process {pid}")
        os.kill(pid, number)
        return pid

    def _idle(self) -> bool:
        done = self.run("sinfo", "--noheader", "--Node", "--partition=debug", "--states=idle")
        return len(done.stdout.splitlines()) == len(self.nodes)

    def _logs(self) -> str:
        """Return the ends of all logs."""
        ends = []
        for log in sorted((self._folder / "log").iterdir()):
            lines = log.read_text(errors="replace").splitlines()[-10:]
            ends.append("\n    ".join([f"{log.name}:", *lines]))
        return "\n".join(ends)


def _path(*before: str | None) -> str:
    return os.pathsep.join([*(folder for folder in before if folder), os.environ.get("PATH", os.defpath), *_SBIN])


def _which(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _answers(address: str, port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((address, port)) == 0


def _torque_package() -> str:
    """Return the file of the package, fetched once and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flowcore-testing")
    pattern = f"{TORQUE_PACKAGE}_*.deb"
    for kept in sorted(cache.glob(pattern), reverse=True):
        return str(kept)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as folder:
        command = ["apt-get", "--quiet", "download", TORQUE_PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * _BOUND_S)
        for new in Path(folder).glob(pattern):
            return str(new.replace(cache / new.name))
    raise RuntimeError(f"{' '.join(command)} (in {cache}) gave no package: {done.stderr.strip()}")


def _of(folder: str, cluster: str) -> list[processes.Process]:
    """Return the processes of a cluster: daemons, and jobs with all that they started."""
    everyone = processes.everyone()
    found = {p.pid: p for p in processes.carrying(f"{_MARK}={folder}", everyone)}
    for pid in list(found):
        found.update((p.pid, p) for p in processes.descendants(pid, everyone))
    # What has left its job's tree is known by the variables that Slurm gave it.
    for p in processes.carrying(f"SLURM_CONF={folder}/slurm.conf", everyone):
        found.update((p.pid, p) for p in processes.carrying(f"SLURM_CLUSTER_NAME={cluster}", [p]))
    return [p for p in found.values() if p.state not in "ZX"]


def _keep(cluster: str) -> None:
    """Make a folder, say its name, wait for the end of stdin, then end the folder's cluster: what the keeper does."""
    folder = tempfile.mkdtemp(prefix="flowcore-slurm-")
    Path(folder).chmod(0o755)  # the jobs of others find the configuration there
    sys.stdout.write(f"{folder}\n")
    sys.stdout.flush()
    sys.stdin.read()
    left = processes.end(lambda: _of(folder, cluster), _BOUND_S)
    if left:
        raise SystemExit(f"these processes do not end: {left}")
    shutil.rmtree(folder)
