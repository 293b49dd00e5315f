"""Every built-in component passes the suite of its kind, and every installed one is what it says it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor as Pool
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowcore.files import File
from flowcore.plugins import registry
from flowcore.plugins.api import (
    Attempt,
    CopyingStaging,
    FutureExecutor,
    InTaskStaging,
    Launcher,
    SeparateTaskStaging,
    Staging,
    StagingContext,
    StagingError,
    TransferError,
    UnsupportedResource,
    fresh,
)
from flowcore.testing import (
    ChannelContract,
    ExecutorContract,
    LauncherContract,
    MemoHasherContract,
    ProviderContract,
    SerializerContract,
    StagingContract,
)
from flowcore.testing.servers import need
from flowcore.testing.staging import Source, Target


class TestThreads(ExecutorContract):
    serializes = False
    slots = 2

    @pytest.fixture
    def executor(self) -> Any:
        return registry.get("executor", "threads")(label="contract", max_threads=2)


class PoolExecutor(FutureExecutor):
    """What the docstring of FutureExecutor has in mind: futures of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "pool"
        self._pool: Pool | None = None

    def start(self, context: Any) -> None:
        super().start(context)
        self._pool = Pool(2, "contract-pool")

    def submit_future(self, attempt: Attempt) -> Future[Any]:
        if attempt.resource_specification:
            raise UnsupportedResource(self.label, f"it has no {', '.join(attempt.resource_specification)}")
        assert self._pool is not None
        return self._pool.submit(attempt.func, *attempt.args, **attempt.kwargs)

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class TestFutureExecutor(ExecutorContract):
    serializes = False
    slots = 2

    @pytest.fixture
    def executor(self) -> PoolExecutor:
        return PoolExecutor()


class TestLocalProvider(ProviderContract):
    @pytest.fixture
    def provider(self) -> Any:
        return registry.get("provider", "local")()


class TestAdHocProvider(ProviderContract):
    @pytest.fixture
    def provider(self) -> Any:
        return registry.get("provider", "adhoc")(channels=[registry.get("channel", "local")()])


class TestLocalProviderWithSimpleLauncher(ProviderContract):
    runs_copies = False

    @pytest.fixture
    def provider(self) -> Any:
        return registry.get("provider", "local")(launcher=registry.get("launcher", "simple")())


class TestSimpleLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Any:
        return registry.get("launcher", "simple")()

    def copies(self, tasks_per_node: int, nodes_per_block: int) -> int:
        return 1


class TestSingleNodeLauncher(LauncherContract):
    any_failure_fails = False
    passes_signals = True

    @pytest.fixture(params=[True, False], ids=["debug", "silent"])
    def launcher(self, request: pytest.FixtureRequest) -> Any:
        return registry.get("launcher", "single_node")(debug=request.param)


class TestSingleNodeLauncherThatFailsOnAny(LauncherContract):
    passes_signals = True

    @pytest.fixture
    def launcher(self) -> Any:
        return registry.get("launcher", "single_node")(debug=False, fail_on_any=True)


class TestWrappedLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        # A wrapper runs programs, not shell syntax: here, a shell that is one.
        launcher: Launcher = registry.get("launcher", "wrapped")(prepend="env WRAPPED=1")
        return launcher

    def copies(self, tasks_per_node: int, nodes_per_block: int) -> int:
        return 1

    def script(self, launcher: Launcher, command: str, tasks_per_node: int = 1) -> str:
        # `exit` is no program, and blocks are started by one.
        if command.startswith("exit "):
            command = f"/bin/bash -c '{command}'"
        return super().script(launcher, command, tasks_per_node)


STAND_INS = Path(__file__).parents[1] / "stand_ins" / "tools.py"


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, first on PATH."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


class ToolLauncherContract(LauncherContract):
    """The suite for the launcher of a tool that is not here: a stand-in for it runs two nodes' copies."""

    nodes = 2
    passes_signals = True
    plugin: str
    tool: str

    @pytest.fixture
    def launcher(self, programs: Path) -> Any:
        subprocess.run([sys.executable, STAND_INS, "install", programs, self.tool], check=True)
        return registry.get("launcher", self.plugin)()


class TestSrunLauncher(ToolLauncherContract):
    # The real one is tested by flowcore-provider-slurm.
    plugin = tool = "srun"


class TestSrunMPILauncher(ToolLauncherContract):
    plugin, tool = "srun_mpi", "srun"


class TestAprunLauncher(ToolLauncherContract):
    plugin = tool = "aprun"


class TestJsrunLauncher(ToolLauncherContract):
    plugin = tool = "jsrun"


class PBSLauncherContract(LauncherContract):
    """The suite for launchers that find the nodes of a job in a file: this host is one."""

    passes_signals = True

    @pytest.fixture(autouse=True)
    def nodefile(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path_factory.mktemp("job") / "nodes"
        file.write_text("localhost\nlocalhost\n")
        monkeypatch.setenv("PBS_NODEFILE", str(file))


class MPILauncherContract(PBSLauncherContract):
    tool: str

    @pytest.fixture(params=["openmpi", "mpich"])
    def launcher(self, request: pytest.FixtureRequest, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        need(f"{self.tool}.{request.param}")
        # Not a link: an MPI finds its other programs beside the one that was called.
        program = programs / self.tool
        program.write_text(f'#!/bin/bash\nexec {self.tool}.{request.param} "$@"\n')
        program.chmod(0o755)
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            monkeypatch.setenv(name, "1")
        return registry.get("launcher", self.tool)()


class TestMpiExecLauncher(MPILauncherContract):
    tool = "mpiexec"


class TestMpiRunLauncher(MPILauncherContract):
    tool = "mpirun"


class TestGnuParallelLauncher(PBSLauncherContract):
    @pytest.fixture
    def launcher(self, programs: Path) -> Any:
        need("parallel", "perl")
        subprocess.run([sys.executable, STAND_INS, "install", programs, "ssh"], check=True)
        return registry.get("launcher", "gnu_parallel")()


class TestLocalChannel(ChannelContract):
    @pytest.fixture
    def channel(self) -> Any:
        return registry.get("channel", "local")()


class TestNoOpFileStaging(StagingContract):
    looks = False

    @pytest.fixture
    def stager(self) -> Any:
        return registry.get("staging", "noop")()

    @pytest.fixture(params=["path", "url"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        path = tmp_path / "in put.txt"
        path.write_bytes(b"con\0tent")
        return Source(File(str(path) if request.param == "path" else f"file://{path}"), b"con\0tent")

    @pytest.fixture
    def same_name(self, tmp_path: Path) -> Source:
        (tmp_path / "other").mkdir()
        path = tmp_path / "other" / "in put.txt"
        path.write_bytes(b"other")
        return Source(File(path), b"other")

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        path = tmp_path / "out.txt"
        return Target(File(str(path)), path.read_bytes)


@attrs.define
class OwnWayStager(Staging):
    """Copies ``copy:/path`` URLs, as a task of its own on the way in, inside the app's task on the way out."""

    def can_stage_in(self, file: File) -> bool:
        return file.scheme == "copy"

    def can_stage_out(self, file: File) -> bool:
        return file.scheme == "copy"

    def stage_in(self, context: StagingContext, file: File, parent: Future[Any] | None) -> Future[Any]:
        assert context.working_dir is not None
        file.local_path = context.local_path(file, context.working_dir)

        def copy() -> File:
            if not Path(file.path).exists():
                raise StagingError(f"there is no {file.url}")
            Path(file.filepath).parent.mkdir(parents=True, exist_ok=True)
            Path(file.filepath).write_bytes(Path(file.path).read_bytes())
            return file

        return context.submit(copy, (), None)

    def stage_out(self, context: StagingContext, file: File, app_future: Future[Any]) -> None:
        assert context.working_dir is not None
        file.local_path = context.local_path(file, context.working_dir)
        Path(file.filepath).parent.mkdir(parents=True, exist_ok=True)

    def replace_task_stage_out(self, context: StagingContext, file: File, function: Any) -> Any:
        def and_copy(*args: Any, **kwargs: Any) -> Any:
            value = function(*args, **kwargs)
            Path(file.path).write_bytes(Path(file.filepath).read_bytes())
            return value

        return and_copy


class TestOwnWayStager(StagingContract):
    """The suite itself, with a stager that does something."""

    @pytest.fixture
    def stager(self) -> Staging:
        return OwnWayStager()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        (tmp_path / "in.txt").write_bytes(b"content")
        return Source(File(f"copy:{tmp_path}/in.txt"), b"content")

    @pytest.fixture
    def same_name(self, tmp_path: Path) -> Source:
        (tmp_path / "other").mkdir()
        (tmp_path / "other/in.txt").write_bytes(b"other content")
        return Source(File(f"copy:{tmp_path}/other/in.txt"), b"other content")

    @pytest.fixture
    def missing(self, tmp_path: Path) -> File:
        return File(f"copy:{tmp_path}/nothing.txt")

    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return Target(File(f"copy:{tmp_path}/out.txt"), (tmp_path / "out.txt").read_bytes)


class Copies(CopyingStaging):
    """Copies ``copy:/path`` URLs by the base classes that plugins use."""

    schemes = frozenset({"copy"})

    def fetch(self, file: File, path: Path) -> None:
        try:
            with fresh(path) as new:
                new.write_bytes(Path(file.path).read_bytes())
        except OSError as error:
            raise TransferError("fetch", file.url, str(error.strerror)) from error

    def push(self, file: File, path: Path) -> None:
        with fresh(Path(file.path)) as new:
            new.write_bytes(path.read_bytes())


class CopiesInTask(Copies, InTaskStaging):
    """Inside the task."""


class CopiesInSeparateTasks(Copies, SeparateTaskStaging):
    """In tasks of its own."""


class TestInTaskStaging(TestOwnWayStager):
    @pytest.fixture
    def stager(self) -> Staging:
        return CopiesInTask()


class TestSeparateTaskStaging(TestOwnWayStager):
    stages_out = False

    @pytest.fixture
    def stager(self) -> Staging:
        return CopiesInSeparateTasks()

    @pytest.fixture
    def target(self) -> Target:
        pytest.skip("this stager takes no files away")


class TestPickleSerializer(SerializerContract):
    @pytest.fixture
    def serializer(self) -> Any:
        return registry.get("serializer", "pickle")()


class TestDillSerializer(SerializerContract):
    @pytest.fixture
    def serializer(self) -> Any:
        return registry.get("serializer", "dill")()


class TestStandardMemoHasher(MemoHasherContract):
    @pytest.fixture
    def hasher(self) -> Any:
        return registry.get("memo_hasher", "standard")()


class TestNumpyMemoHasher(MemoHasherContract):
    @pytest.fixture
    def hasher(self) -> Any:
        return registry.get("memo_hasher", "numpy")()

    @pytest.fixture
    def values(self) -> Sequence[Any]:
        np = pytest.importorskip("numpy")
        pairs = [("a", "<i4"), ("b", "<i4")]
        return [
            np.float64(1),
            np.float32(1),
            np.int64(1),
            np.arange(4),
            np.arange(4).reshape(2, 2),
            np.arange(4).reshape(2, 2).T,
            np.arange(4, dtype="int32"),
            np.arange(4, dtype=">i4"),
            np.array([1, "a", None], dtype=object),
            np.array([1, "b", None], dtype=object),
            np.array(["a", "b"]),
            np.array([], dtype="int64"),
            np.array([], dtype="float64"),
            np.zeros(2, dtype=pairs),
            np.zeros(2, dtype=[("b", "<i4"), ("a", "<i4")]),
            np.ma.masked_array([1, 2], mask=[False, True]),
            np.ma.masked_array([1, 2], mask=[False, False]),
            np.datetime64("2024-01-01", "s"),
            np.datetime64("2024-01-01", "ms"),
        ]

    @pytest.fixture
    def equal_pairs(self) -> Sequence[tuple[Any, Any]]:
        np = pytest.importorskip("numpy")
        square = np.arange(9).reshape(3, 3)
        return [(square, np.asfortranarray(square)), (square[:, 1], square[:, 1].copy())]


CONTRACTS = {kind: contract for contract, kind in registry.contracts().items()}
INSTALLED = [plugin for kind in CONTRACTS for plugin in registry.installed(kind)]


@pytest.mark.parametrize("plugin", INSTALLED, ids=lambda p: f"{p.kind}-{p.name}")
def test_installed_components_are_of_their_contract(plugin: registry.Plugin) -> None:
    cls = registry.load(plugin)
    assert issubclass(cls, CONTRACTS[plugin.kind])
    assert cls.kind == plugin.kind
    assert cls.__name__ == plugin.class_name
    # One that leaves a method out cannot be made, and would fail only then.
    assert getattr(cls, "__abstractmethods__", frozenset()) == frozenset()


def test_all_kinds_have_built_in_components_and_a_suite() -> None:
    import flowcore.testing

    own = {plugin.kind for plugin in INSTALLED if plugin.distribution == registry.CORE}
    assert own == set(CONTRACTS)
    for contract in CONTRACTS.values():
        suite = getattr(flowcore.testing, f"{contract.__name__}Contract")
        assert any(name.startswith("test_") for name in dir(suite))


def test_every_built_in_component_is_tested_here() -> None:
    modules = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    shown = {"ThreadPoolExecutor": "Threads"}
    for plugin in INSTALLED:
        if plugin.distribution == registry.CORE:
            suite = f"class Test{shown.get(plugin.class_name, plugin.class_name)}("
            made = (f'registry.get("{plugin.kind}", "{plugin.name}")', f"return {plugin.class_name}(")
            assert any(text in modules for text in (suite, *made)), plugin
