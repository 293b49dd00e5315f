"""TorqueProvider on a stand-in for Torque, and on the commands of Torque that Slurm has, over a real Slurm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flowcore_provider_pbs.torque import TorqueProvider

from flowcore.launchers import SimpleLauncher, SingleNodeLauncher
from flowcore.plugins.api import JobState, JobStatus, ProviderContext, ScaleOutFailed, SchedulerUnavailable
from flowcore.testing import ProviderContract, eventually
from flowcore.testing.slurm import SlurmCluster

Start = Callable[..., Any]
Make = Callable[..., TorqueProvider]
WAIT_S = 30


class TestContractOnTheStandIn(ProviderContract):
    """What every provider promises."""

    @pytest.fixture
    def provider(self, pbs: Start) -> TorqueProvider:
        pbs(torque=True, name="carah.localdomain")
        return TorqueProvider(launcher=SingleNodeLauncher())


class TestContractOnSlurm(ProviderContract):
    """What every provider promises."""

    @pytest.fixture
    def provider(self, slurm: SlurmCluster) -> TorqueProvider:
        # Three copies are more than its nodes have cores.
        return TorqueProvider(launcher=SingleNodeLauncher(), scheduler_options="#PBS -l nodes=1:ppn=1")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes and starts providers; cancels their jobs and closes them in the end."""
    made: list[tuple[TorqueProvider, list[str]]] = []

    def start(**options: Any) -> TorqueProvider:
        provider = TorqueProvider(**{"launcher": SingleNodeLauncher(), **options})
        folder = tmp_path / f"scripts-{len(made)}"
        folder.mkdir()
        provider.start(ProviderContext(folder, "test"))
        ids: list[str] = []
        made.append((provider, ids))
        submit = provider.submit

        def noting(command: str, tasks_per_node: int = 1, job_name: str = "flowcore.htex.block-0") -> str:
            ids.append(submit(command, tasks_per_node, job_name))
            return ids[-1]

        provider.submit = noting  # type: ignore[method-assign]
        return provider

    yield start
    for provider, ids in made:
        provider.cancel(ids)
        provider.close()


def status(provider: TorqueProvider, job_id: str) -> JobStatus:
    (found,) = provider.status([job_id])
    return found


def becomes(provider: TorqueProvider, job_id: str, state: JobState) -> JobStatus:
    def there() -> JobStatus | None:
        found = status(provider, job_id)
        assert found.state is state or not found.terminal, found
        return found if found.state is state else None

    found = eventually(there, WAIT_S, f"state {state.name} of {job_id}")
    assert found is not None
    return found


# --- on the stand-in


def test_what_torque_is_told(pbs: Start, make: Make, tmp_path: Path) -> None:
    cluster = pbs(torque=True, queues={"batch": {}, "long": {}})
    provider = make(queue="long", nodes_per_block=2, walltime="1-00:00:00")
    job_id = provider.submit(f"cat $PBS_NODEFILE > {tmp_path}/nodes", 2)
    said = cluster.jobs()[job_id]
    assert (said["Job_Name"], said["queue"], said["Rerunable"]) == ("re-htex-block-0", "long", "False")
    assert said["Resource_List"]["walltime"] == "24:00:00"
    becomes(provider, job_id, JobState.COMPLETED)
    assert (tmp_path / "nodes").read_text().split() == ["n1", "n1", "n2", "n2"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"queue": "wrong"}, r"qsub: submit error \(Unknown queue MSG=cannot locate queue\) \(exit code 172 of: "),
        ({"walltime": "09:00:00"}, r"Job exceeds queue resource limits MSG=cannot satisfy queue max walltime"),
        ({"scheduler_options": "#PBS -k oed"}, "qsub: illegal -k value"),
    ],
)
def test_torques_refusal_reaches_the_user(pbs: Start, make: Make, options: dict[str, Any], why: str) -> None:
    pbs(torque=True, queues={"batch": {"max_walltime": "02:00:00"}})
    with pytest.raises(ScaleOutFailed, match=why):
        make(**options).submit("true")


def test_states_that_torque_tells(pbs: Start, make: Make) -> None:
    cluster = pbs((("n1", 1),), torque=True)
    provider = make()
    runs, held = provider.submit("sleep 60"), provider.submit("exit 7")
    becomes(provider, runs, JobState.RUNNING)
    cluster.ask("qhold", held)
    assert (becomes(provider, held, JobState.HELD).message or "").startswith("held by its user: Not Running")
    cluster.ask("qdel", runs)
    found = becomes(provider, runs, JobState.CANCELLED)
    assert found.message == "ended by signal 15, SIGTERM (exit status 271: " + (cluster.jobs()[runs]["comment"] + ")")
    cluster.ask("qrls", held)
    assert becomes(provider, held, JobState.FAILED).exit_code == 7
    assert provider.cancel([runs, held, "999"]) == [True] * 3


def test_the_walltime_of_torque(pbs: Start, make: Make) -> None:
    pbs(torque=True)
    provider = make(walltime="00:00:01")
    found = becomes(provider, provider.submit("sleep 60"), JobState.TIMEOUT)
    assert found.message == "ended at its walltime 00:00:01"


def test_a_torque_that_is_away(pbs: Start, make: Make) -> None:
    cluster = pbs(torque=True)
    provider = make()
    job_id = provider.submit("sleep 60")
    cluster.stop_server()
    assert status(provider, job_id).state is JobState.UNKNOWN
    assert provider.cancel([job_id]) == [False]
    with pytest.raises(SchedulerUnavailable, match=r"\(errno=111\) Connection refused"):
        provider.submit("true")
    cluster.start_server()
    becomes(provider, job_id, JobState.RUNNING)


# --- on Slurm


def test_nodes_of_slurm(slurm: SlurmCluster, make: Make, tmp_path: Path) -> None:
    provider = make(nodes_per_block=2, launcher=SimpleLauncher())
    job_id = provider.submit(f"cat $PBS_NODEFILE > {tmp_path}/nodes; hostname >> {tmp_path}/nodes", 2)
    assert job_id.isdigit()
    assert becomes(provider, job_id, JobState.COMPLETED).exit_code == 0
    *lines, here = (tmp_path / "nodes").read_text().split()
    # Slurm spreads the places over the nodes as it likes; a launcher says itself how many copies a node has.
    assert (len(lines), set(lines)) == (4, set(slurm.nodes))
    assert here == slurm.nodes[0]


def test_slurms_refusal_reaches_the_user(slurm: SlurmCluster, make: Make) -> None:
    with pytest.raises(ScaleOutFailed, match="invalid partition specified: wrong"):
        make(queue="wrong").submit("true")
    assert slurm.jobs() == []


def test_a_job_that_slurm_holds(slurm: SlurmCluster, make: Make) -> None:
    """Slurm's qstat has no word for it: it waits."""
    provider = make(scheduler_options="#PBS -h")
    job_id = provider.submit("true")
    assert status(provider, job_id).state is JobState.PENDING
    slurm.release(job_id)
    becomes(provider, job_id, JobState.COMPLETED)


def test_a_slurm_that_is_away(slurm: SlurmCluster, make: Make) -> None:
    provider = make()
    job_id = provider.submit("sleep 60")
    becomes(provider, job_id, JobState.RUNNING)
    slurm.stop_controller()
    try:
        found = status(provider, job_id)
        assert found.state is JobState.UNKNOWN, found
    finally:
        slurm.start_controller()
    becomes(provider, job_id, JobState.RUNNING)
    assert provider.cancel([job_id]) == [True]
    becomes(provider, job_id, JobState.CANCELLED)
    eventually(lambda: slurm.jobs() == [], WAIT_S, "an empty queue")
