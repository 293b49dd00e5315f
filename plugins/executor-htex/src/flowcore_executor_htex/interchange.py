"""The interchange: the hub process between the executor and all managers.

It is started by the executor with one end of a socket pair: on it come the settings, then attempts; on it go the port
for managers, then results. When the other end closes, the executor is gone. It never unpickles anything.
"""

from __future__ import annotations

import errno
import logging
import random
import resource
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from flowcore.plugins.api import BadMessage
from flowcore_executor_htex import logs, protocol, security, selection, wire
from flowcore_executor_htex.dispatch import Dispatcher, Output
from flowcore_executor_htex.link import Inbox, Link, calm_collector
from flowcore_executor_htex.settings import InterchangeSettings, Listening

logger = logging.getLogger("flowcore_executor_htex.interchange")

TICK_S = 1.0
#: Messages taken from one socket before the others get their turn.
ROUND = 128
#: With at least this many attempts moved in a round, the hub rests for REST_S: what comes meanwhile is handled
#: together, which costs a busy run no time and saves most of the hub's work.
BUSY = 24
REST_S = 0.0003
#: With so many, it rests for longer: managers hold more than that.
VERY_BUSY = 128
LONG_REST_S = 0.001
#: Each report to the executor is about all managers. While these come and go, reports may take this share of the last
#: seconds; a few of them are sent at once.
REPORT_SHARE = 0.01
REPORT_BURST_S = 5.0
#: Seconds after which a report is sent though the last one still waits to be read: the user's process may be stopped.
REPORT_ANYWAY_S = 10.0
#: Connections that wait to be accepted, as far as net.core.somaxconn allows: all managers may come at once.
BACKLOG = 65535
#: Seconds between two warnings of a kind: whoever sends garbage must not fill the disk.
WARN_S = 10.0

Socket = zmq.Socket[bytes]


def bind(hub: Socket, address: str, ports: tuple[int, int], what: str) -> int:
    """Bind a socket to a free port of a range, trying them in random order; return the port.

    Raises:
        OSError: none is free, or the address is not of this host.
    """
    low, high = ports
    problem: zmq.ZMQError | None = None
    for port in random.sample(range(low, high), high - low):
        try:
            hub.bind(f"tcp://{address}:{port}")
        except zmq.ZMQError as error:
            problem = error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
        else:
            return port
    raise OSError(f"cannot bind {address} to any port from {low} to {high - 1} for {what}: {problem}")


def raise_file_limit() -> int:
    """Let this process open as many files as it may: each manager takes one. Return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


class Warnings:
    """Warnings of one kind: the first is logged at once, then one every ``WARN_S`` seconds, which counts the others."""

    def __init__(self) -> None:
        self._next = 0.0
        self._left_out = 0

    def __call__(self, text: str, *values: Any) -> None:
        """Log a warning, or count it."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last line of this kind)" if self._left_out else ""
        self._next, self._left_out = now + WARN_S, 0
        # What others sent is cut, too.
        logger.warning("%.400s%s", text % values, more)


class Interchange:
    """The sockets of the hub, around a :class:`Dispatcher`.

    Args:
        settings: as the executor sent them.
        executor: the link to it.

    Raises:
        OSError: the socket cannot be bound.
    """

    def __init__(self, settings: InterchangeSettings, executor: Link) -> None:
        self._executor = executor
        self._context: zmq.Context[Socket] = zmq.Context(io_threads=1)
        sys.path += [entry for entry in settings.sys_path if entry not in sys.path]
        self._dispatcher = Dispatcher(
            settings.heartbeat_threshold, selection.make(settings.selection), tell_nodes=settings.tell_nodes
        )
        self._gate: security.Gate | None = None
        if settings.secret_key:
            self._gate = security.Gate(self._context, settings.client_public_key)
        self._managers = self._context.socket(zmq.ROUTER)
        self._managers.set_hwm(0)
        self._managers.linger = 1000
        self._managers.backlog = BACKLOG
        self._managers.maxmsgsize = wire.MAX_PIECE
        self._managers.tcp_keepalive = 1
        # An unknown identity raises instead of losing the message silently.
        self._managers.router_mandatory = True
        # A manager that connects anew while its old connection is not known to be dead must be heard.
        self._managers.router_handover = True
        security.be_server(self._managers, settings.secret_key)
        self.port = 0
        if settings.local_path:
            self._managers.bind(f"ipc://{settings.local_path}")
        else:
            self.port = bind(self._managers, settings.worker_address, settings.worker_port_range, "workers")
        self._local_path = settings.local_path
        self._debug = settings.debug
        self._stopping = False
        self._moved = 0
        self._heard = False
        #: When the next report may be sent, and when the last one was (monotonic seconds).
        self._report_at = 0.0
        self._reported_at = 0.0
        #: Whether some of the last report may still wait to be read.
        self._report_unsent = False
        self._warn_message = Warnings()
        self._warn_send = Warnings()
        self._warn_client = Warnings()

    def run(self) -> None:
        """Serve until the executor says stop, or is gone."""
        poller = zmq.Poller()
        executor = self._executor.socket
        poller.register(executor, wire.POLLIN)
        poller.register(self._managers, wire.POLLIN)
        if self._gate is not None:
            poller.register(self._gate.socket, wire.POLLIN)
        writing = False
        next_tick = time.monotonic() + TICK_S
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                self._send(self._dispatcher.tick(now))
                if self._heard:
                    self._report(now)
            if writing is not self._executor.has_unsent:
                writing = not writing
                poller.modify(executor, wire.POLLIN | wire.POLLOUT if writing else wire.POLLIN)
                self._report_unsent = self._report_unsent and writing
            wake_at = min(next_tick, self._report_at) if self._dispatcher.changed else next_tick
            ready = dict(poller.poll(max(0, int((wake_at - now) * 1000)) + 1))
            if self._gate is not None and self._gate.socket in ready:
                for address in self._gate.answer():
                    self._warn_client("a client at %s is refused: it does not have this run's key", address)
            self._moved = 0
            happened = ready.get(executor.fileno(), 0)
            if happened & wire.POLLOUT:
                self._executor.flush()
            if happened & ~wire.POLLOUT:
                self._from_executor()
            if self._managers in ready:
                self._from_managers()
            if self._dispatcher.has_samples:
                self._pass_samples()
            if self._dispatcher.changed and (now := time.monotonic()) >= self._report_at:
                self._report(now)
            if self._moved >= BUSY:
                time.sleep(LONG_REST_S if self._moved >= VERY_BUSY else REST_S)
        self._close()

    def _from_executor(self) -> None:
        messages, alive = self._executor.receive()
        for header, *payload in messages:
            message = protocol.decode(header)
            if isinstance(message, protocol.Stop):
                self._stopping = True
                return
            if isinstance(message, protocol.Tasks):
                self._moved += len(message.tasks)
            self._send(self._dispatcher.from_executor(message, payload))
            self._heard = True
        if not alive:
            logger.info("the executor is gone")
            self._stopping = True

    def _from_managers(self) -> None:
        for _ in range(ROUND):
            identity, header, payload = wire.receive_from(self._managers)
            try:
                self._from_manager(identity, header or b"", payload, time.monotonic())
            except BadMessage as error:
                self._warn_message("a message from %r is ignored: %s", identity, error)
            if not wire.waiting(self._managers):
                return

    def _from_manager(self, identity: bytes, header: bytes, payload: Sequence[zmq.Frame], now: float) -> None:
        if identity not in self._dispatcher.managers:
            greeting = protocol.decode_greeting(header)
            if isinstance(greeting, protocol.Hello):
                logger.info("manager %s, block %s, %d slots", *_names(greeting))
                self._send(self._dispatcher.greet(identity, greeting, now))
                return
        message = protocol.decode(header)
        protocol.check_payload(message, payload)
        if self._debug:
            logger.debug("from %r: %s", identity, protocol.outline(message))
        if isinstance(message, protocol.Results):
            self._moved += len(message.results)
        self._send(self._dispatcher.from_manager(identity, message, payload, now))
        self._heard = True

    def _send(self, outputs: list[Output]) -> None:
        for identity, frames in outputs:
            if identity is None:
                header, *payload = frames
                self._executor.send(header, [f.buffer if isinstance(f, zmq.Frame) else f for f in payload])
                continue
            if self._debug:
                message = protocol.decode_greeting(frames[0]) or protocol.decode(frames[0])
                logger.debug("to %r: %s", identity, protocol.outline(message))
            try:
                wire.send(self._managers, [identity, *frames])
            except zmq.ZMQError as error:
                self._warn_send("cannot send to %r: %s", identity, error)
                self._send(self._dispatcher.unreachable(identity))

    def _pass_samples(self) -> None:
        # Only while all results have been written: samples may wait, and then their managers drop some.
        while self._dispatcher.has_samples and not self._executor.has_unsent:
            self._send(self._dispatcher.pass_samples())

    def _report(self, now: float) -> None:
        if self._report_unsent and now - self._reported_at < REPORT_ANYWAY_S:
            self._report_at = now + TICK_S
            return
        self._heard = False
        self._send([(None, protocol.encode(self._dispatcher.report(now)))])
        self._report_unsent = self._executor.has_unsent
        self._reported_at = now
        cost = time.monotonic() - now
        self._report_at = max(self._report_at, now - REPORT_BURST_S) + cost / REPORT_SHARE

    def _close(self) -> None:
        # What managers that have ended said last.
        if wire.waiting(self._managers):
            self._from_managers()
        self._pass_samples()
        stop = protocol.encode(protocol.Stop("the run has ended"))
        self._send([(identity, stop) for identity in self._dispatcher.managers])
        self._managers.close()
        if self._gate is not None:
            self._gate.socket.close()
        self._context.term()
        if self._local_path:
            # The executor may be gone.
            shutil.rmtree(Path(self._local_path).parent, ignore_errors=True)


def _names(greeting: protocol.Hello) -> tuple[Any, ...]:
    return greeting.manager_id, greeting.block_id, greeting.slots


def main() -> int:
    """Run the process; its argument is the file descriptor of the socket."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    inbox = Inbox(sock)
    messages = inbox.read()
    while messages == []:
        messages = inbox.read()
    if messages is None:
        return 1  # the executor is gone
    settings = msgspec.json.decode(messages[0][0], type=InterchangeSettings)
    logs.start(Path(settings.log_file), debug=settings.debug)
    files = raise_file_limit()
    executor = Link(sock)
    calm_collector()
    try:
        interchange = Interchange(settings, executor)
    except (OSError, zmq.ZMQError) as error:
        executor.send(msgspec.json.encode(Listening(error=str(error))))
        return 1
    executor.send(msgspec.json.encode(Listening(interchange.port)))
    logger.info("listening on port %d, for as many managers as %d open files allow", interchange.port, files)
    try:
        interchange.run()
    except Exception:
        logger.exception("the interchange failed")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
