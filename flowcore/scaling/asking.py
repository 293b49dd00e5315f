"""How an executor's provider is asked: :class:`Asking`.

Rule of this module: whatever a provider raises ends no more than what it was asked for. A scheduler that is silent
is told of once, and once more when it answers again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flowcore.errors import FlowcoreError, describe
from flowcore.plugins.executor import BlockExecutor
from flowcore.plugins.provider import JobState, JobStatus
from flowcore.scaling.breaker import Silence

logger = logging.getLogger(__name__)


class Asking:
    """Asks the provider of an executor.

    Args:
        executor: whose provider it is.
        clock: seconds since some point, monotonic.

    Attributes:
        silence: whether the scheduler answers.
        defect_since: since when ``status`` has raised what it must not; None if it does not.
    """

    def __init__(self, executor: BlockExecutor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self.silence = Silence()
        self.defect_since: float | None = None

    def statuses(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """Return the status of each job; UNKNOWN where the provider raised."""
        try:
            states = self._executor.provider.status(job_ids)
            _check_length(states, job_ids)
        except Exception as error:
            text = f"the status() of its provider raised {describe(error)}"
            if not isinstance(error, FlowcoreError | OSError) and self.defect_since is None:
                self.defect_since = self._clock()
                logger.exception("executor %s: %s", self._executor.label, text)
            self.unanswered("status", text)
            return [JobStatus(JobState.UNKNOWN, text)] * len(job_ids)
        self.defect_since = None
        return states

    def cancel(self, job_ids: Sequence[str], again: bool) -> list[bool]:
        """Return for each job whether its cancelling was accepted; where the provider raised, none was.

        Args:
            job_ids: which.
            again: they were asked for before: what is raised then has been logged.
        """
        try:
            accepted = self._executor.provider.cancel(job_ids)
            _check_length(accepted, job_ids)
        except Exception:
            if not again:
                logger.exception("executor %s: the cancel() of its provider raised", self._executor.label)
            return [False] * len(job_ids)
        return accepted

    def find(self, job_name: str) -> list[str] | None:
        """Return the ids of the jobs of a name; None if that cannot be told."""
        try:
            return self._executor.provider.find(job_name)
        except Exception:
            logger.exception("executor %s: looking for the job %s failed", self._executor.label, job_name)
            return None

    def close(self) -> None:
        """Close the provider."""
        try:
            self._executor.provider.close()
        except Exception:
            logger.exception("closing the provider of executor %s failed", self._executor.label)

    def unanswered(self, question: str, message: str, request: bool = False) -> None:
        """Note that a question got no answer; see :meth:`.Silence.unanswered`."""
        if self.silence.unanswered(question, self._clock(), request):
            logger.warning(
                "executor %s: the scheduler does not answer, and is asked again; blocks are taken to be as before: %s",
                self._executor.label,
                message,
            )

    def answered(self, question: str) -> None:
        """Note an answer."""
        seconds = self.silence.answered(question, self._clock())
        if seconds is not None:
            logger.warning("executor %s: the scheduler answers again, after %.0f s", self._executor.label, seconds)


def _check_length(answers: Sequence[object], job_ids: Sequence[str]) -> None:
    if len(answers) != len(job_ids):
        raise ValueError(f"{len(answers)} answers for {len(job_ids)} jobs")
