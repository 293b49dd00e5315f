"""A job's time limit, which Slurm keeps to the minute: ``limited`` was submitted when the tests began."""

from __future__ import annotations

from flowcore.plugins.api import JobState
from flowcore.testing.waiting import eventually


def test_a_job_ends_at_its_time_limit(cluster, limited):
    provider, job = limited
    eventually(lambda: provider.status([job])[0].terminal, 150, "the job's time limit")
    (status,) = provider.status([job])
    assert (status.state, status.message, status.exit_code) == (JobState.TIMEOUT, "TimeLimit", None)
    assert "begun" in status.stdout.splitlines()
    assert f"JOB {job} ON {cluster.nodes[-1]} CANCELLED" in status.stderr
    assert "DUE TO TIME LIMIT" in status.stderr
    assert provider.cancel([job]) == [True]
