"""The decorators: what may be an app, and how a call becomes a task."""

from __future__ import annotations

import functools
import operator
import pickle
import sys
import threading
from concurrent.futures import Future

import pytest

import flowcore
from flowcore import Config, DataFuture, File, bash_app, join_app, python_app
from flowcore.errors import AppTimeout, ConfigurationError, MissingOutputs

WAIT_S = 60


@pytest.fixture(autouse=True)
def run(tmp_path):
    with flowcore.load(Config(run_dir=tmp_path / "runinfo", initialize_logging=False)) as dfk:
        yield dfk


@python_app
def with_default(x, y=2, *, z=3):
    """Adds."""
    return x, y, z


def plain(x):
    return x + 1


# --- three kinds, with and without parentheses


def test_python_app():
    assert with_default(1, z=5).result(timeout=WAIT_S) == (1, 2, 5)


@pytest.mark.parametrize("decorator", [python_app, python_app(), python_app(cache=True), python_app(executors="all")])
def test_python_app_with_and_without_parentheses(decorator):
    assert decorator(plain)(1).result(timeout=WAIT_S) == 2


@pytest.mark.parametrize("decorator", [bash_app, bash_app(), bash_app(cache=True)])
def test_bash_app_with_and_without_parentheses(decorator):
    @decorator
    def ok():
        return "exit 0"

    assert ok().result(timeout=WAIT_S) == 0


@pytest.mark.parametrize("decorator", [join_app, join_app(), join_app(cache=True)])
def test_join_app_with_and_without_parentheses(decorator):
    @decorator
    def ok():
        return with_default(1)

    assert ok().result(timeout=WAIT_S) == (1, 2, 3)


def test_an_app_looks_like_its_function():
    assert with_default.__name__ == "with_default"
    assert with_default.__doc__ == "Adds."
    assert with_default.__module__ == __name__
    assert with_default.__wrapped__(1) == (1, 2, 3)
    assert repr(with_default) == "<python_app with_default>"
    assert repr(bash_app(plain)) == "<bash_app plain>"


def test_library_functions_become_apps():
    assert python_app(operator.add)(1, 2).result(timeout=WAIT_S) == 3
    assert python_app(max)([1, 3, 2]).result(timeout=WAIT_S) == 3
    assert python_app(dict)(a=1).result(timeout=WAIT_S) == {"a": 1}


def test_partial_with_update_wrapper():
    app = python_app(functools.update_wrapper(functools.partial(with_default.__wrapped__, y=7), plain))
    assert app(1).result(timeout=WAIT_S) == (1, 7, 3)
    assert repr(app) == "<python_app plain>"


def test_lambda():
    assert python_app(lambda x: x * 2)(4).result(timeout=WAIT_S) == 8


class Model:
    def __init__(self, factor):
        self.factor = factor

    @python_app
    def scaled(self, x):
        return self.factor * x

    @staticmethod
    @python_app
    def static(x):
        return x

    @bash_app
    def exits(self):
        return f"exit {self.factor}"


def test_methods():
    model = Model(3)
    assert model.scaled(5).result(timeout=WAIT_S) == 15
    assert Model.scaled(model, 5).result(timeout=WAIT_S) == 15
    assert model.static(5).result(timeout=WAIT_S) == 5
    assert Model(0).exits().result(timeout=WAIT_S) == 0


def test_wrong_arguments_fail_the_task_with_pythons_own_words():
    with pytest.raises(TypeError, match=r"with_default\(\) missing 1 required positional argument: 'x'"):
        with_default().result(timeout=WAIT_S)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        with_default(1, colour=2).result(timeout=WAIT_S)


# --- refusals


def generator():
    yield 1


async def coroutine():
    return 1


async def async_generator():
    yield 1


@pytest.mark.parametrize("decorator", [python_app, bash_app, join_app])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (generator, "'generator' is a generator function; a task gives one result: return a list instead"),
        (async_generator, "'async_generator' is a generator function; a task gives one result"),
        (coroutine, "'coroutine' is a coroutine function; decorate an ordinary one"),
        (3, "decorates a function, got 3"),
        ("echo", "decorates a function, got 'echo'"),
        (functools.partial(plain), "has no __name__; give it one, for a partial with functools.update_wrapper"),
    ],
)
def test_what_cannot_be_an_app(decorator, function, message):
    with pytest.raises(ConfigurationError) as caught:
        decorator(function)
    assert str(caught.value).startswith(f"@{decorator.__name__}")
    assert message in str(caught.value)
    with pytest.raises(ConfigurationError):
        decorator(cache=True)(function)


@pytest.mark.parametrize("executors", [[], 3, [1], ["a", None], None, {"a": 1}])
def test_wrong_executors(executors):
    with pytest.raises(ConfigurationError) as caught:
        python_app(executors=executors)(plain)
    assert str(caught.value) == (f"@python_app(executors={executors!r}): expected 'all' or a list of executor labels")


@pytest.mark.parametrize("executors", ["threads", ["threads"], ("threads",), "all"])
def test_right_executors(executors):
    assert python_app(executors=executors)(plain)(1).result(timeout=WAIT_S) == 2


def test_ignore_for_cache_is_a_list():
    with pytest.raises(ConfigurationError) as caught:
        python_app(ignore_for_cache="x")(plain)
    assert str(caught.value) == "@python_app(ignore_for_cache='x'): expected a list of names, ['x']"


def test_misspelt_options_are_refused():
    with pytest.raises(TypeError, match="cahce"):
        python_app(cahce=True)(plain)
    with pytest.raises(TypeError, match="executors"):
        join_app(executors=["threads"])(plain)  # a join_app runs here


# --- reserved keyword arguments


def test_defaults_of_options_in_the_signature(tmp_path):
    usual = (File(str(tmp_path / "default.txt")),)

    @python_app
    def make(text, outputs=usual, walltime=30):
        with open(outputs[0], "w") as file:
            file.write(f"{text} {walltime}")

    future = make("a")
    assert future.outputs[0].result(timeout=WAIT_S).filepath == str(tmp_path / "default.txt")
    assert (tmp_path / "default.txt").read_text() == "a 30"
    make("b", outputs=[File(str(tmp_path / "given.txt"))], walltime=20).result(timeout=WAIT_S)
    assert (tmp_path / "given.txt").read_text() == "b 20"


def test_options_by_position():
    @python_app
    def total(x, inputs=(), y=10):
        return x + sum(inputs) + y

    assert total(1).result(timeout=WAIT_S) == 11
    assert total(1, [2, with_default(3)[0]]).result(timeout=WAIT_S) == 16
    assert total(1, [2], 100).result(timeout=WAIT_S) == 103
    assert total(1, [2], y=0).result(timeout=WAIT_S) == 3
    with pytest.raises(TypeError, match="multiple values"):
        total(1, [2], inputs=[3]).result(timeout=WAIT_S)
    with pytest.raises(TypeError):
        total(1, [2], 3, 4).result(timeout=WAIT_S)


def test_options_that_the_function_does_not_take_are_kept_from_it():
    def nothing():
        return "ran"

    assert python_app(nothing)(walltime=30).result(timeout=WAIT_S) == "ran"

    def anything(**kwargs):
        return kwargs

    assert python_app(anything)(inputs=[with_default(1)], walltime=30, a=1).result(timeout=WAIT_S) == {
        "inputs": [(1, 2, 3)],
        "a": 1,
    }


@pytest.mark.parametrize("option", ["stdout", "stderr"])
def test_streams_are_options_of_bash_apps_only(option):
    with pytest.raises(TypeError, match=option):
        python_app(plain)(1, **{option: "x"}).result(timeout=WAIT_S)


def test_a_kernel_that_is_none():
    with pytest.raises(ConfigurationError, match=r"@python_app\(data_flow_kernel='x'\): expected what flowcore.load"):
        python_app(data_flow_kernel="x")(plain)


def test_label_is_an_option_of_bash_apps_only():
    def labelled(**kwargs):
        return kwargs

    assert python_app(labelled)(label="x").result(timeout=WAIT_S) == {"label": "x"}
    with pytest.raises(TypeError, match="label"):
        python_app(plain)(1, label="x").result(timeout=WAIT_S)


def test_outputs_may_be_data_futures_of_another_task(tmp_path):
    @python_app
    def append(text, outputs=()):
        with open(outputs[0], "a") as file:
            file.write(text)

    first = append("a", outputs=[File(str(tmp_path / "log"))])
    first.result(timeout=WAIT_S)
    append("b", outputs=[first.outputs[0]]).result(timeout=WAIT_S)
    assert (tmp_path / "log").read_text() == "ab"


def test_outputs_may_be_paths(tmp_path):
    @python_app
    def write(outputs=()):
        for output in outputs:
            with open(output, "w") as file:
                file.write(type(output).__name__)

    future = write(outputs=[str(tmp_path / "a"), tmp_path / "b"])
    assert [f.result(timeout=WAIT_S).filepath for f in future.outputs] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (tmp_path / "b").read_text() == "File"


def test_inputs_may_be_any_iterable():
    @python_app
    def total(inputs=()):
        return sum(inputs), type(inputs).__name__

    assert total(inputs=(python_app(plain)(i) for i in range(3))).result(timeout=WAIT_S) == (6, "list")
    assert total(inputs={python_app(plain)(4): 1}.keys()).result(timeout=WAIT_S) == (5, "list")
    assert total(inputs=(1, 2)).result(timeout=WAIT_S) == (3, "tuple")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"walltime": 0}, "app 'plain': walltime=0: expected a positive number of seconds"),
        ({"walltime": -1}, "walltime=-1: expected a positive number"),
        ({"walltime": "60"}, "walltime='60': expected a positive number"),
        ({"walltime": True}, "walltime=True: expected a positive number"),
        ({"outputs": "a.txt"}, "outputs='a.txt': expected a list of File objects"),
        ({"outputs": 3}, "outputs=3: expected a list of File objects"),
        ({"outputs": [3]}, "outputs holds 3 of type int: expected a File, or the path or URL of one"),
        ({"inputs": "a.txt"}, "inputs='a.txt' of type str: expected a list of futures, files and values"),
        ({"inputs": File("a.txt")}, "inputs=File('a.txt') of type File: expected a list"),
        ({"inputs": DataFuture(Future(), "x")}, "of type DataFuture: expected a list of futures"),
        ({"inputs": 3}, "inputs=3 of type int: expected a list"),
        ({"resource_specification": 3}, "resource_specification=3: expected a dict, got int"),
    ],
)
def test_values_that_options_cannot_have(options, message):
    with pytest.raises(ConfigurationError) as caught:
        python_app(plain)(1, **options)
    assert message in str(caught.value)


def test_a_refused_call_leaves_no_task(run):
    with pytest.raises(ConfigurationError):
        python_app(plain)(1, walltime=0)
    assert run.task_counts() == {}


def test_the_users_own_arguments_are_not_changed(tmp_path):
    @bash_app
    def touch(outputs=(), stdout=None):
        return f"touch {outputs[0]}"

    options = {"outputs": [File(str(tmp_path / "x"))], "stdout": flowcore.AUTO_LOGNAME}
    touch(**options).result(timeout=WAIT_S)
    assert options["stdout"] is flowcore.AUTO_LOGNAME
    assert options["outputs"][0].local_path is None


# --- walltime


def test_walltime_of_a_python_app():
    release = threading.Event()

    @python_app
    def hold(walltime=0.05):
        release.wait(WAIT_S)

    try:
        with pytest.raises(AppTimeout) as caught:
            hold().result(timeout=WAIT_S)
        assert str(caught.value) == "app 'hold' ran longer than its walltime of 0.05 s"
    finally:
        release.set()


def test_walltime_interrupts_the_function():
    interrupted = threading.Event()

    @python_app
    def spin():
        try:
            while True:
                pass
        except AppTimeout:
            interrupted.set()
            raise

    with pytest.raises(AppTimeout):
        spin(walltime=0.05).result(timeout=WAIT_S)
    assert interrupted.wait(WAIT_S)


def test_walltime_that_is_not_used_up():
    assert python_app(plain)(1, walltime=WAIT_S).result(timeout=WAIT_S) == 2
    with pytest.raises(TypeError):
        python_app(plain)("text", walltime=WAIT_S).result(timeout=WAIT_S)


# --- several kernels, pickling


def test_data_flow_kernel_of_the_decorator(tmp_path, run):
    other = flowcore.DataFlowKernel(Config(run_dir=tmp_path / "other", initialize_logging=False))
    try:
        app = python_app(plain, data_flow_kernel=other)
        assert app(1).result(timeout=WAIT_S) == 2
        assert other.task_counts() == {"exec_done": 1}
        assert run.task_counts() == {}
    finally:
        other.cleanup()


def test_submit_without_a_decorator(run):
    assert run.submit(plain, [1]).result(timeout=WAIT_S) == 2
    assert run.submit(with_default.__wrapped__, [1], app_kwargs={"z": 9}).result(timeout=WAIT_S) == (1, 2, 9)
    assert run.submit(plain, [with_default(1)[0]]).result(timeout=WAIT_S) == 2
    assert run.submit(lambda: with_default(1), join=True).result(timeout=WAIT_S) == (1, 2, 3)
    with pytest.raises(ConfigurationError, match="'nowhere'"):
        run.submit(plain, [1], executors=["nowhere"])


def test_apps_survive_serialization():
    from flowcore import serialize

    local = python_app(lambda x: x + 5, cache=True)
    for app, expected in ((with_default, (1, 2, 3)), (local, 6)):
        copy = serialize.loads(serialize.dumps(app))
        assert type(copy) is type(app)
        assert copy(1).result(timeout=WAIT_S) == expected


def test_an_app_whose_module_is_importable_is_small_when_pickled(tmp_path, monkeypatch):
    (tmp_path / "apps_of_a_user.py").write_text(
        "from flowcore import python_app\n@python_app\ndef f(x):\n    '" + "x" * 5000 + "'\n    return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import apps_of_a_user

    from flowcore import serialize

    try:
        data = serialize.dumps(apps_of_a_user.f.__wrapped__)
        assert len(data) < 500
        assert pickle.loads(data) is apps_of_a_user.f.__wrapped__
    finally:
        del sys.modules["apps_of_a_user"]


# --- outputs


def test_a_function_that_does_not_make_its_outputs(tmp_path):
    @python_app
    def make(names, outputs=()):
        for name in names:
            (tmp_path / name).touch()
        return len(names)

    files = [File(str(tmp_path / name)) for name in ("a", "b")]
    error = make(["a"], outputs=files).exception(timeout=WAIT_S)
    assert isinstance(error, MissingOutputs)
    assert str(error) == f"python_app 'make' ended well but did not make all its outputs; missing: {tmp_path / 'b'}"
    good = make(["a", "b"], outputs=files)
    assert good.result(timeout=WAIT_S) == 2
    assert [f.done() for f in good.outputs] == [True, True]
    (tmp_path / "b").unlink()
    # Retried and limited calls are checked as well.
    assert isinstance(make(["a"], outputs=files, walltime=30).exception(timeout=WAIT_S), MissingOutputs)


def test_outputs_of_a_function_without_such_a_parameter(tmp_path):
    @python_app
    def touch(name):
        (tmp_path / name).touch()

    assert touch("a", outputs=[tmp_path / "a"]).result(timeout=WAIT_S) is None
    assert isinstance(touch("a", outputs=[tmp_path / "b"]).exception(timeout=WAIT_S), MissingOutputs)


def test_one_object_runs_all_calls_with_the_same_options():
    app = python_app(with_default)
    assert app._function(1.0, True) is app._function(1.0, True)
    assert len({id(app._function(w, o)) for w in (None, 1.0, 2.0) for o in (False, True)}) == 6
