"""What a task can do to its worker, its manager and this process: it costs that task alone, and says why."""

from __future__ import annotations

import collections
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from flowcore_executor_htex import protocol
from flowcore_executor_htex.link import Link, pack

import flowcore
from flowcore.errors import (
    AppExited,
    BadMessage,
    BashExitFailure,
    DeserializationError,
    ManagerLost,
    RemoteError,
    SerializationError,
    WorkerLost,
)
from flowcore.testing import processes, servers
from flowcore.testing.waiting import eventually

Load = Callable[..., flowcore.DataFlowKernel]
#: Seconds within which a fault of a task is to be known, on a machine that does other things as well.
BOUND_S = 20
MB = 2**20


@flowcore.python_app
def note(path: str, number: int) -> int:
    """Write down that it ran: one write that nobody else's can come into."""
    import os

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    return number


class Work:
    """Tasks beside the fault: none may be lost or doubled."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._futures: list[flowcore.AppFuture[int]] = []

    def add(self, count: int = 100) -> None:
        start = len(self._futures)
        self._futures += [note(str(self._path), start + i) for i in range(count)]

    def check(self) -> None:
        numbers = list(range(len(self._futures)))
        assert [f.result(timeout=BOUND_S) for f in self._futures] == numbers
        ran = collections.Counter(int(line) for line in self._path.read_text().split())
        assert ran == collections.Counter(numbers), "each ran once"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


def running(module: str) -> list[int]:
    """The process ids of htex's processes that run this module."""
    wanted = ["-P", "-m", f"flowcore_executor_htex.{module}"]
    return [p.pid for p in processes.descendants(os.getpid()) if p.command.split()[1:4] == wanted]


@flowcore.python_app
def own_pid() -> int:
    import os

    return os.getpid()


# --- how a worker may end


@flowcore.python_app
def read_address_zero() -> None:
    import ctypes

    ctypes.string_at(0)


@flowcore.python_app
def leave_through_sys_exit(code: object) -> None:
    import sys

    sys.exit(code)


@flowcore.python_app
def close_all_files() -> str:
    import os

    os.closerange(0, 1024)
    return "closed"


def test_a_segmentation_fault_is_named(load: Load, work: Work) -> None:
    load()
    work.add()
    with pytest.raises(WorkerLost, match=r"killed by signal 11 \(SIGSEGV\)"):
        read_address_zero().result(timeout=BOUND_S)
    work.add()
    work.check()


def test_sys_exit_in_a_task_ends_the_task_and_no_process(load: Load) -> None:
    load(max_workers_per_node=1)
    before = own_pid().result(timeout=BOUND_S)
    for code in (0, 3, "no more"):
        with pytest.raises(AppExited, match=f"leave_through_sys_exit.*{code}"):
            leave_through_sys_exit(code).result(timeout=BOUND_S)
    assert own_pid().result(timeout=BOUND_S) == before


def test_a_task_that_closes_all_files_loses_its_worker(load: Load, work: Work) -> None:
    load()
    work.add()
    with pytest.raises(WorkerLost, match="exited with code|closed its connection"):
        close_all_files().result(timeout=BOUND_S)
    work.add()
    work.check()


@flowcore.python_app
def kill_the_manager_once(mark: str) -> str:
    import os
    import pathlib
    import signal

    if not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return "second time"


def test_a_task_that_kills_its_manager_runs_again_in_another_block(load: Load, tmp_path: Path, work: Work) -> None:
    load(
        provider={"plugin": "local", "init_blocks": 2, "max_blocks": 2},
        heartbeat_period=0.3,
        heartbeat_threshold=1.5,
        config={"retries": 1, "strategy": "none"},
    )
    future = kill_the_manager_once(str(tmp_path / "mark"))
    assert future.result(timeout=BOUND_S) == "second time"
    work.add()
    work.check()


def test_a_task_that_kills_its_manager_costs_itself(load: Load, tmp_path: Path, work: Work) -> None:
    load(
        provider={"plugin": "local", "init_blocks": 2, "max_blocks": 2},
        heartbeat_period=0.3,
        heartbeat_threshold=1.5,
        config={"strategy": "none"},
    )
    with pytest.raises(ManagerLost, match=r"was lost with the task: nothing was heard of it for \d\.\d s"):
        kill_the_manager_once(str(tmp_path / "mark")).result(timeout=BOUND_S)
    work.add()
    work.check()


# --- what it may do to the connection to its manager


def _write_to_the_manager(garbage: bytes) -> None:
    import os
    import socket
    import stat

    # Those that the worker did not open for this task: the connection to its manager is among them.
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as connection:
                    connection.sendall(garbage)
        except OSError:  # listdir's own, which is gone
            continue


@flowcore.python_app
def send_garbage(garbage: bytes) -> str:
    _write_to_the_manager(garbage)
    return "sent"


def framed(header: bytes) -> bytes:
    return b"".join(pack(header, []))


GARBAGE = {
    "text": b"a line that was meant for somebody else\n",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "no message": framed(b"\xc1\xc1\xc1\xc1"),
    "a message of no worker": framed(protocol.encode_header(protocol.Cancel([1]))),
}


def test_garbage_on_the_connection_to_the_manager_costs_the_worker(load: Load, work: Work) -> None:
    load()
    own_pid().result(timeout=BOUND_S)
    before = running("manager")
    for garbage in GARBAGE.values():
        work.add()
        with pytest.raises(WorkerLost, match="what it sent is no message of a worker"):
            send_garbage(garbage).result(timeout=BOUND_S)
    work.add()
    work.check()
    assert len(before) == 1
    assert running("manager") == before


def test_messages_before_garbage_are_taken() -> None:
    # Else a result that came together with it would be lost, its task run twice, and another one be blamed.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        good = framed(protocol.encode_header(protocol.Results([], 1)))
        for garbage in (b"x" * 100, bytes(100), b"\xff" * 100):
            theirs.sendall(good + good + garbage)
            link = Link(ours)
            messages, alive = link.receive()
            assert (len(messages), alive) == (2, True)
            theirs.sendall(good)
            with pytest.raises(BadMessage):
                link.receive()


# --- stopped, deaf


@flowcore.python_app
def stop_itself(mark: str) -> None:
    import os
    import pathlib
    import signal

    pathlib.Path(mark).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_task_that_stopped_its_process_can_be_cancelled(load: Load, tmp_path: Path, work: Work) -> None:
    load(max_workers_per_node=1)
    mark = tmp_path / "mark"
    future = stop_itself(str(mark))
    eventually(lambda: mark.exists() and mark.read_text())
    pid = int(mark.read_text())
    eventually(lambda: (p := processes.look(pid)) is not None and p.state == "T")
    work.add()
    assert future.cancel()
    work.check()
    assert processes.gone(pid)


@flowcore.python_app
def be_deaf(mark: str) -> None:
    """Ignores and blocks all that can be, and leaves the process group."""
    import os
    import pathlib
    import signal

    everything = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    os.setsid()
    pathlib.Path(mark).touch()
    while True:
        signal.sigtimedwait([], 3600)


def test_a_task_that_hears_no_signal_ends_with_the_run(load: Load, tmp_path: Path) -> None:
    load()
    mark = tmp_path / "mark"
    be_deaf(str(mark))
    eventually(mark.exists)
    started = processes.descendants(os.getpid())
    began = time.monotonic()
    flowcore.clear()
    eventually(lambda: all(processes.gone(p.pid) for p in started), 10)
    assert time.monotonic() - began < BOUND_S, "in bounded time: manager and provider have 5 s each"


# --- memory


@flowcore.python_app
def take_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


@flowcore.python_app
def take_memory_in_c(megabytes: int) -> None:
    """As programs do that do not ask whether malloc gave something."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    libc.memset(libc.malloc(ctypes.c_size_t(megabytes * 2**20)), 1, megabytes * 2**20)


def test_a_limit_of_memory_is_an_error_of_the_task(load: Load, work: Work) -> None:
    load(provider={"plugin": "local", "worker_init": f"ulimit -v {2_000_000}"})
    work.add()
    with pytest.raises(MemoryError) as caught:
        take_memory(4000).result(timeout=BOUND_S)
    assert "on executor 'htex', block 0" in caught.value.__notes__[0]
    with pytest.raises(WorkerLost, match=r"killed by signal 11 \(SIGSEGV\)"):
        take_memory_in_c(4000).result(timeout=BOUND_S)
    assert take_memory(100).result(timeout=BOUND_S) == 100 * MB
    work.add()
    work.check()


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[str]:
    """A control group that may have 300 MB of memory: the file that takes its processes."""
    mounts = [line.split()[:4] for line in Path("/proc/mounts").read_text().splitlines()]
    for _, folder, kind, options in mounts:
        limit = {"cgroup": "memory.limit_in_bytes", "cgroup2": "memory.max"}.get(kind)
        if limit is None or kind == "cgroup" and "memory" not in options.split(","):
            continue
        group = Path(folder) / f"flowcore-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(300 * MB))
        except OSError:  # no controller of memory
            group.rmdir()
            continue
        break
    else:
        servers.unavailable("no control group with a limit of memory can be made (needs root and cgroups)")
    yield str(group / "cgroup.procs")
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@flowcore.python_app
def take_memory_once(mark: str) -> str:
    import pathlib

    if not pathlib.Path(mark).exists():
        pathlib.Path(mark).touch()
        bytearray(b"x") * (600 * 2**20)
    return "second time"


def test_a_worker_that_the_kernel_kills_for_its_memory(
    small_memory: str, load: Load, work: Work, tmp_path: Path
) -> None:
    load(provider={"plugin": "local", "worker_init": f"echo $$ > {small_memory}"}, config={"retries": 0})
    work.add()
    with pytest.raises(WorkerLost, match=r"killed by signal 9 \(SIGKILL\).*memory"):
        take_memory_once(str(tmp_path / "mark")).result(timeout=BOUND_S)
    work.add()
    work.check()
    flowcore.clear()
    load(provider={"plugin": "local", "worker_init": f"echo $$ > {small_memory}"}, config={"retries": 1})
    assert take_memory_once(str(tmp_path / "another mark")).result(timeout=BOUND_S) == "second time"


# --- results and exceptions that do not travel


class Unwritable(Exception):
    """Holds what cannot be pickled, by nobody."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def _call_when_loaded(name: str, home: int) -> str:
    if os.getpid() == home:
        return name
    if name == "exit":
        raise SystemExit("it left")
    if name == "interrupt":
        raise KeyboardInterrupt
    raise ValueError("only there")


class BadError(Exception):
    """Does something when it is loaded anywhere but where it was made."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.home = os.getpid()

    def __reduce__(self) -> tuple[object, ...]:
        return _load_error, (self.args[0], self.home)


def _load_error(name: str, home: int) -> BadError:
    error = BadError(_call_when_loaded(name, home))
    error.home = home
    return error


class Bomb:
    """Does something when it is loaded anywhere but where it was made."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[object, ...]:
        return _call_when_loaded, (self._name, os.getpid())


BOMBS = {"exit": "SystemExit: it left", "interrupt": "KeyboardInterrupt", "error": "ValueError: only there"}


@flowcore.python_app
def raise_unwritable(path: str) -> None:
    with open(path, "a") as file:
        file.write("ran\n")
    raise Unwritable("what happened")


@flowcore.python_app
def raise_bomb(name: str) -> None:
    raise BadError(name)


@flowcore.python_app
def return_bomb(name: str) -> Bomb:
    return Bomb(name)


@flowcore.python_app
def take(argument: object) -> str:
    return "taken"


@flowcore.python_app
def return_unwritable(path: str) -> object:
    with open(path, "a") as file:
        file.write("ran\n")
    return (i for i in range(3))


def test_an_exception_that_cannot_be_sent_is_told_as_text(load: Load, tmp_path: Path) -> None:
    load(config={"retries": 1})
    with pytest.raises(RemoteError, match=r"Unwritable: what happened \(the exception object itself could not be"):
        raise_unwritable(str(tmp_path / "ran")).result(timeout=BOUND_S)
    assert (tmp_path / "ran").read_text() == "ran\n" * 2, "it failed, and so it was tried again"


def test_what_raises_whatever_when_it_is_loaded_costs_its_task(load: Load, work: Work) -> None:
    load()
    for name, text in BOMBS.items():
        work.add(50)
        with pytest.raises(DeserializationError, match=f"the result of the task cannot be loaded here: {text}"):
            return_bomb(name).result(timeout=BOUND_S)
        with pytest.raises(DeserializationError, match=f"an exception that cannot be loaded here: {text}"):
            raise_bomb(name).result(timeout=BOUND_S)
        with pytest.raises((AppExited, ValueError), match=text.rpartition(": ")[2]):
            take(Bomb(name)).result(timeout=BOUND_S)
    work.add()
    work.check()


class Exits(Exception):
    """Ends whatever process loads it, the worker that looks whether it can be loaded among them."""

    def __reduce__(self) -> tuple[object, ...]:
        return sys.exit, (3,)


class Disguised(Exception):
    """Is no exception any more once it has travelled."""

    def __init__(self, text: str, home: int = 0) -> None:
        super().__init__(text)
        self.home = os.getpid()

    def __reduce__(self) -> tuple[object, ...]:
        return _disguise, (self.args[0], self.home)


def _disguise(text: str, home: int) -> object:
    return Disguised(text) if os.getpid() == home else "a string"


@flowcore.python_app
def raise_exits() -> None:
    raise Exits("what happened")


@flowcore.python_app
def raise_disguised() -> None:
    raise Disguised("what happened")


def test_exceptions_that_play_tricks_cost_their_task(load: Load) -> None:
    load(max_workers_per_node=1)
    before = own_pid().result(timeout=BOUND_S)
    with pytest.raises(Exits, match="what happened"):
        raise_exits().result(timeout=BOUND_S)
    with pytest.raises(DeserializationError, match="cannot be loaded here: TypeError: it became a str"):
        raise_disguised().result(timeout=BOUND_S)
    assert own_pid().result(timeout=BOUND_S) == before


def test_a_result_that_cannot_be_sent_is_not_computed_again(load: Load, tmp_path: Path) -> None:
    load(config={"retries": 3})
    with pytest.raises(SerializationError, match="the result of the app cannot be serialized"):
        return_unwritable(str(tmp_path / "ran")).result(timeout=BOUND_S)
    assert (tmp_path / "ran").read_text() == "ran\n"


# --- output without end


@flowcore.python_app
def flood(fd: int, megabytes: int) -> int:
    import os

    line = b"x" * 127 + b"\n"
    for _ in range(megabytes):
        block = line * 8192
        while block:
            block = block[os.write(fd, block) :]
    return megabytes


@flowcore.bash_app
def flood_in_bash(megabytes: int, code: int, stdout=None, stderr=None):  # type: ignore[no-untyped-def]
    return f"head -c {megabytes}M /dev/zero; head -c {megabytes}M /dev/zero | tr '\\0' 'x' >&2; exit {code}"


def memory_mb() -> dict[str, float]:
    """The memory of the run's processes, this one's among them."""
    pids = [os.getpid(), *(pid for name in ("interchange", "manager", "worker") for pid in running(name))]
    return {str(pid): psutil.Process(pid).memory_info().rss / MB for pid in pids}


def test_output_without_end_goes_to_the_block_s_files_and_costs_no_memory(
    load: Load, work: Work, tmp_path: Path
) -> None:
    dfk = load(max_workers_per_node=1)
    work.add()
    work.check()
    before = memory_mb()
    assert [flood(fd, 200).result(timeout=BOUND_S) for fd in (1, 2)] == [200, 200]
    assert flood_in_bash(100, 0).result(timeout=BOUND_S) == 0
    with pytest.raises(BashExitFailure, match="x{50}") as caught:
        flood_in_bash(50, 7, stdout=str(tmp_path / "out"), stderr=str(tmp_path / "err")).result(timeout=BOUND_S)
    assert len(str(caught.value)) < 5000, "the end of it"
    after = memory_mb()
    assert after.keys() == before.keys()
    assert all(after[pid] - before[pid] < 50 for pid in after), (before, after)
    [out] = dfk.run_dir.glob("submit_scripts/*.out")
    [err] = dfk.run_dir.glob("submit_scripts/*.err")
    assert out.stat().st_size >= 300 * MB
    assert err.stat().st_size >= 300 * MB
    assert (tmp_path / "out").stat().st_size >= 50 * MB
    for path in (out, err, tmp_path / "out", tmp_path / "err"):
        path.unlink()
    work.add()
    work.check()


# --- what a task leaves to those after it


@flowcore.python_app
def make_a_mess(folder: str) -> None:
    import os
    import signal
    import sys

    os.makedirs(folder)
    os.chdir(folder)
    os.rmdir(folder)
    os.environ.clear()
    os.umask(0o777)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE})
    sys.stdout.close()
    sys.stderr.close()
    sys.path.clear()
    sys.setrecursionlimit(60)


@flowcore.bash_app
def in_bash():  # type: ignore[no-untyped-def]
    return "true"


def test_what_a_task_spoils_in_its_process_does_not_stop_the_others(load: Load, work: Work, tmp_path: Path) -> None:
    load(max_workers_per_node=1)
    pid = own_pid().result(timeout=BOUND_S)
    make_a_mess(str(tmp_path / "gone")).result(timeout=BOUND_S)
    assert own_pid().result(timeout=BOUND_S) == pid
    work.add(20)
    work.check()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: processes.gone(pid))
    assert in_bash().result(timeout=BOUND_S) == 0
