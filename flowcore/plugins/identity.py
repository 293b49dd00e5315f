"""What identifies a function for memoization: its text, so that an edit invalidates what it once returned.

Rule of this module: the same in every process and on every machine. Source is preferred; where there is none,
or where it cannot tell two functions apart, the bytecode speaks.
"""

from __future__ import annotations

import hashlib
import inspect
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

_known: WeakKeyDictionary[Callable[..., Any], bytes] = WeakKeyDictionary()


def function_identity(function: Callable[..., Any]) -> bytes:
    """Return bytes that identify a function's text: its module, name and source, else its bytecode.

    What the function closes over and its default values are values, not text: they do not count.
    """
    try:
        known = _known.get(function)
        if known is None:
            known = _known[function] = _identity(function)
    except TypeError:  # not weakly referable (a builtin), or not hashable
        return _identity(function)
    return known


def _identity(function: Callable[..., Any]) -> bytes:
    digest = hashlib.sha256()
    for part in (getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(type(function)))):
        digest.update(str(part).encode() + b"\0")
    inner = getattr(function, "func", None)  # functools.partial
    if callable(inner):
        digest.update(function_identity(inner))
        return digest.digest()
    code = getattr(function, "__code__", None)
    try:
        digest.update(inspect.getsource(function).encode())
    except (OSError, TypeError):
        source = False
    else:
        # The source of a lambda is its whole line, on which there may be others.
        source = getattr(function, "__name__", "") != "<lambda>"
    if code is not None and not source:
        digest.update(_code_text(code).encode())
    return digest.digest()


def _code_text(code: types.CodeType) -> str:
    return repr((code.co_code, code.co_names, [_constant_text(c) for c in code.co_consts]))


def _constant_text(constant: Any) -> str:
    # A nested code object's repr holds its address, and a set's order depends on PYTHONHASHSEED.
    if inspect.iscode(constant):
        return _code_text(constant)
    if isinstance(constant, frozenset):
        return "frozenset" + repr(sorted(map(_constant_text, constant)))
    if isinstance(constant, tuple):
        return "tuple" + repr([_constant_text(c) for c in constant])
    return repr(constant)
