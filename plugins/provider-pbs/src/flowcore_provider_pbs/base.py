"""What the providers of both dialects share: the commands, and what they say when they are refused or get no answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs

from flowcore.plugins.api import ClusterProvider, Completed, ConfigurationError
from flowcore_provider_pbs import commands, options


def one_word(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    """Validate an option that stands in a ``#PBS`` line: what came behind a line break would be run."""
    if value is not None and (not value.isprintable() or " " in value):
        raise ConfigurationError(
            f"{type(instance).__name__}({attribute.name}={value!r}): expected text without blanks and line breaks"
        )


class PBSProvider(ClusterProvider):
    """Base class of providers that submit with qsub, ask qstat, and cancel with qdel."""

    programs: ClassVar[tuple[str, ...]] = ("qsub", "qstat", "qdel")
    id_variable: ClassVar[str] = "PBS_JOBID"
    silence: ClassVar[tuple[str, ...]] = commands.SILENCE

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        options.check(type(self).__name__, self.scheduler_options)

    @property
    def _clock(self) -> str:
        """The walltime as PBS takes it."""
        assert self.walltime_s is not None
        return options.clock(self.walltime_s)

    def parse_submitted(self, said: Completed) -> str:
        """Return the id that qsub printed."""
        return commands.submitted(said)

    def cancel_command(self, job_ids: Sequence[str]) -> str:
        """Return the command line of qdel."""
        return f"qdel {shlex.join(job_ids)}"

    def parse_cancelled(self, said: Completed, job_ids: Sequence[str]) -> list[bool]:
        """Return for each job whether it will end, or has."""
        return commands.cancelled(said, job_ids)
