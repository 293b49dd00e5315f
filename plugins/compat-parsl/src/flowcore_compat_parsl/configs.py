"""The ready-made configurations of ``parsl.configs``. Each call makes a fresh one, as a Config is used once."""

from __future__ import annotations

from flowcore.executors import ThreadPoolExecutor
from flowcore.providers import LocalProvider
from flowcore_compat_parsl.config import Config
from flowcore_compat_parsl.executors import high_throughput_executor


def local_threads() -> Config:
    """Return the configuration of ``parsl.configs.local_threads``: threads in this process."""
    return Config(executors=[ThreadPoolExecutor()])


def htex_local() -> Config:
    """Return the configuration of ``parsl.configs.htex_local``: worker processes on this host, one block.

    Raises:
        ImportError: flowcore-executor-htex is not installed.
    """
    executor = high_throughput_executor()
    provider = LocalProvider(init_blocks=1, max_blocks=1)
    return Config(executors=[executor(label="htex_local", cores_per_worker=1, provider=provider)], strategy="none")
