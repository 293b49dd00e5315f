"""``set_stream_logger`` and ``set_file_logger`` with Parsl's name for the log, which is flowcore's."""

from __future__ import annotations

import logging
import os
from typing import TextIO

from flowcore import logs


def _ours(name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"flowcore{dot}{rest}" if first == "parsl" else name


def set_stream_logger(
    name: str = "parsl",
    level: int = logging.DEBUG,
    format_string: str | None = None,
    stream: TextIO | None = None,
) -> logging.Logger:
    """Write log lines to a stream; see :func:`flowcore.set_stream_logger`. ``parsl`` names flowcore's log."""
    return logs.set_stream_logger(_ours(name), level, format_string, stream)


def set_file_logger(
    filename: str | os.PathLike[str],
    name: str = "parsl",
    level: int = logging.DEBUG,
    format_string: str | None = None,
) -> logging.Logger:
    """Write log lines to a file; see :func:`flowcore.set_file_logger`. ``parsl`` names flowcore's log."""
    return logs.set_file_logger(filename, _ours(name), level, format_string)
