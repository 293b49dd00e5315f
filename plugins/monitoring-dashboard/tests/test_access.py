"""The door: methods, host names, tokens, headers."""

from __future__ import annotations

import pytest
from dashboards import Client
from flowcore_monitoring_dashboard import access
from flowcore_monitoring_dashboard.access import Access, Door, host_of, is_loopback
from starlette.responses import PlainTextResponse


async def inside(scope, receive, send):
    await PlainTextResponse("inside")(scope, receive, send)


def client(door: Access) -> Client:
    return Client(Door(inside, door))


HERE = Access(loopback=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LocalHost."])
def test_addresses_of_this_machine_alone(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.4", "example.org", "localhost.example.org", ""])
def test_addresses_that_others_reach(address):
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("header", "host"),
    [("127.0.0.1:8080", "127.0.0.1"), ("[::1]:80", "::1"), ("Host.Example.org.", "host.example.org"), ("", "")],
)
def test_host_of(header, host):
    assert host_of(header) == host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_looking_is_allowed(method):
    answer = client(HERE).request(method, "/")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:50000", "[::1]:8080"])
def test_names_of_this_machine_are_known_on_any_port_as_through_a_tunnel(host):
    assert client(HERE).get("/", headers={"Host": host}).text == "inside"


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org", "10.0.0.1", "localhost.evil.org", ""])
def test_another_host_name_is_refused_and_told_what_to_do(host):
    answer = client(HERE).get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "--host-name" in answer.text
    assert "inside" not in answer.text


def test_a_further_name_is_allowed():
    door = Access.of("127.0.0.1", 8080, names=["Dash.Example.org"])
    assert client(door).get("/", headers={"Host": "dash.example.org"}).text == "inside"


def test_beyond_loopback_an_ip_address_is_a_known_name_and_a_foreign_one_is_not():
    door = Access.of("0.0.0.0", 8080)
    assert door.token
    assert door.knows_host("192.168.1.4:8080")
    assert door.knows_host("[fd00::1]:8080")
    assert all(door.knows_host(name) for name in access.names_of_this_host())
    assert not door.knows_host("evil.example.org")


def test_loopback_asks_for_no_token_unless_told_to():
    assert Access.of("127.0.0.1", 1).token is None
    first, second = (Access.of("127.0.0.1", 1, always_token=True).token for _ in range(2))
    assert first and second and first != second
    assert len(first) >= 32


def test_a_token_is_shown_once_and_a_cookie_afterwards():
    door = Access.of("127.0.0.1", 8080, always_token=True)
    browser = client(door)
    refused = browser.get("/")
    assert refused.status_code == 401
    assert "flowcore dashboard" in refused.text
    assert browser.get("/", params={"token": "wrong"}).status_code == 401
    welcome = browser.get("/workflow/x", params={"token": door.token, "app": "a b"})
    assert welcome.status_code == 303
    assert welcome.headers["Location"] == "/workflow/x?app=a+b"
    cookie = welcome.headers["Set-Cookie"]
    assert cookie.startswith("flowcore_dashboard_8080=")
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert door.token not in cookie
    assert browser.get("/").text == "inside"


def test_a_cookie_that_is_made_up_is_refused():
    door = Access.of("127.0.0.1", 8080, always_token=True)
    for value in ("", "x", door.token, "é", 'a"b'):
        answer = client(door).get("/", headers={"Cookie": f"flowcore_dashboard_8080={value}".encode("latin-1")})
        assert answer.status_code == 401


def test_scripts_may_send_the_token_in_a_header():
    door = Access.of("127.0.0.1", 8080, always_token=True)
    assert client(door).get("/", headers={"Authorization": f"Bearer {door.token}"}).text == "inside"
    assert client(door).get("/", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client(door).get("/", headers={"Authorization": f"Basic {door.token}"}).status_code == 401


def test_with_the_token_nobody_is_led_to_another_host():
    door = Access.of("127.0.0.1", 8080, always_token=True)
    answer = client(door).get(f"http://127.0.0.1:8080//evil.example.org/?token={door.token}")
    assert answer.headers["Location"] == "/evil.example.org/"


def test_the_token_stands_in_no_repr():
    door = Access.of("127.0.0.1", 8080, always_token=True)
    assert door.token not in repr(door)


def test_a_cookie_goes_through_tls_alone_where_there_is_tls():
    door = Access.of("127.0.0.1", 8443, always_token=True, secure=True)
    answer = client(door).get("/", params={"token": door.token})
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/", "/?token=x"])
def test_every_answer_has_the_headers(path):
    door = Access.of("127.0.0.1", 8080, always_token=True)
    answer = client(door).get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-cache"
