"""What the contract suites have executors run. Importable by workers, which have flowcore; needs no pytest."""

from __future__ import annotations

import enum
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs


class Refused(Exception):
    """An exception of an app's own, with arguments that its text does not have."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code

    def __str__(self) -> str:
        return f"refused with {self.code}"


class Unwritable:
    """Cannot be pickled by anyone; says so by name."""

    def __reduce__(self) -> Any:
        raise TypeError("Unwritable is not to be pickled")


class UnwritableError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("cannot travel")
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("UnwritableError is not to be pickled")


class Colour(enum.Enum):
    """A value of an enum, for hashers."""

    RED = 1
    GREEN = 2


@attrs.frozen
class Point:
    """A value of a class, for hashers."""

    x: int
    y: Any


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments."""
    return args, kwargs


def add(a: int, b: int = 1) -> int:
    """Return the sum."""
    return a + b


def refuse(code: int) -> None:
    """Raise :class:`Refused`."""
    raise Refused(code, "not today")


def divide(a: int, b: int) -> float:
    """Return the quotient."""
    return a / b


def leave() -> None:
    """Ask the interpreter to end, as apps do that call other people's main programs."""
    sys.exit(3)


def make_unwritable() -> Unwritable:
    """Return what cannot be sent back."""
    return Unwritable()


def raise_unwritable() -> None:
    """Raise what cannot be sent back."""
    raise UnwritableError


def touch(path: str) -> int:
    """Add this process's id to a file, and return it."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def hold(started: str, go: str, bound_s: float = 120.0) -> str:
    """Make the file ``started`` and wait for the file ``go``; return ``started``."""
    Path(started).touch()
    deadline = time.monotonic() + bound_s
    while not Path(go).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {go} within {bound_s:g} s")
        # Between processes a file is the event.
        time.sleep(0.005)
    return started
