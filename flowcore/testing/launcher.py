"""The contract suite of launchers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flowcore.plugins.api import Launcher

COMMANDS = {
    "one line": "process_worker --port 1",
    "many lines": 'cd /\nexport A="1 2"\nif true; then\n  echo "$A"\nfi',
    "quotes": """echo "it's" 'a "b"' \\$x `true`""",
    "comment": "true # the end",
    "line break at the end": "true\n",
}


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
    """

    runs_here: bool = True
    nodes: int = 1

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

    def run(self, launcher: Launcher, command: str, tasks_per_node: int = 1) -> subprocess.CompletedProcess[str]:
        """Run what the launcher makes of a command, as a job's script does: in the middle of it."""
        if not self.runs_here:
            pytest.skip("this launcher needs what is not on this host")
        script = self.script(launcher, command, tasks_per_node)
        # The shell that reads it is a file's, not a pipe's: a command that reads stdin must not eat the script.
        return subprocess.run(
            ["/bin/bash", "-c", f"export JOBNAME='contract'\n{script}\n"],
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

    def test_output_of_the_command(self, launcher: Launcher) -> None:
        """The command's output is the block's output, whatever else is there."""
        done = self.run(launcher, "echo to-stdout; echo to-stderr >&2")
        assert "to-stdout" in done.stdout.splitlines()
        assert "to-stderr" in done.stderr.splitlines()
