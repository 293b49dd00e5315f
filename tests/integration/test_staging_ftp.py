"""Files of FTP servers come to workers that are not where the program is; from vsftpd too."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import DataFlowKernel, File, bash_app, python_app
from flowcore.errors import TransferError
from flowcore.plugins import registry
from flowcore.testing import processes
from flowcore.testing.ftp_server import Cut, FTPFiles
from flowcore.testing.servers import need, unavailable
from flowcore.testing.waiting import eventually

pytestmark = pytest.mark.skipif(
    "htex" not in [plugin.name for plugin in registry.installed("executor")],
    reason="the executor htex is not installed",
)
WAIT_S = 60
BOTH = pytest.mark.parametrize("plugin", ["ftp", "ftp_in_task"])


@python_app
def seen(*files: File, inputs: Any = ()) -> tuple[str, list[str], list[bytes]]:
    """Return where the task is, the paths of its files, and what is in them."""
    import os

    paths = [file.filepath for file in (*files, *inputs)]
    contents = []
    for path in paths:
        with open(path, "rb") as file:
            contents.append(file.read())
    return os.getcwd(), paths, contents


@python_app
def fails(file: File) -> None:
    raise ValueError(file.filepath)


@bash_app
def count_bytes(file: File, outputs: Any = ()) -> str:
    return f"wc -c < {file.filepath} > {outputs[0].filepath}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FTPFiles]:
    with FTPFiles(tmp_path / "ftp", user=("me", "s3cret")) as server:
        yield server


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.fixture
def start(tmp_path: Path, elsewhere: Path) -> Callable[..., DataFlowKernel]:
    """Loads an htex whose workers are in a folder of their own, with a stager; the run ends with the test."""

    def start(stager: dict[str, Any], retries: int = 0, **options: Any) -> DataFlowKernel:
        executor = {
            "plugin": "htex",
            "label": "htex",
            "max_workers_per_node": 2,
            "provider": {"plugin": "local", "worker_init": f"cd {elsewhere}; mkdir -p tmp; export TMPDIR=$PWD/tmp"},
            "storage_access": [{"plugin": "noop"}, stager],
            **options,
        }
        return flowcore.load(flowcore.Config(executors=[executor], run_dir=tmp_path / "runinfo", retries=retries))

    return start


@BOTH
def test_files_come_to_workers_elsewhere(server: FTPFiles, start: Any, elsewhere: Path, plugin: str) -> None:
    start({"plugin": plugin})
    content = os.urandom(3_000_000)
    large, small = File(server.put("data/a.bin", content)), File(server.put("other/a.bin", b"other"))
    futures = [seen(large, inputs=[small]) for _ in range(8)]
    for future in futures:
        where, paths, contents = future.result(WAIT_S)
        assert where == str(elsewhere)
        assert contents == [content, b"other"]
        assert len(set(paths)) == 2
        assert [Path(path).is_absolute() for path in paths] == [True, True]
        if plugin == "ftp_in_task":
            assert paths[0].startswith(f"{elsewhere}/tmp/")
    if plugin == "ftp_in_task":
        assert list((elsewhere / "tmp").iterdir()) == [], "the attempts' folders are gone"
    assert large.local_path is None


@BOTH
def test_into_the_executors_working_dir(server: FTPFiles, start: Any, tmp_path: Path, plugin: str) -> None:
    start({"plugin": plugin}, working_dir=str(tmp_path / "work"))
    _, (path,), (content,) = seen(File(server.put("a", b"content"))).result(WAIT_S)
    assert Path(path).is_relative_to(tmp_path / "work")
    assert content == b"content"
    assert Path(path).exists() is (plugin == "ftp")


@BOTH
def test_a_command_has_them(server: FTPFiles, start: Any, tmp_path: Path, plugin: str) -> None:
    start({"plugin": plugin})
    made = count_bytes(File(server.put("a b;c", b"12345")), outputs=[File(tmp_path / "count")])
    assert Path(made.outputs[0].result(WAIT_S).filepath).read_text().strip() == "5"


@BOTH
def test_goes_on_after_a_cut(server: FTPFiles, start: Any, plugin: str) -> None:
    start({"plugin": plugin})
    content = os.urandom(1_000_000)
    url = server.put("a", content)
    server.fail("a", Cut(600_000))
    assert seen(File(url)).result(WAIT_S)[2] == [content]
    assert "REST 600000" in server.commands


@BOTH
def test_a_file_that_is_not_there(server: FTPFiles, start: Any, tmp_path: Path, plugin: str) -> None:
    start({"plugin": plugin}, retries=1)
    future = seen(File(server.url("none")))
    error: BaseException | None = future.exception(WAIT_S)
    assert f"cannot fetch ftp://me:...@127.0.0.1:{server.port}/none: the server has no such file" in str(error)
    while error is not None and not isinstance(error, TransferError):
        error = error.__cause__ or getattr(error, "dependent_exceptions_tids", [(None, 0)])[0][0]
    assert isinstance(error, TransferError)
    logs = b"".join(path.read_bytes() for path in (tmp_path / "runinfo").rglob("*") if path.is_file())
    assert b"127.0.0.1" in logs
    assert b"s3cret" not in logs


def test_the_folder_of_an_attempt_that_failed_goes(server: FTPFiles, start: Any, elsewhere: Path) -> None:
    start({"plugin": "ftp_in_task"})
    with pytest.raises(ValueError, match=r"/flowcore-.*/a\b"):
        fails(File(server.put("a", b"content"))).result(WAIT_S)
    assert list((elsewhere / "tmp").iterdir()) == []


@BOTH
def test_a_cache_is_shared_by_tasks(server: FTPFiles, start: Any, elsewhere: Path, plugin: str) -> None:
    start({"plugin": plugin, "cache": True})
    file = File(server.put("a", b"content"))
    for future in [seen(file) for _ in range(10)]:
        assert future.result(WAIT_S)[2] == [b"content"]
    assert [command for command in server.commands if command.startswith("RETR")] == ["RETR a"]


# --- vsftpd


class Vsftpd:
    """The server that is in use where FTP is, for everybody, with files in ``root``."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "pub"
        self.root.mkdir()
        (folder / "empty").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._configuration = folder / "vsftpd.conf"
        self._options = {
            "listen": "YES",
            "listen_address": "127.0.0.1",
            "listen_port": self.port,
            "background": "NO",
            "anonymous_enable": "YES",
            "no_anon_password": "YES",
            "anon_root": self.root,
            "secure_chroot_dir": folder / "empty",
            "connect_from_port_20": "NO",
            "seccomp_sandbox": "NO",
            "isolate": "NO",
            "isolate_network": "NO",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **options: object) -> None:
        lines = [f"{name}={value}\n" for name, value in {**self._options, **options}.items()]
        self._configuration.write_text("".join(lines))
        self._process = subprocess.Popen(["vsftpd", str(self._configuration)], stdin=subprocess.DEVNULL)
        eventually(self._answers, 20, "vsftpd")

    def end_sessions(self) -> int:
        """Kill the processes that serve connections; return how many there were."""
        assert self._process is not None
        found = processes.descendants(self._process.pid, processes.everyone())
        processes.kill(found)
        return len(found)

    def stop(self) -> None:
        if self._process is not None:
            self.end_sessions()
            self._process.kill()
            self._process.wait(20)

    def put(self, name: str, content: bytes) -> File:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return File(f"ftp://127.0.0.1:{self.port}/{name}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.recv(3) == b"220"
        return False


@pytest.fixture
def vsftpd() -> Iterator[Vsftpd]:
    need("vsftpd")
    if os.geteuid() != 0:
        unavailable("only root can start vsftpd")
    # The test's own folder may be entered by its user only, and the server gives up being root.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = Vsftpd(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@BOTH
def test_files_of_vsftpd(vsftpd: Vsftpd, start: Any, plugin: str) -> None:
    vsftpd.start()
    start({"plugin": plugin})
    content = os.urandom(3_000_000)
    file = vsftpd.put("data/a.bin", content)
    for future in [seen(file) for _ in range(4)]:
        assert future.result(WAIT_S)[2] == [content]
    with pytest.raises(Exception, match="the server has no such file for this user: 550 Failed to open file"):
        seen(File(f"ftp://127.0.0.1:{vsftpd.port}/none")).result(WAIT_S)
    with pytest.raises(Exception, match="does not let in the user 'me': 530"):
        seen(File(f"ftp://me:s3cret@127.0.0.1:{vsftpd.port}/data/a.bin")).result(WAIT_S)


def test_vsftpd_is_killed_in_the_middle_and_the_fetch_goes_on(vsftpd: Vsftpd, tmp_path: Path) -> None:
    vsftpd.start(anon_max_rate=2_000_000)
    content = os.urandom(4_000_000)
    file, path = vsftpd.put("a.bin", content), tmp_path / "here" / "a.bin"
    path.parent.mkdir()
    stager = registry.get("staging", "ftp_in_task")()
    fetching = threading.Thread(target=stager.fetch, args=(file, path))
    fetching.start()
    eventually(lambda: [part for part in path.parent.iterdir() if part.stat().st_size > 100_000], 20, "a part")
    assert not path.exists()
    assert vsftpd.end_sessions() >= 1
    fetching.join(WAIT_S)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
