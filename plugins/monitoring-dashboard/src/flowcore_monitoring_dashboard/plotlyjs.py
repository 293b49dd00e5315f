"""plotly.js, which draws the charts: taken from the installed Python package plotly, whose Python is not imported.

Rule of this module: what depends on how that file is made is found in it, and not written down here for one version.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from flowcore.plugins.api import FlowcoreError

# Where it would add a style element unless there is an element of that id already (the style sheet of its maps).
_ADDS_STYLE = re.compile(
    rb'document\.getElementById\("([0-9a-f]{32,64})"\)\)\{(?:var|let|const) \w+=document\.createElement\("style"\)'
)


@functools.cache
def plotly() -> bytes:
    """Return plotly.min.js.

    Raises:
        FlowcoreError: it is not there.
    """
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path.read_bytes()
    raise FlowcoreError(
        "plotly.min.js is not there, which draws the charts; it comes with the Python package plotly: "
        "pip install 'plotly>=6'"
    )


@functools.cache
def style_ids() -> tuple[str, ...]:
    """Return ids of elements that a page must have so that plotly.js adds no styles of its own, which pages forbid."""
    return tuple(sorted({found.decode() for found in _ADDS_STYLE.findall(plotly())}))
