"""The manager: the one process per node that keeps its workers and talks to the interchange.

Started in a block by the provider and its launcher. It never unpickles anything. It ends when the interchange says
so or has been silent for ``heartbeat_threshold``, and its workers end with it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import zmq

from flowcore.plugins.api import BadMessage
from flowcore_executor_htex import logs, mpi, needs, placement, protocol, security, wire
from flowcore_executor_htex import settings as settings_module
from flowcore_executor_htex.link import Link, calm_collector
from flowcore_executor_htex.pool import STUCK_S, Assignment, Pool
from flowcore_executor_htex.settings import ManagerSettings, WorkerSettings
from flowcore_executor_htex.tokens import Tokens

if TYPE_CHECKING:
    from flowcore_executor_htex.sampling import Sampler
    from flowcore_executor_htex.usage import Page

logger = logging.getLogger("flowcore_executor_htex.manager")

#: Workers that die before they are ready, in a row, before the manager gives up.
MAX_FAILED_STARTS = 3
#: How long a busy manager rests so that what comes meanwhile is handled together.
REST_S = 0.0003
#: Seconds that workers have to end by themselves.
GRACE_S = 3.0
#: Managers that may follow one another in this process.
MAX_STARTS = 100
#: Seconds between two looks for adopted processes that have ended.
REAP_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36


class GiveUp(Exception):
    """The manager cannot go on; the text is printed to the block's stderr."""


def count_slots(settings: ManagerSettings, nodes: int = 0) -> int:
    """Return the number of workers that this node can have.

    Args:
        settings: the executor's.
        nodes: in MPI mode, number of the block's nodes.

    Raises:
        GiveUp: it can have none; says which limit is in the way.
    """
    cores = float(os.environ.get("FLOWCORE_CORES") or len(os.sched_getaffinity(0)))
    slots = int(cores / settings.cores_per_worker)
    if settings.mpi_mode:
        # What an MPI task needs is nodes; its worker only waits for it.
        slots = settings.max_workers_per_node or nodes
    elif settings.max_workers_per_node is not None:
        slots = min(slots, settings.max_workers_per_node)
    if settings.accelerators:
        slots = min(slots, len(settings.accelerators))
    if slots < 1:
        raise GiveUp(
            f"this node has {cores:g} cores, and a worker needs cores_per_worker={settings.cores_per_worker:g}: "
            "there is room for none"
        )
    if settings.mem_per_worker is not None:
        memory = memory_gb()
        slots = min(slots, int(memory / settings.mem_per_worker))
        if slots < 1:
            raise GiveUp(
                f"this node has {memory:.2f} GB of free memory, and a worker needs "
                f"mem_per_worker={settings.mem_per_worker:g}: there is room for none"
            )
    return slots


def memory_gb() -> float:
    """Return the memory of this node in GB: what it was told, or else what is free."""
    return float(os.environ.get("FLOWCORE_MEMORY_GB") or psutil.virtual_memory().available / 2**30)


def nodes_for_mpi(settings: ManagerSettings) -> list[str]:
    """Return the names of the block's nodes in MPI mode; none without it.

    Raises:
        GiveUp: they cannot be found out.
    """
    if not settings.mpi_mode:
        return []
    try:
        return mpi.nodes_of_job(os.environ)
    except ValueError as error:
        raise GiveUp(str(error)) from None


def hardware_threads(settings: ManagerSettings, slots: int) -> list[list[int]]:
    """Return the hardware threads of each worker; empty lists for no restriction.

    Raises:
        GiveUp: this node does not have those that the settings name.
    """
    available = sorted(os.sched_getaffinity(0))
    try:
        return [placement.threads_of(settings.cpu_affinity, rank, slots, available) for rank in range(slots)]
    except ValueError as error:
        raise GiveUp(str(error)) from None


def find_address(settings: ManagerSettings) -> str:
    """Return the first of the interchange's addresses that a connection from here reaches.

    Raises:
        GiveUp: none does.
    """
    deadline = time.monotonic() + settings.address_probe_timeout
    problems: dict[str, str] = {}
    while True:
        for address in settings.addresses:
            left = deadline - time.monotonic()
            try:
                with socket.create_connection((address, settings.port), timeout=max(0.1, min(3.0, left))):
                    return address
            except OSError as error:
                problems[address] = str(error)
        if time.monotonic() >= deadline:
            tried = "; ".join(f"{a}:{settings.port}: {p}" for a, p in problems.items())
            raise GiveUp(
                f"the interchange cannot be reached from {socket.gethostname()} within "
                f"{settings.address_probe_timeout:g} s ({tried}). Set the executor's address= to one that this node "
                "reaches, for example with flowcore.addresses.address_by_interface"
            )
        time.sleep(0.1)


class StartAgain(Exception):
    """This manager and the interchange do not agree any more on what it has: another one is to take its place."""


def new_page() -> Page | None:
    """Return a page to share with a worker; None, and say so in the log, where the system has none to give."""
    from flowcore_executor_htex.usage import Page  # by nobody who takes no samples

    try:
        return Page()
    except OSError as error:
        logger.warning("no samples are taken of a worker: %s", error)
        return None


class WorkerProcess:
    """A worker, with hardware threads of its own if ``cpus`` names some, and the link to it."""

    def __init__(
        self, rank: int, slots: int, cpus: list[int], manager_id: str, block_id: str, settings: ManagerSettings
    ) -> None:
        self.rank = rank
        self.tokens = Tokens()
        #: Why it was ended, where its signal does not tell.
        self.distrusted = ""
        #: What it says of its attempts, while samples are taken.
        self.page = None if settings.sample_period_s is None else new_page()
        inherited = [self.tokens.reader] if self.page is None else [self.tokens.reader, self.page.fd]
        accelerator = settings.accelerators[rank] if settings.accelerators else None
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            **placement.environment(cpus, accelerator),
            "FLOWCORE_WORKER_RANK": str(rank),
            "FLOWCORE_WORKER_COUNT": str(slots),
            "FLOWCORE_WORKER_POOL_ID": manager_id,
            "FLOWCORE_WORKER_BLOCK_ID": block_id,
        }
        with theirs:
            # A fresh interpreter: nothing is forked that has threads. -P: a file in the working directory must not
            # take the place of a module.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flowcore_executor_htex.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *inherited],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.link = Link(ours)
        #: What the manager's poller looks for.
        self.watched = wire.POLLIN
        where = f"block {block_id}, host {socket.gethostname()}, worker {rank}"
        page = -1 if self.page is None else self.page.fd
        setup = WorkerSettings(where, settings.sys_path, cpus, self.tokens.reader, settings.store, rank, page)
        if self.page is not None:
            self.page.close_fd()
        self.link.send(msgspec.msgpack.encode(setup), [])

    def end(self) -> None:
        """Kill the process and all that it started: the command of a bash_app is in a session of its own."""
        started = []
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        """Close the connection: the worker ends."""
        self.link.close()
        self.tokens.close()

    def cause_of_death(self) -> str:
        """Wait for the process, which has closed its end; say how it ended."""
        try:
            code = self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "closed its connection and did not end"
        if self.distrusted:
            return self.distrusted
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:  # of the real-time ones, Python names two
                name = f"SIGRTMIN+{-code - signal.SIGRTMIN}"
            hint = " (the kernel ends processes so when memory runs out)" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code} ({name}){hint}"
        return f"exited with code {code}"


class Manager:
    """Connects workers and the interchange.

    Args:
        settings: the executor's.
        block_id: the block that this node is part of.
        stopping: set to make :meth:`run` return soon.
        started: when this process started, in monotonic seconds: an earlier manager may have had its time.

    Raises:
        GiveUp: this node has no room for a worker, or the interchange cannot be reached.
    """

    def __init__(self, settings: ManagerSettings, block_id: str, stopping: threading.Event, started: float) -> None:
        self._settings = settings
        self._stopping = stopping
        self._block_id = block_id
        self._id = f"{socket.gethostname()}-{os.getpid()}"
        nodes = nodes_for_mpi(settings)
        slots = count_slots(settings, len(nodes))
        # Before the interchange hears of this manager, which may have to give up.
        self._cpus = hardware_threads(settings, slots)
        self._flavour = mpi.mpiexec_flavour() if settings.mpi_mode else ""
        self._pool = Pool(slots, settings.prefetch_capacity, nodes, self._place_of)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._hub = self._context.socket(zmq.DEALER)
        self._hub.set_hwm(0)
        self._hub.linger = 1000
        self._hub.identity = f"{self._id}-{os.urandom(16).hex()}".encode()
        security.be_client(self._hub, settings.server_public_key, settings.public_key, settings.secret_key)
        if settings.local_path:
            endpoint = f"ipc://{settings.local_path}"
        else:
            endpoint = f"tcp://{find_address(settings)}:{settings.port}"
        self._hub.connect(endpoint)
        left_s = needs.seconds_left(os.environ, settings.walltime_s, time.time(), time.monotonic() - started)
        memory_mb = 1000 * memory_gb()
        total = psutil.virtual_memory().total
        greeting = protocol.hello(self._id, block_id, socket.gethostname(), slots, len(nodes), memory_mb, left_s, total)
        wire.send(self._hub, protocol.encode(greeting))
        #: Messages to the interchange and from it since then.
        self._sent = 0
        self._received = 0
        self._poller = zmq.Poller()
        self._poller.register(self._hub, wire.POLLIN)
        self._workers: list[WorkerProcess] = []
        self._by_fd: dict[int, WorkerProcess] = {}
        self._failed_starts = 0
        self._capacity_told = slots
        self._told_to_stop = False
        #: What the interchange is told at the end.
        self._reason = "its block ended"
        drain_period = settings.drain_period
        #: When to take no further attempts (monotonic seconds).
        self._drain_at = float("inf") if drain_period is None else started + drain_period
        #: Whether the interchange knows, and has sent all that it will.
        self._held = False
        for rank in range(slots):
            self._workers.append(self._start_worker(rank))
        self._sampler: Sampler | None = None
        if settings.sample_period_s is not None:
            from flowcore_executor_htex.sampling import Sampler  # by nobody who takes none

            self._sampler = Sampler(settings.sample_period_s, lambda: self._workers, lambda: self._pool.working)
            self._poller.register(self._sampler.bell, wire.POLLIN)
        logger.info("manager %s: %d workers, interchange at %s", self._id, slots, endpoint)

    @property
    def _ending(self) -> bool:
        return self._told_to_stop or self._stopping.is_set()

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            GiveUp: the interchange refuses this manager or is silent, or workers cannot start.
            StartAgain: messages were lost, or the interchange has given this manager up.
        """
        now = time.monotonic()
        heard = now
        next_beat = now + self._settings.heartbeat_period
        next_reap = now
        while not self._ending:
            now = time.monotonic()
            if now >= next_reap:
                next_reap = now + REAP_S
                self._reap()
            if now >= next_beat:
                next_beat = now + self._settings.heartbeat_period
                self._send(protocol.Heartbeat(self._sent))
            if now - heard > self._settings.heartbeat_threshold:
                raise GiveUp(f"nothing was heard of the interchange for {now - heard:.0f} s")
            wait_s = STUCK_S if self._pool.ahead else min(next_beat - now, self._drain_at - now, 1.0)
            if self._sampler is not None:
                wait_s = min(wait_s, self._sampler.outbox.wait_s(now))
            ready = dict(self._poller.poll(max(1, int(wait_s * 1000))))
            if self._hub in ready:
                heard = now
                self._from_hub()
            elif not ready and self._settings.local_path and not Path(self._settings.local_path).exists():
                # It ended before it knew this manager, and so could not say so.
                raise GiveUp("the interchange has ended: its socket is gone")
            now = time.monotonic()
            results, payload = self._from_workers(ready, now)
            for rank in self._pool.stuck(now):
                self._take_back(rank, now)
            self._assign(self._pool.assign(now))
            if self._sampler is not None:
                self._send_samples(self._sampler, ready, now)
            capacity = self._pool.capacity
            if results or capacity != self._capacity_told:
                self._capacity_told = capacity
                self._send(protocol.Results(results, capacity), payload)
            if now >= self._drain_at:
                self._drain_at = float("inf")
                logger.info("drain_period is over: this manager takes no further attempts")
                self._send(protocol.Hold(self._id))
            items, frames = self._pool.all_waiting() if self._held else self._pool.surplus()
            if items:
                self._send(protocol.Tasks(items), frames)
            if self._held and self._pool.empty:
                logger.info("drained")
                return
            if self._pool.busy:
                time.sleep(REST_S)

    def _send_samples(self, sampler: Sampler, ready: dict[Any, int], now: float) -> None:
        if sampler.bell in ready:
            sampler.heard()
        samples = sampler.outbox.take(now)
        if samples is not None:
            self._send(samples)

    def _send(self, message: protocol.Message, payload: Sequence[Any] = ()) -> None:
        wire.send(self._hub, protocol.encode(message, payload))
        self._sent += 1

    def close(self) -> None:
        """End the workers and the connection."""
        if self._sampler is not None:
            self._sampler.close()
            while (samples := self._sampler.outbox.take(time.monotonic(), last=True)) is not None:
                self._send(samples)
        for worker in self._workers:
            worker.close()
            if worker.process.poll() is None:
                worker.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for worker in self._workers:
            try:
                worker.process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.end()
                worker.process.wait()
            self._end_orphans(worker.rank)
        self._send(protocol.Stop(self._reason))
        self._hub.close()
        self._context.term()

    def _from_hub(self) -> None:
        while wire.waiting(self._hub):
            header, payload = wire.receive(self._hub)
            try:
                message = protocol.decode(header)
            except BadMessage as error:
                greeting = protocol.decode_greeting(header)
                if isinstance(greeting, protocol.Refused):
                    raise GiveUp(f"the interchange refuses this manager: {greeting.reason}") from None
                logger.warning("a message of the interchange is ignored: %s", error)
                continue
            self._received += 1
            if isinstance(message, protocol.Heartbeat):
                if message.sent != self._received - 1:
                    self._reason = f"{message.sent - self._received + 1} messages to it were lost"
                    raise StartAgain(self._reason)
            elif isinstance(message, protocol.Tasks):
                self._pool.add(message, [frame.buffer for frame in payload])
            elif isinstance(message, protocol.Cancel):
                for rank in self._pool.holders(message.keys):
                    self._take_back(rank, time.monotonic())
                for rank in self._pool.cancel(message.keys):
                    self._workers[rank].end()
            elif isinstance(message, protocol.Forget):
                self._assign(self._pool.forget(message.functions))
            elif isinstance(message, protocol.Samples):
                if self._sampler is not None:
                    self._sampler.outbox.taken()
            elif isinstance(message, protocol.Hold):
                self._held = True
            elif isinstance(message, protocol.Stop):
                if message.again:
                    raise StartAgain(message.reason)
                logger.info("told to stop: %s", message.reason)
                self._told_to_stop = True

    def _take_back(self, rank: int, now: float) -> None:
        taken = self._workers[rank].tokens.take_back()
        if taken:
            logger.debug("%d attempts are taken back from worker %d", taken, rank)
            self._pool.taken_back(rank, taken, now)

    def _place_of(self, item: protocol.Needs, ranks: Sequence[int], nodes: Sequence[str]) -> protocol.Place:
        variables = dict(item.variables)
        cpus: list[int] = []
        if len(ranks) > 1:
            cpus = sorted({cpu for rank in ranks for cpu in self._cpus[rank]})
            variables |= placement.environment(cpus, None)
        if nodes:
            spec = mpi.MpiSpecification(len(nodes), item.ranks_per_node, item.ranks)
            variables |= mpi.environment(spec, nodes, self._settings.mpi_launcher, self._flavour)
        return protocol.Place(cpus, variables)

    def _from_workers(self, ready: dict[Any, int], now: float) -> tuple[list[protocol.ResultItem], list[Any]]:
        results: list[protocol.ResultItem] = []
        payload: list[Any] = []
        for fd in ready:
            worker = self._by_fd.get(fd) if isinstance(fd, int) else None
            if worker is None:
                continue
            worker.link.flush()
            try:
                messages, alive = worker.link.receive()
                for header, *frames in messages:
                    message = protocol.decode(header)
                    protocol.check_payload(message, frames)
                    wanted = self._from_worker(worker, message, now)
                    results += wanted
                    if wanted:
                        payload += frames
            except BadMessage as error:
                # A task has written to its connection: nothing that comes from it can be believed any more.
                worker.distrusted = f"ended, since what it sent is no message of a worker: {error}"
                worker.end()
                alive = False
            if alive:
                self._watch(worker)
            elif not self._ending:
                lost = self._replace(worker)
                if lost is not None:
                    results.append(lost)
        return results, payload

    def _from_worker(self, worker: WorkerProcess, message: protocol.Message, now: float) -> list[protocol.ResultItem]:
        if isinstance(message, protocol.Results):
            if self._settings.debug:
                for item in message.results:
                    logger.debug("worker %d ended %d after %d us", worker.rank, item.key, item.duration_us)
            return self._pool.ended(worker.rank, message.results, now)
        if isinstance(message, protocol.Stop):
            logger.warning("worker %d ends: %s", worker.rank, message.reason)
            self._pool.retiring(worker.rank)
        elif isinstance(message, protocol.Heartbeat):
            self._pool.ready(worker.rank, now)
            self._failed_starts = 0
        elif isinstance(message, protocol.Samples) and self._sampler is not None:
            for sample in message.samples:
                if sample.rank == worker.rank and self._pool.runs(worker.rank, sample.key):
                    self._sampler.ended(sample)
        else:
            raise BadMessage(f"{type(message).__name__} is none")
        return []

    def _assign(self, assignments: list[Assignment]) -> None:
        for rank, message, frames in assignments:
            worker = self._workers[rank]
            if isinstance(message, protocol.Tasks):
                if self._settings.debug:
                    logger.debug("worker %d is given %s", rank, [item.key for item in message.tasks])
                worker.tokens.put(len(message.tasks))
                message.epoch = worker.tokens.epoch
                if self._sampler is not None:
                    self._sampler.given()
            worker.link.send(protocol.encode_header(message), frames)
            if worker.link.has_unsent:
                self._watch(worker)

    def _watch(self, worker: WorkerProcess) -> None:
        flags = wire.POLLIN | wire.POLLOUT if worker.link.has_unsent else wire.POLLIN
        if flags != worker.watched:
            worker.watched = flags
            self._poller.modify(worker.link.socket, flags)

    def _start_worker(self, rank: int) -> WorkerProcess:
        worker = WorkerProcess(rank, len(self._pool.slots), self._cpus[rank], self._id, self._block_id, self._settings)
        self._by_fd[worker.link.socket.fileno()] = worker
        self._poller.register(worker.link.socket, wire.POLLIN)
        return worker

    def _end_orphans(self, rank: int) -> None:
        """Kill processes that a dead worker has left: they are this process's children now."""
        workers = {worker.process.pid for worker in self._workers}
        for child in psutil.Process().children():
            if child.pid in workers:
                continue
            with contextlib.suppress(psutil.Error):
                if child.environ().get("FLOWCORE_WORKER_RANK") != str(rank):
                    continue
                for process in (*child.children(recursive=True), child):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

    def _reap(self) -> None:
        """Take note of the end of adopted processes, which would stay zombies."""
        workers = {worker.process.pid for worker in self._workers}
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in workers:
                    return  # by its connection
                os.waitpid(ended.si_pid, 0)

    def _replace(self, worker: WorkerProcess) -> protocol.ResultItem | None:
        cause = worker.cause_of_death()
        logger.info("worker %d is gone: %s", worker.rank, cause)
        if not self._pool.slots[worker.rank].ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise GiveUp(f"workers cannot start, the last one {cause}; what they printed stands above")
        # What it had started would go on beside the next attempt, on nodes that this is given.
        self._end_orphans(worker.rank)
        key = self._pool.lost(worker.rank, worker.tokens.take_back())
        del self._by_fd[worker.link.socket.fileno()]
        self._poller.unregister(worker.link.socket)
        worker.close()
        self._workers[worker.rank] = self._start_worker(worker.rank)
        if key is None:
            return None
        if worker.process.returncode == -protocol.OVERRUN_SIGNAL:
            return protocol.ResultItem(key, protocol.TIMED_OUT, b"", worker=worker.rank)
        body = msgspec.msgpack.encode((worker.rank, socket.gethostname(), cause))
        return protocol.ResultItem(key, protocol.WORKER_LOST, body, worker=worker.rank)


def main() -> int:
    """Run the process."""
    parser = argparse.ArgumentParser(description="The manager of flowcore's high-throughput executor on one node.")
    parser.add_argument("settings", type=Path, help="the settings file that the executor wrote")
    parser.add_argument("--block-id", required=True)
    options = parser.parse_args()
    settings = settings_module.read(options.settings)
    log_dir = Path(settings.log_dir) / f"block-{options.block_id}"
    logs.start(log_dir / f"{socket.gethostname()}-{os.getpid()}.log", debug=settings.debug)
    calm_collector()
    # What a worker that dies has started becomes a child of this process, which ends it.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Of the block: a manager that takes the place of another has what is left of it.
    started = time.monotonic()
    # A manager more often would not help: one is enough for each connection that is reset.
    for _ in range(MAX_STARTS):
        try:
            serve(settings, options.block_id, stopping, started)
        except StartAgain as reason:
            logger.warning("starting again: %s", reason)
        except GiveUp as reason:
            logger.error("%s", reason)
            sys.stderr.write(f"flowcore: {reason}\n")
            return 1
        except Exception:
            logger.exception("the manager failed")
            raise
        else:
            return 0
    sys.stderr.write(f"flowcore: the connection to the interchange was lost {MAX_STARTS} times\n")
    return 1


def serve(settings: ManagerSettings, block_id: str, stopping: threading.Event, started: float) -> None:
    """Make a manager, and run it until it ends.

    Raises:
        GiveUp, StartAgain: as :class:`Manager`.
    """
    manager = Manager(settings, block_id, stopping, started)
    try:
        manager.run()
    finally:
        manager.close()


if __name__ == "__main__":
    sys.exit(main())
