"""``flowcore config``: checks and shows a configuration without starting anything; prints a JSON Schema of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from flowcore.config import Config
    from flowcore.plugins.executor import Executor


@click.group()
def config() -> None:
    """Check or show a configuration, or print the schema of configurations."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
def check(file: Path, profile: str | None) -> None:
    """Check a configuration FILE and show what it says, without starting anything.

    FILE is TOML, or Python with config or fresh_config. Without --profile, all profiles are checked.
    """
    from flowcore.cli.loading import load_config, profile_names

    checked = load_config(file, profile)
    profiles = profile_names(file)
    if profile is None:
        for name in profiles:
            _check_profile(file, name)
    click.secho(f"{file}: ok" + (f", profile {profile}" if profile else ""), fg="green")
    _print(checked)
    if profiles and profile is None:
        click.echo(f"\nIts profiles are ok, too: {', '.join(profiles)}. To see one: --profile NAME")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
@click.option("--submit-script", is_flag=True, help="Print the script of each executor's first block instead.")
@click.option("--executor", "label", metavar="LABEL", help="Only that of this executor.")
def show(file: Path, profile: str | None, submit_script: bool, label: str | None) -> None:
    """Print all options of a configuration FILE, the default ones too, one to a line.

    With --submit-script, print what would be submitted for blocks. Nothing is started, and nothing is submitted;
    "<run-id>" stands for the first characters of a run's id.
    """
    from flowcore.cli.loading import load_config
    from flowcore.cli.preview import flattened

    if label is not None and not submit_script:
        raise click.UsageError("--executor goes with --submit-script")
    shown = load_config(file, profile)
    if submit_script:
        _show_scripts(shown, label)
        return
    for path, value in flattened(shown):
        click.echo(f"{path} = {value}")


def _show_scripts(shown: Config, label: str | None) -> None:
    from flowcore.cli.preview import previews

    found = [p for p in previews(shown) if label in (None, p.executor.label)]
    if not found:
        of_blocks = [p.executor.label for p in previews(shown)]
        raise click.UsageError(
            f"the configuration has no executor{f' {label!r}' if label else ''} whose workers are in blocks; "
            f"such are: {', '.join(of_blocks) or 'none'}"
        )
    for number, preview in enumerate(found):
        if len(found) > 1:
            click.secho(f"{chr(10) if number else ''}# executor {preview.executor.label}", bold=True)
        if preview.script is None:
            provider = type(preview.executor.provider).__name__
            click.echo(f"# {provider} submits no script, or its executor knows its command only when it has started")
        else:
            click.echo(preview.script, nl=False)


@config.command()
def schema() -> None:
    """Print a JSON Schema of TOML configurations, for the plugins that are installed here.

    Editors complete and check with it. For those that use taplo, begin the TOML file with
    "#:schema ./flowcore.schema.json".
    """
    from flowcore.cli.schema import config_schema

    made, problems = config_schema()
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    click.echo(json.dumps(made, indent=2))


def _check_profile(file: Path, name: str) -> None:
    from flowcore.cli.loading import load_config
    from flowcore.errors import ConfigurationError

    try:
        load_config(file, name)
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {name}: {error}") from error


def _print(checked: Config) -> None:
    from flowcore.cli.terminal import print_facts, print_table

    facts = [
        ("run directory", str(Path(checked.run_dir).absolute())),
        ("retries", str(checked.retries) + (" with a retry handler" if checked.retry_handler else "")),
        ("checkpoint", _checkpoint(checked)),
        ("strategy", f"{checked.strategy or 'none'}, every {checked.strategy_period:g} s"),
    ]
    if checked.checkpoint_files:
        facts.append(("results from", ", ".join(map(str, checked.checkpoint_files))))
    if checked.monitoring is not None:
        facts.append(("monitoring", type(checked.monitoring).__name__))
    print_facts(facts)
    click.echo()
    rows = [_row(executor) for executor in checked.executors or []]
    print_table(("executor", "class", "provider", "launcher", "blocks: min", "init", "max"), rows)


def _checkpoint(checked: Config) -> str:
    mode = checked.checkpoint_mode
    if mode == "periodic":
        return f"periodic, every {checked.checkpoint_period or '00:30:00'}"
    return mode or "none"


def _row(executor: Executor) -> tuple[str, ...]:
    from flowcore.plugins.executor import BlockExecutor

    name = type(executor).__name__
    if not isinstance(executor, BlockExecutor):
        return (executor.label, name, "-", "-", "-", "-", "-")
    provider = executor.provider
    # Not every provider has one: those of clouds do without.
    launcher = getattr(provider, "launcher", None)
    return (
        executor.label,
        name,
        type(provider).__name__,
        "-" if launcher is None else type(launcher).__name__,
        str(provider.min_blocks),
        str(provider.init_blocks),
        str(provider.max_blocks),
    )
