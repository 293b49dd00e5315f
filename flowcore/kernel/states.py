"""The states of a task, and which may follow which: the transition table, as data.

The names and numbers are those of the reference; they stand in users' monitoring databases.
"""

from __future__ import annotations

import enum


class States(enum.IntEnum):
    """The states that a task may be in."""

    unsched = -1
    pending = 0
    """Known to the kernel; waits for what it depends on."""
    running = 2
    """Running on a resource; seen where the executor tells."""
    exec_done = 3
    """Ended with a result."""
    failed = 4
    """Ended with an error, or cancelled; no further attempt."""
    dep_fail = 5
    """Ended without an attempt: something that it depends on failed."""
    launched = 7
    """Given to an executor."""
    fail_retryable = 8
    """The last attempt failed, and another one will be made."""
    memo_done = 9
    """Ended without an attempt: the result was known."""
    joining = 10
    """A join_app whose own code has run; waits for the futures that it returned."""
    running_ended = 11
    """The app has run; its files are being taken to where they belong."""


#: States that a task never leaves.
FINAL_STATES = (States.exec_done, States.memo_done, States.failed, States.dep_fail)
FINAL = frozenset(FINAL_STATES)

_S = States
#: For each state, the states that may follow it. Everything else is an InvalidTransition.
TRANSITIONS: dict[States, frozenset[States]] = {
    _S.unsched: frozenset({_S.pending}),
    _S.pending: frozenset({_S.launched, _S.memo_done, _S.dep_fail, _S.failed, _S.fail_retryable}),
    _S.launched: frozenset({_S.running, _S.running_ended, _S.exec_done, _S.joining, _S.failed, _S.fail_retryable}),
    _S.running: frozenset({_S.running_ended, _S.exec_done, _S.joining, _S.failed, _S.fail_retryable}),
    _S.running_ended: frozenset({_S.exec_done, _S.failed, _S.fail_retryable}),
    _S.joining: frozenset({_S.exec_done, _S.failed, _S.fail_retryable}),
    _S.fail_retryable: frozenset({_S.launched, _S.memo_done, _S.failed, _S.fail_retryable}),
    _S.exec_done: frozenset(),
    _S.memo_done: frozenset(),
    _S.failed: frozenset(),
    _S.dep_fail: frozenset(),
}


def diagram() -> str:
    """Return the transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    for state, following in TRANSITIONS.items():
        if state is States.unsched:
            continue
        lines += [f"    {state.name} --> {after.name}" for after in sorted(following)]
        if not following:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join(lines)
