"""Which run is the loaded one, in which apps run that name no other.

Rule of this module: it knows nothing of runs. :mod:`flowcore.session` puts the loaded one here and takes it away; apps
look for it here, and so need not import the session, which makes apps.
"""

from __future__ import annotations

import os
from typing import Any

from flowcore.errors import NoKernelError

#: The loaded :class:`flowcore.DataFlowKernel`, or None. Set by :mod:`flowcore.session` only.
run: Any = None


def for_app(name: str) -> Any:
    """Return the loaded run for an app that is being called.

    Raises:
        NoKernelError: none is loaded; names the app.
    """
    if run is not None:
        return run
    if "FLOWCORE_WORKER_RANK" in os.environ:
        raise NoKernelError(
            f"app {name!r} was called inside a task, on a worker: a worker runs functions and makes no tasks. Call "
            "apps in a join_app, or call the function itself: app.__wrapped__(...)"
        )
    raise NoKernelError(
        f"app {name!r} was called, and no configuration is loaded: call flowcore.load() first, "
        "or give the decorator data_flow_kernel="
    )
