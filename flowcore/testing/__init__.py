"""The testing kit for components: a contract suite per kind, fakes, and a check for leftovers.

A contract suite is a class of pytest tests that says what the docstrings of a contract promise. Whoever writes
a component subclasses the suite of its kind in a test module and says how the component is made::

    from flowcore.testing import ProviderContract

    class TestMyProvider(ProviderContract):
        @pytest.fixture
        def provider(self):
            return MyProvider(partition="debug")

Where a contract leaves a choice, the suite has a class attribute for it, named in its docstring. The fakes
(:class:`FakeExecutor`, :class:`FakeBlockExecutor`, :class:`FakeProvider`, :class:`FakeClock`) need no pytest;
the suites and :func:`no_leftovers` do. Nothing of the core imports this package.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowcore.testing.channel import ChannelContract
    from flowcore.testing.executor import BlockExecutorContract, ExecutorContract
    from flowcore.testing.fakes import FakeBlockExecutor, FakeClock, FakeExecutor, FakeProvider
    from flowcore.testing.launcher import LauncherContract
    from flowcore.testing.leftovers import no_leftovers
    from flowcore.testing.memo_hasher import MemoHasherContract
    from flowcore.testing.provider import ProviderContract
    from flowcore.testing.serializer import SerializerContract
    from flowcore.testing.staging import StagingContract
    from flowcore.testing.waiting import eventually

_HOME = {
    "BlockExecutorContract": "executor",
    "ChannelContract": "channel",
    "ExecutorContract": "executor",
    "FakeBlockExecutor": "fakes",
    "FakeClock": "fakes",
    "FakeExecutor": "fakes",
    "FakeProvider": "fakes",
    "LauncherContract": "launcher",
    "MemoHasherContract": "memo_hasher",
    "ProviderContract": "provider",
    "SerializerContract": "serializer",
    "StagingContract": "staging",
    "eventually": "waiting",
    "no_leftovers": "leftovers",
}

__all__ = [
    "BlockExecutorContract",
    "ChannelContract",
    "ExecutorContract",
    "FakeBlockExecutor",
    "FakeClock",
    "FakeExecutor",
    "FakeProvider",
    "LauncherContract",
    "MemoHasherContract",
    "ProviderContract",
    "SerializerContract",
    "StagingContract",
    "eventually",
    "no_leftovers",
]

# Failed asserts of the suites show their values, as those of test modules do. Only where pytest runs: the
# fakes are for other uses too.
if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(*sorted({f"{__name__}.{home}" for home in _HOME.values()}))


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
