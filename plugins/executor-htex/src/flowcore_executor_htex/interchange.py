"""The interchange: the hub process between the executor and all managers.

It is started by the executor with one end of a socket pair: on it come the settings, then attempts; on it go the port
for managers, then results. When the other end closes, the executor is gone. It never unpickles anything.
"""

from __future__ import annotations

import errno
import logging
import random
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
from flowcore_executor_htex import protocol, security, wire
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
        self._dispatcher = Dispatcher(settings.heartbeat_threshold)
        self._gate: security.Gate | None = None
        if settings.secret_key:
            self._gate = security.Gate(self._context, settings.client_public_key)
        self._managers = self._context.socket(zmq.ROUTER)
        self._managers.set_hwm(0)
        self._managers.linger = 1000
        self._managers.tcp_keepalive = 1
        # An unknown identity raises instead of losing the message silently.
        self._managers.router_mandatory = True
        security.be_server(self._managers, settings.secret_key)
        self.port = 0
        if settings.local_path:
            self._managers.bind(f"ipc://{settings.local_path}")
        else:
            self.port = bind(self._managers, settings.worker_address, settings.worker_port_range, "workers")
        self._local_path = settings.local_path
        self._stopping = False
        self._moved = 0
        self._heard = False

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
                self._report(self._heard)
            if writing is not self._executor.has_unsent:
                writing = not writing
                poller.modify(executor, wire.POLLIN | wire.POLLOUT if writing else wire.POLLIN)
            ready = dict(poller.poll(max(0, int((next_tick - now) * 1000)) + 1))
            if self._gate is not None and self._gate.socket in ready:
                self._gate.answer()
            self._moved = 0
            happened = ready.get(executor.fileno(), 0)
            if happened & wire.POLLOUT:
                self._executor.flush()
            if happened & ~wire.POLLOUT:
                self._from_executor()
            if self._managers in ready:
                self._from_managers()
            if self._dispatcher.changed:
                self._report(True)
            if self._moved >= BUSY:
                time.sleep(REST_S)
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
                logger.warning("a message from %r is ignored: %s", identity, error)
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
            try:
                wire.send(self._managers, [identity, *frames])
            except zmq.ZMQError as error:
                # Its connection is gone; if it does not come back, its silence will tell.
                logger.warning("cannot send to %r: %s", identity, error)

    def _report(self, wanted: bool) -> None:
        if wanted:
            self._heard = False
            self._send([(None, protocol.encode(self._dispatcher.report(time.monotonic())))])

    def _close(self) -> None:
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
    logging.basicConfig(
        filename=settings.log_file,
        level=logging.DEBUG if settings.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    executor = Link(sock)
    calm_collector()
    try:
        interchange = Interchange(settings, executor)
    except OSError as error:
        executor.send(msgspec.json.encode(Listening(error=str(error))))
        return 1
    executor.send(msgspec.json.encode(Listening(interchange.port)))
    logger.info("listening on port %d", interchange.port)
    try:
        interchange.run()
    except Exception:
        logger.exception("the interchange failed")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
