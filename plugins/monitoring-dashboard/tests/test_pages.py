"""The pages: all of each kind of run, what is not there, what is kept, what is wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from dashboards import Client, Runs
from flowcore_monitoring_dashboard import application, pages
from flowcore_monitoring_sqlite import schema
from make_database import MadeRun, write
from sqlalchemy import Engine

PAGES = [f"/{name}".rstrip("/") for name in pages.PAGES]
CHARTS = [f"/data/{name}.json" for name in pages.CHARTS]
KINDS = ["small", "large", "stopped", "going"]


def base(runs: Runs, kind: str) -> str:
    return f"/workflow/{getattr(runs, kind).run_id}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "page",
    [
        *PAGES, "/graph?colour=state", "/tasks/0", "/tasks/30", "/apps/simulate", "/resources?by=app",
        "/resources?by=task", "/resources?by=task&order=cpu", "/resources?by=node", "/tasks?state=failed",
        "/tasks?app=simulate&offset=10", "/timeline?app=simulate&state=failed&colour=state",
    ],
)  # fmt: skip
def test_every_page_of_every_kind_of_run(client: Client, runs: Runs, kind: str, page: str):
    answer = client.get(base(runs, kind) + page)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert getattr(runs, kind).name in answer.text
    assert application._ETAG not in answer.text
    assert "<h1" in answer.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "chart",
    [
        *CHARTS, "/data/gantt.json?app=simulate&colour=state", "/data/resources.json?by=app&what=memory",
        "/data/resources.json?by=node", "/data/resources.json?by=task", "/data/resources.json?by=task&task=3",
        "/data/resources.json?app=simulate", "/data/durations.json?app=simulate", "/data/workers.json?offset=3",
    ],
)  # fmt: skip
def test_every_chart_says_in_words_what_it_shows_and_has_a_table(client: Client, runs: Runs, kind: str, chart: str):
    answer = client.get(base(runs, kind) + chart)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["kind"] in ("series", "bars", "histogram")
    assert len(found["label"]) > 10
    columns = len(found["table"]["columns"])
    assert columns >= 2
    assert all(len(row) == columns for row in found["table"]["rows"])
    assert len(answer.content) < 400_000, "a chart's data is bounded"


def test_the_page_of_workflows(client: Client, runs: Runs):
    text = client.get("/").text
    for kind in KINDS:
        assert f'href="{base(runs, kind)}"' in text
    for column in ("Name", "Version", "Owner", "Status", "Runtime", "Tasks", "Actions"):
        assert column in text
    assert text.index(runs.going.name) < text.index(runs.stopped.name) < text.index(runs.small.name)
    assert "interrupted" in text


def test_a_summary_has_what_the_reference_has(client: Client, runs: Runs):
    text = client.get(base(runs, "small")).text
    for name in ("Started", "Completed", "Workflow duration", "Owner", "Host", "Run directory", "App summary"):
        assert name in text
    for fact in ("ada", "login1.cluster", runs.small.run_id, "simulate", "analyse"):
        assert fact in text
    counts = {state: 0 for _, state, _ in runs.small.made[0].states}
    for task in runs.small.made:
        counts[task.states[-1][1]] = counts.get(task.states[-1][1], 0) + 1
    for state, count in counts.items():
        if count:
            assert re.search(rf"{state} <b>{count}</b>", text), state


@pytest.mark.parametrize("page", PAGES)
def test_an_interrupted_run_says_so_on_every_page(client: Client, runs: Runs, page: str):
    text = client.get(base(runs, "stopped") + page).text
    assert "This run was interrupted" in text
    assert "data-goes-on" not in text


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_goes_on_is_looked_at_each_second(client: Client, runs: Runs, page: str):
    assert 'data-goes-on data-look-again="1"' in client.get(base(runs, "going") + page).text


def test_a_silent_run_says_so(engine: Engine, client_of):
    run = MadeRun(20, 1_700_000_000.0)
    with engine.begin() as connection:
        write(connection, run, run.began + 5, "running")
        connection.execute(schema.workflow.update().values(heartbeat=run.began + 5))
    text = client_of(str(engine.url)).get(f"/workflow/{run.run_id}").text
    assert "no sign of life" in text
    assert "nothing has been heard of it since" in text


def test_lost_events_are_said(engine: Engine, client_of):
    run = MadeRun(20, 1_700_000_000.0)
    with engine.begin() as connection:
        write(connection, run)
        connection.execute(schema.workflow.update().values(events_lost=17))
    assert "17 events of this run could not be kept" in client_of(str(engine.url)).get(f"/workflow/{run.run_id}").text


def test_rows_that_are_behind_the_numbers_are_said(engine: Engine, client_of):
    run = MadeRun(20, 1_700_000_000.0)
    page = f"/workflow/{run.run_id}"
    with engine.begin() as connection:
        write(connection, run)
    assert "charts and lists follow" not in client_of(str(engine.url)).get(page).text
    table = schema.journal
    for further in ({"counted_position": table.c.position + 2_000_000}, {"counted_segment": table.c.segment + 1}):
        with engine.begin() as connection:
            write(connection, run)
            connection.execute(table.update().values(**further))
        assert "charts and lists follow" in client_of(str(engine.url)).get(page).text


def test_a_failed_task_says_why(client: Client, runs: Runs):
    task = next(task for task in runs.small.made if task.states[-1][1] == "failed")
    text = client.get(f"{base(runs, 'small')}/tasks/{task.task_id}").text
    assert "Why it failed" in text
    assert task.failures[-1]["text"] in text
    assert "look at its stderr" in text
    assert "Traceback (most recent call last)" in text
    assert "Earlier failures" in text


def test_a_small_graph_has_its_tasks_and_a_large_one_its_groups(client: Client, runs: Runs):
    small = client.get(base(runs, "small") + "/graph").text
    assert len(re.findall(r'class="node single"', small)) == len(runs.small.made)
    large = client.get(base(runs, "large") + "/graph").text
    assert 'data-key="2~simulate"' in large
    assert len(re.findall(r'class="node ', large)) < 20
    opened = client.get(base(runs, "large") + "/graph?open=2~simulate&open=nonsense").text
    assert len(re.findall(r'class="node single"', opened)) >= 120
    assert re.search(r'id="n-2~simulate"[^>]*aria-expanded="true"', opened)


def test_failures_are_grouped_and_lead_to_their_tasks(client: Client, runs: Runs):
    text = client.get(base(runs, "large") + "/failures").text
    causes = {row["cause"] for task in runs.large.made for row in task.failures}
    assert causes
    for cause in causes:
        assert cause.replace("'", "&#39;") in text
    link = re.search(r'href="(/workflow/[^"]+/tasks\?cause=[^"]+)"', text)[1].replace("&amp;", "&")
    assert client.get(link).status_code == 200


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/nothing", "There is no page /nothing."),
        ("/workflow/%00nothing", "There is no run &#39;nothing&#39; in this database"),
        ("/workflow/{run}/tasks/99999999999999999999", "has no task 99999999999999999999."),
        ("/workflow/{run}/apps/%ff%00", "has no app"),
        ("/workflow/nothing", "There is no run &#39;nothing&#39; in this database; the newest ones:"),
        ("/workflow/{run}/nothing", "There is no page"),
        ("/workflow/{run}/tasks/999999", "Workflow climate.py has no task 999999."),
        ("/workflow/{run}/apps/nothing", "Workflow climate.py has no app &#39;nothing&#39;."),
        ("/static/x/nothing.js", "There is no page"),
        ("/static/x/..%2f..%2f__init__.py", "There is no page"),
    ],
)
def test_what_is_not_there(client: Client, runs: Runs, path: str, text: str):
    answer = client.get(path.format(run=runs.small.run_id))
    assert answer.status_code == 404
    assert text in answer.text
    assert "<html" in answer.text


def test_data_that_are_not_there_are_told_as_data(client: Client):
    answer = client.get("/workflow/nothing/data/busy.json")
    assert answer.status_code == 404
    assert "There is no run" in answer.json()["text"]


def test_short_names_lead_to_the_run(client: Client, runs: Runs):
    for name in ("latest", runs.going.run_id[:8], str(runs.going.seed)):
        answer = client.get(f"/workflow/{name}/graph?colour=state")
        assert answer.status_code == 302
        assert answer.headers["Location"] == f"{base(runs, 'going')}/graph?colour=state"


@pytest.mark.parametrize(
    "query",
    [
        "from=nan&to=inf", "from=x", "from=5&to=1", "from=-1e300", "offset=-5", "offset=x", "offset=99999999999999999",
        "by=nothing&what=nothing&order=nothing&colour=nothing", "state=nothing&app=nothing", "task=x&by=task", "open=",
        "app=%00&cause=%00", "app=%F0%9F%8C%8D",
    ],
)  # fmt: skip
def test_odd_queries_are_answered(client: Client, runs: Runs, query: str):
    for path in (*PAGES, *CHARTS):
        answer = client.get(f"{base(runs, 'small')}{path}?{query}")
        assert answer.status_code == 200, (path, answer.text)
    assert client.get(f"/?{query}").status_code == 200


def test_what_names_and_errors_hold_is_shown_as_text(engine: Engine, client_of):
    evil = "<script>alert(1)</script>\"'&"
    run = MadeRun(40, 1_700_000_000.0, name=evil, failing=0.5)
    with engine.begin() as connection:
        write(connection, run)
        connection.execute(schema.task.update().values(task_func_name=evil, task_inputs=json.dumps([evil])))
        schema.count_again(connection)
        connection.execute(schema.failure.update().values(text=evil, cause=evil, notes=evil, traceback=evil))
        connection.execute(schema.attempt.update().values(hostname=evil, worker=evil, task_fail_history=evil))
        connection.execute(schema.block.update().values(executor_label=evil, message=evil, status=evil))
        connection.execute(schema.node.update().values(hostname=evil))
    client = client_of(str(engine.url))
    failed = next(task.task_id for task in run.made if task.failures)
    app = f"/apps/{evil.replace('/', '%2F').replace('&', '%26')}"
    for page in ("", *PAGES, f"/tasks/{failed}", "/tasks/0", app, f"/tasks?cause={evil.replace('&', '%26')}"):
        answer = client.get(f"/workflow/{run.run_id}{page}")
        assert answer.status_code == 200, page
        assert "<script>alert" not in answer.text, page
        assert "&lt;script&gt;alert" in answer.text, page
    assert "<script>alert" not in client.get("/").text


def test_what_has_not_changed_is_not_sent_again(client: Client, runs: Runs):
    for path in (base(runs, "small"), f"{base(runs, 'small')}/data/busy.json", "/"):
        first = client.get(path)
        etag = first.headers["ETag"]
        again = client.get(path, headers={"If-None-Match": etag})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["ETag"] == etag
        assert client.get(f"{path}?app=x").headers["ETag"] != etag


def test_a_page_holds_its_own_etag(client: Client, runs: Runs):
    answer = client.get(base(runs, "small"))
    assert f'<meta name="etag" content="{answer.headers["ETag"].strip(chr(34))}">' in answer.text


def test_what_is_written_is_seen_at_once(engine: Engine, client_of):
    run = MadeRun(60, 1_700_000_000.0)
    client = client_of(str(engine.url))
    assert "No workflow is recorded" in client.get("/").text
    with engine.begin() as connection:
        write(connection, run, run.began + 6)
    first = client.get(f"/workflow/{run.run_id}")
    with engine.begin() as connection:
        write(connection, run)
    second = client.get(f"/workflow/{run.run_id}", headers={"If-None-Match": first.headers["ETag"]})
    assert second.status_code == 200
    assert f"{len(run.made)}<span" in second.text
    assert "completed" in second.text


def test_an_answer_is_made_once_for_all_who_ask(client_of, runs: Runs, monkeypatch):
    made = []
    summary = pages.PAGES[""]
    monkeypatch.setitem(pages.PAGES, "", lambda asked: made.append(asked) or summary(asked))
    client = client_of(runs.url)
    texts = {client.get(base(runs, "small")).text for _ in range(3)}
    assert len(texts) == len(made) == 1


def test_what_is_kept_is_bounded():
    kept = application.Kept(most=250)

    def answer(n: int):
        return lambda: application._Answer(b"x" * 100, "text/plain", b"") if n >= 0 else None

    for n in range(10):
        kept.get(str(n), answer(n))
    assert list(kept._answers) == ["8", "9"]
    assert kept._size == 200
    kept.get("8", lambda: pytest.fail("it is there"))
    kept.get("10", answer(10))
    assert list(kept._answers) == ["8", "10"]
    assert kept._making == {}


def test_an_answer_that_fails_is_not_kept():
    kept = application.Kept()

    def fail():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            kept.get("x", fail)
    assert kept.get("x", lambda: application._Answer(b"1", "text/plain", b"")).body == b"1"


def test_large_answers_are_compressed_for_who_takes_that(client: Client, runs: Runs):
    path = base(runs, "small") + "/graph"
    small = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert small.text == plain.text
    assert int(small.headers["Content-Length"]) < len(plain.content) / 3
    assert gzip.decompress(gzip.compress(plain.content)) == plain.content


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plotly.min.js", "text/javascript"),
        ("live.js", "text/javascript"),
        ("dashboard.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_for_browsers(client: Client, name: str, kind: str):
    answer = client.get(f"/static/another/{name}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(kind)
    assert "immutable" not in answer.headers["Cache-Control"]
    versioned = client.get(f"/static/{application.asset_version()}/{name}")
    assert "immutable" in versioned.headers["Cache-Control"]


def test_pages_load_nothing_from_elsewhere(client: Client, runs: Runs):
    for path in ["/", *(base(runs, "small") + page for page in PAGES)]:
        for target in re.findall(r'(?:src|href)="([^"]+)"', client.get(path).text):
            assert target.startswith(("/", "#")), target
            assert not target.startswith("//")


def test_a_database_that_goes_away_is_told_and_comes_back(engine: Engine, client_of, tmp_path: Path):
    run = MadeRun(20, 1_700_000_000.0)
    with engine.begin() as connection:
        write(connection, run)
    engine.dispose()
    client = client_of(str(engine.url))
    os.rename(tmp_path / "own.db", tmp_path / "gone.db")
    answer = client.get("/")
    assert answer.status_code == 503
    assert "unable to open database file" in answer.text
    assert "reload it in a moment" in answer.text
    assert client.get(f"/workflow/{run.run_id}/data/busy.json").json()["error"] == "The database cannot be read"
    os.rename(tmp_path / "gone.db", tmp_path / "own.db")
    assert client.get("/").status_code == 200


def test_the_database_cannot_be_written_through_the_dashboard(runs: Runs):
    source = application.Source(runs.url)
    with source.connect() as connection, pytest.raises(Exception, match="readonly database"):
        connection.execute(schema.workflow.delete())
    source.close()


def test_a_bug_is_told_without_its_insides(client_of, runs: Runs, monkeypatch):
    def broken(asked):
        raise RuntimeError("secret details")

    monkeypatch.setitem(pages.PAGES, "", broken)
    answer = client_of(runs.url).get(base(runs, "small"))
    assert answer.status_code == 500
    assert "RuntimeError while it was made" in answer.text
    assert "secret details" not in answer.text
