"""The exceptions: one tree, texts that explain, and trips between processes unchanged."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from flowcore import errors
from flowcore.errors import DependencyError, FlowcoreError, JoinError, describe

CLASSES = [
    c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, FlowcoreError) and not c.__name__.startswith("_")
]

#: One of each class, with arguments as it is raised.
SAMPLES = [
    errors.OptionalModuleMissing(["numpy", "scipy"], "the array hasher needs them"),
    errors.BashAppNoReturn("it returned None"),
    errors.BashExitFailure("app", 3),
    errors.BashExitFailure("app", -9, "tail of stderr"),
    errors.BadStdStreamFile("stdout=3"),
    errors.MissingOutputs("the app ended", ["a.txt", "b.txt"]),
    errors.RemoteError("m.E", "text", "reason"),
    errors.DependencyError([(ValueError("x"), "task 0"), (KeyError("y"), None)], 3),
    errors.JoinError([(ValueError("x"), "task 0")], 3),
    errors.BadCheckpoint("cut off"),
    errors.InvalidTransition(3, "message"),
    errors.WorkerLost(2, "n1", "killed by signal 9 (SIGKILL)"),
    errors.WorkerLost(2, "n1"),
    errors.ManagerLost("m1", "n1"),
    errors.BadMessage("too short"),
    errors.SerializationError("argument 'x'", "no"),
    errors.SerializationError("argument 'x'"),
    errors.DeserializationError("why"),
    errors.ScaleOutFailed("slurm", "sbatch: error"),
    errors.SchedulerUnavailable("slurm", "no answer"),
    errors.SchedulerMissingArgs(["walltime"], "slurm"),
    errors.ScriptPathError("/s", "no space"),
    errors.ChannelError("broken", OSError("x"), "h"),
    errors.ChannelError("broken", None, "h"),
    errors.FileExists(None, "h", "/f"),
    errors.FileExists(OSError("x"), "h"),
    errors.DependencyCycle(3, ["task 3 (app 'a')", "task 5 (app 'b')"]),
    errors.TransferError("fetch", "https://h/a", "status 503", True, 2.0),
]


def sample(cls):
    for one in SAMPLES:
        if type(one) is cls:
            return one
    if issubclass(cls, errors.ExecutorError):
        return cls("executor", "reason")
    if issubclass(cls, errors.ChannelError):
        return cls(OSError("x"), "host")
    return cls("text")


@pytest.mark.parametrize("error", [*SAMPLES, *[sample(c) for c in CLASSES]], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("trip", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_survives_a_trip(error, trip):
    other = trip(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert str(error)
    assert vars(other).keys() == vars(error).keys()


def test_the_tree_in_the_docstring_is_the_tree():
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^( {4}[│├└─ ]*)([A-Z]\w+(?:, [A-Z]\w+)*)", line)
        if match is None or not (line.startswith("    ") and ("─" in line or line.strip() == "FlowcoreError")):
            continue
        depth = len(match[1])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        for name in match[2].split(", "):
            drawn[name] = stack[-1][1] if stack else ""
        stack.append((depth, match[2].split(", ")[0]))
    assert drawn.keys() == {c.__name__ for c in CLASSES}
    for cls in CLASSES:
        parents = {b.__name__ for b in cls.__mro__[1:]}
        assert drawn[cls.__name__] in parents or cls is FlowcoreError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SAMPLES[0], "missing numpy, scipy: the array hasher needs them"),
        (
            SAMPLES[2],
            "bash_app app failed with unix exit code 3 "
            "(its stderr was not kept: call it with stderr=flowcore.AUTO_LOGNAME)",
        ),
        (
            SAMPLES[3],
            "bash_app app failed with unix exit code -9 (killed by signal 9 (SIGKILL)); "
            "its stderr ends with:\ntail of stderr",
        ),
        (SAMPLES[5], "the app ended; missing: a.txt, b.txt"),
        (SAMPLES[6], "m.E: text (the exception object itself could not be sent back: reason)"),
        (SAMPLES[10], "message"),
        (SAMPLES[11], "worker 2 on host n1 was lost while it ran the task: killed by signal 9 (SIGKILL)"),
        (SAMPLES[13], "manager m1 on host n1 was lost with the task: heartbeats stopped"),
        (SAMPLES[15], "argument 'x' cannot be serialized: no"),
        (SAMPLES[18], "provider 'slurm' could not submit a block: sbatch: error"),
        (
            SAMPLES[19],
            "provider 'slurm' cannot submit a block now, its scheduler does not answer: no answer",
        ),
        (SAMPLES[21], "cannot write the submit script /s: no space"),
        (SAMPLES[22], "channel to h: broken (OSError: x)"),
        (SAMPLES[24], "channel to h: a file of this name already exists at the destination: /f"),
        (errors.ScalingFailed("htex", "no queue"), "executor 'htex': no queue"),
    ],
)
def test_texts(error, text):
    assert str(error) == text


def test_own_errors_are_also_pythons():
    assert issubclass(errors.JoinTypeError, TypeError)
    assert issubclass(errors.MemoizationError, ValueError)
    assert issubclass(errors.UnsupportedResource, ValueError)
    assert issubclass(errors.PluginNotFound, errors.ConfigurationError)
    assert issubclass(errors.NoKernelError, errors.ConfigurationError)


def test_describe():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe(ValueError("x")) == "ValueError: x"
    assert describe(ValueError()) == "ValueError"
    assert describe(Mute()) == "Mute: (its text cannot be had: __str__ failed)"


# --- dependency errors


def chain(length):
    error: Exception = ValueError("root")
    for n in range(length):
        error = DependencyError([(error, f"task {n}")], n + 1)
    return error


def test_text_of_a_chain_begins_with_its_root():
    assert str(chain(3)) == (
        "ValueError: root in task 0; therefore task 3 did not run (its failed dependencies: task 2)"
    )


def test_a_chain_of_100_000_has_a_text_and_goes_away():
    error = chain(100_000)
    assert str(error).startswith("ValueError: root in task 0; therefore task 100000 did not run")
    assert [tid for _, tid in error.root_causes] == ["task 0"]
    del error


def test_a_ladder_of_diamonds_is_walked_once():
    # 2 ** 200 ways lead to the root.
    error: Exception = ValueError("root")
    for n in range(200):
        error = DependencyError([(error, f"left {n}"), (error, f"right {n}")], n)
    assert [str(e) for e, _ in error.root_causes] == ["root"]
    assert str(error).count("root") == 1


def test_several_roots_are_all_named_up_to_a_few():
    error = DependencyError([(ValueError(n), f"task {n}") for n in range(20)], 20)
    text = str(error)
    assert text.startswith("ValueError: 0 in task 0; therefore task 20 did not run")
    assert "further causes: ValueError: 1 in task 1; ValueError: 2 in task 2" in text
    assert "ValueError: 5 in" not in text
    assert len(error.root_causes) == 20


def test_the_cause_is_the_first_failure():
    first = ValueError("x")
    error = DependencyError([(first, "task 0"), (KeyError("y"), "task 1")], 2)
    assert error.__cause__ is first
    assert error.dependent_exceptions_tids == [(first, "task 0"), (error.dependent_exceptions_tids[1][0], "task 1")]
    assert error.task_id == 2


def test_joins_and_dependencies_share_their_roots():
    join = JoinError([(DependencyError([(ValueError("root"), "task 0")], 1), "task 1")], 2)
    error = DependencyError([(join, "task 2")], 3)
    assert str(error).startswith("ValueError: root in task 0; therefore task 3 did not run")
    assert str(join) == (
        "ValueError: root in task 0; therefore the join_app of task 2 failed (1 of its futures failed)"
    )


def test_without_any_cause():
    assert str(DependencyError([], 1)).startswith("unknown cause; therefore task 1 did not run")
    assert DependencyError([], 1).__cause__ is None


def test_root_cause_that_has_no_text():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert str(DependencyError([(Mute(), "task 0")], 1)).startswith("Mute: (its text cannot be had")
