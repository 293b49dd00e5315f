"""How often a provider may be asked for blocks that keep failing, or while its scheduler does not answer.

Rule of this module: no clock, no I/O; whoever asks says what time it is. What failed and what got no answer are kept
apart: failures in a row end the executor, silence never does.
"""

from __future__ import annotations

import attrs

#: So many failures in a row, with no other block left, are enough.
HANDFUL = 5
#: Seconds to wait after the first failure of a row; each further one doubles them, up to the longest.
FIRST_S = 2.0
LONGEST_S = 600.0
#: Seconds between two requests to a scheduler that does not answer, at most.
LONGEST_SILENT_S = 60.0


@attrs.define(slots=True, eq=False)
class Breaker:
    """The failures of an executor's blocks, as far as they come in a row.

    A failure is a block that was refused, or that ended before it had done its work. A block that did its work ends
    the row, however many there were.

    Attributes:
        row: ids of the blocks that failed in a row, in their order.
    """

    row: list[str] = attrs.field(factory=list)
    _not_before: float = attrs.field(default=-float("inf"), init=False)

    def failed(self, block_id: str, now: float) -> None:
        """Note a failure."""
        self.row.append(block_id)
        pause_s = min(FIRST_S * 2.0 ** min(len(self.row) - 1, 32), LONGEST_S)
        self._not_before = now + pause_s

    def worked(self) -> None:
        """Note that a block has done its work."""
        self.row.clear()
        self._not_before = -float("inf")

    @property
    def tripped(self) -> bool:
        """Whether there were enough failures in a row to give the executor up."""
        return len(self.row) >= HANDFUL

    def allowed(self, count: int, hopes: int, now: float) -> int:
        """Return how many of ``count`` blocks may be asked for.

        After a failure there are none for a while, and then no more than there may be failures before it is enough.

        Args:
            count: how many are wanted.
            hopes: how many there are that have not ended and have yet to do work.
            now: the time.
        """
        if not self.row:
            return count
        if now < self._not_before:
            return 0
        return max(0, min(count, max(1, HANDFUL - len(self.row)) - hopes))


@attrs.define(slots=True, eq=False)
class Silence:
    """Whether a scheduler answers. It is silent from the first question without an answer until that is answered.

    Questions have names (``submit``, ``status``): where one of them is answered and another is not, the scheduler
    stays silent.
    """

    _unanswered: set[str] = attrs.field(factory=set, init=False)
    _since: float = attrs.field(default=0.0, init=False)
    _pause_s: float = attrs.field(default=0.0, init=False)
    _not_before: float = attrs.field(default=-float("inf"), init=False)

    def unanswered(self, question: str, now: float, request: bool) -> bool:
        """Note that a question got no answer; return whether this is the first one.

        Args:
            question: its name.
            now: the time.
            request: it was a request for a block: the next one has to wait for longer.
        """
        first = not self._unanswered
        self._unanswered.add(question)
        if first:
            self._since = now
        if first or request:
            self._pause_s = min(max(FIRST_S, 2 * self._pause_s), LONGEST_SILENT_S)
            self._not_before = now + self._pause_s
        return first

    def answered(self, question: str, now: float) -> float | None:
        """Note an answer; return for how many seconds the scheduler was silent, if it is not any more."""
        if question not in self._unanswered:
            return None
        self._unanswered.discard(question)
        if self._unanswered:
            return None
        self._pause_s = 0.0
        self._not_before = -float("inf")
        return now - self._since

    def allowed(self, count: int, now: float) -> int:
        """Return how many of ``count`` blocks may be asked for: while it is silent one at a time, and seldom."""
        if now < self._not_before:
            return 0
        return min(count, 1) if self._unanswered else count
