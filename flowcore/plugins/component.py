"""``@component``: makes a class of options into an attrs class whose constructor explains its refusals.

Rule of this module: a component that was constructed is valid. An unknown option, a wrong type and whatever
the class's own validators refuse end as :class:`flowcore.errors.ConfigurationError` with the option's name,
the value, what was expected and, for a misspelt option, the close match.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

import attrs

from flowcore.errors import ConfigurationError

C = TypeVar("C")


def close_match(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


@functools.cache
def type_hints(cls: Any) -> dict[str, Any]:
    """Return the resolved type of each option of a component class."""
    if attrs.has(cls):
        return typing.get_type_hints(cls)
    return {k: v for k, v in typing.get_type_hints(cls.__init__).items() if k != "return"}


def options(cls: type) -> dict[str, inspect.Parameter]:
    """Return the options of a component class by name, from its constructor's signature."""
    parameters = list(inspect.signature(cls).parameters.values())
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def describe_type(annotation: Any) -> str:
    """Return a type as users write it."""
    if annotation is inspect.Parameter.empty:
        return "anything"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    # Without the names of modules, but not within the strings of a Literal.
    text = re.sub(r"(?<![\w.'\"])(?:\w+\.)+(?=\w)", "", str(annotation))
    return text.replace("NoneType", "None")


def check_type(value: Any, annotation: Any) -> None:
    """Raise :class:`TypeError` unless ``value`` is of the annotated type, containers checked to the bottom."""
    import typeguard

    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if type(value) is int and float in parts:
        return
    if type(value) is bool and bool not in parts and (int in parts or float in parts):
        raise TypeError(f"{value!r} is no number")
    if isinstance(value, str | bytes):
        # Text is a sequence of texts to a type checker, and hardly ever to who wrote it.
        parts = tuple(p for p in parts if not _is_collection(p))
        if not parts:
            raise TypeError(f"{value!r} is text")
        annotation = typing.Union[parts]  # noqa: UP007 - of a computed tuple
    try:
        typeguard.check_type(value, annotation, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    except typeguard.TypeCheckError as error:
        raise TypeError(str(error)) from None


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _is_collection(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, str | bytes)


def _check_field(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    cls: Any = type(instance)
    annotation = type_hints(cls).get(attribute.name, Any)
    try:
        check_type(value, annotation)
    except TypeError:
        # A kind may have an error of its own for what is none of it.
        refused_as = getattr(annotation, "refused_as", ConfigurationError)
        # What a component does not show of itself is a secret.
        shown = repr(value) if attribute.repr else "..."
        raise refused_as(
            f"{type(instance).__name__}({attribute.name}={shown}): expected {describe_type(annotation)}, "
            f"got {type(value).__name__}"
        ) from None


def _add_type_checks(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    def both(own: Any) -> Any:
        return _check_field if own is None else attrs.validators.and_(_check_field, own)

    return [f.evolve(validator=both(f.validator)) if f.init else f for f in fields]


@dataclass_transform(field_specifiers=(attrs.field,))
def component(cls: type[C]) -> type[C]:
    """Make a class of annotated fields into a component; for executors, providers, launchers, channels, ...

    The fields are the options, in the order of the constructor's arguments. Fields with ``init=False`` are the
    component's own state. Validators of the class may raise ``ValueError`` or ``ConfigurationError``. With
    ``closed: ClassVar[bool] = True``, no other attributes can be set.

    Raises:
        ConfigurationError: from the constructor, for an unknown option or an unfit value.
    """
    made = attrs.define(slots=False, eq=False, repr=True, field_transformer=_add_type_checks)(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        known = options(made)
        for name in kwargs:
            if name not in known:
                raise ConfigurationError(
                    f"{made.__name__} has no option {name!r}{close_match(name, known)}; "
                    f"its options: {', '.join(known) or 'none'}"
                )
        try:
            construct(self, *args, **kwargs)
        except ConfigurationError:
            raise
        except (TypeError, ValueError) as error:
            text = str(error).replace(f"{made.__qualname__}.__init__", made.__name__)
            raise ConfigurationError(text if made.__name__ in text else f"{made.__name__}: {text}") from error

    __init__.__signature__ = inspect.signature(construct)  # type: ignore[attr-defined]
    made.__init__ = __init__  # type: ignore[method-assign]
    if getattr(made, "closed", False):
        _close(made)
    return made


def _close(made: Any) -> None:
    """Refuse to set what is no option: a misspelt one would be without effect."""
    assign = made.__setattr__
    fields = frozenset(attrs.fields_dict(made))

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if not (name.startswith("_") or name in fields or hasattr(type(self), name)):
            raise ConfigurationError(
                f"{type(self).__name__} has no option {name!r}{close_match(name, options(made))}; "
                f"its options: {', '.join(options(made))}"
            )
        assign(self, name, value)

    made.__setattr__ = __setattr__


def at_least(minimum: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return a validator: the option's value, where there is one, is ``minimum`` or more."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and value < minimum:
            raise ConfigurationError(
                f"{type(instance).__name__}({attribute.name}={value!r}): must be at least {minimum:g}"
            )

    return check
