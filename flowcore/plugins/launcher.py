"""The contract of launchers, which turn "run this command" into "run it on every node of the block"."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from flowcore.errors import BadLauncher


class Launcher(ABC):
    """Wraps a worker command for a batch job's script. A pure function with options."""

    kind: ClassVar[str] = "launcher"
    refused_as: ClassVar[type[Exception]] = BadLauncher
    #: Let the job's script say what it does (``set -x`` or messages) in its standard streams.
    debug: bool = True

    @abstractmethod
    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a bash script that runs ``command`` on every node.

        Called by providers from the scaling thread, once per block.

        Args:
            command: the worker command, possibly of several lines.
            tasks_per_node: number of times that it is run per node.
            nodes_per_block: number of nodes of the block.

        Returns:
            Bash source whose exit code is 0 if all went well.
        """
