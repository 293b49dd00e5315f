"""Reads the configuration files that commands are given: TOML, or Python with ``config`` or ``fresh_config``.

Rule of this module: reading a file starts nothing, and whatever is wrong in it is a ConfigurationError that
says where in the file.
"""

from __future__ import annotations

import re
import sys
import tomllib
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowcore.config import Config, read_file
from flowcore.errors import ConfigurationError


def load_config(path: Path, profile: str | None = None) -> Config:
    """Make a Config of a file.

    Args:
        path: a TOML file; or, if its name ends in ``.py``, a Python file that defines ``config``, a
            :class:`flowcore.Config` (or a dict of its options), or ``fresh_config``, a function that returns
            one.
        profile: of a TOML file, the table ``[profiles.NAME]`` to use.

    Raises:
        ConfigurationError: says what is wrong and where in the file.
    """
    if path.suffix != ".py":
        return Config.from_file(path, profile)
    if profile is not None:
        raise ConfigurationError(
            f"--profile {profile}: profiles are tables of TOML files, and {path} is Python; leave it out"
        )
    return _python_config(path)


def profile_names(path: Path) -> list[str]:
    """Return the names of the profiles in a configuration file, in its order.

    Raises:
        ConfigurationError: the file cannot be read, or its profiles are no tables.
    """
    if path.suffix == ".py":
        return []
    read_file(path)
    return list(tomllib.loads(path.read_text(encoding="utf-8")).get("profiles", {}))


def _python_config(path: Path) -> Config:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    module = types.ModuleType("flowcore_config_" + re.sub(r"\W", "_", path.stem))
    module.__file__ = str(path)
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigurationError(f"{path}{line}: not Python: {reason}") from error
    # Classes that the file defines look for their module there (dataclasses, pickle).
    sys.modules[module.__name__] = module
    # As when Python runs the file: it may import its neighbours.
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        return _as_config(_run(code, module, path), path)
    finally:
        sys.path.remove(folder)


def _run(code: types.CodeType, module: types.ModuleType, path: Path) -> Any:
    try:
        exec(code, module.__dict__)  # noqa: S102 - the user's own program
        if hasattr(module, "config"):
            return module.config
        if not hasattr(module, "fresh_config"):
            raise ConfigurationError(
                "it defines neither config (a flowcore.Config) nor fresh_config (a function that returns one)"
            )
        return module.fresh_config()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{path}{_line(error, path)}: {_describe(error)}") from error


def _line(error: BaseException, path: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _describe(error: BaseException) -> str:
    # flowcore's own texts, and the registry's ImportError, say it all.
    if isinstance(error, ConfigurationError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _as_config(found: Any, path: Path) -> Config:
    if isinstance(found, Mapping):
        return Config.from_dict(found, str(path))
    if not isinstance(found, Config):
        kind = type(found)
        raise ConfigurationError(
            f"{path}: expected its configuration to be a flowcore.Config, got a {kind.__module__}.{kind.__qualname__}"
        )
    return found
