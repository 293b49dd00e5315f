"""What the HTTP server of the testing kit answers, and what may go wrong with that.

Rule of this module: a fault has one job, and is a small class that changes either what is answered
(:meth:`Fault.answer`) or how that travels (:meth:`Fault.deliver`). The server knows none of them.
"""

from __future__ import annotations

import email.utils
import http
import io
import mimetypes
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO

import attrs

if TYPE_CHECKING:
    from flowcore.testing.http_server import Handler, HTTPFiles

#: Bytes that are sent at a time: few system calls, and yet a count that keeps up.
_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@attrs.define
class Request:
    """A request as it came, and what became of it.

    Attributes:
        method: ``GET`` or ``HEAD``.
        path: what was asked for, as it was sent: quoted, with the query.
        headers: its headers, by their names in small letters.
        status: of the answer; 0 while there is none.
        sent: bytes of the body that were given to the connection, up to now.
    """

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@attrs.define
class Answer:
    """What is to be sent.

    Attributes:
        status: its code.
        headers: its headers, without those that say how long it is.
        content: what the body is a part of.
        start: where the body begins in ``content``.
        stop: where it ends.
    """

    status: int
    headers: dict[str, str] = attrs.field(factory=dict)
    content: BinaryIO = attrs.field(factory=io.BytesIO)
    start: int = 0
    stop: int = 0

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.stop - self.start

    @classmethod
    def of(cls, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Return an answer with a body of these bytes; without any, one that names the status."""
        body = body or f"{status} {_reason(status)}\n".encode()
        return cls(status, {"Content-Type": "text/plain", **(headers or {})}, io.BytesIO(body), 0, len(body))


@attrs.frozen
class Asked:
    """What a fault is told of a request.

    Attributes:
        server: whom it was sent to.
        name: of the file, below the server's folder.
        headers: of the request, by their names in small letters.
    """

    server: HTTPFiles
    name: str
    headers: Mapping[str, str]

    def answer(self) -> Answer:
        """Return what a server without faults answers."""
        try:
            content = self.server.open(self.name)
        except OSError:
            return Answer.of(404)
        status = os.fstat(content.fileno())
        headers = {
            "Content-Type": mimetypes.guess_type(self.name)[0] or "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"',
            "Last-Modified": email.utils.formatdate(status.st_mtime, usegmt=True),
        }
        if self._is_fresh(headers["ETag"], status.st_mtime):
            content.close()
            return Answer(304, headers)
        whole = Answer(200, headers, content, 0, status.st_size)
        return self._part(whole) if self._wants_part(headers) else whole

    def _is_fresh(self, etag: str, modified: float) -> bool:
        if (known := self.headers.get("if-none-match")) is not None:
            # For this, a weak tag is as good as a strong one.
            return known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]
        since = self.headers.get("if-modified-since")
        if since is None:
            return False
        try:
            return int(modified) <= email.utils.parsedate_to_datetime(since).timestamp()
        except ValueError:
            return False

    def _wants_part(self, headers: Mapping[str, str]) -> bool:
        # Several ranges at once may be left unheard, and are.
        if _RANGE.fullmatch(self.headers.get("range", "")) is None:
            return False
        return self.headers.get("if-range", headers["ETag"]) in (headers["ETag"], headers["Last-Modified"])

    def _part(self, whole: Answer) -> Answer:
        size = whole.stop
        found = _RANGE.fullmatch(self.headers["range"])
        assert found is not None
        first, last = found.groups()
        if first:
            start, stop = int(first), min(int(last) + 1, size) if last else size
        else:
            start, stop = max(0, size - int(last or 0)), size
        if start >= stop:
            whole.content.close()
            return Answer.of(416, headers={"Content-Range": f"bytes */{size}"})
        headers = {**whole.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return Answer(206, headers, whole.content, start, stop)


class Wire:
    """The connection that an answer travels through; for faults.

    Attributes:
        request: the record of the request.
    """

    def __init__(self, handler: Handler, request: Request, files: HTTPFiles) -> None:
        self.request = request
        self._handler = handler
        self._socket: socket.socket = handler.connection
        self._files = files
        # Goes out with the first bytes of the body: one packet, and one system call, for a small file.
        self._pending = b""

    def head(self, answer: Answer, **changed: str | None) -> None:
        """Send the head.

        Args:
            answer: whose.
            changed: headers that are otherwise (``Content_Length="7"``), or left out (None).
        """
        self.request.status = answer.status
        headers = {"Date": email.utils.formatdate(usegmt=True), **answer.headers}
        if answer.status != 304:
            headers["Content-Length"] = str(answer.length)
        for name, value in changed.items():
            if value is None:
                headers.pop(name.replace("_", "-"), None)
            else:
                headers[name.replace("_", "-")] = value
        lines = [f"HTTP/1.1 {answer.status} {_reason(answer.status)}", *(f"{n}: {v}" for n, v in headers.items())]
        self._pending = "\r\n".join([*lines, "", ""]).encode("latin-1")

    def body(self, answer: Answer, first: int = 0, until: int | None = None) -> None:
        """Send the body, or a part of it, unless only the head was asked for.

        Args:
            answer: whose.
            first: where in the body to begin.
            until: where to end; None: at its end.
        """
        at = answer.start + first
        stop = answer.stop if until is None else min(answer.start + until, answer.stop)
        while at < stop:
            count = min(_PIECE, stop - at)
            self._piece(answer.content, at, count)
            at += count

    def text(self, data: bytes, counted: int = 0) -> None:
        """Send bytes as they are, unless only the head was asked for; so many of them count as the body's."""
        if self.request.method == "HEAD":
            return
        self.request.sent += counted
        pending, self._pending = self._pending, b""
        self._socket.sendall(pending + data)

    def flush(self) -> None:
        """Send what was held back: the head of an answer without a body."""
        pending, self._pending = self._pending, b""
        if pending:
            self._socket.sendall(pending)

    def pause(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            ConnectionAbortedError: the server stops.
        """
        self.flush()
        if self._files.stopping.wait(seconds):
            raise ConnectionAbortedError("the server stops")

    def wait(self, event: threading.Event) -> None:
        """Do nothing until the event is set.

        Raises:
            ConnectionAbortedError: the server stops.
        """
        self.flush()
        self._files.wait(event)
        self.pause(0)

    def close(self, reset: bool = False) -> None:
        """Close the connection: in order, or so that the other end sees it reset."""
        self.flush()
        self._handler.close_connection = True
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._handler.reset = True

    def _piece(self, content: BinaryIO, at: int, count: int) -> None:
        if self.request.method == "HEAD":
            return
        # A file on a bare socket needs not come through this process. A small one is sent together with the head.
        if count < 1 << 16 or isinstance(self._socket, ssl.SSLSocket) or isinstance(content, io.BytesIO):
            content.seek(at)
            self.text(content.read(count), counted=count)
            return
        self.flush()
        self.request.sent += count
        self._socket.sendfile(content, at, count)


# --- faults


class Fault:
    """What goes wrong with a request. This one: nothing."""

    def answer(self, asked: Asked) -> Answer:
        """Return what is answered."""
        return asked.answer()

    def deliver(self, answer: Answer, wire: Wire) -> None:
        """Send it."""
        wire.head(answer)
        wire.body(answer)


@attrs.frozen
class Status(Fault):
    """Another status: ``Status(429, {"Retry-After": "1"})``.

    Args:
        code: the status.
        headers: further headers.
        body: the text; empty: one that names the status.
    """

    code: int
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""

    def answer(self, asked: Asked) -> Answer:
        return Answer.of(self.code, self.body, self.headers)


@attrs.frozen
class Redirect(Fault):
    """The file is elsewhere.

    Args:
        to: where, a URL or a path.
        code: 301, 302, 303, 307 or 308.
    """

    to: str
    code: int = 302

    def answer(self, asked: Asked) -> Answer:
        return Answer.of(self.code, headers={"Location": self.to})


@attrs.frozen
class NoRanges(Fault):
    """Ranges are not known: all of the file is sent, whatever was asked for."""

    def answer(self, asked: Asked) -> Answer:
        others = {name: value for name, value in asked.headers.items() if name != "range"}
        answer = Asked(asked.server, asked.name, others).answer()
        answer.headers.pop("Accept-Ranges", None)
        return answer


@attrs.frozen
class Changed(Fault):
    """From this request on the file is another one, with another ETag and a later Last-Modified.

    Args:
        content: its new content.
    """

    content: bytes

    def answer(self, asked: Asked) -> Answer:
        with asked.server.open(asked.name) as old:
            later = os.fstat(old.fileno()).st_mtime + 2  # the header tells seconds
        asked.server.put(asked.name, self.content, modified=later)
        return asked.answer()


@attrs.frozen
class Cut(Fault):
    """The connection ends within the body.

    Args:
        after_bytes: of the body, which are sent.
        reset: it is reset, not closed; what was sent last may be lost then.
    """

    after_bytes: int
    reset: bool = False

    def deliver(self, answer: Answer, wire: Wire) -> None:
        wire.head(answer)
        wire.body(answer, until=self.after_bytes)
        wire.close(self.reset)


@attrs.frozen
class WrongLength(Fault):
    """More or fewer bytes are announced than are sent; then the connection is closed.

    Args:
        announced: bytes, says the header.
    """

    announced: int

    def deliver(self, answer: Answer, wire: Wire) -> None:
        wire.head(answer, Content_Length=str(self.announced))
        wire.body(answer)
        wire.close()


@attrs.frozen
class NoLength(Fault):
    """The length is not announced: the body ends where the connection does, as in HTTP/1.0.

    Args:
        after_bytes: of the body, which are sent; None: all. Nobody can tell that some are missing.
    """

    after_bytes: int | None = None

    def deliver(self, answer: Answer, wire: Wire) -> None:
        wire.head(answer, Content_Length=None, Connection="close")
        wire.body(answer, until=self.after_bytes)
        wire.close()


@attrs.frozen
class Chunked(Fault):
    """The length is not announced: the body comes in chunks.

    Args:
        size: bytes of a chunk.
        cut_after: bytes of the body after which the connection is closed, within a chunk; None: never.
    """

    size: int = 1 << 14
    cut_after: int | None = None

    def deliver(self, answer: Answer, wire: Wire) -> None:
        wire.head(answer, Content_Length=None, Transfer_Encoding="chunked")
        answer.content.seek(answer.start)
        for at in range(0, answer.length, self.size):
            chunk = answer.content.read(min(self.size, answer.length - at))
            announced = f"{len(chunk):x}\r\n".encode()
            if self.cut_after is not None and at + len(chunk) > self.cut_after:
                left = self.cut_after - at
                wire.text(announced + chunk[:left], counted=left)
                wire.close()
                return
            wire.text(announced + chunk + b"\r\n", counted=len(chunk))
        wire.text(b"0\r\n\r\n")


@attrs.frozen
class Slow(Fault):
    """The body trickles.

    Args:
        bytes_per_s: how fast; it is sent twenty times a second.
    """

    bytes_per_s: float

    def deliver(self, answer: Answer, wire: Wire) -> None:
        wire.head(answer)
        step = max(1, int(self.bytes_per_s / 20))
        for at in range(0, answer.length, step):
            wire.body(answer, at, at + step)
            wire.pause(step / self.bytes_per_s)


@attrs.frozen
class Stall(Fault):
    """The server falls silent until ``released`` is set; then it goes on.

    Args:
        after_bytes: of the body, which are sent before; None: not even the head is.
        released: ends the silence.
    """

    after_bytes: int | None
    released: threading.Event = attrs.field(factory=threading.Event)

    def deliver(self, answer: Answer, wire: Wire) -> None:
        if self.after_bytes is None:
            wire.wait(self.released)
        wire.head(answer)
        wire.body(answer, until=self.after_bytes or 0)
        if self.after_bytes is not None:
            wire.wait(self.released)
        wire.body(answer, first=self.after_bytes or 0)


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
