"""What all channels over ssh share: the contract of channels, on a connection.

Rule of this module: a command that may have been started is never started again; the caller is told. What moves files
is done again on a new connection: it has the same effect twice as once.
"""

from __future__ import annotations

import secrets
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flowcore.plugins.api import Channel, SSHException
from flowcore_channel_ssh import commands
from flowcore_channel_ssh.auth import Credentials
from flowcore_channel_ssh.connection import Connection
from flowcore_channel_ssh.files import Files
from flowcore_channel_ssh.link import Dialer, Link, UnknownHostKeys
from flowcore_channel_ssh.targets import Target, read_config, resolve

T = TypeVar("T")
#: How much of a command an error shows.
_SHOWN = 500


class RemoteChannel(Channel):
    """A channel over ssh. Subclasses are components that have at least these options."""

    hostname: str
    username: str | None
    script_dir: str | None
    envs: Mapping[str, str] | None
    port: int
    host_keys_filename: str | None
    unknown_host_keys: UnknownHostKeys
    ssh_config_filename: str | None
    connect_timeout_s: float
    connect_attempts: int
    keepalive_period_s: float

    def __attrs_post_init__(self) -> None:
        commands.exports(self.envs or {})
        self._accepted: dict[str, str] = {}
        self._token = secrets.token_hex(4)
        self._connection = Connection(self._dial, self.connect_attempts, self.hostname)
        #: paramiko's client for files has one user at a time.
        self._one_at_a_time = threading.Lock()

    @abstractmethod
    def _credentials(self) -> Credentials:
        """Return what to show to the host; called for each attempt to log in."""

    # --- the contract

    def connect(self) -> None:
        """Connect and log in now, rather than at the first use, so that failures and questions come now.

        Raises:
            AuthException: the host did not let us in.
            BadHostKeyException: it is not the host that it should be.
            SSHException: it was not reached.
        """
        self._connection.run(lambda link: None)

    def execute_wait(
        self, cmd: str, walltime: float | None = None, envs: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run the command with bash, in the user's home; see the contract.

        Raises:
            SSHException: the connection failed, and the text says whether the command may have been run; or its output
                is larger than memory should hold.
        """
        script = commands.script(cmd, {**(self.envs or {}), **(envs or {})})
        session = self._connection.run(lambda link: commands.prepare(link, script))
        shown = cmd if len(cmd) <= _SHOWN else f"{cmd[:_SHOWN]}..."
        where = session.link.target.label
        try:
            ended = session.run(walltime)
        except commands.Lost as error:
            if not session.link.alive:
                self._connection.drop(session.link)
            raise self._failed(
                f"the connection to {where} was lost ({error}) while a command ran. It is not run again, since it may "
                f"have had its effect; what is left of it is killed: {shown}"
            ) from error
        except commands.Unkillable as error:
            self._connection.drop(session.link)
            raise self._failed(
                f"{where} does not answer. A command was to be killed after {walltime:g} s, and will be when the host "
                f"notices that the connection is gone: {shown}"
            ) from error
        except commands.TooMuch as error:
            raise self._failed(
                f"a command was killed that wrote more than {commands.MAX_BYTES >> 20} MiB to its {error}: let it "
                f"write to a file, and fetch that with pull_file: {shown}"
            ) from error
        except commands.NoBash as error:
            raise self._failed(
                f"{where} started no bash for a command. It needs one, and an account that may run commands; what it "
                f"said: {error}"
            ) from error
        if ended.code is None:
            assert walltime is not None
            return -1, ended.stdout, ended.stderr + self.killed_message(cmd, walltime)
        return ended.code, ended.stdout, ended.stderr

    def prepend_envs(self, cmd: str, env: Mapping[str, str] | None = None) -> str:
        """Return a command line that sets and exports variables first: the channel's, and those given.

        Raises:
            ConfigurationError: a name or a value that no variable can have.
        """
        return commands.exports({**(self.envs or {}), **(env or {})}) + cmd

    def push_file(self, source: str, dest_dir: str) -> str:
        """Copy a file of this host into a folder of the other, which is made if need be; see the contract.

        Raises:
            BadScriptPath: the folder cannot be.
            SSHException: the connection failed.
        """
        return self._files(lambda files: files.push(source, dest_dir))

    def pull_file(self, remote_source: str, local_dir: str) -> str:
        """Copy a file of the other host into a folder where none of its name is; see the contract.

        Raises:
            SSHException: the connection failed.
        """
        return self._files(lambda files: files.pull(remote_source, local_dir))

    def makedirs(self, path: str, mode: int = 0o700, exist_ok: bool = False) -> None:
        """Make a folder and its parents; see the contract.

        Raises:
            SSHException: the connection failed.
        """
        missing = self._files(lambda files: files.missing(path, exist_ok))
        # Done twice, it would find its own work.
        self._files(lambda files: files.make(missing, mode), again=False)

    def isdir(self, path: str) -> bool:
        """Return whether the folder exists."""
        return self._files(lambda files: files.is_folder(path))

    def abspath(self, path: str) -> str:
        """Return the absolute path; a relative one is in the user's home."""
        return self._files(lambda files: files.absolute(path))

    def close(self) -> bool:
        """Close the connection, from any thread; a command that runs is killed, and fails here.

        The channel can be used again: it connects anew.
        """
        return self._connection.close()

    # --- parts

    def _dial(self) -> Link:
        config = read_config(self.ssh_config_filename)

        def of_jump(name: str, user: str | None, port: int) -> Target:
            return resolve(name, config, user, port, self.host_keys_filename)

        dialer = Dialer(
            credentials=self._credentials(),
            unknown_host_keys=self.unknown_host_keys,
            connect_timeout_s=self.connect_timeout_s,
            keepalive_period_s=self.keepalive_period_s,
            resolve=of_jump,
            accepted=self._accepted,
        )
        return dialer.dial(of_jump(self.hostname, self.username, self.port))

    def _files(self, work: Callable[[Files], T], again: bool = True) -> T:
        with self._one_at_a_time:
            return self._connection.run(lambda link: work(Files(link, self._token)), again)

    def _failed(self, text: str) -> SSHException:
        return SSHException(OSError(text), self.hostname)


def host_name(instance: Any, attribute: Any, value: str) -> None:
    """Check an option that names a host or a user: neither has blanks, and none begins as an option does."""
    if value is not None and (not value or value.startswith("-") or any(c.isspace() for c in value)):
        raise ValueError(f"{attribute.name}={value!r}: expected a name without blanks")
