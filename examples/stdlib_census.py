"""A census of Python's standard library: a workflow over some 1,800 files, from parsing to a checked report.

    python examples/stdlib_census.py                      # worker processes on this machine
    python examples/stdlib_census.py --executor threads   # threads of this process
    python examples/stdlib_census.py --config examples/flowcore.toml --root ~/my/project

What happens, and which kind of app does it:

    measure         python_app, cached   parses one file; one call for each
    write_tables    python_app           writes what was found in some files to TSV files (`outputs`)
    sum_packages    bash_app             awk, over all these files
    rank_functions  bash_app             sort
    count_imports   bash_app             sort and uniq
    first_lines     bash_app             head, over what the two before it make
    look_closer     join_app             decides, once a package is measured, which modules to dissect
    dissect         python_app, cached   nesting, long functions and docstrings of one module
    write_report    python_app           report.json and report.md

The cyclomatic complexity of a function is 1, plus 1 for each `if`, `elif`, `for`, `while`, `except`, `case`,
conditional expression, `if` in a comprehension, and `and` or `or`. What stands in a nested function counts
there, and not in the function around it.

A second run takes the results of `measure` and `dissect` from the checkpoints of the runs before. At the end
everything is computed again, by the same functions, one after the other and without flowcore, with Python in
place of sort, uniq and awk. A difference is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import shlex
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any, TypedDict

from census_support import Meter, differences, find_files, parse_options, print_tables
from rich.console import Console

import flowcore
from flowcore import AppFuture, Config, File, bash_app, join_app, python_app
from flowcore.checkpoints import get_all_checkpoints
from flowcore.config import read_file

HARD = 25  # a function of this complexity earns its module a closer look
BATCH = 100  # files per call of write_tables
TOP = 50  # entries of a ranking


class Module(TypedDict):
    """What `measure` finds in a file. A function is (complexity, name, line)."""

    path: str
    stamp: str
    name: str
    package: str
    problem: str
    lines: int
    classes: int
    functions: list[tuple[int, str, int]]
    imports: list[str]
    run: str
    cpu_s: float


class Look(TypedDict):
    """What `dissect` finds in a file. A long function is (lines, name)."""

    name: str
    depth: int
    documented: float
    longest: list[tuple[int, str]]
    run: str
    cpu_s: float


# --- the apps. This script is not installed anywhere: its functions travel to the workers by value.


# A file that was changed has another stamp, so its old result is not reused. `run` names the run that computes
# the result, so that a later run can tell the old results from its own; it must not count for the cache.
@python_app(cache=True, ignore_for_cache=["run"])
def measure(root: str, path: str, stamp: str, run: str) -> Module:
    """Parse a file. One that cannot be parsed is a finding, no error: the library has some on purpose."""
    # All that the result depends on stands in here, because the text of the app is a part of its cache key.
    branches = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case)
    began = time.thread_time()
    warnings.simplefilter("ignore", SyntaxWarning)
    problem, classes, imports = "", 0, set[str]()
    functions: list[tuple[ast.AST, str, int]] = []
    complexity: Counter[ast.AST] = Counter()
    try:
        text = Path(root, path).read_bytes()
        todo: list[tuple[ast.AST, str, ast.AST | None]] = [(ast.parse(text), "", None)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem, text, todo = type(error).__name__, b"", []
    while todo:
        node, scope, function = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node, scope + node.name, node.lineno))
            function, scope = node, f"{scope}{node.name}."
            complexity[node] = 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
            scope += f"{node.name}."
        elif isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module.partition(".")[0])
        elif function and isinstance(node, branches):
            complexity[function] += 1
        elif function and isinstance(node, ast.BoolOp):
            complexity[function] += len(node.values) - 1
        elif function and isinstance(node, ast.comprehension):
            complexity[function] += len(node.ifs)
        todo += [(child, scope, function) for child in ast.iter_child_nodes(node)]
    # A path may hold anything, but the name of a module must fit into one field of a table.
    parts = [repr(part)[1:-1] for part in Path(path).with_suffix("").parts]
    return {
        "path": path,
        "stamp": stamp,
        "name": ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts),
        "package": parts[0] if len(parts) > 1 else "(modules)",
        "problem": problem,
        "lines": len(text.splitlines()),
        "classes": classes,
        "functions": sorted((complexity[node], name, line) for node, name, line in functions),
        "imports": sorted(imports),
        "run": run,
        "cpu_s": time.thread_time() - began,
    }


@python_app(cache=True, ignore_for_cache=["run"])
def dissect(root: str, path: str, stamp: str, name: str, run: str) -> Look:
    """Look closer at a module: how deep its blocks nest, which functions have a docstring, the longest ones."""
    blocks = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
    began = time.thread_time()
    functions, documented, deepest = [], 0, 0
    todo: list[tuple[ast.AST, int]] = [(ast.parse(Path(root, path).read_bytes()), 0)]
    while todo:
        node, depth = todo.pop()
        depth += isinstance(node, blocks)
        deepest = max(deepest, depth)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append(((node.end_lineno or node.lineno) - node.lineno + 1, node.name))
            documented += ast.get_docstring(node, clean=False) is not None
        # An elif is an if in an else to the parser, but no deeper to the reader.
        elif isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
            todo.append((node.orelse.pop(), depth - 1))
        todo += [(child, depth) for child in ast.iter_child_nodes(node)]
    return {
        "name": name,
        "depth": deepest,
        "documented": round(documented / max(1, len(functions)), 3),
        "longest": sorted(functions, key=lambda f: (-f[0], f[1]))[:3],
        "run": run,
        "cpu_s": time.thread_time() - began,
    }


def hard_ones(modules: Iterable[Module]) -> list[Module]:
    """Return the modules that hold a function of complexity HARD or more."""
    return [m for m in modules if m["functions"] and m["functions"][-1][0] >= HARD]


@join_app
def look_closer(root: str, package: list[Module], run: str) -> list[AppFuture[Look]]:
    """Dissect the hard modules of a package; how many there are is not known before this runs."""
    return [dissect(root, m["path"], m["stamp"], m["name"], run) for m in hard_ones(package)]


@python_app
def write_tables(modules: list[Module], outputs: Sequence[File] = ()) -> None:
    """Write three TSV files, with a line for each module, for each function, and for each import."""
    tables: list[list[tuple[Any, ...]]] = [
        [(m["package"], 1, m["lines"], len(m["functions"]), m["classes"], int(m["problem"] != "")) for m in modules],
        [(complexity, m["name"], name, line) for m in modules for complexity, name, line in m["functions"]],
        [(name,) for m in modules for name in m["imports"]],
    ]
    for table, output in zip(tables, outputs, strict=True):
        lines = ["\t".join(map(str, row)) + "\n" for row in table]
        Path(output).write_text("".join(lines), encoding="utf-8")


def pipe(inputs: Sequence[File], command: str, outputs: Sequence[File]) -> str:
    """Return a command line that sends files through a command. The C locale sorts as Python does."""
    sources = " ".join(shlex.quote(file.filepath) for file in inputs)
    return f"set -eo pipefail; export LC_ALL=C; cat {sources} | {command} > {shlex.quote(outputs[0].filepath)}"


@bash_app
def sum_packages(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> str:
    """Add up the modules of each package; the package with the most lines first."""
    add = r"""{ seen[$1]; for (i = 2; i <= 6; i++) sum[$1, i] += $i }
        END { for (p in seen) { printf "%s", p; for (i = 2; i <= 6; i++) printf "\t%d", sum[p, i]; print "" } }"""
    return pipe(inputs, rf"awk -F '\t' '{add}' | sort -t $'\t' -k3,3nr -k1,1", outputs)


@bash_app
def rank_functions(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> str:
    """Sort the functions; the most complex first."""
    return pipe(inputs, r"sort -t $'\t' -k1,1nr -k2,2 -k3,3 -k4,4n", outputs)


@bash_app
def count_imports(inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> str:
    """Count in how many modules each module is imported; the most imported first."""
    return pipe(inputs, r"""sort | uniq -c | awk '{ print $1 "\t" $2 }' | sort -k1,1nr -k2,2""", outputs)


@bash_app
def first_lines(count: int, inputs: Sequence[File] = (), outputs: Sequence[File] = ()) -> str:
    """Keep the first lines of a file."""
    return f"head -n {count} {shlex.quote(inputs[0].filepath)} > {shlex.quote(outputs[0].filepath)}"


@python_app
def write_report(
    title: str, looks: list[list[Look]], inputs: Sequence[File] = (), outputs: Sequence[File] = ()
) -> None:
    """Write the tables and the closer looks as JSON and as Markdown."""
    tables = [[row.split("\t") for row in Path(file).read_text("utf-8").splitlines()] for file in inputs]
    report = compose(tables, [look for of_package in looks for look in of_package])
    Path(outputs[0]).write_text(json.dumps(report, indent=1), encoding="utf-8")
    lines = [f"# {title}", "", ", ".join(f"{n:,} {name}" for name, n in report["total"].items()), ""]
    for heading, head in {
        "packages": "package | modules | lines | functions | classes | not parsed",
        "most complex functions": "complexity | module | function | line",
        "most imported modules": "importing modules | module",
        "a closer look": "module | nesting | share of functions with a docstring | longest functions",
    }.items():
        lines += [f"## {heading.capitalize()}", "", f"| {head} |", "|---" * len(head.split("|")) + "|"]
        lines += [f"| {' | '.join(map(str, row))} |" for row in report[heading]] + [""]
    Path(outputs[1]).write_text("\n".join(lines), encoding="utf-8")


def compose(tables: list[list[list[str]]], looks: list[Look]) -> dict[str, Any]:
    """Return the report, made of what JSON can hold."""
    packages, functions, imports = (
        [[int(field) if field.isdecimal() else field for field in row] for row in table] for table in tables
    )
    names = ("modules", "lines", "functions", "classes", "not parsed")
    return {
        "total": {name: sum(int(row[i]) for row in packages) for i, name in enumerate(names, 1)},
        "packages": packages,
        "most complex functions": functions,
        "most imported modules": imports,
        "a closer look": [
            [look["name"], look["depth"], look["documented"], ", ".join(f"{f} ({n} lines)" for n, f in look["longest"])]
            for look in sorted(looks, key=lambda look: (-look["depth"], look["name"]))
        ],
    }


# --- the workflow: calls of apps, each of which returns a future at once


def census(root: Path, files: list[tuple[str, str]], output: Path, run: str) -> tuple[list[Any], list[Any], Any]:
    """Submit everything; return the futures of the modules, of the closer looks, and of the report."""
    folder = output / "tables"
    folder.mkdir(parents=True, exist_ok=True)

    def tsv(name: str) -> File:
        return File(folder / f"{name}.tsv")

    modules = [measure(str(root), path, stamp, run) for path, stamp in files]

    packages = defaultdict(list)
    for (path, _), module in zip(files, modules, strict=True):
        packages[Path(path).parts[:-1][:1]].append(module)
    looks = [look_closer(str(root), package, run) for package in packages.values()]

    kinds = ("modules", "functions", "imports")
    tables = [
        write_tables(modules[i : i + BATCH], outputs=[tsv(f"{i // BATCH:03}-{kind}") for kind in kinds])
        for i in range(0, len(modules), BATCH)
    ]
    of_modules, of_functions, of_imports = zip(*(table.outputs for table in tables), strict=True)
    summed = sum_packages(inputs=of_modules, outputs=[tsv("packages")])
    ranked = rank_functions(inputs=of_functions, outputs=[tsv("functions")])
    counted = count_imports(inputs=of_imports, outputs=[tsv("imports")])
    top_functions = first_lines(TOP, inputs=ranked.outputs, outputs=[tsv("top-functions")])
    top_imports = first_lines(TOP, inputs=counted.outputs, outputs=[tsv("top-imports")])
    report = write_report(
        f"Census of {root}",
        looks,
        inputs=summed.outputs + top_functions.outputs + top_imports.outputs,
        outputs=[File(output / "report.json"), File(output / "report.md")],
    )
    return modules, looks, report


def sequential(root: Path, files: list[tuple[str, str]], meter: Meter) -> tuple[list[Module], dict[str, Any]]:
    """Compute the modules and the report without flowcore: `__wrapped__` is the function of an app."""
    modules = []
    for path, stamp in files:
        modules.append(measure.__wrapped__(str(root), path, stamp, ""))
        meter.show(len(modules), len(files), "files")
    looks = [dissect.__wrapped__(str(root), m["path"], m["stamp"], m["name"], "") for m in hard_ones(modules)]
    packages: dict[str, list[int]] = {}
    for m in modules:
        sums = packages.setdefault(m["package"], [0] * 5)
        counts = (1, m["lines"], len(m["functions"]), m["classes"], int(m["problem"] != ""))
        sums[:] = map(sum, zip(sums, counts, strict=True))
    functions = sorted((-f[0], m["name"], f[1], f[2]) for m in modules for f in m["functions"])
    imports = Counter(name for m in modules for name in m["imports"])
    tables: list[list[tuple[Any, ...]]] = [
        sorted(((name, *sums) for name, sums in packages.items()), key=lambda row: (-row[2], row[0])),
        [(-complexity, *rest) for complexity, *rest in functions[:TOP]],
        sorted(((n, name) for name, n in imports.items()), key=lambda row: (-row[0], row[1]))[:TOP],
    ]
    return modules, compose([[list(map(str, row)) for row in table] for table in tables], looks)


def make_config(options: argparse.Namespace) -> Config:
    """Return the user's configuration, or one for --executor; in either case with checkpoints."""
    values: dict[str, Any]
    if options.config:
        values = read_file(options.config, options.profile)
    elif options.executor == "threads":
        values = {"executors": [{"plugin": "threads", "max_threads": options.workers}]}
    else:
        htex = {"plugin": "htex", "label": "htex", "max_workers_per_node": options.workers}
        values = {"executors": [{**htex, "provider": {"plugin": "local"}}]}
    values.setdefault("run_dir", str(options.output / "runinfo"))
    values.setdefault("checkpoint_mode", "task_exit")
    values.setdefault("checkpoint_files", get_all_checkpoints(values["run_dir"]))
    return Config.from_dict(values, options.config or "config")


def main() -> int:
    """Run the census; return the exit code."""
    options = parse_options()
    root, output = options.root, options.output
    say = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 100)
    files = find_files(root, options.limit)
    if not files:
        say.print(f"There is no Python file below {root}")
        return 1

    try:
        config = make_config(options)
    except flowcore.FlowcoreError as error:
        sys.exit(str(error))  # it says what is wrong, and where

    began = time.perf_counter()
    with flowcore.load(config) as dfk:
        ready_s = time.perf_counter() - began
        say.print(f"{len(files):,} files below {root}, executor: {', '.join(dfk.executors)}")
        modules, looks, report = census(root, files, output, dfk.run_id)
        with Meter(say, "Census") as meter:
            while wait([report], timeout=0.1).not_done:
                meter.show_tasks(dfk.task_counts())
        report.result()  # raises what went wrong, if anything did
        workflow_s = time.perf_counter() - began
        tasks = sum(dfk.task_counts().values())

    found = json.loads((output / "report.json").read_text("utf-8"))
    print_tables(say, found)
    results = [m.result() for m in modules] + [look for package in looks for look in package.result()]
    old = [result for result in results if result["run"] != dfk.run_id]
    say.print("In total:", ", ".join(f"{n:,} {name}" for name, n in found["total"].items()))
    say.print(f"Report: {output / 'report.md'}, and report.json beside it\nRun directory: {dfk.run_dir}")
    say.print(f"{tasks:,} tasks in {workflow_s:.1f} s, {ready_s:.1f} s of it in flowcore.load()")
    if old:
        saved_s = sum(result["cpu_s"] for result in old)
        say.print(
            f"Reused {len(old):,} of {len(results):,} cached results: "
            f"the earlier runs had spent {saved_s:.1f} s of CPU time on them"
        )
    if options.no_check:
        return 0

    began = time.perf_counter()
    with Meter(say, "Checking against a sequential computation") as meter:
        expected_modules, expected = sequential(root, files, meter)
    sequential_s = time.perf_counter() - began
    wrong = differences([m.result() for m in modules], expected_modules, "module")
    wrong += differences(found, json.loads(json.dumps(expected)), "report")
    if wrong:
        say.print(f"The check failed: {len(wrong):,} differences. The first:", *wrong[:5], sep="\n  ", markup=False)
        return 1
    say.print("Check passed: equal to a sequential computation.")
    say.print(
        f"That took {sequential_s:.1f} s, {sequential_s / workflow_s:.1f} times as long as the workflow"
        + " with its reused results" * bool(old)
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted. What was computed is in the checkpoint, and the next run goes on from there.")
        sys.exit(130)
