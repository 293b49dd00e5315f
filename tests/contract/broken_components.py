"""Components with one defect each, and the test of their suite that must find it: ``EXPECTED``.

Not collected by itself: ``test_suites_catch.py`` runs it in a process of its own, and wants it to fail.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from flowcore.builtin.launchers import SimpleLauncher, SingleNodeLauncher
from flowcore.builtin.local_channel import LocalChannel
from flowcore.builtin.local_provider import LocalProvider
from flowcore.builtin.memo_hashers import StandardMemoHasher
from flowcore.builtin.noop_staging import NoOpFileStaging
from flowcore.builtin.serializers import PickleSerializer
from flowcore.builtin.threads import ThreadPoolExecutor
from flowcore.files import File
from flowcore.plugins.api import AttemptResult, ExecutorContext, JobState, JobStatus, Launcher
from flowcore.testing import (
    ChannelContract,
    ExecutorContract,
    LauncherContract,
    MemoHasherContract,
    ProviderContract,
    SerializerContract,
    StagingContract,
    leftovers,
)
from flowcore.testing.leftovers import no_leftovers  # noqa: F401
from flowcore.testing.staging import Source, Target

leftovers.GRACE_S = 0.5
EXPECTED: list[tuple[type, str]] = []


def finds(name):
    def note(cls):
        EXPECTED.append((cls, name))
        return cls

    return note


# --- executors


class Broken(ExecutorContract):
    serializes = False
    result_bound_s = 1.0
    shutdown_bound_s = 1.0
    cls = ThreadPoolExecutor

    @pytest.fixture
    def executor(self):
        return self.cls(max_threads=2)


class Reporting(ThreadPoolExecutor):
    """Does something else with its results."""

    def start(self, context):
        def report(results):
            self.pass_on(context.report, results)

        super().start(ExecutorContext(context.run_id, context.run_dir, report, context.running))


@finds("test_each_attempt_is_reported_once")
class TestReportsTwice(Broken):
    class cls(Reporting):
        def pass_on(self, report, results):
            report(results)
            report(results)


@finds("test_reports_a_value")
class TestNeverReports(Broken):
    class cls(Reporting):
        def pass_on(self, report, results):
            pass


@finds("test_the_tries_of_a_task_are_told_apart")
class TestForgetsTheTry(Broken):
    class cls(Reporting):
        def pass_on(self, report, results):
            report([AttemptResult(r.task_id, 0, r.value, r.error) for r in results])


@finds("test_reports_an_exception_of_its_own_type")
class TestWrapsExceptions(Broken):
    class cls(Reporting):
        def pass_on(self, report, results):
            report(
                [AttemptResult(r.task_id, r.try_id, r.value, r.error and RuntimeError(str(r.error))) for r in results]
            )


@finds("test_an_unknown_resource_is_refused")
class TestIgnoresResources(Broken):
    class cls(ThreadPoolExecutor):
        def submit(self, attempt):
            attempt.resource_specification = {}
            super().submit(attempt)


@finds("test_submitting_from_inside_report")
class TestHoldsALock(Broken):
    class cls(Reporting):
        def __attrs_post_init__(self):
            super().__attrs_post_init__()
            self.lock = threading.Lock()

        def submit(self, attempt):
            if not self.lock.acquire(timeout=0.2):
                raise RuntimeError("deadlock")
            super().submit(attempt)
            self.lock.release()

        def pass_on(self, report, results):
            with self.lock:
                try:
                    report(results)
                except RuntimeError:
                    pass


@finds("test_cancelling_what_waits")
class TestSaysItCancelled(Broken):
    class cls(ThreadPoolExecutor):
        def cancel(self, task_id, try_id):
            return (task_id, try_id) in self._waiting


@finds("test_cancelling_what_waits")
class TestCannotCancel(Broken):
    class cls(ThreadPoolExecutor):
        def cancel(self, task_id, try_id):
            return False


@finds("test_cancelling_what_is_unknown_or_over")
class TestCancelsAnything(Broken):
    class cls(ThreadPoolExecutor):
        def cancel(self, task_id, try_id):
            super().cancel(task_id, try_id)
            return True


@finds("test_outstanding")
class TestDoesNotCount(Broken):
    class cls(ThreadPoolExecutor):
        outstanding = 0


@finds("test_making_one_takes_no_resources")
class TestStartsTooEarly(Broken):
    class cls(ThreadPoolExecutor):
        def __attrs_post_init__(self):
            super().__attrs_post_init__()
            threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()


@finds("test_shutdown_after_work")
class TestLeavesAThread(Broken):
    class cls(ThreadPoolExecutor):
        def shutdown(self):
            super().shutdown()
            threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


@finds("test_shutdown_after_work")
class TestWritesAnywhere(Broken):
    class cls(ThreadPoolExecutor):
        def start(self, context):
            super().start(context)
            (context.run_dir / "my_files").mkdir()


@finds("test_shutdown_amid_work")
class TestWaitsForItsTasks(Broken):
    class cls(ThreadPoolExecutor):
        def shutdown(self):
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join(timeout=1.0)


@finds("test_shutdown_without_start")
class TestMustBeStarted(Broken):
    class cls(ThreadPoolExecutor):
        def shutdown(self):
            self._threads[0].join(0)
            super().shutdown()


@finds("test_an_argument_that_cannot_be_pickled")
class TestCopiesArguments(Broken):
    class cls(ThreadPoolExecutor):
        def submit(self, attempt):
            attempt.kwargs = {k: str(v) for k, v in attempt.kwargs.items()}
            super().submit(attempt)


@finds("test_an_argument_that_cannot_be_pickled")
class TestSendsWhatCannotBeSent(Broken):
    serializes = True


# --- providers


class BrokenProvider(ProviderContract):
    job_bound_s = 5.0
    kill_bound_s = 0.5
    cls = LocalProvider

    @pytest.fixture
    def provider(self):
        return self.cls()


@finds("test_statuses_are_in_the_order_asked")
class TestAnswersInItsOwnOrder(BrokenProvider):
    class cls(LocalProvider):
        def status(self, job_ids):
            return [self._status(job_id) for job_id in sorted(set(job_ids))]


@finds("test_an_id_that_nobody_knows")
class TestRaisesForUnknownIds(BrokenProvider):
    class cls(LocalProvider):
        def status(self, job_ids):
            return super().status([j for j in job_ids if self._jobs[j]])


@finds("test_an_id_that_nobody_knows")
class TestTakesUnknownForGone(BrokenProvider):
    class cls(LocalProvider):
        def _status(self, job_id):
            return super()._status(job_id) if job_id in self._jobs else JobStatus(JobState.COMPLETED)


@finds("test_a_job_that_fails")
class TestTakesFailureForSuccess(BrokenProvider):
    class cls(LocalProvider):
        def _status(self, job_id):
            status = super()._status(job_id)
            return JobStatus(JobState.COMPLETED) if status.terminal else status


@finds("test_cancel_ends_all_processes")
class TestKillsTheScriptOnly(BrokenProvider):
    class cls(LocalProvider):
        def cancel(self, job_ids):
            for job_id in job_ids:
                job = self._jobs[job_id]
                job.cancelled = job.swept = True
                os.kill(job.process.pid, signal.SIGKILL)
                job.process.wait()
            return [True] * len(job_ids)


@finds("test_cancel_is_idempotent")
class TestCancelsOnce(BrokenProvider):
    class cls(LocalProvider):
        def cancel(self, job_ids):
            ended = [self._status(j).terminal for j in job_ids]
            super().cancel(job_ids)
            return [not e for e in ended]


@finds("test_cancel_leaves_the_others")
class TestCancelsAll(BrokenProvider):
    class cls(LocalProvider):
        def cancel(self, job_ids):
            super().cancel(list(self._jobs))
            return [True] * len(job_ids)


@finds("test_standard_streams")
class TestSharesItsStreams(BrokenProvider):
    class cls(LocalProvider):
        def submit(self, command, tasks_per_node, job_name="x"):
            (self._context.script_dir / f"{job_name}.sh").unlink(missing_ok=True)
            return super().submit(command, tasks_per_node, job_name)


@finds("test_the_command_is_taken_literally")
class TestExpandsTheCommand(BrokenProvider):
    class cls(LocalProvider):
        def submit(self, command, tasks_per_node, job_name="x"):
            return super().submit(f'bash -c "{command}"', tasks_per_node, job_name)


@finds("test_what_cannot_be_submitted")
class TestLetsOSErrorsPass(BrokenProvider):
    class cls(LocalProvider):
        def submit(self, command, tasks_per_node, job_name="x"):
            (self._context.script_dir / "note").touch()
            return super().submit(command, tasks_per_node, job_name)


# --- launchers


class BrokenLauncher(LauncherContract):
    cls = SimpleLauncher

    @pytest.fixture
    def launcher(self):
        return self.cls()


@finds("test_returns_bash")
class TestWritesNoBash(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"if true; then {command}"


@finds("test_runs_the_command_on_every_task")
class TestRunsOnce(BrokenLauncher):
    pass


@finds("test_failure_shows_in_the_exit_code")
class TestSwallowsFailures(BrokenLauncher):
    class cls(SingleNodeLauncher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"({super().__call__(command, tasks_per_node, nodes_per_block)})\ntrue"


@finds("test_runs_a_command_of_several_lines")
class TestQuotesCarelessly(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f'bash -c "{command}"'


@finds("test_one_failure_shows_in_the_exit_code")
class TestForgivesOne(BrokenLauncher):
    cls = SingleNodeLauncher


@finds("test_the_command_is_what_it_was")
class TestReplacesBraces(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"bash -c {shlex.quote(command.replace('{}', 'x'))}"


@finds("test_the_command_has_the_environment")
class TestForgetsTheEnvironmentOfTheScript(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"env -i PATH=/usr/bin:/bin bash -c {shlex.quote(command)}"


@finds("test_reading_gets_nothing")
class TestLetsCopiesRead(BrokenLauncher):
    class cls(SingleNodeLauncher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return super().__call__(f"exec < <(printf x)\n{command}", tasks_per_node, nodes_per_block)


@finds("test_whatever_the_shell_has_set")
class TestSplitsWords(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"for i in $(seq {tasks_per_node}); do bash -c {shlex.quote(command)} & done\nwait"


@finds("test_blocks_side_by_side")
class TestWritesAFile(BrokenLauncher):
    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            copies = "bash cmd.sh & " * tasks_per_node
            return f"cat > cmd.sh <<'END'\n{command}\nEND\n{copies}\nwait"


@finds("test_a_signal_ends_the_copies")
class TestLeavesCopies(BrokenLauncher):
    passes_signals = True
    end_bound_s = 1.0

    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"bash -c {shlex.quote(command)} & " * tasks_per_node + "\nwait"


@finds("test_a_signal_ends_the_copies")
class TestHidesCopies(BrokenLauncher):
    end_bound_s = 1.0

    class cls(Launcher):
        def __call__(self, command, tasks_per_node, nodes_per_block):
            return f"setsid bash -c {shlex.quote(command)} & " * tasks_per_node + "\nwait"


# --- channels


class BrokenChannel(ChannelContract):
    kill_bound_s = 0.5
    cls = LocalChannel

    @pytest.fixture
    def channel(self):
        return self.cls()


@finds("test_walltime")
class TestKillsTheShellOnly(BrokenChannel):
    class cls(LocalChannel):
        def execute_wait(self, cmd, walltime=None, envs=None):
            try:
                done = subprocess.run(["/bin/bash", "-c", f"exec >out 2>err; {cmd}"], timeout=walltime, check=False)
            except subprocess.TimeoutExpired:
                return -1, Path("out").read_text(), "killed"
            return done.returncode, Path("out").read_text(), Path("err").read_text()


@finds("test_what_stays_in_the_background_is_not_waited_for")
class TestWaitsForTheStreams(BrokenChannel):
    class cls(LocalChannel):
        def execute_wait(self, cmd, walltime=None, envs=None):
            pipe = subprocess.PIPE
            process = subprocess.Popen(["/bin/bash", "-c", cmd], stdout=pipe, stderr=pipe, text=True, process_group=0)
            try:
                return (0, *process.communicate(timeout=1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return (-1, *process.communicate())


@finds("test_environment")
class TestForgetsTheEnvironment(BrokenChannel):
    class cls(LocalChannel):
        def execute_wait(self, cmd, walltime=None, envs=None):
            return super().execute_wait(cmd, walltime)


@finds("test_pulling_does_not_replace")
class TestReplacesFiles(BrokenChannel):
    class cls(LocalChannel):
        def pull_file(self, remote_source, local_dir):
            return self.push_file(remote_source, local_dir)


@finds("test_folders")
class TestMakesFoldersQuietly(BrokenChannel):
    class cls(LocalChannel):
        def makedirs(self, path, mode=0o700, exist_ok=False):
            super().makedirs(path, mode, True)


# --- stagers


class BrokenStager(StagingContract):
    cls = NoOpFileStaging
    bound_s = 0.5
    looks = False

    @pytest.fixture
    def stager(self):
        return self.cls()

    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "in").write_bytes(b"content")
        return Source(File(str(tmp_path / "in")), b"content")

    @pytest.fixture
    def target(self, tmp_path):
        return Target(File(str(tmp_path / "out")), (tmp_path / "out").read_bytes)

    @pytest.fixture
    def same_name(self, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other/in").write_bytes(b"other content")
        return Source(File(str(tmp_path / "other/in")), b"other content")


@finds("test_says_what_it_can_move")
class TestTakesEverything(BrokenStager):
    class cls(NoOpFileStaging):
        def can_stage_in(self, file):
            return True


@finds("test_is_closed_twice_and_started_again")
class TestIsClosedOnce(BrokenStager):
    class cls(NoOpFileStaging):
        def start(self, place):
            self.there = True

        def close(self):
            del self.there


@finds("test_files_of_one_name")
class TestMixesFilesOfOneName(BrokenStager):
    class cls(NoOpFileStaging):
        def stage_in(self, context, file, parent):
            file.local_path = str(Path(context.working_dir, file.filename))
            Path(context.working_dir).mkdir(exist_ok=True)
            Path(file.local_path).write_bytes(Path(file.path).read_bytes())


@finds("test_a_file_that_is_not_there")
class TestMakesWhatIsNotThere(BrokenStager):
    looks = True

    class cls(NoOpFileStaging):
        def stage_in(self, context, file, parent):
            Path(file.path).touch()

    @pytest.fixture
    def missing(self, tmp_path):
        return File(str(tmp_path / "nothing"))


@finds("test_brings_a_file")
class TestCannotBeSent(BrokenStager):
    class cls(NoOpFileStaging):
        def replace_task(self, context, file, function):
            lock = threading.Lock()
            return lambda *args, **kwargs: function(*args, **kwargs) if lock else None


@finds("test_task_keeps_its_arguments_value_and_exception")
class TestLosesTheValue(BrokenStager):
    class cls(NoOpFileStaging):
        def replace_task(self, context, file, function):
            return lambda *args, **kwargs: str(function(*args, **kwargs))


@finds("test_takes_a_file")
class TestTakesNothing(BrokenStager):
    class cls(NoOpFileStaging):
        def stage_out(self, context, file, app_future):
            file.local_path = f"{file.path}.staged"


@finds("test_a_task_that_failed")
class TestWaitsForEver(BrokenStager):
    class cls(NoOpFileStaging):
        def stage_out(self, context, file, app_future):
            done = type(app_future)()
            app_future.add_done_callback(lambda f: f.exception() or done.set_result(None))
            return done


# --- serializers


class BrokenSerializer(SerializerContract):
    @pytest.fixture
    def serializer(self):
        return self.cls()


@finds("test_round_trip")
class TestLosesTypes(BrokenSerializer):
    class cls(PickleSerializer):
        def deserialize(self, data):
            value = super().deserialize(data)
            return [*value] if isinstance(value, list | bytes) else value


@finds("test_what_cannot_be_written")
class TestWritesAnything(BrokenSerializer):
    class cls(PickleSerializer):
        def serialize(self, obj):
            try:
                return super().serialize(obj)
            except TypeError:
                return super().serialize(None)


# --- memo hashers


class BrokenHasher(MemoHasherContract):
    @pytest.fixture
    def hasher(self):
        return self.cls()


@finds("test_the_same_in_a_fresh_interpreter")
class TestUsesHash(BrokenHasher):
    class cls(StandardMemoHasher):
        def hash(self, obj, output_ref, part):
            if isinstance(obj, str):
                return str(hash(obj)).encode()
            return super().hash(obj, output_ref, part)


@finds("test_equal_values_give_equal_bytes")
class TestKeepsTheOrder(BrokenHasher):
    class cls(StandardMemoHasher):
        def hash(self, obj, output_ref, part):
            if isinstance(obj, dict):
                return b"dict" + b"".join(part(k) + part(v) for k, v in obj.items())
            return super().hash(obj, output_ref, part)


@finds("test_different_values_give_different_bytes")
class TestUsesRepr(BrokenHasher):
    class cls(StandardMemoHasher):
        def hash(self, obj, output_ref, part):
            return str(obj).encode()


@finds("test_handles_what_it_is_for")
class TestHandlesAll(BrokenHasher):
    class cls(StandardMemoHasher):
        def handles(self, obj):
            return True


# --- leftovers


@finds("test_it")
class TestLeavesAProcess:
    def test_it(self):
        self.process = subprocess.Popen(["sleep", "600"])


@finds("test_it")
class TestLeavesAGrandchild:
    def test_it(self):
        # Its parent is gone: only the mark in its environment tells whose it is.
        subprocess.run("(setsid sleep 600 >/dev/null 2>&1 &)", shell=True, check=True)


@finds("test_it")
class TestLeavesAZombie:
    def test_it(self):
        pid = os.posix_spawn("/bin/true", ["/bin/true"], os.environ)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@finds("test_it")
class TestLeavesANonDaemonThread:
    def test_it(self):
        threading.Thread(target=time.sleep, args=(3,)).start()


@finds("test_it")
class TestLeavesAThreadOfFlowcore:
    def test_it(self):
        threading.Thread(target=time.sleep, args=(3,), name="flowcore-scaling", daemon=True).start()
