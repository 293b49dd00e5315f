"""The hook manager: one per kernel. It refuses what does not fit, and shields the core from what raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pluggy

from flowcore.errors import ConfigurationError, HookError
from flowcore.plugins import hookspecs

logger = logging.getLogger(__name__)

#: Hooks whose implementations may refuse what is about to begin, by a ConfigurationError.
MAY_REFUSE = frozenset({"flowcore_run_started"})


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
        # pluggy's name of a plugin to the one that people know.
        self._shown: dict[str | None, str] = {}
        for name, implementation in implementations or []:
            self.register(implementation, name)

    def register(self, implementation: Any, name: str | None = None) -> None:
        """Add an object or module with hook implementations.

        Raises:
            HookError: it does not fit, is registered already, or implements a hook that does not exist.
        """
        shown = name or getattr(implementation, "__name__", None) or type(implementation).__name__
        if self._manager.is_registered(implementation) or (name is not None and self._manager.has_plugin(name)):
            raise HookError(f"hook plugin {shown!r} is refused: it is registered already")
        try:
            registered = self._manager.register(implementation, name)
            self._manager.check_pending()
            self._refuse_wrappers(implementation)
        except pluggy.PluginValidationError as error:
            # Older versions of pluggy keep what they took in before they refused.
            if self._manager.is_registered(implementation):
                self._manager.unregister(implementation)
            known = ", ".join(n for n in dir(hookspecs) if n.startswith("flowcore_"))
            raise HookError(
                f"hook plugin {shown!r} is refused: {' '.join(str(error).split())}. The hooks are: {known}"
            ) from error
        if not self._manager.get_hookcallers(implementation):
            self._manager.unregister(implementation)
            raise HookError(
                f"hook plugin {shown!r} is refused: {implementation!r:.80} implements no hook; mark the functions with "
                "flowcore.plugins.api.hookimpl"
            )
        self._shown[registered] = shown

    def _refuse_wrappers(self, implementation: Any) -> None:
        for caller in self._manager.get_hookcallers(implementation) or ():
            for found in caller.get_hookimpls():
                if found.plugin is implementation and (found.wrapper or found.hookwrapper):
                    raise pluggy.PluginValidationError(
                        implementation, f"its {caller.name} is a wrapper, and these hooks cannot be wrapped"
                    )

    def unregister(self, implementation: Any) -> None:
        """Remove an object that was registered."""
        self._manager.unregister(implementation)

    def wanted(self, hook: str) -> bool:
        """Return whether anybody implements this hook."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return bool(caller.get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook.

        Each implementation is called by itself: one that raises is logged with its plugin's name, and the
        others have their say nevertheless.

        Returns:
            All results that are not None; or the first one (None if there is none), where the specification
            asks for that.
        """
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        assert caller.spec is not None
        results = self._results(caller, arguments)
        return next(results, None) if caller.spec.opts.get("firstresult") else list(results)

    def through(self, hook: str, subject: str, **arguments: Any) -> Any:
        """Pass one of the arguments through all implementations of a hook.

        Args:
            hook: a hook whose implementations return what is to stand for that argument, or None to leave it.
            subject: name of the argument.
            arguments: all arguments of the hook.

        Returns:
            What the last one made of it.
        """
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        for result in self._results(caller, arguments):
            arguments[subject] = result  # the next one is given that
        return arguments[subject]

    def launch_command(self, executor: str, block_id: str, command: str) -> str:
        """Return what hooks make of the command of a block."""
        final: str = self.through(
            "flowcore_launch_command", "command", executor=executor, block_id=block_id, command=command
        )
        return final

    def submit_script(self, provider: str, script: str) -> str:
        """Return what hooks make of a submit script."""
        final: str = self.through("flowcore_submit_script", "script", provider=provider, script=script)
        return final

    def channel_command(self, channel: str, command: str) -> str:
        """Return what hooks make of a command that a channel is to run."""
        final: str = self.through("flowcore_channel_command", "command", channel=channel, command=command)
        return final

    def _results(self, caller: pluggy.HookCaller, arguments: dict[str, Any]) -> Iterator[Any]:
        # pluggy keeps them in the reverse of their order.
        for found in reversed(caller.get_hookimpls()):
            try:
                result = found.function(*(arguments[name] for name in found.argnames))
            except Exception as error:
                if caller.name in MAY_REFUSE and isinstance(error, ConfigurationError):
                    raise
                logger.exception("hook %s of plugin %r raised", caller.name, self._shown.get(found.plugin_name))
                continue
            if result is not None:
                yield result
