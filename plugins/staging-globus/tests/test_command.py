"""``flowcore globus-auth``, in this process and as a process of its own at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from flowcore_staging_globus.tokens import TokenFile
from globus_service import CONFIDENTIAL_CLIENT, NATIVE_CLIENT, SECRET, GlobusService

from flowcore.cli.main import cli

CLIENT = ("--client-id", NATIVE_CLIENT)


@pytest.fixture
def run(globus: GlobusService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command; the user opens the address in a browser, and enters ``code`` or what is shown there."""
    import click

    def run(*args: str, code: str | None = None) -> Result:
        shown: list[str] = []
        echo = click.echo

        def watch(message=None, **options):
            shown.append(str(message))
            echo(message, **options)

        def answer(text: str, err: bool) -> str:
            url = re.search(r"http://\S+", "\n".join(shown))
            assert url is not None
            shown.append(url[0])
            return code if code is not None else globus.browse(url[0])

        with monkeypatch.context() as patch:
            patch.setattr(click, "echo", watch)
            patch.setattr(click, "prompt", answer)
            result = CliRunner().invoke(cli, ["globus-auth", *args])
        result.urls = [line for line in shown if line.startswith("http")]
        return result

    return run


def test_logging_in(run, globus):
    result = run(*CLIENT)
    assert result.exit_code == 0, result.output
    assert "Log in to Globus at this address, in any browser:" in result.stderr
    assert result.stdout == f"Authorization complete; the tokens are in {TokenFile().path}.\n"
    assert list(TokenFile().read()) == [NATIVE_CLIENT]
    # The client is remembered.
    again = run()
    assert again.exit_code == 0
    assert again.stdout == f"Already authorized, nothing to do ({TokenFile().path}).\n"
    assert again.urls == []


def test_without_a_client(run):
    result = run()
    assert result.exit_code == 1
    assert "https://app.globus.org/settings/developers" in result.output
    assert "Then run: flowcore globus-auth --client-id <Client UUID>" in result.output


def test_an_old_login_is_renewed_without_a_question(run, login, globus):
    with login.change() as stored:
        from flowcore_staging_globus.tokens import Tokens

        stored[NATIVE_CLIENT] = Tokens("old", stored[NATIVE_CLIENT].refresh_token, 0.0)
    assert run().stdout.startswith("Already authorized")
    assert login.read()[NATIVE_CLIENT].valid()


def test_a_login_that_was_revoked_is_made_again(run, login, globus):
    from flowcore_staging_globus.tokens import Tokens

    with login.change() as stored:
        stored[NATIVE_CLIENT] = Tokens("old", "revoked", 0.0)
    result = run()
    assert "has expired or was revoked (invalid_grant)" in result.stderr
    assert result.stdout.startswith("Authorization complete")


def test_globus_is_out_of_reach(run, login, globus):
    from flowcore_staging_globus.tokens import Tokens

    with login.change() as stored:
        stored[NATIVE_CLIENT] = Tokens("old", "r", 0.0)
    globus.answer_next("POST", "/v2/oauth2/token", 503)
    result = run()
    assert result.exit_code == 1
    assert "cannot renew the login, Globus answers 503" in result.output
    assert result.urls == []


def test_a_consent(run, login, globus, make, cluster, tmp_path):
    mapped = globus.endpoint("mapped", needs_consent=True)
    result = run("--consent", mapped.uuid.upper())
    assert result.exit_code == 0, result.output
    (url,) = result.urls
    assert f"scopes%2F{mapped.uuid}%2Fdata_access" in url
    assert login.read()[NATIVE_CLIENT].consents == (mapped.uuid,)
    assert run("--consent", mapped.uuid).stdout.startswith("Already authorized")
    # Another one is added.
    other = globus.endpoint("other", needs_consent=True)
    (url,) = run("--consent", other.uuid).urls
    assert mapped.uuid in url
    assert login.read()[NATIVE_CLIENT].consents == (mapped.uuid, other.uuid)


def test_force(run, login):
    before = login.read()
    result = run("--force")
    assert result.stdout.startswith("Authorization complete")
    assert "prompt=login" in result.urls[0]
    assert login.read() != before


def test_a_wrong_code(run):
    result = run(*CLIENT, code="wrong")
    assert result.exit_code == 1
    assert "Globus does not take the code (invalid_grant)" in result.output
    assert not TokenFile().path.exists()


def test_a_login_that_would_end_soon_is_not_stored(run, globus):
    globus.gives_refresh_tokens = False
    result = run(*CLIENT)
    assert result.exit_code == 1
    assert "Globus has granted no refresh token, without which the login would end within days" in result.output
    assert not TokenFile().path.exists()


def test_a_client_that_is_none(run, globus):
    result = run("--client-id", "55555555-aaaa-4bbb-8ccc-000000000005", code="any")
    assert result.exit_code == 1
    assert "Globus knows no program 55555555-aaaa-4bbb-8ccc-000000000005 that users may log in with" in result.output


def test_logging_out(run, login, globus):
    result = run("--logout")
    assert result.exit_code == 0
    assert result.stdout.startswith("Logged out; the tokens are void")
    assert login.read() == {}
    assert globus.count("POST", "/v2/oauth2/token/revoke") == 2
    assert not globus._access
    assert not globus._refresh
    assert run("--logout").stdout.startswith("There is no login in")


def test_logging_out_while_globus_is_away(run, login, globus):
    globus.answer_next("POST", "/v2/oauth2/token/revoke", 503)
    result = run("--logout")
    assert result.exit_code == 1
    assert "The login is kept; try again, or remove" in result.output
    assert login.read()


def test_client_credentials(run, globus, monkeypatch):
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_ID", CONFIDENTIAL_CLIENT)
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_SECRET", SECRET)
    result = run()
    assert result.exit_code == 0
    assert "FLOWCORE_GLOBUS_CLIENT_ID and FLOWCORE_GLOBUS_CLIENT_SECRET work, nothing to do" in result.stdout
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_SECRET", "wrong-one")
    result = run()
    assert result.exit_code == 1
    assert "check FLOWCORE_GLOBUS_CLIENT_SECRET" in result.output
    assert "wrong-one" not in result.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--client-id", "mine"), "'mine' is no UUID"),
        (("--consent", "mine"), "'mine' is no UUID"),
        (("--logout", "--force"), "--logout does not go with --force or --consent"),
    ],
)
def test_what_cannot_be_meant(run, args, text):
    result = run(*args)
    assert result.exit_code == 2
    assert text in result.output


def test_at_a_terminal(globus: GlobusService, tmp_path):
    """A process of its own, with a pseudo-terminal: the address is read, and the code is typed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flowcore", "globus-auth", *CLIENT]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    try:
        shown = ""
        typed = False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                piece = os.read(ours, 4096).decode()
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
            if not typed and "enter the code" in shown:
                # A terminal does not break lines by itself.
                url = re.search(r"http://\S+", shown)
                assert url is not None, shown
                os.write(ours, f"{globus.browse(url[0])}\n".encode())
                typed = True
        assert process.wait(30) == 0, shown
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait(30)
    assert "Authorization complete" in shown
    assert list(TokenFile().read()) == [NATIVE_CLIENT]


def test_the_code_from_standard_input(globus: GlobusService):
    """Without a terminal, a pipe may answer; one that ends is told."""
    command = [sys.executable, "-m", "flowcore", "globus-auth", *CLIENT]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Aborted" in ended.stderr
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith("http"):
            break
    out, _ = process.communicate(globus.browse(seen.split()[-1]) + "\n", timeout=60)
    assert process.returncode == 0
    assert out.startswith("Authorization complete")
