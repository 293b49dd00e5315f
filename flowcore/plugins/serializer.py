"""The contract of serializers: a way of its own to turn certain objects into bytes.

The core pickles what it sends. A serializer takes over for objects that a hook chooses it for
(``flowcore_serializer_for``): a compact format, a handle to shared storage, a library's own save function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Serializer(ABC):
    """Turns objects into bytes and back. Made without arguments, on the submit side and in each worker."""

    kind: ClassVar[str] = "serializer"

    @abstractmethod
    def serialize(self, obj: Any) -> bytes:
        """Return bytes for an object. Called where the object is sent, from any thread.

        Raises:
            Exception: the object cannot be written; the task fails with a SerializationError.
        """

    @abstractmethod
    def deserialize(self, data: bytes) -> Any:
        """Return the object of these bytes. Called where the object arrives, from any thread."""
