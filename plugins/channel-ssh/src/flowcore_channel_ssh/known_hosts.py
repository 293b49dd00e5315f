"""Host keys that are known: the files of OpenSSH, and what they say of a key that a server presents.

Rule of this module: a key is good if a line has it for this host, and no line has revoked it. A host that any line
knows has changed its key if none of them has the presented one, of whatever type it is. It reads what OpenSSH writes
(patterns, hashed names, several keys of one type, marks); only authorities (``@cert-authority``) count for nothing.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

REVOKED = "@revoked"


class Verdict(enum.Enum):
    """What files of known hosts say of a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@attrs.frozen
class KnownKey:
    """One line of a file.

    Attributes:
        file, line: where it is.
        marker: ``@revoked``, or empty.
        names: hosts, as patterns or hashes.
        kind: of key, for example ``ssh-ed25519``.
        key: the key in base64.
    """

    file: str
    line: int
    marker: str
    names: tuple[str, ...]
    kind: str
    key: str

    def is_of(self, name: str) -> bool:
        """Return whether the line is about a host: its name, or ``[name]:port``."""
        found = False
        for pattern in self.names:
            if pattern.startswith("!"):
                if _matches(pattern[1:], name):
                    return False
            else:
                found = found or _matches(pattern, name)
        return found


def read(files: Iterable[str]) -> list[KnownKey]:
    """Return the lines of files, of those that exist; a line that makes no sense is none.

    Raises:
        OSError: a file is there and cannot be read.
    """
    found = []
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        found += [known for number, line in enumerate(text.splitlines(), 1) if (known := _parse(file, number, line))]
    return found


def judge(known: Sequence[KnownKey], name: str, kind: str, key: str) -> tuple[Verdict, KnownKey | None]:
    """Return what lines say of a key, and the line that decides.

    Args:
        known: the lines.
        name: of the host, or ``[name]:port`` where the port is not 22.
        kind: of the presented key.
        key: the presented key in base64.
    """
    own = [k for k in known if k.is_of(name)]
    for line in own:
        if line.marker == REVOKED and line.key == key:
            return Verdict.REVOKED, line
    valid = [k for k in own if not k.marker]
    for line in valid:
        if line.key == key:
            return Verdict.KNOWN, line
    if valid:
        return Verdict.CHANGED, next((k for k in valid if k.kind == kind), valid[0])
    return Verdict.UNKNOWN, None


def kinds(known: Sequence[KnownKey], name: str) -> list[str]:
    """Return the types of the keys that are known of a host, those that a server should be asked for."""
    return list(dict.fromkeys(k.kind for k in known if not k.marker and k.is_of(name)))


def fingerprint(key: str) -> str:
    """Return the fingerprint of a key in base64, as ssh shows it."""
    digest = hashlib.sha256(base64.b64decode(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def add(file: str, name: str, kind: str, key: str) -> None:
    """Append a key to a file, which is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(file)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as written:
        length = written.seek(0, os.SEEK_END)
        if length:
            written.seek(-1, os.SEEK_END)
            if written.read(1) != b"\n":
                written.write(b"\n")
        written.write(f"{name} {kind} {key}\n".encode())


def _parse(file: str, number: int, line: str) -> KnownKey | None:
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", REVOKED):
        return None
    names, kind, key = fields[:3]
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        return None
    return KnownKey(file, number, marker, tuple(names.split(",")), kind, key)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        return _hash_matches(pattern, name)
    expression = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name.lower()) is not None


def _hash_matches(pattern: str, name: str) -> bool:
    try:
        salt, expected = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:])
    except ValueError:  # binascii.Error is one, too
        return False
    return hmac.compare_digest(hmac.digest(salt, name.lower().encode(), "sha1"), expected)
