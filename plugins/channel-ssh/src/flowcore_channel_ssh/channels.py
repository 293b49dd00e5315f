"""The channels of this distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from flowcore.plugins.api import at_least, component
from flowcore_channel_ssh import tokens
from flowcore_channel_ssh.auth import AUTH_S, Credentials, need_gssapi
from flowcore_channel_ssh.link import UnknownHostKeys
from flowcore_channel_ssh.remote import RemoteChannel, host_name
from flowcore_channel_ssh.targets import SSH_PORT
from flowcore_channel_ssh.terminal import NoAnswer, ask

SSH_CONFIG = "~/.ssh/config"


@component
class SSHChannel(RemoteChannel):
    """Runs commands on another host, over ssh.

    It shows, as far as the host takes them: the keys of ``key_filename`` or those that ssh would try, those of the
    agent, and the password.

    Attributes:
        hostname: the host, or its alias in the user's ssh configuration.
        username: to log in as; None for the configuration's, or this process's user.
        password: for a host that takes one; also decrypts keys, without ``passphrase``.
        script_dir: folder for scripts on the host; may begin with ``~``.
        envs: environment variables to add to each command's.
        gssapi_auth: show the ticket of Kerberos; needs an older paramiko and a further library.
        skip_auth: show nothing: the host lets in whoever comes.
        port: of the ssh server; another one than 22 wins over the configuration's.
        key_filename: file, or files, of private keys.
        host_keys_filename: the only file of known hosts; None for the user's and the system's.
        passphrase: decrypts the files of keys.
        unknown_host_keys: what to do with the key of a host that is not known: ``refuse`` it, ``add`` it to the file of
            known hosts, or ``accept`` it as long as the channel is there. A key that has changed is always refused.
        ssh_config_filename: the user's ssh configuration; None for none.
        connect_timeout_s: seconds for each step of connecting, and for the host to open a session.
        connect_attempts: attempts to reach the host, at most.
        keepalive_period_s: seconds without traffic after which a sign of life is sent.
    """

    hostname: str = attrs.field(validator=host_name)
    username: str | None = attrs.field(default=None, validator=host_name)
    password: str | None = attrs.field(default=None, repr=False)
    script_dir: str | None = None
    envs: Mapping[str, str] | None = None
    gssapi_auth: bool = False
    skip_auth: bool = False
    port: int = SSH_PORT
    key_filename: str | Sequence[str] | None = None
    host_keys_filename: str | None = None
    passphrase: str | None = attrs.field(default=None, repr=False)
    unknown_host_keys: UnknownHostKeys = "refuse"
    ssh_config_filename: str | None = SSH_CONFIG
    connect_timeout_s: float = attrs.field(default=15.0, validator=at_least(0.1))
    connect_attempts: int = attrs.field(default=3, validator=at_least(1))
    keepalive_period_s: float = attrs.field(default=15.0, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        if self.gssapi_auth:
            need_gssapi()
        super().__attrs_post_init__()

    def _credentials(self) -> Credentials:
        return Credentials(
            keys=_files(self.key_filename),
            passphrase=self.password if self.passphrase is None else self.passphrase,
            password=self.password,
            gssapi=self.gssapi_auth,
            nothing=self.skip_auth,
        )


@component
class SSHInteractiveLoginChannel(RemoteChannel):
    """Like SSHChannel, and puts what the host asks to the user: a password, a code of a second factor.

    The questions come at the terminal, when the channel connects: at its first use, or when :meth:`connect` is called.

    Attributes:
        hostname: the host, or its alias in the user's ssh configuration.
        username: to log in as; None for the configuration's, or this process's user.
        password: answers the first question for one.
        script_dir: folder for scripts on the host; may begin with ``~``.
        envs: environment variables to add to each command's.
        port: of the ssh server; another one than 22 wins over the configuration's.
        key_filename: file, or files, of private keys.
        host_keys_filename: the only file of known hosts; None for the user's and the system's.
        passphrase: decrypts the files of keys.
        prompt: asks instead of the terminal; is called with a text and whether the answer may be seen, and returns the
            answer.
        prompt_timeout_s: seconds to wait for an answer.
        unknown_host_keys: as of SSHChannel.
        ssh_config_filename: the user's ssh configuration; None for none.
        connect_timeout_s: seconds for each step of connecting, and for the host to open a session.
        connect_attempts: attempts to reach the host, at most.
        keepalive_period_s: seconds without traffic after which a sign of life is sent.
    """

    hostname: str = attrs.field(validator=host_name)
    username: str | None = attrs.field(default=None, validator=host_name)
    password: str | None = attrs.field(default=None, repr=False)
    script_dir: str | None = None
    envs: Mapping[str, str] | None = None
    port: int = SSH_PORT
    key_filename: str | Sequence[str] | None = None
    host_keys_filename: str | None = None
    passphrase: str | None = attrs.field(default=None, repr=False)
    prompt: Callable[[str, bool], str] | None = None
    prompt_timeout_s: float = attrs.field(default=110.0, validator=at_least(1))
    unknown_host_keys: UnknownHostKeys = "refuse"
    ssh_config_filename: str | None = SSH_CONFIG
    connect_timeout_s: float = attrs.field(default=15.0, validator=at_least(0.1))
    connect_attempts: int = attrs.field(default=3, validator=at_least(1))
    keepalive_period_s: float = attrs.field(default=15.0, validator=at_least(1))

    def _credentials(self) -> Credentials:
        return Credentials(
            keys=_files(self.key_filename),
            passphrase=self.password if self.passphrase is None else self.passphrase,
            password=self.password,
            ask=self._ask,
            # A server that waits for the user does not answer.
            timeout_s=AUTH_S + self.prompt_timeout_s,
        )

    def _ask(self, text: str, prompt: str, echo: bool) -> str:
        if self.prompt is None:
            return ask(text + prompt, echo, self.prompt_timeout_s)
        try:
            return self.prompt(text + prompt, echo)
        except Exception as error:
            raise NoAnswer(f"prompt failed with {type(error).__name__}: {error}") from error


@component
class OAuthSSHChannel(RemoteChannel):
    """Like SSHChannel, to a host whose logins take OAuth tokens of Globus: the server's side of oauth-ssh.

    Attributes:
        hostname: the host, by its full name.
        username: to log in as; None for the configuration's, or this process's user.
        script_dir: folder for scripts on the host; may begin with ``~``.
        envs: environment variables to add to each command's.
        port: of the ssh server; another one than 22 wins over the configuration's.
        host_keys_filename: the only file of known hosts; None for the user's and the system's.
        token: the access token, or what returns one; None: that of the environment variable
            ``FLOWCORE_OAUTH_SSH_TOKEN``, or the one that the package oauth-ssh keeps for the host.
        unknown_host_keys: as of SSHChannel.
        ssh_config_filename: the user's ssh configuration; None for none.
        connect_timeout_s: seconds for each step of connecting, and for the host to open a session.
        connect_attempts: attempts to reach the host, at most.
        keepalive_period_s: seconds without traffic after which a sign of life is sent.
    """

    hostname: str = attrs.field(validator=host_name)
    username: str | None = attrs.field(default=None, validator=host_name)
    script_dir: str | None = None
    envs: Mapping[str, str] | None = None
    port: int = SSH_PORT
    host_keys_filename: str | None = None
    token: str | Callable[[], str] | None = attrs.field(default=None, repr=False)
    unknown_host_keys: UnknownHostKeys = "refuse"
    ssh_config_filename: str | None = SSH_CONFIG
    connect_timeout_s: float = attrs.field(default=15.0, validator=at_least(0.1))
    connect_attempts: int = attrs.field(default=3, validator=at_least(1))
    keepalive_period_s: float = attrs.field(default=15.0, validator=at_least(1))

    def _credentials(self) -> Credentials:
        return Credentials(keys=None, password=tokens.find(self.hostname, self.token))


def _files(named: str | Sequence[str] | None) -> tuple[str, ...]:
    if named is None:
        return ()
    return (named,) if isinstance(named, str) else tuple(named)
