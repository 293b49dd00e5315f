"""Logs a user in: shows a URL, and reads the code that the browser shows in the end.

Rule of this module: the only one that asks somebody, at the terminal, and only if somebody sits there or has run the
command.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable

import click
from globus_sdk import AuthAPIError

from flowcore.plugins.api import ConfigurationError, StagingError
from flowcore_staging_globus import auth
from flowcore_staging_globus.auth import Login, NotLoggedIn
from flowcore_staging_globus.problems import COMMAND, Problem, told
from flowcore_staging_globus.tokens import TokenFile


def somebody_is_there() -> bool:
    """Return whether a question could be answered: input and errors are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def logged_in(client_id: str | None) -> Login:
    """Return a login that works now; at a terminal, make one if there is none.

    Args:
        client_id: the registered program, if an option names it.

    Raises:
        StagingError: there is none, or Globus does not accept it. The text says what to run.
        ConfigurationError: what there is cannot be used.
    """
    try:
        login = auth.find(client_id)
    except NotLoggedIn:
        file = TokenFile()
        chosen = auth.native_client_id(client_id, file.read())
        if chosen is None or not somebody_is_there():
            raise
        click.echo("flowcore stages files with Globus, and you are not logged in there.", err=True)
        try:
            log_in(chosen, (), file)
        except click.Abort:
            raise NotLoggedIn(f"you did not log in to Globus. To do so later, run: {COMMAND}") from None
        login = auth.find(chosen, file)
    try:
        login.check()
    except Problem as problem:
        if problem.passing:
            # The question that comes next is asked again.
            return login
        raise StagingError(f"GlobusStaging cannot begin: {problem.text}") from None
    return login


def log_in(client_id: str, consents: Iterable[str], file: TokenFile, fresh: bool = False) -> None:
    """Ask the user to log in, and store the login.

    Args:
        client_id: the registered program.
        consents: UUIDs of collections whose files it shall reach.
        file: where the tokens go.
        fresh: have the user log in anew, even if the browser is logged in.

    Raises:
        StagingError: Globus does not take the code, or the tokens cannot be stored.
        ConfigurationError: ``client_id`` is not registered as a program of this kind.
    """
    consents = tuple(dict.fromkeys(uuid.lower() for uuid in consents))
    file.read()  # what is wrong with the file is told before the user goes to the browser
    try:
        with auth.native_client(client_id) as client, told("log in"):
            client.oauth2_start_flow(
                auth.user_scope(consents),
                refresh_tokens=True,
                prefill_named_grant=f"flowcore on {socket.gethostname()}",
            )
            url = client.oauth2_get_authorize_url(prompt="login") if fresh else client.oauth2_get_authorize_url()
            click.echo(f"Log in to Globus at this address, in any browser:\n\n{url}\n", err=True)
            code = click.prompt("Then enter the code that it shows", err=True).strip()
            try:
                granted = auth.transfer_tokens(client.oauth2_exchange_code_for_tokens(code))
            except AuthAPIError as error:
                if error.http_status not in (400, 401):
                    raise
                raise refused(client_id, error) from None
    except Problem as problem:
        raise StagingError(problem.text) from None
    tokens = auth.tokens_of(granted, consents)
    if not tokens.refresh_token:
        raise StagingError(
            "Globus has granted no refresh token, without which the login would end within days; try again"
        )
    with file.change() as stored:
        stored[client_id] = tokens


def refused(client_id: str, error: AuthAPIError) -> StagingError | ConfigurationError:
    """Return why a code was not taken."""
    code = auth.error_code(error)
    if code == "invalid_client":
        return ConfigurationError(
            f"Globus knows no program {client_id} that users may log in with ({code}). {auth.REGISTER}"
        )
    return StagingError(
        f"Globus does not take the code ({code}): it counts once, for a few minutes, and for the address shown with "
        "the question. Try again"
    )
