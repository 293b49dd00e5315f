"""What a task may ask for in its ``resource_specification``, as what an attempt needs of a manager. Pure functions.

Keys are those of the reference's Work Queue and MPI sections; ``memory`` is in MB and ``running_time_min`` in seconds
there, and attempts of a higher ``priority`` go first.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from flowcore.plugins.api import close_match
from flowcore_executor_htex import mpi
from flowcore_executor_htex.protocol import Needs

#: For any task.
ORDER_KEYS = ("priority", "running_time_min")
#: For tasks on one node.
NODE_KEYS = ("cores", "memory")
#: More workers than any node has, and few enough for the wire.
MAX_SLOTS = 2.0**40
#: Environment variables of a job that say when it ends, in seconds since the epoch.
END_VARIABLES = ("SLURM_JOB_END_TIME", "COBALT_ENDTIME")


def needs_of(
    specification: Mapping[str, Any], *, cores_per_worker: float, mem_per_worker: float | None, mpi_mode: bool
) -> Needs | None:
    """Return the needs of a specification; None for an empty one.

    Args:
        specification: of the task.
        cores_per_worker: of the executor.
        mem_per_worker: of the executor, in GB.
        mpi_mode: whether tasks have nodes for themselves.

    Raises:
        ValueError: a key is unknown, or a value is none of its kind; says which there are.
    """
    if mpi_mode:
        ours = {key: value for key, value in specification.items() if key not in ORDER_KEYS}
        spec = mpi.MpiSpecification.of(ours)
        needs = Needs(nodes=spec.num_nodes, ranks=spec.num_ranks, ranks_per_node=spec.ranks_per_node)
    elif specification:
        known = (*NODE_KEYS, *ORDER_KEYS)
        for key in specification:
            if key in mpi.KEYS:
                raise _refused(specification, f"{key!r} is for MPI tasks: set enable_mpi_mode=True")
            if key not in known:
                raise _refused(
                    specification,
                    f"{key!r} is unknown{close_match(str(key), known)}; this executor knows {', '.join(known)}",
                )
        cores = _number(specification, "cores", 0.0)
        memory = _number(specification, "memory", 0.0)
        slots = max(1, math.ceil(min(cores / cores_per_worker, MAX_SLOTS) - 1e-9))
        if mem_per_worker is not None:
            # Then memory is shared out with the workers, and a task's is that of so many of them.
            slots = max(slots, math.ceil(min(memory / (1000 * mem_per_worker), MAX_SLOTS) - 1e-9))
            memory = 0.0
        needs = Needs(slots=slots, memory_mb=memory)
    else:
        return None
    needs.priority = _number(specification, "priority", 0.0, lowest=-math.inf)
    needs.running_time_s = _number(specification, "running_time_min", 0.0)
    needs.variables = {f"FLOWCORE_{key.upper()}": f"{value}" for key, value in specification.items()}
    return needs


def seconds_left(
    environment: Mapping[str, str], walltime_s: float | None, now: float, passed_s: float = 0.0
) -> float | None:
    """Return the seconds until this block ends; None if nothing says so.

    Args:
        environment: of the job; schedulers' variables go first.
        walltime_s: of the provider, from the block's start on.
        now: seconds since the epoch.
        passed_s: seconds since the block's start, as far as is known.
    """
    for variable in END_VARIABLES:
        try:
            return max(0.0, float(environment[variable]) - now)
        except (KeyError, ValueError):
            continue
    return None if walltime_s is None else max(0.0, walltime_s - passed_s)


def _number(specification: Mapping[str, Any], key: str, default: float, lowest: float = 0.0) -> float:
    value = specification.get(key, default)
    try:
        if type(value) is not bool and isinstance(value, numbers.Real) and math.isfinite(value) and not value < lowest:
            return float(value)
    except OverflowError:  # a whole number that no float can hold
        pass
    expected = "a number" if lowest < 0 else "a number from 0 on"
    raise _refused(specification, f"{key} must be {expected}, not {value!r} ({type(value).__name__})")


def _refused(specification: Mapping[str, Any], why: str) -> ValueError:
    return ValueError(f"resource_specification={dict(specification)!r}: {why}")
