"""The records of the journal: how hooks' events are written, and what they are when they are read.

Rule of this module: a batch of events is encoded in one call, as it was delivered; all work on single events is left
to the process that writes the database. A record is a list: its kind, and its facts. Of events of tasks, these are the
columns of TaskEvents; one whose values are all the same, as many are, has this value in a mapping instead.
"""

from __future__ import annotations

import itertools
import re
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flowcore.plugins.api import TaskEvent
from flowcore.serialize import RemoteTraceback

#: The first record: a mapping of facts of the run.
BEGIN = "begin"
TASKS = "tasks"
#: One change of a block: executor, block id, job id, status, message, time.
BLOCK = "block"
#: Lists of the fields of samples, behind the period of the executor's samples.
RESOURCES = "resources"
#: Lists of the fields of node events.
NODES = "nodes"
#: The last record: when, and how many events were lost.
END = "end"

#: Characters of an error's text that are kept, and of its notes and its traceback each.
TEXT_LIMIT = 8000
#: Tracebacks that are kept of one batch (a tenth of a second).
TRACEBACKS = 20
#: Calls of a traceback that are kept, the innermost ones.
FRAMES = 12


#: The columns of TaskEvents: where some are, and which may be packed: what is in the others is of a user's class, or
#: differs anyway.
APP, STATE, BEFORE, AT = map(TaskEvent._fields.index, ("app_name", "state", "before", "at"))
_PACKED = tuple(
    name not in ("task_id", "state", "before", "at", "error", "launched_at", "ended_at") for name in TaskEvent._fields
)
_SAME = "all"


def packed(columns: Sequence[Sequence[Any]]) -> list[Any]:
    """Return columns of TaskEvents as they are encoded."""
    return [
        {_SAME: column[0]}
        if may and column[0] == column[-1] and column.count(column[0]) == len(column)
        else column
        for column, may in zip(columns, _PACKED, strict=True)
    ]  # fmt: skip


def unpacked(columns: Sequence[Any]) -> list[Iterable[Any]]:
    """Return what :func:`packed` was given; a column of the same values gives them without end."""
    return [itertools.repeat(column[_SAME]) if type(column) is dict else column for column in columns]


class Encoder:
    """Encodes records. For one thread at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._other)
        self._tracebacks = 0

    def encode(self, kind: str, *facts: Any) -> bytes:
        """Return the record. Text that is no text (a file's name in another encoding) is mended."""
        self._tracebacks = 0
        try:
            return self._encoder.encode((kind, *facts))
        except Exception:  # noqa: BLE001 - text with lone surrogates, a number beyond 64 bits
            return self._encoder.encode(_mended((kind, *facts)))

    def _other(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            with_traceback = self._tracebacks < TRACEBACKS
            self._tracebacks += 1
            return failure_of(value, with_traceback)
        return str(value)


def failure_of(error: BaseException, with_traceback: bool) -> tuple[str, str, str, str, str | None]:
    """Return what is kept of an exception: its type, what it comes down to, its text, its notes, its traceback."""
    # Errors that say "this was not done since that failed" come down to that.
    root = (error.__cause__ or error) if hasattr(error, "dependent_exceptions_tids") else error
    text = _text(error)
    cause = f"{type(root).__name__}: {_gist(_text(root))}"
    notes = "\n".join(" ".join(str(note).split()) for note in getattr(error, "__notes__", ()) or ())
    lines = _traceback(error) if with_traceback and root is error else None
    return type(error).__name__, cause, _cut(text), _cut(notes), lines


def _traceback(error: BaseException) -> str | None:
    if isinstance(error.__cause__, RemoteTraceback):
        return _cut(str(error.__cause__).strip())
    if error.__traceback__ is None:
        return None
    try:
        return _cut("".join(traceback.format_tb(error.__traceback__, limit=-FRAMES)))
    except Exception:  # noqa: BLE001 - a loader of the user's that cannot show its source
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's class
        return "(its text cannot be had: __str__ failed)"


def _gist(text: str) -> str:
    """Return what a text comes down to: its first line, and its last one if the first says that something follows."""
    lines = text.strip().splitlines() or [""]
    return lines[0][:500] if not lines[0].endswith(":") or len(lines) == 1 else f"{lines[0][:500]} {lines[-1][:200]}"


def _cut(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters are left out ...]\n{text[-half:]}"


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, BaseException):
        return _mended(failure_of(value, False))
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value)
    return value


_VARIABLE_PARTS = (
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<uuid>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<address>"),
    (re.compile(r"/(?:[\w.+@=,%~-]+/)+[\w.+@=,%~-]*"), "<path>"),
    (re.compile(r"\d+(?:\.\d+)?"), "N"),
)
#: Characters of a cause that are kept.
CAUSE_LIMIT = 300


def general_cause(cause: str) -> str:
    """Return a cause without what differs from task to task: numbers, paths, ids. Exit codes stay.

    "FileNotFoundError: no such file: '/data/17.csv'" and that for 18.csv are one cause.
    """
    name, colon, text = cause.partition(": ")
    text = re.sub(r"((?:exit code|signal) -?)(\d+)", lambda m: m[1] + m[2].translate(_HIDE), text)
    for pattern, stand_in in _VARIABLE_PARTS:
        text = pattern.sub(stand_in, text)
    return (name + colon + text.translate(_SHOW))[:CAUSE_LIMIT]


# Digits that are to stay, while others are replaced: from a part of Unicode that is nobody's.
_HIDE = {ord(str(n)): 0xE000 + n for n in range(10)}
_SHOW = {0xE000 + n: str(n) for n in range(10)}
