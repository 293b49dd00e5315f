"""What stands beside a journal: whose it is, and why the database does not take it.

Rule of this module: files appear as a whole, and hold no password.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import attrs

from flowcore_monitoring_sqlite.journal import LOCK, JournalError, path_of, segments

#: Says whose journal it is.
RUN_FILE = "run.json"
#: The writer's log.
LOG = "writer.log"
#: Keeps some room on the disk for the last record.
RESERVE = "reserve"
#: Says why the database does not take what there is.
STATUS_FILE = "writer.json"


@attrs.frozen
class Owner:
    """Whose journal it is.

    Attributes:
        run_id: the run.
        endpoint: URL of its database, without a password.
        host, pid, started: the user's program; ``started`` is its start in the kernel's own count.
    """

    run_id: str
    endpoint: str
    host: str
    pid: int
    started: str

    def gone(self, host: str) -> bool:
        """Return whether the program does not live any more, as seen from a host; another host's is taken for gone."""
        return host != self.host or start_of(self.pid) != self.started


def start_of(pid: int) -> str:
    """Return when a process was started, in the kernel's count; empty if there is none."""
    try:
        # The name, which may hold anything, is in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def write_file(path: Path, content: Any) -> None:
    """Write JSON to a file that appears as a whole."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def read_owner(folder: Path) -> Owner:
    """Return whose journal a folder holds.

    Raises:
        JournalError: there is none.
    """
    try:
        return Owner(**json.loads((folder / RUN_FILE).read_text()))
    except FileNotFoundError:
        raise JournalError(
            f"there is no journal in {folder}: all that happened in the run is in its database, or it was not recorded"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise JournalError(f"{folder / RUN_FILE} cannot be read: {error}") from error


def remove(folder: Path) -> None:
    """Remove a journal that nobody needs any more; the log stays if there is something in it."""
    for segment in segments(folder):
        with contextlib.suppress(OSError):
            path_of(folder, segment).unlink()
    for name in (RUN_FILE, STATUS_FILE, RESERVE, LOCK):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        if not (folder / LOG).stat().st_size:
            (folder / LOG).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
