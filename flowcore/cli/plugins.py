"""``flowcore plugins``: what is installed, without importing it; and what one component is, in full."""

from __future__ import annotations

import json
from typing import Any

import click

from flowcore.plugins import registry

_JSON_HELP = "Print JSON."

#: The modules that have the classes of a kind by their names.
_DOORS = {
    "executor": "executors",
    "provider": "providers",
    "launcher": "launchers",
    "channel": "channels",
    "staging": "staging",
    "hooks": "monitoring",
}


@click.group(invoke_without_command=True)
@click.option("--kind", metavar="KIND", help=f"Only this kind: {', '.join(registry.GROUPS)}.")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
@click.pass_context
def plugins(ctx: click.Context, kind: str | None, as_json: bool) -> None:
    """List the installed plugins, without importing them."""
    if ctx.invoked_subcommand is not None:
        return
    found = [p for k in ([kind] if kind else registry.GROUPS) for p in registry.installed(k)]
    if as_json:
        click.echo(json.dumps([_facts(p) for p in found], indent=2))
        return
    _print(found)


@plugins.command()
@click.argument("kind")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def show(kind: str, name: str, as_json: bool) -> None:
    """Describe the plugin NAME of a KIND, with its options; for example: show provider local."""
    from flowcore.cli.options import describe_options, summary
    from flowcore.cli.terminal import print_entry, print_facts, print_paragraph

    plugin = registry.find(kind, name)
    loaded = registry.load(plugin)
    text = summary(loaded)
    # Functions (strategies) and modules (hooks) are used as they are.
    options = describe_options(loaded) if isinstance(loaded, type) else []
    if as_json:
        described = {
            "summary": text,
            "options": [
                {
                    "name": o.name,
                    "type": o.type,
                    "required": o.required,
                    "default": o.default or None,
                    "description": o.description,
                }
                for o in options
            ],
        }
        click.echo(json.dumps({**_facts(plugin), **described}, indent=2))
        return
    click.secho(f"{kind} {name}", bold=True)
    if text:
        print_paragraph(text)
    click.echo()
    facts = [
        ("class" if isinstance(loaded, type) else "object", plugin.class_name),
        ("module", plugin.module),
        ("distribution", f"{plugin.distribution} {plugin.version}"),
    ]
    if isinstance(loaded, type) and kind in _DOORS:
        facts.append(("in Python", f"from flowcore.{_DOORS[kind]} import {plugin.class_name}"))
        facts.append(("in TOML", f'monitoring.plugin = "{name}"' if kind == "hooks" else f'plugin = "{name}"'))
    print_facts(facts)
    if not isinstance(loaded, type):
        return
    click.echo()
    if not options:
        click.echo("It has no options.")
        return
    click.secho("Options", bold=True)
    for o in options:
        default = " (required)" if o.required else f" = {o.default}"
        print_entry(o.name, f": {o.type}{default}", o.description)


def _facts(plugin: registry.Plugin) -> dict[str, Any]:
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "class": plugin.class_name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": "not ok" if plugin.problem else "ok",
        "problem": plugin.problem,
    }


def _print(found: list[registry.Plugin]) -> None:
    from flowcore.cli.terminal import print_paragraph, print_table

    if not found:
        click.echo("none is installed")
        return
    rows = [(p.kind, p.name, p.class_name, p.distribution, p.version, "not ok" if p.problem else "ok") for p in found]
    print_table(("kind", "name", "class", "distribution", "version", "state"), rows)
    broken = [p for p in found if p.problem]
    if broken:
        click.secho("\nCannot be used:", bold=True)
    for p in broken:
        print_paragraph(f"  {p.kind} {p.name!r} of {p.distribution} {p.version}: {p.problem}")
