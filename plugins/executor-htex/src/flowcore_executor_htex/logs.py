"""The logs of the interchange and of managers. Rule: no process ends, or waits, because of its log."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path


def start(path: Path, *, debug: bool) -> None:
    """Write this process's log to a file; to stderr where that cannot be made, since the disk is full for example."""
    handler: logging.Handler
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError as error:
        handler = logging.StreamHandler(sys.stderr)
        with contextlib.suppress(OSError):  # that may be on the same disk
            sys.stderr.write(f"flowcore: there is no log, since {path} cannot be written: {error}\n")
    # A line that the disk does not take is left out.
    logging.raiseExceptions = False
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(handlers=[handler], level=level, format="%(asctime)s %(levelname)s %(message)s")
