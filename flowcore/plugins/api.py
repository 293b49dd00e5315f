"""All that a plugin imports. What is not here is the core's own business and may change without notice.

``PLUGIN_API`` is the version of the contracts. A distribution states the versions it was written for in the
entry-point group ``flowcore.plugin_api`` (entry names are the numbers), which the registry reads without
importing anything::

    [project.entry-points."flowcore.plugin_api"]
    1 = "my_package"
"""

from flowcore.bash import kill_commands
from flowcore.errors import (
    AppTimeout,
    AuthException,
    BadHostKeyException,
    BadMessage,
    BadPermsScriptPath,
    BadScriptPath,
    ChannelError,
    ConfigurationError,
    DeserializationError,
    ExecutionProviderException,
    ExecutorError,
    FileCopyException,
    FileExists,
    FlowcoreError,
    InterchangeLost,
    ManagerLost,
    OptionalModuleMissing,
    ScaleOutFailed,
    SchedulerMissingArgs,
    SchedulerUnavailable,
    ScriptPathError,
    SerializationError,
    SSHException,
    StagingError,
    TransferError,
    UnsupportedResource,
    WorkerLost,
)
from flowcore.files import File, expanded, shown_url
from flowcore.plugins.channel import Channel
from flowcore.plugins.cluster import ClusterProvider, local_channel, single_node_launcher
from flowcore.plugins.component import at_least, close_match, component
from flowcore.plugins.executor import (
    Attempt,
    AttemptResult,
    BlockControl,
    BlockErrorHandler,
    BlockExecutor,
    Executor,
    ExecutorContext,
    FutureExecutor,
)
from flowcore.plugins.hookspecs import (
    AttemptEvent,
    BlockEvent,
    NodeEvent,
    ResourceSample,
    RunInfo,
    TaskCall,
    TaskEvent,
    TaskEvents,
    hookimpl,
)
from flowcore.plugins.identity import function_identity
from flowcore.plugins.launcher import Launcher
from flowcore.plugins.memo_hasher import HashPart, MemoHasher
from flowcore.plugins.provider import (
    Finding,
    JobState,
    JobStatus,
    Provider,
    ProviderContext,
    check_blocks,
    free_stem,
)
from flowcore.plugins.scheduler import Completed, JobRequest, QueryUnsupported, SchedulerSilent, StatusQuery
from flowcore.plugins.script import RAN_BEFORE, block_script
from flowcore.plugins.serializer import Serializer
from flowcore.plugins.site import Site
from flowcore.plugins.staging import Staging, StagingContext, StagingPlace, TaskSubmitter
from flowcore.plugins.transfer import CopyingStaging, InTaskStaging, SeparateTaskStaging, fresh, retried
from flowcore.plugins.version import PLUGIN_API

__all__ = [
    "PLUGIN_API",
    "RAN_BEFORE",
    "AppTimeout",
    "Attempt",
    "AttemptEvent",
    "AttemptResult",
    "AuthException",
    "BadHostKeyException",
    "BadMessage",
    "BadPermsScriptPath",
    "BadScriptPath",
    "BlockControl",
    "BlockErrorHandler",
    "BlockEvent",
    "BlockExecutor",
    "Channel",
    "ChannelError",
    "ClusterProvider",
    "Completed",
    "ConfigurationError",
    "CopyingStaging",
    "DeserializationError",
    "ExecutionProviderException",
    "Executor",
    "ExecutorContext",
    "ExecutorError",
    "File",
    "FileCopyException",
    "FileExists",
    "Finding",
    "FlowcoreError",
    "FutureExecutor",
    "HashPart",
    "InTaskStaging",
    "InterchangeLost",
    "JobRequest",
    "JobState",
    "JobStatus",
    "Launcher",
    "ManagerLost",
    "MemoHasher",
    "NodeEvent",
    "OptionalModuleMissing",
    "Provider",
    "ProviderContext",
    "QueryUnsupported",
    "ResourceSample",
    "RunInfo",
    "SSHException",
    "ScaleOutFailed",
    "SchedulerMissingArgs",
    "SchedulerSilent",
    "SchedulerUnavailable",
    "ScriptPathError",
    "SeparateTaskStaging",
    "SerializationError",
    "Serializer",
    "Site",
    "Staging",
    "StagingContext",
    "StagingError",
    "StagingPlace",
    "StatusQuery",
    "TaskCall",
    "TaskEvent",
    "TaskEvents",
    "TaskSubmitter",
    "TransferError",
    "UnsupportedResource",
    "WorkerLost",
    "at_least",
    "block_script",
    "check_blocks",
    "close_match",
    "component",
    "expanded",
    "free_stem",
    "fresh",
    "function_identity",
    "hookimpl",
    "kill_commands",
    "local_channel",
    "retried",
    "shown_url",
    "single_node_launcher",
]
