"""Draws the tasks of a run and what they depend on: as DOT for graphviz, and as SVG without it.

Rule of this module: a drawing that nobody could read is not made. Where there are many tasks, those of one app that are
equally deep are one node, which says how many they are.
"""

from __future__ import annotations

from html import escape
from typing import Any

import attrs
from sqlalchemy import Connection

from flowcore_monitoring_sqlite import queries

#: With more tasks than this, they are drawn in groups.
MOST_TASKS = 500
#: Tasks that are read at most.
MOST_READ = 1_000_000

#: Colours that most people can tell apart, with black on them.
_APPS = ("#8ecae6", "#ffd166", "#a7c957", "#f4a9a8", "#cdb4db", "#f7b267", "#b8c0ff", "#d6ccc2")
_STATES = {
    "pending": "#d9d9d9",
    "launched": "#bfd7ff",
    "running": "#8ecae6",
    "joining": "#8ecae6",
    "running_ended": "#8ecae6",
    "fail_retryable": "#ffd166",
    "exec_done": "#a7d99b",
    "memo_done": "#cdeac0",
    "failed": "#f28482",
    "dep_fail": "#f7b2a9",
    "several": "#ffe0b2",
}


@attrs.frozen
class GraphNode:
    """A task, or several that are drawn as one. ``depth`` is the length of the longest way to it."""

    key: str
    label: str
    details: str
    depth: int
    colour: str


@attrs.frozen
class Graph:
    """What is drawn. Edges are (from, to, number of dependencies, whether it is a join)."""

    nodes: list[GraphNode]
    edges: list[tuple[str, str, int, bool]]
    tasks: int
    legend: dict[str, str]


@attrs.define
class _Group:
    app: str
    depth: int
    ids: list[int] = attrs.Factory(list)
    states: dict[str, int] = attrs.Factory(dict)


def graph_of(connection: Connection, run_id: str, colour_by: str = "app", group: bool | None = None) -> Graph:
    """Return the graph of a run.

    Args:
        connection: to the database.
        run_id: the run.
        colour_by: ``app`` or ``state``.
        group: whether tasks of one app and depth are one node; None: where there are more than :data:`MOST_TASKS`.
    """
    tasks = queries.edges(connection, run_id, MOST_READ)
    joined = queries.joins(connection, run_id)
    grouped = len(tasks) > MOST_TASKS if group is None else group
    depths: dict[int, int] = {}
    groups: dict[str, _Group] = {}
    keys: dict[int, str] = {}
    for task_id, app, state, depends in tasks:
        # All dependencies are older tasks, and so have been seen.
        depth = depths[task_id] = 1 + max((depths.get(other, -1) for other in depends), default=-1)
        key = keys[task_id] = f"{app}@{depth}" if grouped else str(task_id)
        found = groups.get(key)
        if found is None:
            found = groups[key] = _Group(app, depth)
        found.ids.append(task_id)
        found.states[state] = found.states.get(state, 0) + 1
    edges: dict[tuple[str, str, bool], int] = {}
    for task_id, _, _, depends in tasks:
        for other in depends:
            if other in keys:
                edge = (keys[other], keys[task_id], False)
                edges[edge] = edges.get(edge, 0) + 1
        for other in joined.get(task_id, ()):
            if other in keys:
                edge = (keys[other], keys[task_id], True)
                edges[edge] = edges.get(edge, 0) + 1
    apps = {name: _APPS[i % len(_APPS)] for i, name in enumerate(dict.fromkeys(app for _, app, _, _ in tasks))}
    nodes = [_node(key, found, apps, colour_by) for key, found in groups.items()]
    shown = {_state(found) for found in groups.values()}
    legend = apps if colour_by == "app" else {name: colour for name, colour in _STATES.items() if name in shown}
    return Graph(nodes, [(a, b, n, joins) for (a, b, joins), n in edges.items()], len(tasks), legend)


def _state(group: _Group) -> str:
    return next(iter(group.states)) if len(group.states) == 1 else "several"


def _node(key: str, group: _Group, apps: dict[str, str], colour_by: str) -> GraphNode:
    count = len(group.ids)
    state = _state(group)
    label = f"{group.app} {group.ids[0]}" if count == 1 else f"{group.app} x {count}"
    ids = f"task {group.ids[0]}" if count == 1 else f"{count} tasks, {group.ids[0]} to {group.ids[-1]}"
    states = ", ".join(f"{number} {name}" for name, number in group.states.items()) if count > 1 else state
    colour = apps[group.app] if colour_by == "app" else _STATES.get(state, "#ffffff")
    return GraphNode(key, label, f"{group.app}: {ids}: {states}", group.depth, colour)


def dot(graph: Graph, title: str) -> str:
    """Return a graph in the language of graphviz."""
    lines = [
        f"digraph {_quoted(title)} {{",
        "  rankdir=TB;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
    ]
    for node in graph.nodes:
        lines.append(
            f"  {_quoted(node.key)} [label={_quoted(node.label)}, tooltip={_quoted(node.details)}, "
            f"fillcolor={_quoted(node.colour)}];"
        )
    for source, target, count, joins in graph.edges:
        facts = ([f'label="{count}"'] if count > 1 else []) + (["style=dashed"] if joins else [])
        options = f" [{', '.join(facts)}]" if facts else ""
        lines.append(f"  {_quoted(source)} -> {_quoted(target)}{options};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


_CHARACTER, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 6.8, 26.0, 14.0, 44.0, 20.0


def svg(graph: Graph, title: str) -> str:
    """Return a graph as a picture: layer by layer, those that depend on nothing at the top."""
    places = _places(graph)
    width = max((x + w for x, _, w in places.values()), default=200.0) + _MARGIN
    height = max((y + _HEIGHT for _, y, _ in places.values()), default=60.0) + _MARGIN
    width = max(width, _MARGIN + len(title) * 9.0, _MARGIN + sum(_legend_width(name) for name in graph.legend))
    body: list[str] = []
    for source, target, count, joins in graph.edges:
        x1, y1, w1 = places[source]
        x2, y2, w2 = places[target]
        a, b, c, d = x1 + w1 / 2, y1 + _HEIGHT, x2 + w2 / 2, y2
        bend = max(18.0, (d - b) / 2)
        body.append(
            f'<path class="edge{" join" if joins else ""}" marker-end="url(#tip)" '
            f'd="M{a:.1f} {b:.1f} C{a:.1f} {b + bend:.1f} {c:.1f} {d - bend:.1f} {c:.1f} {d:.1f}">'
            f"<title>{count} {'joined' if joins else 'dependencies' if count > 1 else 'dependency'}</title></path>"
        )
    for node in graph.nodes:
        x, y, w = places[node.key]
        body.append(
            f'<g><title>{escape(node.details)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{_HEIGHT}" '
            f'rx="5" fill="{node.colour}"/><text x="{x + w / 2:.1f}" y="{y + 17:.1f}">{escape(node.label)}</text></g>'
        )
    legend, at = [], _MARGIN
    for name, colour in graph.legend.items():
        legend.append(
            f'<rect x="{at:.1f}" y="42" width="12" height="12" fill="{colour}"/>'
            f'<text class="plain" x="{at + 17:.1f}" y="52">{escape(name)}</text>'
        )
        at += _legend_width(name)
    return (
        f'<svg class="graph" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}: {graph.tasks} tasks">\n'
        # Of this picture alone: in a page, they would be for all that is there.
        "<style>.graph{background:#fff}.graph text{font:11px sans-serif;text-anchor:middle;fill:#111}"
        ".graph .plain,.graph .title{text-anchor:start}.graph .title{font-size:14px;font-weight:bold}"
        ".graph rect{stroke:#555;stroke-width:.7}.graph .edge{fill:none;stroke:#777}"
        ".graph .join{stroke-dasharray:4 3}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>\n'
        f'<text class="title" x="{_MARGIN}" y="26">{escape(title)}: {graph.tasks} tasks</text>\n'
        + "\n".join(legend + body)
        + "\n</svg>\n"
    )


def _legend_width(name: str) -> float:
    return 34.0 + len(name) * _CHARACTER


def _places(graph: Graph) -> dict[str, tuple[float, float, float]]:
    """Return x, y and width of each node: below what it depends on, and near it."""
    layers: dict[int, list[GraphNode]] = {}
    for node in graph.nodes:
        layers.setdefault(node.depth, []).append(node)
    sources: dict[str, list[str]] = {}
    for source, target, _, joins in graph.edges:
        if not joins:
            sources.setdefault(target, []).append(source)
    places: dict[str, tuple[float, float, float]] = {}

    def wanted(node: GraphNode) -> float:
        above = [places[key] for key in sources.get(node.key, ()) if key in places]
        return sum(x + w / 2 for x, _, w in above) / len(above) if above else 0.0

    for depth in sorted(layers):
        free, y = _MARGIN, 76.0 + depth * (_HEIGHT + _GAP_Y)
        for middle, node in sorted(((wanted(n), n) for n in layers[depth]), key=_first):
            w = 18.0 + len(node.label) * _CHARACTER
            x = max(free, middle - w / 2)
            places[node.key] = (x, y, w)
            free = x + w + _GAP_X
    return places


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]
