"""``flowcore perf``: how many no-op tasks per second a configuration runs, in batches that grow.

Rule of this module: results are counted and dropped as they arrive, so that a batch of any size fits in
memory; and a task that fails ends the measurement, since a rate of failures says nothing.
"""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from flowcore.errors import FlowcoreError

if TYPE_CHECKING:
    from concurrent.futures import Future

#: Tasks of the first batch.
FIRST_BATCH = 10
#: A batch is at most this many times the one before: the rates of small batches say little.
MOST_GROWTH = 10
#: The next batch aims this much beyond the target, so that it is likely to be the last one.
_AIM = 1.125


@attrs.frozen
class Iteration:
    """One batch.

    Attributes:
        tasks: number of tasks.
        submit_s: seconds until all were submitted.
        runtime_s: seconds until all were done, from the first submission on.
    """

    tasks: int
    submit_s: float
    runtime_s: float

    @property
    def submit_rate(self) -> float:
        """Tasks submitted per second."""
        return self.tasks / max(self.submit_s, 1e-9)

    @property
    def rate(self) -> float:
        """Tasks done per second."""
        return self.tasks / max(self.runtime_s, 1e-9)


def noop() -> None:
    """Do nothing; the task that is measured."""


def next_batch(last: Iteration, target_s: float) -> int:
    """Return the number of tasks of the next batch, more than the last one had.

    Args:
        last: a batch that took less than ``target_s``.
        target_s: seconds that a batch should take.
    """
    wanted = math.ceil(last.tasks * target_s / max(last.runtime_s, 1e-9) * _AIM)
    return max(last.tasks + 1, min(wanted, last.tasks * MOST_GROWTH))


def run_batch(
    call: Callable[[], Future[Any]], tasks: int, submitted: Callable[[Iteration], None] = lambda _: None
) -> Iteration:
    """Submit a batch and wait until all of it is done.

    Args:
        call: submits one task and returns its future.
        tasks: how many.
        submitted: called when all are submitted, with what is known by then (``runtime_s`` is 0).

    Raises:
        FlowcoreError: a task failed; says how many did, and how the first one did.
    """
    lock = threading.Lock()
    finished = threading.Event()
    left = tasks
    failures: list[BaseException] = []
    failed = 0

    def count(future: Future[Any]) -> None:
        nonlocal left, failed
        error = None if future.cancelled() else future.exception()
        with lock:
            left -= 1
            if error is not None:
                failed += 1
                # One is enough to tell, and each holds its traceback.
                failures[:] = failures or [error]
            last = left == 0
        if last:
            finished.set()

    began = time.perf_counter()
    for _ in range(tasks):
        call().add_done_callback(count)
    all_submitted = time.perf_counter()
    submitted(Iteration(tasks, all_submitted - began, 0.0))
    finished.wait()
    ended = time.perf_counter()
    if failures:
        raise _all_failed(failed, tasks, failures[0])
    return Iteration(tasks, all_submitted - began, ended - began)


def measure(
    call: Callable[[], Future[Any]], target_s: float, show: Callable[[str], None] = lambda _: None
) -> Iterator[Iteration]:
    """Run batches until one takes the target time; yield each.

    Args:
        call: submits one task and returns its future.
        target_s: seconds that the last batch takes at least.
        show: given lines that say what goes on.

    Raises:
        FlowcoreError: a task failed.
    """
    tasks = FIRST_BATCH
    number = 1

    def submitted(so_far: Iteration) -> None:
        rate = f"{so_far.submit_rate:,.1f} tasks/s"
        show(f"  all submitted in {so_far.submit_s:.3f} s: {rate}; waiting for the results")

    while True:
        show(f"Iteration {number}: {tasks:,} tasks; the target is {target_s:g} s")
        iteration = run_batch(call, tasks, submitted)
        show(f"  all done in {iteration.runtime_s:.3f} s: {iteration.rate:,.1f} tasks/s")
        yield iteration
        if iteration.runtime_s >= target_s:
            return
        tasks = next_batch(iteration, target_s)
        number += 1


def _all_failed(failed: int, tasks: int, first: BaseException) -> FlowcoreError:
    error = FlowcoreError(f"{failed:,} of {tasks:,} tasks failed, the first with {type(first).__name__}: {first}")
    error.__cause__ = first
    for note in getattr(first, "__notes__", ()):
        error.add_note(note)
    return error


def _resources(ctx: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    example = """for example '{"cores": 1}'"""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON ({error}); {example}") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object; {example}")
    return value


@click.command()
@click.option(
    "--config", "file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="The configuration to measure: TOML, or Python with config or fresh_config.",
)  # fmt: skip
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
@click.option(
    "--time", "target_s", type=click.FloatRange(min=0, min_open=True), default=120.0, show_default=True,
    metavar="SECONDS", help="Stop after the first batch that takes this long.",
)  # fmt: skip
@click.option(
    "--resources", callback=_resources, metavar="JSON",
    help="The resource_specification of each task, for example '{\"cores\": 1}'.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print only the results, as JSON.")
def perf(file: Path, profile: str | None, target_s: float, resources: dict[str, Any], as_json: bool) -> None:
    """Measure how many tasks per second a configuration runs.

    Runs batches of tasks that do nothing, each larger than the one before, until one takes the target time.
    """
    from flowcore.apps import python_app
    from flowcore.cli.loading import load_config
    from flowcore.session import DataFlowKernel

    config = load_config(file, profile)

    def show(line: str) -> None:
        if not as_json:
            click.echo(line)

    with DataFlowKernel(config) as kernel:
        for executor in kernel.executors.values():
            resources = resources or dict(executor.probe_resources)
        app = python_app(data_flow_kernel=kernel)(noop)
        call = functools.partial(app, resource_specification=resources) if resources else app
        iterations = list(measure(call, target_s, show))
        show("Cleaning up")
    result = iterations[-1]
    if as_json:
        click.echo(json.dumps(_report(file, profile, target_s, resources, iterations), indent=2))
    else:
        batch = f"{result.tasks:,} tasks in {result.runtime_s:.3f} s"
        click.secho(f"Result: {result.rate:,.1f} tasks/s ({batch})", bold=True)


def _report(
    file: Path, profile: str | None, target_s: float, resources: dict[str, Any], iterations: list[Iteration]
) -> dict[str, Any]:
    return {
        "config": str(file),
        "profile": profile,
        "target_s": target_s,
        "resource_specification": resources,
        "iterations": [
            {
                "tasks": i.tasks,
                "submit_s": i.submit_s,
                "submitted_per_s": i.submit_rate,
                "runtime_s": i.runtime_s,
                "tasks_per_s": i.rate,
            }
            for i in iterations
        ],
        "tasks_per_s": iterations[-1].rate,
    }
