"""Many managers: what one message costs the interchange does not depend on their number; nothing is piled up."""

from __future__ import annotations

import logging
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from flowcore_executor_htex import interchange, protocol, wire
from flowcore_executor_htex.dispatch import Dispatcher
from flowcore_executor_htex.interchange import Interchange, Warnings
from flowcore_executor_htex.link import Link, Parser
from flowcore_executor_htex.security import be_client
from flowcore_executor_htex.settings import InterchangeSettings, ManagerSettings
from flowcore_executor_htex.settings import read as read_settings
from flowcore_executor_htex.worker import NONE

import flowcore
from flowcore.testing.waiting import eventually as until

F = b"f" * 16


@flowcore.python_app
def nothing() -> None:
    pass


# --- decisions


def steps(action: Callable[[], object]) -> int:
    """Return how many lines of Python an action runs, loops counted as often as they go round."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def crowd(managers: int) -> Dispatcher:
    """A dispatcher with so many managers that have worked before; ``a-0`` has an attempt, the others are free."""
    dispatcher = Dispatcher(100)
    for number in range(managers):
        name = f"a-{number}"
        dispatcher.greet(name.encode(), protocol.hello(name, str(number % 7), "host", 4), 0)
        dispatcher.from_manager(name.encode(), protocol.Results([], 8), [], 0)
    dispatcher.from_executor(protocol.Tasks([protocol.TaskItem(0, F, b"")], {F: b"code"}), [])
    return dispatcher


def owner_of(dispatcher: Dispatcher, key: int) -> bytes:
    [identity] = [m.identity for m in dispatcher.managers.values() if key in m.outstanding]
    return identity


def messages(dispatcher: Dispatcher) -> dict[str, Callable[[], object]]:
    owner = owner_of(dispatcher, 0)
    items = [protocol.TaskItem(key, F, b"") for key in range(1, 65)]
    special = protocol.TaskItem(100, F, b"", needs=protocol.Needs(priority=2, slots=3))
    impossible = protocol.TaskItem(101, F, b"", needs=protocol.Needs(slots=500))
    hello = protocol.hello("new", "8", "host", 4)
    return {
        "tasks": lambda: dispatcher.from_executor(protocol.Tasks(items, {}), []),
        "a task with needs": lambda: dispatcher.from_executor(protocol.Tasks([special], {}), []),
        "a task that never fits": lambda: dispatcher.from_executor(protocol.Tasks([impossible], {}), []),
        "results": lambda: dispatcher.from_manager(
            owner, protocol.Results([protocol.ResultItem(0, protocol.VALUE, b"")], 8), [], 1
        ),
        "cancel": lambda: dispatcher.from_executor(protocol.Cancel([0]), []),
        "heartbeat": lambda: dispatcher.from_manager(owner, protocol.Heartbeat(), [], 1),
        "hello": lambda: dispatcher.greet(b"new", hello, 1),
        "drain": lambda: dispatcher.from_manager(owner, protocol.Hold(), [], 1),
        "given back": lambda: dispatcher.from_manager(owner, protocol.Tasks([protocol.TaskItem(0, F, b"")]), [], 1),
        "goodbye": lambda: dispatcher.from_manager(owner, protocol.Stop(), [], 1),
    }


@pytest.mark.parametrize("kind", messages(crowd(1)))
def test_the_work_for_a_message_does_not_grow_with_the_managers(kind: str) -> None:
    few, many = (steps(messages(crowd(size))[kind]) for size in (128, 4096))
    assert few > 3
    assert many <= 1.2 * few


def test_the_work_for_a_message_does_not_grow_with_the_waiting_tasks() -> None:
    def work(waiting: int) -> int:
        dispatcher = crowd(4)
        items = [protocol.TaskItem(key, F, b"") for key in range(1000, 1000 + waiting)]
        dispatcher.from_executor(protocol.Tasks(items, {}), [])
        assert dispatcher.pending > waiting / 2
        owner = owner_of(dispatcher, 0)
        message = protocol.Results([protocol.ResultItem(0, protocol.VALUE, b"")], 8)
        return steps(lambda: dispatcher.from_manager(owner, message, [], 1))

    assert work(20_000) <= 1.2 * work(200)


# --- the process


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Interchange, socket.socket]]:
    """An interchange in this process that nobody runs, and the executor's end of its link."""
    ours, theirs = socket.socketpair()
    folder = tmp_path / "s"
    folder.mkdir()
    made = Interchange(InterchangeSettings("127.0.0.1", f"{folder}/hub", (1, 2), 10.0, "", False), Link(theirs))
    yield made, ours
    made._close()
    ours.close()
    theirs.close()


def greet_many(hub: Interchange, count: int) -> None:
    for number in range(count):
        name = f"{'manager' * 20}-{number}"
        hub._dispatcher.greet(name.encode(), protocol.hello(name, str(number), "host", 4), 0)


def test_reports_do_not_pile_up_while_nobody_reads_them(hub: tuple[Interchange, socket.socket]) -> None:
    made, ours = hub
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made._executor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    greet_many(made, 500)
    now = time.monotonic()
    for _ in range(1000):
        made._report(now)
    assert made._executor.has_unsent
    assert len(made._executor._unsent) == 1
    made._report(now + interchange.REPORT_ANYWAY_S)
    assert len(made._executor._unsent) == 2, "an executor that is only slow is told in the end"
    # And when all is read, the next one goes.
    parser, found = Parser(), []
    ours.settimeout(10)
    while len(found) < 2:
        found += parser.feed(ours.recv(65536))
        made._executor.flush()
    assert all(len(protocol.decode(header).managers) == 500 for (header,) in found)  # type: ignore[union-attr]


def test_reports_are_sent_at_once_until_they_take_too_much_time(
    hub: tuple[Interchange, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = hub
    sent: list[float] = []
    clock = [1000.0]

    def send(outputs: Any) -> None:
        sent.append(clock[0])
        clock[0] += 0.002  # what a report of 8,192 managers takes

    monkeypatch.setattr(made, "_send", send)
    monkeypatch.setattr(interchange.time, "monotonic", lambda: clock[0])
    began = clock[0]
    while clock[0] < began + 20:
        if clock[0] >= made._report_at:
            made._report(clock[0])
        clock[0] += 0.001
    assert 0.002 * len(sent) <= interchange.REPORT_SHARE * (20 + interchange.REPORT_BURST_S) + 0.01
    assert sent[5] - began < 0.1, "the first ones go at once"
    late = [after - before for before, after in zip(sent[-10:], sent[-9:], strict=False)]
    assert max(late) < 0.5


def test_warnings_of_a_kind_are_counted_and_not_all_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(interchange.time, "monotonic", lambda: clock[0])
    warn, other = Warnings(), Warnings()
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            warn("message %d: %s", number, "x" * 5000)
        other("another kind")
        clock[0] += interchange.WARN_S
        warn("message %d", 1000)
        warn("message %d", 1001)
    first, second, third = (record.getMessage() for record in caplog.records)
    assert first.startswith("message 0: xxx")
    assert len(first) < 500
    assert second == "another kind"
    assert third == "message 1000 (999 more since the last line of this kind)"


def test_the_interchange_may_open_as_many_files_as_the_system_allows(
    load: Callable[..., flowcore.DataFlowKernel],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        dfk = load()
        [process] = [p for p in psutil.Process().children() if "flowcore_executor_htex.interchange" in p.cmdline()]
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
        assert f"as {hard} open files allow" in (dfk.run_dir / "htex" / "interchange.log").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Managers in this process, of 4 slots each, without workers: they answer each attempt with None.

    Args:
        settings: those that the executor wrote.
        count: how many.
    """

    def __init__(self, settings: ManagerSettings, count: int) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._bell = os.eventfd(0)
        #: How many attempts each has had.
        self.had = [0] * count
        self._sockets = []
        for number in range(count):
            made = self._context.socket(zmq.DEALER)
            made.linger = 0
            be_client(made, settings.server_public_key, settings.public_key, settings.secret_key)
            made.connect(f"tcp://127.0.0.1:{settings.port}")
            made.send_multipart(protocol.encode(protocol.hello(f"m{number}", str(number), "host", 4)))
            self._sockets.append(made)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._bell, select.POLLIN)
        for made in self._sockets:
            poller.register(made, zmq.POLLIN)
        numbers = {made: number for number, made in enumerate(self._sockets)}
        while True:
            for ready, _ in poller.poll():
                if ready == self._bell:
                    return
                message = protocol.decode(wire.receive(ready)[0])
                if isinstance(message, protocol.Tasks):
                    self.had[numbers[ready]] += len(message.tasks)
                    items = [protocol.ResultItem(item.key, protocol.VALUE, NONE) for item in message.tasks]
                    wire.send(ready, protocol.encode(protocol.Results(items, 8)))

    def close(self) -> None:
        os.eventfd_write(self._bell, 1)
        self._thread.join(30)
        for made in self._sockets:
            made.close()
        self._context.term()
        os.close(self._bell)


def test_200_managers_that_come_at_once_are_all_taken_in_and_all_work(
    load: Callable[..., flowcore.DataFlowKernel],
) -> None:
    dfk = load(config={"strategy": "none"}, address="127.0.0.1", provider={"plugin": "local", "init_blocks": 0})
    executor = dfk.executors["htex"]
    crowd = Crowd(read_settings(dfk.run_dir / "htex" / "manager.json"), 200)
    try:
        until(lambda: executor.connected_workers == 800, 30)  # type: ignore[attr-defined]
        assert executor.connected_blocks() == {str(number) for number in range(200)}  # type: ignore[attr-defined]
        futures = [nothing() for _ in range(20_000)]
        assert {future.result(timeout=60) for future in futures} == {None}
        assert sum(crowd.had) == 20_000
        assert min(crowd.had) > 0
    finally:
        crowd.close()
    flowcore.clear()
