"""One connection to a host: the way there, the host's key, the login.

Rule of this module: nothing is said to a host about its user before the host's key is verified, and each step is
bounded in time. What another attempt may mend is raised as ``ConnectionError``, everything else as an error of
channels. What was opened on the way is closed with the link.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import attrs
import paramiko

from flowcore.plugins.api import AuthException, BadHostKeyException, SSHException
from flowcore_channel_ssh import known_hosts
from flowcore_channel_ssh.auth import Credentials, Hangup, Refused, authenticate
from flowcore_channel_ssh.known_hosts import KnownKey, Verdict
from flowcore_channel_ssh.targets import Target, parse_jump

# paramiko logs, with tracebacks, what is raised here too; whoever wants that says so. Without a handler, the standard
# library would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

#: What to do with the key of a host that is not known; one that has changed is never accepted.
UnknownHostKeys = Literal["refuse", "add", "accept"]
#: Hosts on the way, at most: a configuration may send in circles.
_MAX_JUMPS = 8
#: Seconds without an answer after which a connection is given up, besides those between two signs of life.
SILENCE_S = 30.0
#: How much of what a ProxyCommand printed is shown.
_SAID_BYTES = 2000
#: paramiko's names of what an RSA key signs with; files of known hosts say ssh-rsa.
_RSA = ("rsa-sha2-512", "rsa-sha2-256")


@attrs.frozen
class Way:
    """What leads to a host.

    Attributes:
        socket: the host's end of it speaks ssh.
        close: closes all that it goes through.
        said: returns what is known of its troubles.
    """

    socket: Any
    close: Callable[[], None] = lambda: None
    said: Callable[[], str] = lambda: ""


@attrs.define(eq=False)
class Link:
    """A connection that is logged in.

    Attributes:
        target: where to.
        transport: paramiko's.
        how: the login was done, for the log.
        way: what it goes through.
        answer_s: seconds for each answer of the host.
    """

    target: Target
    transport: Any
    how: str
    way: Way
    answer_s: float
    _sftp: Any = attrs.field(default=None, init=False)

    @property
    def alive(self) -> bool:
        """Whether it is not known to be broken."""
        return bool(self.transport.is_active())

    def session(self) -> Any:
        """Return a new session, in which nothing was started yet."""
        return self.transport.open_session(timeout=self.answer_s)

    def sftp(self) -> Any:
        """Return paramiko's client for files, which is opened with the first call."""
        if self._sftp is None or self._sftp.get_channel().closed:
            channel = self.session()
            try:
                with closed_after(self.answer_s, channel):
                    channel.invoke_subsystem("sftp")
                channel.settimeout(self.answer_s)
                self._sftp = paramiko.SFTPClient(channel)
            except paramiko.SFTPError as error:
                channel.close()
                raise SSHException(
                    OSError(
                        f"{self.target.label} does not speak SFTP ({error}): does it have the subsystem, and do "
                        "startup files of the account print nothing?"
                    ),
                    self.target.host,
                ) from error
        return self._sftp

    def close(self) -> None:
        """Close it, and what it goes through. Idempotent."""
        _close(self.transport, self.way)


@attrs.frozen
class Dialer:
    """Makes links.

    Attributes:
        credentials: to show to the last host.
        unknown_host_keys: what to do with them.
        connect_timeout_s: seconds for each answer of a host: to be reached, to exchange keys, to open a session.
        keepalive_period_s: seconds without traffic after which a sign of life is sent.
        resolve: returns what a host on the way means; gets its name, user and port.
        accepted: keys that were accepted without being known, by host; kept for all its links.
    """

    credentials: Credentials
    unknown_host_keys: UnknownHostKeys
    connect_timeout_s: float
    keepalive_period_s: float
    resolve: Callable[[str, str | None, int], Target]
    accepted: dict[str, str] = attrs.field(factory=dict)

    def dial(self, target: Target) -> Link:
        """Connect and log in.

        Raises:
            ConnectionError: the host was not reached, or hung up; another attempt may do better.
            AuthException: it did not let us in.
            BadHostKeyException: it is not the host that it should be.
            SSHException: anything else.
            ConfigurationError: a host on the way makes no sense.
        """
        return self._dial(target, self.credentials, 0)

    def _dial(self, target: Target, credentials: Credentials, depth: int) -> Link:
        way = self._way(target, credentials, depth)
        transport = paramiko.Transport(way.socket)
        try:
            self._exchange_keys(transport, target)
            how = authenticate(transport, target, credentials)
            transport.set_keepalive(self.keepalive_period_s)
        except BaseException as error:
            said = way.said()
            _close(transport, way)
            if isinstance(error, Refused):
                raise AuthException(error, target.host) from error
            if isinstance(error, Hangup):
                raise ConnectionError(f"{target.label} hung up before it had let us in: {error}") from error
            if isinstance(error, ConnectionError) and said:
                raise ConnectionError(f"{error}; {said}") from error
            raise
        return Link(target, transport, how, way, self.connect_timeout_s)

    # --- the way

    def _way(self, target: Target, credentials: Credentials, depth: int) -> Way:
        if depth > _MAX_JUMPS:
            raise SSHException(
                OSError(f"more than {_MAX_JUMPS} hosts on the way to {target.label}: look for a circle of ProxyJump"),
                target.host,
            )
        if target.jumps:
            return self._through_hosts(target, credentials, depth)
        if target.proxy_command is not None:
            return _through_command(target.proxy_command)
        return Way(self._direct(target))

    def _direct(self, target: Target) -> socket.socket:
        try:
            way = socket.create_connection((target.host, target.port), self.connect_timeout_s)
        except socket.gaierror as error:
            text = f"there is no host {target.host!r} ({error.strerror}): check the option hostname"
            if error.errno == socket.EAI_AGAIN:
                raise ConnectionError(text) from error
            raise SSHException(OSError(text), target.host) from error
        except TimeoutError as error:
            raise ConnectionError(
                f"{target.label} did not answer within {self.connect_timeout_s:g} s: is it up, and does no firewall "
                f"keep {target.host} from this host? Look whether this works: {target.command}"
            ) from error
        except OSError as error:
            raise ConnectionError(
                f"{target.label} was not reached ({error.strerror or error}): does an ssh server listen at port "
                f"{target.port}? Look whether this works: {target.command}"
            ) from error
        way.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A host that is cut off tells nobody: the kernel gives up what it did not acknowledge for so long.
            silence_s = self.keepalive_period_s + SILENCE_S
            way.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_s * 1000))
        return way

    def _through_hosts(self, target: Target, credentials: Credentials, depth: int) -> Way:
        *others, last = target.jumps
        jump = self.resolve(*parse_jump(last))
        if others:
            jump = attrs.evolve(jump, jumps=tuple(others), proxy_command=None)
        link = self._dial(jump, credentials.of_jump(), depth + 1)
        try:
            channel = link.transport.open_channel(
                "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=self.connect_timeout_s
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            link.close()
            said = error.text if isinstance(error, paramiko.ChannelException) else error
            raise ConnectionError(f"{jump.label}, on the way, did not reach {target.label}: {said}") from error
        return Way(channel, link.close)

    # --- keys

    def _exchange_keys(self, transport: Any, target: Target) -> None:
        try:
            known = known_hosts.read(target.known_hosts)
        except OSError as error:
            raise BadHostKeyException(error, target.host) from error
        options = transport.get_security_options()
        options.key_types = _preferred(options.key_types, known_hosts.kinds(known, target.key_name))
        transport.banner_timeout = transport.handshake_timeout = self.connect_timeout_s
        try:
            transport.start_client(timeout=self.connect_timeout_s)
            key = transport.get_remote_server_key()
        except paramiko.IncompatiblePeer as error:
            raise SSHException(
                OSError(f"{target.label} and paramiko {paramiko.__version__} have no method in common: {error}"),
                target.host,
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectionError(
                f"{target.label} answers, but not as an ssh server does ({reason(error)}): is {target.port} "
                f"the port of one, and is it not overloaded? Look whether this works: {target.command}"
            ) from error
        self._verify(target, known, key.get_name(), key.get_base64())

    def _verify(self, target: Target, known: list[KnownKey], kind: str, key: str) -> None:
        name = target.key_name
        verdict, line = known_hosts.judge(known, name, kind, key)
        if verdict is Verdict.UNKNOWN and self.accepted.get(name) == key:
            return
        shown = f"{target.label} shows a host key {kind} {known_hosts.fingerprint(key)}"
        if line is not None and verdict is not Verdict.KNOWN:
            raise BadHostKeyException(paramiko.SSHException(_distrust(target, verdict, line, shown)), target.host)
        if verdict is Verdict.UNKNOWN:
            if name in self.accepted:
                before = known_hosts.fingerprint(self.accepted[name])
                raise BadHostKeyException(
                    paramiko.SSHException(f"{shown}, but had {before} before: somebody may be in between"), target.host
                )
            self._unknown(target, kind, key, shown)

    def _unknown(self, target: Target, kind: str, key: str, shown: str) -> None:
        file = target.known_hosts[0]
        if self.unknown_host_keys == "refuse":
            port = "" if target.key_name == target.host else f"-p {target.port} "
            raise BadHostKeyException(
                paramiko.SSHException(
                    f"{shown}, which is not known ({' and '.join(target.known_hosts)} have no key of "
                    f"{target.key_name}). Compare it with what those say who run the host, then add it: "
                    f"ssh-keyscan {port}{target.host} >> {file}"
                ),
                target.host,
            )
        if self.unknown_host_keys == "add":
            try:
                known_hosts.add(file, target.key_name, kind, key)
            except OSError as error:
                raise BadHostKeyException(
                    OSError(error.errno, f"{shown}, which cannot be added to {file}: {error.strerror}"), target.host
                ) from error
        self.accepted[target.key_name] = key


@contextmanager
def closed_after(seconds: float, channel: Any) -> Iterator[None]:
    """Close a channel of paramiko's unless the block is done in time: some of its methods wait for ever.

    Args:
        seconds: for the block.
        channel: whose methods are called.

    Raises:
        TimeoutError: the block took longer.
    """
    late = threading.Event()

    def close() -> None:
        late.set()
        channel.close()

    timer = threading.Timer(seconds, close)
    timer.name = "flowcore-ssh-bound"
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if late.is_set():
            raise TimeoutError(f"no answer within {seconds:g} s")


def reason(error: BaseException | None) -> str:
    """Return why a connection was lost; the end of its data is all that is known of many."""
    return str(error or "") or "the host hung up, or was silent for too long"


def _through_command(command: str) -> Way:
    ours, its = socket.socketpair()
    output = tempfile.TemporaryFile()  # noqa: SIM115 - is closed with the way
    with its:
        end_of_it = its.fileno()
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=end_of_it,
            stdout=end_of_it,
            stderr=output,
            start_new_session=True,
        )

    def said() -> str:
        output.seek(0)
        text = output.read(_SAID_BYTES).decode(errors="replace").strip()
        return f"the ProxyCommand is: {command}" + (f", and said: {text}" if text else "")

    def end() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended
            pass
        process.wait()
        output.close()

    return Way(ours, end, said)


def _close(transport: Any, way: Way) -> None:
    if isinstance(way.socket, socket.socket):
        # Closing alone takes effect when paramiko's thread looks again.
        with suppress(OSError):
            way.socket.shutdown(socket.SHUT_RDWR)
    transport.close()
    # One that was not started leaves its socket open; one whose first message never came, a timer that goes on.
    way.socket.close()
    transport.packetizer.complete_handshake()
    way.close()


def _preferred(offered: tuple[str, ...], known: list[str]) -> tuple[str, ...]:
    """Return the types of host keys to ask for, those first that are known."""
    first = [kind for each in known for kind in (_RSA if each == "ssh-rsa" else (each,)) if kind in offered]
    return tuple(dict.fromkeys([*first, *offered]))


def _distrust(target: Target, verdict: Verdict, line: KnownKey, shown: str) -> str:
    where = f"{line.file} line {line.line}"
    if verdict is Verdict.REVOKED:
        return f"{shown}, which {where} has revoked: this may be somebody else who has that key. Ask who runs the host"
    return (
        f"{shown}, but {where} has {line.kind} {known_hosts.fingerprint(line.key)} for it: somebody may be in between. "
        f"Ask those who run the host; if they gave it a new key, forget the old one "
        f"(ssh-keygen -R '{target.key_name}' -f {line.file}) and add the new one"
    )
