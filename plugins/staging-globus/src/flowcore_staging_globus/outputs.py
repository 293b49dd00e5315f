"""The folders of outputs, made where the task runs.

Rule of this module: what is sent with a task must not need this distribution, which the worker's host may not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowcore.plugins.api import File


def with_folder(function: Callable[..., Any], file: File) -> Callable[..., Any]:
    """Return a call of a function that makes the folder of its output first.

    Args:
        function: the task's function.
        file: the output, with its local path.
    """

    # An inner function is sent by its code, and not by its name; so it imports for itself.
    def call(*args: Any, **kwargs: Any) -> Any:
        from pathlib import Path

        from flowcore.errors import StagingError

        folder = Path(file.filepath).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StagingError(
                f"cannot make the folder {folder} for the output {file.url}: {error.strerror}. Set the executor's "
                "working_dir to a folder where tasks may write, and that the Globus endpoint shows"
            ) from error
        return function(*args, **kwargs)

    call.__name__ = getattr(function, "__name__", type(function).__name__)
    return call
