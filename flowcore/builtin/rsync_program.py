"""Runs the program ``rsync``, and says what it means when it ends otherwise than well.

Rule of this module: the program never asks, and nothing that it has started outlives it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess

from flowcore.plugins.api import TransferError

#: What the codes mean that rsync ends with: rsync(1), EXIT VALUES.
MEANINGS = {
    1: "syntax or usage error",
    2: "protocol incompatibility",
    3: "errors selecting files or folders",
    4: "requested action not supported",
    5: "the daemon refused to begin",
    6: "the daemon cannot write its log",
    10: "error in socket I/O",
    11: "error in file I/O",
    12: "error in the protocol's data stream",
    13: "error with program diagnostics",
    14: "error in IPC code",
    15: "a sibling process crashed",
    16: "a sibling process was killed",
    19: "ended by SIGUSR1",
    20: "ended by SIGINT, SIGTERM or SIGHUP",
    21: "waiting for a process failed",
    22: "no memory",
    23: "partial transfer due to error",
    24: "partial transfer: a source file vanished",
    25: "the limit of deletions stopped it",
    30: "silence for too long",
    35: "the daemon could not be reached in time",
    124: "the command on the other side failed",
    125: "the command on the other side was killed",
    126: "the command on the other side cannot be run",
    127: "no such command on the other side",
    255: "ssh failed",
}
#: Codes after which the same command fails again.
_LASTING = frozenset({1, 2, 3, 4, 6, 25, 124, 126, 127})
#: What rsync, ssh or a daemon says where the same command fails again, and what to do about it.
_KNOWN = tuple(
    (re.compile(said), hint)
    for said, hint in (
        (r"Host key verification failed", "Have that host's key in known_hosts where tasks run (see worker_init)"),
        (
            r"Permission denied \((?!\d)",
            "Have a key that is accepted there where tasks run, or name one in ssh_command",
        ),
        (r"auth failed on module", "User and password go into the URL, or the password into $RSYNC_PASSWORD"),
        (r"Unknown module", "The first part of the path is the name of a module in the daemon's rsyncd.conf"),
        (r"module is read only", "Its rsyncd.conf has to say `read only = no`"),
        (r"rsync: (?:command )?not found", "Install rsync on that host"),
        (r"No space left on device|Disk quota exceeded|File too large", ""),
        (r"No such file or directory|[Nn]ot a directory|[Ii]s a directory|could not make way|File name too long", ""),
        (r"Too many levels of symbolic links", "Some daemons follow no links to folders: name the folder itself"),
        (r"Permission denied|Operation not permitted|Read-only file system", ""),
        (r"Name or service not known|No address associated with hostname", ""),
        (r"unknown option", ""),
    )
)
#: Seconds between two looks whether rsync has ended while somebody holds its stderr.
_LOOK_S = 1.0
#: Lines of rsync's stderr that an error shows, and such as say nothing that others do not.
_LINES = 5
_NOISE = re.compile(r"default_perms_for_dir|Connection reset by peer|Broken pipe|connection unexpectedly closed")


def run(command: list[str], said: bytes, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command without a terminal; return its exit code, and what it wrote to stderr.

    Raises:
        OSError: it cannot be run.
    """
    # In a session of its own: without a terminal where somebody could be asked, and with all that it starts.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        left: bytes | None = said
        try:
            while True:
                try:
                    _, heard = process.communicate(left, timeout=_LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    left = None
                    if process.poll() is not None:
                        _kill(process.pid)  # it has ended, and what it started holds its stderr
        finally:
            if process.returncode != 0:
                _kill(process.pid)
    return process.returncode, heard.decode(errors="replace")


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def failure(action: str, url: str, server: str, code: int, said: str) -> TransferError:
    """Return the error for how rsync ended.

    Args:
        action: ``fetch`` or ``push``.
        url: of the file.
        server: at the other side, for people.
        code: the exit code; negative: the signal that killed it.
        said: what it wrote to stderr.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    end = f"ended with {code} ({MEANINGS.get(code, 'not known')})" if code >= 0 else f"was killed by signal {-code}"
    # What the first of these says has been said; the second is what is left, or there is nothing better.
    lines = [line for line in lines if not line.startswith("rsync error:")] or lines
    lines = [line for line in lines if not _NOISE.search(line)] or lines
    hint = next((hint for pattern, hint in _KNOWN if pattern.search(said)), None)
    told = "\n  ".join(lines[-_LINES:])
    reason = f"rsync on {socket.gethostname()}, with {server}, {end}{f': {told}' if told else ''}"
    if hint:
        reason = f"{reason}\n{hint}"
    return TransferError(action, url, reason, passing=hint is None and code not in _LASTING)
