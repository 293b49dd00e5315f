"""The rsync daemon of the testing kit: it serves what it should, stops and starts, and goes with its maker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flowcore.testing import processes
from flowcore.testing.rsync_server import RsyncDaemon
from flowcore.testing.servers import need
from flowcore.testing.waiting import eventually


@pytest.fixture(autouse=True)
def rsync():
    need("rsync")


def rsync_to(source: str, target: Path | str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", **options}
    return subprocess.run(
        ["rsync", str(source), str(target)], env=environment, capture_output=True, text=True, timeout=30
    )


def test_it_serves_a_folder_to_read_and_to_write(tmp_path):
    with RsyncDaemon(tmp_path / "root") as daemon:
        (daemon.root / "a.txt").write_text("a")
        assert daemon.prefix == f"rsync://127.0.0.1:{daemon.port}/files"
        for module in ("files", "readonly"):
            assert rsync_to(daemon.url("a.txt", module), tmp_path / module).returncode == 0
            assert (tmp_path / module).read_text() == "a"
        assert rsync_to(str(tmp_path / "files"), daemon.url("b.txt")).returncode == 0
        assert (daemon.root / "b.txt").read_text() == "a"
        assert "read only" in rsync_to(str(tmp_path / "files"), daemon.url("c.txt", "readonly")).stderr
        assert "rsync allowed access on module readonly" in daemon.log
    assert (daemon.root / "b.txt").exists()


def test_a_user_and_a_password(tmp_path):
    with RsyncDaemon(tmp_path / "root", "me", "a b@c") as daemon:
        (daemon.root / "é ?.txt").write_text("a")
        assert daemon.url("/é ?.txt") == f"rsync://me:a%20b%40c@127.0.0.1:{daemon.port}/files/%C3%A9%20%3F.txt"
        url = f"rsync://me@127.0.0.1:{daemon.port}/files/é ?.txt"
        assert rsync_to(url, tmp_path / "got", RSYNC_PASSWORD="a b@c").returncode == 0
        assert "auth failed" in rsync_to(url, tmp_path / "got", RSYNC_PASSWORD="wrong").stderr


def test_it_can_be_stopped_and_started(tmp_path):
    with RsyncDaemon(tmp_path / "root") as daemon:
        (daemon.root / "a.txt").write_text("a")
        daemon.stop()
        daemon.stop()
        assert "Connection refused" in rsync_to(daemon.url("a.txt"), tmp_path / "got").stderr
        daemon.start()
        assert rsync_to(daemon.url("a.txt"), tmp_path / "got").returncode == 0


def test_connections_can_be_dropped(tmp_path):
    with RsyncDaemon(tmp_path / "root") as daemon:
        (daemon.root / "big").write_bytes(bytes(20_000_000))
        command = ["rsync", "--bwlimit=100k", daemon.url("big"), str(tmp_path / "got")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
            eventually(daemon.connections, what="a connection")
            daemon.drop_connections()
            assert client.wait(30) != 0
        assert daemon.connections() == []
        assert rsync_to(daemon.url("big"), tmp_path / "got").returncode == 0


def test_a_limit_of_connections(tmp_path):
    with RsyncDaemon(tmp_path / "root", max_connections=1) as daemon:
        (daemon.root / "big").write_bytes(bytes(20_000_000))
        command = ["rsync", "--bwlimit=100k", daemon.url("big"), str(tmp_path / "got")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
            eventually(lambda: "rsync on files" in daemon.log, what="a transfer")
            assert "max connections (1) reached" in rsync_to(daemon.url("big"), tmp_path / "other").stderr
            daemon.drop_connections()
            client.wait(30)


def test_one_that_cannot_start_says_why(tmp_path):
    with RsyncDaemon(tmp_path / "root") as first:
        second = RsyncDaemon(tmp_path / "root")
        second.port, second._folder = first.port, tmp_path
        with pytest.raises(RuntimeError, match=f"the port {first.port} is in use: Address already in use"):
            second.start()
        first.stop()
        # Its configuration is not there.
        with pytest.raises(RuntimeError, match=r"rsync --daemon ended with \d+: .*rsyncd.conf"):
            second.start()


def test_it_ends_with_a_maker_that_is_killed(tmp_path):
    program = """
        import sys
        from pathlib import Path
        from flowcore.testing.rsync_server import RsyncDaemon

        with RsyncDaemon(Path("root")) as daemon:
            print(daemon._process.pid, daemon._folder, flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        pid, folder = maker.stdout.readline().split()
        assert processes.alive(int(pid))
        maker.send_signal(signal.SIGKILL)
    eventually(lambda: processes.gone(int(pid)), 10, "the end of the daemon")
    for file in Path(folder.decode()).iterdir():
        file.unlink()
    Path(folder.decode()).rmdir()
