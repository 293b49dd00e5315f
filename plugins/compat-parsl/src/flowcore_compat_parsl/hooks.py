"""The hooks of this distribution: workers of a program that uses Parsl's names get them as well, and scripts of blocks
its variables.

They take part in every run, whatever made its configuration, and do nothing in a process without ``install()``.
"""

from __future__ import annotations

import re

from flowcore.plugins.api import hookimpl
from flowcore_compat_parsl import is_installed
from flowcore_compat_parsl.worker import STARTUP, VARIABLE


@hookimpl
def flowcore_launch_command(command: str) -> str | None:
    """Put the variable that has workers call :func:`flowcore_compat_parsl.worker.start` before the command."""
    if not is_installed():
        return None
    # What is set there already, by the user or another plugin, goes on.
    assignment = f'{VARIABLE}="${{{VARIABLE}:+${VARIABLE},}}{STARTUP}"'
    # A simple command stays one, before which a launcher may put another.
    return f"export {assignment}\n{command}" if "\n" in command.strip() else f"env {assignment} {command}"


@hookimpl
def flowcore_submit_script(script: str) -> str | None:
    """Put ``PARSL_CORES`` and ``PARSL_MEMORY_GB`` beside the variables of flowcore that say the same."""
    if not is_installed():
        return None
    return re.sub(r"^export FLOWCORE_(CORES|MEMORY_GB)=(.*)$", r"\g<0>\nexport PARSL_\1=\2", script, flags=re.MULTILINE)
