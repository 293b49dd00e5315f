"""The commands of this plugin: ``flowcore runs``, ``status``, ``explain``, ``report``, ``graph`` and ``monitoring``.

Rule of this module: it says which questions there are; what is shown is made by other modules, which are imported when
a command runs. A run is named in the same way everywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcore.plugins.api import FlowcoreError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from flowcore_monitoring_sqlite.queries import Run

RUNINFO = Path("runinfo")
#: States of a run that goes on.
LIVING = ("running", "silent")

_RUN_HELP = """

    RUN is the number of a run directory (3, 003), its path, or the beginning of the run's id; without it, the newest
    run is taken. The database is that of RUN's path, or runinfo/monitoring.db.
    """


class CommandError(FlowcoreError):
    """A command cannot do what it was asked for.

    Args:
        text: what, why, and what to do.
    """


def _database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--database", metavar="URL", envvar="FLOWCORE_MONITORING_DATABASE",
        help="The database: a URL, or the path of an SQLite file.",
    )(command)  # fmt: skip


def _with_run_help(command: Callable[..., Any]) -> Callable[..., Any]:
    command.__doc__ = (command.__doc__ or "") + _RUN_HELP
    return command


def database_url(database: str | None, run: str | None = None) -> str:
    """Return the URL of the database that a user means.

    Args:
        database: a URL or a path; None where the user named none.
        run: how he named the run; a path of a run directory is beside its database.
    """
    if database is not None:
        return database if "://" in database else f"sqlite:///{Path(database).absolute()}"
    from flowcore_monitoring_sqlite.database import NAME, default_url

    beside = None if run is None else Path(run).absolute().parent
    if run is not None and beside is not None and not run.isdigit() and (beside / NAME).exists():
        return default_url(beside)
    return default_url(RUNINFO)


@contextmanager
def _opened(database: str | None, run: str | None = None) -> Iterator[Connection]:
    from flowcore_monitoring_sqlite.database import reading

    with reading(database_url(database, run)) as connection:
        yield connection


@contextmanager
def _found(database: str | None, which: str | None) -> Iterator[tuple[Connection, Run]]:
    from flowcore_monitoring_sqlite.queries import find_run

    with _opened(database, which) as connection:
        yield connection, find_run(connection, which)


@click.command()
@_database_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show so many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(database: str | None, limit: int, as_json: bool) -> None:
    """List the runs that were recorded: when, how long, how many tasks, how they ended."""
    import attrs

    from flowcore_monitoring_sqlite import queries, terminal

    with _opened(database) as connection:
        found = queries.runs(connection, limit)
        total = queries.number_of_runs(connection)
    if as_json:
        click.echo(json.dumps([attrs.asdict(run) for run in found], indent=2))
    else:
        terminal.console().print(terminal.runs_table(found, total))


@click.command()
@click.argument("run", required=False)
@_database_option
@click.option("--watch", is_flag=True, help="Show it anew until the run ends.")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS",
    help="With --watch: how often.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_with_run_help
def status(run: str | None, database: str | None, watch: bool, interval_s: float, as_json: bool) -> None:
    """Show how a run is getting on: tasks by state and by app, rate, blocks, workers, failures by cause."""
    from flowcore_monitoring_sqlite import terminal

    def look() -> terminal.Status:
        with _found(database, run) as (connection, found):
            return terminal.look_at(connection, found, time.time())

    if as_json and watch:
        raise click.UsageError("--watch shows a page anew, and --json prints it once: give one of them")
    if as_json:
        click.echo(json.dumps(look().facts(), indent=2))
    elif watch:
        terminal.watch(look, interval_s, LIVING)
    else:
        terminal.console().print(terminal.status_page(look()))


@click.command()
@click.argument("task", type=click.IntRange(min=0))
@click.option("--run", metavar="RUN", help="The run; without it, the newest one.")
@_database_option
@_with_run_help
def explain(task: int, run: str | None, database: str | None) -> None:
    """Tell the story of a task: what it waited for, where and when it ran, how it failed, what to try."""
    from flowcore_monitoring_sqlite import queries, story, terminal

    with _found(database, run) as (connection, found):
        told = queries.task_story(connection, found.run_id, task)
        if told is None:
            name = f"run {Path(found.run_dir).name} ({found.run_id[:8]})"
            number = sum(queries.counts_by_state(connection, found.run_id).values())
            if task < number:
                raise CommandError(
                    f"{name} has a task {task}, and what happened to it is not in the database yet: tasks come faster "
                    "than it is written. Ask again in some seconds"
                )
            raise CommandError(f"{name} has no task {task}: its {number} tasks are numbered from 0 on")
        lines = story.tell(connection, found, told, time.time())
    terminal.print_story(lines)


@click.command()
@click.argument("run", required=False)
@_database_option
@click.option(
    "--html", "path", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
    help="Where to write the page.",
)  # fmt: skip
@_with_run_help
def report(run: str | None, database: str | None, path: Path) -> None:
    """Write a page on a run to send to a colleague: one HTML file that needs nothing else."""
    from flowcore_monitoring_sqlite import report as reports

    with _found(database, run) as (connection, found):
        page = reports.page(connection, found, time.time())
    _write(path, page)
    click.echo(f"{path}: the report of run {Path(found.run_dir).name} ({found.run_id[:8]})")


@click.command()
@click.argument("run", required=False)
@_database_option
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to write it: a name that ends in .dot or .svg. Without it, DOT is printed.",
)  # fmt: skip
@click.option(
    "--colour", "--color", "colour_by", type=click.Choice(["app", "state"]), default="app", show_default=True,
    help="What the colours tell.",
)  # fmt: skip
@click.option(
    "--group/--no-group", default=None,
    help="Draw tasks of one app and one depth as one node; by itself, where there are more than 500 tasks.",
)  # fmt: skip
@_with_run_help
def graph(run: str | None, database: str | None, output: Path | None, colour_by: str, group: bool | None) -> None:
    """Draw the tasks of a run and what they depend on, as DOT or SVG."""
    from flowcore_monitoring_sqlite import graph as graphs

    if output is not None and output.suffix.lower() not in (".dot", ".gv", ".svg"):
        raise click.BadParameter(f"{output.name} must end in .dot or .svg", param_hint="--output")
    with _found(database, run) as (connection, found):
        drawn = graphs.graph_of(connection, found.run_id, colour_by, group)
    title = f"{found.name}, run {Path(found.run_dir).name}"
    if output is None:
        click.echo(graphs.dot(drawn, title))
        return
    _write(output, graphs.svg(drawn, title) if output.suffix.lower() == ".svg" else graphs.dot(drawn, title))
    click.echo(f"{output}: {drawn.tasks} tasks in {len(drawn.nodes)} nodes")


@click.group()
def monitoring() -> None:
    """Look after the database that runs are recorded in."""


@monitoring.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@_database_option
def import_(folder: Path, database: str | None) -> None:
    """Load what a run has recorded and its database has not got.

    FOLDER is the run directory, or the folder of the run's journal. The database is the run's own, unless another one
    is named; it has to be where it needs a password. What was loaded before is not loaded again.
    """
    from flowcore_monitoring_sqlite import load

    click.echo(load.load(folder, None if database is None else database_url(database)))


@monitoring.command()
@_database_option
def migrate(database: str | None) -> None:
    """Bring the tables of an older version of this plugin up to date."""
    from flowcore_monitoring_sqlite import load

    click.echo(load.migrate(database_url(database)))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
