"""A stand-in for a cluster with PBS Pro, or with Torque, for tests: no such server can be installed from a registry.

::

    with PBSCluster({"n1": 4, "n2": 4}, folder=tmp_path) as cluster:
        cluster.use(monkeypatch)           # qsub, qstat, qdel, ... of this test mean this cluster
        cluster.run("qsub", "job.sh")
        cluster.stop_server()              # nobody answers; what runs goes on
        cluster.start_server()

Rule of this module: all that is made goes in every case. The server is a process that ends, with all jobs, when its
stdin does, so also when the test is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from flowcore.testing.hosts import Hosts

_HERE = Path(__file__).parent
_COMMANDS = ("qsub", "qstat", "qdel", "qhold", "qrls", "qrerun", "qsig", "qselect", "pbsnodes")
_BOUND_S = 20.0


class PBSCluster:
    """A server with nodes: a context manager.

    Args:
        nodes: their names and numbers of cores; or pretend hosts, which have 4 each.
        folder: where the home folder of jobs is made.
        torque: speak as Torque does.
        name: the server's, which ends each job's id.
        queues: by name, each with ``enabled``, ``max_queued`` (jobs) and ``max_walltime`` (HH:MM:SS), where limited.
            The first is the default.
        accounts: those that ``-A`` may name; empty: whatever is named.
        history: keep jobs that have ended for ``qstat -x``.
        kill_delay: seconds between SIGTERM and SIGKILL.
        exiting: seconds that a job is in state E.
        walltime_exit: exit status of a job that was ended at its walltime; 0: that of its signal, as older servers say.
        defects: of the commands: ``unescaped``, ``leading_zero``, ``repeated_jobs`` (invalid JSON, in three ways),
            ``first_only`` (JSON tells of the first job only), ``no_json``, ``no_direct_write`` (as of old versions).

    Attributes:
        home: the jobs' home folder.
    """

    def __init__(
        self,
        nodes: Mapping[str, int] | Hosts,
        *,
        folder: Path,
        torque: bool = False,
        name: str = "pbs",
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        accounts: Sequence[str] = (),
        history: bool = True,
        kill_delay: float = 1.0,
        exiting: float = 0.0,
        walltime_exit: int = -29,
        defects: Sequence[str] = (),
    ) -> None:
        if isinstance(nodes, Mapping):
            described = [{"name": name, "ncpus": ncpus, "prefix": []} for name, ncpus in nodes.items()]
        else:
            described = [{"name": host.name, "ncpus": 4, "prefix": host.command()} for host in nodes]
        queues = dict(queues or {"batch" if torque else "workq": {}})
        self.home = folder / "home"
        self._config = {
            "name": name,
            "torque": torque,
            "nodes": described,
            "queues": queues,
            "default_queue": next(iter(queues)),
            "accounts": list(accounts),
            "history": history,
            "home": str(self.home),
            "kill_delay": kill_delay,
            "exiting": exiting,
            "walltime_exit": 0 if torque else walltime_exit,
            "defects": list(defects),
        }
        self._folder = Path()
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> PBSCluster:
        """Start the server."""
        self.home.mkdir(exist_ok=True)
        # Names of sockets must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="flowcore-pbs-"))
        (self._folder / "config.json").write_text(json.dumps(self._config))
        commands = self._folder / "bin"
        commands.mkdir()
        for name in _COMMANDS:
            script = commands / name
            script.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" -S -E "{_HERE}/commands.py" "{self._folder}" {name} "$@"\n'
            )
            script.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_HERE / "server.py"), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "up\n":
            self.close()
            raise RuntimeError("the stand-in for PBS does not start; its stderr says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let PBS's commands of this process, and of what it starts, mean this cluster."""
        monkeypatch.setenv("PATH", f"{self._folder / 'bin'}:{os.environ['PATH']}")

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of PBS's commands, and wait for it; with options of ``subprocess.run``."""
        program = str(self._folder / "bin" / command[0])
        return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=_BOUND_S, **options)

    def ask(self, *command: str) -> str:
        """Run one of PBS's commands, which must succeed, and return what it printed."""
        done = self.run(*command)
        assert done.returncode == 0, done
        return done.stdout

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return what the server knows of all jobs, those that have ended too."""
        return dict(self._control("jobs"))

    def queue(self) -> list[str]:
        """Return the ids of the jobs that have not ended."""
        return [i for i, said in self.jobs().items() if said["job_state"] not in "FC"]

    def has_defects(self, *defects: str) -> None:
        """Let the commands have other defects from now on."""
        self._config["defects"] = list(defects)
        new = self._folder / "config.new"
        new.write_text(json.dumps(self._config))
        new.replace(self._folder / "config.json")

    def stop_server(self) -> None:
        """Let the server answer nobody. Jobs go on."""
        self._control("down")

    def start_server(self) -> None:
        """Let the server answer again."""
        self._control("up")

    def node_down(self, name: str) -> None:
        """Let no job start on a node."""
        self._control("node", name=name, up=False)

    def node_up(self, name: str) -> None:
        """Let jobs start on a node again."""
        self._control("node", name=name, up=True)

    def forget(self, job_id: str) -> None:
        """Let the server not know a job that has ended any more."""
        self._control("forget", id=job_id)

    def _control(self, do: str, **request: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_BOUND_S)
            connection.connect(str(self._folder / "control.sock"))
            connection.sendall(json.dumps({"do": do, **request}).encode() + b"\n")
            return json.loads(connection.makefile("r").readline())["answer"]

    def close(self) -> None:
        """End the server and all jobs. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        with server:
            assert server.stdin is not None
            server.stdin.close()
            try:
                server.wait(_BOUND_S)
            finally:
                server.kill()
                shutil.rmtree(self._folder, ignore_errors=True)
