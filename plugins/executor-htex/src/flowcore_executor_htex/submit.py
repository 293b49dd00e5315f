"""The submit side's connection to the interchange: attempts out, results in.

Rules of this module. Attempts leave in batches: one that comes while little else is on its way leaves at once, on the
thread that submits it; those that results set free leave together, when the results have been taken in; while many
come, they leave when there are ``BATCH`` of them, or ``LINGER_S`` after the first (``MANY_LINGER_S`` behind many).
Sending is under a lock, receiving is one thread's. The interchange is this process's child: a socket pair needs no
port, no key and no further thread.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flowcore import serialize
from flowcore.plugins.api import (
    AppTimeout,
    Attempt,
    AttemptResult,
    BadMessage,
    DeserializationError,
    ManagerLost,
    UnsupportedResource,
    WorkerLost,
)
from flowcore_executor_htex import protocol
from flowcore_executor_htex.functions import FunctionCache
from flowcore_executor_htex.link import Link
from flowcore_executor_htex.protocol import Needs, ResultItem, TaskItem
from flowcore_executor_htex.store import LARGE, Store
from flowcore_executor_htex.worker import NONE

logger = logging.getLogger("flowcore.executors.htex")

BATCH = 256
LINGER_S = 0.0003
#: With so many attempts outstanding, workers have enough to do for now: larger batches cost less.
MANY = 512
MANY_LINGER_S = 0.002
#: With fewer attempts outstanding, each leaves at once: workers may be waiting for it.
FEW = 4
#: The sender's thread goes to sleep after this many empty rounds.
PATIENCE = 20
#: So many nodes are remembered at a time.
MAX_PLACES = 1000

#: An attempt's key on the wire is its task's number and, in the low bits, its try's.
_TRY_BITS = 16


def key_of(task_id: int, try_id: int) -> int:
    """Return the key of an attempt."""
    return task_id << _TRY_BITS | try_id


def attempt_of(key: int) -> tuple[int, int]:
    """Return the (task_id, try_id) of a key."""
    return key >> _TRY_BITS, key & (1 << _TRY_BITS) - 1


class _Places(dict[int, str | None]):
    """What is said of where attempts ran, by worker; texts are made once.

    Args:
        block_id, hostname: of the workers; empty for what no node has seen.
    """

    def __init__(self, block_id: str, hostname: str) -> None:
        self._node = f"block {block_id}, host {hostname}" if block_id else None

    def __missing__(self, worker: int) -> str | None:
        where = self._node
        if where is not None and worker != protocol.NO_WORKER:
            where += f", worker {worker}"
        self[worker] = where
        return where


class Connection:
    """The link to an interchange on this host.

    Args:
        label: the executor's, for errors.
        link: to the interchange, which is ready.
        report: takes results.
        on_managers: takes the interchange's reports on its managers.
        on_end: called once, from the receiving thread, when the interchange's process has ended.
        store: where large arguments and results are, if workers are on this host.
        on_samples: takes samples of what attempts use, behind the results that came with them.
        on_node: takes managers that have come or are gone.
    """

    def __init__(
        self,
        label: str,
        link: Link,
        report: Callable[[Sequence[AttemptResult]], None],
        on_managers: Callable[[protocol.Managers], None],
        on_end: Callable[[], None],
        store: Store | None = None,
        on_samples: Callable[[protocol.Samples], None] | None = None,
        on_node: Callable[[protocol.Node], None] | None = None,
    ) -> None:
        self._label = label
        self._link = link
        self._report = report
        self._on_managers = on_managers
        self._on_end = on_end
        self._store = store
        self._on_samples = on_samples
        self._on_node = on_node
        #: Wakes the receiving thread: to end it, or since something waits to be written.
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._functions = FunctionCache()
        #: By block and host.
        self._places: dict[tuple[str, str], _Places] = {}
        #: The function of each attempt that is not reported, by key.
        self.outstanding: dict[int, bytes] = {}
        self._items: list[TaskItem] = []
        self._frames: list[Any] = []
        self._new_functions: dict[bytes, bytes] = {}
        self._flushed_at = 0.0
        self._closed = False
        self._wake = threading.Event()
        self._sending = False
        self._receiver = 0
        self._threads = [
            threading.Thread(target=self._send_late, name="flowcore-htex-send", daemon=True),
            threading.Thread(target=self._receive, name="flowcore-htex-receive", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, attempt: Attempt, needs: Needs | None = None) -> None:
        """Send an attempt, now or with others soon. From any thread.

        Raises:
            SerializationError: its function or an argument cannot be written.
        """
        frames: list[memoryview] = []
        parts = serialize.dumps_call_parts(attempt.app_name, attempt.args, attempt.kwargs, frames)
        body = parts[0]
        key = attempt.task_id << _TRY_BITS | attempt.try_id
        with self._lock:
            function = self._functions.get(attempt.func, attempt.app_name)
            self._functions.use(function)
            digest = function.digest
            if not function.sent:
                function.sent = True
                self._new_functions[digest] = function.body
            self.outstanding[key] = digest
            items = self._items
            if frames or len(parts) > 1 or len(body) >= LARGE:
                items.append(self._large(key, digest, parts, frames, needs))
            else:
                items.append(TaskItem(key, digest, body, 0, None, needs))
            if self._receiver == threading.get_ident() and len(items) < BATCH:
                return  # it leaves when all results at hand have been taken in
            if (
                len(items) >= BATCH
                or self._frames
                or len(self.outstanding) < FEW
                or time.perf_counter() - self._flushed_at > self._linger_s
            ):
                self._flush()
            elif not self._sending:
                self._sending = True
                self._wake.set()

    @property
    def _linger_s(self) -> float:
        return LINGER_S if len(self.outstanding) < MANY else MANY_LINGER_S

    def _large(
        self, key: int, digest: bytes, body: Sequence[bytes], frames: Sequence[memoryview], needs: Needs | None
    ) -> TaskItem:
        # With the lock held.
        stored = None if self._store is None else self._store.put(key, body, frames)
        if stored is not None:
            return TaskItem(key, digest, b"", 0, stored, needs)
        self._frames += [b"".join(body), *frames]
        return TaskItem(key, digest, b"", 1 + len(frames), None, needs)

    def cancel(self, key: int) -> bool:
        """Drop an attempt: a waiting one does not start, a running one is interrupted where that is possible.

        Returns:
            False if it is not outstanding.
        """
        with self._lock:
            digest = self.outstanding.pop(key, None)
            if digest is None:
                return False
            self._functions.release(digest)
            if self._store is not None:
                self._store.release(key, read=False)
            self._flush()
            self._write(protocol.encode_header(protocol.Cancel([key])))
            return True

    def send(self, message: protocol.Message) -> None:
        """Send another message, behind all attempts that were submitted. From any thread."""
        with self._lock:
            if not self._closed:
                self._flush()
                self._write(protocol.encode_header(message))

    def take_outstanding(self) -> list[tuple[int, int]]:
        """Forget all attempts; return their (task_id, try_id). What still comes for them is dropped."""
        with self._lock:
            taken, self.outstanding = self.outstanding, {}
            self._items, self._frames = [], []
        return [attempt_of(key) for key in taken]

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until the interchange has closed its end, and what it sent last was taken in; at most so long."""
        receiver = self._threads[1]
        if receiver is not threading.current_thread():  # of which a user's callback may end the run
            receiver.join(timeout_s)

    def close(self) -> None:
        """Close the link and end the threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        os.eventfd_write(self._bell, 1)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._link.close()
        os.close(self._bell)

    # --- out

    def _flush(self) -> None:
        # With the lock held.
        if not self._items:
            return
        self._flushed_at = time.perf_counter()
        header = protocol.encode_header(protocol.Tasks(self._items, self._new_functions))
        frames = self._frames
        self._items, self._frames, self._new_functions = [], [], {}
        self._write(header, frames)

    def _write(self, header: bytes, frames: Sequence[Any] = ()) -> None:
        # With the lock held.
        if self._closed:
            return
        waited = self._link.has_unsent
        self._link.send(header, frames)
        if self._link.has_unsent:
            if frames:
                # An argument is sent as it was when the app was called.
                self._link.own_unsent()
            if not waited:
                os.eventfd_write(self._bell, 1)

    def _send_late(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            empty = 0
            while not self._closed:
                time.sleep(self._linger_s)
                with self._lock:
                    empty = 0 if self._items else empty + 1
                    if not self._closed:
                        self._flush()
                    if empty > PATIENCE:
                        self._sending = False
                        break

    # --- in

    def _receive(self) -> None:
        self._receiver = threading.get_ident()
        poll = select.poll()
        stream = self._link.socket.fileno()
        poll.register(stream, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        writing = False
        alive = True
        while alive:
            ready = dict(poll.poll())
            if self._bell in ready:
                os.eventfd_read(self._bell)
                if self._closed:
                    return
            happened = ready.get(stream, 0)
            if happened & ~select.POLLOUT:
                messages, alive = self._link.receive()
                self._take_messages(messages)
                if self._closed:
                    return  # by a user's callback, on this thread: the link is not there any more
            with self._lock:
                if happened & select.POLLOUT:
                    self._link.flush()
                if writing is not self._link.has_unsent:
                    writing = not writing
                    poll.modify(stream, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
        self._on_end()

    def _take_messages(self, messages: Sequence[list[bytes]]) -> None:
        results: list[AttemptResult] = []
        samples: list[protocol.Samples] = []
        for header, *payload in messages:
            try:
                message = protocol.decode(header)
            except BadMessage as error:
                logger.error("a message of the interchange is ignored: %s", error)
                continue
            if isinstance(message, protocol.Results):
                self._take_results(message, payload, results)
            elif isinstance(message, protocol.Managers):
                self._on_managers(message)
                if self._store is not None:
                    with self._lock:
                        self._store.sweep(self.outstanding)
            elif isinstance(message, protocol.Samples):
                samples.append(message)
            elif isinstance(message, protocol.Node) and self._on_node is not None:
                self._on_node(message)
        if results:
            self._report(results)
            with self._lock:
                self._flush()
                self._forget()
        if self._on_samples is not None:
            # Tasks that wait for these results are on their way by now.
            for message in samples:
                self._on_samples(message)

    def _take_results(self, message: protocol.Results, payload: Sequence[Any], results: list[AttemptResult]) -> None:
        position = 0
        pop = self.outstanding.pop
        places = self._places_of(message.block_id, message.hostname)
        with self._lock:
            for item in message.results:
                frames: Sequence[Any] = ()
                if item.frames:
                    frames = payload[position : position + item.frames]
                    position += item.frames
                key = item.key
                digest = pop(key, None)
                if digest is None:  # cancelled, or given up
                    continue
                self._functions.release(digest)
                result = AttemptResult(key >> _TRY_BITS, key & 0xFFFF)
                body = item.body
                if self._store is not None:
                    self._store.release(key, read=item.kind in (protocol.VALUE, protocol.ERROR))
                if item.kind == protocol.VALUE:
                    if body != NONE:
                        self._set_value(result, item, frames)
                else:
                    result.error = self._error(item, frames)
                result.where = places[item.worker]
                results.append(result)

    def _places_of(self, block_id: str, hostname: str) -> _Places:
        places = self._places.get((block_id, hostname))
        if places is None:
            if len(self._places) == MAX_PLACES:
                self._places.clear()
            places = self._places[block_id, hostname] = _Places(block_id, hostname)
        return places

    def _forget(self) -> None:
        # With the lock held.
        forgotten = self._functions.take_forgotten()
        if forgotten:
            self._write(protocol.encode_header(protocol.Forget(forgotten)))

    # --- results

    def _set_value(self, result: AttemptResult, item: ResultItem, frames: Sequence[Any]) -> None:
        try:
            result.value = self._load(item, frames, serialize.loads)
        except BaseException as problem:  # noqa: BLE001 - loading runs the result's own code
            result.error = DeserializationError(
                f"the result of the task cannot be loaded here: {type(problem).__name__}: {problem}. Its class must be "
                "importable in this process too"
            )
            result.error.__cause__ = problem

    def _load(self, item: ResultItem, frames: Sequence[Any], load: Callable[[Any, Sequence[Any]], Any]) -> Any:
        if item.stored is not None:
            if self._store is None:
                raise OSError(f"the result is in {item.stored.name!r}, and there is no store")
            return self._store.fetch(item.stored, load)
        return load(item.body, ()) if item.body else load(frames[0], frames[1:])

    def _error(self, item: ResultItem, frames: Sequence[Any]) -> BaseException:
        try:
            return self._read_error(item, frames)
        except Exception as problem:  # noqa: BLE001 - whatever came: this thread must live, and the task end
            error = DeserializationError(f"the error of the task cannot be read: {type(problem).__name__}: {problem}")
            error.__cause__ = problem
            return error

    def _read_error(self, item: ResultItem, frames: Sequence[Any]) -> BaseException:
        if item.kind == protocol.ERROR:
            error: BaseException = self._load(item, frames, lambda body, _: serialize.loads_exception(body))
            return error
        if item.kind == protocol.WORKER_LOST:
            return WorkerLost(*msgspec.msgpack.decode(item.body))
        if item.kind == protocol.MANAGER_LOST:
            return ManagerLost(*msgspec.msgpack.decode(item.body))
        if item.kind == protocol.UNFIT:
            return UnsupportedResource(self._label, item.body.decode(errors="replace"))
        if item.kind == protocol.TIMED_OUT:
            return AppTimeout(
                "the app ran longer than its walltime without returning to the interpreter, or raised SIGALRM itself; "
                "its worker was ended and replaced"
            )
        return BadMessage(f"a result of the unknown kind {item.kind}")
