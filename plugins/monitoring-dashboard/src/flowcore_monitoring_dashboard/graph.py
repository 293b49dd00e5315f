"""The picture of a task graph: what stands where, and what is drawn as one.

Rule of this module: pure, and linear in tasks and dependencies; a picture has a bounded number of nodes and edges,
whatever the graph. Up to :data:`FEW` tasks are drawn one by one; of more, those of one app and one depth (the longest
way from a task that waits for nothing) are one group, which can be opened.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

import attrs

#: Tasks that are drawn one by one.
FEW = 300
#: Depths that are told apart in a picture of groups; more are put together in bands.
BANDS = 40
#: Apps that are told apart in a picture of groups: the most frequent.
APPS = 24
#: Members that are drawn of an opened group.
MEMBERS = 120
#: Edges that are drawn: those that stand for most dependencies.
EDGES = 1500
#: The app that stands for those beyond :data:`APPS`.
OTHERS = "other apps"

NODE_WIDTH = 150.0
NODE_HEIGHT = 30.0
_GAP_X = 84.0
_GAP_COLUMN = 14.0
_GAP_Y = 12.0
_GAP_LINE = 36.0
#: What fits without being folded: boxes in a column, and the width of a line.
_FEW_ROWS = 8
_SHORT_LINE = 2400.0
_MARGIN = 16.0
#: Width of a picture by its height.
_SHAPE = 2.0


@attrs.frozen
class GraphTask:
    """A task as far as the picture needs it. ``depends`` are ids of tasks."""

    task_id: int
    app: str
    state: str
    depends: Sequence[int]


@attrs.frozen
class Node:
    """One box. Lengths are in units of the picture; (x, y) is its upper left corner.

    Attributes:
        key: identifies it within the picture, and after reloading.
        app: the app of its tasks.
        states: (state, number of tasks), the most frequent first.
        first, last: the depths of its tasks.
        task_id: the task, if it stands for one; -1 for a group.
        group: the key of the group: its own, or of that which its task was opened from; "" where there are no groups.
    """

    key: str
    app: str
    states: tuple[tuple[str, int], ...]
    first: int
    last: int
    task_id: int = -1
    group: str = ""
    x: float = 0.0
    y: float = 0.0

    @property
    def count(self) -> int:
        """How many tasks it stands for."""
        return sum(count for _, count in self.states)


@attrs.frozen
class Edge:
    """Dependencies of one box's tasks on another's: ``source`` and ``target`` are keys, ``path`` is SVG's."""

    source: str
    target: str
    count: int
    path: str


@attrs.frozen
class Picture:
    """A drawn graph.

    Attributes:
        nodes, edges: what is drawn.
        width, height: its size.
        tasks, dependencies: how many it stands for.
        depth: the number of layers of the graph.
        edges_left_out: how many edges are not drawn, as there are too many.
        grouped: whether boxes stand for groups.
        opened: keys of the groups that are drawn opened.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float
    tasks: int
    dependencies: int
    depth: int
    edges_left_out: int
    grouped: bool
    opened: tuple[str, ...]


def depths(tasks: Iterable[GraphTask]) -> dict[int, int]:
    """Return the depth of each task: 0 if it waits for nothing, else one more than the deepest it waits for.

    Args:
        tasks: in the order of their ids. A dependency on a later task, or on one that is not there, counts for nothing.
    """
    found: dict[int, int] = {}
    for task in tasks:
        found[task.task_id] = max((found[other] + 1 for other in task.depends if other in found), default=0)
    return found


def draw(tasks: Sequence[GraphTask], opened: Collection[str] = (), few: int = FEW) -> Picture:
    """Draw a graph, layered from left to right by depth.

    Args:
        tasks: in the order of their ids.
        opened: keys of groups whose members are drawn one by one, the first :data:`MEMBERS` of each.
        few: up to how many tasks are drawn one by one.
    """
    depth = depths(tasks)
    deepest = max(depth.values(), default=-1)
    grouped = len(tasks) > few
    boxes, home, opened_now = _groups(tasks, depth, opened) if grouped else _singles(tasks, depth)
    counts: Counter[tuple[str, str]] = Counter()
    dependencies = 0
    for task in tasks:
        target = home[task.task_id]
        for other in task.depends:
            source = home.get(other)
            if source is not None:
                dependencies += 1
                if source != target:
                    counts[source, target] += 1
    placed = _place(boxes, counts)
    drawn = counts.most_common(EDGES)
    at = {node.key: node for node in placed}
    edges = tuple(Edge(s, t, count, _curve(at[s], at[t])) for (s, t), count in drawn)
    return Picture(
        nodes=tuple(placed),
        edges=edges,
        width=max((n.x for n in placed), default=0.0) + NODE_WIDTH + _MARGIN,
        height=max((n.y for n in placed), default=0.0) + NODE_HEIGHT + _MARGIN,
        tasks=len(tasks),
        dependencies=dependencies,
        depth=deepest + 1,
        edges_left_out=len(counts) - len(drawn),
        grouped=grouped,
        opened=opened_now,
    )


_Boxes = dict[str, Node]
_Homes = dict[int, str]


def _single(task: GraphTask, depth: int, group: str) -> Node:
    return Node(f"t{task.task_id}", task.app, ((task.state, 1),), depth, depth, task.task_id, group)


def _singles(tasks: Sequence[GraphTask], depth: dict[int, int]) -> tuple[_Boxes, _Homes, tuple[str, ...]]:
    boxes = {f"t{task.task_id}": _single(task, depth[task.task_id], "") for task in tasks}
    return boxes, {task.task_id: f"t{task.task_id}" for task in tasks}, ()


def _groups(
    tasks: Sequence[GraphTask], depth: dict[int, int], opened: Collection[str]
) -> tuple[_Boxes, _Homes, tuple[str, ...]]:
    frequent = Counter(task.app for task in tasks)
    kept = set(frequent) if len(frequent) <= APPS else {app for app, _ in frequent.most_common(APPS - 1)}
    # Bands of equal width: a chain of ten thousand tasks is forty boxes.
    band = math.ceil((max(depth.values()) + 1) / BANDS)
    members: defaultdict[str, list[GraphTask]] = defaultdict(list)
    for task in tasks:
        app = task.app if task.app in kept else OTHERS
        members[f"{depth[task.task_id] // band}~{app}"].append(task)
    boxes: _Boxes = {}
    home: _Homes = {}
    now = []
    for key, inside in members.items():
        rest = inside
        if key in opened:
            now.append(key)
            for task in inside[:MEMBERS]:
                box = _single(task, depth[task.task_id], key)
                boxes[box.key] = box
                home[task.task_id] = box.key
            rest = inside[MEMBERS:]
        if len(rest) == 1 and key not in opened:
            # One is no group.
            box = _single(rest[0], depth[rest[0].task_id], key)
            boxes[box.key] = box
            home[rest[0].task_id] = box.key
        elif rest:
            levels = [depth[task.task_id] for task in rest]
            boxes[key] = Node(
                key, key.partition("~")[2], tuple(Counter(task.state for task in rest).most_common()),
                min(levels), max(levels), group=key,
            )  # fmt: skip
            home.update((task.task_id, key) for task in rest)
    return boxes, home, tuple(now)


def _place(boxes: _Boxes, counts: Counter[tuple[str, str]]) -> list[Node]:
    """Give each box its place: a layer per depth, in columns if it is tall, neighbours of neighbours close together."""
    layers: defaultdict[int, list[Node]] = defaultdict(list)
    for node in boxes.values():
        layers[node.first].append(node)
    before: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for (source, target), count in counts.items():
        before[target].append((source, count))
    rows = _rows([len(layer) for layer in layers.values()])
    height = min(rows, max(map(len, layers.values()), default=0)) * (NODE_HEIGHT + _GAP_Y)
    placed: dict[str, Node] = {}
    # As text is: line below line, if all in one line would be too long.
    columns = {depth: math.ceil(len(layer) / rows) for depth, layer in layers.items()}
    widths = {d: n * (NODE_WIDTH + _GAP_COLUMN) - _GAP_COLUMN + _GAP_X for d, n in columns.items()}
    longest = _line_width(sum(widths.values()), height)
    x, line = _MARGIN, 0
    for depth, layer in sorted(layers.items()):
        if x > _MARGIN and x + widths[depth] > longest:
            x, line = _MARGIN, line + 1
        # Where the mean of what a box waits for stands; those without stay in their order.
        pull: dict[str, float] = {}
        for node in layer:
            known = [(placed[key].y, count) for key, count in before[node.key] if key in placed]
            weight = sum(count for _, count in known)
            pull[node.key] = sum(y * count for y, count in known) / weight if weight else -1.0
        layer.sort(key=lambda node: pull[node.key])
        per_column = math.ceil(len(layer) / columns[depth])
        for i, node in enumerate(layer):
            column, row = divmod(i, per_column)
            in_this = min(per_column, len(layer) - column * per_column)
            top = _MARGIN + line * (height + _GAP_LINE) + (height - in_this * (NODE_HEIGHT + _GAP_Y) + _GAP_Y) / 2
            placed[node.key] = attrs.evolve(
                node, x=x + column * (NODE_WIDTH + _GAP_COLUMN), y=top + row * (NODE_HEIGHT + _GAP_Y)
            )
        x += widths[depth]
    return list(placed.values())


def _line_width(width: float, height: float) -> float:
    """Return how wide a line of layers may be.

    Args:
        width, height: of all layers in one line.
    """
    if width <= max(_SHORT_LINE, 3 * _SHAPE * height):
        return math.inf
    lines = max(1, round(math.sqrt(width / (_SHAPE * (height + _GAP_LINE)))))
    return width / lines + NODE_WIDTH


def _rows(sizes: Sequence[int]) -> int:
    """Return how many boxes may stand in a column, so that the picture has about the shape of a screen.

    Args:
        sizes: the number of boxes in each layer.
    """

    def distance(rows: int) -> float:
        columns = sum(math.ceil(size / rows) for size in sizes)
        width = columns * (NODE_WIDTH + _GAP_COLUMN) + len(sizes) * (_GAP_X - _GAP_COLUMN)
        return abs(math.log(width / (min(rows, max(sizes)) * (NODE_HEIGHT + _GAP_Y)) / _SHAPE))

    if not sizes:
        return 1
    tallest = max(sizes)
    return min(range(min(_FEW_ROWS, tallest), tallest + 1), key=distance)


def _curve(source: Node, target: Node) -> str:
    """Return an SVG path from the right side of a box to the left side of another."""
    x1, y1 = source.x + NODE_WIDTH, source.y + NODE_HEIGHT / 2
    x2, y2 = target.x, target.y + NODE_HEIGHT / 2
    if x2 >= x1 or (x2 < source.x and abs(target.y - source.y) > NODE_HEIGHT):
        # Also from the end of a line to the beginning of another.
        bend = (x2 - x1) / 2 if x2 >= x1 else _GAP_X
        return f"M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    # Within one layer (a band of depths, or two columns): around the outside.
    x2 = target.x + NODE_WIDTH
    bend = max(x1, x2) + _GAP_X / 2
    return f"M{x1:.0f} {y1:.0f}C{bend:.0f} {y1:.0f} {bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
