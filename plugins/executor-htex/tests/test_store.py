"""Large arguments and results: through shared memory where that is there, else through the sockets."""

from __future__ import annotations

import array
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_executor_htex import protocol, store
from flowcore_executor_htex.link import Link, Parser, pack
from flowcore_executor_htex.store import Store

import flowcore
from flowcore.errors import ManagerLost, WorkerLost
from flowcore.testing import eventually

Load = Callable[..., flowcore.DataFlowKernel]
WAIT_S = 30
LARGE = 300_000


def load_parts(body: Any, buffers: Any) -> list[bytes]:
    return [bytes(body), *map(bytes, buffers)]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path))
    yield made
    made.close()


def files(shared: Store) -> set[str]:
    return set(os.listdir(shared.folder)) - {store.LOCK}


def test_the_folder_is_for_this_user_alone_and_goes() -> None:
    made = Store()
    folder = Path(made.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    made.close()
    made.close()
    assert not folder.exists()


def test_what_a_killed_owner_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from flowcore_executor_htex.store import Store; "
        "print(Store(sys.argv[1]).folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30)
    abandoned = Path(done.stdout.strip())
    (abandoned / "a1").write_bytes(b"x")
    (tmp_path / "flowcore-of-somebody-else").mkdir()
    first = Store(str(tmp_path))
    second = Store(str(tmp_path))
    assert not abandoned.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "flowcore-of-somebody-else",
        Path(first.folder).name,
        Path(second.folder).name,
    }
    first.close()
    second.close()


def test_what_was_put_is_read(shared: Store) -> None:
    stored = shared.put(1, [b"bo", b"", b"dy"], [memoryview(array.array("d", [1.0, 2.0])), b"", b"x" * 100])
    assert stored is not None
    assert stored.sizes == [4, 16, 0, 100]
    read = store.read(shared.folder, stored, load_parts)
    assert read == [b"body", array.array("d", [1.0, 2.0]).tobytes(), b"", b"x" * 100]


def test_a_file_is_written_again_when_its_attempt_has_read_it(shared: Store) -> None:
    first = shared.put(1, [b"a" * LARGE])
    shared.release(1, read=True)
    second = shared.put(2, [b"b" * (LARGE // 2)])
    assert first is not None and second is not None
    assert first.name == second.name
    assert store.read(shared.folder, second, load_parts) == [b"b" * (LARGE // 2)]
    third = shared.put(3, [b"c" * LARGE])
    assert third is not None and third.name != second.name
    assert len(files(shared)) == 2


def test_a_file_that_somebody_may_still_read_is_not(shared: Store) -> None:
    first = shared.put(1, [b"a" * LARGE])
    shared.release(1, read=False)
    second = shared.put(2, [b"b" * LARGE])
    assert first is not None and second is not None
    assert first.name != second.name
    assert files(shared) == {second.name}
    shared.release(77, read=True)


def test_no_more_is_kept_than_was_said(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEEP", 2 * LARGE)
    for key in range(4):
        shared.put(key, [b"a" * LARGE])
    for key in range(4):
        shared.release(key, read=True)
    assert len(files(shared)) == 2


def test_what_does_not_fit_is_said_and_leaves_nothing(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert shared.put(1, [b"a" * LARGE]) is None
    assert store.put_result(shared.folder, 1, [b"a"]) is None
    assert files(shared) == set()
    shared.release(1, read=True)


def test_results_are_fetched_once_and_those_that_nobody_fetches_are_swept(shared: Store) -> None:
    for key in (1, 2, 3):
        store.put_result(shared.folder, key, [b"%d" % key])
    stored = protocol.Stored("r1", [1])
    assert shared.fetch(stored, load_parts) == [b"1"]
    shared.put(9, [b"an argument"])
    shared.sweep({2})
    assert files(shared) == {"r2", "a1"}
    with pytest.raises(FileNotFoundError):
        shared.fetch(stored, load_parts)


def test_a_name_leads_nowhere_else(shared: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with pytest.raises(FileNotFoundError):
        store.read(shared.folder, protocol.Stored(f"../{secret.name}", [6]), load_parts)
    with pytest.raises(FileNotFoundError):
        shared.fetch(protocol.Stored(f"../{secret.name}", [6]), load_parts)
    assert secret.exists()


def test_a_file_that_is_too_short_is_noticed(shared: Store) -> None:
    stored = shared.put(1, [b"body"], [b"x" * 10])
    assert stored is not None
    os.truncate(Path(shared.folder) / stored.name, 8)
    with pytest.raises(OSError, match="shorter than was said"):
        store.read(shared.folder, stored, load_parts)


# --- frames on a stream


@pytest.mark.parametrize("step", [1, 7, 1000, 10**7])
def test_large_frames_are_put_together_from_any_pieces(step: int) -> None:
    messages = [
        [b"one", b"x" * 3000, b"", b"y" * 5],
        [b"two"],
        [b"three", b"z" * 9000],
    ]
    data = b"".join(b"".join(map(bytes, pack(header, frames))) for header, *frames in messages)
    parser = Parser()
    found: list[list[Any]] = []
    position = 0
    while position < len(data):
        piece = data[position : position + step]
        position += len(piece)
        wanted = parser.wanted
        if wanted is not None and len(piece) <= wanted.nbytes and position % 2:
            wanted[: len(piece)] = piece  # as Inbox does it
            found += parser.filled(len(piece))
        else:
            found += parser.feed(piece)
    assert found == messages
    assert all(type(frame) is bytearray for message in found for frame in message[1:])


def test_what_waits_to_be_sent_does_not_change_any_more() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(ours)
        data = bytearray(b"a" * 2_000_000)
        link.send(b"header", [memoryview(data)])
        assert link.has_unsent
        link.own_unsent()
        data[:] = b"b" * len(data)
        received = bytearray()
        reader = threading.Thread(target=lambda: received.extend(theirs.makefile("rb").read()))
        reader.start()
        while link.has_unsent:
            link.flush()
        ours.shutdown(socket.SHUT_WR)
        reader.join(WAIT_S)
    assert received.count(b"b") == 0
    assert received.count(b"a") >= len(data)


# --- the whole way


@flowcore.python_app
def length(data: Any, path: str = "") -> tuple[int, int]:
    import pathlib
    import time

    while path and not pathlib.Path(path).exists():
        time.sleep(0.005)
    return len(data), data[-1]


@flowcore.python_app
def make(size: int) -> bytes:
    return b"x" * size


@flowcore.python_app
def add_one(numbers: Any) -> Any:
    numbers += 1
    return numbers


@flowcore.python_app
def die(data: bytes, mark: str = "") -> int:
    import os
    import pathlib

    if not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        os.kill(os.getpid(), 9)
    return len(data)


def folder_of(kernel: flowcore.DataFlowKernel) -> Path:
    folder: str = kernel.executors["htex"]._store.folder
    return Path(folder)


def stored_files(kernel: flowcore.DataFlowKernel) -> set[str]:
    return {name for name in os.listdir(folder_of(kernel)) if name[0] in "ar" and name[1:].isdigit()}


PLACES = pytest.mark.parametrize("options", [{}, {"address": "127.0.0.1"}], ids=["shared memory", "tcp"])


@PLACES
def test_large_values_come_and_go(load: Load, options: dict[str, Any]) -> None:
    load(**options)
    sizes = [LARGE + i for i in range(40)]
    futures = [length(bytes([i]) * size) for i, size in enumerate(sizes)]
    assert [f.result(timeout=WAIT_S) for f in futures] == [(size, i) for i, size in enumerate(sizes)]
    results = [make(size) for size in sizes]
    assert [len(f.result(timeout=WAIT_S)) for f in results] == sizes
    assert length(make(10**7)).result(timeout=WAIT_S) == (10**7, ord("x"))


@PLACES
def test_large_bytes_among_other_arguments(load: Load, options: dict[str, Any]) -> None:
    @flowcore.python_app
    def give_back(*values: Any, word: str = "") -> Any:
        return [*values, word]

    load(**options)
    values = [b"a" * LARGE, 1, "x" * LARGE, b"b" * LARGE, None]
    assert give_back(*values, word="y").result(timeout=WAIT_S) == [*values, "y"]
    assert give_back(b"c" * LARGE, [1], {"k": b"d" * LARGE}).result(timeout=WAIT_S)[2]["k"] == b"d" * LARGE


@PLACES
@pytest.mark.parametrize("size", [10, 100_000])
def test_an_array_can_be_written_to_where_it_arrives(load: Load, options: dict[str, Any], size: int) -> None:
    numpy = pytest.importorskip("numpy")
    load(**options)
    mine = numpy.zeros(size)
    theirs = add_one(mine).result(timeout=WAIT_S)
    theirs += 1
    assert (float(theirs.sum()), float(mine.sum())) == (2 * size, 0.0)


@PLACES
def test_an_argument_is_sent_as_it_was_when_the_app_was_called(
    load: Load, options: dict[str, Any], tmp_path: Path
) -> None:
    load(**options)
    numpy = pytest.importorskip("numpy")
    go = tmp_path / "go"
    array_ = numpy.zeros(LARGE)
    futures = []
    for i in range(20):
        array_[:] = i
        futures.append(length(array_, str(go)))
    array_[:] = -1
    go.touch()
    assert [f.result(timeout=WAIT_S)[1] for f in futures] == list(range(20))


def test_files_go_when_their_attempt_is_over(load: Load, tmp_path: Path) -> None:
    kernel = load()
    folder = folder_of(kernel)
    go = tmp_path / "go"
    running = [length(b"a" * LARGE, str(go)) for _ in range(2)]
    waiting = [length(b"b" * LARGE) for _ in range(6)]
    assert len(stored_files(kernel)) == 8
    for future in waiting:
        assert future.cancel()
    assert len(stored_files(kernel)) == 2
    go.touch()
    for future in running:
        future.result(timeout=WAIT_S)
    assert make(LARGE).result(timeout=WAIT_S)
    assert all(name.startswith("a") for name in stored_files(kernel)), "a result is removed when it is read"
    assert len(stored_files(kernel)) <= 2, "kept to be written again"
    flowcore.clear()
    assert not folder.exists()


def test_a_retry_finds_its_arguments(load: Load, tmp_path: Path) -> None:
    load(config={"retries": 1})
    assert die(b"x" * LARGE, str(tmp_path / "mark")).result(timeout=WAIT_S) == LARGE


def test_without_room_in_shared_memory_values_travel_with_their_messages(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = load()
    monkeypatch.setattr(Store, "put", lambda *_: None)
    assert [length(b"x" * LARGE).result(timeout=WAIT_S) for _ in range(3)] == [(LARGE, ord("x"))] * 3
    assert stored_files(kernel) == set()


def test_a_large_exception(load: Load) -> None:
    @flowcore.python_app
    def fail() -> None:
        raise ValueError("x" * LARGE)

    load()
    with pytest.raises(ValueError, match="xxx") as caught:
        fail().result(timeout=WAIT_S)
    assert len(str(caught.value)) == LARGE


def test_results_of_lost_attempts_do_not_stay(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SWEEP_S", 0.0)
    kernel = load()
    mark = tmp_path / "mark"
    with pytest.raises((WorkerLost, ManagerLost)):
        die(b"x" * LARGE, str(mark)).result(timeout=WAIT_S)
    (folder_of(kernel) / "r12345678").write_bytes(b"of a cancelled attempt")
    for _ in range(3):
        length(b"x").result(timeout=WAIT_S)
    eventually(lambda: "r12345678" not in stored_files(kernel), what="the sweep")
