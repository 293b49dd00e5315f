"""The settings that travel as a whole to the interchange and to each manager. Frozen.

They hold the run's keys: on disk in files of mode 0600, else through a pipe; never on a command line.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class _Settings(msgspec.Struct, frozen=True):
    """Settings that may be printed: without the keys."""

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__ if not name.endswith("_key"))
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"


class InterchangeSettings(_Settings, frozen=True):
    """What the interchange is told. Times are in seconds; empty keys mean no encryption.

    With ``local_path``, managers of this host come through a Unix socket there, and no port is opened. ``selection`` is
    the policy's name, of :mod:`flowcore_executor_htex.selection`; ``tell_nodes``: the executor wants to hear of each
    manager that comes or goes.
    """

    worker_address: str
    local_path: str
    worker_port_range: tuple[int, int]
    heartbeat_threshold: float
    log_file: str
    debug: bool
    selection: str = "round-robin"
    sys_path: tuple[str, ...] = ()
    tell_nodes: bool = False
    public_key: str = ""
    secret_key: str = ""
    client_public_key: str = ""


class Listening(msgspec.Struct, frozen=True):
    """What the interchange answers: the port that it bound for managers, or what went wrong."""

    port: int = 0
    error: str = ""


class ManagerSettings(_Settings, frozen=True):
    """What a manager is told. Times are in seconds; empty keys mean no encryption.

    ``store`` is the folder for large arguments and results on this host; without one they travel with their messages.
    ``sample_period_s`` is the time between two samples of what an attempt uses; 0: at its start and end; None: none.
    """

    addresses: tuple[str, ...]
    port: int
    local_path: str
    cores_per_worker: float
    mem_per_worker: float | None
    max_workers_per_node: int | None
    cpu_affinity: str
    accelerators: tuple[str, ...]
    prefetch_capacity: int
    heartbeat_period: float
    heartbeat_threshold: float
    drain_period: float | None
    address_probe_timeout: float
    log_dir: str
    debug: bool
    sys_path: tuple[str, ...]
    store: str = ""
    walltime_s: float | None = None
    mpi_mode: bool = False
    mpi_launcher: str = "mpiexec"
    sample_period_s: float | None = None
    server_public_key: str = ""
    public_key: str = ""
    secret_key: str = ""


class WorkerSettings(msgspec.Struct, frozen=True):
    """The first message to a worker: who it is, and where its modules are.

    ``cpus`` are its hardware threads (empty: all), ``tokens`` is the file descriptor of its pipe, ``store`` as above.
    ``page`` is the file descriptor of what it shares with its manager while samples are taken.
    """

    where: str
    sys_path: tuple[str, ...]
    cpus: list[int] = []
    tokens: int = -1
    store: str = ""
    rank: int = 0
    page: int = -1


def write(path: Path, settings: ManagerSettings) -> None:
    """Write settings to a new file that only this user can read; one that is there is removed, not written to."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(settings))


def read(path: Path) -> ManagerSettings:
    """Read the settings of a manager.

    Raises:
        OSError: the file cannot be read.
        msgspec.DecodeError: it was not written by :func:`write`.
    """
    return msgspec.json.decode(path.read_bytes(), type=ManagerSettings)
