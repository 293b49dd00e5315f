"""What SECURITY.md claims, shown. Garbage and clients without keys: test_fuzz.py."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from flowcore_executor_htex import protocol, wire
from flowcore_executor_htex import settings as settings_module
from flowcore_executor_htex.security import Gate, be_client
from flowcore_executor_htex.settings import InterchangeSettings, ManagerSettings
from zmq.utils.monitor import parse_monitor_message

import flowcore
from flowcore.testing.waiting import eventually as until


@flowcore.python_app
def one() -> int:
    return 1


def settings_of(dfk: flowcore.DataFlowKernel) -> dict[str, object]:
    return json.loads((dfk.run_dir / "htex" / "manager.json").read_text())


def greet(port: int, keys: tuple[str, str, str], wait_ms: int) -> bool:
    """Connect as a manager with these keys; return whether the interchange answered."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        be_client(socket, *keys)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send_multipart(protocol.encode(protocol.hello("intruder", "9", "x", 100)))
        return bool(socket.poll(wait_ms))


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secret keys that are made: the server's first."""
    made: list[str] = []
    make = zmq.curve_keypair

    def keep() -> tuple[bytes, bytes]:
        public, secret = make()
        made.append(secret.decode())
        return public, secret

    monkeypatch.setattr(zmq, "curve_keypair", keep)
    return made


def everyone() -> list[psutil.Process]:
    """This process and all that it started."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def test_secrets_are_in_private_files_only_and_go_with_the_run(
    load: Callable[..., flowcore.DataFlowKernel], secrets: list[str]
) -> None:
    old = os.umask(0)
    try:
        dfk = load(worker_debug=True)
    finally:
        os.umask(old)
    assert one().result(timeout=30) == 1
    path = dfk.run_dir / "htex" / "manager.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server, client = secrets
    assert settings_of(dfk)["secret_key"] == client
    assert len(client) == 40
    processes = everyone()
    assert len(processes) >= 5, "interchange, shell, manager and workers"
    for process in processes:
        for secret in secrets:
            assert secret not in " ".join(process.cmdline())
            assert secret not in str(process.environ())
    assert server not in path.read_text(), "managers have no need of it"
    folders = [dfk.run_dir, Path(str(settings_of(dfk)["local_path"])).parent]
    others = [p for folder in folders for p in folder.rglob("*") if p.is_file() and p != path]
    assert "interchange.log" in {p.name for p in others}
    assert any(p.parent.name == "submit_scripts" for p in others)
    for file in others:
        assert not any(secret in file.read_text(errors="replace") for secret in secrets), file
    flowcore.clear()
    assert not path.exists()


def test_each_run_has_keys_of_its_own(load: Callable[..., flowcore.DataFlowKernel], secrets: list[str]) -> None:
    load()
    flowcore.clear()
    load()
    assert len(secrets) == 4
    assert len(set(secrets)) == 4


#: What must be said, without keys.
MANAGER: dict[str, Any] = {
    "addresses": ["127.0.0.1"],
    "port": 1,
    "local_path": "",
    "cores_per_worker": 1.0,
    "mem_per_worker": None,
    "max_workers_per_node": None,
    "cpu_affinity": "none",
    "accelerators": [],
    "prefetch_capacity": 0,
    "heartbeat_period": 1.0,
    "heartbeat_threshold": 2.0,
    "drain_period": None,
    "address_probe_timeout": 1.0,
    "log_dir": "",
    "debug": False,
    "sys_path": [],
}


def test_settings_are_printed_without_keys(tmp_path: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    common: dict[str, Any] = {"public_key": public, "secret_key": secret}
    interchange = InterchangeSettings("127.0.0.1", "", (1, 2), 10.0, "log", False, **common)
    manager = msgspec.convert(MANAGER | common | {"server_public_key": public}, ManagerSettings)
    for made in (interchange, manager):
        for text in (repr(made), str(made), f"{made}"):
            assert secret not in text
            assert type(made).__name__ in text
    settings_module.write(tmp_path / "m.json", manager)
    assert settings_module.read(tmp_path / "m.json") == manager


def test_a_file_that_others_put_in_the_place_of_the_secrets_is_not_written_to(tmp_path: Path) -> None:
    manager = msgspec.convert(MANAGER | {"secret_key": "s"}, ManagerSettings)
    theirs = tmp_path / "theirs"
    theirs.write_text("before")
    path = tmp_path / "manager.json"
    path.symlink_to(theirs)
    settings_module.write(path, manager)
    assert theirs.read_text() == "before"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    path.chmod(0o666)
    settings_module.write(path, manager)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_of_a_killed_run_open_nothing(tmp_path: Path) -> None:
    script = """
import flowcore, os
flowcore.load({"executors": [{"plugin": "htex", "label": "htex", "max_workers_per_node": 1, "address": "127.0.0.1"}]})
print(flowcore.python_app(os.getpid)().result() and "ready", flush=True)
os.kill(os.getpid(), 9)
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ready\n"
    path = tmp_path / "runinfo" / "000" / "htex" / "manager.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it stays, for this user alone"
    port = settings_module.read(path).port

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    until(closed)


def test_only_clients_with_the_keys_of_the_run_get_an_answer(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    dfk = load(config={"strategy": "none"}, address="127.0.0.1")
    assert one().result(timeout=30) == 1
    settings = settings_of(dfk)
    port = settings["port"]
    assert isinstance(port, int)
    server = str(settings["server_public_key"])
    assert greet(port, (server, str(settings["public_key"]), str(settings["secret_key"])), 10000)
    assert not greet(port, ("", "", ""), 700), "no encryption at all"
    own_public, own_secret = (key.decode() for key in zmq.curve_keypair())
    assert not greet(port, (server, own_public, own_secret), 700), "keys of its own"
    assert one().result(timeout=30) == 1


def test_encryption_can_be_switched_off_visibly(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    dfk = load(encrypted=False, address="127.0.0.1")
    assert one().result(timeout=30) == 1
    settings = settings_of(dfk)
    assert settings["secret_key"] == ""
    port = settings["port"]
    assert isinstance(port, int)
    assert greet(port, ("", "", ""), 10000), "then whoever reaches the port is served"


def test_the_gate_passes_one_key_and_answers_anything_else_with_400() -> None:
    public, _ = (key.decode() for key in zmq.curve_keypair())
    with zmq.Context() as context:
        gate = Gate(context, public)
        raw = gate._allowed
        request = [b"1.0", b"id", b"flowcore", b"127.0.0.1", b"", b"CURVE", raw]
        assert gate.reply(request)[2] == b"200"
        for bad in (
            [*request[:6], b"x" * 32],
            [*request[:6], b""],
            [*request[:5], b"NULL"],
            [*request[:5], b"PLAIN", b"user", b"password"],
            [b"1.0"],
            [],
        ):
            assert gate.reply(bad)[2] == b"400"
        gate.socket.close()


@pytest.mark.parametrize(("options", "expected"), [({}, set()), ({"address": "127.0.0.1"}, {"127.0.0.1"})])
def test_listens_where_it_must_only(
    load: Callable[..., flowcore.DataFlowKernel], options: dict[str, str], expected: set[str]
) -> None:
    load(**options)
    assert one().result(timeout=30) == 1
    addresses = {
        c.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert addresses == expected


def test_the_local_socket_is_for_this_user_and_goes_with_the_run(
    load: Callable[..., flowcore.DataFlowKernel],
) -> None:
    dfk = load()
    assert one().result(timeout=30) == 1
    folder = Path(str(settings_of(dfk)["local_path"])).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    flowcore.clear()
    assert not folder.exists()
    assert not Path(f"{folder}/hub").exists()


# --- on the wire


class Recorder:
    """A connection's way through this process: keeps all that passes, and may change it.

    Args:
        port: of the interchange.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = bytearray()
        #: Called with what passes, returns what is passed on.
        self.change: Callable[[bytes], bytes] = bytes
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._open += [client, server]
            for one_end, other in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pass_on, args=(one_end, other)))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.seen += data
                target.sendall(self.change(data))
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        for end in self._open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads[1:]:
            thread.join(10)
        for end in self._open:
            end.close()


@pytest.fixture
def recorder(load: Callable[..., flowcore.DataFlowKernel]) -> Iterator[Callable[..., Recorder]]:
    """Loads a run whose manager is led through a recorder."""
    made: list[Recorder] = []

    def start(**options: Any) -> Recorder:
        provider = {"plugin": "local", "init_blocks": 0, "max_blocks": 1}
        dfk = load(address="127.0.0.1", config={"strategy": "none", "retries": 2}, provider=provider, **options)
        path = dfk.run_dir / "htex" / "manager.json"
        settings = settings_module.read(path)
        made.append(Recorder(settings.port))
        settings_module.write(path, msgspec.structs.replace(settings, port=made[0].port))
        dfk.executors["htex"].scale_out(1)
        return made[0]

    yield start
    flowcore.clear()
    for recorder in made:
        recorder.close()


P = wire.PIECE


@pytest.mark.parametrize(
    "sizes",
    [[0], [5, 0, 3], [P - 1, P, P + 1, 0, 2 * P, 3], [P], [2 * P + 7, P, P]],
    ids=lambda s: "+".join(map(str, s)),
)
@pytest.mark.parametrize("header_size", [1, P])
def test_what_is_large_travels_in_pieces(sizes: list[int], header_size: int) -> None:
    public, secret = zmq.curve_keypair()
    own_public, own_secret = (key.decode() for key in zmq.curve_keypair())
    with zmq.Context() as context, context.socket(zmq.ROUTER) as hub, context.socket(zmq.DEALER) as client:
        hub.curve_secretkey, hub.curve_server = secret, True
        hub.maxmsgsize = wire.MAX_PIECE
        hub.linger = client.linger = 0
        be_client(client, public.decode(), own_public, own_secret)
        client.connect(f"tcp://127.0.0.1:{hub.bind_to_random_port('tcp://127.0.0.1')}")
        header = os.urandom(header_size)
        frames = [bytearray(os.urandom(size)) for size in sizes]
        for _ in range(2):
            wire.send(client, [header, *frames])
            assert hub.poll(20000)
            _, got_header, got = wire.receive_from(hub)
            assert got_header == header
            assert [bytes(frame.buffer) for frame in got] == frames


def test_what_is_larger_than_a_piece_comes_through(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    @flowcore.python_app
    def same(data: bytes) -> bytes:
        return data

    load(address="127.0.0.1")
    sizes = [P - 1000, P, P + 1, 3 * P, 20_000_000]
    for data in map(os.urandom, sizes):
        assert same(data).result(timeout=60) == data


@flowcore.python_app
def backwards(text: str) -> str:
    return text[::-1]


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_travels_cannot_be_read(recorder: Callable[..., Recorder], encrypted: bool) -> None:
    seen = recorder(encrypted=encrypted).seen
    assert backwards("a word that nobody should see").result(timeout=30) == "ees dluohs ydobon taht drow a"
    assert len(seen) > 500
    # The other case shows that the recorder would have seen it.
    for text in (b"a word that nobody should see", b"ees dluohs ydobon taht drow a", b"backwards"):
        assert (text in seen) is not encrypted


def test_what_is_changed_on_its_way_is_refused(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    """One flipped bit of a message, and its connection ends; the interchange and its other clients go on."""
    dfk = load(config={"strategy": "none"}, address="127.0.0.1")
    assert one().result(timeout=30) == 1
    settings = settings_module.read(dfk.run_dir / "htex" / "manager.json")
    middle = Recorder(settings.port)
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as client:
            client.linger = 0
            client.reconnect_ivl = -1
            be_client(client, settings.server_public_key, settings.public_key, settings.secret_key)
            client.connect(f"tcp://127.0.0.1:{middle.port}")
            client.send_multipart(protocol.encode(protocol.hello("flipped", "9", "x", 1)))
            client.send_multipart(protocol.encode(protocol.Hold()))
            assert client.poll(10000)
            monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            middle.change = lambda data: data[:-1] + bytes([data[-1] ^ 1])
            client.send_multipart(protocol.encode(protocol.Stop("not what was meant")))
            assert monitor.poll(10000), "the interchange has ended the connection"
            client.disable_monitor()
            monitor.close()
        assert one().result(timeout=30) == 1
        assert len(dfk.executors["htex"].connected_managers()) == 2, "the message was not taken for true"
    finally:
        middle.close()


def test_a_false_interchange_learns_nothing(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    """It has keys of its own, and lets everybody in."""
    provider = {"plugin": "local", "init_blocks": 0, "max_blocks": 1}
    dfk = load(config={"strategy": "none"}, address="127.0.0.1", provider=provider)
    path = dfk.run_dir / "htex" / "manager.json"
    settings = settings_module.read(path)
    _, secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as false, context.socket(zmq.PAIR) as monitor:
        false.curve_secretkey, false.curve_server, false.linger = secret, True, 0
        false.monitor("inproc://events", zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        monitor.connect("inproc://events")
        port = false.bind_to_random_port("tcp://127.0.0.1")
        settings_module.write(path, msgspec.structs.replace(settings, port=port))
        dfk.executors["htex"].scale_out(1)
        assert monitor.poll(20000), "a manager came"
        event = parse_monitor_message(monitor.recv_multipart())["event"]
        assert event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, "it cannot read the first message"
        assert not false.poll(300)
        false.disable_monitor()


class Spy:
    """Writes down which process unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _seen, (self.path,)


def _seen(path: str) -> Spy:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Spy(path)


def test_only_the_worker_and_the_submit_side_unpickle(
    load: Callable[..., flowcore.DataFlowKernel], tmp_path: Path
) -> None:
    @flowcore.python_app
    def answer(question: Spy, path: str) -> tuple[int, Spy]:
        return os.getpid(), Spy(path)

    load(address="127.0.0.1")
    worker, _ = answer(Spy(str(tmp_path / "arguments")), str(tmp_path / "result")).result(timeout=30)
    assert (tmp_path / "arguments").read_text() == f"{worker}\n"
    assert (tmp_path / "result").read_text() == f"{os.getpid()}\n"


def test_tasks_are_not_given_the_keys(load: Callable[..., flowcore.DataFlowKernel], secrets: list[str]) -> None:
    """They may read the file, as anything of this user may; their process has no copy."""

    @flowcore.python_app
    def own_memory() -> list[str]:
        import re

        found = []
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
            for line in maps:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if line.split()[1].startswith("rw") and end - start < 2**28:
                    memory.seek(start)
                    try:
                        found += re.findall(rb"[\x21-\x7e]{40}", memory.read(end - start))
                    except OSError:
                        continue
        import hashlib

        return [hashlib.sha256(text).hexdigest() for text in found]

    import hashlib

    load(max_workers_per_node=1)
    digests = own_memory().result(timeout=60)
    assert len(digests) > 100, "it looked"
    assert not {hashlib.sha256(secret.encode()).hexdigest() for secret in secrets} & set(digests)
