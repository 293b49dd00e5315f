"""rsync between hosts: workers that see no file of the submit side, over ssh to a real sshd and from a real daemon."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowcore
from flowcore import File, bash_app, python_app
from flowcore.builtin.rsync_staging import RSyncStaging
from flowcore.errors import DependencyError, TransferError
from flowcore.plugins import transfer
from flowcore.testing import hosts as pretended
from flowcore.testing import sshd
from flowcore.testing.hosts import Hosts
from flowcore.testing.rsync_server import RsyncDaemon
from flowcore.testing.servers import need, unavailable
from flowcore.testing.sshd import SSHServers

pytest.importorskip("flowcore_executor_htex")

Run = Callable[..., flowcore.DataFlowKernel]


@pytest.fixture(scope="module")
def servers() -> Iterator[SSHServers]:
    need("rsync")
    sshd.require()
    with SSHServers("key") as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.01)


def ssh(servers: SSHServers, port: int, key: Path | None = None) -> str:
    """A command for ssh that reads nothing of this user's own."""
    options = {
        "UserKnownHostsFile": servers.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": key or servers.key,
    }
    return " ".join(["ssh", "-F", "none", "-p", str(port), *(f"-o {name}={value}" for name, value in options.items())])


def htex(stager: RSyncStaging, **provider: Any) -> dict[str, Any]:
    return {
        "plugin": "htex",
        "label": "htex",
        "max_workers_per_node": 2,
        "storage_access": [stager],
        "provider": {"plugin": "local", "init_blocks": 1, "max_blocks": 1, **provider},
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Where workers are: not where the program is."""
    (tmp_path / "elsewhere" / "tmp").mkdir(parents=True)
    return tmp_path / "elsewhere"


def there(elsewhere: Path, more: str = "") -> str:
    return f"cd {elsewhere}; export TMPDIR={elsewhere}/tmp; {more}"


@python_app
def shout(inputs: tuple[File, ...] = (), outputs: tuple[File, ...] = ()) -> tuple[str, str]:
    import os
    from pathlib import Path

    Path(outputs[0].filepath).write_text(Path(inputs[0].filepath).read_text().upper())
    return os.getcwd(), inputs[0].filepath


@bash_app
def count(inputs: tuple[File, ...] = (), outputs: tuple[File, ...] = ()) -> str:
    import shlex

    return f"wc -c < {shlex.quote(inputs[0].filepath)} > {shlex.quote(outputs[0].filepath)}"


def failure(future: Any) -> Any:
    error = future.exception(60)
    if isinstance(error, DependencyError):
        error = error.root_causes[0][0]
    return error


def test_over_ssh_to_where_the_program_is(servers, load, tmp_path, elsewhere):
    """Relative paths, names of all kinds, a chain of tasks; nothing is left where the worker was."""
    server = servers["key"]
    stager = RSyncStaging(f"root@{server.address}", ssh_command=ssh(servers, server.port))
    load(executors=[htex(stager, worker_init=there(elsewhere))])
    made = []
    for name in ("plain.txt", "two words $HOME 'q'.txt", "-é*[x]?.txt"):
        (tmp_path / name).write_text(f"content of {name}")
        shouted = shout(inputs=[File(name)], outputs=[File(f"out/{name}")])
        counted = count(inputs=[shouted.outputs[0]], outputs=[File(f"out/deeper/{name}.count")])
        made.append((name, shouted, counted))
    for name, shouted, counted in made:
        cwd, path = shouted.result(60)
        assert cwd == str(elsewhere)
        assert path.startswith(f"{elsewhere}/tmp/")
        counted.outputs[0].result(60)
        content = f"content of {name}"
        assert (tmp_path / "out" / name).read_text() == content.upper()
        assert int((tmp_path / "out" / "deeper" / f"{name}.count").read_text()) == len(content.encode())
    assert list(elsewhere.rglob("*")) == [elsewhere / "tmp"]


def test_a_daemon_that_every_task_reaches(load, tmp_path, elsewhere):
    need("rsync")
    with RsyncDaemon(tmp_path / "far", "me", "pass word") as daemon:
        (daemon.root / "a b.txt").write_text("content")
        load(executors=[htex(RSyncStaging(), worker_init=there(elsewhere))])
        futures = [
            shout(inputs=[File(daemon.url("a b.txt"))], outputs=[File(daemon.url(f"out/{i}.txt"))]) for i in range(10)
        ]
        for i, future in enumerate(futures):
            future.outputs[0].result(60)
            assert (daemon.root / "out" / f"{i}.txt").read_text() == "CONTENT"
        error = failure(shout(inputs=[File(daemon.url("b.txt"))], outputs=[File(daemon.url("c.txt"))]))
        assert isinstance(error, TransferError)
        assert "No such file or directory" in str(error)
        assert "word" not in f"{error!r}{error.__notes__}{error.args}"


def test_workers_on_a_host_with_files_of_its_own(tmp_path):
    """The worker's host sees nothing of the folder, and the ssh server is on another one that does."""
    need("rsync")
    pretended.require()
    sshd.require()
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("content")
    with Hosts(2) as hosts, SSHServers(hosts=hosts) as servers:
        worker, submit = hosts
        hidden = worker.run("mount", "-t", "tmpfs", "none", str(data))
        assert hidden.returncode == 0, hidden.stderr
        stager = RSyncStaging(f"root@{submit.address}", ssh_command=ssh(servers, 22))
        executor = htex(stager, launcher={"plugin": "wrapped", "prepend": worker.prefix})
        executor["address"] = hosts.head
        with flowcore.load({"executors": [executor], "run_dir": str(tmp_path / "runinfo")}):
            assert seen(str(data)).result(60) == (worker.name, [])
            done = shout(inputs=[File(data / "a.txt")], outputs=[File(data / "out" / "b.txt")])
            done.outputs[0].result(60)
            assert seen(str(data)).result(60) == (worker.name, [])
        assert (data / "out" / "b.txt").read_text() == "CONTENT"


@python_app
def seen(folder: str) -> tuple[str, list[str]]:
    import os
    import socket

    return socket.gethostname(), os.listdir(folder)


def test_connections_of_ssh_can_be_shared(servers, tmp_path):
    """A master that goes on after the first copy holds nothing up."""
    server = servers["key"]
    logins = server.log.count("Accepted publickey")
    shared = f"{ssh(servers, server.port)} -o ControlMaster=auto -o ControlPath={tmp_path}/c -o ControlPersist=600"
    stager = RSyncStaging(f"root@{server.address}", ssh_command=shared)
    try:
        for i in range(3):
            (tmp_path / f"{i}").write_text(str(i))
            stager.fetch(File(tmp_path / f"{i}"), tmp_path / "got")
            assert (tmp_path / "got").read_text() == str(i)
        with pytest.raises(TransferError):
            stager.fetch(File(tmp_path / "no"), tmp_path / "got")
        assert server.log.count("Accepted publickey") == logins + 1
    finally:
        subprocess.run(
            [*shared.split(), "-O", "exit", f"root@{server.address}"], capture_output=True, check=True, timeout=30
        )


# --- faults, where the task runs


def test_no_rsync_where_the_task_runs(servers, load, tmp_path, elsewhere):
    server = servers["key"]
    (tmp_path / "a.txt").write_text("a")
    # All programs but rsync.
    (elsewhere / "bin").mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            if program.name != "rsync" and not (elsewhere / "bin" / program.name).exists():
                (elsewhere / "bin" / program.name).symlink_to(program)
    stager = RSyncStaging(f"root@{server.address}", ssh_command=ssh(servers, server.port))
    load(executors=[htex(stager, worker_init=there(elsewhere, f"export PATH={elsewhere}/bin"))])
    error = failure(shout(inputs=[File("a.txt")], outputs=[File("b.txt")]))
    assert f"there is no program rsync on {os.uname().nodename}, where the task runs (PATH: {elsewhere}/bin)" in str(
        error
    )
    assert "apt-get install rsync" in str(error)


@pytest.fixture
def fetch(servers: SSHServers, tmp_path: Path) -> Callable[..., TransferError]:
    """Returns how fetching a file over ssh fails."""

    def fetch(path: str = "/etc/passwd", user: str = "root", key: Path | None = None, port: int = 0) -> TransferError:
        server = servers["key"]
        stager = RSyncStaging(
            f"{user}@{server.address}", ssh_command=ssh(servers, port or server.port, key), attempts=2
        )
        with pytest.raises(TransferError) as caught:
            stager.fetch(File(path), tmp_path / "got")
        assert not (tmp_path / "got").exists()
        assert not list(tmp_path.glob(".*"))
        return caught.value

    return fetch


def test_no_such_file_and_no_permission(servers, fetch):
    for path in ("/no/such/file", "/etc/no-such-file"):
        error = fetch(path)
        assert "No such file or directory" in str(error)
        assert path.rpartition("/")[0] in str(error)
        assert not error.passing
    secret = servers.home / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    error = fetch(str(secret), user=servers.user)
    assert "Permission denied (13)" in str(error)
    assert "ssh_command" not in str(error), "this is no failure to log in"
    assert not error.passing


def test_no_key_that_is_accepted(servers, fetch):
    error = fetch(key=servers.new_key(accepted=False))
    assert "ended with 255 (ssh failed): " in str(error)
    assert "Permission denied (publickey)" in str(error)
    assert "Have a key that is accepted there where tasks run, or name one in ssh_command" in str(error)
    assert not error.passing


def test_a_host_key_that_is_not_known(servers, fetch):
    servers["key"].change_host_key()
    try:
        error = fetch()
        assert "Host key verification failed." in str(error)
        assert "Have that host's key in known_hosts where tasks run (see worker_init)" in str(error)
        assert not error.passing
    finally:
        # The others know it again.
        server = servers["key"]
        scanned = subprocess.run(
            ["ssh-keyscan", "-p", str(server.port), server.address], capture_output=True, text=True, timeout=30
        )
        servers.known_hosts.write_text(scanned.stdout)


def test_nobody_listens(servers, fetch):
    servers["key"].stop()
    try:
        error = fetch()
    finally:
        servers["key"].start()
    assert "Connection refused" in str(error)
    assert error.passing
    assert "flowcore: tried 2 times" in error.__notes__


def test_no_rsync_on_the_other_side(servers, tmp_path):
    server = servers["key"]
    stager = RSyncStaging(
        f"root@{server.address}", ["--rsync-path=no-such-rsync"], ssh_command=ssh(servers, server.port)
    )
    with pytest.raises(TransferError) as caught:
        stager.fetch(File("/etc/passwd"), tmp_path / "got")
    # With 127 or 12: who is told first.
    assert "no-such-rsync: command not found\nInstall rsync on that host" in str(caught.value)
    assert not caught.value.passing


def test_a_connection_that_is_dropped_is_gone_on_with(servers, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from flowcore.testing import eventually

    server = servers["key"]
    content = os.urandom(8_000_000)
    (tmp_path / "big").write_bytes(content)
    (tmp_path / "near").mkdir()
    stats = tmp_path / "stats"
    stager = RSyncStaging(
        f"root@{server.address}",
        ["--bwlimit=4m", f"--log-file={stats}", "--log-file-format=%n received %b"],
        ssh_command=ssh(servers, server.port),
    )
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stager.fetch, File(tmp_path / "big"), tmp_path / "near" / "got")
        eventually(
            lambda: future.done() or any(p.stat().st_size > 1_000_000 for p in (tmp_path / "near").rglob(".big.*")),
            what="the first megabyte",
        )
        server.drop_connections()
        future.result(60)
    assert (tmp_path / "near" / "got").read_bytes() == content
    received = [
        int(line.split()[-1].replace(",", ""))
        for line in stats.read_text().splitlines()
        if " received " in line and "big" in line
    ]
    assert received and received[-1] < 7_500_000
    assert list((tmp_path / "near").iterdir()) == [tmp_path / "near" / "got"]


def test_a_disk_that_is_full_at_the_other_side(tmp_path):
    """A small file system that only the other side has; it lists what is left there before it goes."""
    need("rsync", "unshare", "mount")
    if os.geteuid() != 0:
        unavailable("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    fake = tmp_path / "ssh"
    fake.write_text(
        "#!/bin/sh\nshift 3\n"
        'exec unshare --mount sh -c \'mount -t tmpfs -o size=1m none "$0" && echo earlier > "$0/a" || exit 99\n'
        f'sh -c "$1"; code=$?; ls -A "$0" > {tmp_path}/listing; cat "$0/a" >> {tmp_path}/listing; exit $code\' '
        f'{small} "$*"\n'
    )
    fake.chmod(0o755)
    (tmp_path / "made").write_bytes(os.urandom(3_000_000))
    with pytest.raises(TransferError) as caught:
        RSyncStaging("me@far", ssh_command=str(fake)).push(File(small / "a"), tmp_path / "made")
    assert "No space left on device" in str(caught.value)
    assert not caught.value.passing
    assert (tmp_path / "listing").read_text() == "a\nearlier\n"


def test_a_disk_that_is_full_where_the_task_runs(servers, load, tmp_path, elsewhere):
    """Nothing is left there, so that other tasks find room."""
    need("unshare", "mount")
    server = servers["key"]
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    (tmp_path / "small").write_text("content")
    stager = RSyncStaging(f"root@{server.address}", ssh_command=ssh(servers, server.port))
    mounted = f"unshare --mount sh -c 'mount -t tmpfs -o size=1m none {elsewhere}/tmp && exec \"$@\"' sh"
    load(
        executors=[htex(stager, worker_init=there(elsewhere), launcher={"plugin": "wrapped", "prepend": mounted})],
        retries=0,
    )
    error = failure(shout(inputs=[File("big")], outputs=[File("b.txt")]))
    assert isinstance(error, TransferError)
    assert "No space left on device" in str(error)
    shout(inputs=[File("small")], outputs=[File("b.txt")]).outputs[0].result(60)
    assert (tmp_path / "b.txt").read_text() == "CONTENT"
    assert seen(f"{elsewhere}/tmp").result(60)[1] == []
