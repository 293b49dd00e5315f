"""The modules below ``parsl``, made from the table. Importing one imports nothing else; names are fetched on first use.

Rule of this module: nothing below ``parsl`` is ever looked for on ``sys.path``, so that no part of an installed Parsl
is taken in by mistake.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

from flowcore.plugins import registry
from flowcore.plugins.component import close_match
from flowcore_compat_parsl.table import MODULES, Call, Component, Entry, Part


class Parsl(types.ModuleType):
    """A module of Parsl's; its names are those of the table and its submodules."""

    def __getattr__(self, name: str) -> Any:
        entries = MODULES[self.__name__]
        if name == "__all__":
            return self._usable()
        if name in entries:
            value = _fetch(f"{self.__name__}.{name}", entries[name])
            setattr(self, name, value)
            return value
        if f"{self.__name__}.{name}" in MODULES:
            # Also where the program imported the package only.
            return importlib.import_module(f"{self.__name__}.{name}")
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        close = close_match(name, entries)
        raise AttributeError(
            f"module {self.__name__!r} has no attribute {name!r}{close}: flowcore has the names that Parsl documents; "
            f"here: {', '.join(sorted(entries)) or 'none'}"
        )

    def __dir__(self) -> list[str]:
        below = self.__name__ + "."
        modules = {n.removeprefix(below).partition(".")[0] for n in MODULES if n.startswith(below)}
        return sorted({*self.__dict__, *MODULES[self.__name__], *modules})

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions of a program that use it as a global are sent to workers, which have it as well.
        return importlib.import_module, (self.__name__,)

    def _usable(self) -> list[str]:
        # For `from parsl import *`, which must not fail since one of many plugins is not installed.
        names = []
        for name in MODULES[self.__name__]:
            try:
                getattr(self, name)
            except ImportError:
                continue
            names.append(name)
        return names


def _fetch(full_name: str, entry: Entry) -> Any:
    if isinstance(entry, Component):
        return registry.door(entry.kind, entry.name)
    if isinstance(entry, Call):
        return _import(entry.place)()
    if isinstance(entry, Part):
        try:
            return _import(entry.place)
        except ModuleNotFoundError as error:
            raise ImportError(f"{full_name} is not installed: pip install {entry.distribution}") from error
    return _import(entry)


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Finder(MetaPathFinder, Loader):
    """Finds Parsl's modules in the table; a finder of ``sys.meta_path``, and the loader of what it finds."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of the table; None for modules that are not Parsl's.

        Raises:
            ModuleNotFoundError: Parsl's, and not in the table.
        """
        if name != "parsl" and not name.startswith("parsl."):
            return None
        if name not in MODULES:
            parent, _, last = name.rpartition(".")
            siblings = [m.rpartition(".")[2] for m in MODULES if m.rpartition(".")[0] == parent]
            raise ModuleNotFoundError(
                f"No module named {name!r}: flowcore has the modules that Parsl documents{close_match(last, siblings)}",
                name=name,
            )
        return ModuleSpec(name, self, origin="flowcore", is_package=any(m.startswith(name + ".") for m in MODULES))

    def create_module(self, spec: ModuleSpec) -> Parsl:
        """Make the module."""
        return Parsl(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: the names come when they are asked for."""

    def get_code(self, name: str) -> types.CodeType:
        """Return what ``-m`` runs: a module's ``main``, where it has one."""
        source = f"from {name} import main; main()" if "main" in MODULES[name] else ""
        return compile(source, f"<{name}>", "exec")


FINDER = Finder()
