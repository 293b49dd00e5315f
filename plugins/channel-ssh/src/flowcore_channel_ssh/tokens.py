"""OAuth tokens of Globus, as the package oauth-ssh keeps them.

Rule of this module: a token comes from who is nearest: the option, the environment, the files of oauth-ssh, which are
made once, in a browser, with ``oauth-ssh-token authorize HOST`` and refreshed by that package.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

from flowcore.plugins.api import AuthException, OptionalModuleMissing

#: Environment variable with a token.
VARIABLE = "FLOWCORE_OAUTH_SSH_TOKEN"
_MODULE = "oauth_ssh.oauth_ssh_token"


def find(hostname: str, token: str | Callable[[], str] | None) -> str:
    """Return a token for a host.

    Args:
        hostname: the host, as its service is registered: its full name.
        token: the option; a function is called for each login, since tokens expire.

    Raises:
        OptionalModuleMissing: there is no other source than oauth-ssh, and that is not installed.
        AuthException: the function failed, or oauth-ssh has no token.
    """
    if callable(token):
        return _told(hostname, token)
    if token is not None:
        return token
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE]
    try:
        find_access_token = importlib.import_module(_MODULE).find_access_token
    except ModuleNotFoundError as error:
        raise OptionalModuleMissing(
            ["oauth_ssh"],
            f"OAuthSSHChannel needs a token for {hostname}: pip install 'flowcore-channel-ssh[oauth]' and once "
            f"`oauth-ssh-token authorize {hostname}`, or give token=, or set {VARIABLE}",
        ) from error
    return _told(hostname, lambda: str(find_access_token(hostname)))


def _told(hostname: str, ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as error:  # of a user's function; oauth-ssh's own, of its files, of the network
        raise AuthException(error, hostname) from error
