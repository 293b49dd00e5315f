"""Tells the story of one task: from its call to its end, and what to try if that was a bad one.

Rule of this module: what is said is in the database, or in the files that the task named; it decides nothing anew. A
story is pairs of a heading, which is empty within a paragraph, and a line.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from flowcore_monitoring_sqlite import queries
from flowcore_monitoring_sqlite.queries import BAD, FINAL, GOOD, Failure, Run, Story, Task, Try
from flowcore_monitoring_sqlite.terminal import clock, duration

#: Lines of a task's stderr, and of its traceback, that are told.
TAIL = 20
_NAMED = 5
#: How the note on the command of a bash_app begins.
_COMMAND = "flowcore: the command line was: "
#: Bytes of a file that are read for its last lines.
_TAIL_BYTES = 16 * 1024

Lines = list[tuple[str, str]]


def tell(connection: Connection, run: Run, story: Story, now: float) -> Lines:
    """Return the story of a task.

    Args:
        connection: for what is asked about other tasks, and about blocks.
        run: the run of the task.
        story: what is known of the task.
        now: epoch seconds.
    """
    task = story.task
    lines: Lines = [(f"Task {task.task_id}", _headline(run, story, now))]
    lines += _called(story)
    lines += _waited(run, story, now)
    if task.state == "memo_done":
        lines.append(("Memoized", f"its result was known (hash {task.hashsum}): it did not run"))
    failures = {f.try_id: f for f in story.failures if f.state != "dep_fail"}
    for attempt in story.tries:
        lines += _attempt(run, story, attempt, failures.get(attempt.try_id))
    lines += _standing_still(connection, run, story)
    lines += _files(story)
    lines += _failed(story)
    lines += _stderr(task)
    advice = _advice(connection, run, story)
    lines += [("What to try" if i == 0 else "", text) for i, text in enumerate(advice)]
    return lines


def _headline(run: Run, story: Story, now: float) -> str:
    task = story.task
    kind = {"python": "python_app", "bash": "bash_app", "join": "join_app"}.get(task.kind, "task of flowcore itself:")
    what = f"{kind} {task.name!r}, run {Path(run.run_dir).name} ({run.run_id[:8]}): {task.state}"
    if task.returned is not None:
        return f"{what} {duration(task.returned - task.invoked)} after it was called"
    if run.state == "running":
        return f"{what} since {duration(now - task.state_time)}"
    return f"{what} when the run was {run.state}"


def _called(story: Story) -> Lines:
    task = story.task
    lines = [("Called", clock(task.invoked, with_date=True))]
    for head, files in (("Inputs", task.inputs), ("Outputs", task.outputs)):
        if files:
            more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            lines.append((head, ", ".join(files[:_NAMED]) + more))
    return lines


def _waited(run: Run, story: Story, now: float) -> Lines:
    task = story.task
    if not task.depends:
        return []
    missing = [t for t in story.waited_for if t.state not in FINAL]
    lines: Lines = []
    if missing and task.state not in FINAL:
        lines.append(("Waits for", f"{len(missing)} of {len(task.depends)} tasks that it depends on:"))
        lines += [("", _named(t, now if run.state == "running" else None)) for t in missing[:_NAMED]]
        if len(missing) > _NAMED:
            lines.append(("", f"and {len(missing) - _NAMED} more"))
        return lines
    over = [t for t in story.waited_for if t.returned is not None]
    bad = [t for t in over if t.state in BAD]
    last = max(over, key=lambda t: t.returned or 0.0, default=None)
    if last is not None and last.returned is not None:
        waited = max(0.0, last.returned - task.invoked)
        count = f"{len(task.depends)} tasks, the last one of which was " if len(task.depends) > 1 else ""
        lines.append(("Waited for", f"{count}{_named(last, None)}: {duration(waited)}"))
    lines += [("", f"{_named(t, None)}") for t in bad[:_NAMED] if t is not last]
    return lines


def _named(task: Task, now: float | None) -> str:
    since = f" for {duration(now - task.state_time)}" if now is not None else ""
    return f"task {task.task_id} ({task.name}), {task.state}{since}"


def _attempt(run: Run, story: Story, attempt: Try, failure: Failure | None) -> Lines:
    head = f"Attempt {attempt.try_id + 1}"
    place = f"on executor {attempt.executor}"
    details = [
        f"{word} {value}"
        for word, value in (("block", attempt.block_id), ("host", attempt.hostname), ("worker", attempt.worker))
        if value is not None
    ]
    place += f" ({', '.join(details)})" if details else ""
    begun = f"given to it at {clock(attempt.launched)}" if attempt.launched else ""
    if attempt.launched and attempt.running:
        begun += f", running {duration(attempt.running - attempt.launched)} later"
    end = "not over yet" if story.task.state not in FINAL and run.state == "running" else "no end of it is known"
    start = attempt.running or attempt.launched
    if attempt.returned is not None and start:
        end = f"{'failed' if attempt.error else 'ended'} after {duration(attempt.returned - start)}"
    lines = [(head, ", ".join(part for part in (place, begun, end) if part))]
    if attempt.error and failure is not None and failure.state == "fail_retryable":
        lines.append(("", f"with {attempt.error.splitlines()[0]}"))
    if attempt.joins:
        shown = ", ".join(map(str, attempt.joins[:_NAMED])) + (", ..." if len(attempt.joins) > _NAMED else "")
        lines.append(("", f"returned {len(attempt.joins)} futures, of the tasks {shown}"))
    for use in story.use:
        if use.try_id == attempt.try_id:
            lines.append(("", f"used {use.cpu_s:.2f} s of CPU and at most {_size(use.memory)} of memory"))
    return lines


def _standing_still(connection: Connection, run: Run, story: Story) -> Lines:
    """Say why a task that an executor has does not run, as far as that can be told."""
    task = story.task
    if task.state != "launched" or run.state != "running":
        return []
    own = [b for b in queries.blocks(connection, run.run_id) if b.executor == task.executor]
    if not own:
        return []
    counts: dict[str, int] = {}
    for block in own:
        counts[block.status] = counts.get(block.status, 0) + 1
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    workers = sum(n.worker_count or 0 for n in queries.nodes(connection, run.run_id) if n.active)
    lines = [("Blocks", f"{text}; {workers} workers are connected")]
    lines += [("", f"block {b.block_id}: {b.message}") for b in own[-3:] if b.message]
    return lines


def _files(story: Story) -> Lines:
    return [
        (
            "Moved" if i == 0 else "",
            f"{t.url} ({t.direction}, {'inside the task' if t.staging == 'in_task' else 'task'})",
        )
        for i, t in enumerate(story.transfers[:_NAMED])
    ]


def _failed(story: Story) -> Lines:
    if story.task.state not in BAD or not story.failures:
        return []
    failure = story.failures[-1]
    text = failure.text.splitlines() or [""]
    lines = [("Error", f"{failure.exception_type}: {text[0]}"), *(("", line) for line in text[1:])]
    lines += [("Command", n.removeprefix(_COMMAND)) for n in failure.notes if n.startswith(_COMMAND)]
    if failure.traceback:
        trace = failure.traceback.rstrip().splitlines()
        lines += [("Traceback" if i == 0 else "", line) for i, line in enumerate(trace[-TAIL:])]
    return lines


def _stderr(task: Task) -> Lines:
    if task.state not in BAD or not task.stderr:
        return []
    tail = last_lines(Path(task.stderr.removeprefix("file://")))
    return [("Stderr", task.stderr), *(("", line) for line in tail)]


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a file; none if it cannot be read from here."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-TAIL:]
    except OSError:
        return []


def _advice(connection: Connection, run: Run, story: Story) -> list[str]:
    task = story.task
    advice: list[str] = []
    if task.state in BAD and story.failures:
        # What flowcore said with the exception: where it ran, earlier attempts, and what plugins know.
        known = ("flowcore: task ", "flowcore: earlier attempts", _COMMAND)
        advice += [n.removeprefix("flowcore: ") for n in story.failures[-1].notes if not n.startswith(known)]
    if task.state == "dep_fail":
        bad = [t for t in story.waited_for if t.state in BAD]
        advice += [f"flowcore explain {t.task_id}: {_named(t, None)}" for t in bad[:_NAMED]]
    elif task.state == "failed":
        if story.dependents:
            number = len(story.dependents)
            advice.append(
                f"{number} task{'s' if number > 1 else ''} that depend{'' if number > 1 else 's'} on it did not run"
            )
        others = [g for g in queries.failures(connection, run.run_id) if story.failures and g.cause == _cause(story)]
        count = sum(g.count for g in others if g.state == "failed")
        if count > 1:
            advice.append(f"{count} tasks failed like this one, on: {_hosts(connection, run, others)}")
        elif len(story.tries) == 1:
            advice.append("no other task failed like this one; Config(retries=1) would have tried it again")
    elif task.state not in GOOD and story.waited_for:
        missing = [t for t in story.waited_for if t.state not in FINAL]
        advice += [f"flowcore explain {t.task_id} tells what that one waits for" for t in missing[:1]]
    return advice


def _cause(story: Story) -> str:
    return story.failures[-1].cause


def _hosts(connection: Connection, run: Run, groups: list[queries.FailureGroup]) -> str:
    hosts: dict[str, int] = {}
    for group in groups:
        for task_id in group.examples:
            for attempt in queries.tries(connection, run.run_id, task_id)[-1:]:
                host = attempt.hostname or f"executor {attempt.executor}"
                hosts[host] = hosts.get(host, 0) + 1
    return ", ".join(hosts) or "no host that is known"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
