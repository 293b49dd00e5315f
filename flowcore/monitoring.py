"""The door to hook classes by name: ``from flowcore.monitoring import MonitoringHub`` imports the one plugin."""

from typing import Any

from flowcore.plugins import registry


def __getattr__(name: str) -> Any:
    return registry.door("hooks", name)


def __dir__() -> list[str]:
    return list(registry.class_names("hooks"))
