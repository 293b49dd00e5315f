"""What tests need and this machine may not have: how they say so, and how it is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flowcore.testing.servers import need

INSTALL = Path(__file__).parents[1] / "servers" / "install"
#: What the script itself runs. `id` and `sudo` are made by the tests.
TOOLS = ("bash", "chmod", "env", "mktemp", "rm", "tail", "tee", "timeout")
#: Are in no folder of administrators, so that a PATH can hide them.
HIDDEN = {"mpiexec.openmpi": "openmpi-bin", "mpiexec.mpich": "mpich"}
#: The other programs of its table.
OTHERS = [
    words[0]
    for line in INSTALL.read_text().partition("needed='\n")[2].partition("'\n")[0].splitlines()
    if (words := line.split())[0] not in ("-", *HIDDEN)
]


def test_what_is_there_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    need()
    need("sh", "env")


@pytest.mark.parametrize(("ci", "outcome"), [(None, pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_is_missing_skips_and_fails_in_ci(
    ci: str | None, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"not found on PATH: no-such-1, no-such-2\. .* tests/servers/install"):
        need("no-such-1", "sh", "no-such-2")


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The one folder of a PATH: all that tests need but the hidden ones, and all that the script runs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = next(Path(f, tool) for f in ("/usr/bin", "/bin") if Path(f, tool).exists())
        (folder / tool).symlink_to(found)
    for program in OTHERS:
        executable(folder / program, "true")
    executable(folder / "dpkg-query", "echo 'ii '")
    executable(folder / "id", "echo 0")
    return folder


def install(programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": str(programs), "POLICY_RC_D": str(programs.parent / "policy")}
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | own | variables
    return subprocess.run([INSTALL], env=environment, capture_output=True, text=True, timeout=60)


def apt_get(programs: Path, log: Path, does: str = "") -> None:
    executable(programs / "apt-get", f'echo "$@" >> {log}\n{does}')


def test_with_all_programs_nothing_is_installed(programs: Path, tmp_path: Path) -> None:
    apt_get(programs, tmp_path / "log")
    for program in HIDDEN:
        executable(programs / program, "true")
    done = install(programs, CI="true")
    assert (done.returncode, done.stdout) == (0, "All programs that tests need are there.\n"), done.stderr
    assert not (tmp_path / "log").exists()


def test_what_is_missing_is_installed_and_nothing_else(programs: Path, tmp_path: Path) -> None:
    makes = "".join(f"printf '#!/bin/sh\\n' > {programs}/{p}; /bin/chmod 755 {programs}/{p}\n" for p in HIDDEN)
    # Packages that start servers ask this file, which is there for as long.
    asks = f"{tmp_path}/policy || echo $? > {tmp_path}/policy-said\n"
    apt_get(programs, tmp_path / "log", f'[ "$1" = install ] || exit 0\n{makes}{asks}')
    done = install(programs, CI="true")
    assert (tmp_path / "policy-said").read_text() == "101\n"
    assert not (tmp_path / "policy").exists()
    assert (done.returncode, done.stdout) == (0, "Installing for the tests: openmpi-bin mpich\n"), done.stderr
    update, installed = (tmp_path / "log").read_text().splitlines()
    assert update.split()[0] == "update"
    assert [word for word in installed.split() if word in (*OTHERS, "iproute2", *HIDDEN.values())] == [
        "openmpi-bin",
        "mpich",
    ]


def test_a_library_that_is_missing(programs: Path, tmp_path: Path) -> None:
    apt_get(programs, tmp_path / "log", "exit 1")
    for program in HIDDEN:
        executable(programs / program, "true")
    executable(programs / "dpkg-query", '[ "$3" = libswitch-perl ] && exit 1; echo "ii "')
    done = install(programs)
    assert done.stdout == "Installing for the tests: libswitch-perl\n"


def test_sudo_is_used_only_without_a_password(programs: Path, tmp_path: Path) -> None:
    apt_get(programs, tmp_path / "log")
    executable(programs / "id", "echo 1000")
    executable(programs / "sudo", "exit 1")
    done = install(programs)
    assert done.returncode == 0
    assert "Missing: apt-get install openmpi-bin mpich, as root." in done.stderr
    assert not (tmp_path / "log").exists()
    executable(programs / "sudo", 'shift; exec "$@"')
    executable(programs / "true", "exit 0")
    install(programs)
    assert (tmp_path / "log").exists()


FAILURES = {
    "no apt-get": (None, "Missing, and no Debian to install them from: openmpi-bin mpich."),
    "apt-get fails": ("echo 'E: no network'; exit 100", "E: no network\napt-get cannot install openmpi-bin mpich"),
    "no programs": ("", "Installed, and yet their programs are not there: openmpi-bin mpich."),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_be_installed_is_named_and_fails_in_ci_only(failure: str, programs: Path, tmp_path: Path) -> None:
    does, message = FAILURES[failure]
    if does is not None:
        apt_get(programs, tmp_path / "log", does)
    for variables, code in (({}, 0), ({"CI": "true"}, 1)):
        done = install(programs, **variables)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert "The tests that need them are skipped; with CI=true they fail." in done.stderr
    assert list(tmp_path.glob("tmp.*")) == []
