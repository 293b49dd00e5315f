"""Where a file is: what a URL says, and what a path of an executor is called by its endpoint.

Rule of this module: pure functions of text. What cannot be right is refused here, before anything is moved.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

import attrs

from flowcore.plugins.api import ConfigurationError, File, StagingError

SCHEME = "globus"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID as Globus writes them."""
    return _UUID.fullmatch(text) is not None


@attrs.frozen
class Location:
    """A file on an endpoint.

    Attributes:
        endpoint: UUID of the endpoint, or collection.
        path: absolute path there.
    """

    endpoint: str
    path: str


def location(file: File) -> Location:
    """Return what a file's URL means, ``globus://<endpoint UUID>/path``.

    The path may be percent-encoded. ``?`` and ``#`` are characters of a path: Globus knows no queries.

    Raises:
        StagingError: the URL names no file of an endpoint.
    """
    endpoint, slash, path = file.url.partition("://")[2].partition("/")
    path = unquote(slash + path)
    if not is_uuid(endpoint) or path.endswith("/") or not path or not path.isprintable():
        raise StagingError(
            f"{file.url!r} names no file of a Globus endpoint: expected globus://<endpoint UUID>/path/of/file, such "
            "as globus://037f054a-15cf-11e8-b611-0ac6873fc732/unsorted.txt"
        )
    return Location(endpoint.lower(), path)


@attrs.frozen
class PathMap:
    """What paths of an executor's file system are called by its endpoint.

    Attributes:
        local_path: a folder, by its path where tasks run; None: the endpoint shows the whole file system as it is.
        endpoint_path: the same folder, by its path on the endpoint.
    """

    local_path: str | None = None
    endpoint_path: str | None = None

    def check(self) -> None:
        """Raise :class:`ConfigurationError` if this is no map."""
        if (self.local_path is None) != (self.endpoint_path is None):
            raise ConfigurationError(
                f"GlobusStaging(endpoint_path={self.endpoint_path!r}, local_path={self.local_path!r}): they are the "
                "two names of one folder, on the endpoint and where tasks run: give both, or neither if the paths "
                "are the same"
            )
        for option, path in (("local_path", self.local_path), ("endpoint_path", self.endpoint_path)):
            if path is not None and not path.startswith("/"):
                raise ConfigurationError(
                    f"GlobusStaging({option}={path!r}): expected an absolute path"
                    + (", '/~/' for the home folder on the endpoint" if option == "endpoint_path" else "")
                )

    def to_endpoint(self, path: str) -> str:
        """Return the endpoint's name of a path.

        Args:
            path: an absolute path where tasks run.

        Raises:
            ConfigurationError: it is not below :attr:`local_path`, so that the endpoint has no name for it.
        """
        path = _normal(path)
        if self.local_path is None or self.endpoint_path is None:
            return path
        root = _normal(self.local_path)
        if path != root and not path.startswith(root.rstrip("/") + "/"):
            raise ConfigurationError(
                f"{path} is not below local_path={self.local_path!r}, which the Globus endpoint shows as "
                f"endpoint_path={self.endpoint_path!r}: the endpoint cannot reach it"
            )
        return posixpath.join(_normal(self.endpoint_path), path[len(root) :].lstrip("/"))


def _normal(path: str) -> str:
    # Two slashes at the start are kept by normpath.
    return "/" + posixpath.normpath(path).lstrip("/")
