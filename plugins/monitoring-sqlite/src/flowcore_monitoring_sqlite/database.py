"""How a database is opened: by the one who writes, and by those who read.

Rules of this module. Readers cannot change anything, and need no right to. No password is shown.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_sqlite import schema

#: Name of the database below the folder of all runs.
NAME = "monitoring.db"
#: Seconds that SQLite waits for another process before it says that the database is locked.
BUSY_S = 1.0
#: Seconds after which a server that does not answer a login is one that is away.
CONNECT_S = 10


class DatabaseError(FlowcoreError):
    """A database cannot be used.

    Args:
        text: which one, why, and what to do.
    """


def default_url(run_folder: Path) -> str:
    """Return the URL of the database of all runs below a folder (``runinfo``)."""
    return f"sqlite:///{run_folder.absolute() / NAME}"


def parsed(url: str) -> URL:
    """Return a database's URL in its parts.

    Raises:
        DatabaseError: it is none, or no driver for it is installed.
    """
    form = (
        "a database's URL is sqlite:////absolute/path/to/file.db, sqlite:///relative/path.db, or "
        "postgresql+psycopg://user@host/database"
    )
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError(f"{_start(url)!r} is no database's URL: {form}") from None
    if found.drivername == "postgresql":
        # psycopg 3; the dialect's own default is another library.
        found = found.set(drivername="postgresql+psycopg")
    try:
        dialect = found.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise DatabaseError(f"{shown(found)}: there is no database of the kind {found.drivername!r}; {form}") from None
    except ImportError as error:
        module = error.name or str(error)
        install = " (pip install 'flowcore-monitoring-sqlite[postgresql]')" if module.startswith("psycopg") else ""
        raise DatabaseError(f"{shown(found)}: the Python module {module!r} is not installed{install}") from None
    if is_sqlite(found) and found.database in (None, "", ":memory:"):
        raise DatabaseError(f"{shown(found)} is a database in memory, which nobody else can read: name a file; {form}")
    return found


def _start(url: str) -> str:
    """Return what may be shown of something that should be a URL."""
    # All that could be a password is behind a colon that follows the scheme.
    return url.partition("://")[0][:40] + "://..." if "://" in url else url[:80]


def shown(url: URL | str) -> str:
    """Return a URL without its password and its options."""
    url = make_url(url) if isinstance(url, str) else url
    return url.set(query={}).render_as_string(hide_password=True)


def is_sqlite(url: URL) -> bool:
    """Return whether a URL is that of an SQLite file."""
    return url.get_backend_name() == "sqlite"


def writer(url: str) -> Engine:
    """Return an engine for the process that writes: WAL for SQLite, no waiting without end.

    Raises:
        DatabaseError: the URL is wrong.
    """
    address = parsed(url)
    if not is_sqlite(address):
        arguments = {"connect_timeout": CONNECT_S} if address.get_backend_name() in ("postgresql", "mysql") else {}
        return create_engine(address, poolclass=NullPool, connect_args=arguments)
    engine = create_engine(address, poolclass=NullPool, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: Any) -> None:
        # The driver begins transactions too late for a schema to be changed in one.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # In WAL mode a power cut may cost the last transactions, and damages nothing.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA wal_autocheckpoint = 4000")
        cursor.execute("PRAGMA cache_size = -16000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer's transaction from its first statement on: one that reads first may be refused in its middle.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reader(url: str) -> Engine:
    """Return an engine that can only read.

    Raises:
        DatabaseError: the URL is wrong, or there is no such file.
    """
    address = parsed(url)
    if not is_sqlite(address):
        engine = create_engine(address, connect_args={"connect_timeout": CONNECT_S})

        @event.listens_for(engine, "begin")
        def begin_reading(connection: Connection) -> None:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")

        return engine
    path = Path(str(address.database)).absolute()
    if not path.is_file():
        raise DatabaseError(
            f"there is no database {path}: no run was recorded there. Runs are recorded with "
            'flowcore.Config(monitoring=MonitoringHub()), in a TOML file `monitoring = { plugin = "monitoring" }`; '
            "the database of other runs is named with --database URL"
        )

    def connect() -> sqlite3.Connection:
        return _connect_to_read(path)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    where = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(where, uri=True, timeout=10, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        # In a folder that cannot be written, SQLite cannot make its auxiliary files; a database that nobody writes
        # to needs none.
        if path.with_name(path.name + "-wal").exists():
            raise
        connection = sqlite3.connect(where + "&immutable=1", uri=True, timeout=10, check_same_thread=False)
    # Not every SQLite is built with mathematical functions.
    connection.create_function("floor", 1, lambda x: None if x is None else float(math.floor(x)), deterministic=True)
    return connection


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Give a connection that can only read, to a database whose tables are of this version.

    Raises:
        DatabaseError: the database cannot be read.
        SchemaError: its tables are not of this version.
    """
    engine = reader(url)
    try:
        with engine.connect() as connection:
            schema.check(connection)
            yield connection
    except SQLAlchemyError as error:
        raise DatabaseError(f"{shown(url)}: {reason(error)}") from error
    finally:
        engine.dispose()


def reason(error: BaseException) -> str:
    """Return in one line why a database refused, without the statement."""
    original = getattr(error, "orig", None) or error
    return " ".join(str(original).split()) or type(original).__name__
