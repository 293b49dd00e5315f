"""Which of Parsl's modules there are, and what each of their names is. Data only.

An entry is the place of flowcore's own object or of an adapter, ``module:name``; or one of the classes below. Places
are imported when a program first asks for the name.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Component:
    """A class that a plugin may have: looked for through the registry, by its class name.

    Attributes:
        kind: the registry's name of its kind.
        name: the class.
    """

    kind: str
    name: str


@attrs.frozen
class Part:
    """Something else that the distribution of a plugin has.

    Attributes:
        distribution: what to install for it.
        place: ``module:name``.
    """

    distribution: str
    place: str


@attrs.frozen
class Call:
    """The result of a function, called when a program first asks for the name."""

    place: str


Entry = str | Component | Part | Call

_OURS = "flowcore_compat_parsl."
_APPS = {name: f"{_OURS}apps:{name}" for name in ("python_app", "bash_app", "join_app")}
_KERNEL = f"{_OURS}kernel:"
_CONFIG = f"{_OURS}config:Config"
_HTEX = f"{_OURS}executors:high_throughput_executor"
_HUB = Component("hooks", "MonitoringHub")


def _components(kind: str, *names: str) -> dict[str, Entry]:
    return {name: Component(kind, name) for name in names}


def _from(module: str, *names: str) -> dict[str, Entry]:
    return {name: f"{module}:{name}" for name in names}


def _errors(*names: str, **renamed: str) -> dict[str, Entry]:
    return {
        **_from("flowcore.errors", *names),
        **{name: f"flowcore.errors:{ours}" for name, ours in renamed.items()},
    }


_LAUNCHERS = (
    "SimpleLauncher", "SingleNodeLauncher", "SrunLauncher", "AprunLauncher", "SrunMPILauncher", "GnuParallelLauncher",
    "MpiExecLauncher", "MpiRunLauncher", "JsrunLauncher", "WrappedLauncher",
)  # fmt: skip
_PROVIDERS = (
    "AdHocProvider", "AWSProvider", "CobaltProvider", "CondorProvider", "GoogleCloudProvider", "GridEngineProvider",
    "KubernetesProvider", "LocalProvider", "LSFProvider", "PBSProProvider", "SlurmProvider", "TorqueProvider",
)  # fmt: skip
_EXECUTORS: dict[str, Entry] = {
    "ThreadPoolExecutor": Component("executor", "ThreadPoolExecutor"),
    "HighThroughputExecutor": Call(_HTEX),
    "WorkQueueExecutor": Component("executor", "WorkQueueExecutor"),
    "FluxExecutor": Component("executor", "FluxExecutor"),
}
_LOCAL_THREADS: dict[str, Entry] = {
    "config": Call(f"{_OURS}configs:local_threads"),
    "fresh_config": f"{_OURS}configs:local_threads",
}
_STAGERS = f"{_OURS}staging:"

#: Module to names, each with what it is. A module whose name begins another one's is its package.
MODULES: dict[str, dict[str, Entry]] = {
    "parsl": {
        **_APPS,
        "AUTO_LOGNAME": "flowcore.files:AUTO_LOGNAME",
        "AppFuture": "flowcore.futures:AppFuture",
        "Config": _CONFIG,
        "DataFlowKernel": _KERNEL + "DataFlowKernel",
        "DataFlowKernelLoader": _KERNEL + "DataFlowKernelLoader",
        "File": "flowcore.files:File",
        "MonitoringHub": _HUB,
        "ThreadPoolExecutor": _EXECUTORS["ThreadPoolExecutor"],
        "HighThroughputExecutor": _EXECUTORS["HighThroughputExecutor"],
        "WorkQueueExecutor": _EXECUTORS["WorkQueueExecutor"],
        "ParslError": "flowcore.errors:FlowcoreError",
        "__version__": "flowcore_compat_parsl:VERSION",
        **_from(_OURS + "kernel", "clear", "dfk", "load", "wait_for_current_tasks"),
        **_from(_OURS + "logs", "set_file_logger", "set_stream_logger"),
    },
    "parsl.addresses": _from(
        "flowcore.addresses",
        "address_by_hostname",
        "address_by_interface",
        "address_by_query",
        "address_by_route",
        "get_all_addresses",
    ),
    "parsl.app": {},
    "parsl.app.app": {**_APPS, "AppBase": _OURS + "apps:AppBase"},
    "parsl.app.bash": {"BashApp": _OURS + "apps:BashApp"},
    "parsl.app.errors": _errors(
        "AppBadFormatting",
        "AppException",
        "AppTimeout",
        "BadStdStreamFile",
        "BashAppNoReturn",
        "BashExitFailure",
        "MissingOutputs",
        ParslError="FlowcoreError",
    ),
    "parsl.app.futures": {"DataFuture": _OURS + "futures:DataFuture"},
    "parsl.app.python": {"PythonApp": _OURS + "apps:PythonApp"},
    "parsl.benchmark": {},
    "parsl.benchmark.perf": {"main": "flowcore.cli.perf:perf"},
    "parsl.channels": _components(
        "channel", "LocalChannel", "OAuthSSHChannel", "SSHChannel", "SSHInteractiveLoginChannel"
    ),
    "parsl.channels.base": {"Channel": "flowcore.plugins.api:Channel"},
    "parsl.channels.errors": _errors(
        "AuthException",
        "BadHostKeyException",
        "BadPermsScriptPath",
        "BadScriptPath",
        "ChannelError",
        "FileCopyException",
        "FileExists",
        "SSHException",
    ),
    "parsl.concurrent": {"ParslPoolExecutor": _OURS + "kernel:ParslPoolExecutor"},
    "parsl.config": {"Config": _CONFIG},
    "parsl.configs": {},
    "parsl.configs.htex_local": {
        "config": Call(_OURS + "configs:htex_local"),
        "fresh_config": _OURS + "configs:htex_local",
    },
    "parsl.configs.local_threads": _LOCAL_THREADS,
    "parsl.data_provider": {},
    "parsl.data_provider.data_manager": {
        "DataManager": _STAGERS + "DataManager",
        "default_staging": Call(_STAGERS + "default_staging"),
    },
    "parsl.data_provider.file_noop": _components("staging", "NoOpFileStaging"),
    "parsl.data_provider.files": {"File": "flowcore.files:File"},
    "parsl.data_provider.ftp": _components("staging", "FTPInTaskStaging", "FTPSeparateTaskStaging"),
    "parsl.data_provider.globus": _components("staging", "GlobusStaging"),
    "parsl.data_provider.http": _components("staging", "HTTPInTaskStaging", "HTTPSeparateTaskStaging"),
    "parsl.data_provider.rsync": _components("staging", "RSyncStaging"),
    "parsl.data_provider.staging": {
        "Staging": _STAGERS + "Staging",
        "default_staging": Call(_STAGERS + "default_staging"),
    },
    "parsl.data_provider.zip": _components("staging", "ZipFileStaging"),
    "parsl.dataflow": {},
    "parsl.dataflow.dflow": _from(_OURS + "kernel", "DataFlowKernel", "DataFlowKernelLoader"),
    "parsl.dataflow.errors": _errors("BadCheckpoint", "DataFlowException", "DependencyError", "JoinError"),
    "parsl.dataflow.futures": {"AppFuture": "flowcore.futures:AppFuture"},
    "parsl.dataflow.memoization": {
        "Memoizer": _OURS + "records:Memoizer",
        "id_for_memo": "flowcore.memoization:id_for_memo",
    },
    "parsl.dataflow.states": {
        "FINAL_STATES": Call(_OURS + "records:final_states"),
        "States": "flowcore.kernel.states:States",
    },
    "parsl.dataflow.taskrecord": {"TaskRecord": _OURS + "records:TaskRecord"},
    "parsl.errors": _errors("ConfigurationError", "OptionalModuleMissing", ParslError="FlowcoreError"),
    "parsl.executors": _EXECUTORS,
    "parsl.executors.base": {"ParslExecutor": _OURS + "executors:ParslExecutor"},
    "parsl.executors.errors": _errors("BadMessage", "ExecutorError", "ScalingFailed"),
    "parsl.executors.flux": {},
    "parsl.executors.flux.executor": _components("executor", "FluxExecutor"),
    "parsl.executors.high_throughput": {},
    "parsl.executors.high_throughput.errors": _errors("ManagerLost", "WorkerLost"),
    "parsl.executors.high_throughput.executor": {"HighThroughputExecutor": Call(_HTEX)},
    "parsl.executors.high_throughput.interchange": _errors("ManagerLost"),
    "parsl.executors.radical": _components("executor", "RadicalPilotExecutor"),
    "parsl.executors.status_handling": {"BlockProviderExecutor": "flowcore.plugins.api:BlockExecutor"},
    "parsl.executors.taskvine": {
        "TaskVineExecutor": Component("executor", "TaskVineExecutor"),
        **{
            name: Part("flowcore-executor-taskvine", f"flowcore_executor_taskvine:{name}")
            for name in ("TaskVineFactoryConfig", "TaskVineManagerConfig")
        },
    },
    "parsl.executors.threads": _components("executor", "ThreadPoolExecutor"),
    "parsl.executors.workqueue": {},
    "parsl.executors.workqueue.executor": _components("executor", "WorkQueueExecutor"),
    "parsl.jobs": {},
    "parsl.jobs.error_handlers": _from(
        "flowcore.scaling.error_handlers", "noop_error_handler", "simple_error_handler", "windowed_error_handler"
    ),
    "parsl.jobs.job_status_poller": {"JobStatusPoller": _OURS + "scaling:JobStatusPoller"},
    "parsl.jobs.states": _from("flowcore.plugins.api", "JobState", "JobStatus"),
    "parsl.jobs.strategy": {"Strategy": _OURS + "scaling:Strategy"},
    "parsl.launchers": _components("launcher", *_LAUNCHERS),
    "parsl.launchers.base": {"Launcher": _OURS + "contracts:Launcher"},
    "parsl.launchers.errors": _errors("BadLauncher"),
    "parsl.monitoring": {"MonitoringHub": _HUB},
    "parsl.monitoring.monitoring": {"MonitoringHub": _HUB},
    "parsl.providers": _components("provider", *_PROVIDERS),
    "parsl.providers.base": {"ExecutionProvider": _OURS + "contracts:ExecutionProvider"},
    "parsl.providers.cluster_provider": {"ClusterProvider": _OURS + "contracts:ClusterProvider"},
    "parsl.providers.errors": _errors(
        "ExecutionProviderException", "ScaleOutFailed", "SchedulerMissingArgs", "ScriptPathError"
    ),
    "parsl.serialize": {"deserialize": "flowcore.serialize:loads", "serialize": "flowcore.serialize:dumps"},
    "parsl.serialize.errors": _errors("DeserializationError", "SerializationError"),
    "parsl.tests": {},
    "parsl.tests.configs": {},
    "parsl.tests.configs.local_threads": _LOCAL_THREADS,
    "parsl.utils": {
        "Timer": _OURS + "scaling:Timer",
        **_from("flowcore.checkpoints", "get_all_checkpoints", "get_last_checkpoint"),
    },
    "parsl.version": {"VERSION": "flowcore_compat_parsl:VERSION"},
}
