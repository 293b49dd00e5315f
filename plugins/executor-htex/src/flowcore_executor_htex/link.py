"""The stream over a socket pair, between executor and interchange and between manager and worker: messages of frames.

A message is the header's length and the number of payload frames (two 32-bit numbers), the length of each payload
frame (64 bits each), the header, and the frames.
"""

from __future__ import annotations

import gc
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct("=II")
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
        return [_HEAD.pack(len(header), 0) + header]
    views = [memoryview(frame).cast("B") for frame in payload]
    start = _HEAD.pack(len(header), len(views)) + struct.pack(f"={len(views)}Q", *(v.nbytes for v in views)) + header
    return [start, *views]


class Parser:
    """Turns received bytes into messages: lists of a header and payload frames."""

    def __init__(self) -> None:
        #: The beginning of a message that is not complete.
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[list[bytes]]:
        """Take bytes in; return the messages that are complete."""
        if not self._rest:
            messages, used = _split(data)
            if used < len(data):
                self._rest += data[used:]
            return messages
        self._rest += data
        with memoryview(self._rest) as view:
            messages, used = _split(view)
        if used:
            del self._rest[:used]
        return messages


def _split(data: bytes | memoryview) -> tuple[list[list[bytes]], int]:
    """Return the complete messages at the beginning of some bytes, and how many bytes they take."""
    messages: list[list[bytes]] = []
    position = 0
    size = len(data)
    while size - position >= _HEAD.size:
        header_size, count = _HEAD.unpack_from(data, position)
        sizes_at = position + _HEAD.size
        at = sizes_at + 8 * count
        if size < at + header_size:
            break
        sizes = struct.unpack_from(f"={count}Q", data, sizes_at) if count else ()
        if count and size < at + header_size + sum(sizes):
            break
        message = [bytes(data[at : at + header_size])]
        at += header_size
        for frame_size in sizes:
            message.append(bytes(data[at : at + frame_size]))
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

    def read(self) -> list[list[bytes]] | None:
        """Read once; return the messages that are complete now, or None at the end of the stream.

        Raises:
            OSError: as the socket's ``recv``; BlockingIOError where there is nothing.
        """
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

    def receive(self) -> tuple[list[list[bytes]], bool]:
        """Return messages that are there, and whether the other end is still open."""
        messages: list[list[bytes]] = []
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
