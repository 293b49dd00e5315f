"""A real HTTP/1.1 server for tests, which serves a folder and does wrong when it is told to.

::

    with HTTPFiles(tmp_path / "www") as server:
        url = server.put("a.bin", content)
        server.fail("a.bin", Cut(1000), Status(503))     # the first request, the second; the third is served
        server.fail("b.bin", Stall(10), always=True)
        ...
        assert [request.status for request in server.requests] == [200, 503, 206]

It knows ranges (``Range``, ``If-Range``), conditional requests (``ETag``, ``Last-Modified``), HEAD and connections that
are kept, as the servers do that files are kept on. ``python -m flowcore.testing.http_server FOLDER`` serves a folder
from a process of its own, prints the URL of that, and ends when its stdin does.

Rule of this module: it does everything right. What goes wrong is in :mod:`flowcore.testing.http_faults`.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

from flowcore.testing.certificates import Certificate, Certificates
from flowcore.testing.faulty_files import FaultyFiles
from flowcore.testing.http_faults import (
    Answer,
    Asked,
    Changed,
    Chunked,
    Cut,
    Fault,
    NoLength,
    NoRanges,
    Redirect,
    Request,
    Slow,
    Stall,
    Status,
    Wire,
    WrongLength,
)

__all__ = [
    "Answer",
    "Asked",
    "Changed",
    "Chunked",
    "Cut",
    "Fault",
    "HTTPFiles",
    "NoLength",
    "NoRanges",
    "Redirect",
    "Request",
    "Slow",
    "Stall",
    "Status",
    "Wire",
    "WrongLength",
]

#: Seconds for a server's threads to end.
_BOUND_S = 20.0


class HTTPFiles(FaultyFiles[Fault]):
    """A server on 127.0.0.1 that serves a folder: a context manager.

    Args:
        root: the folder; made if it is not there.
        tls: serve https, with this certificate, or with one for 127.0.0.1 and localhost of this authority.
        basic_auth: user and password that all requests must show.

    Attributes:
        root: the folder.
        port: its port; the same one when it is started again.
        requests: all requests, in the order in which they came.
        stopping: is set while it stops, and once it has.
    """

    def __init__(
        self, root: Path, tls: Certificates | Certificate | None = None, basic_auth: tuple[str, str] | None = None
    ) -> None:
        super().__init__(root, Fault())
        self.port = 0
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._tls = (tls.make() if isinstance(tls, Certificates) else tls).context() if tls else None
        self._credentials = "Basic " + base64.b64encode(":".join(basic_auth).encode()).decode() if basic_auth else None
        self._waits: set[threading.Event] = set()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    # --- its user's side

    def url(self, name: str = "") -> str:
        """Return the URL of a file.

        Args:
            name: its path below the folder, not quoted.
        """
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/{quote(name)}"

    def open(self, name: str) -> BinaryIO:
        """Open a file below the folder.

        Raises:
            OSError: there is none, or it is not below the folder.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise FileNotFoundError(name)
        return path.open("rb")

    def start(self) -> None:
        """Serve; at the same port as before, if it was stopped."""
        self.stopping.clear()
        self._server = _Server(("127.0.0.1", self.port), self, self._tls)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="flowcore-testing-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        assert self._thread is not None
        self.stopping.set()
        with self._lock:
            for event in self._waits:
                event.set()
        server.shutdown()
        self._thread.join(_BOUND_S)
        server.server_close()
        server.end_connections()

    # --- the connections' side

    def wait(self, event: threading.Event) -> None:
        """Wait for an event, or for the end of the server, which sets it."""
        with self._lock:
            if self.stopping.is_set():
                return
            self._waits.add(event)
        event.wait()
        with self._lock:
            self._waits.discard(event)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request shows the credentials that are wanted, if any are."""
        return self._credentials in (None, headers.get("authorization"))


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], files: HTTPFiles, tls: ssl.SSLContext | None) -> None:
        self.files = files
        self._tls = tls
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        # The one of HTTPServer looks the host's name up, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, str]:
        connection, peer = super().get_request()
        if self._tls is not None:
            # The handshake belongs to the connection's own thread: one that hangs must not stop the others.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, peer

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        thread = threading.Thread(
            target=self._connection,
            args=(request, client_address),
            name="flowcore-testing-http-connection",
            daemon=True,
        )
        self._connections[request] = thread
        thread.start()

    def _connection(self, request: socket.socket, client_address: object) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            self._connections.pop(request, None)

    def end_connections(self) -> None:
        for connection, thread in list(self._connections.items()):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes its state away from the thread that is reading.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            thread.join(_BOUND_S)

    def handle_error(self, request: object, client_address: object) -> None:
        # A client may go whenever it likes.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    reset = False

    def do_GET(self) -> None:
        """Answer one request."""
        files = self.server.files
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        files.requests.append(request)
        name = unquote(self.path.partition("?")[0]).removeprefix("/")
        wire = Wire(self, request, files)
        if files.admits(headers):
            fault = files.fault_of(name)
            answer = fault.answer(Asked(files, name, headers))
        else:
            fault = Fault()
            answer = Answer.of(401, headers={"WWW-Authenticate": 'Basic realm="tests"'})
        with answer.content:
            fault.deliver(answer, wire)
        wire.flush()

    do_HEAD = do_GET

    def finish(self) -> None:
        """Let go of the connection."""
        super().finish()
        if self.reset:
            # Without a shutdown, closing a socket that does not linger resets the connection.
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are recorded."""


def main() -> None:
    """Serve a folder until stdin ends."""
    with HTTPFiles(Path(sys.argv[1])) as server:
        sys.stdout.write(f"{server.url()}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
