"""What staging costs beside the bare tools: many small files and one large one, by each of flowcore's stagers and by
curl, rsync and zipfile alone, in one run.

All servers are processes of their own on this machine, and all files lie in memory where there is a file system for
that (``--folder``), so that neither a network nor a disk is measured. Everyone copies two files at a time: htex has two
workers, and a script around a bare tool (xargs) runs two of it. Each system runs in a fresh process, has fetched a few
files before the clock starts, and takes turns with the others in ``--repeats`` rounds; each figure is the median of
them.

*Small files*: the milliseconds from the first call to the last result, for each file. A task reads its file. Of
flowcore's figures, those of the same tasks with files that need not be moved (``no-staging``) are taken off; what is
left is what staging costs. The tools are run as a script would, once for each file, and once for all files together.

*The large file*: from the call of the task to its result, as a throughput.

    python benchmarks/staging.py --methods http,http-in-task,parsl-http --json results.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import report

Figures = dict[str, float]
#: Makes an app of a function.
Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]
WORKERS = 2
SMALL_BYTES = 4096
#: Small files that are fetched before the clock starts.
WARM = 16
#: What flowcore's methods are measured beside: the plugin, and the bare tool.
METHODS = {
    "http": ("http", "curl-http"),
    "http-in-task": ("http_in_task", "curl-http"),
    "ftp": ("ftp", "curl-ftp"),
    "ftp-in-task": ("ftp_in_task", "curl-ftp"),
    "rsync": ("rsync", "rsync-alone"),
    "zip": ("zip", "zipfile"),
}
#: Peers, and which method of flowcore does the same.
PEERS = {"parsl-http": "http", "parsl-http-in-task": "http-in-task"}


def read(inputs: Any) -> int:
    """The task of a small file."""
    with open(inputs[0].filepath, "rb") as file:  # noqa: PTH123 - Parsl sends the function without its module
        return len(file.read())


def measure_size(inputs: Any) -> int:
    """The task of a large file."""
    import os

    return os.stat(inputs[0].filepath).st_size  # noqa: PTH116


# --- the files, and who serves them


class Served:
    """The files: ``small/0``, ``small/1``, ... and ``large``, and where they are to be had.

    Args:
        root: the folder that has them.
        urls: where, by the scheme: what the name of a file is put behind.
        files: how many small ones there are, without those that are for warming up.
        size: bytes of the large one.
    """

    def __init__(self, root: Path, urls: dict[str, str], files: int, size: int) -> None:
        self.root = root
        self.urls = urls
        self.files = files
        self.size = size

    def url(self, method: str, name: str) -> str:
        """Return where a method finds a file."""
        return self.urls[method.removeprefix("parsl-").removesuffix("-in-task")] + name

    def names(self) -> list[str]:
        """Return the names of the small files that are counted."""
        return [f"small/{number}" for number in range(self.files)]

    def warm_names(self) -> list[str]:
        """Return the names of the small files that are not."""
        return [f"small/warm-{number}" for number in range(WARM)]

    def make(self, zipped: bool) -> None:
        """Write them, and the archive with all of them if there is to be one."""
        (self.root / "small").mkdir()
        for name in (*self.names(), *self.warm_names()):
            (self.root / name).write_bytes(os.urandom(SMALL_BYTES))
        block = os.urandom(1 << 20)
        with (self.root / "large").open("wb") as file:
            for at in range(0, self.size, len(block)):
                file.write(block[: self.size - at])
        if zipped:
            with zipfile.ZipFile(self.root / "all.zip", "w") as archive:
                for name in (*self.names(), *self.warm_names(), "large"):
                    archive.write(self.root / name, name)


@contextlib.contextmanager
def served(folder: Path, methods: list[str], files: int, size: int) -> Iterator[Served]:
    """Make the files and start the servers that the methods need."""
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="flowcore-bench-")))
        wanted = {method.removeprefix("parsl-").removesuffix("-in-task") for method in methods}
        urls = {"no-staging": f"{root}/", "zip": f"zip:{root}/all.zip/"}
        for kind in {"http", "ftp"} & wanted:
            urls[kind] = stack.enter_context(server_of_the_kit(kind, root))
        if "rsync" in wanted:
            from flowcore.testing.rsync_server import RsyncDaemon

            urls["rsync"] = stack.enter_context(RsyncDaemon(root)).url("")
        found = Served(root, urls, files, size)
        found.make("zip" in wanted)
        yield found


@contextlib.contextmanager
def server_of_the_kit(kind: str, root: Path) -> Iterator[str]:
    """Serve the folder by the testing kit's server of a protocol; the URL of the folder."""
    command = [sys.executable, "-m", f"flowcore.testing.{kind}_server", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the {kind} server did not start")
            yield url
        finally:
            process.stdin.close()


# --- the systems


@contextlib.contextmanager
def flowcore_htex(method: str, folder: str) -> Iterator[tuple[Decorate, Callable[[str], Any]]]:
    """flowcore's htex with one stager, beside that of files that need not be moved."""
    import flowcore

    stagers: list[dict[str, Any]] = [{"plugin": "noop"}]
    if method in METHODS:
        options = {"hostname": "127.0.0.1"} if method == "rsync" else {}
        stagers = [{"plugin": METHODS[method][0], **options}, *stagers]
    executor = {"plugin": "htex", "max_workers_per_node": WORKERS, "storage_access": stagers, "working_dir": folder}
    with flowcore.load({"executors": [executor], "run_dir": f"{folder}/runinfo"}):
        yield flowcore.python_app, flowcore.File


@contextlib.contextmanager
def parsl_htex(method: str, folder: str) -> Iterator[tuple[Decorate, Callable[[str], Any]]]:
    """Parsl's htex with one stager."""
    import parsl
    from parsl.data_provider import http

    # Its workers are found on PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    stager = http.HTTPInTaskStaging() if method.endswith("-in-task") else http.HTTPSeparateTaskStaging()
    executor = parsl.HighThroughputExecutor(
        max_workers_per_node=WORKERS, address="127.0.0.1", working_dir=folder, storage_access=[stager]
    )
    with parsl.load(parsl.Config(executors=[executor], run_dir=f"{folder}/runinfo")):
        yield parsl.python_app, parsl.File


def measure_library(method: str, files: Served) -> Figures:
    """Measure flowcore or a peer once."""
    with tempfile.TemporaryDirectory(dir=files.root.parent, prefix="flowcore-bench-") as folder:
        library = parsl_htex if method.startswith("parsl-") else flowcore_htex
        with library(method, folder) as (decorate, file):
            small, large = decorate(read), decorate(measure_size)

            def fetch(names: list[str]) -> float:
                began = time.perf_counter()
                for future in [small(inputs=[file(files.url(method, name))]) for name in names]:
                    if future.result() != SMALL_BYTES:
                        raise RuntimeError(f"{method}: a file has not come whole")
                return time.perf_counter() - began

            fetch(files.warm_names())
            figures = {"small_ms": 1e3 * fetch(files.names()) / files.files}
            if method == "no-staging":
                return figures
            began = time.perf_counter()
            if large(inputs=[file(files.url(method, "large"))]).result() != files.size:
                raise RuntimeError(f"{method}: the large file has not come whole")
            return figures | {"large_mb_per_s": files.size / (time.perf_counter() - began) / 1e6}


def commands(tool: str, files: Served, folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return what a bare tool is run by: for one small file ``{}``, for all of them, for the large one."""
    method = tool.removeprefix("curl-").removesuffix("-alone")
    small, large, last = files.url(method, "small/"), files.url(method, "large"), files.files - 1
    if tool == "rsync-alone":
        numbered = "--exclude=warm-*"
        return ["rsync", f"{small}{{}}", folder], ["rsync", "-r", numbered, small, folder], ["rsync", large, folder]
    curl = ["curl", "--silent", "--show-error", "--fail", "--output"]
    return (
        [*curl, f"{folder}/{{}}", f"{small}{{}}"],
        [*curl, f"{folder}/#1", f"{small}[0-{last}]"],
        [*curl, f"{folder}/large", large],
    )


def measure_tool(tool: str, files: Served) -> Figures:
    """Measure a bare tool once."""
    figures = {}
    with tempfile.TemporaryDirectory(dir=files.root.parent, prefix="flowcore-bench-") as folder:
        one, together, large = commands(tool, files, folder)

        def run(command: list[str], numbers: range | None = None) -> float:
            lines = "".join(f"{number}\n" for number in numbers) if numbers is not None else ""
            began = time.perf_counter()
            subprocess.run(command, input=lines, text=True, check=True)
            return time.perf_counter() - began

        each = ["xargs", f"--max-procs={WORKERS}", "--replace={}", *one]
        run(each, range(min(WARM, files.files)))
        figures["small_ms"] = 1e3 * run(each, range(files.files)) / files.files
        if len(os.listdir(folder)) != files.files:  # noqa: PTH208
            raise RuntimeError(f"{tool}: not all files have come")
        shutil.rmtree(folder)
        Path(folder).mkdir()
        # Where curl 7.88 uses an FTP connection again, it waits for up to a second before each file.
        if tool != "curl-ftp":
            figures["small_together_ms"] = 1e3 * run(together) / files.files
        figures["large_mb_per_s"] = files.size / run(large) / 1e6
        if Path(folder, "large").stat().st_size != files.size:
            raise RuntimeError(f"{tool}: the large file has not come whole")
    return figures


def measure_zipfile(files: Served) -> Figures:
    """Measure Python's zipfile once: with the archive opened for each file, and opened once."""
    with tempfile.TemporaryDirectory(dir=files.root.parent, prefix="flowcore-bench-") as folder:

        def extract(names: list[str]) -> float:
            began = time.perf_counter()
            with zipfile.ZipFile(files.root / "all.zip") as archive:
                archive.extractall(folder, names)
            return time.perf_counter() - began

        extract(files.warm_names())
        each_s = sum(extract([name]) for name in files.names())
        return {
            "small_ms": 1e3 * each_s / files.files,
            "small_together_ms": 1e3 * extract(files.names()) / files.files,
            "large_mb_per_s": files.size / extract(["large"]) / 1e6,
        }


def measure(name: str, files: Served) -> Figures:
    """Measure one system once, in a process that has done nothing yet; return figures by name."""
    if name == "zipfile":
        return measure_zipfile(files)
    if name in {tool for _, tool in METHODS.values()}:
        return measure_tool(name, files)
    return measure_library(name, files)


def isolated(name: str, files: Served) -> Figures:
    """Run :func:`measure` in a process of its own."""
    sizes = (f"--files={files.files}", f"--size={files.size}")
    return report.isolated(__file__, "--only", name, *sizes, f"--root={files.root}", f"--urls={json.dumps(files.urls)}")


# --- the report


def ratios(results: dict[str, Figures]) -> dict[str, float]:
    """Return what each method costs beside its bare tool and its peer, for the systems that ran."""
    found = {}
    for method, (_, tool) in METHODS.items():
        if method not in results:
            continue
        ours, theirs = results[method], results[tool]
        overhead_ms = ours["small_ms"] - results["no-staging"]["small_ms"]
        found[f"{method}: staging one small file, ms"] = overhead_ms
        found[f"{method}: staging one small file, times {tool}, once for each"] = overhead_ms / theirs["small_ms"]
        if "small_together_ms" in theirs:
            together = theirs["small_together_ms"]
            found[f"{method}: staging one small file, times {tool}, once for all"] = overhead_ms / together
        found[f"{method}: large file, share of the throughput of {tool}"] = (
            ours["large_mb_per_s"] / theirs["large_mb_per_s"]
        )
    for peer, method in PEERS.items():
        if peer in results and method in results:
            ours, theirs = results[method], results[peer]
            found[f"{method}: small files/s, tasks and staging, times {peer}"] = theirs["small_ms"] / ours["small_ms"]
            found[f"{method}: large file, throughput, times {peer}"] = ours["large_mb_per_s"] / theirs["large_mb_per_s"]
    return found


def in_memory(needed: int) -> Path:
    """Return a file system in memory that has room for so many bytes, or else the folder for temporary files."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > needed:
        return memory
    return Path(tempfile.gettempdir())


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*METHODS, *PEERS]
    parser.add_argument("--methods", default=",".join(METHODS), help=f"among: {','.join(known)}")
    parser.add_argument("--files", type=int, default=1000, help=f"small files, of {SMALL_BYTES} bytes")
    parser.add_argument("--size", type=int, default=2 * 10**9, help="bytes of the large file")
    parser.add_argument("--folder", type=Path, help="where all files are; default: in memory, if there is room")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to stdout")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one system once, in this process
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--urls", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, Served(options.root, options.urls, options.files, options.size))))
        return
    methods = [m for m in options.methods.split(",") if m]
    for method in methods:
        if method not in known:
            parser.error(f"unknown method {method!r}; choose among {', '.join(known)}")
    tools = list(dict.fromkeys(METHODS[m][1] for m in methods if m in METHODS))
    for program in sorted({tool.partition("-")[0] for tool in tools} - {"zipfile"}):
        if shutil.which(program) is None:
            parser.error(f"{program} is not on PATH: install it, or leave out what is measured beside it (--methods)")
    systems = ["no-staging", *methods, *tools]
    folder = options.folder or in_memory(4 * options.size)
    rounds: dict[str, list[Figures]] = {}
    with served(folder, methods, options.files, options.size) as files:
        for number in range(options.repeats):
            # Every other round backwards: who comes first would always meet the machine in the same state.
            for name in systems[:: -1 if number % 2 else 1]:
                print(f"round {number + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
                rounds.setdefault(name, []).append(isolated(name, files))
    results = report.medians({name: rounds[name] for name in systems})
    seen, spread = ratios(results), report.ranges(rounds, ratios)
    if options.json:
        made = report.make(options.repeats, results, seen, "flowcore", "flowcore-executor-htex", "parsl", "pyftpdlib")
        made |= {"ranges": spread, "files": options.files, "size": options.size, "folder": str(folder)}
        if report.write(made, options.json):
            return
    report.show(results, seen, spread)


if __name__ == "__main__":
    main()
