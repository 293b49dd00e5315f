from __future__ import annotations

import os
import random

import msgspec
import pytest
from flowcore_executor_htex import protocol
from flowcore_executor_htex.link import Parser, pack

from flowcore.errors import BadMessage

ITEM = protocol.TaskItem(7, b"f" * 16, b"body", 2)
MESSAGES = [
    protocol.Tasks([ITEM], {b"f" * 16: b"code"}),
    protocol.Results([protocol.ResultItem(7, protocol.ERROR, b"body", 1, 12, 3)], 9, "0", "host a"),
    protocol.Cancel([1, 2]),
    protocol.Forget([b"f"]),
    protocol.Heartbeat(),
    protocol.Stop("why"),
    protocol.Hold("m", "0"),
    protocol.Samples(
        [protocol.Sample(7, 1, protocol.END, 1.7e9, 4711, 3, 1.5, 0.25, 10**9, 10**10, 2.5, 4096, 512, "running")],
        2,
        "0",
        "host",
    ),
    protocol.Node("m", "0", "host", 2, 64, 10**12, "3.12.1", True),
    protocol.Managers([protocol.ManagerInfo("m", "0", "host", 2, 1, 0.5, True)], ["0"], 3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_as_it_was_sent(message: protocol.Message) -> None:
    header, *payload = protocol.encode(message, [b"x"])
    assert protocol.decode(header) == message
    assert payload == [b"x"]


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 40, b"\x00", msgspec.msgpack.encode(["T", 1]), b"\x92\xa1Z\x90"])
def test_garbage_is_refused_by_name_of_the_protocol(garbage: bytes) -> None:
    with pytest.raises(BadMessage, match=f"not a message of protocol {protocol.PROTOCOL}"):
        protocol.decode(garbage)


def test_random_bytes_never_raise_anything_else() -> None:
    generator = random.Random(4)
    for _ in range(20000):
        data = generator.randbytes(generator.randrange(40))
        try:
            protocol.decode(data)
        except BadMessage:
            pass
        protocol.decode_greeting(data)


def test_payload_must_match_what_the_items_say() -> None:
    message = protocol.Tasks([ITEM])
    protocol.check_payload(message, [b"1", b"2"])
    with pytest.raises(BadMessage, match="Tasks came with 1 payload frames, it says 2"):
        protocol.check_payload(message, [b"1"])
    with pytest.raises(BadMessage, match="Cancel came with 1 payload frames, it says 0"):
        protocol.check_payload(protocol.Cancel([1]), [b"1"])


def test_a_manager_of_the_same_version_is_accepted() -> None:
    assert protocol.refusal(protocol.hello("m", "0", "node1", 4)) is None


def test_a_greeting_without_what_is_for_people_is_understood() -> None:
    greeting = msgspec.to_builtins(protocol.hello("m", "0", "node1", 4, total_memory=99))
    for name in ("cpu_count", "total_memory", "python_version"):
        assert greeting.pop(name)
    read = protocol.decode_greeting(msgspec.msgpack.encode(greeting))
    assert isinstance(read, protocol.Hello)
    assert (read.cpu_count, read.total_memory, read.python_version) == (0, 0, "")
    assert protocol.refusal(read) is None


def test_a_refusal_names_both_sides() -> None:
    greeting = protocol.hello("m", "3", "node1", 4)
    other_python = protocol.refusal(msgspec.structs.replace(greeting, python="3.99"))
    assert other_python is not None
    assert "the manager on node1 (block 3) has Python 3.99, the submit side has Python 3." in other_python
    assert "worker_init" in other_python
    other_protocol = protocol.refusal(msgspec.structs.replace(greeting, protocol=99, flowcore="9.9"))
    assert other_protocol is not None
    assert "flowcore 9.9 with protocol 99" in other_protocol
    assert f"with protocol {protocol.PROTOCOL}: install one version" in other_protocol


def test_a_greeting_with_fields_of_the_future_is_still_understood() -> None:
    greeting = msgspec.to_builtins(protocol.hello("m", "0", "node1", 4))
    header = msgspec.msgpack.encode({**greeting, "protocol": 99, "something_new": [1]})
    read = protocol.decode_greeting(header)
    assert isinstance(read, protocol.Hello)
    assert read.protocol == 99


def test_the_stream_is_parsed_wherever_it_is_cut() -> None:
    messages = [[b"header"], [b"h2", b"", b"frame" * 9], [b"", b"x"], [os.urandom(300), os.urandom(70000)]]
    stream = b"".join(bytes(buffer) for header, *frames in messages for buffer in pack(header, frames))
    for step in (1, 2, 3, 7, 64, 4096, len(stream)):
        parser = Parser()
        seen = []
        for start in range(0, len(stream), step):
            seen += parser.feed(stream[start : start + step])
        assert seen == messages
