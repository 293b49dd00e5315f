"""What a run is made of: :class:`Config`, made from Python objects, from names, or from a TOML file.

The three doors give the same object: mappings with a ``plugin`` key become components through the registry,
and every refusal names the path to the value, the value, what was expected, and a close match. :func:`describe` goes
the other way.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from flowcore.durations import seconds_of
from flowcore.errors import ConfigurationError, PluginError
from flowcore.plugins import registry
from flowcore.plugins.component import at_least, check_type, close_match, component, describe_type, options, type_hints
from flowcore.plugins.executor import Executor

CHECKPOINT_MODES = ("task_exit", "periodic", "dfk_exit", "manual")


def _executors(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping | str | Executor) or not hasattr(value, "__iter__"):
        raise ConfigurationError(
            f"Config(executors={value!r}): expected a list of executors, got {type(value).__name__}"
            f"{'; in TOML each has a table of its own, [[executors]]' if isinstance(value, Mapping) else ''}"
        )
    return [_built("executor", entry, f"executors[{i}]") for i, entry in enumerate(value)]


def _built(kind: str, value: Any, path: str) -> Any:
    if isinstance(value, str) and kind == "hooks":
        raise ConfigurationError(
            f"{path}: expected an object with hooks, got the text {value!r}; a plugin is named with "
            f'{path} = {{ plugin = "{value}" }} in TOML, and with {{"plugin": "{value}"}} in Python'
        )
    return build(kind, value, path) if isinstance(value, Mapping) else value


def _check_executors(config: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if not value:
        raise ConfigurationError("Config(executors=[]): a run needs at least one executor; leave it out for threads")
    labels: dict[str, int] = {}
    for i, executor in enumerate(value):
        if not isinstance(executor, Executor):
            raise ConfigurationError(
                f"executors[{i}]: expected an Executor or a dict with the key 'plugin', "
                f"got {executor!r} of type {type(executor).__name__}"
            )
        if executor.label in labels:
            raise ConfigurationError(
                f"executors[{labels[executor.label]}] and executors[{i}] have one label, {executor.label!r}: "
                "give each a label of its own, by which apps can name it"
            )
        if executor.label.startswith("_flowcore"):
            raise ConfigurationError(f"executors[{i}]: labels that begin with _flowcore are the core's own")
        labels[executor.label] = i


def _check_mode(config: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value not in CHECKPOINT_MODES:
        raise ConfigurationError(
            f"Config(checkpoint_mode={value!r}): expected one of {', '.join(map(repr, CHECKPOINT_MODES))} or None"
            f"{close_match(str(value), CHECKPOINT_MODES)}"
        )


def _check_period(config: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    try:
        seconds_of(value)
    except ValueError as error:
        raise ConfigurationError(f"checkpoint_period={value!r}: {error}") from None


def _check_strategy(config: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        registry.find("strategy", value)


@component
class Config:
    """All options of a run. Checked once, here; a Config is used for one run.

    Attributes:
        executors: executors, as objects or as mappings with the key ``plugin``; None: one of threads.
        app_cache: whether ``cache=True`` of apps has an effect.
        checkpoint_files: checkpoints to load results from; see :mod:`flowcore.checkpoints`.
        checkpoint_mode: when results of cached apps are written to disk: ``task_exit``, ``periodic``,
            ``dfk_exit``, ``manual``; None: never.
        checkpoint_period: ``HH:MM:SS`` between two checkpoints of the mode ``periodic``; None: 30 minutes.
        garbage_collect: forget tasks that are over.
        internal_tasks_max_threads: threads of this process for join_apps, lifted operators and staging.
        retries: how often a failed task is tried again; with a ``retry_handler``, the budget of its costs.
        retry_handler: ``(exception, task) -> cost`` of a failure; None: 1 each.
        run_dir: folder below which each run has its own.
        strategy: name of the scaling strategy; None as ``none``.
        strategy_period: seconds between two decisions of it.
        max_idletime: seconds after which idle blocks may be given back.
        monitoring: an object or module with hook implementations, for example a monitoring hub, or a mapping with
            the key ``plugin`` that names one.
        hooks: further such objects.
        usage_tracking: send two usage reports to the address in ``FLOWCORE_USAGE_ADDRESS``, and nothing without one;
            :mod:`flowcore.usage` says what is in them.
        initialize_logging: write ``flowcore.log`` in the run's folder.
    """

    #: Options may also be set one by one, and a misspelt one is refused.
    closed: ClassVar[bool] = True

    executors: list[Any] | None = attrs.field(default=None, converter=_executors, validator=_check_executors)
    app_cache: bool = True
    checkpoint_files: Sequence[str | os.PathLike[str]] | None = None
    checkpoint_mode: str | None = attrs.field(default=None, validator=_check_mode)
    checkpoint_period: str | None = attrs.field(default=None, validator=_check_period)
    garbage_collect: bool = True
    internal_tasks_max_threads: int = attrs.field(default=10, validator=at_least(1))
    retries: int = attrs.field(default=0, validator=at_least(0))
    retry_handler: Callable[..., Any] | None = None
    run_dir: str | os.PathLike[str] = "runinfo"
    strategy: str | None = attrs.field(default="simple", validator=_check_strategy)
    strategy_period: float | int = attrs.field(default=5, validator=at_least(0.01))
    max_idletime: float = attrs.field(default=120.0, validator=at_least(0))
    monitoring: Any = attrs.field(default=None, converter=lambda value: _built("hooks", value, "monitoring"))
    usage_tracking: bool = False
    initialize_logging: bool = True
    hooks: Sequence[Any] = attrs.field(
        default=(), converter=lambda values: [_built("hooks", v, f"hooks[{i}]") for i, v in enumerate(values)]
    )
    #: Whether a run was started with it; its executors cannot start again.
    used: bool = attrs.field(default=False, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.checkpoint_mode is not None and not self.app_cache:
            raise ConfigurationError(
                f"Config(checkpoint_mode={self.checkpoint_mode!r}, app_cache=False): only cached results are "
                "checkpointed; set app_cache=True or leave checkpoint_mode out"
            )
        if self.checkpoint_period is not None and self.checkpoint_mode != "periodic":
            raise ConfigurationError(
                f"Config(checkpoint_period={self.checkpoint_period!r}) is for checkpoint_mode='periodic', "
                f"and checkpoint_mode is {self.checkpoint_mode!r}"
            )
        if self.executors is None:
            self.executors = [registry.get("executor", "threads")()]

    @classmethod
    def of(cls, config: Config | Mapping[str, Any] | str | os.PathLike[str], who: str) -> Config:
        """Return a Config, whichever of the three doors it comes through.

        Args:
            config: a Config, a mapping of options, or the path of a TOML file.
            who: what takes it, for the error.

        Raises:
            ConfigurationError: it is none of these, or cannot work.
        """
        if isinstance(config, Config):
            return config
        if isinstance(config, Mapping):
            return cls.from_dict(config)
        if isinstance(config, str | os.PathLike):
            return cls.from_file(config)
        raise ConfigurationError(
            f"{who} takes a Config, a dict, or the path of a TOML file, got {type(config).__name__}"
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Config:
        """Make a Config of nested mappings with the same keys as the Python objects.

        Args:
            values: options; components are mappings with ``plugin`` and their options.
            source: what to call the mapping in errors.

        Raises:
            ConfigurationError: says which key, by its path.
        """
        return typing.cast(Config, build_object(cls, values, source, "." if source == "config" else ": "))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], profile: str | None = None) -> Config:
        """Make a Config of a TOML file.

        Args:
            path: the file.
            profile: name of a table ``[profiles.NAME]`` in it, whose keys replace those of the top level.

        Raises:
            ConfigurationError: the file is not there, is not TOML, or has no such profile; or as
                :meth:`from_dict`.
        """
        values = read_file(path, profile)
        # Functions that it names may be in a module beside it.
        folder = str(Path(path).resolve().parent)
        sys.path.append(folder)
        try:
            return cls.from_dict(values, str(path))
        finally:
            sys.path.remove(folder)


def read_file(path: str | os.PathLike[str], profile: str | None = None) -> dict[str, Any]:
    """Return the options in a TOML file, with those of a profile over them.

    Raises:
        ConfigurationError: the file is not there, is not TOML, or has no such profile.
    """
    file = Path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        hint = ""
        if file.suffix == ".py":
            hint = ". It is a Python file: import its Config object and pass that to flowcore.load()"
        raise ConfigurationError(f"{file} is not TOML: {error}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: it is not UTF-8 text ({error})") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {file}: {error.strerror or error}") from error
    profiles = values.pop("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise ConfigurationError(f"{file}: profiles must be tables, [profiles.NAME] each")
    if profile is not None:
        if profile not in profiles:
            raise ConfigurationError(
                f"{file} has no profile {profile!r}{close_match(profile, profiles)}; "
                f"its profiles: {', '.join(profiles) or 'none'}"
            )
        values.update(profiles[profile])
    return values


def build(kind: str, values: Mapping[str, Any], path: str) -> Any:
    """Make a component of a mapping: ``plugin`` names it, all else are its options.

    Raises:
        ConfigurationError: with ``path`` and what is wrong below it.
    """
    values = dict(values)
    name = values.pop("plugin", None)
    if not isinstance(name, str):
        names = ", ".join(p.name for p in registry.installed(kind))
        raise ConfigurationError(f"{path}.plugin: the name of the {kind} is missing; installed: {names}")
    try:
        cls = registry.get(kind, name)
    except PluginError as error:
        raise ConfigurationError(f"{path}.plugin: {error}") from error
    return build_object(cls, values, path)


def build_object(cls: type, values: Mapping[str, Any], path: str, separator: str = ".") -> Any:
    """Make an object of a class from options, making components of the mappings among them.

    ``separator`` stands between ``path`` and an option in errors.
    """
    known = options(cls)
    hints = type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}{separator}{key}"
        if key not in known:
            raise ConfigurationError(
                f"{where}: {cls.__name__} has no option {key!r}{close_match(key, known)}; "
                f"its options: {', '.join(known)}"
            )
        hint = hints.get(key, Any)
        made = _value(value, hint, where)
        # Config's own executors are converted by its class.
        if not (cls is Config and key == "executors"):
            try:
                check_type(made, hint)
            except TypeError:
                raise ConfigurationError(
                    f"{where} = {value!r}: expected {describe_type(hint)}, got {type(value).__name__}"
                    f"{_advice(hint, value)}"
                ) from None
        arguments[key] = made
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in arguments]
    if missing:
        raise ConfigurationError(f"{path}: {cls.__name__} needs a value for: {', '.join(missing)}")
    try:
        return cls(**arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error.__cause__


@attrs.frozen
class Description:
    """A component in what JSON and TOML can hold.

    Attributes:
        values: of which :func:`build` makes a component like it.
        left_out: paths of the options that are missing there though they are set: secrets, and what has no name.
    """

    values: dict[str, Any]
    left_out: tuple[str, ...]


def describe(component: Any) -> Description:
    """Return what a component was made of: the inverse of :func:`build`.

    Options whose fields have ``repr=False`` are secrets, and never part of it.

    Raises:
        ConfigurationError: its class is no installed plugin.
    """
    cls: Any = type(component)
    kind = kind_of(cls)
    name = None if kind is None else _plugin_name(kind, cls)
    if name is None:
        raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} is no installed plugin, and so has no name")
    fields = {f.alias: f for f in attrs.fields(cls)} if attrs.has(cls) else {}
    hints = type_hints(cls)
    values: dict[str, Any] = {"plugin": name}
    left_out: list[str] = []
    for option, parameter in options(cls).items():
        field = fields.get(option)
        value = getattr(component, option if field is None else field.name, _UNWRITABLE)
        secret = field is not None and field.repr is False
        written = _UNWRITABLE if secret else _written(value, hints.get(option, Any), option, left_out)
        if written is not _UNWRITABLE:
            values[option] = written
        elif value is not parameter.default:
            left_out.append(option)
    return Description(values, tuple(left_out))


#: Stands for what :func:`describe` cannot write down.
_UNWRITABLE: Any = object()


def _plugin_name(kind: str, cls: type) -> str | None:
    try:
        plugin = registry.find_class(kind, cls.__name__)
        return plugin.name if registry.load(plugin) is cls else None
    except PluginError:
        return None


def _written(value: Any, hint: Any, path: str, left_out: list[str]) -> Any:
    """Return a value as :func:`build` takes it; ``left_out`` gets the paths of what is missing in components in it."""
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        inner = {k: _written(v, Any, f"{path}.{k}", left_out) for k, v in value.items()}
        return _UNWRITABLE if _UNWRITABLE in inner.values() or not all(isinstance(k, str) for k in inner) else inner
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        items = [_written(v, Any, f"{path}[{i}]", left_out) for i, v in enumerate(value)]
        return _UNWRITABLE if _UNWRITABLE in items else items
    if kind_of(type(value)) is not None:
        try:
            described = describe(value)
        except ConfigurationError:
            return _UNWRITABLE
        left_out.extend(f"{path}.{option}" for option in described.left_out)
        return described.values
    if any(_is_callable(part) for part in _parts(hint)):
        reference = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
        try:
            found = _import(reference, path)
        except (ConfigurationError, ValueError):  # ValueError: of an object without a module
            return _UNWRITABLE
        # The main program is another one in another process.
        return reference if found is value and not reference.startswith("__main__:") else _UNWRITABLE
    return _UNWRITABLE


def _advice(hint: Any, value: Any) -> str:
    """Return how to write what was probably meant, or nothing."""
    if not isinstance(value, str):
        return ""
    if kind_of(hint) is not None:
        return f"; a plugin is named with its options, {{ plugin = {value!r} }}"
    if any(_is_callable(part) for part in _parts(hint)):
        return '; a function is named "module:name"'
    return ""


def kind_of(hint: Any) -> str | None:
    """Return the kind of component that a type annotation admits, or None."""
    contracts = registry.contracts()
    for part in _parts(hint):
        for contract, kind in contracts.items():
            if isinstance(part, type) and issubclass(part, contract):
                return kind
    return None


def _parts(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [p for a in typing.get_args(hint) for p in _parts(a)]
    return [hint]


def _value(value: Any, hint: Any, path: str) -> Any:
    if isinstance(value, Mapping) and "plugin" in value:
        kind = kind_of(hint)
        if kind is not None:
            return build(kind, value, path)
    parts = _parts(hint)
    if isinstance(value, list):
        for part in parts:
            arguments = typing.get_args(part)
            origin = typing.get_origin(part)
            if origin is tuple:  # TOML has no tuples
                return tuple(value)
            if arguments and isinstance(origin, type) and issubclass(origin, Sequence):
                return [_value(v, arguments[0], f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and ":" in value and any(_is_callable(p) for p in parts) and str not in parts:
        return _import(value, path)
    return value


def _is_callable(hint: Any) -> bool:
    return hint is Callable or typing.get_origin(hint) in (Callable, typing.get_origin(Callable[..., Any]))


def _import(reference: str, path: str) -> Any:
    """Return the function that ``module:name`` refers to."""
    module, _, name = reference.partition(":")
    try:
        found: Any = __import__(module, fromlist=["_"])
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{path} = {reference!r}: cannot be imported as module:name: {error}") from error
    return found
