"""Objects to bytes and back: arguments, results, functions, exceptions.

Rule of this module: one format. Whatever wrote the bytes, :func:`loads` reads them, and what cannot be
written is named to the user as they know it (which argument of which app).

Plain values take the C pickler. Everything else goes through cloudpickle, which sends functions and classes
of ``__main__``, of notebooks and of closures by value, and brings classes back as the same class; what
cloudpickle cannot do, dill is asked for. Large buffers (protocol 5, PEP 574) stay out of band.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flowcore.errors import DeserializationError, RemoteError, SerializationError, describe

#: Buffers of at least this many bytes travel out of band, as frames of their own.
OUT_OF_BAND_BYTES = 65536

#: A function that may reduce an object in a way of its own (the result of ``__reduce__``), or return None.
Reducer = Callable[[Any], "tuple[Any, ...] | None"]

_OPEN_FILES = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_PLAIN = frozenset({int, float, str, bytes, bool, type(None), complex})
_reducer: Reducer | None = None


def set_reducer(reducer: Reducer | None) -> None:
    """Install the function that is asked first how to reduce an object; None removes it.

    The registry installs one while plugins want a say in serialization.
    """
    global _reducer
    _reducer = reducer


def is_plain(args: Sequence[Any]) -> bool:
    """Return whether all of ``args`` are of built-in scalar types, which every pickler writes alike."""
    return all(type(arg) in _PLAIN for arg in args)


def _keep_large_out_of_band(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def callback(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    return callback


def _pickler_class() -> type[pickle.Pickler]:
    # cloudpickle is imported when the first object needs it: a worker that runs plain tasks never does.
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            _refuse(obj)
            if isinstance(obj, types.CodeType):
                return _with_file_name(obj, self.dispatch_table[types.CodeType](obj))
            if _reducer is not None:
                reduced = _reducer(obj)
                if reduced is not None:
                    return reduced
            if isinstance(obj, types.FunctionType | type):
                module = sys.modules.get(obj.__module__)
                if module is not None and not _found_by_name(obj.__module__, getattr(module, "__file__", None)):
                    # Loaded from a path, or deleted since: nobody else can import it.
                    cloudpickle.register_pickle_by_value(module)
            reference = _app_reference(obj)
            return super().reducer_override(obj) if reference is None else reference

    global _Pickler
    _Pickler = Pickler
    return Pickler


_Pickler: type[pickle.Pickler] | None = None


def _with_file_name(code: types.CodeType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a code object with the name of its file, of which tracebacks show the lines."""
    # cloudpickle leaves it out from 3.1.3 on.
    make, arguments = reduced
    return make, (*arguments[:_CO_FILENAME], code.co_filename, *arguments[_CO_FILENAME + 1 :])


#: Its place among the arguments of :class:`types.CodeType`, from Python 3.11 on.
_CO_FILENAME = 10


@functools.lru_cache(maxsize=4096)
def _found_by_name(module_name: str, file: str | None) -> bool:
    """Return whether an import of this name finds this module, as it would have to in a worker."""
    if module_name in ("__main__", "__mp_main__", "builtins"):
        return True  # cloudpickle knows these
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None or file is None or spec.origin is None or not spec.has_location:
        return spec is not None  # frozen and built-in modules have no file to compare
    return _same_file(file, spec.origin)


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # no file: a member of a zip archive
        return one == other


def _app_reference(obj: Any) -> tuple[Any, ...] | None:
    """Reduce a function whose name in its importable module is now an app (or other wrapper) around it."""
    module_name = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None)
    if not callable(obj) or not isinstance(name, str) or module_name in (None, "__main__", "__mp_main__"):
        return None
    holder: Any = sys.modules.get(module_name)
    if holder is None or not _found_by_name(module_name, getattr(holder, "__file__", None)):
        return None
    for part in name.split("."):
        holder = getattr(holder, part, None)
    if holder is obj or getattr(holder, "__wrapped__", None) is not obj:
        return None
    return _load_wrapped, (module_name, name)


def _load_wrapped(module_name: str, name: str) -> Any:
    holder: Any = importlib.import_module(module_name)
    for part in name.split("."):
        holder = getattr(holder, part)
    return holder.__wrapped__


def _write(obj: Any, buffers: list[memoryview] | None) -> bytes:
    pickler_class = _Pickler or _pickler_class()
    out = io.BytesIO()
    callback = None if buffers is None else _keep_large_out_of_band(buffers)
    pickler_class(out, protocol=5, buffer_callback=callback).dump(obj)
    return out.getvalue()


def _refuse(obj: Any) -> None:
    # cloudpickle sends a copy of the content, and dill opens the file anew on the other side: one that was opened for
    # writing would be emptied by that. The standard streams are sent by name.
    if isinstance(obj, _OPEN_FILES) and obj not in (sys.stdin, sys.stdout, sys.stderr):
        raise pickle.PicklingError(f"an open file ({getattr(obj, 'name', obj)!r}) cannot be sent: send its path")
    if isinstance(obj, Future):
        raise pickle.PicklingError(
            f"it holds the future {obj!r}, which cannot be sent: pass it as an argument of its own, or in a list, "
            "tuple, dict or set, so that the task waits for its value"
        )


def _dill(obj: Any) -> bytes:
    import dill

    class Pickler(dill.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            _refuse(obj)
            if isinstance(obj, _LOCKS):
                raise pickle.PicklingError(f"a {type(obj).__name__} cannot be sent: its copy would lock nothing")
            return NotImplemented

    out = io.BytesIO()
    Pickler(out, recurse=True).dump(obj)
    return out.getvalue()


def _undill(data: bytes) -> Any:
    import dill

    return dill.loads(data)


class _Dilled:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _undill, (self.data,)


def dumps(obj: Any, buffers: list[memoryview] | None = None, *, what: str = "object") -> bytes:
    """Serialize an object.

    Args:
        obj: any object.
        buffers: a list that large contiguous buffers inside ``obj`` are appended to, to be sent as they are
            and handed to :func:`loads`; None keeps everything in the returned bytes.
        what: the object's name in an error.

    Returns:
        The pickled bytes.

    Raises:
        SerializationError: neither pickle, cloudpickle nor dill can write it.
    """
    if type(obj) in _PLAIN:
        return pickle.dumps(obj, 5)
    try:
        return _write(obj, buffers)
    except Exception as pickle_error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        if buffers:
            buffers.clear()
        try:
            return pickle.dumps(_Dilled(_dill(obj)), 5)
        except Exception:  # noqa: BLE001
            raise SerializationError(
                what,
                f"{type(pickle_error).__name__}: {pickle_error}. Pass what is needed to make the object "
                "(a path, a connection string) and make it inside the app, "
                "or give its class a __reduce__ method.",
            ) from pickle_error


def loads(data: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """Turn the bytes of :func:`dumps` back into the object.

    Args:
        data: the bytes.
        buffers: the out-of-band buffers, in their order.

    Raises:
        Exception: whatever the object's own code raises; an ImportError where its module is not here.
    """
    return pickle.loads(data, buffers=buffers)


def dumps_call(
    app_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], buffers: list[memoryview] | None = None
) -> bytes:
    """Serialize the arguments of one call.

    Raises:
        SerializationError: names the argument that cannot be written.
    """
    if is_plain(args) and (not kwargs or is_plain(tuple(kwargs.values()))):
        return pickle.dumps((args, kwargs), 5)
    try:
        return dumps((args, kwargs), buffers)
    except SerializationError as whole:
        for name, value in [*((f"{i}", a) for i, a in enumerate(args)), *kwargs.items()]:
            try:
                dumps(value)
            except SerializationError as part:
                which = f"positional argument {name}" if name.isdigit() else f"argument {name!r}"
                kind = type(value).__name__
                raise SerializationError(
                    f"{which} (of type {kind}) of app {app_name!r}", part.reason
                ) from part.__cause__
        raise SerializationError(f"the arguments of app {app_name!r}", whole.reason) from whole.__cause__


class _Parts(list[Any]):
    """A file that keeps what is written to it: of a large bytes object, the object itself."""

    write = list.append


def dumps_call_parts(
    app_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], buffers: list[memoryview] | None = None
) -> Sequence[bytes]:
    """Serialize the arguments of one call, as bytes that follow one another: large strings of bytes are not copied.

    Raises:
        SerializationError: names the argument that cannot be written.
    """
    if (
        any(type(arg) is bytes and len(arg) >= OUT_OF_BAND_BYTES for arg in args)
        and is_plain(args)
        and is_plain(tuple(kwargs.values()))
    ):
        parts = _Parts()
        pickle.Pickler(parts, 5).dump((args, kwargs))
        return parts
    return (dumps_call(app_name, args, kwargs, buffers),)


def dumps_callable(function: Callable[..., Any], name: str) -> bytes:
    """Serialize a function: by reference where its module can be imported, else by value.

    Raises:
        SerializationError: a by-value function holds on to something that cannot be written.
    """
    return dumps(function, what=f"the function of app {name!r}")


def loads_callable(data: bytes, where: str) -> Callable[..., Any]:
    """Turn the bytes of :func:`dumps_callable` back into the function.

    Args:
        data: the bytes.
        where: this process, for the error.

    Raises:
        DeserializationError: the function's module, or something it needs, cannot be imported here.
    """
    try:
        function: Callable[..., Any] = pickle.loads(data)
    except Exception as error:
        raise DeserializationError(
            f"the app's function cannot be loaded on {where}: {type(error).__name__}: {error}. The worker "
            "needs every module that the function comes from: install it in the workers' environment, or make "
            "it importable with PYTHONPATH in the provider's worker_init, or define the function in the main "
            "script, from where it is sent by value."
        ) from error
    return function


# --- exceptions


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    # Past __init__, which may demand other arguments than those in `args`.
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class _Rebuilt:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self.error), self.error.args, dict(self.error.__dict__))


def dumps_exception(error: BaseException, traceback_text: str) -> bytes:
    """Serialize an exception and the text of its traceback, as its own class wherever that is possible.

    Never raises: an exception that cannot travel is replaced by a :class:`flowcore.errors.RemoteError`.
    """
    reason = ""
    for candidate in (error, _Rebuilt(error)):
        try:
            data = dumps((candidate, traceback_text))
            copy, _ = loads(data)  # an exception whose __init__ wants more than `args` fails only here
            if candidate is error and describe(copy) != describe(error):
                raise ValueError("its __init__ makes another text of its args")
        except (Exception, SystemExit, KeyboardInterrupt) as problem:  # noqa: BLE001 - next candidate
            reason = reason or f"{type(problem).__name__}: {problem}"
        else:
            return data
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of a user's class
        text = "(its text cannot be had: __str__ failed)"
    return dumps((RemoteError(name, text, reason), traceback_text))


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process, as the cause of the exception raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def loads_exception(data: bytes | memoryview) -> BaseException:
    """Turn the bytes of :func:`dumps_exception` back into the exception, with its remote traceback as cause.

    Returns a :class:`flowcore.errors.DeserializationError` where the bytes cannot be read here.
    """
    try:
        error, text = loads(data)
        if not isinstance(error, BaseException):
            raise TypeError(f"it became a {type(error).__name__}")
    except BaseException as problem:  # noqa: BLE001 - e.g. its class exists on the worker only; runs its own code
        failure = DeserializationError(
            f"an app raised an exception that cannot be loaded here: {type(problem).__name__}: {problem}. "
            "Its class must be importable in this process too."
        )
        failure.__cause__ = problem
        return failure
    if error.__cause__ is None:
        error.__cause__ = RemoteTraceback(text)
    return error
