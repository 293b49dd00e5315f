"""Fetching from web servers: what each fault of a real server makes of a file."""

from __future__ import annotations

import logging
import os
import pathlib
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowcore import File
from flowcore.errors import ConfigurationError, StagingError, TransferError
from flowcore.plugins import transfer
from flowcore.plugins.api import StagingPlace
from flowcore.staging import HTTPInTaskStaging, HTTPSeparateTaskStaging
from flowcore.testing import http_server as server_kit
from flowcore.testing.certificates import Certificates
from flowcore.testing.http_server import HTTPFiles
from flowcore.testing.servers import need

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def server(tmp_path):
    with HTTPFiles(tmp_path / "www") as server:
        server.put("a.bin", CONTENT)
        yield server


@pytest.fixture
def path(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "a.bin"


def fetch(url, path, **options):
    HTTPSeparateTaskStaging(**{"timeout_s": 20, **options}).fetch(File(url), path)


def refused(url, path, **options):
    """Return the error of a fetch that fails, and check that nothing is left of it."""
    with pytest.raises(TransferError) as caught:
        fetch(url, path, **options)
    assert list(path.parent.iterdir()) == []
    return caught.value


def statuses(server):
    return [(request.status, request.headers.get("range")) for request in server.requests]


def test_a_file(server, path):
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT
    assert statuses(server) == [(200, None)]
    assert server.requests[0].headers["user-agent"].startswith("flowcore/")
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_an_empty_file(server, path):
    fetch(server.put("empty", b""), path)
    assert path.read_bytes() == b""


def test_what_is_there_is_replaced(server, path):
    path.write_bytes(b"old and longer" * 100_000)
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT


def test_files_of_a_server_share_a_connection(server, path):
    for _ in range(3):
        fetch(server.url("a.bin"), path)
    assert len({request.headers.get("connection", "keep-alive") for request in server.requests}) == 1


# --- faults that pass


def test_a_connection_that_is_cut_is_gone_on_with(server, path):
    server.fail("a.bin", server_kit.Cut(100_000), server_kit.Cut(50_000, reset=False))
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT
    assert statuses(server) == [(200, None), (206, "bytes=100000-"), (206, "bytes=150000-")]
    assert all(request.headers["if-range"].startswith('"') for request in server.requests[1:])


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_is_cut_at_once(server, path, reset):
    server.fail("a.bin", server_kit.Cut(0, reset))
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges(server, path):
    server.fail("a.bin", server_kit.Cut(100_000), server_kit.NoRanges())
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [10, 150_000, 400_000], ids=["shorter than the part", "shorter", "longer"])
def test_a_file_that_changes_in_between(server, path, size):
    server.fail("a.bin", server_kit.Cut(100_000), server_kit.Changed(b"n" * size))
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == b"n" * size


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
def test_a_status_that_passes(server, path, status):
    server.fail("a.bin", server_kit.Status(status), server_kit.Status(status))
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_the_server_says_when_to_come_again(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)
    soon = "Thu, 01 Jan 2099 00:00:00 GMT"
    server.fail(
        "a.bin",
        server_kit.Status(429, {"Retry-After": "7"}),
        server_kit.Status(503, {"Retry-After": soon}),
        server_kit.Status(503, {"Retry-After": "soon"}),
    )
    fetch(server.url("a.bin"), path)
    assert pauses[:2] == [7, transfer.LONGEST_PAUSE_S]
    assert pauses[2] < 1


def test_a_silence_that_ends(server, path):
    stall = server_kit.Stall(1000)
    server.fail("a.bin", stall)
    fetch(server.url("a.bin"), path, timeout_s=0.2)
    stall.released.set()
    assert path.read_bytes() == CONTENT
    assert statuses(server)[1] == (206, "bytes=1000-")


def test_a_slow_server_is_waited_for(server, path):
    """Silence is what counts, not the time that all takes."""
    server.fail("a.bin", server_kit.Slow(len(CONTENT) / 0.6))
    fetch(server.url("a.bin"), path, timeout_s=0.4, attempts=1)
    assert path.read_bytes() == CONTENT


def test_chunks_that_are_cut(server, path):
    server.fail("a.bin", server_kit.Chunked(cut_after=100_000), server_kit.Chunked())
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT


def test_a_length_that_nobody_tells(server, path):
    server.fail("a.bin", server_kit.NoLength())
    fetch(server.url("a.bin"), path)
    assert path.read_bytes() == CONTENT


# --- faults that stay


def test_no_such_file(server, path):
    error = refused(server.url("nothing.bin"), path)
    url = server.url("nothing.bin")
    assert str(error) == f"cannot fetch {url}: status 404 Not Found; the server has no such file: check the URL"
    assert (error.url, error.passing) == (url, False)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            401,
            "status 401 Unauthorized; the server wants a login: put it into the URL, into ~/.netrc, or into headers=",
        ),
        (403, "status 403 Forbidden; the server does not let this user have it"),
        (410, "status 410 Gone; the server has this file no more"),
        (400, "status 400 Bad Request"),
        (204, "status 204 No Content"),
    ],
)
def test_a_status_that_stays(server, path, status, said):
    server.fail("a.bin", server_kit.Status(status), always=True)
    assert f": {said}" in str(refused(server.url("a.bin"), path))
    assert len(server.requests) == 1


def test_a_server_that_stays_ill(server, path):
    server.fail("a.bin", server_kit.Status(500), always=True)
    error = refused(server.url("a.bin"), path, attempts=3)
    assert str(error) == f"cannot fetch {server.url('a.bin')}: status 500 Internal Server Error"
    assert error.__notes__ == ["flowcore: tried 3 times"]
    assert len(server.requests) == 3


def test_a_connection_that_is_always_cut(server, path):
    server.fail("a.bin", server_kit.Cut(1000), always=True)
    error = refused(server.url("a.bin"), path, attempts=2)
    assert str(error) == f"cannot fetch {server.url('a.bin')}: cut off after 2,000 of 256,000 bytes"


def test_fewer_bytes_than_announced(server, path):
    server.fail("a.bin", server_kit.WrongLength(len(CONTENT) + 5), always=True)
    error = refused(server.url("a.bin"), path, attempts=1)
    assert str(error) == f"cannot fetch {server.url('a.bin')}: cut off after 256,000 of 256,005 bytes"


def test_a_server_that_stays_silent(server, path):
    stall = server_kit.Stall(1000)
    server.fail("a.bin", stall, always=True)
    error = refused(server.url("a.bin"), path, timeout_s=0.2, attempts=1)
    stall.released.set()
    assert (
        str(error)
        == f"cannot fetch {server.url('a.bin')}: the server was silent for 0.2 s after 1,000 of 256,000 bytes"
    )


def test_a_server_that_says_nothing_at_all(server, path):
    stall = server_kit.Stall(None)
    server.fail("a.bin", stall, always=True)
    error = refused(server.url("a.bin"), path, timeout_s=0.2, attempts=1)
    stall.released.set()
    assert str(error) == f"cannot fetch {server.url('a.bin')}: no answer from the server within 0.2 s"


def test_nobody_listens(path):
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        error = refused(url, path, attempts=2)
    assert str(error) == f"cannot fetch {url}: no connection to the server: Connection refused"


def test_a_name_that_nobody_has(path):
    error = refused("http://no-such-host.invalid/a", path, attempts=1)
    assert str(error).startswith("cannot fetch http://no-such-host.invalid/a: no connection to the server: ")


def test_no_url_at_all(path):
    assert "cannot fetch http://: " in str(refused("http://", path))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(server, path, monkeypatch):
    really = pathlib.Path.open

    def full(self, *args, **kwargs):
        return open("/dev/full", "wb", buffering=0) if self.suffix == ".part" else really(self, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", full)
    with pytest.raises(TransferError) as caught:
        fetch(server.url("a.bin"), path)
    assert f"cannot write to '{path.parent}' on {os.uname().nodename}: No space left on device" in str(caught.value)
    assert len(server.requests) == 1


# --- redirects


def test_redirects_are_followed(server, path):
    server.fail("b.bin", server_kit.Redirect("c.bin", 307), always=True)
    server.fail("c.bin", server_kit.Redirect(server.url("a.bin"), 301), always=True)
    fetch(server.url("b.bin"), path)
    assert path.read_bytes() == CONTENT


def test_redirects_are_bounded(server, path):
    server.fail("a.bin", server_kit.Redirect("a.bin"), always=True)
    error = refused(server.url("a.bin"), path, max_redirects=3)
    assert str(error) == f"cannot fetch {server.url('a.bin')}: more than 3 redirects"
    assert len(server.requests) == 4


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/"])
def test_redirects_lead_to_web_servers_only(server, path, target):
    server.fail("a.bin", server_kit.Redirect(target))
    assert f"the server redirects to {target}, which is no web server" in str(refused(server.url("a.bin"), path))


# --- logins and other secrets


def test_a_login_in_the_url(tmp_path, path, caplog):
    caplog.set_level(logging.DEBUG)
    with HTTPFiles(tmp_path / "www", basic_auth=("me", "p@ss word")) as server:
        url = server.put("a.bin", CONTENT)
        fetch(url.replace("://", "://me:p%40ss%20word@"), path)
        assert path.read_bytes() == CONTENT
        path.unlink()
        error = refused(url.replace("://", "://me:guessed@") + "?signature=hidden", path)
    assert "401" in str(error) and "http://...@127.0.0.1" in str(error) and str(error).count("?...") == 1
    for secret in ("guessed", "hidden", "p%40ss", "p@ss"):
        assert secret not in caplog.text + str(error) + repr(error) + repr(File(url.replace("://", f"://u:{secret}@")))


def test_a_login_of_netrc(tmp_path, path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HTTPFiles(tmp_path / "www", basic_auth=("me", "secret")) as server:
        fetch(server.put("a.bin", CONTENT), path)


def test_headers_go_to_their_host_alone(tmp_path, server, path):
    with HTTPFiles(tmp_path / "elsewhere") as other:
        other.put("a.bin", CONTENT)
        server.fail("a.bin", server_kit.Redirect(other.url("a.bin").replace("127.0.0.1", "localhost")))
        stager = HTTPInTaskStaging(headers={"127.0.0.1": {"X-Token": "secret"}, "localhost": {"X-Other": "also"}})
        stager.fetch(File(server.url("a.bin")), path)
        first, second = server.requests[0].headers, other.requests[0].headers
    assert (first.get("x-token"), first.get("x-other")) == ("secret", None)
    assert (second.get("x-token"), second.get("x-other")) == (None, "also")
    assert "secret" not in repr(stager)


def test_a_login_does_not_follow_a_redirect_to_another_host(tmp_path, server, path):
    with HTTPFiles(tmp_path / "elsewhere") as other:
        other.put("a.bin", CONTENT)
        server.fail("a.bin", server_kit.Redirect(other.url("a.bin").replace("127.0.0.1", "localhost")))
        fetch(server.url("a.bin").replace("://", "://me:secret@"), path)
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": {"https://h/": {}}}, "headers={'https://h/': ...}: expected the name of a host"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"attempts": 0}, "attempts"),
        ({"max_redirects": -1}, "max_redirects"),
        ({"cache": 3}, "cache=3"),
        ({"verify": False}, "HTTPInTaskStaging has no option 'verify'"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(ConfigurationError) as caught:
        HTTPInTaskStaging(**options)
    assert said in str(caught.value)


# --- TLS


@pytest.fixture
def authority(tmp_path):
    need("openssl")
    return Certificates(tmp_path / "ca")


def test_a_certificate_of_a_known_authority(tmp_path, authority, path):
    with HTTPFiles(tmp_path / "www", tls=authority) as server:
        fetch(server.put("a.bin", CONTENT), path, ca_file=str(authority.ca_file))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("made", "trusted", "said"),
    [
        ({}, False, r"unable to get local issuer certificate|self.signed certificate in certificate chain"),
        ({"expired": True}, True, "certificate has expired"),
        ({"names": ("elsewhere.example.org",)}, True, "not valid for '127.0.0.1'|doesn't match"),
    ],
    ids=["unknown authority", "expired", "of another host"],
)
def test_a_certificate_that_is_not_to_be_trusted(tmp_path, authority, path, made, trusted, said):
    certificate = authority.make(*made.get("names", ()), expired=made.get("expired", False))
    with HTTPFiles(tmp_path / "www", tls=certificate) as server:
        error = refused(server.url("a.bin"), path, ca_file=str(authority.ca_file) if trusted else None)
        assert server.requests == []
    assert "the server is not trusted: " in str(error) and "ca_file= of the stager names other" in str(error)
    import re

    assert re.search(said, str(error))


def test_an_authority_that_is_not_there(tmp_path, authority, path):
    with HTTPFiles(tmp_path / "www", tls=authority) as server:
        assert "there is no ca_file='/no/such' on " in str(refused(server.url("a.bin"), path, ca_file="/no/such"))


def test_a_redirect_out_of_tls(tmp_path, authority, server, path):
    with HTTPFiles(tmp_path / "tls", tls=authority) as safe:
        safe.fail("a.bin", server_kit.Redirect(server.url("a.bin")))
        error = refused(safe.url("a.bin"), path, ca_file=str(authority.ca_file))
    assert f"the server redirects from https to {server.url('a.bin')}, where anybody could listen" in str(error)
    assert server.requests == []


# --- the cache


@pytest.fixture
def cached(tmp_path):
    """Makes a stager of a run of its own, whose cache is that of the test."""

    def make(**options):
        stager = HTTPInTaskStaging(cache=str(tmp_path / "cache"), timeout_s=20, **options)
        stager.start(StagingPlace("e", None, tmp_path))
        return stager

    return make


def test_a_url_is_fetched_once(server, path, cached):
    stager = cached()
    for _ in range(3):
        stager.fetch(File(server.url("a.bin")), path)
        assert path.read_bytes() == CONTENT
        path.unlink()
    assert statuses(server) == [(200, None)]


def test_tasks_that_want_one_url_wait_for_the_first(server, path, cached):
    stager = cached()
    stall = server_kit.Stall(1000)
    server.fail("a.bin", stall)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(stager.fetch, File(server.url("a.bin")), path.with_name(f"{i}")) for i in range(4)]
        threading.Timer(0.3, stall.released.set).start()
        for future in futures:
            future.result(60)
    assert {file.read_bytes() for file in path.parent.iterdir()} == {CONTENT}
    assert len(server.requests) == 1


def test_a_later_run_asks_whether_it_changed(server, path, cached):
    cached().fetch(File(server.url("a.bin")), path)
    again = cached()
    again.fetch(File(server.url("a.bin")), path)
    again.fetch(File(server.url("a.bin")), path)
    assert [status for status, _ in statuses(server)] == [200, 304]
    server.put("a.bin", b"new", modified=4e9)
    cached().fetch(File(server.url("a.bin")), path)
    assert path.read_bytes() == b"new"
    assert [status for status, _ in statuses(server)] == [200, 304, 200]


def test_a_kept_file_that_was_changed_is_not_handed_out(server, path, cached, tmp_path):
    stager = cached()
    stager.fetch(File(server.url("a.bin")), path)
    (kept,) = (tmp_path / "cache").glob("*/content")
    kept.chmod(0o644)
    kept.write_bytes(b"x" * len(CONTENT))
    path.unlink()
    stager.fetch(File(server.url("a.bin")), path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_kept_file_that_was_touched_is_checked(server, path, cached, tmp_path):
    stager = cached()
    stager.fetch(File(server.url("a.bin")), path)
    (kept,) = (tmp_path / "cache").glob("*/content")
    os.utime(kept)
    stager.fetch(File(server.url("a.bin")), path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_kept_files_are_shared_and_read_only(server, path, cached, tmp_path):
    cached().fetch(File(server.url("a.bin")), path)
    assert path.stat().st_nlink == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_failed_fetch_leaves_the_cache_as_it_was(server, path, cached, tmp_path):
    server.fail("a.bin", server_kit.Cut(100), always=True)
    stager = cached(attempts=1)
    with pytest.raises(TransferError):
        stager.fetch(File(server.url("a.bin")), path)
    assert sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()) == ["lock"]
    assert list(path.parent.iterdir()) == []


def test_the_cache_is_bounded(server, path, cached, tmp_path):
    stager = cached(cache_max_bytes=2 * len(CONTENT))
    for name in ("1", "2", "3"):
        stager.fetch(File(server.put(name, CONTENT)), path)
    assert len(list((tmp_path / "cache").glob("*/content"))) == 2
    before = len(server.requests)
    stager.fetch(File(server.url("3")), path)
    assert len(server.requests) == before


def test_a_cache_that_cannot_be(server, path, tmp_path):
    (tmp_path / "file").touch()
    stager = HTTPInTaskStaging(cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(StagingError, match=r"cannot use '.*/file/cache' on .* as a cache of files: Not a directory"):
        stager.fetch(File(server.url("a.bin")), path)
