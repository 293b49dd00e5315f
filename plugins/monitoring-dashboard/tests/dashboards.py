"""What tests ask of a dashboard: runs of all kinds, a client without a network, the command as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import attrs
import httpx
import pytest
from make_database import MadeRun, engine_of, write

#: Seconds that a dashboard may take to start, or to end.
WAIT_S = 20.0


@attrs.define
class Runs:
    """A database with runs of all kinds.

    Attributes:
        url: of the database.
        small: a run that is over, of tasks that are few enough to be drawn one by one.
        large: one that is over, with more.
        stopped: an interrupted one.
        going: one that goes on, halfway.
    """

    url: str
    small: MadeRun
    large: MadeRun
    stopped: MadeRun
    going: MadeRun


def make_runs(url: str) -> Runs:
    """Write runs of all kinds."""
    now = time.time()
    small = MadeRun(120, now - 7200, seed=2, workers=8, nodes=2, failing=0.06)
    large = MadeRun(1500, now - 3600, seed=3, name="large.py", workers=40)
    stopped = MadeRun(200, now - 1800, seed=4, name="stopped.py", workers=8, nodes=2)
    going = MadeRun(400, now - 40, seed=5, name="going.py", workers=16)
    engine = engine_of(url)
    with engine.begin() as connection:
        write(connection, small)
        write(connection, large)
        write(connection, stopped, stopped.began + 30, "interrupted")
        write(connection, going, going.began + 40)
    engine.dispose()
    return Runs(url, small, large, stopped, going)


class Client:
    """Asks an application, without a network in between.

    Args:
        app: the application.
        base: scheme, host and port that it is asked under.
    """

    def __init__(self, app: Any, base: str = "http://127.0.0.1:8080") -> None:
        self._app = app
        self._base = base
        self.cookies = httpx.Cookies()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask, follow nothing, and keep cookies as a browser does."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self._base, cookies=self.cookies) as client:
                answer = await client.request(method, path, **options)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask with GET."""
        return self.request("GET", path, **options)


@attrs.define
class Served:
    """A dashboard that runs as a process; ``address`` is what it printed, ``base`` that without path and token."""

    process: subprocess.Popen[str]
    address: str
    output: str

    @property
    def base(self) -> str:
        return self.address.partition("/?")[0].rstrip("/")

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal, and return the exit code and what was printed since."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, rest


@contextlib.contextmanager
def dashboard(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Served]:
    """Run ``flowcore dashboard`` on a free port until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flowcore", "dashboard", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    output, deadline = "", time.monotonic() + WAIT_S
    try:
        while "ends it" not in output:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, left))
            # Not readline, whose buffer select() does not see.
            more = os.read(process.stdout.fileno(), 4096).decode() if ready else ""
            if not more:
                process.kill()
                pytest.fail(f"the dashboard did not start: {output}{process.communicate()[0]}")
            output += more
        found = re.search(r"dashboard: (\S+)", output)
        assert found, output
        yield Served(process, found[1], output)
    finally:
        if process.poll() is None:
            process.terminate()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=WAIT_S)
        process.stdout.close()
