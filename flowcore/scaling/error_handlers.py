"""What to do when blocks fail: functions of an executor and the status of its blocks, called after each poll."""

from __future__ import annotations

from flowcore.errors import BlocksFailed
from flowcore.plugins.executor import BlockExecutor
from flowcore.plugins.provider import JobState, JobStatus

_BAD = (JobState.FAILED, JobState.MISSING)


def noop_error_handler(executor: BlockExecutor, status: dict[str, JobStatus], threshold: int = 3) -> None:
    """Do nothing."""


def simple_error_handler(executor: BlockExecutor, status: dict[str, JobStatus], threshold: int = 3) -> None:
    """Fail the executor once ``threshold`` blocks ended, and all of them badly.

    If no worker of any of them has ever connected, it is enough that all blocks which there may be at a time did so.
    """
    ended = [s for s in status.values() if s.terminal]
    if not ended or any(s.state not in _BAD for s in status.values()):
        return
    if not executor.connected_blocks():
        threshold = min(threshold, max(1, executor.provider.max_blocks, executor.provider.init_blocks))
    if len(ended) >= threshold:
        fail(executor, status)


def windowed_error_handler(executor: BlockExecutor, status: dict[str, JobStatus], threshold: int = 3) -> None:
    """Fail the executor if the last ``threshold`` blocks that ended all ended badly."""
    ended = [(block, s) for block, s in status.items() if s.terminal]
    window = ended[-threshold:]
    if len(window) == threshold and all(s.state in _BAD for _, s in window):
        fail(executor, dict(window))


def fail(executor: BlockExecutor, status: dict[str, JobStatus]) -> None:
    """Fail an executor for good, with what is known of the ends of these blocks."""
    lines = []
    for block, s in status.items():
        code = f", exit code {s.exit_code}" if s.exit_code is not None else ""
        message = (s.message or "").strip().replace("\n", "\n    ")
        lines.append(f"  block {block}: {s.status_name}{code}{': ' if message else ''}{message}")
        for name, text in (("stderr", s.stderr_summary), ("stdout", s.stdout_summary)):
            if text and text.strip():
                indented = "\n".join(f"      {line}" for line in text.strip().splitlines())
                lines.append(f"    its {name} ends with:\n{indented}")
                break
    # One that the scheduler refused has left nothing.
    ran = any(s.exit_code is not None or s.stderr_path or s.state is JobState.MISSING for s in status.values())
    if not ran:
        what, hint = "it could get no blocks", "Check the options of its provider, and what the scheduler allows"
    elif executor.connected_blocks():
        what, hint = "its blocks ended again and again", "What their workers wrote last is in the logs of the run"
    else:
        what = "its blocks ended without doing their work"
        hint = "Check the provider's worker_init and that flowcore can be imported by the python on the nodes"
    text = "\n".join([f"{what}:", *lines, f"  {hint}"])
    executor.set_bad_state_and_fail_all(BlocksFailed(executor.label, text))
