"""Questions of a server, put to the user at the terminal.

Rule of this module: a question waits for its answer for a bounded time, and the terminal is as it was afterwards. It
is the process's own terminal, wherever its streams lead; a process without one cannot ask.
"""

from __future__ import annotations

import os
import select
import termios
import time


class NoAnswer(Exception):
    """Nobody could be asked, or nobody answered; its text says why."""


def ask(text: str, echo: bool, timeout_s: float) -> str:
    """Show a text at the terminal, and return the line that the user enters.

    Args:
        text: the question.
        echo: show what is entered.
        timeout_s: seconds to wait.

    Raises:
        NoAnswer: there is no terminal, or no answer in time.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise NoAnswer(f"this process has no terminal to ask at ({error.strerror})") from error
    try:
        return _shown(terminal, text, timeout_s) if echo else _hidden(terminal, text, timeout_s)
    except OSError as error:
        raise NoAnswer(f"the terminal is gone ({error.strerror})") from error
    finally:
        os.close(terminal)


def _shown(terminal: int, text: str, timeout_s: float) -> str:
    os.write(terminal, text.encode())
    return _line(terminal, timeout_s)


def _hidden(terminal: int, text: str, timeout_s: float) -> str:
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
    try:
        # Not before: who is quick would be seen.
        return _shown(terminal, text, timeout_s)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")


def _line(terminal: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    entered = b""
    while not entered.endswith(b"\n"):
        poll = select.poll()  # any number of open files
        poll.register(terminal, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise NoAnswer(f"nobody answered at the terminal within {timeout_s:g} s")
        piece = os.read(terminal, 4096)
        if not piece:
            raise NoAnswer("the terminal was closed")
        entered += piece
    return entered.decode(errors="replace").rstrip("\r\n")
