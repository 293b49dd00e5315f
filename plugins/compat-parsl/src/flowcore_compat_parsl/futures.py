"""``DataFuture`` as a stager makes it: of a future of its own, which it follows."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from typing import Any

from flowcore import futures
from flowcore.files import File


class _Either(type):
    """flowcore's own futures are instances, too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, futures.DataFuture)


class DataFuture(futures.DataFuture, metaclass=_Either):
    """A file that a future will make; done when that one is.

    Args:
        fut: the future of what makes the file.
        file_obj: the file.
        tid: number of the task.
    """

    def __init__(self, fut: Future[Any], file_obj: File | str, tid: int | None = None) -> None:
        super().__init__(fut, file_obj, tid)
        fut.add_done_callback(self.parent_callback)

    def parent_callback(self, parent_fu: Future[Any]) -> None:
        """Take over how the parent ended. Called by the parent."""
        error = CancelledError() if parent_fu.cancelled() else parent_fu.exception()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(self.file_obj)
