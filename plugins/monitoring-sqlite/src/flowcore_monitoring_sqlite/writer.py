"""The process that writes the database: ``python -m flowcore_monitoring_sqlite.writer``.

Rules of this module. It reads the journal behind the user's program, and has nothing that is not in the journal: it may
be killed at any moment, and another one goes on where the database says. A database that does not answer, is locked or
full is asked again, with pauses that grow, until it takes what there is. The process ends with the journal's last
record; when the user's program is gone without one, all that is there is written, and the run is interrupted.

Its settings come as a line of JSON on the standard input, since the URL may hold a password. It answers with a line
of JSON: null once the database has its tables, or the reason why it cannot be used.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import attrs
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_sqlite import database, recorder, schema
from flowcore_monitoring_sqlite.journal import (
    JournalError,
    JournalReader,
    remove_before,
    sole_reader,
)
from flowcore_monitoring_sqlite.owner import STATUS_FILE, remove, write_file
from flowcore_monitoring_sqlite.tally import Tally

logger = logging.getLogger("flowcore.monitoring.writer")

#: Seconds between two looks at the journal.
PERIOD_S = 0.5
#: Bytes of the journal that go into one transaction, about, and once the end of the run waits for them.
BATCH_BYTES = 128 * 1024
LAST_BATCH_BYTES = 1024 * 1024
#: Seconds between two signs of life of a run in which nothing happens.
BEAT_S = 10.0
#: Seconds before a database that refused is asked again, at first and at most.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
#: Seconds for which a writer whose program is gone asks a database that refuses.
ORPHAN_S = 600.0
#: How much the writer steps back behind the tasks of this machine.
NICE = 10
#: The share of one processor that the writer takes for rows while processors are short, as long as the end of the run
#: need not wait for more than so many bytes of the journal.
SHARE = 0.02
BACKLOG_BYTES = 96 * 1024 * 1024
#: With fewer idle processors than so many, they are short.
FREE = 1.0
#: Seconds that it steps back at a time, at most.
LONGEST_STEP_S = 10.0


@attrs.frozen
class Settings:
    """What a writer is told.

    Attributes:
        folder: of the journal.
        url: of the database.
        run_id: the run.
        pid: of the user's program, whose child the writer is.
        debug: whether to log much.
    """

    folder: str
    url: str = attrs.field(repr=False)
    run_id: str
    pid: int
    debug: bool = False


class Stopped(BaseException):
    """The writer was told to end."""


class Writer:
    """Brings a journal into a database.

    Args:
        folder: of the journal.
        run_id: the run.
        url: of the database.
        gone: whether the user's program is gone, so that nothing will be added any more.
        tell: called with why the database does not take what there is, and with None when it does again.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        url: str,
        gone: Callable[[], bool],
        tell: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._run_id = run_id
        self._url = url
        self._gone = gone
        self._tell = tell
        self._engine: Engine | None = None
        self._reader = JournalReader(folder)
        self._tally = Tally(folder, run_id)
        self._pace = Pace()
        #: When the last attempt on each worker ended, as far as that is written.
        self._free: dict[tuple[str | None, str], float] = {}
        self._beat_at = 0.0
        #: Whether the user's program was seen alive: its end is seen, too.
        self._watched = False
        #: Whether the database has the run's last record.
        self._ended = False
        #: Events that were written.
        self.events = 0

    def open(self) -> None:
        """Connect, make the tables or bring them up to date, and find out how far the journal is written.

        Raises:
            DatabaseError, SchemaError: the database cannot be used.
            SQLAlchemyError: it does not answer.
        """
        self.close()
        self._engine = database.writer(self._url)
        with self._engine.begin() as connection:
            schema.create_or_migrate(connection)
            self._reader.seek(recorder.position_of(connection, self._run_id))
            self._ended = recorder.has_ended(connection, self._run_id)
            self._tally.open(connection)

    def run(self, orphan_s: float = ORPHAN_S) -> bool:
        """Write until the journal's last record, or all there is once the user's program is gone.

        Args:
            orphan_s: seconds for which a database that refuses is asked again when the program is gone.

        Returns:
            Whether all is written, and the run's end with it.

        Raises:
            JournalError: the journal is damaged; what is before that is written.
        """
        pause = FIRST_PAUSE_S
        gone_at: float | None = None
        told = False
        while True:
            # In this order: what a program wrote before its end is seen.
            gone = self._gone()
            self._watched = self._watched or not gone
            if gone and gone_at is None:
                gone_at = time.monotonic()
            try:
                if self._engine is None:
                    self.open()
                self._pace.begin()
                ended, wrote = self.step(gone)
                if not ended:
                    self._rest(self._pace.after(self._reader.left_bytes()) if wrote else PERIOD_S)
            except (SQLAlchemyError, recorder.Moved) as error:
                reason = database.reason(error)
                logger.warning("the database does not take what there is: %s; asked again in %.1f s", reason, pause)
                self._tell(reason)
                told = True
                # What was sent may have arrived: where to go on is asked of the database.
                self.close()
                if gone_at is not None and time.monotonic() - gone_at > orphan_s:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            if told:
                self._tell(None)
                told = False
            if ended:
                return True

    def close(self) -> None:
        """Close the database and the journal. Idempotent."""
        self._reader.close()
        self._tally.close()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def step(self, gone: bool = False) -> tuple[bool, bool]:
        """Write one batch.

        Args:
            gone: whether nothing will be added any more: a run that has no end then was interrupted.

        Returns:
            Whether that was the end of the run, and whether there was something to write.

        Raises:
            JournalError: the journal is damaged.
            Moved: another process has written to the database meanwhile.
            SQLAlchemyError: the database does not take it now.
        """
        assert self._engine is not None
        self.count()
        before = self._reader.position
        batch = recorder.Batch(self._run_id, dict(self._free))
        try:
            for record in self._reader.read(LAST_BATCH_BYTES if self._tally.ended or gone else BATCH_BYTES):
                batch.add(record)
        except JournalError:
            if self._reader.position == before:
                raise
            # What was before the damage is written first.
        after = self._reader.position
        if after > self._tally.position:
            self.count()  # what has come meanwhile, and perhaps nothing will any more
        if after != before:
            with self._engine.begin() as connection:
                recorder.write(connection, batch, before, after)
            self.events += batch.events
            self._free = batch.free
            self._beat_at = time.monotonic()
            logger.debug("%d events are written, up to %s", batch.events, after)
            if after.segment != before.segment:
                remove_before(self._folder, min(after, self._tally.position).segment)
            return batch.end is not None, True
        if self._ended:
            return True, False
        if gone:
            self.interrupt()
            return True, False
        if time.monotonic() - self._beat_at > BEAT_S:
            with self._engine.begin() as connection:
                recorder.beat(connection, self._run_id)
            self._beat_at = time.monotonic()
        return False, False

    def count(self) -> None:
        """Bring the numbers of tasks up to date.

        Raises:
            Moved: another process has counted meanwhile.
            SQLAlchemyError: the database does not take them now.
        """
        assert self._engine is not None
        if self._tally.look():
            with self._engine.begin() as connection:
                self._tally.write(connection)

    def _rest(self, seconds: float) -> None:
        """Write no rows for a while, unless the run ends; what is counted stays up to date."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not (self._tally.ended or self._gone()):
            time.sleep(min(left, PERIOD_S))
            self.count()

    def interrupt(self) -> None:
        """Note that the run was interrupted."""
        assert self._engine is not None
        logger.info("the program is gone, and its run was not ended: it was interrupted")
        with self._engine.begin() as connection:
            recorder.finish(connection, self._run_id, "interrupted", None)
            if self._watched:  # else it has been gone for who knows how long
                recorder.beat(connection, self._run_id)


def main() -> int:
    """Serve the program whose child this is."""
    settings = Settings(**json.loads(sys.stdin.readline()))
    folder = Path(settings.folder)
    logging.basicConfig(
        level=logging.DEBUG if settings.debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    # What is decoded is in no cycles, and it is much.
    gc.set_threshold(200_000, 20, 20)

    def gone() -> bool:
        return os.getppid() != settings.pid

    def tell(problem: str | None) -> None:
        # A folder that is full, or gone, must not stop the writer.
        with contextlib.suppress(OSError):
            write_file(folder / STATUS_FILE, problem)

    writer = Writer(folder, settings.run_id, settings.url, gone, tell)
    try:
        with sole_reader(folder):
            # What a writer before this one has said is over.
            tell(None)
            _answer(_first_problem(writer))
            done = writer.run()
            writer.close()
            if done and gone():
                remove(folder)
            return 0 if done else 1
    except Stopped:
        return 1
    except FlowcoreError as error:
        logger.error("%s", error)
        tell(str(error))
        return 2
    finally:
        # It ends already: whoever asks for that meets the interpreter's own end, which must not fail.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        writer.close()


class Pace:
    """Leaves the processors to the tasks where there are not enough for both.

    To write what there is to say of a short task takes about as long as the task. So the writer goes slowly while it
    has to wait for a processor, or for the disk, or while nearly all processors are at work, as long as there is not
    much left to write.
    """

    def __init__(self) -> None:
        self._idle, self._at, self._used = idle_s(), time.perf_counter(), time.process_time()
        #: Whether processors were short before the batch.
        self._short = False

    def begin(self) -> None:
        """Begin to look at a batch, after a rest."""
        self._short, _, _ = self._look()

    def after(self, left_bytes: int) -> float:
        """Return the seconds to step back after a batch.

        Args:
            left_bytes: what the journal has beyond it.
        """
        short, took, used = self._look()
        if left_bytes > BACKLOG_BYTES:
            return 0.0
        if not (short or self._short or took > 1.3 * used):
            return 0.0 if left_bytes > BATCH_BYTES else PERIOD_S
        return max(PERIOD_S, min(used * (1 / SHARE - 1), LONGEST_STEP_S))

    def _look(self) -> tuple[bool, float, float]:
        """Return whether processors were short since the last look, the seconds, and those of a processor used here."""
        idle, at, used = idle_s(), time.perf_counter(), time.process_time()
        took, mine = at - self._at, used - self._used
        short = idle - self._idle + mine < FREE * took
        self._idle, self._at, self._used = idle, at, used
        return short, took, mine


def idle_s() -> float:
    """Return for how many seconds the processors of this machine have done nothing, all together, since it began.

    Infinite where that is not known.
    """
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            return int(file.readline().split()[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("inf")


def _first_problem(writer: Writer) -> str | None:
    """Return why the database can never be used; None if it can, or if it may later."""
    try:
        writer.open()
    except FlowcoreError as error:
        return str(error)
    except OperationalError as error:
        reason = database.reason(error)
        if "locked" in reason:
            writer.close()
            return None
        return reason
    except SQLAlchemyError as error:
        return database.reason(error)
    return None


def _answer(problem: str | None) -> None:
    print(json.dumps(problem), flush=True)  # noqa: T201 - the protocol
    # Nobody reads any more: what is written there by a library must not fail.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if problem is not None:
        raise SystemExit(3)


def _stop(number: int, frame: types.FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
