"""The contract suite of providers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from flowcore.plugins.api import ExecutionProviderException, JobState, JobStatus, Provider, ProviderContext
from flowcore.testing import processes
from flowcore.testing.waiting import eventually

_ALIVE = {JobState.UNKNOWN, JobState.PENDING, JobState.RUNNING, JobState.HELD}


class ProviderContract:
    """What every provider promises; see :class:`flowcore.plugins.api.Provider`.

    Subclass it, and make the provider in the fixture ``provider``; the scheduler that it speaks to must be
    there, and the jobs must see the test's folder::

        class TestMyProvider(ProviderContract):
            @pytest.fixture
            def provider(self):
                return MyProvider(partition="debug", walltime="00:05:00")

    Attributes:
        job_bound_s: seconds within which a small job is over, waiting in the queue included.
        kill_bound_s: seconds within which the processes of a cancelled job are gone.
        knows_exit_code: the status of a job that failed has its exit code.
        has_streams: the status of a job has its standard output and error.
        runs_copies: the provider's launcher, as the fixture makes it, runs a command ``tasks_per_node`` times.
        on_this_host: the jobs run on this host, so that their processes can be looked at.
        writes_scripts: submitting writes a script into the context's ``script_dir``.
    """

    job_bound_s: float = 60.0
    kill_bound_s: float = 15.0
    knows_exit_code: bool = True
    has_streams: bool = True
    runs_copies: bool = True
    on_this_host: bool = True
    writes_scripts: bool = True

    @pytest.fixture
    def provider(self) -> Provider:
        """The provider under test, made and not started. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `provider`")

    @pytest.fixture
    def script_dir(self, tmp_path: Path) -> Path:
        """Where the provider is told to put its scripts."""
        path = tmp_path / "submit_scripts"
        path.mkdir()
        return path

    @pytest.fixture
    def started(self, provider: Provider, script_dir: Path) -> Iterator[Provider]:
        """The provider, started; whatever was submitted is cancelled in the end."""
        provider.start(ProviderContext(script_dir, "contract"))
        ids: list[str] = []
        submit = provider.submit

        def noting(command: str, tasks_per_node: int, job_name: str = "flowcore.contract") -> str:
            job_id = submit(command, tasks_per_node, job_name)
            ids.append(job_id)
            return job_id

        provider.submit = noting  # type: ignore[method-assign]
        try:
            yield provider
        finally:
            provider.cancel(ids)
            provider.close()

    def end(self, provider: Provider, job_id: str) -> JobStatus:
        """Return the status of a job once it has ended."""

        def ended() -> JobStatus | None:
            (status,) = provider.status([job_id])
            return status if status.terminal else None

        status = eventually(ended, self.job_bound_s, f"the end of job {job_id}")
        assert status is not None
        return status

    # --- what it is

    def test_is_a_provider(self, provider: Provider) -> None:
        """It keeps the contract's class and has numbers that make sense."""
        assert isinstance(provider, Provider)
        assert provider.kind == "provider"
        assert isinstance(provider.label, str)
        assert provider.label
        assert provider.nodes_per_block >= 1
        assert 0 <= provider.min_blocks <= provider.max_blocks
        assert 0 <= provider.init_blocks <= provider.max_blocks
        assert 0 <= provider.parallelism <= 1
        assert provider.status_polling_interval > 0

    # --- jobs

    def test_runs_the_command(self, started: Provider, tmp_path: Path) -> None:
        """A job's command runs, and a job that ends with 0 is COMPLETED."""
        out = tmp_path / "out"
        job_id = started.submit(f"echo hello > '{out}'", 1)
        assert isinstance(job_id, str)
        assert job_id
        status = self.end(started, job_id)
        assert status.state is JobState.COMPLETED, status
        assert status.exit_code in (0, None)
        assert out.read_text() == "hello\n"

    def test_the_command_is_taken_literally(self, started: Provider, tmp_path: Path) -> None:
        """Quotes, dollars, line breaks and comments mean to the job's shell what they say."""
        out = tmp_path / "o u t"
        command = (
            f"out='{out}'\nx=\"a b\"\n"
            'printf "%s|" "$x" \'$x\' "it\'s" "\\\\" > "$out" # the end\n'
            'for i in 1 2; do echo "$i" >> "$out"; done'
        )
        status = self.end(started, started.submit(command, 1))
        assert status.state is JobState.COMPLETED, (status, status.stderr)
        assert out.read_text() == "a b|$x|it's|\\|1\n2\n"

    def test_runs_the_command_once_per_task(self, started: Provider, tmp_path: Path) -> None:
        """``tasks_per_node`` is the number of times."""
        out = tmp_path / "out"
        status = self.end(started, started.submit(f"echo x >> '{out}'", 3))
        assert status.state is JobState.COMPLETED, status
        expected = 3 * started.nodes_per_block if self.runs_copies else 1
        assert out.read_text() == "x\n" * expected

    def test_a_job_that_fails(self, started: Provider) -> None:
        """Another exit code than 0 is FAILED, with the code and the end of its stderr."""
        status = self.end(started, started.submit("echo 'no such fish' >&2; exit 3", 1))
        assert status.state is JobState.FAILED, status
        if self.knows_exit_code:
            assert status.exit_code == 3
        if self.has_streams:
            assert status.stderr_summary is not None
            assert "no such fish" in status.stderr_summary

    def test_standard_streams(self, started: Provider) -> None:
        """Two jobs of one name keep their streams, and their scripts, apart."""
        if not self.has_streams:
            pytest.skip("this provider has no standard streams")
        jobs = [started.submit(f"echo out{i}; echo err{i} >&2", 1, "same.name") for i in range(2)]
        assert len(set(jobs)) == 2
        for i, job_id in enumerate(jobs):
            status = self.end(started, job_id)
            assert f"out{i}" in (status.stdout or "").splitlines()
            assert f"err{i}" in (status.stderr or "").splitlines()
            assert f"out{1 - i}" not in (status.stdout or "")

    # --- polling

    def test_statuses_are_in_the_order_asked(self, started: Provider, tmp_path: Path) -> None:
        """One status per id, in their order, also for an id given twice."""
        go = tmp_path / "go"
        good = started.submit("exit 0", 1)
        bad = started.submit("exit 1", 1)
        self.end(started, good)
        self.end(started, bad)
        waits = started.submit(f"until [ -e '{go}' ]; do sleep 0.05; done", 1)

        def states(*jobs: str) -> list[JobState]:
            return [s.state for s in started.status(jobs)]

        assert states(good, bad) == [JobState.COMPLETED, JobState.FAILED]
        assert states(bad, waits, good, bad)[::2] == [JobState.FAILED, JobState.COMPLETED]
        assert states(bad, waits, good)[1] in _ALIVE
        go.touch()
        assert self.end(started, waits).state is JobState.COMPLETED
        assert states() == []

    def test_the_life_of_a_job(self, started: Provider, tmp_path: Path) -> None:
        """It is in the queue, runs, ends, and stays as it ended, however often it is asked for."""
        begun, go = tmp_path / "begun", tmp_path / "go"
        job_id = started.submit(f"touch '{begun}'; until [ -e '{go}' ]; do sleep 0.05; done", 1)
        assert started.status([job_id])[0].state in _ALIVE
        eventually(begun.exists, self.job_bound_s, "the job's beginning")
        eventually(
            lambda: started.status([job_id])[0].state is JobState.RUNNING,
            self.job_bound_s,
            "the state RUNNING",
        )
        go.touch()
        ended = self.end(started, job_id)
        for _ in range(3):
            assert started.status([job_id])[0].state is ended.state

    def test_an_id_that_nobody_knows(self, started: Provider) -> None:
        """It is not said to have ended, and is no error."""
        (status,) = started.status(["999999999"])
        assert not status.terminal, status
        (accepted,) = started.cancel(["999999999"])
        assert isinstance(accepted, bool)

    # --- refusal

    def test_what_cannot_be_submitted(self, started: Provider, script_dir: Path) -> None:
        """A job that cannot be submitted is an ExecutionProviderException with a text."""
        if not self.writes_scripts:
            pytest.skip("this provider writes no scripts")
        shutil.rmtree(script_dir)
        script_dir.write_text("a file is in the way")
        with pytest.raises(ExecutionProviderException) as caught:
            started.submit("true", 1)
        assert str(caught.value)

    # --- cancelling

    def test_cancel_ends_all_processes(self, started: Provider, tmp_path: Path) -> None:
        """The script, its children and their children; those in the background; those that ignore SIGTERM."""
        pids = tmp_path / "pids"
        pids.mkdir()
        note = f"echo $BASHPID > '{pids}'/$BASHPID"
        command = (
            f"( {note}; sleep 600 & echo $! > '{pids}'/$!; wait ) &\n"
            f"( trap '' TERM; {note}; while true; do sleep 0.1; done ) &\n"
            f"{note}\nbash -c 'echo $$ > \"{pids}\"/$$; sleep 600; true'\n"
        )
        job_id = started.submit(command, 1)
        # An empty file was opened and not yet written.
        eventually(lambda: len([p for p in pids.iterdir() if p.read_text()]) >= 5, self.job_bound_s, "five processes")
        assert started.cancel([job_id]) == [True]
        status = self.end(started, job_id)
        assert status.state is JobState.CANCELLED, status
        if self.on_this_host:
            for path in pids.iterdir():
                pid = int(path.read_text())
                eventually(partial(processes.gone, pid), self.kill_bound_s, f"the end of process {pid}")

    def test_cancel_is_idempotent(self, started: Provider) -> None:
        """A job that was cancelled, or that has ended, may be cancelled again; it stays as it ended."""
        cancelled = started.submit("sleep 600", 1)
        assert started.cancel([cancelled]) == [True]
        assert started.cancel([cancelled]) == [True]
        assert self.end(started, cancelled).state is JobState.CANCELLED
        over = started.submit("exit 0", 1)
        assert self.end(started, over).state is JobState.COMPLETED
        assert started.cancel([over, cancelled]) == [True, True]
        assert [s.state for s in started.status([over, cancelled])] == [
            JobState.COMPLETED,
            JobState.CANCELLED,
        ]
        assert started.cancel(no_jobs()) == []

    def test_cancel_leaves_the_others(self, started: Provider, tmp_path: Path) -> None:
        """Only the jobs that were named are cancelled."""
        go = tmp_path / "go"
        stays = started.submit(f"until [ -e '{go}' ]; do sleep 0.05; done", 1)
        goes = started.submit("sleep 600", 1)
        assert started.cancel([goes]) == [True]
        assert self.end(started, goes).state is JobState.CANCELLED
        assert started.status([stays])[0].state in _ALIVE
        go.touch()
        assert self.end(started, stays).state is JobState.COMPLETED

    def test_close_without_jobs(self, provider: Provider, script_dir: Path) -> None:
        """A provider that was started and never used can be closed."""
        provider.start(ProviderContext(script_dir, "contract"))
        provider.close()


def no_jobs() -> Sequence[str]:
    """Return the empty list of jobs."""
    return []
