"""The web application: addresses, answers that are kept, and what is said when something is wrong.

Rule of this module: a question of the database is asked once for each change of the database: browsers that look again
get "not modified" (304), and others get what was made for the first.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import logging
import mimetypes
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import attrs
from flowcore_monitoring_sqlite import database, queries, schema
from flowcore_monitoring_sqlite.queries import RunNotFound
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flowcore.plugins.api import FlowcoreError
from flowcore_monitoring_dashboard import pages, questions
from flowcore_monitoring_dashboard.access import Access, Door
from flowcore_monitoring_dashboard.charts import path_of
from flowcore_monitoring_dashboard.pages import Asked, Missing
from flowcore_monitoring_dashboard.plotlyjs import plotly
from flowcore_monitoring_dashboard.rendering import asset_version, assets, render

logger = logging.getLogger(__name__)

#: Bytes of answers that are kept.
_KEPT = 32 << 20
#: Below this, compressing costs more than it saves.
_SMALL = 1000
#: For files whose address has their version in it.
_FOREVER = "private, max-age=31536000, immutable"
#: Seconds after which the page of a run that goes on is made again, even if nothing has changed.
_TICK_S = 10
#: Stands in pages for their ETag.
_ETAG = "data-etag-goes-here"


class Source:
    """The database that the dashboard shows, which may be away for a time.

    Args:
        url: SQLAlchemy's URL.

    Raises:
        FlowcoreError: the URL is wrong, there is no such database, or it is no database of flowcore's monitoring.
    """

    def __init__(self, url: str) -> None:
        self.shown = database.shown(url)
        self._engine: Engine = database.reader(url)
        try:
            with self._engine.connect() as connection:
                schema.check(connection)
        except SQLAlchemyError as error:
            self.close()
            raise database.DatabaseError(f"{self.shown}: {database.reason(error)}") from error
        except schema.SchemaError as error:
            self.close()
            raise schema.SchemaError(f"{self.shown}: {error}") from None
        except BaseException:
            self.close()
            raise

    def connect(self) -> Connection:
        """Return a connection that can only read: all questions of one page see the database at one moment."""
        connection = self._engine.connect()
        if connection.dialect.name == "sqlite":
            # Its driver begins no transaction for a SELECT.
            connection.exec_driver_sql("BEGIN")
        elif connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        return connection

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


@attrs.frozen
class _Answer:
    body: bytes
    media_type: str
    compressed: bytes

    @property
    def size(self) -> int:
        return len(self.body) + len(self.compressed)


class Kept:
    """Answers by their ETag, the latest ones, up to a number of bytes. For several threads."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._size = 0
        self._making: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, etag: str, make: Callable[[], _Answer]) -> _Answer:
        """Return an answer; make it if it is not there. Who asks for the same meanwhile waits for it."""
        with self._lock:
            found = self._find(etag)
            if found is not None:
                return found
            mine = self._making[etag]
        try:
            with mine:
                with self._lock:
                    found = self._find(etag)
                if found is None:
                    found = make()
                    self._keep(etag, found)
        finally:
            with self._lock:
                self._making.pop(etag, None)
        return found

    def _find(self, etag: str) -> _Answer | None:
        found = self._answers.get(etag)
        if found is not None:
            self._answers.move_to_end(etag)
        return found

    def _keep(self, etag: str, answer: _Answer) -> None:
        with self._lock:
            if etag not in self._answers:
                self._answers[etag] = answer
                self._size += answer.size
            while self._size > self._most:
                _, oldest = self._answers.popitem(last=False)
                self._size -= oldest.size


class Dashboard:
    """The pages of one database.

    Args:
        source: the database.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept = Kept()

    def routes(self) -> list[Route]:
        """Return what is at which address."""
        run = "/workflow/{run}"
        found = [
            Route("/", self._workflows),
            Route("/static/{version}/{name}", _asset),
            Route(run + "/tasks/{task:int}", self._of_run(lambda a, p: pages.task(a, p["task"]))),
            Route(run + "/apps/{app:path}", self._of_run(lambda a, p: pages.app(a, p["app"]))),
        ]
        for name, page in pages.PAGES.items():
            found.append(Route(f"{run}/{name}".rstrip("/"), self._of_run(functools.partial(_plain, page))))
        for name, chart in pages.CHARTS.items():
            found.append(Route(f"{run}/data/{name}.json", self._of_run(functools.partial(_plain, chart))))
        return found

    def _workflows(self, request: Request) -> Response:
        with self._source.connect() as connection:
            marks = (questions.stamp(connection), [run.state for run in queries.runs(connection, pages.RUNS)])
            return self._answer(request, marks, lambda: pages.workflows(connection, request.query_params))

    def _of_run(self, make: Callable[[Asked, dict[str, Any]], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            # No name has a NUL, and databases refuse text with one.
            which = request.path_params["run"].replace("\0", "")
            with self._source.connect() as connection:
                try:
                    run = queries.run(connection, which)
                except RunNotFound:
                    run = queries.find_run(connection, None if which == "latest" else which)
                    rest = request.url.path.removeprefix(f"/workflow/{request.path_params['run']}")
                    query = f"?{request.url.query}" if request.url.query else ""
                    return RedirectResponse(path_of(run) + quote(rest) + query, 302)
                several: dict[str, list[str]] = {}
                for name, value in request.query_params.multi_items():
                    several.setdefault(name, []).append(value)
                asked = Asked(connection, run, dict(request.query_params), several)
                # While it goes on, time passes also when nothing is written.
                clock = time.time() // _TICK_S if run.state == "running" else 0
                marks = (questions.stamp(connection, run.run_id), run.state, clock)
                return self._answer(request, marks, lambda: make(asked, request.path_params))

        return endpoint

    def _answer(self, request: Request, marks: object, make: Callable[[], Any]) -> Response:
        address = f"{request.url.path}?{request.url.query}"
        etag = hashlib.sha256(repr((address, marks, asset_version())).encode()).hexdigest()[:32]
        headers = {"ETag": f'"{etag}"', "Vary": "Accept-Encoding, Cookie"}
        if f'"{etag}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)

        def build() -> _Answer:
            made = make()
            if isinstance(made, str):
                # The page looks again with it, see static/live.js.
                return _compressed(made.replace(_ETAG, etag, 1).encode(), "text/html; charset=utf-8")
            text = json.dumps(made, separators=(",", ":"), allow_nan=False)
            return _compressed(text.encode(), "application/json")

        return _response(request, self._kept.get(etag, build), headers)


def _plain(make: Callable[[Asked], Any], asked: Asked, parameters: dict[str, Any]) -> Any:
    return make(asked)


def _compressed(body: bytes, media_type: str) -> _Answer:
    return _Answer(body, media_type, gzip.compress(body, 5, mtime=0) if len(body) >= _SMALL else b"")


def _response(request: Request, answer: _Answer, headers: dict[str, str]) -> Response:
    if answer.compressed and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(answer.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=answer.media_type)
    return Response(answer.body, headers=headers, media_type=answer.media_type)


# --- files for browsers


@functools.cache
def _asset_answer(name: str) -> _Answer | None:
    content = plotly() if name == "plotly.min.js" else assets().get(name)
    if content is None:
        return None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if kind.startswith("text/") or "javascript" in kind:
        kind = f"{kind}; charset=utf-8"
    return _compressed(content, kind)


def _asset(request: Request) -> Response:
    answer = _asset_answer(request.path_params["name"])
    if answer is None:
        raise HTTPException(404)
    # In the path, so that files name each other by their names alone, and get the same version.
    versioned = request.path_params["version"] == asset_version()
    headers = {"Cache-Control": _FOREVER if versioned else "private, no-cache", "Vary": "Accept-Encoding"}
    return _response(request, answer, headers)


# --- what is wrong


def _error(request: Request, status: int, title: str, text: str) -> Response:
    if request.url.path.endswith(".json"):
        return Response(json.dumps({"error": title, "text": text}), status, media_type="application/json")
    return Response(render("error.html", title=title, text=text, live=False), status, media_type="text/html")


def _not_found(request: Request, error: Exception) -> Response:
    text = str(error) if isinstance(error, Missing | RunNotFound) else f"There is no page {request.url.path}."
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _error(request, status, "Not found" if status == 404 else "Not possible", text[:1].upper() + text[1:])


def _database_away(request: Request, error: Exception) -> Response:
    reason = database.reason(error)
    logger.warning("the database cannot be read: %s", reason)
    return _error(
        request, 503, "The database cannot be read",
        f"{reason}. The page is shown when the database answers again: reload it in a moment.",
    )  # fmt: skip


def _refused(request: Request, error: Exception) -> Response:
    return _error(request, 503, "The database cannot be shown", f"{error}.")


def _bug(request: Request, error: Exception) -> Response:
    return _error(
        request, 500, "This page cannot be made",
        f"{type(error).__name__} while it was made; the terminal of `flowcore dashboard` has the traceback. "
        "Please report it.",
    )  # fmt: skip


def application(source: Source, access: Access) -> Door:
    """Return the application that a web server runs.

    Args:
        source: the database.
        access: who may look.
    """
    inner = Starlette(
        routes=Dashboard(source).routes(),
        exception_handlers={
            HTTPException: _not_found,
            Missing: _not_found,
            RunNotFound: _not_found,
            SQLAlchemyError: _database_away,
            FlowcoreError: _refused,
            Exception: _bug,
        },
    )
    return Door(inner, access)
