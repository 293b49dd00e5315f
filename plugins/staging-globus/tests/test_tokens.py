"""The token file, and who uses it: modes, damage, several programs, renewing, client credentials."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flowcore_staging_globus import auth, conversation, tokens
from flowcore_staging_globus.auth import ClientLogin, NotLoggedIn, UserLogin
from flowcore_staging_globus.problems import Problem
from flowcore_staging_globus.tokens import TokenFile, Tokens
from globus_service import CONFIDENTIAL_CLIENT, NATIVE_CLIENT, SECRET, GlobusService

from flowcore.errors import ConfigurationError, StagingError
from flowcore.files import File
from flowcore.plugins.staging import StagingContext, StagingPlace

SOME = Tokens("access", "refresh", 4e9, ("a-uuid",))


def put(file: TokenFile, client: str = NATIVE_CLIENT, what: Tokens = SOME) -> None:
    with file.change() as stored:
        stored[client] = what


# --- the file


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWCORE_GLOBUS_TOKENS")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert tokens.path() == tmp_path / "home" / ".config" / "flowcore" / "globus-tokens.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert tokens.path() == tmp_path / "xdg" / "flowcore" / "globus-tokens.json"
    monkeypatch.setenv("FLOWCORE_GLOBUS_TOKENS", "~/mine.json")
    assert tokens.path() == tmp_path / "home" / "mine.json"


def test_only_its_user_reads_it():
    file = TokenFile()
    before = os.umask(0)
    try:
        put(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.read() == {NATIVE_CLIENT: SOME}
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_one_that_others_may_use_is_refused(mode):
    file = TokenFile()
    put(file)
    file.path.chmod(mode)
    with pytest.raises(StagingError) as caught:
        file.read()
    assert f"others than you may read or change {file.path} (mode {mode:04o})" in str(caught.value)
    assert f"run: chmod 600 {file.path}" in str(caught.value)
    with pytest.raises(StagingError, match="others than you"), file.change():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_one_of_another_user_is_refused():
    file = TokenFile()
    put(file)
    os.chown(file.path, 12345, -1)
    with pytest.raises(StagingError, match="belongs to the user with the number 12345"):
        file.read()


def test_a_folder_is_no_file():
    file = TokenFile()
    file.path.mkdir(parents=True)
    with pytest.raises(StagingError, match=r"tokens.json is no file; set FLOWCORE_GLOBUS_TOKENS to where"):
        file.read()


def test_a_pipe_is_no_file():
    file = TokenFile()
    file.path.parent.mkdir()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(StagingError, match="is no file"):
        file.read()


def test_a_file_system_without_locks(monkeypatch):
    def no_locks(fd, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(tokens.fcntl, "flock", no_locks)
    with pytest.raises(
        StagingError, match=r"cannot lock .*tokens.json.lock: No locks available. Set FLOWCORE_GLOBUS_TOKENS"
    ):
        put(TokenFile())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "clients": {"x": {}}}', '{"version": 1}']
)
def test_damage(text):
    file = TokenFile()
    put(file)
    file.path.write_text(text)
    with pytest.raises(StagingError, match=r"holds no Globus tokens that this version understands.*Remove it, and run"):
        file.read()


def test_a_write_that_fails_leaves_what_was_there(monkeypatch):
    file = TokenFile()
    put(file)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StagingError, match=r"cannot write the Globus tokens in .*No space left on device"):
        put(file, "other")
    monkeypatch.undo()
    assert TokenFile(file.path).read() == {NATIVE_CLIENT: SOME}
    assert sorted(p.name for p in file.path.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]


def test_an_error_meanwhile_changes_nothing():
    file = TokenFile()
    put(file)
    with pytest.raises(ZeroDivisionError), file.change() as stored:
        stored.clear()
        raise ZeroDivisionError
    assert file.read() == {NATIVE_CLIENT: SOME}


def test_nothing_changed_is_not_written():
    file = TokenFile()
    put(file)
    before = file.path.stat().st_ino
    with file.change():
        pass
    assert file.path.stat().st_ino == before


def test_another_program_holds_it_for_too_long(monkeypatch):
    monkeypatch.setattr(tokens, "LOCK_S", 0.1)
    file = TokenFile()
    held = r"another program has held .*tokens.json.lock for 0 s"
    with file.change(), pytest.raises(StagingError, match=held), TokenFile(file.path).change():
        pass


def test_programs_change_it_at_the_same_time():
    """Ten each, of four processes: none is lost."""
    program = (
        "import sys\n"
        "from flowcore_staging_globus.tokens import TokenFile, Tokens\n"
        "for n in range(10):\n"
        "    with TokenFile().change() as stored:\n"
        "        stored[f'{sys.argv[1]}-{n}'] = Tokens('a', 'r', 1.0)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(n)]) for n in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert len(TokenFile().read()) == 40


def test_no_repr_has_a_token():
    assert "access'" not in repr(SOME)
    assert "refresh'" not in repr(SOME)


# --- a user's login


def test_what_is_missing_is_told():
    with pytest.raises(NotLoggedIn) as caught:
        auth.find(None)
    text = str(caught.value)
    assert "there is no login for Globus in" in text
    assert "https://app.globus.org/settings/developers" in text
    assert "Then run: flowcore globus-auth --client-id <Client UUID>" in text
    with pytest.raises(NotLoggedIn, match=f"Run: flowcore globus-auth --client-id {NATIVE_CLIENT}"):
        auth.find(NATIVE_CLIENT)


def test_which_client(monkeypatch, login):
    other = "44444444-aaaa-4bbb-8ccc-000000000004"
    assert auth.native_client_id(None, login.read()) == NATIVE_CLIENT
    monkeypatch.setenv("FLOWCORE_GLOBUS_NATIVE_CLIENT_ID", other.upper())
    assert auth.native_client_id(None, login.read()) == other
    assert auth.native_client_id(NATIVE_CLIENT, login.read()) == NATIVE_CLIENT
    monkeypatch.setenv("FLOWCORE_GLOBUS_NATIVE_CLIENT_ID", "x")
    with pytest.raises(ConfigurationError, match="FLOWCORE_GLOBUS_NATIVE_CLIENT_ID='x': expected a UUID"):
        auth.native_client_id(None, {})
    monkeypatch.delenv("FLOWCORE_GLOBUS_NATIVE_CLIENT_ID")
    put(login, other)
    with pytest.raises(ConfigurationError, match=f"with several clients: {NATIVE_CLIENT}, {other}; say which"):
        auth.find(None)


def test_a_login_is_renewed_before_its_end(globus: GlobusService, login):
    (before,) = login.read().values()
    put(login, what=Tokens(before.access_token, before.refresh_token, 0.0))
    header = UserLogin(NATIVE_CLIENT, login).get_authorization_header()
    assert header != f"Bearer {before.access_token}"
    (after,) = login.read().values()
    assert header == f"Bearer {after.access_token}"
    assert after.valid()
    assert globus.count("POST", "/v2/oauth2/token") == 1


def test_a_login_that_has_time_left_is_only_read(login):
    login.path.with_name("tokens.json.lock").unlink()
    UserLogin(NATIVE_CLIENT, login).check()
    assert [p.name for p in login.path.parent.iterdir()] == ["tokens.json"]


def test_what_another_program_has_renewed_is_used(globus, login):
    """Two logins, an access token that is refused: it is renewed once."""
    first, second = UserLogin(NATIVE_CLIENT, login), UserLogin(NATIVE_CLIENT, login)
    assert first.get_authorization_header() == second.get_authorization_header()
    for each in (first, second):
        each.handle_missing_authorization()
    assert first.get_authorization_header() == second.get_authorization_header()
    assert globus.count("POST", "/v2/oauth2/token") == 1


def test_what_another_program_renews_meanwhile_is_used(globus, login):
    """It waits for the lock, and looks again when it has it."""
    (before,) = login.read().values()
    put(login, what=Tokens("old", before.refresh_token, 0.0))
    waits = threading.Event()

    class Watched(TokenFile):
        def _lock(self, fd):
            waits.set()
            super()._lock(fd)

    seen: list[str] = []
    other = UserLogin(NATIVE_CLIENT, Watched(login.path))
    thread = threading.Thread(target=lambda: seen.append(other.get_authorization_header()))
    with login.change() as stored:
        thread.start()
        assert waits.wait(10)
        stored[NATIVE_CLIENT] = Tokens("new", before.refresh_token, 4e9)
    thread.join(30)
    assert seen == ["Bearer new"]
    assert globus.count("POST", "/v2/oauth2/token") == 0


def test_threads_renew_it_once(globus, login):
    (before,) = login.read().values()
    put(login, what=Tokens("old", before.refresh_token, 0.0))
    each = UserLogin(NATIVE_CLIENT, login)
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(each.get_authorization_header())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert globus.count("POST", "/v2/oauth2/token") == 1


def test_a_new_login_meanwhile_is_used(globus, login):
    each = UserLogin(NATIVE_CLIENT, login)
    each.check()
    globus.revoke_all()
    each.handle_missing_authorization()
    with pytest.raises(Problem, match="Run: flowcore globus-auth"):
        each.check()
    put(login, what=Tokens(globus.log_in()["access_token"], "r", 4e9))
    each.check()


def test_auth_is_out_of_reach(globus, login):
    (before,) = login.read().values()
    put(login, what=Tokens("old", before.refresh_token, 0.0))
    globus.answer_next("POST", "/v2/oauth2/token", 503)
    with pytest.raises(Problem, match="cannot renew the login, Globus answers 503") as caught:
        UserLogin(NATIVE_CLIENT, login).check()
    assert caught.value.passing
    (after,) = login.read().values()
    assert after.refresh_token == before.refresh_token


def test_a_login_that_has_gone(globus, login):
    each = UserLogin(NATIVE_CLIENT, login)
    login.path.unlink()
    with pytest.raises(Problem, match="there is no login for Globus in .* Run: flowcore globus-auth"):
        each.check()


# --- client credentials


@pytest.fixture
def unattended(monkeypatch):
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_ID", CONFIDENTIAL_CLIENT)
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_SECRET", SECRET)


def test_one_of_them_is_not_enough(monkeypatch):
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_ID", CONFIDENTIAL_CLIENT)
    with pytest.raises(ConfigurationError, match="has FLOWCORE_GLOBUS_CLIENT_ID and not FLOWCORE_GLOBUS_CLIENT_SECRET"):
        auth.find(None)
    monkeypatch.delenv("FLOWCORE_GLOBUS_CLIENT_ID")
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_SECRET", SECRET)
    with pytest.raises(ConfigurationError, match="and not FLOWCORE_GLOBUS_CLIENT_ID") as caught:
        auth.find(None)
    assert SECRET not in str(caught.value)


def test_they_are_used_and_kept_nowhere(globus, unattended, tmp_path):
    login = auth.find(None)
    assert isinstance(login, ClientLogin)
    assert login.get_authorization_header() == login.get_authorization_header()
    assert globus.count("POST", "/v2/oauth2/token") == 1
    login.handle_missing_authorization()
    login.check()
    assert globus.count("POST", "/v2/oauth2/token") == 2
    assert not TokenFile().path.exists()
    assert SECRET not in repr(login)


def test_a_wrong_secret(globus, unattended, monkeypatch):
    monkeypatch.setenv("FLOWCORE_GLOBUS_CLIENT_SECRET", "wrong-one")
    with pytest.raises(
        Problem, match=r"does not accept the client credentials .*\(invalid_client\).*check FLOWCORE"
    ) as caught:
        auth.find(None).check()
    assert "wrong-one" not in str(caught.value)


def test_a_client_gives_its_consent_itself(globus, unattended, make, cluster, tmp_path):
    mapped = globus.endpoint("mapped", needs_consent=True)
    other = globus.endpoint("other", needs_consent=True)
    stager = make()
    stager.start(StagingPlace("here", str(cluster.folder / "work"), tmp_path))
    for endpoint in (mapped, other, mapped):
        file = File(endpoint.put("/a.txt", b"a"))
        future = stager.stage_in(StagingContext("here", str(cluster.folder / "work"), None), file, None)
        assert Path(future.result(30).filepath).read_bytes() == b"a"
    # One for the login, one for each consent.
    assert globus.count("POST", "/v2/oauth2/token") == 3


def test_a_consent_that_does_not_help_is_told(globus, unattended, monkeypatch):
    login = auth.find(None)
    scope = "urn:globus:auth:scope:transfer.api.globus.org:all[*https://auth.globus.org/scopes/x/data_access]"
    assert login.consent([scope]) is True
    assert login.consent([scope]) is False
    assert login.consent(["not [a scope"]) is False


# --- the start of a run


def test_nobody_is_asked_where_nobody_is(globus, make, cluster, tmp_path):
    assert not conversation.somebody_is_there()
    with pytest.raises(StagingError, match="there is no login for Globus"):
        make(client_id=NATIVE_CLIENT).start(StagingPlace("here", str(cluster.folder), tmp_path))


def test_logging_in_before_a_run(globus, make, monkeypatch):
    stager = make()
    with pytest.raises(StagingError, match="there is no login for Globus"):
        stager.initialize_globus()
    granted = globus.log_in()
    put(TokenFile(), what=Tokens(granted["access_token"], granted["refresh_token"], 0.0))
    stager.initialize_globus()
    assert TokenFile().read()[NATIVE_CLIENT].valid()
    globus.revoke_all()
    put(TokenFile(), what=Tokens("old", "revoked", 0.0))
    with pytest.raises(
        StagingError, match=r"GlobusStaging cannot begin: .*\(invalid_grant\). Run: flowcore globus-auth"
    ):
        stager.initialize_globus()


def test_somebody_does_not_answer(globus, make, cluster, tmp_path, monkeypatch):
    import click

    def interrupt(text, err):
        raise click.Abort

    monkeypatch.setattr(conversation, "somebody_is_there", lambda: True)
    monkeypatch.setattr(click, "prompt", interrupt)
    with pytest.raises(NotLoggedIn, match="you did not log in to Globus. To do so later, run: flowcore globus-auth"):
        make(client_id=NATIVE_CLIENT).start(StagingPlace("here", str(cluster.folder), tmp_path))


def test_somebody_is_asked_at_the_start(globus, make, cluster, lab, tmp_path, monkeypatch, capsys):
    import click

    def answer(text, err):
        assert text == "Then enter the code that it shows"
        url = next(word for word in capsys.readouterr().err.split() if word.startswith("http"))
        return f" {globus.browse(url)}\n"

    monkeypatch.setattr(conversation, "somebody_is_there", lambda: True)
    monkeypatch.setattr(click, "prompt", answer)
    stager = make(client_id=NATIVE_CLIENT)
    stager.start(StagingPlace("here", str(cluster.folder / "work"), tmp_path))
    assert json.loads(TokenFile().path.read_text())["clients"][NATIVE_CLIENT]["refresh_token"]
    file = File(lab.put("/a.txt", b"a"))
    future = stager.stage_in(StagingContext("here", str(cluster.folder / "work"), None), file, None)
    assert Path(future.result(30).filepath).read_bytes() == b"a"
