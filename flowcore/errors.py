"""Every exception that flowcore raises itself.

Rule of this module: an error carries what happened (with values), why, and how to mend it, in its text;
its constructor arguments are its ``args``, so that it survives a trip between processes unchanged.

::

    FlowcoreError
    ├── ConfigurationError            a component or a Config was given something that cannot work
    │   ├── NoKernelError             an app was called and no configuration is loaded
    │   ├── BadLauncher               an object that is no Launcher
    │   ├── AlreadyLoadedError        load() while another configuration is active
    │   └── UnknownExecutorError      an app names an executor label that the Config does not have
    ├── PluginError                   a plugin that cannot be used
    │   ├── PluginNotFound            no installed distribution offers this name
    │   ├── PluginConflict            two distributions offer one name
    │   ├── PluginLoadError           importing it failed, or it does not keep its contract
    │   └── HookError                 a hook implementation that does not fit its specification
    ├── OptionalModuleMissing         a library that an optional component needs is not installed
    ├── AppException                  raised while an app ran
    │   ├── AppTimeout                the app exceeded its walltime
    │   ├── AppBadFormatting          a bash app's command line could not be formatted
    │   ├── BashAppNoReturn           a bash app's function returned no command line
    │   ├── BashExitFailure           a bash app's command exited with another code than 0
    │   ├── BadStdStreamFile          stdout= or stderr= cannot be opened
    │   ├── MissingOutputs            a file promised in outputs= is not there
    │   ├── AppExited                 the app called sys.exit, or raised what is no Exception
    │   └── RemoteError               the app's own exception could not be brought back; its text was
    ├── DataFlowException
    │   ├── DependencyError           the task did not run since something it depends on failed
    │   ├── JoinError                 futures returned by a join_app failed
    │   ├── JoinTypeError             a join_app returned something that is no future
    │   ├── DependencyCycle           a join_app returned a future that waits for the join_app itself
    │   ├── BadCheckpoint             a checkpoint file that cannot be read
    │   ├── KernelClosedError         the run was cleaned up before this task could finish
    │   ├── MemoizationError          an argument has no memo hasher
    │   └── InvalidTransition         a defect of flowcore or of a plugin, with the task's last events
    ├── ExecutorError
    │   ├── ScalingFailed             no block could be had
    │   ├── BlocksFailed              every block of an executor ended without doing work
    │   ├── UnsupportedResource       a resource specification that the executor does not know
    │   └── InterchangeLost           the hub process of an executor ended
    ├── WorkerLost                    the worker process died while it ran the task
    ├── ManagerLost                   the node's manager stopped answering
    ├── BadMessage                    a message that does not follow the protocol
    ├── SerializationError            an object that cannot be sent to a worker
    ├── DeserializationError          bytes that cannot be turned back into an object
    ├── StagingError                  a file that no stager can bring
    │   └── TransferError             a file could not be brought, or taken away
    ├── ExecutionProviderException
    │   ├── ScaleOutFailed            the scheduler refused a job
    │   │   └── SchedulerUnavailable  the scheduler did not answer
    │   ├── SchedulerMissingArgs      a submit script template lacks a value
    │   └── ScriptPathError           a submit script cannot be written
    └── ChannelError
        ├── BadScriptPath, BadPermsScriptPath, FileCopyException, FileExists
        └── AuthException, BadHostKeyException, SSHException
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from flowcore.files import File, shown_url


class FlowcoreError(Exception):
    """Base class of all exceptions that flowcore raises itself."""

    #: Whether another attempt of a task that failed with this could go better.
    may_pass: ClassVar[bool] = True


# --- configuration and plugins


class ConfigurationError(FlowcoreError):
    """A component or a :class:`flowcore.Config` was given something that cannot work."""


class NoKernelError(ConfigurationError):
    """An app was called, or the kernel asked for, while no configuration is loaded."""


class AlreadyLoadedError(ConfigurationError):
    """A configuration was loaded while another one is active."""


class UnknownExecutorError(ConfigurationError):
    """An app names an executor label that the configuration does not have."""


class PluginError(FlowcoreError):
    """A plugin cannot be used."""


class PluginNotFound(PluginError, ConfigurationError):
    """No installed distribution offers a component of this kind and name."""


class PluginConflict(PluginError, ConfigurationError):
    """Two installed distributions offer a component of one kind under one name."""


class PluginLoadError(PluginError, ConfigurationError):
    """A plugin failed to import, does not support this core, or breaks its contract."""


class HookError(PluginError):
    """A hook implementation does not fit its specification."""


class OptionalModuleMissing(FlowcoreError):
    """A library that an optional component needs is not installed.

    Args:
        module_names: import names of the missing modules.
        reason: what needs them.
    """

    def __init__(self, module_names: Sequence[str], reason: str) -> None:
        super().__init__(module_names, reason)
        self.module_names = module_names
        self.reason = reason

    def __str__(self) -> str:
        return f"missing {', '.join(self.module_names)}: {self.reason}"


# --- apps


class AppException(FlowcoreError):
    """An error raised while an app ran."""


class AppTimeout(AppException):
    """The app exceeded its walltime."""


class AppBadFormatting(AppException):
    """A bash app's command line could not be formatted."""


class BashAppNoReturn(AppException):
    """A bash app's function returned something else than a command line.

    Args:
        reason: what it returned.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def signal_name(number: int) -> str:
    """Return ``signal 9 (SIGKILL)`` for 9."""
    import signal

    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return f"signal {number}"


class BashExitFailure(AppException):
    """A bash app's command exited with another code than 0.

    Args:
        app_name: name of the app.
        exitcode: Unix exit code; negative is the number of the signal that ended it.
        stderr_tail: the last lines that the command wrote to stderr; None where ``stderr=`` did not keep them.
    """

    def __init__(self, app_name: str, exitcode: int, stderr_tail: str | None = None) -> None:
        super().__init__(app_name, exitcode, stderr_tail)
        self.app_name = app_name
        self.exitcode = exitcode
        self.stderr_tail = stderr_tail

    def __str__(self) -> str:
        text = f"bash_app {self.app_name} failed with unix exit code {self.exitcode}"
        if self.exitcode < 0:
            text += f" (killed by {signal_name(-self.exitcode)})"
        if self.stderr_tail:
            text += f"; its stderr ends with:\n{self.stderr_tail}"
        elif self.stderr_tail is None:
            text += " (its stderr was not kept: call it with stderr=flowcore.AUTO_LOGNAME)"
        return text


class AppExited(AppException):
    """The app raised what is no ``Exception``: it called ``sys.exit``, or raised KeyboardInterrupt.

    Such a thing would end the program that asks for the result, or look like the user's Ctrl-C. It is this error's
    ``__cause__``.
    """


class BadStdStreamFile(AppException):
    """The file named by ``stdout=`` or ``stderr=`` cannot be opened.

    Args:
        reason: which, and why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MissingOutputs(AppException):
    """The app ended without making all files of its ``outputs``.

    Args:
        reason: which app.
        outputs: the :class:`flowcore.File` objects that are missing.
    """

    def __init__(self, reason: str, outputs: Sequence[Any]) -> None:
        super().__init__(reason, outputs)
        self.reason = reason
        self.outputs = list(outputs)

    def __str__(self) -> str:
        return f"{self.reason}; missing: {', '.join(map(_named, self.outputs))}"


def _named(output: Any) -> str:
    """Return a file by the name that the user gave it, with its path where that is another."""
    if isinstance(output, File) and output.local_path is not None:
        return f"{shown_url(output.url)} (at {output})"
    return str(output)


class RemoteError(AppException):
    """The exception raised by the app could not be brought back from the worker; this is its text.

    Args:
        type_name: qualified name of the original exception's class.
        text: ``str()`` of the original exception.
        reason: why the object itself could not travel.
    """

    def __init__(self, type_name: str, text: str, reason: str) -> None:
        super().__init__(type_name, text, reason)
        self.type_name = type_name
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text} (the exception object itself could not be sent back: {self.reason})"


# --- data flow


class DataFlowException(FlowcoreError):
    """Base class of errors in the handling of tasks."""


def describe(error: BaseException) -> str:
    """Return an exception's class and text, also where its own ``__str__`` raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's class; a broken one must not hide the failure, or lose the task
        text = "(its text cannot be had: __str__ failed)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, where its class lets it have one: a frozen dataclass does not."""
    with contextlib.suppress(Exception):  # a user's class; the failure counts, not what is said about it
        error.add_note(note)


def note_for(task_id: int, error: BaseException, note: str) -> BaseException:
    """Add what is to be said of one task to its exception; return that, or a copy where another task has it, too."""
    first = getattr(error, _NOTED, None)
    if first is None:
        with contextlib.suppress(Exception):  # as below
            setattr(error, _NOTED, (task_id, len(getattr(error, "__notes__", ()))))
    elif first[0] != task_id:
        error = _own_copy(error, first[1])
    add_note(error, note)
    return error


def _own_copy(error: BaseException, notes: int) -> BaseException:
    try:
        twin = copy.copy(error)
        if type(twin) is not type(error):
            return error
        delattr(twin, _NOTED)
        twin.__notes__ = list(getattr(error, "__notes__", ()))[:notes]
    except Exception:  # noqa: BLE001 - a user's class; the failure counts, not what is said about it
        return error
    twin.__traceback__, twin.__cause__ = error.__traceback__, error.__cause__
    twin.__context__, twin.__suppress_context__ = error.__context__, error.__suppress_context__
    return twin


#: Where an exception keeps the task that it was of first, and how many notes it had before flowcore's.
_NOTED = "_flowcore_noted"

#: How many root causes, and how many failed dependencies, the text of an error names.
_SHOWN = 5


class _ManyCauses(DataFlowException):
    """Errors that come from other futures: pairs of (exception, identifier of the future).

    The ``__cause__`` is the first root cause itself, so that a traceback of a long chain of dependencies has two
    parts. A copy, pickled or not, has the chains cut: each error in between has its first root causes, as many as its
    text tells of, directly below it.
    """

    def __init__(self, dependent_exceptions_tids: Sequence[tuple[BaseException, str | None]], task_id: int) -> None:
        pairs = list(dependent_exceptions_tids)
        super().__init__(pairs, task_id)
        self.dependent_exceptions_tids = pairs
        self.task_id = task_id
        # One more than is shown. Found when the error is made, from what its parts found: looking for them later
        # would be a walk as long as the workflow, for each error whose text is asked for.
        self._first_roots = _first_roots(pairs)
        self.__cause__ = self._first_roots[0][0] if self._first_roots else None

    @property
    def root_causes(self) -> list[tuple[BaseException, str | None]]:
        """The errors at the far ends of the chains of dependencies, each with the future it came from."""
        if len(self._first_roots) <= _SHOWN:
            return list(self._first_roots)
        # Iterative: a chain may be as long as a workflow. A diamond is visited once.
        found: list[tuple[BaseException, str | None]] = []
        seen: set[int] = set()
        stack = list(reversed(self.dependent_exceptions_tids))
        while stack:
            error, tid = stack.pop()
            if id(error) in seen:
                continue
            seen.add(id(error))
            if isinstance(error, _ManyCauses):
                stack.extend(reversed(error.dependent_exceptions_tids))
            else:
                found.append((error, tid))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # As deep as the workflow otherwise, and pickle and copy recurse.
        pairs = [(e._cut() if isinstance(e, _ManyCauses) else e, tid) for e, tid in self.dependent_exceptions_tids]
        made = ("dependent_exceptions_tids", "task_id", "_first_roots")
        return type(self), (pairs, self.task_id), {k: v for k, v in self.__dict__.items() if k not in made}

    def _cut(self) -> _ManyCauses:
        if not any(isinstance(error, _ManyCauses) for error, _ in self.dependent_exceptions_tids):
            return self
        return type(self)(self._first_roots, self.task_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def _root_text(self) -> str:
        if not self._first_roots:
            return "unknown cause"
        error, tid = self._first_roots[0]
        return f"{describe(error)} in {tid}"

    def _further_text(self) -> str:
        further = [f"{describe(e)} in {t}" for e, t in self._first_roots[1:_SHOWN]]
        if len(self._first_roots) > _SHOWN:
            further.append("and more")
        return "; further causes: " + "; ".join(further) if further else ""


def _first_roots(pairs: Sequence[tuple[BaseException, str | None]]) -> list[tuple[BaseException, str | None]]:
    if len(pairs) == 1 and isinstance(pairs[0][0], _ManyCauses):
        return pairs[0][0]._first_roots  # the same list all along a chain
    found: dict[int, tuple[BaseException, str | None]] = {}
    for error, tid in pairs:
        for root in error._first_roots if isinstance(error, _ManyCauses) else [(error, tid)]:
            found.setdefault(id(root[0]), root)
            if len(found) > _SHOWN:
                return list(found.values())
    return list(found.values())


class DependencyError(_ManyCauses):
    """The task did not run: something that it depends on failed.

    Args:
        dependent_exceptions_tids: pairs of (exception, identifier) of the failed dependencies; the
            identifier is a task's description, or the ``repr`` of a future of another system.
        task_id: the task that did not run.
    """

    def __str__(self) -> str:
        failed = ", ".join(str(tid) for _, tid in self.dependent_exceptions_tids[:_SHOWN])
        if len(self.dependent_exceptions_tids) > _SHOWN:
            failed += f" and {len(self.dependent_exceptions_tids) - _SHOWN} more"
        return (
            f"{self._root_text()}; therefore task {self.task_id} did not run "
            f"(its failed dependencies: {failed}){self._further_text()}"
        )


class JoinError(_ManyCauses):
    """Futures that a join_app returned failed.

    Args:
        dependent_exceptions_tids: pairs of (exception, identifier) of the failed futures.
        task_id: the task of the join_app.
    """

    def __str__(self) -> str:
        count = len(self.dependent_exceptions_tids)
        return (
            f"{self._root_text()}; therefore the join_app of task {self.task_id} failed ({count} of its futures failed)"
        )


class JoinTypeError(DataFlowException, TypeError):
    """A join_app returned something that is neither a future nor a list of futures."""


class DependencyCycle(DataFlowException):
    """A join_app returned a future that waits, perhaps through others, for the join_app itself.

    Args:
        task_id: the task of the join_app.
        cycle: descriptions of the tasks of the cycle, each of which waits for the next, and the last for the first.
    """

    def __init__(self, task_id: int, cycle: Sequence[str]) -> None:
        super().__init__(task_id, cycle)
        self.task_id = task_id
        self.cycle = list(cycle)

    def __str__(self) -> str:
        shown = self.cycle if len(self.cycle) <= 6 else [*self.cycle[:3], "...", *self.cycle[-2:]]
        path = "a future of " + ", which waits for ".join([*shown[1:], self.cycle[0]])
        returned = path if len(shown) > 1 else "its own future"
        return (
            f"{self.cycle[0]} would wait for itself for ever: its join_app returned {returned}. "
            "Return a future that does not depend on the join_app's own result"
        )


class BadCheckpoint(DataFlowException):
    """A checkpoint cannot be read.

    Args:
        reason: which file, and what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KernelClosedError(DataFlowException):
    """The run was cleaned up before this task could finish."""


class MemoizationError(DataFlowException, ValueError):
    """An argument of a cached app has a type for which no memo hasher is registered."""

    may_pass = False


class InvalidTransition(DataFlowException):
    """A task was asked to make a step that its state does not allow: a defect in flowcore or a plugin.

    Args:
        task_id: the task.
        message: the step, and the last events of the task.
    """

    def __init__(self, task_id: int, message: str) -> None:
        super().__init__(task_id, message)
        self.task_id = task_id
        self.message = message

    def __str__(self) -> str:
        return self.message


# --- executors


class ExecutorError(FlowcoreError):
    """An error of an executor.

    Args:
        executor: the executor's label.
        reason: what happened, why, and what to do.
    """

    def __init__(self, executor: str, reason: str) -> None:
        super().__init__(executor, reason)
        self.executor = executor
        self.reason = reason

    def __str__(self) -> str:
        return f"executor {self.executor!r}: {self.reason}"


class ScalingFailed(ExecutorError):
    """An executor could not get a block."""


class BlocksFailed(ExecutorError):
    """Blocks of an executor ended again and again without doing work."""


class UnsupportedResource(ExecutorError, ValueError):
    """A resource specification that the executor does not know, or cannot ever satisfy."""

    may_pass = False


class InterchangeLost(ExecutorError):
    """The hub process of an executor ended unexpectedly."""


class WorkerLost(FlowcoreError):
    """The worker process died while it ran the task.

    Args:
        worker_id: rank of the worker on its node.
        hostname: its node.
        cause: how it ended, for example ``killed by signal 9 (SIGKILL)``.
    """

    def __init__(self, worker_id: int, hostname: str, cause: str = "died") -> None:
        super().__init__(worker_id, hostname, cause)
        self.worker_id = worker_id
        self.hostname = hostname
        self.cause = cause

    def __str__(self) -> str:
        return f"worker {self.worker_id} on host {self.hostname} was lost while it ran the task: {self.cause}"


class ManagerLost(FlowcoreError):
    """The manager of a node stopped answering while its workers held the task.

    Args:
        manager_id: identity of the manager.
        hostname: its node.
        reason: how the loss was noticed.
    """

    def __init__(self, manager_id: str, hostname: str, reason: str = "heartbeats stopped") -> None:
        super().__init__(manager_id, hostname, reason)
        self.manager_id = manager_id
        self.hostname = hostname
        self.reason = reason

    def __str__(self) -> str:
        return f"manager {self.manager_id} on host {self.hostname} was lost with the task: {self.reason}"


class BadMessage(FlowcoreError):
    """A message does not follow the protocol.

    Args:
        reason: what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- serialization, staging


class SerializationError(FlowcoreError):
    """An object cannot be sent to a worker.

    Args:
        what: the object, by the name that the user gave it (``argument 'x' of app 'f'``).
        reason: why, and what to do.
    """

    may_pass = False

    def __init__(self, what: str, reason: str = "") -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} cannot be serialized: {self.reason}" if self.reason else self.what


class DeserializationError(FlowcoreError):
    """Bytes from another process cannot be turned back into an object.

    Args:
        reason: which object, why, and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StagingError(FlowcoreError):
    """A file cannot be moved to or from where a task runs."""


class TransferError(StagingError):
    """A file could not be brought to where a task runs, or taken from there.

    Args:
        action: what failed, ``fetch`` or ``push``.
        url: URL of the file. Shown without its secrets.
        reason: why, and what to do.
        passing: whether the same might go well if it is tried again soon.
        retry_after_s: seconds after which the other side wants to be asked again; None where it did not say.
    """

    def __init__(
        self, action: str, url: str, reason: str, passing: bool = True, retry_after_s: float | None = None
    ) -> None:
        # Shown once here, so that neither the arguments nor what is sent of them hold a password.
        url = shown_url(url)
        super().__init__(action, url, reason, passing, retry_after_s)
        self.action = action
        self.url = url
        self.reason = reason
        self.passing = passing
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"cannot {self.action} {self.url}: {self.reason}"


# --- providers, launchers, channels


class ExecutionProviderException(FlowcoreError):
    """Base class of errors of providers."""


class ScaleOutFailed(ExecutionProviderException):
    """The provider could not submit a job.

    Args:
        provider: label of the provider.
        reason: the scheduler's message.
    """

    def __init__(self, provider: str, reason: str) -> None:
        super().__init__(provider, reason)
        self.provider = provider
        self.reason = reason

    def __str__(self) -> str:
        return f"provider {self.provider!r} could not submit a block: {self.reason}"


class SchedulerUnavailable(ScaleOutFailed):
    """The scheduler did not answer: it refused nothing, and asking again later may help."""

    def __str__(self) -> str:
        return f"provider {self.provider!r} cannot submit a block now, its scheduler does not answer: {self.reason}"


class SchedulerMissingArgs(ExecutionProviderException):
    """A submit script template lacks a value.

    Args:
        missing_keywords: names of the missing values.
        sitename: label of the provider.
    """

    def __init__(self, missing_keywords: Sequence[str] | str, sitename: str) -> None:
        super().__init__(missing_keywords, sitename)
        self.missing_keywords = missing_keywords
        self.sitename = sitename

    def __str__(self) -> str:
        return f"the submit script of provider {self.sitename!r} lacks {self.missing_keywords}"


class ScriptPathError(ExecutionProviderException):
    """A submit script cannot be written.

    Args:
        script_path: where.
        reason: why.
    """

    def __init__(self, script_path: str, reason: str) -> None:
        super().__init__(script_path, reason)
        self.script_path = script_path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot write the submit script {self.script_path}: {self.reason}"


class BadLauncher(ConfigurationError):
    """An object was given as a launcher that is none."""


class ChannelError(FlowcoreError):
    """Base class of errors of channels.

    Args:
        reason: what happened.
        e: the underlying exception.
        hostname: the host that the channel leads to.
    """

    def __init__(self, reason: str, e: BaseException | None, hostname: str) -> None:
        super().__init__(reason, e, hostname)
        self.reason = reason
        self.e = e
        self.hostname = hostname

    def __str__(self) -> str:
        return f"channel to {self.hostname}: {self.reason}" + (f" ({describe(self.e)})" if self.e else "")


class _NamedChannelError(ChannelError):
    """A channel error whose reason is its class; its arguments are (exception, hostname)."""

    _reason = ""

    def __init__(self, e: BaseException | None, hostname: str) -> None:
        super().__init__(self._reason, e, hostname)
        self.args = (e, hostname)


class BadHostKeyException(_NamedChannelError):
    """The host key of the server could not be verified."""

    _reason = "the server's host key could not be verified"


class BadScriptPath(_NamedChannelError):
    """The script directory cannot be used."""

    _reason = "the script directory cannot be used"


class BadPermsScriptPath(_NamedChannelError):
    """The user may not access the script directory."""

    _reason = "no permission to access the script directory"


class FileExists(_NamedChannelError):
    """A file of this name already exists at the destination.

    Args:
        filename: its path.
    """

    _reason = "a file of this name already exists at the destination"

    def __init__(self, e: BaseException | None, hostname: str, filename: str | None = None) -> None:
        super().__init__(e, hostname)
        self.args = (e, hostname, filename)
        self.filename = filename
        if filename:
            self.reason = f"{self._reason}: {filename}"


class AuthException(_NamedChannelError):
    """The server did not accept the user's credentials."""

    _reason = "authentication failed"


class SSHException(_NamedChannelError):
    """An ssh session could not be established, or broke."""

    _reason = "the ssh session failed"


class FileCopyException(_NamedChannelError):
    """A file could not be copied over the channel."""

    _reason = "copying a file failed"
