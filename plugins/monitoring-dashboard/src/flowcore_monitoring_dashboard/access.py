"""Who may look: the door that every request passes before anything else sees it.

Rule of this module: a request that changes something, that was sent by another site's page, or that has no right to be
here is answered without touching the database; secrets are compared in constant time and stand in no log.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode

import attrs
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Pages load what comes from here and nothing else, run no script of theirs, and stand in no other page.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # An address may hold the token.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_METHODS = ("GET", "HEAD")
#: How long a browser that has shown the token need not show it again; at most as long as the server runs.
_COOKIE_AGE_S = 30 * 24 * 3600


def is_loopback(address: str) -> bool:
    """Tell whether a listening address can be reached from this machine alone.

    Args:
        address: an IP address or a host name.
    """
    if address.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """Return the host of a ``Host`` header, without its port and brackets, in small letters."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".")


def names_of_this_host() -> frozenset[str]:
    """Return the names by which this machine knows itself, in small letters."""
    name = socket.gethostname().lower().rstrip(".")
    return frozenset({name, socket.getfqdn().lower().rstrip(".")} - {""})


@attrs.frozen
class Access:
    """What a request must have.

    Attributes:
        loopback: the server listens to this machine alone; then only its names for itself may be asked for.
        names: further host names that browsers may ask for, in small letters.
        token: the secret, or None if nobody is asked for one.
        cookie: the name of the cookie that says who has shown the token. It holds the port, since browsers send cookies
            of one port to all others of the host.
        secure: the server speaks TLS, and the cookie travels through it alone.
    """

    loopback: bool
    names: frozenset[str] = frozenset()
    token: str | None = attrs.field(default=None, repr=False)
    cookie: str = "flowcore_dashboard"
    secure: bool = False

    @classmethod
    def of(
        cls, listen: str, port: int, *, names: Iterable[str] = (), always_token: bool = False, secure: bool = False
    ) -> Access:
        """Decide what is asked for where the server listens.

        Args:
            listen: the address that it listens on.
            port: its port.
            names: further host names that browsers may ask for.
            always_token: ask for a token on a loopback address too.
            secure: the server speaks TLS.
        """
        loopback = is_loopback(listen)
        allowed = {name.lower().rstrip(".") for name in names}
        if not loopback:
            allowed |= names_of_this_host() | {host_of(listen)}
        token = None if loopback and not always_token else secrets.token_urlsafe(24)
        return cls(loopback, frozenset(allowed), token, f"flowcore_dashboard_{port}", secure)

    def knows_host(self, header: str) -> bool:
        """Tell whether a ``Host`` header names this server.

        A page of another site can have its own name lead to this address (DNS rebinding), and would then read what it
        gets here. Its requests carry its name. An IP address is no name that somebody could have lead here.
        """
        host = host_of(header)
        if host in self.names or is_loopback(host):
            return True
        if self.loopback:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def proof(self) -> str:
        """Return the value of the cookie: made of the token, and no way back to it."""
        assert self.token is not None
        return hmac.new(self.token.encode(), b"flowcore dashboard cookie", hashlib.sha256).hexdigest()

    def has_shown_token(self, cookies: str) -> bool:
        """Tell whether a ``Cookie`` header proves that its sender has shown the token."""
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        return morsel is not None and _equal(morsel.value, self.proof())


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), right.encode())


class Door:
    """Lets requests through to an application, or answers them.

    Args:
        app: what comes behind the door.
        access: what a request must have.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request (called by the server)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here: the server answers 403

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        answer = self._refusal(scope)
        await (self._app if answer is None else answer)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        access = self._access
        if scope["method"] not in _METHODS:
            return PlainTextResponse(
                "The dashboard only shows: GET and HEAD are all that it answers.\n", 405, {"Allow": ", ".join(_METHODS)}
            )
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not access.knows_host(hosts[0]):
            asked = hosts[0][:100] if hosts else ""
            return PlainTextResponse(
                f"This dashboard is not known by the host name {asked!r}. Use its IP address, or start it with "
                "--host-name and that name.\n",
                421,
            )
        if access.token is None:
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        shown = [value for name, value in query if name == "token"]
        if shown:
            return self._welcome(scope, query) if _equal(shown[-1], access.token) else _closed("The token is wrong.")
        if any(access.has_shown_token(cookies) for cookies in headers.getlist("cookie")):
            return None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(bearer.strip(), access.token):
            return None
        return _closed("A token is needed.")

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> Response:
        """Hand out the cookie, and lead to the same page without the token in its address."""
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Never two slashes in front: that would be another host's address.
        path = "/" + quote(scope["path"]).lstrip("/")
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(
            self._access.cookie, self._access.proof(), max_age=_COOKIE_AGE_S, httponly=True, samesite="lax",
            secure=self._access.secure,
        )  # fmt: skip
        return answer


def _closed(why: str) -> Response:
    return HTMLResponse(
        "<!doctype html><html lang=en><title>flowcore dashboard</title>"
        f"<h1>{why}</h1><p>Open the address with <code>?token=</code> that <code>flowcore dashboard</code> printed "
        "when it was started.",
        401,
        {"WWW-Authenticate": 'Bearer realm="flowcore dashboard"'},
    )
