"""What PBS is told of a job: the words of ``#PBS`` lines.

Rule of this module: pure functions, and nothing is said twice. Which of two lines counts depends on the option and on
the dialect; so a provider leaves out what the user's own lines say.
"""

from __future__ import annotations

import getopt
import math
import re
import shlex
from collections.abc import Iterable

from flowcore.plugins.api import ConfigurationError

#: Options of all dialects of qsub; a colon stands behind those that have a value.
_OPTIONS = "a:A:b:c:C:d:D:e:fF:hIj:J:k:K:l:L:m:M:nN:o:p:P:q:r:R:S:t:T:u:v:VW:w:xXz"
#: What a user's line must not say, and what to do instead.
_REFUSED = {
    "t": "a job array is no block: let max_blocks say how many jobs there may be",
    "I": "a block cannot be interactive",
    "l walltime": "give it as the option walltime, which workers are told too",
}


def given(lines: str) -> frozenset[str]:
    """Return what ``#PBS`` lines say: option letters such as ``q``, and resources such as ``l select``."""
    found: set[str] = set()
    for line in lines.splitlines():
        if not line.startswith("#PBS"):
            continue
        try:
            options, _ = getopt.getopt(shlex.split(line.removeprefix("#PBS")), _OPTIONS)
        except (ValueError, getopt.GetoptError):
            continue  # qsub will refuse it, and say why
        for name, value in options:
            letter = name.removeprefix("-")
            if letter == "l":
                found.update(f"l {part.partition('=')[0].strip()}" for part in value.split(","))
            else:
                found.add(letter)
    return frozenset(found)


def check(owner: str, lines: str) -> None:
    """Refuse a user's lines that cannot stand at the head of a script.

    Args:
        owner: class of the provider, for the message.
        lines: the option ``scheduler_options``.

    Raises:
        ConfigurationError: says which, and why.
    """
    for line in lines.splitlines():
        if line.strip() and not line.startswith("#"):
            raise ConfigurationError(
                f"{owner}(scheduler_options={lines!r}): {line!r} does not begin with #PBS: it would be run as a "
                "command, and qsub reads no options behind the first command"
            )
        for said in sorted(given(line) & _REFUSED.keys()):
            raise ConfigurationError(f"{owner}(scheduler_options={lines!r}): {line!r}: {_REFUSED[said]}")


def job_name(name: str, longest: int) -> str:
    """Return a name that qsub takes: a letter first, then letters, digits, ``-`` and ``_``.

    Args:
        name: any name. Of one that is too long, the end is kept: it tells jobs of one run apart.
        longest: number of characters at most.
    """
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", name)[-longest:]
    return re.sub(r"^[^A-Za-z]+", "", clean) or "flowcore"


def clock(seconds: float) -> str:
    """Return a time as PBS takes it, ``HH:MM:SS``; it has no word for days."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def megabytes(gigabytes: float) -> str:
    """Return a size as PBS takes it: a whole number, with its unit."""
    return f"{math.ceil(1024 * gigabytes)}mb"


def lines(options: Iterable[tuple[str, str | None]], users: str) -> list[str]:
    """Return the ``#PBS`` lines of options that are wanted and that the user's own lines do not say.

    Args:
        options: pairs of a letter, or ``l`` and the name of a resource, and a value; None: it is not wanted.
        users: the user's own lines.
    """
    said = given(users)
    made = []
    for name, value in options:
        letter, _, resource = name.partition(" ")
        if value is not None and name not in said:
            made.append(f"#PBS -{letter} {shlex.quote(f'{resource}={value}' if resource else value)}")
    return made
