"""Questions at the terminal, of a process that has one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time

import pytest
from flowcore_channel_ssh import terminal
from flowcore_channel_ssh.terminal import NoAnswer


class Terminal:
    """A process at a terminal, and who sits there."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.own, other = os.openpty()
        take = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", take + textwrap.dedent(script), *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.shown = ""

    def until(self, pattern: str) -> None:
        """Read what is shown until a pattern comes."""
        while not re.search(pattern, self.shown):
            try:
                self.shown += os.read(self.own, 4096).decode()
            except OSError:  # the other end is closed
                raise AssertionError(f"{pattern!r} did not come: {self.shown!r}") from None

    def enter(self, line: str) -> None:
        os.write(self.own, f"{line}\n".encode())

    def end(self) -> int:
        code = self.process.wait(30)
        os.close(self.own)
        return code


def test_a_login_at_the_terminal(servers):
    script = """
        import sys
        from flowcore.channels import SSHInteractiveLoginChannel
        user, port, key, known = sys.argv[1:]
        channel = SSHInteractiveLoginChannel(
            "127.0.0.1", user, port=int(port), key_filename=key, host_keys_filename=known
        )
        print(channel.execute_wait("echo logged in as $USER", 30), flush=True)
        channel.close()
    """
    server = servers["two-factor"]
    at = Terminal(script, servers.user, str(server.port), str(servers.key), str(servers.known_hosts))
    at.until(f"flowcore-ssh@127.0.0.1:{server.port}: Password: ")
    at.enter(servers.password)
    at.until(r"\(0, 'logged in as flowcore-ssh\\n', ''\)")
    assert at.end() == 0
    assert servers.password not in at.shown


def test_what_is_entered_is_shown_only_if_it_may_be():
    script = """
        import termios
        from flowcore_channel_ssh.terminal import ask
        before = termios.tcgetattr(0)
        print(repr(ask("Name: ", True, 30)), repr(ask("Secret: ", False, 30)), flush=True)
        assert termios.tcgetattr(0) == before
    """
    at = Terminal(script)
    at.until("Name: ")
    at.enter("somebody")
    at.until("Secret: ")
    at.enter("hush")
    at.until("'somebody' 'hush'")
    assert at.end() == 0
    assert at.shown.count("hush") == 1


def test_nobody_answers():
    script = """
        import termios
        from flowcore_channel_ssh.terminal import NoAnswer, ask
        before = termios.tcgetattr(0)
        try:
            ask("Secret: ", False, 0.2)
        except NoAnswer as error:
            print(error, flush=True)
        assert termios.tcgetattr(0) == before
    """
    at = Terminal(script)
    at.until("nobody answered at the terminal within 0.2 s")
    assert at.end() == 0


def test_a_process_without_a_terminal():
    script = (
        "from flowcore_channel_ssh.terminal import NoAnswer, ask\n"
        "try: ask('Secret: ', False, 1)\n"
        "except NoAnswer as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], start_new_session=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "this process has no terminal to ask at (No such device or address)\n", done.stderr


def test_a_terminal_that_goes_away(monkeypatch):
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(NoAnswer, match="the terminal was closed"):
        terminal._line(reading, time.monotonic() + 10)
    os.close(reading)
