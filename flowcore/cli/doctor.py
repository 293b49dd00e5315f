"""``flowcore doctor``: does flowcore work here, and with this configuration? If not, what is to be done?

Rule of this module: a check never raises, and ends in bounded time; one that is not ok says what to do about
it; whatever was started is taken down again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowcore.errors import FlowcoreError
from flowcore.plugins.provider import Finding

if TYPE_CHECKING:
    from concurrent.futures import Future

    from flowcore.config import Config
    from flowcore.futures import AppFuture
    from flowcore.plugins.hookspecs import BlockEvent, RunInfo
    from flowcore.session import DataFlowKernel

#: Less free disk than this is not ok: logs, scripts and staged files of a run would soon fill it.
LEAST_DISK_BYTES = 1 << 30
#: Less available memory than this is not ok: an interpreter with flowcore takes some 50 MB.
LEAST_MEMORY_BYTES = 256 << 20
#: A lower limit of open files is not ok: each connected node and each file being staged takes one.
LEAST_OPEN_FILES = 1024
#: Seconds for a connection from this host to itself.
CONNECT_TIMEOUT_S = 2.0
#: Round trips per executor; their median is shown.
ROUND_TRIPS = 5

_GB = 1e9


# --- the environment


def check_environment(run_dir: Path) -> Iterator[Finding]:
    """Look at the interpreter, the machine and the limits of this process.

    Args:
        run_dir: the run directory of the configuration; need not exist.
    """
    from flowcore import __version__

    yield Finding(f"python {platform.python_version()} ({sys.executable})")
    yield Finding(f"flowcore {__version__} ({Path(__file__).parents[1]})")
    yield Finding(f"platform {platform.platform()}")
    cores, usable = os.cpu_count() or 1, _usable_cores()
    yield Finding(f"{usable} cores" + (f" of {cores}" if usable != cores else ""))
    yield _check_memory()
    yield _check_open_files()
    yield _check_run_dir(run_dir)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available: int | None = None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        pass
    else:
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        available = 1024 * kilobytes[0] if kilobytes else None
    text = f"memory {total / _GB:.1f} GB"
    if available is None:
        return Finding(text)
    text += f", {available / _GB:.1f} GB available"
    if available < LEAST_MEMORY_BYTES:
        return Finding(text, "end other programs, or take a machine with more memory")
    return Finding(text)


def _check_open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("open files: no limit")
    text = f"open files: at most {soft}"
    if soft >= LEAST_OPEN_FILES:
        return Finding(text)
    if hard == resource.RLIM_INFINITY or hard >= LEAST_OPEN_FILES:
        return Finding(text, f"raise the limit before you start flowcore: ulimit -n {LEAST_OPEN_FILES}")
    return Finding(f"{text}, and no more than {hard} can be had", "ask the administrator for a higher limit")


def existing_parent(path: Path) -> Path:
    """Return the path if it exists, else its nearest parent folder that does."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def _check_run_dir(run_dir: Path) -> Finding:
    folder = existing_parent(run_dir)
    text = f"run directory {run_dir.absolute()}"
    if not folder.is_dir():
        return Finding(f"{text}: {folder} is no folder", "set run_dir to a folder of yours")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(f"{text}: {folder} cannot be written to", "set run_dir to a folder of yours")
    free = shutil.disk_usage(folder).free
    text += f", {free / _GB:.1f} GB free"
    if free < LEAST_DISK_BYTES:
        return Finding(text, "free some space, or set run_dir to a folder on another disk")
    return Finding(text)


# --- plugins


def check_plugins() -> Iterator[Finding]:
    """Import each installed plugin."""
    from flowcore.errors import HookError, PluginError
    from flowcore.plugins import registry
    from flowcore.plugins.hooks import HookManager

    for kind in registry.GROUPS:
        for plugin in registry.installed(kind):
            text = f"{kind} {plugin.name} ({plugin.distribution} {plugin.version})"
            todo = f"mend it, or: pip uninstall {plugin.distribution}"
            try:
                loaded = registry.get(kind, plugin.name)
                if kind == "hooks":
                    HookManager([(plugin.name, loaded)])
                if kind == "command" and not isinstance(loaded, click.Command):
                    raise PluginError(f"{plugin.value} is {loaded!r}, and no click.Command")
            except (PluginError, HookError) as error:
                # The error names the plugin, too.
                reason = _one_line(error).removeprefix(f"{kind} {plugin.name!r} of {plugin.distribution} ")
                reason = reason.removeprefix(plugin.version).lstrip(": ")
                yield Finding(f"{text}: {reason}", todo)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever its module does when imported
                yield Finding(f"{text}: failed to import: {type(error).__name__}: {_one_line(error)}", todo)
            else:
                yield Finding(text)


# --- addresses


def check_addresses() -> Iterator[Finding]:
    """Connect to this host on each of its addresses, and resolve its name."""
    from flowcore.addresses import address_by_hostname, interface_addresses

    addresses = interface_addresses()
    if not addresses:
        yield Finding("no network interface has an IPv4 address", "bring the loopback up: ip link set lo up")
    for name, address in addresses.items():
        yield _check_address(name, address)
    hostname = address_by_hostname()
    try:
        resolved = sorted({str(info[4][0]) for info in socket.getaddrinfo(hostname, None, socket.AF_INET)})
    except OSError as error:
        yield Finding(
            f"hostname {hostname} does not resolve ({error.strerror or error})",
            f"add it to /etc/hosts; until then give executors an address, not address_by_hostname(): "
            f"{', '.join(addresses.values()) or 'none'}",
        )
        return
    text = f"hostname {hostname} resolves to {', '.join(resolved)}"
    if all(address.startswith("127.") for address in resolved):
        text += " (of use on this host only)"
    yield Finding(text)


def _check_address(name: str, address: str) -> Finding:
    text = f"{name} {address}"
    try:
        # The kernel accepts for a listening socket: no thread is needed to connect to oneself.
        with (
            socket.create_server((address, 0), backlog=1) as server,
            socket.create_connection(server.getsockname(), timeout=CONNECT_TIMEOUT_S),
        ):
            return Finding(f"{text}: this host can connect to itself")
    except OSError as error:
        return Finding(
            f"{text}: this host cannot connect to itself ({error.strerror or error})",
            "look at its firewall; until then give executors another address",
        )


# --- a configuration


class _Observer:
    """Hears of the blocks of a run, and of what the core logs as a problem, to say more of a failure."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str], BlockEvent] = {}
        self._logged: list[str] = []
        self.handler = _Collector(self._logged)

    def keep(self, run: RunInfo, event: BlockEvent) -> None:
        """Remember the last that was heard of a block."""
        self._blocks[event.executor, event.block_id] = event

    def as_hooks(self) -> Any:
        """Return an object with hook implementations."""
        from flowcore.plugins.hookspecs import hookimpl

        observer = self

        class Hooks:
            @hookimpl
            def flowcore_block_requested(self, run: RunInfo, event: BlockEvent) -> None:
                observer.keep(run, event)

            @hookimpl
            def flowcore_block_status_changed(self, run: RunInfo, event: BlockEvent) -> None:
                observer.keep(run, event)

            @hookimpl
            def flowcore_block_ended(self, run: RunInfo, event: BlockEvent) -> None:
                observer.keep(run, event)

        return Hooks()

    def of_executor(self, label: str) -> list[str]:
        """Return lines on an executor's blocks."""
        lines = []
        for (executor, block_id), event in self._blocks.items():
            if executor != label:
                continue
            status = event.status
            text = f"block {block_id} (job {event.job_id}): {status.status_name}"
            lines.append(text + (f": {status.message}" if status.message else ""))
            stderr = (status.stderr_summary or "").strip()
            if stderr:
                lines.append(f"its stderr ends with: {stderr.splitlines()[-1]}")
        return lines

    def logged(self) -> list[str]:
        """Return the last problems in the log."""
        return [f"log: {line}" for line in dict.fromkeys(self._logged[-3:])]


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(_one_line(record.getMessage()))


def _temporary_run_dir(config: Config) -> Path | Finding:
    """Make a folder beside the real one, not in /tmp: the nodes of a cluster must see it."""
    parent = existing_parent(Path(config.run_dir))
    try:
        return Path(tempfile.mkdtemp(prefix="flowcore-doctor-", dir=parent))
    except OSError as error:
        return Finding(
            f"cannot make a run directory in {parent} ({error.strerror or error})",
            "set run_dir to a folder that you can write to; nothing of the configuration was tried out",
        )


def check_providers(config: Config) -> Generator[Finding, None, None]:
    """Try the provider of each executor out, without asking it for a block.

    Args:
        config: is used up by it.
    """
    from flowcore.cli.preview import dry_runs

    folder = _temporary_run_dir(config)
    if isinstance(folder, Finding):
        yield folder
        return
    try:
        yield from dry_runs(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_configuration(config: Config, timeout_s: float) -> Generator[Finding, None, None]:
    """Start a run of a configuration in a temporary run directory, and run tasks on each executor.

    Args:
        config: is used up by it; its ``run_dir`` is changed.
        timeout_s: for the first results of all executors together.
    """
    from flowcore.session import DataFlowKernel

    folder = _temporary_run_dir(config)
    if isinstance(folder, Finding):
        yield folder
        return
    observer = _Observer()
    logger = logging.getLogger("flowcore")
    logger.addHandler(observer.handler)
    try:
        config.run_dir = folder
        config.hooks = [*config.hooks, observer.as_hooks()]
        try:
            kernel = DataFlowKernel(config)
        except Exception as error:  # noqa: BLE001 - an executor of a plugin may raise anything
            text = _told("the executors did not start", error, observer.logged())
            yield Finding(text, "mend what it names, then run flowcore doctor again")
            return
        try:
            yield from _probe(kernel, timeout_s, observer)
        finally:
            kernel.cleanup()
    finally:
        logger.removeHandler(observer.handler)
        # On network file systems, a file that was open a moment ago may keep its folder for a while.
        shutil.rmtree(folder, ignore_errors=True)


def _where() -> tuple[str, int, str]:
    """Say where this runs: host, process, version of Python. The probe task."""
    return socket.gethostname(), os.getpid(), platform.python_version()


def _probe(kernel: DataFlowKernel, timeout_s: float, observer: _Observer) -> Iterator[Finding]:
    from flowcore.apps import python_app

    apps: dict[str, Callable[[], AppFuture[Any]]] = {}
    for label, executor in kernel.executors.items():
        app = python_app(data_flow_kernel=kernel, executors=[label])(_where)
        needed = executor.probe_resources
        apps[label] = functools.partial(app, resource_specification=dict(needed)) if needed else app
    began = time.perf_counter()
    # All at once: blocks of several executors wait in their queues together.
    first = {label: probe() for label, probe in apps.items()}
    done_at: dict[Future[Any], float] = {}
    for future in first.values():
        future.add_done_callback(lambda done: done_at.update({done: time.perf_counter()}))
    for label, probe in apps.items():
        text = f"executor {label} ({type(kernel.executors[label]).__name__})"
        remaining = max(0.0, began + timeout_s - time.perf_counter())
        try:
            host, pid, version = _result(first[label], remaining)
            # The callback may come a moment after the result.
            startup_s = done_at.get(first[label], time.perf_counter()) - began
            trips = []
            for _ in range(ROUND_TRIPS):
                sent = time.perf_counter()
                _result(probe(), timeout_s)
                trips.append(time.perf_counter() - sent)
        except _NoAnswerError:
            yield Finding(
                _told(
                    f"{text}: no result within {timeout_s:g} s",
                    None,
                    observer.of_executor(label),
                    observer.logged(),
                ),
                "if its blocks wait in a queue, give more time with --timeout; else look at their output, "
                "and whether their nodes can connect to this host",
            )
            first[label].cancel()
        except Exception as error:  # noqa: BLE001 - whatever the probe failed with
            yield Finding(
                _told(f"{text}: the probe task failed", error),
                "mend what it names, then run flowcore doctor again",
            )
        else:
            place = "this process" if pid == os.getpid() else f"process {pid} of {host}"
            text += (
                f": round trip {1e3 * statistics.median(trips):.2f} ms, "
                f"first result after {startup_s:.2f} s, ran in {place}"
            )
            yield _same_python(text, version)


def _same_python(text: str, version: str) -> Finding:
    here = platform.python_version()
    if version.split(".")[:2] == here.split(".")[:2]:
        return Finding(text)
    return Finding(
        f"{text}, with python {version}",
        f"let its workers run python {here}, for example through worker_init: functions are sent as bytecode",
    )


class _NoAnswerError(Exception):
    """A future was not done in time; told apart from a TimeoutError that the task raised."""


def _result(future: AppFuture[Any], timeout_s: float) -> Any:
    try:
        return future.result(timeout=timeout_s)
    except TimeoutError:
        if future.done():
            raise
        raise _NoAnswerError from None


def _told(text: str, error: BaseException | None, *details: Iterable[str]) -> str:
    lines = [text if error is None else f"{text}: {type(error).__name__}: {error}"]
    lines.extend(getattr(error, "__notes__", ()))
    for more in details:
        lines.extend(more)
    return "\n".join(lines)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


# --- the command


class Report:
    """Prints findings as they come, and counts them."""

    def __init__(self) -> None:
        self.total = 0
        self.bad = 0

    def section(self, title: str, findings: Iterable[Finding]) -> None:
        """Print a heading and the findings below it."""
        click.secho(("\n" if self.total else "") + title, bold=True)
        self.show(findings)

    def show(self, findings: Iterable[Finding]) -> None:
        """Print findings, each as soon as it is there."""
        from flowcore.cli.terminal import wrapped

        for finding in findings:
            self.total += 1
            self.bad += not finding.ok
            state = click.style("ok    ", fg="green") if finding.ok else click.style("not ok", fg="red")
            indent = " " * 10
            lines = finding.text.splitlines()
            if finding.todo is not None:
                lines.append(f"to do: {finding.todo}")
            # A line of a message may be indented itself.
            text = "\n".join(wrapped(s, indent + line[: -len(s)]) for line in lines if (s := line.lstrip()))
            click.echo(f"  {state}  {text.lstrip()}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--profile", metavar="NAME", help="Use the table [profiles.NAME] of a TOML file.")
@click.option("--dry-run", is_flag=True, help="Ask for no blocks, and run no tasks.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    metavar="SECONDS", help="Time for the first results of the executors; include the wait in a batch queue.",
)  # fmt: skip
@click.pass_context
def doctor(ctx: click.Context, file: Path | None, profile: str | None, dry_run: bool, timeout_s: float) -> None:
    """Check this machine, the plugins, the network and a configuration.

    Tries the providers of the configuration FILE out without asking for blocks; where that is ok, runs tasks on each
    executor. Without FILE, it does so for the default configuration. Exits with 1 if anything is not ok.
    """
    from flowcore.cli.loading import load_config
    from flowcore.config import Config
    from flowcore.plugins.executor import BlockExecutor

    if file is None and profile is not None:
        raise click.UsageError("--profile goes with a configuration FILE")
    config: Config | None = None
    name = "the default configuration" if file is None else str(file)
    if profile is not None:
        name += f", profile {profile},"
    try:
        config = Config() if file is None else load_config(file, profile)
        loaded = Finding(f"{name} is valid")
    except FlowcoreError as error:
        loaded = Finding(str(error), "mend what it names; flowcore config check shows it again")
    report = Report()
    report.section("Environment", check_environment(Path("runinfo" if config is None else config.run_dir)))
    report.section("Plugins", check_plugins())
    report.section("Addresses", check_addresses())
    report.section("Configuration", [loaded])
    if config is not None and config.executors and any(isinstance(e, BlockExecutor) for e in config.executors):
        before = report.bad
        with contextlib.closing(check_providers(load_config(file, profile) if file else Config())) as findings:
            report.section("Providers", findings)
        if report.bad > before:
            config = None
    if config is not None and not dry_run:
        # Closed at once if this command is interrupted, so that the run is taken down.
        with contextlib.closing(check_configuration(config, timeout_s)) as findings:
            report.section("Executors", findings)
    click.echo()
    if report.bad:
        click.secho(f"{report.bad} of {report.total} checks: not ok", fg="red", bold=True)
        ctx.exit(1)
    click.secho(f"all {report.total} checks: ok", fg="green", bold=True)
