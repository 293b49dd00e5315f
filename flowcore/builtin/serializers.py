"""The serializers that come with the core, for hooks that want to force one."""

from __future__ import annotations

import pickle
from typing import Any

from flowcore.plugins.api import Serializer


class PickleSerializer(Serializer):
    """The standard library's pickle, protocol 5; functions and classes by reference."""

    def serialize(self, obj: Any) -> bytes:
        """Return the pickled object."""
        return pickle.dumps(obj, 5)

    def deserialize(self, data: bytes) -> Any:
        """Return the object."""
        return pickle.loads(data)


class DillSerializer(Serializer):
    """dill, which can write more kinds of objects than pickle, and takes longer."""

    def serialize(self, obj: Any) -> bytes:
        """Return the dilled object."""
        import dill

        data: bytes = dill.dumps(obj, recurse=True)
        return data

    def deserialize(self, data: bytes) -> Any:
        """Return the object."""
        import dill

        return dill.loads(data)
