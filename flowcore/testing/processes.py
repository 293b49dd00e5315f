"""Which processes are there? Read from ``/proc``, with no help of those who started them.

On systems without ``/proc`` nothing is found, and the checks that build on this pass.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

_PROC = Path("/proc")


@attrs.frozen
class Process:
    """A process as it was seen. ``state`` is the letter of proc(5), ``Z`` for one that ended unreaped."""

    pid: int
    ppid: int
    pgid: int
    state: str
    started: int
    command: str


def look(pid: int) -> Process | None:
    """Return what is known of a process; None if there is none."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    # `pid (name) state ppid pgrp ...`, the 22nd field is the start time; the name may hold anything.
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    command = raw.replace(b"\0", b" ").decode(errors="replace").strip() or f"[{name}]"
    return Process(pid, int(fields[1]), int(fields[2]), fields[0], int(fields[19]), command)


def everyone() -> list[Process]:
    """Return all processes of this host."""
    pids = (int(p.name) for p in _PROC.iterdir() if p.name.isdigit()) if _PROC.is_dir() else ()
    return [process for pid in pids if (process := look(pid)) is not None]


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and is not reaped does not."""
    if not _PROC.is_dir():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    process = look(pid)
    return process is not None and process.state not in "ZX"


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    return not alive(pid)


def descendants(root: int, among: Iterable[Process] | None = None) -> list[Process]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[Process]] = {}
    for process in everyone() if among is None else among:
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    stack = [root]
    while stack:
        for child in children.get(stack.pop(), ()):
            found.append(child)
            stack.append(child.pid)
    return found


def carrying(mark: str, among: Iterable[Process] | None = None) -> list[Process]:
    """Return the processes that were started with ``mark`` in their environment, whoever their parent is now."""
    wanted = mark.encode()
    found = []
    for process in everyone() if among is None else among:
        try:
            environment = (_PROC / str(process.pid) / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(process)
    return found


def end(find: Callable[[], list[Process]], bound_s: float) -> list[Process]:
    """Kill processes, and those that come meanwhile, until none is found; return those that do not end in time."""
    deadline = time.monotonic() + bound_s
    while found := find():
        kill(found)
        if time.monotonic() > deadline:
            return found
        time.sleep(0.005)
    return []


def kill(processes: Iterable[Process]) -> None:
    """Kill processes, each only if it is still the one that was seen."""
    for process in processes:
        now = look(process.pid)
        if now is not None and now.started == process.started:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
