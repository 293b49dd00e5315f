"""The contract of launchers, which turn "run this command" into "run it on every node of the block"."""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from flowcore.errors import BadLauncher


def _refused(text: str) -> BadLauncher:
    return BadLauncher(
        f"{text}. Give a launcher, such as SrunLauncher(), or an object of your own that is called with "
        "(command, tasks_per_node, nodes_per_block) and returns the script"
    )


class LauncherType(ABCMeta):
    """The type of :class:`Launcher`, which knows its own by how they are called."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if super().__instancecheck__(instance):
            return True
        return cls is Launcher and callable(instance) and not isinstance(instance, type) and _takes_three(instance)


class Launcher(metaclass=LauncherType):
    """Wraps a worker command for a batch job's script. A pure function with options.

    What is called like one counts as one, so that a launcher of a user's needs no base class: an object of any class
    with ``__call__(self, command, tasks_per_node, nodes_per_block)``, and a function with these parameters.
    """

    kind: ClassVar[str] = "launcher"
    #: Makes the error for an option that was given something else.
    refused_as: ClassVar[Callable[[str], Exception]] = _refused
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
            Bash source, which stands in the middle of a job's script, behind the user's ``worker_init`` and whatever
            that has set. Its exit code is 0 only if all went well; what the copies of the command write is what it
            writes. When the process group of the bash that runs it gets SIGTERM, the copies end, on all nodes.
        """


def _takes_three(function: Any) -> bool:
    """Return whether a launcher's three arguments can be given, and have names there."""
    try:
        signature = inspect.signature(function)
        signature.bind("command", 1, 1)
    except (TypeError, ValueError):  # they cannot, or nobody knows
        return False
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    return (
        sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds) >= 3
    )
