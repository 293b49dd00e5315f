"""What Slurm's commands are asked, and what they print.

Rule of this module: pure functions. A line that begins like one of the table and cannot be read is no answer at all
(:class:`SchedulerSilent`): a job whose line is damaged must not be taken for one that is gone.

A job's id here is its number, and with several clusters in play ``number;cluster``, as ``sbatch --parsable`` prints it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flowcore.plugins.api import Completed, JobState, JobStatus, QueryUnsupported, SchedulerSilent
from flowcore_provider_slurm import states

#: What is printed, in lower case, if the controller, the database or the local authentication daemon does not answer.
SILENCE = (
    "unable to contact slurm controller",
    "unable to establish controller machine",
    "slurm backup controller in standby mode",
    "controller not responding",
    "connect failure",
    "connection refused",
    "connection timed out",
    "connection reset",
    "no route to host",
    "network is unreachable",
    "socket timed out",
    "zero bytes were transmitted or received",
    "message send failure",
    "message receive failure",
    "transport endpoint is not connected",
    "insane message length",
    "resource temporarily unavailable",
    "slurm temporarily unable to accept job",
    "problem talking to the database",
    "munge encode failed",
    "protocol authentication error",
)
#: Widths are needed: without them, squeue cuts a field to 20 characters. All are longer than what stands in the field.
_SQUEUE_FIELDS = "JobID:24,State:24,exit_code:12,Cluster:48,Reason:120"
_SACCT_FIELDS = "JobIDRaw,State,ExitCode,Cluster"
_SQUEUE_LINE = re.compile(r"\s*(\d+)\s+([A-Za-z_]+)\s+(\d+)\s+(\S+)(?:\s+(\S.*?))?\s*")
_SACCT_LINE = re.compile(r"(\d+)\|([A-Za-z_]+)( by \w+)?\|(\d+):(\d+)\|(\S*)")
_TABLE_LINE = re.compile(r"\s*\d+([\s|]|$)")
_UNKNOWN_JOB = "Invalid job id specified"
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|sacct: (command )?not found", re.IGNORECASE)
_ON_CLUSTER = re.compile(r" on cluster (\S+)")
_CANCEL_ERROR = re.compile(r"job id (\d+)\S*: (.*)")
#: What scancel complains of, and what is as good as cancelled.
_OVER = ("already completing or completed", "Invalid job id specified")

#: Put before sbatch within a job: what that has got from Slurm would be taken over, and may contradict what is asked.
FORGET_JOB = "unset $(compgen -e SLURM_ | grep -vxE 'SLURM_(CONF|CLUSTERS)'); "
#: Short forms of options that a provider gives, or refuses.
_LETTERS = {
    "A": "account",
    "C": "constraint",
    "J": "job-name",
    "N": "nodes",
    "a": "array",
    "c": "cpus-per-task",
    "e": "error",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
}
#: What a user's own lines must not say, and what to do instead.
_REFUSED = {
    "array": "a job array is no block: let max_blocks say how many jobs there may be",
    "nodes": "give it as the option nodes_per_block, which launchers are told too",
}
#: A user's own option stands for one of these as well as for itself.
_INSTEAD = {
    "exclusive": {"oversubscribe"},
    "mem": {"mem-per-cpu", "mem-per-gpu"},
    "no-requeue": {"requeue"},
    "ntasks-per-node": {"ntasks"},
}


# --- what a script says


def directives(wanted: Mapping[str, object], users: str) -> list[str]:
    """Return the lines for sbatch of what is wanted and what a user's own lines do not say.

    Args:
        wanted: values of options by their long form without dashes; True: it takes none; None or False: not wanted.
        users: the user's own lines.
    """
    said = given(users)
    return [
        f"#SBATCH --{option}" if value is True else f"#SBATCH --{option}={quoted(str(value))}"
        for option, value in wanted.items()
        if value not in (None, False) and not said.keys() & {option, *_INSTEAD.get(option, ())}
    ]


def quoted(text: str) -> str:
    """Return a value as sbatch reads it in a script."""
    if re.fullmatch(r"[\w./:,=@%+-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def stream(path: str) -> str:
    """Return the path of a job's standard stream as sbatch reads it: ``%`` begins what it replaces."""
    return path.replace("%", "%%")


def memory(gigabytes: float) -> str:
    """Return a size of memory in Slurm's units."""
    megabytes = round(gigabytes * 1024)
    return f"{megabytes // 1024}G" if megabytes % 1024 == 0 else f"{megabytes}M"


def given(lines: str) -> dict[str, str]:
    """Return the options that ``#SBATCH`` lines have, in their long form without dashes, and their values."""
    found: dict[str, str] = {}
    for line in lines.splitlines():
        if not re.match(r"#SBATCH\s", line):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError:
            continue  # sbatch will refuse it, and say why
        for word, behind in zip(words, [*words[1:], ""], strict=True):
            if not word.startswith("-"):
                continue
            if word.startswith("--"):
                option, _, value = word[2:].partition("=")
            else:
                option, value = _LETTERS.get(word[1:2], word), word[2:]
            found[option] = value or ("" if behind.startswith("-") else behind)
    return found


def seconds(text: str) -> float | None:
    """Return a time limit as sbatch reads it, in seconds; None if it is no limit, or cannot be read."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, *([days] if dash else ()))) or len(parts) > 3:
        return None
    # A lone number is hours behind days, and minutes otherwise; so are the first of two.
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    clock_s = sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    return float(int(days or 0) * 86400 + clock_s) or None


def check_options(lines: str) -> None:
    """Refuse a user's lines that cannot stand at the head of a script.

    Args:
        lines: the option ``scheduler_options``.

    Raises:
        ValueError: says which, and why.
    """
    for line in lines.splitlines():
        if line.strip() and not line.startswith("#"):
            raise ValueError(
                f"{line!r} does not begin with #SBATCH: it would be run as a command, and sbatch reads no options "
                "behind the first command; the place of commands is worker_init"
            )
        for option in sorted(given(line).keys() & _REFUSED.keys()):
            raise ValueError(f"{line!r}: {_REFUSED[option]}")


# --- sbatch


def submitted(stdout: str, pattern: str) -> str:
    """Return the id of the job that was submitted.

    Args:
        stdout: of sbatch.
        pattern: regular expression with the group ``id``.

    Raises:
        ValueError: there is none.
    """
    match = re.search(pattern, stdout)
    if match is None or not match["id"]:
        raise ValueError(f"sbatch named no job: nothing that it printed fits {pattern!r}")
    cluster = _ON_CLUSTER.match(stdout, match.end())
    return job_id(match["id"], cluster[1] if cluster else "")


# --- ids


def job_id(number: str, cluster: str = "") -> str:
    """Return the id of a job of a cluster; of none, if this is not told."""
    return f"{number};{cluster}" if cluster else number


def _for_each_cluster(command: str, between: str, job_ids: Iterable[str], clusters: str | None) -> str:
    """Return one command line that runs a command for jobs, once per cluster: the same number means several jobs.

    Args:
        command: program and options; the numbers of jobs are put behind it.
        between: what stands between two numbers.
        job_ids: of the jobs.
        clusters: of those whose id does not name one; None for the one that the command's host belongs to.
    """
    numbers: dict[str, list[str]] = {}
    for one in job_ids:
        number, _, cluster = one.partition(";")
        numbers.setdefault(cluster or clusters or "", []).append(shlex.quote(number))
    program, options = command.split(" ", 1)
    lines = [
        f"{program}{f' --clusters={shlex.quote(cluster)}' if cluster else ''} {options}{between.join(of_it)}"
        for cluster, of_it in numbers.items()
    ]
    if len(lines) == 1:
        return lines[0]
    return "(code=0; " + "; ".join(f"{line} || code=$?" for line in lines) + "; exit $code)"


# --- squeue


def squeue_command(job_ids: Sequence[str], clusters: str | None) -> str:
    """Return what asks the controller for jobs: those in the queue, and those that ended some minutes ago."""
    # Asked for several jobs, it fetches all that there are, unless it is told whose they are.
    asked = f'squeue --noheader --states=all --user="$(id -u)" --Format={_SQUEUE_FIELDS} --jobs='
    return _for_each_cluster(asked, ",", job_ids, clusters)


def squeue_statuses(said: Completed) -> dict[str, JobStatus]:
    """Return the status of each job that the controller knows, by its id with and without its cluster.

    Raises:
        SchedulerSilent: it did not answer, or not so that it can be understood.
    """
    # A single job that it does not know is an error; of several, those that it does not know are left out.
    complaints = [line for line in said.stderr.splitlines() if line.strip() and _UNKNOWN_JOB not in line]
    if said.exit_code != 0 and (complaints or _UNKNOWN_JOB not in said.stderr):
        raise SchedulerSilent(str(said))
    found: dict[str, JobStatus] = {}
    for number, word, ended, cluster, reason in _table(_SQUEUE_LINE, said):
        status = states.status(word, reason or "", *_of_wait(int(ended)))
        for name in (number, job_id(number, cluster)):
            # In a federation, more than one cluster may have a job, and one runs it.
            if name not in found or found[name].state is JobState.UNKNOWN:
                found[name] = status
    return found


def find_command(job_name: str, clusters: str | None) -> str | None:
    """Return what prints the ids of this user's jobs of a name that have not ended; None if there is no such command.

    Args:
        job_name: the name.
        clusters: where to look; None for the cluster that the command's host belongs to.
    """
    names = [""] if clusters is None else clusters.split(",")
    # Of the jobs of all clusters, squeue does not print where they are; and it splits names at commas.
    if "all" in names or "," in job_name:
        return None
    asked = f'squeue --noheader --user="$(id -u)" --name={shlex.quote(job_name)}'
    return " && ".join(
        f"{asked} --format={shlex.quote(job_id('%A', name))}{f' --clusters={shlex.quote(name)}' if name else ''}"
        for name in names
    )


# --- sacct


def sacct_command(job_ids: Sequence[str], clusters: str | None) -> str:
    """Return what asks the database for jobs."""
    asked = f"sacct --allocations --noheader --parsable2 --format={_SACCT_FIELDS} --jobs="
    return _for_each_cluster(asked, ",", job_ids, clusters)


def sacct_statuses(said: Completed) -> dict[str, JobStatus]:
    """Return the status of each job that has ended, as far as the database knows, by its id with and without cluster.

    What runs or waits there is left out: the controller, which is asked first, would know it. So the database has yet
    to hear of its end, or never will.

    Raises:
        QueryUnsupported: there is no database.
        SchedulerSilent: it did not answer, or not so that it can be understood.
    """
    if said.exit_code != 0:
        if _NO_ACCOUNTING.search(f"{said.stdout}\n{said.stderr}"):
            raise QueryUnsupported(said.stderr.strip() or said.stdout.strip())
        raise SchedulerSilent(str(said))
    found: dict[str, JobStatus] = {}
    for number, word, by, code, number_of_signal, cluster in _table(_SACCT_LINE, said):
        status = states.status(word, (by or "").strip(), int(code), int(number_of_signal))
        if status.terminal:
            found.update(dict.fromkeys((number, job_id(number, cluster)), status))
    return found


# --- scancel


def scancel_command(job_ids: Sequence[str], clusters: str | None) -> str:
    """Return what cancels jobs."""
    return _for_each_cluster("scancel ", " ", job_ids, clusters)


def cancelled(said: Completed, job_ids: Sequence[str]) -> list[bool]:
    """Return for each job whether it will end, or has."""
    if said.exit_code == 0:
        return [True] * len(job_ids)
    errors = dict(_CANCEL_ERROR.findall(said.stderr))
    refused = {number for number, error in errors.items() if not any(over in error for over in _OVER)}
    if not refused and not errors:  # it complains of something else: nothing is known
        return [False] * len(job_ids)
    return [one.partition(";")[0] not in refused for one in job_ids]


# --- what all have


def _table(line_form: re.Pattern[str], said: Completed) -> Iterator[tuple[str, ...]]:
    """Yield the fields of each line; lines that do not begin with a number are not of the table: a site's greeting."""
    for line in said.stdout.splitlines():
        if _TABLE_LINE.match(line):
            match = line_form.fullmatch(line)
            if match is None:
                raise SchedulerSilent(f"this line of its answer cannot be read: {line!r} (of: {said.command})")
            yield match.groups()


def _of_wait(status: int) -> tuple[int, int]:
    """Return exit code and signal of a status as of wait(2)."""
    return status >> 8 & 0xFF, status & 0x7F
