"""The base classes that programs subclass for providers and launchers of their own.

flowcore's contracts ask for the same methods; these give what Parsl's base classes give besides. flowcore's own classes
count as subclasses of them.
"""

from __future__ import annotations

from flowcore.plugins import api


class ExecutionProvider(api.Provider):
    """Base class of providers: ``submit``, ``status``, ``cancel``, ``label`` and ``status_polling_interval`` are to be
    defined, and the attributes ``nodes_per_block init_blocks min_blocks max_blocks parallelism`` to be set.

    Attributes:
        script_dir: folder for submit scripts; set when a run starts.
    """

    script_dir: str | None = None

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Not issubclass, which would ask this again.
        return api.Provider in other.__mro__ if cls is ExecutionProvider else NotImplemented

    def start(self, context: api.ProviderContext) -> None:
        """Keep what the run tells."""
        self.script_dir = str(context.script_dir)


class Launcher(api.Launcher):
    """Base class of launchers: ``__call__(command, tasks_per_node, nodes_per_block)`` is to be defined."""

    def __init__(self, debug: bool = True) -> None:
        self.debug = debug

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return api.Launcher in other.__mro__ if cls is Launcher else NotImplemented
