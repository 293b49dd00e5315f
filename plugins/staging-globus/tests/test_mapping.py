"""What URLs and paths mean."""

from __future__ import annotations

import pytest
from flowcore_staging_globus.mapping import Location, PathMap, location
from flowcore_staging_globus.staging import GlobusStaging

from flowcore.errors import ConfigurationError, StagingError
from flowcore.files import File
from flowcore.plugins.staging import StagingPlace

UUID = "037f054a-15cf-11e8-b611-0ac6873fc732"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (f"globus://{UUID}/unsorted.txt", "/unsorted.txt"),
        (f"globus://{UUID.upper()}/a/b.txt", "/a/b.txt"),
        (f"globus://{UUID}/~/b.txt", "/~/b.txt"),
        (f"globus://{UUID}/a%20b%25.txt", "/a b%.txt"),
        (f"globus://{UUID}/a b.txt", "/a b.txt"),
        (f"globus://{UUID}/what?#1.txt", "/what?#1.txt"),
        (f"globus://{UUID}/C/data.txt", "/C/data.txt"),
    ],
)
def test_urls(url, path):
    assert location(File(url)) == Location(UUID, path)


@pytest.mark.parametrize(
    "url",
    [
        "globus://my-endpoint/a.txt",
        "globus:///a.txt",
        "globus:a.txt",
        f"globus://{UUID}",
        f"globus://{UUID}/",
        f"globus://{UUID}/folder/",
        f"globus://{UUID}x/a.txt",
        f"globus://{UUID}/a%00b.txt",
        f"globus://{UUID}/a%0Ab.txt",
    ],
)
def test_urls_that_name_no_file(url):
    with pytest.raises(StagingError) as caught:
        location(File(url))
    assert repr(url) in str(caught.value)
    assert "expected globus://<endpoint UUID>/path/of/file" in str(caught.value)


@pytest.mark.parametrize(
    ("local", "endpoint", "path", "there"),
    [
        (None, None, "/home/me/a.txt", "/home/me/a.txt"),
        ("/home/me", "/", "/home/me/work/a.txt", "/work/a.txt"),
        ("/home/me/", "/share/", "/home/me/work/../a.txt", "/share/a.txt"),
        ("/", "/root", "/home/me/a.txt", "/root/home/me/a.txt"),
        ("/home/me", "/~/", "/home/me/a.txt", "/~/a.txt"),
        ("//home/me", "/x", "/home/me/a.txt", "/x/a.txt"),
        ("/home/me", "/x", "/home/me", "/x/"),
    ],
)
def test_paths(local, endpoint, path, there):
    assert PathMap(local, endpoint).to_endpoint(path) == there


@pytest.mark.parametrize("path", ["/home/you/a.txt", "/home/me2/a.txt", "/home/me/../you/a.txt", "/"])
def test_paths_that_the_endpoint_does_not_show(path):
    with pytest.raises(ConfigurationError) as caught:
        PathMap("/home/me", "/").to_endpoint(path)
    assert "is not below local_path='/home/me', which the Globus endpoint shows as endpoint_path='/'" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"endpoint_uuid": "mine"}, r"GlobusStaging\(endpoint_uuid='mine'\): expected a UUID, such as"),
        ({"endpoint_path": "/"}, r"they are the two names of one folder.*give both, or neither"),
        ({"local_path": "/home/me"}, r"give both, or neither"),
        ({"local_path": "me", "endpoint_path": "/"}, r"local_path='me'\): expected an absolute path"),
        (
            {"local_path": "/me", "endpoint_path": "~"},
            r"endpoint_path='~'\): expected an absolute path, '/~/' for the home",
        ),
        ({"client_id": "x"}, r"client_id='x'\): expected a UUID"),
        ({"deadline_s": 0}, r"deadline_s=0\): must be at least 1"),
        ({"endpoint_id": UUID}, r"no option 'endpoint_id' \(did you mean 'endpoint_uuid'\?\)"),
    ],
)
def test_options_that_are_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        GlobusStaging(**{"endpoint_uuid": UUID, **options})


def test_the_first_options_are_those_of_the_reference():
    stager = GlobusStaging(UUID, "/", "/home/user")
    assert (stager.endpoint_uuid, stager.endpoint_path, stager.local_path) == (UUID, "/", "/home/user")


@pytest.mark.parametrize(
    ("working_dir", "text"),
    [
        (None, "it has none. Give the executor, for example, working_dir='/home/me/staged'"),
        ("work", "it has working_dir='work'"),
        ("$SCRATCH/work", "it has working_dir='$SCRATCH/work'"),
        ("/scratch", "/scratch is not below local_path='/home/me'"),
    ],
)
def test_executors_that_it_cannot_stage_for(working_dir, text, tmp_path):
    stager = GlobusStaging(UUID, "/", "/home/me")
    with pytest.raises(ConfigurationError) as caught:
        stager.start(StagingPlace("cluster", working_dir, tmp_path))
    assert text in str(caught.value)
