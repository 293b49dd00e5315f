# ruff: noqa: T201 - a program, whose output is what it prints
"""Checks the links in the repository's Markdown files: that the files and headings they lead to are there.

Links to the web are counted and not followed: their servers are not this repository's to test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a file's headings, made as GitHub makes them."""
    found: set[str] = set()
    # A heading may hold `code`, but a line of a code block that begins with # is none.
    for heading in HEADING.findall(re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = 1
        while (anchor := slug if count == 1 else f"{slug}-{count - 1}") in found:
            count += 1
        found.add(anchor)
    return found


def main() -> int:
    """Print each broken link; return 1 if there is one."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    inside, web, broken = 0, 0, 0
    for file in files:
        text = CODE.sub(lambda match: "\n" * match[0].count("\n"), file.read_text("utf-8"))
        for match in LINK.finditer(text):
            link = match[1] or match[2]
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                web += 1
                continue
            inside += 1
            place, _, anchor = unquote(link).partition("#")
            target = file.parent / place if place else file
            problem = None
            if not target.exists():
                problem = f"{place} does not exist"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
                problem = f"{target.relative_to(ROOT) if place else 'it'} has no heading #{anchor}"
            if problem:
                broken += 1
                line = text.count("\n", 0, match.start()) + 1
                print(f"{file.relative_to(ROOT)}:{line}: {link}: {problem}")
    print(f"{len(files)} files, {inside} links inside the repository ({broken} broken), {web} to the web")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
