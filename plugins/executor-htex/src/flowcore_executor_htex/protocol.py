"""The wire format between executor, interchange, managers and workers.

Rules of this module: it does no I/O and knows no sockets. A message is a list of frames: a msgpack header, which
is checked against the types below when it is read, and opaque payload frames behind it. Bodies are bytes that
only the two ends, executor and worker, ever unpickle.

``PROTOCOL`` is raised with every change of a type below. Of :class:`Hello` and :class:`Refused`, fields may be added,
with defaults, and none may go: by them two ends of different versions can tell each other so.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from flowcore import __version__
from flowcore.plugins.api import BadMessage

PROTOCOL = 5
#: Python versions whose first two parts differ cannot exchange functions by value.
PYTHON = ".".join(platform.python_version_tuple()[:2])

#: In :class:`ResultItem.worker`: of an attempt that no worker ran to its end.
NO_WORKER = -1
#: Workers of a manager at most: more than any node has, so a number beyond it is a mistake.
MAX_SLOTS = 1 << 20

#: How an attempt ended, in :class:`ResultItem.kind`.
VALUE = 0
"""``body`` is the pickled value."""
ERROR = 1
"""``body`` is a pickled exception with the text of its traceback."""
WORKER_LOST = 2
"""``body`` is msgpack: (rank, hostname, cause)."""
MANAGER_LOST = 3
"""``body`` is msgpack: (manager id, hostname, reason)."""
TIMED_OUT = 4
"""The attempt's worker was ended since it had not come back after its walltime; ``body`` is empty."""
UNFIT = 5
"""No manager can ever have what the attempt needs; ``body`` is a text that says what, and what there is."""

#: What a sample is of, in :class:`Sample.kind`: an attempt that has begun, that runs on, that has ended.
BEGIN = 0
RUNNING = 1
END = 2

#: Ends a worker that a walltime's exception cannot reach, since its call holds the interpreter. Not handled in Python,
#: which could not run the handler.
OVERRUN_SIGNAL = signal.SIGALRM


#: Not below 0: of payload frames, those of others would be taken.
Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Finite = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
#: What every database can keep.
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Needs(msgspec.Struct, array_like=True, gc=False):
    """What an attempt needs beyond one worker, from its ``resource_specification``.

    Attributes:
        priority: attempts of a higher one go first.
        slots: workers whose cores it takes, its own among them.
        memory_mb: of the node, in MB.
        nodes: of the block, for itself (MPI).
        ranks: MPI processes.
        ranks_per_node: MPI processes per node.
        running_time_s: seconds that its block must have left.
        variables: for the environment while it runs.
    """

    priority: Annotated[float, msgspec.Meta(ge=-sys.float_info.max)] = 0.0  # not NaN, which would break every order
    slots: Annotated[int, msgspec.Meta(ge=1)] = 1
    memory_mb: Amount = 0.0
    nodes: Count = 0
    ranks: Count = 0
    ranks_per_node: Count = 0
    running_time_s: Amount = 0.0
    variables: dict[str, str] = {}

    @property
    def demanding(self) -> bool:
        """Whether not any free worker will do."""
        return self.slots > 1 or self.memory_mb > 0 or self.nodes > 0 or self.running_time_s > 0


class Place(msgspec.Struct, array_like=True, gc=False):
    """What a worker sets while it runs an attempt: hardware threads (empty: its own), environment variables."""

    cpus: list[int]
    variables: dict[str, str]


class Stored(msgspec.Struct, array_like=True, gc=False):
    """Where a body and its large buffers are, one behind the other: a file of the run's store, and their sizes."""

    name: str
    sizes: list[int]


class TaskItem(msgspec.Struct, array_like=True, gc=False):
    """An attempt. ``key`` names it for the executor, ``function`` is the content hash of what to call.

    ``body`` holds the pickled arguments; ``frames`` is the number of payload frames with their large buffers. An empty
    body is in the first of these frames, or else, with the buffers, where ``stored`` says.
    """

    key: int
    function: bytes
    body: bytes
    frames: Count = 0
    stored: Stored | None = None
    needs: Needs | None = None
    place: Place | None = None


class ResultItem(msgspec.Struct, array_like=True, gc=False):
    """How an attempt ended; ``duration_us`` is the time that its function took, in microseconds.

    ``body``, ``frames`` and ``stored`` are as of :class:`TaskItem`. ``worker`` is the number of the worker that ran it,
    as its manager knows it.
    """

    key: int
    kind: int
    body: bytes
    frames: Count = 0
    duration_us: int = 0
    worker: Annotated[int, msgspec.Meta(ge=NO_WORKER, lt=MAX_SLOTS)] = NO_WORKER
    stored: Stored | None = None


class Sample(msgspec.Struct, array_like=True, gc=False):
    """What an attempt used, at a moment. Times are in seconds, sizes in bytes, of its worker and all that this started.

    ``key`` names the attempt, ``rank`` its worker, ``at`` is the node's epoch time; ``cpu_*`` and ``disk_*`` count from
    the attempt's beginning. The others are of the moment.
    """

    key: Size
    rank: Size
    kind: Annotated[int, msgspec.Meta(ge=BEGIN, le=END)]
    at: Finite
    pid: Size
    processes: Size
    cpu_user_s: Finite
    cpu_system_s: Finite
    memory_resident: Size
    memory_virtual: Size
    memory_percent: Finite
    disk_read: Size
    disk_write: Size
    status: Annotated[str, msgspec.Meta(max_length=32)]


class ManagerInfo(msgspec.Struct, array_like=True):
    """What the interchange tells the executor of a manager."""

    manager_id: str
    block_id: str
    hostname: str
    worker_count: int
    tasks: int
    idle_s: float
    active: bool


class Hello(msgspec.Struct, tag="hello"):
    """The first message of a manager. A map, not an array: see the module's rule.

    ``nodes`` and ``memory_mb`` are what it has for attempts that need some, ``left_s`` the seconds until its block ends
    (None: not known). The rest is for people: hardware threads, bytes of memory and the whole version of Python.
    """

    protocol: int
    flowcore: str
    python: str
    manager_id: str
    block_id: str
    hostname: str
    slots: int
    nodes: int = 0
    memory_mb: float = 0.0
    left_s: float | None = None
    cpu_count: Size = 0
    total_memory: Size = 0
    python_version: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Refused(msgspec.Struct, tag="refused"):
    """The interchange will not work with this manager; ``reason`` names both sides."""

    reason: str


class Tasks(msgspec.Struct, array_like=True, tag="T"):
    """Attempts, with the functions that the receiver does not have yet, by content hash.

    From a manager: it gives them back, and has not begun them. To a worker, ``epoch`` is that of the tokens with which
    it may begin them (:mod:`flowcore_executor_htex.tokens`).
    """

    tasks: list[TaskItem]
    functions: dict[bytes, bytes] = {}
    epoch: int = 0


class Results(msgspec.Struct, array_like=True, tag="R"):
    """Ended attempts; ``capacity`` is how many the sending manager wants to have at a time.

    To the executor, with the block and the host that they are of.
    """

    results: list[ResultItem]
    capacity: int = 0
    block_id: str = ""
    hostname: str = ""


class Cancel(msgspec.Struct, array_like=True, tag="C"):
    """Drop these attempts: they must not start, and their results are not wanted."""

    keys: list[int]


class Forget(msgspec.Struct, array_like=True, tag="F"):
    """These functions will not be called again before they are sent again."""

    functions: list[bytes]


class Heartbeat(msgspec.Struct, array_like=True, tag="H"):
    """I live, and have sent so many messages before this one, since the greeting: if fewer came, some were lost.

    A connection that is reset and made again by zmq loses what was on its way, and says nothing.
    """

    sent: int = 0


class Stop(msgspec.Struct, array_like=True, tag="S"):
    """End; of a worker: I end, for this reason, and have not begun what I was given beyond my last result.

    Of a manager that hears ``again``, another one may take the place.
    """

    reason: str = ""
    again: bool = False


class Hold(msgspec.Struct, array_like=True, tag="O"):
    """Give this manager, or all managers of this block, no further attempts; from a manager, and back to it: itself."""

    manager_id: str = ""
    block_id: str = ""


class Ended(msgspec.Struct, array_like=True, tag="E"):
    """This block has ended, as its provider says: whoever of it is not heard of soon is lost."""

    block_id: str


class Managers(msgspec.Struct, array_like=True, tag="M"):
    """All managers that are connected, and all blocks that ever had one."""

    managers: list[ManagerInfo]
    blocks: list[str]
    pending: int


class Samples(msgspec.Struct, array_like=True, tag="U"):
    """What attempts use, and how many samples were dropped before these since the connection was behind.

    To a manager, and empty: those that it sent last have been passed on. Until then it sends no others. To the
    executor, with the block and the host that they are of.
    """

    samples: list[Sample]
    lost: Count = 0
    block_id: str = ""
    hostname: str = ""


class Node(msgspec.Struct, array_like=True, tag="N"):
    """A manager has come, or is gone; what it said of its node."""

    manager_id: str
    block_id: str
    hostname: str
    workers: int
    cpu_count: int
    total_memory: int
    python_version: str
    connected: bool


Message = Tasks | Results | Cancel | Forget | Heartbeat | Stop | Hold | Ended | Managers | Samples | Node
Greeting = Hello | Refused

# msgspec lets the error of a broken UTF-8 string, a ValueError, through.
_UNREADABLE = (msgspec.MsgspecError, ValueError)
_encoder = msgspec.msgpack.Encoder()
_message_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Message)
_greeting_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Greeting)

encode_header = _encoder.encode


def encode(message: Message | Greeting, payload: Sequence[Any] = ()) -> list[Any]:
    """Return the frames of a message."""
    return [_encoder.encode(message), *payload]


def decode(header: bytes | memoryview) -> Message:
    """Return the message of a header frame.

    Raises:
        BadMessage: it is no header of this protocol.
    """
    try:
        message: Message = _message_decoder.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(f"not a message of protocol {PROTOCOL}: {error}") from error
    return message


def decode_greeting(header: bytes | memoryview) -> Greeting | None:
    """Return the greeting of a header frame, or None if it is none."""
    try:
        greeting: Greeting = _greeting_decoder.decode(header)
    except _UNREADABLE:
        return None
    return greeting


def outline(message: Message | Greeting) -> str:
    """Return what a log may say of a message: its kind, and which attempts it is about. Never what is in them."""
    items: Sequence[TaskItem | ResultItem] = ()
    if isinstance(message, Tasks):
        items = message.tasks
    elif isinstance(message, Results):
        items = message.results
    return f"{type(message).__name__} {[item.key for item in items[:16]] if items else ''}"


def count_frames(items: Sequence[TaskItem] | Sequence[ResultItem]) -> int:
    """Return the number of payload frames that belong to some items."""
    return sum(item.frames for item in items)


def check_payload(message: Message, payload: Sequence[Any]) -> None:
    """Check that a message came with as many payload frames as its items say.

    Raises:
        BadMessage: it did not.
    """
    expected = 0
    if isinstance(message, Tasks):
        expected = count_frames(message.tasks)
    elif isinstance(message, Results):
        expected = count_frames(message.results)
    if len(payload) != expected:
        raise BadMessage(f"{type(message).__name__} came with {len(payload)} payload frames, it says {expected}")


def hello(
    manager_id: str,
    block_id: str,
    hostname: str,
    slots: int,
    nodes: int = 0,
    memory_mb: float = 0.0,
    left_s: float | None = None,
    total_memory: int = 0,
) -> Hello:
    """Return the greeting of a manager of this version, of what runs it and of the rest."""
    return Hello(
        PROTOCOL,
        __version__,
        PYTHON,
        manager_id,
        block_id,
        hostname,
        slots,
        nodes,
        memory_mb,
        left_s,
        os.cpu_count() or 0,
        total_memory,
        platform.python_version(),
    )


def refusal(greeting: Hello) -> str | None:
    """Return why this side cannot work with a manager, naming both; None if it can."""
    theirs = f"the manager on {greeting.hostname} (block {greeting.block_id}) has "
    if greeting.protocol != PROTOCOL:
        return (
            f"{theirs}flowcore {greeting.flowcore} with protocol {greeting.protocol}, the submit side has flowcore "
            f"{__version__} with protocol {PROTOCOL}: install one version of flowcore-executor-htex on both"
        )
    if greeting.python != PYTHON:
        return (
            f"{theirs}Python {greeting.python}, the submit side has Python {PYTHON}: functions cannot be exchanged "
            "between them. Use one Python version on both, for example by activating it in the provider's worker_init"
        )
    return None
