"""``flowcore globus-auth``: logs in to Globus, once, for all programs of the user that run on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flowcore.plugins.api import ConfigurationError, StagingError

if TYPE_CHECKING:
    from flowcore_staging_globus.tokens import TokenFile


@click.command("globus-auth")
@click.option(
    "--client-id",
    metavar="UUID",
    help="The program, registered with Globus, to log in with. Remembered with the login.",
)
@click.option(
    "--consent", "consents", metavar="UUID", multiple=True,
    help="Allow access to your files on this mapped collection. May be given several times.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Log in again, even if there is a login; the browser asks who you are.")
@click.option("--logout", is_flag=True, help="Make the stored login void, here and at Globus.")
def globus_auth(client_id: str | None, consents: tuple[str, ...], force: bool, logout: bool) -> None:
    """Log in to Globus, for programs that stage files globus://...

    It shows an address to open in any browser, and asks for the code that is shown there in the end. If there is a
    login that works, it does nothing. Programs that run unattended use it, or the client credentials in
    FLOWCORE_GLOBUS_CLIENT_ID and FLOWCORE_GLOBUS_CLIENT_SECRET. Tokens are kept in
    ~/.config/flowcore/globus-tokens.json, or where FLOWCORE_GLOBUS_TOKENS says.
    """
    # The SDK is imported when the command runs.
    from flowcore_staging_globus import auth
    from flowcore_staging_globus.mapping import is_uuid
    from flowcore_staging_globus.tokens import TokenFile

    for option, values in (("--client-id", (client_id,) if client_id else ()), ("--consent", consents)):
        for value in values:
            if not is_uuid(value):
                raise click.BadParameter(f"{value!r} is no UUID", param_hint=option)
    if logout and (force or consents):
        raise click.UsageError("--logout does not go with --force or --consent")
    file = TokenFile()
    if logout:
        _log_out(client_id, file)
    elif auth.client_credentials() is not None:
        _check_client_credentials()
    else:
        _log_in(client_id, consents, force, file)


def _log_in(client_id: str | None, consents: tuple[str, ...], force: bool, file: TokenFile) -> None:
    from flowcore_staging_globus import auth, conversation
    from flowcore_staging_globus.problems import Problem

    stored = file.read()
    chosen = auth.native_client_id(client_id, stored)
    if chosen is None:
        raise ConfigurationError(f"{auth.REGISTER}. Then run: flowcore globus-auth --client-id <Client UUID>")
    known = stored[chosen].consents if chosen in stored else ()
    wanted = tuple(dict.fromkeys([*known, *(uuid.lower() for uuid in consents)]))
    if chosen in stored and not force and wanted == known:
        try:
            auth.UserLogin(chosen, file).check()
        except Problem as problem:
            if problem.passing:
                raise StagingError(problem.text) from None
            click.echo(problem.text, err=True)
        else:
            click.echo(f"Already authorized, nothing to do ({file.path}).")
            return
    conversation.log_in(chosen, wanted, file, fresh=force)
    click.echo(f"Authorization complete; the tokens are in {file.path}.")


def _check_client_credentials() -> None:
    from flowcore_staging_globus import auth
    from flowcore_staging_globus.problems import Problem

    try:
        auth.find(None).check()
    except Problem as problem:
        raise StagingError(problem.text) from None
    click.echo(f"The client credentials in {auth.CLIENT_ID} and {auth.CLIENT_SECRET} work, nothing to do.")


def _log_out(client_id: str | None, file: TokenFile) -> None:
    from flowcore_staging_globus import auth
    from flowcore_staging_globus.problems import Problem, told

    stored = file.read()
    chosen = auth.native_client_id(client_id, stored)
    if chosen is None or chosen not in stored:
        click.echo(f"There is no login in {file.path}, nothing to do.")
        return
    try:
        with auth.native_client(chosen) as client, told("make the login void"):
            # Renewing stops with the first; what was got with it stops with the second.
            client.oauth2_revoke_token(stored[chosen].refresh_token)
            client.oauth2_revoke_token(stored[chosen].access_token)
    except Problem as problem:
        raise StagingError(f"{problem.text}. The login is kept; try again, or remove {file.path}") from None
    with file.change() as changing:
        changing.pop(chosen, None)
    click.echo(f"Logged out; the tokens are void, and are no longer in {file.path}.")
