"""Real OpenSSH servers for tests: one for each way to authenticate, or one in each pretend host.

::

    with SSHServers("key", "password") as servers:
        server = servers["password"]
        connect(server.address, server.port, servers.user, servers.password, servers.known_hosts)
        server.drop_connections()
        server.change_host_key()
        server.stop()
        server.start()

    with Hosts(2) as hosts, SSHServers(hosts=hosts) as servers:
        connect(servers[hosts[0].name].address, 22, "root", servers.key, servers.known_hosts)

Every server lets in the user ``servers.user``, who is nobody on this machine otherwise, and root; both have the same
keys, the user has the password.

Rule of this module: all that is made goes in every case, and nothing of this machine changes (``/run/sshd``, which sshd
wants, may come to be). The user is in files that only the servers see, in namespaces of mounts. All files are in one
temporary folder, the user's home too. A small process, the keeper, waits for the end of its stdin, then kills the
servers and what runs through them, and removes the folder: :meth:`SSHServers.close` lets it go, and so does the end of
the process that made the servers, whatever its reason.

The servers are nobody's children and do not have a test's mark in their environment (see
:mod:`flowcore.testing.leftovers`), so that a test may stop and start those that it shares with others;
:meth:`SSHServers.processes` tells what runs through them.

It needs Linux, root, and Debian's packages openssh-server and openssh-client (other systems' will do).
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from flowcore.testing import processes
from flowcore.testing.hosts import Host, Hosts
from flowcore.testing.waiting import eventually

#: What the sshd_config of a server says of authentication, by the server's name.
AUTHENTICATIONS = {
    "key": "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no",
    "password": "UsePAM no\nPubkeyAuthentication no\nKbdInteractiveAuthentication no",
    "interactive": "UsePAM yes\nPubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication yes",
    "two-factor": "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes\n"
    "AuthenticationMethods publickey,keyboard-interactive",
    # Here the user has an empty password, which needs not be asked for.
    "none": "UsePAM no\nPubkeyAuthentication no\nKbdInteractiveAuthentication no\nPermitEmptyPasswords yes",
}
#: Of the servers of pretend hosts: a key or the password.
_ON_HOSTS = "UsePAM no\nKbdInteractiveAuthentication no"
_CONFIGURATION = """\
ListenAddress {address}
Port {port}
HostKey {folder}/{name}.ed25519
HostKey {folder}/{name}.ecdsa
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv {mark}={folder}
Subsystem sftp internal-sftp
{authentication}
"""
_PAM = """\
auth required pam_unix.so nodelay nullok
account required pam_permit.so
session required pam_permit.so
"""
_START = """\
mkdir -p /run/sshd
mount --bind "$0/passwd" /etc/passwd
mount --bind "$1" /etc/shadow
mount --bind "$0/pam" /etc/pam.d/sshd
exec "$2" -f "$3" -E "$4"
"""
_CRYPT = "chomp(my $p = <STDIN>); print crypt($p, $ARGV[0])"
_KEEP = "import sys; from flowcore.testing import sshd; sshd._keep(sys.argv[1])"
#: In the environment of what runs through servers: their folder.
_MARK = "FLOWCORE_TESTING_SSHD"
#: Above those of people, below those of systemd's dynamic users.
_FIRST_UID = 58700
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: Seconds for one command; for servers to be there or gone.
_BOUND_S = 20.0


def missing() -> str:
    """Return why this machine cannot have such servers; empty if it can."""
    absent = [p for p in ("sshd", "ssh", "ssh-keygen", "perl", "unshare", "mount") if _which(p) is None]
    if absent:
        return f"{', '.join(absent)} not found: install openssh-server, openssh-client, perl and util-linux"
    if os.geteuid() != 0:
        return "only root can start servers that let in others"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else ""


def require() -> None:
    """Skip the test that calls this where there can be no such servers; fail it there with ``CI=true``."""
    from flowcore.testing import servers

    reason = missing()
    if reason:
        servers.unavailable(f"no ssh servers: {reason}")


class SSHServer:
    """One server.

    Attributes:
        name: by which its set has it.
        address: IPv4 address that it listens at.
        port: its port.
    """

    def __init__(self, name: str, folder: Path, address: str, port: int, host: Host | None) -> None:
        self.name = name
        self.address = address
        self.port = port
        self._folder = folder
        self._host = host

    def __repr__(self) -> str:
        return f"SSHServer({self.name!r}, {self.address!r}, {self.port})"

    @property
    def host_key_name(self) -> str:
        """How a file of known hosts names it."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    @property
    def log(self) -> str:
        """What it wrote to its log."""
        return self._file("log").read_text(errors="replace")

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Return the fingerprint of its host key of a kind, as ``SHA256:...``.

        Args:
            kind: ed25519 or ecdsa.
        """
        return _output("ssh-keygen", "-l", "-f", str(self._file(kind))).split()[1]

    def connections(self) -> list[processes.Process]:
        """Return its processes that serve connections, two for each."""
        everyone = processes.everyone()
        of_it = [p for each in self._listeners(everyone) for p in processes.descendants(each.pid, everyone)]
        return [p for p in of_it if p.command.startswith("sshd: ")]

    # --- faults

    def stop(self) -> None:
        """End it, and its connections. What runs through these is not touched."""
        listeners = self._listeners(processes.everyone())
        ended = [*listeners, *self.connections()]
        processes.kill(listeners)
        processes.kill(ended)
        eventually(lambda: all(processes.gone(p.pid) for p in ended), _BOUND_S, f"the end of {self}")

    def start(self) -> None:
        """Start it after it was stopped, and wait until it listens."""
        shadow = self._folder / ("shadow-empty" if self.name == "none" else "shadow")
        command = ["unshare", "--mount", "sh", "-e", "-c", _START, str(self._folder), str(shadow)]
        command += [_which("sshd") or "", str(self._file("conf")), str(self._file("log"))]
        done = subprocess.run(
            self._host.command(*command) if self._host else command,
            # Not that of the test: what bears its mark is a leftover of it.
            env={"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BOUND_S,
        )
        if done.returncode:
            raise RuntimeError(f"{self} does not start: {done.stdout.strip()}")
        eventually(self._listens, _BOUND_S, f"{self}")

    def drop_connections(self) -> None:
        """Kill the processes that serve its connections, as one does who reboots a firewall. It goes on listening."""
        ended = self.connections()
        processes.kill(ended)
        eventually(lambda: all(processes.gone(p.pid) for p in ended), _BOUND_S, f"the end of connections of {self}")

    def change_host_key(self) -> None:
        """Give it new host keys, which nobody knows. Connections are ended."""
        self.stop()
        self._make_host_keys()
        self.start()

    # --- parts

    def _listeners(self, everyone: list[processes.Process]) -> list[processes.Process]:
        return _listeners(self._folder, everyone, f"{self.name}.conf")

    def _file(self, ending: str) -> Path:
        return self._folder / f"{self.name}.{ending}"

    def _make(self, authentication: str) -> None:
        self._make_host_keys()
        text = _CONFIGURATION.format(
            address=self.address,
            port=self.port,
            folder=self._folder,
            name=self.name,
            mark=_MARK,
            authentication=authentication,
        )
        self._file("conf").write_text(text, encoding="ascii")
        names = self.host_key_name + (f",{self._host.name}" if self._host else "")
        with (self._folder / "known_hosts").open("a", encoding="ascii") as file:
            for kind in ("ed25519", "ecdsa"):
                key = self._file(f"{kind}.pub").read_text(encoding="ascii").split()
                file.write(f"{names} {key[0]} {key[1]}\n")
        self.start()

    def _make_host_keys(self) -> None:
        for kind in ("ed25519", "ecdsa"):
            _new_key(self._file(kind), kind)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=_BOUND_S) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


class SSHServers(Mapping[str, SSHServer]):
    """A set of servers, by name: a context manager.

    Args:
        authentications: names of :data:`AUTHENTICATIONS`, each for a server of that name on the loopback interface;
            without these and without hosts, all of them.
        hosts: pretend hosts that get a server each, of the host's name, at port 22. They stay the caller's.

    Raises:
        RuntimeError: this machine cannot have them, or they do not start; says why.
        ValueError: an authentication that is not known.

    Attributes:
        user: whom they let in, besides root.
        password: the user's.
        home: the user's home.
        key: file of a private key that is accepted.
        known_hosts: file with the host keys of all.
    """

    def __init__(self, *authentications: str, hosts: Hosts | None = None) -> None:
        unknown = [a for a in authentications if a not in AUTHENTICATIONS]
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; known: {', '.join(AUTHENTICATIONS)}")
        self._authentications = authentications or (() if hosts else tuple(AUTHENTICATIONS))
        self._hosts: tuple[Host, ...] = tuple(hosts or ())
        self._servers: dict[str, SSHServer] = {}
        self._keeper: subprocess.Popen[str] | None = None
        self._folder = Path()
        self._keys = 0
        self.user = "flowcore-ssh"
        self.password = secrets.token_urlsafe(9)
        self.home = Path()
        self.key = Path()
        self.known_hosts = Path()

    def __enter__(self) -> SSHServers:
        """Start them."""
        reason = missing()
        if reason:
            raise RuntimeError(f"no ssh servers: {reason}")
        try:
            self._start()
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End them."""
        self.close()

    def __getitem__(self, name: str) -> SSHServer:
        return self._servers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    # --- its user's side

    def new_key(self, kind: str = "ed25519", passphrase: str = "", accepted: bool = True) -> Path:
        """Make a key for the user and root; return the file of its private part. The public one is beside it.

        Args:
            kind: ed25519, ecdsa or rsa.
            passphrase: encrypts the file, if it is not empty.
            accepted: whether the servers accept it.
        """
        self._keys += 1
        key = self._folder / f"key-{self._keys}"
        _new_key(key, kind, passphrase)
        if accepted:
            with (self._folder / "authorized_keys").open("a", encoding="ascii") as file:
                file.write(key.with_suffix(".pub").read_text(encoding="ascii"))
        return key

    def processes(self) -> list[processes.Process]:
        """Return the processes that serve connections, and those that were started through them and still run."""
        everyone = processes.everyone()
        listeners = _listeners(self._folder, everyone)
        return [p for p in _of(self._folder, everyone) if p not in listeners]

    def close(self) -> None:
        """Kill them and what runs through them, and remove their files. Idempotent."""
        keeper, self._keeper = self._keeper, None
        self._servers = {}
        if keeper is None:
            return
        try:
            _, said = keeper.communicate(timeout=2 * _BOUND_S)  # the end of its stdin ends it
        except BaseException:
            keeper.kill()
            keeper.wait()
            raise
        if keeper.returncode:
            raise RuntimeError(f"the ssh servers of {self._folder} do not end: {said.strip()}")

    # --- parts

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="flowcore-sshd-"))
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEP, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal is for the test, which ends the servers.
            start_new_session=True,
        )
        self._folder.chmod(0o755)  # the user's home is there
        self._make_user()
        (self._folder / "authorized_keys").touch()
        self.known_hosts = self._folder / "known_hosts"
        self.known_hosts.touch()
        self.key = self.new_key()
        (self._folder / "pam").write_text(_PAM, encoding="ascii")
        for name in self._authentications:
            self._add(SSHServer(name, self._folder, "127.0.0.1", _free_port(), None), AUTHENTICATIONS[name])
        for host in self._hosts:
            self._add(SSHServer(host.name, self._folder, host.address, 22, host), _ON_HOSTS)

    def _add(self, server: SSHServer, authentication: str) -> None:
        try:
            server._make(authentication)
        except (AssertionError, RuntimeError) as error:
            log = server.log if server._file("log").exists() else ""
            raise RuntimeError(f"{error}\n{log}".strip()) from error
        self._servers[server.name] = server

    def _make_user(self) -> None:
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        uid = next(uid for uid in range(_FIRST_UID, _FIRST_UID + 400) if uid not in taken)
        self.home = self._folder / "home"
        self.home.mkdir(0o700)
        os.chown(self.home, uid, uid)
        others = Path("/etc/passwd").read_text(encoding="utf-8")
        (self._folder / "passwd").write_text(
            f"{others}{self.user}:x:{uid}:{uid}::{self.home}:/bin/bash\n", encoding="utf-8"
        )
        salt = f"$6${secrets.token_hex(8)}$"
        hashed = _output("perl", "-e", _CRYPT, salt, said=self.password)
        for file, value in (("shadow", hashed), ("shadow-empty", "")):
            path = self._folder / file
            path.touch(0o600)
            path.write_text(f"root:*:19000:0:99999:7:::\n{self.user}:{value}:19000:0:99999:7:::\n", encoding="ascii")


def _free_port() -> int:
    # None of those that the kernel gives to clients: a server that was stopped shall find its port free.
    for port in random.sample(range(20000, 32768), 1000):
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port between 20000 and 32767 is free")


def _new_key(file: Path, kind: str, passphrase: str = "") -> None:
    file.unlink(missing_ok=True)
    size = ["-b", "2048"] if kind == "rsa" else []
    # One round makes a passphrase weak, and the test quick.
    _output("ssh-keygen", "-q", "-t", kind, *size, "-a", "1", "-N", passphrase, "-C", "flowcore", "-f", str(file))


def _output(*command: str, said: str = "") -> str:
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=_BOUND_S)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))


def _listeners(folder: Path, everyone: list[processes.Process], file: str = "") -> list[processes.Process]:
    """Return the processes that listen, of one configuration or of all; those of connections have other titles."""
    return [p for p in everyone if f"sshd -f {folder}/{file}" in p.command]


def _of(folder: Path, everyone: list[processes.Process]) -> list[processes.Process]:
    """Return the processes of all servers, and what runs through them."""
    roots = [*_listeners(folder, everyone), *processes.carrying(f"{_MARK}={folder}", everyone)]
    found = {p.pid: p for p in roots}
    for root in roots:
        found.update((p.pid, p) for p in processes.descendants(root.pid, everyone))
    return [p for p in found.values() if p.state not in "ZX"]


def _keep(folder: str) -> None:
    """Wait for the end of stdin, then end the servers of a folder: what the keeper does."""
    sys.stdin.read()
    left = processes.end(lambda: _of(Path(folder), processes.everyone()), _BOUND_S)
    if left:
        raise SystemExit(f"these processes do not end: {left}")
    shutil.rmtree(folder)
