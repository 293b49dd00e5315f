"""flowcore: decorate functions, call them, get futures back, run the graph anywhere.

Importing this package is cheap by rule: every public name is fetched from its module on first use
(PEP 562), and no plugin is imported before a configuration names it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowcore.apps import bash_app, join_app, python_app
    from flowcore.config import Config
    from flowcore.errors import FlowcoreError
    from flowcore.files import AUTO_LOGNAME, File
    from flowcore.futures import AppFuture, DataFuture
    from flowcore.logs import set_file_logger, set_stream_logger
    from flowcore.session import DataFlowKernel, clear, dfk, load, wait_for_current_tasks

__version__ = "0.1.0"

_HOME = {
    "python_app": "flowcore.apps",
    "bash_app": "flowcore.apps",
    "join_app": "flowcore.apps",
    "Config": "flowcore.config",
    "FlowcoreError": "flowcore.errors",
    "File": "flowcore.files",
    "AUTO_LOGNAME": "flowcore.files",
    "AppFuture": "flowcore.futures",
    "DataFuture": "flowcore.futures",
    "set_stream_logger": "flowcore.logs",
    "set_file_logger": "flowcore.logs",
    "DataFlowKernel": "flowcore.session",
    "load": "flowcore.session",
    "clear": "flowcore.session",
    "dfk": "flowcore.session",
    "wait_for_current_tasks": "flowcore.session",
}
#: Components, fetched through the registry: `flowcore.ThreadPoolExecutor` is
#: `flowcore.executors.ThreadPoolExecutor`.
_DOORS = {
    "ThreadPoolExecutor": "flowcore.executors",
    "HighThroughputExecutor": "flowcore.executors",
}

#: Modules that users and error messages name; `import flowcore` does not import them.
_MODULES = frozenset(
    {
        "addresses",
        "channels",
        "checkpoints",
        "concurrent",
        "errors",
        "executors",
        "launchers",
        "memoization",
        "monitoring",
        "providers",
        "staging",
    }
)

__all__ = [
    "AUTO_LOGNAME",
    "AppFuture",
    "Config",
    "DataFlowKernel",
    "DataFuture",
    "File",
    "FlowcoreError",
    "__version__",
    "bash_app",
    "clear",
    "dfk",
    "join_app",
    "load",
    "python_app",
    "set_file_logger",
    "set_stream_logger",
    "wait_for_current_tasks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"flowcore.{name}")
    home = _HOME.get(name) or _DOORS.get(name)
    if home is None:
        raise AttributeError(f"module 'flowcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_DOORS, *_MODULES})
