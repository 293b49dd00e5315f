"""Walltimes on workers that earlier calls left in a bad state: the worker goes, and the node works on."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from flowcore_executor_htex import protocol
from flowcore_executor_htex.link import Inbox, pack
from flowcore_executor_htex.settings import WorkerSettings
from flowcore_executor_htex.tokens import Tokens

import flowcore
from flowcore import serialize
from flowcore.errors import AppTimeout
from flowcore.walltime import WithWalltime

Load = Callable[..., flowcore.DataFlowKernel]


@flowcore.python_app
def own_pid() -> int:
    import os

    return os.getpid()


@flowcore.python_app
def leave_a_handler() -> int:
    import os
    import signal

    signal.signal(signal.SIGALRM, lambda number, frame: None)
    return os.getpid()


@flowcore.python_app
def ignore_the_signal() -> int:
    import os
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return os.getpid()


@flowcore.python_app
def hold_the_interpreter(walltime: float = 0.3) -> None:
    """Never lets another thread of its process run."""
    import re

    re.match("(a|a)*$", "a" * 60 + "b")


@flowcore.python_app
def overrun_with_threads(mark: str, walltime: float = 0.3) -> None:
    """Waits in the C library, and has a thread that the interpreter would wait for at its end."""
    import os
    import pathlib
    import threading
    import time

    threading.Thread(target=time.sleep, args=(1000,), daemon=False).start()
    pathlib.Path(mark).write_text(str(os.getpid()))
    time.sleep(1000)


@flowcore.python_app
def block_the_signal() -> int:
    import os
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    return os.getpid()


@pytest.mark.parametrize(
    "spoil", [leave_a_handler, ignore_the_signal, block_the_signal], ids=["handler", "ignored", "blocked"]
)
def test_a_handler_of_an_earlier_task_does_not_switch_the_backstop_off(
    spoil: Callable[[], flowcore.AppFuture[int]], load: Load
) -> None:
    load(max_workers_per_node=1)
    before = spoil().result(timeout=30)
    late = hold_the_interpreter()
    following = own_pid()
    with pytest.raises(AppTimeout, match="its worker was ended and replaced"):
        late.result(timeout=30)
    assert following.result(timeout=30) != before


def test_a_worker_with_threads_of_an_overrunning_call_is_replaced(load: Load, tmp_path: Path) -> None:
    load(max_workers_per_node=1)
    mark = tmp_path / "mark"
    late = overrun_with_threads(str(mark))
    following = [own_pid() for _ in range(5)]
    with pytest.raises(AppTimeout, match="ran longer than its walltime"):
        late.result(timeout=30)
    retired = int(mark.read_text())
    pids = {future.result(timeout=30) for future in following}
    assert len(pids) == 1
    assert retired not in pids
    assert not psutil.pid_exists(retired)


def test_a_worker_that_retires_leaves_by_itself_whatever_threads_it_has() -> None:
    # Without a manager, which would in the end kill it, and stand still until then.
    def overrun() -> None:
        import threading
        import time

        threading.Thread(target=time.sleep, args=(1000,), daemon=False).start()
        time.sleep(1000)

    body = serialize.dumps_callable(WithWalltime(overrun, 0.1, "overrun"), "overrun")
    attempt = protocol.TaskItem(1, b"function", serialize.dumps(((), {}), what="the arguments"))
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(Tokens()) as tokens:
        tokens.put(1)
        command = [sys.executable, "-m", "flowcore_executor_htex.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno(), tokens.reader])
        try:
            theirs.close()
            for header in (
                msgspec.msgpack.encode(WorkerSettings("here", tuple(sys.path), tokens=tokens.reader)),
                protocol.encode_header(protocol.Tasks([attempt], {b"function": body})),
            ):
                ours.sendall(b"".join(pack(header, [])))
            assert process.wait(30) == 0
            inbox, messages = Inbox(ours), []
            while (some := inbox.read()) is not None:
                messages += [protocol.decode(header) for header, *_ in some]
        finally:
            process.kill()
            process.wait()
    ready, results, end = messages
    assert isinstance(ready, protocol.Heartbeat)
    assert isinstance(results, protocol.Results)
    assert [(item.key, item.kind) for item in results.results] == [(1, protocol.ERROR)]
    assert end == protocol.Stop("a call that overran its walltime does not end")
