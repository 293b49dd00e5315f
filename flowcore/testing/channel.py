"""The contract suite of channels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flowcore.plugins.api import BadPermsScriptPath, Channel, FileCopyException, FileExists
from flowcore.testing import processes
from flowcore.testing.waiting import eventually


class ChannelContract:
    """What every channel promises; see :class:`flowcore.plugins.api.Channel`.

    Subclass it, and make the channel in the fixture ``channel``. For a channel to a host that does not see this
    one's folders, override ``remote_dir`` too::

        class TestMyChannel(ChannelContract):
            @pytest.fixture
            def channel(self):
                return MyChannel(hostname="localhost", port=2222)

    Attributes:
        on_this_host: the commands run on this host, so that their processes can be looked at.
        kill_bound_s: seconds within which the processes of a command are gone that took too long.
        superuser: the commands run as root, to whom no folder is closed.
    """

    on_this_host: bool = True
    kill_bound_s: float = 10.0
    superuser: bool = os.geteuid() == 0

    @pytest.fixture
    def channel(self) -> Channel:
        """The channel under test. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `channel`")

    @pytest.fixture
    def opened(self, channel: Channel) -> Iterator[Channel]:
        """The channel, closed in the end."""
        try:
            yield channel
        finally:
            channel.close()

    @pytest.fixture
    def remote_dir(self, tmp_path: Path) -> str:
        """An existing, empty folder on the other host."""
        path = tmp_path / "remote"
        path.mkdir()
        return str(path)

    def output(self, channel: Channel, command: str) -> str:
        """Return what a command that goes well writes."""
        code, stdout, stderr = channel.execute_wait(command, 30)
        assert code == 0, stderr
        return stdout

    # --- what it is

    def test_is_a_channel(self, opened: Channel) -> None:
        """It keeps the contract's class."""
        assert isinstance(opened, Channel)
        assert opened.kind == "channel"

    def test_script_dir_can_be_set(self, opened: Channel, remote_dir: str) -> None:
        """It is what it was set to."""
        assert opened.script_dir is None or isinstance(opened.script_dir, str)
        opened.script_dir = remote_dir
        assert opened.script_dir == remote_dir

    def test_close_is_idempotent(self, channel: Channel) -> None:
        """The second time there is nothing to close."""
        channel.execute_wait("true", 30)
        assert isinstance(channel.close(), bool)
        assert channel.close() is False

    # --- commands

    def test_exit_code_and_streams(self, opened: Channel) -> None:
        """They come back apart from each other."""
        assert opened.execute_wait("echo out; echo err >&2; exit 3", 30) == (3, "out\n", "err\n")
        assert opened.execute_wait("true", 30) == (0, "", "")
        assert opened.execute_wait("true") == (0, "", "")

    def test_commands_are_bash(self, opened: Channel) -> None:
        """Quotes, pipes, lines and arrays mean what they mean in bash."""
        command = 'a=(1 2 \'3 4\')\necho "${a[2]}" | tr 3 x; [[ abc == a* ]] && echo "it\'s"'
        assert opened.execute_wait(command, 30) == (0, "x 4\nit's\n", "")

    def test_a_command_that_is_not_there(self, opened: Channel) -> None:
        """It is the shell's error, with the shell's code."""
        code, _, stderr = opened.execute_wait("no-such-command-anywhere", 30)
        assert code == 127
        assert "no-such-command-anywhere" in stderr

    def test_environment(self, opened: Channel) -> None:
        """Variables are added to those that are there, for this command alone."""
        code, stdout, _ = opened.execute_wait(
            'echo "$CONTRACT_A|${PATH:+path}"', 30, {"CONTRACT_A": "two words $HOME 'q'"}
        )
        assert (code, stdout) == (0, "two words $HOME 'q'|path\n")
        assert opened.execute_wait('echo "$CONTRACT_A"', 30)[1] == "\n"

    def test_much_output(self, opened: Channel) -> None:
        """Streams larger than any pipe come back whole."""
        code, stdout, stderr = opened.execute_wait("seq 200000; seq 200000 >&2", 60)
        lines = "".join(f"{i}\n" for i in range(1, 200001))
        assert code == 0
        assert stdout == lines
        assert stderr == lines

    def test_output_that_is_no_text(self, opened: Channel) -> None:
        """Bytes that are no UTF-8 are replaced, and text that is UTF-8 arrives."""
        code, stdout, _ = opened.execute_wait("printf 'gr\\303\\274n \\377\\n'", 30)
        assert code == 0
        assert stdout.startswith("grün ")

    def test_standard_input_is_empty(self, opened: Channel) -> None:
        """A command that reads does not wait for a user."""
        assert opened.execute_wait("cat; echo end", 30) == (0, "end\n", "")

    def test_walltime(self, opened: Channel, remote_dir: str) -> None:
        """A command that takes too long is killed with its children, and what it wrote is kept."""
        pids = Path(remote_dir) / "pids"
        command = (
            f"echo begun; sleep 600 & echo $! $$ > '{pids}'\n(trap '' TERM INT HUP; sleep 600; true) & wait; echo never"
        )
        began = time.monotonic()
        code, stdout, stderr = opened.execute_wait(command, 1.0)
        assert 0.9 < time.monotonic() - began < 15
        assert code == -1
        assert stdout == "begun\n"
        assert "killed" in stderr
        if self.on_this_host:
            for pid in map(int, pids.read_text().split()):
                eventually(partial(processes.gone, pid), self.kill_bound_s, f"the end of process {pid}")

    def test_walltime_bounds_what_left_the_group(self, opened: Channel, remote_dir: str) -> None:
        """A child in a session of its own, which holds the streams open, does not hold the caller up."""
        pid = Path(remote_dir) / "pid"
        began = time.monotonic()
        try:
            code, _, _ = opened.execute_wait(f"setsid bash -c 'echo $$ > \"{pid}\"; exec sleep 600' & sleep 600", 1.0)
            assert code == -1
            assert time.monotonic() - began < 15
        finally:
            opened.execute_wait(f"kill -9 $(cat '{pid}')", 30)

    def test_what_stays_in_the_background_is_not_waited_for(self, opened: Channel) -> None:
        """It goes on, though it holds the streams open; what was written is not lost."""
        code, stdout, stderr = opened.execute_wait("sleep 600 & echo $!; echo err >&2", 10)
        pid = int(stdout)
        try:
            assert (code, stderr) == (0, "err\n")
            assert self.output(opened, f"kill -0 {pid} && echo runs") == "runs\n"
        finally:
            opened.execute_wait(f"kill -9 {pid}", 30)

    def test_streams_that_are_closed_early(self, opened: Channel) -> None:
        """The end of the command counts, and not that of its streams."""
        assert opened.execute_wait("echo out; exec >&- 2>&-; sleep 0.2; exit 4", 30) == (4, "out\n", "")

    def test_walltime_that_is_kept(self, opened: Channel) -> None:
        """A command that is quicker ends as ever."""
        assert opened.execute_wait("sleep 0.1; echo done", 30.0) == (0, "done\n", "")

    # --- files

    def test_files_go_there_and_back(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """A file keeps its name and its bytes."""
        content = bytes(range(256)) * 1000
        source = tmp_path / "a file.bin"
        source.write_bytes(content)
        there = opened.push_file(str(source), remote_dir)
        assert there == f"{remote_dir}/a file.bin"
        assert self.output(opened, f"wc -c < '{there}'").strip() == str(len(content))
        back = tmp_path / "back"
        back.mkdir()
        here = opened.pull_file(there, str(back))
        assert here == str(back / "a file.bin")
        assert Path(here).read_bytes() == content
        assert source.read_bytes() == content

    def test_pushing_again_replaces(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """The newest content counts."""
        source = tmp_path / "script.sh"
        for text in ("a longer first text", "second"):
            source.write_text(text)
            there = opened.push_file(str(source), remote_dir)
            assert self.output(opened, f"cat '{there}'") == text

    def test_pushing_what_is_not_there(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """It cannot be copied."""
        with pytest.raises(FileCopyException):
            opened.push_file(str(tmp_path / "none"), remote_dir)

    def test_pushing_where_one_may_not(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """The folder cannot be written."""
        if self.superuser:
            pytest.skip("no folder is closed to root")
        source = tmp_path / "file"
        source.touch()
        self.output(opened, f"chmod 500 '{remote_dir}'")
        try:
            with pytest.raises(BadPermsScriptPath):
                opened.push_file(str(source), remote_dir)
        finally:
            self.output(opened, f"chmod 700 '{remote_dir}'")

    def test_pulling_does_not_replace(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """A file that is here stays as it is."""
        self.output(opened, f"echo new > '{remote_dir}/file'")
        back = tmp_path / "back"
        back.mkdir()
        (back / "file").write_text("old")
        with pytest.raises(FileExists, match="file"):
            opened.pull_file(f"{remote_dir}/file", str(back))
        assert (back / "file").read_text() == "old"

    def test_pulling_what_is_not_there(self, opened: Channel, tmp_path: Path, remote_dir: str) -> None:
        """It cannot be copied, and no half of it is left here."""
        back = tmp_path / "back"
        back.mkdir()
        with pytest.raises(FileCopyException):
            opened.pull_file(f"{remote_dir}/none", str(back))
        assert list(back.iterdir()) == []

    def test_folders(self, opened: Channel, remote_dir: str) -> None:
        """They are made with their parents, and are an error where they exist, unless that is allowed."""
        path = f"{remote_dir}/a/b c"
        assert opened.isdir(remote_dir) is True
        assert opened.isdir(path) is False
        opened.makedirs(path)
        assert opened.isdir(path) is True
        assert self.output(opened, f"stat -c %a '{path}'").strip() == "700"
        opened.makedirs(path, exist_ok=True)
        with pytest.raises(OSError):
            opened.makedirs(path)
        self.output(opened, f"touch '{remote_dir}/file'")
        assert opened.isdir(f"{remote_dir}/file") is False
        with pytest.raises(OSError):
            opened.makedirs(f"{remote_dir}/file", exist_ok=True)

    def test_absolute_paths(self, opened: Channel, remote_dir: str) -> None:
        """A relative path is completed, an absolute one stays."""
        assert opened.abspath(remote_dir) == remote_dir
        relative = opened.abspath("x/y")
        assert relative.startswith("/")
        assert relative.endswith("/x/y")
