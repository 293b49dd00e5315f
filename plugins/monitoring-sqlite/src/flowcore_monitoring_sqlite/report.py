"""``flowcore report``: one page on a run, to send to somebody who has nothing else of it.

Rule of this module: the page needs no other file, no network and no script, and every text from the run is escaped.
Charts are pictures in it, with what they show in words beside them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, case, desc, func, select

from flowcore_monitoring_sqlite import graph as graphs
from flowcore_monitoring_sqlite import queries, schema
from flowcore_monitoring_sqlite.queries import BAD, FINAL, GOOD, FailureGroup, Run, UsePoint
from flowcore_monitoring_sqlite.terminal import clock, duration

#: Points of a chart.
_POINTS = 120
#: Nodes of a graph that is still put on the page.
_MOST_NODES = 200
_ROWS = 50

_STYLE = """
:root{color-scheme:light dark;--line:#d0d4da;--soft:#5b6470;--bad:#b3261e;--good:#1b7f3b;--bar:#3b6ea8}
@media (prefers-color-scheme:dark){:root{--line:#3c424b;--soft:#a3abb6;--bad:#ff8a80;--good:#7fd89a;--bar:#7fb2ea}}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p.soft,.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;font-weight:600}
td,th{padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:var(--bad)}.good{color:var(--good)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:1rem 0}dt{color:var(--soft)}dd{margin:0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;font-size:13px}
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:14px}svg.chart{width:100%;height:9rem}
svg.chart path{fill:var(--bar);fill-opacity:.35;stroke:var(--bar);vector-effect:non-scaling-stroke}
div.scroll{overflow:auto;border:1px solid var(--line)}
"""


def page(connection: Connection, run: Run, now: float) -> str:
    """Return the page as HTML.

    Args:
        connection: to the database.
        run: the run.
        now: epoch seconds, for when it was made.
    """
    title = f"{run.name}, run {Path(run.run_dir).name}"
    parts = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="soft">{_e(_sentence(run))} This page was made at {clock(now, with_date=True)}.</p>',
        _summary(run),
        _states(connection, run),
        _apps(connection, run),
        _activity(connection, run),
        _failures(queries.failures(connection, run.run_id), "Failures", "No task failed."),
        _failures(queries.failures(connection, run.run_id, ("fail_retryable",)), "Attempts that were made again", ""),
        _longest(connection, run),
        _use(queries.resource_series(connection, run.run_id, _POINTS)),
        _blocks(connection, run),
        _nodes(connection, run),
        _graph(connection, run, title),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _e(value: Any) -> str:
    return html.escape(str(value))


def _sentence(run: Run) -> str:
    over = run.completed + run.failed
    text = {
        "running": "The run goes on.",
        "silent": "The run should go on, but nothing has been heard of it for a while.",
        "interrupted": "The run was interrupted: its program was gone before it ended.",
    }.get(run.state, "The run has ended.")
    return f"{text} {over} tasks are over, {run.failed} of them failed."


def _summary(run: Run) -> str:
    facts = {
        "State": run.state,
        "Started": clock(run.time_began, with_date=True),
        "Completed": clock(run.time_completed, with_date=True) if run.time_completed else "not",
        "Duration": duration(run.duration_s),
        "Owner": run.user,
        "Host": run.host,
        "Run directory": run.run_dir,
        "Workflow version": run.version,
        "Run id": run.run_id,
        "Versions": f"flowcore {run.flowcore_version}, Python {run.python_version}",
        "Tasks completed": run.completed,
        "Tasks failed": run.failed,
    }
    if run.events_lost:
        facts["Events that were lost"] = run.events_lost
    return "<dl>" + "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts.items()) + "</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; cells are HTML, and those of the numbered columns are numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        made = (f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return "<tr>" + "".join(made) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _states(connection: Connection, run: Run) -> str:
    counts = queries.counts_by_state(connection, run.run_id)
    rows = [(f"<span class={_class(state)}>{_e(state)}</span>", str(count)) for state, count in counts.items()]
    return "<h2>Tasks by state</h2>" + _table(("State", "Tasks"), rows, (1,))


def _class(state: str) -> str:
    return "good" if state in GOOD else "bad" if state in BAD else "soft"


def _apps(connection: Connection, run: Run) -> str:
    times = _times(connection, run)
    rows = []
    for app in queries.counts_by_app(connection, run.run_id)[:_ROWS]:
        mean, longest = times.get(app.name, (None, None))
        rows.append(
            (
                _e(app.name),
                str(app.total),
                str(app.completed),
                f"<span class=bad>{app.failed}</span>" if app.failed else "0",
                duration(mean) if mean is not None else "",
                duration(longest) if longest is not None else "",
            )
        )
    head = ("App", "Tasks", "Completed", "Failed", "Mean time of an attempt", "Longest")
    return "<h2>Apps</h2>" + _table(head, rows, (1, 2, 3, 4, 5))


def _took() -> Any:
    attempt = schema.attempt
    began = func.coalesce(attempt.c.task_try_time_running, attempt.c.task_try_time_launched)
    return attempt.c.task_try_time_returned - began


def _times(connection: Connection, run: Run) -> dict[str, tuple[float, float]]:
    attempt, task = schema.attempt, schema.task
    query = (
        select(task.c.task_func_name, func.avg(_took()), func.max(_took()))
        .join(task, (task.c.run_id == attempt.c.run_id) & (task.c.task_id == attempt.c.task_id))
        .where(attempt.c.run_id == run.run_id, attempt.c.task_try_time_returned.is_not(None))
        .group_by(task.c.task_func_name)
    )
    return {name: (mean, longest) for name, mean, longest in connection.execute(query)}


def _activity(connection: Connection, run: Run) -> str:
    """Chart how many tasks ended, over time."""
    task = schema.task
    width = max(run.duration_s / _POINTS, 1e-3)
    stretch = func.floor((task.c.task_time_returned - run.time_began) / width)
    query = (
        select(stretch.label("stretch"), func.count(), func.sum(case((task.c.task_state.in_(BAD), 1), else_=0)))
        .where(task.c.run_id == run.run_id, task.c.task_state.in_(FINAL), task.c.task_time_returned.is_not(None))
        .group_by("stretch")
        .order_by("stretch")
    )
    found = {min(_POINTS - 1, int(at)): int(count) for at, count, _ in connection.execute(query)}
    if not found:
        return ""
    rates = [found.get(i, 0) / width for i in range(_POINTS)]
    most = max(rates)
    return (
        "<h2>Tasks that ended, over time</h2>"
        + _chart(rates, f"Tasks that ended per second, over {duration(run.duration_s)}; at most {most:.3g} tasks/s")
    )  # fmt: skip


def _chart(values: Sequence[float], words: str) -> str:
    most = max(values, default=0.0) or 1.0
    step = 1000 / max(1, len(values) - 1)
    points = " ".join(f"L{i * step:.1f} {100 - 96 * value / most:.1f}" for i, value in enumerate(values))
    return (
        f'<figure><svg class="chart" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{_e(words)}"><path d="M0 100 {points} L1000 100Z"/></svg>'
        f"<figcaption>{_e(words)}</figcaption></figure>"
    )


def _failures(groups: list[FailureGroup], title: str, none: str) -> str:
    if not groups:
        return f"<h2>{title}</h2><p>{none}</p>" if none else ""
    rows = []
    for group in groups:
        apps = ", ".join(f"{name} ({count})" for name, count in group.apps.items())
        notes = "".join(f"<div class=soft>{_e(note)}</div>" for note in group.notes)
        what = "not run: " if group.state == "dep_fail" else ""
        rows.append(
            (
                f"<span class=bad>{group.count}</span>",
                f"<b>{_e(what + group.cause)}</b><pre>{_e(group.text)}</pre>{notes}",
                _e(apps),
                _e(", ".join(map(str, group.examples))),
                f"{clock(group.first)} to {clock(group.last)}",
            )
        )
    return f"<h2>{title}</h2>" + _table(
        ("Tasks", "Cause, and the first one's words", "Apps", "For example", "When"), rows
    )


def _longest(connection: Connection, run: Run) -> str:
    attempt, task = schema.attempt, schema.task
    took = _took().label("took")
    query = (
        select(attempt.c.task_id, task.c.task_func_name, attempt.c.task_executor, attempt.c.hostname, took)
        .join(task, (task.c.run_id == attempt.c.run_id) & (task.c.task_id == attempt.c.task_id))
        .where(attempt.c.run_id == run.run_id, attempt.c.task_try_time_returned.is_not(None))
        .order_by(desc("took"))
        .limit(10)
    )
    rows = [
        (str(task_id), _e(name), _e(executor), _e(host or ""), duration(max(0.0, seconds or 0.0)))
        for task_id, name, executor, host, seconds in connection.execute(query)
    ]
    if not rows:
        return ""
    return "<h2>Longest attempts</h2>" + _table(("Task", "App", "Executor", "Host", "Took"), rows, (0, 4))


def _use(points: list[UsePoint]) -> str:
    if not points:
        return ""
    cores, memory = [p.cores for p in points], [p.memory for p in points]
    span = duration(points[-1].at - points[0].at)
    return (
        "<h2>What tasks used</h2>"
        + _chart(cores, f"CPU cores in use, over {span}; at most {max(cores):.3g}")
        + _chart(memory, f"Resident memory of all tasks, over {span}; at most {max(memory) / 1e6:.4g} MB")
    )


def _blocks(connection: Connection, run: Run) -> str:
    blocks = queries.blocks(connection, run.run_id)
    if not blocks:
        return ""
    rows = [
        (
            _e(b.executor),
            _e(b.block_id),
            _e(b.job_id or ""),
            f"<span class={'bad' if b.status in ('FAILED', 'MISSING', 'TIMEOUT') else 'soft'}>{_e(b.status)}</span>",
            clock(b.requested),
            duration(b.running - b.requested) if b.running else "",
            duration(b.ended - b.requested) if b.ended else "",
            _e(b.message or ""),
        )
        for b in blocks[:_ROWS]
    ]
    more = f"<p class=soft>and {len(blocks) - _ROWS} more</p>" if len(blocks) > _ROWS else ""
    head = ("Executor", "Block", "Job", "Status", "Asked for", "Began after", "Ended after", "What its provider said")
    return "<h2>Blocks</h2>" + _table(head, rows) + more


def _nodes(connection: Connection, run: Run) -> str:
    nodes = queries.nodes(connection, run.run_id)
    if not nodes:
        return ""
    rows = [
        (
            _e(n.hostname),
            _e(n.executor or ""),
            _e(n.block_id or ""),
            str(n.worker_count or ""),
            str(n.cpu_count or ""),
            f"{n.total_memory / 1e9:.1f} GB" if n.total_memory else "",
            clock(n.connected),
        )
        for n in nodes[:_ROWS]
    ]
    more = f"<p class=soft>and {len(nodes) - _ROWS} more</p>" if len(nodes) > _ROWS else ""
    head = ("Host", "Executor", "Block", "Workers", "CPUs", "Memory", "Connected")
    return "<h2>Nodes</h2>" + _table(head, rows, (3, 4, 5)) + more


def _graph(connection: Connection, run: Run, title: str) -> str:
    drawn = graphs.graph_of(connection, run.run_id, "state")
    if not drawn.nodes or len(drawn.nodes) > _MOST_NODES:
        return ""
    return f"<h2>Tasks and what they depend on</h2><div class=scroll>{graphs.svg(drawn, title)}</div>"
