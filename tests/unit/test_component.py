"""``@component``: a component that was constructed is valid, and a refusal explains itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import pytest

from flowcore.errors import ConfigurationError
from flowcore.plugins.component import at_least, close_match, component, describe_type, options, type_hints


def _even(instance: Any, attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{attribute.name} must be even")


@component
class Part:
    """Has options of many types."""

    name: str
    size: int = attrs.field(default=2, validator=at_least(1))
    pairs: int = attrs.field(default=2, validator=_even)
    rate: float = 1.0
    limit: float | None = attrs.field(default=None, validator=at_least(0.5))
    words: Sequence[str] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    mode: Literal["fast", "safe"] = "safe"
    on_end: Callable[..., Any] | None = None
    anything: Any = None
    calls: int = attrs.field(default=0, init=False)


@component
class Larger(Part):
    """Adds an option to another component."""

    depth: int = 1


class Plain:
    """A component that writes its constructor itself."""

    def __init__(self, host: str, port: int = 22) -> None:
        self.host, self.port = host, port


def refusal(cls: Any = Part, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        cls(*args, **kwargs)
    return str(caught.value)


def test_good_values() -> None:
    part = Part("a", 3, rate=2, limit=1, words=["x"], env={"a": "b"}, mode="fast", on_end=print, anything=object())
    assert (part.name, part.size, part.rate, part.limit, part.calls) == ("a", 3, 2, 1, 0)
    assert Part("a").words == ()
    assert repr(Part("a")).startswith("Part(name='a', size=2,")


def test_components_are_compared_by_identity() -> None:
    # They hold threads and connections, and stand in dicts.
    assert Part("a") != Part("a")
    assert len({Part("a"), Part("a")}) == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": 1}, "Part(name=1): expected str, got int"),
        ({"size": "3"}, "Part(size='3'): expected int, got str"),
        ({"size": 2.0}, "Part(size=2.0): expected int, got float"),
        ({"rate": "fast"}, "Part(rate='fast'): expected float, got str"),
        ({"limit": "x"}, "Part(limit='x'): expected float | None, got str"),
        ({"words": ["a", 1]}, "Part(words=['a', 1]): expected Sequence[str], got list"),
        ({"env": {"a": 1}}, "Part(env={'a': 1}): expected Mapping[str, str], got dict"),
        ({"mode": "quick"}, "Part(mode='quick'): expected Literal['fast', 'safe'], got str"),
        ({"on_end": 3}, "Part(on_end=3): expected Callable[..., Any] | None, got int"),
        ({"size": 0}, "Part(size=0): must be at least 1"),
        ({"limit": 0.25}, "Part(limit=0.25): must be at least 0.5"),
        ({"pairs": 3}, "Part: pairs must be even"),
    ],
)
def test_unfit_values(values: dict[str, Any], text: str) -> None:
    assert refusal(**{"name": "a", **values}) == text


def test_all_elements_are_checked() -> None:
    assert "words=" in refusal(name="a", words=["x"] * 50 + [None])


def test_an_unknown_option() -> None:
    listed = "its options: name, size, pairs, rate, limit, words, env, mode, on_end, anything"
    assert refusal(name="a", siez=3) == f"Part has no option 'siez' (did you mean 'size'?); {listed}"
    assert refusal(name="a", zzz=3) == f"Part has no option 'zzz'; {listed}"
    # Its own state is no option.
    assert refusal(name="a", calls=3) == f"Part has no option 'calls'; {listed}"


def test_a_missing_option() -> None:
    assert refusal() == "Part() missing 1 required positional argument: 'name'"


def test_too_many_and_repeated_arguments() -> None:
    assert "positional arguments" in refusal(Part, *range(20))
    assert "multiple values for argument 'name'" in refusal(Part, "a", name="b")


def test_a_component_without_options() -> None:
    @component
    class Empty: ...

    assert Empty() is not None
    assert refusal(Empty, x=1) == "Empty has no option 'x'; its options: none"


def test_inherited_options() -> None:
    assert Larger("a", depth=3).size == 2
    assert refusal(Larger, "a", depth="x") == "Larger(depth='x'): expected int, got str"
    assert refusal(Larger, "a", size=0) == "Larger(size=0): must be at least 1"
    assert "did you mean 'depth'" in refusal(Larger, "a", dept=1)


def test_a_check_of_the_whole() -> None:
    @component
    class Range:
        low: int
        high: int

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ConfigurationError(f"Range(low={self.low}, high={self.high}): must be low <= high")

    assert Range(1, 2).high == 2
    assert refusal(Range, 2, 1) == "Range(low=2, high=1): must be low <= high"


def test_the_cause_is_kept() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Part("a", pairs=3)
    assert isinstance(caught.value.__cause__, ValueError)


def test_options_and_types() -> None:
    assert list(options(Part))[:3] == ["name", "size", "pairs"]
    assert "calls" not in options(Part)
    assert type_hints(Part)["limit"] == float | None
    assert list(options(Plain)) == ["host", "port"]
    assert type_hints(Plain) == {"host": str, "port": int}


def test_describe_type() -> None:
    assert describe_type(int) == "int"
    assert describe_type(float | None) == "float | None"
    assert describe_type(Sequence[str]) == "Sequence[str]"
    assert describe_type(options(Plain)["host"].empty) == "anything"


def test_close_match() -> None:
    assert close_match("slrum", ["local", "slurm"]) == " (did you mean 'slurm'?)"
    assert close_match("qqq", ["local", "slurm"]) == ""
    assert close_match("x", []) == ""
