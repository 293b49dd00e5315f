"""Memo hashers for the types that most arguments have."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import pathlib
import sys
import threading
import types
import uuid
from typing import Any

import attrs

from flowcore.plugins.api import File, HashPart, MemoHasher, function_identity

_BY_REPR = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    range,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    pathlib.PurePath,
)
_CONTAINERS = (list, tuple, set, frozenset, dict)
_CALLABLES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial, type)


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}:".encode()


class StandardMemoHasher(MemoHasher):
    """Scalars, containers, dates, paths, enums, dataclasses, attrs classes, functions, classes and Files."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def handles(self, obj: Any) -> bool:
        """Return whether the object is of one of these types."""
        return (
            isinstance(obj, (*_BY_REPR, bytearray, *_CONTAINERS, *_CALLABLES, enum.Enum, File))
            or dataclasses.is_dataclass(obj)
            or attrs.has(type(obj))
        )

    def hash(self, obj: Any, output_ref: bool, part: HashPart) -> bytes:
        """Return bytes that identify the object; of a File, its URL."""
        kind = type(obj)
        digest = hashlib.sha256(_name(kind))
        if isinstance(obj, enum.Enum):
            # A flag without a name (no bit set) still has a value.
            digest.update((obj.name or repr(obj.value)).encode())
        elif isinstance(obj, File):
            digest.update(obj.url.encode())
        elif isinstance(obj, types.MethodType):
            digest.update(part(obj.__func__) + part(obj.__self__))
        elif isinstance(obj, functools.partial):
            digest.update(part(obj.func) + part(obj.args) + part(obj.keywords))
        elif isinstance(obj, _CALLABLES):
            digest.update(function_identity(obj))
            self._add_held(obj, digest, part)
        elif isinstance(obj, dict):
            # Equal dicts may be ordered differently.
            for key, value in sorted((part(k), part(v)) for k, v in obj.items()):
                digest.update(key + value)
        elif isinstance(obj, set | frozenset):
            digest.update(b"".join(sorted(map(part, obj))))
        elif isinstance(obj, list | tuple):
            digest.update(b"".join(map(part, obj)))
        elif isinstance(obj, bytearray):
            digest.update(obj)
        elif isinstance(obj, _BY_REPR):
            digest.update(repr(obj).encode(errors="surrogatepass"))
        else:
            names = (
                [f.name for f in dataclasses.fields(obj)]
                if dataclasses.is_dataclass(obj)
                else [f.name for f in attrs.fields(kind)]
            )
            for name in names:
                digest.update(name.encode() + part(getattr(obj, name)))
        return digest.digest()

    def _add_held(self, function: Any, digest: hashlib._Hash, part: HashPart) -> None:
        """Add the values that a function holds on to: two of one text may differ in these alone."""
        held = [getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__")]
        for cell in getattr(function, "__closure__", None) or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                pass
        owner = getattr(function, "__self__", None)
        if not isinstance(owner, types.ModuleType):
            held.append(owner)  # of a builtin's bound method
        # A recursive inner function holds itself.
        seen: set[int] = self._thread.__dict__.setdefault("functions", set())
        if id(function) in seen:
            return
        seen.add(id(function))
        try:
            for value in held:
                if value is not None:
                    digest.update(part(value))
        finally:
            seen.discard(id(function))


class NumpyMemoHasher(MemoHasher):
    """Arrays and scalars of numpy: type, shape and content. Does not import numpy itself."""

    def handles(self, obj: Any) -> bool:
        """Return whether numpy is in use and the object is an array or a scalar of it."""
        numpy = sys.modules.get("numpy")
        return numpy is not None and isinstance(obj, numpy.ndarray | numpy.generic)

    def hash(self, obj: Any, output_ref: bool, part: HashPart) -> bytes:
        """Return bytes that identify the array; arrays of objects through the hashers of their elements."""
        # `dtype.str` has the byte order, `str(dtype)` the fields; a subclass may hold more than its buffer.
        dtype = f"{obj.dtype.str}:{obj.dtype}"
        digest = hashlib.sha256(f"numpy:{dtype}:{obj.shape}:".encode() + _name(type(obj)))
        mask = getattr(obj, "mask", None)  # of a masked array
        if mask is not None:
            digest.update(part(mask))
        digest.update(part(obj.tolist()) if obj.dtype.hasobject else obj.tobytes())
        return digest.digest()
