"""Imports go one way (DESIGN section 3), and importing flowcore is cheap.

A new module at the top of the package needs a place in ``LAYERS``.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowcore

ROOT = Path(flowcore.__file__).parent

#: Top-level modules of each layer, from the lowest up. A module imports its own layer and lower ones.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "errors",
            "files",
            "futures",
            "serialize",
            "bash",
            "logs",
            "usage",
            "outputs",
            "walltime",
            "loaded",
            "durations",
            "signals",
        }
    ),  # fmt: skip
    frozenset({"plugins"}),
    frozenset({"config", "kernel", "scaling", "addresses", "memoization"}),
    # Besides apps, session and checkpoints: the doors to components by class name.
    frozenset(
        {"apps", "session", "checkpoints", "executors", "providers", "launchers", "channels", "staging", "monitoring"}
    ),
    frozenset({"__main__", "cli", "compat", "concurrent", "testing"}),
)
#: Imported by nobody in the core: found through entry points, or by who tests.
LEAVES = {"builtin", "testing", "cli", "compat"}
#: What each built-in module may import: what any third party may, and its neighbours.
DOOR = "flowcore.plugins.api"


def level(module: str) -> int:
    """Return the layer of a module by its dotted name."""
    top = module.split(".")[1]
    return next(i for i, layer in enumerate(LAYERS) if top in layer)


def name_of(path: Path) -> str:
    parts = ["flowcore", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(module: str, at_import_time: bool = False) -> set[str]:
    """Return the modules of flowcore that a module imports; with ``at_import_time``, while it is imported."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
        ):
            return
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.split(".")[0] == "flowcore")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            if base.split(".")[0] == "flowcore":
                for alias in node.names:
                    # `from flowcore import serialize` is the module, `from flowcore import load` is a name.
                    submodule = f"{base}.{alias.name}"
                    found.add(submodule if submodule in MODULES else base)
                    if base == "flowcore" and alias.name == "__version__":
                        # A constant of the package, which is there before any of its modules.
                        found.discard(base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    return found


def test_every_module_has_a_layer() -> None:
    known = {name for layer in LAYERS for name in layer} | {"builtin"}
    tops = {name.split(".")[1] for name in MODULES if "." in name}
    assert tops <= known, f"place {sorted(tops - known)} in LAYERS of {__file__}"


def test_no_module_stands_in_two_layers() -> None:
    names = [name for layer in LAYERS for name in layer]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m and m.split(".")[1] != "builtin"])
def test_imports_go_down(module: str) -> None:
    own = level(module)
    for imported in imports(module):
        assert imported != "flowcore", f"{module} imports the package itself: name the module that has it"
        top = imported.split(".")[1]
        at_home = top == module.split(".")[1] or module == "flowcore.__main__"
        assert top not in LEAVES or at_home, f"{module} imports {imported}"
        assert level(imported) <= own, f"{module} is below {imported}, and imports it"


def test_the_test_sees_imports_inside_functions() -> None:
    # The session asks for usage reports where the user wants them.
    assert "flowcore.usage" in imports("flowcore.session")
    assert "flowcore.usage" not in imports("flowcore.session", at_import_time=True)
    assert "flowcore.errors" in imports("flowcore.kernel.machine")


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("flowcore.builtin.")])
def test_builtin_components_use_the_public_door(module: str) -> None:
    private = {i for i in imports(module) if i != DOOR and not i.startswith("flowcore.builtin.")}
    assert private == set(), f"{module} imports what no plugin may; {DOOR} should offer it"


def test_the_door_offers_what_it_names() -> None:
    from flowcore.plugins import api

    assert sorted(set(api.__all__)) == sorted(api.__all__)
    for name in api.__all__:
        assert hasattr(api, name), name


def test_no_cycles_at_import_time() -> None:
    # A package's __init__ runs before its modules; here it counts as one of them.
    graph = {module: imports(module, at_import_time=True) & MODULES.keys() for module in MODULES}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in sorted(graph[module]):
                walk(imported, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())
    assert done == set(MODULES)


# --- what is imported when


def modules_after(code: str) -> set[str]:
    """Return the names of the modules that are loaded in a fresh interpreter after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )
    return set(done.stdout.splitlines())


#: Libraries that cost too much to be loaded before they are needed.
HEAVY = {
    "attrs", "attr", "click", "cloudpickle", "dill", "logging", "msgpack", "msgspec", "numpy", "packaging", "paramiko",
    "pluggy", "psutil", "pytest", "requests", "rich", "sqlalchemy", "stevedore", "typeguard", "zmq",
}  # fmt: skip


def test_importing_flowcore_imports_next_to_nothing() -> None:
    bare = modules_after("")
    loaded = modules_after("import flowcore") - bare
    assert {m for m in loaded if m.startswith("flowcore")} == {"flowcore"}
    assert {m.split(".")[0] for m in loaded} & HEAVY == set()


def test_using_apps_imports_no_plugin_and_no_heavy_library() -> None:
    code = "from flowcore import python_app, bash_app, join_app, File, Config\n@python_app\ndef f(): ...\n"
    loaded = modules_after(code) - modules_after("")
    assert {m for m in loaded if m.startswith(("flowcore.builtin", "flowcore_", "flowcore.testing"))} == set()
    never = {
        "zmq",
        "sqlalchemy",
        "paramiko",
        "rich",
        "click",
        "dill",
        "numpy",
        "requests",
        "pytest",
        "stevedore",
    }
    assert {m.split(".")[0] for m in loaded} & never == set()


def test_a_run_imports_only_the_components_that_it_uses() -> None:
    code = "import flowcore, tempfile\nwith flowcore.load({'run_dir': tempfile.mkdtemp()}): pass"
    loaded = modules_after(code)
    assert "flowcore.builtin.threads" in loaded
    assert not {m for m in loaded if m.startswith("flowcore.testing")}
    assert not {"flowcore.builtin.local_provider", "flowcore_executor_htex", "zmq"} & loaded


def test_the_fakes_need_no_pytest() -> None:
    code = "from flowcore.testing import FakeExecutor, FakeProvider, FakeClock, FakeBlockExecutor, eventually"
    loaded = modules_after(code)
    assert "flowcore.testing.fakes" in loaded
    assert "pytest" not in loaded
