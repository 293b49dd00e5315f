"""The pages and the charts' data: what each asks the database, and shows.

Rule of this module: a page is a function of a connection, a run and the query of its address, and nothing else; so its
answer can be kept until the database has changed. What an address asks for that is not there raises :class:`Missing`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from flowcore_monitoring_sqlite import queries
from flowcore_monitoring_sqlite.queries import FINAL, AppCounts, Run
from sqlalchemy import Connection

from flowcore_monitoring_dashboard import attempts, charts, graph, questions
from flowcore_monitoring_dashboard import resources as usage
from flowcore_monitoring_dashboard.attempts import Bar
from flowcore_monitoring_dashboard.charts import Chart
from flowcore_monitoring_dashboard.rendering import colours_of, query_of, render

#: Rows of a list on one page.
ROWS = 100
#: Workflows on one page.
RUNS = 50
#: Tasks that a graph is drawn of.
GRAPH_TASKS = 100_000


class Missing(Exception):
    """What was asked for is not there.

    Args:
        text: what, in a sentence.
    """


@attrs.frozen
class Asked:
    """What a page is made of: the database, the run, and what the address asks for."""

    connection: Connection
    run: Run
    query: Mapping[str, str]
    several: Mapping[str, list[str]]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.run_id

    def text(self, name: str, allowed: tuple[str, ...] = ()) -> str:
        """Return a value of the query, or ""; the first of those allowed if it is none of them."""
        value = self.query.get(name, "").replace("\0", "")
        return value if not allowed or value in allowed else allowed[0]

    def number(self, name: str) -> int:
        """Return a value of the query that should be a count; 0 if it is none."""
        return _count(self.query.get(name, ""))

    def moment(self, name: str) -> float | None:
        """Return a value of the query that should be epoch seconds; None if it is none."""
        try:
            value = float(self.query.get(name, ""))
        except ValueError:
            return None
        return value if math.isfinite(value) and 0 <= value < 1e11 else None

    @functools.cached_property
    def apps(self) -> list[AppCounts]:
        """The apps of the run."""
        return queries.counts_by_app(self.connection, self.run_id)

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each app."""
        return {app: f"app-{i}" for app, i in colours_of(app.name for app in self.apps).items()}

    def window(self) -> tuple[float, float]:
        """Return the stretch of time that the address asks for; by default, from the run's begin to its end."""
        last = None if self.run.state == "running" else questions.last_moment(self.connection, self.run_id)
        return charts.window(self.run, last, self.moment("from"), self.moment("to"), time.time())


#: What databases can count to.
_MOST = 2**31 - 1


def _count(text: str) -> int:
    """Return what should be a count; 0 if it is none, and at most what databases can count to."""
    try:
        return min(_MOST, max(0, int(text)))
    except ValueError:
        return 0


def _page(template: str, asked: Asked, tab: str, **values: Any) -> str:
    return render(
        template, run=asked.run, base=charts.path_of(asked.run), tab=tab, colours=asked.colours, query=asked.query,
        live=asked.run.state in ("running", "silent"),
        behind=queries.rows_are_behind(asked.connection, asked.run_id), **values,
    )  # fmt: skip


def workflows(connection: Connection, query: Mapping[str, str]) -> str:
    """Return the page of all workflows."""
    offset = _count(query.get("offset", ""))
    runs = queries.runs(connection, RUNS, offset)
    return render(
        "workflows.html", runs=runs, total=queries.number_of_runs(connection), offset=offset, limit=RUNS,
        counts=questions.total_tasks(connection, [run.run_id for run in runs]),
        live=any(run.state in ("running", "silent") for run in runs),
    )  # fmt: skip


# --- pages of a run


def summary(asked: Asked) -> str:
    """Return a workflow's summary."""
    counts = queries.counts_by_state(asked.connection, asked.run_id)
    done = sum(counts.get(state, 0) for state in FINAL)
    return _page(
        "summary.html", asked, "summary", counts=counts, total=sum(counts.values()), done=done,
        rate=queries.rate(asked.connection, asked.run, time.time()),
        apps=asked.apps, failures=queries.failures(asked.connection, asked.run_id, limit=3),
        blocks=queries.blocks(asked.connection, asked.run_id),
        workers=queries.workers(asked.connection, asked.run_id),
    )  # fmt: skip


def task_graph(asked: Asked) -> str:
    """Return the page of the task graph."""
    rows = queries.edges(asked.connection, asked.run_id, GRAPH_TASKS)
    opened = asked.several.get("open", [])[:12]
    picture = graph.draw([graph.GraphTask(*row) for row in rows], opened)
    colour = asked.text("colour", ("app", "state"))

    def toggled(key: str) -> str:
        """Return the address of the picture with a group opened, or closed again."""
        now = [k for k in picture.opened if k != key] if key in picture.opened else [*picture.opened, key]
        return query_of([("colour", "state" if colour == "state" else None), *(("open", k) for k in now)])

    return _page(
        "graph.html", asked, "graph", picture=picture, colour=colour, toggled=toggled,
        counts=queries.counts_by_state(asked.connection, asked.run_id), apps=asked.apps,
        left_out=max(0, sum(app.total for app in asked.apps) - len(rows)),
        node_width=graph.NODE_WIDTH, node_height=graph.NODE_HEIGHT, members=graph.MEMBERS,
        open_query=query_of(("open", key) for key in picture.opened),
    )  # fmt: skip


def tasks(asked: Asked) -> str:
    """Return the list of tasks."""
    app, state, cause, offset = asked.text("app"), asked.text("state"), asked.text("cause"), asked.number("offset")
    if cause:
        ids, total = questions.tasks_of_cause(asked.connection, asked.run_id, cause, ROWS, offset)
        found = questions.tasks_by_id(asked.connection, asked.run_id, ids)
    else:
        found = queries.tasks(asked.connection, asked.run_id, app or None, state or None, ROWS, offset)
        counts = queries.counts_by_state(asked.connection, asked.run_id, app or None)
        total = counts.get(state, 0) if state else sum(counts.values())
    return _page(
        "tasks.html", asked, "tasks", tasks=found, total=total, offset=offset, limit=ROWS, app=app, state=state,
        cause=cause, apps=asked.apps, states=queries.STATES, now=time.time(),
    )  # fmt: skip


def task(asked: Asked, task_id: int) -> str:
    """Return the page of a task."""
    story = queries.task_story(asked.connection, asked.run_id, task_id) if task_id <= _MOST else None
    if story is None:
        raise Missing(f"Workflow {asked.run.name} has no task {task_id}.")
    return _page(
        "task.html", asked, "tasks", story=story, task=story.task, use={use.try_id: use for use in story.use},
        now=time.time(),
    )  # fmt: skip


def app(asked: Asked, name: str) -> str:
    """Return the page of an app."""
    found = next((app for app in asked.apps if app.name == name), None)
    if found is None:
        raise Missing(f"Workflow {asked.run.name} has no app {name!r}.")
    lengths, longest = attempts.durations(asked.connection, asked.run_id, name)
    return _page(
        "app.html", asked, "summary", app=found,
        durations=lengths, longest=longest,
        sampled=usage.has_samples(asked.connection, asked.run_id),
    )  # fmt: skip


def timeline(asked: Asked) -> str:
    """Return the page of tasks over time."""
    return _page(
        "timeline.html", asked, "timeline", apps=asked.apps, states=queries.STATES, app=asked.text("app"),
        state=asked.text("state"), colour=asked.text("colour", ("app", "state")),
    )  # fmt: skip


def workers(asked: Asked) -> str:
    """Return the page of workers over time."""
    _, total = attempts.lanes(asked.connection, asked.run_id, *asked.window(), limit=0)
    return _page(
        "workers.html", asked, "workers", total=total, offset=asked.number("offset"), limit=attempts.LANES
    )  # fmt: skip


def resources(asked: Asked) -> str:
    """Return the page of resource use."""
    by = asked.text("by", ("workflow", "app", "task", "node"))
    top = []
    if by == "task":
        top = usage.heaviest(asked.connection, asked.run_id, asked.text("order", ("memory", "cpu")))
    return _page(
        "resources.html", asked, "resources", by=by, top=top, order=asked.text("order", ("memory", "cpu")),
        nodes=queries.nodes(asked.connection, asked.run_id),
        sampled=usage.has_samples(asked.connection, asked.run_id),
    )  # fmt: skip


def blocks(asked: Asked) -> str:
    """Return the page of blocks and nodes."""
    return _page(
        "blocks.html", asked, "blocks", blocks=queries.blocks(asked.connection, asked.run_id),
        nodes=queries.nodes(asked.connection, asked.run_id),
        end=questions.last_moment(asked.connection, asked.run_id) or asked.run.heartbeat,
    )  # fmt: skip


def failures(asked: Asked) -> str:
    """Return the page of failures by cause."""
    ends = queries.failures(asked.connection, asked.run_id, examples=8)
    again = queries.failures(asked.connection, asked.run_id, ("fail_retryable",), examples=8)
    traces = {
        group.cause: questions.tracebacks(asked.connection, asked.run_id, group.cause)
        for group in (*ends[:20], *again[:20])
    }
    return _page("failures.html", asked, "failures", ends=ends, again=again, traces=traces)


# --- data of charts


def busy_chart(asked: Asked) -> Chart:
    """Return the chart of how many attempts are at work."""
    begin, end = asked.window()
    return charts.busy(asked.run, attempts.busy(asked.connection, asked.run_id, begin, end), asked.colours)


def gantt_chart(asked: Asked) -> Chart:
    """Return the chart of tasks."""
    begin, end = asked.window()
    app, state = asked.text("app") or None, asked.text("state") or None
    found, count = attempts.bars(asked.connection, asked.run_id, begin, end, app, state)
    colours, by_state = asked.colours, asked.text("colour") == "state"

    def colour_of(bar: Bar) -> tuple[str, str]:
        return (f"state-{bar.state}", bar.state) if by_state else (colours.get(bar.app, "others"), bar.app)

    return charts.gantt(asked.run, found, count, begin, end, colour_of)


def workers_chart(asked: Asked) -> Chart:
    """Return the chart of workers."""
    begin, end = asked.window()
    offset = asked.number("offset")
    found, count = attempts.lanes(asked.connection, asked.run_id, begin, end, offset)
    return charts.workers(asked.run, found, count, begin, end, offset, asked.colours)


def blocks_chart(asked: Asked) -> Chart:
    """Return the chart of blocks."""
    return charts.blocks(asked.run, queries.blocks(asked.connection, asked.run_id), *asked.window())


def resources_chart(asked: Asked) -> Chart:
    """Return the chart of CPU or memory: of the run, of each app or node, of the heaviest tasks, or of one."""
    what = asked.text("what", ("cpu", "memory"))
    by = asked.text("by", ("workflow", "app", "task", "node"))
    if by == "task":
        if asked.query.get("task"):
            ids = [asked.number("task")]
            of = f"of task {ids[0]}"
        else:
            order = asked.text("order", ("memory", "cpu"))
            ids = [row.task_id for row in usage.heaviest(asked.connection, asked.run_id, order, limit=8)]
            of = f"of the tasks that used most {'CPU' if order == 'cpu' else 'memory'}"
        return charts.used_by_tasks(usage.used_by_tasks(asked.connection, asked.run_id, ids), what, of)
    app = asked.text("app") or None
    found = usage.used(asked.connection, asked.run_id, by, app=app)
    of = f"of app {app}" if app else "of the whole workflow" if by == "workflow" else f"by {by}"
    numbered = {name: f"app-{i % 10}" for i, name in enumerate(sorted(found.cores))}
    colours = asked.colours if by == "app" else numbered
    return charts.used(found, what, of, colours)


def durations_chart(asked: Asked) -> Chart:
    """Return the histogram of an app's attempts."""
    name = asked.text("app")
    found = attempts.histogram(asked.connection, asked.run_id, name)
    return charts.durations(found, name, asked.colours.get(name, "others"))


#: Pages of a run, by the last part of their address.
PAGES: dict[str, Callable[[Asked], str]] = {
    "": summary,
    "graph": task_graph,
    "tasks": tasks,
    "timeline": timeline,
    "workers": workers,
    "resources": resources,
    "blocks": blocks,
    "failures": failures,
}
#: Data of charts, by the last part of their address.
CHARTS: dict[str, Callable[[Asked], Chart]] = {
    "busy": busy_chart,
    "gantt": gantt_chart,
    "workers": workers_chart,
    "blocks": blocks_chart,
    "resources": resources_chart,
    "durations": durations_chart,
}
