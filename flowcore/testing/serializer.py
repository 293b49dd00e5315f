"""The contract suite of serializers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flowcore.plugins.api import Serializer
from flowcore.testing import functions


class SerializerContract:
    """What every serializer promises; see :class:`flowcore.plugins.api.Serializer`.

    Subclass it, and make the serializer in the fixture ``serializer``. One that is for certain types says in
    ``objects`` what it is to be tried with, and in ``equal`` how to compare them::

        class TestMySerializer(SerializerContract):
            @pytest.fixture
            def serializer(self):
                return MySerializer()

            @pytest.fixture
            def objects(self):
                return [MyTable(rows=0), MyTable(rows=1000)]

    Attributes:
        unwritable: an object that it cannot write.
    """

    unwritable: Any = functions.Unwritable()

    @pytest.fixture
    def serializer(self) -> Serializer:
        """The serializer under test. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `serializer`")

    @pytest.fixture
    def objects(self) -> Sequence[Any]:
        """What it is tried with."""
        return [
            None,
            1,
            2.5,
            "grün\0",
            b"\x00\xff" * 100_000,
            [1, (2, {3: {"a"}})],
            functions.Point(1, functions.Colour.RED),
            functions.add,
            functions.Refused,
        ]

    def equal(self, a: Any, b: Any) -> bool:
        """Return whether an object is what was sent. To be overridden for types without a simple ``==``."""
        return type(a) is type(b) and bool(a == b)

    def test_is_a_serializer(self, serializer: Serializer) -> None:
        """It keeps the contract's class, and is made without arguments, as each worker makes it."""
        assert isinstance(serializer, Serializer)
        assert serializer.kind == "serializer"
        assert isinstance(type(serializer)(), Serializer)

    def test_round_trip(self, serializer: Serializer, objects: Sequence[Any]) -> None:
        """What one instance writes, another one reads."""
        other = type(serializer)()
        assert objects
        for obj in objects:
            data = serializer.serialize(obj)
            assert type(data) is bytes
            back = other.deserialize(data)
            assert self.equal(back, obj), f"{obj!r} came back as {back!r}"

    def test_what_cannot_be_written(self, serializer: Serializer) -> None:
        """It is an exception, not other bytes."""
        with pytest.raises(Exception) as caught:
            serializer.serialize(self.unwritable)
        assert isinstance(caught.value, Exception)

    def test_bytes_that_are_none_of_its_own(self, serializer: Serializer, objects: Sequence[Any]) -> None:
        """Half of what it wrote does not silently become the object."""
        whole = max(map(serializer.serialize, objects), key=len)
        with pytest.raises(Exception) as caught:
            serializer.deserialize(whole[: len(whole) // 2])
        assert isinstance(caught.value, Exception)

    def test_from_several_threads(self, serializer: Serializer, objects: Sequence[Any]) -> None:
        """Both directions are called from any thread."""

        def there_and_back(obj: Any) -> bool:
            return self.equal(serializer.deserialize(serializer.serialize(obj)), obj)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(there_and_back, list(objects) * 20))
