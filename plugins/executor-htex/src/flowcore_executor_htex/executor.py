"""The high-throughput executor, on the submit side: its options, and the life of its interchange."""

from __future__ import annotations

import logging
import math
import select
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import zmq

from flowcore.addresses import get_all_addresses
from flowcore.plugins.api import (
    Attempt,
    AttemptResult,
    BlockErrorHandler,
    BlockExecutor,
    ConfigurationError,
    ExecutorContext,
    ExecutorError,
    InterchangeLost,
    NodeEvent,
    Provider,
    ResourceSample,
    Staging,
    UnsupportedResource,
    at_least,
    component,
)
from flowcore_executor_htex import mpi, placement, protocol, selection
from flowcore_executor_htex import settings as settings_module
from flowcore_executor_htex.link import Link
from flowcore_executor_htex.needs import needs_of
from flowcore_executor_htex.settings import InterchangeSettings, Listening, ManagerSettings
from flowcore_executor_htex.store import Store
from flowcore_executor_htex.submit import Connection, attempt_of, key_of

# Below the core's logger, so that it is in the run's log.
logger = logging.getLogger("flowcore.executors.htex")

#: Seconds that the interchange has to start, and to end by itself.
START_S = 30.0
STOP_S = 5.0
#: Seconds that what the interchange still has to tell, besides results, may take at the end.
LAST_WORDS_S = 1.0
#: Names of :attr:`flowcore_executor_htex.protocol.Sample.kind`.
KINDS = {protocol.BEGIN: "begin", protocol.RUNNING: "running", protocol.END: "end"}
LOOPBACK = "127.0.0.1"
#: Tries PATH's python first where the user prepares the workers' environment, else this process's own.
_FIND_PYTHON = (
    "for python in {candidates}; do\n"
    '    "$python" -P -c "import flowcore_executor_htex.manager" 2>/dev/null && break\n'
    "done\n"
)
DEFAULT_LAUNCH_CMD = "exec {python} -P -m flowcore_executor_htex.manager {settings} --block-id {block_id}"


def _local_provider() -> Provider:
    from flowcore.providers import LocalProvider

    provider: Provider = LocalProvider()
    return provider


def _check_range(instance: Any, attribute: attrs.Attribute[Any], value: tuple[int, int]) -> None:
    if not 1 <= value[0] < value[1] <= 65536:
        raise ConfigurationError(
            f"HighThroughputExecutor({attribute.name}={value!r}): expected (low, high) with 1 <= low < high <= 65536; "
            "ports from low to high - 1 are tried"
        )


def _check_ports(instance: Any, attribute: attrs.Attribute[Any], value: tuple[int, int] | None) -> None:
    if value is not None and not all(1 <= port <= 65535 for port in value):
        raise ConfigurationError(f"HighThroughputExecutor({attribute.name}={value!r}): ports are from 1 to 65535")


def _check_launch_cmd(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    try:
        (value or "").format(python="", settings="", block_id="")
    except (LookupError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"HighThroughputExecutor(launch_cmd={value!r}): {type(error).__name__}: {error}. Its places are "
            f"{{python}}, {{settings}} and {{block_id}}; the default is {DEFAULT_LAUNCH_CMD!r}"
        ) from None


def _check_positive(instance: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ConfigurationError(f"HighThroughputExecutor({attribute.name}={value!r}): must be more than 0")


def _check_mpi_launcher(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        mpi.check_launcher(value)
    except ValueError as error:
        raise ConfigurationError(f"HighThroughputExecutor(mpi_launcher={value!r}): {error}") from None


def _check_selection(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        selection.make(value)
    except ValueError as error:
        raise ConfigurationError(f"HighThroughputExecutor(manager_selection={value!r}): {error}") from None


def _none_if_infinite(value: Any) -> Any:
    return None if value == math.inf else value


def _check_affinity(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        placement.check(value)
    except ValueError as error:
        raise ConfigurationError(f"HighThroughputExecutor(cpu_affinity={value!r}): {error}") from None


def _check_accelerators(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, int) and value < 0:
        raise ConfigurationError(
            f"HighThroughputExecutor(available_accelerators={value!r}): expected a number from 0 on, or names"
        )


def _check_label(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if not value or "/" in value or value.startswith("."):
        raise ConfigurationError(
            f"HighThroughputExecutor(label={value!r}): the label names a folder in the run directory; "
            "it must not be empty, begin with a dot or hold a slash"
        )


@component
class HighThroughputExecutor(BlockExecutor):
    """Runs tasks in worker processes on the nodes of blocks, through one interchange process.

    Attributes:
        label: name of the executor.
        provider: where its blocks come from.
        launch_cmd: command that starts the manager on a node, with the places ``{python}``, ``{settings}`` and
            ``{block_id}``; None for the default.
        address: address of this host that the nodes can reach, and on which the interchange listens for them; None:
            no port but a Unix socket for blocks of this host, else all addresses, of which each manager takes the
            first that it reaches.
        worker_ports: the interchange listens for managers on the first of these two ports, in place of the range; the
            second is accepted as in the reference, and not needed.
        worker_port_range: (low, high): the interchange listens for managers on a port from low to high - 1.
        interchange_port_range: accepted as in the reference; this process and its interchange need no port.
        storage_access: stagers for the tasks' files.
        working_dir: folder for staged files, where the workers are.
        worker_debug: write more to the managers' logs.
        cores_per_worker: cores that a worker is meant to have; below 1 oversubscribes.
        mem_per_worker: memory in GB that a worker is meant to have; None: no limit.
        max_workers_per_node: workers per node at most; None or infinity: as many as cores and memory allow.
        cpu_affinity: which hardware threads a worker may use: ``none`` for all, ``block``, ``block-reverse``,
            ``alternating``, or ``list:0-3,8:4-7,9`` with those of each worker. OpenMP is told by its variables.
        available_accelerators: number of accelerators of a node, or their names: each worker is given one of them
            (``CUDA_VISIBLE_DEVICES`` and the like), and there are no more workers. A name that is repeated is shared.
        prefetch_capacity: tasks that a node holds beyond those its workers run, whatever they take. Short tasks are
            prefetched adaptively besides, up to about 20 ms of work.
        heartbeat_threshold: seconds of silence after which the other end is taken for lost.
        heartbeat_period: seconds between two signs of life.
        drain_period: seconds after its start from which a manager takes no further tasks; it ends when those it has
            are done. For blocks that end at a known time.
        poll_period: accepted as in the reference; nothing here polls.
        address_probe_timeout: seconds that a manager looks for an address that it reaches; None: 30.
        worker_logdir_root: folder for the managers' logs, where this run's folder cannot be written from the nodes.
        enable_mpi_mode: tasks have nodes of their block for themselves, as their ``resource_specification`` says; one
            manager, on the block's first node, starts them. The variable ``FLOWCORE_MPI_PREFIX`` holds the command to
            put before a task's program.
        mpi_launcher: the launcher of that command: ``srun``, ``aprun`` or ``mpiexec``.
        manager_selection: which manager is given tasks first: ``round-robin``; ``oldest-block``, so that later blocks
            fall idle first; or ``module:Class`` (see :class:`~flowcore_executor_htex.selection.SelectionPolicy`).
        block_error_handler: what to do when blocks fail: True for the default, False for nothing, or a function.
        encrypted: encrypt and authenticate all connections (CurveZMQ) with keys made for the run.
    """

    label: str = attrs.field(default="HighThroughputExecutor", validator=_check_label)
    provider: Provider = attrs.field(factory=_local_provider)
    launch_cmd: str | None = attrs.field(default=None, validator=_check_launch_cmd)
    address: str | None = None
    worker_ports: tuple[int, int] | None = attrs.field(default=None, validator=_check_ports)
    worker_port_range: tuple[int, int] = attrs.field(default=(54000, 55000), validator=_check_range)
    interchange_port_range: tuple[int, int] = attrs.field(default=(55000, 56000), validator=_check_range)
    storage_access: Sequence[Staging] | None = None
    working_dir: str | None = None
    worker_debug: bool = False
    cores_per_worker: float = attrs.field(default=1.0, validator=_check_positive)
    mem_per_worker: float | None = attrs.field(default=None, validator=at_least(0.001))
    max_workers_per_node: int | None = attrs.field(default=None, converter=_none_if_infinite, validator=at_least(1))
    cpu_affinity: str = attrs.field(default="none", validator=_check_affinity)
    available_accelerators: int | Sequence[str] = attrs.field(default=(), validator=_check_accelerators)
    prefetch_capacity: int = attrs.field(default=0, validator=at_least(0))
    heartbeat_threshold: float = attrs.field(default=120, validator=at_least(1))
    heartbeat_period: float = attrs.field(default=30, validator=at_least(0.1))
    drain_period: float | None = attrs.field(default=None, validator=at_least(0.1))
    poll_period: int = attrs.field(default=10, validator=at_least(1))
    address_probe_timeout: float | None = attrs.field(default=None, validator=at_least(0.1))
    worker_logdir_root: str | None = None
    enable_mpi_mode: bool = False
    mpi_launcher: str = attrs.field(default="mpiexec", validator=_check_mpi_launcher)
    manager_selection: str = attrs.field(default="round-robin", validator=_check_selection)
    block_error_handler: bool | BlockErrorHandler = True
    encrypted: bool = True

    def __attrs_post_init__(self) -> None:
        if self.heartbeat_period >= self.heartbeat_threshold:
            raise ConfigurationError(
                f"HighThroughputExecutor(heartbeat_period={self.heartbeat_period:g}, "
                f"heartbeat_threshold={self.heartbeat_threshold:g}): the threshold must be longer than the period"
            )
        if self.enable_mpi_mode and self.cpu_affinity != "none":
            raise ConfigurationError(
                f"HighThroughputExecutor(enable_mpi_mode=True, cpu_affinity={self.cpu_affinity!r}): in MPI mode the "
                "launcher binds ranks; a worker, which only waits for it, must not be bound. Leave cpu_affinity out"
            )
        self._context: ExecutorContext | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._store: Store | None = None
        self._broken: Exception | None = None
        self._stopping = False
        self._managers = protocol.Managers([], [], 0)
        self._managers_at = time.monotonic()
        #: Since when blocks have had no manager.
        self._deserted: dict[str, float] = {}
        #: While somebody listens: managers that are connected, and when they were last said to be alive.
        self._nodes: dict[str, protocol.Node] = {}
        self._alive_at = time.monotonic()
        self._samples_lost = 0
        self._breaking = threading.Lock()

    # --- life

    def start(self, context: ExecutorContext) -> None:
        """Start the interchange and connect to it; see the contract."""
        self._context = context
        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        keys = _Keys.make() if self.encrypted else _Keys()
        listen = self.address or "*"
        if self.address is None and self.provider.on_this_host:
            self._store = Store()
        # Short, as a Unix socket's path must be, and in a folder for this user alone.
        local_path = "" if self._store is None else f"{self._store.folder}/hub"
        ports = self.worker_ports
        sys_path = tuple(str(Path(p or ".").resolve()) for p in sys.path)
        settings = InterchangeSettings(
            worker_address=listen,
            local_path=local_path,
            worker_port_range=self.worker_port_range if ports is None else (ports[0], ports[0] + 1),
            heartbeat_threshold=self.heartbeat_threshold,
            log_file=str(directory / "interchange.log"),
            debug=self.worker_debug,
            selection=self.manager_selection,
            sys_path=sys_path,
            tell_nodes=context.nodes is not None,
            public_key=keys.server_public,
            secret_key=keys.server_secret,
            client_public_key=keys.client_public,
        )
        link, port = self._start_interchange(settings, directory / "interchange.err")
        # From here on, shutdown() ends the interchange by its link.
        self._connection = Connection(
            self.label,
            link,
            context.report,
            self._take_managers,
            self._interchange_ended,
            self._store,
            None if context.resources is None else self._take_samples,
            None if context.nodes is None else self._take_node,
        )
        path = directory / "manager.json"
        try:
            settings_module.write(path, self._manager_settings(keys, listen, port, local_path, sys_path))
        except OSError as error:
            raise ExecutorError(self.label, f"its settings cannot be written to {path}: {error}") from error

    def _manager_settings(
        self, keys: _Keys, listen: str, port: int, local_path: str, sys_path: tuple[str, ...]
    ) -> ManagerSettings:
        context = self._context
        assert context is not None
        return ManagerSettings(
            addresses=(listen,) if listen != "*" else (LOOPBACK, *get_all_addresses()),
            port=port,
            local_path=local_path,
            cores_per_worker=self.cores_per_worker,
            mem_per_worker=self.mem_per_worker,
            max_workers_per_node=self.max_workers_per_node,
            cpu_affinity=self.cpu_affinity,
            accelerators=tuple(placement.accelerator_names(self.available_accelerators)),
            prefetch_capacity=self.prefetch_capacity,
            heartbeat_period=self.heartbeat_period,
            heartbeat_threshold=self.heartbeat_threshold,
            drain_period=self.drain_period,
            address_probe_timeout=30.0 if self.address_probe_timeout is None else self.address_probe_timeout,
            log_dir=self.worker_logdir,
            debug=self.worker_debug,
            sys_path=sys_path,
            store="" if self._store is None else self._store.folder,
            walltime_s=self.provider.walltime_s,
            mpi_mode=self.enable_mpi_mode,
            mpi_launcher=self.mpi_launcher,
            sample_period_s=context.resource_period_s,
            server_public_key=keys.server_public,
            public_key=keys.client_public,
            secret_key=keys.client_secret,
        )

    def _start_interchange(self, settings: InterchangeSettings, stderr_path: Path) -> tuple[Link, int]:
        ours, theirs = socket.socketpair()
        with stderr_path.open("wb") as stderr, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flowcore_executor_htex.interchange", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                # Ctrl-C in the terminal is for this process, which ends the others in order.
                start_new_session=True,
            )
        link = Link(ours)
        try:
            answer = self._first_answer(link, ours, settings, stderr_path)
        except BaseException:  # Ctrl-C too: it is by its link that the interchange ends
            link.close()
            raise
        return link, answer.port

    def _first_answer(
        self, link: Link, ours: socket.socket, settings: InterchangeSettings, stderr_path: Path
    ) -> Listening:
        link.send(msgspec.json.encode(settings))
        messages: list[list[bytes]] = []
        alive = True
        deadline = time.monotonic() + START_S
        while alive and not messages and (left := deadline - time.monotonic()) > 0:
            if select.select([ours], [], [], left)[0]:
                messages, alive = link.receive()
        if not messages:
            said = stderr_path.read_text(errors="replace").strip() or f"nothing within {START_S:g} s"
            raise ExecutorError(self.label, f"its interchange did not start; it printed:\n{said}")
        answer = msgspec.json.decode(messages[0][0], type=Listening)
        if answer.error:
            raise ExecutorError(self.label, f"{answer.error}. Choose another worker_port_range, or address")
        return answer

    def shutdown(self) -> None:
        """End the interchange, and through it all managers; see the contract."""
        self._stopping = True
        if self._connection is not None:
            self._connection.send(protocol.Stop())
            if self._told:
                self._connection.wait_for_end(LAST_WORDS_S)
            # An interchange that is too busy to read ends by its link, too.
            self._connection.close()
        self._all_nodes_gone()
        if self._samples_lost:
            logger.warning(
                "executor %s: %d samples of what tasks used were dropped, since the connection was behind",
                self.label,
                self._samples_lost,
            )
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._store is not None:
            self._store.close()
        if self._context is not None:
            # It holds the run's keys.
            (self._directory / "manager.json").unlink(missing_ok=True)

    # --- attempts

    def submit(self, attempt: Attempt) -> None:
        """Send the attempt to the interchange; see the contract."""
        needs = None
        if attempt.resource_specification or self.enable_mpi_mode:
            needs = self._needs(attempt)
        broken = self.executor_exception
        if broken is not None:
            raise broken
        assert self._connection is not None, "submit before start"
        self._connection.submit(attempt, needs)
        broken = self.executor_exception
        if broken is not None:
            # It broke in between: whoever broke it may not have seen this attempt.
            self._fail_outstanding(broken)

    def _needs(self, attempt: Attempt) -> protocol.Needs | None:
        try:
            needs = needs_of(
                attempt.resource_specification,
                cores_per_worker=self.cores_per_worker,
                mem_per_worker=self.mem_per_worker,
                mpi_mode=self.enable_mpi_mode,
            )
        except ValueError as error:
            raise UnsupportedResource(self.label, f"app {attempt.app_name!r}: {error}") from None
        if needs is not None and needs.nodes > self.provider.nodes_per_block and not self.provider.on_this_host:
            raise UnsupportedResource(
                self.label,
                f"app {attempt.app_name!r} wants {needs.nodes} nodes, and a block has {self.provider.nodes_per_block}: "
                "raise the provider's nodes_per_block",
            )
        return needs

    def cancel(self, task_id: int, try_id: int) -> bool:
        """Drop the attempt; one that runs alone in its worker is interrupted by ending that worker's process."""
        return self._connection is not None and self._connection.cancel(key_of(task_id, try_id))

    @property
    def outstanding(self) -> int:
        """Number of attempts that are not reported."""
        return 0 if self._connection is None else len(self._connection.outstanding)

    # --- blocks

    def block_command(self, block_id: str) -> str:
        """Return the command that starts a manager; see the contract."""
        return self._manager_command(self._directory, block_id)

    def preview_command(self, context: ExecutorContext, block_id: str) -> str:
        """Return the command that starts a manager; see the contract."""
        return self._manager_command(context.run_dir / self.label, block_id)

    def _manager_command(self, directory: Path, block_id: str) -> str:
        own = shlex.quote(sys.executable)
        prepared = bool(getattr(self.provider, "worker_init", "").strip())
        find = _FIND_PYTHON.format(candidates=f"python3 {own}") if prepared else f"python={own}\n"
        if not prepared:
            # On another host this environment may not be there.
            find += '[ -x "$python" ] || python=python3\n'
        settings = self.provider.place(directory / "manager.json")
        command = (self.launch_cmd or DEFAULT_LAUNCH_CMD).format(
            python='"$python"', settings=shlex.quote(settings), block_id=block_id
        )
        # One simple command, before which launchers of whatever kind may put another one.
        return f"/bin/bash -c {shlex.quote(find + command)}"

    @property
    def workers_per_node(self) -> float:
        """Workers of a node, as the configuration says or as the first manager that connected has.

        In MPI mode, a share of those that the one manager of a block has.
        """
        managers = self._managers.managers
        workers = managers[0].worker_count if managers else self.max_workers_per_node or 0
        return workers / self.provider.nodes_per_block if self.enable_mpi_mode else workers

    @property
    def connected_workers(self) -> int:
        """Number of workers of all connected managers."""
        return sum(m.worker_count for m in self._managers.managers)

    def connected_blocks(self) -> set[str]:
        """Return the ids of all blocks from which a manager ever connected."""
        return set(self._managers.blocks)

    def connected_managers(self) -> list[dict[str, Any]]:
        """Return, for each connected manager: manager, block_id, worker_count, tasks, idle_duration (s), active."""
        return [
            {
                "manager": m.manager_id,
                "block_id": m.block_id,
                "hostname": m.hostname,
                "worker_count": m.worker_count,
                "tasks": m.tasks,
                "idle_duration": m.idle_s,
                "active": m.active,
            }
            for m in self._managers.managers
        ]

    def idle_blocks(self) -> dict[str, float]:
        """Return the idle time of each block whose managers all have nothing to do."""
        since = time.monotonic() - self._managers_at
        idle: dict[str, float] = {}
        busy = {m.block_id for m in self._managers.managers if m.tasks}
        for manager in self._managers.managers:
            if manager.block_id not in busy:
                seconds = manager.idle_s + since
                idle[manager.block_id] = min(seconds, idle.get(manager.block_id, seconds))
        return idle

    def deserted_blocks(self) -> dict[str, float]:
        """Return the blocks that had managers and have none, and for how many seconds."""
        now = time.monotonic()
        return {block: now - since for block, since in self._deserted.items()}

    @property
    def probe_resources(self) -> dict[str, Any]:
        """In MPI mode, one rank on one node."""
        return {"num_nodes": 1, "ranks_per_node": 1} if self.enable_mpi_mode else {}

    def release_block(self, block_id: str) -> None:
        """Give the block's managers no further attempts."""
        if self._connection is not None:
            self._connection.send(protocol.Hold(block_id=block_id))

    def drained_blocks(self) -> set[str]:
        """Return the blocks whose managers are all held, as the interchange says, and have nothing to do."""
        managers = self._managers.managers
        # One that is not active was held before the report was made, and what it was sent is counted in there.
        return {m.block_id for m in managers} - {m.block_id for m in managers if m.active or m.tasks}

    def block_hosts(self) -> dict[str, list[str]]:
        """Return the hosts of each block's managers."""
        hosts: dict[str, list[str]] = {}
        for manager in self._managers.managers:
            hosts.setdefault(manager.block_id, []).append(manager.hostname)
        return {block: sorted(set(names)) for block, names in hosts.items()}

    def block_ended(self, block_id: str) -> None:
        """Report the attempts of its managers as lost, unless these are heard of soon."""
        if self._connection is not None:
            self._connection.send(protocol.Ended(block_id))

    def hold_worker(self, worker_id: str) -> None:
        """Give a manager no further attempts.

        Args:
            worker_id: id of the manager, as in :meth:`connected_managers`.
        """
        if self._connection is not None:
            self._connection.send(protocol.Hold(manager_id=worker_id))

    def scale_out(self, blocks: int = 1) -> list[str]:
        """Request blocks; return their ids.

        Raises:
            ScalingFailed: the provider refused.
        """
        assert self._context is not None and self._context.blocks is not None, "scale_out before start"
        return self._context.blocks.scale_out(blocks)

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Give blocks back, with ``max_idletime`` only such as have been idle for so many seconds; return their ids."""
        assert self._context is not None and self._context.blocks is not None, "scale_in before start"
        return self._context.blocks.scale_in(blocks, max_idletime)

    @property
    def worker_logdir(self) -> str:
        """Folder of the managers' logs, on the nodes."""
        root = self.worker_logdir_root
        return str(Path(root) / self.label if root is not None else self._directory)

    # --- failure for good

    @property
    def executor_exception(self) -> Exception | None:
        """Why the executor is broken for good, or None."""
        return self._broken

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Fail all attempts, now and later; see the contract."""
        with self._breaking:
            if self._broken is not None:
                return
            self._broken = exception
        self._fail_outstanding(exception)

    def _fail_outstanding(self, error: Exception) -> None:
        if self._connection is not None and self._context is not None:
            lost = self._connection.take_outstanding()
            if lost:
                self._context.report([AttemptResult(*attempt, None, error) for attempt in lost])

    def _interchange_ended(self) -> None:
        self._all_nodes_gone()
        if self._stopping:
            return
        assert self._process is not None
        code = self._process.wait()
        log = self._directory / "interchange.log"
        self.set_bad_state_and_fail_all(
            InterchangeLost(
                self.label,
                f"its interchange process ended ({'signal' if code < 0 else 'exit code'} {abs(code)}); see {log}",
            )
        )

    def _take_managers(self, report: protocol.Managers) -> None:
        now = time.monotonic()
        before = {m.manager_id: m for m in self._managers.managers}
        for gone in before.keys() - {m.manager_id for m in report.managers}:
            manager = before[gone]
            tasks = f", which had {manager.tasks} tasks" if manager.tasks else ""
            logger.info("executor %s: manager %s of block %s is gone%s", self.label, gone, manager.block_id, tasks)
        inhabited = {m.block_id for m in report.managers}
        self._deserted = {block: self._deserted.get(block, now) for block in report.blocks if block not in inhabited}
        self._managers = report
        self._managers_at = now
        if self._nodes and now - self._alive_at >= self.heartbeat_period:
            self._alive_at = now
            self._tell_nodes(
                [self._nodes[m.manager_id] for m in report.managers if m.manager_id in self._nodes], "alive"
            )

    # --- for who watches

    @property
    def _told(self) -> bool:
        """Whether somebody wants to hear of more than results."""
        context = self._context
        return context is not None and (context.resources is not None or context.nodes is not None)

    def _take_samples(self, message: protocol.Samples) -> None:
        assert self._context is not None
        assert self._context.resources is not None
        if message.lost:
            self._samples_lost += message.lost
        begun = [attempt_of(sample.key) for sample in message.samples if sample.kind == protocol.BEGIN]
        if begun:
            self._context.running(begun)
        block_id, hostname = message.block_id, message.hostname
        self._context.resources(
            [
                ResourceSample(
                    *attempt_of(s.key),
                    executor=self.label,
                    block_id=block_id,
                    hostname=hostname,
                    worker=s.rank,
                    at=s.at,
                    kind=KINDS[s.kind],
                    pid=s.pid,
                    processes=s.processes,
                    cpu_user_s=s.cpu_user_s,
                    cpu_system_s=s.cpu_system_s,
                    memory_resident=s.memory_resident,
                    memory_virtual=s.memory_virtual,
                    memory_percent=s.memory_percent,
                    disk_read=s.disk_read,
                    disk_write=s.disk_write,
                    status=s.status,
                )
                for s in message.samples
            ]
        )

    def _take_node(self, node: protocol.Node) -> None:
        if node.connected:
            self._nodes[node.manager_id] = node
        else:
            self._nodes.pop(node.manager_id, None)
        self._tell_nodes([node], "connected" if node.connected else "gone")

    def _all_nodes_gone(self) -> None:
        gone, self._nodes = self._nodes, {}
        self._tell_nodes(list(gone.values()), "gone")

    def _tell_nodes(self, nodes: Sequence[protocol.Node], state: str) -> None:
        if not nodes or self._context is None or self._context.nodes is None:
            return
        at = time.time()
        self._context.nodes(
            [
                NodeEvent(
                    executor=self.label,
                    block_id=node.block_id,
                    hostname=node.hostname,
                    manager=node.manager_id,
                    workers=node.workers,
                    cpu_count=node.cpu_count,
                    total_memory=node.total_memory,
                    python_version=node.python_version,
                    state=state,
                    at=at,
                )
                for node in nodes
            ]
        )

    @property
    def _directory(self) -> Path:
        assert self._context is not None, "the executor was not started"
        return self._context.run_dir / self.label


@attrs.frozen
class _Keys:
    server_public: str = ""
    server_secret: str = attrs.field(default="", repr=False)
    client_public: str = ""
    client_secret: str = attrs.field(default="", repr=False)

    @classmethod
    def make(cls) -> _Keys:
        server, client = zmq.curve_keypair(), zmq.curve_keypair()
        return cls(*(key.decode() for pair in (server, client) for key in pair))
