"""``MonitoringHub``: takes what hooks tell of a run, and keeps it.

Rules of this module. No task waits for a database: events go into the run's journal, a file beside the run's logs, and
a process of its own brings them into the database. Nothing is kept in memory but what a full disk did not take, and
that is bounded. What cannot be recorded is said, at the load or at the end of the run, and stops nothing.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import operator
import os
import platform
import re
import select
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from flowcore import __version__
from flowcore.plugins.api import (
    BlockEvent,
    ConfigurationError,
    NodeEvent,
    ResourceSample,
    RunInfo,
    TaskEvents,
    at_least,
    component,
    hookimpl,
    shown_url,
)
from flowcore_monitoring_sqlite import records
from flowcore_monitoring_sqlite.journal import JournalWriter
from flowcore_monitoring_sqlite.owner import LOG, RESERVE, RUN_FILE, STATUS_FILE, Owner, remove, start_of, write_file

logger = logging.getLogger("flowcore.monitoring")

#: Seconds that the writer may take to answer at the start of a run: it imports a library, and asks the database.
START_S = 60.0
#: Seconds after which the end of a run says what it waits for.
QUIET_S = 5.0
#: Seconds between two writers where the first one ended too early, at first and at most.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
#: Seconds for a writer that is told to end.
STOP_S = 5.0
#: Bytes on the disk that are kept for the last record.
RESERVE_BYTES = 64 * 1024
#: Bytes of events that are kept in memory while no disk takes them.
MOST_KEPT = 32 * 1024 * 1024

_URL = re.compile(r"[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://", re.IGNORECASE)


def _check_endpoint(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and not _URL.match(value):
        raise ConfigurationError(
            f"MonitoringHub(logging_endpoint={value[:60]!r}): that is no database's URL; give "
            "sqlite:////absolute/path/to/file.db or postgresql://user@host/database"
        )


@component
class MonitoringHub:
    """Records a run in a database: its tasks, attempts, blocks and nodes, and what they use.

    Name it in a configuration: ``Config(monitoring=MonitoringHub())``. One that was given to a configuration that ran
    may be given to another one.

    Args:
        hub_address: accepted and not used: what workers send comes over their executor's own connection.
        hub_port: likewise.
        hub_port_range: likewise.
        workflow_name: name of the workflow; None for the name of the program.
        workflow_version: its version; None for the time at which it began.
        logging_endpoint: URL of the database; None for the SQLite file ``monitoring.db`` in the folder of all runs.
        logdir: folder for the journal and the log; None for ``monitoring`` in the run directory.
        monitoring_debug: log much.
        resource_monitoring_enabled: record what attempts use.
        resource_monitoring_interval: seconds between two samples of that; 0: only at the start and end of attempts.
        end_timeout: seconds that the end of the run waits for the database to take the last events. What it has not
            taken by then stays in the journal, which ``flowcore monitoring import`` loads.
    """

    hub_address: str | None = None
    hub_port: int | None = None
    hub_port_range: tuple[int, int] = (55050, 56000)
    workflow_name: str | None = None
    workflow_version: str | None = None
    logging_endpoint: str | None = attrs.field(
        default=None, validator=_check_endpoint, repr=lambda url: repr(url and shown_url(url))
    )
    logdir: str | None = None
    monitoring_debug: bool = False
    resource_monitoring_enabled: bool = True
    resource_monitoring_interval: float = attrs.field(default=30, validator=at_least(0))
    end_timeout: float = attrs.field(default=120, validator=at_least(0))

    def __attrs_post_init__(self) -> None:
        self._recording: Recording | None = None

    # --- the run

    @hookimpl
    def flowcore_run_started(self, run: RunInfo) -> None:
        """Open the journal and start the writer.

        Raises:
            ConfigurationError: the database cannot be used, or the journal cannot be written.
        """
        if self._recording is not None:
            raise ConfigurationError(
                f"this MonitoringHub records the run in {self._recording.run_dir} at this moment: make another one for "
                "this run"
            )
        endpoint = self.logging_endpoint or f"sqlite:///{run.run_dir.parent / 'monitoring.db'}"
        folder = run.run_dir / "monitoring" if self.logdir is None else Path(self.logdir) / f"monitoring-{run.run_id}"
        recording = Recording(run, endpoint, folder.absolute(), self.end_timeout, self.monitoring_debug)
        name = self.workflow_name or Path(run.program).name or run.program
        version = self.workflow_version or datetime.fromtimestamp(run.started_at).isoformat(" ", "seconds")
        recording.start(name, version)
        self._recording = recording

    @hookimpl
    def flowcore_run_finished(self, run: RunInfo, task_counts: dict[str, int]) -> None:
        """Wait, for a bounded time, until all is in the database."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.finish()

    @hookimpl
    def flowcore_resource_period(self, executor: str) -> float | None:
        """Return how often what attempts use is to be looked at."""
        return self.resource_monitoring_interval if self.resource_monitoring_enabled else None

    # --- events

    @hookimpl
    def flowcore_task_events(self, events: TaskEvents) -> None:
        """Keep the steps of tasks, beginnings and ends of attempts among them."""
        columns = events.columns
        self._keep(len(columns[0]), records.TASKS, *records.packed(columns))

    @hookimpl
    def flowcore_block_requested(self, event: BlockEvent) -> None:
        """Keep that a block was asked for."""
        self._keep_block(event)

    @hookimpl
    def flowcore_block_status_changed(self, event: BlockEvent) -> None:
        """Keep what became of a block."""
        self._keep_block(event)

    @hookimpl
    def flowcore_resource_samples(self, samples: Sequence[ResourceSample]) -> None:
        """Keep what attempts use."""
        self._keep(len(samples), records.RESOURCES, self.resource_monitoring_interval, list(map(_of_sample, samples)))

    @hookimpl
    def flowcore_node_events(self, events: Sequence[NodeEvent]) -> None:
        """Keep which nodes are there."""
        self._keep(len(events), records.NODES, list(map(_of_node, events)))

    @hookimpl
    def flowcore_block_ended(self, event: BlockEvent) -> None:
        """Keep that a block ended."""
        self._keep_block(event)

    def _keep_block(self, event: BlockEvent) -> None:
        status = event.status
        self._keep(
            1, records.BLOCK, event.executor, event.block_id, event.job_id, status.status_name, status.message, event.at
        )

    def _keep(self, number: int, kind: str, *facts: Any) -> None:
        recording = self._recording
        if recording is not None:
            recording.keep(number, kind, *facts)


_of_sample = operator.attrgetter(*(field.name for field in attrs.fields(ResourceSample)))
_of_node = operator.attrgetter(*(field.name for field in attrs.fields(NodeEvent)))


class Recording:
    """The recording of one run: its journal, and the process that brings it into the database.

    Args:
        run: the run.
        endpoint: URL of the database.
        folder: of the journal.
        end_timeout_s: seconds that :meth:`finish` waits for the database.
        debug: whether the writer logs much.
    """

    def __init__(self, run: RunInfo, endpoint: str, folder: Path, end_timeout_s: float, debug: bool) -> None:
        self.run_dir = run.run_dir
        self._run = run
        self._endpoint = _absolute(endpoint)
        self._folder = folder
        self._end_timeout_s = end_timeout_s
        self._debug = debug
        self._encoder = records.Encoder()
        #: Guards all below: events come from several threads.
        self._lock = threading.Lock()
        self._journal: JournalWriter | None = None
        #: What no disk took yet: records with the number of their events.
        self._kept: deque[tuple[bytes, int]] = deque()
        self._kept_bytes = 0
        self._lost = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        #: Set when all is in the database.
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep_writing, name="flowcore-monitoring", daemon=True)

    def start(self, name: str, version: str) -> None:
        """Begin the journal, and wait until the writer has found the database in order.

        Raises:
            ConfigurationError: one of both cannot be used; nothing is left of them.
        """
        run = self._run
        shown = shown_url(self._endpoint)
        try:
            self._journal = JournalWriter(self._folder)
            owner = Owner(run.run_id, shown, socket.gethostname(), os.getpid(), start_of(os.getpid()))
            write_file(self._folder / RUN_FILE, attrs.asdict(owner))
            (self._folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))
            facts = {
                "workflow_name": name, "workflow_version": version, "time_began": run.started_at,
                "host": owner.host, "user": _user(), "rundir": str(run.run_dir), "pid": owner.pid,
                "python_version": platform.python_version(), "flowcore_version": __version__, "config": run.config,
            }  # fmt: skip
            self._journal.append(self._encoder.encode(records.BEGIN, facts))
        except OSError as error:
            self._remove()
            raise ConfigurationError(
                f"MonitoringHub: the journal of the run cannot be written in {self._folder}: "
                f"{error.strerror or error}. Name another folder with MonitoringHub(logdir=...)"
            ) from error
        try:
            problem = self._start_writer()
        except BaseException:  # Ctrl-C too
            self._stop_writer()
            self._remove()
            raise
        if problem is not None:
            self._stop_writer()
            self._remove()
            raise ConfigurationError(f"MonitoringHub(logging_endpoint={shown!r}): {problem}")
        self._keeper.start()

    def keep(self, number: int, kind: str, *facts: Any) -> None:
        """Append a record of so many events to the journal. From any thread."""
        with self._lock:
            self._append(self._encoder.encode(kind, *facts), number)

    def finish(self) -> None:
        """Append the last record and wait until all is in the database, for a bounded time. Says what is not."""
        ended = False
        try:
            ended = self._append_end()
            if ended:
                self._wait()
        finally:  # Ctrl-C, too: the user has waited for long enough
            self._stopping.set()
            self._stop_writer()
            self._keeper.join(STOP_S)
            self._say_left(ended)
            if self._done.is_set():
                self._remove()
            elif self._journal is not None:
                self._journal.close()

    # --- the journal

    def _append(self, payload: bytes, number: int) -> None:
        assert self._journal is not None
        if not self._kept:
            try:
                self._journal.append(payload)
                return
            except OSError as error:
                logger.error(
                    "the monitoring's journal in %s cannot be written (%s): up to %d MB of events are kept in memory",
                    self._folder, error.strerror or error, MOST_KEPT // 2**20,
                )  # fmt: skip
        if self._kept_bytes + len(payload) > MOST_KEPT:
            self._lost += number
        else:
            self._kept.append((payload, number))
            self._kept_bytes += len(payload)
        self._append_kept()

    def _append_kept(self) -> None:
        assert self._journal is not None
        try:
            while self._kept:
                payload, _ = self._kept[0]
                self._journal.append(payload)
                self._kept.popleft()
                self._kept_bytes -= len(payload)
        except OSError:
            return
        logger.warning("the monitoring's journal in %s can be written again", self._folder)

    def _append_end(self) -> bool:
        """Append the last record; return whether that worked."""
        assert self._journal is not None
        with self._lock:
            if self._kept:
                self._append_kept()
            self._lost += sum(number for _, number in self._kept)
            self._kept.clear()
            payload = self._encoder.encode(records.END, {"at": time.time(), "lost": self._lost})
            # So much is free, whoever has filled the disk.
            (self._folder / RESERVE).unlink(missing_ok=True)
            try:
                self._journal.append(payload)
            except OSError as error:
                logger.error("the last record of the monitoring's journal cannot be written: %s", error)
                return False
            return True

    # --- the writer

    def _start_writer(self) -> str | None:
        """Start the process; return why the database cannot be used, None if it can."""
        with (self._folder / LOG).open("ab") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flowcore_monitoring_sqlite.writer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C in the terminal is for the program, at whose end there is more to write.
                start_new_session=True,
            )
        assert process.stdin is not None and process.stdout is not None
        settings = {
            "folder": str(self._folder), "url": self._endpoint, "run_id": self._run.run_id, "pid": os.getpid(),
            "debug": self._debug,
        }  # fmt: skip
        with process.stdout:
            # One that has ended already does not read, and says why in its log.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(settings).encode() + b"\n")
            answers = select.poll()
            answers.register(process.stdout, select.POLLIN)
            if not answers.poll(1000 * START_S):
                return f"the database did not answer within {START_S:.0f} s"
            line = process.stdout.readline()
        if line:
            answer: str | None = json.loads(line)
            return answer
        return f"the process that writes the database ended before it began; its last words: {self._last_words()}"

    def _keep_writing(self) -> None:
        """See to it that there is a writer until all is written."""
        pause = FIRST_PAUSE_S
        while self._process is not None:
            began = time.monotonic()
            code = self._process.wait()
            if code == 0:
                self._done.set()
                return
            if self._stopping.is_set():
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            logger.warning("the process that writes the monitoring's database ended (exit code %d)", code)
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)
            try:
                problem = self._start_writer()
            except OSError as error:
                problem = str(error)
            if problem is not None:
                logger.error("the monitoring's database cannot be written: %s", problem)
            if self._stopping.is_set():
                # The end of the run has stopped the one before.
                self._stop_writer()
                return

    def _wait(self) -> None:
        """Wait until all is in the database, for a bounded time."""
        deadline = time.monotonic() + self._end_timeout_s
        if self._done.wait(min(QUIET_S, self._end_timeout_s)):
            return
        left = deadline - time.monotonic()
        if left > 0:
            _say(
                f"the monitoring's database {shown_url(self._endpoint)} has not got all events yet{self._why()}: "
                f"waiting for it, {left:.0f} s at most"
            )
        self._done.wait(max(0.0, left))

    def _stop_writer(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _why(self) -> str:
        try:
            problem = json.loads((self._folder / STATUS_FILE).read_text())
        except (OSError, ValueError):
            problem = None
        return f" ({problem})" if problem else ""

    def _last_words(self) -> str:
        try:
            lines = (self._folder / LOG).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "none"

    def _say_left(self, ended: bool) -> None:
        if self._lost:
            _say(
                f"the monitoring has lost {self._lost} events of this run: the disk of {self._folder} took no more, "
                f"and more than {MOST_KEPT // 2**20} MB of them are not kept in memory"
            )
        if not self._done.is_set():
            end = "" if ended else "; the run's end is not among them, since the disk takes no more"
            _say(
                f"the monitoring's database {shown_url(self._endpoint)} has not got all events of this run"
                f"{self._why()}. They are in {self._folder}{end}. To load them: "
                f"flowcore monitoring import {shlex.quote(str(self._folder))}"
            )

    def _remove(self) -> None:
        # Without a journal of its own, what is in the folder is another run's.
        if self._journal is not None:
            self._journal.close()
            remove(self._folder)


def _absolute(endpoint: str) -> str:
    """Return the URL of an SQLite file with its whole path: the program may change its folder later."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/?:][^?]*)(\?.*)?", endpoint)
    return endpoint if found is None else f"{found[1]}{Path(found[2]).absolute()}{found[3] or ''}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return str(os.getuid())


def _say(text: str) -> None:
    # The terminal may be gone.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"flowcore: {text}\n")
        sys.stderr.flush()
