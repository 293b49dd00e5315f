"""docs/reference-coverage.md is true: every name in it resolves, every file and every test that it names exists.

Rule of the page: below each ``##`` heading stands one table of three columns. The second names the place in flowcore,
the third the tests. What stands in backticks there is one of these, and nothing else:

- a dotted name, ``flowcore.config.Config.retries``, which is imported and followed; a parameter stands in parentheses,
  ``flowcore.apps.python_app(cache)``;
- a file or folder of this repository;
- a distribution that the registry knows, ``flowcore-provider-slurm``;
- an environment variable, ``FLOWCORE_TRACKING``, that the source reads;
- in the third column, the id of a test, with the case in brackets where it has many.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import flowcore.testing
from flowcore import Config, errors
from flowcore.plugins import registry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference-coverage.md"
HEADER = ("documented name or behaviour", "in flowcore", "shown by")
#: The parts of the documentation that the page goes through.
SECTIONS = (
    "Quickstart and tutorial", "Overview", "Apps", "Futures", "Passing Python objects", "Staging data files",
    "Execution", "MPI apps",
    "Error handling", "Memoization and checkpointing", "Configuration", "Monitoring", "Example parallel patterns",
    "Structuring programs",
    "Lifted operators", "Join apps", "Usage statistics", "Plugins", "Measuring performance", "FAQ",
    "API: Core", "API: Monitoring", "API: Configuration", "API: Channels", "API: Data management",
    "API: HighThroughputExecutor", "API: Launchers", "API: Providers", "API: Batch jobs", "API: Exceptions",
    "API: Internal",
)  # fmt: skip

_DOTTED = re.compile(r"((?:flowcore|flowcore_\w+)(?:\.\w+)+)(?:\((\w+)\))?")
_DISTRIBUTION = re.compile(r"flowcore(-[a-z]+)+")
_VARIABLE = re.compile(r"FLOWCORE_[A-Z_]+")


@attrs.frozen
class Row:
    """One row of a table: its cells, and the line that it stands in."""

    line: int
    cells: tuple[str, ...]


def tables(text: str) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of the table below each heading, and what is wrong with their form."""
    found: dict[str, list[Row]] = {}
    problems: list[str] = []
    heading, expected = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            heading, expected = line[3:].strip(), "header"
            if heading in found:
                problems.append(f"line {number}: a second section {heading!r}")
            found[heading] = []
        elif line.lstrip().startswith("|"):
            cells = tuple(cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|"))
            if expected == "header":
                if cells != HEADER:
                    problems.append(f"line {number}: the table does not begin with {HEADER}")
                expected = "rule"
            elif expected == "rule":
                if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                    problems.append(f"line {number}: no |---|---|---| below the header")
                expected = "row"
            elif expected == "row":
                found[heading].append(Row(number, cells))
            else:
                problems.append(f"line {number}: a row outside of a section's one table")
        elif expected in ("row", "rule"):
            expected = "nothing"
    return found, problems


def resolve(dotted: str, parameter: str | None = None) -> None:
    """Import and follow a dotted name.

    Raises:
        LookupError: it leads nowhere; says where it ends.
    """
    parts = dotted.split(".")
    place: Any = None
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            place = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not (name + ".").startswith(error.name + "."):
                raise
        else:
            break
    else:
        raise LookupError(f"there is no module {parts[0]}")
    for number, part in enumerate(parts[end:], end):
        if hasattr(place, part):
            place = getattr(place, part)
        elif number == len(parts) - 1 and part in _fields(place):
            place = None
        else:
            raise LookupError(f"{'.'.join(parts[:number])} has no {part!r}")
    if parameter is not None:
        try:
            accepted = inspect.signature(place).parameters
        except (TypeError, ValueError):
            raise LookupError(f"{dotted} takes no parameters") from None
        if parameter not in accepted:
            raise LookupError(f"{dotted} has no parameter {parameter!r}; it has {', '.join(accepted)}")


def _fields(place: Any) -> set[str]:
    """Return the names of what an instance of a class has, beside its attributes."""
    if not isinstance(place, type):
        return set()
    names = {name for base in place.__mro__ for name in base.__dict__.get("__annotations__", ())}
    return names | set(attrs.fields_dict(place)) if attrs.has(place) else names


def is_there(package: str) -> bool:
    """Return whether the package of a name can be imported here; plugins need not be installed."""
    return importlib.util.find_spec(package) is not None


@functools.cache
def source() -> str:
    """Return all source text of the core and the plugins."""
    files = [*ROOT.glob("flowcore/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    return "\n".join(file.read_text("utf-8") for file in files)


@functools.cache
def distributions() -> frozenset[str]:
    """Return the distributions that the registry knows, and those in this repository."""
    known = {distribution for _, distribution in registry.KNOWN.values()}
    return frozenset(known | {f"flowcore-{folder.name}" for folder in ROOT.glob("plugins/*/")})


def place_problem(token: str) -> str | None:
    """Return what is wrong with something in backticks in the second column."""
    if match := _DOTTED.fullmatch(token):
        if not is_there(match[1].partition(".")[0]):
            package = match[1].partition(".")[0]
            return None if list(ROOT.glob(f"plugins/*/src/{package}")) else f"there is no package {package}"
        try:
            resolve(match[1], match[2])
        except LookupError as error:
            return str(error)
        return None
    if _DISTRIBUTION.fullmatch(token):
        return None if token in distributions() else f"no distribution {token} is known"
    if _VARIABLE.fullmatch(token):
        return None if token in source() else f"nobody reads {token}"
    if "/" in token:
        return None if (ROOT / token).exists() else f"there is no file {token}"
    return f"{token!r} is no dotted name, file, distribution or variable"


@functools.cache
def cases_of(file: Path) -> frozenset[str]:
    """Return the ids of the tests of a file, without its path; a class stands for those that it inherits."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            own = [n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            inherited = [name for base in node.bases if isinstance(base, ast.Name) for name in _of_suite(file, base.id)]
            names = [name for name in (*own, *inherited) if name.startswith("test_")]
            found |= {f"{node.name}::{name}" for name in names}
            if names:
                found.add(node.name)
    return frozenset(found)


def _of_suite(file: Path, base: str) -> list[str]:
    suite = getattr(flowcore.testing, base, None)
    if suite is not None:
        return dir(suite)
    # A class of the same file.
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == base:
            return [name for b in node.bases if isinstance(b, ast.Name) for name in _of_suite(file, b.id)]
    return []


def proof_problem(token: str) -> str | None:
    """Return what is wrong with something in backticks in the third column."""
    path, _, name = token.partition("::")
    file = ROOT / path
    name, bracket, case = name.partition("[")
    if not name or file.suffix != ".py" or (bracket and not case.endswith("]")):
        return f"{token!r} is no id of a test"
    if not file.is_file():
        return f"there is no file {path}"
    if name not in cases_of(file):
        return f"{path} has no test {name}"
    unknown = [part for part in case.removesuffix("]").split("-") if part and part not in words_of(file)]
    return f"{path} has no case {', '.join(unknown)}" if unknown else None


@functools.cache
def words_of(file: Path) -> frozenset[str]:
    """Return what cases of a file's tests may be named by: its texts, and the programs in folders beside it."""
    texts = {n.value for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Constant)}
    return frozenset({t for t in texts if isinstance(t, str)} | {p.stem for p in file.parent.glob("*/**/*.py")})


def problems_of(text: str, sections: tuple[str, ...] = SECTIONS) -> list[str]:
    """Return all that is wrong with a page, each with its line."""
    found, problems = tables(text)
    problems += [f"the section {name!r} is missing" for name in sections if not found.get(name)]
    problems += [f"the section {name!r} is none of the documentation's" for name in found if name not in sections]
    for heading, rows in found.items():
        seen: dict[str, int] = {}
        for row in rows:
            where = f"line {row.line}"
            if len(row.cells) != len(HEADER) or not all(row.cells):
                problems.append(f"{where}: expected {len(HEADER)} cells that are not empty, got {row.cells}")
                continue
            what, place, shown = row.cells
            if what in seen:
                problems.append(f"{where}: {what!r} stands in {heading!r} already, in line {seen[what]}")
            seen[what] = row.line
            for column, cell, problem_of in (("place", place, place_problem), ("test", shown, proof_problem)):
                if cell.count("`") % 2:
                    problems.append(f"{where}: a backtick is not closed: {cell}")
                tokens = re.findall(r"`([^`]+)`", cell)
                if not tokens:
                    problems.append(f"{where}: names no {column}: {cell}")
                problems += [f"{where}: {problem}" for token in tokens if (problem := problem_of(token))]
    return problems


def unnamed(text: str) -> list[str]:
    """Return the exceptions and options of flowcore that no row names."""
    exceptions = [
        f"flowcore.errors.{name}"
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
    ]
    options = [f"flowcore.config.Config.{field.name}" for field in attrs.fields(Config)]
    places = {
        match[1]
        for rows in tables(text)[0].values()
        for row in rows
        for match in map(_DOTTED.match, re.findall(r"`([^`]+)`", "|".join(row.cells[1:2])))
        if match
    }
    # An attribute of an exception, or a parameter, names its class too.
    return [name for name in (*exceptions, *options) if not any(p == name or p.startswith(name + ".") for p in places)]


# --- the page


def test_the_page() -> None:
    assert problems_of(PAGE.read_text("utf-8")) == []


def test_every_exception_and_every_option_is_named() -> None:
    assert unnamed(PAGE.read_text("utf-8")) == []


# --- the checker

ONE = """# A page

## One

| documented name or behaviour | in flowcore | shown by |
|---|---|---|
"""
GOOD = "| `load` | `flowcore.load` | `tests/unit/test_apps.py::test_python_app` |\n"
TEST = "`tests/unit/test_apps.py::test_python_app`"


def check(rows: str) -> list[str]:
    return problems_of(ONE + rows, ("One",))


@pytest.mark.parametrize(
    "place",
    [
        "`flowcore.load`, and in a few words more",
        "`flowcore.config`",
        "`flowcore.config.Config.retries`",
        "`flowcore.apps.python_app(cache)`",
        "`flowcore.errors.BashExitFailure(exitcode)`",
        "`flowcore.kernel.task.Task.fail_cost`, `flowcore.kernel.task.Task.func_name`",
        "`flowcore.plugins.executor.Executor.label`",
        "`flowcore.kernel.states.States.joining`",
        "`docs/reference-coverage.md`",
        "`tests/docs`, a folder: `tests/docs/`",
        "`flowcore-provider-slurm`",
        "`FLOWCORE_TRACKING`",
    ],
)
def test_right_places(place: str) -> None:
    assert check(f"| x | {place} | {TEST} |\n") == []


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("`flowcore.lode`", "flowcore has no 'lode'"),
        ("`flowcore.configs.Config`", "flowcore has no 'configs'"),
        ("`flowcore.config.Config.retrys`", "flowcore.config.Config has no 'retrys'"),
        ("`flowcore.config.Config.retries.more`", "flowcore.config.Config has no 'retries'"),
        ("`flowcore.apps.python_app(cahce)`", "flowcore.apps.python_app has no parameter 'cahce'; it has function, "),
        ("`flowcore.errors.signal_name.x`", "flowcore.errors.signal_name has no 'x'"),
        ("`flowcore.apps.RESERVED(x)`", "flowcore.apps.RESERVED takes no parameters"),
        ("`flowcore_nowhere.x`", "there is no package flowcore_nowhere"),
        ("`docs/nowhere.md`", "there is no file docs/nowhere.md"),
        ("`flowcore-provider-nowhere`", "no distribution flowcore-provider-nowhere is known"),
        ("`FLOWCORE_NOWHERE`", "nobody reads FLOWCORE_NOWHERE"),
        ("`Config`", "'Config' is no dotted name, file, distribution or variable"),
        ("flowcore.load", "names no place: flowcore.load"),
        ("`flowcore.load", "a backtick is not closed: `flowcore.load"),
        ("", "expected 3 cells that are not empty, got ('x', '', "),
    ],
)
def test_wrong_places(place: str, problem: str) -> None:
    found = check(f"{GOOD}| x | {place} | {TEST} |\n")
    assert found
    assert all(one.startswith("line 8: ") for one in found)
    assert found[0].removeprefix("line 8: ").startswith(problem)


@pytest.mark.parametrize(
    "shown",
    [
        "`tests/unit/test_apps.py::test_python_app_with_and_without_parentheses`",  # parametrized
        "`tests/unit/test_kernel.py::test_app_futures_can_be_awaited`",  # a coroutine
        "`plugins/compat-parsl/tests/test_programs.py::test_a_program_of_the_guide[mapreduce-own]`",
        "`plugins/compat-parsl/tests/test_programs.py::test_the_configuration_of_a_site[frontera]`",
        "`tests/contract/test_builtin_contracts.py::TestThreads`",
        "`tests/contract/test_builtin_contracts.py::TestThreads::test_reports_a_value`",  # of the suite
        "`plugins/executor-htex/tests/test_contract.py::TestHtexInPlainTextOverTcp::test_outstanding`",
    ],
)
def test_right_tests(shown: str) -> None:
    assert check(f"| x | `flowcore.load` | {shown} |\n") == []


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ("`tests/unit/test_apps.py::test_nothing`", "tests/unit/test_apps.py has no test test_nothing"),
        ("`tests/unit/test_apps.py::plain`", "tests/unit/test_apps.py has no test plain"),
        ("`tests/unit/test_nowhere.py::test_x`", "there is no file tests/unit/test_nowhere.py"),
        (
            "`tests/contract/test_builtin_contracts.py::TestThreads::test_nothing`",
            "tests/contract/test_builtin_contracts.py has no test TestThreads::test_nothing",
        ),
        (
            "`tests/contract/test_builtin_contracts.py::TestNothing`",
            "tests/contract/test_builtin_contracts.py has no test TestNothing",
        ),
        (
            "`plugins/compat-parsl/tests/test_programs.py::test_a_program_of_the_guide[nowhere-own]`",
            "plugins/compat-parsl/tests/test_programs.py has no case nowhere",
        ),
        (
            "`tests/unit/test_apps.py::test_python_app[x`",
            "'tests/unit/test_apps.py::test_python_app[x' is no id of a test",
        ),
        ("`tests/unit/test_apps.py`", "'tests/unit/test_apps.py' is no id of a test"),
        (f"{TEST}, `flowcore.load`", "'flowcore.load' is no id of a test"),
        ("by hand", "names no test: by hand"),
        ("", "expected 3 cells that are not empty, got ('x', '`flowcore.load`', '')"),
    ],
)
def test_wrong_tests(shown: str, problem: str) -> None:
    assert check(f"{GOOD}| x | `flowcore.load` | {shown} |\n") == [f"line 8: {problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ONE + GOOD + GOOD, "line 8: '`load`' stands in 'One' already, in line 7"),
        (ONE + f"|  | `flowcore.load` | {TEST} |\n", "line 7: expected 3 cells that are not empty, got ('', "),
        (ONE + "| `load` | `flowcore.load` |\n", "line 7: expected 3 cells that are not empty, got ('`load`', "),
        (ONE + GOOD[:-1] + " more |\n", "line 7: expected 3 cells that are not empty"),
        (ONE, "the section 'One' is missing"),
        (ONE.replace("One", "Two") + GOOD, "the section 'One' is missing"),
        (ONE + GOOD + ONE.replace("One", "Two") + GOOD, "the section 'Two' is none of the documentation's"),
        (ONE + GOOD + ONE + GOOD, "line 10: a second section 'One'"),
        (ONE.replace("shown by", "tests") + GOOD, "line 5: the table does not begin with"),
        (ONE.replace("|---|---|---|\n", "") + GOOD + GOOD, "line 6: no |---|---|---| below the header"),
        (ONE + GOOD + "\nwords\n\n" + GOOD, "line 11: a row outside of a section's one table"),
        ("| a | b | c |\n" + ONE + GOOD, "line 1: a row outside of a section's one table"),
    ],
)
def test_wrong_tables(text: str, problem: str) -> None:
    found = problems_of(text, ("One",))
    assert found
    assert found[0].startswith(problem)


def test_what_no_row_names() -> None:
    missing = unnamed(ONE + GOOD)
    assert {"flowcore.errors.FlowcoreError", "flowcore.config.Config.retries"} <= set(missing)
    named = "| x | `flowcore.config.Config.retries`, `flowcore.errors.BashExitFailure(exitcode)` | `y` |\n"
    assert set(missing) - set(unnamed(ONE + named)) == {
        "flowcore.config.Config.retries",
        "flowcore.errors.BashExitFailure",
    }
    # Where it is named must be the second column.
    assert set(unnamed(ONE + "| `flowcore.config.Config.retries` | x | y |\n")) == set(missing)
