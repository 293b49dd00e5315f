"""The words that providers of batch schedulers share: what is submitted, how it is asked for, what a command said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from flowcore.plugins.provider import JobStatus


class SchedulerSilent(Exception):
    """A command got no answer from the scheduler. Raised by parsers; its text is for humans."""


class QueryUnsupported(Exception):
    """This site does not have what a query asks. Raised by parsers; the query is not used again."""


@attrs.frozen
class Completed:
    """What a command said. ``exit_code`` is -1 where it took too long."""

    command: str
    exit_code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        said = self.stderr.strip() or self.stdout.strip() or "it printed nothing"
        return f"{said} (exit code {self.exit_code} of: {self.command})"


@attrs.frozen
class JobRequest:
    """One job that is to be submitted. The paths are those of the scheduler's host, and of the nodes.

    Attributes:
        name: of the job.
        tasks_per_node: number of times that the command is run per node.
        script: the script.
        stdout, stderr: where the job's streams are to go.
    """

    name: str
    tasks_per_node: int
    script: str
    stdout: str
    stderr: str


@attrs.frozen
class StatusQuery:
    """One way to ask for jobs.

    Attributes:
        name: of the command, for messages.
        command: makes one command line that asks for all of some job ids.
        parse: returns the status of those jobs that the answer tells of, by id. Raises :class:`SchedulerSilent` or
            :class:`QueryUnsupported`.
    """

    name: str
    command: Callable[[Sequence[str]], str]
    parse: Callable[[Completed], Mapping[str, JobStatus]]
