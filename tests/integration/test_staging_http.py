"""Files of web servers come to workers that are not where the program is, also past faults, and once per node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import DataFlowKernel, File, python_app
from flowcore.errors import TransferError
from flowcore.plugins import registry
from flowcore.testing import http_server as server_kit
from flowcore.testing.certificates import Certificates
from flowcore.testing.http_server import HTTPFiles
from flowcore.testing.servers import need

pytestmark = pytest.mark.skipif(
    "htex" not in [plugin.name for plugin in registry.installed("executor")],
    reason="the executor htex is not installed",
)
WAIT_S = 60
BOTH = pytest.mark.parametrize("plugin", ["http", "http_in_task"])


@python_app
def seen(*files: File) -> tuple[int, list[str], list[bytes]]:
    """Return which process has the task, the paths of its files, and what is in them."""
    import os
    import pathlib

    paths = [file.filepath for file in files]
    return os.getpid(), paths, [pathlib.Path(path).read_bytes() for path in paths]


@python_app
def die(file: File) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HTTPFiles]:
    with HTTPFiles(tmp_path / "www") as server:
        yield server


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere" / "scratch").mkdir(parents=True)
    return tmp_path / "elsewhere" / "scratch"


@pytest.fixture
def start(tmp_path: Path, scratch: Path) -> Callable[..., DataFlowKernel]:
    """Loads an htex whose workers are in a folder of their own, with a stager; the run ends with the test."""

    def start(stager: dict[str, Any], retries: int = 0, **options: Any) -> DataFlowKernel:
        executor = {
            "plugin": "htex",
            "label": "htex",
            "max_workers_per_node": 2,
            "provider": {
                "plugin": "local",
                "worker_init": f"cd {scratch.parent}; export SCRATCH={scratch} TMPDIR={scratch}",
            },
            "storage_access": [{"plugin": "noop"}, stager],
            **options,
        }
        return flowcore.load(flowcore.Config(executors=[executor], run_dir=tmp_path / "runinfo", retries=retries))

    return start


@BOTH
def test_past_faults(server: HTTPFiles, start: Any, scratch: Path, plugin: str) -> None:
    content = os.urandom(3_000_000)
    server.put("d/a.bin", content)
    server.fail("d/a.bin", server_kit.Status(500), server_kit.Cut(1_000_000), server_kit.Stall(500_000))
    start({"plugin": plugin, "timeout_s": 1.0})
    _, (path,), (got,) = seen(File(server.url("d/a.bin"))).result(WAIT_S)
    assert got == content
    assert [request.headers.get("range") for request in server.requests] == [
        None,
        None,
        "bytes=1000000-",
        "bytes=1500000-",
    ]
    assert Path(path).is_relative_to(scratch) is (plugin == "http_in_task")


@BOTH
def test_what_stays_wrong_is_said(server: HTTPFiles, start: Any, scratch: Path, plugin: str, tmp_path: Path) -> None:
    start({"plugin": plugin, "attempts": 2}, retries=1)
    server.put("a.bin", b"content")
    server.fail("a.bin", server_kit.Cut(3), always=True)
    cut, missing = seen(File(server.url("a.bin"))), seen(File(server.url("nothing.bin")))
    error = cut.exception(WAIT_S)
    assert type(error) is TransferError
    assert str(error) == f"cannot fetch {server.url('a.bin')}: cut off after 6 of 7 bytes"  # the second went on
    assert "flowcore: tried 2 times" in error.__notes__
    assert any("earlier attempts" in note for note in error.__notes__)
    assert "404 Not Found" in str(missing.exception(WAIT_S))
    assert [
        p for p in tmp_path.rglob("*") if p.name.startswith((".a.bin", "a.bin", "nothing")) and "www" not in p.parts
    ] == []


def test_the_workers_of_a_node_fetch_a_file_once(server: HTTPFiles, start: Any, scratch: Path) -> None:
    url = server.put("a.bin", os.urandom(2_000_000))
    server.fail("a.bin", server_kit.Slow(4_000_000))
    start({"plugin": "http_in_task", "cache": True}, working_dir="$SCRATCH/work")
    futures = [seen(File(url)) for _ in range(20)]
    results = [future.result(WAIT_S) for future in futures]
    assert {process for process, _, _ in results} != set()
    assert len({contents[0] for _, _, contents in results}) == 1
    assert len({paths[0] for _, paths, _ in results}) == 20
    assert len(server.requests) == 1
    assert list((scratch / "work").iterdir()) == []
    (kept,) = scratch.glob("flowcore-cache-*/*/content")
    assert kept.read_bytes() == results[0][2][0]


def test_over_tls_with_a_login(tmp_path: Path, start: Any) -> None:
    need("openssl")
    authority = Certificates(tmp_path / "ca")
    with HTTPFiles(tmp_path / "safe", tls=authority, basic_auth=("me", "s3cret")) as server:
        url = server.put("a.bin", b"content").replace("://", "://me:s3cret@")
        start({"plugin": "http_in_task", "ca_file": str(authority.ca_file)})
        assert seen(File(url)).result(WAIT_S)[2] == [b"content"]
        error = seen(File(url.replace("s3cret", "guessed"))).exception(WAIT_S)
    assert "401 Unauthorized" in str(error)
    logs = b"".join(p.read_bytes() for p in (tmp_path / "runinfo").rglob("*") if p.is_file())
    assert b"s3cret" not in logs and b"guessed" not in logs and b"guessed" not in str(error).encode()


def test_a_worker_that_dies_within_a_task_with_files(server: HTTPFiles, start: Any) -> None:
    """Its folder stays, since nobody is left to remove it; the next task is none the worse."""
    url = server.put("a.bin", b"content")
    start({"plugin": "http_in_task"})
    error = die(File(url)).exception(WAIT_S)
    assert signal.SIGKILL.name in str(error)
    assert seen(File(url)).result(WAIT_S)[2] == [b"content"]
