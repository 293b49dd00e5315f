"""The interchange's decisions, without sockets: messages in, messages out.

Rule of this module: no message makes it look at all managers or all tasks. Time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from flowcore.plugins.api import BadMessage
from flowcore_executor_htex import protocol
from flowcore_executor_htex.protocol import ResultItem, TaskItem
from flowcore_executor_htex.selection import RoundRobin, SelectionPolicy

#: Attempts in one message to a manager at most.
BATCH = 256


@attrs.define(slots=True, eq=False)
class Manager:
    """A connected manager. ``capacity`` is how many attempts it wants to have at a time."""

    identity: bytes
    manager_id: str
    block_id: str
    hostname: str
    slots: int
    capacity: int
    last_seen: float
    idle_since: float
    outstanding: set[int] = attrs.field(factory=set)
    functions: set[bytes] = attrs.field(factory=set)
    held: bool = False

    @property
    def outstanding_count(self) -> int:
        """Number of attempts that it has."""
        return len(self.outstanding)

    @property
    def room(self) -> int:
        """Number of attempts that it can be given now."""
        return 0 if self.held else self.capacity - len(self.outstanding)


#: Where a message goes: a manager's identity, or None for the executor.
Output = tuple[bytes | None, list[Any]]


class Dispatcher:
    """Holds the attempts that wait, knows who has which, and hands them out.

    Args:
        heartbeat_threshold: seconds of silence after which a manager is lost.
        policy: which manager is next.
    """

    def __init__(self, heartbeat_threshold: float, policy: SelectionPolicy | None = None) -> None:
        self.managers: dict[bytes, Manager] = {}
        self._threshold = heartbeat_threshold
        self._ready: SelectionPolicy = policy or RoundRobin()
        self._pending: deque[tuple[TaskItem, Sequence[Any]]] = deque()
        self._waiting: set[int] = set()
        self._owner: dict[int, bytes] = {}
        self._functions: dict[bytes, bytes] = {}
        self._knowers: dict[bytes, set[bytes]] = {}
        self._blocks: dict[str, None] = {}
        #: Something that the executor is to be told has changed.
        self.changed = False

    @property
    def pending(self) -> int:
        """Number of attempts that no manager has."""
        return len(self._waiting)

    # --- from the executor

    def from_executor(self, message: protocol.Message, payload: Sequence[Any]) -> list[Output]:
        """Take a message of the executor in.

        Raises:
            BadMessage: it is none that an executor sends.
        """
        if isinstance(message, protocol.Tasks):
            if message.functions:
                self._functions.update(message.functions)
            position = 0
            for item in message.tasks:
                frames: Sequence[Any] = ()
                if item.frames:
                    frames = payload[position : position + item.frames]
                    position += item.frames
                self._pending.append((item, frames))
                self._waiting.add(item.key)
            return self._dispatch()
        if isinstance(message, protocol.Cancel):
            return self._cancel(message.keys)
        if isinstance(message, protocol.Forget):
            return self._forget(message.functions)
        if isinstance(message, protocol.Hold):
            for manager in self.managers.values():
                if manager.manager_id == message.manager_id or manager.block_id == message.block_id:
                    self._hold(manager)
            return []
        raise BadMessage(f"{type(message).__name__} is no message of an executor")

    def _hold(self, manager: Manager) -> None:
        manager.held = True
        self._ready.discard(manager)
        self.changed = True

    def _cancel(self, keys: Sequence[int]) -> list[Output]:
        by_manager: dict[bytes, list[int]] = {}
        for key in keys:
            # A waiting attempt stays in the queue and is skipped when its turn comes.
            self._waiting.discard(key)
            owner = self._owner.pop(key, None)
            if owner is not None:
                by_manager.setdefault(owner, []).append(key)
        outputs: list[Output] = []
        for identity, theirs in by_manager.items():
            manager = self.managers[identity]
            manager.outstanding.difference_update(theirs)
            outputs.append((identity, protocol.encode(protocol.Cancel(theirs))))
            self._update_ready(manager)
        return outputs + self._dispatch()

    def _forget(self, functions: Sequence[bytes]) -> list[Output]:
        outputs: list[Output] = []
        for function in functions:
            self._functions.pop(function, None)
            for identity in self._knowers.pop(function, ()):
                self.managers[identity].functions.discard(function)
                outputs.append((identity, protocol.encode(protocol.Forget([function]))))
        return outputs

    # --- from managers

    def greet(self, identity: bytes, greeting: protocol.Hello, now: float) -> list[Output]:
        """Take a manager in, or refuse it."""
        reason = protocol.refusal(greeting)
        if reason is not None:
            return [(identity, protocol.encode(protocol.Refused(reason)))]
        outputs = self.lose(identity, "it started again") if identity in self.managers else []
        manager = Manager(
            identity,
            greeting.manager_id,
            greeting.block_id,
            greeting.hostname,
            greeting.slots,
            greeting.slots,
            now,
            now,
        )
        self.managers[identity] = manager
        self._blocks[greeting.block_id] = None
        self._update_ready(manager)
        self.changed = True
        return [*outputs, (identity, protocol.encode(protocol.Heartbeat())), *self._dispatch()]

    def from_manager(
        self, identity: bytes, message: protocol.Message, payload: Sequence[Any], now: float
    ) -> list[Output]:
        """Take a message of a manager in. What comes from one that was lost is dropped.

        Raises:
            BadMessage: it is none that a manager sends.
        """
        manager = self.managers.get(identity)
        if manager is None:
            # It was given up; its attempts were reported as lost, and its results would be doubles.
            return [(identity, protocol.encode(protocol.Stop("the interchange has given this manager up")))]
        manager.last_seen = now
        if isinstance(message, protocol.Heartbeat):
            return [(identity, protocol.encode(message))]
        if isinstance(message, protocol.Stop):
            return self.lose(identity, message.reason)
        if isinstance(message, protocol.Hold):
            # It drains. The answer comes behind all that it was sent: then it knows that no more will come.
            self._hold(manager)
            return [(identity, protocol.encode(message))]
        if not isinstance(message, protocol.Results):
            raise BadMessage(f"{type(message).__name__} is no message of a manager")
        outstanding = manager.outstanding
        owner = self._owner
        wanted = message.results
        if not all(item.key in outstanding for item in wanted):
            # Some were cancelled meanwhile: their results, and their frames, are left out.
            wanted, payload = self._without_cancelled(manager, message, payload)
        for item in wanted:
            outstanding.discard(item.key)
            owner.pop(item.key, None)
        manager.capacity = message.capacity
        if not outstanding:
            manager.idle_since = now
        outputs: list[Output] = []
        if wanted:
            outputs.append((None, protocol.encode(protocol.Results(wanted), payload)))
        self._update_ready(manager)
        outputs += self._dispatch()
        return outputs

    @staticmethod
    def _without_cancelled(
        manager: Manager, message: protocol.Results, payload: Sequence[Any]
    ) -> tuple[list[ResultItem], list[Any]]:
        items: list[ResultItem] = []
        frames: list[Any] = []
        position = 0
        for item in message.results:
            if item.key in manager.outstanding:
                items.append(item)
                frames += payload[position : position + item.frames]
            position += item.frames
        return items, frames

    def lose(self, identity: bytes, reason: str) -> list[Output]:
        """Give a manager up: report its attempts as lost."""
        manager = self.managers.pop(identity)
        self._ready.discard(manager)
        for function in manager.functions:
            self._knowers[function].discard(identity)
        self.changed = True
        if not manager.outstanding:
            return []
        body = msgspec.msgpack.encode((manager.manager_id, manager.hostname, reason or "it ended"))
        where = f"block {manager.block_id}, host {manager.hostname}"
        results = []
        for key in manager.outstanding:
            self._owner.pop(key, None)
            results.append(ResultItem(key, protocol.MANAGER_LOST, body, where=where))
        return [(None, protocol.encode(protocol.Results(results)))]

    def tick(self, now: float) -> list[Output]:
        """Look for managers that have been silent for too long. Call about once a second."""
        outputs: list[Output] = []
        for identity, manager in list(self.managers.items()):
            silent = now - manager.last_seen
            if silent > self._threshold:
                outputs += self.lose(identity, f"nothing was heard of it for {silent:.1f} s")
        return outputs

    def report(self, now: float) -> protocol.Managers:
        """Return what the executor is to know of the managers."""
        self.changed = False
        infos = [
            protocol.ManagerInfo(
                m.manager_id,
                m.block_id,
                m.hostname,
                m.slots,
                len(m.outstanding),
                0.0 if m.outstanding else now - m.idle_since,
                not m.held,
            )
            for m in self.managers.values()
        ]
        return protocol.Managers(infos, list(self._blocks), self.pending)

    # --- handing out

    def _update_ready(self, manager: Manager) -> None:
        if manager.room > 0:
            self._ready.add(manager)
        else:
            self._ready.discard(manager)

    def _dispatch(self) -> list[Output]:
        outputs: list[Output] = []
        ready = self._ready
        while self._waiting:
            manager = ready.next()
            if manager is None:
                break
            free = manager.slots - len(manager.outstanding)
            # Slots are shared out evenly before anything is prefetched.
            share = max(1, len(self._waiting) // len(ready))
            count = min(BATCH, share, free if free > 0 else manager.room)
            items, functions, frames = self._take(manager, count)
            if items:
                outputs.append((manager.identity, protocol.encode(protocol.Tasks(items, functions), frames)))
            self._update_ready(manager)
        return outputs

    def _take(self, manager: Manager, count: int) -> tuple[list[TaskItem], dict[bytes, bytes], list[Any]]:
        items: list[TaskItem] = []
        functions: dict[bytes, bytes] = {}
        frames: list[Any] = []
        pending, waiting, known = self._pending, self._waiting, manager.functions
        identity = manager.identity
        while pending and len(items) < count:
            item, payload = pending.popleft()
            key = item.key
            if key not in waiting:  # cancelled
                continue
            waiting.discard(key)
            function = item.function
            if function not in known:
                known.add(function)
                self._knowers.setdefault(function, set()).add(identity)
                functions[function] = self._functions[function]
            manager.outstanding.add(key)
            self._owner[key] = identity
            items.append(item)
            if payload:
                frames += payload
        return items, functions, frames
