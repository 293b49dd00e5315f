"""What a component's class says about itself: a summary, and its options from signature and docstring.

Rule of this module: one description of an option feeds everything that shows it (``flowcore plugins show``,
the JSON Schema), and it comes from the class alone.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs

from flowcore.cli.terminal import plain
from flowcore.plugins.component import describe_type, options, type_hints

_SECTION = re.compile(r"(Attributes|Args|Arguments|Parameters):")
_ENTRY = re.compile(r"(\*{0,2}\w+(?:, ?\*{0,2}\w+)*)(?: ?\([^)]*\))?:(?:\s+(.*))?")


@attrs.frozen
class Option:
    """One option of a component.

    Attributes:
        name: as users write it.
        annotation: its type.
        type: its type as users read it.
        required: whether it must be given.
        default: the default as Python source; empty if it must be given.
        plain_default: the default where it is a bool, number or string; else None.
        description: from the class's docstring; may be empty.
    """

    name: str
    annotation: Any
    type: str
    required: bool
    default: str
    plain_default: bool | int | float | str | None
    description: str


def summary(component: Any) -> str:
    """Return the first paragraph of a component's docstring on one line; empty if it has none."""
    doc = inspect.getdoc(component) or ""
    return plain(" ".join(doc.split("\n\n", 1)[0].split()))


def describe_options(cls: type) -> list[Option]:
    """Return the options of a component class, in the order of its constructor."""
    hints = type_hints(cls)
    texts = _descriptions(cls)
    described = []
    for name, parameter in options(cls).items():
        annotation = hints.get(name, Any)
        required = parameter.default is parameter.empty
        default = parameter.default
        described.append(
            Option(
                name,
                annotation,
                describe_type(annotation),
                required,
                "" if required else _default_text(cls, name, default),
                default if isinstance(default, bool | int | float | str) else None,
                texts.get(name, ""),
            )
        )
    return described


def _default_text(cls: type, name: str, default: Any) -> str:
    if default is not attrs.NOTHING:
        return repr(default)
    # The default is made for each object.
    field = next(f for f in attrs.fields(cls) if f.alias == name)
    factory = field.default.factory
    literal = {dict: "{}", list: "[]", tuple: "()", set: "set()"}.get(factory)
    if literal:
        return literal
    return f"{factory.__name__}()" if isinstance(factory, type) else "computed"


def _descriptions(cls: type) -> dict[str, str]:
    """Return the description of each option; a base class's where the class itself has none."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        for doc in (vars(base).get("__doc__"), getattr(constructor, "__doc__", None)):
            for name, text in parse_entries(doc or "").items():
                found.setdefault(name, text)
    return found


def parse_entries(doc: str) -> dict[str, str]:
    """Return the entries of the ``Attributes:`` and ``Args:`` sections of a Google-style docstring.

    Args:
        doc: the docstring.

    Returns:
        Name to text, on one line each. ``a, b: text`` is an entry for both names.
    """
    entries: dict[str, list[str]] = {}
    names: list[str] = []
    indent: int | None = None
    inside = False
    for line in inspect.cleandoc(doc).splitlines():
        text = line.strip()
        if not text:
            continue
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            inside = _SECTION.fullmatch(text) is not None
            indent, names = None, []
            continue
        if not inside:
            continue
        indent = depth if indent is None else indent
        match = _ENTRY.fullmatch(text) if depth <= indent else None
        if match:
            names = [name.strip().lstrip("*") for name in match[1].split(",")]
            text = match[2] or ""
        for name in names:
            entries.setdefault(name, []).append(text)
    return {name: plain(" ".join(t for t in texts if t)) for name, texts in entries.items()}
