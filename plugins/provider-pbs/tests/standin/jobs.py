"""One job of the stand-in: what qstat says of it, its files, and its processes.

Rule of this module: what PBS does to a job's processes is done to real ones. A job is a session: who leaves it
(setsid) escapes, as from a PBS without cgroups.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import attributes as a

DATE = "%a %b %e %H:%M:%S %Y"
#: In the environment of a test: jobs do not inherit it, and yet the test must find what they leave behind.
_MARK = "FLOWCORE_TEST_MARK"
#: Seconds for processes that were killed to be gone.
_KILL_S = 5.0


class Job:
    """A job.

    Args:
        identifier: its id.
        said: what qstat says of it, by name.
        script: the text of its script.
        chunks: what it asks for of each node.
        folder: the server's.
        config: likewise.
    """

    def __init__(
        self,
        identifier: str,
        said: dict[str, Any],
        script: str,
        chunks: list[dict[str, str]],
        folder: Path,
        config: dict[str, Any],
    ) -> None:
        self.identifier = identifier
        self.said = said
        self.script = script
        self.chunks = chunks
        self.folder = folder
        self.config = config
        #: Names of nodes, one for each chunk; none while it has no nodes.
        self.placed: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        #: Why it is ended: "qdel", "walltime", "rerun".
        self.ending = ""

    @property
    def state(self) -> str:
        return str(self.said["job_state"])

    def becomes(self, state: str, substate: int) -> None:
        self.said.update(job_state=state, substate=substate, mtime=time.strftime(DATE))

    # --- its beginning

    def start(self, placed: list[str]) -> None:
        """Run the script on the first of its nodes."""
        self.placed = placed
        where = list(zip(placed, self.chunks, strict=True))
        first = next(n for n in self.config["nodes"] if n["name"] == placed[0])
        node_file = self.folder / "aux" / self.identifier
        node_file.write_text("".join(f"{name}\n" * int(c["mpiprocs"]) for name, c in where), encoding="ascii")
        script = self.folder / "jobs" / f"{self.identifier}.SC"
        script.write_text(self.script, encoding="utf-8")
        script.chmod(0o700)
        out, error = self._open_streams()
        self.process = subprocess.Popen(
            # As PBS does: the user's login shell, in the home folder, reads the path of the script as a command.
            [*first["prefix"], "bash", "-c", 'cd "$HOME" && exec -a -bash bash'],
            env=self._environment(node_file),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=error,
            cwd="/",
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{script}\n".encode())
        self.process.stdin.close()
        for opened in {out, error}:
            os.close(opened)
        self.started_at = time.monotonic()
        self.becomes("R", 42)
        vnodes = "+".join(f"({name}:ncpus={c['ncpus']})" for name, c in where)
        self.said.update(
            exec_host="+".join(f"{name}/0*{c['ncpus']}" for name, c in where),
            exec_vnode=vnodes,
            stime=time.strftime(DATE),
            session_id=self.process.pid,
            jobdir=self.config["home"],
            comment=f"Job run at {time.strftime('%a %b %d at %H:%M')} on {vnodes}",
            run_count=self.said.get("run_count", 0) + 1,
        )

    def _environment(self, node_file: Path) -> dict[str, str]:
        temporary = self.folder / "tmp" / f"pbs.{self.identifier}"
        temporary.mkdir(exist_ok=True)
        counts = [int(c["ncpus"]) for c in self.chunks]
        of_torque = {
            "PBS_NP": str(sum(counts)),
            "PBS_NUM_NODES": str(len(counts)),
            "PBS_NUM_PPN": str(counts[0]),
        }
        return {
            "PATH": "/bin:/usr/bin:/usr/local/bin",
            **self.said["Variable_List"],
            "HOME": self.config["home"],
            "LOGNAME": getpass.getuser(),
            "USER": getpass.getuser(),
            "SHELL": pwd.getpwuid(os.getuid()).pw_shell,
            "TMPDIR": str(temporary),
            "ENVIRONMENT": "BATCH",
            "NCPUS": self.chunks[0]["ncpus"],
            "OMP_NUM_THREADS": self.chunks[0].get("ompthreads", self.chunks[0]["ncpus"]),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBDIR": self.config["home"],
            "PBS_JOBID": self.identifier,
            "PBS_JOBNAME": self.said["Job_Name"],
            "PBS_NODEFILE": str(node_file),
            "PBS_NODENUM": "0",
            "PBS_QUEUE": self.said["queue"],
            "PBS_TASKNUM": "1",
            **(of_torque if self.config["torque"] else {}),
            **({_MARK: os.environ[_MARK]} if _MARK in os.environ else {}),
        }

    # --- its streams

    def _target(self, letter: str) -> Path:
        return Path(self.said["Output_Path" if letter == "o" else "Error_Path"].partition(":")[2])

    def _stream(self, letter: str) -> Path:
        """Return where a stream is written: where it belongs, with ``-k d``, else into the spool."""
        keep, target = self.said["Keep_Files"], self._target(letter)
        direct = "d" in keep and letter in keep and target.parent.is_dir()
        return target if direct else self.folder / "spool" / f"{self.identifier}.{'OU' if letter == 'o' else 'ER'}"

    def _open_streams(self) -> tuple[int, int]:
        joined = {"oe": "oo", "eo": "ee"}.get(self.said["Join_Path"], "oe")
        opened = {
            letter: os.open(self._stream(letter), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for letter in {*joined}
        }
        return opened[joined[0]], opened[joined[1]]

    def deliver(self) -> None:
        """Bring what was spooled to where it belongs."""
        for letter in "oe":
            spooled, target = self._stream(letter), self._target(letter)
            if spooled != target and spooled.exists() and target.parent.is_dir():
                shutil.copyfile(spooled, target)
                spooled.unlink()

    def note(self, text: str) -> None:
        """Write a line to its standard error, as PBS does."""
        with self._stream("e").open("a") as stream:
            stream.write(f"=>> PBS: {text}\n")

    # --- its processes and its end

    def note_use(self) -> None:
        used = a.clock(time.monotonic() - self.started_at)
        self.said["resources_used"] = {"cpupercent": 0, "cput": "00:00:00", "mem": "0kb", "walltime": used}

    def processes(self) -> list[int]:
        found: list[int] = []
        if self.process is None:
            return found
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
            except (OSError, ValueError):  # it has ended
                continue
            if int(session) == self.process.pid and state not in "ZX":
                found.append(int(stat.parent.name))
        return found

    def signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """Kill all of its processes, those too that are started meanwhile."""
        deadline = time.monotonic() + _KILL_S
        while self.processes() and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)

    def ask_to_end(self, why: str) -> None:
        self.ending = why
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def exit_status(self) -> int | None:
        """Return its exit status as PBS has it once its script has ended, and kill what that left; None before."""
        if self.process is None or self.process.poll() is None:
            return None
        self.kill()
        code = self.process.returncode
        self.process = None
        return 256 - code if code < 0 else code

    def forget_run(self) -> None:
        """Be as before the start, so that it can be started again."""
        self.ending, self.placed, self.started_at = "", [], 0.0
        for name in ("exec_host", "exec_vnode", "stime", "session_id"):
            self.said.pop(name, None)
        self.becomes("Q", 10)

    def ended(self, code: int | None, substate: int, how: str) -> None:
        """Say how it ended; ``code`` is None of one that never began."""
        self.placed = []
        if self.config["torque"]:
            self.becomes("C", 59)
            self.said.update({} if code is None else {"exit_status": code})
            return
        self.becomes("F", substate)
        self.said.update({} if code is None else {"Stageout_status": 1, "Exit_status": code})
        self.said["comment"] = f"{self.said.get('comment', 'Job')} {how}"
        self.said["history_timestamp"] = int(time.time())
