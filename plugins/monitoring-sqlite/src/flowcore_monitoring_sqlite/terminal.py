"""What the commands show in a terminal: tables of runs, the state of a run, stories.

Rule of this module: a table says in words what its colours say, so that it can be read in a file, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from flowcore_monitoring_sqlite import queries
from flowcore_monitoring_sqlite.queries import BAD, FINAL, GOOD, AppCounts, Block, FailureGroup, Run, Task

#: Seconds over which the rate of a living run is taken.
RATE_S = 10.0
#: Lines of each kind that a page has.
_SHOWN = 8

_COLOURS = {
    "exec_done": "green",
    "memo_done": "green",
    "failed": "red",
    "dep_fail": "red",
    "fail_retryable": "yellow",
    "running": "cyan",
    "launched": "cyan",
    "joining": "cyan",
    "running_ended": "cyan",
    "completed": "green",
    "interrupted": "red",
    "silent": "yellow",
}


@attrs.frozen
class Status:
    """How a run is getting on.

    Attributes:
        rate: tasks that ended per second: of the last seconds for a living run, else of all its time.
        remaining_s: seconds until the known tasks are done at this rate; None where that cannot be told.
        nodes, workers: those that are connected.
        oldest: the tasks that have been at work for longest.
    """

    run: Run
    states: dict[str, int]
    apps: list[AppCounts]
    rate: float
    remaining_s: float | None
    blocks: list[Block]
    nodes: int
    workers: int
    failures: list[FailureGroup]
    oldest: list[Task]

    @property
    def total(self) -> int:
        """Tasks that are known."""
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        """Tasks that are over, well or not."""
        return sum(self.states.get(state, 0) for state in FINAL)

    def facts(self) -> dict[str, Any]:
        """Return it as it is printed as JSON."""
        return {**attrs.asdict(self), "total": self.total, "ended": self.ended}


def look_at(connection: Connection, run: Run, now: float) -> Status:
    """Ask the database how a run is getting on."""
    states = queries.counts_by_state(connection, run.run_id)
    ended = sum(states.get(state, 0) for state in FINAL)
    living = run.state == "running"
    rate = queries.rate(connection, run, now, RATE_S)
    if rate is None:
        rate = ended / max(run.duration_s, 0.1)
    left = sum(states.values()) - ended
    nodes = [node for node in queries.nodes(connection, run.run_id) if node.active]
    return Status(
        run=run,
        states=states,
        apps=queries.counts_by_app(connection, run.run_id),
        rate=rate,
        remaining_s=left / rate if living and rate and left else None,
        blocks=queries.blocks(connection, run.run_id),
        nodes=len(nodes),
        workers=sum(node.worker_count or 0 for node in nodes),
        failures=queries.failures(connection, run.run_id, limit=_SHOWN),
        oldest=queries.longest_at_work(connection, run.run_id, 3) if living else [],
    )


def console() -> Console:
    """Return where to print to."""
    return Console(highlight=False)


def runs_table(runs: Sequence[Run], total: int) -> RenderableType:
    """Return a table of runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "id", "workflow", "state", "began"):
        table.add_column(name, no_wrap=name != "workflow", overflow="fold")
    for name in ("took", "completed", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            Path(run.run_dir).name,
            run.run_id[:8],
            escape(run.name),
            _coloured(run.state),
            _day(run.time_began),
            duration(run.duration_s),
            str(run.completed),
            f"[red]{run.failed}[/]" if run.failed else "0",
        )
    if not runs:
        return "no run is recorded in this database"
    return Group(table, f"{len(runs)} of {total} runs") if total > len(runs) else table


def status_page(status: Status) -> RenderableType:
    """Return a page that says how a run is getting on."""
    run = status.run
    parts: list[RenderableType] = [
        f"[bold]{escape(run.name)}[/], run {Path(run.run_dir).name} ({run.run_id[:8]}): {_coloured(run.state)}, "
        f"began {clock(run.time_began, with_date=True)}, {duration(run.duration_s)}",
        _progress(status),
    ]
    if run.events_lost:
        parts.append(f"[red]{run.events_lost} events of this run were lost: no disk took them[/]")
    if run.state == "silent":
        parts.append(f"[yellow]nothing was heard of it since {clock(run.heartbeat)}: its host may be gone[/]")
    parts += ["", _states(status), "", _apps(status)]
    if status.blocks or status.nodes:
        parts += ["", _resources(status)]
    if status.oldest:
        parts += ["", *(f"{line}" for line in _oldest(status))]
    if status.failures:
        parts += ["", _failures(status)]
    return Group(*parts)


def _progress(status: Status) -> str:
    good = sum(status.states.get(state, 0) for state in GOOD)
    bad = sum(status.states.get(state, 0) for state in BAD)
    line = f"{status.ended} of {status.total} tasks are over: {good} completed, "
    line += f"[red]{bad} failed[/]" if bad else "none failed"
    line += f"; {status.rate:.3g} tasks/s"
    if status.remaining_s is not None:
        line += f"; {status.total - status.ended} left, about {duration(status.remaining_s)} at this rate"
    return line


def _states(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("state", no_wrap=True)
    table.add_column("tasks", justify="right")
    for state, count in status.states.items():
        table.add_row(_coloured(state), str(count))
    return table


def _apps(status: Status) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("app")
    for name in ("tasks", "waiting", "at work", "completed", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for app in status.apps[:_SHOWN]:
        waiting = app.by_state.get("pending", 0) + app.by_state.get("fail_retryable", 0)
        failed = f"[red]{app.failed}[/]" if app.failed else "0"
        at_work = app.total - waiting - app.completed - app.failed
        table.add_row(escape(app.name), *map(str, (app.total, waiting, at_work, app.completed)), failed)
    more = len(status.apps) - _SHOWN
    return Group(table, f"and {more} more apps") if more > 0 else table


def _resources(status: Status) -> str:
    counts: dict[str, int] = {}
    for block in status.blocks:
        counts[block.status] = counts.get(block.status, 0) + 1
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
    line = f"blocks: {text}; {status.nodes} nodes with {status.workers} workers are connected"
    told = [f"block {b.block_id}: {escape(b.message)}" for b in status.blocks if b.message and b.status != "COMPLETED"]
    return "\n".join([line, *told[-3:]])


def _oldest(status: Status) -> list[str]:
    now = time.time()
    return [
        f"at work for {duration(now - task.state_time)}: task {task.task_id} ({escape(task.name)}) on {task.executor}"
        for task in status.oldest
        if now - task.state_time > 5
    ]


def _failures(status: Status) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("since")
    table.add_column("for example", no_wrap=True)
    for group in status.failures:
        what = "not run: " if group.state == "dep_fail" else ""
        table.add_row(f"[red]{group.count}[/]", what + escape(group.cause), f"task {group.examples[0]}")
    return Group(table, f"more on one: flowcore explain {status.failures[0].examples[0]}")


def watch(look: Callable[[], Status], interval_s: float, living: Collection[str]) -> None:
    """Show the state of a run anew until it ends, or until Ctrl-C."""
    status = look()
    with Live(status_page(status), console=console(), auto_refresh=False) as live:
        while status.run.state in living:
            try:
                time.sleep(interval_s)
            except KeyboardInterrupt:
                return
            status = look()
            live.update(status_page(status), refresh=True)


def print_story(lines: Sequence[tuple[str, str]]) -> None:
    """Print pairs of a heading, empty within a paragraph, and a text."""
    place = console()
    width = max((len(head) for head, _ in lines), default=0)
    for head, text in lines:
        place.print(Text.assemble((f"{head:<{width}}  ", "bold"), text), soft_wrap=True)


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def clock(at: float, with_date: bool = False) -> str:
    """Return a time of this place."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


def _day(at: float) -> str:
    """Return a time as short as it can be told: a table has to go into a narrow terminal."""
    then = datetime.fromtimestamp(at)
    return then.strftime("%d %b %H:%M" if then.year == datetime.now().year else "%Y-%m-%d")


def duration(seconds: float) -> str:
    """Return a length of time: ``0.012 s``, ``3.4 s``, ``2:05 min``, ``1:02:05 h``, ``3 d 04 h``."""
    if seconds < 10:
        return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{hours // 24} d {hours % 24:02} h"
