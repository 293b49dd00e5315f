"""Files of known hosts: what they say of a key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flowcore_channel_ssh import known_hosts
from flowcore_channel_ssh.known_hosts import Verdict, judge, read

from flowcore.testing.servers import need

A, B, C = "QUFB", "QkJC", "Q0ND"
FILE = f"""
# a comment
one,10.0.0.1 ssh-ed25519 {A} somebody@here
*.example.org,!bad.example.org ssh-ed25519 {A}
node? ssh-ed25519 {A}
[two]:2222 ssh-rsa {B}
several ssh-ed25519 {A}
several ssh-ed25519 {B}
several ecdsa-sha2-nistp256 {C}
@revoked * ssh-ed25519 {C}
stolen ssh-ed25519 {C}
@cert-authority signed ssh-ed25519 {A}
half ssh-ed25519
broken ssh-ed25519 not*base64
   blanks\tssh-ed25519   {A}
"""

VERDICTS = [
    ("one", "ssh-ed25519", A, Verdict.KNOWN),
    ("ONE", "ssh-ed25519", A, Verdict.KNOWN),
    ("10.0.0.1", "ssh-ed25519", A, Verdict.KNOWN),
    ("one", "ssh-ed25519", B, Verdict.CHANGED),
    ("one", "ssh-rsa", B, Verdict.CHANGED),  # another type is another key, too
    ("one.example.org", "ssh-ed25519", A, Verdict.KNOWN),
    ("bad.example.org", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("example.org", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("node1", "ssh-ed25519", A, Verdict.KNOWN),
    ("node12", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("[two]:2222", "ssh-rsa", B, Verdict.KNOWN),
    ("two", "ssh-rsa", B, Verdict.UNKNOWN),
    ("t", "ssh-rsa", B, Verdict.UNKNOWN),  # brackets are no set of letters
    ("several", "ssh-ed25519", B, Verdict.KNOWN),
    ("several", "ecdsa-sha2-nistp256", C, Verdict.REVOKED),
    ("stolen", "ssh-ed25519", C, Verdict.REVOKED),
    ("anywhere", "ssh-ed25519", C, Verdict.REVOKED),
    ("anywhere", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("signed", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("half", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("broken", "ssh-ed25519", A, Verdict.UNKNOWN),
    ("blanks", "ssh-ed25519", A, Verdict.KNOWN),
]


@pytest.fixture
def lines(tmp_path: Path) -> list[known_hosts.KnownKey]:
    (tmp_path / "known").write_text(FILE)
    return read([str(tmp_path / "none"), str(tmp_path / "known")])


@pytest.mark.parametrize(("name", "kind", "key", "verdict"), VERDICTS)
def test_verdicts(lines, name, kind, key, verdict):
    assert judge(lines, name, kind, key)[0] is verdict


def test_the_line_that_decides_is_told(lines, tmp_path):
    _, line = judge(lines, "several", "ecdsa-sha2-nistp256", "RERE")
    assert line is not None
    assert (line.file, line.line, line.key) == (str(tmp_path / "known"), 9, C), "the one of the same type"
    assert judge(lines, "nowhere", "ssh-rsa", "RERE") == (Verdict.UNKNOWN, None)


def test_the_types_to_ask_for(lines):
    assert known_hosts.kinds(lines, "several") == ["ssh-ed25519", "ecdsa-sha2-nistp256"]
    assert known_hosts.kinds(lines, "nowhere") == []


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        read([str(tmp_path)])


@pytest.mark.parametrize("before", [None, "", "one ssh-ed25519 QUFB\n", "one ssh-ed25519 QUFB"])
def test_adding(tmp_path, before):
    file = tmp_path / "new" / "known"
    if before is not None:
        file.parent.mkdir()
        file.write_text(before)
    known_hosts.add(str(file), "[two]:2222", "ssh-ed25519", B)
    assert file.read_text() == (f"{before.strip()}\n" if before else "") + f"[two]:2222 ssh-ed25519 {B}\n"
    if before is None:
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert judge(read([str(file)]), "[two]:2222", "ssh-ed25519", B)[0] is Verdict.KNOWN


def test_what_openssh_writes(tmp_path):
    need("ssh-keygen")
    key, file = tmp_path / "key", tmp_path / "known"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
    kind, encoded = key.with_suffix(".pub").read_text().split()[:2]
    file.write_text(f"host.example,[10.0.0.1]:2200 {kind} {encoded}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, timeout=20, capture_output=True)
    assert "host.example" not in file.read_text(), "the names are hashed"
    hashed = read([str(file)])
    for name in ("host.example", "Host.Example", "[10.0.0.1]:2200"):
        assert judge(hashed, name, kind, encoded)[0] is Verdict.KNOWN
    assert judge(hashed, "10.0.0.1", kind, encoded)[0] is Verdict.UNKNOWN
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, timeout=20, capture_output=True, text=True)
    assert known_hosts.fingerprint(encoded) == shown.stdout.split()[1]


@pytest.mark.parametrize("pattern", ["|1|", "|1|x|y", "|1|QUFB", "|1|QUFB|QkJC|Q0ND"])
def test_hashes_that_make_no_sense_match_nothing(tmp_path, pattern):
    (tmp_path / "known").write_text(f"{pattern} ssh-ed25519 {A}\n")
    assert judge(read([str(tmp_path / "known")]), "host", "ssh-ed25519", A)[0] is Verdict.UNKNOWN
