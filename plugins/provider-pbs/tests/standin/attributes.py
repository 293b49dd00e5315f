"""What a job is told and says of itself: the words of qsub's options, of ``select`` and of times.

Rule of this module: text in, values out; what PBS would refuse raises :class:`Refused` with its words.
"""

from __future__ import annotations

import re
import shlex

#: PBS's numbers of errors; a command exits with their lowest 8 bits.
UNKNOWN_JOB = 15001
UNKNOWN_QUEUE_PRO = 15018
UNKNOWN_QUEUE_TORQUE = 15020
BAD_VALUE = 15014
BAD_STATE = 15018
QUEUE_DISABLED = 15021
QUEUE_FULL = 15046
OVER_LIMIT = 15036
UNKNOWN_RESOURCE = 15035
BAD_ACCOUNT = 15049
NO_RERUN = 15038
FINISHED = 15139
NO_HISTORY = 15140

#: Resources that the stand-in knows in a chunk, and of a whole job.
_OF_CHUNKS = {"ncpus", "mpiprocs", "ompthreads", "mem", "ngpus", "host", "vnode"}
_OF_JOBS = {"walltime", "select", "place", "filesystems", "mem", "ncpus"}
_OF_TORQUE_JOBS = {"walltime", "nodes", "mem", "pmem", "naccesspolicy"}


class Refused(Exception):
    """PBS refuses something: the number of its error, and its words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def words(line: str) -> list[str]:
    """Split the rest of a directive's line into words, as qsub does: quotes and backslashes as in a shell."""
    return shlex.split(line, comments=False)


def resources(text: str) -> dict[str, str]:
    """Split the value of ``-l``: ``select=2:ncpus=4,walltime=1:00:00``."""
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not name.strip() or (equals and not value):
            raise Refused(BAD_VALUE, "illegal -l value")
        found[name.strip()] = value.strip()
    return found


def seconds(text: str) -> int:
    """Return the seconds of ``[[HH:]MM:]SS``."""
    if not re.fullmatch(r"\d+(:\d+){0,2}", text):
        raise Refused(BAD_VALUE, "Illegal attribute or resource value Resource_List.walltime")
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


def clock(total: float) -> str:
    """Return seconds as ``HH:MM:SS``."""
    whole = int(total)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def check_names(names: list[str], torque: bool) -> None:
    """Refuse resources of a job that nobody has defined."""
    for name in names:
        if name not in (_OF_TORQUE_JOBS if torque else _OF_JOBS):
            if torque:
                raise Refused(UNKNOWN_RESOURCE, f"Unknown resource type  Resource_List.{name}")
            raise Refused(UNKNOWN_RESOURCE, f"Unknown resource Resource_List.{name}")


def chunks_of_select(text: str) -> list[dict[str, str]]:
    """Return one dict for each chunk of ``[N:]name=value:...[+...]``."""
    found = []
    for part in text.split("+"):
        count, options = 1, part.split(":")
        if options[0].isdigit():
            count = int(options.pop(0))
        chunk = {"ncpus": "1"}
        for option in options:
            name, equals, value = option.partition("=")
            if not equals or not value:
                raise Refused(BAD_VALUE, "Illegal attribute or resource value Resource_List.select")
            if name not in _OF_CHUNKS:
                raise Refused(UNKNOWN_RESOURCE, f"Unknown resource: {name}")
            chunk[name] = value
        if not chunk["ncpus"].isdigit() or not chunk.get("mpiprocs", "1").isdigit():
            raise Refused(BAD_VALUE, "Illegal attribute or resource value Resource_List.select")
        # One MPI process for each chunk that has processors, unless it is said.
        chunk.setdefault("mpiprocs", "1" if int(chunk["ncpus"]) else "0")
        found += [dict(chunk) for _ in range(count)]
    return found


def chunks_of_nodes(text: str) -> list[dict[str, str]]:
    """Return one dict for each node of Torque's ``N[:ppn=P][+...]``; a node's file has one line per processor."""
    found = []
    for part in text.split("+"):
        count, *options = part.split(":")
        processors = 1
        for option in options:
            name, _, value = option.partition("=")
            if name != "ppn" or not value.isdigit():
                raise Refused(BAD_VALUE, "Illegal attribute or resource value for Resource_List.nodes")
            processors = int(value)
        if count.isdigit():
            found += [{"ncpus": str(processors), "mpiprocs": str(processors)} for _ in range(int(count))]
        else:
            found.append({"ncpus": str(processors), "mpiprocs": str(processors), "host": count})
    return found


def arrangement(place: str) -> tuple[str, bool]:
    """Return how chunks are spread (free, pack, scatter), and whether hosts are not shared with other jobs."""
    how, exclusive = "free", False
    for word in place.split(":"):
        if word in ("free", "pack", "scatter", "vscatter"):
            how = "scatter" if word == "vscatter" else word
        elif word in ("excl", "exclhost"):
            exclusive = True
        elif word != "shared":
            raise Refused(BAD_VALUE, "Illegal attribute or resource value Resource_List.place")
    return how, exclusive


def check_job_name(name: str, torque: bool) -> bool:
    """Return whether a name may be given with ``-N``."""
    if torque:
        return re.fullmatch(r"[A-Za-z]\S{0,14}", name) is not None
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]{0,229}", name) is not None
