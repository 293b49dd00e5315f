"""What the census needs and that has nothing to do with flowcore: options, input files, progress, comparing."""

from __future__ import annotations

import argparse
import os
import sysconfig
import time
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

#: The states of tasks in words, in the order in which they are shown; the first four are final.
WORDS = {
    "exec_done": "done",
    "memo_done": "reused",
    "failed": "failed",
    "dep_fail": "not run",
    "launched": "launched",
    "running": "running",
    "joining": "joining",
    "pending": "waiting",
}


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="A census of Python's standard library, as a workflow.")
    add = parser.add_argument
    add("--executor", choices=["htex", "threads"], default="htex", help="default: %(default)s")
    add("--workers", type=int, default=max(2, os.cpu_count() or 2), help="default: %(default)s")
    add("--config", metavar="FILE", help="a TOML configuration, in place of the two above")
    add("--profile", metavar="NAME", help="a profile of the configuration file")
    add("--root", type=Path, default=sysconfig.get_path("stdlib"), help="default: %(default)s")
    add("--output", type=Path, default="census-output", help="for reports and logs; default: %(default)s")
    add("--limit", metavar="N", type=int, help="take only N files, evenly spread")
    add("--no-check", action="store_true", help="do not compute everything again to compare")
    options = parser.parse_args()
    if options.workers < 1 or (options.limit is not None and options.limit < 1):
        parser.error("--workers and --limit must be at least 1")
    if options.profile and not options.config:
        parser.error("--profile goes with --config FILE")
    options.root, options.output = options.root.resolve(), options.output.resolve()
    return options


def find_files(root: Path, limit: int | None) -> list[tuple[str, str]]:
    """Return the Python files below a folder, installed packages left out, each as (path, stamp).

    The path is relative to the folder; the stamp changes when the file does.
    """
    outside = {"site-packages", "dist-packages"}
    paths = sorted(p for p in root.rglob("*.py") if not outside & set(p.relative_to(root).parts) and p.is_file())
    if limit is not None and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    stats = [path.stat() for path in paths]
    return [
        (str(path.relative_to(root)), f"{stat.st_size}-{stat.st_mtime_ns}")
        for path, stat in zip(paths, stats, strict=True)
    ]


class Meter:
    """Shows how far something is: a bar on a terminal, and elsewhere a line every two seconds."""

    def __init__(self, console: Console, title: str) -> None:
        count = TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[text]}")
        name = TextColumn("{task.description}")
        self._bar = Progress(name, BarColumn(20), count, console=console, transient=True)
        self._task = self._bar.add_task(title, total=0, text="")
        self._console, self._title = console, title
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> Meter:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` are done, and how many in a second."""
        now = time.monotonic()
        text = f"{text} {done / max(now - self._began, 0.001):,.0f}/s"
        self._bar.update(self._task, completed=done, total=total, text=text)
        if not self._console.is_terminal and now - self._printed >= 2:
            self._printed = now
            self._console.print(f"{self._title}: {done:,} of {total:,} {text}")

    def show_tasks(self, counts: dict[str, int]) -> None:
        """Show a run's tasks, given as their numbers by state."""
        done = sum(counts.get(state, 0) for state in list(WORDS)[:4])
        states = ", ".join(f"{counts[state]:,} {word}" for state, word in WORDS.items() if counts.get(state))
        self.show(done, sum(counts.values()), f"tasks ({states})")


def print_tables(console: Console, report: dict[str, Any], rows: int = 10) -> None:
    """Print the first rows of the report's tables; two beside one another where there is room."""
    tables = []
    for title, columns in {
        "packages": "package modules lines functions classes unparsed",
        "most imported modules": "importers module",
        "most complex functions": "complexity module function line",
    }.items():
        table = Table(title=title.capitalize(), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for name, value in zip(columns.split(), report[title][0] if report[title] else (), strict=False):
            table.add_column(name, justify="right" if isinstance(value, int) else "left")
        for row in report[title][:rows]:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row))
        tables.append(table)
    console.print(Columns(tables))


def differences(found: Any, expected: Any, where: str) -> list[str]:
    """Return where two results differ; who computed them, and how long it took, does not count."""
    if type(found) is type(expected) is dict and found.keys() == expected.keys():
        keys = [key for key in found if key not in ("run", "cpu_s")]
        return [d for key in keys for d in differences(found[key], expected[key], f"{where}, {key}")]
    if type(found) is type(expected) is list and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True), 1)
        return [d for i, (f, e) in pairs for d in differences(f, e, f"{where} {i}")]
    return [] if found == expected else [f"{where}: {found!r:.60}, sequentially {expected!r:.60}"]
