"""The states of Slurm's jobs, and what they mean.

Rule of this module: pure functions. A state that is not known is told as it is, and means UNKNOWN: never that a job is
gone.
"""

from __future__ import annotations

import re
import signal

from flowcore.plugins.api import JobState, JobStatus

#: All states of squeue(1) and sacct(1), in both forms.
STATES = {
    JobState.PENDING: (
        ("PD", "PENDING"),
        ("CF", "CONFIGURING"),
        ("RQ", "REQUEUED"),
        ("RF", "REQUEUE_FED"),
    ),
    JobState.RUNNING: (
        ("R", "RUNNING"),
        # Its processes may be at work still.
        ("CG", "COMPLETING"),
        ("RS", "RESIZING"),
        ("SI", "SIGNALING"),
        ("SO", "STAGE_OUT"),
    ),
    JobState.HELD: (
        ("S", "SUSPENDED"),
        ("ST", "STOPPED"),
        ("RH", "REQUEUE_HOLD"),
        ("RD", "RESV_DEL_HOLD"),
        ("SE", "SPECIAL_EXIT"),
    ),
    JobState.COMPLETED: (("CD", "COMPLETED"),),
    JobState.CANCELLED: (("CA", "CANCELLED"),),
    JobState.TIMEOUT: (("TO", "TIMEOUT"),),
    JobState.FAILED: (
        ("F", "FAILED"),
        ("BF", "BOOT_FAIL"),
        ("DL", "DEADLINE"),
        ("LF", "LAUNCH_FAILED"),
        ("NF", "NODE_FAIL"),
        ("OOM", "OUT_OF_MEMORY"),
        ("PR", "PREEMPTED"),
        ("RC", "RECONFIG_FAIL"),
    ),
    # Another cluster of the federation runs it.
    JobState.UNKNOWN: (("RV", "REVOKED"),),
}
_BY_WORD = {word: (state, forms[-1]) for state, words in STATES.items() for forms in words for word in forms}
_HELD = re.compile(r"held|JobHold", re.IGNORECASE)
#: States that say no more than the name of the :class:`JobState`.
_PLAIN = {"PENDING", "RUNNING", "COMPLETED", "CANCELLED", "TIMEOUT", "FAILED"}
#: States in which the exit code is that of the script.
_SCRIPT_ENDED = {"COMPLETED", "FAILED", "OUT_OF_MEMORY"}
#: Reasons for which a job waits that do not go by themselves, and what is to be done.
HINTS = {
    "AccountNotAllowed": "the partition does not take jobs of this account",
    "BadConstraints": "no node is as the option constraint wants it",
    "DependencyNeverSatisfied": "the job that it depends on did not end as it should",
    "InvalidAccount": "the option account names none of yours",
    "InvalidQOS": "the option qos names none of yours",
    "JobHeldAdmin": "only an administrator can release it",
    "JobHeldUser": "scontrol release lets it go on",
    "PartitionConfig": "the partition does not have so many nodes, or none with so many cores or so much memory",
    "PartitionDown": "the partition starts no jobs now; sinfo shows others",
    "PartitionInactive": "the partition takes no part now; sinfo shows others",
    "PartitionNodeLimit": "the partition does not give so many nodes to one job",
    "PartitionTimeLimit": "the walltime is longer than the partition allows",
}


def status(word: str, reason: str, code: int, number_of_signal: int) -> JobStatus:
    """Return a job's status.

    Args:
        word: Slurm's for the state.
        reason: why it is so, empty if there is none.
        code: exit code.
        number_of_signal: of the one that ended it, or 0.
    """
    state, long = _BY_WORD.get(word.upper(), (JobState.UNKNOWN, word))
    if state is JobState.PENDING and _HELD.search(reason):
        state = JobState.HELD
    parts = [] if long in _PLAIN else [long]
    # Of a job that was cancelled, squeue tells why it had waited before.
    if reason not in ("", "None") and (state is not JobState.CANCELLED or reason.startswith("by ")):
        parts.append(f"{reason} ({HINTS[reason]})" if reason in HINTS else reason)
    if long not in _SCRIPT_ENDED:
        return JobStatus(state, ": ".join(parts) or None)
    if number_of_signal:
        parts.append(f"killed by signal {number_of_signal} ({_signal_name(number_of_signal)})")
    # 0 in a job that failed: what failed was not the script.
    ended_with = -number_of_signal or code or (0 if state is JobState.COMPLETED else None)
    return JobStatus(state, ": ".join(parts) or None, ended_with)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown here"
