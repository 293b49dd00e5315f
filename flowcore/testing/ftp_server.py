"""A real FTP server for tests, which serves a folder and does wrong when it is told to.

::

    with FTPFiles(tmp_path / "ftp") as server:
        url = server.put("a.bin", content)
        server.fail("a.bin", Cut(1000), Reply("450 Busy"))     # the first RETR, the second; the third is served
        server.refuse("421 Too many connections", times=2)
        ...
        assert "REST 1000" in server.commands

It lets in everybody as ``anonymous``, or one user with a password. ``python -m flowcore.testing.ftp_server FOLDER``
serves a folder from a process of its own, prints the URL of that, and ends when its stdin does.

Rule of this module: the server is pyftpdlib's, which must be installed (``pip install pyftpdlib``), and one thread has
it; a fault says what happens to one transfer, and is told of it in that thread.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from flowcore.testing.faulty_files import FaultyFiles

#: Seconds for the server's thread to end.
_BOUND_S = 20.0


class Fault:
    """What goes wrong with a transfer. This one: nothing."""

    #: Bytes after which :meth:`at_limit` is called; None: never.
    limit: int | None = None
    #: Whether ``REST`` is forgotten.
    from_start: bool = False

    def reply(self, server: FTPFiles, name: str) -> str | None:
        """Return what ``RETR`` is answered instead of being served; None: it is served."""
        return None

    def at_limit(self, data: Any) -> None:
        """Do what is to be done when so many bytes are sent; called with pyftpdlib's DTPHandler."""


@attrs.frozen
class Cut(Fault):
    """The data connection is closed.

    Args:
        limit: bytes that are sent before.
        control: the control connection too, without a word.
    """

    limit: int
    control: bool = False

    def at_limit(self, data: Any) -> None:
        """Close."""
        if self.control:
            data.cmd_channel.close()
        else:
            data.abort("426 Transfer aborted")


@attrs.frozen
class Short(Fault):
    """Some bytes are left out, and the server says that all has been sent.

    Args:
        limit: bytes that are sent.
    """

    limit: int

    def at_limit(self, data: Any) -> None:
        """Close, and lie."""
        data.abort("226 Transfer complete")


@attrs.frozen
class Stall(Fault):
    """The server falls silent.

    Args:
        limit: bytes that are sent before.
    """

    limit: int

    def at_limit(self, data: Any) -> None:
        """Wait for the other end to go."""
        data.modify_ioloop_events(data.ioloop.READ)


@attrs.frozen
class FromStart(Fault):
    """All of the file is sent, although the server said that it would begin elsewhere."""

    from_start = True


@attrs.frozen
class Reply(Fault):
    """The transfer is refused.

    Args:
        text: code and text, ``550 No such file``.
    """

    text: str

    def reply(self, server: FTPFiles, name: str) -> str:
        """Return the refusal."""
        return self.text


@attrs.frozen
class Changed(Fault):
    """From this transfer on the file is another one, modified later.

    Args:
        content: its new content.
    """

    content: bytes

    def reply(self, server: FTPFiles, name: str) -> None:
        """Change it."""
        later = (server.root / name).stat().st_mtime + 2  # MDTM tells seconds
        server.put(name, self.content, modified=later)


class FTPFiles(FaultyFiles[Fault]):
    """A server on 127.0.0.1 that serves a folder: a context manager.

    Args:
        root: the folder; made if it is not there.
        user: user and password that are let in; None: everybody is, as ``anonymous``.
        home: where below the folder a login leads to.
        without: commands that it does not know, ``("REST", "SIZE")``.

    Attributes:
        root: the folder.
        port: its port; the same one when it is started again.
        commands: what all clients said, in the order in which it came; passwords left out.
        sizes: what ``SIZE`` answers of a file, by its name, where that is not true.
    """

    def __init__(
        self,
        root: Path,
        user: tuple[str, str] | None = None,
        home: str = "",
        without: tuple[str, ...] = (),
    ) -> None:
        super().__init__(root, Fault())
        self.port = 0
        self.commands: list[str] = []
        self.sizes: dict[str, int] = {}
        self._user = user
        self._home = home
        self._without = without
        self._refusals: deque[str] = deque()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- its user's side

    def url(self, name: str = "") -> str:
        """Return the URL of a file, with its user and password, if there are any.

        Args:
            name: its path below the folder that a login leads to, not quoted.
        """
        who = ":".join(quote(part, safe="") for part in self._user) + "@" if self._user else ""
        return f"ftp://{who}127.0.0.1:{self.port}/{quote(name)}"

    def refuse(self, reply: str, times: int = 1) -> None:
        """Greet the next connections with a refusal and close them.

        Args:
            reply: code and text, ``421 Too many connections``.
            times: how many.
        """
        self._refusals.extend([reply] * times)

    def start(self) -> None:
        """Serve; at the same port as before, if it was stopped.

        Raises:
            RuntimeError: pyftpdlib is not installed.
        """
        server = _server(self)
        self.port = server.address[1]
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, args=(server,), name="flowcore-testing-ftp", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(_BOUND_S)

    # --- the connections' side

    def _serve(self, server: Any) -> None:
        try:
            while not self._stopping.is_set():
                server.ioloop.loop(timeout=0.02, blocking=False)
        finally:
            server.close_all()


def _server(files: FTPFiles) -> Any:
    """Return pyftpdlib's server for it, bound and not yet running."""
    try:
        with warnings.catch_warnings():
            # It is built on asyncore, which Python 3.12 no longer has and PyPI has.
            warnings.simplefilter("ignore", DeprecationWarning)
            from pyftpdlib.authorizers import DummyAuthorizer  # type: ignore[import-untyped]
            from pyftpdlib.handlers import DTPHandler, FTPHandler  # type: ignore[import-untyped]
            from pyftpdlib.ioloop import IOLoop  # type: ignore[import-untyped]
            from pyftpdlib.servers import FTPServer  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise RuntimeError(f"the FTP server of tests needs {error.name}: pip install pyftpdlib") from None

    class Data(DTPHandler):  # type: ignore[misc]
        ac_out_buffer_size = 1 << 20

        def initiate_sendfile(self) -> None:
            fault = self.cmd_channel.fault
            if fault.limit is not None:
                left = fault.limit - self.tot_bytes_sent
                if left <= 0:
                    fault.at_limit(self)
                    return
                self.ac_out_buffer_size = min(self.ac_out_buffer_size, left)
            super().initiate_sendfile()

        def abort(self, reply: str) -> None:
            self._resp = (reply, logger.debug)
            self.close()

    class Control(FTPHandler):  # type: ignore[misc]
        authorizer = DummyAuthorizer()
        dtp_handler = Data
        proto_cmds = {name: what for name, what in FTPHandler.proto_cmds.items() if name not in files._without}
        auth_failed_timeout = 0
        banner = "flowcore.testing"
        fault = Fault()

        def handle(self) -> None:
            if files._refusals:
                self.respond(files._refusals.popleft())
                self.close_when_done()
            else:
                super().handle()

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            files.commands.append(cmd if cmd == "PASS" else line)
            super().pre_process_command(line, cmd, arg)

        def handle_auth_success(self, *args: Any) -> None:
            super().handle_auth_success(*args)
            self.fs.cwd = f"/{files._home}"

        def ftp_RETR(self, file: str) -> Any:
            name = os.path.relpath(file, files.root)
            self.fault = files.fault_of(name)
            if self.fault.from_start:
                self._restart_position = 0
            reply = self.fault.reply(files, name)
            if reply is None:
                return super().ftp_RETR(file)
            self.respond(reply)
            return None

        def ftp_SIZE(self, path: str) -> None:
            size = files.sizes.get(os.path.relpath(path, files.root))
            if size is None:
                super().ftp_SIZE(path)
            else:
                self.respond(f"213 {size}")

    if files._user is not None:
        Control.authorizer.add_user(*files._user, str(files.root))
    else:
        Control.authorizer.add_anonymous(str(files.root))
    logger = logging.getLogger("pyftpdlib")
    # Otherwise its warnings of refusals, which are wanted here, go to stderr.
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return FTPServer(("127.0.0.1", files.port), Control, ioloop=IOLoop())


def main() -> None:
    """Serve a folder until stdin ends."""
    with FTPFiles(Path(sys.argv[1])) as server:
        sys.stdout.write(f"{server.url()}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
