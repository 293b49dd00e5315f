"""The serializers that come with the core, and the stager, where they say more than the contract."""

from __future__ import annotations

import pickle

import pytest

from flowcore import File
from flowcore.builtin.noop_staging import NoOpFileStaging
from flowcore.builtin.serializers import DillSerializer, PickleSerializer
from flowcore.plugins import registry


def test_pickle_is_plain_pickle() -> None:
    assert pickle.loads(PickleSerializer().serialize([1, "a"])) == [1, "a"]


def test_dill_takes_what_pickle_does_not() -> None:
    factor = 3
    closure = lambda x: x * factor  # noqa: E731
    with pytest.raises(Exception, match="pickle"):
        PickleSerializer().serialize(closure)
    assert DillSerializer().deserialize(DillSerializer().serialize(closure))(2) == 6


def test_their_names() -> None:
    assert registry.get("serializer", "pickle") is PickleSerializer
    assert registry.get("serializer", "dill") is DillSerializer


@pytest.mark.parametrize(
    ("url", "staged"),
    [("a.csv", True), ("/a b/c?d#e", True), ("file:///a", True), ("http://h/a", False), ("ftp://h/a", False)],
)
def test_noop_staging_is_for_files(url: str, staged: bool) -> None:
    stager = NoOpFileStaging()
    assert stager.can_stage_in(File(url)) is staged
    assert stager.can_stage_out(File(url)) is staged
