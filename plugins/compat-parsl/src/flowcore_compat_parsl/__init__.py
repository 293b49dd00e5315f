"""Parsl programs on flowcore: after :func:`install`, ``import parsl`` gives flowcore under the names of Parsl.

Rule of this package: aliases where flowcore's object can do what Parsl documents, small adapters where its conventions
differ, and never a second implementation. A name that cannot be had says which distribution to install.

The three ways in are ``flowcore run --parsl script.py``, ``python -m flowcore_compat_parsl script.py`` and, before the
first ``import parsl`` of a program, ``import flowcore_compat_parsl; flowcore_compat_parsl.install()``.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["VERSION", "install", "is_installed", "uninstall"]

#: What ``parsl.__version__`` says: the state of Parsl whose documentation this package follows, in Parsl's own form, so
#: that programs which compare it find what was there at the end of April 2024.
VERSION = "2024.04.29"


def install() -> None:
    """Make ``import parsl`` give flowcore in this process. Does nothing if it does already.

    Raises:
        ConfigurationError: the real Parsl was imported before, so that its objects and flowcore's would mix.
    """
    from flowcore.errors import ConfigurationError
    from flowcore_compat_parsl.modules import FINDER

    if FINDER in sys.meta_path:
        return
    there = sys.modules.get("parsl")
    if there is not None:
        place = getattr(there, "__file__", None) or "an unknown place"
        raise ConfigurationError(
            f"parsl was imported before flowcore could take its name (from {place}): call "
            "flowcore_compat_parsl.install() before the first `import parsl`, or run the program with "
            "`flowcore run --parsl SCRIPT`"
        )
    # First: an installed Parsl must not be found.
    sys.meta_path.insert(0, FINDER)
    # Handlers and levels that a program sets on the logger `parsl` see flowcore's log.
    logging.getLogger("flowcore").parent = logging.getLogger("parsl")


def uninstall() -> None:
    """Undo :func:`install`, for tests: the next ``import parsl`` is Python's own. Does nothing if not installed."""
    from flowcore_compat_parsl.modules import FINDER, Parsl

    if FINDER not in sys.meta_path:
        return
    sys.meta_path.remove(FINDER)
    for name in [n for n, module in sys.modules.items() if isinstance(module, Parsl)]:
        del sys.modules[name]
    logging.getLogger("flowcore").parent = logging.getLogger()


def is_installed() -> bool:
    """Return whether ``import parsl`` gives flowcore in this process."""
    modules = sys.modules.get("flowcore_compat_parsl.modules")
    return modules is not None and modules.FINDER in sys.meta_path
