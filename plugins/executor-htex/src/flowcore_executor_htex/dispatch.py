"""The interchange's decisions, without sockets: messages in, messages out.

Rule of this module: no message makes it look at all managers or all tasks; what must do so is done once a second at
most. Time is an argument.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from flowcore.plugins.api import BadMessage
from flowcore_executor_htex import protocol
from flowcore_executor_htex.members import Manager
from flowcore_executor_htex.pending import Entry, Pending, priority_of
from flowcore_executor_htex.protocol import Needs, ResultItem, TaskItem
from flowcore_executor_htex.selection import RoundRobin, SelectionPolicy

#: Attempts in one message to a manager at most.
BATCH = 256
#: Attempts in one message at least, if there are as many and they are short: a manager asks for so many times its slots
#: then (:attr:`flowcore_executor_htex.pool.Pool.capacity`).
PACKET = 16
SHORT = 8
#: Seconds that the last messages of a block which has ended may take.
LAST_WORDS_S = 2.0
#: Managers that are looked at for an attempt that needs more than a free worker.
LOOK_AT = 64
#: Such attempts that are set aside at a time, while there is no place for them; more wait in the queue.
SET_ASIDE = 8
#: Attempts that a manager may ask for at a time.
MAX_CAPACITY = 1 << 24

#: Where a message goes: a manager's identity, or None for the executor.
Output = tuple[bytes | None, list[Any]]


class Dispatcher:
    """Holds the attempts that wait, knows who has which, and hands them out.

    Args:
        heartbeat_threshold: seconds of silence after which a manager is lost.
        policy: which manager is next.
        tell_nodes: say to the executor when a manager comes or goes.
    """

    def __init__(
        self, heartbeat_threshold: float, policy: SelectionPolicy | None = None, *, tell_nodes: bool = False
    ) -> None:
        self.managers: dict[bytes, Manager] = {}
        self._threshold = heartbeat_threshold
        self._ready: SelectionPolicy = RoundRobin() if policy is None else policy
        self._pending = Pending()
        #: Attempts for which there is no place now, by turn; a manager is kept free for the first one.
        self._aside: list[Entry] = []
        self._kept_free: Manager | None = None
        #: Attempts that none of the managers could take, had it nothing else to do: until another manager comes. Time
        #: only runs out, and nobody who is held is let go.
        self._later: list[Entry] = []
        #: Needs for which that is known.
        self._hopeless: set[tuple[float, ...]] = set()
        #: Where the last such attempt found its place: the next one may, too.
        self._last_fit: Manager | None = None
        #: Managers that are looked at; once a second all, for there may be more that do not fit.
        self._look_at: int | None = LOOK_AT
        self._now = 0.0
        self._waiting: set[int] = set()
        self._owner: dict[int, bytes] = {}
        self._functions: dict[bytes, bytes] = {}
        self._knowers: dict[bytes, set[bytes]] = {}
        #: All blocks that ever had a manager, with those that they have.
        self._blocks: dict[str, set[bytes]] = {}
        #: Something that the executor is to be told has changed.
        self.changed = False
        self._tell_nodes = tell_nodes
        #: What the executor was told of managers that have come and are not gone, by their ids, with their identities.
        self._nodes: dict[str, tuple[bytes, protocol.Node]] = {}
        #: Samples of managers, in the order in which they came: one message of each, for they wait for an answer.
        self._samples: dict[bytes, protocol.Samples] = {}

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
                self._pending.add((item, frames))
                self._waiting.add(item.key)
            return self._dispatch()
        if isinstance(message, protocol.Cancel):
            return self._cancel(message.keys)
        if isinstance(message, protocol.Forget):
            return self._forget(message.functions)
        if isinstance(message, protocol.Hold):
            for manager in self._of_block(message.block_id):
                self._hold(manager)
            if message.manager_id:
                for manager in self.managers.values():  # a human asks for this
                    if manager.manager_id == message.manager_id:
                        self._hold(manager)
            return []
        if isinstance(message, protocol.Ended):
            for manager in self._of_block(message.block_id):
                # What it said last may still be on its way.
                manager.lost_at = self._now + LAST_WORDS_S
            return []
        raise BadMessage(f"{type(message).__name__} is no message of an executor")

    def _of_block(self, block_id: str) -> list[Manager]:
        return [self.managers[identity] for identity in self._blocks.get(block_id, ())]

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
            for key in theirs:
                manager.drop(key)
            if not manager.outstanding:
                manager.idle_since = self._now
            outputs.append(self._to(manager, protocol.Cancel(theirs)))
            self._update_ready(manager)
        return outputs + self._dispatch()

    @staticmethod
    def _to(manager: Manager, message: protocol.Message, payload: Sequence[Any] = ()) -> Output:
        manager.sent += 1
        return manager.identity, protocol.encode(message, payload)

    def _forget(self, functions: Sequence[bytes]) -> list[Output]:
        outputs: list[Output] = []
        for function in functions:
            self._functions.pop(function, None)
            for identity in self._knowers.pop(function, ()):
                manager = self.managers[identity]
                manager.functions.discard(function)
                outputs.append(self._to(manager, protocol.Forget([function])))
        return outputs

    # --- from managers

    def greet(self, identity: bytes, greeting: protocol.Hello, now: float) -> list[Output]:
        """Take a manager in, or refuse it."""
        self._now = now
        reason = protocol.refusal(greeting)
        if reason is None and not 1 <= greeting.slots <= protocol.MAX_SLOTS:
            reason = f"the manager on {greeting.hostname} says that it has {greeting.slots} workers"
        left_s = float("inf") if greeting.left_s is None else greeting.left_s
        # Not "below 0": that is false of what is not a number, too.
        if reason is None and not (greeting.nodes >= 0 and greeting.memory_mb >= 0 and left_s >= 0):
            reason = (
                f"the manager on {greeting.hostname} says that it has {greeting.nodes} nodes, "
                f"{greeting.memory_mb:g} MB of memory and {left_s:g} s left"
            )
        if reason is None and greeting.nodes and self._blocks.get(greeting.block_id, set()) - {identity}:
            reason = (
                f"in MPI mode a block has one manager, and block {greeting.block_id} has one already: "
                "use SingleNodeLauncher in the provider"
            )
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
            greeting.memory_mb,
            greeting.nodes,
            left_s,
            now + left_s,
        )
        self.managers[identity] = manager
        self._blocks.setdefault(greeting.block_id, set()).add(identity)
        self._update_ready(manager)
        self.changed = True
        # What had no place may have one now.
        self._give_up_place()
        self._hopeless.clear()
        for entry in reversed(self._later):
            self._pending.add_first(entry)
        self._later.clear()
        if self._tell_nodes:
            # One of that id is the same process: its last connection is dead, which may not have been noticed yet.
            outputs += self._node_gone(greeting.manager_id)
            node = protocol.Node(
                greeting.manager_id,
                greeting.block_id,
                greeting.hostname,
                greeting.slots,
                greeting.cpu_count,
                greeting.total_memory,
                greeting.python_version,
                True,
            )
            self._nodes[node.manager_id] = identity, node
            outputs.append((None, protocol.encode(node)))
        return [*outputs, self._to(manager, protocol.Heartbeat()), *self._dispatch()]

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
            return [(identity, protocol.encode(protocol.Stop("the interchange has given this manager up", again=True)))]
        manager.last_seen = self._now = now
        if manager.lost_at < float("inf"):
            # A result may have been on its way when its block ended; a sign of life says that it has not.
            manager.lost_at = float("inf") if isinstance(message, protocol.Heartbeat) else now + LAST_WORDS_S
        manager.received += 1
        if isinstance(message, protocol.Heartbeat):
            if message.sent != manager.received - 1:
                lost = self.lose(identity, f"{message.sent - manager.received + 1} of its messages were lost")
                stop = protocol.Stop("some of its messages were lost on their way", again=True)
                return [*lost, (identity, protocol.encode(stop)), *self._dispatch()]
            return [self._to(manager, protocol.Heartbeat(manager.sent))]
        if isinstance(message, protocol.Stop):
            return self.lose(identity, message.reason) + self._dispatch()
        if isinstance(message, protocol.Hold):
            # It drains. The answer comes behind all that it was sent: then it knows that no more will come.
            self._hold(manager)
            return [self._to(manager, message), *self._dispatch()]
        if isinstance(message, protocol.Tasks):
            return self._take_back(manager, message, payload)
        if isinstance(message, protocol.Samples):
            message.block_id, message.hostname = manager.block_id, manager.hostname
            self._samples[identity] = message
            return []
        if not isinstance(message, protocol.Results):
            raise BadMessage(f"{type(message).__name__} is no message of a manager")
        if message.capacity < 0:
            raise BadMessage(f"a capacity of {message.capacity}")
        outstanding = manager.outstanding
        owner = self._owner
        wanted = message.results
        keys = {item.key for item in wanted}
        if len(keys) < len(wanted) or not keys <= outstanding:
            # Some were cancelled meanwhile: their results, and their frames, are left out.
            wanted, payload = self._without_cancelled(manager, message, payload)
            keys = {item.key for item in wanted}
        if manager.needs:
            for key in keys:
                manager.drop(key)
        else:
            outstanding -= keys
        for key in keys:
            owner.pop(key, None)
        manager.capacity = min(message.capacity, MAX_CAPACITY)
        if not outstanding:
            manager.idle_since = now
        outputs: list[Output] = []
        if wanted:
            results = protocol.Results(wanted, 0, manager.block_id, manager.hostname)
            outputs.append((None, protocol.encode(results, payload)))
        self._update_ready(manager)
        outputs += self._dispatch()
        return outputs

    def _take_back(self, manager: Manager, message: protocol.Tasks, payload: Sequence[Any]) -> list[Output]:
        for item in message.tasks:
            # The function of one that was cancelled meanwhile may be forgotten.
            if item.key in manager.outstanding and item.function not in self._functions:
                raise BadMessage("it gives back an attempt with another function")
        entries: list[Entry] = []
        position = 0
        for item in message.tasks:
            if item.key in manager.outstanding:
                entries.append((item, payload[position : position + item.frames]))
                manager.drop(item.key)
                del self._owner[item.key]
                self._waiting.add(item.key)
            position += item.frames
        for entry in reversed(entries):
            self._pending.add_first(entry)
        if entries and not manager.outstanding:
            manager.idle_since = self._now
        self._update_ready(manager)
        return self._dispatch()

    @staticmethod
    def _without_cancelled(
        manager: Manager, message: protocol.Results, payload: Sequence[Any]
    ) -> tuple[list[ResultItem], list[Any]]:
        items: list[ResultItem] = []
        frames: list[Any] = []
        position = 0
        seen: set[int] = set()
        for item in message.results:
            if item.key in manager.outstanding and item.key not in seen:
                seen.add(item.key)
                items.append(item)
                frames += payload[position : position + item.frames]
            position += item.frames
        return items, frames

    def unreachable(self, identity: bytes) -> list[Output]:
        """A message to a manager could not be sent: it is lost, and so is whatever it was about."""
        return self.lose(identity, "its connection is gone") if identity in self.managers else []

    def lose(self, identity: bytes, reason: str) -> list[Output]:
        """Give a manager up: report its attempts as lost."""
        manager = self.managers.pop(identity)
        self._blocks[manager.block_id].discard(identity)
        self._ready.discard(manager)
        for function in manager.functions:
            self._knowers[function].discard(identity)
        self.changed = True
        if manager is self._last_fit:
            self._last_fit = None
        if manager is self._kept_free:
            self._give_up_place()
        outputs: list[Output] = []
        if self._nodes.get(manager.manager_id, (b"",))[0] == identity:
            outputs += self._node_gone(manager.manager_id)
        if not manager.outstanding:
            return outputs
        body = msgspec.msgpack.encode((manager.manager_id, manager.hostname, reason or "it ended"))
        results = []
        for key in manager.outstanding:
            self._owner.pop(key, None)
            results.append(ResultItem(key, protocol.MANAGER_LOST, body))
        message = protocol.Results(results, 0, manager.block_id, manager.hostname)
        return [(None, protocol.encode(message)), *outputs]

    def _node_gone(self, manager_id: str) -> list[Output]:
        if manager_id not in self._nodes:
            return []
        _, node = self._nodes.pop(manager_id)
        node.connected = False
        return [(None, protocol.encode(node))]

    def tick(self, now: float) -> list[Output]:
        """Look for managers that have been silent for too long. Call about once a second."""
        self._now = now
        outputs: list[Output] = []
        for identity, manager in list(self.managers.items()):
            silent = now - manager.last_seen
            if silent > self._threshold:
                outputs += self.lose(identity, f"nothing was heard of it for {silent:.1f} s")
            elif now > manager.lost_at:
                outputs += self.lose(identity, "its block ended")
        self._look_at = None
        outputs += self._dispatch()
        self._look_at = LOOK_AT
        return outputs

    @property
    def has_samples(self) -> bool:
        """Whether there are samples for the executor, when it has nothing else to read."""
        return bool(self._samples)

    def pass_samples(self) -> list[Output]:
        """Pass on the samples that a manager sent, those that came first, and ask it for more."""
        identity = next(iter(self._samples))
        outputs: list[Output] = [(None, protocol.encode(self._samples.pop(identity)))]
        manager = self.managers.get(identity)
        if manager is not None:
            outputs.append(self._to(manager, protocol.Samples([])))
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
        if manager.room > 0 and manager is not self._kept_free:
            self._ready.add(manager)
        else:
            self._ready.discard(manager)

    def _dispatch(self) -> list[Output]:
        if not self._waiting or not self.managers:
            return []
        outputs: list[Output] = []
        ready = self._ready
        if self._aside:
            if self._is_behind(self._aside[0]):
                self._give_up_place()
            else:
                outputs += self._place_those_aside()
        while (queue := self._pending.first()) is not None:
            item, payload = queue[0]
            if item.key not in self._waiting:  # cancelled
                queue.popleft()
                continue
            if item.needs is not None and item.needs.demanding:
                if self._hopeless and _amounts(item.needs) in self._hopeless:
                    self._later.append(queue.popleft())
                    continue
                if len(self._aside) >= SET_ASIDE:
                    if not self._is_behind(self._aside[-1]):
                        break
                    self._pending.add_first(self._aside.pop())
                queue.popleft()
                self._aside.append((item, payload))
                self._aside.sort(key=lambda entry: -priority_of(entry[0]))
                outputs += self._place_those_aside()
                continue
            manager = next(iter(ready), None)
            if manager is None:
                break
            # Slots are shared out evenly before anything is prefetched.
            share = max(1, (len(self._waiting) - len(self._later)) // max(1, len(ready)))
            free = manager.free_slots
            if manager.capacity >= SHORT * manager.slots:
                # Short attempts are not worth a message each.
                share = max(share, PACKET)
            count = min(BATCH, share, free if free > 0 else manager.room)
            outputs += self._give(manager, self._next(queue, count))
        if self._aside and self._kept_free is None:
            outputs += self._place_those_aside()
        return outputs

    def _is_behind(self, entry: Entry) -> bool:
        """Return whether an attempt of a higher priority than this one waits."""
        queue = self._pending.first()
        return queue is not None and priority_of(queue[0][0]) > priority_of(entry[0])

    def _next(self, queue: deque[Entry], count: int) -> list[Entry]:
        """Take up to so many attempts from the head of a queue; those that any free worker will do for."""
        entries: list[Entry] = []
        waiting = self._waiting
        while queue and len(entries) < count:
            item = queue[0][0]
            if item.key not in waiting:  # cancelled
                queue.popleft()
                continue
            if item.needs is not None and item.needs.demanding:
                break
            waiting.discard(item.key)
            entries.append(queue.popleft())
        return entries

    def _give(self, manager: Manager, entries: Sequence[Entry]) -> list[Output]:
        if not entries:
            return []
        items: list[TaskItem] = []
        functions: dict[bytes, bytes] = {}
        frames: list[Any] = []
        known = manager.functions
        identity = manager.identity
        for item, payload in entries:
            function = item.function
            if function not in known:
                known.add(function)
                self._knowers.setdefault(function, set()).add(identity)
                functions[function] = self._functions[function]
            if item.needs is None:
                manager.outstanding.add(item.key)
            else:
                manager.take(item.key, item.needs)
            self._owner[item.key] = identity
            items.append(item)
            if payload:
                frames += payload
        self._update_ready(manager)
        return [self._to(manager, protocol.Tasks(items, functions), frames)]

    # --- attempts that need more than a free worker

    def _place_those_aside(self) -> list[Output]:
        outputs: list[Output] = []
        left: list[Entry] = []
        for entry in self._aside:
            key, needs = entry[0].key, entry[0].needs
            assert needs is not None
            if key not in self._waiting:  # cancelled
                continue
            manager = self._find(needs, first=not left)
            if manager is None:
                unfit = self._why_never(needs)
                if unfit is None:
                    if self._fits_none(needs):
                        self._hopeless.add(_amounts(needs))
                        self._later.append(entry)
                    else:
                        left.append(entry)
                    continue
                self._waiting.discard(key)
                result = ResultItem(key, protocol.UNFIT, unfit.encode())
                outputs.append((None, protocol.encode(protocol.Results([result]))))
                continue
            self._waiting.discard(key)
            if manager is self._kept_free:
                self._kept_free = None
            outputs += self._give(manager, [entry])
        self._aside = left
        if left:
            self._keep_one_free(left[0][0].needs)
        elif self._kept_free is not None:
            self._give_up_place()
        return outputs

    def _find(self, needs: Needs, *, first: bool) -> Manager | None:
        if self._kept_free is not None and first and self._kept_free.fits_now(needs, self._now):
            return self._kept_free
        last = self._last_fit
        if last is None or last is self._kept_free or last.room < 1 or not last.fits_now(needs, self._now):
            self._last_fit = next((m for m in self._some_ready() if m.fits_now(needs, self._now)), None)
        return self._last_fit

    def _some_ready(self) -> Iterator[Manager]:
        return itertools.islice(self._ready, self._look_at)

    @property
    def _sees_all(self) -> bool:
        return self._look_at is None or len(self.managers) <= self._look_at

    def _fits_none(self, needs: Needs) -> bool:
        return self._sees_all and not any(m.fits_when_empty(needs, self._now) for m in self.managers.values())

    def _keep_one_free(self, needs: Needs | None) -> None:
        """Let a manager run empty for the first attempt that is set aside: others would for ever take its place."""
        assert needs is not None
        kept = self._kept_free
        if kept is not None and kept.fits_when_empty(needs, self._now):
            return
        self._give_up_place()
        some = itertools.islice(self.managers.values(), self._look_at)
        fitting = [m for m in (*self._some_ready(), *some) if m.fits_when_empty(needs, self._now)]
        if fitting:
            self._kept_free = max(fitting, key=lambda m: m.free_slots)
            self._ready.discard(self._kept_free)

    def _give_up_place(self) -> None:
        kept, self._kept_free = self._kept_free, None
        if kept is not None and kept.identity in self.managers:
            self._update_ready(kept)

    def _why_never(self, needs: Needs) -> str | None:
        """Return why nothing that is connected could ever take an attempt with such needs; None if something could."""
        if not self._sees_all and self._last_fit is not None and self._last_fit.lacks(needs) is None:
            return None
        reason = None
        for manager in itertools.islice(self.managers.values(), self._look_at):
            reason = manager.lacks(needs)
            if reason is None:
                return None
        return reason if self._sees_all else None


def _amounts(needs: Needs) -> tuple[float, ...]:
    return needs.slots, needs.memory_mb, needs.nodes, needs.running_time_s
