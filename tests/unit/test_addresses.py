import http.server
import ipaddress
import socket
import threading

import pytest

from flowcore import addresses
from flowcore.errors import ConfigurationError


@pytest.fixture
def service(monkeypatch):
    """A web service on this host that gives one answer; set ``.answer``."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(self.server.answer)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status, server.answer = 200, b""
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(addresses, "QUERY_URL", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()
        thread.join(5)


def test_hostname():
    assert addresses.address_by_hostname() == socket.gethostname()


def test_loopback_interface():
    assert addresses.interface_addresses()["lo"] == "127.0.0.1"
    assert addresses.address_by_interface("lo") == "127.0.0.1"


@pytest.mark.parametrize("name", ["lo0", "", "a-name-that-no-interface-can-have"])
def test_unknown_interface_names_those_that_exist(name):
    with pytest.raises(ConfigurationError) as caught:
        addresses.address_by_interface(name)
    assert f"no network interface {name!r}" in str(caught.value)
    assert "lo (127.0.0.1)" in str(caught.value)


def test_unknown_interface_has_a_close_match():
    with pytest.raises(ConfigurationError, match=r"\(did you mean 'lo'\?\)"):
        addresses.address_by_interface("loo")


def test_interface_without_address(monkeypatch):
    monkeypatch.setattr(addresses, "_address_of", lambda ifname: None)
    with pytest.raises(ConfigurationError, match=r"'lo' has no IPv4 address; .*lo \(no IPv4 address\)"):
        addresses.address_by_interface("lo")


def test_route_to_a_reachable_target(monkeypatch):
    monkeypatch.setattr(addresses, "ROUTE_TARGET", ("127.0.0.1", 53))
    assert addresses.address_by_route() == "127.0.0.1"


def test_no_route_names_the_interfaces(monkeypatch):
    # The kernel refuses broadcast without SO_BROADCAST, as it refuses an unreachable network.
    monkeypatch.setattr(addresses, "ROUTE_TARGET", ("255.255.255.255", 53))
    with pytest.raises(ConfigurationError) as caught:
        addresses.address_by_route()
    assert "no route to 255.255.255.255" in str(caught.value)
    assert "address_by_interface() with one of its interfaces: " in str(caught.value)
    assert "lo (127.0.0.1)" in str(caught.value)


def test_query(service):
    service.answer = b"203.0.113.7\n"
    assert addresses.address_by_query(timeout=5) == "203.0.113.7"


def test_query_is_answered_with_something_else(service):
    service.answer = b"<html>please log in</html>"
    with pytest.raises(ConfigurationError, match="'<html>please log in</html>', which is no IP address"):
        addresses.address_by_query(timeout=5)


def test_query_is_answered_with_an_error(service):
    service.status = 503
    with pytest.raises(ConfigurationError, match=r"within 5 s \(Service Unavailable\); use address_by_route"):
        addresses.address_by_query(timeout=5)


def test_query_without_service(service, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(addresses, "QUERY_URL", f"http://127.0.0.1:{port}/")
    with pytest.raises(ConfigurationError, match=r"Connection refused.*lo \(127\.0\.0\.1\)"):
        addresses.address_by_query(timeout=5)


def test_query_times_out(service, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setattr(addresses, "QUERY_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(ConfigurationError, match=r"within 0\.05 s \(timed out\)"):
            addresses.address_by_query(timeout=0.05)


def test_all_addresses_end_with_the_loopback():
    found = addresses.get_all_addresses()
    assert found[-1] == "127.0.0.1"
    assert len(found) == len(set(found))
    assert set(addresses.interface_addresses().values()) <= set(found)


def test_all_addresses_begin_with_the_route(monkeypatch):
    monkeypatch.setattr(addresses, "address_by_route", lambda: "198.51.100.1")
    monkeypatch.setattr(addresses, "address_by_hostname", lambda: "does-not-resolve.invalid")
    monkeypatch.setattr(
        addresses, "interface_addresses", lambda: {"lo": "127.0.0.1", "eth0": "198.51.100.1", "ib0": "10.0.0.1"}
    )
    assert addresses.get_all_addresses() == ["198.51.100.1", "10.0.0.1", "127.0.0.1"]
    assert all(ipaddress.ip_address(a) for a in addresses.get_all_addresses())
