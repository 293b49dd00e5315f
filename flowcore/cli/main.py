"""``flowcore``: finds its subcommands by name through the registry, and tells errors without tracebacks.

Rule of this module: a subcommand that cannot be used is told by name and does not keep the others from work;
listing the subcommands imports no plugin but the core's own.
"""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import types
from typing import Any, NoReturn

import click

from flowcore import __version__
from flowcore.errors import FlowcoreError, PluginError, PluginLoadError, PluginNotFound
from flowcore.plugins import registry


class Failure(click.ClickException):
    """A :class:`FlowcoreError` as a message on stderr, with its notes; the process exits with 1.

    Args:
        error: what was raised.
    """

    def __init__(self, error: FlowcoreError) -> None:
        super().__init__("\n".join([str(error), *getattr(error, "__notes__", ())]))


class ScriptFailed(BaseException):
    """Carries what the script of ``flowcore run`` raised past all handling of errors, here and in click.

    Args:
        error: what it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class UnusableCommand(click.Command):
    """Stands for a subcommand whose plugin cannot be used; invoking it raises why.

    Args:
        name: its name.
        error: why it cannot be used.
    """

    def __init__(self, name: str, error: PluginError) -> None:
        super().__init__(
            name,
            short_help=f"cannot be used: {error}",
            add_help_option=False,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True},
        )
        self._error = error

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Raise the error."""
        raise self._error


class Commands(click.Group):
    """A group whose subcommands are the installed plugins of the kind ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the installed subcommands, without importing any."""
        return sorted({plugin.name for plugin in registry.installed("command")})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand, imported now; one that raises its error if it cannot be; None if unknown."""
        try:
            plugin = registry.find("command", cmd_name)
            command = registry.load(plugin)
            if not isinstance(command, click.Command):
                raise PluginLoadError(
                    f"command {cmd_name!r} of {plugin.distribution} {plugin.version}: {plugin.value} is "
                    f"{command!r}, and no click.Command"
                )
        except PluginNotFound:
            return None
        except PluginError as error:
            return UnusableCommand(cmd_name, error)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the arguments name; an unknown one is told in the registry's words."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            try:
                registry.find("command", name)
            except PluginNotFound as error:
                ctx.fail(str(error))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lists of subcommands of ``--help``: the core's, and by distribution those of others."""
        own: list[tuple[str, str]] = []
        others: dict[str, list[str]] = {}
        for plugin in {plugin.name: plugin for plugin in registry.installed("command")}.values():
            if plugin.distribution == registry.CORE or plugin.problem:
                own.append((plugin.name, self._one_line(ctx, plugin)))
            else:
                others.setdefault(plugin.distribution, []).append(plugin.name)
        with formatter.section("Commands"):
            formatter.write_dl(own)
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(", ".join(names), _summary(name)) for name, names in sorted(others.items())])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; a FlowcoreError becomes a message, unless ``--debug`` wants its traceback."""
        try:
            return super().invoke(ctx)
        except FlowcoreError as error:
            if ctx.params.get("debug"):
                raise
            raise Failure(error) from error

    def _one_line(self, ctx: click.Context, plugin: registry.Plugin) -> str:
        if plugin.problem:
            return f"cannot be used: {plugin.problem}"
        command = self.get_command(ctx, plugin.name)
        return command.get_short_help_str(limit=80) if command else ""


def _summary(distribution: str) -> str:
    """Return what a distribution says of itself; to import it could take long, or fail."""
    summaries = importlib.metadata.metadata(distribution).get_all("Summary")
    return f"{summaries[0] if summaries else 'no description'} ({distribution})"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="flowcore", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Run parallel workflows; look at, check and measure what they run on."""


def main() -> NoReturn:
    """Run the command line of this process, and exit.

    Exit codes: 0, well; 1, an error, or a check that failed; 2, arguments that cannot be understood; 129
    and 143, ended by SIGHUP or SIGTERM, after cleaning up. ``flowcore run`` exits as its script does.
    """
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    uncaught: BaseException | None = None
    try:
        cli(prog_name="flowcore")
    except ScriptFailed as failed:
        uncaught = failed.error
    # Not in the except clause, which would become part of what is shown; click would show some errors as its own.
    if uncaught is not None:
        raise uncaught
    raise SystemExit(0)


def _terminate(number: int, frame: types.FrameType | None) -> NoReturn:
    # Through the `finally` blocks, so that a run is taken down with its blocks and processes.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    # Subcommands import this module by its name, and must not get a second one.
    sys.modules["flowcore.cli.main"] = sys.modules[__name__]
    main()
