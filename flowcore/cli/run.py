"""``flowcore run``: runs a Python script, with a configuration loaded or with another library's names in place.

Rule of this module: the script sees and shows what it would under ``python script.py``: its arguments, ``__main__``,
the search path, tracebacks without frames of ours, and the exit code.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from flowcore.cli.main import ScriptFailed
from flowcore.plugins import registry


def run_script(script: str, args: Sequence[str]) -> None:
    """Run a Python script as ``__main__`` in this process.

    Its module stays ``sys.modules["__main__"]`` until the interpreter ends: functions of it are sent to workers by
    value, and threads may go on in it. What it leaves uncaught is shown as Python would, if it reaches the top.

    Args:
        script: path of the script.
        args: its arguments, ``sys.argv[1:]``.

    Raises:
        SystemExit: the script ended with it; or it cannot be read (2, with a message on stderr).
        BaseException: what else the script left uncaught.
    """
    prepare_script(script, args)()


def prepare_script(script: str, args: Sequence[str]) -> Callable[[], None]:
    """Do all of :func:`run_script` but the running, and return a function that does that.

    What is started in between (workers) has the script's search path and name.
    """
    source = _read(script)
    path = os.path.abspath(script)  # noqa: PTH100 - Path.resolve would follow links, and Python does not here
    module = types.ModuleType("__main__")
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module.__dict__.update(
        __annotations__={}, __builtins__=builtins, __cached__=None, __file__=path, __loader__=loader, __spec__=None
    )
    _keep_alive.append(sys.modules["__main__"])
    sys.modules["__main__"] = module
    sys.argv[:] = [script, *args]
    if not sys.flags.safe_path:
        # In the place of the folder of our own program.
        sys.path[0] = str(Path(path).resolve().parent)
    _hide_our_frames(path)

    def execute() -> None:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's own program

    return execute


#: The modules that were ``__main__`` before; functions of theirs are still running.
_keep_alive: list[types.ModuleType] = []


def _read(script: str) -> bytes:
    try:
        return Path(script).read_bytes()
    except OSError as error:
        sys.stderr.write(f"flowcore: cannot open the script {script!r}: {error.strerror or error}\n")
        raise SystemExit(2) from None


def _hide_our_frames(path: str) -> None:
    """Let uncaught exceptions be shown from the script's first frame on."""
    below = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
            traceback = traceback.tb_next
        below(kind, error.with_traceback(traceback), traceback)

    # A script that sets a hook of its own gets our frames to see, as nothing else is possible.
    sys.excepthook = show


@contextlib.contextmanager
def _loaded(config: Path | None, profile: str | None) -> Iterator[None]:
    if config is None:
        yield
        return
    from flowcore.cli.loading import load_config
    from flowcore.session import load

    ended: SystemExit | None = None
    with load(load_config(config, profile)):
        try:
            yield
        except SystemExit as exit_:
            if exit_.code not in (None, 0):
                raise
            ended = exit_  # it ends well: its tasks are waited for
    if ended is not None:
        raise ended


@click.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE",
    help="Load this configuration first (TOML, or Python with config or fresh_config); at the end, wait for the tasks.",
)  # fmt: skip
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
@click.option("--parsl", is_flag=True, help="Run a Parsl program: `import parsl` gives flowcore.")
@click.argument("script", metavar="SCRIPT")
@click.argument("args", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run(config: Path | None, profile: str | None, parsl: bool, script: str, args: tuple[str, ...]) -> None:
    """Run a Python script, as python does; all that follows SCRIPT belongs to it."""
    if profile is not None and config is None:
        raise click.UsageError("--profile goes with --config")
    if parsl:
        install: Any = registry.get("compat", "parsl")
        install()
    execute = prepare_script(script, args)
    with _loaded(config, profile):
        try:
            execute()
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by main()
            raise ScriptFailed(error) from None
