"""The contract suite of launchers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from flowcore.plugins.api import Launcher
from flowcore.testing import processes
from flowcore.testing.waiting import eventually

COMMANDS = {
    "one line": "process_worker --port 1",
    "one word": ":",
    "many lines": 'cd /\nexport A="1 2"\nif true; then\n  echo "$A"\nfi',
    "quotes": """echo "it's" 'a "b"' \\$x `true`""",
    "comment": "true # the end",
    "line break at the end": "true\n",
}
#: What a user's ``worker_init`` may set for the shell in which a launcher's script runs.
STRICT = "set -euo pipefail\nIFS=:"


class LauncherContract:
    """What every launcher promises; see :class:`flowcore.plugins.api.Launcher`.

    Subclass it, and make the launcher in the fixture ``launcher``::

        class TestMyLauncher(LauncherContract):
            @pytest.fixture
            def launcher(self):
                return MyLauncher()

    Attributes:
        runs_here: what it returns can be run on this host. False for one that needs a batch job around it (or a
            program that is not here); then only the text is tested.
        nodes: number of nodes of the blocks that are tried.
        any_failure_fails: a block in which one copy of several fails has failed. False for a launcher that is asked
            to say so only if all do.
        passes_signals: the copies also end if the shell that runs the script is the only one to get a signal, and not
            its process group as a whole. To be set for one that starts processes and waits for them.
        end_bound_s: seconds in which copies have ended after a signal.
    """

    runs_here: bool = True
    nodes: int = 1
    any_failure_fails: bool = True
    passes_signals: bool = False
    end_bound_s: float = 20.0

    @pytest.fixture
    def launcher(self) -> Launcher:
        """The launcher under test. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} lacks the fixture `launcher`")

    def copies(self, tasks_per_node: int, nodes_per_block: int) -> int:
        """How often the command runs in a block. To be overridden by a launcher that ignores its arguments."""
        return tasks_per_node * nodes_per_block

    def script(self, launcher: Launcher, command: str, tasks_per_node: int = 1) -> str:
        """Return what the launcher makes of a command."""
        return launcher(command, tasks_per_node, self.nodes)

    def bash(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a script, or with ``-n`` only read it."""
        return subprocess.run(
            ["/bin/bash", *options],
            input=script,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def job(self, launcher: Launcher, command: str, tasks_per_node: int, before: str) -> list[str]:
        """Return what runs what the launcher makes of a command, as a job's script does: in the middle of it."""
        if not self.runs_here:
            pytest.skip("this launcher needs what is not on this host")
        script = self.script(launcher, command, tasks_per_node)
        # The shell that reads it is a file's, not a pipe's: a command that reads stdin must not eat the script.
        return ["/bin/bash", "-c", f"export JOBNAME='contract'\n{before}\n{script}\n"]

    def run(
        self, launcher: Launcher, command: str, tasks_per_node: int = 1, before: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run what the launcher makes of a command.

        Args:
            launcher: the launcher.
            command: the worker command.
            tasks_per_node: copies per node.
            before: what a user's ``worker_init`` says.
        """
        return subprocess.run(
            self.job(launcher, command, tasks_per_node, before),
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    # --- the text

    def test_is_a_launcher(self, launcher: Launcher) -> None:
        """It keeps the contract's class."""
        assert isinstance(launcher, Launcher)
        assert launcher.kind == "launcher"
        assert isinstance(launcher.debug, bool)

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
    @pytest.mark.parametrize("tasks_per_node", [1, 4])
    def test_returns_bash(self, launcher: Launcher, command: str, tasks_per_node: int) -> None:
        """What it returns is bash, whatever the command looks like."""
        checked = self.bash(self.script(launcher, command, tasks_per_node), "-n")
        assert checked.returncode == 0, checked.stderr
        assert checked.stderr == ""

    def test_is_pure(self, launcher: Launcher) -> None:
        """The same arguments give the same text, and different commands different ones."""
        assert self.script(launcher, "true") == self.script(launcher, "true")
        assert self.script(launcher, "true") != self.script(launcher, "false")

    # --- running it

    @pytest.mark.parametrize("tasks_per_node", [1, 3])
    def test_runs_the_command_on_every_task(self, launcher: Launcher, tasks_per_node: int, tmp_path: Path) -> None:
        """As often as the block has tasks, and a block in which all went well ends with 0."""
        out = tmp_path / "out"
        done = self.run(launcher, f"echo x >> '{out}'", tasks_per_node)
        assert done.returncode == 0, done.stderr
        assert out.read_text() == "x\n" * self.copies(tasks_per_node, self.nodes)

    def test_runs_a_command_of_several_lines(self, launcher: Launcher, tmp_path: Path) -> None:
        """All of its lines, in one shell, in every copy."""
        out = tmp_path / "out"
        done = self.run(launcher, f"export A='1 2'\nB=\"$A\"\necho \"$B\" '$B' >> '{out}'")
        assert done.returncode == 0, done.stderr
        assert out.read_text() == "1 2 $B\n" * self.copies(1, self.nodes)

    @pytest.mark.parametrize("tasks_per_node", [1, 3])
    def test_failure_shows_in_the_exit_code(self, launcher: Launcher, tasks_per_node: int) -> None:
        """If every copy fails, so does the block."""
        done = self.run(launcher, "exit 7", tasks_per_node)
        assert done.returncode != 0

    def test_one_failure_shows_in_the_exit_code(self, launcher: Launcher, tmp_path: Path) -> None:
        """If one copy of several fails, so does the block."""
        if not self.any_failure_fails or self.copies(3, self.nodes) == 1:
            pytest.skip("one copy is all, or does not matter")
        # The first to make the folder. The others wait for it to have failed, since it may end them.
        command = f"if mkdir '{tmp_path}/taken' 2>/dev/null; then exit 5; fi\nsleep 0.2"
        assert self.run(launcher, command, 3).returncode != 0

    def test_output_of_the_command(self, launcher: Launcher) -> None:
        """The command's output is the block's output, whatever else is there."""
        done = self.run(launcher, "echo to-stdout; echo to-stderr >&2")
        assert "to-stdout" in done.stdout.splitlines()
        assert "to-stderr" in done.stderr.splitlines()

    def test_the_command_is_what_it_was(self, launcher: Launcher, tmp_path: Path) -> None:
        """Nobody on its way replaces anything in it, however long it is."""
        odd = (
            r"""{} {.} {1} {= 1 =} {#} ::: %s %% @a/b : !! \\ \n ' " `x` $x $(x) é * ? ~ ;|&<>"""
            + "\t"
            + 1000 * " 0123456789"
        )
        command = f"cat >'{tmp_path}/'\"$$\" <<'END'\n{odd}\nEND\n"
        done = self.run(launcher, command)
        assert done.returncode == 0, done.stderr
        written = [file.read_text() for file in tmp_path.iterdir()]
        assert written == [f"{odd}\n"] * self.copies(1, self.nodes)

    def test_the_command_has_the_environment(self, launcher: Launcher, tmp_path: Path) -> None:
        """What ``worker_init`` exports is there for every copy, and so is the folder."""
        value = """two\nlines; 'and' "quotes" = $x \\"""
        (tmp_path / "value").write_text(value)
        before = f"cd '{tmp_path}'\nexport CONTRACT_VALUE=$(cat value)"
        done = self.run(launcher, 'echo "$PWD"\nprintenv CONTRACT_VALUE | cmp - <(cat value; echo)', before=before)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines().count(str(tmp_path)) == self.copies(1, self.nodes)

    def test_reading_gets_nothing(self, launcher: Launcher) -> None:
        """A copy that reads its standard input finds its end, and no part of the job's script."""
        done = self.run(launcher, "cat; echo read", 2)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines().count("read") == self.copies(2, self.nodes)

    def test_whatever_the_shell_has_set(self, launcher: Launcher, tmp_path: Path) -> None:
        """The script does its work in a shell for which ``worker_init`` has set what it likes."""
        out = tmp_path / "out"
        done = self.run(launcher, f"echo x >> '{out}'", 2, before=STRICT)
        assert done.returncode == 0, done.stderr
        assert out.read_text() == "x\n" * self.copies(2, self.nodes)
        assert self.run(launcher, "exit 7", 2, before=STRICT).returncode != 0

    def test_blocks_side_by_side(self, launcher: Launcher, tmp_path: Path) -> None:
        """Two blocks that begin in one folder at the same time run what is theirs, and leave nothing there."""
        if not self.runs_here:
            pytest.skip("this launcher needs what is not on this host")
        begun, folder = tmp_path / "begun", tmp_path / "folder"
        folder.mkdir()
        # Each ends when it has seen the other.
        wait = f"until [ -e '{begun}-a' ] && [ -e '{begun}-b' ]; do sleep 0.01; done"
        blocks = [
            subprocess.Popen(
                self.job(launcher, f"touch '{begun}-{name}'\n{wait}\necho ran {name}", 2, before=""),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in "ab"
        ]
        ran = [block.communicate(timeout=60)[0].splitlines() for block in blocks]
        copies = self.copies(2, self.nodes)
        assert [[line for line in lines if line.startswith("ran")] for lines in ran] == [
            [f"ran {name}"] * copies for name in "ab"
        ]
        assert list(folder.iterdir()) == []

    # --- ending it

    @pytest.fixture
    def mark(self) -> Iterator[str]:
        """``NAME=value`` for the environment of what a test starts; what bears it after the test is killed."""
        mark = f"CONTRACT_MARK={uuid4().hex}"
        yield mark
        processes.kill(processes.carrying(mark))

    @pytest.mark.parametrize("everyone", [True, False], ids=["group", "shell"])
    def test_a_signal_ends_the_copies(self, launcher: Launcher, everyone: bool, tmp_path: Path, mark: str) -> None:
        """When the process group of the shell that runs the script gets SIGTERM, or the shell alone, all copies end."""
        if not (everyone or self.passes_signals):
            pytest.skip("providers signal the process group")
        # What is started last is not the shell's own process, since more is to come.
        begun = tmp_path / "begun"
        begun.mkdir()
        command = f"touch '{begun}/'\"$$.$BASHPID\"\nsleep 300\necho never"
        with (tmp_path / "said").open("w+") as said:
            block = subprocess.Popen(
                self.job(launcher, command, 2, before=f"{STRICT}\nexport {mark}"),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            try:
                copies = self.copies(2, self.nodes)
                eventually(lambda: len(list(begun.iterdir())) == copies, what="the start of all copies")
                (os.killpg if everyone else os.kill)(block.pid, signal.SIGTERM)
                assert block.wait(timeout=60) != 0
            finally:
                block.kill()
                block.wait()
            eventually(
                lambda: not [p for p in processes.carrying(mark) if p.state not in "ZX"],
                self.end_bound_s,
                "the end of all copies",
            )
            said.seek(0)
            assert "never" not in said.read()
