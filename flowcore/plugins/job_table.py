"""The jobs of one provider, and what is known of them.

Rule of this module: one command asks for all jobs, none for a single one; a job that has ended is not asked for again;
and a scheduler that gives no answer changes nothing that is known.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from flowcore.plugins.provider import JobState, JobStatus
from flowcore.plugins.scheduler import Completed, QueryUnsupported, SchedulerSilent, StatusQuery
from flowcore.plugins.script import RAN_BEFORE, exit_codes, exit_codes_command

logger = logging.getLogger(__name__)

#: Seconds for which a job that the scheduler does not list may have been submitted just now.
SETTLE_S = 30.0


@attrs.define(slots=True, eq=False)
class Job:
    """One job.

    Attributes:
        base: path of its files without their endings, on the scheduler's host.
        submitted_at: time of the monotonic clock, s.
        status: the last that is known.
        cancelled: the scheduler accepted to cancel it.
    """

    base: str
    submitted_at: float
    status: JobStatus = attrs.field(factory=lambda: JobStatus(JobState.PENDING))
    cancelled: bool = False


class JobTable:
    """The jobs of one provider.

    Args:
        label: of the provider, for messages.
        run: runs a command on the scheduler's host. Raises :class:`SchedulerSilent`.
        here: returns where a file of the scheduler's host is on this one; None if it cannot be had.
    """

    def __init__(self, label: str, run: Callable[[str], Completed], here: Callable[[str], str | None]) -> None:
        self._label = label
        self._run = run
        self._here = here
        self._jobs: dict[str, Job] = {}
        self._unsupported: set[str] = set()

    def add(self, job_id: str, base: str, age_s: float = 0.0) -> None:
        """Take a job in, which was submitted ``age_s`` seconds ago."""
        self._jobs[job_id] = Job(base, time.monotonic() - age_s)

    def has_ended(self, job_id: str) -> bool:
        """Return whether a job is known to have ended."""
        job = self._jobs.get(job_id)
        return job is not None and job.status.terminal

    def was_cancelled(self, job_id: str) -> None:
        """Note that the scheduler accepted to cancel a job."""
        job = self._jobs.get(job_id)
        if job is not None and not job.status.terminal:
            job.cancelled = True

    def ask(self, job_ids: Sequence[str], queries: Sequence[StatusQuery], chunk_size: int) -> list[JobStatus]:
        """Return the status of jobs, in their order; also of such as are not in this table.

        Args:
            job_ids: which.
            queries: asked in order; those that one does not tell of are asked of the next.
            chunk_size: ids that one command names at most.
        """
        answers: dict[str, JobStatus] = {}
        asked = [i for i in dict.fromkeys(job_ids) if not self.has_ended(i)]
        for start in range(0, len(asked), chunk_size):
            answers.update(self._ask(asked[start : start + chunk_size], queries))
        for job_id, status in answers.items():
            job = self._jobs.get(job_id)
            if job is not None:
                job.status = self._completed(job, status)
        return [self._jobs[i].status if i in self._jobs else answers[i] for i in job_ids]

    def _ask(self, job_ids: Sequence[str], queries: Sequence[StatusQuery]) -> dict[str, JobStatus]:
        found: dict[str, JobStatus] = {}
        left = list(job_ids)
        try:
            for query in queries:
                if not left or query.name in self._unsupported:
                    continue
                try:
                    known = query.parse(self._run(query.command(left)))
                except QueryUnsupported as error:
                    logger.info("provider %s: %s is not used: %s", self._label, query.name, error)
                    self._unsupported.add(query.name)
                    continue
                found.update((i, known[i]) for i in left if i in known)
                left = [i for i in left if i not in known]
            return {**found, **self._not_listed(left)}
        except SchedulerSilent as error:
            logger.warning("provider %s: no answer: %s", self._label, error)
            return {**found, **{i: JobStatus(JobState.UNKNOWN, f"no answer: {error}") for i in left}}

    def _not_listed(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return the status of jobs that no query tells of, though the scheduler answers."""
        own = {i: self._jobs[i] for i in job_ids if i in self._jobs}
        codes = self._recorded(own)
        return {i: self._unlisted(i, own.get(i), codes.get(i)) for i in job_ids}

    def _unlisted(self, job_id: str, job: Job | None, code: int | None) -> JobStatus:
        if job is None:
            return JobStatus(JobState.UNKNOWN, f"{self._label} does not know a job {job_id}")
        if code is not None:
            return JobStatus(JobState.FAILED if code else JobState.COMPLETED, exit_code=code)
        if job.cancelled:
            return JobStatus(JobState.CANCELLED)
        if time.monotonic() - job.submitted_at < SETTLE_S:
            return JobStatus(JobState.UNKNOWN, f"{self._label} does not list it yet")
        return JobStatus(JobState.COMPLETED, f"{self._label} does not list it any more, and nothing tells how it ended")

    def _recorded(self, jobs: Mapping[str, Job]) -> dict[str, int]:
        if not jobs:
            return {}
        return exit_codes(self._run(exit_codes_command({i: job.base for i, job in jobs.items()})).stdout)

    def _completed(self, job: Job, status: JobStatus) -> JobStatus:
        """Return what the scheduler says of a job with what it does not know."""
        if not status.terminal:
            return status
        if job.cancelled:
            status = attrs.evolve(status, state=JobState.CANCELLED)
        elif status.exit_code == RAN_BEFORE:
            status = attrs.evolve(status, message="the scheduler started it a second time, and it did nothing then")
        out, err = (self._here(f"{job.base}.sh.{ending}") for ending in ("out", "err"))
        return attrs.evolve(status, stdout_path=out, stderr_path=err)
