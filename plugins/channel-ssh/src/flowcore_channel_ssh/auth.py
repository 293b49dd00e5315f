"""Proving to a server who one is.

Rule of this module: the server says what it takes, and only that is tried, each thing once, in this order: GSSAPI, keys
(those of the options, of the configuration or the default ones, of the agent), a password, answers to its questions.
What the server takes after a first factor is tried in the same way. A failure tells all that was tried; no secret gets
into a text.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import paramiko

from flowcore.plugins.api import OptionalModuleMissing
from flowcore_channel_ssh import known_hosts
from flowcore_channel_ssh.targets import Target
from flowcore_channel_ssh.terminal import NoAnswer

#: Files of private keys that are tried where neither options nor the configuration name any.
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
#: Seconds for a server's answer, where nobody is asked.
AUTH_S = 30.0

#: Asks a user: gets what is to be said before a prompt, the prompt, and whether to show the answer, which it returns.
#: Raises NoAnswer.
Ask = Callable[[str, str, bool], str]
#: What to call one thing that can be shown, and what shows it; that returns what is taken then.
_Step = tuple[str, Callable[[], Sequence[str]]]
#: What paramiko's methods raise.
_FAILURES = (paramiko.SSHException, EOFError, OSError)


#: Methods that show what a person knows. What a server does not like of that is not shown again: accounts get locked.
_SECRETS = ("password", "keyboard-interactive")


class Refused(Exception):
    """The server let nobody in; its text says what was tried."""


class Hangup(Exception):
    """The connection was lost before the server had said no to anything, or was shown a secret."""


@attrs.frozen
class Credentials:
    """What somebody can show.

    Attributes:
        keys: files of private keys of the options; None: no keys at all, wherever they are.
        passphrase: decrypts files of keys.
        password: for a server that takes one, or asks for one.
        ask: puts a server's questions to the user; None: nobody is there.
        gssapi: use the ticket of Kerberos.
        nothing: show nothing: the server is to let in whoever comes.
        timeout_s: seconds for each answer of the server.
    """

    keys: tuple[str, ...] | None = ()
    passphrase: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    ask: Ask | None = None
    gssapi: bool = False
    nothing: bool = False
    timeout_s: float = AUTH_S

    def of_jump(self) -> Credentials:
        """Return what to show to a host on the way: what is meant for the last one stays with that."""
        return attrs.evolve(self, keys=(), password=None, nothing=False)


def need_gssapi() -> None:
    """Check that GSSAPI can be used.

    Raises:
        OptionalModuleMissing: a library for it is not there.
    """
    missing = [] if importlib.util.find_spec("gssapi") else ["gssapi"]
    if not hasattr(paramiko.Transport, "auth_gssapi_with_mic"):
        missing.append("paramiko before version 5")
    if missing:
        raise OptionalModuleMissing(
            missing,
            f"gssapi_auth=True needs the module gssapi and a paramiko that still has GSSAPI (here: "
            f"{paramiko.__version__}): pip install 'flowcore-channel-ssh[gssapi]'",
        )


def authenticate(transport: Any, target: Target, credentials: Credentials) -> str:
    """Log in; return how that was done, for the log.

    Args:
        transport: paramiko's, with keys exchanged and the host's key verified.
        target: where to.
        credentials: to show.

    Raises:
        Refused: the server did not let us in.
        Hangup: the connection was lost, and another one may do better.
    """
    return _Login(transport, target, credentials).run()


class _Login:
    def __init__(self, transport: Any, target: Target, credentials: Credentials) -> None:
        self._transport = transport
        self._target = target
        self._shown = credentials
        #: Until it was shown: a password that was refused is not shown again.
        self._password = credentials.password
        self._tried: list[str] = []
        self._refused = False
        self._agent: Any = None

    def run(self) -> str:
        self._transport.auth_timeout = self._shown.timeout_s
        passed: list[str] = []
        steps = self._steps()
        try:
            takes = self._takes()
            while not self._transport.is_authenticated():
                method, (what, step) = next(
                    ((m, s) for m, each in steps.items() if m in takes for s in each), ("", ("", None))
                )
                if step is None:
                    raise Refused(self._no(takes))
                after = self._try(what, step, secret=method in _SECRETS)
                if after is not None:
                    passed.append(what)
                    takes = after
        finally:
            if self._agent is not None:
                self._agent.close()
        return ", then ".join(passed) or "nothing was asked"

    def _takes(self) -> Sequence[str]:
        """Return what the server takes at first."""
        try:
            self._transport.auth_none(self._target.user)
        except paramiko.BadAuthenticationType as error:
            return tuple(error.allowed_types)
        except _FAILURES as error:
            raise Hangup(_said(error)) from error
        return ()

    def _try(self, what: str, step: Callable[[], Sequence[str]], secret: bool) -> Sequence[str] | None:
        """Return what is taken after a step that was accepted; None if it was not."""
        try:
            return step()
        except NoAnswer as error:
            self._tried.append(f"{what}: {error}")
        except _FAILURES as error:
            self._tried.append(f"{what}: {_said(error)}")
            if not self._transport.is_active():
                if self._refused or secret:
                    raise Refused(self._no(()) + ". Then it closed the connection") from error
                raise Hangup(_said(error)) from error
        self._refused = True
        return None

    def _steps(self) -> dict[str, Iterator[_Step]]:
        """Return what can be tried, by the method of the protocol; each is made when its turn has come."""
        if self._shown.nothing:
            return {}
        return {
            "gssapi-with-mic": self._gssapi(),
            "publickey": self._keys(),
            "password": self._passwords(),
            "keyboard-interactive": self._questions(),
        }

    def _gssapi(self) -> Iterator[_Step]:
        if self._shown.gssapi:
            user, host = self._target.user, self._target.host
            yield "GSSAPI", lambda: self._transport.auth_gssapi_with_mic(user, host, False)

    def _passwords(self) -> Iterator[_Step]:
        if self._password is not None:
            password, self._password = self._password, None
            user = self._target.user
            yield "the password", lambda: self._transport.auth_password(user, password, fallback=False)

    def _questions(self) -> Iterator[_Step]:
        if self._shown.ask is not None or self._password is not None:
            yield "answers to its questions", self._answer

    def _answer(self) -> Sequence[str]:
        failed: list[NoAnswer] = []

        def handle(title: str, instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
            # Runs on paramiko's thread, where an exception would end the connection without a word.
            try:
                text = "\n".join(part.strip() for part in (title, instructions) if part.strip())
                return [] if failed else [self._answer_to(text, prompt, echo) for prompt, echo in prompts]
            except NoAnswer as error:
                failed.append(error)
                return [""] * len(prompts)

        try:
            after: Sequence[str] = self._transport.auth_interactive(self._target.user, handle)
        except _FAILURES:
            if failed:
                raise failed[0] from None
            raise
        return after

    def _answer_to(self, text: str, prompt: str, echo: bool) -> str:
        ask = self._shown.ask
        if self._password is not None and not echo and (ask is None or "password" in prompt.lower()):
            password, self._password = self._password, None
            return password
        if ask is None:
            raise NoAnswer(f"it asks {prompt.strip()!r}, and there is nobody to answer")
        return ask(f"{self._target.label}: {text}\n" if text else f"{self._target.label}: ", prompt, echo)

    def _keys(self) -> Iterator[_Step]:
        """Return the keys to try: those of files first, as ssh does with -i."""
        if self._shown.keys is None:
            return
        shown = set()
        explicit, configured = self._shown.keys, self._target.identities
        for file in dict.fromkeys([*explicit, *(configured or (() if explicit else DEFAULT_KEYS))]):
            path = str(Path(file).expanduser())
            wanted = file in explicit or file in configured
            try:
                key = load_key(path, self._shown.passphrase)
            except FileNotFoundError:
                if wanted:
                    self._tried.append(f"key {path}: there is no such file")
                continue
            except (OSError, ValueError) as error:
                self._tried.append(f"key {path}: {error}")
                continue
            shown.add(key.get_base64())
            yield self._key(f"key {path}", key)
        if not self._target.identities_only:
            for key in self._agent_keys():
                if key.get_base64() not in shown:
                    yield self._key("key of the agent", key)

    def _key(self, name: str, key: Any) -> _Step:
        what = f"{name} ({known_hosts.fingerprint(key.get_base64())})"
        return what, lambda: self._transport.auth_publickey(self._target.user, key)

    def _agent_keys(self) -> Sequence[Any]:
        path = os.environ.get("SSH_AUTH_SOCK")
        if not path:
            return ()
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)  # paramiko says nothing of one that is gone, and leaves a socket open
            self._agent = paramiko.Agent()
            return tuple(self._agent.get_keys())
        except _FAILURES as error:
            self._tried.append(f"the agent at {path}: {_said(error)}")
            return ()

    def _no(self, takes: Sequence[str]) -> str:
        text = f"{self._target.label} did not let us in"
        if takes:
            text += f"; it takes: {', '.join(takes)}"
        if self._shown.nothing:
            return f"{text}; skip_auth=True shows it nothing: leave that out"
        text += f"; tried: {'; '.join(self._tried)}" if self._tried else "; there was nothing of that to try"
        return f"{text}. {self._advice(takes)}, and look whether this works: {self._target.command}"

    def _advice(self, takes: Sequence[str]) -> str:
        shown, advice = self._shown, []
        if "publickey" in takes and any(t.startswith("key ") and t.endswith(": refused") for t in self._tried):
            advice.append("have the key accepted there, in ~/.ssh/authorized_keys")
        elif "publickey" in takes and shown.keys is not None:
            advice.append("name a key with key_filename=, or have it in the agent")
        if shown.password is None and {"password", "keyboard-interactive"} & set(takes):
            advice.append("give password=")
        if shown.ask is None and "keyboard-interactive" in takes:
            advice.append("use SSHInteractiveLoginChannel, which puts the server's questions to you")
        text = "; or ".join(advice) or "check the user and what is shown"
        return text[0].upper() + text[1:]


def load_key(path: str, passphrase: str | None) -> Any:
    """Return the private key of a file, with the certificate that may be beside it.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be used; says why.
    """
    # A passphrase is shown to encrypted files only: others take offence at one.
    for secret in dict.fromkeys((None, passphrase)):
        try:
            return paramiko.PKey.from_path(path, None if secret is None else secret.encode())
        except OSError:
            raise
        except Exception as error:  # of several libraries, and different in each of their versions
            if secret is not None:
                raise ValueError("it is encrypted, and with another passphrase") from error
            if not _encrypted(error):
                raise ValueError(f"it is no private key that can be used ({_said(error)})") from error
    raise ValueError(f"it is encrypted: give passphrase=, or have it in the agent: ssh-add {path}")


def _encrypted(error: BaseException) -> bool:
    return isinstance(error, paramiko.PasswordRequiredException | TypeError)


def _said(error: BaseException) -> str:
    """Return what an exception says, for users."""
    if isinstance(error, paramiko.BadAuthenticationType):
        return "it takes no such thing"
    if type(error) is paramiko.AuthenticationException and str(error) == "Authentication failed.":
        return "refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__
