"""The registry, with distributions that the tests make up: a folder ``*.dist-info`` is all that one needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flowcore
from flowcore.errors import PluginConflict, PluginError, PluginLoadError, PluginNotFound
from flowcore.plugins import registry
from flowcore.plugins.api import PLUGIN_API

LAUNCHER = """
from flowcore.plugins.api import Launcher

class MyLauncher(Launcher):
    debug = True
    def __call__(self, command, tasks_per_node, nodes_per_block):
        return command
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a distribution that is installed for this test; its modules leave no bytecode and no trace."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def make(
        name: str,
        entry_points: str,
        *,
        modules: dict[str, str] | None = None,
        requires: str | None = "flowcore>=0.1,<0.2",
        version: str = "1.0",
        metadata: str | None = None,
    ) -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        if requires is not None:
            text += f"Requires-Dist: {requires}\n"
        if metadata != "":
            (info / "METADATA").write_text(text + (metadata or ""))
        (info / "entry_points.txt").write_text(entry_points)
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(source)
        return site

    yield make
    registry._load.cache_clear()
    registry._warn_once.cache_clear()
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def other_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Lets this core have another version."""

    def set_version(version: str) -> None:
        monkeypatch.setattr(flowcore, "__version__", version)
        registry._core_version.cache_clear()

    yield set_version
    monkeypatch.undo()
    registry._core_version.cache_clear()


# --- finding


def test_finds_and_loads_by_name(make: Make) -> None:
    make("my-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    plugin = registry.find("launcher", "mine")
    assert (plugin.kind, plugin.name, plugin.value) == ("launcher", "mine", "my_mod:MyLauncher")
    assert (plugin.distribution, plugin.version, plugin.problem) == ("my-plugin", "1.0", None)
    assert (plugin.module, plugin.class_name) == ("my_mod", "MyLauncher")
    assert "my_mod" not in sys.modules
    cls = registry.get("launcher", "mine")
    assert cls.__name__ == "MyLauncher"
    assert registry.get("launcher", "mine") is cls


def test_finds_by_class_name(make: Make) -> None:
    make("my-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher [extra]\n", modules={"my_mod": LAUNCHER})
    from flowcore import launchers

    assert registry.find_class("launcher", "MyLauncher").name == "mine"
    assert launchers.MyLauncher is registry.get("launcher", "mine")
    assert "MyLauncher" in dir(launchers)
    assert "SimpleLauncher" in registry.class_names("launcher")


def test_lists_in_order(make: Make) -> None:
    make("my-plugin", "[flowcore.launchers]\nzz = m:Z\naa = m:A\n[flowcore.providers]\nother = m:O\n")
    names = [p.name for p in registry.installed("launcher")]
    assert names == sorted(names)
    assert {"aa", "zz", "simple", "single_node", "wrapped"} <= set(names)
    assert "other" not in names


def test_an_unknown_kind() -> None:
    with pytest.raises(PluginError) as caught:
        registry.installed("launchr")
    assert str(caught.value).startswith("there is no kind of plugin 'launchr' (did you mean 'launcher'?); kinds: ")
    assert "memo_hasher" in str(caught.value)


def test_an_unknown_name() -> None:
    with pytest.raises(PluginNotFound) as caught:
        registry.get("launcher", "singel_node")
    assert str(caught.value) == (
        "no launcher 'singel_node' is installed (did you mean 'single_node'?); "
        f"installed: {', '.join(sorted(p.name for p in registry.installed('launcher')))}"
    )


def test_an_unknown_name_that_is_close_to_one_that_could_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "KNOWN", {("provider", "moonbase"): ("MoonProvider", "flowcore-provider-moon")})
    with pytest.raises(PluginNotFound, match="did you mean 'moonbase'"):
        registry.get("provider", "monbase")


def test_a_known_one_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KNOWN", {("provider", "moonbase"): ("MoonProvider", "flowcore-provider-moon")})
    with pytest.raises(PluginNotFound) as caught:
        registry.get("provider", "moonbase")
    assert str(caught.value) == "provider 'moonbase' is not installed: pip install flowcore-provider-moon"
    with pytest.raises(PluginNotFound) as caught:
        registry.find_class("provider", "MoonProvider")
    assert str(caught.value) == "MoonProvider is not installed: pip install flowcore-provider-moon"
    with pytest.raises(PluginNotFound, match="no provider class 'MonProvider' is installed .did you mean 'MoonP"):
        registry.find_class("provider", "MonProvider")


def test_known_names_are_of_known_kinds() -> None:
    assert {kind for kind, _ in registry.KNOWN} <= set(registry.GROUPS)
    assert ("provider", "slurm") in registry.KNOWN


def test_the_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowcore import providers

    monkeypatch.setattr(registry, "KNOWN", {("provider", "moonbase"): ("MoonProvider", "flowcore-provider-moon")})
    with pytest.raises(ImportError, match="^MoonProvider is not installed: pip install flowcore-provider-moon$"):
        from flowcore.providers import MoonProvider  # noqa: F401
    with pytest.raises(ImportError, match="no provider class 'LocalProvidr' is installed .did you mean 'LocalProv"):
        providers.LocalProvidr  # noqa: B018
    # What Python itself looks for is simply not there.
    assert not hasattr(providers, "__wrapped__")
    assert providers.LocalProvider is registry.get("provider", "local")


# --- conflicts


def test_two_distributions_claim_one_name(make: Make) -> None:
    make("one-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    make("two-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n")
    with pytest.raises(PluginConflict) as caught:
        registry.get("launcher", "mine")
    assert str(caught.value) == ("both one-plugin and two-plugin offer the launcher 'mine': uninstall one of them")
    # Listing shows both, and the others go on.
    problems = [p.problem for p in registry.installed("launcher") if p.name == "mine"]
    assert problems == [str(caught.value)] * 2
    assert registry.get("launcher", "simple").__name__ == "SimpleLauncher"


def test_a_plugin_may_not_take_a_built_in_name(make: Make) -> None:
    make("one-plugin", "[flowcore.launchers]\nsimple = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    with pytest.raises(PluginConflict, match="both flowcore and one-plugin offer the launcher 'simple'"):
        registry.get("launcher", "simple")


def test_two_classes_of_one_name(make: Make) -> None:
    make("one-plugin", "[flowcore.launchers]\none = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    make("two-plugin", "[flowcore.launchers]\ntwo = my_mod:MyLauncher\n")
    with pytest.raises(PluginConflict, match="both one-plugin and two-plugin offer a launcher of class MyLauncher"):
        registry.find_class("launcher", "MyLauncher")
    assert registry.get("launcher", "one").__name__ == "MyLauncher"


def test_one_distribution_that_is_there_twice(make: Make, tmp_path: Path) -> None:
    # An editable install and a leftover of an older one: what is first on sys.path is what is imported.
    make("one-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    older = tmp_path / "older"
    older.mkdir()
    sys.path.append(str(older))
    try:
        info = older / "One.Plugin-0.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: One.Plugin\nVersion: 0.5\n")
        (info / "entry_points.txt").write_text("[flowcore.launchers]\nmine = old_mod:Old\n")
        assert registry.find("launcher", "mine").version == "1.0"
        assert registry.get("launcher", "mine").__name__ == "MyLauncher"
    finally:
        sys.path.remove(str(older))


# --- what cannot be used


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "import no_such_module_anywhere\n",
            "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
        ("class Other: ...\n", "AttributeError: module 'broken_mod' has no attribute 'Broken'"),
        ("def f(:\n", "SyntaxError: "),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("assert False, 'not on this machine'\n", "AssertionError: not on this machine"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
    ids=["import", "name", "syntax", "error", "assertion", "exit"],
)
def test_one_that_does_not_import(make: Make, source: str, told: str) -> None:
    make("bad-plugin", "[flowcore.launchers]\nbroken = broken_mod:Broken\n", modules={"broken_mod": source})
    with pytest.raises(PluginLoadError) as caught:
        registry.get("launcher", "broken")
    start = f"launcher 'broken' of bad-plugin 1.0 failed to import: {told}"
    assert str(caught.value).startswith(start)
    assert caught.value.__cause__ is not None
    # It breaks no other.
    good, problems = registry.load_all("launcher")
    assert {"simple", "single_node", "wrapped"} <= {plugin.name for plugin, _ in good}
    assert len(problems) == 1
    assert problems[0].startswith(start)


@pytest.mark.parametrize("source", ["class Thing: ...\n", "def Thing(): ...\n", "Thing = 3\n"])
def test_one_that_is_not_of_its_contract(make: Make, source: str) -> None:
    make("bad-plugin", "[flowcore.launchers]\nthing = thing_mod:Thing\n", modules={"thing_mod": source})
    with pytest.raises(PluginLoadError) as caught:
        registry.get("launcher", "thing")
    text = str(caught.value)
    assert text.startswith("launcher 'thing' of bad-plugin 1.0: thing_mod:Thing is ")
    assert text.endswith("and no subclass of flowcore.plugins.api.Launcher")


MUST_NOT_IMPORT = {"unsupported_mod": "raise AssertionError('this module must not be imported')\n"}


@pytest.mark.parametrize(
    ("requires", "shown"),
    [
        ("flowcore>=0.2,<0.3", "flowcore<0.3,>=0.2"),
        ("flowcore (<0.1)", "flowcore<0.1"),
        ("FlowCore>=7", "flowcore>=7"),
        ("flowcore>=7; python_version >= '3.0'", "flowcore>=7"),
    ],
)
def test_a_core_range_that_excludes_this_core(make: Make, requires: str, shown: str) -> None:
    entry = "[flowcore.launchers]\nnewer = unsupported_mod:Newer\n"
    make("new-plugin", entry, modules=MUST_NOT_IMPORT, requires=requires)
    with pytest.raises(PluginLoadError) as caught:
        registry.get("launcher", "newer")
    assert str(caught.value) == (
        f"launcher 'newer' of new-plugin 1.0: it supports {shown}, and this is flowcore {flowcore.__version__}: "
        "install a version of new-plugin made for it"
    )
    assert "unsupported_mod" not in sys.modules


@pytest.mark.parametrize(
    "requires",
    [
        "flowcore>=0.1,<0.2",
        "flowcore",
        None,
        "flowcore>=7; python_version < '3.0'",
        "flowcore>=7; extra == 'all'",
        "other>=7",
        "not a requirement at all!",
    ],
)
def test_a_core_range_that_admits_this_core(make: Make, requires: str | None) -> None:
    entry = "[flowcore.launchers]\nmine = my_mod:MyLauncher\n"
    make("my-plugin", entry, modules={"my_mod": LAUNCHER}, requires=requires)
    assert registry.get("launcher", "mine").__name__ == "MyLauncher"


def test_a_core_that_is_a_pre_release(make: Make, other_core: Callable[[str], None]) -> None:
    make("my-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    other_core("0.1.5.dev3")
    assert registry.find("launcher", "mine").problem is None
    other_core("0.2.0")
    with pytest.raises(PluginLoadError, match="this is flowcore 0.2.0"):
        registry.find("launcher", "mine")


def test_a_plugin_api_that_is_not_this_one(make: Make) -> None:
    entry = "[flowcore.launchers]\nold = unsupported_mod:Old\n[flowcore.plugin_api]\n97 = old\n98 = old\n"
    make("old-plugin", entry, modules=MUST_NOT_IMPORT)
    with pytest.raises(PluginLoadError) as caught:
        registry.get("launcher", "old")
    assert str(caught.value) == (
        f"launcher 'old' of old-plugin 1.0: it is written for plugin API 97, 98, and flowcore {flowcore.__version__} "
        f"has {PLUGIN_API}: install a version of old-plugin made for it"
    )
    assert "unsupported_mod" not in sys.modules


def test_a_plugin_api_that_is_this_one(make: Make) -> None:
    api = f"[flowcore.plugin_api]\n0 = my_mod\n{PLUGIN_API} = my_mod\n"
    entry = f"[flowcore.launchers]\nmine = my_mod:MyLauncher\n{api}"
    make("my-plugin", entry, modules={"my_mod": LAUNCHER})
    assert registry.get("launcher", "mine").__name__ == "MyLauncher"


def test_metadata_that_cannot_be_read(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    make("my-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    make("spoilt", "[flowcore.launchers]\nthis is no entry point\n")
    assert registry.get("launcher", "mine").__name__ == "MyLauncher"
    assert registry.get("launcher", "simple").__name__ == "SimpleLauncher"
    # Said once, with the place.
    assert len([r for r in caplog.records if "spoilt-1.0.dist-info" in r.getMessage()]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_an_interrupted_uninstall_leaves(make: Make) -> None:
    make("gone", "[flowcore.launchers]\nghost = ghost_mod:Ghost\n", metadata="")
    assert "ghost" not in {p.name for p in registry.installed("launcher")}
    assert registry.get("launcher", "simple").__name__ == "SimpleLauncher"


# --- in a fresh interpreter


def python(code: str, **environment: str) -> dict[str, list[str]]:
    """Run code in a fresh interpreter; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def test_listing_imports_no_plugin(make: Make) -> None:
    site = make("my-plugin", "[flowcore.launchers]\nmine = my_mod:MyLauncher\n", modules={"my_mod": LAUNCHER})
    code = """
import json, sys
from flowcore.plugins import registry
names = [p.name for kind in registry.GROUPS for p in registry.installed(kind)]
listed = list(sys.modules)
registry.get("launcher", "mine")
print(json.dumps({"names": names, "listed": listed, "got": list(sys.modules)}))
"""
    answer = python(code, PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1")
    assert {"mine", "threads", "local", "simple"} <= set(answer["names"])
    plugins = {m for m in answer["listed"] if m.startswith(("flowcore.builtin", "flowcore_", "my_mod", "flowcore.cli"))}
    assert plugins == set()
    # Looking one up imports that one alone.
    new = {m for m in answer["got"] if m.startswith(("flowcore.builtin", "flowcore_", "my_mod", "flowcore.cli"))}
    assert new == {"my_mod"}


def test_nothing_is_written_into_the_home_directory(make: Make, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = """
import json
from flowcore.plugins import registry
print(json.dumps({"good": [p.name for kind in registry.contracts().values() for p, _ in registry.load_all(kind)[0]]}))
"""
    places = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
    }
    answer = python(code, **places)
    assert "threads" in answer["good"]
    assert list(home.rglob("*")) == []
