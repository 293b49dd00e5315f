"""``flowcore perf``: how batches grow, what is printed, and what ends it."""

import json
import re
import weakref
from concurrent.futures import Future

import pytest
from click.testing import CliRunner

from flowcore.cli.main import cli
from flowcore.cli.perf import Iteration, measure, next_batch, run_batch
from flowcore.errors import FlowcoreError


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.toml").write_text("executors = [{plugin = 'threads', label = 'pool'}]\n")


def invoke(*arguments):
    return CliRunner().invoke(cli, ["perf", *arguments], prog_name="flowcore")


def done(error=None):
    future = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


# --- how batches grow


@pytest.mark.parametrize(
    ("tasks", "runtime_s", "target_s", "following"),
    [
        (10, 1.0, 120, 100),  # at most tenfold
        (1000, 60.0, 120, 2250),  # an eighth beyond the target
        (1000, 120 / 1.25, 120, 1407),
        (10, 0.0, 120, 100),
        (1, 0.99, 1, 2),  # always more
    ],
)
def test_next_batch(tasks, runtime_s, target_s, following):
    assert next_batch(Iteration(tasks, 0.0, runtime_s), target_s) == following


def test_rates():
    iteration = Iteration(100, 2.0, 4.0)
    assert (iteration.submit_rate, iteration.rate) == (50.0, 25.0)


def test_measure_ends_with_the_first_batch_that_takes_the_target(monkeypatch):
    from flowcore.cli import perf

    clock = iter([0.0, 0.1, 1.0, 10.0, 10.1, 12.0, 20.0, 21.0, 25.0, 99.0])
    monkeypatch.setattr(perf.time, "perf_counter", lambda: next(clock))
    lines = []
    iterations = list(measure(done, 5.0, lines.append))
    assert [(i.tasks, i.runtime_s) for i in iterations] == [(10, 1.0), (57, 2.0), (161, 5.0)]
    assert lines[:3] == [
        "Iteration 1: 10 tasks; the target is 5 s",
        "  all submitted in 0.100 s: 100.0 tasks/s; waiting for the results",
        "  all done in 1.000 s: 10.0 tasks/s",
    ]
    assert lines[-1] == "  all done in 5.000 s: 32.2 tasks/s"


def test_futures_are_not_kept():
    futures = []

    def call():
        future = done()
        futures.append(weakref.ref(future))
        return future

    alive = []
    run_batch(call, 100, lambda _: alive.extend(f for f in futures if f() is not None))
    assert len(futures) == 100
    assert len(alive) <= 1


def test_failures_are_counted_and_the_first_is_told():
    error = ValueError("boo")
    error.add_note("on host n1")
    outcomes = iter([None, error, None, TypeError("later"), *[None] * 6])
    with pytest.raises(FlowcoreError) as caught:
        list(measure(lambda: done(next(outcomes)), 1.0))
    assert str(caught.value) == "2 of 10 tasks failed, the first with ValueError: boo"
    assert caught.value.__notes__ == ["on host n1"]
    assert caught.value.__cause__ is error


# --- the command


def test_output(tmp_path):
    result = invoke("--config", "f.toml", "--time", "0.02")
    assert result.exit_code == 0, result.stderr
    lines = result.output.splitlines()
    assert lines[0] == "Iteration 1: 10 tasks; the target is 0.02 s"
    assert re.fullmatch(r"  all submitted in \d+\.\d{3} s: [\d,.]+ tasks/s; waiting for the results", lines[1])
    assert re.fullmatch(r"  all done in \d+\.\d{3} s: [\d,.]+ tasks/s", lines[2])
    assert lines[-2] == "Cleaning up"
    assert re.fullmatch(r"Result: [\d,.]+ tasks/s \([\d,]+ tasks in [\d.]+ s\)", lines[-1])
    assert "ended; tasks:" in (tmp_path / "runinfo" / "000" / "flowcore.log").read_text()


def test_json():
    result = invoke("--config", "f.toml", "--time", "0.02", "--json")
    report = json.loads(result.stdout)
    assert report["config"] == "f.toml"
    assert report["target_s"] == 0.02
    assert report["iterations"][0]["tasks"] == 10
    last = report["iterations"][-1]
    assert last["runtime_s"] >= 0.02
    assert report["tasks_per_s"] == last["tasks_per_s"] == pytest.approx(last["tasks"] / last["runtime_s"])


@pytest.mark.parametrize("definition", ["config = Config()", "def fresh_config(): return Config()"])
def test_python_configuration(tmp_path, definition):
    (tmp_path / "c.py").write_text(f"from flowcore import Config\n{definition}\n")
    assert invoke("--config", "c.py", "--time", "0.001").exit_code == 0


def test_resources_reach_the_tasks():
    result = invoke("--config", "f.toml", "--resources", '{"cores": 1}')
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: 10 of 10 tasks failed, the first with UnsupportedResource: executor 'pool': threads have no "
        "resources to specify, app 'noop' wants {'cores': 1}; leave resource_specification out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "f.toml", "--resources", "{cores: 1}"], "'{cores: 1}' is not JSON ("),
        (["--config", "f.toml", "--resources", "[1]"], "'[1]' is not a JSON object; for example '{\"cores\": 1}'"),
        (["--config", "f.toml", "--time", "0"], "0.0 is not in the range x>0"),
        ([], "Missing option '--config'"),
    ],
)
def test_wrong_arguments(arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_wrong_configuration():
    result = invoke("--config", "f.toml", "--profile", "big")
    assert result.exit_code == 1
    assert result.stderr == "Error: f.toml has no profile 'big'; its profiles: none\n"
