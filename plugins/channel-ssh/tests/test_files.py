"""Files, where the channel says more than the contract."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import paramiko
import pytest
from flowcore_channel_ssh import files

from flowcore.errors import BadPermsScriptPath, BadScriptPath, FileCopyException, FileExists, SSHException

ODD = [
    "a b",
    "quo'te",
    'double"quote',
    "-dash",
    "ünï€",
    "two\nlines",
    "$HOME",
    "*",
    "\\n",
    "~",
    os.fsdecode(b"\xff\xfe"),
]


@pytest.fixture
def channel(servers, make):
    return make(servers, key_filename=str(servers.key))


@pytest.mark.parametrize("name", ODD)
def test_odd_names(channel, tmp_path, remote_dir, name):
    source = tmp_path / name
    source.write_bytes(b"content of " + os.fsencode(name))
    folder = f"{remote_dir}/{name}"
    there = channel.push_file(str(source), folder)
    assert there == f"{folder}/{name}"
    assert Path(there).read_bytes() == source.read_bytes()
    assert channel.isdir(folder) is True
    here = channel.pull_file(there, str(tmp_path / "back"))
    assert here == str(tmp_path / "back" / name)
    assert Path(here).read_bytes() == source.read_bytes()
    assert os.listdir(folder) == [name]
    assert os.listdir(tmp_path / "back") == [name]


def test_home(channel, servers, tmp_path):
    (tmp_path / "s.sh").write_text("text")
    home = str(servers.home)
    assert channel.abspath("~") == channel.abspath(".") == home
    assert channel.abspath("~/a/../b") == channel.abspath("b") == f"{home}/b"
    assert channel.push_file(str(tmp_path / "s.sh"), "~/scripts/new") == f"{home}/scripts/new/s.sh"
    channel.makedirs("~/made")
    assert channel.isdir("made") is channel.isdir("~/made") is True
    assert channel.pull_file("~/scripts/new/s.sh", str(tmp_path / "back")) == str(tmp_path / "back" / "s.sh")
    shutil.rmtree(servers.home / "scripts")
    (servers.home / "made").rmdir()


def test_homes_of_others_are_not_guessed(channel, tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(BadScriptPath, match="of another user's home on .*: write the whole path instead: '~root/x'"):
        channel.push_file(str(tmp_path / "f"), "~root/x")
    assert channel.isdir("~root") is False


def test_rights(channel, tmp_path, remote_dir):
    source = tmp_path / "s.sh"
    source.write_text("echo it runs")
    source.chmod(0o644)
    there = Path(channel.push_file(str(source), f"{remote_dir}/a/b"))
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert stat.S_IMODE(there.parent.stat().st_mode) == 0o700
    assert channel.execute_wait(str(there), 30)[0] == 126 or channel.execute_wait(f"bash {there}", 30)[1] == "it runs\n"
    assert there.stat().st_uid == Path(remote_dir).stat().st_uid
    here = Path(channel.pull_file(str(there), str(tmp_path / "back")))
    assert stat.S_IMODE(here.stat().st_mode) == 0o700


def test_a_file_is_replaced_as_a_whole(channel, tmp_path, remote_dir):
    source = tmp_path / "s"
    source.write_text("old")
    there = channel.push_file(str(source), remote_dir)
    source.write_text("new")
    with Path(there).open() as reader:
        channel.push_file(str(source), remote_dir)
        assert reader.read() == "old", "who reads has the file that was"
    assert Path(there).read_text() == "new"
    assert os.listdir(remote_dir) == ["s"]


def test_a_large_file(channel, tmp_path, remote_dir):
    source = tmp_path / "large"
    source.write_bytes(os.urandom(3_000_000))
    there = channel.push_file(str(source), remote_dir)
    assert Path(there).read_bytes() == source.read_bytes()
    assert Path(channel.pull_file(there, str(tmp_path / "back"))).read_bytes() == source.read_bytes()


def test_an_empty_file(channel, tmp_path, remote_dir):
    (tmp_path / "empty").touch()
    there = channel.push_file(str(tmp_path / "empty"), remote_dir)
    assert Path(channel.pull_file(there, str(tmp_path / "back"))).read_bytes() == b""


def test_a_folder_that_is_closed(channel, servers, tmp_path, remote_dir):
    (tmp_path / "f").touch()
    os.chmod(remote_dir, 0o500)
    where = f"flowcore-ssh@127.0.0.1:{servers['key'].port}"
    with pytest.raises(BadPermsScriptPath) as caught:
        channel.push_file(str(tmp_path / "f"), remote_dir)
    assert str(caught.value) == (
        "channel to 127.0.0.1: no permission to access the script directory (PermissionError: [Errno 13] "
        f"{where} cannot make files there: Permission denied. Set the channel's script_dir to a folder of yours, as "
        f"~/flowcore: '{remote_dir}')"
    )
    with pytest.raises(BadPermsScriptPath, match="cannot make this folder: Permission denied"):
        channel.push_file(str(tmp_path / "f"), f"{remote_dir}/new")
    with pytest.raises(
        PermissionError, match=f"{where} cannot make this folder: Permission denied: '{remote_dir}/new'"
    ):
        channel.makedirs(f"{remote_dir}/new/folder")
    os.chmod(remote_dir, 0o700)
    assert os.listdir(remote_dir) == []


def test_a_folder_that_cannot_be(channel, tmp_path, remote_dir):
    (tmp_path / "f").touch()
    Path(remote_dir, "file").touch()
    with pytest.raises(BadScriptPath, match=f"cannot make this folder: .*: '{remote_dir}/file'"):
        channel.push_file(str(tmp_path / "f"), f"{remote_dir}/file/x")
    with pytest.raises(OSError, match="cannot make this folder"):
        channel.makedirs(f"{remote_dir}/file", exist_ok=True)
    with pytest.raises(FileExistsError, match=f"exists on .*: '{remote_dir}'"):
        channel.makedirs(remote_dir)


def test_a_folder_where_the_file_should_be(channel, tmp_path, remote_dir):
    (tmp_path / "f").write_text("text")
    Path(remote_dir, "f").mkdir()
    with pytest.raises(FileCopyException, match=f"cannot make it: Failure: '{remote_dir}/f'"):
        channel.push_file(str(tmp_path / "f"), remote_dir)
    assert os.listdir(remote_dir) == ["f"]


def test_what_is_not_there(channel, tmp_path, remote_dir):
    with pytest.raises(FileCopyException, match=f"No such file or directory: '{tmp_path}/none'"):
        channel.push_file(str(tmp_path / "none"), remote_dir)
    with pytest.raises(FileCopyException, match=f"cannot read it: No such file: '{remote_dir}/none'"):
        channel.pull_file(f"{remote_dir}/none", str(tmp_path / "back"))
    with pytest.raises(FileCopyException, match="Is a directory|cannot read it: Failure"):
        channel.pull_file(remote_dir, str(tmp_path / "back"))
    assert os.listdir(tmp_path / "back") == []


def test_what_is_here_stays(channel, tmp_path, remote_dir):
    Path(remote_dir, "f").write_text("new")
    (tmp_path / "f").write_text("old")
    with pytest.raises(FileExists) as caught:
        channel.pull_file(f"{remote_dir}/f", str(tmp_path))
    assert caught.value.filename == str(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "old"


@pytest.mark.parametrize("error", [OSError("Failure"), KeyboardInterrupt()])
def test_a_copy_that_fails_leaves_nothing(channel, tmp_path, remote_dir, monkeypatch, error):
    def half(source, target, size):
        target.write(source.read(2))
        raise error

    (tmp_path / "f").write_text("text")
    monkeypatch.setattr(shutil, "copyfileobj", half)
    with pytest.raises((FileCopyException, KeyboardInterrupt)):
        channel.push_file(str(tmp_path / "f"), remote_dir)
    assert os.listdir(remote_dir) == []


def test_a_copy_that_is_too_short(channel, tmp_path, remote_dir, monkeypatch):
    def half(source, target, size):
        target.write(source.read()[:2])

    (tmp_path / "f").write_text("text")
    monkeypatch.setattr(shutil, "copyfileobj", half)
    with pytest.raises(FileCopyException, match=f"2 of 4 bytes arrived on .*: '{remote_dir}/f'"):
        channel.push_file(str(tmp_path / "f"), remote_dir)
    assert os.listdir(remote_dir) == []


def test_nobody_sees_half_a_file(channel, tmp_path, remote_dir, monkeypatch):
    seen = []
    copy = shutil.copyfileobj

    def look(source, target, size):
        copy(source, target, size)
        target.flush()
        [part] = Path(remote_dir).iterdir()
        seen.append((part.name[0], part.suffix, stat.S_IMODE(part.stat().st_mode)))

    (tmp_path / "s.sh").write_text("text")
    monkeypatch.setattr(shutil, "copyfileobj", look)
    channel.push_file(str(tmp_path / "s.sh"), remote_dir)
    assert seen == [(".", ".part", 0o700)]


def test_files_of_several_threads(channel, tmp_path, remote_dir):
    sources = [tmp_path / f"f{n}" for n in range(8)]
    for source in sources:
        source.write_bytes(os.urandom(100_000))
    threads = [threading.Thread(target=channel.push_file, args=(str(s), remote_dir)) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for source in sources:
        assert Path(remote_dir, source.name).read_bytes() == source.read_bytes()


def test_a_server_without_files(channel, monkeypatch):
    def garbage(*args):
        raise paramiko.SFTPError("Garbage packet received")

    monkeypatch.setattr(paramiko, "SFTPClient", garbage)
    with pytest.raises(SSHException, match=r"does not speak SFTP \(Garbage packet received\): does it"):
        channel.isdir("/")


def test_modes_of_folders(channel, remote_dir):
    channel.makedirs(f"{remote_dir}/a/b", mode=0o750)
    assert stat.S_IMODE(os.stat(f"{remote_dir}/a/b").st_mode) == 0o750
    assert stat.S_IMODE(os.stat(f"{remote_dir}/a").st_mode) == 0o755


def test_paths_are_bytes():
    assert files._bytes(os.fsdecode(b"a\xff")) == b"a\xff"
