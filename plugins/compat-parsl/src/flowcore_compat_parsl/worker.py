"""What a worker does before its first task: Parsl's modules and environment variables are there, too."""

from __future__ import annotations

import os

from flowcore_compat_parsl import install

#: What a worker is told to call, in the environment variable of this name.
VARIABLE = "FLOWCORE_WORKER_STARTUP"
STARTUP = "flowcore_compat_parsl.worker:start"
#: By this variable a worker learns of the second name of what it sets for single tasks (MPI).
ALSO_NAMED = "FLOWCORE_WORKER_ALSO_NAMED"


def start() -> None:
    """Let tasks ``import parsl``, and give each ``FLOWCORE_*`` variable its Parsl name, ``PARSL_*``."""
    install()
    for name, value in list(os.environ.items()):
        if name.startswith("FLOWCORE_") and name != VARIABLE:
            os.environ["PARSL_" + name.removeprefix("FLOWCORE_")] = value
    os.environ[ALSO_NAMED] = "PARSL_"
