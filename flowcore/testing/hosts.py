"""Pretend hosts on this one, with a network between them that can be cut.

Each host is a set of namespaces: its own network, host name and ``/etc/hosts``; files and processes are shared with
this host. A switch, in a namespace of its own, connects them with this host, the head::

    with Hosts(2) as hosts:
        first, second = hosts
        service = subprocess.Popen(first.command("iperf", "-s"))
        second.run("ping", "-c1", first.address)
        hosts.cut(first)      # packets from and to it vanish, and nobody is told
        hosts.heal(first)
        hosts.reset(first)    # its TCP connections are reset
        hosts.power_off(first)

Rule of this module: all that is made goes in every case. A namespace lives as long as a small process that waits for
the end of its stdin, so hosts also go when the process that made them is killed (once what it ran in them has ended);
the one network interface that the head gets is an end of a cable whose other end is in a namespace, and goes with that.

It needs Linux, root, and the programs of iproute2 and util-linux; :func:`missing` says what is missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flowcore.testing import processes

#: RFC 2544's addresses for tests of networks: no real network has them. The third number is a set's own.
_NETWORK = "198.18.{}.{}"
_SETS = 250
#: Hosts of one set at most.
MAX_HOSTS = 200
#: Seconds for one command, and for processes that were killed to be gone.
_BOUND_S = 20.0
_HOLD_SWITCH = 'echo up; cat >/dev/null; rm -rf "$0"'
_HOLD_HOST = 'hostname "$0" && mount --bind "$1" /etc/hosts && echo up && exec cat'
#: A namespace of mounts begins in its root folder; a command expects to be where it was called.
_ENTER = 'cd "$0" && exec "$@"'


def missing() -> str:
    """Return why this machine cannot have pretend hosts; empty if it can."""
    absent = [name for name in ("ip", "ss", "unshare", "nsenter", "mount", "hostname") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not found: install iproute2, util-linux and hostname"
    if os.geteuid() != 0:
        return "only root can make namespaces and network interfaces"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else ""


def require() -> None:
    """Skip the test that calls this where there can be no pretend hosts; fail it there with ``CI=true``."""
    from flowcore.testing import servers

    reason = missing()
    if reason:
        servers.unavailable(f"no pretend hosts: {reason}")


class Host:
    """A pretend host.

    Attributes:
        name: its host name, which all hosts of the set can resolve.
        address: its IPv4 address.
    """

    def __init__(self, name: str, address: str, holder: subprocess.Popen[str]) -> None:
        self.name = name
        self.address = address
        self._holder = holder

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.address!r})"

    def command(self, *command: str) -> list[str]:
        """Return what runs a command in this host, as the same process, in the current working directory."""
        return [*_inside(self._holder, "--uts", "--mount"), "sh", "-c", _ENTER, str(Path.cwd()), *command]

    @property
    def prefix(self) -> str:
        """What to put before a command in a shell to run it in this host."""
        return shlex.join(self.command())

    def run(self, *command: str, timeout: float = _BOUND_S) -> subprocess.CompletedProcess[str]:
        """Run a command in this host, and wait for it.

        Args:
            command: program and arguments.
            timeout: seconds.

        Returns:
            Its exit code, and what it wrote.

        Raises:
            subprocess.TimeoutExpired: it took longer.
        """
        return subprocess.run(self.command(*command), capture_output=True, text=True, timeout=timeout)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in this host.

        Args:
            command: program and arguments.
            options: as of ``subprocess.Popen``.
        """
        return subprocess.Popen(self.command(*command), **options)

    def processes(self) -> list[processes.Process]:
        """Return the processes that run in this host."""
        own = _network_of(self._holder.pid)
        return [p for p in processes.everyone() if p.pid != self._holder.pid and _network_of(p.pid) == own]


class Hosts(Sequence[Host]):
    """A set of pretend hosts and the network between them: a context manager.

    Args:
        count: number of hosts.

    Raises:
        RuntimeError: this machine cannot have them; says why.
        ValueError: no set can have so many.

    Attributes:
        head: address of this host in their network.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_HOSTS:
            raise ValueError(f"Hosts({count}): expected 1 to {MAX_HOSTS}")
        self._count = count
        self._hosts: list[Host] = []
        self._holders: list[subprocess.Popen[str]] = []
        self._claim: socket.socket | None = None
        self._folder = ""
        self._interface = ""
        self.head = ""

    def __enter__(self) -> Hosts:
        """Make the hosts."""
        reason = missing()
        if reason:
            raise RuntimeError(f"no pretend hosts: {reason}")
        try:
            self._make()
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take all down."""
        self.close()

    def __len__(self) -> int:
        return len(self._hosts)

    def __getitem__(self, position: Any) -> Any:
        return self._hosts[position]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    # --- faults

    def cut(self, host: Host) -> None:
        """Let all packets from and to a host vanish, as a broken switch does: nobody is told."""
        self._switch(f"link set {self._port(host)} nomaster")

    def heal(self, host: Host) -> None:
        """Let the packets of a host that was cut through again."""
        self._switch(f"link set {self._port(host)} master switch")

    def reset(self, host: Host) -> None:
        """Reset the TCP connections between a host and others, as a firewall that restarts does."""
        before = self._connections(host)
        host.run("ss", "--kill", "--tcp", "dst", self._network)
        # Its exit code tells of sockets that have just gone, too; what counts is what is left of those it found.
        left = before & self._connections(host)
        if left:
            raise RuntimeError(f"connections of {host} could not be reset: {', '.join(sorted(left))}")

    def power_off(self, host: Host) -> None:
        """Cut a host, and kill all its processes: those at other hosts hear nothing of it."""
        self.cut(host)
        _end_all(host)

    # --- life

    def close(self) -> None:
        """Kill what runs in the hosts, and remove them. Idempotent."""
        for host in self._hosts:
            _end_all(host)
        if self._interface:
            # The kernel takes its time with namespaces; the interface shall be gone now.
            subprocess.run(["ip", "link", "delete", self._interface], capture_output=True, timeout=_BOUND_S)
        for holder in self._holders:
            with holder:  # the end of its stdin ends it
                pass
        if self._folder:
            # The switch does it when the test is killed; here it may not have come to be.
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._claim is not None:
            self._claim.close()
        self._hosts, self._holders, self._claim, self._folder, self._interface = [], [], None, "", ""

    def _make(self) -> None:
        number = self._claim_number()
        self.head = _NETWORK.format(number, 1)
        names = {f"fc{number}h{i + 1}": _NETWORK.format(number, 10 + i) for i in range(self._count)}
        self._folder = tempfile.mkdtemp(prefix="flowcore-hosts-")
        table = Path(self._folder, "hosts")
        known = {"localhost": "127.0.0.1", f"fc{number}head": self.head, **names}
        table.write_text("".join(f"{address} {name}\n" for name, address in known.items()), encoding="ascii")
        switch = self._hold(["--net"], [_HOLD_SWITCH, self._folder])
        holders = [self._hold(["--net", "--uts", "--mount"], [_HOLD_HOST, name, str(table)]) for name in names]
        for holder in (switch, *holders):
            _wait_until_up(holder)
        self._interface = f"fc{number}"
        _ip(
            [],
            f"link add {self._interface} type veth peer name head netns {switch.pid}",
            f"addr add {self.head}/24 dev {self._interface}",
            f"link set {self._interface} up",
        )
        ports = [
            line
            for i, holder in enumerate(holders)
            for line in (
                f"link add port{i} type veth peer name eth0 netns {holder.pid}",
                f"link set port{i} master switch up",
            )
        ]
        _ip(
            _inside(switch),
            "link add switch type bridge",
            "link set switch up",
            "link set head master switch up",
            *ports,
        )
        for (name, address), holder in zip(names.items(), holders, strict=True):
            _ip(_inside(holder), f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up")
            self._hosts.append(Host(name, address, holder))

    def _claim_number(self) -> int:
        # A name that the kernel gives to one process at a time, and takes back when that ends.
        for number in range(_SETS):
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0flowcore-testing-hosts-{number}")
            except OSError:
                claim.close()
                continue
            if not _ip_output("-o", "-4", "addr", "show", "to", _NETWORK.format(number, "0/24")).strip():
                self._claim = claim
                return number
            claim.close()
        raise RuntimeError(f"no pretend hosts: all {_SETS} networks below 198.18.0.0/16 are taken")

    def _hold(self, namespaces: Sequence[str], script: Sequence[str]) -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", *script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal is for the test, which takes the hosts down.
            start_new_session=True,
        )
        self._holders.append(holder)
        return holder

    def _switch(self, *lines: str) -> None:
        _ip(_inside(self._holders[0]), *lines)

    def _connections(self, host: Host) -> set[str]:
        shown = host.run("ss", "--no-header", "--numeric", "--tcp", "state", "established", "dst", self._network).stdout
        # Bytes received and sent, this end, the other end.
        return {" to ".join(line.split()[2:4]) for line in shown.splitlines()}

    @property
    def _network(self) -> str:
        return self.head.rpartition(".")[0] + ".0/24"

    def _port(self, host: Host) -> str:
        return f"port{self._hosts.index(host)}"


def _inside(holder: subprocess.Popen[str], *namespaces: str) -> list[str]:
    return ["nsenter", "--target", str(holder.pid), "--net", *namespaces]


def _wait_until_up(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline() != "up\n":
        raise RuntimeError(f"no pretend hosts: {holder.stderr.read().strip() or 'a namespace could not be made'}")


def _ip(where: Sequence[str], *lines: str) -> None:
    done = subprocess.run(
        [*where, "ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=_BOUND_S
    )
    if done.returncode:
        raise RuntimeError(f"ip failed: {done.stderr.strip()}; its input was:\n" + "\n".join(lines))


def _ip_output(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_BOUND_S, check=True).stdout


def _network_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:  # it has ended
        return ""


def _end_all(host: Host) -> None:
    left = processes.end(lambda: [p for p in host.processes() if p.state not in "ZX"], _BOUND_S)
    if left:
        raise RuntimeError(f"processes of {host} do not end: {left}")
