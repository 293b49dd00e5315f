"""Options of built-in components that the reference documents: their order, and their defaults.

Those of other distributions are tested there.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from flowcore.channels import LocalChannel
from flowcore.launchers import SimpleLauncher, SingleNodeLauncher, WrappedLauncher
from flowcore.plugins.api import JobState, JobStatus
from flowcore.providers import AdHocProvider, LocalProvider

NEEDED = inspect.Parameter.empty


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (LocalChannel, {"userhome": ".", "envs": {}, "script_dir": None}),
        (SimpleLauncher, {"debug": True}),
        (SingleNodeLauncher, {"debug": True, "fail_on_any": False}),
        (WrappedLauncher, {"prepend": NEEDED, "debug": True}),
        (
            LocalProvider,
            {
                "channel": LocalChannel,
                "nodes_per_block": 1,
                "launcher": SingleNodeLauncher,
                "init_blocks": 1,
                "min_blocks": 0,
                "max_blocks": 1,
                "worker_init": "",
                "cmd_timeout": 30,
                "parallelism": 1,
                "move_files": None,
            },
        ),
        (
            AdHocProvider,
            {"channels": NEEDED, "worker_init": "", "cmd_timeout": 30, "parallelism": 1, "move_files": None},
        ),
    ],
)
def test_options_and_their_defaults(cls: Any, options: dict[str, Any]) -> None:
    names = list(inspect.signature(cls).parameters)
    assert names[: len(options)] == list(options)
    needed = {"prepend": "time"} if cls is WrappedLauncher else {}
    made = cls(channels=[LocalChannel()]) if cls is AdHocProvider else cls(**needed)
    for name, expected in options.items():
        value = getattr(made, name)
        if isinstance(expected, type) and expected is not NEEDED:
            assert type(value) is expected
        elif expected is not NEEDED:
            assert value == expected, name


def test_the_numbers_of_job_states() -> None:
    names = "UNKNOWN PENDING RUNNING CANCELLED COMPLETED FAILED TIMEOUT HELD MISSING"
    assert {state.name: int(state) for state in JobState} == {name: i for i, name in enumerate(names.split())}
    terminal = {JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.MISSING}
    assert {state for state in JobState if state.terminal} == terminal


def test_a_job_status_shows_the_end_of_its_streams(tmp_path: Any) -> None:
    (tmp_path / "out").write_text("x" * 5000 + "the end")
    status = JobStatus(JobState.FAILED, "why", 3, str(tmp_path / "out"), str(tmp_path / "nowhere"))
    assert (status.status_name, status.terminal, status.exit_code) == ("FAILED", True, 3)
    assert status.stdout == "x" * 5000 + "the end"
    assert JobStatus.SUMMARY_TRUNCATION_THRESHOLD == 2048
    assert status.stdout_summary == "..." + ("x" * 5000 + "the end")[-2048:]
    assert (status.stderr, status.stderr_summary) == (None, None)
    assert (JobStatus(JobState.RUNNING).stdout, JobStatus(JobState.RUNNING).stderr_summary) == (None, None)
