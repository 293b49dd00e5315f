"""Plugins as the command line sees them, with fake distributions: listed, shown, broken, in each other's way."""

import json
import re
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner

from flowcore.cli.main import cli
from flowcore.cli.options import describe_options, parse_entries, summary
from flowcore.plugins import registry
from flowcore.plugins.component import describe_type


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="flowcore")


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Call it to "install" a distribution: its name, entry points, source, and further lines of metadata."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_load", registry._load.__wrapped__)  # nothing is kept for other tests

    def install(name, entry_points, source="", *metadata, version="1.0"):
        module = name.replace("-", "_")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        text = "".join(f"[{group}]\n{line}\n" for group, line in entry_points.items())
        (info / "entry_points.txt").write_text(text)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        return tmp_path

    yield install
    for name in [m for m in sys.modules if m.startswith("fake_")]:
        del sys.modules[name]


def rows(output):
    return [line.split() for line in output.splitlines()]


# --- the list


def test_list():
    result = invoke("plugins")
    assert result.exit_code == 0
    found = rows(result.output)
    assert found[0] == ["kind", "name", "class", "distribution", "version", "state"]
    assert ["provider", "local", "LocalProvider", "flowcore", "0.1.0", "ok"] in found
    assert ["command", "plugins", "plugins", "flowcore", "0.1.0", "ok"] in found


def test_list_of_a_kind():
    found = rows(invoke("plugins", "--kind", "channel").output)
    assert {row[0] for row in found[2:]} == {"channel"}


def test_list_of_an_unknown_kind():
    result = invoke("plugins", "--kind", "providers")
    assert result.exit_code == 1
    assert "there is no kind of plugin 'providers' (did you mean 'provider'?); kinds: executor," in result.stderr


def test_list_of_a_kind_that_nobody_offers(monkeypatch):
    scan = registry._scan
    monkeypatch.setattr(registry, "_scan", lambda group: scan(group) if group == "flowcore.commands" else [])
    assert invoke("plugins", "--kind", "hooks").output == "none is installed\n"


def test_list_as_json():
    found = json.loads(invoke("plugins", "--kind", "provider", "--json").output)
    local = next(p for p in found if p["name"] == "local")
    assert local == {
        "kind": "provider",
        "name": "local",
        "class": "LocalProvider",
        "module": "flowcore.builtin.local_provider",
        "distribution": "flowcore",
        "version": "0.1.0",
        "state": "ok",
        "problem": None,
    }


def test_listing_imports_no_plugin(distribution, tmp_path):
    """In a fresh process: neither a third party's module nor the built-in components' is imported."""
    distribution("fake-provider", {"flowcore.providers": "fake = fake_provider:Fake"}, "raise RuntimeError('imported')")
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from flowcore.cli.main import cli\n"
        "cli(['plugins'], standalone_mode=False)\n"
        "from flowcore.plugins import registry\n"
        "modules = {p.module for k in registry.GROUPS for p in registry.installed(k)}\n"
        "print('imported:', sorted(modules & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert ["provider", "fake", "Fake", "fake-provider", "1.0", "ok"] in rows(done.stdout)
    # The command that lists them is a plugin itself.
    assert done.stdout.endswith("imported: ['flowcore.cli.plugins']\n")


def test_conflict_is_shown(distribution):
    for name in ("fake-one", "fake-two"):
        distribution(name, {"flowcore.providers": f"twice = {name.replace('-', '_')}:Twice"})
    result = invoke("plugins", "--kind", "provider")
    assert result.exit_code == 0
    assert ["provider", "twice", "Twice", "fake-one", "1.0", "not", "ok"] in rows(result.output)
    reason = "both fake-one and fake-two offer the provider 'twice': uninstall one of them"
    assert f"provider 'twice' of fake-one 1.0: {reason}" in result.output
    assert f"provider 'twice' of fake-two 1.0: {reason}" in result.output


@pytest.mark.parametrize(
    ("entry_points", "metadata", "problem"),
    [
        ({}, ["Requires-Dist: flowcore>=7,<8"], "it supports flowcore<8,>=7, and this is flowcore 0.1.0"),
        ({"flowcore.plugin_api": "99 = fake_old"}, [], "it is written for plugin API 99, and flowcore 0.1.0 has 1"),
    ],
    ids=["core", "plugin API"],
)
def test_incompatible_plugin_says_why(distribution, entry_points, metadata, problem):
    points = {"flowcore.providers": "old = fake_old:Old", **entry_points}
    distribution("fake-old", points, "raise RuntimeError", *metadata)
    result = invoke("plugins", "--kind", "provider", "--json")
    old = next(p for p in json.loads(result.output) if p["name"] == "old")
    assert old["state"] == "not ok"
    assert old["problem"].startswith(problem)
    assert old["problem"].endswith("install a version of fake-old made for it")
    shown = invoke("plugins", "show", "provider", "old")
    assert shown.exit_code == 1
    assert f"provider 'old' of fake-old 1.0: {problem}" in shown.stderr


# --- one plugin


def test_show():
    result = invoke("plugins", "show", "provider", "local")
    assert result.exit_code == 0
    assert result.output.startswith("provider local\nRuns blocks as processes of this host.\n")
    assert ["module", "flowcore.builtin.local_provider"] in rows(result.output)
    assert "from flowcore.providers import LocalProvider\n" in result.output
    assert "  max_blocks: int = 1\n      blocks to have at most.\n" in result.output
    assert "  launcher: Launcher = SingleNodeLauncher()\n" in result.output


def test_show_required_option():
    assert "  prepend: str (required)\n" in invoke("plugins", "show", "launcher", "wrapped").output


def test_show_as_json():
    shown = json.loads(invoke("plugins", "show", "launcher", "wrapped", "--json").output)
    assert shown["class"] == "WrappedLauncher"
    assert shown["summary"].startswith("Puts a command before the worker's, once, for example a container's: `docker")
    assert shown["options"][0] == {
        "name": "prepend",
        "type": "str",
        "required": True,
        "default": None,
        "description": "what stands before the command.",
    }


def test_show_a_function():
    output = invoke("plugins", "show", "strategy", "none").output
    assert output.startswith("strategy none\nLeave the initial blocks as they are.\n")
    assert "ption" not in output


def test_show_a_class_without_options():
    assert invoke("plugins", "show", "serializer", "pickle").output.endswith("\nIt has no options.\n")


def test_show_unknown_with_close_match():
    result = invoke("plugins", "show", "provider", "locl")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: no provider 'locl' is installed (did you mean 'local'?); installed: adhoc, local"
    )


def test_show_known_says_what_to_install(monkeypatch):
    monkeypatch.setitem(registry.KNOWN, ("provider", "fancy"), ("FancyProvider", "flowcore-provider-fancy"))
    result = invoke("plugins", "show", "provider", "fancy")
    assert result.stderr == "Error: provider 'fancy' is not installed: pip install flowcore-provider-fancy\n"


def test_show_a_broken_plugin(distribution):
    distribution("fake-torn", {"flowcore.providers": "torn = fake_torn:Torn"}, "import no_such_module_anywhere")
    result = invoke("plugins", "show", "provider", "torn")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: provider 'torn' of fake-torn 1.0 failed to import: "
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'\n"
    )


# --- what a class says of itself


def test_options_of_a_plain_class():
    class Base:
        """A base.

        Args:
            colour: of the base class.
            size: of the base class.
        """

    class Plain(Base):
        """Does :class:`flowcore.File` things with ``care``.

        And more.
        """

        def __init__(self, size: int, colour: str = "red", *args: int, names: "list[str] | None" = None) -> None:
            """Make one.

            Args:
                size: in MB,
                    as a whole number.
                names: one per thing.

            Raises:
                ValueError: never.
            """

    assert summary(Plain) == "Does `flowcore.File` things with `care`."
    described = {o.name: o for o in describe_options(Plain)}
    assert list(described) == ["size", "colour", "names"]
    assert described["size"].required
    assert described["size"].description == "in MB, as a whole number."
    assert described["colour"].description == "of the base class."
    assert (described["colour"].default, described["colour"].plain_default) == ("'red'", "red")
    assert (described["names"].type, described["names"].default) == ("list[str] | None", "None")


def test_defaults_made_by_factories():
    import attrs

    @attrs.define
    class Made:
        a: dict[str, int] = attrs.field(factory=dict)
        b: list[int] = attrs.field(factory=list)
        c: object = attrs.field(factory=lambda: 3)
        _d: int = 4

    assert {o.name: o.default for o in describe_options(Made)} == {"a": "{}", "b": "[]", "c": "computed", "d": "4"}


def test_entries_of_a_docstring():
    doc = """Summary.

    Attributes:
        one, two: both of
            them: yes.
        three (int): the third.
        **rest: more.

    Returns:
        four: not an option.
    """
    assert parse_entries(doc) == {
        "one": "both of them: yes.",
        "two": "both of them: yes.",
        "three": "the third.",
        "rest": "more.",
    }
    assert parse_entries("Only a summary.") == {}


def test_types_as_users_write_them():
    from collections.abc import Callable, Sequence
    from typing import Any, Literal

    from flowcore.plugins.staging import Staging

    assert describe_type(Sequence[Staging] | None) == "Sequence[Staging] | None"
    assert describe_type(Callable[..., Any]) == "Callable[..., Any]"
    assert describe_type(Literal["a.b", "b.c.d"]) == "Literal['a.b', 'b.c.d']"


# --- commands of others


COMMAND = """
    import click

    @click.command()
    def command():
        "Say hello."
        click.echo("hello from a plugin")
    """


def test_command_of_a_plugin(distribution):
    distribution("fake-hello", {"flowcore.commands": "hello = fake_hello:command"}, COMMAND, "Summary: Says hello")
    assert invoke("hello").output == "hello from a plugin\n"
    assert re.search(r"^  hello +Says hello \(fake-hello\)$", invoke("--help").output, re.MULTILINE)


def test_help_does_not_import_the_commands_of_others(distribution):
    distribution("fake-heavy", {"flowcore.commands": "heavy = fake_heavy:command"}, "raise RuntimeError('imported')")
    result = invoke("--help")
    assert result.exit_code == 0
    assert re.search(r"^  heavy +no description \(fake-heavy\)$", result.output, re.MULTILINE)
    assert "fake_heavy" not in sys.modules


def test_a_broken_command_breaks_no_other(distribution):
    distribution("fake-bad", {"flowcore.commands": "bad = fake_bad:command"}, "import no_such_module_anywhere")
    result = invoke("bad", "with", "--any", "arguments")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: command 'bad' of fake-bad 1.0 failed to import: "
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'\n"
    )
    assert invoke("plugins").exit_code == 0


def test_what_is_no_command_is_refused(distribution):
    distribution("fake-list", {"flowcore.commands": "list = fake_list:command"}, "command = [1]")
    result = invoke("list")
    assert result.exit_code == 1
    assert result.stderr == ("Error: command 'list' of fake-list 1.0: fake_list:command is [1], and no click.Command\n")


def test_a_command_offered_twice_is_told_in_help_and_refused(distribution):
    for name in ("fake-hi", "fake-ho"):
        distribution(name, {"flowcore.commands": f"hi = {name.replace('-', '_')}:command"}, COMMAND)
    assert "cannot be used: both fake-hi and fake-ho offer the command 'hi'" in " ".join(
        invoke("--help").output.split()
    )
    result = invoke("hi")
    assert result.exit_code == 1
    assert "both fake-hi and fake-ho offer the command 'hi': uninstall one of them" in result.stderr


# --- the doctor on plugins


def test_doctor_tells_each_plugin_that_fails_and_goes_on(distribution):
    from flowcore.cli.doctor import check_plugins

    distribution(
        "fake-ill",
        {
            "flowcore.executors": "ill = fake_ill:Ill",
            "flowcore.hooks": "sick = fake_sick",
            "flowcore.commands": "sore = json:loads",
        },
    )
    distribution(
        "fake-sick", {"flowcore.launchers": "dead = fake_dead:Dead"},
        """
        from flowcore.plugins.api import hookimpl

        @hookimpl
        def flowcore_run_startet(run): ...
        """,
    )  # fmt: skip
    distribution("fake-dead", {}, "assert False, 'no luck'")
    bad = {f.text: f.todo for f in check_plugins() if not f.ok}
    assert len(bad) == 4
    texts = "\n".join(bad)
    assert "executor ill (fake-ill 1.0): failed to import: AttributeError" in texts
    assert "launcher dead (fake-sick 1.0): failed to import: AssertionError: no luck" in texts
    assert "hook plugin 'sick' is refused" in texts
    assert "command sore (fake-ill 1.0): json:loads is <function loads" in texts
    assert set(bad.values()) == {"mend it, or: pip uninstall fake-ill", "mend it, or: pip uninstall fake-sick"}
