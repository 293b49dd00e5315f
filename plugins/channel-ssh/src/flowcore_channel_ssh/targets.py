"""What is to be connected to: an option ``hostname``, and what the user's ssh configuration says of it.

Rule of this module: options win over the configuration, as options of ssh do. Of the configuration, these count:
HostName, Port, User, IdentityFile, IdentitiesOnly, HostKeyAlias, UserKnownHostsFile, GlobalKnownHostsFile, ProxyJump,
ProxyCommand, and Host, Match and Include around them. Nothing in it loosens what is demanded of host keys.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import paramiko

from flowcore.plugins.api import ConfigurationError

SSH_PORT = 22
#: As OpenSSH has it.
_MAX_INCLUDES = 16
_KEYWORD = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)")
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:@]+)(?::(?P<port>\d+))?/?")


@attrs.frozen
class Target:
    """One host to log in to.

    Attributes:
        name: as the user wrote it.
        host: name or address to connect to.
        port: likewise.
        user: to log in as.
        key_name: by which files of known hosts have it.
        known_hosts: those files; new keys go to the first.
        identities: files of private keys that the configuration names.
        identities_only: try no other keys than these.
        proxy_command: shell command whose streams lead to the host; None: there is none.
        jumps: hosts to go through, the first first.
    """

    name: str
    host: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[str, ...]
    identities: tuple[str, ...] = ()
    identities_only: bool = False
    proxy_command: str | None = None
    jumps: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``user@host:port``, for messages."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def command(self) -> str:
        """What reaches it in a terminal, for messages."""
        port = "" if self.port == SSH_PORT else f"-p {self.port} "
        return f"ssh {port}{self.user}@{self.host}"


def read_config(filename: str | None) -> str:
    """Return the text of an ssh configuration, with those that it includes in their places.

    Args:
        filename: None, or a file that need not exist: there is none.

    Raises:
        ConfigurationError: it is there and cannot be read.
    """
    if filename is None:
        return ""
    path = Path(filename).expanduser()
    return "\n".join(_lines(path, 0)) if path.exists() else ""


def resolve(
    name: str,
    config: str,
    user: str | None = None,
    port: int = SSH_PORT,
    known_hosts: str | None = None,
) -> Target:
    """Return what an option ``hostname`` means.

    Args:
        name: a host's name or address, or an alias of the configuration.
        config: text of the ssh configuration.
        user: wins over the configuration's, and that over this process's user.
        port: likewise, if it is not 22.
        known_hosts: the only file of known hosts; None for the user's and the system's.

    Raises:
        ConfigurationError: the configuration makes no sense.
    """
    # Of each keyword the first value counts: options are put before all others.
    options = ["Host *", f"Port {port}"] if port != SSH_PORT else ["Host *"]
    if user is not None:
        options.append(f"User {user}")
    try:
        found = paramiko.SSHConfig.from_text("\n".join([*options, config])).lookup(name)
        port = int(found.get("port", SSH_PORT))
    except (paramiko.SSHException, ValueError, KeyError, IndexError) as error:
        raise ConfigurationError(
            f"the ssh configuration makes no sense for {name}: {error}; try: ssh -G {name}"
        ) from error
    host = found.get("hostname", name)
    own = found.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    system = found.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts")
    files = [known_hosts] if known_hosts is not None else [*own.split(), *system.split()]
    jumps = found.get("proxyjump") or "none"
    return Target(
        name=name,
        host=host,
        port=port,
        user=found.get("user") or getpass.getuser(),
        key_name=found.get("hostkeyalias") or (host if port == SSH_PORT else f"[{host}]:{port}"),
        known_hosts=tuple(str(Path(file).expanduser()) for file in files),
        identities=tuple(str(Path(file).expanduser()) for file in found.get("identityfile", ())),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        proxy_command=found.get("proxycommand"),
        jumps=() if jumps.lower() == "none" else tuple(jump.strip() for jump in jumps.split(",")),
    )


def parse_jump(jump: str) -> tuple[str, str | None, int]:
    """Return the host, user and port of one entry of ProxyJump, ``[user@]host[:port]``.

    Raises:
        ConfigurationError: it is none.
    """
    match = _JUMP.fullmatch(jump)
    if match is None:
        raise ConfigurationError(f"ProxyJump {jump}: expected [user@]host[:port]")
    return match["host"].strip("[]"), match["user"], int(match["port"] or SSH_PORT)


def _lines(path: Path, depth: int) -> Iterator[str]:
    if depth > _MAX_INCLUDES:
        raise ConfigurationError(f"{path}: files that include each other more than {_MAX_INCLUDES} deep")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"the ssh configuration {path} cannot be read: {error}") from error
    section = "Host *"
    for line in text.splitlines():
        match = _KEYWORD.fullmatch(line)
        keyword = match[1].lower() if match else ""
        if match and keyword == "include":
            for included in _included(match[2].split()):
                yield from _lines(included, depth + 1)
            # What follows belongs to the section around the Include, and not to one of the file.
            yield section
        else:
            if keyword in ("host", "match"):
                section = line
            yield line


def _included(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        path = Path.home() / ".ssh" / Path(pattern.strip('"')).expanduser()
        yield from sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
