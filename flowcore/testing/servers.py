"""Programs and servers that a test needs and this machine may not have.

Rule of this module: what is missing never lets a test pass. It is skipped, visibly, and with ``CI=true`` it fails.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str) -> None:
    """Go on only if programs are there; to be called first in a test or a fixture.

    Args:
        programs: names as on PATH.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        unavailable(
            f"not found on PATH: {', '.join(missing)}. In a checkout of flowcore, tests/servers/install installs what "
            "its tests need"
        )


def unavailable(reason: str) -> NoReturn:
    """Skip the test; with ``CI=true``, fail it.

    Args:
        reason: what this machine does not have, and how to get it.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (tests that need it are not skipped, since CI=true)", pytrace=False)
    pytest.skip(reason)
