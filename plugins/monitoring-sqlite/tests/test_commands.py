"""The commands: what they tell of runs that go on, ended or were interrupted, and what they say when they cannot."""

from __future__ import annotations

import html.parser
import json
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from flowcore_monitoring_sqlite import database, queries, records, terminal
from flowcore_monitoring_sqlite.writer import Writer

from flowcore.cli.main import cli
from flowcore.errors import DependencyError
from flowcore.plugins.api import TaskCall, TaskEvent


@pytest.fixture
def run(monkeypatch):
    """Runs a command of ``flowcore`` in the test's folder."""
    # Tables are as wide as they like.
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli, list(map(str, arguments)), prog_name="flowcore")
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def write(url):
    """Brings what a journal has by now into the database."""

    def write(scribe, gone=False):
        writer = Writer(scribe.folder, scribe.run_id, url, lambda: gone)
        writer.open()
        while True:
            ended, wrote = writer.step(gone)
            if ended or not wrote:
                break
        writer.close()

    return write


@pytest.fixture
def ended(scribe, write):
    """A run that ended: 40 tasks, five of which failed, one of them with a task that waited for it."""
    made = scribe()
    for n in range(30):
        made.run_task(n, "prepare", at=1001.0 + n)
    for n in range(30, 38):
        made.run_task(n, "simulate", at=1040.0, depends=(n - 30, n - 29), took_s=30.0)
    for n in (38, 39, 40, 41):
        made.run_task(n, "check<b>", at=1080.0, depends=(30,), error=ValueError(f"bad <value> {n}"))
    root = ValueError("bad <value> 38")
    made.tasks(
        TaskEvent(42, "plot", "python", "pending", None, 1080.0, 0, None, None, (38,), None),
        TaskEvent(
            42,
            "plot",
            "python",
            "dep_fail",
            None,
            1084.0,
            0,
            None,
            None,
            (38,),
            DependencyError([(root, "task 38")], 42),
        ),
    )
    made.write(records.BLOCK, "htex", "0", "77", "PENDING", None, 1000.5)
    made.write(records.BLOCK, "htex", "0", "77", "FAILED", "node down", 1090.0)
    made.write(records.NODES, [["htex", "0", "n1", "m1", 4, 8, 16 * 10**9, "3.11.2", "connected", 1001.0]])
    for n in range(5):
        sample = [30, 0, "htex", "0", "n1", 3, 1041.0 + n, "running", 99, 2, 0.5 * n, 0.1, 10**6, 10**7, 0.1, 5, 6, "r"]
        made.write(records.RESOURCES, 1.0, [sample])
    made.end()
    write(made)
    return made


def test_runs_are_listed(run, ended, scribe, write, tmp_path):
    other = scribe(
        tmp_path / "other", run_id="22222222-0", workflow_name="late.py", rundir="/runs/008", time_began=2000.0
    )
    write(other)
    lines = run("runs").splitlines()
    assert lines[0].split() == ["run", "id", "workflow", "state", "began", "took", "completed", "failed"]
    assert lines[1].split()[:4] == ["008", "22222222", "late.py", "running"]
    assert lines[2].split()[:4] == ["007", "11111111", "made.py", "completed"]
    assert lines[2].split()[-2:] == ["38", "5"]
    assert len(run("runs", "--limit", 1).splitlines()) == 3
    assert "1 of 2 runs" in run("runs", "--limit", 1)
    assert [one["name"] for one in json.loads(run("runs", "--json"))] == ["late.py", "made.py"]


def test_the_status_of_a_run_that_ended(run, ended):
    text = run("status")
    assert "made.py, run 007 (11111111): completed" in text
    assert "43 of 43 tasks are over: 38 completed, 5 failed" in text
    assert "blocks: 1 FAILED" in text
    assert "block 0: node down" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["failed", "4"] in rows
    assert ["check<b>", "4", "0", "0", "0", "4"] in rows
    assert ["4", "ValueError:", "bad", "<value>", "N", "task", "38"] in rows
    assert "more on one: flowcore explain 38" in text
    facts = json.loads(run("status", "--json"))
    assert (facts["total"], facts["ended"], facts["run"]["state"]) == (43, 43, "completed")


@pytest.mark.parametrize("name", ["7", "007", "/runs/007", "11111111", "1111"])
def test_a_run_is_named_in_several_ways(run, ended, name, url):
    assert "run 007 (11111111)" in run("status", name, "--database", url)


def test_a_run_is_found_by_its_folder_s_path(run, scribe, write, tmp_path, monkeypatch):
    folder = tmp_path / "runinfo" / "007"
    made = scribe(rundir=str(folder))
    made.end()
    write(made)
    monkeypatch.chdir("/")
    assert "completed" in run("status", folder)
    monkeypatch.chdir(tmp_path)
    assert "completed" in run("status", "runinfo/007")
    assert "completed" in run("status", "--database", tmp_path / "runinfo" / "monitoring.db")


def test_runs_that_are_not_there_are_explained(run, ended, scribe, write, tmp_path):
    assert "there is no run '9' in this database; the newest ones: 007 (11111111)" in run("status", 9, code=1)
    other = scribe(tmp_path / "other", run_id="11111111-9", rundir="/elsewhere/007")
    write(other)
    text = run("status", 7, code=1)
    assert "'7' fits 2 runs" in text
    assert "/elsewhere/007" in text
    assert "run 007" in run("status", "/elsewhere/007", "--database", "runinfo/monitoring.db")


def test_a_database_that_is_not_there_says_how_to_record_runs(run):
    for command in (["runs"], ["status"], ["explain", 1], ["graph"], ["report", "--html", "x.html"]):
        text = run(*command, code=1)
        assert "there is no database" in text
        assert "flowcore.Config(monitoring=MonitoringHub())" in text
    assert "there is no database" in run("monitoring", "migrate", code=1)


def test_what_is_no_database_is_explained(run, tmp_path):
    (tmp_path / "x.db").write_text("something else, and long enough to be looked at" * 100)
    assert "file is not a database" in run("runs", "--database", "x.db", code=1)
    assert "there is no database of the kind 'nodb'" in run("runs", "--database", "nodb://x/y", code=1)


def test_the_status_of_a_run_that_goes_on(run, scribe, write, url):
    now = time.time()
    made = scribe(time_began=now - 100)
    for n in range(20):
        made.run_task(n, at=now - 6, took_s=1.0)
    made.tasks(*(TaskEvent(n, "app", "python", "pending", None, now, 0, None, None, (), None) for n in range(20, 30)))
    made.tasks(TaskEvent(20, "app", "python", "launched", None, now - 30, 0, "htex", None, (), None))
    made.write(records.NODES, [["htex", "0", "n1", "m1", 4, 8, 16 * 10**9, "3.11.2", "connected", now]])
    write(made)
    text = run("status")
    assert "running" in text
    assert "20 of 30 tasks are over: 20 completed, none failed; 2 tasks/s; 10 left, about 5.00 s at this rate" in text
    assert "1 nodes with 4 workers are connected" in text
    assert "task 20 (app) on htex" in text
    write(made, gone=True)
    assert "interrupted" in run("status")


def test_watching_ends_with_the_run(run, scribe, write, monkeypatch):
    made = scribe(time_began=time.time())
    made.run_task(0, at=time.time())
    write(made)
    waited = []

    def wait(seconds):
        waited.append(seconds)
        made.end(time.time())
        write(made)

    monkeypatch.setattr(terminal.time, "sleep", wait)
    text = run("status", "--watch", "--interval", 0.5)
    assert waited == [0.5]
    assert "completed" in text
    assert "--watch shows a page anew" in run("status", "--watch", "--json", code=2)


def test_ctrl_c_ends_watching(run, scribe, write, monkeypatch):
    write(scribe(time_began=time.time()))

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal.time, "sleep", interrupted)
    assert "running" in run("status", "--watch")


def test_a_task_that_ended_well_is_explained(run, ended):
    text = run("explain", 31)
    assert "python_app 'simulate', run 007 (11111111): exec_done 31.0 s after it was called" in text
    assert "2 tasks, the last one of which was task 2 (prepare), exec_done: 0.000 s" in text
    assert "on executor htex (block 0, host n1, worker 3)" in text
    assert "ended after 30.0 s" in text
    assert "used 2.10 s of CPU and at most 1.0 MB of memory" in run("explain", 30)


def test_a_task_that_failed_is_explained(run, ended):
    text = run("explain", 38)
    assert "ValueError: bad <value> 38" in text
    assert "1 task that depends on it did not run" in text
    assert "4 tasks failed like this one, on: n1" in text
    text = run("explain", 42)
    assert "dep_fail 4.00 s after it was called" in text
    assert "flowcore explain 38: task 38 (check<b>), failed" in text


def test_a_failure_tells_its_notes_its_stderr_and_earlier_attempts(run, scribe, write, tmp_path):
    (tmp_path / "err.txt").write_text("\n".join(f"line {n}" for n in range(100)))
    made = scribe()
    error = ValueError("no luck")
    error.add_note("flowcore: task 0 (app 'app'), attempt 2, on executor 'htex'")
    error.add_note("flowcore: the command line was: run 3")
    error.add_note("flowcore: raise the limit of memory")
    event = TaskEvent(0, "app", "bash", "pending", None, 1001.0, 0, None, None, (), None)
    made.tasks(
        event._replace(call=TaskCall(stderr=str(tmp_path / "err.txt"))),
        event._replace(state="launched", executor="htex"),
        event._replace(
            state="fail_retryable",
            at=1002.0,
            executor="htex",
            error=KeyError("first"),
            launched_at=1001.0,
            ended_at=1002.0,
        ),
        event._replace(state="launched", at=1002.0, executor="htex", try_id=1),
        event._replace(
            state="failed",
            at=1003.0,
            executor="htex",
            try_id=1,
            error=error,
            fail_count=2,
            launched_at=1002.0,
            ended_at=1003.0,
        ),
    )
    write(made)
    text = run("explain", 0)
    assert "with KeyError: 'first'" in text
    assert "ValueError: no luck" in text
    assert "What to try  raise the limit of memory" in text
    assert "Command      run 3" in text
    assert "line 99" in text
    assert "line 79" not in text


def test_a_task_that_waits_is_explained(run, scribe, write):
    now = time.time()
    made = scribe(time_began=now - 60)
    event = TaskEvent(0, "fetch", "python", "pending", None, now - 50, 0, None, None, (), None)
    made.tasks(
        event,
        event._replace(state="launched", at=now - 40, executor="htex"),
        event._replace(task_id=1, app_name="use", depends=(0,)),
    )
    made.write(records.BLOCK, "htex", "0", "77", "PENDING", "(Resources)", now - 50)
    write(made)
    text = run("explain", 1)
    assert "1 of 1 tasks that it depends on" in text
    assert "task 0 (fetch), launched for 4" in text
    assert "flowcore explain 0 tells what that one waits for" in text
    text = run("explain", 0)
    assert "1 PENDING; 0 workers are connected" in text
    assert "block 0: (Resources)" in text


def test_a_task_that_is_not_there_is_told(run, ended):
    assert "run 007 (11111111) has no task 99: its 43 tasks are numbered from 0 on" in run("explain", 99, code=1)


class Page(html.parser.HTMLParser):
    """Finds what a page needs, and whether its tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.needs, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.needs += [
            value for name, value in attributes if name in ("src", "href") or (value or "").startswith("http")
        ]
        if tag not in ("meta", "path", "rect", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in ("meta", "path", "rect", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def test_a_report_needs_nothing_else(run, ended, tmp_path):
    assert "out.html: the report of run 007" in run("report", "7", "--html", "out.html")
    text = (tmp_path / "out.html").read_text()
    page = Page(text)
    assert page.open == []
    assert [need for need in page.needs if need != "http://www.w3.org/2000/svg"] == []
    assert "<script" not in text
    assert "bad <value> 38" in page.text
    assert "<value>" not in text
    for words in ("made.py, run 007", "38", "check<b>", "node down", "n1", "CPU cores in use", "dep_fail", "plot"):
        assert words in page.text


def test_a_report_of_a_run_without_tasks(run, scribe, write):
    write(scribe())
    run("report", "--html", "out.html")
    assert "No task failed." in Page(Path("out.html").read_text()).text
    assert "cannot be written" in run("report", "--html", "no/folder/out.html", code=1)


def test_a_graph_as_dot(run, ended):
    text = run("graph")
    assert text.startswith('digraph "made.py, run 007" {')
    assert '"38" [label="check<b> 38"' in text
    assert '"30" -> "38";' in text
    assert '"38" -> "42";' in text
    grouped = run("graph", "--group", "--colour", "state")
    assert '"simulate@1" [label="simulate x 8"' in grouped
    assert '"prepare@0" -> "simulate@1" [label="16"];' in grouped


def test_a_graph_as_a_picture(run, ended, tmp_path):
    assert "g.svg: 43 tasks in 43 nodes" in run("graph", "--output", "g.svg")
    tree = xml.etree.ElementTree.parse(tmp_path / "g.svg")
    titles = [e.text for e in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert "check<b>: task 38: failed" in titles
    # What depends on something is below it.
    at = {}
    for group in tree.iter("{http://www.w3.org/2000/svg}g"):
        rect = group.find("{http://www.w3.org/2000/svg}rect")
        label = group.find("{http://www.w3.org/2000/svg}text").text
        at[label] = (float(rect.get("x")), float(rect.get("y")), float(rect.get("width")))
    assert at["prepare 0"][1] < at["simulate 30"][1] < at["check<b> 38"][1] < at["plot 42"][1]
    row = sorted(place for place in at.values() if place[1] == at["prepare 0"][1])
    assert all(x + width <= following for (x, _, width), (following, _, _) in zip(row, row[1:], strict=False))
    assert "must end in .dot or .svg" in run("graph", "--output", "g.png", code=2)
    assert "g.dot: 43 tasks" in run("graph", "--output", "g.dot", "--group")


def test_many_tasks_are_drawn_in_groups(run, scribe, write):
    made = scribe()
    for n in range(600):
        made.run_task(n, depends=(n - 1,) if n % 2 else ())
    write(made)
    text = run("graph")
    assert '"app@0" [label="app x 300"' in text
    assert '"app@0" -> "app@1" [label="300"];' in text


def test_joins_are_drawn(run, scribe, write):
    made = scribe()
    event = TaskEvent(0, "join", "join", "pending", None, 1001.0, 0, None, None, (), None)
    launched = event._replace(state="launched", executor="htex")
    made.tasks(event, launched, launched._replace(state="joining", joins=(1, 2), launched_at=1001.0, ended_at=1001.0))
    made.run_task(1)
    made.run_task(2)
    write(made)
    assert '"1" -> "0" [style=dashed];' in run("graph")
    assert "returned 2 futures, of the tasks 1, 2" in run("explain", 0)


def test_questions_on_pages_of_tasks(ended, url):
    with database.reading(url) as connection:

        def ids(**options):
            return [t.task_id for t in queries.tasks(connection, ended.run_id, **options)]

        assert ids(limit=3) == [0, 1, 2]
        assert ids(limit=3, offset=2) == [2, 3, 4]
        assert ids(limit=2, after=10) == [11, 12]
        assert ids(app="simulate", limit=2) == [30, 31]
        assert ids(state="failed") == [38, 39, 40, 41]
        assert ids(state="failed", app="prepare") == []
        assert queries.number_of_runs(connection) == 1


def test_an_import_says_what_it_cannot_do(run, scribe, tmp_path):
    assert "there is no folder" in run("monitoring", "import", "runinfo/9", code=1)
    (tmp_path / "empty").mkdir()
    assert "there is no journal in empty" in run("monitoring", "import", "empty", code=1)
    made = scribe()
    made.run_task(0)
    # Its program lives, as this is it.
    assert "goes on: 4 events were loaded" in run("monitoring", "import", made.folder)
    made.end()
    assert "1 event was loaded" in run("monitoring", "import", made.folder)
    assert not made.folder.exists()


def test_help_tells_how_runs_are_named(run):
    for command in ("status", "explain", "report", "graph"):
        assert "or the beginning of the run's id" in " ".join(run(command, "--help").split())
