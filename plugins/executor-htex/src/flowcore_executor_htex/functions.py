"""The functions that the executor has serialized: each once, and named by its content from then on.

A function that nobody holds any more, and that no attempt needs, is forgotten here and, through the list that
:meth:`FunctionCache.take_forgotten` returns, everywhere else: memory is bounded by the functions that are alive.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import attrs

from flowcore import serialize

HASH_BYTES = 16


@attrs.define(slots=True, eq=False)
class CachedFunction:
    """A serialized function: its content hash, its bytes, whether the hub has it, attempts that need it."""

    digest: bytes
    body: bytes
    sent: bool = False
    users: int = 0
    references: int = 0


class FunctionCache:
    """Serialized functions by identity and by content. Not safe for threads: its owner holds a lock."""

    def __init__(self) -> None:
        # By id: a function may be unhashable; the weak reference says when the id is free again.
        self._by_id: dict[int, tuple[CachedFunction, Any]] = {}
        self._by_digest: dict[bytes, CachedFunction] = {}
        self._dead: list[int] = []
        self._unused: dict[bytes, None] = {}

    def get(self, function: Callable[..., Any], name: str) -> CachedFunction:
        """Return the serialized function.

        Raises:
            SerializationError: it cannot be written.
        """
        entry = self._by_id.get(id(function))
        if entry is not None and entry[1]() is function:
            return entry[0]
        self._drop_dead()
        body = serialize.dumps_callable(function, name)
        digest = hashlib.blake2b(body, digest_size=HASH_BYTES).digest()
        cached = self._by_digest.get(digest)
        if cached is None:
            cached = self._by_digest[digest] = CachedFunction(digest, body)
        key = id(function)
        dead = self._dead
        try:
            reference: Any = weakref.ref(function, lambda _: dead.append(key))
        except TypeError:
            # Cannot be watched (a bound method of a builtin, say): serialized anew each time.
            self._unused[digest] = None
            return cached
        cached.references += 1
        self._by_id[key] = (cached, reference)
        return cached

    def use(self, cached: CachedFunction) -> None:
        """An attempt needs the function."""
        cached.users += 1

    def release(self, digest: bytes) -> None:
        """An attempt that needed the function has ended."""
        cached = self._by_digest.get(digest)
        if cached is not None:
            cached.users -= 1
            if cached.users == 0 and cached.references == 0:
                self._unused[digest] = None

    def take_forgotten(self) -> list[bytes]:
        """Return the functions that were sent and are needed no more; they are unknown from now on."""
        self._drop_dead()
        forgotten = []
        for digest in self._unused:
            cached = self._by_digest.get(digest)
            if cached is not None and cached.users == 0 and cached.references == 0:
                del self._by_digest[digest]
                if cached.sent:
                    forgotten.append(digest)
        self._unused.clear()
        return forgotten

    def _drop_dead(self) -> None:
        while self._dead:
            key = self._dead.pop()
            entry = self._by_id.get(key)
            if entry is not None and entry[1]() is None:
                del self._by_id[key]
                entry[0].references -= 1
                if entry[0].references == 0:
                    self._unused[entry[0].digest] = None
