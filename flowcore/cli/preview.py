"""What a configuration would ask of its providers, seen without starting anything.

Rule of this module: nothing is written outside of a folder that the caller names, and nothing is submitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowcore.config import Config
from flowcore.plugins.executor import BlockExecutor, ExecutorContext
from flowcore.plugins.provider import Finding, ProviderContext
from flowcore.scaling.blocks import job_name
from flowcore.session import hooks_of, next_run_dir

#: Stands for the id that a run has. As long as what of it is in names.
RUN_ID = "<run-id>"
HIDDEN = "(secret)"


@attrs.frozen
class Preview:
    """What is asked of the provider of one executor for its first block.

    Attributes:
        executor: whose blocks.
        command: what runs on each node; None if the executor cannot tell before it is started.
        script: what would be submitted; None if there is no script, or no command.
        context: of the provider.
    """

    executor: BlockExecutor
    command: str | None
    script: str | None
    context: ProviderContext


def previews(config: Config, script_dir: Path | None = None) -> Iterator[Preview]:
    """Return what is asked of each provider of a configuration.

    Args:
        config: stays unused.
        script_dir: folder for scripts; None: that of the next run, which is not made.
    """
    run_dir = next_run_dir(Path(config.run_dir)).absolute()
    hooks = hooks_of(config)
    for executor in config.executors or []:
        if not isinstance(executor, BlockExecutor):
            continue
        context = ProviderContext(script_dir or run_dir / "submit_scripts", executor.label, RUN_ID, hooks.submit_script)
        command = executor.preview_command(
            ExecutorContext(RUN_ID, run_dir, report=lambda results: None, running=lambda attempts: None), "0"
        )
        script = None
        if command is not None:
            command = hooks.launch_command(executor.label, "0", command)
            name = job_name(RUN_ID, executor.label, "0")
            script = executor.provider.preview(context, command, 1, name)
        yield Preview(executor, command, script, context)


def dry_runs(config: Config, script_dir: Path) -> Iterator[Finding]:
    """Try the provider of each executor out, without asking it for a block.

    Args:
        config: stays unused, but its providers must not be started any more.
        script_dir: existing folder for scripts that are only looked at.
    """
    for preview in previews(config, script_dir):
        provider = preview.executor.provider
        try:
            for finding in provider.dry_run(preview.context, preview.command or "true", 1):
                yield attrs.evolve(finding, text=f"executor {preview.executor.label}, {provider.label}: {finding.text}")
        finally:
            provider.close()


def flattened(component: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Return all options of a component and of the components in it: their paths, and their values in Python.

    Secrets are left out.
    """
    for field in attrs.fields(type(component)):
        if not field.init:
            continue
        value = getattr(component, field.name)
        where = f"{path}.{field.alias}" if path else field.alias
        if field.repr is False and value is not None:
            yield where, HIDDEN
        else:
            yield from _value(value, where)


def _value(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if attrs.has(type(value)):
        yield path, type(value).__name__
        yield from flattened(value, path)
    elif isinstance(value, Sequence) and any(attrs.has(type(item)) for item in value):
        for number, item in enumerate(value):
            yield from _value(item, f"{path}[{number}]")
    elif isinstance(value, Mapping):
        yield path, repr(dict(value))
    else:
        yield path, repr(value)
