"""Where flowcore's log goes. Every module logs below the logger ``flowcore``; nothing is set up at import."""

from __future__ import annotations

import logging
import os
from typing import TextIO

DEFAULT_FORMAT = (
    "%(created)f %(asctime)s %(processName)s-%(process)d %(threadName)s-%(thread)d "
    "%(name)s:%(lineno)d %(funcName)s [%(levelname)s]  %(message)s"
)


def _add(handler: logging.Handler, name: str, level: int, format_string: str | None) -> logging.Logger:
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(format_string or DEFAULT_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    # The logger must let through what any of its handlers wants; an unset level inherits the root's.
    logger.setLevel(min(level, logger.level or level))
    return logger


def set_stream_logger(
    name: str = "flowcore",
    level: int = logging.DEBUG,
    format_string: str | None = None,
    stream: TextIO | None = None,
) -> logging.Logger:
    """Write log lines to a stream.

    Args:
        name: logger to listen to.
        level: lowest level that is written.
        format_string: format of a line, as in :mod:`logging`; None for flowcore's own.
        stream: where to; None for ``sys.stderr``.

    Returns:
        The logger.
    """
    return _add(logging.StreamHandler(stream), name, level, format_string)


def set_file_logger(
    filename: str | os.PathLike[str],
    name: str = "flowcore",
    level: int = logging.DEBUG,
    format_string: str | None = None,
) -> logging.Logger:
    """Write log lines to a file, appending.

    Args:
        filename: the file; its folder must exist.
        name: logger to listen to.
        level: lowest level that is written.
        format_string: format of a line, as in :mod:`logging`; None for flowcore's own.

    Returns:
        The logger.
    """
    return _add(logging.FileHandler(filename), name, level, format_string)
