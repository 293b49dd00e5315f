"""Objects to bytes and back, in this process and in others."""

from __future__ import annotations

import builtins
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import Future

import pytest

from flowcore import errors, serialize
from flowcore.errors import DeserializationError, RemoteError, SerializationError
from flowcore.files import AUTO_LOGNAME, File

WAIT_S = 60


def trip(obj):
    return serialize.loads(serialize.dumps(obj))


def generator():
    return (i for i in range(3))


# --- values


@pytest.mark.parametrize(
    "value",
    [1, 1.5, "text", "a\udc80", b"bytes", True, None, 1j, 2**200, [1, [2]], (1,), {"a": {1: (2,)}}, {1}, frozenset({1}),
     range(3), Ellipsis, int, len, os.path.join],
)  # fmt: skip
def test_values(value):
    copy = trip(value)
    assert copy == value
    assert type(copy) is type(value)


def test_loads_reads_what_plain_pickle_wrote():
    assert serialize.loads(pickle.dumps({"a": 1})) == {"a": 1}
    assert serialize.loads(memoryview(serialize.dumps([1]))) == [1]


def test_functions_without_a_module_go_by_value():
    def make(n):
        def inner(x):
            return x + n

        return inner

    assert trip(make(3))(1) == 4
    assert trip(lambda x: x * 2)(4) == 8
    assert trip([lambda: 1, {"f": lambda: 2}])[1]["f"]() == 2


def test_recursive_closures():
    def outer():
        def factorial(n):
            return n * factorial(n - 1) if n else 1

        return factorial

    assert trip(outer())(5) == 120


def test_local_classes_come_back_as_the_same_class():
    class Local:
        pass

    assert type(trip(Local())) is Local


def test_files():
    file = File("https://h/a.txt")
    file.local_path = "/tmp/a.txt"
    copy = trip(file)
    assert (copy.url, copy.local_path, copy.scheme) == (file.url, file.local_path, "https")
    assert trip(AUTO_LOGNAME) is AUTO_LOGNAME


def test_what_cloudpickle_cannot_do_dill_does():
    class Odd:
        def __reduce_ex__(self, protocol):
            raise TypeError("not by pickle")

    # dill has ways of its own; if it has none either, the error is the first one.
    with pytest.raises(SerializationError, match="TypeError: not by pickle"):
        serialize.dumps(Odd())


# --- out-of-band buffers


class Buffer:
    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Buffer, (pickle.PickleBuffer(self.data),)


def test_large_buffers_stay_out_of_band():
    large, small = bytearray(b"x" * serialize.OUT_OF_BAND_BYTES), bytearray(b"y" * 100)
    buffers: list[memoryview] = []
    data = serialize.dumps([Buffer(large), Buffer(small)], buffers)
    assert [b.nbytes for b in buffers] == [len(large)]
    assert len(data) < 3000
    assert buffers[0].obj is large or bytes(buffers[0]) == bytes(large)
    one, two = serialize.loads(data, buffers)
    assert bytes(one.data) == bytes(large)
    assert bytes(two.data) == bytes(small)


def test_buffers_are_not_copied():
    large = bytearray(b"x" * serialize.OUT_OF_BAND_BYTES)
    buffers: list[memoryview] = []
    serialize.dumps(Buffer(large), buffers)
    large[0] = ord("z")
    assert buffers[0][0] == ord("z")


def test_buffers_stay_in_band_where_nobody_takes_them():
    large = b"x" * serialize.OUT_OF_BAND_BYTES
    data = serialize.dumps(Buffer(large))
    assert len(data) > len(large)
    assert bytes(serialize.loads(data).data) == large


def test_a_buffer_with_holes_stays_in_band():
    holes = memoryview(bytearray(b"ab" * serialize.OUT_OF_BAND_BYTES))[::2]
    buffers: list[memoryview] = []
    with pytest.raises(SerializationError):
        serialize.dumps(Buffer(holes), buffers)  # pickle itself refuses it
    assert buffers == []


def test_numpy_arrays_travel_out_of_band():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    buffers: list[memoryview] = []
    data = serialize.dumps({"a": array}, buffers)
    assert sum(b.nbytes for b in buffers) == array.nbytes
    assert (serialize.loads(data, buffers)["a"] == array).all()


def test_no_buffers_are_left_of_an_object_that_cannot_be_written():
    buffers: list[memoryview] = []
    with pytest.raises(SerializationError):
        serialize.dumps([Buffer(bytearray(serialize.OUT_OF_BAND_BYTES)), generator()], buffers)
    assert buffers == []


# --- calls


def test_calls():
    data = serialize.dumps_call("f", (1, [2]), {"k": {"v": 3}})
    assert serialize.loads(data) == ((1, [2]), {"k": {"v": 3}})
    assert serialize.loads(serialize.dumps_call("f", (1,), {})) == ((1,), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "which"),
    [
        ((generator(),), {}, "positional argument 0 (of type generator) of app 'simulate'"),
        ((1, [generator()]), {}, "positional argument 1 (of type list) of app 'simulate'"),
        ((1,), {"source": generator()}, "argument 'source' (of type generator) of app 'simulate'"),
        ((1,), {"ok": [1], "config": {"deep": [generator()]}}, "argument 'config' (of type dict) of app 'simulate'"),
    ],
)
def test_an_argument_that_cannot_be_serialized_is_named(args, kwargs, which):
    with pytest.raises(SerializationError) as caught:
        serialize.dumps_call("simulate", args, kwargs)
    assert caught.value.what == which
    assert str(caught.value) == (
        f"{which} cannot be serialized: TypeError: cannot pickle 'generator' object. Pass what is needed to make the "
        "object (a path, a connection string) and make it inside the app, or give its class a __reduce__ method."
    )
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_class_whose_own_reduce_raises():
    class Broken:
        def __reduce__(self):
            raise RuntimeError("my reduce is broken")

    with pytest.raises(SerializationError, match=r"argument 'x' \(of type Broken\) .* RuntimeError: my reduce"):
        serialize.dumps_call("f", (), {"x": Broken()})


def test_a_function_that_holds_what_cannot_be_serialized():
    stream = generator()

    def uses():
        return next(stream)

    with pytest.raises(SerializationError, match=r"the function of app 'uses' cannot be serialized: TypeError: cannot"):
        serialize.dumps_callable(uses, "uses")


def test_sockets_name_themselves():
    with socket.socket() as open_socket, pytest.raises(SerializationError, match="socket"):
        serialize.dumps(open_socket, what="a result")


# --- modules


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Return a function that writes and imports a module."""
    names = []

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        names.append(name)
        return __import__(name)

    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_functions_of_modules_go_by_reference(user_module):
    module = user_module("plain_user_module", "def f(x):\n    return x\n")
    data = serialize.dumps_callable(module.f, "f")
    assert len(data) < 200
    assert serialize.loads_callable(data, "here") is module.f


def test_functions_replaced_by_their_app_go_by_reference(user_module):
    module = user_module(
        "decorated_user_module",
        """
        from flowcore import python_app, bash_app

        @python_app
        def f(x):
            return x

        class Group:
            @python_app
            def method(self):
                return 1

        @bash_app
        def b():
            return "true"
        """,
    )
    for function in (module.f.__wrapped__, module.Group.method.__wrapped__, module.b.__wrapped__):
        data = serialize.dumps_callable(function, "f")
        assert len(data) < 300
        assert serialize.loads_callable(data, "here") is function


def test_a_function_whose_name_is_now_something_else_goes_by_value(user_module):
    module = user_module("shadowed_user_module", "def f(x):\n    return 'old'\n")
    old = module.f
    module.f = lambda x: "new"
    assert serialize.loads_callable(serialize.dumps_callable(old, "f"), "here")(1) == "old"


def test_a_function_of_a_module_that_cannot_be_imported_elsewhere_goes_by_value():
    module = types.ModuleType("module_of_a_notebook")
    sys.modules[module.__name__] = module
    try:
        exec("def f(x):\n    return x + 1", module.__dict__)
        data = serialize.dumps_callable(module.f, "f")
    finally:
        del sys.modules[module.__name__]
    assert serialize.loads_callable(data, "here")(1) == 2


def test_a_function_that_cannot_be_loaded(user_module):
    module = user_module("vanishing_user_module", "def f(x):\n    return x\n")
    data = serialize.dumps_callable(module.f, "f")
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom flowcore import serialize\n"
         "try: serialize.loads_callable(sys.stdin.buffer.read(), 'worker 3 on n1')\n"
         "except Exception as e: print(type(e).__name__); print(e)"],
        input=data, capture_output=True, timeout=WAIT_S, cwd="/",
    )  # fmt: skip
    assert done.stdout.decode().splitlines() == [
        "DeserializationError",
        "the app's function cannot be loaded on worker 3 on n1: ModuleNotFoundError: No module named "
        "'vanishing_user_module'. The worker needs every module that the function comes from: install it in the "
        "workers' environment, or make it importable with PYTHONPATH in the provider's worker_init, or define the "
        "function in the main script, from where it is sent by value.",
    ]


# --- __main__

MAIN = """
import enum, subprocess, sys
from dataclasses import dataclass
from flowcore import serialize, python_app

FACTOR = 3

@dataclass
class Point:
    x: int

class Colour(enum.Enum):
    RED = 1

class Oops(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

def helper(x):
    return x * FACTOR

def work(point, colour):
    assert isinstance(point, Point) and colour is Colour.RED
    return Point(helper(point.x)), colour

@python_app
def decorated(x):
    return helper(x)

def breaks(x):
    raise Oops(x, "b")

WORKER = '''
import sys, traceback
from flowcore import serialize
function, args = serialize.loads(sys.stdin.buffer.read())
try:
    data = serialize.dumps((True, function(*args)))
except Exception as error:
    data = serialize.dumps((False, serialize.dumps_exception(error, traceback.format_exc())))
sys.stdout.buffer.write(data)
'''

def elsewhere(function, *args):
    data = serialize.dumps((function, args))
    done = subprocess.run([sys.executable, "-c", WORKER], input=data, capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr.decode()
    return serialize.loads(done.stdout)

if __name__ == "__main__":
    good, (point, colour) = elsewhere(work, Point(5), Colour.RED)
    assert good and point == Point(15) and isinstance(point, Point) and type(point) is Point
    assert colour is Colour.RED
    assert elsewhere(decorated.__wrapped__, 2) == (True, 6)
    n = 10
    assert elsewhere(lambda x: x + n, 1) == (True, 11)
    good, data = elsewhere(breaks, 7)
    error = serialize.loads_exception(data)
    assert not good and type(error) is Oops and error.args == (7,) and error.b == "b"
    assert "in breaks" in str(error.__cause__) and "raise Oops" not in type(error.__cause__).__name__
    print("all well")
"""


def test_main_goes_by_value_and_its_classes_come_back(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all well\n"


# --- exceptions


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class KeywordOnly(Exception):
    def __init__(self, *, code):
        super().__init__()
        self.code = code


class Decorating(Exception):
    """Makes another text each time it is made of its args."""

    def __init__(self, text):
        super().__init__(f"<{text}>")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class HoldsAGenerator(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.source = generator()


class DemandsMore(Exception):
    def __new__(cls, *, required):
        return super().__new__(cls)

    def __init__(self, *, required):
        super().__init__("demanding")


def exception_trip(error):
    return serialize.loads_exception(serialize.dumps_exception(error, "Traceback of the worker"))


BUILTIN = [
    getattr(builtins, name)
    for name in dir(builtins)
    if isinstance(getattr(builtins, name), type)
    and issubclass(getattr(builtins, name), BaseException)
    and name not in ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "BaseExceptionGroup",
                     "ExceptionGroup")
]  # fmt: skip


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda k: k.__name__)
def test_exceptions_of_python(kind):
    copy = exception_trip(kind("text"))
    assert type(copy) is kind
    assert copy.args == ("text",)


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ExceptionGroup("many", [ValueError(1), KeyError("k")]),
        KeyError("key"),
        SystemExit(3),
        subprocess.CalledProcessError(3, ["cmd"], b"out"),
        TwoArguments(1, "b"),
        KeywordOnly(code=7),
        Decorating("text"),
        errors.BashExitFailure("app", 3, "tail"),
        errors.MissingOutputs("reason", [File("a")]),
        errors.DependencyError([(ValueError("x"), "task 0")], 1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_keep_type_text_and_state(error):
    error.add_note("a note")
    copy = exception_trip(error)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__notes__ == ["a note"]
    for name, value in vars(error).items():
        if isinstance(value, int | str | bytes):
            assert getattr(copy, name) == value
    if isinstance(error, OSError):
        assert (copy.errno, copy.filename) == (error.errno, error.filename)


def test_the_remote_traceback_is_the_cause():
    copy = exception_trip(ValueError("x"))
    assert type(copy.__cause__) is serialize.RemoteTraceback
    assert "Traceback of the worker" in str(copy.__cause__)


def test_an_exception_without_text_keeps_its_type():
    assert type(exception_trip(Mute("x"))) is Mute


@pytest.mark.parametrize(
    ("error", "text"), [(HoldsAGenerator("what happened"), "what happened"), (DemandsMore(required=1), "demanding")]
)
def test_an_exception_that_cannot_travel_is_told(error, text):
    copy = exception_trip(error)
    assert type(copy) is RemoteError
    name = f"{__name__}.{type(error).__name__}"
    assert (copy.type_name, copy.text) == (name, text)
    assert str(copy).startswith(f"{name}: {text} (the exception object itself could not be sent back: ")


def test_an_exception_that_cannot_travel_and_has_no_text():
    class Hopeless(Mute):
        def __init__(self):
            self.source = generator()

    copy = exception_trip(Hopeless())
    assert type(copy) is RemoteError
    assert copy.text == "(its text cannot be had: __str__ failed)"


def test_an_exception_whose_class_is_not_here(user_module):
    module = user_module("far_away_module", "class Far(Exception):\n    pass\n")
    data = serialize.dumps_exception(module.Far("x"), "trace")
    script = (
        "import sys; from flowcore import serialize; e = serialize.loads_exception(sys.stdin.buffer.read()); "
        "print(type(e).__name__); print(e); print(type(e.__cause__).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=WAIT_S, cwd="/")
    assert done.stdout.decode().splitlines() == [
        "DeserializationError",
        "an app raised an exception that cannot be loaded here: ModuleNotFoundError: No module named "
        "'far_away_module'. Its class must be importable in this process too.",
        "ModuleNotFoundError",
    ]


def test_bytes_that_are_no_exception_at_all():
    assert isinstance(serialize.loads_exception(b"garbage"), DeserializationError)


# --- a plugin's reducer


def test_a_reducer_is_asked_first(monkeypatch):
    class Handle:
        def __init__(self, name):
            self.name = name

        def __reduce__(self):
            raise TypeError("pickle cannot")

    asked = []

    def reducer(obj):
        asked.append(type(obj))
        return (Handle, (obj.name + " again",)) if isinstance(obj, Handle) else None

    serialize.set_reducer(reducer)
    try:
        copy = trip([Handle("file"), 3])
    finally:
        serialize.set_reducer(None)
    assert copy[0].name == "file again"
    assert copy[1] == 3
    assert Handle in asked
    with pytest.raises(SerializationError):
        serialize.dumps(Handle("file"))


# --- what must not be copied


@pytest.mark.parametrize("mode", ["r", "w", "a", "r+", "rb", "wb"])
def test_open_files_are_refused_and_left_alone(tmp_path, mode):
    path = tmp_path / "precious"
    path.write_text("words")
    with path.open("a" if mode[0] == "w" else mode) as file:
        with pytest.raises(SerializationError, match="an open file .* cannot be sent: send its path"):
            serialize.dumps([file])
        with pytest.raises(SerializationError, match="cannot be sent"):
            serialize.dumps(lambda: file)
    assert path.read_text() == "words"


@pytest.mark.parametrize("lock", [threading.Lock(), threading.RLock()])
def test_locks_are_refused(lock):
    with pytest.raises(SerializationError):
        serialize.dumps({"lock": lock})


def test_standard_streams_are_sent_by_name():
    out = sys.__stdout__

    def say():
        return out is not None

    original, sys.stdout = sys.stdout, sys.__stdout__
    try:
        assert serialize.loads(serialize.dumps(say))() is True
    finally:
        sys.stdout = original


def test_futures_in_objects_that_are_not_searched():
    class Holder:
        def __init__(self):
            self.part = Future()

    with pytest.raises(SerializationError, match="it holds the future .*: pass it as an argument of its own"):
        serialize.dumps_call("f", (Holder(),), {})


def test_a_function_that_is_sent_by_value_knows_its_file():
    """Tracebacks from workers show its lines."""
    namespace = {"__name__": "__main__"}
    exec(compile("def outer():\n    def inner(): ...\n    return inner\n", "/somewhere/script.py", "exec"), namespace)
    loaded = serialize.loads(serialize.dumps(namespace["outer"]))
    assert loaded.__code__.co_filename == "/somewhere/script.py"
    assert loaded().__code__.co_filename == "/somewhere/script.py"
    assert loaded.__code__ == namespace["outer"].__code__
