"""``flowcore monitoring import`` and ``migrate``: bring into a database what its writer could not.

Rule of this module: it does what the writer does, from the position of the journal that the database knows, so that
nothing is there twice, however often and whenever it is called.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from flowcore_monitoring_sqlite import database, schema
from flowcore_monitoring_sqlite.journal import JournalError, segments, sole_reader
from flowcore_monitoring_sqlite.owner import Owner, read_owner, remove
from flowcore_monitoring_sqlite.writer import Writer

#: Seconds for which a database that refuses is asked again.
PATIENCE_S = 30.0


def load(folder: Path, url: str | None) -> str:
    """Load a journal.

    Args:
        folder: a run directory, or the folder of its journal.
        url: of the database; None for the run's own.

    Returns:
        What was done, for the user.

    Raises:
        JournalError: there is no journal, it is damaged, or another process is at work on it.
        DatabaseError, SchemaError: the database cannot be used.
    """
    place = _journal_of(folder)
    owner = read_owner(place)
    url = url or owner.endpoint
    if "..." in url:
        raise JournalError(
            f"{place} knows its database as {url} only, without the password: name it with --database URL"
        )
    here = socket.gethostname()
    gone = owner.gone(here)
    problems: list[str] = []

    def tell(problem: str | None) -> None:
        if problem is not None:
            problems.append(problem)

    writer = Writer(place, owner.run_id, url, lambda: gone, tell)
    try:
        with sole_reader(place):
            try:
                writer.open()
                done = writer.run(PATIENCE_S) if gone else _drain(writer)
            except JournalError:
                if gone:
                    writer.interrupt()
                raise
            except SQLAlchemyError as error:
                raise database.DatabaseError(f"{database.shown(url)}: {database.reason(error)}") from error
            if done:
                remove(place)
    finally:
        writer.close()
    return _told(owner, url, writer.events, done, gone, problems)


def _journal_of(folder: Path) -> Path:
    for place in (folder, folder / "monitoring"):
        if segments(place):
            return place
    if not folder.is_dir():
        raise JournalError(f"there is no folder {folder}: give a run directory, such as runinfo/003")
    raise JournalError(
        f"there is no journal in {folder}: all that happened in the run is in its database, or it was not recorded"
    )


def _drain(writer: Writer) -> bool:
    """Write what a living program, whose own writer is gone, has recorded up to now."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ended, wrote = writer.step()
        if ended or not wrote:
            return ended
    return False


def _told(owner: Owner, url: str, events: int, done: bool, gone: bool, problems: list[str]) -> str:
    shown = database.shown(url)
    what = f"{events} events were" if events != 1 else "1 event was"
    if done:
        return f"run {owner.run_id[:8]}: {what} loaded into {shown}, and its journal was removed"
    if not gone:
        return f"run {owner.run_id[:8]} goes on: {what} loaded into {shown}"
    raise database.DatabaseError(
        f"{shown} took {events} events of run {owner.run_id[:8]}, and then refused for {PATIENCE_S:.0f} s: "
        f"{problems[-1] if problems else 'no reason is known'}. The others are kept: call this command again later"
    )


def migrate(url: str) -> str:
    """Bring the tables of a database up to date; return what was done.

    Raises:
        DatabaseError, SchemaError: the database cannot be used.
    """
    address = database.parsed(url)
    if database.is_sqlite(address) and not Path(str(address.database)).is_file():
        raise database.DatabaseError(f"there is no database {address.database}")
    engine = database.writer(url)
    try:
        with engine.begin() as connection:
            before = schema.version_of(connection)
            if before is None:
                raise schema.SchemaError(
                    "the database has no tables of flowcore's monitoring: there is nothing to migrate"
                )
            schema.create_or_migrate(connection)
    except SQLAlchemyError as error:
        raise database.DatabaseError(f"{database.shown(url)}: {database.reason(error)}") from error
    finally:
        engine.dispose()
    if before == schema.VERSION:
        return f"{database.shown(url)} has version {before} of the tables already"
    return f"{database.shown(url)}: version {before} of the tables was made version {schema.VERSION}"
