"""Downloads one file from a web server, whole or not at all. Imported where it is needed only: `requests` is large.

Rule of this module: a file is there when as many bytes were written as the server announced. What a broken connection
left is gone on with only if the server names the file (a strong ETag, or its time of change) and still has the
same one.
"""

from __future__ import annotations

import email.utils
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import requests
import urllib3.exceptions

from flowcore import __version__
from flowcore.builtin.file_cache import Validators
from flowcore.builtin.incoming import Incoming
from flowcore.plugins.api import TransferError, fresh, retried, shown_url

#: Bytes that are read and written at a time.
CHUNK_BYTES = 1 << 20
#: Statuses that may be others when the server is asked again.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: What to do about a status; of others its name says enough.
ADVICE = {
    401: "the server wants a login: put it into the URL, into ~/.netrc, or into headers= of the stager",
    403: "the server does not let this user have it: check the login in the URL, in ~/.netrc or in headers=",
    404: "the server has no such file: check the URL",
    410: "the server has this file no more",
}


@attrs.frozen
class Options:
    """Options of :class:`flowcore.builtin.http_staging.HTTPTransfer`, which describes them."""

    timeout_s: float
    attempts: int
    max_redirects: int
    ca_file: str | None
    headers: Mapping[str, Mapping[str, str]] = attrs.field(hash=False)


def download(url: str, path: Path, known: Validators | None, options: Options) -> Validators | None:
    """Make the file of a URL at ``path``, unless it is still what is known.

    Args:
        url: of the scheme http or https.
        path: where to make it; it is replaced when the whole file has come.
        known: what an earlier download of it has returned; None: to be fetched in any case.
        options: how.

    Returns:
        The header lines by which the server can be asked whether it changed; None if what is known still holds.

    Raises:
        TransferError: it cannot be had.
    """
    try:
        with fresh(path) as new:
            return _Download(url, new, known, options).run()
    except _NotModified:
        return None


class _NotModified(Exception):
    """What is known of the file still holds."""


class _Download:
    """One file on its way: what has come of it is kept between attempts."""

    def __init__(self, url: str, path: Path, known: Validators | None, options: Options) -> None:
        self._url = url
        self._path = path
        self._file = Incoming(url, path)
        self._known = known
        self._options = options
        self._session = _session(options)
        #: Of the file of which a part has come.
        self._validators: Validators = {}

    def run(self) -> Validators:
        return retried(self._attempt, self._options.attempts)

    def _attempt(self) -> Validators:
        if self._options.ca_file is not None and not Path(self._options.ca_file).exists():
            raise self._file.failed(
                f"there is no ca_file={self._options.ca_file!r} on {os.uname().nodename}", passing=False
            )
        have = self._path.stat().st_size if self._path.exists() else 0
        condition = _if_range(self._validators)
        if not have or condition is None:
            have = 0
        # As it is stored: a length announced for packed bytes says nothing of others.
        headers = {"Accept-Encoding": "identity"}
        if have and condition is not None:
            headers |= {"Range": f"bytes={have}-", "If-Range": condition}
        elif self._known is not None:
            headers |= _conditions(self._known)
        _local.busy = True
        try:
            with self._session.get(
                self._url, headers=headers, stream=True, timeout=self._options.timeout_s, verify=self._options.ca_file
            ) as response:
                return self._take(response, have)
        except (requests.RequestException, urllib3.exceptions.HTTPError, _Refused) as error:
            raise self._explained(error) from error
        finally:
            _local.busy = False

    def _take(self, response: requests.Response, have: int) -> Validators:
        """Write what a response brings behind the first ``have`` bytes."""
        if response.status_code == 304 and self._known is not None:
            raise _NotModified
        if response.status_code == 416 and have:
            self._path.unlink()  # it became shorter: all of it anew
            raise self._file.failed("the file changed while it was fetched")
        if response.status_code not in (200, 206):
            raise self._refused(response)
        validators = {n: response.headers[n] for n in ("ETag", "Last-Modified") if n in response.headers}
        if response.status_code == 200:
            have = 0
        elif _starts_at(response) != have or validators.get("ETag") != self._validators.get("ETag"):
            self._path.unlink(missing_ok=True)
            raise self._file.failed("the file changed while it was fetched")
        self._validators = validators
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        with self._file.open(have):
            self._copy(response, total)
        self._file.check(total)
        return validators

    def _copy(self, response: requests.Response, total: int | None) -> None:
        while True:
            try:
                # What has come so far, not all that fits: a part that is not handed out is lost with the connection.
                piece = response.raw.read1(CHUNK_BYTES, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise self._file.cut(total, f"the server was silent for {self._options.timeout_s:g} s") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._file.cut(total) from error
            if not piece:
                return
            self._file.write(piece)

    # --- what went wrong

    def _refused(self, response: requests.Response) -> TransferError:
        status = f"{response.status_code} {response.reason}".strip()
        by = "" if response.url == self._url else f", from {shown_url(response.url)}"
        advice = ADVICE.get(response.status_code)
        return self._file.failed(
            f"status {status}{by}" + (f"; {advice}" if advice else ""),
            response.status_code in PASSING,
            _seconds(response.headers.get("Retry-After")),
        )

    def _explained(self, error: Exception) -> TransferError:
        if isinstance(error, _Refused):
            return self._file.failed(str(error), passing=False)
        if isinstance(error, requests.TooManyRedirects):
            return self._file.failed(f"more than {self._options.max_redirects} redirects", passing=False)
        if isinstance(error, requests.exceptions.SSLError):
            return self._file.failed(
                f"the server is not trusted: {_innermost(error)}. ca_file= of the stager names other authorities",
                passing=False,
            )
        if isinstance(error, requests.Timeout):
            return self._file.failed(f"no answer from the server within {self._options.timeout_s:g} s")
        if isinstance(error, requests.exceptions.ProxyError):
            return self._file.failed(f"the proxy does not let it through: {_innermost(error)}")
        if isinstance(error, requests.ConnectionError | urllib3.exceptions.HTTPError):
            return self._file.failed(f"no connection to the server: {_innermost(error)}")
        return self._file.failed(str(error), passing=False)


class _Refused(Exception):
    """A redirect that is not followed."""


class _Session(requests.Session):
    """Follows redirects as browsers do, but never to a place where others can listen; keeps headers to their hosts."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._headers_of = {host.lower(): lines for host, lines in options.headers.items()}
        self.headers["User-Agent"] = f"flowcore/{__version__}"
        self.max_redirects = options.max_redirects

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared = super().prepare_request(request)
        self._add_own(prepared)
        return prepared

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(resp)
        if target is not None:
            scheme = urlsplit(target).scheme.lower()
            if scheme not in ("", "https", "http"):
                resp.close()
                raise _Refused(f"the server redirects to {shown_url(target)}, which is no web server")
            if scheme == "http" and urlsplit(resp.url).scheme == "https":
                resp.close()
                raise _Refused(f"the server redirects from https to {shown_url(target)}, where anybody could listen")
        return target

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        super().rebuild_auth(prepared_request, response)
        before = _host(response.request.url)
        if before != _host(prepared_request.url):
            for name in self._headers_of.get(before, {}):
                prepared_request.headers.pop(name, None)
            self._add_own(prepared_request)

    def _add_own(self, prepared: requests.PreparedRequest) -> None:
        prepared.headers.update(self._headers_of.get(_host(prepared.url), {}))


_local = threading.local()


class _HideQueries(logging.Filter):
    """Hides what may be a secret in what the library logs while this module uses it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_local, "busy", False) and isinstance(record.args, tuple):
            record.args = tuple(_without_query(a) for a in record.args)
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_HideQueries())


def _without_query(value: object) -> object:
    return f"{value.partition('?')[0]}?..." if isinstance(value, str) and "?" in value else value


def _session(options: Options) -> _Session:
    """Return this thread's session, whose connections are used again by the next file of a server."""
    sessions: dict[Options, _Session] = _local.__dict__.setdefault("sessions", {})
    found = sessions.get(options)
    if found is None:
        found = sessions[options] = _Session(options)
    return found


def _host(url: str | None) -> str:
    return (urlsplit(url or "").hostname or "").lower()


def _if_range(validators: Validators) -> str | None:
    """Return what names a file so exactly that a part may be asked for (RFC 9110, 13.1.5); None if nothing does."""
    tag = validators.get("ETag", "")
    return tag if tag.startswith('"') else validators.get("Last-Modified")


def _conditions(known: Validators) -> dict[str, str]:
    names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    return {names[n]: value for n, value in known.items() if n in names}


def _starts_at(response: requests.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a server wants to be left alone for: it gives them, or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _innermost(error: BaseException) -> str:
    """Return what is behind an error of the library, in the system's words."""
    inner: Any = error
    while True:
        causes = (getattr(inner, "reason", None), *inner.args, inner.__cause__)
        found = next((cause for cause in causes if isinstance(cause, BaseException)), None)
        if found is None:
            break
        inner = found
    if isinstance(inner, ssl.SSLCertVerificationError):
        return str(inner.verify_message)
    return str(getattr(inner, "strerror", None) or inner)
