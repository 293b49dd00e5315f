"""Sending and receiving messages on zmq sockets, at little cost for small ones.

Headers are copied (cheaper than a reference-counted frame up to tens of kilobytes), payload frames are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

Socket = zmq.Socket[bytes]
#: Frames from this size on are not copied.
LARGE = 65536

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
    header = socket.recv(_NOBLOCK)
    return header, _rest(socket)


def receive_from(socket: Socket) -> tuple[bytes, bytes | None, list[zmq.Frame]]:
    """Receive a message that is there on a ROUTER: identity, header (None if it has none), payload frames."""
    identity = socket.recv(_NOBLOCK)
    if not socket.getsockopt(_RCVMORE):
        return identity, None, []
    header = socket.recv(_NOBLOCK)
    return identity, header, _rest(socket)


def _rest(socket: Socket) -> list[zmq.Frame]:
    frames: list[zmq.Frame] = []
    while socket.getsockopt(_RCVMORE):
        frames.append(socket.recv(_NOBLOCK, copy=False))
    return frames


def send(socket: Socket, frames: Sequence[Any]) -> None:
    """Send a header, after an identity if there is one, and payload frames.

    Raises:
        zmq.ZMQError: as zmq's send.
    """
    last = len(frames) - 1
    for position, frame in enumerate(frames):
        more = _SNDMORE if position < last else 0
        # Large buffers are libzmq's to read in place.
        socket.send(frame, more, copy=type(frame) is bytes and len(frame) < LARGE)
