"""The door to channels by class name: ``from flowcore.channels import ...`` imports the one plugin that has it."""

from typing import Any

from flowcore.plugins import registry


def __getattr__(name: str) -> Any:
    return registry.door("channel", name)


def __dir__() -> list[str]:
    return list(registry.class_names("channel"))
