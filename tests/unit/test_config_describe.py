"""A component written down, and made again of what was written: ``describe`` is the inverse of ``build``."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore import config
from flowcore.config import build, describe
from flowcore.errors import ConfigurationError, PluginError
from flowcore.launchers import SimpleLauncher, SrunLauncher, WrappedLauncher
from flowcore.plugins import registry
from flowcore.plugins.api import Channel, Launcher, Provider, component
from flowcore.providers import LocalProvider


def shout(text: str) -> str:
    return text.upper()


def shown(component: Any) -> str:
    """What is shown of a component, up to what TOML does not tell apart, and to the address of an object."""
    return repr(component).replace("()", "[]").partition("launcher=<")[0]


@component
class Far(Channel):
    """A channel with secrets."""

    hostname: str
    password: str | None = attrs.field(default=None, repr=False)

    execute_wait = push_file = pull_file = makedirs = isdir = abspath = close = lambda self, *a, **k: None


@component
class Cluster(Provider):
    """A provider with options of all kinds."""

    channel: Channel = attrs.field(factory=lambda: Far(hostname="near"))
    launcher: Launcher = attrs.field(factory=SimpleLauncher)
    hosts: Sequence[Channel] = ()
    limits: Mapping[str, Any] = attrs.field(factory=dict)
    scale: float = 1.0
    folder: str | Path | None = None
    key: Callable[[str], str] | None = None
    anything: Any = None
    token: str = attrs.field(default="", repr=False)

    start = label = status_polling_interval = submit = status = cancel = None  # type: ignore[assignment]


class Plain(Launcher):
    """One that is no attrs class."""

    def __init__(self, level: int = 1, hidden: int = 2) -> None:
        self.level = level

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        return command


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classes above be plugins."""
    classes = {("provider", "cluster"): Cluster, ("channel", "far"): Far, ("launcher", "plain"): Plain}
    get, find_class, load = registry.get, registry.find_class, registry.load
    plugins = {
        cls: registry.Plugin(kind, name, f"here:{cls.__name__}", "here", "1", None)
        for (kind, name), cls in classes.items()
    }
    monkeypatch.setattr(registry, "get", lambda kind, name: classes.get((kind, name)) or get(kind, name))
    monkeypatch.setattr(
        registry,
        "find_class",
        lambda kind, name: next(
            (p for c, p in plugins.items() if (p.kind, c.__name__) == (kind, name)), None
        ) or find_class(kind, name),
    )  # fmt: skip
    monkeypatch.setattr(registry, "load", lambda plugin: classes.get((plugin.kind, plugin.name)) or load(plugin))


@pytest.mark.parametrize(
    "made",
    [
        LocalProvider(),
        LocalProvider(worker_init="module load x\n", init_blocks=0, max_blocks=7, parallelism=0.25),
        LocalProvider(launcher=WrappedLauncher(prepend="nice", debug=False)),
        Cluster(channel=Far(hostname="login1"), launcher=SrunLauncher(overrides="--gpus 1")),
        Cluster(hosts=[Far(hostname="a"), Far(hostname="b")], limits={"a": [1, 2.5, None], "b": {"c": True}}),
        Cluster(folder="/scratch", anything=["x", {"y": 1}]),
        Cluster(key=json.dumps),  # type: ignore[arg-type]
        Cluster(launcher=Plain(level=3)),
    ],
)
def test_what_is_described_can_be_built(made: Provider) -> None:
    described = describe(made)
    # `hidden` of a plain class cannot be seen.
    assert described.left_out in ((), ("launcher.hidden",))
    again = build("provider", json.loads(json.dumps(described.values)), "provider")
    assert type(again) is type(made)
    assert shown(again) == shown(made)
    assert describe(again) == described


def test_secrets_are_never_written() -> None:
    described = describe(Cluster(channel=Far(hostname="login1", password="hunter2"), token="hunter3"))
    assert "hunter" not in json.dumps(described.values)
    assert described.left_out == ("channel.password", "token")
    assert "password" not in described.values["channel"]
    assert describe(Cluster()).left_out == (), "none are set"


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", {"a": object()}, {1: 2}, [print, object()], math.inf, math.nan, lambda text: text],
    ids=str,
)
def test_what_cannot_be_written_is_left_out(value: Any) -> None:
    described = describe(Cluster(anything=value))
    assert described.left_out == ("anything",)
    assert "anything" not in described.values


def test_functions_have_names() -> None:
    assert describe(Cluster(key=json.dumps)).values["key"] == "json:dumps"  # type: ignore[arg-type]
    for key in (lambda text: text, functools.partial(shout)):
        assert describe(Cluster(key=key)).left_out == ("key",)


def test_a_path_is_text() -> None:
    assert describe(Cluster(folder=Path("/scratch"))).values["folder"] == "/scratch"


def test_components_of_no_plugin() -> None:
    @component
    class Own(LocalProvider):
        """A user's."""

    @component
    class OwnLauncher(SimpleLauncher):
        """A user's."""

    with pytest.raises(ConfigurationError, match=r"\.Own is no installed plugin, and so has no name"):
        describe(Own())
    assert describe(LocalProvider(launcher=OwnLauncher())).left_out == ("launcher",)
    with pytest.raises(ConfigurationError, match=r"builtins\.int is no installed plugin"):
        describe(3)


def test_a_class_of_the_name_of_a_plugin_is_not_that_plugin() -> None:
    twin = component(type("LocalProvider", (LocalProvider,), {}))
    with pytest.raises(ConfigurationError, match="is no installed plugin"):
        describe(twin())


def test_a_registry_that_cannot_tell_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str, name: str) -> Any:
        raise PluginError("two of them")

    monkeypatch.setattr(config.registry, "find_class", broken)
    with pytest.raises(ConfigurationError, match="is no installed plugin"):
        describe(LocalProvider())
