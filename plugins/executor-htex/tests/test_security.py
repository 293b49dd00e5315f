from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import zmq
from flowcore_executor_htex import protocol
from flowcore_executor_htex.security import Gate, be_client

import flowcore


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


def test_secrets_are_in_private_files_only_and_go_with_the_run(load: Callable[..., flowcore.DataFlowKernel]) -> None:
    dfk = load()
    assert one().result(timeout=30) == 1
    path = dfk.run_dir / "htex" / "manager.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = str(settings_of(dfk)["secret_key"])
    assert len(secret) == 40
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        assert secret not in " ".join(process.cmdline())
        assert secret not in str(process.environ())
    others = [p for p in dfk.run_dir.rglob("*") if p.is_file() and p != path]
    assert all(secret not in p.read_text(errors="replace") for p in others)
    flowcore.clear()
    assert not path.exists()


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
    dfk = load(encrypted=False)
    assert one().result(timeout=30) == 1
    assert settings_of(dfk)["secret_key"] == ""


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
        assert gate.refused == 6
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
