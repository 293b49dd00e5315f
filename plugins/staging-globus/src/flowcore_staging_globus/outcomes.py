"""What Globus's documents about a task mean for each of its files.

Rule of this module: pure functions of the documents. Facts about these are from the descriptions of the Transfer API,
"Task Management" and "Task Events": a task that is ACTIVE goes on with faults of which the user has to mend the cause;
one that is INACTIVE waits for credentials. With ``skip_source_errors``, files that are not there, or may not be read,
are left out, and the task goes on with the others.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from flowcore_staging_globus.mapping import Location

#: Tasks of Globus that a file may be in, since others of its batch failed.
MOST_TRIES = 3
#: What stands in ``nice_status`` of a task that makes progress.
_FINE = frozenset({"OK", "QUEUED"})
#: Faults that pass only if somebody does something about the files.
_HOPELESS = frozenset({"FILE_NOT_FOUND", "PERMISSION_DENIED", "QUOTA_EXCEEDED", "NO_SPACE_LEFT", "FILE_SIZE_CHANGED"})
#: Faults that are the same for whoever asks again.
_LASTING = frozenset({"FILE_NOT_FOUND", "PERMISSION_DENIED"})
_LONGEST_DETAILS = 400


class Condition(enum.Enum):
    """How a task is."""

    GOING = "going"
    ENDED = "ended"
    SUSPENDED = "suspended"
    HOPELESS = "hopeless"


class Stop(enum.Enum):
    """Why a task was cancelled."""

    DEADLINE = "deadline"
    HOPELESS = "hopeless"
    SUSPENDED = "suspended"
    UNWANTED = "unwanted"


class Moved(Protocol):
    """What is looked at of a transfer."""

    @property
    def source(self) -> Location: ...
    @property
    def destination(self) -> Location: ...
    @property
    def tries(self) -> int: ...


@attrs.frozen
class Report:
    """All that Globus tells of a task that has ended, or was given up.

    Attributes:
        task: the task's document.
        errors: documents of its events that are errors, the newest first.
        arrived: pairs of the paths, here and there, of the files that were moved.
        skipped: code and text of the fault, by source path, of files that were left out.
        pause: what administrators say who have paused it; None if it was not paused.
    """

    task: Mapping[str, Any]
    errors: Sequence[Mapping[str, Any]] = ()
    arrived: frozenset[tuple[str, str]] = frozenset()
    skipped: Mapping[str, tuple[str, str]] = attrs.field(factory=dict)
    pause: str | None = None


@attrs.frozen
class Failed:
    """A file has not arrived.

    Attributes:
        reason: why, and what to do.
        passing: whether it might arrive if it were tried again.
    """

    reason: str
    passing: bool = True


class Fine(enum.Enum):
    """A file has not failed."""

    ARRIVED = "arrived"
    #: What ended its task was about another file.
    AGAIN = "again"


Outcome = Failed | Fine


def condition(task: Mapping[str, Any]) -> Condition:
    """Return how a task is, by its document."""
    status = task.get("status")
    if status in ("SUCCEEDED", "FAILED"):
        return Condition.ENDED
    if status == "INACTIVE":
        return Condition.SUSPENDED
    return Condition.HOPELESS if _code(task) in _HOPELESS else Condition.GOING


def progress(task: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what grows while a task moves files."""
    return tuple(task.get(name) for name in ("bytes_transferred", "files_transferred", "subtasks_succeeded"))


def _code(task: Mapping[str, Any]) -> str:
    return str(task.get("nice_status") or "").upper()


def pause_messages(info: Mapping[str, Any]) -> str:
    """Return what administrators say who have paused a task, by the document about that."""
    ends = [info.get(f"{end}_pause_message{share}") for end in ("source", "destination") for share in ("", "_share")]
    rules = [rule.get("message") for rule in info.get("pause_rules") or ()]
    said = "; ".join(dict.fromkeys(str(message) for message in (*ends, *rules) if message))
    return f"and says: {said}" if said else "without a message"


def details_wanted(task: Mapping[str, Any]) -> bool:
    """Return whether the task's document alone does not tell what became of each file."""
    return task.get("status") != "SUCCEEDED" or bool(task.get("subtasks_skipped_errors"))


def judge(items: Iterable[Moved], report: Report, stop: Stop | None) -> list[Outcome]:
    """Return what became of each transfer of a task, in their order.

    Args:
        items: the transfers.
        report: what Globus tells.
        stop: why it was cancelled, if it was.
    """
    items = list(items)
    succeeded = report.task.get("status") == "SUCCEEDED"
    known = [_known(item, report, succeeded) for item in items]
    # If some of the files are to blame, the others are not.
    blamed = stop is not Stop.DEADLINE and any(isinstance(outcome, Failed) for outcome in known)
    general = Failed(general_reason(report, stop), stop is not Stop.HOPELESS)
    return [
        outcome if outcome is not None else Fine.AGAIN if blamed and item.tries < MOST_TRIES else general
        for item, outcome in zip(items, known, strict=True)
    ]


def _known(item: Moved, report: Report, succeeded: bool) -> Outcome | None:
    skipped = report.skipped.get(item.source.path)
    if skipped is not None:
        code, text = skipped
        return Failed(f"{_where(report.task)} left it out: {_fault(code, text)}{_advice(code)}", code not in _LASTING)
    if succeeded or (item.source.path, item.destination.path) in report.arrived:
        return Fine.ARRIVED
    for event in report.errors:
        if _file_of(event) in (item.source.path, item.destination.path):
            code = str(event.get("code"))
            text = _fault(code, event.get("details") or event.get("description"))
            return Failed(f"{_where(report.task)} could not move it: {text}{_advice(code)}", code not in _LASTING)
    return None


def general_reason(report: Report, stop: Stop | None, otherwise: str = "failed") -> str:
    """Return why a task as a whole did not bring its files.

    Args:
        report: what Globus tells.
        stop: why it was cancelled, if it was.
        otherwise: what it did if it was not.
    """
    task = report.task
    happened = {
        Stop.DEADLINE: "it did not arrive within deadline_s, and the transfer was cancelled",
        Stop.HOPELESS: "the transfer was held up, and was cancelled",
        Stop.SUSPENDED: "Globus has suspended the transfer (INACTIVE), since credentials for an endpoint have expired; "
        "it was cancelled",
        Stop.UNWANTED: "nobody waits for it any more, and the transfer was cancelled",
        None: f"the transfer {otherwise}",
    }[stop]
    parts = [f"{_where(task)}: {happened}"]
    fatal = task.get("fatal_error")
    if isinstance(fatal, Mapping) and fatal.get("code") != "CANCELED":
        parts.append(f"Globus says: {_fault(fatal.get('code'), fatal.get('description'))}")
    if task.get("canceled_by_admin"):
        parts.append(
            f"cancelled by the administrator of the {str(task['canceled_by_admin']).lower()} endpoint: "
            f"{task.get('canceled_by_admin_message') or 'without a message'}"
        )
    if report.pause is not None:
        parts.append(f"an endpoint's administrator has paused it, {report.pause}")
    if report.errors:
        event = report.errors[0]
        code = str(event.get("code"))
        text = _fault(code, event.get("details") or event.get("description"))
        parts.append(f"its last fault was {text}{_advice(code)}")
    elif task.get("status") == "ACTIVE" and _code(task) and _code(task) not in _FINE:
        parts.append(f"its state was {_fault(_code(task), task.get('nice_status_short_description'))}")
    if stop is Stop.SUSPENDED:
        parts.append(
            "Log in to the endpoint again in the web application of Globus, or run: flowcore globus-auth --force"
        )
    return "; ".join(parts)


def _where(task: Mapping[str, Any]) -> str:
    ends = [
        task.get(f"{end}_endpoint_display_name") or task.get(f"{end}_endpoint_id") for end in ("source", "destination")
    ]
    names = f" from {ends[0]!r} to {ends[1]!r}" if all(ends) else ""
    return f"Globus task {task.get('task_id')}{names}"


def _fault(code: object, text: object) -> str:
    # Details are lines: an error, the server, "File: ...", a command, a message.
    shown = "; ".join(line.strip() for line in str(text or "").splitlines() if line.strip(" -"))
    if len(shown) > _LONGEST_DETAILS:
        shown = shown[:_LONGEST_DETAILS] + "..."
    return f"{code} ({shown})" if shown else str(code)


def _file_of(event: Mapping[str, Any]) -> str | None:
    for line in str(event.get("details") or "").splitlines():
        name, colon, path = line.partition(":")
        if colon and name.strip() == "File":
            return path.strip()
    return None


def _advice(code: str) -> str:
    return {
        "FILE_NOT_FOUND": ". Is the path the endpoint's own, and not the one of the file system behind it?",
        "PERMISSION_DENIED": ". The account that the endpoint maps you to may not, or the path is outside of what the "
        "endpoint shows: see endpoint_path and local_path",
    }.get(code, "")
