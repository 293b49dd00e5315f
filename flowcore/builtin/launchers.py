"""The launchers for one node, and the one that puts a command before another."""

from __future__ import annotations

import shlex

import attrs

from flowcore.builtin import launcher_script
from flowcore.plugins.api import ConfigurationError, Launcher, component


@component
class SimpleLauncher(Launcher):
    """Runs the command as it is, once, whatever the number of nodes and tasks."""

    debug: bool = True

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return the command."""
        return command


@component
class SingleNodeLauncher(Launcher):
    """Runs the command ``tasks_per_node`` times at once on one node, with ``CORES`` set to its cores.

    Where a copy fails the others go on.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        fail_on_any: exit with an error if any copy fails; else only if all do.
    """

    debug: bool = True
    fail_on_any: bool = False

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that starts the copies, waits for all and exits as they did."""
        return launcher_script.script(
            self.debug,
            launcher_script.CORES,
            f"flowcore_worker() {{\n{launcher_script.ENDS_LAST}{command}\n}}\n",
            f'flowcore_say "$CORES cores, starting {tasks_per_node} copies"\n',
            launcher_script.repeat("flowcore_task", tasks_per_node, "    flowcore_start flowcore_worker\n"),
            failures=1 if self.fail_on_any else tasks_per_node,
            # A shell that waits for a command does not.
            passes_signals=False,
        )


def _not_empty(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.strip():
        raise ConfigurationError("WrappedLauncher(prepend=''): give the command to put before the worker's")


@component
class WrappedLauncher(Launcher):
    """Puts a command before the worker's, once, for example a container's: ``docker run -i image``.

    Attributes:
        prepend: what stands before the command.
    """

    prepend: str = attrs.field(validator=_not_empty)
    debug: bool = True

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return ``prepend`` and the command; one of several lines as a single command of bash."""
        command = command.strip()
        return f"{self.prepend} " + (f"/bin/bash -c {shlex.quote(command)}" if "\n" in command else command)
