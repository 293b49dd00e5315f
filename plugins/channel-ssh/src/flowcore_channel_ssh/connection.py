"""The connection of a channel: made when it is needed first, and again after it broke.

Rule of this module: work is done again on a new connection only if it certainly has had no effect, or may have it
twice; what decides is the caller. Attempts to connect are bounded in number, with pauses that grow. ``close`` may come
from any thread at any time: work that it interrupts fails and makes no new connection; later work does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import paramiko

from flowcore.plugins.api import SSHException
from flowcore_channel_ssh.link import Link, reason

T = TypeVar("T")
logger = logging.getLogger("flowcore.channels.ssh")

#: Seconds between the first two attempts to connect; each further pause is twice as long.
FIRST_PAUSE_S = 0.5
#: What paramiko raises when a connection is lost, and else.
_FAILURES = (paramiko.SSHException, EOFError, OSError)


class Connection:
    """Keeps one link.

    Args:
        dial: makes one; raises ``ConnectionError`` where another attempt may do better.
        attempts: to make one, at most.
        hostname: for errors.
    """

    def __init__(self, dial: Callable[[], Link], attempts: int, hostname: str) -> None:
        self._dial = dial
        self._attempts = attempts
        self._hostname = hostname
        self._dialling = threading.Lock()
        #: Of what follows; never held while anything is waited for.
        self._lock = threading.Lock()
        self._link: Link | None = None
        #: Set when the channel is closed; work that began before holds on to this one.
        self._closed = threading.Event()

    def run(self, work: Callable[[Link], T], again: bool = True) -> T:
        """Do some work, on a new connection if the last one is lost.

        Args:
            work: raises what paramiko raises when the connection is lost, and other errors otherwise.
            again: if the connection is lost meanwhile, do the work once more on a new one.

        Raises:
            SSHException: there is no connection, or it was lost.
            ChannelError: the host's key or the login was refused.
        """
        closed = self._closed
        while True:
            link = self._get(closed)
            try:
                return work(link)
            except paramiko.ChannelException as error:
                raise SSHException(
                    OSError(
                        f"{link.target.label} refuses a further session on this connection ({error.text}): its "
                        "MaxSessions may be reached"
                    ),
                    self._hostname,
                ) from error
            except _FAILURES as error:
                if not lost(error, link):
                    raise
                self.drop(link)
                self._check(closed)
                if not again:
                    raise SSHException(
                        ConnectionResetError(f"the connection to {link.target.label} was lost: {reason(error)}"),
                        self._hostname,
                    ) from error
                logger.info("the connection to %s was lost, and is made again: %s", link.target.label, reason(error))
                again = False

    def drop(self, link: Link) -> None:
        """Give up a link that is broken."""
        with self._lock:
            if self._link is link:
                self._link = None
        link.close()

    def close(self) -> bool:
        """Close the connection; return whether there was one. Work that is being done fails."""
        with self._lock:
            closed, self._closed = self._closed, threading.Event()
            link, self._link = self._link, None
        closed.set()
        if link is None:
            return False
        link.close()
        return True

    def _get(self, closed: threading.Event) -> Link:
        with self._dialling:
            with self._lock:
                link = self._link
            if link is not None and link.alive:
                return link
            if link is not None:
                self.drop(link)
            link = self._connect(closed)
            with self._lock:
                if not closed.is_set():
                    self._link = link
                    return link
            link.close()
            self._check(closed)
            raise AssertionError

    def _connect(self, closed: threading.Event) -> Link:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, self._attempts + 1):
            self._check(closed)
            try:
                link = self._dial()
            except ConnectionError as error:
                if attempt == self._attempts:
                    raise SSHException(error, self._hostname) from error
                logger.info("attempt %d of %d to connect: %s", attempt, self._attempts, error)
                closed.wait(pause_s)
                pause_s *= 2
            else:
                logger.info("connected to %s; shown: %s", link.target.label, link.how)
                return link
        raise AssertionError("no attempt to connect")

    def _check(self, closed: threading.Event) -> None:
        if closed.is_set():
            raise SSHException(ConnectionAbortedError("the channel was closed meanwhile"), self._hostname)


def lost(error: BaseException, link: Link) -> bool:
    """Return whether an error of paramiko's tells that a connection is lost, and not what the server answers."""
    return not link.alive or isinstance(error, paramiko.SSHException | EOFError | TimeoutError | ConnectionError)
