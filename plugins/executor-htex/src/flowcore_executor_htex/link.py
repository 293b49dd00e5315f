"""The stream over a socket pair, between executor and interchange and between manager and worker: messages of frames.

A message is a mark, the header's length and the number of payload frames (32-bit numbers), the length of each payload
frame (64 bits each), the header, and the frames. What does not begin with the mark is none: somebody else has written
to the stream, and what follows cannot be understood any more.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from flowcore.plugins.api import BadMessage

_HEAD = struct.Struct("=III")
_MARK = 0x0AFC10FC
#: Objects made between two looks of the garbage collector, in processes that make few cycles: see calm_collector.
COLLECT_EVERY = 50_000
#: Bytes asked of the kernel at a time.
CHUNK = 262144
#: Reads in a row while a message is not complete, before others get their turn.
MAX_CHUNKS = 8


def calm_collector() -> None:
    """Let the garbage collector look rarely, and never at what is there now. For the hub and managers.

    They make objects by the message, and hardly any cycles; by default the collector would look every 35 messages.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def pack(header: bytes, payload: Sequence[Any]) -> list[bytes | memoryview]:
    """Return the buffers to write for a message, small ones joined."""
    if not payload:
        return [_HEAD.pack(_MARK, len(header), 0) + header]
    views = [memoryview(frame).cast("B") for frame in payload]
    start = (
        _HEAD.pack(_MARK, len(header), len(views)) + struct.pack(f"={len(views)}Q", *(v.nbytes for v in views)) + header
    )
    return [start, *views]


class Parser:
    """Turns received bytes into messages: lists of a header (bytes) and payload frames (bytearrays)."""

    def __init__(self) -> None:
        #: The beginning of a message that is not complete.
        self._rest = bytearray()
        #: A message whose frames are being filled, and what is missing of them.
        self._message: list[Any] = []
        self._missing: deque[memoryview] = deque()

    @property
    def wanted(self) -> memoryview | None:
        """Where the next bytes belong, if that is known: they may be received there, and need not be copied."""
        return self._missing[0] if self._missing else None

    def filled(self, size: int) -> list[list[Any]]:
        """So many bytes were written to :attr:`wanted`; return the message if it is complete now."""
        missing = self._missing
        view = missing.popleft()
        if size < view.nbytes:
            missing.appendleft(view[size:])
        if missing:
            return []
        message, self._message = self._message, []
        return [message]

    def feed(self, data: bytes | memoryview) -> list[list[Any]]:
        """Take bytes in; return the messages that are complete.

        Raises:
            BadMessage: they are no messages.
        """
        messages: list[list[Any]] = []
        while self._missing and len(data):
            size = min(len(data), self._missing[0].nbytes)
            self._missing[0][:size] = data[:size]
            messages += self.filled(size)
            data = data[size:]
        if not self._rest:
            more, used = _split(data)
            if used < len(data):
                self._rest += data[used:]
        else:
            self._rest += data
            with memoryview(self._rest) as view:
                more, used = _split(view)
            if used:
                del self._rest[:used]
        if self._rest:
            self._begin_to_fill()
        return messages + more if messages else more

    def _begin_to_fill(self) -> None:
        """If the message that is not complete has frames, and all before them is here, make room for these."""
        rest = self._rest
        if len(rest) < _HEAD.size:
            return
        mark, header_size, count = _HEAD.unpack_from(rest)
        if mark != _MARK:
            return
        header_at = _HEAD.size + 8 * count
        at = header_at + header_size
        if not count or len(rest) < at:
            return
        frames = [bytearray(size) for size in struct.unpack_from(f"={count}Q", rest, _HEAD.size)]
        self._message = [bytes(rest[header_at:at]), *frames]
        self._missing = deque(memoryview(frame) for frame in frames if frame)
        self._rest = bytearray()
        self.feed(bytes(rest[at:]))


def _split(data: bytes | memoryview) -> tuple[list[list[Any]], int]:
    """Return the complete messages at the beginning of some bytes, and how many bytes they take."""
    messages: list[list[Any]] = []
    position = 0
    size = len(data)
    while size - position >= _HEAD.size:
        mark, header_size, count = _HEAD.unpack_from(data, position)
        if mark != _MARK:
            if messages:
                break  # those before it are good; the next read tells
            raise BadMessage(f"no message begins with {bytes(data[position : position + 16])!r}")
        sizes_at = position + _HEAD.size
        at = sizes_at + 8 * count
        if size < at + header_size:
            break
        sizes = struct.unpack_from(f"={count}Q", data, sizes_at) if count else ()
        if count and size < at + header_size + sum(sizes):
            break
        message: list[Any] = [bytes(data[at : at + header_size])]
        at += header_size
        for frame_size in sizes:
            # Not bytes: what is unpickled from it can be written to, as it could be where it comes from.
            message.append(bytearray(data[at : at + frame_size]))
            at += frame_size
        messages.append(message)
        position = at
    return messages, position


class Inbox:
    """Reads messages from a socket into one buffer: a new one of this size for each read would cost a page fault."""

    def __init__(self, sock: socket.socket) -> None:
        self._read = sock.recv_into
        self._buffer = memoryview(bytearray(CHUNK))
        self._parser = Parser()

    def read(self) -> list[list[Any]] | None:
        """Read once; return the messages that are complete now, or None at the end of the stream.

        Raises:
            OSError: as the socket's ``recv``; BlockingIOError where there is nothing.
            BadMessage: what came is no message.
        """
        wanted = self._parser.wanted
        if wanted is not None:
            size = self._read(wanted)
            return self._parser.filled(size) if size else None
        size = self._read(self._buffer)
        return self._parser.feed(self._buffer[:size]) if size else None


class Link:
    """One end of a stream. Never blocks: what the other end does not take yet waits in a queue.

    One thread receives; sending is for one thread at a time. An exception that a signal raises in the sending thread
    (Ctrl-C) loses no byte and doubles none: a write and the note of what it wrote are one step of the interpreter.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._inbox = Inbox(sock)
        self._unsent: deque[bytes | memoryview] = deque()
        #: What the last write wrote of the first unsent buffer, until that is taken off; empty otherwise.
        self._wrote: list[int] = []

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def send(self, header: bytes, payload: Sequence[Any] = ()) -> None:
        """Queue a message, and write what can be written. An end that is gone is noticed on reading."""
        self._unsent.extend(pack(header, payload))
        self.flush()

    def own_unsent(self) -> None:
        """Copy what waits to be written and belongs to others, who may change it from now on."""
        for position, buffer in enumerate(self._unsent):
            if isinstance(buffer, memoryview) and not buffer.readonly:
                self._unsent[position] = bytes(buffer)

    def flush(self) -> None:
        """Write what can be written."""
        unsent, wrote, send = self._unsent, self._wrote, self.socket.send
        while unsent:
            first = unsent[0]
            try:
                if not wrote:
                    wrote.extend(map(send, (first,)))
            except BlockingIOError:
                return
            except OSError:
                unsent.clear()
                return
            if wrote[0] < len(first):
                unsent[0] = memoryview(first)[wrote[0] :]
            else:
                unsent.popleft()
            wrote.clear()

    def receive(self) -> tuple[list[list[Any]], bool]:
        """Return messages that are there, and whether the other end is still open.

        Raises:
            BadMessage: what came is no message; nothing more can be received.
        """
        messages: list[list[Any]] = []
        for _ in range(MAX_CHUNKS):
            try:
                read = self._inbox.read()
            except BlockingIOError:
                break
            except OSError:
                return messages, False
            if read is None:
                return messages, False
            messages += read
            if read:
                break  # if there is more, poll will say so
        return messages, True

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
