"""Stagers for files on web servers: by GET, so in only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs

from flowcore.builtin.file_cache import CachingStaging, Validators
from flowcore.plugins.api import ConfigurationError, File, InTaskStaging, SeparateTaskStaging, at_least, component


@component
class HTTPTransfer(CachingStaging):
    """Fetches files of ``http`` and ``https`` URLs; what both stagers have in common.

    A fetch that was cut off goes on where it was, if the server can do that and still has the same file. A file is
    as long as the server said, or it is not there. Certificates are verified; a redirect from https to http is
    refused. A user and a password may stand in the URL (``https://user:password@host/``), or in the file
    ``~/.netrc`` where the task runs. Proxies are those of the environment there.

    Args:
        timeout_s: seconds of silence after which the server is given up.
        attempts: how often one fetch is tried at most, where trying again may help: after a broken connection, a
            status of 5xx or 429.
        max_redirects: redirects that are followed, one after another.
        ca_file: path, where tasks run, of the certificates (PEM) of the authorities that are trusted; None: the usual
            ones.
        headers: further header lines by host: ``{"data.example.org": {"Authorization": "Bearer ..."}}``. They are
            sent to these hosts alone.
        cache: whether files are kept on the node, for other tasks and later runs; or the folder where, which may hold
            variables of the environment there.
        cache_max_bytes: size of all kept files together, above which those go that were not used for longest.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"http", "https"})

    timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    attempts: int = attrs.field(default=4, validator=at_least(1))
    max_redirects: int = attrs.field(default=10, validator=at_least(0))
    ca_file: str | None = None
    headers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        for host in self.headers:
            if "/" in host:
                raise ConfigurationError(
                    f"headers={{{host!r}: ...}}: expected the name of a host, without scheme and path"
                )

    def download(self, file: File, path: Path, known: Validators | None) -> Validators | None:
        """Make the file at ``path``, unless it is still what is known; return what the server says of it."""
        # Here, since `requests` takes a while to import, and most runs have no such files.
        from flowcore.builtin import http_download

        return http_download.download(
            file.url,
            path,
            known,
            http_download.Options(self.timeout_s, self.attempts, self.max_redirects, self.ca_file, self.headers),
        )


@component
class HTTPSeparateTaskStaging(HTTPTransfer, SeparateTaskStaging):
    """Fetches each file in a task of its own, on the executor of the task that needs it.

    The two must see the same file system. Options: see :class:`HTTPTransfer`.
    """


@component
class HTTPInTaskStaging(HTTPTransfer, InTaskStaging):
    """Fetches each file inside the task that needs it, into a folder of its own, so that no file system is shared.

    Options: see :class:`HTTPTransfer`.
    """
