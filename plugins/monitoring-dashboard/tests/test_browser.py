"""The pages in a real browser: headless chromium, the command as a process, and people who hover, click and type."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboards import Runs, Served, dashboard
from flowcore_monitoring_sqlite import schema
from make_database import MadeRun, write
from sqlalchemy import Engine

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="the Python package playwright is not installed")
from playwright.sync_api import Page, expect

PAGES = [
    "", "/graph", "/graph?colour=state", "/tasks", "/tasks/20", "/timeline", "/timeline?colour=state", "/workers",
    "/resources", "/resources?by=app", "/resources?by=task", "/resources?by=node", "/blocks", "/failures",
    "/apps/simulate",
]  # fmt: skip
WAIT_MS = 15_000
expect.set_options(timeout=WAIT_MS)


class Watched:
    """A page of the browser, and what it complained of: nothing, or the test fails."""

    def __init__(self, browser: Any, base: str, **options: Any) -> None:
        self.base = base
        self.complaints: list[str] = []
        options = {"viewport": {"width": 1300, "height": 900}, "reduced_motion": "reduce", **options}
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._response)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._request)
        self.scripts: list[str] = []

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _failed(self, request: Any) -> None:
        # Of a page that was left.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {request.url} {request.failure}")

    def _request(self, request: Any) -> None:
        if request.resource_type == "script":
            self.scripts.append(request.url)
        if not request.url.startswith((self.base, "data:")):
            self.complaints.append(f"elsewhere: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"answer {response.status}: {response.url}")

    def go(self, path: str) -> Page:
        """Open a page, and wait for its charts."""
        self.page.goto(self.base + path)
        self.drawn()
        return self.page

    def drawn(self) -> None:
        """Wait until all charts are drawn."""
        for chart in self.page.locator("[data-chart]").all():
            expect(chart).to_have_attribute("data-drawn", re.compile(r"\d"))


Browse = Any


@pytest.fixture
def browse(browser: Any) -> Iterator[Browse]:
    """Opens pages of a dashboard; in the end none may have complained."""
    with contextlib.ExitStack() as stack:
        opened: list[Watched] = []

        def open_(base: str, **options: Any) -> Watched:
            watched = Watched(browser, base, **options)
            stack.callback(watched.context.close)
            opened.append(watched)
            return watched

        yield open_
        assert [complaint for watched in opened for complaint in watched.complaints] == []


def address(run: MadeRun) -> str:
    return f"/workflow/{run.run_id}"


# --- every page

#: What is looked for on every page: names, labels, headings, contrast.
CHECKS = (Path(__file__).parent / "checks.js").read_text().partition("\n")[2]


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("small", "light"), ("small", "dark"), ("large", "light"), ("stopped", "dark"), ("going", "light")],
)
def test_every_page(browse: Browse, served: Served, runs: Runs, kind: str, scheme: str):
    watched = browse(served.base, color_scheme=scheme)
    for path in ["/", *(address(getattr(runs, kind)) + page for page in PAGES)]:
        page = watched.go(path)
        expect(page.locator("h1")).to_have_count(1)
        assert page.evaluate(CHECKS) == [], path
        for chart in page.locator("[data-chart]").all():
            name = chart.get_attribute("id")
            assert len(chart.get_attribute("aria-label") or "") > 10
            page.locator(f"#{name}-table summary").click()
            expect(page.locator(f"#{name}-table table")).to_be_visible()
        assert watched.complaints == [], path


def test_a_narrow_window_shows_all_too(browse: Browse, served: Served, runs: Runs):
    watched = browse(served.base, viewport={"width": 400, "height": 800})
    for path in ["/", *(address(runs.small) + page for page in PAGES)]:
        page = watched.go(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path


def test_without_scripts_there_are_words_tables_and_times(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base, java_script_enabled=False).page
    page.goto(served.base + address(runs.small))
    expect(page.locator("#facts")).to_contain_text("UTC")
    expect(page.locator("#apps")).to_contain_text("simulate")


def test_times_are_those_of_the_browser(browse: Browse, served: Served, runs: Runs):
    shown = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        page = browse(served.base, timezone_id=zone).go(address(runs.small))
        text = page.locator("#facts time").first.inner_text()
        shown.append(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")))
    assert (shown[0] - shown[1]) / 3600 in (13, 14)


# --- going around


def test_from_the_workflows_to_a_task(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go("/")
    page.get_by_role("link", name=runs.small.name, exact=True).click()
    expect(page).to_have_title(re.compile("Summary"))
    page.get_by_role("link", name="simulate", exact=True).first.click()
    expect(page.locator("h1")).to_contain_text("simulate")
    page.locator("#app-longest").get_by_role("link").first.click()
    expect(page.locator("h1")).to_contain_text("Task")
    page.get_by_role("link", name="Workflows").click()
    expect(page.locator("h1")).to_have_text("Workflows")


def test_the_keyboard_reaches_the_tabs_and_the_content(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(address(runs.small))
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator(".tabs a").nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Tasks")


def test_tasks_are_filtered(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.large)}/tasks")
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("state=failed"))
    failed = sum(task.states[-1][1] == "failed" for task in runs.large.made)
    expect(page.locator("#tasks tbody tr")).to_have_count(failed)
    page.goto(f"{served.base}{address(runs.large)}/tasks")
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#tasks tbody th").first).to_have_text("100")


# --- the graph


def test_a_box_says_what_it_is_and_shows_what_it_is_connected_with(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.small)}/graph")
    task = next(task for task in runs.small.made if task.app == "analyse")
    page.locator(f"#n-t{task.task_id}").hover()
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip")).to_contain_text(f"task {task.task_id}: analyse")
    expect(page.locator("#tip")).to_contain_text(task.states[-1][1])
    for other in task.depends:
        expect(page.locator(f"#n-t{other}")).to_have_class(re.compile("near"))
    expect(page.locator("#graph .edges path.near").first).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    page.locator(f"#n-t{task.task_id}").click()
    expect(page.locator("h1")).to_contain_text(f"Task {task.task_id}")


def test_the_graph_by_keyboard(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.small)}/graph")
    graph = page.locator("#graph")
    graph.focus()
    whole = graph.get_attribute("viewBox")
    page.keyboard.press("+")
    near = graph.get_attribute("viewBox")
    assert float(near.split()[2]) < float(whole.split()[2])
    page.keyboard.press("ArrowRight")
    assert float(graph.get_attribute("viewBox").split()[0]) > float(near.split()[0])
    page.keyboard.press("0")
    assert graph.get_attribute("viewBox") == whole
    page.keyboard.press("Tab")
    expect(page.locator("#tip")).to_be_visible()
    focused = page.evaluate("document.activeElement.dataset.key")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(f"Task {focused[1:]}")


def test_the_graph_is_moved_by_the_mouse_and_that_is_no_click(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.small)}/graph")
    graph = page.locator("#graph")
    before = graph.get_attribute("viewBox")
    box = page.locator("#n-t0").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 45, steps=5)
    page.mouse.up()
    assert graph.get_attribute("viewBox") != before
    assert page.url.endswith("/graph")
    page.get_by_role("button", name="Fit").click()
    assert graph.get_attribute("viewBox") == before
    page.get_by_role("button", name="Zoom in").click()
    assert graph.get_attribute("viewBox") != before


def test_a_group_opens_and_closes_without_leaving_the_page(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.large)}/graph")
    page.evaluate("window.stayed = true")
    group = page.locator('[data-key="2~simulate"]')
    expect(group).to_have_attribute("aria-expanded", "false")
    group.hover()
    expect(page.locator("#tip")).to_contain_text("click to see its tasks")
    group.click()
    expect(page.locator(".node.single")).to_have_count(121)  # and the report
    expect(group).to_have_attribute("aria-expanded", "true")
    assert "open=2%7Esimulate" in page.url or "open=2~simulate" in page.url
    page.get_by_role("link", name="state", exact=True).click()
    expect(page.locator(".node.single")).to_have_count(121)
    page.evaluate("window.stayed = true")
    group.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".node.single")).to_have_count(1)
    assert page.evaluate("window.stayed")
    assert page.evaluate("document.activeElement.dataset.key") == "2~simulate"


# --- charts


def over(page: Page, bar: Any) -> tuple[float, float]:
    """Move the mouse over the middle of a bar, and return where that is."""
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*place)
    return place


def test_a_closer_look_at_the_timeline(browse: Browse, served: Served, runs: Runs):
    watched = browse(served.base)
    page = watched.go(f"{address(runs.large)}/timeline")
    expect(page.locator("#gantt-note")).to_contain_text("The 400 longest of")
    whole = page.locator("#gantt").get_attribute("aria-label")
    plot = page.locator("#gantt .nsewdrag").bounding_box()
    with page.expect_response(re.compile(r"gantt\.json\?.*from=")):
        page.mouse.move(plot["x"] + plot["width"] * 0.4, plot["y"] + 60)
        page.mouse.down()
        page.mouse.move(plot["x"] + plot["width"] * 0.5, plot["y"] + 60, steps=8)
        page.mouse.up()
    expect(page.locator("#gantt")).not_to_have_attribute("aria-label", whole)
    for name in ("Zoom in", "Later", "Earlier", "Zoom out"):
        with page.expect_response(re.compile(r"gantt\.json\?.*from=")):
            page.get_by_role("button", name=name, exact=True).first.click()
    page.get_by_role("button", name="All").click()
    expect(page.locator("#gantt")).to_have_attribute("aria-label", whole)


def test_a_bar_says_what_it_is_and_leads_to_its_task(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.small)}/timeline?app=simulate")
    place = over(page, page.locator("#gantt .barlayer .point path").last)
    expect(page.locator("#gantt .hoverlayer .hovertext")).to_contain_text("simulate")
    page.mouse.click(*place)
    expect(page.locator("h1")).to_contain_text("Task")
    expect(page.locator("h1")).to_contain_text("simulate")


def test_a_chart_has_a_table_whose_links_work(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base).go(f"{address(runs.small)}/timeline")
    page.locator("#gantt-table summary").focus()
    page.keyboard.press("Enter")
    page.locator("#gantt-table a").first.click()
    expect(page.locator("h1")).to_contain_text("Task")


def test_charts_follow_the_colours_of_the_system(browse: Browse, served: Served, runs: Runs):
    page = browse(served.base, color_scheme="light").go(address(runs.small))
    tick = page.locator("#busy .xtick text").first
    light = tick.evaluate("e => getComputedStyle(e).fill")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#busy .xtick text").first).not_to_have_css("fill", light)


# --- while a run goes on


def test_a_page_changes_while_rows_are_added_without_being_loaded_again(browse: Browse, engine: Engine):
    run = MadeRun(300, time.time() - 60, seed=9, workers=16, failing=0.1)
    middle, later = run.began + 25, run.began + 30
    with engine.begin() as connection:
        write(connection, run, middle, "running")
    ended = [sum(task.ended != 0 and task.ended <= now for task in run.made) for now in (middle, later)]
    assert ended[0] < ended[1] < len(run.made)
    with dashboard(str(engine.url)) as own:
        watched = browse(own.base)
        page = watched.go(address(run))
        expect(page.locator("#pulse")).to_have_text("live")
        expect(page.locator("#progress .big")).to_contain_text(f"{ended[0]} of {len(run.made)}")
        page.evaluate("window.stayed = true")
        page.locator("#apps a").first.focus()
        page.locator("#busy-table summary").click()
        page.locator("#apps a").first.focus()
        drawn = int(page.locator("#busy").get_attribute("data-drawn"))
        with engine.begin() as connection:
            write(connection, run, later, "running")
        expect(page.locator("#progress .big")).to_contain_text(f"{ended[1]} of {len(run.made)}", timeout=4000)
        expect(page.locator("#busy")).not_to_have_attribute("data-drawn", str(drawn))
        assert page.evaluate("document.activeElement.closest('#apps') !== null"), "the focus stayed"
        assert page.locator("#busy-table").get_attribute("open") is not None
        # The run ends.
        with engine.begin() as connection:
            write(connection, run)
        expect(page.locator("#runhead")).to_contain_text("completed")
        expect(page.locator("#pulse")).to_have_text("")
        expect(page.locator("#why")).to_contain_text("What failed most")
        assert page.evaluate("window.stayed")


def test_the_first_workflow_comes_up_by_itself(browse: Browse, engine: Engine):
    run = MadeRun(30, time.time() - 5, seed=10)
    with engine.begin() as connection:
        write(connection, run, run.began + 4, "running")
        connection.execute(schema.workflow.delete())
    with dashboard(str(engine.url)) as own:
        page = browse(own.base).go("/")
        expect(page.locator("#workflows")).to_contain_text("No workflow is recorded")
        with engine.begin() as connection:
            write(connection, run, run.began + 5, "running")
        expect(page.get_by_role("link", name=run.name, exact=True)).to_be_visible()


def test_a_script_is_loaded_once_and_then_kept(browse: Browse, served: Served, runs: Runs):
    """Two of them would both look again, all the time."""
    watched = browse(served.base)
    watched.go(f"{address(runs.going)}/graph")
    names = [url.rpartition("/")[2] for url in watched.scripts]
    assert sorted(names) == sorted(set(names))
    assert {"live.js", "graph.js", "charts.js"} <= set(names)
    assert len({url.rpartition("/")[0] for url in watched.scripts}) == 1


def test_a_graph_stays_where_it_is_while_it_changes(browse: Browse, engine: Engine):
    run = MadeRun(100, time.time() - 60, seed=11)
    with engine.begin() as connection:
        write(connection, run, run.began + 5, "running")
    with dashboard(str(engine.url)) as own:
        page = browse(own.base).go(f"{address(run)}/graph?colour=state")
        page.get_by_role("button", name="Zoom in").click()
        view = page.locator("#graph").get_attribute("viewBox")
        before = page.locator("#graph-legend").inner_text()
        with engine.begin() as connection:
            write(connection, run, run.began + 15, "running")
        expect(page.locator("#graph-legend")).not_to_have_text(before)
        expect(page.locator("#graph .fill-state-exec_done").first).to_be_attached()
        assert page.locator("#graph").get_attribute("viewBox") == view


def test_a_dashboard_that_is_gone_is_told(browse: Browse, runs: Runs):
    with dashboard(runs.url) as own:
        watched = browse(own.base)
        page = watched.go(address(runs.going))
        own.stop()
        expect(page.locator("#pulse")).to_contain_text("no answer since")
        expect(page.locator("#facts")).to_contain_text("login1.cluster")
    assert all("ERR_CONNECTION_REFUSED" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


# --- security, as a browser sees it


def test_a_token_in_the_address_is_taken_once_and_goes_away(browse: Browse, runs: Runs):
    with dashboard(runs.url, "--token") as own:
        watched = browse(own.base)
        page = watched.page
        page.goto(own.address)
        expect(page.locator("h1")).to_have_text("Workflows")
        assert "token" not in page.url
        watched.go(address(runs.small))
        assert page.evaluate("document.cookie") == "", "scripts do not see it"


def test_names_are_text_in_charts_tips_and_tables(browse: Browse, engine: Engine):
    evil = "<img src=x onerror=alert(1)><b>a</b>"
    run = MadeRun(40, time.time() - 600, seed=12, name=evil)
    with engine.begin() as connection:
        write(connection, run)
        connection.execute(schema.task.update().values(task_func_name=evil))
        schema.count_again(connection)
        connection.execute(schema.attempt.update().values(hostname=evil, worker="1", task_fail_history=evil))
        connection.execute(schema.block.update().values(executor_label=evil, message=evil))
    with dashboard(str(engine.url)) as own:
        watched = browse(own.base)
        for path in ("", "/graph", "/timeline", "/workers", "/blocks", "/resources?by=app"):
            page = watched.go(address(run) + path)
            for summary in page.locator(".as-table summary").all():
                summary.click()
            assert page.locator("img").count() == 0, path
        page = watched.go(f"{address(run)}/graph")
        page.locator("#graph .node").first.hover()
        expect(page.locator("#tip")).to_contain_text("<img src=x")
        page = watched.go(f"{address(run)}/timeline")
        over(page, page.locator("#gantt .barlayer .point path").last)
        expect(page.locator("#gantt .hoverlayer .hovertext")).to_contain_text("<img src=x")
