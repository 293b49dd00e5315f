"""Usage reports: what is sent, to whom, and that nothing is without consent."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

import flowcore
from flowcore import Config, python_app, usage
from flowcore.errors import ConfigurationError
from flowcore.testing import eventually

WAIT_S = 30


class Collector:
    """A UDP socket on the loopback interface."""

    def __init__(self, host="127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_S)
        self.socket.bind((host, 0))
        self.port = self.socket.getsockname()[1]

    def take(self):
        return self.socket.recv(65536)

    def nothing_came(self):
        self.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.socket.recv(65536)
        self.socket.settimeout(WAIT_S)
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("FLOWCORE_TRACKING", raising=False)
    monkeypatch.delenv("FLOWCORE_USAGE_ADDRESS", raising=False)


@pytest.fixture
def collector(monkeypatch):
    made = Collector()
    monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", f"127.0.0.1:{made.port}")
    with made.socket:
        yield made


@pytest.fixture
def config(tmp_path):
    def config(**options):
        return Config(**{"run_dir": tmp_path / "runinfo", "usage_tracking": True, **options})

    return config


@pytest.fixture
def no_sockets(monkeypatch):
    """Records who makes sockets or asks for addresses."""
    asked = []
    monkeypatch.setattr(usage.socket, "socket", lambda *a, **k: asked.append(("socket", a)))
    monkeypatch.setattr(usage.socket, "getaddrinfo", lambda *a, **k: asked.append(("getaddrinfo", a)) or [])
    return asked


@python_app
def divide(a, b):
    return a / b


# --- what is sent


def test_both_reports_of_a_run(collector, config):
    before = int(time.time())
    with flowcore.load(config()) as dfk:
        first = collector.take()
        bad = divide(1, 0)
        divide(bad, 1)
        divide(4, 2)
    second = collector.take()
    after = int(time.time())

    start, end = json.loads(first), json.loads(second)
    about = {
        "flowcore": flowcore.__version__,
        "python": platform.python_version(),
        "os": platform.system(),
        "os_version": platform.release()[:32],
    }
    started, ended = start["start"], end["end"]
    assert before <= started <= ended <= after
    assert start == {
        "usage": 1, "event": "start", "run": dfk.run_id, "start": started, "executors": 1, **about,
    }  # fmt: skip
    assert end == {
        "usage": 1, "event": "end", "run": dfk.run_id, "start": started, "end": ended, "executors": 1, "failed": 2,
        **about,
    }  # fmt: skip
    # To the byte: the order of the members, and no blanks.
    rest = ",".join(f'"{name}":"{value}"' for name, value in about.items())
    run = f'"run":"{dfk.run_id}","start":{started}'
    assert first == f'{{"usage":1,"event":"start",{run},"executors":1,{rest}}}'.encode()
    assert second == f'{{"usage":1,"event":"end",{run},"end":{ended},"executors":1,"failed":2,{rest}}}'.encode()
    assert uuid.UUID(start["run"]).version == 4
    assert collector.nothing_came()


def test_the_module_documents_every_member_in_order():
    table = usage.__doc__.split("======\n")[1]
    rows = [line.split()[0].strip("`") for line in table.splitlines() if line.startswith("``")]
    assert rows == list(json.loads(usage.report("end", "id", 1, 1, 2, 3)))
    start = usage.report("start", "id", 1, 1)
    assert [r for r in rows if r not in ("end", "failed")] == list(json.loads(start))


def test_the_example_of_the_documentation(monkeypatch):
    system = type("Uname", (), {"system": "Linux", "release": "6.1.0-18-amd64"})
    monkeypatch.setattr(usage.platform, "uname", lambda: system)
    monkeypatch.setattr(usage.platform, "python_version", lambda: "3.11.7")
    monkeypatch.setattr(usage, "__version__", "0.1.0")
    made = usage.report("start", "1b4e28ba-2fa1-4d2f-883f-0016d3cca427", 1714550400.9, 1).decode()
    documented = "".join(
        line.strip() for line in usage.__doc__.split("For example::")[1].split("on one")[0].split("\n")
    )
    assert made == documented


def test_a_report_fits_in_one_datagram_whatever_the_system_is_called(monkeypatch):
    system = type("Uname", (), {"system": "\udcff" * 500, "release": '"\u2603\n' * 500})
    monkeypatch.setattr(usage.platform, "uname", lambda: system)
    monkeypatch.setattr(usage.platform, "python_version", lambda: "\U0001f40d" * 500)
    monkeypatch.setattr(usage, "__version__", "\u00df" * 500)
    made = usage.report("end", str(uuid.uuid4()), 1e11, 10**9, 1e11, 10**12)
    assert len(made) < 1200
    assert made.isascii()
    assert {len(json.loads(made)[name]) for name in ("flowcore", "python", "os", "os_version")} == {32}


def test_executors_that_were_added_count(collector, config):
    two = [flowcore.ThreadPoolExecutor(label="a"), flowcore.ThreadPoolExecutor(label="b")]
    with flowcore.load(config(executors=two)) as dfk:
        assert json.loads(collector.take())["executors"] == 2
        dfk.add_executors([flowcore.ThreadPoolExecutor(label="c")])
    assert json.loads(collector.take())["executors"] == 3


def test_retries_that_helped_are_no_failures(collector, config):
    calls = []

    @python_app
    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise OSError

    with flowcore.load(config(retries=1)):
        flaky()
    assert [json.loads(collector.take()).get("failed") for _ in range(2)] == [None, 0]


def test_cancelled_and_cut_off_tasks_count_as_failed(collector, config):
    started, release = threading.Event(), threading.Event()

    def hold():
        started.set()
        release.wait(WAIT_S)

    dfk = flowcore.load(config(executors=[flowcore.ThreadPoolExecutor(max_threads=1)]))
    collector.take()
    python_app(hold)()
    waiting = divide(1, 1)
    started.wait(WAIT_S)
    assert waiting.cancel()
    threading.Timer(0.05, release.set).start()
    dfk.cleanup()
    assert json.loads(collector.take())["failed"] == 2


def test_each_run_reports(collector, config):
    runs = []
    for _ in range(2):
        with flowcore.load(config()) as dfk:
            runs += [dfk.run_id] * 2
        dfk.cleanup()
    assert [json.loads(collector.take())["run"] for _ in range(4)] == runs
    assert collector.nothing_came()


def test_ipv6(monkeypatch, config):
    try:
        made = Collector("::1")
    except OSError:
        pytest.skip("this host has no IPv6")
    with made.socket:
        monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", f"[::1]:{made.port}")
        with flowcore.load(config()):
            pass
        assert [json.loads(made.take())["event"] for _ in range(2)] == ["start", "end"]


PROGRAM = """
import flowcore, sys
flowcore.load({"usage_tracking": True, "run_dir": sys.argv[1]})
print(flowcore.python_app(len)("abc").result())
"""


def test_a_program_that_never_ends_its_run_reports_at_its_exit(collector, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "runs")], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    assert [json.loads(collector.take())["event"] for _ in range(2)] == ["start", "end"]


# --- consent


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "1", "yes", "Yes"])
def test_consent_by_the_environment(collector, config, monkeypatch, value):
    monkeypatch.setenv("FLOWCORE_TRACKING", value)
    with flowcore.load(config(usage_tracking=False)):
        pass
    assert [json.loads(collector.take())["event"] for _ in range(2)] == ["start", "end"]


@pytest.mark.parametrize("value", [None, "", "false", "0", "no", "2", "on", "truetrue"])
def test_without_consent_nothing_is_done(collector, config, monkeypatch, no_sockets, value):
    if value is not None:
        monkeypatch.setenv("FLOWCORE_TRACKING", value)
    monkeypatch.setattr(usage, "start", lambda *a: no_sockets.append("start"))
    with flowcore.load(config(usage_tracking=False)) as dfk:
        divide(1, 1)
    assert no_sockets == []
    assert collector.nothing_came()
    assert "usage tracking is on" not in (dfk.run_dir / "flowcore.log").read_text()


WITHOUT_CONSENT = """
import socket, sys
made = []
class Watched(socket.socket):
    def __init__(self, *a, **k):
        made.append(a)
        super().__init__(*a, **k)
socket.socket = Watched
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda *a, **k: made.append(a) or resolve(*a, **k)
import flowcore
with flowcore.load({"run_dir": sys.argv[1]}):
    flowcore.python_app(len)("abc").result()
print(made, "flowcore.usage" in sys.modules)
"""


def test_without_consent_nothing_is_imported_and_no_socket_is_made(collector, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CONSENT, str(tmp_path / "runs")], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] False\n", "")
    assert collector.nothing_came()


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_consent_is_a_bool(value):
    with pytest.raises(ConfigurationError, match="usage_tracking"):
        Config(usage_tracking=value)


# --- addresses


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_an_address_the_log_says_so(config, monkeypatch, caplog, no_sockets, value):
    if value is not None:
        monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", value)
    with caplog.at_level(logging.INFO, "flowcore"), flowcore.load(config()) as dfk:
        assert divide(4, 2).result(WAIT_S) == 2
        assert "flowcore-usage" not in {t.name for t in threading.enumerate()}
    records = [r for r in caplog.records if "usage tracking" in r.getMessage()]
    text = "usage tracking is on, and nothing is sent: FLOWCORE_USAGE_ADDRESS=host:port is not in the environment"
    assert [(r.levelname, r.getMessage()) for r in records] == [("INFO", text)]
    assert text in (dfk.run_dir / "flowcore.log").read_text()
    assert no_sockets == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("host", "expected host:port, or [address]:port for IPv6"),
        (":80", "expected host:port, or [address]:port for IPv6"),
        ("::1:80", "expected host:port, or [address]:port for IPv6"),
        ("[]:80", "the host is missing"),
        ("host:", "the port must be a number from 1 to 65535, got ''"),
        ("host:0", "the port must be a number from 1 to 65535, got '0'"),
        ("host:65536", "the port must be a number from 1 to 65535, got '65536'"),
        ("host:99999999999999999999", "the port must be a number from 1 to 65535, got '99999999999999999999'"),
        ("host:-1", "the port must be a number from 1 to 65535, got '-1'"),
        ("host:\u0662", "the port must be a number from 1 to 65535, got '\u0662'"),
        ("host:http", "the port must be a number from 1 to 65535, got 'http'"),
    ],
)
def test_a_malformed_address_is_a_warning(config, monkeypatch, caplog, no_sockets, value, reason):
    monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", value)
    with caplog.at_level(logging.INFO, "flowcore"), flowcore.load(config()):
        assert divide(4, 2).result(WAIT_S) == 2
    records = [r for r in caplog.records if "usage tracking" in r.getMessage()]
    assert [(r.levelname, r.getMessage()) for r in records] == [
        ("WARNING", f"usage tracking is on, and nothing is sent: FLOWCORE_USAGE_ADDRESS={value!r}: {reason}")
    ]
    assert no_sockets == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9)),
    ],
)
def test_addresses(text, expected):
    assert usage.parse_address(text) == expected


def test_the_log_says_where_to(collector, config, caplog):
    with caplog.at_level(logging.INFO, "flowcore"), flowcore.load(config()):
        pass
    text = f"usage tracking is on: one datagram now and one at the end go to 127.0.0.1 port {collector.port}"
    assert text in [r.getMessage() for r in caplog.records]


# --- a network that does not work


def quiet(caplog):
    """Return what the user is told of usage reports, beyond that they are on."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.name == "flowcore.usage" and r.levelno > logging.DEBUG and "usage tracking is on" not in r.getMessage()
    ]


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UnicodeError("label too long"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
    ids=repr,
)
def test_a_name_that_cannot_be_resolved(config, monkeypatch, caplog, error):
    monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", "collector.invalid:9")
    monkeypatch.setattr(usage.socket, "getaddrinfo", failing(error))
    with caplog.at_level(logging.DEBUG, "flowcore"), flowcore.load(config()):
        assert divide(4, 2).result(WAIT_S) == 2
    assert quiet(caplog) == []
    assert "flowcore-usage" not in {t.name for t in threading.enumerate()}


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "\udcff"])
def test_names_that_are_none(config, monkeypatch, caplog, name):
    # Asked of the real resolver, which refuses them before it asks any server.
    monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", f"{name}:9")
    with flowcore.load(config()):
        pass
    assert quiet(caplog) == []
    eventually(lambda: "flowcore-usage" not in {t.name for t in threading.enumerate()})


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ECONNREFUSED])
def test_a_network_that_is_not_there(config, monkeypatch, caplog, number):
    made = []

    class Cut(socket.socket):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def sendto(self, *arguments):
            raise OSError(number, "no network")

    monkeypatch.setenv("FLOWCORE_USAGE_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(usage.socket, "socket", Cut)
    with caplog.at_level(logging.DEBUG, "flowcore"), flowcore.load(config()):
        assert divide(4, 2).result(WAIT_S) == 2
    assert quiet(caplog) == []
    assert len(made) == 2
    assert [s.fileno() for s in made] == [-1, -1]


def test_the_next_address_of_a_name_is_tried(collector, config, monkeypatch):
    def resolve(host, port, type):
        unreachable = (socket.AF_INET, 4711, 0, "", ("127.0.0.1", port))
        return [unreachable, (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(usage.socket, "getaddrinfo", resolve)
    with flowcore.load(config()):
        pass
    assert [json.loads(collector.take())["event"] for _ in range(2)] == ["start", "end"]


def test_a_name_that_resolves_later_is_asked_for_again(collector, config, monkeypatch):
    resolve = socket.getaddrinfo
    asked = []

    def late(*arguments, **options):
        asked.append(arguments)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(*arguments, **options)

    monkeypatch.setattr(usage.socket, "getaddrinfo", late)
    with flowcore.load(config()):
        pass
    assert json.loads(collector.take())["event"] == "end"
    assert len(asked) == 2


def test_no_thread_can_be_had(collector, config, monkeypatch, caplog):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "flowcore-usage":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with caplog.at_level(logging.INFO, "flowcore"), flowcore.load(config()):
        assert divide(4, 2).result(WAIT_S) == 2
    assert "usage tracking is on, and nothing is sent: can't start new thread" in caplog.text
    assert collector.nothing_came()


def test_a_resolver_that_hangs_holds_nothing_up(collector, config, monkeypatch):
    asked, answer = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def hang(*arguments, **options):
        asked.set()
        assert answer.wait(WAIT_S)
        return resolve(*arguments, **options)

    monkeypatch.setattr(usage.socket, "getaddrinfo", hang)
    # The bound is the promise; what is asserted is that neither waits for the answer, which comes after both.
    with flowcore.load(config()):
        assert asked.wait(WAIT_S)
        assert divide(4, 2).result(WAIT_S) == 2
        before = time.monotonic()
        waited = []
        join = threading.Thread.join

        def joined(thread, timeout=None):
            if thread.name == "flowcore-usage":
                waited.append(timeout)
            return join(thread, timeout)

        monkeypatch.setattr(threading.Thread, "join", joined)
    assert time.monotonic() - before < WAIT_S
    assert waited == [usage.PATIENCE_S]
    assert usage.PATIENCE_S < 1
    [thread] = [t for t in threading.enumerate() if t.name == "flowcore-usage"]
    assert thread.daemon
    answer.set()
    join(thread, WAIT_S)
    assert not thread.is_alive()
    # It came too late: the run is over, and nothing is sent any more.
    assert collector.nothing_came()


def test_a_hanging_resolver_does_not_keep_a_program_alive(tmp_path):
    program = """
import socket, sys, threading
def hang(*a, **k):
    threading.Event().wait()
socket.getaddrinfo = hang
import flowcore
flowcore.load({"usage_tracking": True, "run_dir": sys.argv[1]})
"""

    environment = {**os.environ, "FLOWCORE_USAGE_ADDRESS": "collector.invalid:9"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=WAIT_S, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_no_process_is_started(collector, config, monkeypatch):
    # A report is made without asking a command such as uname(1).
    monkeypatch.setattr(subprocess, "Popen", failing(AssertionError("a process")))
    monkeypatch.setattr(platform, "_uname_cache", None, raising=False)
    with flowcore.load(config()):
        pass
    assert [json.loads(collector.take())["event"] for _ in range(2)] == ["start", "end"]
