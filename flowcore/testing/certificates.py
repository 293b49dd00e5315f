"""Certificates for servers of tests: an authority that nobody else trusts, and what it signs.

::

    certificates = Certificates(tmp_path / "tls")
    with HTTPFiles(root, tls=certificates) as server:
        get(server.url("a.txt"), ca_file=certificates.ca_file)
    with HTTPFiles(root, tls=certificates.make(expired=True)) as server: ...
    with HTTPFiles(root, tls=certificates.make("elsewhere.example")) as server: ...

Rule of this module: the ``openssl`` program makes them, in a folder of the test; nothing of this machine is trusted or
changed.
"""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from pathlib import Path

import attrs

#: Of a certificate that has expired, and of one that has not; as ``openssl ca`` wants them.
_PAST = ("20200101000000Z", "20200201000000Z")
_PRESENT = ("20200101000000Z", "20991231000000Z")
_CONFIGURATION = """\
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
new_certs_dir = {folder}
certificate = {folder}/ca.crt
private_key = {folder}/ca.key
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
prompt = no
distinguished_name = name
[name]
commonName = tests of flowcore
[extensions_ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
"""
_EXTENSIONS = """\
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
#: Seconds for one command.
_BOUND_S = 30.0


@attrs.frozen
class Certificate:
    """A server's certificate, and its key.

    Attributes:
        file: the certificate, PEM.
        key: the private key, PEM, not encrypted.
    """

    file: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the context of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


class Certificates:
    """A certificate authority.

    Args:
        folder: where its files go; made if it is not there.

    Raises:
        RuntimeError: ``openssl`` is not there, or failed; says how.

    Attributes:
        ca_file: its own certificate, PEM: who trusts that trusts the servers.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._made = 0
        self.ca_file = folder / "ca.crt"
        self._configuration = folder / "openssl.cnf"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder), encoding="utf-8")
        (folder / "index.txt").touch()
        command = ["req", "-x509", *_KEY, "-config", str(self._configuration), "-extensions", "extensions_ca"]
        _openssl(*command, "-days", "3650", "-keyout", str(folder / "ca.key"), "-out", str(self.ca_file))

    def make(self, *names: str, expired: bool = False) -> Certificate:
        """Return a new certificate that the authority has signed.

        Args:
            names: host names and addresses that it is for; without any, localhost and 127.0.0.1.
            expired: it was valid until some years ago.
        """
        self._made += 1
        names = names or ("localhost", "127.0.0.1")
        made = Certificate(*(self._folder / f"server-{self._made}.{ending}" for ending in ("crt", "key")))
        request, extensions = made.file.with_suffix(".csr"), made.file.with_suffix(".cnf")
        extensions.write_text(_EXTENSIONS.format(names=", ".join(map(_alternative, names))), encoding="utf-8")
        config = ("-config", str(self._configuration))
        _openssl("req", "-new", *_KEY, *config, "-subj", f"/CN={names[0]}", "-keyout", made.key, "-out", request)
        start, end = _PAST if expired else _PRESENT
        dates = ("-startdate", start, "-enddate", end)
        _openssl("ca", "-batch", "-notext", *config, *dates, "-extfile", extensions, "-in", request, "-out", made.file)
        return made


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BOUND_S)
    except FileNotFoundError:
        raise RuntimeError("certificates are made by the program openssl, which is not on PATH: install it") from None
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed with exit code {done.returncode}: {done.stderr.strip()}")
