"""Counts tasks by app and state, ahead of the rows.

Rules of this module. To count what the journal tells takes a twentieth of the time that it takes to write its rows. So
the counts are of this moment, whatever there is to write, and the rows follow. Counts, and up to where in the journal
they reach, go into the database in one transaction.
"""

from __future__ import annotations

import contextlib
import types
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, update

from flowcore.plugins.api import TaskEvent
from flowcore_monitoring_sqlite import records, schema
from flowcore_monitoring_sqlite.journal import START, JournalError, JournalReader, Position
from flowcore_monitoring_sqlite.queries import FINAL
from flowcore_monitoring_sqlite.recorder import COUNTED, clean, move, position_of
from flowcore_monitoring_sqlite.schema import LONGEST_NAME

#: Bytes of the journal that are counted at a time.
MOST_BYTES = 32 * 1024 * 1024
#: Seconds between two notes of how many tasks have ended, and how long these are kept.
NOTE_S = 1.0
KEEP_S = 120.0


def _start_of(kind: str, *facts: Any) -> bytes:
    """Return how records of a kind begin, up to and with its name."""
    record = msgspec.msgpack.encode((kind, *facts))
    return record[: record.index(kind.encode()) + len(kind)]


#: How a record with tasks begins, and the last one.
_TASKS = _start_of(records.TASKS, *TaskEvent._fields)
_END = _start_of(records.END, {})


# Made once: to make a statement takes longer than the database takes for it.
_INSERT = schema.tally.insert().values(
    run_id=bindparam("run"), task_func_name=bindparam("name"), task_state=bindparam("state"),
    task_count=bindparam("count"),
)  # fmt: skip
_UPDATE = (
    update(schema.tally)
    .where(
        schema.tally.c.run_id == bindparam("run"),
        schema.tally.c.task_func_name == bindparam("name"),
        schema.tally.c.task_state == bindparam("state"),
    )
    .values(task_count=bindparam("count"))
)
_NOTE = schema.progress.insert()
#: All but the newest of those that are old: what has ended since is seen from it.
_FORGET = delete(schema.progress).where(
    schema.progress.c.run_id == bindparam("run"),
    schema.progress.c.timestamp
    < select(func.max(schema.progress.c.timestamp))
    .where(schema.progress.c.run_id == bindparam("run"), schema.progress.c.timestamp < bindparam("old"))
    .scalar_subquery(),
)


class Tally:
    """The numbers of tasks of a run by app and state.

    Args:
        folder: of the run's journal.
        run_id: the run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._run_id = run_id
        self._reader = JournalReader(folder)
        columns: list[Any] = [msgspec.Raw] * len(TaskEvent._fields)
        columns[records.APP] = columns[records.STATE] = columns[records.BEFORE] = columns[records.AT] = Any
        # The others need not be made.
        self._decode = msgspec.msgpack.Decoder(types.GenericAlias(tuple, (str, *columns))).decode
        self._reset()

    def _reset(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        #: What is in the database already.
        self._known: set[tuple[str, str]] = set()
        self._changed: set[tuple[str, str]] = set()
        self._tasks_ended = 0
        self._at = 0.0
        self._noted_at: float | None = None
        self._written = START
        #: Whether the journal's last record was seen.
        self.ended = False

    @property
    def position(self) -> Position:
        """Up to where in the journal tasks are counted."""
        return self._reader.position

    def open(self, connection: Connection) -> None:
        """Go on from what the database has."""
        self._reset()
        table, notes = schema.tally, schema.progress
        for name, state, count in connection.execute(
            select(table.c.task_func_name, table.c.task_state, table.c.task_count).where(
                table.c.run_id == self._run_id
            )
        ):  # fmt: skip
            self._counts[name, state] = int(count)
        self._known.update(self._counts)
        self._tasks_ended = sum(count for (_, state), count in self._counts.items() if state in FINAL)
        self._noted_at = connection.execute(
            select(func.max(notes.c.timestamp)).where(notes.c.run_id == self._run_id)
        ).scalar()
        self._written = position_of(connection, self._run_id, COUNTED)
        self._reader.seek(self._written)

    def look(self) -> bool:
        """Count what the journal has had since the last look; return whether that was anything.

        What comes behind a damage is not counted, as its rows are not written.
        """
        before = self.position
        steps: Counter[tuple[str, str | None, str]] = Counter()
        with contextlib.suppress(JournalError):
            for record in self._reader.read(MOST_BYTES):
                if record.startswith(_TASKS):
                    columns = self._decode(record)[1:]
                    apps = records.unpacked(columns)[records.APP]
                    steps.update(zip(apps, columns[records.BEFORE], columns[records.STATE], strict=False))
                    self._at = max(self._at, columns[records.AT][-1])
                elif record.startswith(_END):
                    self.ended = True
        counts, changed = self._counts, self._changed
        for (app, left, state), number in steps.items():
            name = (clean(app) or "")[:LONGEST_NAME]
            counts[name, state] += number
            changed.add((name, state))
            if left is not None:
                counts[name, left] -= number
                changed.add((name, left))
            if state in FINAL:
                self._tasks_ended += number
        return self.position != before

    def write(self, connection: Connection) -> None:
        """Write what has changed since this was called last; in the connection's transaction.

        Raises:
            Moved: another process has counted meanwhile.
        """
        move(connection, self._run_id, self._written, self.position, COUNTED)
        for statement, names in (
            (_INSERT, self._changed - self._known),
            (_UPDATE, self._changed & self._known),
        ):
            if names:
                connection.execute(statement, [self._row(*key) for key in sorted(names)])
        if self._changed:
            self._note(connection)
        self._known |= self._changed
        self._changed.clear()
        self._written = self.position

    def _row(self, name: str, state: str) -> dict[str, Any]:
        return {"run": self._run_id, "name": name, "state": state, "count": self._counts[name, state]}

    def close(self) -> None:
        """Close the journal. Idempotent."""
        self._reader.close()

    def _note(self, connection: Connection) -> None:
        if self._noted_at is not None and self._at - self._noted_at < NOTE_S:
            return
        self._noted_at = self._at
        connection.execute(_NOTE, {"run_id": self._run_id, "timestamp": self._at, "tasks_ended": self._tasks_ended})
        connection.execute(_FORGET, {"run": self._run_id, "old": self._at - KEEP_S})
