"""The provider of hosts without a scheduler, on this host; tests/integration/test_clusters.py tries it on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore.channels import LocalChannel
from flowcore.errors import ConfigurationError, SchedulerUnavailable, SSHException
from flowcore.plugins.api import JobState, JobStatus, ProviderContext, component
from flowcore.providers import AdHocProvider
from flowcore.testing import ProviderContract, eventually


@component
class OtherHost(LocalChannel):
    """This host, as if it were another: files are copied, and the connection may fail."""

    hostname: str = "other"
    script_dir: str | None = None
    dead: bool = attrs.field(default=False, init=False)
    on_this_host = False

    def execute_wait(self, cmd: str, *more: Any) -> tuple[int, str, str]:
        if self.dead:
            raise SSHException(OSError("no route"), self.hostname)
        return super().execute_wait(cmd, *more)


class TestAdHocProviderOnTwoHosts(ProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> Any:
        return AdHocProvider(
            channels=[OtherHost(hostname=name, script_dir=str(tmp_path / name)) for name in ("h1", "h2")]
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def start(*names: str, **options: Any) -> Any:
        folder = tmp_path / "submit_scripts"
        folder.mkdir(exist_ok=True)
        hosts = [OtherHost(hostname=name, script_dir=str(tmp_path / name)) for name in names or ("h1",)]
        provider = AdHocProvider(channels=hosts, **options)
        provider.start(ProviderContext(folder, "label", "0123456789"))
        started.append(provider)
        return provider

    yield start
    for provider in started:
        for channel in provider.channels:
            channel.dead = False
        provider.cancel(list(provider._jobs))
        provider.close()


def end(provider: Any, job: str) -> JobStatus:
    def over() -> JobStatus | None:
        (status,) = provider.status([job])
        return status if status.terminal else None

    status = eventually(over, 30, "the end of the job")
    assert status is not None
    return status


def test_one_block_for_each_host(start: Callable[..., Any]) -> None:
    provider = start("h1", "h2", "h3")
    assert (provider.min_blocks, provider.init_blocks, provider.max_blocks, provider.nodes_per_block) == (3, 3, 3, 1)
    jobs = [provider.submit("sleep 600", 1) for _ in range(3)]
    assert sorted(job.split("/")[0] for job in jobs) == ["h1", "h2", "h3"]
    assert provider.cancel(jobs) == [True] * 3
    # The one that is free.
    provider.status(jobs)
    again = [provider.submit("sleep 600", 1) for _ in range(2)]
    provider.cancel(again[:1])
    provider.status(again)
    assert provider.submit("sleep 600", 1).split("/")[0] != again[1].split("/")[0]


def test_what_a_command_names_is_where_its_host_has_it(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start("h1", "h2")
    secret = tmp_path / "secret.json"
    secret.write_text("key\n")
    placed = provider.place(secret)
    assert placed == str(tmp_path / "h1" / "flowcore-01234567-label" / "secret.json")
    jobs = [provider.submit(f"echo '{placed}'; cat '{placed}'", 1) for _ in range(2)]
    outs = sorted((end(provider, job).stdout or "").splitlines()[-2:] for job in jobs)
    assert [line[0].split("/")[-3] for line in outs] == ["h1", "h2"]
    assert [line[1] for line in outs] == ["key", "key"]
    provider.close()
    assert not list(tmp_path.glob("h?/*/secret.json"))


def test_worker_init_runs_before_the_command(start: Callable[..., Any]) -> None:
    provider = start(worker_init="export GREETING=hello")
    status = end(provider, provider.submit("echo $GREETING", 1))
    assert "hello" in (status.stdout or "").splitlines()


def test_hosts_that_see_the_run_directory_get_no_copies(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start("h1", move_files=False)
    status = end(provider, provider.submit("echo here", 1, "name"))
    assert status.stdout_path == str(tmp_path / "submit_scripts" / "name.sh.out")
    assert provider.place(tmp_path / "file") == str(tmp_path / "file")
    assert not (tmp_path / "h1").exists()


def test_a_host_that_takes_too_long(start: Callable[..., Any]) -> None:
    provider = start(cmd_timeout=0.5)
    job = provider.submit("sleep 600", 1)
    # Whatever is asked of this host from now on hangs.
    run = provider.channels[0].execute_wait
    provider.channels[0].execute_wait = lambda cmd, *more: run(f"sleep 30; {cmd}", *more)
    (status,) = provider.status([job])
    assert status.state is JobState.UNKNOWN
    assert "killed after 0.5 s" in str(status.message)
    provider.channels[0].execute_wait = run


def test_a_host_that_cannot_be_reached(start: Callable[..., Any]) -> None:
    provider = start("h1", "h2")
    provider.channels[0].dead = True
    with pytest.raises(SchedulerUnavailable, match="channel to h1: the ssh session failed"):
        provider.submit("sleep 600", 1)
    # Those that can be are asked first.
    job = provider.submit("sleep 600", 1)
    assert job.startswith("h2/")
    provider.channels[1].dead = True
    (status,) = provider.status([job])
    assert status.state is JobState.UNKNOWN
    assert "no answer from h2" in str(status.message)
    assert provider.cancel([job]) == [False]
    provider.channels[1].dead = False
    assert provider.status([job])[0].state is JobState.RUNNING
    assert provider.cancel([job]) == [True]


def test_a_block_that_was_killed(start: Callable[..., Any]) -> None:
    provider = start()
    job = provider.submit("kill -KILL -- -${FLOWCORE_JOB%/*}", 1)
    status = end(provider, job)
    assert status.state is JobState.FAILED
    assert status.message == "its processes on h1 were killed, or that host was restarted"


def test_a_number_that_is_somebody_elses_now(start: Callable[..., Any]) -> None:
    provider = start()
    job = provider.submit("sleep 600", 1, "name")
    host, pid, started = job.split("/")
    other = start()
    other.adopt(f"{host}/{pid}/{int(started) - 1}", "name")
    other.adopt(job, "name")
    assert [s.state for s in other.status([f"{host}/{pid}/{int(started) - 1}", job])] == [
        JobState.FAILED,
        JobState.RUNNING,
    ]
    assert other.cancel([f"{host}/{pid}/{int(started) - 1}"]) == [True]
    assert provider.status([job])[0].state is JobState.RUNNING
    assert other.cancel([job]) == [True]
    assert end(provider, job).state is JobState.FAILED


def test_a_block_is_found_by_its_name(start: Callable[..., Any]) -> None:
    provider, other = start("h1", "h2"), start("h1", "h2")
    job = provider.submit("sleep 600", 1, "name")
    eventually(lambda: other.find("name") == [job], 20, "the block")
    assert other.find("another") == []
    (found,) = other.find("name")
    other.adopt(found, "name")
    assert other.status([found])[0].state is JobState.RUNNING
    other.channels[0].dead = True
    assert other.find("name") is None
    other.channels[0].dead = False
    assert other.cancel([found]) == [True]
    assert end(provider, job).state is JobState.FAILED


def test_a_dry_run(tmp_path: Path) -> None:
    context = ProviderContext(tmp_path, "label")
    (tmp_path / "file").write_text("")
    provider = AdHocProvider(
        channels=[
            OtherHost(hostname="h1", script_dir=str(tmp_path / "h1")),
            OtherHost(hostname="h2", script_dir=str(tmp_path / "file")),
        ]
    )
    first, second = provider.dry_run(context, "true", 1)
    assert first.ok
    assert first.text == f"h1 can run a block; scripts go to {tmp_path}/h1/flowcore-label"
    assert "file/flowcore-label on h2" in second.text
    assert second.todo == "mend the channel, or set its script_dir to a folder of yours"


def test_parallelism_is_a_share() -> None:
    with pytest.raises(ConfigurationError, match=r"AdHocProvider\(parallelism=5\): must be from 0 to 1"):
        AdHocProvider(channels=[LocalChannel()], parallelism=5)


def test_without_hosts() -> None:
    with pytest.raises(ConfigurationError, match="give a channel to each host"):
        AdHocProvider()
