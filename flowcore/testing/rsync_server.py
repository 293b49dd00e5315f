"""A real rsync daemon for tests, on the loopback interface.

::

    with RsyncDaemon(tmp_path / "served") as daemon:
        RSyncStaging(daemon.prefix)                 # rsync://127.0.0.1:PORT/files
        File(daemon.url("in/a.txt"))                # rsync://127.0.0.1:PORT/files/in/a.txt
        File(daemon.url("in/a.txt", "readonly"))
        daemon.stop()
        daemon.start()

Rule of this module: the daemon is a child of the process that made it, known by its number, and ends with that also if
it is killed (on Linux). It needs no privileges, and Debian's package rsync (other systems' will do).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from flowcore.testing import processes
from flowcore.testing.waiting import eventually

_CONFIGURATION = """\
address = 127.0.0.1
port = {port}
socket options = TCP_NODELAY
use chroot = no
munge symlinks = no
reverse lookup = no
lock file = {folder}/lock
log file = {folder}/log
transfer logging = yes
{more}
[files]
path = {root}
read only = no
[readonly]
path = {root}
read only = yes
"""
#: Ends with its parent, then becomes the program: 1 is PR_SET_PDEATHSIG of prctl(2), 9 is SIGKILL.
_RUN = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent has ended")
os.execvp(sys.argv[2], sys.argv[2:])
"""
#: Seconds in which it is there, or gone.
_BOUND_S = 20.0


class RsyncDaemon:
    """An rsync daemon with two modules of one folder: ``files``, where one may write, and ``readonly``.

    Args:
        root: the folder. It is made if it is not there.
        user: with ``password``: whom it lets in, and nobody else. None: everybody.
        password: the user's.
        max_connections: it refuses further ones; 0 for no limit.

    Raises:
        RuntimeError: there is no rsync, or it does not start; says why.

    Attributes:
        root: the folder.
        port: TCP port, the same after a :meth:`stop` and :meth:`start`.
    """

    def __init__(
        self, root: Path, user: str | None = None, password: str | None = None, max_connections: int = 0
    ) -> None:
        self.root = root
        self.port = 0
        self._user = user
        self._password = password
        self._max_connections = max_connections
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RsyncDaemon:
        """Start it."""
        if shutil.which("rsync") is None:
            raise RuntimeError("no rsync daemon: rsync is not on the PATH; install Debian's package rsync")
        self.root.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="flowcore-rsyncd-"))
        try:
            self._start_anywhere()
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    # --- for who copies

    @property
    def prefix(self) -> str:
        """What stands before paths below :attr:`root`, for RSyncStaging's ``hostname``; with the password, if any."""
        return self._at("files")

    def url(self, path: str, module: str = "files") -> str:
        """Return the URL of a file.

        Args:
            path: below :attr:`root`; any name that a file can have.
            module: ``files`` or ``readonly``.
        """
        return f"{self._at(module)}/{quote(os.fsencode(path.lstrip('/')))}"

    def _at(self, module: str) -> str:
        login = "" if self._user is None else f"{quote(self._user, '')}:{quote(self._password or '', '')}@"
        return f"rsync://{login}127.0.0.1:{self.port}/{module}"

    @property
    def log(self) -> str:
        """What it wrote to its log; a line for each file, with how many bytes it received or sent."""
        file = self._folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def connections(self) -> list[processes.Process]:
        """Return its processes that serve connections; one or two for each."""
        if self._process is None:
            return []
        return [p for p in processes.descendants(self._process.pid) if p.state not in "ZX"]

    # --- faults

    def stop(self) -> None:
        """Kill it, and what serves its connections. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        serving = processes.descendants(process.pid)
        process.kill()
        process.wait()
        processes.kill(serving)
        eventually(lambda: all(processes.gone(p.pid) for p in serving), _BOUND_S, "the end of rsync's connections")

    def drop_connections(self) -> None:
        """Kill what serves its connections; it goes on listening."""
        serving = self.connections()
        processes.kill(serving)
        eventually(lambda: all(processes.gone(p.pid) for p in serving), _BOUND_S, "the end of rsync's connections")

    def start(self) -> None:
        """Start it after it was stopped, and wait until it listens.

        Raises:
            RuntimeError: it does not start; says why.
        """
        assert self._process is None, "it runs"
        with socket.socket() as mine:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as rsync does
            try:
                mine.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise RuntimeError(f"the port {self.port} is in use: {error.strerror}") from error
        command = ["rsync", "--daemon", "--no-detach", f"--config={self._folder}/rsyncd.conf"]
        with (self._folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        process = self._process
        try:
            eventually(lambda: process.poll() is not None or self._listens(), _BOUND_S, "the rsync daemon")
        except BaseException:  # Ctrl-C too
            self.stop()
            raise
        if process.poll() is not None:
            self._process = None
            said = (self._folder / "errors").read_text(errors="replace") + self.log
            raise RuntimeError(f"rsync --daemon ended with {process.returncode}: {said.strip()[-2000:]}")

    def close(self) -> None:
        """End it, and remove its files; those below :attr:`root` stay. Idempotent."""
        self.stop()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- parts

    def _start_anywhere(self) -> None:
        # Of ports that the kernel does not give to clients, so that it finds its own again. Somebody may be quicker.
        for port in random.sample(range(20000, 32768), 20):
            self.port = port
            self._configure()
            try:
                self.start()
            except RuntimeError as error:
                if "in use" not in str(error):
                    raise
            else:
                return
        raise RuntimeError("no rsync daemon: none of 20 ports is free")

    def _configure(self) -> None:
        more = f"max connections = {self._max_connections}\n"
        if os.geteuid() == 0:
            more += "uid = 0\ngid = 0\n"  # otherwise it would become nobody
        if self._user is not None:
            secrets = self._folder / "secrets"
            secrets.touch(0o600)
            secrets.write_text(f"{self._user}:{self._password}\n", encoding="utf-8")
            more += f"auth users = {self._user}\nsecrets file = {secrets}\n"
        text = _CONFIGURATION.format(port=self.port, folder=self._folder, root=self.root.absolute(), more=more)
        (self._folder / "rsyncd.conf").write_text(text, encoding="utf-8")

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_BOUND_S) as connection:
                return connection.recv(8) == b"@RSYNCD:"
        except OSError:
            return False
