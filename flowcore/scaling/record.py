"""The record of a run's blocks: who asked for which job, when, and what became of it; ``blocks.jsonl``.

Rule of this module: the file only grows, a line at a time, and each line is with the system before the core goes on. So
whoever is killed, and when, another process finds all jobs in it: one whose id is missing has been asked for under the
name that the line before says.

Each line is a JSON object with its ``type`` and the time ``at`` (epoch s): ``run`` says whose process it is,
``executor`` of which provider, ``requested`` that a block is about to be asked for, ``job`` what its id is,
``unanswered`` that the scheduler did not say one, ``hosts`` where its workers are, ``state`` what it is now, and
``closed`` that the executor's blocks were cancelled. A line that cannot be read, since the disk was full, is skipped.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowcore.config import describe
from flowcore.errors import ConfigurationError
from flowcore.plugins.hookspecs import RunInfo
from flowcore.plugins.provider import JobState, JobStatus, Provider

logger = logging.getLogger(__name__)

NAME = "blocks.jsonl"


class BlockRecord:
    """Writes the record of a run, from any thread.

    Args:
        path: the file; None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        #: A line may have been cut off: the next one must not become part of it.
        self._cut = False
        self._failed = False

    @classmethod
    def begin(cls, run: RunInfo) -> BlockRecord:
        """Return the record of a run of this process, which says so in it."""
        record = cls(run.run_dir / NAME)
        process = Process.of(os.getpid())
        record.write("run", run_id=run.run_id, program=run.program, **attrs.asdict(process))
        return record

    def executor(self, label: str, provider: Provider, script_dir: Path) -> None:
        """Note where the blocks of an executor come from, so that another process can make its provider."""
        try:
            described = describe(provider)
        except ConfigurationError as error:
            told: dict[str, Any] = {"provider": None, "why": str(error)}
        else:
            told = {"provider": described.values, "left_out": described.left_out}
        self.write("executor", executor=label, **told, on_this_host=provider.on_this_host, script_dir=str(script_dir))

    def state(self, executor: str, block_id: str, status: JobStatus) -> None:
        """Note what a block has changed to."""
        facts = {"message": status.message, "exit_code": status.exit_code}
        known = {name: value for name, value in facts.items() if value is not None}
        self.write("state", executor=executor, block=block_id, state=status.status_name, **known)

    def write(self, kind: str, **facts: Any) -> None:
        """Append a line. A full disk is logged, and stops nothing."""
        if self._path is None:
            return
        line = json.dumps({"type": kind, **facts, "at": round(time.time(), 3)}) + "\n"
        try:
            with self._lock:
                self._append(self._path, line)
        except OSError as error:
            if not self._failed:
                logger.warning("blocks cannot be recorded in %s: %s", self._path, error.strerror or error)
            self._failed = True

    def _append(self, path: Path, line: str) -> None:
        data = ("\n" + line if self._cut else line).encode()
        self._cut = True
        # Opened for each line, of which there are few. For this user alone: it says how the scheduler is reached.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._cut = os.write(file, data) != len(data)
        finally:
            os.close(file)


# --- reading


@attrs.frozen
class Process:
    """A process of some host, so that one which has its number later is told apart.

    Attributes:
        pid: its number.
        started: when it was started, in ticks since the host was; None where that cannot be told.
        host: name of its host.
        boot: what tells this start of the host from others; None where that cannot be told.
    """

    pid: int
    started: int | None
    host: str
    boot: str | None

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return what is known of a process of this host."""
        return cls(pid, _started(pid), socket.gethostname(), _boot())

    @property
    def alive(self) -> bool | None:
        """Whether it runs; None if that cannot be told from this host."""
        if self.host != socket.gethostname():
            return None
        if self.started is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                return True
            return True
        return self.boot == _boot() and self.started == _started(self.pid)


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # `pid (name) state ppid ...`: the name may hold anything, and the 22nd field is when it started.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


@attrs.define(slots=True)
class BlockEntry:
    """What the record knows of a block.

    Attributes:
        block_id: its id.
        name: of its job.
        job_id: id of its job; None if the record does not know it.
        state: the last that it was known to have; UNKNOWN if it is not known whether there is a job.
        since: when that began, epoch s; None if that is not known.
        message: the scheduler's reason.
        exit_code: where known.
        hosts: where its workers are, or were.
    """

    block_id: str
    name: str
    since: float | None
    job_id: str | None = None
    state: JobState = JobState.UNKNOWN
    message: str | None = None
    exit_code: int | None = None
    hosts: tuple[str, ...] = ()


@attrs.define(slots=True)
class ExecutorEntry:
    """What the record knows of an executor.

    Attributes:
        label: its label.
        provider: of which :func:`flowcore.config.build` makes its provider; None if it has no name.
        left_out: paths of the provider's options that are not in that: secrets.
        why: why there is no provider.
        on_this_host: its blocks are processes of the host of the run.
        script_dir: where its scripts are.
        closed_at: when its blocks were cancelled, at the end of the run, epoch s; None: they were not.
        blocks: its blocks, by id.
    """

    label: str
    provider: dict[str, Any] | None = None
    left_out: Sequence[str] = ()
    why: str | None = None
    on_this_host: bool = False
    script_dir: str = ""
    closed_at: float | None = None
    blocks: dict[str, BlockEntry] = attrs.field(factory=dict)

    def open(self) -> list[BlockEntry]:
        """Return the blocks that are not known to have ended."""
        return [block for block in self.blocks.values() if not block.state.terminal]


@attrs.define(slots=True)
class RunEntry:
    """What the record knows of a run: its id, its program, its process, when it began (epoch s), and its executors."""

    run_id: str
    program: str
    process: Process
    began_at: float
    executors: dict[str, ExecutorEntry] = attrs.field(factory=dict)


def read(run_dir: Path) -> RunEntry | None:
    """Return what is recorded of a run; None if it asked for no blocks.

    Raises:
        ConfigurationError: the record cannot be read.
    """
    path = run_dir / NAME
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read the record of blocks, {path}: {error.strerror or error}") from error
    run: RunEntry | None = None
    for line in _lines(text):
        try:
            if line["type"] == "run":
                process = Process(line["pid"], line["started"], line["host"], line["boot"])
                run = RunEntry(line["run_id"], line["program"], process, line["at"])
            elif run is not None:
                _take(run, line)
        except (KeyError, TypeError):  # of a later version, or cut off in an odd place
            continue
    if run is None:
        raise ConfigurationError(f"{path} does not say whose record it is: its first line is missing")
    return run


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        if isinstance(parsed, dict) and isinstance(parsed.get("at"), int | float):
            yield parsed


def _take(run: RunEntry, line: dict[str, Any]) -> None:
    executor = run.executors.setdefault(line["executor"], ExecutorEntry(line["executor"]))
    kind, at = line["type"], line["at"]
    if kind == "executor":
        executor.provider = line["provider"]
        executor.left_out = tuple(line.get("left_out", ()))
        executor.why = line.get("why")
        executor.on_this_host = line["on_this_host"]
        executor.script_dir = line["script_dir"]
    elif kind == "requested":
        executor.blocks[line["block"]] = BlockEntry(line["block"], line["name"], at)
    elif kind == "closed":
        executor.closed_at = at
    else:
        block = executor.blocks[line["block"]]
        if kind == "job":
            block.job_id, block.state, block.since = line["job"], JobState.PENDING, at
        elif kind == "unanswered":
            block.message = line["message"]
        elif kind == "hosts":
            block.hosts = tuple(line["hosts"])
        elif kind == "state":
            block.state, block.since = JobState[line["state"]], at
            block.message, block.exit_code = line.get("message"), line.get("exit_code")


def runs(base: Path) -> list[Path]:
    """Return the folders of the runs below ``base``, the newest last."""
    numbered: Iterable[Path] = base.iterdir() if base.is_dir() else ()
    return sorted((p for p in numbered if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))
