"""How values become text, and pages HTML.

Rule of this module: templates escape all that they are given, and have no scripts or styles within: the policy of
:mod:`access` forbids both.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from flowcore_monitoring_sqlite.queries import STATES
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from flowcore_monitoring_dashboard.plotlyjs import plotly, style_ids

PACKAGE = "flowcore_monitoring_dashboard"
#: What states mean, for those who have not met their names.
MEANINGS = {
    "pending": "waits for what it depends on, or for a place",
    "launched": "was given to an executor",
    "running": "is at work",
    "joining": "waits for the tasks that its join_app returned",
    "running_ended": "has run; its files are on their way",
    "fail_retryable": "failed, and is tried again",
    "exec_done": "done",
    "memo_done": "done before: the result was reused",
    "failed": "failed",
    "dep_fail": "not run, since something it depends on failed",
}
#: Marks that stand beside the names of states, so that colour is never the only difference.
MARKS = {
    "pending": "○", "launched": "◔", "running": "▶", "joining": "⋈", "running_ended": "◕", "fail_retryable": "↻",
    "exec_done": "✓", "memo_done": "≡", "failed": "✕", "dep_fail": "⊘",
}  # fmt: skip
#: Colours of apps there are in the style sheet.
APP_COLOURS = 10


def number(value: float) -> str:
    """Return a number with its thousands apart; with one decimal if it is no integer."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def span(seconds: float | None) -> str:
    """Return a length of time in the units that one would say it in."""
    if seconds is None:
        return "—"
    if seconds < 5e-7:
        return "0 s"
    if seconds < 0.00995:
        return f"{float(f'{seconds * 1000:.2g}'):g} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if whole < 3600:
        return f"{m} min {s:02d} s"
    if whole < 86400:
        return f"{h} h {m:02d} min"
    return f"{days} d {h:02d} h"


def about(seconds: float) -> str:
    """Return a length of time in two digits."""
    seconds = float(f"{seconds:.2g}")
    if seconds < 1:
        return f"{seconds * 1000:g} ms"
    return f"{seconds:g} s" if seconds < 60 else span(seconds)


def size(byte_count: float | None) -> str:
    """Return a number of bytes in binary units."""
    if byte_count is None:
        return "—"
    value = float(byte_count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def when(at: float | None) -> Markup:
    """Return a moment as an element that the browser shows in its own time zone; without scripts, in UTC."""
    if not at:
        return Markup("—")
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" data-at="{}">{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{at:.3f}", moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def since(began: float, duration_s: float, goes_on: bool) -> Markup:
    """Return a length of time as an element; if it goes on, one that the browser lets tick."""
    if not goes_on:
        return escape(span(duration_s))
    return Markup('<span data-since="{}">{}</span>').format(f"{began:.3f}", span(duration_s))


def in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return states with their counts in the order in which a task goes through them; unknown ones last."""
    return [(s, counts[s]) for s in (*STATES, *sorted(set(counts) - set(STATES))) if counts.get(s)]


def shares(counts: Mapping[str, int]) -> list[tuple[str, float, float, int]]:
    """Return (state, from, width, count) of a bar that is 100 wide."""
    total = sum(counts.values()) or 1
    found, at = [], 0.0
    for state, count in in_order(counts):
        width = 100 * count / total
        found.append((state, round(at, 3), round(width, 3), count))
        at += width
    return found


def colours_of(apps: Iterable[str]) -> dict[str, int]:
    """Return the number of a colour for each app: the same on all pages of a run, as long as no app is new."""
    return {app: i % APP_COLOURS for i, app in enumerate(sorted(apps))}


def query_of(values: Iterable[tuple[str, Any]]) -> str:
    """Return a query that holds those values that are something."""
    text = urlencode([(name, value) for name, value in values if value not in (None, "", 0)])
    return f"?{text}" if text else ""


def quoted(text: str) -> str:
    """Return text as it may stand between the slashes of an address."""
    return quote(text, safe="")


@functools.cache
def assets() -> dict[str, bytes]:
    """Return the files that browsers get, by name."""
    folder = files(PACKAGE) / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


@functools.cache
def asset_version() -> str:
    """Return a text that differs when a file for browsers does: in their addresses it lets browsers keep them."""
    seen = hashlib.sha256()
    for name, content in sorted({**assets(), "plotly.min.js": plotly()}.items()):
        seen.update(name.encode() + b"\0" + content)
    return seen.hexdigest()[:12]


@functools.cache
def environment() -> Environment:
    """Return the templates."""
    found = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        number=number, span=span, size=size, when=when, in_order=in_order, shares=shares, quoted=quoted
    )
    found.globals.update(
        since=since,
        meanings=MEANINGS,
        marks=MARKS,
        asset_version=asset_version(),
        query_of=query_of,
        style_ids=style_ids(),
    )
    return found


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: its name.
        values: what it shows.
    """
    return environment().get_template(template).render(**values)
