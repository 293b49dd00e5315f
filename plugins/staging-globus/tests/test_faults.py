"""What goes wrong at Globus, on endpoints and on the way: what is tried again, and what is told."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from flowcore_staging_globus import batches, transfers
from globus_service import Endpoint, GlobusService

from flowcore.errors import ConfigurationError, StagingError, TransferError
from flowcore.files import File
from flowcore.plugins.staging import StagingContext, StagingPlace

BOUND_S = 30


@pytest.fixture
def bring(cluster: Endpoint):
    """Begins to stage files in; returns the future."""

    def begin(stager, url: str) -> Future:
        context = StagingContext("here", str(cluster.folder / "work"), None)
        file = File(url)
        stager.start(StagingPlace("here", context.working_dir, cluster.folder))
        return stager.stage_in(context, file, None)

    return begin


@pytest.fixture
def take(cluster: Endpoint):
    """Begins to stage a file out that a task has made; returns the future."""

    def begin(stager, url: str, content: bytes = b"made") -> Future:
        context = StagingContext("here", str(cluster.folder / "work"), None)
        file = File(url)
        stager.start(StagingPlace("here", context.working_dir, cluster.folder))
        ran: Future = Future()
        arrived = stager.stage_out(context, file, ran)
        stager.replace_task_stage_out(context, file, lambda: Path(file.filepath).write_bytes(content))()
        ran.set_result(None)
        return arrived

    return begin


def content(future: Future) -> bytes:
    return Path(future.result(BOUND_S).filepath).read_bytes()


def failure(future: Future) -> TransferError:
    error = future.exception(BOUND_S)
    assert isinstance(error, TransferError), error
    return error


# --- Globus is busy, or out of reach


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v0.10/submission_id"),
        ("POST", "/v0.10/transfer"),
        ("GET", "/v0.10/task/[^/]+"),
        ("GET", "/v0.10/endpoint/.*"),
    ],
)
def test_errors_that_pass_are_waited_out(method, path, lab, login, make, globus, bring):
    globus.answer_next(method, path, 503, times=2)
    assert content(bring(make(), lab.put("/a.txt", b"a"))) == b"a"
    assert globus.count(method, path) >= 3
    assert len(globus.tasks) == 1


def test_retry_after_is_kept(lab, login, make, globus, bring):
    globus.answer_next("POST", "/v0.10/transfer", 429, {"Retry-After": "1"}, code="RateLimited")
    before = time.monotonic()
    assert content(bring(make(), lab.put("/a.txt", b"a"))) == b"a"
    assert time.monotonic() - before >= 1.0
    assert globus.count("POST", "/v0.10/transfer") == 2


def test_a_submission_whose_answer_was_lost_is_no_second_task(lab, login, make, globus, bring, monkeypatch):
    """The second submission has the name of the first, and Globus knows it again."""
    from flowcore_staging_globus.problems import Problem
    from flowcore_staging_globus.service import Service

    submit = Service.submit
    answers = []

    def deaf(self, *args):
        answers.append(submit(self, *args))
        if len(answers) == 1:
            raise Problem("the connection broke", passing=True)
        return answers[-1]

    monkeypatch.setattr(Service, "submit", deaf)
    assert content(bring(make(), lab.put("/a.txt", b"a"))) == b"a"
    assert len(answers) == 2
    assert len(set(answers)) == 1
    assert len(globus.tasks) == 1


def test_an_outage_is_waited_out(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: globus.tasks and globus.log[-1][1].startswith("/v0.10/task/"))
    globus.go_away()
    with globus.change():
        globus.held = False
    globus.wait_for(lambda: all(task.over for task in globus.tasks.values()))
    assert not future.done()
    globus.come_back()
    assert content(future) == b"a"


def test_an_outage_that_does_not_end(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(outage_patience_s=0.3), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    globus.go_away()
    error = failure(future)
    globus.come_back()
    assert f"cannot fetch globus://{lab.uuid}/a.txt" in str(error)
    assert "Globus is out of reach: ConnectionError on request ([Errno 111] Connection refused)" in str(error)
    assert error.passing


def test_the_start_of_a_run_while_globus_is_away(login, make, globus, cluster, monkeypatch):
    from flowcore_staging_globus import staging

    monkeypatch.setattr(staging, "_START_PAUSE_S", 0.01)
    globus.go_away()
    with pytest.raises(StagingError, match=r"GlobusStaging cannot begin: cannot find endpoint .* Connection refused"):
        make().start(StagingPlace("here", str(cluster.folder), cluster.folder))
    globus.come_back()


def test_refused_submission(lab, login, make, globus, bring):
    error = failure(bring(make(), "globus://99999999-aaaa-4bbb-8ccc-000000000009/a.txt"))
    assert "Globus answers 404 EndpointNotFound: No such endpoint 99999999-aaaa-4bbb-8ccc-000000000009" in str(error)
    assert not error.passing
    assert globus.count("POST", "/v0.10/transfer") == 1


def test_unknown_endpoint_of_the_executor(login, globus, tmp_path):
    from flowcore_staging_globus.staging import GlobusStaging

    stager = GlobusStaging("99999999-aaaa-4bbb-8ccc-000000000009")
    with pytest.raises(ConfigurationError, match=r"endpoint_uuid='99999999.*404 EndpointNotFound"):
        stager.start(StagingPlace("here", str(tmp_path), tmp_path))
    stager.close()


# --- the login


def test_an_expired_access_token_is_renewed(lab, login, make, globus, bring):
    stager = make()
    assert content(bring(stager, lab.put("/a.txt", b"a"))) == b"a"
    before = login.read()
    globus.expire_access()
    assert content(bring(stager, lab.put("/b.txt", b"b"))) == b"b"
    (old,), (new,) = before.values(), login.read().values()
    assert new.access_token != old.access_token
    assert new.refresh_token == old.refresh_token


def test_a_login_that_was_revoked_meanwhile(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    globus.revoke_all()
    error = failure(future)
    assert "the stored login for Globus cannot be renewed, it has expired or was revoked (invalid_grant)" in str(error)
    assert str(error).endswith("Run: flowcore globus-auth")


def test_a_revoked_login_is_told_at_the_start(login, make, globus, cluster):
    globus.revoke_all()
    # The access token's time is not over: Globus Transfer refuses it, and Globus Auth gives no other.
    with pytest.raises(StagingError, match=r"GlobusStaging cannot begin: .*invalid_grant.*Run: flowcore globus-auth"):
        make().start(StagingPlace("here", str(cluster.folder), cluster.folder))


def test_a_token_that_is_refused_again_and_again(lab, login, make, globus, bring):
    stager = make()
    bring(stager, lab.put("/a.txt", b"a")).result(BOUND_S)
    globus.answer_next("POST", "/v0.10/transfer", 401, times=2, code="AuthenticationFailed", message="No")
    error = failure(bring(stager, lab.put("/b.txt", b"b")))
    assert "Globus answers 401 AuthenticationFailed: No. The login is not accepted any more" in str(error)
    assert "Run: flowcore globus-auth --force" in str(error)


def test_consent_is_missing(login, make, globus, bring):
    mapped = globus.endpoint("mapped", needs_consent=True)
    error = failure(bring(make(), mapped.put("/a.txt", b"a")))
    assert "403 ConsentRequired: Missing required data_access consent" in str(error)
    assert str(error).endswith(f"Run: flowcore globus-auth --consent {mapped.uuid}")
    assert not error.passing


def test_a_session_that_is_too_old(lab, login, make, globus, bring):
    globus.answer_next(
        "POST", "/v0.10/transfer", 403, code="AuthenticationRequired", message="No",
        authorization_parameters={"session_message": "Log in with your hospital's account"},
    )  # fmt: skip
    error = failure(bring(make(), lab.put("/a.txt", b"a")))
    assert "(Log in with your hospital's account). Run: flowcore globus-auth --force" in str(error)


# --- the files


def test_a_file_that_may_not_be_read(lab, login, make, globus, bring):
    url = lab.put("/secret.txt", b"a")
    lab.unreadable.add("/secret.txt")
    error = failure(bring(make(), url))
    assert "left it out: PERMISSION_DENIED (Error; File: /secret.txt; 550 Permission denied)" in str(error)
    assert "see endpoint_path and local_path" in str(error)
    assert not error.passing


def test_an_endpoint_that_leaves_nothing_out(lab, login, make, globus, bring):
    """A fault that waiting does not mend: the task stays ACTIVE, is cancelled, and its events tell the file."""
    lab.skips = False
    error = failure(bring(make(), f"globus://{lab.uuid}/missing.txt"))
    assert (
        "could not move it: FILE_NOT_FOUND (Error (transfer); Server: stand-in (127.0.0.1); File: /missing.txt"
        in str(error)
    )
    (task,) = globus.tasks.values()
    assert task.document["fatal_error"]["code"] == "CANCELED"


def test_one_file_of_a_batch_cannot_be_written_and_the_others_arrive(lab, login, make, globus, take):
    lab.unwritable.add("/out/3.txt")
    stager = make(batch_window_s=0.1)
    futures = [take(stager, f"globus://{lab.uuid}/out/{n}.txt", str(n).encode()) for n in range(6)]
    error = failure(futures[3])
    assert "cannot push globus" in str(error)
    assert "could not move it: PERMISSION_DENIED" in str(error)
    for n in (0, 1, 2, 4, 5):
        futures[n].result(BOUND_S)
        assert lab.at(f"/out/{n}.txt").read_bytes() == str(n).encode()
    assert not lab.at("/out/3.txt").exists()
    assert len(globus.tasks) == 1


def test_one_file_ends_the_task_and_the_others_go_with_another(lab, login, make, globus, take):
    lab.fatal["/out/1.txt"] = ("QUOTA_EXCEEDED", "552 Disk quota exceeded")
    stager = make(batch_window_s=0.1)
    futures = [take(stager, f"globus://{lab.uuid}/out/{n}.txt") for n in range(4)]
    error = failure(futures[1])
    assert "could not move it: QUOTA_EXCEEDED" in str(error)
    assert "552 Disk quota exceeded" in str(error)
    for n in (0, 2, 3):
        futures[n].result(BOUND_S)
    assert [len(task.asked["DATA"]) for task in globus.tasks.values()] == [4, 2]


def test_files_are_not_taken_into_task_after_task(lab, login, make, globus, take):
    """Each task is ended by another file: after some, the rest fail with it."""
    for n in range(6):
        lab.fatal[f"/out/{n}.txt"] = ("QUOTA_EXCEEDED", "552 Disk quota exceeded")
    stager = make(batch_window_s=0.1)
    futures = [take(stager, f"globus://{lab.uuid}/out/{n}.txt") for n in range(6)]
    for future in futures:
        assert "QUOTA_EXCEEDED" in str(failure(future))
    assert [len(task.asked["DATA"]) for task in globus.tasks.values()] == [6, 5, 4]


@pytest.mark.parametrize("detail", ["event_list", "successful_transfers", "skipped_errors"])
def test_details_that_come_late(detail, lab, login, make, globus, take):
    """What became of each file is asked until it is told."""
    lab.unwritable.add("/out/1.txt")
    globus.answer_next("GET", f"/v0.10/task/[^/]+/{detail}", 503, times=2)
    stager = make(batch_window_s=0.1)
    futures = [take(stager, f"globus://{lab.uuid}/out/{n}.txt") for n in range(3)]
    assert "PERMISSION_DENIED" in str(failure(futures[1]))
    for n in (0, 2):
        futures[n].result(BOUND_S)
    assert len(globus.tasks) == 1


@pytest.mark.parametrize("detail", ["event_list", "successful_transfers", "skipped_errors"])
def test_details_that_are_not_told(detail, lab, login, make, globus, take):
    """Globus forgets them after some time: then the files have failed, and it is told what is known."""
    lab.unwritable.add("/out/1.txt")
    globus.answer_next("GET", f"/v0.10/task/[^/]+/{detail}", 409, times=9, code="HistoryDeleted", message="gone")
    stager = make(batch_window_s=0.1)
    futures = [take(stager, f"globus://{lab.uuid}/out/{n}.txt") for n in range(3)]
    text = str(failure(futures[1]))
    assert "the transfer was held up" in text or "PERMISSION_DENIED" in text
    for n in (0, 2):
        futures[n].result(BOUND_S)


def test_left_out_and_not_told(lab, login, make, globus, bring):
    """A file that was left out is never taken for one that has arrived."""
    globus.answer_next("GET", "/v0.10/task/[^/]+/skipped_errors", 409, times=9, code="HistoryDeleted", message="gone")
    error = failure(bring(make(), f"globus://{lab.uuid}/missing.txt"))
    assert "409 HistoryDeleted: gone" in str(error)


def test_a_storm(lab, login, make, globus, bring):
    """Everything goes wrong now and then; each file gets its own outcome all the same."""
    import random

    chance = random.Random(7)
    for path in ("submission_id", "transfer", "task/[^/]+", "task/[^/]+/.*"):
        method = "POST" if path == "transfer" else "GET"
        for _ in range(3):
            status = chance.choice((429, 500, 502, 503, 504))
            globus.answer_next(method, f"/v0.10/{path}", status, times=chance.randint(1, 3))
    stager = make(batch_window_s=0)
    urls = [lab.put(f"/in/{n}.txt", str(n).encode()) for n in range(40)]
    lab.unreadable.add("/in/7.txt")
    lab.at("/in/23.txt").unlink()
    futures = []
    for n, url in enumerate(urls):
        futures.append(bring(stager, url))
        if n == 20:
            globus.expire_access()
            globus.go_away()
            globus.come_back()
    for n, future in enumerate(futures):
        if n in (7, 23):
            assert ("PERMISSION_DENIED" if n == 7 else "FILE_NOT_FOUND") in str(failure(future))
        else:
            assert content(future) == str(n).encode()


# --- time


def test_a_transfer_that_is_paused_until_its_deadline(lab, login, make, globus, bring):
    lab.paused = True
    error = failure(bring(make(deadline_s=1), lab.put("/a.txt", b"a")))
    assert "it did not arrive within deadline_s, and the transfer was cancelled" in str(error)
    assert "an endpoint's administrator has paused it, and says: back at noon" in str(error)
    (task,) = globus.tasks.values()
    assert task.document["fatal_error"]["code"] == "CANCELED"


def test_a_pause_whose_message_is_not_told(lab, login, make, globus, bring):
    globus.answer_next("GET", "/v0.10/task/[^/]+/pause_info", 403, times=9, code="PermissionDenied", message="no")
    lab.paused = True
    error = failure(bring(make(deadline_s=1), lab.put("/a.txt", b"a")))
    assert "an endpoint's administrator has paused it, without a message" in str(error)


def test_a_pause_that_ended_is_not_blamed(lab, login, make, globus, bring):
    lab.paused = True
    future = bring(make(deadline_s=1.5), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: globus.count("GET", "/v0.10/task/[^/]+/pause_info") > 0)
    with globus.change():
        globus.held = True
        (task,) = globus.tasks.values()
        task.document.update(is_paused=False, is_ok=True, nice_status="OK")
    assert "paused" not in str(failure(future))


def test_the_newest_fault_is_told(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(deadline_s=1), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    with globus.change():
        (task,) = globus.tasks.values()
        task.event("CONNECT_FAILED", "no route")
        task.event("TIMEOUT", "no answer")
        # In whatever order they come.
        task.events.reverse()
    assert "its last fault was TIMEOUT (no answer)" in str(failure(future))


def test_an_outage_at_the_deadline(lab, login, make, globus, bring, monkeypatch):
    """The deadline holds, and is told, while Globus is out of reach."""
    monkeypatch.setattr(batches, "STOPPING_S", 0.2)
    globus.held = True
    future = bring(make(deadline_s=1), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: globus.tasks and globus.log[-1][1].startswith("/v0.10/task/"))
    globus.go_away()
    error = failure(future)
    globus.come_back()
    assert "it did not arrive within deadline_s" in str(error)


def test_a_thread_that_cannot_be_started(lab, login, make, globus, take, monkeypatch):
    start = threading.Thread.start

    def full(self):
        if self.name == "flowcore-globus":
            raise RuntimeError("can't start new thread")
        start(self)

    stager = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        arrived = take(stager, f"globus://{lab.uuid}/b.txt")
        assert str(arrived.exception(0)) == "can't start new thread"
    take(stager, f"globus://{lab.uuid}/c.txt").result(BOUND_S)


def test_a_pause_that_ends(lab, login, make, globus, bring):
    lab.paused = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: any(task.document["is_paused"] for task in globus.tasks.values()))
    lab.paused = False
    assert content(future) == b"a"


def test_a_transfer_that_never_ends(lab, login, make, globus, bring):
    globus.held = True
    error = failure(bring(make(deadline_s=1), lab.put("/a.txt", b"a")))
    assert f"cannot fetch globus://{lab.uuid}/a.txt: Globus task " in str(error)
    assert "from 'lab' to 'cluster': it did not arrive within deadline_s" in str(error)
    assert error.passing


def test_a_submission_that_is_never_taken(lab, login, make, globus, bring):
    globus.answer_next("POST", "/v0.10/transfer", 503, times=10**6)
    error = failure(bring(make(deadline_s=1), lab.put("/a.txt", b"a")))
    assert "Globus has not taken the transfer within deadline_s: cannot submit a transfer, Globus answers 503" in str(
        error
    )


def test_globus_is_told_the_deadline(lab, login, make, globus, bring):
    import datetime

    bring(make(deadline_s=100), lab.put("/a.txt", b"a")).result(BOUND_S)
    (task,) = globus.tasks.values()
    left = datetime.datetime.fromisoformat(task.asked["deadline"]) - datetime.datetime.now(datetime.UTC)
    assert 100 < left.total_seconds() <= 100 + transfers.GRACE_S


def test_credentials_of_an_endpoint_end(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    (task,) = globus.tasks.values()
    task.document.update(status="INACTIVE", is_ok=False, nice_status="CREDENTIALS_EXPIRED")
    error = failure(future)
    assert "Globus has suspended the transfer (INACTIVE), since credentials for an endpoint have expired" in str(error)
    assert "run: flowcore globus-auth --force" in str(error)


def test_a_task_that_an_administrator_cancels(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    with globus.change():
        (task,) = globus.tasks.values()
        task.document.update(canceled_by_admin="SOURCE", canceled_by_admin_message="maintenance")
        task.end("FAILED", "CANCELED", "The task was canceled")
    assert "cancelled by the administrator of the source endpoint: maintenance" in str(failure(future))


def test_a_future_that_nobody_wants_any_more(lab, login, make, globus, bring):
    globus.held = True
    future = bring(make(), lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    assert future.cancel()
    globus.wait_for(lambda: all(task.over for task in globus.tasks.values()))
    (task,) = globus.tasks.values()
    assert task.document["fatal_error"]["code"] == "CANCELED"


# --- the end


def test_closing_is_bounded_when_globus_does_not_answer(lab, login, make, globus, bring, monkeypatch):
    monkeypatch.setattr(transfers, "CLOSING_S", 0.5)
    globus.held = True
    stager = make()
    future = bring(stager, lab.put("/a.txt", b"a"))
    globus.wait_for(lambda: len(globus.tasks) == 1)
    lock = globus.change()
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    before = time.monotonic()
    stager.close()
    assert time.monotonic() - before < 10
    assert "the run ended before it had arrived" in str(future.exception(0))
    release.set()
    holder.join(10)


def test_a_defect_leaves_no_future_undone(lab, login, make, globus, bring, monkeypatch):
    from flowcore_staging_globus.service import Service

    def broken(self, *args):
        raise KeyError("task_id")

    monkeypatch.setattr(Service, "submit", broken)
    error = failure(bring(make(), lab.put("/a.txt", b"a")))
    assert "a defect of flowcore-staging-globus: KeyError: 'task_id'" in str(error)


def test_close_from_a_callback(lab, login, make, globus, bring):
    stager = make()
    future = bring(stager, lab.put("/a.txt", b"a"))
    closed = threading.Event()
    future.add_done_callback(lambda _: (stager.close(), closed.set()))
    assert content(future) == b"a"
    assert closed.wait(BOUND_S)


def test_the_stand_in_is_asked_like_globus(lab, login, make, globus: GlobusService, bring):
    """One transfer: no more questions than it takes."""
    globus.takes_s = 0
    bring(make(), lab.put("/a.txt", b"a")).result(BOUND_S)
    asked = [(method, path.split("/")[2]) for method, path in globus.log if not path.startswith("/v2/")]
    assert asked[:3] == [("GET", "endpoint"), ("GET", "submission_id"), ("POST", "transfer")]
    assert set(asked[3:]) == {("GET", "task")}
    (task,) = globus.tasks.values()
    assert task.asked["verify_checksum"] is True
    assert task.asked["notify_on_succeeded"] is False
