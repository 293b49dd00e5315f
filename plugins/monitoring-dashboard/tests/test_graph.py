"""The picture of a task graph: depths, groups, places, bounds."""

from __future__ import annotations

import itertools

import pytest
from flowcore_monitoring_dashboard import graph
from flowcore_monitoring_dashboard.graph import GraphTask, draw


def diamond() -> list[GraphTask]:
    """0 before 1 and 2, both before 3; 4 alone."""
    return [
        GraphTask(0, "a", "exec_done", ()),
        GraphTask(1, "b", "exec_done", (0,)),
        GraphTask(2, "b", "failed", (0,)),
        GraphTask(3, "c", "dep_fail", (1, 2)),
        GraphTask(4, "a", "running", ()),
    ]


def fans(width: int) -> list[GraphTask]:
    """One task, many that wait for it, and one that waits for all of those."""
    tasks = [GraphTask(0, "start", "exec_done", ())]
    tasks += [GraphTask(i, "work", "exec_done" if i % 3 else "failed", (0,)) for i in range(1, width + 1)]
    return [*tasks, GraphTask(width + 1, "end", "dep_fail", tuple(range(1, width + 1)))]


def test_depths():
    assert graph.depths(diamond()) == {0: 0, 1: 1, 2: 1, 3: 2, 4: 0}


def test_a_dependency_that_is_not_there_or_later_counts_for_nothing():
    tasks = [GraphTask(0, "a", "joining", (1,)), GraphTask(1, "a", "running", (99,))]
    assert graph.depths(tasks) == {0: 0, 1: 0}


def test_few_tasks_are_drawn_one_by_one():
    picture = draw(diamond())
    assert not picture.grouped
    assert sorted(node.key for node in picture.nodes) == ["t0", "t1", "t2", "t3", "t4"]
    assert {(edge.source, edge.target) for edge in picture.edges} == {
        ("t0", "t1"), ("t0", "t2"), ("t1", "t3"), ("t2", "t3"),
    }  # fmt: skip
    assert (picture.tasks, picture.dependencies, picture.depth) == (5, 4, 3)
    x = {node.key: node.x for node in picture.nodes}
    assert x["t0"] == x["t4"] < x["t1"] == x["t2"] < x["t3"]


def test_of_many_those_of_one_app_and_depth_are_a_group_and_one_alone_is_none():
    picture = draw(fans(500))
    assert picture.grouped
    nodes = {node.key: node for node in picture.nodes}
    assert set(nodes) == {"t0", "1~work", "t501"}
    assert dict(nodes["1~work"].states) == {"exec_done": 334, "failed": 166}
    assert nodes["1~work"].count == 500
    assert {(edge.source, edge.target, edge.count) for edge in picture.edges} == {
        ("t0", "1~work", 500), ("1~work", "t501", 500),
    }  # fmt: skip


def test_a_group_is_opened_and_what_is_too_much_stays_a_group():
    picture = draw(fans(500), opened=["1~work", "7~nothing"])
    assert picture.opened == ("1~work",)
    members = [node for node in picture.nodes if node.task_id > 0 and node.group == "1~work"]
    assert [node.task_id for node in members] == list(range(1, graph.MEMBERS + 1))
    rest = next(node for node in picture.nodes if node.key == "1~work")
    assert rest.count == 500 - graph.MEMBERS


def test_a_chain_of_ten_thousand_is_bands():
    chain = [GraphTask(i, "step", "exec_done", (i - 1,) if i else ()) for i in range(10_000)]
    picture = draw(chain)
    assert picture.depth == 10_000
    assert len(picture.nodes) == graph.BANDS
    assert sum(node.count for node in picture.nodes) == 10_000
    ranges = sorted((node.first, node.last) for node in picture.nodes)
    assert ranges[0] == (0, 249)
    assert ranges[-1] == (9750, 9999)


def test_many_apps_are_bounded_and_the_rare_ones_are_one():
    tasks = [GraphTask(i, f"app{min(i, 699 - i) if i % 2 else i % 5}", "pending", ()) for i in range(700)]
    picture = draw(tasks)
    assert len(picture.nodes) <= graph.APPS
    assert graph.OTHERS in {node.app for node in picture.nodes}
    assert sum(node.count for node in picture.nodes) == 700


def test_edges_are_bounded_and_those_that_stand_for_most_stay():
    many = [GraphTask(i, "a", "exec_done", tuple(range(i)) if i > 40 else ()) for i in range(100)]
    picture = draw(many)
    assert len(picture.edges) == graph.EDGES
    assert picture.edges_left_out == sum(range(41, 100)) - graph.EDGES


@pytest.mark.parametrize(
    "tasks",
    [diamond(), fans(250), fans(40), [GraphTask(i, "s", "pending", (i - 1,) if i else ()) for i in range(90)]],
    ids=["diamond", "wide", "narrow", "chain"],
)
def test_no_box_covers_another_and_all_are_inside(tasks):
    picture = draw(tasks)
    for node in picture.nodes:
        assert 0 <= node.x <= picture.width - graph.NODE_WIDTH
        assert 0 <= node.y <= picture.height - graph.NODE_HEIGHT
    for one, other in itertools.combinations(picture.nodes, 2):
        apart = abs(one.x - other.x) >= graph.NODE_WIDTH or abs(one.y - other.y) >= graph.NODE_HEIGHT
        assert apart, (one, other)


def test_a_wide_layer_is_folded_to_the_shape_of_a_screen():
    picture = draw(fans(280))
    assert 1.2 < picture.width / picture.height < 3


def test_a_long_chain_is_drawn_in_lines():
    picture = draw([GraphTask(i, "step", "exec_done", (i - 1,) if i else ()) for i in range(200)])
    assert 1 < picture.width / picture.height < 4
    nodes = {node.key: node for node in picture.nodes}
    for before, after in itertools.pairwise(nodes[f"t{i}"] for i in range(200)):
        assert after.x > before.x or after.y > before.y


def test_nothing_is_a_picture_too():
    picture = draw([])
    assert (picture.nodes, picture.edges, picture.tasks, picture.depth) == ((), (), 0, 0)
