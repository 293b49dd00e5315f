"""Whole runs: apps with files on endpoints, on threads and on workers; many files; two executors; the end of a run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from globus_service import Endpoint

import flowcore
from flowcore import File, python_app
from flowcore.errors import TransferError
from flowcore.executors import ThreadPoolExecutor


def load(tmp_path: Path, *executors, **options):
    config = flowcore.Config(
        executors=list(executors), run_dir=str(tmp_path / "runinfo"), initialize_logging=False, **options
    )
    return flowcore.load(config)


def _apps():
    # Inner functions are sent to workers by value: these need not import this module.
    @python_app(executors=["here"])
    def upper(inputs=(), outputs=()):
        from pathlib import Path

        text = Path(inputs[0].filepath).read_text()
        Path(outputs[0].filepath).write_text(text.upper())
        return len(text)

    @python_app(executors=["here"])
    def read(file):
        from pathlib import Path

        return Path(file.filepath).read_text()

    return upper, read


upper, read = _apps()


def executors(kind: str, cluster: Endpoint, stager):
    options = {"label": "here", "working_dir": str(cluster.folder / "work"), "storage_access": [stager]}
    if kind == "threads":
        return ThreadPoolExecutor(**options)
    pytest.importorskip("flowcore_executor_htex")
    from flowcore.executors import HighThroughputExecutor
    from flowcore.providers import LocalProvider

    return HighThroughputExecutor(
        address="127.0.0.1", max_workers_per_node=1, provider=LocalProvider(min_blocks=1, max_blocks=1), **options
    )


@pytest.mark.parametrize("kind", ["threads", "htex"])
def test_in_and_out_and_on(kind, tmp_path, lab, cluster, login, make, globus):
    source = File(lab.put("/data/greeting.txt", b"hello"))
    made = File(f"globus://{lab.uuid}/results/loud.txt")
    with load(tmp_path, executors(kind, cluster, make())):
        first = upper(inputs=[source], outputs=[made])
        second = upper(inputs=[first.outputs[0]], outputs=[File(f"globus://{lab.uuid}/results/louder.txt")])
        assert second.result(60) == 5
        assert second.outputs[0].result(60).url.endswith("/louder.txt")
        assert read(second.outputs[0]).result(60) == "HELLO"
    assert lab.at("/results/loud.txt").read_text() == "HELLO"
    assert lab.at("/results/louder.txt").read_text() == "HELLO"
    # In, out, in again, out, and in to be read.
    assert len(globus.tasks) == 5


def test_a_worker_does_not_need_this_distribution(tmp_path, monkeypatch, lab, cluster, login, make):
    """What is sent to workers is run where no flowcore_staging_globus can be imported."""
    htex = executors("htex", cluster, make())
    htex.provider.worker_init = "export PYTHONPATH=" + str(tmp_path / "blocked")
    blocked = tmp_path / "blocked" / "flowcore_staging_globus"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not here')")

    @python_app
    def importable():
        try:
            import flowcore_staging_globus
        except ImportError as error:
            return str(error)
        return flowcore_staging_globus.__file__

    with load(tmp_path, htex):
        assert importable().result(60) == "not here"
        made = upper(inputs=[File(lab.put("/a.txt", b"a"))], outputs=[File(f"globus://{lab.uuid}/b.txt")]).outputs[0]
        made.result(60)
    assert lab.at("/b.txt").read_text() == "A"


def test_many_files_are_few_tasks(tmp_path, lab, cluster, login, make, globus):
    files = [File(lab.put(f"/in/{n}.txt", str(n).encode())) for n in range(50)]
    with load(tmp_path, executors("threads", cluster, make(batch_window_s=0.2))):
        futures = [read(file) for file in files]
        assert [future.result(60) for future in futures] == [str(n) for n in range(50)]
    assert 1 <= len(globus.tasks) <= 5
    assert sum(len(task.asked["DATA"]) for task in globus.tasks.values()) == 50


def test_no_thread_without_transfers(tmp_path, lab, cluster, login, make, globus):
    def poller():
        return [t for t in threading.enumerate() if t.name == "flowcore-globus"]

    with load(tmp_path, executors("threads", cluster, make())):
        assert poller() == []
        assert read(File(lab.put("/a.txt", b"a"))).result(60) == "a"
        for thread in poller():
            thread.join(10)
        assert poller() == []
        # And again.
        assert read(File(lab.put("/b.txt", b"b"))).result(60) == "b"


def test_one_thread_for_many_transfers_at_once(tmp_path, lab, cluster, login, make, globus):
    globus.held = True
    others = [globus.endpoint(f"other-{n}") for n in range(5)]
    with load(tmp_path, executors("threads", cluster, make())):
        futures = [read(File(other.put("/a.txt", b"a"))) for other in others]
        globus.wait_for(lambda: len(globus.tasks) == 5)
        assert len([t for t in threading.enumerate() if t.name == "flowcore-globus"]) == 1
        globus.held = False
        assert [future.result(60) for future in futures] == ["a"] * 5


def test_two_executors_share_a_stager(tmp_path, lab, cluster, login, make, globus):
    stager = make()
    here = executors("threads", cluster, stager)
    there = ThreadPoolExecutor(label="there", working_dir=str(cluster.folder / "there"), storage_access=[stager])

    @python_app(executors=["there"])
    def where(file):
        return file.filepath

    with load(tmp_path, here, there):
        file = File(lab.put("/a.txt", b"a"))
        assert where(file).result(60).startswith(str(cluster.folder / "there") + "/")
        assert read(file).result(60) == "a"
    assert globus.count("GET", "/v0.10/endpoint/.*") == 1


def test_a_stager_is_used_for_run_after_run(tmp_path, lab, cluster, login, make):
    stager = make()
    file = File(lab.put("/a.txt", b"a"))
    for _ in range(2):
        with load(tmp_path, executors("threads", cluster, stager)):
            assert read(file).result(60) == "a"


def test_the_end_of_a_run_cancels_what_is_open(tmp_path, lab, cluster, login, make, globus):
    globus.held = True
    run = load(tmp_path, executors("threads", cluster, make()))
    future = read(File(lab.put("/a.txt", b"a")))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    run.cleanup()
    assert future.exception(10) is not None
    (task,) = globus.tasks.values()
    assert task.document["status"] == "FAILED"
    assert task.document["fatal_error"]["code"] == "CANCELED"
    assert not any(cluster.folder.rglob("a.txt"))


def test_closing_fails_the_futures(lab, cluster, login, make, globus):
    from flowcore.plugins.api import StagingContext

    globus.held = True
    stager = make()
    file = File(lab.put("/a.txt", b"a"))
    future = stager.stage_in(StagingContext("here", str(cluster.folder / "work"), None), file, None)
    globus.wait_for(lambda: len(globus.tasks) == 1)
    stager.close()
    assert isinstance(future.exception(0), TransferError)
    assert "the run ended before it had arrived, and the transfer was cancelled" in str(future.exception(0))


def test_an_output_that_is_made_after_the_end(lab, cluster, login, make, globus, tmp_path):
    """Nothing begins again after close(), until the stager is started for another run."""
    from concurrent.futures import Future

    from flowcore.plugins.api import StagingContext, StagingPlace

    stager = make()
    context = StagingContext("here", str(cluster.folder / "work"), None)
    place = StagingPlace("here", context.working_dir, tmp_path)
    stager.start(place)
    ran: Future = Future()
    arrived = stager.stage_out(context, File(f"globus://{lab.uuid}/b.txt"), ran)
    stager.close()
    ran.set_result(None)
    assert str(arrived.exception(0)) == f"cannot push globus://{lab.uuid}/b.txt: the run has ended"
    with pytest.raises(TransferError, match="the run has ended"):
        stager.stage_in(context, File(lab.put("/a.txt", b"a")), None)
    stager.start(place)
    assert stager.stage_in(context, File(lab.put("/a.txt", b"a")), None).result(60)


def test_an_output_of_a_task_that_was_cancelled(lab, cluster, login, make, globus):
    from concurrent.futures import Future

    from flowcore.plugins.api import StagingContext

    context = StagingContext("here", str(cluster.folder / "work"), None)
    ran: Future = Future()
    arrived = make().stage_out(context, File(f"globus://{lab.uuid}/b.txt"), ran)
    ran.cancel()
    ran.set_running_or_notify_cancel()
    assert arrived.cancelled()


def test_an_output_without_a_login(lab, cluster, make, globus):
    """What goes wrong after the app has run fails the output, and leaves nobody waiting."""
    from concurrent.futures import Future

    from flowcore.plugins.api import StagingContext

    context = StagingContext("here", str(cluster.folder / "work"), None)
    ran: Future = Future()
    arrived = make().stage_out(context, File(f"globus://{lab.uuid}/b.txt"), ran)
    ran.set_result(None)
    assert "there is no login for Globus" in str(arrived.exception(0))


def test_a_configuration_in_toml(tmp_path, lab, cluster, login, globus):
    file = tmp_path / "flowcore.toml"
    file.write_text(
        f"""
        run_dir = "{tmp_path}/runinfo"
        initialize_logging = false
        [[executors]]
        plugin = "threads"
        label = "here"
        working_dir = "{cluster.folder}/work"
        [[executors.storage_access]]
        plugin = "globus"
        endpoint_uuid = "{cluster.uuid}"
        endpoint_path = "/"
        local_path = "{cluster.folder}"
        batch_window_s = 0.02
        poll_interval_s = 0.02
        """
    )
    with flowcore.load(str(file)):
        assert read(File(lab.put("/a.txt", b"a"))).result(60) == "a"


def test_a_load_without_a_login_leaves_nothing(tmp_path, cluster, make, globus):
    with pytest.raises(flowcore.errors.StagingError, match="there is no login for Globus"):
        load(tmp_path, executors("threads", cluster, make()))


def test_the_logs_of_bash_apps(tmp_path, lab, cluster, login, make, globus):
    """stdout of a bash_app as a file on an endpoint."""
    from flowcore import bash_app

    @bash_app
    def hello(stdout=None):
        return "echo hello"

    with load(tmp_path, executors("threads", cluster, make())):
        future = hello(stdout=File(f"globus://{lab.uuid}/logs/hello.txt"))
        assert future.result(60) == 0
        future.stdout.result(60)
    assert lab.at("/logs/hello.txt").read_text().endswith("\nhello\n")


def test_an_app_that_fails_moves_nothing(tmp_path, lab, cluster, login, make, globus):
    @python_app
    def fail(outputs=()):
        raise ZeroDivisionError("as it has to be")

    with load(tmp_path, executors("threads", cluster, make())):
        future = fail(outputs=[File(f"globus://{lab.uuid}/b.txt")])
        with pytest.raises(ZeroDivisionError):
            future.result(60)
        assert future.outputs[0].exception(60) is not None
    assert not globus.tasks


def test_a_folder_that_cannot_be_made_is_told(tmp_path, lab, cluster, login, make, globus):
    (cluster.folder / "work").write_text("no folder")

    @python_app
    def write(outputs=()):
        return None

    with load(tmp_path, executors("threads", cluster, make())):
        error = write(outputs=[File(f"globus://{lab.uuid}/b.txt")]).exception(60)
    assert f"for the output globus://{lab.uuid}/b.txt: Not a directory. Set the executor's working_dir" in str(error)


def test_a_missing_output_is_told_by_the_task(tmp_path, lab, cluster, login, make, globus):
    @python_app
    def forget(outputs=()):
        return None

    with load(tmp_path, executors("threads", cluster, make())):
        future = forget(outputs=[File(f"globus://{lab.uuid}/b.txt")])
        with pytest.raises(flowcore.errors.MissingOutputs, match=r"did not make all its outputs"):
            future.result(60)
    assert not globus.tasks


def test_a_file_that_is_not_there_fails_its_task_alone(tmp_path, lab, cluster, login, make, globus):
    there = File(lab.put("/in/there.txt", b"yes"))
    missing = File(f"globus://{lab.uuid}/in/missing.txt")
    with load(tmp_path, executors("threads", cluster, make(batch_window_s=0.2))):
        good, bad = read(there), read(missing)
        assert good.result(60) == "yes"
        error = bad.exception(60)
    text = str(error)
    assert f"cannot fetch globus://{lab.uuid}/in/missing.txt" in text
    assert "'lab' to 'cluster' left it out: FILE_NOT_FOUND" in text
    assert "550 No such file or directory" in text
    assert len(globus.tasks) == 1
