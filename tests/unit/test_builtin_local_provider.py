"""The provider of this host, where it says more than the contract."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcore.channels import LocalChannel
from flowcore.errors import BadLauncher, ConfigurationError, ScaleOutFailed
from flowcore.launchers import SimpleLauncher
from flowcore.plugins.api import Channel, JobState, JobStatus, ProviderContext
from flowcore.providers import LocalProvider
from flowcore.testing import eventually, processes


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def start(**options: Any) -> Any:
        provider = LocalProvider(**{"launcher": SimpleLauncher(), **options})
        scripts = tmp_path / "scripts"
        scripts.mkdir()
        provider.start(ProviderContext(scripts, "label"))
        started.append(provider)
        return provider

    yield start
    for provider in started:
        provider.cancel(list(provider._jobs))


def end(provider: Any, job: str) -> JobStatus:
    def ended() -> JobStatus | None:
        (status,) = provider.status([job])
        return status if status.terminal else None

    status = eventually(ended, 30, "the end of the job")
    assert status is not None
    return status


def test_the_script_says_what_is_run(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start(worker_init="source env.sh\nexport X=1")
    provider.cores_per_node = 3
    provider.mem_per_node = 1.5
    end(provider, provider.submit("true", 1, "flowcore.label.block-0"))
    assert (tmp_path / "scripts" / "flowcore.label.block-0.sh").read_text() == (
        "#!/bin/bash\n"
        "export JOBNAME=flowcore.label.block-0\n"
        "export FLOWCORE_CORES=3\n"
        "export FLOWCORE_MEMORY_GB=1.5\n"
        "source env.sh\n"
        "export X=1\n"
        "true\n"
    )


def test_jobs_of_one_name_have_scripts_of_their_own(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start()
    # The first one is still being read by its bash when the second one is written.
    first = provider.submit(f"until [ -e '{tmp_path}/go' ]; do sleep 0.01; done\necho first", 1, "name")
    second = provider.submit("echo second", 1, "name")
    assert end(provider, second).stdout == "second\n"
    (tmp_path / "go").touch()
    assert end(provider, first).stdout == "first\n"
    names = sorted(p.name for p in (tmp_path / "scripts").glob("*.sh"))
    assert names == ["name.1.sh", "name.sh"]


def test_a_cancelled_worker_may_put_things_in_order(start: Callable[..., Any], tmp_path: Path) -> None:
    # bash, which runs the script, ends at once; the worker behind it takes its time.
    (tmp_path / "worker.sh").write_text(
        f"trap 'sleep 0.5; touch {tmp_path}/tidied; exit 0' TERM\n"
        f"touch {tmp_path}/ready\nwhile true; do sleep 0.05; done\n"
    )
    provider = start()
    job = provider.submit(f"/bin/bash {tmp_path}/worker.sh &\nwait", 1)
    eventually((tmp_path / "ready").exists, 30, "the worker")
    assert provider.cancel([job]) == [True]
    assert (tmp_path / "tidied").exists()
    assert provider.status([job])[0].state is JobState.CANCELLED


def test_what_a_script_leaves_running_ends_with_it(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start()
    job = provider.submit(f"sleep 600 & echo $! > '{tmp_path}/pid'; exit 1", 1)
    assert end(provider, job).state is JobState.FAILED
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not processes.alive(pid), 10, "the end of what was left")


def test_a_job_that_was_killed(start: Callable[..., Any]) -> None:
    provider = start()
    job = provider.submit("kill -KILL $$", 1)
    status = end(provider, job)
    assert (status.state, status.exit_code) == (JobState.FAILED, -signal.SIGKILL)
    assert status.message == "killed by signal 9 (SIGKILL)"


def test_an_unknown_id(start: Callable[..., Any]) -> None:
    provider = start()
    (status,) = provider.status(["7"])
    assert status.state is JobState.UNKNOWN
    assert status.message == "no block of this provider has the id 7"
    assert provider.cancel(["7"]) == [False]


def test_what_cannot_be_started(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start()
    (tmp_path / "scripts").rmdir()
    with pytest.raises(ScaleOutFailed) as caught:
        provider.submit("true", 1, "x")
    assert str(caught.value).startswith("provider 'local' could not submit a block: cannot start ")
    assert "No such file or directory" in str(caught.value)


class OtherHost(LocalChannel):
    """Is a LocalChannel, and so accepted."""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"min_blocks": 4, "init_blocks": 1, "max_blocks": 3},
            "LocalProvider(min_blocks=4, init_blocks=1, max_blocks=3): min_blocks and init_blocks must be from 0 to ",
        ),
        ({"init_blocks": 2}, "min_blocks and init_blocks must be from 0 to max_blocks"),
        ({"nodes_per_block": 0}, "LocalProvider(nodes_per_block=0): must be at least 1"),
        ({"parallelism": -1}, "LocalProvider(parallelism=-1): must be from 0 to 1"),
        ({"launcher": "single_node"}, "LocalProvider(launcher='single_node'): expected Launcher, got str"),
        ({"max_block": 2}, "LocalProvider has no option 'max_block' (did you mean 'max_blocks'?)"),
    ],
)
def test_options_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LocalProvider(**options)
    assert text in str(caught.value)


def test_it_is_for_this_host() -> None:
    assert LocalProvider(channel=OtherHost()).channel.execute_wait("true", 10)[0] == 0
    far = type("FarChannel", (Channel,), dict.fromkeys(Channel.__abstractmethods__))()
    with pytest.raises(ConfigurationError, match="runs on this host, through a LocalChannel"):
        LocalProvider(channel=far)


def test_a_launcher_that_is_none() -> None:
    with pytest.raises(BadLauncher, match="expected Launcher, got builtin_function_or_method"):
        LocalProvider(launcher=print)


# --- blocks that another process has started


def other(provider: Any) -> Any:
    """A provider of the same options, as another process would make it."""
    made = LocalProvider(launcher=SimpleLauncher())
    made.start(provider._context)
    return made


def test_a_block_of_another_provider_is_adopted(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start()
    job = provider.submit(f"echo hello; sleep 600 & echo $! > '{tmp_path}/pid'; wait", 1, "b0")
    child = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()))
    adopting = other(provider)
    adopting.adopt(job, "b0")
    adopting.adopt(job, "b0")
    (status,) = adopting.status([job])
    assert (status.state, status.stdout) == (JobState.RUNNING, "hello\n")
    assert adopting.cancel([job]) == [True]
    assert adopting.status([job])[0].state is JobState.CANCELLED
    eventually(lambda: processes.gone(child), 10)
    assert provider.status([job])[0].state is JobState.FAILED, "who started it was not asked"


def test_a_block_that_has_ended_is_adopted(start: Callable[..., Any]) -> None:
    provider = start()
    job = provider.submit("exit 3", 1, "b0")
    end(provider, job)
    adopting = other(provider)
    adopting.adopt(job, "b0")
    (status,) = adopting.status([job])
    assert (status.state, status.exit_code) == (JobState.COMPLETED, None)
    assert status.message == "it has ended, and nothing tells how"
    assert adopting.cancel([job]) == [True]


def test_a_group_of_the_same_number_is_not_the_block(start: Callable[..., Any]) -> None:
    provider = start()
    job = provider.submit("sleep 600", 1, "another")
    adopting = other(provider)
    adopting.adopt(job, "b0")
    assert adopting.status([job])[0].state is JobState.COMPLETED
    assert adopting.cancel([job]) == [True]
    assert provider.status([job])[0].state is JobState.RUNNING


def test_blocks_are_found_by_their_names(start: Callable[..., Any], tmp_path: Path) -> None:
    provider = start()
    first = provider.submit("sleep 600; true", 1, "b0")
    provider.submit("sleep 600; true", 1, "b01")
    # The script has ended, what it started goes on; nobody has looked since.
    left = provider.submit(f"sleep 600 & touch '{tmp_path}/left'", 1, "b2")
    eventually((tmp_path / "left").exists)
    finding = other(provider)
    assert finding.find("b0") == [first]
    assert finding.find("b2") == [left]
    assert finding.find("b") == []
    provider.cancel([first])
    assert finding.find("b0") == []
