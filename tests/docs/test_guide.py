"""Every example of the user guide is run, and must write what its page says. The rules stand in ``guide.py``."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from flowcore.plugins import registry

ROOT = Path(__file__).parents[2]
#: How many blocks of the guide may be exempt from running; each says why.
MOST_FRAGMENTS = 10


def _load_guide():  # pytest imports test modules without their folder on sys.path
    spec = importlib.util.spec_from_file_location("flowcore_docs_guide", Path(__file__).with_name("guide.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guide = _load_guide()
#: A table for those who work on flowcore is no page of the guide.
PAGES = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "reference-coverage.md")
INSTALLED = {(kind, plugin.name) for kind in registry.GROUPS for plugin in registry.installed(kind)}
#: What a section needs if its blocks have this, and the distribution that has it.
NEEDED = {
    r"\bhtex\b|HighThroughputExecutor": ("executor", "htex"),
    r"\bslurm\b|SlurmProvider": ("provider", "slurm"),
    r"\bpbspro\b|PBSProProvider|TorqueProvider": ("provider", "pbspro"),
    r"\"ssh\"|SSHChannel": ("channel", "ssh"),
    r"parsl": ("compat", "parsl"),
    r"\"monitoring\"|MonitoringHub": ("hooks", "monitoring"),
}
SECTIONS = [section for page in PAGES for section in guide.sections(page)]


def lacks(section) -> str | None:
    """Say which plugin of this repository the section needs and this environment does not have."""
    text = "".join(block.text for block in section.blocks)
    for pattern, component in NEEDED.items():
        if component not in INSTALLED and re.search(pattern, text):
            return registry.KNOWN[component][1]
    return None


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: f"{s.page.stem}-{s.slug}")
def test_section(section, tmp_path: Path) -> None:
    missing = lacks(section)
    if missing:
        pytest.skip(f"{missing} is not installed")
    guide.run(section, tmp_path)


def test_few_blocks_are_exempt() -> None:
    exempt = [
        f"{section.page.name}:{block.line}: {block.fragment}"
        for section in SECTIONS
        for block in section.blocks
        if block.fragment
    ]
    print("\n".join(exempt))  # noqa: T201 - pytest -rP shows it
    assert len(exempt) <= MOST_FRAGMENTS, "\n".join(exempt)


def test_the_index_names_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    missing = [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in text]
    assert not missing


READMES = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md"))]


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.parent.name)
def test_python_of_readmes_compiles(readme: Path) -> None:
    # What they do is shown by the tests of each plugin; many need a site.
    for block in re.findall(r"```py(?:thon)?\n(.*?)```", readme.read_text("utf-8"), re.DOTALL):
        compile(block, str(readme), "exec", dont_inherit=True)


# --- the harness itself


def page(tmp_path: Path, text: str):
    file = tmp_path / "page.md"
    file.write_text(text, "utf-8")
    (found,) = guide.sections(file)
    folder = tmp_path / "folder"
    folder.mkdir()
    return found, folder


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "something else"),
        ("```python\nprint(1)\nprint(2)\n```\n```text\n1\n```\n", "something else"),
        ("```python\nprint(1)\n```\n", "something else"),
        ("```python\nprint(12)\n```\n```text\n1\n```\n", "something else"),
        ("```python\nprint(1)\n```\n```text\n1\n...\n2\n```\n", "something else"),
        ("```python\nraise SystemExit(3)\n```\n", "ended with 3"),
        ("```python\nimport time\ntime.sleep(60)\n```\n", "took longer than 1 s"),
        ("```python\nimport subprocess\nsubprocess.Popen(['sleep', '99'])\n```\n", "left processes behind: .*sleep 99"),
        ("```console\n$ echo 1; exit 4\n1\n```\n", r"\+\[exit code 4\]"),
        ("```console\n$ echo 1\n2\n```\n", "something else"),
        ("```console\necho 1\n```\n", "begins with"),
        ("```toml\nretrys = 1\n```\n", "did you mean 'retries'"),
        ("```toml\nretries = 1\n[profiles.a]\nretries = -1\n```\n", "must be at least 0"),
    ],
)
def test_a_wrong_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str) -> None:
    monkeypatch.setattr(guide, "TIMEOUT_S", 1.0 if "sleep" in text else 30.0)
    with pytest.raises(guide.GuideError, match=problem):
        guide.run(*page(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nprint(\n```\n", "not Python"),
        ("<!-- fragment: a site -->\n```python\nprint(\n```\n", "not Python"),
        ("```sh\necho 1\n```\n", "language 'sh'"),
        ("```python\nprint(1)\n", "not closed"),
    ],
)
def test_a_wrong_block_is_found(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(guide.GuideError, match=problem):
        page(tmp_path, text)


def test_a_right_page(tmp_path: Path) -> None:
    text = (
        "## One\n\n```python\n# library.py\nx = 1\n```\n\nThen\n\n"
        "```python\nfrom library import x\nprint(x, 'and 5')\n```\n"
        "```text\n1 and ...\n```\n```python\nprint('a\\nb\\nc', __name__)\n```\n```text\n...\nc __main__\n```\n"
        "```console\n$ python -c 'import library; print(library.x)'\n1\n$ false\n[exit code 1]\n```\n"
        "<!-- fragment: it needs a site -->\n```python\nraise ValueError\n```\n"
    )
    guide.run(*page(tmp_path, text))


def test_an_indented_block(tmp_path: Path) -> None:
    section, folder = page(
        tmp_path, "1. One\n\n   ```python\n   if True:\n       print(1)\n   ```\n   ```text\n   1\n   ```\n"
    )
    guide.run(section, folder)


def test_two_sections_are_two_programs(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("## One\n```python\nx = 1\n```\n## Two\n```python\nprint(x)\n```\n", "utf-8")
    one, two = guide.sections(file)
    for section in (one, two):
        folder = tmp_path / section.slug
        folder.mkdir()
        if section is one:
            guide.run(section, folder)
        else:
            with pytest.raises(guide.GuideError, match="NameError"):
                guide.run(section, folder)


def test_a_plugin_in_a_page_is_installed(tmp_path: Path) -> None:
    text = (
        '```toml\n# pyproject.toml\n[project]\nname = "flowcore-launcher-nil"\nversion = "1.0"\n'
        '[project.entry-points."flowcore.launchers"]\nnil = "nil:NilLauncher"\n```\n'
        "```console\n$ flowcore plugins --kind launcher | grep nil\n...nil...flowcore-launcher-nil...\n```\n"
    )
    section, folder = page(tmp_path, text)
    guide.run(section, folder)
