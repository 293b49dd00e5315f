"""Every dotted name that Parsl documents is there, or says what to install."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from types import ModuleType

import pytest
from flowcore_compat_parsl.table import MODULES, Component

from flowcore.plugins import registry

#: All dotted names of the API reference, in the order of the alphabet.
API = """
    parsl.addresses.address_by_hostname
    parsl.addresses.address_by_interface
    parsl.addresses.address_by_query
    parsl.addresses.address_by_route
    parsl.app.app.AppBase
    parsl.app.app.bash_app
    parsl.app.app.join_app
    parsl.app.app.python_app
    parsl.app.bash.BashApp
    parsl.app.errors.AppBadFormatting
    parsl.app.errors.AppException
    parsl.app.errors.AppTimeout
    parsl.app.errors.BadStdStreamFile
    parsl.app.errors.BashAppNoReturn
    parsl.app.errors.BashExitFailure
    parsl.app.errors.MissingOutputs
    parsl.app.errors.ParslError
    parsl.app.futures.DataFuture
    parsl.app.python.PythonApp
    parsl.channels.LocalChannel
    parsl.channels.OAuthSSHChannel
    parsl.channels.SSHChannel
    parsl.channels.SSHInteractiveLoginChannel
    parsl.channels.base.Channel
    parsl.channels.errors.AuthException
    parsl.channels.errors.BadHostKeyException
    parsl.channels.errors.BadPermsScriptPath
    parsl.channels.errors.BadScriptPath
    parsl.channels.errors.ChannelError
    parsl.channels.errors.FileCopyException
    parsl.channels.errors.FileExists
    parsl.channels.errors.SSHException
    parsl.config.Config
    parsl.data_provider.data_manager.DataManager
    parsl.data_provider.file_noop.NoOpFileStaging
    parsl.data_provider.files.File
    parsl.data_provider.ftp.FTPInTaskStaging
    parsl.data_provider.ftp.FTPSeparateTaskStaging
    parsl.data_provider.globus.GlobusStaging
    parsl.data_provider.http.HTTPInTaskStaging
    parsl.data_provider.http.HTTPSeparateTaskStaging
    parsl.data_provider.rsync.RSyncStaging
    parsl.data_provider.staging.Staging
    parsl.data_provider.staging.default_staging
    parsl.dataflow.dflow.DataFlowKernel
    parsl.dataflow.dflow.DataFlowKernelLoader
    parsl.dataflow.dflow.DataFlowKernelLoader.load
    parsl.dataflow.errors.BadCheckpoint
    parsl.dataflow.errors.DataFlowException
    parsl.dataflow.errors.DependencyError
    parsl.dataflow.errors.JoinError
    parsl.dataflow.futures.AppFuture
    parsl.dataflow.memoization.Memoizer
    parsl.dataflow.memoization.id_for_memo
    parsl.dataflow.states.FINAL_STATES
    parsl.dataflow.states.States
    parsl.dataflow.taskrecord.TaskRecord
    parsl.errors.ConfigurationError
    parsl.errors.OptionalModuleMissing
    parsl.executors.FluxExecutor
    parsl.executors.HighThroughputExecutor
    parsl.executors.ThreadPoolExecutor
    parsl.executors.WorkQueueExecutor
    parsl.executors.base.ParslExecutor
    parsl.executors.errors.BadMessage
    parsl.executors.errors.ExecutorError
    parsl.executors.errors.ScalingFailed
    parsl.executors.high_throughput.errors.WorkerLost
    parsl.executors.high_throughput.interchange.ManagerLost
    parsl.executors.radical.RadicalPilotExecutor
    parsl.executors.status_handling.BlockProviderExecutor
    parsl.executors.taskvine.TaskVineExecutor
    parsl.jobs.error_handlers.noop_error_handler
    parsl.jobs.error_handlers.simple_error_handler
    parsl.jobs.error_handlers.windowed_error_handler
    parsl.jobs.job_status_poller.JobStatusPoller
    parsl.jobs.states.JobState
    parsl.jobs.states.JobStatus
    parsl.jobs.strategy.Strategy
    parsl.launchers.AprunLauncher
    parsl.launchers.GnuParallelLauncher
    parsl.launchers.JsrunLauncher
    parsl.launchers.MpiExecLauncher
    parsl.launchers.SimpleLauncher
    parsl.launchers.SingleNodeLauncher
    parsl.launchers.SrunLauncher
    parsl.launchers.SrunMPILauncher
    parsl.launchers.WrappedLauncher
    parsl.launchers.base.Launcher
    parsl.launchers.errors.BadLauncher
    parsl.monitoring.MonitoringHub
    parsl.providers.AWSProvider
    parsl.providers.AdHocProvider
    parsl.providers.CobaltProvider
    parsl.providers.CondorProvider
    parsl.providers.GoogleCloudProvider
    parsl.providers.GridEngineProvider
    parsl.providers.KubernetesProvider
    parsl.providers.LSFProvider
    parsl.providers.LocalProvider
    parsl.providers.PBSProProvider
    parsl.providers.SlurmProvider
    parsl.providers.TorqueProvider
    parsl.providers.base.ExecutionProvider
    parsl.providers.cluster_provider.ClusterProvider
    parsl.providers.errors.ExecutionProviderException
    parsl.providers.errors.ScaleOutFailed
    parsl.providers.errors.SchedulerMissingArgs
    parsl.providers.errors.ScriptPathError
    parsl.serialize.errors.DeserializationError
    parsl.serialize.errors.SerializationError
    parsl.set_file_logger
    parsl.set_stream_logger
    parsl.utils.Timer
    parsl.utils.get_all_checkpoints
    parsl.utils.get_last_checkpoint
""".split()  # noqa: SIM905 - a long table

#: What the programs of the user guide import besides.
GUIDE = """
    parsl.AUTO_LOGNAME
    parsl.Config
    parsl.DataFlowKernel
    parsl.File
    parsl.__version__
    parsl.bash_app
    parsl.benchmark.perf
    parsl.clear
    parsl.concurrent.ParslPoolExecutor
    parsl.configs.htex_local.config
    parsl.configs.local_threads.config
    parsl.data_provider.data_manager.default_staging
    parsl.dfk
    parsl.executors.taskvine.TaskVineManagerConfig
    parsl.executors.threads.ThreadPoolExecutor
    parsl.join_app
    parsl.launchers.MpiRunLauncher
    parsl.load
    parsl.monitoring.monitoring.MonitoringHub
    parsl.python_app
    parsl.tests.configs.local_threads.config
    parsl.wait_for_current_tasks
""".split()  # noqa: SIM905 - a long table

#: Modules in which the documentation has only what no version of flowcore brings along.
ELSEWHERE = re.compile(r"pip install flowcore-[a-z]+-[a-z]+$|this version of flowcore")


@pytest.mark.parametrize("name", [*API, *GUIDE])
def test_a_documented_name_is_there_or_says_what_to_install(name: str, get: Callable[[str], object]) -> None:
    try:
        found = get(name)
    except ImportError as error:
        assert ELSEWHERE.search(str(error)), error
        assert name.rpartition(".")[2] in str(error)
    else:
        assert found is not None


def test_what_the_core_and_its_own_plugins_have_is_there(get: Callable[[str], object]) -> None:
    missing = []
    for name in [*API, *GUIDE]:
        try:
            get(name)
        except ImportError:
            missing.append(name)
    kinds = (".providers.", ".launchers.", ".channels.", ".executors.", ".data_provider.", ".MonitoringHub")
    assert [name for name in missing if not any(kind in name for kind in kinds)] == []
    assert not {"parsl.providers.LocalProvider", "parsl.channels.LocalChannel", "parsl.launchers.SimpleLauncher"} & {
        *missing
    }


@pytest.mark.parametrize(
    ("module", "name", "distribution"),
    [
        ("parsl.providers", "KubernetesProvider", "flowcore-provider-kubernetes"),
        ("parsl.providers", "TorqueProvider", "flowcore-provider-pbs"),
        ("parsl.channels", "OAuthSSHChannel", "flowcore-channel-ssh"),
        ("parsl.executors", "FluxExecutor", "flowcore-executor-flux"),
        ("parsl.executors.taskvine", "TaskVineManagerConfig", "flowcore-executor-taskvine"),
        ("parsl.data_provider.globus", "GlobusStaging", "flowcore-staging-globus"),
        ("parsl.monitoring", "MonitoringHub", "flowcore-monitoring-sqlite"),
    ],
)
def test_what_a_missing_distribution_has_names_it(
    module: str, name: str, distribution: str, parsl: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda kind: [])
    with pytest.raises(ImportError, match=f"{name} is not installed: pip install {distribution}$"):
        getattr(importlib.import_module(module), name)


def test_what_the_core_does_not_have_yet_says_so(parsl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda kind: [])
    from parsl import launchers, providers

    with pytest.raises(ImportError, match="^JsrunLauncher is not there: this version of flowcore, .* not have it yet$"):
        launchers.JsrunLauncher  # noqa: B018
    with pytest.raises(ImportError, match="^AdHocProvider is not there: this version of flowcore"):
        providers.AdHocProvider  # noqa: B018


def test_every_component_of_the_table_is_known_or_installed() -> None:
    known = {(kind, found[0]) for (kind, _), found in registry.KNOWN.items()}
    for module, entries in MODULES.items():
        for name, entry in entries.items():
            if isinstance(entry, Component) and (entry.kind, entry.name) not in known:
                assert registry.find_class(entry.kind, entry.name), f"{module}.{name}"


def test_the_table_has_a_package_for_each_module() -> None:
    for module in MODULES:
        parent = module.rpartition(".")[0]
        assert parent == "" or parent in MODULES


def test_aliases_are_the_very_objects_of_flowcore(get: Callable[[str], object]) -> None:
    import flowcore
    from flowcore import errors, executors, memoization

    assert get("parsl.File") is get("parsl.data_provider.files.File") is flowcore.File
    assert get("parsl.app.errors.ParslError") is errors.FlowcoreError
    assert get("parsl.app.errors.BashExitFailure") is errors.BashExitFailure
    assert get("parsl.dataflow.memoization.id_for_memo") is memoization.id_for_memo
    assert get("parsl.executors.ThreadPoolExecutor") is executors.ThreadPoolExecutor
    assert get("parsl.dataflow.states.FINAL_STATES") == [3, 9, 4, 5]


@pytest.mark.parametrize(
    ("name", "arguments", "attributes"),
    [
        ("parsl.app.errors.AppTimeout", ("why",), {}),
        ("parsl.app.errors.BadStdStreamFile", ("why",), {"reason": "why"}),
        ("parsl.app.errors.BashAppNoReturn", ("why",), {"reason": "why"}),
        ("parsl.app.errors.BashExitFailure", ("app", 3), {"app_name": "app", "exitcode": 3}),
        ("parsl.app.errors.MissingOutputs", ("why", ["a"]), {"reason": "why", "outputs": ["a"]}),
        ("parsl.errors.OptionalModuleMissing", (["m"], "why"), {"module_names": ["m"], "reason": "why"}),
        ("parsl.executors.errors.ExecutorError", ("htex", "why"), {"executor": "htex", "reason": "why"}),
        ("parsl.executors.errors.ScalingFailed", ("htex", "why"), {"executor": "htex", "reason": "why"}),
        ("parsl.executors.errors.BadMessage", ("why",), {"reason": "why"}),
        ("parsl.dataflow.errors.BadCheckpoint", ("why",), {"reason": "why"}),
        (
            "parsl.dataflow.errors.DependencyError",
            ([(ValueError("x"), "task 1")], 2),
            {"task_id": 2},
        ),
        ("parsl.dataflow.errors.JoinError", ([(ValueError("x"), None)], 2), {"task_id": 2}),
        ("parsl.launchers.errors.BadLauncher", ("launcher",), {}),
        ("parsl.providers.errors.ScaleOutFailed", ("slurm", "why"), {"provider": "slurm", "reason": "why"}),
        ("parsl.providers.errors.SchedulerMissingArgs", ("partition", "site"), {"sitename": "site"}),
        ("parsl.providers.errors.ScriptPathError", ("/s", "why"), {"script_path": "/s", "reason": "why"}),
        ("parsl.channels.errors.ChannelError", ("why", ValueError("x"), "host"), {"hostname": "host"}),
        ("parsl.channels.errors.FileExists", (ValueError("x"), "host", "f"), {"filename": "f"}),
        ("parsl.channels.errors.AuthException", (ValueError("x"), "host"), {"hostname": "host"}),
        ("parsl.executors.high_throughput.errors.WorkerLost", (3, "host"), {"worker_id": 3, "hostname": "host"}),
        ("parsl.executors.high_throughput.interchange.ManagerLost", (b"m", "host"), {"manager_id": b"m"}),
        ("parsl.serialize.errors.DeserializationError", ("why",), {"reason": "why"}),
        ("parsl.serialize.errors.SerializationError", ("f",), {}),
    ],
)
def test_errors_are_made_as_documented(
    name: str, arguments: tuple[object, ...], attributes: dict[str, object], get: Callable[[str], object]
) -> None:
    kind = get(name)
    assert isinstance(kind, type)
    error = kind(*arguments)
    assert isinstance(error, get("parsl.app.errors.ParslError"))  # type: ignore[arg-type]
    assert {key: getattr(error, key) for key in attributes} == attributes
    assert str(error)
