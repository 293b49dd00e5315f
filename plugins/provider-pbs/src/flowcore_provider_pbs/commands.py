"""What qsub and qdel say, in all dialects.

Rule of this module: pure functions. A word that is not known means no: a job is never taken for submitted, or for
ended, because of something that was not understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flowcore.plugins.api import Completed

#: What commands print when the server does not answer; in lower case. Their exit codes say nothing.
SILENCE = (
    "cannot connect to",
    "couldn't connect to",
    "could not connect to",
    "can not establish connection",
    "connection refused",
    "connection timed out",
    "no route to host",
    "network is unreachable",
    "communication failure",
    "end of file",
    "premature end of message",
    "batch protocol error",
    "no free connections",
    "server connection table full",
    "server shutting down",
    "server is currently too busy",
    "server busy",
    "failed to recv data from background qsub",
    # Slurm's commands of these names.
    "unable to contact slurm controller",
    "problem loading jobs",
    "problem loading slurm",
)
_ID = re.compile(r"\d+(\[\d*\])?(\.[A-Za-z0-9][\w.-]*)?")
_GONE = re.compile(
    r"unknown job id|job has finished|already in exit state|already in progress|request invalid for state of job",
    re.IGNORECASE,
)


def submitted(said: Completed) -> str:
    """Return the id that qsub printed, behind whatever a site's wrapper printed before it.

    Raises:
        ValueError: there is none.
    """
    for line in reversed(said.stdout.splitlines()):
        if _ID.fullmatch(line.strip()):
            return line.strip()
    raise ValueError("qsub printed no job id")


def cancelled(said: Completed, job_ids: Sequence[str]) -> list[bool]:
    """Return for each job whether qdel took it, or found it gone. Of several jobs it complains of each by a line."""
    lines = [line for line in f"{said.stdout}\n{said.stderr}".splitlines() if line.strip()]
    if said.exit_code == 0 or not lines:
        # Slurm's says nothing of jobs that are gone, and exits with their number.
        return [said.exit_code <= len(job_ids)] * len(job_ids)
    blamed = [{job_id for job_id in job_ids if _names(line, job_id)} for line in lines if not _GONE.search(line)]
    if not all(blamed):  # it complains of something else: nothing is known
        return [False] * len(job_ids)
    return [job_id not in set().union(*blamed) for job_id in job_ids]


def _names(line: str, job_id: str) -> bool:
    number = re.escape(job_id.partition(".")[0])
    return re.match(rf"qdel:.*(?<![\w.]){number}(?!\w)", line) is not None
