"""How commands show tables and facts.

Rule of this module: in a terminal, text is laid out to its width; in a pipe or file, one row is one line, so
that ``grep`` and ``awk`` work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

#: Where nobody looks at it, no row is ever wrapped.
_ENDLESS = 100_000
#: Longer lines of prose are hard to read.
_READABLE = 100
_STYLES = {"ok": "green", "not ok": "red"}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout.

    Args:
        columns: the headings.
        rows: the cells of each row, as plain text; ``ok`` and ``not ok`` are coloured. The last column takes
            what is left of the terminal's width and is wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        last = i == len(columns) - 1
        table.add_column(column, no_wrap=False, overflow="fold", ratio=1 if last else None)
    for row in rows:
        # As Text: rich would take the brackets in a plain string for markup.
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    _print(table)


def wrapped(text: str, indent: str) -> str:
    """Return one line of text, indented, wrapped to the width of the terminal if there is one."""
    console = _console()
    width = min(console.width, _READABLE) if console.is_terminal else _ENDLESS
    return click.wrap_text(text, width, indent, indent)


def print_entry(heading: str, note: str, text: str) -> None:
    """Print an entry of a list of definitions on stdout: a heading line, and the text below it, indented.

    Args:
        heading: what is defined; printed bold.
        note: stands beside it.
        text: the definition; may be empty.
    """
    click.echo(f"  {click.style(heading, bold=True)}{note}")
    if text:
        click.echo(wrapped(text, " " * 6))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values on stdout, the values below each other."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    _print(table)


def print_paragraph(text: str) -> None:
    """Print plain text on stdout, wrapped at words."""
    from rich.text import Text

    _print(Text(text))


def plain(text: str) -> str:
    """Return reStructuredText of a docstring without its roles and double backquotes."""
    text = re.sub(r":[\w:]+:`~?([^`<]+)`", r"`\1`", text)
    return text.replace("``", "`")


def _print(renderable: object) -> None:
    console = _console()
    with console.capture() as captured:
        console.print(renderable)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    # A box without outer lines has empty ones there.
    shown = [i for i, line in enumerate(lines) if click.unstyle(line).strip()]
    # Through click, which knows about colours in pipes, closed pipes and test runners.
    click.echo("\n".join(lines[shown[0] : shown[-1] + 1] if shown else []))


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_ENDLESS)
