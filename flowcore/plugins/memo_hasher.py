"""The contract of memo hashers, which turn one argument of a cached app into bytes that identify it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

#: Hashes a value that is a part of another; hashers of containers are given it.
HashPart = Callable[[Any], bytes]


class MemoHasher(ABC):
    """Identifies values of some types for memoization. Made without arguments, once per process.

    Equal values give equal bytes, on every machine and in every run; different values, different bytes.
    """

    kind: ClassVar[str] = "memo_hasher"

    @abstractmethod
    def handles(self, obj: Any) -> bool:
        """Return whether this hasher is for the object. Called from any thread; must be cheap."""

    @abstractmethod
    def hash(self, obj: Any, output_ref: bool, part: HashPart) -> bytes:
        """Return bytes that identify the object.

        Args:
            obj: an object that :meth:`handles` accepted.
            output_ref: the object is a reference to something the task will make (an entry of ``outputs``):
                its name counts, not its present content.
            part: hashes what the object is made of, through whichever hasher is right for it.
        """
