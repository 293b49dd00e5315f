"""The door to providers by class name: ``from flowcore.providers import ...`` imports the one plugin that has it."""

from typing import Any

from flowcore.plugins import registry


def __getattr__(name: str) -> Any:
    return registry.door("provider", name)


def __dir__() -> list[str]:
    return list(registry.class_names("provider"))
