"""Usage reports: two datagrams per run, sent only for those who asked for it, to where they said.

Rules of this module: without consent it is not even imported; without an address nothing is sent (there is no default
one); whatever goes wrong on the way is of no consequence for the run.

Consent is ``Config(usage_tracking=True)``, or ``FLOWCORE_TRACKING`` in the environment being ``true``, ``1`` or
``yes`` in any case. The address is ``FLOWCORE_USAGE_ADDRESS``: ``host:port``, an IPv6 address in brackets,
``[::1]:port``.

What is sent
------------

One UDP datagram when the run has started, one when it has ended. Each is one JSON object in ASCII, without blanks
between its parts and without a newline, of at most 1200 bytes, with exactly these members in this order:

=============== ======= =====================================================================================
``usage``       number  version of this format: 1
``event``       string  ``"start"`` or ``"end"``
``run``         string  the run's random UUID; the same in both datagrams, and nowhere else
``start``       number  when the run started, whole seconds since 1970-01-01 UTC
``end``         number  when it ended; only in ``"end"``
``executors``   number  how many executors the run has
``failed``      number  tasks that failed, or did not run since what they depend on failed; those that were cancelled
                        or cut off by the run's end are among them; only in ``"end"``
``flowcore``    string  version of flowcore
``python``      string  version of Python, ``"3.11.7"``
``os``          string  name of the operating system, ``"Linux"``
``os_version``  string  its version, as ``uname -r`` prints it
=============== ======= =====================================================================================

The last four are cut after 32 characters. For example::

    {"usage":1,"event":"start","run":"1b4e28ba-2fa1-4d2f-883f-0016d3cca427","start":1714550400,"executors":1,
    "flowcore":"0.1.0","python":"3.11.7","os":"Linux","os_version":"6.1.0-18-amd64"}

on one line. As with every datagram, its receiver sees the IP address that it comes from.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import threading
import time
from typing import Any, Literal

from flowcore import __version__

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "FLOWCORE_USAGE_ADDRESS"
FORMAT_VERSION = 1
#: The longest text of a member; with every character escaped, four of these fit in a datagram of 1200 bytes.
LONGEST_TEXT = 32
#: Seconds that the end of a run waits for the last datagram to leave; the start waits for nothing.
PATIENCE_S = 0.8


class UsageReports:
    """Sends the two reports of a run, from a thread that ends with it.

    One thread for both: the interpreter may be about to exit when the second is due, when no thread can be started.
    It is a daemon: one that a name server keeps waiting ends when that answers, sends nothing, and holds no exit up.

    Args:
        host, port: where to.
        run_id: the run's UUID.
        started_at: when it started, seconds since the epoch.
        executors: how many it has.
    """

    def __init__(self, host: str, port: int, run_id: str, started_at: float, executors: int) -> None:
        self._host = host
        self._port = port
        self._run_id = run_id
        self._started_at = started_at
        self._last = b""
        self._ended = threading.Event()
        self._given_up = False
        first = report("start", run_id, started_at, executors)
        self._thread = threading.Thread(target=self._send_both, args=(first,), name="flowcore-usage", daemon=True)
        self._thread.start()

    def finish(self, executors: int, failed: int) -> None:
        """Send the second report. Waits :data:`PATIENCE_S` at most; what has not left by then never does."""
        self._last = report("end", self._run_id, self._started_at, executors, time.time(), failed)
        self._ended.set()
        self._thread.join(PATIENCE_S)
        self._given_up = True

    def _send_both(self, first: bytes) -> None:
        targets = self._resolve()
        self._send(first, targets)
        self._ended.wait()
        self._send(self._last, targets or self._resolve())

    def _resolve(self) -> list[tuple[Any, ...]]:
        if self._given_up:
            return []
        try:
            return socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
            logger.debug("usage reports: %s cannot be resolved: %s", self._host, error)
            return []

    def _send(self, datagram: bytes, targets: list[tuple[Any, ...]]) -> None:
        for family, kind, protocol, _, address in targets:
            if self._given_up:
                return
            try:
                with socket.socket(family, kind, protocol) as sender:
                    sender.settimeout(PATIENCE_S)
                    sender.sendto(datagram, address)
            except OSError as error:
                logger.debug("usage reports: nothing can be sent to %s: %s", address, error)
            else:
                return


def start(run_id: str, started_at: float, executors: int) -> UsageReports | None:
    """Begin the reports of a run whose user has consented.

    Returns:
        What sends them; None where there is no address to send them to, which the log says.
    """
    text = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if not text:
        logger.info(
            "usage tracking is on, and nothing is sent: %s=host:port is not in the environment", ADDRESS_VARIABLE
        )
        return None
    try:
        host, port = parse_address(text)
    except ValueError as error:
        logger.warning("usage tracking is on, and nothing is sent: %s=%r: %s", ADDRESS_VARIABLE, text, error)
        return None
    logger.info("usage tracking is on: one datagram now and one at the end go to %s port %d", host, port)
    try:
        return UsageReports(host, port, run_id, started_at, executors)
    except RuntimeError as error:  # no more threads
        logger.warning("usage tracking is on, and nothing is sent: %s", error)
        return None


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[IPv6 address]:port``.

    Raises:
        ValueError: says what is wrong.
    """
    host, colon, digits = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError("expected host:port, or [address]:port for IPv6")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        raise ValueError(f"the port must be a number from 1 to 65535, got {digits!r}")
    host = host[1:-1] if bracketed else host
    if not host:
        raise ValueError("the host is missing")
    return host, int(digits)


def report(
    event: Literal["start", "end"],
    run_id: str,
    started_at: float,
    executors: int,
    ended_at: float = 0,
    failed: int = 0,
) -> bytes:
    """Return one datagram, in the format of this module's docstring. Times are seconds since the epoch."""
    # platform.uname() starts no process, unlike others of that module.
    system = platform.uname()
    at_end = event == "end"
    members: dict[str, Any] = {
        "usage": FORMAT_VERSION,
        "event": event,
        "run": run_id,
        "start": int(started_at),
        **({"end": int(ended_at)} if at_end else {}),
        "executors": executors,
        **({"failed": failed} if at_end else {}),
        "flowcore": __version__[:LONGEST_TEXT],
        "python": platform.python_version()[:LONGEST_TEXT],
        "os": system.system[:LONGEST_TEXT],
        "os_version": system.release[:LONGEST_TEXT],
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")
