"""A web server that runs apps for its requests: ``web.py EXECUTOR threading|asyncio``.

Prints its port; ``POST /quit`` ends it. At the end it prints what was forked and what processes are left.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import http.server
import json
import os
import sys
import threading
import traceback

import flowcore
from flowcore import bash_app, join_app, python_app
from flowcore.testing import processes

EXECUTOR, KIND = sys.argv[1:]
forks = []
os.register_at_fork(before=lambda: forks.append(traceback.format_stack(limit=8)))


@python_app
def square(n):
    return n * n, os.getpid()


@python_app
def fail(n):
    raise ValueError(f"no {n}")


@bash_app
def shell(n, stdout=None):
    return f"echo {n}"


@join_app
def both(n):
    return [square(n), square(n + 1)]


APPS = {"/square": square, "/fail": fail, "/both": both, "/shell": shell}


def call(path):
    """Return the future of a request's app."""
    name, _, number = path.partition("?n=")
    if name == "/shell":
        return shell(number, stdout=f"out-{number}.txt")
    return APPS[name](int(number))


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        try:
            value = call(self.path).result(timeout=60)
        except Exception as error:
            self.answer(500, repr(error))
        else:
            self.answer(200, value)

    def do_POST(self):
        self.answer(200, "bye")
        threading.Thread(target=self.server.shutdown).start()

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64


def serve_with_threads():
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


async def serve_with_asyncio():
    end = asyncio.Event()

    async def handle(reader, writer):
        try:
            method, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0].split()
            if method == "POST":
                status, value = 200, "bye"
            else:
                try:
                    status, value = 200, await asyncio.wait_for(call(path), 60)
                except Exception as error:
                    status, value = 500, repr(error)
            body = json.dumps(value)
            writer.write(
                f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            await writer.drain()
            if method == "POST":
                end.set()
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, backlog=64) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await end.wait()


def main():
    with flowcore.load({"executors": [{"plugin": EXECUTOR}]}) as dfk:
        if KIND == "threading":
            serve_with_threads()
        else:
            asyncio.run(serve_with_asyncio())
        zombies = [p.command for p in processes.descendants(os.getpid()) if p.state in "ZX"]
    left = [p.command for p in processes.descendants(os.getpid())]
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    report = {"forks": forks, "zombies": zombies, "left": left, "threads": threads, "counts": dfk.task_counts()}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
