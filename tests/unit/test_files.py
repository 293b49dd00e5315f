"""File: a name that does not depend on the place."""

from __future__ import annotations

import pathlib

import pytest

from flowcore import AUTO_LOGNAME, File


@pytest.mark.parametrize(
    ("url", "scheme", "netloc", "path", "filename"),
    [
        ("a.txt", "file", "", "a.txt", "a.txt"),
        ("sub/a.txt", "file", "", "sub/a.txt", "a.txt"),
        ("/abs/a.txt", "file", "", "/abs/a.txt", "a.txt"),
        ("file:///abs/a.txt", "file", "", "/abs/a.txt", "a.txt"),
        ("file://localhost/abs/a.txt", "file", "localhost", "/abs/a.txt", "a.txt"),
        ("https://host:8080/d/a.txt?x=1", "https", "host:8080", "/d/a.txt", "a.txt"),
        ("ftp://host/a", "ftp", "host", "/a", "a"),
        ("globus://uuid/d/a.txt", "globus", "uuid", "/d/a.txt", "a.txt"),
        ("odd?name#here.txt", "file", "", "odd?name#here.txt", "odd?name#here.txt"),
        ("with space/ü.txt", "file", "", "with space/ü.txt", "ü.txt"),
        ("", "file", "", "", ""),
        ("dir/", "file", "", "dir/", "dir"),
    ],
)
def test_parts(url, scheme, netloc, path, filename):
    file = File(url)
    assert (file.url, file.scheme, file.netloc, file.path, file.filename) == (url, scheme, netloc, path, filename)


def test_of_a_path():
    file = File(pathlib.Path("/d") / "a.txt")
    assert (file.url, file.scheme, file.filepath) == ("/d/a.txt", "file", "/d/a.txt")


@pytest.mark.parametrize("wrong", [None, 3, b"a.txt", ["a.txt"]])
def test_of_something_else(wrong):
    with pytest.raises(TypeError) as caught:
        File(wrong)
    assert str(caught.value) == f"File() takes a URL or a path, got {wrong!r} of type {type(wrong).__name__}"


def test_filepath():
    assert File("a.txt").filepath == "a.txt"
    assert File("file:///d/a.txt").filepath == "/d/a.txt"
    remote = File("https://h/a.txt")
    with pytest.raises(ValueError) as caught:
        remote.filepath  # noqa: B018
    assert str(caught.value) == (
        "https://h/a.txt has no path here: only file: URLs have one before staging. "
        "Pass the File to an app and read `filepath` inside it."
    )
    remote.local_path = "/tmp/a.txt"
    assert remote.filepath == "/tmp/a.txt"


def test_str_repr_and_fspath(tmp_path):
    remote = File("https://h/a.txt")
    assert (str(remote), repr(remote)) == ("https://h/a.txt", "File('https://h/a.txt')")
    remote.local_path = "/tmp/a.txt"
    assert (str(remote), repr(remote)) == ("/tmp/a.txt", "File('https://h/a.txt', local_path='/tmp/a.txt')")
    assert f"cat {File('file:///d/a.txt')}" == "cat /d/a.txt"
    path = tmp_path / "x"
    path.write_text("content")
    with open(File(str(path))) as file:
        assert file.read() == "content"


def test_cleancopy():
    staged = File("https://h/a.txt")
    staged.local_path = "/tmp/a.txt"
    copy = staged.cleancopy()
    assert copy is not staged
    assert (copy.url, copy.local_path) == (staged.url, None)


def test_has_no_further_attributes():
    with pytest.raises(AttributeError):
        File("a").typo = 1


def test_auto_logname():
    import copy
    import pickle

    assert repr(AUTO_LOGNAME) == "AUTO_LOGNAME"
    assert pickle.loads(pickle.dumps(AUTO_LOGNAME)) is AUTO_LOGNAME
    assert copy.deepcopy(AUTO_LOGNAME) is AUTO_LOGNAME
