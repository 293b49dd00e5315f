"""Blocks that another process asked for: looked at, and cancelled, through a provider made of what is recorded.

Rule of this module: looking changes nothing, neither with the scheduler nor in the record; and what cannot be told is
said to be unknown, never to be over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from flowcore.config import build
from flowcore.errors import ConfigurationError, FlowcoreError, describe
from flowcore.plugins.provider import JobState, JobStatus, Provider, ProviderContext
from flowcore.scaling.record import BlockEntry, BlockRecord, ExecutorEntry, RunEntry

#: Seconds between two looks at jobs that were cancelled and have not ended yet, at first and at most.
_AGAIN_S = (0.1, 2.0)


def provider_of(run: RunEntry, entry: ExecutorEntry) -> Provider:
    """Make the provider of an executor of another process.

    Raises:
        ConfigurationError: the record does not suffice; says why, and what to do.
    """
    advice = "give its configuration with --config FILE"
    if entry.provider is None:
        raise ConfigurationError(f"its provider is not known: {entry.why or 'the record does not say'}; {advice}")
    try:
        provider: Provider = build("provider", entry.provider, "provider")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}{_secrets(entry)}; {advice}") from error
    return provider


def _secrets(entry: ExecutorEntry) -> str:
    """Return what the record lacks, for an error that this may be the reason of."""
    return f". Not recorded, since it is secret or has no name: {', '.join(entry.left_out)}" if entry.left_out else ""


@attrs.frozen
class Outcome:
    """What became of a block that was to be cancelled: ``text`` says so, and ``left`` whether it may be there still."""

    block: BlockEntry
    text: str
    left: bool


class Survey:
    """The blocks of one executor of another process.

    Args:
        run, entry: what is recorded; the entry's blocks are brought up to date.
        provider: through which they are looked at; not started.

    Raises:
        ConfigurationError: there is no way to the scheduler from here; says why, and what to do.
    """

    def __init__(self, run: RunEntry, entry: ExecutorEntry, provider: Provider) -> None:
        if provider.on_this_host and run.process.host != socket.gethostname():
            raise ConfigurationError(
                f"its blocks are processes of the host {run.process.host}, and this is {socket.gethostname()}: "
                "run this command there"
            )
        self._entry = entry
        self._provider = provider
        try:
            provider.start(ProviderContext(Path(entry.script_dir), entry.label, run.run_id))
        except Exception as error:
            with contextlib.suppress(Exception):
                provider.close()
            raise ConfigurationError(f"its scheduler cannot be reached: {describe(error)}{_secrets(entry)}") from error

    def look(self) -> str | None:
        """Ask for the blocks that are not known to have ended; return why nothing is known of any, if that is so.

        Raises:
            FlowcoreError: the provider raised what it should not.
        """
        try:
            for block in self._entry.open():
                self._find(block)
            return self._ask(self._jobs())
        except FlowcoreError:
            raise
        except Exception as error:
            raise FlowcoreError(f"its provider raised {describe(error)}") from error

    def cancel(self, record: BlockRecord, timeout_s: float) -> list[Outcome]:
        """Cancel the blocks that are left, and wait for their end.

        Args:
            record: is told what has ended.
            timeout_s: seconds to wait for the end of jobs that were cancelled.

        Returns:
            What became of each block that was not known to have ended.

        Raises:
            FlowcoreError: as :meth:`look`.
        """
        before = self._entry.open()
        self.look()
        running = self._jobs()
        accepted = {b.block_id for b, yes in zip(running, self._cancelled(running), strict=True) if yes}
        deadline = time.monotonic() + timeout_s
        pause_s = _AGAIN_S[0]
        while waiting := [b for b in running if b.block_id in accepted and not b.state.terminal]:
            self._ask(waiting)
            if time.monotonic() > deadline:
                break
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_S[1])
        for block in before:
            if block.state.terminal:
                record.state(self._entry.label, block.block_id, JobStatus(block.state, block.message, block.exit_code))
        asked = {b.block_id for b in running}
        return [_outcome(b, b.block_id in asked, b.block_id in accepted) for b in before]

    def close(self) -> None:
        """Close the provider."""
        self._provider.close()

    def _jobs(self) -> list[BlockEntry]:
        return [b for b in self._entry.open() if b.job_id is not None]

    def _find(self, block: BlockEntry) -> None:
        if block.job_id is None:
            found = self._provider.find(block.name)
            if found is None:
                return
            if not found:
                block.state, block.message = JobState.CANCELLED, "there is no job of its name"
                return
            block.job_id = found[0]
        self._provider.adopt(block.job_id, block.name)

    def _ask(self, blocks: Sequence[BlockEntry]) -> str | None:
        states = self._provider.status([b.job_id for b in blocks if b.job_id is not None]) if blocks else []
        silent = [s.message or "nothing is known of its jobs" for s in states if s.state is JobState.UNKNOWN]
        if silent and len(silent) == len(blocks):
            return silent[0]
        for block, status in zip(blocks, states, strict=True):
            if status.state is JobState.UNKNOWN:
                block.message = status.message or block.message
                continue
            if status.state is not block.state:
                # It has changed while nobody looked.
                block.since = None
            block.state, block.message, block.exit_code = status.state, status.message, status.exit_code
        return None

    def _cancelled(self, blocks: Sequence[BlockEntry]) -> list[bool]:
        if not blocks:
            return []
        try:
            return self._provider.cancel([b.job_id for b in blocks if b.job_id is not None])
        except Exception as error:
            raise FlowcoreError(f"its provider raised {describe(error)}") from error


def _outcome(block: BlockEntry, asked: bool, accepted: bool) -> Outcome:
    name = block.state.name
    reason = f": {block.message}" if block.message else ""
    if block.job_id is None and not block.state.terminal:
        text = f"not known: it was asked for, and nobody knows its id; look for a job of the name {block.name}"
        return Outcome(block, text, left=True)
    if not asked:
        return Outcome(block, f"had ended before ({name}{reason})", left=False)
    if not accepted:
        return Outcome(block, f"not cancelled: this was not accepted, and it is {name}{reason}", left=True)
    if not block.state.terminal:
        return Outcome(block, f"was cancelled, and has not ended yet: it is {name}{reason}", left=True)
    return Outcome(block, "cancelled" if block.state is JobState.CANCELLED else f"ended ({name}{reason})", left=False)


def within(timeout_s: float, what: Callable[[], None]) -> None:
    """Do something in a thread of its own, and wait for that, not longer than so many seconds.

    What it raises in time is raised here. A thread that takes longer goes on, and does not keep the program alive.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            what()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            raised.append(error)

    thread = threading.Thread(target=work, name="flowcore-survey", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if raised:
        raise raised[0]
