"""The stream between a manager and one of its workers: messages of frames over a socket pair.

A message is the header's length and the number of payload frames (two 32-bit numbers), the length of each payload
frame (64 bits each), the header, and the frames.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct("=II")
#: Bytes asked of the kernel at a time.
CHUNK = 262144
#: Frames up to this size are copied into one write.
SMALL = 65536


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
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> list[list[bytes]]:
        """Take bytes in; return the messages that are complete."""
        self._data += data
        buffer = self._data
        messages: list[list[bytes]] = []
        position = 0
        while len(buffer) - position >= _HEAD.size:
            header_size, count = _HEAD.unpack_from(buffer, position)
            sizes_at = position + _HEAD.size
            header_at = sizes_at + 8 * count
            if len(buffer) < header_at:
                break
            sizes = struct.unpack_from(f"={count}Q", buffer, sizes_at) if count else ()
            end = header_at + header_size + sum(sizes)
            if len(buffer) < end:
                break
            at = header_at + header_size
            message = [bytes(buffer[header_at:at])]
            for size in sizes:
                message.append(bytes(buffer[at : at + size]))
                at += size
            messages.append(message)
            position = end
        if position:
            del buffer[:position]
        return messages


class Link:
    """The manager's end. Never blocks: what the worker does not take yet waits in a queue."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._parser = Parser()
        self._unsent: deque[memoryview] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    def send(self, header: bytes, payload: Sequence[Any]) -> None:
        """Queue a message, and write what can be written. A worker that is gone is noticed on reading."""
        buffers = pack(header, payload)
        if len(buffers) == 1 and not self._unsent:
            # Nearly always: it goes out whole, at once.
            try:
                sent = self.socket.send(buffers[0])
            except OSError:
                sent = 0
            if sent == len(buffers[0]):
                return
            buffers = [memoryview(buffers[0])[sent:]]
        self._unsent.extend(memoryview(buffer) for buffer in buffers)
        self.flush()

    def flush(self) -> None:
        """Write what can be written."""
        while self._unsent:
            view = self._unsent[0]
            try:
                sent = self.socket.send(view)
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            if sent == len(view):
                self._unsent.popleft()
            else:
                self._unsent[0] = view[sent:]

    def receive(self) -> tuple[list[list[bytes]], bool]:
        """Return the messages that are there, and whether the worker's end is still open."""
        messages: list[list[bytes]] = []
        while True:
            try:
                data = self.socket.recv(CHUNK)
            except BlockingIOError:
                return messages, True
            except OSError:
                return messages, False
            if not data:
                return messages, False
            messages += self._parser.feed(data)
            if len(data) < CHUNK:
                return messages, True

    def close(self) -> None:
        """Close the manager's end."""
        self.socket.close()
