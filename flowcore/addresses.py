"""Which of this host's addresses can workers connect to? Several answers; a configuration picks one.

Rule of this module: nothing is guessed in silence. A function returns one kind of address, or raises an error
that names the addresses that there are. IPv4 only. :func:`address_by_query` alone talks to another host.
"""

from __future__ import annotations

import fcntl
import http.client
import ipaddress
import socket
import struct
import sys
import urllib.request

from flowcore.errors import ConfigurationError
from flowcore.plugins.component import close_match

#: Answers with the address that a request comes from, as text.
QUERY_URL = "https://api.ipify.org"
#: A well-known host beyond the default route (Google's DNS); nothing is sent to it.
ROUTE_TARGET = ("8.8.8.8", 53)

# ioctl request for an interface's address, netdevice(7); macOS: <sys/sockio.h>.
_SIOCGIFADDR = 0xC0206921 if sys.platform == "darwin" else 0x8915
# IFNAMSIZ - 1: the kernel keeps 16 bytes with a final zero.
_LONGEST_NAME = 15


def address_by_hostname() -> str:
    """Return the name of this host.

    It is of use only where workers can resolve it; ``flowcore doctor`` shows what it resolves to here.
    """
    return socket.gethostname()


def address_by_route() -> str:
    """Return the address of the interface that leads to the internet.

    Asks the routing table; no packet is sent. Workers on a network of their own may not reach this address.

    Raises:
        ConfigurationError: there is no such route; names the interfaces that exist.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a UDP socket chooses the route and sends nothing.
            probe.connect(ROUTE_TARGET)
        except OSError as error:
            raise ConfigurationError(
                f"address_by_route: this host has no route to {ROUTE_TARGET[0]} ({error.strerror or error}); "
                f"use address_by_interface() with one of its interfaces: {_interfaces()}"
            ) from error
        address: str = probe.getsockname()[0]
    return address


def address_by_query(timeout: float = 30) -> str:
    """Return the address that a public service (``QUERY_URL``) sees this host under.

    Behind a NAT that is the router's address, which workers cannot use.

    Args:
        timeout: seconds to wait for the service.

    Raises:
        ConfigurationError: the service cannot be reached in time, or answers with something else.
    """
    instead = "use address_by_route(), or address_by_interface() with one of this host's interfaces: "
    try:
        with urllib.request.urlopen(QUERY_URL, timeout=timeout) as answer:
            text = answer.read(256).decode("ascii", errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigurationError(
            f"address_by_query: no answer from {QUERY_URL} within {timeout:g} s ({reason}); {instead}{_interfaces()}"
        ) from error
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ConfigurationError(
            f"address_by_query: {QUERY_URL} answered {text[:80]!r}, which is no IP address; {instead}{_interfaces()}"
        ) from error


def address_by_interface(ifname: str) -> str:
    """Return the IPv4 address of a network interface.

    Args:
        ifname: its name, for example ``eth0`` or ``ib0``; ``ip address`` lists them.

    Raises:
        ConfigurationError: there is no such interface, or it has no IPv4 address; names those that exist.
    """
    names = [name for _, name in socket.if_nameindex()]
    if ifname not in names:
        raise ConfigurationError(
            f"address_by_interface: this host has no network interface {ifname!r}"
            f"{close_match(ifname, names)}; its interfaces: {_interfaces()}"
        )
    address = _address_of(ifname)
    if address is None:
        raise ConfigurationError(
            f"address_by_interface: the interface {ifname!r} has no IPv4 address; "
            f"the interfaces of this host: {_interfaces()}"
        )
    return address


def interface_addresses() -> dict[str, str]:
    """Return the IPv4 address of each network interface that has one, by the interface's name."""
    found = {name: _address_of(name) for _, name in socket.if_nameindex()}
    return {name: address for name, address in found.items() if address is not None}


def get_all_addresses() -> list[str]:
    """Return all addresses under which workers might reach this host, the likeliest first.

    That is the one on the default route, those of the other interfaces, the host's name where it resolves,
    and those of the loopback interface. No other host is asked, but a name server.
    """
    found: list[str] = []
    try:
        found.append(address_by_route())
    except ConfigurationError:
        pass  # A host without that route has the others.
    addresses = interface_addresses().values()
    found.extend(a for a in addresses if not _is_loopback(a))
    hostname = address_by_hostname()
    try:
        socket.getaddrinfo(hostname, None, socket.AF_INET)
    except OSError:
        pass  # Nobody can connect to a name that does not resolve.
    else:
        found.append(hostname)
    found.extend(a for a in addresses if _is_loopback(a))
    return list(dict.fromkeys(found))


def _address_of(ifname: str) -> str | None:
    name = ifname.encode()
    if len(name) > _LONGEST_NAME:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name))
        except OSError:  # EADDRNOTAVAIL: it has none
            return None
    # struct ifreq: 16 bytes of name, then a sockaddr_in: family, port, address.
    return socket.inet_ntoa(answer[20:24])


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _interfaces() -> str:
    known = interface_addresses()
    names = [name for _, name in socket.if_nameindex()]
    return ", ".join(f"{n} ({known.get(n, 'no IPv4 address')})" for n in names) or "none"
