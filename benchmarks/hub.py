"""A bare pyzmq hub of the shape of htex: submit side, hub, two workers, pickled payloads, in batches.

No futures, no table of tasks, no encryption, no faults: what is left is the cost of moving the messages. It is the
yardstick of the goals for throughput and round trip.
"""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections import deque

import zmq


def noop() -> None:
    """What is called."""


def _worker(port: int) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(b"ready")
    while (batch := socket.recv()) != b"stop":
        results = []
        for key, payload in pickle.loads(batch):
            function, args = pickle.loads(payload)
            results.append((key, pickle.dumps(function(*args), 5)))
        socket.send(pickle.dumps(results, 5))


def _hub(ports: multiprocessing.queues.Queue[tuple[int, int]]) -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.PAIR), context.socket(zmq.ROUTER)
    for socket in (front, back):
        socket.set_hwm(0)
    ports.put((front.bind_to_random_port("tcp://127.0.0.1"), back.bind_to_random_port("tcp://127.0.0.1")))
    free: deque[bytes] = deque()
    waiting: deque[bytes] = deque()
    workers: set[bytes] = set()
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if back in ready:
            identity, message = back.recv_multipart()
            workers.add(identity)
            # Two batches at a time, so that no worker waits for its next one.
            free += [identity, identity] if message == b"ready" else [identity]
            if message != b"ready":
                front.send(message)
        if front in ready:
            message = front.recv()
            if message == b"stop":
                for identity in workers:
                    back.send_multipart([identity, b"stop"])
                time.sleep(0.1)
                return
            waiting.append(message)
        while free and waiting:
            back.send_multipart([free.popleft(), waiting.popleft()])


class BareHub:
    """Runs the hub and two workers; a context manager."""

    def __enter__(self) -> BareHub:
        spawn = multiprocessing.get_context("spawn")
        ports = spawn.Queue()
        self._processes = [spawn.Process(target=_hub, args=(ports,), daemon=True)]
        self._processes[0].start()
        front, back = ports.get(timeout=30)
        for _ in range(2):
            self._processes.append(spawn.Process(target=_worker, args=(back,), daemon=True))
            self._processes[-1].start()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.connect(f"tcp://127.0.0.1:{front}")
        self.run(2000, 8)
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.send(b"stop")
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self._socket.close(0)
        self._context.term()

    def run(self, count: int, batch: int) -> float:
        """Move ``count`` calls in batches; return the seconds from the first send to the last result."""
        began = time.perf_counter()
        for start in range(0, count, batch):
            calls = [(key, pickle.dumps((noop, ()), 5)) for key in range(start, min(count, start + batch))]
            self._socket.send(pickle.dumps(calls, 5))
        done = 0
        while done < count:
            for _, payload in pickle.loads(self._socket.recv()):
                pickle.loads(payload)
                done += 1
        return time.perf_counter() - began

    def round_trips(self, count: int) -> list[float]:
        """Return the seconds of each of ``count`` calls, one after another."""
        times = []
        for key in range(count):
            began = time.perf_counter()
            self._socket.send(pickle.dumps([(key, pickle.dumps((noop, ()), 5))], 5))
            pickle.loads(pickle.loads(self._socket.recv())[0][1])
            times.append(time.perf_counter() - began)
        return times
