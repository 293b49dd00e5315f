"""Stagers for files on FTP servers: by RETR, so in only."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs

from flowcore.builtin.file_cache import CachingStaging, Validators
from flowcore.plugins.api import File, InTaskStaging, SeparateTaskStaging, at_least, component


@component
class FTPTransfer(CachingStaging):
    """Fetches files of ``ftp`` URLs, byte by byte as they are; what both stagers have in common.

    A fetch that was cut off goes on where it was, if the server can do that and still has the same file. Where the
    server tells the size of a file, the file is that long or it is not there. The login is ``anonymous``; a user
    and a password may stand in the URL (``ftp://user:password@host:port/path``), or in the file ``~/.netrc`` where the
    task runs. FTP sends passwords and files so that others on the way can read them.

    A path is meant from the folder that the login leads to; ``ftp://host/%2Fdata/a.csv`` is ``/data/a.csv``
    (RFC 1738, section 3.2.2).

    Args:
        timeout_s: seconds of silence after which the server is given up.
        attempts: how often one fetch is tried at most, where trying again may help: after a broken connection, a
            reply of 4xx.
        cache: whether files are kept on the node, for other tasks and later runs; or the folder where, which may hold
            variables of the environment there. A file that was fetched in an earlier run is used again only if the
            server tells when it was changed (MDTM).
        cache_max_bytes: size of all kept files together, above which those go that were not used for longest.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"ftp"})

    timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    attempts: int = attrs.field(default=4, validator=at_least(1))

    def download(self, file: File, path: Path, known: Validators | None) -> Validators | None:
        """Make the file at ``path``, unless it is still what is known; return what the server says of it."""
        # Here, since most runs have no such files.
        from flowcore.builtin import ftp_download

        return ftp_download.download(file.url, path, known, self.timeout_s, self.attempts)


@component
class FTPSeparateTaskStaging(FTPTransfer, SeparateTaskStaging):
    """Fetches each file in a task of its own, on the executor of the task that needs it.

    The two must see the same file system. Options: see :class:`FTPTransfer`.
    """


@component
class FTPInTaskStaging(FTPTransfer, InTaskStaging):
    """Fetches each file inside the task that needs it, into a folder of its own, so that no file system is shared.

    Options: see :class:`FTPTransfer`.
    """
