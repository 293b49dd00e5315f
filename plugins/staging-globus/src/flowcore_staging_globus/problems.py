"""What goes wrong in a question to Globus, and what can be done about it.

Rule of this module: whatever the SDK raises becomes a :class:`Problem`, whose text says what to do. No text holds a
token.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Iterator, Sequence

from globus_sdk import GlobusAPIError, GlobusError, NetworkError

COMMAND = "flowcore globus-auth"
_DATA_ACCESS = re.compile(r"/scopes/([0-9a-fA-F-]{36})/data_access")


class Problem(Exception):
    """A question to Globus has no answer.

    Args:
        text: what happened, and what to do.
        passing: whether it is worth to ask again.
        retry_after_s: seconds after which Globus wants to be asked again.
        needs_login: only a new login helps.
        scopes: consents that the user has to give.
        unauthorized: Globus does not take the token.
    """

    def __init__(
        self,
        text: str,
        passing: bool = False,
        retry_after_s: float | None = None,
        needs_login: bool = False,
        scopes: Sequence[str] = (),
        unauthorized: bool = False,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.passing = passing
        self.retry_after_s = retry_after_s
        self.needs_login = needs_login
        self.scopes = tuple(scopes)
        self.unauthorized = unauthorized


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the SDK raises into a :class:`Problem`.

    Args:
        what: what is being done, such as ``submit a transfer``.
    """
    try:
        yield
    except GlobusError as error:
        # Its cause would hold the whole exchange, with the headers.
        raise problem_of(error, what) from None


def problem_of(error: GlobusError, what: str) -> Problem:
    """Return what an error of the SDK means."""
    if isinstance(error, NetworkError):
        return Problem(f"cannot {what}, Globus is out of reach: {_network_text(error)}", passing=True)
    if not isinstance(error, GlobusAPIError):
        return Problem(f"cannot {what}: {error}")
    said = f"{error.code}: {error.message}" if error.message else str(error.code or error.http_reason)
    refused = f"cannot {what}, Globus answers {error.http_status} {said}"
    if error.http_status == 429 or error.http_status >= 500:
        return Problem(refused, passing=True, retry_after_s=retry_after(error.headers.get("Retry-After"), time.time()))
    if error.info.consent_required:
        return consent_problem(refused, error.info.consent_required.required_scopes)
    if error.info.authorization_parameters:
        wanted = error.info.authorization_parameters.session_message or "the endpoint wants a fresh login"
        return Problem(f"{refused} ({wanted}). Run: {COMMAND} --force", needs_login=True)
    if error.http_status == 401:
        todo = f"The login is not accepted any more. Run: {COMMAND} --force"
        return Problem(f"{refused}. {todo}", needs_login=True, unauthorized=True)
    return Problem(refused)


def consent_problem(refused: str, scopes: Sequence[str]) -> Problem:
    """Return the problem of a user who has to consent to something first."""
    collections = [found for scope in scopes for found in _DATA_ACCESS.findall(scope)]
    options = " ".join(f"--consent {uuid}" for uuid in dict.fromkeys(collections))
    if options:
        todo = f"It needs your consent to reach your files there. Run: {COMMAND} {options}"
    else:
        todo = f"It needs your consent to: {' '.join(scopes)}. Give it in the web application of Globus"
    return Problem(f"{refused}. {todo}", needs_login=True, scopes=scopes)


def retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header means: a number of them, or a date.

    Args:
        header: its value.
        now: seconds since the epoch.
    """
    if header is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    return None


def _network_text(error: NetworkError) -> str:
    # What requests says holds what urllib3 says, which ends with what the system says.
    inner = str(error.underlying_exception)
    found = re.search(r"(\[Errno [^)'\"]*|Read timed out|Connection aborted|Name or service not known)", inner)
    return f"{error} ({found.group(1) if found else type(error.underlying_exception).__name__})"
