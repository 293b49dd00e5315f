"""Spans of time as text."""

from __future__ import annotations

import re

_FORM = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")


def seconds_of(text: str) -> int:
    """Return the seconds of ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        ValueError: it is of neither form, or 0.
    """
    match = _FORM.fullmatch(text)
    factors = (86400, 3600, 60, 1)
    seconds = sum(int(part or 0) * f for part, f in zip(match.groups(), factors, strict=True)) if match else 0
    if seconds == 0:
        raise ValueError("expected HH:MM:SS or D-HH:MM:SS, for example '00:30:00', and more than 0")
    return seconds
