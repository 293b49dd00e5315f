"""Who asks Globus: a user who has logged in before, or a client with a secret of its own.

Rule of this module: nobody is asked anything here. A login that is missing, revoked or too old is an error that names
the command to run. What is shown to Globus comes from the environment or from the token file, and stands in no message.
"""

from __future__ import annotations

import abc
import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import globus_sdk
from globus_sdk.authorizers import GlobusAuthorizer
from globus_sdk.scopes import GCSCollectionScopes, Scope, TransferScopes
from globus_sdk.transport import RetryConfig

from flowcore.plugins.api import ConfigurationError, StagingError
from flowcore_staging_globus.mapping import is_uuid
from flowcore_staging_globus.problems import COMMAND, Problem, told
from flowcore_staging_globus.tokens import EARLY_S, TokenFile, Tokens

CLIENT_ID = "FLOWCORE_GLOBUS_CLIENT_ID"
CLIENT_SECRET = "FLOWCORE_GLOBUS_CLIENT_SECRET"  # noqa: S105 - the name of a variable
NATIVE_CLIENT_ID = "FLOWCORE_GLOBUS_NATIVE_CLIENT_ID"
TRANSFER = "transfer.api.globus.org"
#: Seconds for one answer of Globus Auth.
ANSWER_S = 30.0

REGISTER = (
    "Globus wants to know the program that asks. Register one, once for you or your group: at "
    'https://app.globus.org/settings/developers, choose "Register a thick client or script that will be installed and '
    'run by users on their devices", and copy its Client UUID'
)


class NotLoggedIn(StagingError):
    """There is no login for Globus, and no way to make one without the user."""


class Login(GlobusAuthorizer):
    """What is shown to Globus Transfer. Used from any thread."""

    @abc.abstractmethod
    def consent(self, scopes: Iterable[str]) -> bool:
        """Consent to more, if nobody has to be asked for that; return whether that was so.

        Args:
            scopes: as Globus asks for them.
        """

    def check(self) -> None:
        """Raise :class:`Problem` unless there is an access token that has time left; get one if need be."""
        self.get_authorization_header()


class UserLogin(Login):
    """A user who has logged in with ``flowcore globus-auth``.

    Args:
        client_id: the registered program that the user has allowed to act.
        file: where the tokens are.
    """

    def __init__(self, client_id: str, file: TokenFile) -> None:
        self.client_id = client_id
        self._file = file
        self._mutex = threading.Lock()
        self._tokens: Tokens | None = None
        self._refused: str | None = None

    def get_authorization_header(self) -> str:
        """Return the header's value; renews the login if its time is over.

        Raises:
            Problem: it cannot be renewed.
        """
        with self._mutex:
            if self._tokens is None or not self._usable(self._tokens):
                self._tokens = self._renewed()
            return f"Bearer {self._tokens.access_token}"

    def handle_missing_authorization(self) -> bool:
        """Take note that Globus does not accept the access token, so that it is renewed before the next question."""
        with self._mutex:
            self._refused = None if self._tokens is None else self._tokens.access_token
        return True

    def consent(self, scopes: Iterable[str]) -> bool:
        """Return False: the user has to be asked, in a browser."""
        return False

    def _usable(self, tokens: Tokens) -> bool:
        return tokens.access_token != self._refused and tokens.valid()

    def _renewed(self) -> Tokens:
        try:
            # Another program, or the user, may have renewed it. To see that takes no lock.
            tokens = self._stored(self._file.read())
            if self._usable(tokens):
                return tokens
            with self._file.change() as stored:
                tokens = self._stored(stored)
                if not self._usable(tokens):
                    tokens = stored[self.client_id] = refreshed(self.client_id, tokens)
                return tokens
        except StagingError as error:
            raise Problem(str(error), needs_login=True) from error

    def _stored(self, stored: Mapping[str, Tokens]) -> Tokens:
        if self.client_id not in stored:
            raise Problem(f"there is no login for Globus in {self._file.path}. Run: {COMMAND}", needs_login=True)
        return stored[self.client_id]


class ClientLogin(Login):
    """A client that acts for itself, with a secret. Its tokens are kept in memory.

    Args:
        client_id, secret: of the registered client.
    """

    def __init__(self, client_id: str, secret: str) -> None:
        self.client_id = client_id
        self._secret = secret
        self._mutex = threading.Lock()
        self._scope = TransferScopes.all
        self._header = ""
        self._expires_at_s = 0.0

    def get_authorization_header(self) -> str:
        """Return the header's value; gets a new token if there is none that has time left.

        Raises:
            Problem: Globus gives none.
        """
        with self._mutex:
            if time.time() >= self._expires_at_s - EARLY_S:
                tokens = self._granted()
                self._header = f"Bearer {tokens['access_token']}"
                self._expires_at_s = float(tokens["expires_at_seconds"])
            return self._header

    def handle_missing_authorization(self) -> bool:
        """Forget the token."""
        with self._mutex:
            self._expires_at_s = 0.0
        return True

    def consent(self, scopes: Iterable[str]) -> bool:
        """Get a token that says the consents: a client gives them itself."""
        with self._mutex, contextlib.suppress(globus_sdk.GlobusError, ValueError):
            wanted = [part for text in scopes for part in Scope.parse(text).dependencies]
            new = [part for part in wanted if str(part) not in {str(known) for known in self._scope.dependencies}]
            if new:
                self._scope = self._scope.with_dependencies(new)
                self._expires_at_s = 0.0
                return True
        return False

    def _granted(self) -> Mapping[str, Any]:
        client = globus_sdk.ConfidentialAppAuthClient(
            self.client_id, self._secret, retry_config=RetryConfig(max_retries=0)
        )
        client.transport.http_timeout = ANSWER_S
        with _closed(client), told("get a token with client credentials"):
            try:
                return transfer_tokens(client.oauth2_client_credentials_tokens(requested_scopes=self._scope))
            except globus_sdk.AuthAPIError as error:
                if error.http_status not in (400, 401, 403):
                    raise
                raise Problem(
                    f"Globus does not accept the client credentials of {CLIENT_ID}={self.client_id} "
                    f"({error_code(error)}): check {CLIENT_SECRET}",
                    needs_login=True,
                ) from None


def find(client_id: str | None, file: TokenFile | None = None) -> Login:
    """Return the login to use: the environment's client credentials, or else the stored login of a user.

    Args:
        client_id: the registered program, as given by an option; None for the environment's, or the only stored one.
        file: where the tokens are.

    Raises:
        NotLoggedIn: there is none. The text says what to run.
        ConfigurationError: what there is cannot be used.
        StagingError: the token file cannot be read.
    """
    own = client_credentials()
    if own is not None:
        return ClientLogin(*own)
    file = TokenFile() if file is None else file
    stored = file.read()
    client_id = native_client_id(client_id, stored)
    if client_id is None:
        raise NotLoggedIn(
            f"there is no login for Globus in {file.path}. {REGISTER}. Then run: {COMMAND} --client-id <Client UUID>. "
            f"For programs that run unattended, set {CLIENT_ID} and {CLIENT_SECRET} instead"
        )
    if client_id not in stored:
        raise NotLoggedIn(f"there is no login for Globus in {file.path}. Run: {COMMAND} --client-id {client_id}")
    return UserLogin(client_id, file)


def client_credentials() -> tuple[str, str] | None:
    """Return the environment's client id and secret; None if it has neither.

    Raises:
        ConfigurationError: it has only one of them, or the id is none.
    """
    client_id, secret = os.environ.get(CLIENT_ID), os.environ.get(CLIENT_SECRET)
    if not client_id and not secret:
        return None
    if not client_id or not secret:
        there, missing = (CLIENT_ID, CLIENT_SECRET) if client_id else (CLIENT_SECRET, CLIENT_ID)
        raise ConfigurationError(f"the environment has {there} and not {missing}: client credentials are both, or none")
    if not is_uuid(client_id):
        raise ConfigurationError(f"{CLIENT_ID}={client_id!r}: expected a UUID")
    return client_id.lower(), secret


def native_client_id(option: str | None, stored: Mapping[str, Tokens]) -> str | None:
    """Return the id of the registered program that a user logs in with; None if nothing says which.

    Raises:
        ConfigurationError: the environment's is none, or several are stored and nothing says which.
    """
    if option is not None:
        return option.lower()
    named = os.environ.get(NATIVE_CLIENT_ID)
    if named:
        if not is_uuid(named):
            raise ConfigurationError(f"{NATIVE_CLIENT_ID}={named!r}: expected a UUID")
        return named.lower()
    if len(stored) > 1:
        raise ConfigurationError(
            f"there are logins for Globus with several clients: {', '.join(stored)}; say which with client_id=, "
            f"--client-id or {NATIVE_CLIENT_ID}"
        )
    return next(iter(stored), None)


def user_scope(consents: Iterable[str]) -> Scope:
    """Return what a user is asked to allow: transfers, and access to the files of some collections.

    Args:
        consents: UUIDs of the collections.
    """
    parts = [GCSCollectionScopes(uuid).data_access.with_optional(True) for uuid in consents]
    return TransferScopes.all.with_dependencies(parts)


@contextlib.contextmanager
def native_client(client_id: str) -> Iterator[globus_sdk.NativeAppAuthClient]:
    """Give a client of Globus Auth that acts as a registered program, and close it."""
    client = globus_sdk.NativeAppAuthClient(client_id, retry_config=RetryConfig(max_retries=0))
    client.transport.http_timeout = ANSWER_S
    with _closed(client):
        yield client


def refreshed(client_id: str, tokens: Tokens) -> Tokens:
    """Return a login with a new access token.

    Raises:
        Problem: Globus gives none; or it is out of reach, which may pass.
    """
    with native_client(client_id) as client, told("renew the login"):
        try:
            new = transfer_tokens(client.oauth2_refresh_token(tokens.refresh_token))
        except globus_sdk.AuthAPIError as error:
            if error.http_status not in (400, 401, 403):
                raise
            raise Problem(
                f"the stored login for Globus cannot be renewed, it has expired or was revoked ({error_code(error)}). "
                f"Run: {COMMAND}",
                needs_login=True,
            ) from None
    return tokens_of(new, tokens.consents, tokens.refresh_token)


def tokens_of(granted: Mapping[str, Any], consents: Iterable[str], refresh_token: str = "") -> Tokens:
    """Return what is stored of a grant.

    Args:
        granted: see :func:`transfer_tokens`.
        consents: UUIDs of collections that it is for.
        refresh_token: is kept where the grant brings no new one.
    """
    return Tokens(
        str(granted["access_token"]),
        str(granted.get("refresh_token") or refresh_token),
        float(granted["expires_at_seconds"]),
        tuple(consents),
    )


def transfer_tokens(response: globus_sdk.OAuthTokenResponse) -> Mapping[str, Any]:
    """Return the tokens for Globus Transfer of an answer of Globus Auth.

    Raises:
        Problem: there are none in it.
    """
    granted: Mapping[str, Mapping[str, Any]] = response.by_resource_server
    if TRANSFER not in granted:
        raise Problem(f"Globus Auth has granted no token for {TRANSFER}, only for: {', '.join(granted) or 'nothing'}")
    return granted[TRANSFER]


def error_code(error: globus_sdk.AuthAPIError) -> str:
    """Return what Globus Auth calls an error, such as ``invalid_grant``."""
    raw = error.raw_json
    return str(raw["error"]) if isinstance(raw, dict) and "error" in raw else str(error.code or error.http_status)


@contextlib.contextmanager
def _closed(client: globus_sdk.AuthLoginClient) -> Iterator[None]:
    try:
        yield
    finally:
        client.close()
