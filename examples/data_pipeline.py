"""A pipeline over files that are elsewhere: they come over HTTP, are worked on where workers are, and go by rsync.

    python examples/data_pipeline.py
    python examples/data_pipeline.py --files 20 --workers 4 --output /tmp/results

What is read are the source files of some packages of Python's standard library. This script starts a web server
that has them and an rsync daemon that takes results, each a process of its own on this machine; they could be anywhere.

    measure        python_app   http:   →  rsync: json       one file: its lines, comments, functions
    pack           bash_app     rsync:  →  rsync: json.gz    gzip
    write_package  python_app   rsync:  →  rsync: json       from all files of a package
    write_report   python_app   rsync:  →  rsync: json       from all packages

No app opens a connection, and none knows where its files come from or go to: it gets a path and writes to a path. The
executor's `storage_access` says who copies. Both stagers work inside the task: each attempt has a folder of its own,
which goes when the attempt has ended. A worker sees nothing of the folder that this script runs in.

At the end all results are computed again, directly from the source files. A difference is printed, and the exit code
is 1. So it is if anything is left: a file where workers were, or a process.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import flowcore
from flowcore import AppFuture, Config, File, bash_app, python_app
from flowcore.staging import HTTPInTaskStaging, RSyncStaging
from flowcore.testing import processes
from flowcore.testing.rsync_server import RsyncDaemon

PACKAGES = ("asyncio", "concurrent", "email", "html", "http", "json", "logging", "urllib", "xml")
COUNTS = ("files", "bytes", "lines", "comments", "functions")


# --- what is computed, with flowcore and, to check it, without


def measurement(source: bytes) -> dict[str, Any]:
    """Return what is to be known of a source file. Its digest shows that it came as it is."""
    import ast
    import hashlib
    import io
    import tokenize

    tokens = tokenize.tokenize(io.BytesIO(source).readline)
    nodes = ast.walk(ast.parse(source))
    return {
        "sha256": hashlib.sha256(source).hexdigest(),
        "files": 1,
        "bytes": len(source),
        "lines": len(source.splitlines()),
        "comments": sum(token.type == tokenize.COMMENT for token in tokens),
        "functions": sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
    }


def total(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of measurements, and what share of the lines has a comment."""
    sums = {name: sum(part[name] for part in parts) for name in COUNTS}
    return {**sums, "comment share": round(sums["comments"] / max(1, sums["lines"]), 4)}


# --- the apps. `filepath` is where the file is, or is to be, in the task's own folder.


@python_app
def measure(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> dict[str, Any]:
    """Measure one file; return which process did it, in which folder, and how long it computed."""
    began = time.perf_counter()
    found = measurement(Path(inputs[0].filepath).read_bytes())
    Path(outputs[0].filepath).write_text(json.dumps(found), encoding="utf-8")
    return {"pid": os.getpid(), "folder": str(Path(inputs[0].filepath).parent), "s": time.perf_counter() - began}


@bash_app
def pack(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> str:
    """Compress one file."""
    return f"gzip --best --no-name < {shlex.quote(inputs[0].filepath)} > {shlex.quote(outputs[0].filepath)}"


@python_app
def write_package(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> None:
    """Add up the measurements of a package's files."""
    parts = [json.loads(gzip.decompress(Path(file.filepath).read_bytes())) for file in inputs]
    Path(outputs[0].filepath).write_text(json.dumps(total(parts)), encoding="utf-8")


@python_app
def write_report(names: list[str], inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> None:
    """Put the packages together."""
    parts = [json.loads(Path(file.filepath).read_text("utf-8")) for file in inputs]
    report = {"packages": dict(zip(names, parts, strict=True)), "total": total(parts)}
    Path(outputs[0].filepath).write_text(json.dumps(report, indent=1), encoding="utf-8")


# --- the workflow


def pipeline(paths: list[str], web: str, daemon: RsyncDaemon) -> tuple[dict[str, AppFuture[Any]], AppFuture[Any]]:
    """Submit everything; return the futures of the measurements, by path, and of the report."""
    measured: dict[str, AppFuture[Any]] = {}
    packed: dict[str, list[Any]] = {}
    for path in paths:
        measured[path] = measure(inputs=[File(f"{web}{quote(path)}")], outputs=[File(daemon.url(f"{path}.json"))])
        # A DataFuture stands for the file; the next task waits for it, and gets it at a path of its own.
        gz = pack(inputs=measured[path].outputs, outputs=[File(daemon.url(f"{path}.json.gz"))])
        packed.setdefault(path.partition("/")[0], []).append(gz.outputs[0])
    packages = [
        write_package(inputs=files, outputs=[File(daemon.url(f"{name}.json"))]) for name, files in packed.items()
    ]
    ready = [package.outputs[0] for package in packages]
    return measured, write_report(list(packed), inputs=ready, outputs=[File(daemon.url("report.json"))])


def problems(root: Path, paths: list[str], results: Path) -> list[str]:
    """Compute everything directly from the source files, and return where the results differ."""
    found = {path: measurement((root / path).read_bytes()) for path in paths}
    packages: dict[str, list[Any]] = {}
    wrong = []
    for path, expected in found.items():
        packages.setdefault(path.partition("/")[0], []).append(expected)
        plain = (results / f"{path}.json").read_bytes()
        if json.loads(plain) != expected or gzip.decompress((results / f"{path}.json.gz").read_bytes()) != plain:
            wrong.append(f"{path}: {json.loads(plain)}, directly {expected}")
    sums = {name: total(parts) for name, parts in packages.items()}
    report = json.loads((results / "report.json").read_text("utf-8"))
    if report != {"packages": sums, "total": total(list(found.values()))}:
        wrong.append(f"report.json: {report['total']}, directly {total(list(found.values()))}")
    return wrong


@contextmanager
def web_server(root: Path) -> Iterator[str]:
    """Serve a folder from a process of its own, which ends with its stdin; give the URL."""
    command = [sys.executable, "-m", "flowcore.testing.http_server", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()


def show(say: Console, paths: list[str], results: Path, measured: dict[str, dict[str, Any]]) -> None:
    """Print what came from where, and what became of it."""
    table = Table("package", box=SIMPLE_HEAD)
    for name in ("files", "in, over HTTP", "out, by rsync", "functions", "comments in lines", "workers", "busy"):
        table.add_column(name, justify="right")
    report = json.loads((results / "report.json").read_text("utf-8"))
    for name, counts in [*report["packages"].items(), ("total", report["total"])]:
        mine = [path for path in paths if name in (path.partition("/")[0], "total")]
        sent = sum((results / f"{path}{end}").stat().st_size for path in mine for end in (".json", ".json.gz"))
        tasks = [measured[path] for path in mine]
        busy_ms = sum(task["s"] for task in tasks) * 1000
        table.add_row(
            *(name, f"{counts['files']:,}", f"{counts['bytes']:,} B", f"{sent:,} B", f"{counts['functions']:,}"),
            *(f"{counts['comment share']:.1%}", str(len({task["pid"] for task in tasks})), f"{busy_ms:,.0f} ms"),
            end_section=name == list(report["packages"])[-1],
        )
    say.print(table)


def main() -> int:
    """Run the pipeline; return the exit code."""
    parser = argparse.ArgumentParser(description="A pipeline over files that come over HTTP and go by rsync.")
    parser.add_argument("--files", metavar="N", type=int, help="take only about N files, evenly spread")
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("data-demo-output"), help="default: %(default)s")
    options = parser.parse_args()
    say = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)
    root, output = Path(sysconfig.get_path("stdlib")), options.output.resolve()
    paths = sorted(str(p.relative_to(root)) for name in PACKAGES for p in (root / name).rglob("*.py"))
    paths = paths[:: max(1, len(paths) // options.files)] if options.files else paths
    results, scratch = output / "results", output / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ["DATA_PIPELINE"] = mark = uuid.uuid4().hex  # all that is started below has it

    with web_server(root) as web, RsyncDaemon(results) as daemon:
        say.print(f"{len(paths)} files of {web}, results to {daemon.prefix}")
        htex = {
            "plugin": "htex",
            "max_workers_per_node": options.workers,
            "working_dir": str(scratch),  # below it, each attempt has its folder
            "storage_access": [HTTPInTaskStaging(), RSyncStaging()],
            "provider": {"plugin": "local", "worker_init": f"cd {shlex.quote(str(scratch))}"},
        }
        began = time.perf_counter()
        with flowcore.load(Config.from_dict({"executors": [htex], "run_dir": str(output / "runinfo")})) as dfk:
            futures, report = pipeline(paths, web, daemon)
            report.outputs[0].result()  # raises what went wrong, if anything did
            measured = {path: future.result() for path, future in futures.items()}
            tasks = sum(dfk.task_counts().values())
        took_s = time.perf_counter() - began
    show(say, paths, results, measured)
    say.print(f"{tasks} tasks in {took_s:.1f} s. Results: {results}, run directory: {dfk.run_dir}")

    wrong = problems(root, paths, results)
    wrong += [f"left where workers were: {path}" for path in scratch.rglob("*")]
    wrong += [f"left running: {p}" for p in processes.carrying(f"DATA_PIPELINE={mark}") if p.pid != os.getpid()]
    if wrong:
        say.print(f"The check failed: {len(wrong)} problems. The first:", *wrong[:5], sep="\n  ", markup=False)
        return 1
    folders = {task["folder"] for task in measured.values()}
    say.print("Check passed: equal to what is computed directly from the source files.")
    say.print(
        f"{len(folders)} tasks measured in {len(folders)} folders of their own; these are gone, and nothing runs."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
