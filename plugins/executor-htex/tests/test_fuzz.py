"""A million random messages: they raise nothing but BadMessage, and disturb no run.

``FLOWCORE_FUZZ_SEED`` and ``FLOWCORE_FUZZ_FACTOR`` choose another seed, and more of everything. Both are printed.
"""

from __future__ import annotations

import copy
import os
import pickle
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from flowcore_executor_htex import protocol, wire
from flowcore_executor_htex.dispatch import Dispatcher
from flowcore_executor_htex.interchange import Interchange
from flowcore_executor_htex.link import Link, Parser, pack
from flowcore_executor_htex.security import Gate, be_client
from flowcore_executor_htex.settings import InterchangeSettings, ManagerSettings
from flowcore_executor_htex.settings import read as read_settings

import flowcore
from flowcore.errors import BadMessage
from flowcore.testing.waiting import eventually as until

SEED = int(os.environ.get("FLOWCORE_FUZZ_SEED", "20240422"))
FACTOR = float(os.environ.get("FLOWCORE_FUZZ_FACTOR", "1"))
F = b"f" * 16

#: What is put in place of fields.
STRANGE: list[Any] = [
    -1, 0, 1, 2, 255, -(2**31), 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), -float("inf"), None, True, "", "x", "\0", "y" * 300, b"", b"z" * 300, F, [], {}, [[]],
    {"": 0}, {b"": b""},
]  # fmt: skip


def strange(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(STRANGE))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    sys.stdout.write(f"FLOWCORE_FUZZ_SEED={SEED} FLOWCORE_FUZZ_FACTOR={FACTOR:g}\n")  # shown when a test fails
    return random.Random(f"{SEED} {request.node.name}")


def times(count: int) -> range:
    return range(int(count * FACTOR))


def sample() -> protocol.Sample:
    return protocol.Sample(7, 1, protocol.END, 1.7e9, 99, 3, 1.5, 0.5, 10**9, 10**10, 2.5, 4096, 512, "running")


def samples() -> list[Any]:
    """A message of each kind, and greetings, as msgspec would write them: lists and maps, with all fields."""
    item = protocol.TaskItem(7, F, b"body", 2)
    messages: list[Any] = [
        protocol.Tasks([item, protocol.TaskItem(8, F, b"")], {F: b"code"}),
        protocol.Results([protocol.ResultItem(7, protocol.ERROR, b"body", 1, 12, 3)], 9, "0", "host a"),
        protocol.Results([protocol.ResultItem(key, protocol.VALUE, b"") for key in range(5)], 3),
        protocol.Cancel([1, 2]),
        protocol.Forget([F]),
        protocol.Heartbeat(),
        protocol.Stop("why"),
        protocol.Hold("m", "0"),
        protocol.Managers([protocol.ManagerInfo("m", "0", "host", 2, 1, 0.5, True)], ["0"], 3),
        protocol.Samples([sample()], 1),
        protocol.Node("m", "0", "host", 2, 64, 10**12, "3.12.1", True),
        protocol.hello("m", "0", "node1", 4),
        protocol.Refused("why"),
    ]
    return [msgspec.to_builtins(message, builtin_types=(bytes,)) for message in messages]


def places(value: Any) -> list[tuple[Any, Any]]:
    """All containers and keys inside a value."""
    found = []
    keys: Sequence[Any] = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], list | dict):
            found += places(value[key])
    return found


def strange_message(rng: random.Random) -> bytes:
    """A message with the right form, more or less, and fields of any value."""
    message = msgspec.msgpack.decode(rng.choice(HEADERS), strict=False)
    for container, key in rng.sample(found := places(message), min(len(found), rng.randrange(1, 4))):
        container[key] = strange(rng)
    if rng.random() < 0.1 and isinstance(message, list):
        message += [strange(rng)] * rng.randrange(1, 9)
    return msgspec.msgpack.encode(message)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Bytes with a few changes: other values, a part left out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + rng.randrange(1, 9)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                changed[at:at] = changed[at : at + 9]
    return bytes(changed)


HEADERS = [msgspec.msgpack.encode(sample) for sample in samples()]


def garbage(rng: random.Random) -> bytes:
    chance = rng.random()
    if chance < 0.2:
        return rng.randbytes(rng.randrange(64))
    return strange_message(rng) if chance < 0.5 else mutated(rng, rng.choice(HEADERS))


# --- without sockets


def test_no_header_raises_anything_but_bad_message(rng: random.Random) -> None:
    understood = refused = 0
    for number in times(700_000):
        data = rng.randbytes(rng.randrange(48)) if number % 2 else mutated(rng, HEADERS[number % len(HEADERS)])
        try:
            message = protocol.decode(data)
            understood += 1
            protocol.check_payload(message, [b""] * rng.randrange(3))
        except BadMessage:
            refused += 1
        greeting = protocol.decode_greeting(data)
        if isinstance(greeting, protocol.Hello):
            protocol.refusal(greeting)
    assert understood > 1000 * FACTOR, "mutations must reach what comes behind the decoder"
    assert refused > understood


def test_no_field_raises_anything_but_bad_message(rng: random.Random) -> None:
    understood = 0
    for _ in times(60_000):
        data = strange_message(rng)
        try:
            message = protocol.decode(data)
            understood += 1
            protocol.check_payload(message, [b""] * rng.randrange(3))
        except BadMessage:
            pass
        protocol.decode_greeting(data)
    assert understood > 1000 * FACTOR


def test_a_message_never_has_other_frames_than_its_items_say(rng: random.Random) -> None:
    for _ in times(30_000):
        counts = [rng.choice([-(2**63), -2, -1, 0, 1, 2, 2**62]) for _ in range(rng.randrange(1, 4))]
        payload = [b""] * rng.randrange(4)
        header = msgspec.msgpack.encode(["R", [[n, 0, b"", count] for n, count in enumerate(counts)], 1])
        try:
            message = protocol.decode(header)
            protocol.check_payload(message, payload)
        except BadMessage:
            continue
        assert min(counts) >= 0
        assert sum(counts) == len(payload)


def test_the_gate_opens_for_one_key_whatever_is_asked(rng: random.Random) -> None:
    public, _ = (key.decode() for key in zmq.curve_keypair())
    with zmq.Context() as context:
        gate = Gate(context, public)
        good = [b"1.0", b"id", b"flowcore", b"127.0.0.1", b"", b"CURVE", gate._allowed]
        assert gate.reply(good)[2] == b"200"
        for _ in times(100_000):
            request = list(good)
            for _ in range(rng.randrange(1, 3)):
                at = rng.randrange(5, 7)
                request[at] = mutated(rng, request[at]) if rng.random() < 0.7 else rng.randbytes(rng.randrange(40))
            if rng.random() < 0.2:
                request = request[: rng.randrange(8)] + [b"x"] * rng.randrange(3)
            reply = gate.reply(request)
            assert len(reply) == 6
            assert (reply[2] == b"200") == (request[5:7] == good[5:7])
        gate.socket.close()


def test_the_parser_finds_the_messages_however_the_stream_is_cut(rng: random.Random) -> None:
    for _ in times(20_000):
        sent = [[rng.choice(HEADERS), *[rng.randbytes(rng.randrange(9))] * rng.randrange(4)] for _ in range(3)]
        data = b"".join(bytes(part) for header, *frames in sent for part in pack(header, frames))
        end = rng.choice([len(data), rng.randrange(len(data))])
        parser, seen, at = Parser(), [], 0
        while at < end:
            size = rng.randrange(1, end - at + 1)
            seen += parser.feed(data[at : at + size])
            at += size
        assert seen == sent[: len(seen)]
        assert end < len(data) or len(seen) == 3
        with suppress(BadMessage):
            assert Parser().feed(b"\xff" * 8 + rng.randbytes(rng.randrange(64))) == [], "no message is so long"


class Bench:
    """An interchange's decisions between random managers and an executor that keeps account.

    All that sockets would do is left out; messages of managers take the way of :class:`Interchange`.
    """

    def __init__(self, rng: random.Random, tmp_path: Path) -> None:
        self._rng = rng
        self.ours, theirs = socket.socketpair()
        local = tmp_path / "s"
        local.mkdir()
        settings = InterchangeSettings("127.0.0.1", f"{local}/hub", (1, 2), 10.0, "", False, tell_nodes=True)
        self.interchange = Interchange(settings, Link(theirs))
        self.theirs = theirs
        self.interchange._send = self._take  # type: ignore[method-assign]
        self.dispatcher: Dispatcher = self.interchange._dispatcher
        self.now = 0.0
        self.next_key = 0
        #: How each attempt ended.
        self.ended: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.bad = 0
        #: Managers that have come and are not gone, and what was told besides results.
        self.nodes: Counter[str] = Counter()
        self.told = 0

    def _take(self, outputs: Sequence[Any]) -> None:
        for identity, (header, *payload) in outputs:
            if identity is not None:
                if protocol.decode_greeting(header) is None:
                    protocol.check_payload(protocol.decode(header), payload)
                continue
            message = protocol.decode(header)
            if isinstance(message, protocol.Results):
                protocol.check_payload(message, payload)
                for item in message.results:
                    assert 0 <= item.key < self.next_key, "no result of what was not submitted"
                    assert item.key not in self.ended, "no result twice"
                    assert item.key not in self.cancelled
                    self.ended[item.key] = item.kind
            elif isinstance(message, protocol.Node):
                self.nodes[message.manager_id] += 1 if message.connected else -1
                assert self.nodes[message.manager_id] >= 0, "none goes that has not come"
            elif isinstance(message, protocol.Samples):
                self.told += len(message.samples)

    def executor(self, message: protocol.Message, payload: Sequence[Any] = ()) -> None:
        self._take(self.dispatcher.from_executor(message, payload))

    def submit(self, count: int) -> None:
        items = []
        for _ in range(count):
            items.append(protocol.TaskItem(self.next_key, F, b"", self._rng.randrange(2), needs=self._needs()))
            self.next_key += 1
        self.executor(protocol.Tasks(items, {F: b"code"}), [b"frame"] * protocol.count_frames(items))

    def _needs(self) -> protocol.Needs | None:
        choice = self._rng.choice
        if self._rng.random() < 0.8:
            return None
        return protocol.Needs(
            choice([-1.5, 0, 3]), choice([1, 1, 2, 9]), choice([0, 0, 100, 1e9]), choice([0, 0, 1, 2])
        )

    def cancel(self) -> None:
        key = self._rng.randrange(self.next_key)
        if key not in self.ended:
            self.cancelled.add(key)
            self.executor(protocol.Cancel([key]))

    def manager(self, identity: bytes, header: bytes, payload: Sequence[Any] = ()) -> None:
        try:
            self.interchange._from_manager(identity, header, list(payload), self.now)
        except BadMessage:
            self.bad += 1

    def close(self) -> None:
        self.interchange._close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def bench(rng: random.Random, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(rng, tmp_path)
    yield made
    made.close()


def results_of(rng: random.Random, bench: Bench, identity: bytes) -> list[Any]:
    """Results, as a list: of the manager's attempts, of others', of none, doubled."""
    managers = bench.dispatcher.managers
    own = sorted(managers[identity].outstanding) if identity in managers else []
    keys = rng.sample(own, rng.randrange(len(own) + 1))
    keys += [rng.randrange(bench.next_key + 1) for _ in range(rng.randrange(3))]
    keys += rng.sample(keys, rng.randrange(len(keys) + 1)) if rng.random() < 0.3 else []
    rng.shuffle(keys)
    return ["R", [[key, rng.randrange(6), b"", rng.randrange(2)] for key in keys], rng.randrange(40)]


def tasks_of(rng: random.Random, bench: Bench, identity: bytes) -> list[Any]:
    """Attempts that a manager gives back: its own, others', changed ones."""
    managers = bench.dispatcher.managers
    own = sorted(managers[identity].outstanding) if identity in managers else []
    keys = rng.sample(own, rng.randrange(len(own) + 1)) + [rng.randrange(bench.next_key + 1)]
    keys += rng.sample(keys, 1) if rng.random() < 0.3 else []
    tasks = [[key, F, b"", rng.randrange(2)] for key in keys]
    if rng.random() < 0.2:
        for task in tasks:
            needs = [0.0, 1, 0.0, 0, 0, 0, 0.0, {}]
            needs[rng.randrange(7)] = strange(rng)
            task += [None, needs]
    return ["T", tasks, {}]


def test_whatever_managers_say_each_attempt_ends_once(rng: random.Random, bench: Bench) -> None:
    identities = [b"m%d" % number for number in range(6)]
    bench.submit(1)
    steps = int(120_000 * FACTOR)
    for _ in range(steps):
        bench.now += rng.random() * 0.01
        identity = rng.choice(identities)
        step = rng.random()
        if step < 0.15:
            bench.submit(rng.randrange(1, 5))
        elif step < 0.17:
            bench.cancel()
        elif step < 0.25:
            name = identity.decode()
            there = (rng.randrange(1, 9), rng.randrange(3), rng.choice([0.0, 150.0]), rng.choice([None, 1.0]))
            greeting = msgspec.to_builtins(protocol.hello(name, name, "host", *there))
            if rng.random() < 0.3:
                greeting[rng.choice(list(greeting))] = strange(rng)
            bench.manager(identity, msgspec.msgpack.encode(greeting))
        elif step < 0.55:
            message = (results_of if rng.random() < 0.8 else tasks_of)(rng, bench, identity)
            frames = sum(entry[3] for entry in message[1])
            if rng.random() < 0.2:
                for container, key in rng.sample(found := places(message), min(len(found), rng.randrange(1, 3))):
                    container[key] = strange(rng)
            bench.manager(identity, msgspec.msgpack.encode(message), [b"frame"] * frames)
        elif step < 0.999:
            bench.manager(identity, garbage(rng), [b""] * rng.choice([0, 0, 0, 1, 2]))
        else:
            bench.now += rng.choice([1, 11])
            bench._take(bench.dispatcher.tick(bench.now))
        if rng.random() < 0.01:
            bench.interchange._pass_samples()
        assert len(bench.dispatcher._samples) <= len(identities)
        bench._take([(None, protocol.encode(bench.dispatcher.report(bench.now)))])
    assert bench.bad > steps / 10
    assert set(bench.ended.values()) >= {protocol.VALUE, protocol.MANAGER_LOST}
    # The strange ones fall silent; an honest manager does what is left.
    bench.now += 100
    bench._take(bench.dispatcher.tick(bench.now))
    assert bench.dispatcher.managers == {}
    assert bench.nodes.total() == 0
    bench.interchange._pass_samples()
    assert bench.told > 100 * FACTOR
    bench.manager(b"honest", protocol.encode(protocol.hello("honest", "9", "host", 1000, 8, 1e6))[0])
    for _ in range(bench.next_key + 1):
        keys = list(bench.dispatcher.managers[b"honest"].outstanding)
        if not keys:
            break
        done = protocol.Results([protocol.ResultItem(key, protocol.VALUE, b"") for key in keys], 1000)
        bench.manager(b"honest", protocol.encode(done)[0])
    assert set(bench.ended) | bench.cancelled == set(range(bench.next_key))
    assert bench.dispatcher.pending == 0


# --- against a run


@flowcore.python_app
def double(x: int) -> int:
    return 2 * x


class Load:
    """Apps called all the time, in a thread, until the end; then all results are looked at."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._futures: list[Any] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._futures += [double(len(self._futures) + offset) for offset in range(20)]

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def check(self) -> None:
        """Let it go on for a while, and look at all results."""
        enough = len(self._futures) + 100
        until(lambda: len(self._futures) >= enough)
        self.__exit__()
        assert [future.result(timeout=60) for future in self._futures] == [2 * n for n in range(len(self._futures))]


class Target:
    """A run whose interchange has a TCP port, and what may not change in it."""

    def __init__(self, dfk: flowcore.DataFlowKernel) -> None:
        folder = dfk.run_dir / "htex"
        self.settings: ManagerSettings = read_settings(folder / "manager.json")
        self.log = folder / "interchange.log"
        [self.process] = [
            process
            for process in psutil.Process().children()
            if "flowcore_executor_htex.interchange" in process.cmdline()
        ]
        self._memory = self.process.memory_info().rss

    @property
    def grown_mb(self) -> float:
        return float(self.process.memory_info().rss - self._memory) / 2**20

    def check(self) -> None:
        assert self.process.is_running()
        assert self.process.status() != psutil.STATUS_ZOMBIE
        text = self.log.read_text()
        for secret in (self.settings.secret_key, self.settings.public_key, self.settings.server_public_key):
            assert secret
            assert secret not in text
        assert "Traceback" not in text
        assert len(text) < 20_000, "the log is not flooded"


@pytest.fixture
def target(load: Callable[..., flowcore.DataFlowKernel]) -> Target:
    # Retries: attempts that a false manager was given and lost are run again.
    made = Target(load(config={"strategy": "none", "retries": 20}, address="127.0.0.1"))
    assert double(1).result(timeout=30) == 2
    return made


class Clients:
    """Makes clients of the interchange, closed after the test."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.all: list[wire.Socket] = []

    def new(self) -> wire.Socket:
        """Return one that is not connected."""
        made = self._context.socket(zmq.DEALER)
        made.linger = 0
        made.set_hwm(0)
        self.all.append(made)
        return made

    def evil(self, target: Target, identity: bytes | None = None) -> wire.Socket:
        """Return one that has the keys of the run."""
        made = self.new()
        if identity is not None:
            made.identity = identity
        be_client(made, target.settings.server_public_key, target.settings.public_key, target.settings.secret_key)
        made.connect(f"tcp://127.0.0.1:{target.settings.port}")
        return made

    def close(self) -> None:
        for client in self.all:
            client.close()
        self._context.term()


@pytest.fixture
def clients() -> Iterator[Clients]:
    made = Clients()
    yield made
    made.close()


#: The greeting of ZMTP 3.1 with which each side begins.
CURVE = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)


def connect(target: Target, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.create_connection(("127.0.0.1", target.settings.port), timeout=10))
    made.settimeout(10)
    return made


def try_to_send(connection: socket.socket, data: bytes) -> bool:
    """Send; return False if the other end has closed."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def is_closed(connection: socket.socket) -> bool:
    """Read all that there is; return whether the other end has closed."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def greeted(target: Target, stack: ExitStack, greeting: bytes = CURVE) -> socket.socket:
    """A connection on which both sides have sent their greeting."""
    connection = connect(target, stack)
    connection.sendall(greeting)
    got = 0
    while got < 64:
        part = connection.recv(64 - got)
        assert part, "the interchange greets, too"
        got += len(part)
    return connection


def test_garbage_on_the_port_reaches_nothing(target: Target, rng: random.Random) -> None:
    with ExitStack() as stack, Load() as work:
        slow = [connect(target, stack) for _ in range(50)]
        for count in range(200):
            connection = connect(target, stack)
            if count % 4:
                try_to_send(connection, rng.randbytes(rng.randrange(1, 4096)))
            if count % 3 == 0:
                connection.close()  # the others stay, half-open or not
        for position in range(64):
            for connection in slow:
                try_to_send(connection, CURVE[position : position + 1])
        mechanisms = [b"NULL", b"PLAIN", b"GSSAPI", b"CURVE", rng.randbytes(20)]
        names = [b"READY", b"HELLO", b"INITIATE", b"MESSAGE", b"ERROR", b"PING", b"SUBSCRIBE"]
        for count in range(200):
            greeting = bytearray(CURVE)
            greeting[12:32] = rng.choice(mechanisms).ljust(20, b"\0")
            connection = greeted(target, stack) if count % 2 else connect(target, stack)
            if count % 2 == 0:
                try_to_send(connection, bytes(greeting))
            name = rng.choice(names)
            body = bytes([len(name)]) + name + rng.randbytes(rng.choice([0, 1, 8, 194, 240]))
            try_to_send(connection, bytes([rng.choice([0, 1, 4, 5]), len(body)]) + body)
        work.check()
        assert target.grown_mb < 100
        target.check()


@pytest.mark.parametrize("size", [2**62, 2**63 + 5, 2**40, 2**33, 2**30])
def test_who_announces_much_without_a_key_gets_no_memory(target: Target, size: int) -> None:
    with ExitStack() as stack, Load() as work:
        for flags in (0x06, 0x02, 0x03):
            connection = greeted(target, stack)
            try_to_send(connection, bytes([flags]) + struct.pack(">Q", size))
            most = 0.0
            chunk = bytes(2**20)
            for _ in range(256):
                if not try_to_send(connection, chunk):
                    break
                most = max(most, target.grown_mb)
            else:
                pytest.fail("256 MB of a frame were taken from a client that had shown no key")
            assert most < 100
        work.check()
        target.check()


def test_endless_commands_without_a_key_end_the_connection(target: Target, rng: random.Random) -> None:
    with ExitStack() as stack, Load() as work:
        for flags in (0x00, 0x01, 0x04):
            connection = greeted(target, stack)
            commands = b"".join(bytes([flags, 200]) + rng.randbytes(200) for _ in range(1000))
            sent = 0
            while sent < 256 * 2**20 and try_to_send(connection, commands):
                sent += len(commands)
            assert sent < 64 * 2**20, "it is closed soon"
            assert is_closed(connection)
        assert target.grown_mb < 100
        work.check()
        target.check()


def test_clients_without_the_keys_of_the_run_reach_nothing(
    target: Target, clients: Clients, rng: random.Random
) -> None:
    server = target.settings.server_public_key
    with Load() as work:
        for count in range(60):
            own_public, own_secret = (key.decode() for key in zmq.curve_keypair())
            other_server, _ = (key.decode() for key in zmq.curve_keypair())
            made = clients.new()
            made.reconnect_ivl = 20
            match count % 4:
                case 0:
                    made.plain_username = b"flowcore"
                    made.plain_password = server.encode()
                case 1:
                    be_client(made, server, own_public, own_secret)
                case 2:
                    be_client(made, other_server, target.settings.public_key, target.settings.secret_key)
            made.connect(f"tcp://127.0.0.1:{target.settings.port}")
            # Where the other side has ended the connection already, there is nowhere to send to.
            with suppress(zmq.Again):
                made.send_multipart(protocol.encode(protocol.hello("intruder", "9", "x", 100)), zmq.NOBLOCK)
                for _ in range(20):
                    made.send(garbage(rng), zmq.NOBLOCK)
        work.check()
        assert not any(made.poll(0) for made in clients.all), "none was answered"
        until(lambda: "is refused: it does not have this run's key" in target.log.read_text())
    assert "intruder" not in target.log.read_text()
    assert target.grown_mb < 100
    target.check()


def next_message(client: wire.Socket) -> Any:
    """Return the next message of the interchange to a client that is no heartbeat."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if client.poll(1000):
            header = client.recv_multipart()[0]
            message = protocol.decode_greeting(header) or protocol.decode(header)
            if not isinstance(message, protocol.Heartbeat):
                return message
    raise AssertionError("nothing came")


def test_garbage_with_the_right_keys_disturbs_no_other_manager(
    target: Target, clients: Clients, rng: random.Random
) -> None:
    attempts = range(0, 10_000 << 16, 1 << 16)
    with Load() as work:
        mute = clients.evil(target)  # never says hello
        held = clients.evil(target)  # says it, and takes no attempts
        held.send_multipart(protocol.encode(protocol.hello("held", "9", "x", 1)))
        held.send_multipart(protocol.encode(protocol.Hold()))
        while not isinstance(next_message(held), protocol.Hold):
            pass
        for _ in times(5_000):
            header = garbage(rng)
            if not isinstance(protocol.decode_greeting(header), protocol.Hello):
                mute.send_multipart([header, *[b""] * rng.choice([0, 0, 1, 5])])
            keys = rng.choices(attempts, k=rng.randrange(4)) + [rng.choice([-1, 2**63 - 1, -(2**63)])]
            wrong = protocol.Results([protocol.ResultItem(key, protocol.VALUE, b"wrong") for key in keys * 2], 0)
            held.send_multipart(protocol.encode(wrong))
        for client in (mute, held):
            client.send_multipart([b"", b""])
            client.send(b"")
            client.send_multipart([b"\x93\xa1R\x90\x00", *[b""] * 100_000])
        held.send_multipart(protocol.encode(protocol.Stop("enough")))
        work.check()
    assert target.grown_mb < 200
    assert "a message from" in target.log.read_text()
    target.check()


def test_managers_that_lie_about_their_size_are_refused(target: Target, clients: Clients) -> None:
    with Load() as work:
        for slots in (0, -1, 10**9, -(2**63), 2**63 - 1):
            client = clients.evil(target)
            client.send_multipart(protocol.encode(protocol.hello("liar", "9", "x", slots)))
            assert isinstance(next_message(client), protocol.Refused), f"{slots} slots"
        work.check()
    target.check()


def test_garbage_for_results_fails_their_tasks_and_nothing_else(
    load: Callable[..., flowcore.DataFlowKernel], clients: Clients, rng: random.Random
) -> None:
    target = Target(
        load(config={"strategy": "none"}, address="127.0.0.1", provider={"plugin": "local", "init_blocks": 0})
    )
    only = clients.evil(target)
    only.send_multipart(protocol.encode(protocol.hello("only", "0", "x", 1000)))
    futures = [double(n) for n in range(300)]
    keys: list[int] = []
    while len(keys) < len(futures):
        message = next_message(only)
        keys += [item.key for item in message.tasks]
    stored = [None, ["r1", [5]], ["../x", []], ["", [-1, 2**62]], ["r2", [2**62]]]
    for key in keys[:-1]:
        body = rng.choice([b"", garbage(rng), msgspec.msgpack.encode([1, "x"]), pickle.dumps(strange(rng))])
        frames = [garbage(rng)] * rng.choice([0, 0, 1, 2])
        took_us, worker = rng.choice([-1, 5, 2**62]), rng.choice([-1, 5, 2**20 - 1])
        item = [key, rng.randrange(8), body, len(frames), took_us, worker, rng.choice(stored)]
        only.send_multipart([msgspec.msgpack.encode(["R", [item], 1000]), *frames])
    good = protocol.ResultItem(keys[-1], protocol.VALUE, pickle.dumps(598))
    only.send_multipart(protocol.encode(protocol.Results([good], 1000)))
    assert futures[-1].result(timeout=30) == 598
    errors = {type(future.exception(timeout=30)).__name__ for future in futures[:-1]}
    assert errors >= {"DeserializationError", "BadMessage"}
    target.check()
