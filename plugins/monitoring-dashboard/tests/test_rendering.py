"""How values become text."""

from __future__ import annotations

import pytest
from flowcore_monitoring_dashboard import rendering
from flowcore_monitoring_dashboard.rendering import about, number, query_of, shares, since, size, span, when
from markupsafe import escape


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"), (0, "0 s"), (0.00042, "0.42 ms"), (0.00199, "2 ms"),
        (0.0123, "12 ms"), (0.9996, "1.00 s"), (3.14159, "3.14 s"), (59.96, "1 min 00 s"),
        (61.6, "1 min 02 s"), (3599.7, "1 h 00 min"), (7260, "2 h 01 min"), (90000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_lengths_of_time(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0398, "40 ms"), (1.585, "1.6 s"), (39.81, "40 s"), (63.1, "1 min 03 s")]
)
def test_lengths_of_time_in_two_digits(seconds, text):
    assert about(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "—"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (256 << 30, "256 GiB"), (9 << 50, "9216 TiB")],
)
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1234567, "1,234,567"), (1234.56, "1,234.6"), (3.0, "3")])
def test_numbers(value, text):
    assert number(value) == text


def test_moments_say_the_time_to_browsers_and_to_those_without_scripts():
    assert when(0) == when(None) == "—"
    assert when(1_700_000_000.25) == (
        '<time datetime="2023-11-14T22:13:20Z" data-at="1700000000.250">2023-11-14 22:13:20 UTC</time>'
    )


def test_what_goes_on_ticks_and_what_is_over_does_not():
    assert since(1000.0, 5.0, False) == "5.00 s"
    assert since(1000.0, 5.0, True) == '<span data-since="1000.000">5.00 s</span>'


def test_shares_of_a_bar_add_up_in_the_order_of_states():
    found = shares({"exec_done": 3, "pending": 1, "odd": 4})
    assert found == [("pending", 0.0, 12.5, 1), ("exec_done", 12.5, 37.5, 3), ("odd", 50.0, 50.0, 4)]
    assert shares({}) == []


def test_an_app_keeps_its_colour_whatever_the_order():
    assert rendering.colours_of(["b", "a"]) == rendering.colours_of(["a", "b"]) == {"a": 0, "b": 1}


def test_queries_hold_what_is_something_and_are_quoted():
    assert query_of([("app", "a&b"), ("state", ""), ("offset", 0), ("from", None)]) == "?app=a%26b"
    assert query_of([]) == ""


def test_every_state_has_a_mark_a_meaning_and_a_colour():
    css = rendering.assets()["dashboard.css"].decode()
    for state in rendering.STATES:
        assert rendering.MARKS[state]
        assert rendering.MEANINGS[state]
        assert f".fill-state-{state} {{" in css
        assert css.count(f"--state-{state}: #") == 2, "in light and in dark"
    assert len(set(rendering.MARKS.values())) == len(rendering.STATES)


def test_templates_have_no_inline_scripts_and_styles():
    for name in rendering.environment().list_templates():
        source, _, _ = rendering.environment().loader.get_source(rendering.environment(), name)
        assert "style=" not in source, name
        assert "<style" not in source, name
        assert " onclick" not in source, name
        assert "<script>" not in source, name
        assert "|safe" not in source, name
        assert "http://" not in source, f"{name} loads from elsewhere"
        assert "https://" not in source, f"{name} loads from elsewhere"


def test_what_is_shown_is_escaped():
    text = rendering.render("error.html", title="<b>", text="<script>alert(1)</script>", live=False)
    assert "<script>alert" not in text
    assert str(escape("<script>alert(1)</script>")) in text
