"""The stand-in's server: queues, nodes, and who runs where and when. One process, one thread.

    python server.py FOLDER

It reads ``FOLDER/config.json`` (see ``cluster.py``), listens on ``FOLDER/server.sock`` for the commands and on
``FOLDER/control.sock`` for the test, and ends, with all jobs, when its stdin does.
"""

from __future__ import annotations

import ctypes
import getpass
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attributes as a
from jobs import DATE, Job

_PR_SET_CHILD_SUBREAPER = 36


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.torque: bool = self.config["torque"]
        self.jobs: dict[str, Job] = {}
        self.next_number = 40
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.down_nodes: set[str] = set()
        for name in ("spool", "aux", "jobs", "tmp"):
            (folder / name).mkdir()
        self.selector = selectors.DefaultSelector()
        self.listening: socket.socket | None = None
        self.ended = False

    # --- the loop

    def run(self) -> None:
        # Orphans of a job's session become this process's children, and are reaped.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.selector.register(reading, selectors.EVENT_READ, lambda: (os.read(reading, 4096), self._reap()))
        self.selector.register(0, selectors.EVENT_READ, self._end_of_test)
        self._listen("control.sock", self._control)
        self.listening = self._listen("server.sock", self._request)
        print("up", flush=True)  # noqa: T201 - to the test
        while not self.ended:
            wait = min((due - time.monotonic() for due, _ in self.timers), default=60.0)
            for key, _ in self.selector.select(min(60.0, max(0.0, wait))):
                key.data()
            now = time.monotonic()
            for timer in [t for t in self.timers if t[0] <= now]:
                self.timers.remove(timer)
                timer[1]()
        for job in self.jobs.values():
            if job.process is not None:
                job.kill()
                job.process.wait(5)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.timers.append((time.monotonic() + seconds, what))

    def _listen(self, name: str, answer: Callable[[dict[str, Any]], Any]) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self.folder / name))
        listening.listen(128)

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                try:
                    request = json.loads(connection.makefile("r").readline())
                    try:
                        reply = {"answer": answer(request)}
                    except a.Refused as error:
                        reply = {"error": [error.code, str(error)]}
                    connection.sendall(json.dumps(reply).encode() + b"\n")
                except (OSError, ValueError):
                    pass  # a command that was killed

        self.selector.register(listening, selectors.EVENT_READ, accept)
        return listening

    def _end_of_test(self) -> None:
        self.ended = not os.read(0, 1)

    def _control(self, request: dict[str, Any]) -> Any:
        """What a test may do to the server that no user may."""
        match request["do"]:
            case "down":
                assert self.listening is not None
                self.selector.unregister(self.listening)
                self.listening.close()
                (self.folder / "server.sock").unlink()
            case "up":
                self.listening = self._listen("server.sock", self._request)
            case "node":
                change = self.down_nodes.discard if request["up"] else self.down_nodes.add
                change(request["name"])
                self.schedule()
            case "forget":
                self.jobs.pop(request["id"])
            case "jobs":
                return {i: job.said for i, job in self.jobs.items()}
        return None

    # --- what users ask

    def _request(self, request: dict[str, Any]) -> Any:
        action = getattr(self, "do_" + request.pop("do"))
        return action(**request)

    def find(self, identifier: str, finished: bool = False) -> Job:
        number, dot, server = identifier.partition(".")
        job = self.jobs.get(identifier if dot else f"{number}.{self.config['name']}")
        if job is None:
            raise a.Refused(a.UNKNOWN_JOB, "Unknown Job Id Error" if self.torque else "Unknown Job Id")
        if job.state in "FC" and not (finished or self.torque):
            raise a.Refused(a.FINISHED, "Job has finished")
        return job

    def do_submit(self, options: dict[str, Any], script: str, workdir: str, variables: dict[str, str]) -> str:
        queue = options.get("q") or self.config["default_queue"]
        known = self.config["queues"].get(queue)
        if known is None:
            if self.torque:
                raise a.Refused(a.UNKNOWN_QUEUE_TORQUE, "Unknown queue MSG=cannot locate queue")
            raise a.Refused(a.UNKNOWN_QUEUE_PRO, "Unknown queue")
        if not known.get("enabled", True):
            raise a.Refused(a.QUEUE_DISABLED, "Queue is not enabled")
        accounts = self.config["accounts"]
        if accounts and options.get("A") not in accounts:
            raise a.Refused(a.BAD_ACCOUNT, "Invalid Account")
        waiting = [j for j in self.jobs.values() if j.said["queue"] == queue and j.state not in "FC"]
        if len(waiting) >= known.get("max_queued", 10**6):
            raise a.Refused(a.QUEUE_FULL, "Maximum number of jobs already in queue")
        asked = dict(options.get("l", {}))
        a.check_names(list(asked), self.torque)
        if self.torque:
            chunks = a.chunks_of_nodes(asked.setdefault("nodes", "1"))
            asked["nodect"] = str(len(chunks))
        else:
            chunks = a.chunks_of_select(asked.setdefault("select", f"1:ncpus={asked.get('ncpus', 1)}"))
            a.arrangement(asked.setdefault("place", "free"))
            asked.update(ncpus=str(sum(int(c["ncpus"]) for c in chunks)), nodect=str(len(chunks)))
        limit = known.get("max_walltime")
        asked.setdefault("walltime", limit or "01:00:00")
        if limit is not None and a.seconds(asked["walltime"]) > a.seconds(limit):
            words = "Job exceeds queue resource limits MSG=cannot satisfy queue max walltime requirement"
            raise a.Refused(a.OVER_LIMIT, words if self.torque else "Job violates queue and/or server resource limits")
        asked["walltime"] = a.clock(a.seconds(asked["walltime"]))
        number, self.next_number = self.next_number, self.next_number + 1
        identifier = f"{number}.{self.config['name']}"
        host = socket.gethostname()
        now = time.strftime(DATE)
        name = options["N"]
        streams = {}
        for letter in "oe":
            path = options.get(letter) or f"{name}.{letter}{number}"
            where, colon, there = path.partition(":")
            streams[letter] = path if colon and "/" not in where else f"{host}:{Path(workdir, path)}"
        said: dict[str, Any] = {
            "Job_Name": name,
            "Job_Owner": f"{getpass.getuser()}@{host}",
            "job_state": "Q",
            "queue": queue,
            "server": self.config["name"],
            **({"Account_Name": options["A"]} if "A" in options else {}),
            "Checkpoint": "u",
            "ctime": now,
            "Error_Path": streams["e"],
            "Hold_Types": "u" if options.get("h") else "n",
            "Join_Path": options.get("j", "n"),
            "Keep_Files": options.get("k", "n"),
            "Mail_Points": options.get("m", "a"),
            "mtime": now,
            "Output_Path": streams["o"],
            "Priority": int(options.get("p", 0)),
            "qtime": now,
            "Rerunable": str(options.get("r", "y") == "y"),
            "Resource_List": asked,
            "substate": 10,
            "Variable_List": {
                **{f"PBS_O_{k}": v for k, v in variables.items()},
                "PBS_O_WORKDIR": workdir,
                "PBS_O_SYSTEM": "Linux",
                "PBS_O_QUEUE": queue,
                "PBS_O_HOST": host,
                **options.get("v", {}),
            },
            "etime": now,
            "Submit_arguments": options["arguments"],
            "project": "_pbs_project_default",
        }
        job = Job(identifier, said, script, chunks, self.folder, self.config)
        self.jobs[identifier] = job
        if options.get("h"):
            job.becomes("H", 20)
        elif "a" in options:
            job.becomes("W", 30)
            self.after(options["a"] - time.time(), lambda: self._wait_is_over(job))
        self.schedule()
        return identifier

    def do_status(self, ids: list[str], finished: bool) -> list[list[Any]]:
        if finished and not self.config["history"]:
            raise a.Refused(a.NO_HISTORY, "PBS is not configured to maintain job history")
        for job in self.jobs.values():
            if job.process is not None:
                job.note_use()
        found = []
        for identifier in ids or [i for i, job in self.jobs.items() if finished or self.torque or job.state != "F"]:
            try:
                job = self.find(identifier, finished)
                found.append([job.identifier, job.said, None])
            except a.Refused as error:
                number, dot, _ = identifier.partition(".")
                full = identifier if dot else f"{number}.{self.config['name']}"
                hint = ", use -x or -H to obtain historical job information" if error.code == a.FINISHED else ""
                found.append([full, None, [error.code, f"{error}{hint}"]])
        return found

    def do_delete(self, identifier: str) -> None:
        job = self.find(identifier)
        if job.state == "C":
            raise a.Refused(a.BAD_STATE, "Request invalid for state of job MSG=invalid state for job - COMPLETE")
        if job.process is not None and not job.ending:
            self._end(job, "qdel")
        elif job.process is None and job.state != "E":
            self._ended(job, None, 91, "and terminated")

    def do_hold(self, identifier: str, kinds: str) -> None:
        job = self.find(identifier)
        job.said["Hold_Types"] = "".join(sorted(set(job.said["Hold_Types"].replace("n", "") + kinds)))
        if job.state in "QW":
            job.becomes("H", 20)

    def do_release(self, identifier: str, kinds: str) -> None:
        job = self.find(identifier)
        left = "".join(kind for kind in job.said["Hold_Types"] if kind not in kinds) or "n"
        job.said["Hold_Types"] = left
        if job.state == "H" and left == "n":
            job.becomes("Q", 10)
            self.schedule()

    def do_rerun(self, identifier: str) -> None:
        job = self.find(identifier)
        if job.said["Rerunable"] != "True":
            raise a.Refused(a.NO_RERUN, "job is not rerunnable")
        if job.state != "R":
            raise a.Refused(a.BAD_STATE, "Request invalid for state of job")
        self._end(job, "rerun")

    def do_signal(self, identifier: str, name: str) -> None:
        job = self.find(identifier)
        if job.state not in "RS":
            raise a.Refused(a.BAD_STATE, "Request invalid for state of job")
        if name == "suspend":
            job.signal(signal.SIGSTOP)
            job.becomes("S", 43)
        elif name == "resume":
            job.signal(signal.SIGCONT)
            job.becomes("R", 42)
        else:
            job.signal(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])

    def do_nodes(self) -> dict[str, Any]:
        nodes = {}
        for node in self.config["nodes"]:
            held = {i: j for i, j in self._held().items() if node["name"] in j.placed}
            used = node["ncpus"] - self._free().get(node["name"], node["ncpus"])
            state = "down" if node["name"] in self.down_nodes else "job-busy" if used >= node["ncpus"] else "free"
            nodes[node["name"]] = {
                "Mom": node["name"],
                "ntype": "PBS",
                "state": state,
                "pcpus": node["ncpus"],
                "jobs": [
                    f"{i}/{k}" for i, j in held.items() for k, name in enumerate(j.placed) if name == node["name"]
                ],
                "resources_available": {"arch": "linux", "host": node["name"], "ncpus": node["ncpus"]},
                "resources_assigned": {"ncpus": used},
                "resv_enable": "True",
                "sharing": "default_shared",
            }
        return nodes

    # --- where jobs run

    def _held(self) -> dict[str, Job]:
        return {i: job for i, job in self.jobs.items() if job.placed}

    def _free(self) -> dict[str, int]:
        free = {n["name"]: n["ncpus"] for n in self.config["nodes"] if n["name"] not in self.down_nodes}
        for job in self._held().values():
            for chunk, name in zip(job.chunks, job.placed, strict=True):
                if name in free:
                    free[name] = 0 if self._exclusive(job) else free[name] - int(chunk["ncpus"])
        return free

    def _exclusive(self, job: Job) -> bool:
        return not self.torque and a.arrangement(job.said["Resource_List"]["place"])[1]

    def _place(self, job: Job, free: dict[str, int]) -> list[str] | None:
        """Return a node for each chunk, or None if there are none at present: first fit."""
        how = "scatter" if self.torque else a.arrangement(job.said["Resource_List"]["place"])[0]
        sizes = {n["name"]: n["ncpus"] for n in self.config["nodes"]}
        if self._exclusive(job):
            free = {name: n for name, n in free.items() if n == sizes[name]}
        if how == "pack":
            total = sum(int(c["ncpus"]) for c in job.chunks)
            return next(([name] * len(job.chunks) for name, n in free.items() if n >= total), None)
        free, placed = dict(free), []
        for chunk in job.chunks:
            wanted = chunk.get("host") or chunk.get("vnode")
            name = next(
                (
                    name
                    for name, n in free.items()
                    if n >= int(chunk["ncpus"])
                    and (wanted is None or name == wanted)
                    and not (how == "scatter" and name in placed)
                ),
                None,
            )
            if name is None:
                return None
            free[name] -= int(chunk["ncpus"])
            placed.append(name)
        return placed

    def schedule(self) -> None:
        for job in list(self.jobs.values()):
            if job.state != "Q":
                continue
            free = self._free()
            placed = self._place(job, free)
            if placed is not None:
                self._start(job, placed)
                continue
            asked = sum(int(c["ncpus"]) for c in job.chunks)
            total = sum(n["ncpus"] for n in self.config["nodes"])
            empty = {n["name"]: n["ncpus"] for n in self.config["nodes"]}
            when = "Not Running" if self._place(job, empty) else "Can Never Run"
            job.said["comment"] = (
                f"{when}: Insufficient amount of resource: ncpus (R: {asked} A: {sum(free.values())} T: {total})"
            )

    # --- how jobs begin and end

    def _start(self, job: Job, placed: list[str]) -> None:
        job.start(placed)
        limit, run = a.seconds(job.said["Resource_List"]["walltime"]), job.said["run_count"]
        self.after(limit, lambda: self._over_limit(job, run, limit))

    def _end(self, job: Job, why: str) -> None:
        process = job.process
        job.ask_to_end(why)
        self.after(self.config["kill_delay"], lambda: job.kill() if job.process is process else None)

    def _over_limit(self, job: Job, run: int, limit: int) -> None:
        if job.process is not None and not job.ending and job.said["run_count"] == run:
            used = int(time.monotonic() - job.started_at) + 1
            job.note(f"job killed: walltime {used} exceeded limit {limit}")
            self._end(job, "walltime")

    def _wait_is_over(self, job: Job) -> None:
        if job.state == "W":
            job.becomes("Q", 10)
            self.schedule()

    def _reap(self) -> None:
        for job in list(self.jobs.values()):
            code = job.exit_status()
            if code is not None:
                self._over(job, code)
        while True:
            own = {job.process.pid for job in self.jobs.values() if job.process is not None}
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in own:
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)
            except ChildProcessError:
                return

    def _over(self, job: Job, code: int) -> None:
        job.note_use()
        if job.ending == "rerun":
            job.forget_run()
            self.schedule()
        else:
            job.becomes("E", 50)
            self.after(self.config["exiting"], lambda: self._exited(job, code))

    def _exited(self, job: Job, code: int) -> None:
        job.deliver()
        at_limit = self.config["walltime_exit"] if job.ending == "walltime" else 0
        if at_limit:
            self._ended(job, at_limit, 93, "and exceeded resource walltime")
        elif job.ending == "qdel":
            self._ended(job, code, 91, "and terminated")
        elif code:
            self._ended(job, code, 93, "and failed")
        else:
            self._ended(job, 0, 92, "and finished")

    def _ended(self, job: Job, code: int | None, substate: int, how: str) -> None:
        job.ended(code, substate, how)
        if job.state == "F" and not self.config["history"]:
            del self.jobs[job.identifier]
        self.schedule()


if __name__ == "__main__":
    Server(Path(sys.argv[1])).run()
