"""The hook of this distribution: workers of a program that uses Parsl's names get them as well.

It takes part in every run, whatever made its configuration, and does nothing in a process without ``install()``.
"""

from __future__ import annotations

from flowcore.plugins.api import hookimpl
from flowcore_compat_parsl import is_installed
from flowcore_compat_parsl.worker import STARTUP, VARIABLE


@hookimpl
def flowcore_launch_command(command: str) -> str | None:
    """Put the variable that has workers call :func:`flowcore_compat_parsl.worker.start` before the command."""
    if not is_installed():
        return None
    # What is set there already, by the user or another plugin, goes on.
    return f'export {VARIABLE}="${{{VARIABLE}:+${VARIABLE},}}{STARTUP}"\n{command}'
