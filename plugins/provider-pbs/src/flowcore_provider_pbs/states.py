"""What attributes of a job mean: its state, and the reason for humans.

Rule of this module: pure functions of attributes as :mod:`flowcore_provider_pbs.qstat` returns them.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import datetime

from flowcore.plugins.api import JobState, JobStatus
from flowcore_provider_pbs.qstat import Attributes, by_all_names

#: Letters of jobs that have not ended.
PBSPRO: Mapping[str, JobState] = {
    "B": JobState.RUNNING,  # an array, of which some job has begun
    "E": JobState.RUNNING,  # ends: its files are on their way, its exit status is not known
    "H": JobState.HELD,
    "M": JobState.UNKNOWN,  # moved to another server
    "Q": JobState.PENDING,
    "R": JobState.RUNNING,
    "S": JobState.HELD,  # suspended by the server
    "T": JobState.PENDING,  # on its way to a queue
    "U": JobState.HELD,  # suspended since somebody uses the workstation
    "W": JobState.PENDING,  # for its time, or for files
}
#: Slurm says U where it has no letter.
TORQUE: Mapping[str, JobState] = {**PBSPRO, "U": JobState.UNKNOWN}

_ENDED = frozenset("CFX")
_HOLDS = {"u": "its user", "o": "an operator", "s": "the system", "p": "a bad password"}
#: PBS Pro's substates of jobs that have ended: deleted; ended by themselves, well or not.
_DELETED = "91"
_BY_ITSELF = frozenset({"92", "93"})
_WALLTIME = -29
#: Exit statuses that PBS gives itself.
_BY_PBS = {
    -1: "it could not be started",
    -2: "it could not be started",
    -3: "it could not be started",
    -4: "its node was restarted",
    -10: "its user or group is not valid on the node",
    -24: "it used more cores than it had asked for",
    -25: "it used more cores than it had asked for",
    -26: "it used more virtual memory than it had asked for",
    -27: "it used more memory than it had asked for",
    -28: "it used more CPU time than it had asked for",
}
_SIGNALLED = 256


def statuses(jobs: Mapping[str, Attributes], letters: Mapping[str, JobState]) -> dict[str, JobStatus]:
    """Return the status of each job of which something is known, by all its names; see :func:`job_status`."""
    found = {job_id: job_status(attributes, letters) for job_id, attributes in by_all_names(jobs).items()}
    return {job_id: status for job_id, status in found.items() if status is not None}


def job_status(attributes: Attributes, letters: Mapping[str, JobState]) -> JobStatus | None:
    """Return the status of a job; None if it has ended and nothing says how.

    Args:
        attributes: of the job.
        letters: what the letters of jobs that have not ended mean.
    """
    letter = attributes.get("job_state", "")
    if letter in _ENDED:
        return _ended(letter, attributes)
    state = letters.get(letter, JobState.UNKNOWN)
    return JobStatus(state, _reason(letter, state, attributes))


def _reason(letter: str, state: JobState, attributes: Attributes) -> str | None:
    comment = attributes.get("comment")
    if letter == "H":
        holders = [_HOLDS.get(kind, kind) for kind in attributes.get("hold_types", "n").strip() if kind not in "n,"]
        held = f"held by {' and '.join(holders)}" if holders else "held"
        return f"{held}: {comment}" if comment else held
    if state in (JobState.UNKNOWN, JobState.HELD) and not comment:
        return {"M": "moved to another server", "S": "suspended", "U": "suspended"}.get(letter, f"in state {letter!r}")
    return comment


def _ended(letter: str, attributes: Attributes) -> JobStatus | None:
    comment = attributes.get("comment", "")
    deleted = attributes.get("substate") == _DELETED
    limit = attributes.get("resource_list.walltime", "")
    at_limit = JobStatus(JobState.TIMEOUT, f"ended at its walltime {limit}".rstrip())
    try:
        code = int(attributes["exit_status"])
    except (KeyError, ValueError):
        if letter == "C":  # Slurm's qstat has no exit status
            return at_limit if _over_limit(attributes, _span(attributes)) else None
        if deleted:
            return JobStatus(JobState.CANCELLED, comment or "deleted before it began")
        return JobStatus(JobState.FAILED, comment or "ended without an exit status")
    used = _seconds(attributes.get("resources_used.walltime", ""))
    if (
        code == _WALLTIME
        or "exceeded resource walltime" in comment
        or (code >= _SIGNALLED and _over_limit(attributes, used))
    ):
        return at_limit
    if code < 0:
        why = _BY_PBS.get(code, "PBS ended it")
        return JobStatus(JobState.FAILED, f"{why} (Exit_status {code}{f': {comment}' if comment else ''})")
    if code < _SIGNALLED:
        if deleted:
            return JobStatus(JobState.CANCELLED, comment or None, code)
        return JobStatus(JobState.FAILED if code else JobState.COMPLETED, None, code)
    number = code - _SIGNALLED
    message = f"ended by {_signal_name(number)} (exit status {code}{f': {comment}' if comment else ''})"
    # Where PBS does not tell who sent the signal, this one is what qdel sends.
    by_qdel = number == signal.SIGTERM and attributes.get("substate") not in _BY_ITSELF and "exceeded" not in comment
    return JobStatus(JobState.CANCELLED if deleted or by_qdel else JobState.FAILED, message, -number)


def _signal_name(number: int) -> str:
    try:
        return f"signal {number}, {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"


def _over_limit(attributes: Attributes, used: float | None) -> bool:
    limit = _seconds(attributes.get("resource_list.walltime", ""))
    return used is not None and limit is not None and used >= limit


def _span(attributes: Attributes) -> float | None:
    """Return the seconds between start and end as Slurm's qstat tells them, by names that mean others to PBS."""
    form = "%a %b %d %H:%M:%S %Y"
    try:
        begin, end = (datetime.strptime(attributes[name], form) for name in ("mtime", "ctime"))
    except (KeyError, ValueError):
        return None
    return (end - begin).total_seconds()


def _seconds(text: str) -> int | None:
    """Return the seconds of ``[[[D:]HH:]MM:]SS``, as qstat prints them; None if it is none."""
    total = 0
    for part, factor in zip(reversed(text.split(":")), (1, 60, 3600, 86400), strict=False):
        if not part.isdigit():
            return None
        total += int(part) * factor
    return total
