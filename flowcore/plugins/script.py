"""The script of a block, and the files by which it tells of itself: one template for all providers.

Rule of this module: pure functions, text in, text out. What a user gives for the script (``worker_init``, a
launcher's text) stands in it as it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import attrs

from flowcore.errors import BadLauncher

#: Exit code of a job that was started a second time, or that was given up before it began.
RAN_BEFORE = 98
#: What stands in place of a job's id in the mark of a block that was given up before it began.
_GIVEN_UP = "given-up"

#: The jobs of an array have one script, and PBS Pro tells them apart by a variable.
_ONCE = """\
flowcore_base={base}${{PBS_ARRAY_INDEX:+.$PBS_ARRAY_INDEX}}
# A scheduler may start a job again, when it lost a node or was itself restarted, and what ran before may run still:
# whoever makes this file first is the block. Where the folder is not there, nothing can be said, and the job runs.
if ! (set -o noclobber; echo "{job_id} $(hostname)" > "$flowcore_base.started") 2>/dev/null; then
    if [ -e "$flowcore_base.started" ]; then
        echo "flowcore: this block has run before, or was given up ($(cat "$flowcore_base.started")): not run again" >&2
        exit {ran_before}
    fi
fi
"""
_RECORD = """\
flowcore_code=$?
echo "$flowcore_code" > "$flowcore_base.exit"
exit "$flowcore_code"
"""


def block_script(
    command: str,
    job_name: str,
    *,
    directives: Sequence[str] = (),
    worker_init: str = "",
    variables: Mapping[str, object] | None = None,
    base: str | None = None,
    job_id: str = "?",
) -> str:
    """Return the bash script of a block.

    Args:
        command: what the launcher made of the worker command.
        job_name: is exported as ``JOBNAME``.
        directives: lines for the scheduler, at the head of the script.
        worker_init: shell lines to run before the command.
        variables: environment variables to export; those that are None are left out.
        base: path, as the nodes see it, without ending: the script makes ``base.started`` when it begins, and does
            nothing if that is there; at its end it writes its exit code to ``base.exit``. None for neither.
        job_id: bash word by which the script knows its job's id; ``?`` if it does not.

    Raises:
        BadLauncher: the command is no text, or empty.
    """
    if not isinstance(command, str) or not command.strip():
        raise BadLauncher(f"the launcher made {command!r} of a worker command: expected bash that starts it")
    exports = {"JOBNAME": job_name, **(variables or {})}
    lines = ["#!/bin/bash", *directives]
    if base is not None:
        once = _ONCE.format(base=shlex.quote(base), job_id=job_id, ran_before=RAN_BEFORE)
        lines.append(once.rstrip())
    lines.extend(f"export {name}={shlex.quote(str(value))}" for name, value in exports.items() if value is not None)
    # In a shell of its own: a command that replaces it, or ends it, does not take the record with it.
    body = [worker_init, command] if base is None else ["(", worker_init, command, ")", _RECORD.rstrip()]
    return "\n".join([*lines, *filter(None, body), ""])


def give_up_command(base: str) -> str:
    """Return a command after which the script of ``base`` does nothing when it begins; :class:`Mark` reads it."""
    mark = shlex.quote(f"{base}.started")
    return f"(set -o noclobber; echo {_GIVEN_UP} > {mark}) 2>/dev/null; cat {mark}"


def mark_command(base: str) -> str:
    """Return a command that prints the mark of a script, if there is one; :class:`Mark` reads it."""
    mark = shlex.quote(f"{base}.started")
    return f"if [ -e {mark} ]; then cat {mark}; fi"


@attrs.frozen
class Mark:
    """What is known of a script by its mark.

    Attributes:
        job_id: id of the job in which it has begun; None: it has not, or the job does not know its id.
        given_up: it does nothing if it begins.
    """

    job_id: str | None
    given_up: bool

    @classmethod
    def read(cls, stdout: str) -> Mark:
        """Return what a command has printed."""
        word = (stdout.split() or ["?"])[0]
        return cls(None if word in ("?", _GIVEN_UP) else word, word == _GIVEN_UP)


def exit_codes_command(bases: Mapping[str, str]) -> str:
    """Return one command that prints the exit codes that scripts have recorded; :func:`exit_codes` reads it.

    Args:
        bases: of the scripts, by job id.
    """
    files = shlex.join(word for job_id, base in bases.items() for word in (job_id, f"{base}.exit"))
    return (
        f'set -- {files}; while [ $# -gt 0 ]; do if [ -s "$2" ]; then echo "$1 $(head -c 16 "$2")"; fi; shift 2; done'
    )


def exit_codes(stdout: str) -> dict[str, int]:
    """Return the exit codes that were recorded, by job id."""
    pairs = (line.split() for line in stdout.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
