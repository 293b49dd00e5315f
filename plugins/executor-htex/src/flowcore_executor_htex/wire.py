"""Sending and receiving messages on zmq sockets, at little cost for small ones.

Headers are copied (cheaper than a reference-counted frame up to tens of kilobytes), payload frames are not.

A frame travels in pieces of ``PIECE`` bytes; one of just this size is followed by more of its frame. So no end has to
take anything larger from the other one. That matters before it has shown a key: libzmq makes room for whatever size
a client announces, and fills it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import zmq

Socket = zmq.Socket[bytes]
#: Frames from this size on are not copied.
LARGE = 65536
#: Bytes of a piece, and with what encryption adds (ZMQ_MAXMSGSIZE).
PIECE = 4 * 2**20
MAX_PIECE = PIECE + 1024

# Plain numbers: an operation on pyzmq's flags, and its attributes for options, run a page of Python each.
POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE = int(zmq.SNDMORE)


def waiting(socket: Socket) -> bool:
    """Return whether a message can be received now. Cheaper than the exception of a receive that finds none."""
    events: int = socket.getsockopt(_EVENTS)  # type: ignore[assignment]
    return bool(events & POLLIN)


def receive(socket: Socket) -> tuple[bytes, list[zmq.Frame]]:
    """Receive a message that is there: its header and its payload frames."""
    return _header(socket), _rest(socket)


def receive_from(socket: Socket) -> tuple[bytes, bytes | None, list[zmq.Frame]]:
    """Receive a message that is there on a ROUTER: identity, header (None if it has none), payload frames."""
    identity = socket.recv(_NOBLOCK)
    if not socket.getsockopt(_RCVMORE):
        return identity, None, []
    return identity, _header(socket), _rest(socket)


def _header(socket: Socket) -> bytes:
    header = socket.recv(_NOBLOCK)
    return header if len(header) < PIECE else header + b"".join(piece.buffer for piece in _more_pieces(socket))


def _rest(socket: Socket) -> list[zmq.Frame]:
    frames: list[zmq.Frame] = []
    while socket.getsockopt(_RCVMORE):
        frame = socket.recv(_NOBLOCK, copy=False)
        if len(frame) == PIECE:
            pieces = [frame, *_more_pieces(socket)]
            frame = zmq.Frame(b"".join(piece.buffer for piece in pieces), copy=False)
        frames.append(frame)
    return frames


def _more_pieces(socket: Socket) -> Iterator[zmq.Frame]:
    while socket.getsockopt(_RCVMORE):
        piece = socket.recv(_NOBLOCK, copy=False)
        yield piece
        if len(piece) < PIECE:
            return


def send(socket: Socket, frames: Sequence[Any]) -> None:
    """Send a header, after an identity if there is one, and payload frames.

    Raises:
        zmq.ZMQError: as zmq's send.
    """
    last = len(frames) - 1
    for position, frame in enumerate(frames):
        more = _SNDMORE if position < last else 0
        if type(frame) is bytes and len(frame) < LARGE:
            socket.send(frame, more)
            continue
        # Large buffers are libzmq's to read in place.
        view = memoryview(frame).cast("B")
        start = 0
        while view.nbytes - start >= PIECE:
            socket.send(view[start : start + PIECE], _SNDMORE, copy=False)
            start += PIECE
        socket.send(view[start:], more, copy=False)
