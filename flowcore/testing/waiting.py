"""Waiting in tests: for a condition, within a bound, and never longer than needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "the condition") -> T:
    """Wait until a condition holds; for what gives no event to wait for, such as other processes and files.

    Args:
        condition: is called until its result is true.
        timeout_s: seconds to wait at most.
        what: what is waited for, for the error.

    Returns:
        The true result.

    Raises:
        AssertionError: it did not come true in time; gives its last result.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.001
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s; last: {result!r}")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
