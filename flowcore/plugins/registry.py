"""Which class is ``slurm``? Entry points, one group per kind, read through stevedore, only here.

Rule of this module: looking a component up imports its distribution alone; listing imports nothing; whatever
is wrong with one plugin is told by its name and breaks no other.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Any

import attrs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flowcore.errors import PluginConflict, PluginError, PluginLoadError, PluginNotFound
from flowcore.plugins.component import close_match
from flowcore.plugins.version import PLUGIN_API

logger = logging.getLogger(__name__)

#: Kind, as users and messages name it, to entry-point group.
GROUPS = {
    "executor": "flowcore.executors",
    "provider": "flowcore.providers",
    "launcher": "flowcore.launchers",
    "channel": "flowcore.channels",
    "staging": "flowcore.staging",
    "serializer": "flowcore.serializers",
    "memo_hasher": "flowcore.memo_hashers",
    "strategy": "flowcore.strategies",
    "command": "flowcore.commands",
    "hooks": "flowcore.hooks",
    "compat": "flowcore.compat",
}
API_GROUP = "flowcore.plugin_api"
CORE = "flowcore"

#: Components of first-party distributions: (kind, name) to class name and distribution, for messages only. What a later
#: version of the core will have stands here with its distribution, ``flowcore``.
KNOWN: dict[tuple[str, str], tuple[str, str]] = {
    ("executor", "htex"): ("HighThroughputExecutor", "flowcore-executor-htex"),
    ("executor", "workqueue"): ("WorkQueueExecutor", "flowcore-executor-workqueue"),
    ("executor", "taskvine"): ("TaskVineExecutor", "flowcore-executor-taskvine"),
    ("executor", "flux"): ("FluxExecutor", "flowcore-executor-flux"),
    ("executor", "radical"): ("RadicalPilotExecutor", "flowcore-executor-radical"),
    ("provider", "slurm"): ("SlurmProvider", "flowcore-provider-slurm"),
    ("provider", "pbspro"): ("PBSProProvider", "flowcore-provider-pbs"),
    ("provider", "torque"): ("TorqueProvider", "flowcore-provider-pbs"),
    ("provider", "gridengine"): ("GridEngineProvider", "flowcore-provider-gridengine"),
    ("provider", "lsf"): ("LSFProvider", "flowcore-provider-lsf"),
    ("provider", "condor"): ("CondorProvider", "flowcore-provider-condor"),
    ("provider", "cobalt"): ("CobaltProvider", "flowcore-provider-cobalt"),
    ("provider", "kubernetes"): ("KubernetesProvider", "flowcore-provider-kubernetes"),
    ("provider", "aws"): ("AWSProvider", "flowcore-provider-aws"),
    ("provider", "googlecloud"): ("GoogleCloudProvider", "flowcore-provider-googlecloud"),
    ("provider", "adhoc"): ("AdHocProvider", CORE),
    ("launcher", "srun"): ("SrunLauncher", CORE),
    ("launcher", "srun_mpi"): ("SrunMPILauncher", CORE),
    ("launcher", "aprun"): ("AprunLauncher", CORE),
    ("launcher", "mpiexec"): ("MpiExecLauncher", CORE),
    ("launcher", "mpirun"): ("MpiRunLauncher", CORE),
    ("launcher", "gnu_parallel"): ("GnuParallelLauncher", CORE),
    ("launcher", "jsrun"): ("JsrunLauncher", CORE),
    ("channel", "ssh"): ("SSHChannel", "flowcore-channel-ssh"),
    ("channel", "ssh_interactive"): ("SSHInteractiveLoginChannel", "flowcore-channel-ssh"),
    ("channel", "oauth_ssh"): ("OAuthSSHChannel", "flowcore-channel-ssh"),
    ("staging", "http"): ("HTTPSeparateTaskStaging", CORE),
    ("staging", "http_in_task"): ("HTTPInTaskStaging", CORE),
    ("staging", "ftp"): ("FTPSeparateTaskStaging", CORE),
    ("staging", "ftp_in_task"): ("FTPInTaskStaging", CORE),
    ("staging", "rsync"): ("RSyncStaging", CORE),
    ("staging", "zip"): ("ZipFileStaging", CORE),
    ("staging", "globus"): ("GlobusStaging", "flowcore-staging-globus"),
    ("hooks", "monitoring"): ("MonitoringHub", "flowcore-monitoring-sqlite"),
    **{
        ("command", name): (name, "flowcore-monitoring-sqlite")
        for name in ("runs", "status", "explain", "report", "graph", "monitoring")
    },
    ("command", "dashboard"): ("dashboard", "flowcore-monitoring-dashboard"),
    ("command", "globus-auth"): ("globus_auth", "flowcore-staging-globus"),
    ("compat", "parsl"): ("install", "flowcore-compat-parsl"),
}


def _missing(what: str, distribution: str) -> PluginNotFound:
    """Return the error for a known component that is not there; ``what`` is how the user named it."""
    if distribution == CORE:
        return PluginNotFound(f"{what} is not there: this version of flowcore, {_core_version()}, does not have it yet")
    return PluginNotFound(f"{what} is not installed: pip install {distribution}")


@attrs.frozen
class Plugin:
    """One component that an installed distribution offers. Nothing of it has been imported.

    ``problem`` says why it cannot be used, or is None.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    problem: str | None

    @property
    def class_name(self) -> str:
        """Name of the class (or function, or module) behind it."""
        return self.value.partition(":")[2].partition("[")[0].strip() or self.value

    @property
    def module(self) -> str:
        """Name of its module."""
        return self.value.partition(":")[0]


@functools.cache
def _core_version() -> str:
    from flowcore import __version__

    return __version__


def _problem(dist: importlib.metadata.Distribution) -> str | None:
    """Say why no component of this distribution may be loaded, from its metadata alone."""
    for text in dist.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) != CORE:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.specifier.contains(_core_version(), prereleases=True):
            return (
                f"it supports flowcore{requirement.specifier}, and this is flowcore {_core_version()}: "
                f"install a version of {dist.name} made for it"
            )
    stated = {ep.name for ep in dist.entry_points if ep.group == API_GROUP}
    if stated and str(PLUGIN_API) not in stated:
        return (
            f"it is written for plugin API {', '.join(sorted(stated))}, and flowcore {_core_version()} "
            f"has {PLUGIN_API}: install a version of {dist.name} made for it"
        )
    return None


_Found = list[tuple[importlib.metadata.EntryPoint, importlib.metadata.Distribution]]


def _scan(group: str) -> _Found:
    # An editable install can show a distribution twice on sys.path; the first one is the one that is imported.
    try:
        # One pass, with what the standard library remembers of each folder.
        entry_points = importlib.metadata.entry_points(group=group)
    except Exception:  # noqa: BLE001 - one distribution that cannot be read spoils them all
        return _scan_each(group)
    return [(ep, ep.dist) for ep in entry_points if ep.dist is not None and _name(ep.dist)]


def _scan_each(group: str) -> _Found:
    found: _Found = []
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        try:
            name = canonicalize_name(_name(dist))
            entry_points = [ep for ep in dist.entry_points if ep.group == group]
        except Exception as error:  # noqa: BLE001 - metadata that somebody wrote by hand, or half of it
            _warn_once(f"a distribution is left out, its metadata cannot be read: {_place(dist)}: {error!r}")
            continue
        if name and name not in seen:
            seen.add(name)
            found.extend((ep, dist) for ep in entry_points)
    return found


def _name(dist: importlib.metadata.Distribution) -> str:
    # What an interrupted uninstall leaves behind has none.
    name: str | None = dist.metadata["Name"]
    return name or ""


def _place(dist: importlib.metadata.Distribution) -> str:
    return str(getattr(dist, "_path", dist))


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def installed(kind: str) -> list[Plugin]:
    """Return the installed components of a kind, sorted by name, without importing any.

    Raises:
        PluginError: there is no such kind.
    """
    if kind not in GROUPS:
        raise PluginError(f"there is no kind of plugin {kind!r}{close_match(kind, GROUPS)}; kinds: {', '.join(GROUPS)}")
    plugins = []
    found = _scan(GROUPS[kind])
    owners: dict[str, set[str]] = {}
    for ep, dist in found:
        owners.setdefault(ep.name, set()).add(dist.name)
    # A distribution's metadata are read once, however many components it has.
    problems = {dist.name: _problem(dist) for dist in {dist.name: dist for _, dist in found}.values()}
    for ep, dist in found:
        problem = problems[dist.name]
        if len(owners[ep.name]) > 1:
            problem = f"{_both(owners[ep.name])} offer the {kind} {ep.name!r}: uninstall one of them"
        plugins.append(Plugin(kind, ep.name, ep.value, dist.name, dist.version, problem))
    return sorted(plugins, key=lambda p: (p.name, p.distribution))


def _both(names: set[str]) -> str:
    return ("both " if len(names) == 2 else "") + " and ".join(sorted(names))


def find(kind: str, name: str) -> Plugin:
    """Return the component of a kind by its name.

    Raises:
        PluginNotFound: says what is installed, what is close and, where known, what to install.
        PluginConflict: two distributions offer it; names both.
        PluginLoadError: its distribution does not support this core.
    """
    return _choose(kind, name, installed(kind))


def _choose(kind: str, name: str, plugins: list[Plugin]) -> Plugin:
    matching = [p for p in plugins if p.name == name]
    if not matching:
        names = sorted({p.name for p in plugins})
        known = KNOWN.get((kind, name))
        if known:
            raise _missing(f"{kind} {name!r}", known[1])
        raise PluginNotFound(
            f"no {kind} {name!r} is installed{close_match(name, [*names, *(n for k, n in KNOWN if k == kind)])}; "
            f"installed: {', '.join(names) or 'none'}"
        )
    if len({p.distribution for p in matching}) > 1:
        raise PluginConflict(matching[0].problem or "")
    plugin = matching[0]
    if plugin.problem:
        raise PluginLoadError(f"{kind} {name!r} of {plugin.distribution} {plugin.version}: {plugin.problem}")
    return plugin


def find_class(kind: str, class_name: str) -> Plugin:
    """Return the component of a kind by the name of its class.

    Raises:
        PluginNotFound, PluginConflict, PluginLoadError: as :func:`find`.
    """
    plugins = installed(kind)
    matching = [p for p in plugins if p.class_name == class_name]
    owners = {p.distribution for p in matching}
    if len(owners) > 1:
        raise PluginConflict(f"{_both(owners)} offer a {kind} of class {class_name}: name it as a plugin instead")
    if matching:
        return _choose(kind, matching[0].name, plugins)
    for (known_kind, _), (known_class, dist) in KNOWN.items():
        if known_kind == kind and known_class == class_name:
            raise _missing(class_name, dist)
    names = sorted(p.class_name for p in plugins)
    close = close_match(class_name, [*names, *(c for (k, _), (c, _) in KNOWN.items() if k == kind)])
    raise PluginNotFound(f"no {kind} class {class_name!r} is installed{close}; installed: {', '.join(names) or 'none'}")


def load(plugin: Plugin) -> Any:
    """Import a component and return it.

    Raises:
        PluginLoadError: importing it failed, or it does not keep its kind's contract.
    """
    loaded = _load(plugin.kind, plugin.name)
    contract = _contract(plugin.kind)
    if contract is not None and not (isinstance(loaded, type) and issubclass(loaded, contract)):
        raise PluginLoadError(
            f"{plugin.kind} {plugin.name!r} of {plugin.distribution} {plugin.version}: {plugin.value} is "
            f"{loaded!r}, and no subclass of flowcore.plugins.api.{contract.__name__}"
        )
    return loaded


def get(kind: str, name: str) -> Any:
    """Find a component by name and import it; the errors are those of :func:`find` and :func:`load`."""
    return load(find(kind, name))


@functools.cache
def _load(kind: str, name: str) -> Any:
    from stevedore.exception import MultipleMatches
    from stevedore.extension import error_on_conflict
    from stevedore.named import NamedExtensionManager

    group = GROUPS[kind]

    class Manager(NamedExtensionManager):  # type: ignore[type-arg]  # stevedore 5.2 has no generic one
        # Instead of stevedore's cached list, which loses each entry point's distribution and writes files
        # into the user's home.
        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            return [ep for ep, _ in _scan(group)]

    def refuse(manager: Any, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> None:
        dist = entry_point.dist
        owner = f" of {dist.name} {dist.version}" if dist else ""
        raise PluginLoadError(f"{kind} {name!r}{owner} failed to import: {type(error).__name__}: {error}") from error

    try:
        manager = Manager(
            group,
            [name],
            on_load_failure_callback=refuse,
            conflict_resolver=error_on_conflict,
        )
        return manager[name].plugin
    except MultipleMatches as error:
        raise PluginConflict(str(error)) from error
    except (AssertionError, SystemExit) as error:  # stevedore lets these pass
        owner = next((f" of {dist.name} {dist.version}" for ep, dist in _scan(group) if ep.name == name), "")
        raise PluginLoadError(f"{kind} {name!r}{owner} failed to import: {type(error).__name__}: {error}") from error


def _contract(kind: str) -> type | None:
    from flowcore.plugins import api

    contracts: dict[str, type] = {
        "executor": api.Executor,
        "provider": api.Provider,
        "launcher": api.Launcher,
        "channel": api.Channel,
        "staging": api.Staging,
        "serializer": api.Serializer,
        "memo_hasher": api.MemoHasher,
    }
    return contracts.get(kind)


def contracts() -> dict[type, str]:
    """Return the contract classes of the kinds whose components are classes, with the kind of each."""
    return {c: kind for kind in GROUPS if (c := _contract(kind)) is not None}


def load_all(kind: str) -> tuple[list[tuple[Plugin, Any]], list[str]]:
    """Import every usable component of a kind.

    Returns:
        The components with what they are, and a message for each that could not be loaded.
    """
    good: list[tuple[Plugin, Any]] = []
    problems: list[str] = []
    for plugin in installed(kind):
        try:
            good.append((plugin, get(kind, plugin.name)))
        except PluginError as error:
            problems.append(str(error))
    return good, problems


def door(kind: str, class_name: str) -> Any:
    """Return a component's class by its name, for the modules ``flowcore.providers`` and its like.

    Raises:
        AttributeError: for a private name, so that Python's own probing works.
        ImportError: the plugin is not there; says what to install.
    """
    if class_name.startswith("_"):
        raise AttributeError(class_name)
    try:
        return load(find_class(kind, class_name))
    except PluginNotFound as error:
        raise ImportError(str(error)) from error


def class_names(kind: str) -> Sequence[str]:
    """Return the names of the installed classes of a kind."""
    return sorted({p.class_name for p in installed(kind)})
