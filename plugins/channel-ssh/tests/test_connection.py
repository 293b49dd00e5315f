"""The life of a connection, decided without any network."""

from __future__ import annotations

import threading
from typing import Any

import paramiko
import pytest
from flowcore_channel_ssh import connection
from flowcore_channel_ssh.connection import Connection
from flowcore_channel_ssh.link import Link, Way
from flowcore_channel_ssh.targets import resolve

from flowcore.errors import AuthException, SSHException
from flowcore.testing import eventually


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.0)


class FakeTransport:
    def __init__(self) -> None:
        self.active = True
        self.packetizer = self

    def is_active(self):
        return self.active

    def close(self):
        self.active = False

    def complete_handshake(self):
        pass


def link() -> Link:
    transport: Any = FakeTransport()
    return Link(resolve("h", "", "me"), transport, "nothing", Way(transport), 1.0)


class Dial:
    """Fails as it is told, then makes links."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.made: list[Link] = []
        self.attempts = 0

    def __call__(self) -> Link:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.made.append(link())
        return self.made[-1]


def lose(link: Link) -> None:
    link.transport.active = False
    raise EOFError("gone")


def test_it_connects_once_and_when_it_is_needed():
    dial = Dial()
    kept = Connection(dial, 3, "h")
    assert dial.attempts == 0
    assert [kept.run(lambda link: 7), kept.run(lambda link: 8)] == [7, 8]
    assert dial.attempts == 1
    assert kept.close() is True
    assert kept.close() is False
    assert not dial.made[0].alive


def test_attempts_are_bounded_and_the_last_failure_is_told():
    dial = Dial(*(ConnectionError(f"failure {n}") for n in range(5)))
    with pytest.raises(SSHException, match="channel to h: the ssh session failed .*failure 2"):
        Connection(dial, 3, "h").run(lambda link: None)
    assert dial.attempts == 3
    assert Connection(dial, 3, "h").run(lambda link: 1) == 1
    assert dial.attempts == 6


def test_what_another_attempt_does_not_mend_is_tried_once():
    dial = Dial(AuthException(None, "h"))
    with pytest.raises(AuthException):
        Connection(dial, 3, "h").run(lambda link: None)
    assert dial.attempts == 1


def test_pauses_grow(monkeypatch):
    pauses = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(threading, "Event", Clock)
    Connection(Dial(*[ConnectionError()] * 4), 5, "h").run(lambda link: None)
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_a_link_that_broke_is_replaced_before_work_begins():
    dial = Dial()
    kept = Connection(dial, 1, "h")
    kept.run(lambda link: None)
    dial.made[0].transport.active = False
    assert kept.run(lambda link: link is dial.made[1]) is True


@pytest.mark.parametrize("error", [EOFError(), paramiko.SSHException("x"), TimeoutError(), ConnectionResetError()])
def test_work_is_done_again_once_if_it_may(error):
    dial = Dial()
    kept = Connection(dial, 1, "h")
    done = []

    def work(link):
        done.append(link)
        if len(done) == 1:
            raise error
        return "done"

    assert kept.run(work) == "done"
    assert done == dial.made
    assert len(done) == 2
    with pytest.raises(SSHException, match=r"the connection to me@h:22 was lost: gone"):
        kept.run(lose)
    assert dial.attempts == 3


def test_work_that_may_not_is_not_done_again():
    dial = Dial()
    kept = Connection(dial, 1, "h")
    with pytest.raises(SSHException, match="the connection to me@h:22 was lost"):
        kept.run(lose, again=False)
    assert dial.attempts == 1


def test_what_the_server_answers_is_no_loss():
    dial = Dial()
    kept = Connection(dial, 1, "h")

    def refuse(link):
        raise PermissionError("no")

    def enough(link):
        raise paramiko.ChannelException(4, "resource shortage")

    with pytest.raises(PermissionError):
        kept.run(refuse)
    with pytest.raises(SSHException, match=r"me@h:22 refuses a further session .*resource shortage.*MaxSessions"):
        kept.run(enough)
    assert dial.attempts == 1


def test_closing_ends_work_and_makes_no_new_connection():
    dial = Dial()
    kept = Connection(dial, 3, "h")
    works = threading.Event()
    told: list[Exception] = []

    def work(link):
        works.set()
        eventually(lambda: not link.alive, 10)
        raise EOFError

    def run():
        with pytest.raises(SSHException) as caught:
            kept.run(work)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    assert works.wait(10)
    assert kept.close() is True
    thread.join(10)
    assert "the channel was closed meanwhile" in str(told[0])
    assert dial.attempts == 1
    assert kept.run(lambda link: "later") == "later"


def test_closing_ends_a_pause_between_attempts(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 600.0)
    dial = Dial(ConnectionError("down"), ConnectionError("down"))
    kept = Connection(dial, 3, "h")
    told: list[Exception] = []

    def run():
        with pytest.raises(SSHException) as caught:
            kept.run(lambda link: None)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: dial.attempts == 1, 10)
    assert kept.close() is False
    thread.join(10)
    assert "the channel was closed meanwhile" in str(told[0])
    assert dial.attempts == 1


def test_closing_while_it_connects_closes_what_comes_of_that():
    goes_on = threading.Event()
    begun = threading.Event()
    made = link()

    def dial():
        begun.set()
        assert goes_on.wait(10)
        return made

    kept = Connection(dial, 1, "h")
    told: list[Exception] = []

    def run():
        with pytest.raises(SSHException) as caught:
            kept.run(lambda link: None)
        told.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(10)
    assert kept.close() is False
    goes_on.set()
    thread.join(10)
    assert "the channel was closed meanwhile" in str(told[0])
    assert not made.alive
