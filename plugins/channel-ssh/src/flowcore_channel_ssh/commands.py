"""Commands of a session: what is sent, and how their end is awaited.

A session starts ``bash``, which reads a script from its standard input. So variables do not stand on a command line
that others see, and no login shell has a say in quoting. The script starts the command as a job: in a process group of
its own. A second job, the guard, waits for the end of the session's input and then kills that group. So a command is
killed by ending the session's input, and it goes with its connection.

Rule of this module: a command is started by the last byte that is sent, and by nothing before. What startup files of
the login shell print comes before the mark, and is no part of the command's output. Memory is bounded: a command that
writes more than :data:`MAX_BYTES` to a stream is killed.
"""

from __future__ import annotations

import re
import secrets
import selectors
import shlex
import time
from collections.abc import Mapping
from typing import Any

import attrs
import paramiko

from flowcore.plugins.api import ConfigurationError
from flowcore_channel_ssh.link import Link, closed_after, reason

#: Bytes that a command may write to each of its streams.
MAX_BYTES = 64 * 1024 * 1024
#: Seconds in which what children in the background hold open is still read, once the command itself has ended.
DRAIN_S = 1.0
#: Seconds for the host to kill a command.
KILL_S = 5.0
#: Seconds between two looks whether a command has ended whose streams are held open.
_LOOK_S = 0.1
_PIECE = 65536
_START = b"\0"
#: Is understood by every login shell. It ends if its input does. Startup files had their turn: without --norc, bash
#: would read them again.
_BOOT = """exec bash --norc -c 'IFS= read -r -d "" _flowcore && eval "$_flowcore"'"""
#: What bash itself says of its jobs goes nowhere: streams that are the command's alone have other numbers until then.
#: With `set -m`, jobs are process groups, and `wait` may return for one that was stopped: that is there still.
_SCRIPT = """\
set -m
exec 3<&0 4>&1 5>&2 </dev/null >/dev/null 2>&1
echo {mark} >&4; echo {mark} >&5
"$BASH" --norc -c {command} >&4 2>&5 3<&- 4>&- 5>&- &
_flowcore=$!
exec 4>&- 5>&-
{{ read -r -u 3; kill -KILL -- "-$_flowcore"; }} &
_flowcore_guard=$!
exec 3<&-
set +m
while wait "$_flowcore"; _flowcore_code=$?; kill -0 "$_flowcore"; do sleep 0.1; done
kill -KILL -- "-$_flowcore_guard"
exit "$_flowcore_code"
"""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NoBash(Exception):
    """The session ended without starting the command; its text says what it printed."""


class TooMuch(Exception):
    """The command was killed since it wrote too much; its text says to which stream."""


class Lost(Exception):
    """The connection was lost while the command ran."""


class Unkillable(Exception):
    """The command took too long, and the host does not answer that it was killed."""


@attrs.frozen
class Ended:
    """How a command ended. ``code`` is None where it was killed at its walltime."""

    code: int | None
    stdout: str
    stderr: str


@attrs.frozen
class Script:
    """What a session is sent.

    Attributes:
        text: for bash.
        mark: what it prints before the command's output, on both streams.
    """

    text: bytes
    mark: bytes


@attrs.frozen
class Session:
    """A session in which all is ready for a command.

    Attributes:
        link: its connection.
        channel: paramiko's.
        mark: of the script that was sent.
    """

    link: Link
    channel: Any
    mark: bytes

    def run(self, walltime: float | None) -> Ended:
        """Start the command and wait for its end.

        Args:
            walltime: seconds after which it is killed; None waits for ever.

        Raises:
            NoBash, TooMuch, Lost, Unkillable: as they say.
        """
        try:
            _send(self.channel, _START)
            return _Wait(self, walltime).run()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Lost(reason(error)) from error
        finally:
            # The guard kills what is left of it.
            self.channel.close()


def exports(envs: Mapping[str, str]) -> str:
    """Return the lines that set and export variables.

    Raises:
        ConfigurationError: a name or a value that none can have.
    """
    for name, value in envs.items():
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"envs={{{name!r}: ...}}: expected the name of a variable: letters, digits and _, no digit first"
            )
        if "\0" in value:
            raise ConfigurationError(f"the value of {name} in envs has a null character, which no variable can have")
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in envs.items())


def script(command: str, envs: Mapping[str, str]) -> Script:
    """Return what runs a command with some variables.

    Raises:
        ConfigurationError: as of :func:`exports`; a command with a null character.
    """
    if "\0" in command:
        raise ConfigurationError(f"a command with a null character, which bash cannot have: {command!r:.200}")
    mark = f"flowcore-{secrets.token_hex(8)}"
    text = exports(envs) + _SCRIPT.format(mark=mark, command=shlex.quote(command))
    return Script(text.encode(errors="surrogateescape"), mark.encode())


def prepare(link: Link, sent: Script) -> Session:
    """Open a session and send it a script. Nothing of that is started yet."""
    channel = link.session()
    try:
        with closed_after(link.answer_s, channel):
            channel.exec_command(_BOOT)
            _send(channel, sent.text)
    except BaseException:
        channel.close()
        raise
    return Session(link, channel, sent.mark)


def _send(channel: Any, data: bytes) -> None:
    """Send something, unless the session has ended: what it printed then will tell why."""
    try:
        channel.sendall(data)
    except OSError:
        if not channel.closed:
            raise


class _Wait:
    """Waits for the end of one command."""

    def __init__(self, session: Session, walltime: float | None) -> None:
        self._session = session
        self._channel = session.channel
        now = time.monotonic()
        self._deadline = None if walltime is None else now + walltime
        self._killed_at: float | None = None
        self._ended_at: float | None = None
        self._written = {"standard output": bytearray(), "standard error": bytearray()}

    def run(self) -> Ended:
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel.fileno(), selectors.EVENT_READ)
            while not self._over():
                if self._channel.eof_received:
                    # Its streams have nothing to wait for any more.
                    self._channel.status_event.wait(self._pause())
                else:
                    selector.select(self._pause())
                self._read()
        self._read()
        return self._outcome()

    def _over(self) -> bool:
        now = time.monotonic()
        if self._channel.exit_status_ready():
            if self._channel.eof_received or self._channel.closed:
                return True
            self._ended_at = self._ended_at or now
            return now > self._ended_at + DRAIN_S
        if self._killed_at is not None:
            if now > self._killed_at + KILL_S:
                raise Unkillable
        elif self._deadline is not None and now > self._deadline:
            self._kill()
        return False

    def _pause(self) -> float:
        if self._deadline is None or self._killed_at is not None:
            return _LOOK_S
        return min(_LOOK_S, max(self._deadline - time.monotonic(), 0.0))

    def _kill(self) -> None:
        self._killed_at = time.monotonic()
        self._channel.shutdown_write()

    def _read(self) -> None:
        reads = (
            (self._channel.recv_ready, self._channel.recv),
            (self._channel.recv_stderr_ready, self._channel.recv_stderr),
        )
        for (name, written), (ready, receive) in zip(self._written.items(), reads, strict=True):
            while ready():
                written += receive(_PIECE)
                if len(written) > MAX_BYTES:
                    raise TooMuch(name)

    def _outcome(self) -> Ended:
        code = self._channel.exit_status
        if code < 0 and not self._session.link.alive:
            raise Lost(reason(self._session.link.transport.get_exception()))
        stdout, stderr = (self._after_mark(bytes(written)) for written in self._written.values())
        if self._killed_at is not None:
            return Ended(None, stdout or "", stderr or "")
        if stdout is None or stderr is None:
            said = b" ".join(self._written.values()).decode(errors="replace").strip()
            raise NoBash(said or f"nothing, with exit code {code}")
        if code < 0:
            raise Lost("the host ended the session and gave no exit code")
        return Ended(code, stdout, stderr)

    def _after_mark(self, written: bytes) -> str | None:
        _, mark, rest = written.partition(self._session.mark + b"\n")
        return rest.decode(errors="replace") if mark else None
