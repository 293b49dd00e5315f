"""MPI tasks: what one may ask for, the nodes of the batch job, and the commands that start its ranks.

Rule of this module: it decides nothing about when a task runs. It starts no process but ``mpiexec --version``, and
asks no scheduler: the nodes of a job stand in its environment.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowcore.plugins.api import close_match

LAUNCHERS = ("srun", "aprun", "mpiexec")
KEYS = ("num_nodes", "ranks_per_node", "num_ranks")
#: Names the nodes where no scheduler does that this module knows; it goes before all schedulers.
NODES_VARIABLE = "FLOWCORE_MPI_NODES"
#: What a job has whose environment names no nodes.
THIS_HOST = "localhost"
#: Nodes that a list may name at most: far above any machine, and below what a wrong digit could ask for.
MAX_NODES = 1 << 17
#: Nodes or ranks that a task may ask for at most: products of two still fit the wire.
MAX_COUNT = 1 << 31
#: Seconds that ``mpiexec --version`` may take.
VERSION_S = 10.0
OPEN_MPI = "openmpi"
HYDRA = "hydra"

_EXAMPLE = "for example {'num_nodes': 2, 'ranks_per_node': 4} for 8 ranks on 2 nodes"
#: Words of other systems whose spelling is too far off to be found by it.
_OTHER_WORDS = {"ppn": "ranks_per_node", "np": "num_ranks", "ntasks": "num_ranks", "num_tasks": "num_ranks"}
_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: Items of a hostlist: commas within brackets do not end one.
_HOSTLIST_ITEM = re.compile(r"(?:[^,\[]|\[[^\]]*(?:\]|$))+")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
#: Cray's name for the node whose number aprun wants.
_NID = re.compile(r"nid0*([0-9]+)")


@attrs.frozen
class MpiSpecification:
    """The nodes and ranks of one MPI task.

    The nodes are filled in their order with ``ranks_per_node`` each; the last one may get fewer, none is left empty.

    Attributes:
        num_nodes: nodes that the task has for itself.
        ranks_per_node: ranks on each node; on the last one, at most.
        num_ranks: ranks in total.
    """

    num_nodes: int
    ranks_per_node: int
    num_ranks: int

    @classmethod
    def of(cls, specification: Mapping[str, Any]) -> MpiSpecification:
        """Return what the ``resource_specification`` of an MPI task says. Any two of its keys define the third.

        Args:
            specification: ``num_nodes``, ``ranks_per_node`` and ``num_ranks``, or two of them.

        Raises:
            ValueError: a key is unknown or missing, a value is no number from 1 on, or they contradict each other.
        """
        given = {key: _count(specification, key) for key in specification}
        if len(given) < 2:
            raise _refused(
                specification,
                f"an MPI task must say how many nodes and ranks it needs, by two of {', '.join(KEYS)}; {_EXAMPLE}",
            )
        nodes, per_node, ranks = (given.get(key) for key in KEYS)
        if ranks is None:
            assert nodes is not None and per_node is not None
            ranks = nodes * per_node
        elif nodes is None:
            assert per_node is not None
            nodes = math.ceil(ranks / per_node)
        elif per_node is None:
            per_node = math.ceil(ranks / nodes)
        if ranks > nodes * per_node:
            raise _refused(
                specification,
                f"{ranks} ranks do not fit on {nodes} nodes with {per_node} on each, which are {nodes * per_node}. "
                f"Leave one of the three out, or ask for num_nodes={math.ceil(ranks / per_node)}",
            )
        needed = math.ceil(ranks / per_node)
        if needed < nodes:
            raise _refused(
                specification,
                f"{ranks} ranks with {per_node} on a node fill {needed} of {nodes} nodes, and leave the others empty. "
                f"Ask for num_nodes={needed}, or for {nodes * per_node} ranks",
            )
        return cls(nodes, per_node, ranks)


def check_launcher(name: str) -> None:
    """Check a value of the option ``mpi_launcher``.

    Raises:
        ValueError: there is no such launcher; says which there are.
    """
    if name not in LAUNCHERS:
        raise ValueError(f"expected one of {', '.join(map(repr, LAUNCHERS))}{close_match(name.lower(), LAUNCHERS)}")


# --- the nodes of a batch job


def nodes_of_job(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the nodes of this batch job, each once, in the scheduler's order.

    ``FLOWCORE_MPI_NODES`` (names with commas between them, or as Slurm writes them) goes before what Slurm, Cobalt,
    PBS, Grid Engine and LSF set. Where none of these is set, the job has one node, this host.

    Args:
        environment: the environment variables of the job.

    Raises:
        ValueError: the variable that is set cannot be understood, or its file cannot be read.
    """
    for variable, names_of in _SOURCES.items():
        value = environment.get(variable, "").strip()
        if not value:
            continue
        try:
            nodes = list(dict.fromkeys(names_of(value)))
            if not nodes:
                raise ValueError("it names no node")
            for node in nodes:
                if _NODE_NAME.fullmatch(node) is None:
                    raise ValueError(f"{node!r} is no name of a node")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the nodes of this batch job are not known: {variable}={value!r}: {error}. The manager must run on "
                f"the first node of the job (SingleNodeLauncher); or name the nodes in worker_init: "
                f"export {NODES_VARIABLE}=node1,node2"
            ) from None
        return nodes
    return [THIS_HOST]


def expand_hostlist(text: str) -> list[str]:
    """Return the names of a list such as Slurm writes: ``n[01-03,7],gpu-a[1-2]b[3-4]``, in its order.

    Raises:
        ValueError: it is not of this form, or names more than ``MAX_NODES``.
    """
    names: list[str] = []
    for item in _HOSTLIST_ITEM.findall(text):
        # Names stand at even places, what was in brackets between them.
        pieces = _BRACKET.split(item.strip())
        if any(mark in name for name in pieces[::2] for mark in "[]"):
            raise ValueError(f"the brackets of {item.strip()!r} do not match")
        choices = [_numbers(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
        if len(names) + math.prod(map(len, choices)) > MAX_NODES:
            raise ValueError(f"it names more than {MAX_NODES} nodes")
        names += map("".join, itertools.product(*choices))
    return [name for name in names if name]


def _numbers(bracket: str) -> list[str]:
    numbers: list[str] = []
    for piece in bracket.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"{piece!r} in [{bracket}] is neither a number nor a range like 01-16")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {piece!r} ends before it begins")
        if len(numbers) + last - first >= MAX_NODES:
            raise ValueError(f"[{bracket}] names more than {MAX_NODES} nodes")
        # As wide as the first one is written: 08-11 are 08, 09, 10, 11, and 8-11 are 8, 9, 10, 11.
        numbers += (str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return numbers


def _of_file(path: str) -> list[str]:
    """A node per line, once for each of its slots; Grid Engine writes slots and queue behind its name."""
    return [line.split()[0] for line in Path(path).read_text().splitlines() if line.strip()]


def _of_pairs(text: str) -> list[str]:
    words = text.split()
    if len(words) % 2 or not all(count.isdecimal() for count in words[1::2]):
        raise ValueError("it is not of the form 'node1 4 node2 4'")
    return words[::2]


#: Where schedulers say which nodes a job has. Slurm first: it can imitate PBS.
_SOURCES: dict[str, Callable[[str], list[str]]] = {
    NODES_VARIABLE: expand_hostlist,
    "SLURM_JOB_NODELIST": expand_hostlist,
    "SLURM_NODELIST": expand_hostlist,
    "COBALT_NODEFILE": _of_file,
    "PBS_NODEFILE": _of_file,
    "PE_HOSTFILE": _of_file,
    "LSB_DJOB_HOSTFILE": _of_file,
    "LSB_MCPU_HOSTS": _of_pairs,
}


# --- how its ranks are started


def mpiexec_flavour(path: str | None = None) -> str:
    """Return whose options ``mpiexec`` takes: ``openmpi`` or ``hydra``; runs ``mpiexec --version``.

    ``hydra`` is MPICH's, whose options those of Intel, Cray (PALS) and MVAPICH take as well. It is also the answer
    where no mpiexec is, or one that does not say what it is: tasks may use another launcher.

    Args:
        path: the program; None for the ``mpiexec`` that PATH has.
    """
    try:
        ran = subprocess.run(
            [path or "mpiexec", "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return HYDRA
    said = ran.stdout.decode(errors="replace")
    # OpenRTE is Open MPI's until version 4, PRRTE from 5 on; Spectrum is IBM's edition of it.
    names = ("Open MPI", "OpenRTE", "PRRTE", "Spectrum MPI")
    return OPEN_MPI if any(name.lower() in said.lower() for name in names) else HYDRA


def environment(spec: MpiSpecification, nodes: Sequence[str], launcher: str, flavour: str) -> dict[str, str]:
    """Return the environment variables of one MPI task.

    Args:
        spec: its nodes and ranks.
        nodes: the nodes that it was given.
        launcher: the option ``mpi_launcher``, one of ``LAUNCHERS``.
        flavour: as of :func:`mpiexec_flavour`.
    """
    names = ",".join(nodes)
    ranks, per_node = spec.num_ranks, spec.ranks_per_node
    if flavour == OPEN_MPI:
        # A host has one slot unless it is said. Within a scheduler's job it has as many as the job asked for tasks on
        # it, which is one where the block starts one manager per node: so ranks may be more than slots.
        slots = ",".join(f"{node}:{per_node}" for node in nodes)
        mpiexec = f"mpiexec -n {ranks} --host {slots} --map-by ppr:{per_node}:node:oversubscribe"
    else:
        mpiexec = f"mpiexec -n {ranks} -ppn {per_node} -hosts {names}"
    # aprun takes the numbers of Cray's nodes.
    nids = ",".join(_NID.sub(r"\1", node) if _NID.fullmatch(node) else node for node in nodes)
    prefixes = {
        "mpiexec": mpiexec,
        # Steps with nodes of their own run side by side in a job, each with all that its nodes have.
        "srun": f"srun --ntasks {ranks} --ntasks-per-node {per_node} --nodes {spec.num_nodes} --nodelist {names}",
        "aprun": f"aprun -n {ranks} -N {per_node} -L {nids}",
    }
    return {
        "FLOWCORE_NUM_NODES": str(spec.num_nodes),
        "FLOWCORE_RANKS_PER_NODE": str(per_node),
        "FLOWCORE_NUM_RANKS": str(ranks),
        "FLOWCORE_MPI_NODELIST": names,
        **{f"FLOWCORE_{name.upper()}_PREFIX": prefix for name, prefix in prefixes.items()},
        "FLOWCORE_MPI_PREFIX": prefixes[launcher],
    }


def _count(specification: Mapping[str, Any], key: str) -> int:
    if key not in KEYS:
        word = str(key).lower()
        meant = f" (did you mean {_OTHER_WORDS[word]!r}?)" if word in _OTHER_WORDS else close_match(word, KEYS)
        raise _refused(
            specification,
            f"MPI mode does not know {key!r}{meant}; it knows {', '.join(KEYS)}, priority, running_time_min",
        )
    value = specification[key]
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)  # of NumPy's integers too
    except TypeError:
        raise _refused(
            specification, f"{key} must be a whole number from 1 on, not {value!r} ({type(value).__name__}); {_EXAMPLE}"
        ) from None
    if count < 1:
        raise _refused(specification, f"{key} must be a whole number from 1 on, not {value!r}; {_EXAMPLE}")
    if count > MAX_COUNT:
        raise _refused(specification, f"{key}={value!r} is more than any machine has; {_EXAMPLE}")
    return count


def _refused(specification: Mapping[str, Any], why: str) -> ValueError:
    return ValueError(f"resource_specification={dict(specification)!r}: {why}")
