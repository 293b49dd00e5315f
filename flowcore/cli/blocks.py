"""``flowcore blocks``: which jobs a run has, where, since when, and why they wait; and cancels what a run has left."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from flowcore.errors import ConfigurationError, FlowcoreError

if TYPE_CHECKING:
    from flowcore.plugins.provider import Provider
    from flowcore.scaling.record import BlockEntry, ExecutorEntry, RunEntry

RUNINFO = Path("runinfo")
#: Names of hosts that are shown of a block.
_SHOWN = 4


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path), required=False)
@click.option(
    "--cancel", is_flag=True, help="Cancel the jobs that are left of RUN_DIR; exit with 0 if none is left then."
)
@click.option("--force", is_flag=True, help="With --cancel: also of a run that goes on.")
@click.option("--all", "ended_too", is_flag=True, help="Show the blocks that have ended, too.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="Take the providers from this configuration: the record of a run has no passwords.",
)  # fmt: skip
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
    help="Time for the answers of a scheduler, and for the end of what is cancelled.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def blocks(
    ctx: click.Context, run_dir: Path | None, cancel: bool, force: bool, ended_too: bool, file: Path | None,
    profile: str | None, timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Show the blocks of a run: what runs where, since when, and why the others wait.

    RUN_DIR is the folder of the run, such as runinfo/003; without it, the newest one below runinfo. The schedulers are
    asked now; where one does not answer, what the run knew last is shown.
    """
    from flowcore.scaling import record

    if cancel and run_dir is None:
        raise click.UsageError("--cancel goes with RUN_DIR, the folder of the run whose jobs are to be cancelled")
    if force and not cancel:
        raise click.UsageError("--force goes with --cancel")
    if profile is not None and file is None:
        raise click.UsageError("--profile goes with --config")
    folder = _folder(run_dir or RUNINFO)
    run = record.read(folder)
    if run is None:
        click.echo(json.dumps(None) if as_json else f"run {folder}: it has asked for no blocks")
        return
    providers = Providers(run, file, profile)
    if cancel:
        if not force:
            _refuse_living(folder, run)
        ctx.exit(0 if _cancel(folder, run, providers, timeout_s, as_json) else 1)
    views = [_look(run, entry, providers, timeout_s) for entry in run.executors.values()]
    if as_json:
        click.echo(json.dumps(_facts(folder, run, views, ended_too), indent=2))
    else:
        _print(folder, run, views, ended_too)


def _folder(given: Path) -> Path:
    """Return the folder of the run that is meant: the given one, or the newest one in it."""
    from flowcore.scaling.record import NAME, runs

    if not given.is_dir():
        what = "there is no run yet" if given == RUNINFO else "there is no such folder"
        raise ConfigurationError(f"{given}: {what}; give the folder of a run, such as runinfo/003")
    found = [] if (given / NAME).exists() else runs(given)
    return found[-1] if found else given


class Providers:
    """The providers of a run's executors, made anew.

    Args:
        run: the run.
        file, profile: the configuration to take them from; None for what the run has recorded.
    """

    def __init__(self, run: RunEntry, file: Path | None, profile: str | None) -> None:
        self._run = run
        self._file = file
        self._configured: dict[str, Any] = {}
        if file is not None:
            from flowcore.cli.loading import load_config

            self._configured = {e.label: e for e in load_config(file, profile).executors or []}

    def of(self, entry: ExecutorEntry) -> Provider:
        """Return the provider of an executor, not started.

        Raises:
            ConfigurationError: there is none.
        """
        from flowcore.scaling.survey import provider_of

        if self._file is None:
            return provider_of(self._run, entry)
        provider: Provider | None = getattr(self._configured.get(entry.label), "provider", None)
        if provider is None:
            labels = ", ".join(self._configured)
            raise ConfigurationError(f"{self._file} has no executor {entry.label!r} with blocks; it has: {labels}")
        return provider


# --- looking


@attrs.frozen
class View:
    """An executor with its blocks, as they are now; ``problem`` says why they are as the run knew them last."""

    entry: ExecutorEntry
    problem: str | None


def _look(run: RunEntry, entry: ExecutorEntry, providers: Providers, timeout_s: float) -> View:
    from flowcore.scaling.survey import Survey, within

    if not entry.open():
        return View(entry, None)

    problem: str | None = f"there was no answer within {timeout_s:g} s"

    def look() -> None:
        nonlocal problem
        survey = Survey(run, entry, providers.of(entry))
        try:
            problem = survey.look()
        finally:
            survey.close()

    # What it would log is shown.
    quiet = logging.NullHandler()
    logging.getLogger("flowcore").addHandler(quiet)
    try:
        within(timeout_s, look)
    except FlowcoreError as error:
        problem = str(error)
    finally:
        logging.getLogger("flowcore").removeHandler(quiet)
    return View(entry, problem)


def _print(folder: Path, run: RunEntry, views: list[View], ended_too: bool) -> None:
    from flowcore.cli.terminal import print_paragraph, print_table

    click.secho(f"run {folder}", bold=True, nl=False)
    click.echo(f" of {run.program}: {_life(run)}")
    shown = [(v.entry, b) for v in views for b in v.entry.blocks.values() if ended_too or not b.state.terminal]
    if shown:
        click.echo()
        columns = ("executor", "block", "job", "state", "since", "hosts", "message")
        now = time.time()
        print_table(columns, [_row(entry, block, now) for entry, block in shown])
    ended: dict[str, int] = {}
    for view in views:
        for block in view.entry.blocks.values():
            if block.state.terminal:
                ended[block.state.name] = ended.get(block.state.name, 0) + 1
    if not shown:
        click.echo("no block is left" if ended else "no block has been asked for")
    if ended and not ended_too:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(ended.items()))
        click.echo(f"\nended: {counts} (--all shows them)")
    for view in views:
        if view.problem is not None:
            click.echo()
            text = " ".join(view.problem.split())
            print_paragraph(f"executor {view.entry.label}: what is shown is what the run knew last: {text}")
    if _is_over(run) and any(view.entry.open() for view in views):
        click.echo(f"\nto cancel what is left: flowcore blocks --cancel {folder}")


def _row(entry: ExecutorEntry, block: BlockEntry, now: float) -> tuple[str, ...]:
    hosts = ", ".join(block.hosts[:_SHOWN])
    if len(block.hosts) > _SHOWN:
        hosts += f" and {len(block.hosts) - _SHOWN} more"
    message = " ".join((block.message or "").split())
    if block.exit_code:
        message = f"exit code {block.exit_code}{': ' if message else ''}{message}"
    job = block.job_id or "-"
    return (entry.label, block.block_id, job, block.state.name, since(block.since, now), hosts or "-", message)


def since(at: float | None, now: float) -> str:
    """Return when something began and how long ago that was; in local time, with the date if that is another one."""
    if at is None:
        return "-"
    began, today = time.localtime(at), time.localtime(now)
    form = "%H:%M:%S" if began[:3] == today[:3] else "%Y-%m-%d %H:%M"
    return f"{time.strftime(form, began)} ({duration(now - at)})"


def duration(seconds: float) -> str:
    """Return a span of time in its two largest units: ``45 s``, ``3 min``, ``2 h 5 min``, ``3 d 4 h``."""
    minutes, hours, days = (int(max(seconds, 0) // unit) for unit in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(max(seconds, 0))} s"


def _life(run: RunEntry) -> str:
    process = f"process {run.process.pid} of {run.process.host}"
    began = since(run.began_at, time.time())
    if _is_over(run):
        ends = [entry.closed_at for entry in run.executors.values() if entry.closed_at is not None]
        if len(ends) == len(run.executors):
            return f"ended {since(max(ends), time.time())}" if ends else f"ended before it had executors ({process})"
        return f"killed: {process}, begun {began}, is gone"
    if run.process.alive is None:
        return f"{process}, begun {began}; whether it goes on cannot be told from here"
    return f"goes on: {process}, begun {began}"


def _is_over(run: RunEntry) -> bool:
    """Whether nobody of the run looks after its blocks any more, as far as can be told from this host."""
    closed = [entry.closed_at is not None for entry in run.executors.values()]
    return run.process.alive is False or (bool(closed) and all(closed))


def _facts(folder: Path, run: RunEntry, views: list[View], ended_too: bool) -> dict[str, Any]:
    return {
        "run_dir": str(folder),
        "run_id": run.run_id,
        "program": run.program,
        "host": run.process.host,
        "pid": run.process.pid,
        "alive": run.process.alive,
        "over": _is_over(run),
        "began_at": run.began_at,
        "executors": [
            {
                "label": view.entry.label,
                "problem": view.problem,
                "blocks": [
                    _block_facts(b) for b in view.entry.blocks.values() if ended_too or not b.state.terminal
                ],
            }
            for view in views
        ],
    }  # fmt: skip


def _block_facts(block: BlockEntry) -> dict[str, Any]:
    return {**attrs.asdict(block), "state": block.state.name, "hosts": list(block.hosts)}


# --- cancelling


def _refuse_living(folder: Path, run: RunEntry) -> None:
    if _is_over(run):
        return
    process = f"process {run.process.pid} of {run.process.host}"
    if run.process.alive is None:
        raise FlowcoreError(
            f"run {folder} may go on: whether {process} runs cannot be told from here. Run this command there, or add "
            "--force"
        )
    raise FlowcoreError(
        f"run {folder} goes on, and looks after its blocks: {process}. End it, which cancels them, or add --force"
    )


def _cancel(folder: Path, run: RunEntry, providers: Providers, timeout_s: float, as_json: bool) -> bool:
    """Cancel what is left, and say what was done; return whether nothing is left."""
    done = list(_cancelled(folder, run, providers, timeout_s))
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for fact in done:
            job = f", job {fact['job_id']}" if fact["job_id"] else ""
            block = f", block {fact['block_id']}{job}" if fact["block_id"] else ""
            color = "red" if fact["left"] else "green"
            click.echo(f"executor {fact['executor']}{block}: {click.style(fact['text'], fg=color)}")
        if not done:
            click.echo(f"run {folder}: no block is left")
    return not any(fact["left"] for fact in done)


def _cancelled(folder: Path, run: RunEntry, providers: Providers, timeout_s: float) -> Iterator[dict[str, Any]]:
    from flowcore.scaling.record import NAME, BlockRecord
    from flowcore.scaling.survey import Survey

    record = BlockRecord(folder / NAME)
    for entry in run.executors.values():
        left = entry.open()
        if not left:
            continue
        try:
            survey = Survey(run, entry, providers.of(entry))
            try:
                outcomes = survey.cancel(record, timeout_s)
            finally:
                survey.close()
        except FlowcoreError as error:
            jobs = ", ".join(b.job_id or b.name for b in left)
            text = f"not cancelled: {error}. Its jobs: {jobs}"
            yield {"executor": entry.label, "block_id": None, "job_id": None, "text": text, "left": True}
            continue
        for outcome in outcomes:
            block = outcome.block
            yield {
                "executor": entry.label,
                "block_id": block.block_id,
                "job_id": block.job_id,
                "text": outcome.text,
                "left": outcome.left,
            }
