"""The door to stagers by class name: ``from flowcore.staging import ...`` imports the one plugin that has it.

``default_staging`` is what executors have that say nothing of ``storage_access``: a list, to which one adds::

    HighThroughputExecutor(storage_access=[RSyncStaging("me@host"), *default_staging])

The first that can bring a file does: whoever is to have ``file:`` URLs and paths stands before ``NoOpFileStaging``.
"""

from typing import Any

from flowcore.plugins import registry

#: Names of the stagers that every executor has by default, in the order in which they are asked.
DEFAULT = ("noop", "ftp", "http")


def __getattr__(name: str) -> Any:
    if name == "default_staging":
        # New ones each time: what one run does with them is none of another's business.
        return [registry.get("staging", plugin)() for plugin in DEFAULT]
    return registry.door("staging", name)


def __dir__() -> list[str]:
    return ["default_staging", *registry.class_names("staging")]
