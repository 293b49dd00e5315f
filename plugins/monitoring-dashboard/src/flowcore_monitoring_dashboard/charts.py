"""What the charts of pages are drawn from: JSON for static/charts.js.

Rule of this module: a chart says in words what it shows (``label``), and gives a table of the same facts, for those who
do not see it; texts are plain text, and colours are names of the style sheet's (``app-3``, ``state-failed``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowcore_monitoring_sqlite.queries import Block, Run

from flowcore_monitoring_dashboard.attempts import Bar, Busy, Histogram, Lane
from flowcore_monitoring_dashboard.rendering import APP_COLOURS, about, number, quoted, size, span
from flowcore_monitoring_dashboard.resources import Used, UsedByTask

Chart = dict[str, Any]
#: Rows of the table beside a chart of a series.
_ROWS = 24
#: Series in one chart; the smaller ones become one.
_SERIES = 9


def path_of(run: Run) -> str:
    """Return the address of a run's pages."""
    return f"/workflow/{quoted(run.run_id)}"


def series(
    times: Sequence[float],
    values: Mapping[str, Sequence[float]],
    *,
    label: str,
    unit: str,
    shown: Callable[[float], str],
    colours: Mapping[str, str],
    stacked: bool = True,
    note: str = "",
) -> Chart:
    """Return a chart of values over time.

    Args:
        times: of the values, epoch seconds.
        values: by name.
        label: what it shows, in words.
        unit: of the values: "" or "bytes".
        shown: makes text of a value.
        colours: of the names.
        stacked: whether values of several names make a sum.
        note: what else to know.
    """
    ranked = sorted(values, key=lambda name: -sum(values[name]))
    kept = ranked if len(ranked) <= _SERIES else ranked[: _SERIES - 1]
    lines = {name: list(values[name]) for name in kept}
    rest = ranked[len(kept) :]
    if rest and stacked:
        lines[f"{len(rest)} others"] = [sum(column) for column in zip(*(values[name] for name in rest), strict=True)]
    step = max(1, -(-len(times) // _ROWS))
    rows = [
        [{"at": times[i]}, *(shown(sum(line[i : i + step]) / len(line[i : i + step])) for line in lines.values())]
        for i in range(0, len(times), step)
    ]
    return {
        "kind": "series",
        "label": label,
        "unit": unit,
        "stacked": stacked,
        "times": [round(at, 3) for at in times],
        "series": [
            {"name": name, "colour": colours.get(name, "others"), "values": [_short(v) for v in line]}
            for name, line in lines.items()
        ],
        "note": note,
        "table": {"columns": ["from", *lines], "rows": rows},
    }


def _short(value: float) -> float:
    return round(value) if abs(value) >= 1000 else round(value, 3)


def busy(run: Run, found: Busy, colours: Mapping[str, str]) -> Chart:
    """Return the chart of how many attempts were at work."""
    totals = [sum(column) for column in zip(*found.by_app.values(), strict=True)]
    most = max(totals, default=0.0)
    return series(
        found.times,
        found.by_app,
        label=f"Tasks at work over time, by app: {number(round(most))} at most, "
        f"{number(round(sum(totals) / max(1, len(totals)), 1))} on average",
        unit="",
        shown=lambda value: f"{value:.1f}",
        colours=colours,
        note=silence(found.silent),
    )


def silence(executors: Sequence[str]) -> str:
    """Return a sentence on executors that do not tell when attempts begin; "" if there are none."""
    if not executors:
        return ""
    names = ", ".join(executors)
    return (
        f"Executor {names} does not tell when an attempt begins: it counts as at work from its launch, unless its "
        "worker was at another one."
    )


def gantt(
    run: Run, bars: Sequence[Bar], count: int, begin: float, end: float, colour_of: Callable[[Bar], tuple[str, str]]
) -> Chart:
    """Return the chart of tasks: a row for each attempt, first waiting, then at work.

    Args:
        run: the run.
        bars: what is shown.
        count: of how many.
        begin, end: the time that is looked at.
        colour_of: gives the colour and its name for the legend.
    """
    drawn, rows = [], []
    for i, bar in enumerate(bars):
        stop = bar.end if bar.end is not None else end
        colour, name = colour_of(bar)
        where = f"{bar.host} worker {bar.worker}".strip() if bar.host or bar.worker else "unknown place"
        goes_on = " (so far)" if bar.end is None else ""
        text = [
            f"task {bar.task_id}: {bar.app}" + (f", try {bar.try_id}" if bar.try_id else ""),
            f"{bar.state}; {span(stop - bar.begin)}{goes_on}, after {span(bar.begin - bar.waiting_since)} of waiting",
            where,
        ]
        if bar.error:
            text.append(bar.error[:120])
        href = f"{path_of(run)}/tasks/{bar.task_id}"
        waited = bar.begin - bar.waiting_since
        if waited > (end - begin) / 500:
            drawn.append(_bar(i, bar.waiting_since, bar.begin, colour, name, text, href, waits=True))
        drawn.append(_bar(i, bar.begin, stop, colour, name, text, href))
        rows.append(
            [
                {"href": href, "text": str(bar.task_id)}, bar.app, bar.state, {"at": bar.begin},
                span(stop - bar.begin) + goes_on, span(waited), where,
            ]
        )  # fmt: skip
    left_out = count - len(bars)
    note = (
        f"The {number(len(bars))} longest of {number(count)} attempts in this stretch of time; a closer look shows "
        "the others."
        if left_out > 0
        else ""
    )
    return {
        "kind": "bars",
        "label": f"Attempts over time: {number(count)} in this stretch of {span(end - begin)}"
        + (f", of which the {number(len(bars))} longest are drawn" if left_out > 0 else ""),
        "begin": begin,
        "end": end,
        "lanes": [f"{bar.task_id}" for bar in bars],
        "named": len(bars) <= 60,
        "bars": drawn,
        "note": note,
        "table": {
            "columns": ["task", "app", "state", "began", "at work", "waited", "where"],
            "rows": rows[:100],
            "more": max(0, len(rows) - 100),
        },
    }


def workers(
    run: Run, lanes: Sequence[Lane], count: int, begin: float, end: float, offset: int, colours: Mapping[str, str]
) -> Chart:
    """Return the chart of workers: a row for each, with what it did."""
    drawn, rows = [], []
    for i, lane in enumerate(lanes):
        for stretch in lane.stretches:
            one = stretch.apps[0] if len(stretch.apps) == 1 else ""
            what = f"task {stretch.task_id}" if stretch.task_id >= 0 else f"{number(stretch.count)} tasks"
            text = [
                f"{what}: {', '.join(stretch.apps[:6])}",
                span(stretch.end - stretch.begin),
            ]
            href = f"{path_of(run)}/tasks/{stretch.task_id}" if stretch.task_id >= 0 else ""
            drawn.append(
                _bar(i, stretch.begin, stretch.end, colours.get(one, "others"), one or "several apps", text, href)
            )
        rows.append(
            [
                lane.host, lane.executor, lane.block_id, lane.worker, number(lane.count), span(lane.busy_s),
                f"{100 * lane.busy_s / max(end - begin, 1e-9):.0f} %",
            ]
        )  # fmt: skip
    at_work = sum(lane.busy_s for lane in lanes) / max(1e-9, (end - begin) * max(1, len(lanes)))
    of_all = f"{number(count)} workers"
    if count > len(lanes):
        of_all = f"Workers {offset + 1} to {offset + len(lanes)} of {number(count)}"
    return {
        "kind": "bars",
        "label": f"What workers did over time. {of_all}, at work for {100 * at_work:.0f} % of the time",
        "begin": begin,
        "end": end,
        "lanes": [_lane_name(lane, lanes) for lane in lanes],
        "named": True,
        # What is said of a bar begins with its lane.
        "titles": [
            f"{lane.host} worker {lane.worker}, {lane.executor} block {lane.block_id or '?'}".strip() for lane in lanes
        ],
        "bars": drawn,
        "note": f"{of_all}; at work for {100 * at_work:.0f} % of this stretch of time." if lanes else "",
        "table": {"columns": ["host", "executor", "block", "worker", "tasks", "at work", "share"], "rows": rows},
    }


def _lane_name(lane: Lane, lanes: Sequence[Lane]) -> str:
    """Return a short name of a worker, which none of the others has."""
    host = lane.host.partition(".")[0]
    others = {(other.executor, other.block_id) for other in lanes if other.host == lane.host}
    if len({executor for executor, _ in others}) > 1:
        host = f"{host} {lane.executor}"
    if len(others) > 1 and lane.block_id:
        host = f"{host} {lane.block_id}"
    return f"{host} · {lane.worker}"


def blocks(run: Run, found: Sequence[Block], begin: float, end: float) -> Chart:
    """Return the chart of blocks: first waiting in the scheduler's queue, then at work."""
    drawn, rows = [], []
    for i, block in enumerate(found):
        stop = block.ended if block.ended is not None else end
        began = block.running if block.running is not None else stop
        text = [f"{block.executor} block {block.block_id}, job {block.job_id or '?'}", block.status]
        if block.message:
            text.append(block.message[:120])
        colour = f"block-{block.status.lower()}"
        drawn.append(_bar(i, block.requested, began, colour, block.status, text, "", waits=True))
        if block.running is not None:
            drawn.append(_bar(i, began, stop, colour, block.status, text, ""))
        rows.append([block.executor, block.block_id, block.status, span(began - block.requested), span(stop - began)])
    return {
        "kind": "bars",
        "label": f"{number(len(found))} blocks over time: waiting, then running",
        "begin": begin,
        "end": end,
        "lanes": [f"{block.executor} {block.block_id}" for block in found],
        "named": len(found) <= 80,
        "bars": drawn,
        "note": "",
        "table": {"columns": ["executor", "block", "status", "waited", "ran"], "rows": rows[:100]},
    }


def _bar(
    lane: int, begin: float, end: float, colour: str, name: str, text: Sequence[str], href: str, waits: bool = False
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "lane": lane, "from": round(begin, 4), "to": round(end, 4), "colour": colour, "name": name,
        "text": list(text), "href": href,
    }  # fmt: skip
    if waits:
        found["waits"] = True
    return found


def used(found: Used, what: str, of: str, colours: Mapping[str, str]) -> Chart:
    """Return the chart of CPU or memory over time.

    Args:
        found: what was used.
        what: ``cpu`` or ``memory``.
        of: whose, in words.
        colours: of the names.
    """
    values = found.cores if what == "cpu" else found.memory
    columns = list(zip(*values.values(), strict=True))
    most = max((sum(column) for column in columns), default=0.0)
    shown: Callable[[float], str] = (lambda v: f"{v:.2f}") if what == "cpu" else size
    name = "CPU cores in use" if what == "cpu" else "Resident memory"
    note = f"Estimated from every {_ordinal(found.every)} task." if found.every > 1 else ""
    return series(
        found.times, values, label=f"{name} over time, {of}: {shown(most)} at most",
        unit="" if what == "cpu" else "bytes", shown=shown, colours=colours, note=note,
    )  # fmt: skip


def used_by_tasks(found: Mapping[int, UsedByTask], what: str, of: str) -> Chart:
    """Return the chart of CPU or memory of some tasks, from sample to sample.

    Args:
        found: what they used.
        what: ``cpu`` or ``memory``.
        of: whose, in words.
    """
    shown: Callable[[float], str] = (lambda v: f"{v:.2f}") if what == "cpu" else size
    lines, rows, most = [], [], 0.0
    for i, (task_id, use) in enumerate(found.items()):
        values = use.cores if what == "cpu" else use.memory
        most = max([most, *(value for value in values if value is not None)])
        lines.append(
            {
                "name": f"task {task_id}",
                "colour": f"app-{i % APP_COLOURS}",
                "times": [round(at, 3) for at in use.times],
                "values": [None if value is None else _short(value) for value in values],
                # CPU is what was used until the next sample; memory is that of the moment.
                "shape": "hv" if what == "cpu" else "linear",
            }
        )
        step = max(1, -(-len(use.times) // _ROWS))
        for at, value in list(zip(use.times, values, strict=True))[::step]:
            if value is not None:
                rows.append([str(task_id), {"at": at}, shown(value)])
    name = "CPU cores in use" if what == "cpu" else "Resident memory"
    return {
        "kind": "series",
        "label": f"{name} over time, {of}: {shown(most)} at most",
        "unit": "" if what == "cpu" else "bytes",
        "stacked": False,
        "times": [at for use in found.values() for at in use.times[:1]],
        "series": lines,
        "note": "",
        "table": {"columns": ["task", "sample", name], "rows": rows[:200]},
    }


def _ordinal(value: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{value}{'th' if value % 100 in (11, 12, 13) else endings.get(value % 10, 'th')}"


def durations(found: Histogram, app: str, colour: str) -> Chart:
    """Return the histogram of how long the attempts of an app took.

    Args:
        found: how many took how long.
        app: its name.
        colour: its colour.
    """
    steps = found.steps
    total = sum(count for _, _, count in steps)
    what = (
        f"{number(total)} attempts, from {about(steps[0][0])} to {about(steps[-1][1])}" if steps else "none has ended"
    )
    return {
        "kind": "histogram",
        "label": f"How long attempts of {app} took: {what}",
        "colour": colour,
        "steps": [{"from": about(low), "to": about(high), "count": count} for low, high, count in steps],
        "note": silence(found.silent),
        "table": {
            "columns": ["from", "to", "attempts"],
            "rows": [[about(low), about(high), number(count)] for low, high, count in steps],
        },
    }


def window(run: Run, last: float | None, begin: float | None, end: float | None, now: float) -> tuple[float, float]:
    """Return the stretch of time that a chart shows.

    Args:
        run: the run.
        last: when something happened last.
        begin, end: what was asked for; None: all.
        now: epoch seconds.
    """
    whole = now if run.state == "running" else max(last or run.time_began, run.time_began)
    start = run.time_began if begin is None else begin
    stop = whole if end is None else end
    return (start, stop) if stop - start >= 1e-3 else (start, start + 1e-3)
