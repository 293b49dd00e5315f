"""What is worth a record of a call: its files and streams, without secrets, and whether its result is kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from flowcore.files import STREAMS, File, shown_url, stream_file
from flowcore.futures import DataFuture
from flowcore.kernel import arguments
from flowcore.kernel.task import TaskSpec
from flowcore.plugins.hookspecs import MOST_NAMED, TaskCall


def call_of(spec: TaskSpec) -> TaskCall | None:
    """Return what is worth a record of a call; None if nothing is."""
    try:
        return _call_of(spec)
    except Exception:  # noqa: BLE001 - an argument of a class of the user's; a call is made though nobody can say of what
        return None


def _call_of(spec: TaskSpec) -> TaskCall | None:
    bash = spec.app.kind == "bash"
    made = ("outputs", *STREAMS) if bash else ("outputs",)
    found = arguments.find(spec.args, {k: v for k, v in spec.kwargs.items() if k not in made}, loops=True)
    inputs: list[File] = []
    if found is not None:
        inputs = found.files + [future.file_obj for future in found.futures if isinstance(future, DataFuture)]
    streams = [_stream(spec.kwargs.get(name)) for name in ("stdin", *STREAMS)] if bash else []
    call = TaskCall(spec.app.cache, _urls(inputs), _urls(spec.outputs), *streams)
    return call if call != TaskCall() else None


def _urls(files: Iterable[File]) -> tuple[str, ...]:
    return tuple(shown_url(file.url) for file, _ in zip(files, range(MOST_NAMED), strict=False))


def _stream(value: Any) -> str | None:
    """Return the name of what was given as ``stdin=``, ``stdout=`` or ``stderr=``."""
    if isinstance(value, DataFuture):
        value = value.file_obj
    file = stream_file(value)
    if file is not None:
        return shown_url(file.url)
    if isinstance(value, tuple) and value:
        value = value[0]  # with a mode
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None
