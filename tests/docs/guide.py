"""Reads the blocks of the user guide's pages and runs them. The rules, which the pages keep:

- The ``python`` blocks of one ``##`` section are one program, in their order: a file that is run as ``__main__``, in a
  fresh interpreter and an empty folder. ``text`` blocks that follow are, together, exactly what it prints.
- A block whose first line is a comment with a file name (``# library.py``) is that file, in the section's folder.
- ``toml`` blocks are configurations that :class:`flowcore.Config` accepts, with each of their profiles.
  ``# pyproject.toml`` is installed: its metadata are laid into the folder, as an editable installation does.
- The ``$`` lines of ``console`` blocks are commands, run after the program; the lines below are exactly what they
  write. Each ends with 0, unless its output ends with a line ``[exit code N]``.
- In expected output, ``...`` stands for anything within a line, and alone on a line for any number of lines.
- ``<!-- fragment: reason -->`` on the line before a block exempts it from running. Python must compile all the same.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs

from flowcore import Config
from flowcore.testing import processes

#: Seconds that one program or command may take.
TIMEOUT_S = 30.0
LANGUAGES = frozenset({"python", "toml", "text", "console", "mermaid"})
#: The environment variable by which the processes of one command are known, whoever their parent is.
_MARK = "GUIDE_COMMAND"
_FENCE = re.compile(r"^( *)```(.*)$")
_FRAGMENT = re.compile(r"<!-- fragment: (.+) -->")
_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)\s*$")


class GuideError(Exception):
    """The guide says something that is not so; the text says where and what."""


@attrs.frozen
class Block:
    """One fenced block: its language, text, line in the page, file name if it has one, and why it is exempt."""

    language: str
    text: str
    line: int
    name: str | None
    fragment: str | None


@attrs.frozen
class Section:
    """What stands below one ``##`` heading (or before the first one)."""

    page: Path
    title: str
    blocks: tuple[Block, ...]

    @property
    def slug(self) -> str:
        """A short name for the test."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def sections(page: Path) -> Iterator[Section]:
    """Yield the sections of a page that have blocks.

    Raises:
        GuideError: a block has another language than those above, or is not closed.
    """
    title, blocks = "", []
    opened: tuple[int, str, int] | None = None
    lines: list[str] = []
    before = ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if fence and not fence[2].strip() and len(fence[1]) == opened[0]:
                blocks.append(_block(page, opened, lines, before))
                opened, before = None, ""
            else:
                lines.append(line[opened[0] :] if line.startswith(" " * opened[0]) else line)
        elif fence:
            opened, lines = (len(fence[1]), fence[2].strip(), number), []
        elif line.startswith("## "):
            if blocks:
                yield Section(page, title, tuple(blocks))
            title, blocks = line[3:], []
        elif line.strip():
            before = line
    if opened is not None:
        raise GuideError(f"{page.name}:{opened[2]}: the block is not closed")
    if blocks:
        yield Section(page, title, tuple(blocks))


def _block(page: Path, opened: tuple[int, str, int], lines: list[str], before: str) -> Block:
    _, language, number = opened
    fragment = _FRAGMENT.fullmatch(before.strip())
    name = _FILE_NAME.fullmatch(lines[0]) if lines else None
    block = Block(
        language,
        "\n".join(lines) + "\n",
        number,
        name[1] if name and language in ("python", "toml") else None,
        fragment[1] if fragment else None,
    )
    if language not in LANGUAGES:
        raise GuideError(f"{page.name}:{number}: a block of language {language!r}; there are {sorted(LANGUAGES)}")
    if language == "python":
        try:
            compile(block.text, f"{page.name}:{number}", "exec", dont_inherit=True)
        except SyntaxError as error:
            raise GuideError(f"{page.name}:{number + (error.lineno or 1)}: not Python: {error.msg}") from error
    return block


def run(section: Section, folder: Path) -> None:
    """Run a section in an empty folder.

    Raises:
        GuideError: a program or command failed, or wrote something else than the page says.
    """
    blocks = [b for b in section.blocks if b.fragment is None]
    program: list[Block] = []
    expected: list[str] = []
    commands: list[Block] = []
    for block in blocks:
        if block.name is not None:
            path = folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
            if path.name == "pyproject.toml":
                _install(path)
        elif block.language == "python":
            program.append(block)
        elif block.language == "text" and program:
            expected.append(block.text)
        elif block.language == "console":
            commands.append(block)
    for block in blocks:
        if block.language == "toml" and block.name != "pyproject.toml":
            _check_configuration(section, block, folder)
    if program:
        # At the lines at which the blocks stand in the page, so that tracebacks name them.
        source = ""
        for block in program:
            source += "\n" * (block.line - source.count("\n")) + block.text
        (folder / "program.py").write_text(source, "utf-8")
        written, code = _execute([sys.executable, "program.py"], folder)
        where = f"{section.page.name}, section {section.title!r}"
        if code != 0:
            raise GuideError(f"{where}: the program ended with {code}:\n{written}")
        _compare(where, "".join(expected), written)
    for block in commands:
        _run_commands(section, block, folder)


def _run_commands(section: Section, block: Block, folder: Path) -> None:
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    if parts[0].strip():
        raise GuideError(f"{section.page.name}:{block.line}: a console block begins with '$ '")
    for command, expected in zip(parts[1::2], parts[2::2], strict=True):
        where = f"{section.page.name}:{block.line}: $ {command}"
        written, code = _execute(["/bin/bash", "-c", command], folder)
        if code != 0:
            written += ("" if written.endswith("\n") or not written else "\n") + f"[exit code {code}]\n"
        _compare(where, expected, written)


def _check_configuration(section: Section, block: Block, folder: Path) -> None:
    where = f"{section.page.name}:{block.line}"
    values = tomllib.loads(block.text)
    path = folder / (block.name or "configuration.toml")
    path.write_text(block.text, "utf-8")
    # Functions that it names may be in the section's own modules.
    sys.path.insert(0, str(folder))
    try:
        for profile in (None, *values.get("profiles", {})):
            Config.from_file(path, profile)
    except Exception as error:
        raise GuideError(f"{where}: {error}") from error
    finally:
        sys.path.remove(str(folder))


def _install(pyproject: Path) -> None:
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    info = pyproject.parent / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    requires = "".join(f"Requires-Dist: {r}\n" for r in project.get("dependencies", ()))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}", "utf-8")
    groups = project.get("entry-points", {})
    text = "".join(f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for g, e in groups.items())
    (info / "entry_points.txt").write_text(text, "utf-8")


def _execute(command: list[str], folder: Path) -> tuple[str, int]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOWCORE_") and k != "FORCE_COLOR"}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "COLUMNS": "120",
        _MARK: str(uuid.uuid4()),
    }
    # To a file: what a program leaves behind would keep a pipe open, and hold us up.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            try:
                code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise GuideError(f"{' '.join(command)} took longer than {TIMEOUT_S:g} s") from error
            finally:
                process.kill()
                left = _end_processes(f"{_MARK}={environment[_MARK]}")
        if left:
            raise GuideError(f"{' '.join(command)} left processes behind: {left}")
        output.seek(0)
        return output.read(), code


def _end_processes(mark: str) -> list[str]:
    """End what still runs, after a moment, of the processes with this mark; return their command lines."""
    end = time.monotonic() + 3
    while found := [p for p in processes.carrying(mark) if processes.alive(p.pid)]:
        if time.monotonic() > end:
            processes.kill(found)
            return [process.command for process in found]
        time.sleep(0.02)
    return []


def _pattern(expected: str) -> str:
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, line.split("..."))) + r"\n"
    return pattern


def _compare(where: str, expected: str, written: str) -> None:
    # Blank lines at the ends, and blanks at the ends of lines, cannot be seen in a page.
    written = "".join(f"{line.rstrip()}\n" for line in written.strip("\n").splitlines())
    if re.fullmatch(_pattern(expected.strip("\n")), written):
        return
    diff = difflib.unified_diff(expected.splitlines(), written.splitlines(), "the page", "the output", lineterm="")
    raise GuideError(f"{where}: it wrote something else:\n" + "\n".join(diff))
