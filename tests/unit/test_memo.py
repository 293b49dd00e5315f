"""App caching: which calls are equal, and what is remembered."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass

import attrs
import pytest

import flowcore
from flowcore import File, ThreadPoolExecutor, bash_app, join_app, python_app
from flowcore.builtin.memo_hashers import StandardMemoHasher
from flowcore.errors import MemoizationError
from flowcore.kernel.memo import Memoizer
from flowcore.kernel.task import AppInfo, Task, TaskSpec
from flowcore.memoization import Hashing
from flowcore.plugins.api import hookimpl
from flowcore.testing import eventually

WAIT_S = 60
CALLS: list = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture
def run(load):
    return load()


@python_app(cache=True)
def f(x, y=2, *rest, z=3, **more):
    CALLS.append((x, y, rest, z, more))
    return len(CALLS)


def key_of(function, *args, kind="python", ignore=(), hashing=None, **kwargs):
    """Return the memo key of one call."""
    info = AppInfo(function.__name__, kind, function, function, None, True, tuple(ignore))
    task = Task(0, TaskSpec(info, function, args, kwargs), None, function, args, kwargs, True)
    return Memoizer(hashing or Hashing([StandardMemoHasher()])).key(task)


def plain(x, y=2, *rest, z=3, **more):
    return x


# --- equal calls


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((), {"x": 1}), ((1, 2), {}), ((1,), {"y": 2}), ((), {"y": 2, "x": 1}), ((1,), {"z": 3})],
)
def test_forms_of_one_call(args, kwargs):
    assert key_of(plain, *args, **kwargs) == key_of(plain, 1)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((2,), {}), ((1, 3), {}), ((1, 2, 3), {}), ((1,), {"z": 4}), ((1,), {"other": 1}), ((1.0,), {}), (("1",), {})],
)
def test_other_calls(args, kwargs):
    assert key_of(plain, *args, **kwargs) != key_of(plain, 1)


def test_a_second_call_is_a_hit(run):
    assert f(1).result(timeout=WAIT_S) == 1
    again = f(x=1, y=2)
    assert again.result(timeout=WAIT_S) == 1
    assert again.task_status() == "memo_done"
    assert f(2).result(timeout=WAIT_S) == 2
    assert len(CALLS) == 2
    assert run.memo_hits == 1
    assert run.task_counts() == {"exec_done": 2, "memo_done": 1}


def test_values_of_futures_count_and_not_the_futures(run):
    @python_app
    def make(x):
        return x

    assert f(make(5)).result(timeout=WAIT_S) == f(5).result(timeout=WAIT_S)
    assert f([make(1), 2]).result(timeout=WAIT_S) == f([1, make(2)]).result(timeout=WAIT_S)
    assert len(CALLS) == 2


def test_none_is_a_result_like_any_other(run):
    @python_app(cache=True)
    def nothing():
        CALLS.append(1)

    assert nothing().result(timeout=WAIT_S) is None
    assert nothing().result(timeout=WAIT_S) is None
    assert CALLS == [1]


def test_without_cache_nothing_is_remembered(run):
    app = python_app(f.__wrapped__)
    assert [app(1).result(timeout=WAIT_S), app(1).result(timeout=WAIT_S)] == [1, 2]


def test_app_cache_can_be_switched_off(load):
    dfk = load(app_cache=False)
    assert [f(1).result(timeout=WAIT_S), f(1).result(timeout=WAIT_S)] == [1, 2]
    assert dfk.memo_hits == 0
    # Nor is anything hashed.
    assert f(object()).result(timeout=WAIT_S) == 3


def test_failures_are_not_remembered(run):
    @python_app(cache=True)
    def flaky(x):
        CALLS.append(x)
        if len(CALLS) < 3:
            raise ValueError(len(CALLS))
        return "good"

    assert isinstance(flaky(1).exception(timeout=WAIT_S), ValueError)
    assert isinstance(flaky(1).exception(timeout=WAIT_S), ValueError)
    assert flaky(1).result(timeout=WAIT_S) == "good"
    assert flaky(1).result(timeout=WAIT_S) == "good"
    assert len(CALLS) == 3


def test_a_hit_on_a_retry_runs_nothing_and_failures_cost_as_ever(load):
    load(retries=2)

    @python_app(cache=True)
    def flaky(x):
        CALLS.append(x)
        if len(CALLS) < 3:
            raise ValueError
        return "good"

    assert flaky(1).result(timeout=WAIT_S) == "good"
    assert flaky(1).result(timeout=WAIT_S) == "good"
    assert len(CALLS) == 3


def test_bash_apps(run, tmp_path):
    @bash_app(cache=True, ignore_for_cache=["stdout"])
    def count(path, stdout=None):
        return f"echo x >> {path}"

    path = str(tmp_path / "count")
    for name in ("a", "b"):
        assert count(path, stdout=str(tmp_path / name)).result(timeout=WAIT_S) == 0
    assert pathlib.Path(path).read_text() == "x\n"


def test_a_hit_makes_the_data_futures_done(run, tmp_path):
    @python_app(cache=True)
    def make(outputs=()):
        CALLS.append(1)
        pathlib.Path(outputs[0]).write_text("made")

    file = File(str(tmp_path / "a"))
    make(outputs=[file]).result(timeout=WAIT_S)
    again = make(outputs=[file])
    assert again.outputs[0].result(timeout=WAIT_S) is file
    assert CALLS == [1]
    make(outputs=[File(str(tmp_path / "b"))]).result(timeout=WAIT_S)
    assert CALLS == [1, 1]


# --- ignored arguments


def test_ignored_arguments(run):
    app = python_app(f.__wrapped__, cache=True, ignore_for_cache=["y", "note"])
    assert app(1, 2).result(timeout=WAIT_S) == 1
    assert app(1, 5).result(timeout=WAIT_S) == 1
    assert app(1, y=6, note=object()).result(timeout=WAIT_S) == 1
    assert app(2).result(timeout=WAIT_S) == 2


def test_an_ignored_argument_needs_no_hasher():
    assert key_of(plain, 1, object(), ignore=["y"]) == key_of(plain, 1, object(), ignore=["y"])


# --- the function


def write_app(folder, body, name="user_code"):
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(body))
    namespace = {"__name__": name}
    import linecache

    linecache.checkcache(str(path))
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "edited",
    [
        "def g(x):\n    'doc'\n    return x + 2\n",  # the body
        "def g(x):\n    'other doc'\n    return x + 1\n",  # the docstring
        "def g(x, y=0):\n    'doc'\n    return x + 1\n",  # the signature
    ],
)
def test_an_edit_of_the_function_invalidates(tmp_path, edited):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    original = "def g(x):\n    'doc'\n    return x + 1\n"
    before = key_of(write_app(tmp_path / "a", original)["g"], 1)
    assert key_of(write_app(tmp_path / "b", original)["g"], 1) == before
    (tmp_path / "c").mkdir()
    assert key_of(write_app(tmp_path / "c", edited)["g"], 1) != before


def test_kind_name_and_module_count():
    def g(x):
        return x

    assert key_of(g, 1) != key_of(g, 1, kind="bash")
    assert key_of(g, 1) != key_of(plain, 1)


def test_functions_without_source():
    def make(text):
        namespace = {"__name__": "nowhere"}
        exec(text, namespace)
        return namespace["g"]

    assert key_of(make("def g(x): return x + 1"), 1) == key_of(make("def g(x): return x + 1"), 1)
    assert key_of(make("def g(x): return x + 1"), 1) != key_of(make("def g(x): return x + 2"), 1)
    assert key_of(make("def g(x): return x.a"), 1) != key_of(make("def g(x): return x.b"), 1)
    inner = "def g(x):\n def h(): return {}\n return h()"
    assert key_of(make(inner.format(1)), 1) == key_of(make(inner.format(1)), 1)
    assert key_of(make(inner.format(1)), 1) != key_of(make(inner.format(2)), 1)


def test_builtins_can_be_cached(run):
    app = python_app(max, cache=True)
    assert app([1, 3]).result(timeout=WAIT_S) == 3
    assert app([1, 3]).result(timeout=WAIT_S) == 3
    assert run.memo_hits == 1


def test_functions_made_with_different_values_are_different(run):
    def make(n):
        @python_app(cache=True)
        def plus(x):
            return x + n

        return plus

    assert make(1)(1).result(timeout=WAIT_S) == 2
    assert make(2)(1).result(timeout=WAIT_S) == 3
    assert make(1)(1).result(timeout=WAIT_S) == 2
    assert run.memo_hits == 1


def test_what_a_function_does_to_a_value_it_closes_over_changes_nothing(run):
    calls: list = []

    @python_app(cache=True)
    def counted(x):
        calls.append(x)

    counted(1).result(timeout=WAIT_S)
    counted(1).result(timeout=WAIT_S)
    assert calls == [1]


def test_a_function_may_close_over_what_has_no_hasher(run):
    import threading

    lock = threading.Lock()

    @python_app(cache=True)
    def guarded(x):
        with lock:
            return x

    assert guarded(1).result(timeout=WAIT_S) == 1
    assert guarded(1).result(timeout=WAIT_S) == 1
    assert run.memo_hits == 1


def test_partials_with_different_values_are_different(run):
    def base(x, n):
        return x + n

    one, two = (python_app(functools.update_wrapper(functools.partial(base, n=n), base), cache=True) for n in (1, 2))
    assert one(1).result(timeout=WAIT_S) == 2
    assert two(1).result(timeout=WAIT_S) == 3


def test_lambdas_of_one_line_are_different(run):
    one, two = python_app(lambda x: x + 1, cache=True), python_app(lambda x: x + 2, cache=True)
    assert one(1).result(timeout=WAIT_S) == 2
    assert two(1).result(timeout=WAIT_S) == 3


# --- types


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class OtherPoint:
    x: int
    y: int = 0


@attrs.define
class Box:
    content: object


def other_function(x):
    return x


DIFFERENT = [
    1, 1.0, True, None, "1", b"1", bytearray(b"1"), 1j, 0, "", b"", "None", -1,
    [], (), {}, set(), frozenset(), [1], (1,), {1}, frozenset({1}), {1: 1}, [1, 2], [2, 1], [[1], 2], [[1, 2]],
    {"a": 1}, {"a": 2}, {"b": 1}, {"a": {"b": 1}}, [None], ["1"], range(3), range(4), "a\udc80",
    decimal.Decimal("1"), datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.timedelta(1),
    pathlib.PurePosixPath("1"), Colour.RED, Colour.BLUE, Level.LOW, Point(1), Point(2), OtherPoint(1),
    Box(1), Box([1]), Box(Point(1)), File("a.txt"), File("https://h/a.txt"), int, str, Point, plain, other_function,
    len, "text".upper, functools.partial(plain, 1), functools.partial(plain, 2), float("nan"), float("inf"),
]  # fmt: skip


def test_different_values_have_different_keys():
    keys = [key_of(plain, value) for value in DIFFERENT]
    same = [(DIFFERENT[i], DIFFERENT[j]) for i in range(len(keys)) for j in range(i) if keys[i] == keys[j]]
    assert same == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (Point(1, 0), Point(1)),
        (File("a.txt"), File("a.txt")),
        (Box({"x": [1]}), Box({"x": [1]})),
        (float("nan"), float("nan")),
        ([1] * 3, [1, 1, 1]),
    ],
)
def test_equal_values_have_equal_keys(one, other):
    assert key_of(plain, one) == key_of(plain, other)


def test_a_file_counts_by_its_url_and_not_by_its_staged_path():
    staged = File("https://h/a.txt")
    staged.local_path = "/tmp/x"
    assert key_of(plain, staged) == key_of(plain, File("https://h/a.txt"))


def test_numpy_arrays(load):
    numpy = pytest.importorskip("numpy")
    load()
    assert f(numpy.arange(3)).result(timeout=WAIT_S) == 1
    assert f(numpy.arange(3)).result(timeout=WAIT_S) == 1
    assert f(numpy.arange(3.0)).result(timeout=WAIT_S) == 2
    assert f(numpy.arange(3).reshape(3, 1)).result(timeout=WAIT_S) == 3


class Unknown:
    def __repr__(self):
        return "<an unknown thing>"


def test_unknown_type(run):
    error = f(1, Unknown()).exception(timeout=WAIT_S)
    assert isinstance(error, MemoizationError)
    assert isinstance(error, ValueError)
    text = str(error)
    assert text.startswith("argument 'y' of app 'f': unknown type for memoization: ")
    assert f"{__name__}.Unknown (value <an unknown thing>)" in text
    assert "Register a function for it with @flowcore.memoization.id_for_memo.register" in text
    assert "group flowcore.memo_hashers" in text
    assert "or name the argument in ignore_for_cache" in text
    assert CALLS == []


def test_unknown_type_deep_inside(run):
    with pytest.raises(MemoizationError, match=r"argument 'more?'|argument 'extra'"):
        f(1, extra=[{"a": Unknown()}]).result(timeout=WAIT_S)


class ByName:
    @hookimpl
    def flowcore_memo_hash(self, obj, output_ref):
        return obj.name.encode() if isinstance(obj, Named) else None


class Named:
    def __init__(self, name):
        self.name = name


def test_a_hook_makes_a_type_known(load):
    load(hooks=[ByName()])
    assert f(Named("a")).result(timeout=WAIT_S) == 1
    assert f(Named("a")).result(timeout=WAIT_S) == 1
    assert f(Named("b")).result(timeout=WAIT_S) == 2
    assert f({"deep": [Named("b")]}).result(timeout=WAIT_S) == 3


def test_what_hooks_return_does_not_run_together(load):
    load(hooks=[ByName()])
    assert f([Named("a"), Named("bc")]).result(timeout=WAIT_S) == 1
    assert f([Named("ab"), Named("c")]).result(timeout=WAIT_S) == 2


def test_hooks_are_told_of_references_to_outputs(load, tmp_path):
    seen = []

    class Spy:
        @hookimpl
        def flowcore_memo_hash(self, obj, output_ref):
            if isinstance(obj, File):
                seen.append((obj.filename, output_ref))

    @python_app(cache=True)
    def g(file, outputs=()):
        pathlib.Path(outputs[0]).touch()

    load(hooks=[Spy()])
    g(File(str(tmp_path / "in")), outputs=[File(str(tmp_path / "out"))]).result(timeout=WAIT_S)
    assert sorted(seen) == [("in", False), ("out", True)]


# --- stable keys

KEYS = """
import enum, pathlib, datetime, functools, json
from dataclasses import dataclass
from flowcore import File
from flowcore.builtin.memo_hashers import StandardMemoHasher
from flowcore.kernel.memo import Memoizer
from flowcore.kernel.task import AppInfo, Task, TaskSpec
from flowcore.memoization import Hashing

class Colour(enum.Enum):
    RED = "red"

@dataclass
class Point:
    x: int

def with_source(x, y={"default"}):
    return x in {"a", "b", "c", "d"}

namespace = {"__name__": "made"}
exec("def without_source(x):\\n    f = lambda: x\\n    return x in {'a', 'b', 'c', 'd', ('e', 'f')}, f", namespace)

def make(value):
    def closed(x):
        return value
    return closed

def key(function, *args, **kwargs):
    info = AppInfo("app", "python", function, function, None, True, ())
    task = Task(0, TaskSpec(info, function, args, kwargs), None, function, args, kwargs, True)
    return Memoizer(Hashing([StandardMemoHasher()])).key(task)

words = {"alpha", "beta", "gamma", "delta"}
values = [1, "text", words, frozenset(words), {w: w for w in words}, [words], Colour.RED, Point(1), File("a"),
          pathlib.Path("a"), datetime.date(2024, 1, 1), with_source, make(words), len,
          functools.partial(with_source, y=words), Point, {Point: 1}, {("a", 1): words}]
functions = [with_source, namespace["without_source"], make({"a", "b", "c"}), lambda x: x in {"a", "b", "c"}]
print(json.dumps([key(f, v) for f in functions for v in values]))
"""


def test_keys_are_the_same_in_every_process(tmp_path):
    script = tmp_path / "keys.py"
    script.write_text(KEYS)
    outputs = set()
    for seed in ("0", "1", "42"):
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_a_call_whose_output_is_gone_is_made_again(tmp_path):
    @python_app(cache=True)
    def write(outputs=()):
        with open(outputs[0], "w") as file:
            file.write("x")

    path = tmp_path / "out"
    with flowcore.load({"run_dir": str(tmp_path / "runs")}) as dfk:
        write(outputs=[File(str(path))]).result(timeout=30)
        write(outputs=[File(str(path))]).result(timeout=30)
        assert dfk.memo_hits == 1
        path.unlink()
        write(outputs=[File(str(path))]).result(timeout=30)
        assert dfk.memo_hits == 1
        assert path.read_text() == "x"


# --- equal calls at the same time


class Gate:
    """Holds tasks until it is opened, and counts those that came."""

    def __init__(self):
        self.opened = threading.Event()
        self.came = 0

    def __call__(self):
        self.came += 1
        assert self.opened.wait(WAIT_S)


def gated(gate, error=None):
    @python_app(cache=True)
    def app(x):
        gate()
        if error is not None and gate.came == 1:
            raise error
        return x, gate.came

    return app


def test_equal_calls_at_the_same_time_run_once(load):
    dfk = load()
    gate = Gate()
    app = gated(gate)
    futures = [app(1) for _ in range(20)]
    eventually(lambda: gate.came == 1)
    assert [f.task_status() for f in futures[1:]] == ["pending"] * 19
    gate.opened.set()
    assert [f.result(timeout=WAIT_S) for f in futures] == [(1, 1)] * 20
    assert [f.task_status() for f in futures] == ["exec_done"] + ["memo_done"] * 19
    assert dfk.memo_hits == 19


def test_the_others_run_by_themselves_when_the_first_fails(load):
    load()
    gate = Gate()
    app = gated(gate, ValueError("first"))
    futures = [app(1) for _ in range(5)]
    gate.opened.set()
    assert isinstance(futures[0].exception(timeout=WAIT_S), ValueError)
    assert [f.result(timeout=WAIT_S)[0] for f in futures[1:]] == [1] * 4
    assert gate.came >= 2


def test_a_first_call_that_is_retried_is_still_waited_for(load):
    load(retries=1)
    gate = Gate()
    app = gated(gate, ValueError("first"))
    futures = [app(1) for _ in range(5)]
    gate.opened.set()
    assert [f.result(timeout=WAIT_S) for f in futures] == [(1, 2)] * 5


def test_a_first_call_that_is_cancelled_passes_its_work_on(load):
    load(executors=[ThreadPoolExecutor(max_threads=1)])
    busy, gate = Gate(), Gate()
    other = gated(busy)(0)
    eventually(lambda: busy.came == 1)
    app = gated(gate)
    futures = [app(1) for _ in range(3)]
    assert futures[0].cancel()
    gate.opened.set()
    busy.opened.set()
    assert [f.result(timeout=WAIT_S) for f in futures[1:]] == [(1, 1)] * 2
    assert other.result(timeout=WAIT_S) == (0, 1)


def test_a_waiting_call_can_be_cancelled(load):
    load()
    gate = Gate()
    app = gated(gate)
    first, second = app(1), app(1)
    assert second.cancel()
    gate.opened.set()
    assert first.result(timeout=WAIT_S) == (1, 1)
    assert second.cancelled()


def test_a_cached_join_app_may_call_itself(load):
    load()

    @python_app(cache=True)
    def zero():
        return 0

    @join_app(cache=True)
    def twice(n):
        return zero() if n == 0 else twice(n - 1)

    futures = [twice(3) for _ in range(4)]
    assert [f.result(timeout=WAIT_S) for f in futures] == [0] * 4
