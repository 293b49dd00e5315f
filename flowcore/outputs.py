"""Whether a task has made the files that it promised, looked at where it runs.

Imported by workers: light.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from flowcore.errors import MissingOutputs


def check_outputs(app: str, outputs: Iterable[Any]) -> None:
    """Check that files are there.

    Args:
        app: kind and name of the app, for the error.
        outputs: :class:`flowcore.File` objects or paths.

    Raises:
        MissingOutputs: some are not; names them.
    """
    missing = [output for output in outputs if not os.path.exists(os.fspath(output))]  # noqa: PTH110 - light
    if missing:
        raise MissingOutputs(f"{app} ended well but did not make all its outputs", missing)


class WithOutputs:
    """Calls the function of a python_app that has ``outputs``, and checks that they are there.

    Args:
        function: what to call.
        name: the app's name.
        passed: whether the function takes ``outputs`` itself.
    """

    def __init__(self, function: Callable[..., Any], name: str, passed: bool) -> None:
        self.function = function
        self.passed = passed
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            MissingOutputs: a file of ``outputs`` is not there afterwards.
            Exception: what the function raised.
        """
        outputs = list(kwargs["outputs"] if self.passed else kwargs.pop("outputs"))
        value = self.function(*args, **kwargs)
        check_outputs(f"python_app {self.__name__!r}", outputs)
        return value
