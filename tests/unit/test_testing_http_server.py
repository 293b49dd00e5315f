"""The HTTP server of the testing kit serves as servers do, and goes wrong as it is told."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from flowcore.testing import http_server as kit
from flowcore.testing.certificates import Certificates
from flowcore.testing.http_server import HTTPFiles
from flowcore.testing.servers import need

CONTENT = bytes(range(256)) * 1000


@attrs.frozen
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HTTPFiles]:
    with HTTPFiles(tmp_path / "www") as server:
        server.put("a.bin", CONTENT)
        yield server


def ask(connection: http.client.HTTPConnection, name: str, method: str = "GET", **headers: str) -> Got:
    connection.request(method, f"/{name}", headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    return Got(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def get(server: HTTPFiles, name: str = "a.bin", method: str = "GET", **headers: str) -> Got:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        return ask(connection, name, method, **headers)


def cut_short(server: HTTPFiles) -> bytes:
    """Ask for a file; return what came of it before the connection ended too early."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(server)
    return caught.value.partial


# --- serving


def test_serves_files_below_its_folder_and_nothing_else(server: HTTPFiles, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    url = server.put("folder/späce %.txt", b"content")
    assert url == f"http://127.0.0.1:{server.port}/folder/sp%C3%A4ce%20%25.txt"
    assert get(server, "folder/sp%C3%A4ce%20%25.txt?query=1").body == b"content"
    assert get(server).body == CONTENT
    for name in ("none", "folder", "../secret", "%2e%2e/secret", ""):
        assert get(server, name).status == 404


def test_records_requests(server: HTTPFiles) -> None:
    get(server, X_Mark="1")
    get(server, "none?a=b", "HEAD")
    first, second = server.requests
    assert (first.method, first.path, first.status, first.sent) == ("GET", "/a.bin", 200, len(CONTENT))
    assert first.headers["x-mark"] == "1"
    assert (second.method, second.path, second.status, second.sent) == ("HEAD", "/none?a=b", 404, 0)


def test_keeps_connections(server: HTTPFiles) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        assert ask(connection, "a.bin", "HEAD").headers["content-length"] == str(len(CONTENT))
        sock = connection.sock
        assert sock is not None
        for name, status in (("a.bin", 200), ("none", 404), ("a.bin", 200)):
            assert ask(connection, name).status == status
        assert connection.sock is sock


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-9", 0, 10), ("1000-", 1000, None), ("-100", -100, None), ("255990-999999", 255990, None), ("0-", 0, None)],
)
def test_ranges(server: HTTPFiles, asked: str, start: int, stop: int | None) -> None:
    got = get(server, Range=f"bytes={asked}")
    assert got.status == 206
    assert got.body == CONTENT[start:stop]
    first = range(len(CONTENT))[start]
    assert got.headers["content-range"] == f"bytes {first}-{first + len(got.body) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["256000-", "300000-300010", "-0"])
def test_a_range_behind_the_end(server: HTTPFiles, asked: str) -> None:
    got = get(server, Range=f"bytes={asked}")
    assert (got.status, got.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=x-"])
def test_ranges_that_it_does_not_know_are_left_unheard(server: HTTPFiles, asked: str) -> None:
    assert get(server, Range=asked).status == 200


def test_a_part_of_what_was_seen_before(server: HTTPFiles) -> None:
    seen = get(server, method="HEAD").headers
    for mark in (seen["etag"], seen["last-modified"]):
        assert get(server, Range="bytes=5-", If_Range=mark).status == 206
    assert get(server, Range="bytes=5-", If_Range='"other"').body == CONTENT
    server.put("a.bin", b"other")
    assert get(server, Range="bytes=2-", If_Range=seen["etag"]).body == b"other"


def test_what_has_not_changed_is_not_sent(server: HTTPFiles) -> None:
    seen = get(server).headers
    for mark in (seen["etag"], f'"x", W/{seen["etag"]}', "*"):
        got = get(server, If_None_Match=mark)
        assert (got.status, got.body) == (304, b"")
    assert get(server, If_Modified_Since=seen["last-modified"]).status == 304
    assert get(server, If_Modified_Since="never").status == 200
    server.put("a.bin", b"other", modified=4e9)
    assert get(server, If_None_Match=seen["etag"]).body == b"other"
    assert get(server, If_Modified_Since=seen["last-modified"]).body == b"other"


def test_a_file_of_the_same_size_and_age_has_another_tag(server: HTTPFiles) -> None:
    tags = set()
    for content in (b"1", b"2"):
        server.put("b", content, modified=1e9)
        tags.add(get(server, "b").headers["etag"])
    assert len(tags) == 2


def test_a_large_file(server: HTTPFiles) -> None:
    content = os.urandom(5 << 20)
    server.put("large", content)
    assert get(server, "large").body == content
    assert get(server, "large", Range="bytes=4000000-").body == content[4000000:]


def test_credentials(tmp_path: Path) -> None:
    with HTTPFiles(tmp_path, basic_auth=("user", "pass:word")) as server:
        server.put("a", b"content")
        refused = get(server, "a")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="tests"')
        assert get(server, "a", Authorization="Basic eDp5").status == 401
        shown = base64.b64encode(b"user:pass:word").decode()
        assert get(server, "a", Authorization=f"Basic {shown}").body == b"content"


# --- its life


def test_stops_and_starts_at_the_same_port(server: HTTPFiles) -> None:
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(server)
    server.start()
    assert get(server).body == CONTENT


def test_ends_connections_that_are_kept_or_hang(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Stall(7))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", "/a.bin")
        response = connection.getresponse()
        assert response.read(7) == CONTENT[:7]
        server.stop()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            # Not all of it: what was put on its way before the end may have come.
            response.read()


def test_from_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    command = [sys.executable, "-m", "flowcore.testing.http_server", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].strip("/\n"))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            assert ask(connection, "a").body == b"content"
        process.communicate(timeout=20)
    assert process.returncode == 0


# --- faults


def test_each_request_takes_one_fault(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Status(503), kit.Fault(), kit.Status(429, {"Retry-After": "7"}, b"slowly"))
    assert get(server).body == b"503 Service Unavailable\n"
    assert get(server).status == 200
    got = get(server)
    assert (got.status, got.headers["retry-after"], got.body) == (429, "7", b"slowly")
    assert get(server).status == 200


def test_a_fault_for_ever(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Status(404), always=True)
    assert [get(server).status for _ in range(3)] == [404] * 3
    server.fail("a.bin")
    assert get(server).status == 200


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_cut(server: HTTPFiles, after: int) -> None:
    server.fail("a.bin", kit.Cut(after))
    assert cut_short(server) == CONTENT[:after]
    assert server.requests[-1].sent == after
    assert get(server, Range=f"bytes={after}-").body == CONTENT[after:]


def test_reset(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Cut(100_000, reset=True))
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        get(server)


def test_wrong_length(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.WrongLength(len(CONTENT) + 5), kit.WrongLength(5))
    assert cut_short(server) == CONTENT
    assert get(server).body == CONTENT[:5]


def test_no_length(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.NoLength(), kit.NoLength(7))
    got = get(server)
    assert "content-length" not in got.headers
    assert got.body == CONTENT
    assert get(server).body == CONTENT[:7]


def test_chunks(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Chunked(), kit.Chunked(size=1000, cut_after=2500))
    got = get(server)
    assert (got.headers["transfer-encoding"], got.body) == ("chunked", CONTENT)
    assert "content-length" not in got.headers
    # The client tells of whole chunks only.
    assert cut_short(server).startswith(CONTENT[:2000])
    assert [request.sent for request in server.requests] == [len(CONTENT), 2500]


def test_redirect(server: HTTPFiles) -> None:
    server.fail("old", kit.Redirect("/a.bin"), kit.Redirect("http://elsewhere/", 308))
    got = get(server, "old")
    assert (got.status, got.headers["location"]) == (302, "/a.bin")
    assert get(server, "old").status == 308


def test_no_ranges(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.NoRanges(), always=True)
    got = get(server, Range="bytes=5-")
    assert (got.status, got.body) == (200, CONTENT)
    assert "accept-ranges" not in got.headers


def test_changed_between(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Cut(10), kit.Changed(b"another content"))
    seen = get(server, method="HEAD").headers
    server.fail("a.bin", kit.Changed(b"another content"))
    for mark in (seen["etag"], seen["last-modified"]):
        got = get(server, Range="bytes=10-", If_Range=mark)
        assert (got.status, got.body) == (200, b"another content")
    assert get(server, Range="bytes=10-").body == b"ntent"


def test_slow(server: HTTPFiles) -> None:
    server.fail("a.bin", kit.Slow(bytes_per_s=4e6))
    assert get(server).body == CONTENT


@pytest.mark.parametrize("after", [None, 0, 1000])
def test_stall(server: HTTPFiles, after: int | None) -> None:
    stall = kit.Stall(after)
    server.fail("a.bin", stall)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=0.2)) as connection:
        connection.request("GET", "/a.bin")
        if after is not None:
            response = connection.getresponse()
            assert response.read(after) == CONTENT[:after]
        assert connection.sock is not None
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        stall.released.set()
        connection.sock.settimeout(20)
        if after is None:
            response = connection.getresponse()
    assert response.status == 200


def test_faults_do_not_disturb_other_files(server: HTTPFiles) -> None:
    server.put("b", b"content")
    stall = kit.Stall(None)
    server.fail("a.bin", stall, always=True)
    bodies: list[bytes] = []
    waiting = threading.Thread(target=lambda: bodies.append(get(server).body))
    waiting.start()
    assert get(server, "b").body == b"content"
    assert bodies == []
    stall.released.set()
    waiting.join(20)
    assert bodies == [CONTENT]


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    need("openssl")
    return Certificates(tmp_path_factory.mktemp("tls"))


def get_safely(server: HTTPFiles, host: str, trusted: Path | None) -> bytes:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=trusted)
    with contextlib.closing(http.client.HTTPSConnection(host, server.port, timeout=20, context=context)) as connection:
        return ask(connection, "a.bin").body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls(certificates: Certificates, tmp_path: Path, host: str) -> None:
    with HTTPFiles(tmp_path, tls=certificates) as server:
        assert server.put("a.bin", CONTENT) == f"https://127.0.0.1:{server.port}/a.bin"
        assert get_safely(server, host, certificates.ca_file) == CONTENT


def test_who_does_not_know_the_authority_does_not_trust_it(certificates: Certificates, tmp_path: Path) -> None:
    with HTTPFiles(tmp_path, tls=certificates) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            get_safely(server, "127.0.0.1", None)
        # And the server lives.
        server.put("a.bin", b"content")
        assert get_safely(server, "127.0.0.1", certificates.ca_file) == b"content"


def test_certificates_that_are_wrong(certificates: Certificates, tmp_path: Path) -> None:
    for certificate, reason in (
        (certificates.make(expired=True), "expired"),
        (certificates.make("elsewhere.example"), "IP address mismatch"),
    ):
        with (
            HTTPFiles(tmp_path, tls=certificate) as server,
            pytest.raises(ssl.SSLCertVerificationError, match=reason),
        ):
            get_safely(server, "127.0.0.1", certificates.ca_file)


def test_what_openssl_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="made by the program openssl, which is not on PATH"):
        Certificates(tmp_path / "tls")
    program = tmp_path / "openssl"
    program.write_text("#!/bin/sh\necho no luck >&2; exit 3\n")
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"`openssl req .*` failed with exit code 3: no luck"):
        Certificates(tmp_path / "tls")
