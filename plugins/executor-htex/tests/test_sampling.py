"""How samples are taken and passed on: the parts that need no run."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from flowcore_executor_htex import manager, protocol, sampling, usage
from flowcore_executor_htex.dispatch import Dispatcher, Output
from flowcore_executor_htex.interchange import Interchange
from flowcore_executor_htex.link import Inbox, Link, pack
from flowcore_executor_htex.protocol import BEGIN, END, RUNNING, Sample, Samples
from flowcore_executor_htex.sampling import Outbox, Sampler, Watched
from flowcore_executor_htex.settings import InterchangeSettings
from flowcore_executor_htex.submit import Connection, key_of
from flowcore_executor_htex.usage import Page, Usage

from flowcore.errors import BadMessage
from flowcore.executors import HighThroughputExecutor
from flowcore.plugins.api import ExecutorContext, ResourceSample
from flowcore.testing.waiting import eventually as until


def sample(key: int = 1, kind: int = RUNNING, rank: int = 0, **values: Any) -> Sample:
    made = Sample(key, rank, kind, 1e9, 10, 1, 1.0, 0.5, 1000, 2000, 0.1, 100, 200, "running")
    return msgspec.structs.replace(made, **values)


# --- the message


@pytest.mark.parametrize(
    "values",
    [
        {"cpu_user_s": float("nan")},
        {"cpu_user_s": -1.0},
        {"memory_percent": float("inf")},
        {"at": float("inf")},
        {"memory_resident": -1},
        {"disk_read": 1 << 63},
        {"key": -1},
        {"status": "x" * 33},
        {"kind": 3},
    ],
    ids=str,
)
def test_numbers_that_nothing_can_use_are_no_sample(values: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        protocol.decode(protocol.encode_header(Samples([sample(**values)])))


# --- the outbox


def test_samples_leave_one_message_at_a_time() -> None:
    outbox = Outbox()
    assert outbox.take(0.0) is None
    assert outbox.wait_s(0.0) == float("inf")
    outbox.add([sample(1)])
    assert outbox.wait_s(0.0) == 0.0
    assert outbox.take(0.0) == Samples([sample(1)])
    outbox.add([sample(2), sample(3)])
    assert outbox.take(99.0) is None, "the last one has not been passed on"
    assert outbox.wait_s(99.0) == float("inf")
    outbox.taken()
    assert outbox.take(0.05) is None
    assert outbox.wait_s(0.05) == pytest.approx(sampling.SPACING_S - 0.05)
    assert outbox.take(0.1) == Samples([sample(2), sample(3)])
    assert len(outbox) == 0


def test_the_oldest_are_dropped_and_counted_when_nobody_takes_them() -> None:
    outbox = Outbox(limit=3)
    outbox.add([sample(key) for key in range(5)])
    outbox.add([sample(5)])
    assert outbox.take(0.0) == Samples([sample(3), sample(4), sample(5)], lost=3)
    outbox.taken()
    outbox.add([sample(6)])
    assert outbox.take(1.0) == Samples([sample(6)], lost=0)


def test_at_the_end_all_leave_at_once() -> None:
    outbox = Outbox()
    outbox.add([sample(key) for key in range(2 * sampling.BATCH + 1)])
    sizes = []
    while (message := outbox.take(0.0, last=True)) is not None:
        sizes.append(len(message.samples))
    assert sizes == [sampling.BATCH, sampling.BATCH, 1]


# --- the worker's side


@pytest.fixture
def pages() -> tuple[Page, Usage]:
    """A manager's end of a page, and a worker's notes in it."""
    page = Page()
    shared = Page(os.dup(page.fd))
    page.close_fd()
    page.close_fd()
    return page, Usage(shared, 3)


def test_the_page_says_which_attempt_runs(pages: tuple[Page, Usage]) -> None:
    page, notes = pages
    assert page.running is None
    began_ns = time.monotonic_ns()
    least_us = sum(usage.used_by_process()[:2])
    notes.begin(0)
    most_us = sum(usage.used_by_process()[:2])
    assert page.running == 0
    assert began_ns <= page.began_ns <= time.monotonic_ns()
    user_us, system_us, _, _ = page.before
    assert 0 < least_us <= user_us + system_us <= most_us
    notes.end()
    assert page.running is None
    assert notes.sample is None, "it took a moment"
    notes.begin(7)
    assert page.running == 7


def test_a_long_attempt_has_a_sample_of_its_end(pages: tuple[Page, Usage], monkeypatch: pytest.MonkeyPatch) -> None:
    page, notes = pages
    monkeypatch.setattr(usage, "_LONG_NS", 1)
    notes.begin(9)
    began = time.process_time()
    while time.process_time() - began < 0.2:
        sum(range(1000))
    notes.end()
    found = notes.sample
    assert found is not None
    assert (found.key, found.rank, found.kind, found.pid) == (9, 3, END, os.getpid())
    assert found.cpu_user_s + found.cpu_system_s == pytest.approx(0.2, abs=0.05)
    assert found.memory_resident == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert found.memory_virtual == pytest.approx(psutil.Process().memory_info().vms, rel=0.1)
    assert found.memory_percent == pytest.approx(psutil.Process().memory_percent(), rel=0.1)
    notes.end()
    assert notes.sample is found, "a second end is none"
    notes.begin(10)
    assert notes.sample is None
    notes.end()
    assert notes.sample is not None
    assert notes.sample.cpu_user_s + notes.sample.cpu_system_s < 0.05, "what was used before does not count"


def test_the_kernel_is_asked_only_when_something_may_have_been_used(
    pages: tuple[Page, Usage], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, notes = pages
    asked = []

    def counted() -> usage.Used:
        asked.append(1)
        return 0, 0, 0, 0

    monkeypatch.setattr(usage, "used_by_process", counted)
    clock = iter(range(0, 10**12, 100_000))  # each look at it is 0.1 ms later
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    for key in range(60):
        notes.begin(key)
        notes.end()
    assert len(asked) == 2, "once at first, and once for the 3 ms that the first 30 took"


def test_a_task_that_left_no_file_descriptor_has_no_sample_and_no_error(
    pages: tuple[Page, Usage], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, notes = pages
    monkeypatch.setattr(usage, "_LONG_NS", 1)
    notes.begin(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        notes.end()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert notes.sample is None


# --- the manager's side


def test_a_worker_does_without_a_page_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert manager.new_page() is not None

    def refused(name: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert manager.new_page() is None
    assert caplog.messages == ["no samples are taken of a worker: [Errno 1] Operation not permitted"]


def test_a_worker_without_a_page_has_no_samples(worker: FakeWorker) -> None:
    other = FakeWorker()
    try:
        for each in (other, worker):
            each.say("begin 1")
        other.page = None
        with Taker(0.1, other, worker) as taker:
            assert {s.pid for s in taker.until(2)} == {worker.process.pid}
    finally:
        other.close()


WORKER = """
import os, subprocess, sys
from flowcore_executor_htex.usage import Page, Usage
notes = Usage(Page(int(sys.argv[1])), 0)
children = []
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "begin":
        notes.begin(int(rest))
    elif word == "end":
        notes.end()
    elif word == "scribble":
        for place, number in enumerate(rest.split()):
            notes._numbers[place] = int(number)
    elif word == "start":
        children.append(subprocess.Popen([sys.executable, "-c", rest], stdout=subprocess.PIPE))
        children[-1].stdout.readline()
    print("done", flush=True)
for child in children:
    child.kill()
    child.wait()
"""
BURN = "import time; t = time.process_time\nexec('while t() < {}: pass'); print(flush=True); time.sleep(60)"


class FakeWorker:
    """A process that does with its page what it is told."""

    rank = 0

    def __init__(self) -> None:
        self.page: Page | None = Page()
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.page.fd)],
            pass_fds=[self.page.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def say(self, *words: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words).encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"

    def start(self, code: str) -> None:
        self.say("start", f"exec({code!r})")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    made = FakeWorker()
    yield made
    made.close()


class Taker:
    """A sampler of one worker, and what it has found."""

    def __init__(self, period_s: float, *workers: Watched, busy: bool = True) -> None:
        self.sampler = Sampler(period_s, lambda: workers, lambda: busy)
        self.found: list[Sample] = []

    def take(self) -> list[Sample]:
        message = self.sampler.outbox.take(time.monotonic(), last=True)
        self.found += [] if message is None else message.samples
        return self.found

    def until(self, count: int) -> list[Sample]:
        until(lambda: len(self.take()) >= count, timeout_s=20)
        return self.found

    def __enter__(self) -> Taker:
        self.sampler.given()
        return self

    def __exit__(self, *exception: object) -> None:
        self.sampler.close()


def test_an_attempt_has_a_beginning_and_then_one_sample_a_period(worker: FakeWorker) -> None:
    worker.say("begin 5")
    with Taker(0.2, worker) as taker:
        first, *others = taker.until(4)
        assert (first.key, first.kind, first.pid, first.processes) == (5, BEGIN, worker.process.pid, 1)
        assert {s.kind for s in others} == {RUNNING}
        assert [s.at for s in taker.found] == sorted(s.at for s in taker.found)
        assert taker.found[3].at - taker.found[1].at > 0.3
        taker.sampler.ended(sample(5, END, cpu_user_s=9.0, cpu_system_s=0.0))
        ended = until(lambda: [s for s in taker.take() if s.kind == END])[0]
        assert ended.cpu_user_s == 9.0
        worker.say("end")
        worker.say("begin 6")
        until(lambda: [s for s in taker.take() if s.key == 6])
        assert [s.kind for s in taker.found if s.key == 6][0] == BEGIN


def test_a_period_of_zero_takes_the_beginning_only(worker: FakeWorker) -> None:
    worker.say("begin 5")
    with Taker(0.0, worker) as taker:
        taker.until(1)
        worker.say("end")
        worker.say("begin 6")
        taker.until(2)
    assert [(s.key, s.kind) for s in taker.take()] == [(5, BEGIN), (6, BEGIN)]


def test_the_thread_sleeps_while_nothing_runs(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(Sampler, "_look", lambda self, now: looks.append(now))
    with Taker(0.1, worker, busy=False) as taker:
        until(lambda: looks)
        time.sleep(3 * sampling.LOOK_S)  # that nothing happens cannot be waited for
        assert len(looks) == 1
        taker.sampler.given()
        until(lambda: len(looks) == 2)


def test_what_a_child_had_used_before_the_attempt_does_not_count(worker: FakeWorker) -> None:
    worker.start(BURN.format(0.6))
    until(lambda: psutil.Process(worker.process.pid).children())
    # Longer than the clock that tells which was first is fine.
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 2 * sampling.OLDER_S)
    worker.say("begin 1")
    worker.start(BURN.format(0.3))
    with Taker(0.1, worker) as taker:
        taker.until(2)
    for found in taker.found:
        assert found.processes == 3
        assert 0.25 < found.cpu_user_s + found.cpu_system_s < 0.55, "of the second child alone"
        assert found.memory_resident > psutil.Process(os.getpid()).memory_info().rss / 10


def test_what_a_process_had_used_is_not_forgotten_when_it_is_gone(worker: FakeWorker) -> None:
    worker.say("begin 1")
    worker.start(BURN.format(0.3))
    with Taker(0.1, worker) as taker:
        taker.until(1)
        [child] = psutil.Process(worker.process.pid).children()
        used = taker.take()[-1]
        # Its parent does not wait for it: the kernel tells nobody what it had used.
        child.kill()
        until(lambda: child.status() == psutil.STATUS_ZOMBIE)
        taker.until(len(taker.take()) + 2)
        assert taker.found[-1].cpu_user_s >= used.cpu_user_s
        taker.sampler.ended(sample(1, END, cpu_user_s=0.0, cpu_system_s=0.0))
        ended = until(lambda: [s for s in taker.take() if s.kind == END])[0]
        assert ended.cpu_user_s >= used.cpu_user_s > 0


def test_a_worker_that_vanishes_is_no_error(worker: FakeWorker, caplog: pytest.LogCaptureFixture) -> None:
    other = FakeWorker()
    worker.say("begin 1")
    other.say("begin 2")
    other.process.kill()
    other.process.wait()
    try:
        with Taker(0.1, other, worker) as taker:
            until(lambda: len([s for s in taker.take() if s.key == 1]) > 1)
        assert {s.key for s in taker.found} == {1}
        assert caplog.text == ""
    finally:
        other.close()


def test_a_process_that_vanishes_while_it_is_looked_at_is_no_error(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker.start(BURN.format(0.0))
    worker.say("begin 1")
    read = sampling.read

    def gone(process: psutil.Process) -> Any:
        if process.pid != worker.process.pid:
            raise psutil.NoSuchProcess(process.pid)
        return read(process)

    monkeypatch.setattr(sampling, "read", gone)
    with Taker(0.1, worker) as taker:
        assert {s.processes for s in taker.until(2)} == {1}
    assert caplog.text == ""


def test_a_sample_of_an_attempt_that_ended_meanwhile_is_dropped(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.say("begin 1")
    read = sampling.read

    def late(process: psutil.Process) -> Any:
        found = read(process)
        if worker.page is not None and worker.page.running == 1:
            worker.say("end")
            worker.say("begin 2")
        return found

    monkeypatch.setattr(sampling, "read", late)
    with Taker(0.1, worker) as taker:
        taker.until(2)
    assert {s.key for s in taker.found} == {2}


@pytest.mark.parametrize("number", [0, -1, -(1 << 63), (1 << 63) - 1])
def test_whatever_a_task_writes_to_its_page_the_sample_can_be_read(worker: FakeWorker, number: int) -> None:
    worker.say("scribble", *[str((1 << 63) - 1), "0", *[str(number)] * 4])
    with Taker(0.1, worker) as taker:
        found = taker.until(2)
    assert protocol.decode(protocol.encode_header(Samples(found))) == Samples(found)
    worker.say("scribble", *[str(number)] * 6)


def test_a_look_that_fails_is_logged_and_the_next_one_comes(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker.say("begin 1")
    real = sampling.children_of_all
    failures = iter([ZeroDivisionError("in psutil")])

    def sometimes() -> Any:
        for failure in failures:
            raise failure
        return real()

    monkeypatch.setattr(sampling, "children_of_all", sometimes)
    with Taker(0.1, worker) as taker:
        assert taker.until(1)[0].key == 1
    assert "taking samples failed" in caplog.text


def test_a_kernel_that_does_not_count_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process()
    sum(range(10**6))
    for problem in (psutil.AccessDenied(process.pid), RuntimeError("empty"), AttributeError("io_counters")):

        def denied(self: psutil.Process, problem: Exception = problem) -> Any:
            raise problem

        monkeypatch.setattr(psutil.Process, "io_counters", denied)
        found = sampling.read(process)
        assert found.used[2:] == (0, 0)
        assert found.used[0] > 0


def test_what_is_written_to_the_disk_is_counted(worker: FakeWorker, tmp_path: Path) -> None:
    size = 4 << 20
    worker.say("begin 1")
    code = f"f = open({str(tmp_path / 'data')!r}, 'wb'); f.write(b'x' * {size}); f.flush(); import os, time"
    worker.start(f"{code}; os.fsync(f.fileno()); print(flush=True); time.sleep(60)")
    # Not every file system has storage below it: what the kernel says of the child is the measure.
    [child] = psutil.Process(worker.process.pid).children()
    written = child.io_counters().write_bytes
    with Taker(0.1, worker) as taker:
        found = taker.until(1)[0]
    assert written <= found.disk_write <= written + size


def test_a_tree_that_bites_its_tail() -> None:
    own = psutil.Process()
    assert sampling.tree(own.pid, {own.pid: [own]}) == []


# --- the interchange's side


def sent(outputs: Sequence[Output]) -> list[tuple[bytes | None, Any]]:
    return [(identity, protocol.decode(frames[0])) for identity, frames in outputs]


def greet(dispatcher: Dispatcher, name: str, now: float = 0.0, block: str = "0") -> list[tuple[bytes | None, Any]]:
    hello = protocol.hello(name, block, f"host-{name}", 2, total_memory=64)
    return sent(dispatcher.greet(name.encode(), hello, now))


def test_samples_are_passed_on_with_their_place_and_answered() -> None:
    dispatcher = Dispatcher(10.0)
    greet(dispatcher, "a")
    greet(dispatcher, "b", block="1")
    assert not dispatcher.has_samples
    for number, name in enumerate((b"a", b"b")):
        # What a manager says of its place is not taken for true.
        message = Samples([sample(number)], 5, "forged", "forged")
        assert dispatcher.from_manager(name, message, [], 1.0) == []
    assert dispatcher.has_samples
    assert sent(dispatcher.pass_samples()) == [
        (None, Samples([sample(0)], 5, "0", "host-a")),
        (b"a", Samples([])),
    ]
    assert sent(dispatcher.pass_samples()) == [(None, Samples([sample(1)], 5, "1", "host-b")), (b"b", Samples([]))]
    assert not dispatcher.has_samples


def test_the_answer_counts_as_a_message() -> None:
    dispatcher = Dispatcher(10.0)
    greet(dispatcher, "a")
    dispatcher.from_manager(b"a", Samples([sample()]), [], 1.0)
    dispatcher.pass_samples()
    # Two to it: the greeting's answer and that of the samples; one from it.
    assert sent(dispatcher.from_manager(b"a", protocol.Heartbeat(1), [], 2.0)) == [(b"a", protocol.Heartbeat(2))]


def test_samples_of_a_manager_that_is_gone_are_passed_on() -> None:
    dispatcher = Dispatcher(10.0)
    greet(dispatcher, "a")
    dispatcher.from_manager(b"a", Samples([sample()]), [], 1.0)
    dispatcher.from_manager(b"a", protocol.Stop("its block ended"), [], 2.0)
    assert sent(dispatcher.pass_samples()) == [(None, Samples([sample()], 0, "0", "host-a"))]


def test_a_manager_that_does_not_wait_for_the_answer_takes_no_more_room() -> None:
    dispatcher = Dispatcher(10.0)
    greet(dispatcher, "a")
    for number in range(100):
        dispatcher.from_manager(b"a", Samples([sample(number)]), [], 1.0)
    assert sent(dispatcher.pass_samples())[0] == (None, Samples([sample(99)], 0, "0", "host-a"))
    assert not dispatcher.has_samples


def test_nobody_else_sends_samples_or_nodes() -> None:
    dispatcher = Dispatcher(10.0)
    greet(dispatcher, "a")
    node = protocol.Node("a", "0", "host", 2, 4, 64, "3.11.2", True)
    for message in (Samples([sample()]), node):
        with pytest.raises(BadMessage, match="is no message of an executor"):
            dispatcher.from_executor(message, [])
    with pytest.raises(BadMessage, match="Node is no message of a manager"):
        dispatcher.from_manager(b"a", node, [], 1.0)


def test_nodes_are_told_once_when_they_come_and_once_when_they_go() -> None:
    dispatcher = Dispatcher(10.0, tell_nodes=True)
    (to, node), *_ = greet(dispatcher, "a")
    assert to is None
    assert (node.manager_id, node.block_id, node.hostname, node.workers) == ("a", "0", "host-a", 2)
    assert (node.cpu_count, node.total_memory, node.connected) == (os.cpu_count(), 64, True)
    gone = msgspec.structs.replace(node, connected=False)
    # It started again: the first one is gone before the second one comes.
    assert greet(dispatcher, "a")[:2] == [(None, gone), (None, node)]
    assert sent(dispatcher.from_manager(b"a", protocol.Stop("its block ended"), [], 1.0)) == [(None, gone)]
    greet(dispatcher, "b")
    assert [m.connected for to, m in sent(dispatcher.tick(100.0)) if isinstance(m, protocol.Node)] == [False]
    assert dispatcher.tick(200.0) == []


def test_a_manager_that_comes_again_before_its_last_connection_is_missed() -> None:
    dispatcher = Dispatcher(10.0, tell_nodes=True)

    def come(identity: bytes, now: float) -> list[bool]:
        outputs = sent(dispatcher.greet(identity, protocol.hello("same", "0", "host", 2), now))
        return [m.connected for _, m in outputs if isinstance(m, protocol.Node)]

    assert come(b"first", 0.0) == [True]
    assert come(b"second", 8.0) == [False, True]
    # The first one is given up: its node is not gone.
    assert dispatcher.tick(11.0) == []
    assert list(dispatcher.managers) == [b"second"]
    assert [m.connected for _, m in sent(dispatcher.tick(99.0))] == [False]


def test_nobody_is_told_of_nodes_who_did_not_ask() -> None:
    dispatcher = Dispatcher(10.0)
    assert [type(message) for _, message in greet(dispatcher, "a")] == [protocol.Heartbeat]
    assert dispatcher.from_manager(b"a", protocol.Stop("its block ended"), [], 1.0) == []


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Interchange, socket.socket]]:
    """An interchange that does not run, and the executor's end of its link."""
    ours, theirs = socket.socketpair()
    folder = tmp_path / "store"
    folder.mkdir()
    settings = InterchangeSettings("127.0.0.1", str(folder / "hub"), (54000, 55000), 10.0, "log", False)
    interchange = Interchange(settings, Link(theirs))
    yield interchange, ours
    interchange._close()
    ours.close()
    theirs.close()


def test_samples_wait_while_results_do(hub: tuple[Interchange, socket.socket]) -> None:
    interchange, ours = hub
    link, dispatcher = interchange._executor, interchange._dispatcher
    greet(dispatcher, "a")
    greet(dispatcher, "b")
    results = protocol.encode_header(protocol.Results([protocol.ResultItem(1, protocol.VALUE, b"x" * 30000)]))
    count = 0
    while not link.has_unsent:
        link.send(results)
        count += 1
    dispatcher.from_manager(b"a", Samples([sample(1)]), [], 1.0)
    dispatcher.from_manager(b"b", Samples([sample(2)]), [], 1.0)
    interchange._pass_samples()
    assert dispatcher.has_samples, "the executor has results to read"
    inbox = Inbox(ours)
    ours.settimeout(10)
    kinds: list[type] = []

    def read_one_more() -> None:
        for message in inbox.read() or []:
            kinds.append(type(protocol.decode(message[0])))

    while len(kinds) < count:
        read_one_more()
        link.flush()
    interchange._send = lambda outputs: [link.send(*f) for to, f in outputs if to is None]  # type: ignore[assignment, func-returns-value, misc]
    interchange._pass_samples()
    assert not dispatcher.has_samples
    while len(kinds) < count + 2:
        read_one_more()
    assert kinds == [protocol.Results] * count + [Samples] * 2


# --- the submit side


def test_results_are_reported_before_samples_that_came_with_them() -> None:
    ours, theirs = socket.socketpair()
    happened: list[str] = []
    connection = Connection(
        "htex",
        Link(ours),
        lambda results: happened.append("results"),
        lambda managers: happened.append("managers"),
        lambda: happened.append("end"),
        None,
        lambda samples: happened.append(f"samples {samples.samples[0].key}"),
        lambda node: happened.append("node"),
    )
    try:
        connection.outstanding[1 << 16] = b"f"
        connection._functions.release = lambda digest: None  # type: ignore[method-assign]
        link = Link(theirs)
        parts: list[bytes] = []
        for message in (
            Samples([sample(7)]),
            protocol.Node("a", "0", "host", 2, 4, 64, "3.11.2", True),
            protocol.Results([protocol.ResultItem(1 << 16, protocol.VALUE, b"\x80\x05N.")]),
            Samples([sample(8)]),
        ):
            parts.append(protocol.encode_header(message))
        theirs.sendall(b"".join(bytes(buffer) for part in parts for buffer in pack(part, [])))
        until(lambda: len(happened) == 4)
        assert happened == ["node", "results", "samples 7", "samples 8"]
        link.close()
        connection.wait_for_end(10)
        assert happened[-1] == "end"
    finally:
        connection.close()


def test_dropped_samples_are_told_once_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[ResourceSample] = []
    begun: list[tuple[int, int]] = []
    executor = HighThroughputExecutor(label="htex")
    context = ExecutorContext(
        "id", tmp_path, lambda results: None, begun.extend, resource_period_s=1.0, resources=taken.extend
    )
    executor._context = context
    executor._take_samples(Samples([sample(key_of(7, 2), BEGIN, 3)], 5, "0", "n1"))
    executor._take_samples(Samples([sample(key_of(7, 2), END, 3)], 6, "0", "n1"))
    executor.shutdown()
    assert begun == [(7, 2)]
    assert [(s.task_id, s.try_id, s.worker, s.kind) for s in taken] == [(7, 2, 3, "begin"), (7, 2, 3, "end")]
    assert {(s.executor, s.block_id, s.hostname) for s in taken} == {("htex", "0", "n1")}
    assert caplog.messages == [
        "executor htex: 11 samples of what tasks used were dropped, since the connection was behind"
    ]
