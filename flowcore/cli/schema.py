"""A JSON Schema (draft 2020-12) of configurations in TOML, made from the classes that are installed.

Rule of this module: it accepts all that ``Config.from_dict`` accepts (but for values that no file can hold),
and refuses what it can tell from types alone: an unknown plugin or option, a missing option, a wrong type.
What only a class's own validators know is left to them.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowcore.cli.options import Option, describe_options, summary
from flowcore.config import CHECKPOINT_MODES, Config
from flowcore.plugins import registry

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
}


def config_schema() -> tuple[Schema, list[str]]:
    """Make the schema.

    Returns:
        The schema, and a message for each plugin that could not be loaded and is left out of it.
    """
    maker = _Maker()
    properties = {o.name: _refined(o.name, maker.option(o)) for o in describe_options(Config)}
    schema: Schema = {
        "$schema": DIALECT,
        "title": "flowcore configuration",
        "description": summary(Config),
        "type": "object",
        "properties": {
            **properties,
            "profiles": {
                "description": "Named sets of options, which replace those of the top level.",
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {name: {"$ref": f"#/properties/{name}"} for name in properties},
                    "additionalProperties": False,
                },
            },
        },
        "additionalProperties": False,
        "$defs": maker.definitions(),
    }
    return schema, maker.problems


def _refined(name: str, schema: Schema) -> Schema:
    """Say of Config's own options what their annotations do not."""
    known: Schema | None = None
    if name == "executors":
        known = {"type": ["array", "null"], "items": {"$ref": "#/$defs/executor"}, "minItems": 1}
    elif name == "checkpoint_mode":
        known = {"enum": [*CHECKPOINT_MODES, None]}
    elif name == "strategy":
        known = {"enum": [*(p.name for p in registry.installed("strategy")), None]}
    elif name == "checkpoint_period":
        known = {"type": ["string", "null"], "pattern": r"^[0-9]+:[0-5]?[0-9]:[0-5]?[0-9]$"}
    if known is None:
        return schema
    return {**{k: schema[k] for k in ("description", "default") if k in schema}, **known}


class _Maker:
    """Makes schemas of types, and keeps the definitions of the components that they refer to."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._contracts = registry.contracts()
        self._loaded: dict[str, list[tuple[registry.Plugin, type]]] = {}
        self._definitions: dict[str, Schema] = {}
        self._kind("executor")

    def definitions(self) -> dict[str, Schema]:
        return dict(sorted(self._definitions.items()))

    def option(self, option: Option) -> Schema:
        made = self.of_type(option.annotation)
        schema: Schema = {}
        if option.description:
            schema["description"] = option.description
        if made is None:
            schema["description"] = f"{option.description} (Only from Python: {option.type}.)".strip()
            return {**schema, "not": {}}
        if option.plain_default is not None:
            schema["default"] = option.plain_default
        return {**schema, **made}

    def of_type(self, hint: Any) -> Schema | None:
        """Return the schema of the values of a type that a file can hold; None if there are none."""
        if hint is Any or hint is object or hint is inspect.Parameter.empty:
            return {}
        if isinstance(hint, typing.TypeVar):
            return {}
        scalar = _SCALARS.get(hint)
        if scalar is not None:
            return dict(scalar)
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if origin is typing.Annotated:
            return self.of_type(arguments[0])
        if origin is typing.Literal:
            return {"enum": list(arguments)}
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments)
        kind = origin or hint
        if kind in (Callable, typing.get_origin(Callable[..., Any])):
            return {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"}
        if not isinstance(kind, type) or kind is os.PathLike:
            return None
        if issubclass(kind, tuple):
            return self._tuple(arguments)
        if issubclass(list, kind) and issubclass(kind, Sequence):
            return self._with("array", "items", arguments[0] if arguments else Any)
        if issubclass(dict, kind) and issubclass(kind, Mapping):
            return self._with("object", "additionalProperties", arguments[1] if arguments else Any)
        return self._component(kind)

    def _union(self, members: Sequence[Any]) -> Schema | None:
        # A string that refers to a function counts as a string where both are allowed.
        made: list[Schema] = []
        for member in members:
            schema = self.of_type(member)
            if schema is not None and schema not in made:
                made.append(schema)
        # null alone would be an option that takes no value at all.
        if not [s for s in made if s != _SCALARS[type(None)]]:
            return None
        if all(set(s) == {"type"} for s in made):
            names = [s["type"] for s in made]
            if "number" in names and "integer" in names:
                names.remove("integer")
            return {"type": names[0] if len(names) == 1 else names}
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _tuple(self, members: Sequence[Any]) -> Schema | None:
        if not members or members[-1] is Ellipsis:
            return self._with("array", "items", members[0] if members else Any)
        items = [self.of_type(m) for m in members]
        if any(item is None for item in items):
            return None
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def _with(self, type_name: str, keyword: str, member: Any) -> Schema | None:
        inner = self.of_type(member)
        if inner is None:
            return None
        return {"type": type_name, keyword: inner} if inner else {"type": type_name}

    def _component(self, cls: type) -> Schema | None:
        kind = next((k for contract, k in self._contracts.items() if issubclass(cls, contract)), None)
        if kind is None:
            return None
        loaded = self._kind(kind)
        if cls in self._contracts:
            return {"$ref": f"#/$defs/{kind}"}
        fitting = [plugin for plugin, made in loaded if issubclass(made, cls)]
        return {"oneOf": [_reference(p) for p in fitting]} if fitting else None

    def _kind(self, kind: str) -> list[tuple[registry.Plugin, type]]:
        """Define a kind and each of its plugins, once; return what could be loaded."""
        if kind not in self._loaded:
            loaded, problems = registry.load_all(kind)
            self._loaded[kind] = loaded
            self.problems.extend(problems)
            # `not: {}` accepts nothing.
            choices: Schema = {"oneOf": [_reference(p) for p, _ in loaded]} if loaded else {"not": {}}
            self._definitions[kind] = choices
            for plugin, cls in loaded:
                self._definitions[_definition(plugin)] = self._plugin(plugin, cls)
        return self._loaded[kind]

    def _plugin(self, plugin: registry.Plugin, cls: type) -> Schema:
        described = describe_options(cls)
        return {
            "title": cls.__name__,
            "description": summary(cls),
            "type": "object",
            "properties": {
                "plugin": {"const": plugin.name, "description": f"{cls.__name__} of {plugin.distribution}"},
                **{o.name: self.option(o) for o in described},
            },
            "required": ["plugin", *(o.name for o in described if o.required)],
            "additionalProperties": False,
        }


def _definition(plugin: registry.Plugin) -> str:
    return f"{plugin.kind}.{plugin.name}"


def _reference(plugin: registry.Plugin) -> Schema:
    return {"$ref": f"#/$defs/{_definition(plugin)}"}
