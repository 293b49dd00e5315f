"""The hook manager: one per kernel. It refuses what does not fit, and shields the core from what raises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pluggy

from flowcore.errors import HookError
from flowcore.plugins import hookspecs

logger = logging.getLogger(__name__)


class HookManager:
    """Holds hook implementations and calls them.

    Args:
        implementations: pairs of (name, module or object) to register.

    Raises:
        HookError: an implementation does not fit its specification; names the plugin and the hook.
    """

    def __init__(self, implementations: list[tuple[str, Any]] | None = None) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for name, implementation in implementations or []:
            self.register(implementation, name)

    def register(self, implementation: Any, name: str | None = None) -> None:
        """Add an object or module with hook implementations.

        Raises:
            HookError: it does not fit, is registered already, or implements a hook that does not exist.
        """
        shown = name or getattr(implementation, "__name__", None) or type(implementation).__name__
        try:
            self._manager.register(implementation, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise HookError(f"hook plugin {shown!r} is refused: {' '.join(str(error).split())}") from error
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(implementation)
            known = ", ".join(n for n in dir(hookspecs) if n.startswith("flowcore_"))
            raise HookError(
                f"hook plugin {shown!r} is refused: {' '.join(str(error).split())}. The hooks are: {known}"
            ) from error

    def unregister(self, implementation: Any) -> None:
        """Remove an object that was registered."""
        self._manager.unregister(implementation)

    def wanted(self, hook: str) -> bool:
        """Return whether anybody implements this hook."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return bool(caller.get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook; return its results (or its first result, as specified), or None where it raised."""
        try:
            return self._caller(hook)(**arguments)
        except Exception:
            logger.exception("an implementation of hook %s raised", hook)
            return None

    def _caller(self, hook: str) -> Callable[..., Any]:
        caller: Callable[..., Any] = getattr(self._manager.hook, hook)
        return caller
