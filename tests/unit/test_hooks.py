"""The hook manager: what does not fit is refused by name, and what raises breaks nothing."""

from __future__ import annotations

import logging
import types
from typing import Any

import pytest

from flowcore.errors import HookError
from flowcore.plugins import hookspecs
from flowcore.plugins.api import hookimpl
from flowcore.plugins.hooks import HookManager


class Hints:
    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.seen: list[Any] = []

    @hookimpl
    def flowcore_failure_hints(self, error: BaseException, app_name: str) -> str | None:
        self.seen.append((error, app_name))
        return self.answer


class Raising:
    @hookimpl
    def flowcore_failure_hints(self) -> str:
        raise ZeroDivisionError("in the hook")

    @hookimpl
    def flowcore_memo_hash(self) -> bytes:
        raise ZeroDivisionError("in the hash")


def hints(hooks: HookManager) -> Any:
    return hooks.call("flowcore_failure_hints", error=ValueError(), app_name="app", executor=None)


def test_calls_all_with_the_arguments_that_each_wants() -> None:
    first, second, silent = Hints("try this"), Hints("try that"), Hints(None)
    hooks = HookManager([("first", first), ("second", second), ("silent", silent)])
    # The last one registered is called first, as in pluggy.
    assert hints(hooks) == ["try that", "try this"]
    for plugin in (first, second, silent):
        ((error, app_name),) = plugin.seen
        assert isinstance(error, ValueError)
        assert app_name == "app"


def test_order_can_be_asked_for() -> None:
    class Early:
        @hookimpl(tryfirst=True)
        def flowcore_failure_hints(self) -> str:
            return "early"

    class Late:
        @hookimpl(trylast=True)
        def flowcore_failure_hints(self) -> str:
            return "late"

    assert hints(HookManager([("e", Early()), ("h", Hints("middle")), ("l", Late())])) == [
        "early",
        "middle",
        "late",
    ]


def test_first_result() -> None:
    asked = []

    class Hash:
        def __init__(self, answer: bytes | None) -> None:
            self.answer = answer

        @hookimpl
        def flowcore_memo_hash(self, obj: object) -> bytes | None:
            asked.append(self.answer)
            return self.answer

    hooks = HookManager([("a", Hash(b"a")), ("b", Hash(b"b")), ("none", Hash(None))])
    assert hooks.call("flowcore_memo_hash", obj=1, output_ref=False) == b"b"
    assert asked == [None, b"b"]


def test_each_is_given_what_the_one_before_made() -> None:
    class Before:
        def __init__(self, word: str) -> None:
            self.word = word

        @hookimpl
        def flowcore_launch_command(self, command: str) -> str | None:
            return f"{self.word} {command}" if self.word else None

    hooks = HookManager()
    for word in ("a", "", "b"):
        hooks.register(Before(word))
    made = hooks.through("flowcore_launch_command", "command", executor="e", block_id="0", command="run")
    assert sorted(made.split()) == ["a", "b", "run"]
    assert HookManager().through("flowcore_launch_command", "command", executor="e", block_id="0", command="x") == "x"


def test_nobody_implements_it() -> None:
    hooks = HookManager()
    assert hooks.wanted("flowcore_failure_hints") is False
    assert hints(hooks) == []
    assert hooks.call("flowcore_memo_hash", obj=1, output_ref=False) is None


def test_wanted() -> None:
    plugin = Hints("x")
    hooks = HookManager([("hints", plugin)])
    assert hooks.wanted("flowcore_failure_hints") is True
    assert hooks.wanted("flowcore_task_events") is False
    hooks.unregister(plugin)
    assert hooks.wanted("flowcore_failure_hints") is False
    hooks.register(plugin, "hints")
    assert hooks.wanted("flowcore_failure_hints") is True


def test_one_that_raises_is_logged_by_name_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    hooks = HookManager([("before", Hints("b")), ("the-culprit", Raising()), ("after", Hints("a"))])
    with caplog.at_level(logging.ERROR, "flowcore"):
        assert hints(hooks) == ["a", "b"]
        assert hooks.call("flowcore_memo_hash", obj=1, output_ref=False) is None
    assert [r.getMessage() for r in caplog.records] == [
        "hook flowcore_failure_hints of plugin 'the-culprit' raised",
        "hook flowcore_memo_hash of plugin 'the-culprit' raised",
    ]
    assert "ZeroDivisionError: in the hook" in caplog.text


def test_an_unnamed_one_that_raises_is_named_by_its_class(caplog: pytest.LogCaptureFixture) -> None:
    hooks = HookManager()
    hooks.register(Raising())
    hints(hooks)
    assert "of plugin 'Raising' raised" in caplog.text


def test_an_argument_that_the_specification_lacks() -> None:
    class Misfit:
        @hookimpl
        def flowcore_task_events(self, run: Any, events: Any, kernel: Any) -> None: ...

    hooks = HookManager()
    with pytest.raises(HookError) as caught:
        hooks.register(Misfit(), "my-monitor")
    text = str(caught.value)
    assert "hook plugin 'my-monitor' is refused" in text
    assert "flowcore_task_events" in text
    assert "kernel" in text
    assert not hooks.wanted("flowcore_task_events")


def test_a_misfit_leaves_nothing_registered() -> None:
    class HalfGood:
        @hookimpl
        def flowcore_failure_hints(self) -> str:
            return "never"

        @hookimpl
        def flowcore_task_events(self, nonsense: Any) -> None: ...

    hooks = HookManager()
    with pytest.raises(HookError, match="HalfGood"):
        hooks.register(HalfGood())
    assert hints(hooks) == []


def test_a_hook_that_does_not_exist() -> None:
    class Unknown:
        @hookimpl
        def flowcore_task_event(self) -> None: ...

    hooks = HookManager([("good", Hints("still here"))])
    with pytest.raises(HookError) as caught:
        hooks.register(Unknown(), "my-monitor")
    text = str(caught.value)
    assert "hook plugin 'my-monitor' is refused" in text
    assert "unknown hook 'flowcore_task_event'" in text
    # It lists what there is.
    assert "flowcore_task_events" in text
    assert "flowcore_memo_hash" in text
    assert hints(hooks) == ["still here"]
    # And the next one is judged by itself.
    hooks.register(Hints("another"), "another")
    assert hints(hooks) == ["another", "still here"]


def test_wrappers_are_refused() -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def flowcore_failure_hints(self) -> Any:
            return (yield)

    hooks = HookManager()
    with pytest.raises(HookError, match="'w' is refused: its flowcore_failure_hints is a wrapper"):
        hooks.register(Wrapper(), "w")
    assert hints(hooks) == []


def test_registering_twice() -> None:
    plugin = Hints("x")
    hooks = HookManager([("hints", plugin)])
    with pytest.raises(HookError, match="'other' is refused: it is registered already"):
        hooks.register(plugin, "other")
    with pytest.raises(HookError, match="'hints' is refused: it is registered already"):
        hooks.register(Hints("y"), "hints")
    assert hints(hooks) == ["x"]


def test_modules_can_be_plugins() -> None:
    module = types.ModuleType("my_hooks")

    @hookimpl
    def flowcore_failure_hints(app_name: str) -> str:
        return f"look at {app_name}"

    module.flowcore_failure_hints = flowcore_failure_hints  # type: ignore[attr-defined]
    assert hints(HookManager([("mine", module)])) == ["look at app"]


def test_two_objects_of_one_class() -> None:
    hooks = HookManager()
    hooks.register(Hints("one"))
    hooks.register(Hints("two"))
    assert hints(hooks) == ["two", "one"]


def test_all_specifications_are_documented() -> None:
    names = [n for n in dir(hookspecs) if n.startswith("flowcore_")]
    assert len(names) > 10
    for name in names:
        assert getattr(hookspecs, name).__doc__, name


@pytest.mark.parametrize("implementation", [3, object()])
def test_what_implements_no_hook(implementation: object) -> None:
    hooks = HookManager()
    with pytest.raises(HookError, match="implements no hook; mark the functions with flowcore.plugins.api.hookimpl"):
        hooks.register(implementation)
