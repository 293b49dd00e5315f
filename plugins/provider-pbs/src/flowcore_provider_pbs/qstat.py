"""What qstat prints of jobs, as attributes by job id: ``{"40.pbs": {"job_state": "R", "comment": ...}}``.

Rule of this module: pure functions. Names of attributes are in lower case (Torque's ``exit_status`` is PBS Pro's
``Exit_status``), those within others have a dot (``resource_list.walltime``), all values are text. The short form of
qstat is never read: it cuts long ids. An answer that is not understood is no answer, and no sign that a job is gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flowcore.plugins.api import Completed, QueryUnsupported, SchedulerSilent

Attributes = Mapping[str, str]

#: What qstat says of a job that it does not list.
_OF_A_JOB = re.compile(r"unknown job id|job has finished|illegally formed job identifier", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"invalid option|illegal option|unknown option|illegal -F value|^usage:|maintain job history|job history is not",
    re.IGNORECASE | re.MULTILINE,
)
#: Its exit codes then: the lowest 8 bits of the numbers of PBS's errors. Slurm's qstat says no more than the first.
_UNKNOWN_JOB, _FINISHED = 153, 35
_JOB = re.compile(r"Job Id:\s*(\S+)\s*")
_ATTRIBUTE = re.compile(r"([A-Za-z_][\w.]*) = (.*)")


def read_json(said: Completed) -> dict[str, Attributes]:
    """Return the jobs of ``qstat -f -F json``; none if it is no JSON, as with some values in some versions.

    Raises:
        QueryUnsupported: this qstat cannot do it.
        SchedulerSilent: it failed for another reason than that jobs are unknown or over.
    """
    try:
        document = json.loads(said.stdout, strict=False) if said.stdout.strip() else {}
        listed = document.get("Jobs", {}) if isinstance(document, dict) else {}
        jobs = {str(job_id): _flat(said_of_it) for job_id, said_of_it in listed.items()}
    except (ValueError, AttributeError):
        jobs = {}
    _check(said, jobs)
    return jobs


def read_text(said: Completed) -> dict[str, Attributes]:
    """Return the jobs of ``qstat -f``, of any dialect; its long lines are cut and go on in the next.

    Raises:
        QueryUnsupported, SchedulerSilent: as :func:`read_json`.
    """
    jobs: dict[str, Attributes] = {}
    current: dict[str, str] = {}
    indent = last = ""
    for line in said.stdout.replace("\r\n", "\n").split("\n"):
        if found := _JOB.fullmatch(line):
            jobs[found[1]] = current = {}
            indent = last = ""
            continue
        text = line.lstrip(" \t")
        attribute = _ATTRIBUTE.match(text)
        # Attributes are all indented alike, by 4 blanks or a tab; what goes on is indented otherwise.
        space = line[: len(line) - len(text)]
        if attribute and space and space == (indent or space):
            indent, last = space, attribute[1].lower()
            # What a variable holds behind a line break may look like an attribute; a job's state comes before it.
            current.setdefault(last, attribute[2])
        elif last and space:
            current[last] += text
    _check(said, jobs)
    return jobs


def _flat(attributes: Mapping[str, Any]) -> Attributes:
    found = {}
    for name, value in attributes.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found.update({f"{name}.{key}".rstrip(".").lower(): str(part) for key, part in inner})
    return found


def _check(said: Completed, jobs: Mapping[str, Attributes]) -> None:
    if said.exit_code == 0 or jobs:
        return
    if _UNSUPPORTED.search(said.stderr):
        raise QueryUnsupported(str(said))
    answered = said.exit_code in (_UNKNOWN_JOB, _FINISHED) or _OF_A_JOB.search(said.stderr)
    # What others than qstat write, such as a shell that warns, is no complaint.
    complains = any(line.startswith("qstat:") and not _OF_A_JOB.search(line) for line in said.stderr.splitlines())
    if complains or not answered:
        raise SchedulerSilent(str(said))


def by_all_names(jobs: Mapping[str, Attributes]) -> dict[str, Attributes]:
    """Return jobs by all names that qsub may have given them: ``40``, ``40.pbs`` and ``40.pbs.domain``."""
    found = {}
    for job_id, attributes in jobs.items():
        parts = job_id.split(".")
        found.update({".".join(parts[:count]): attributes for count in range(1, len(parts) + 1)})
    return found
