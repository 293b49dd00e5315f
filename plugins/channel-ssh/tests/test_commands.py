"""Commands, where the channel says more than the contract."""

from __future__ import annotations

import base64
import subprocess
import threading
import time
from pathlib import Path

import pytest
from flowcore_channel_ssh import commands

from flowcore.errors import ConfigurationError, SSHException
from flowcore.testing import eventually, processes


@pytest.fixture
def channel(servers, make):
    return make(servers, key_filename=str(servers.key))


@pytest.fixture
def profile(servers):
    """Writes a startup file of the user's."""
    file = servers.home / ".bashrc"
    yield file.write_text
    file.unlink(missing_ok=True)


def test_three_megabytes_on_each_stream(channel):
    count = 3 * 1024 * 1024
    code, stdout, stderr = channel.execute_wait(f"head -c {count} /dev/zero | tr '\\0' x | tee /dev/stderr", 60)
    assert (code, len(stdout), len(stderr)) == (0, count, count)
    assert set(stdout) == set(stderr) == {"x"}


def test_what_is_not_text_is_replaced(channel):
    raw = bytes(range(128, 256)) + "ü€".encode()
    code, stdout, _ = channel.execute_wait(f"echo {base64.b64encode(raw).decode()} | base64 -d", 30)
    assert (code, stdout) == (0, raw.decode(errors="replace"))


def test_startup_files_that_print_are_no_part_of_the_output(channel, profile):
    profile("echo noise; echo louder noise >&2; printf 'no end of line'\n")
    assert channel.execute_wait("echo out; echo err >&2", 30) == (0, "out\n", "err\n")


def test_startup_files_are_read_once(channel, profile):
    profile("export TIMES=$TIMES+1\n")
    assert channel.execute_wait("echo $TIMES", 30)[1] == "+1\n"


def test_startup_files_that_end_the_session(channel, profile, servers):
    profile("echo go away >&2; exit 7\n")
    with pytest.raises(SSHException) as caught:
        channel.execute_wait("true", 30)
    assert f"flowcore-ssh@127.0.0.1:{servers['key'].port} started no bash for a command. It needs one, and" in str(
        caught.value
    )
    assert "what it said: go away" in str(caught.value)
    profile("")
    assert channel.execute_wait("true", 30)[0] == 0, "the connection is not to blame"


@pytest.mark.parametrize("when", ["before the script", "before its last byte"])
def test_sessions_that_end_at_any_moment(channel, servers, profile, monkeypatch, when):
    send = commands._send

    def late(session, data):
        if (data == b"\0") == (when == "before its last byte"):
            eventually(lambda: session.closed, 10)
        send(session, data)

    profile("exit 7\n")
    monkeypatch.setattr(commands, "_send", late)
    with pytest.raises(SSHException, match="started no bash for a command.* what it said: nothing, with exit code 7"):
        channel.execute_wait("true", 30)


def test_each_command_is_the_leader_of_a_process_group(channel):
    code, stdout, _ = channel.execute_wait("echo $$; ps -o pgid= -p $$; sleep 0.1 & ps -o pgid= -p $!", 30)
    assert code == 0
    assert len({int(word) for word in stdout.split()}) == 1


def test_exit_codes_of_signals_are_those_of_a_shell(channel):
    assert channel.execute_wait("kill -9 $$", 30) == (137, "", "")
    assert channel.execute_wait("kill -TERM $$", 30) == (143, "", "")


def test_a_command_that_is_stopped_and_goes_on(channel):
    assert channel.execute_wait("(sleep 0.3; kill -CONT $$) & kill -STOP $$; echo on; exit 5", 30) == (5, "on\n", "")
    began = time.monotonic()
    assert channel.execute_wait("kill -STOP $$", 0.3)[0] == -1
    assert time.monotonic() - began < 10


def test_the_message_of_a_walltime(channel):
    code, stdout, stderr = channel.execute_wait("echo before >&2; sleep 60", 0.25)
    assert (code, stdout) == (-1, "")
    assert stderr == "before\n\nflowcore: the command was killed after 0.25 s: echo before >&2; sleep 60\n"


def test_a_walltime_kills_grandchildren(channel, remote_dir):
    command = (
        f"cd {remote_dir}; trap '' TERM HUP; (trap '' TERM HUP; bash -c 'echo $$ > grandchild; sleep 600; true' & "
        "sleep 600; true) & echo $! > child; wait"
    )
    assert channel.execute_wait(command, 0.5)[0] == -1
    for name in ("child", "grandchild"):
        pid = int(Path(remote_dir, name).read_text())
        eventually(lambda pid=pid: processes.gone(pid), 5, f"the end of the {name}")


def test_a_command_that_ends_at_its_walltime_is_one_or_the_other(channel):
    for _ in range(5):
        code, stdout, _ = channel.execute_wait("sleep 0.1; echo done", 0.1)
        assert code in (0, -1)
        assert (stdout == "done\n") or code == -1


def test_variables(servers, make):
    channel = make(servers, key_filename=str(servers.key), envs={"A": "1", "B": "two\nlines 'q' \\ ü"})
    code, stdout, _ = channel.execute_wait('echo "$A|$B|$C"', 30, {"A": "other", "C": ""})
    assert (code, stdout) == (0, "other|two\nlines 'q' \\ ü|\n")
    assert channel.prepend_envs("true", {"C": "3"}) == "export A=1\n" + (
        "export B='two\nlines '\"'\"'q'\"'\"' \\ ü'\nexport C=3\ntrue"
    )


def test_variables_are_on_no_command_line(channel):
    code, stdout, _ = channel.execute_wait('ps axww -o args; echo "- $TOKEN"', 30, {"TOKEN": "very-secret"})
    assert code == 0
    assert "ps axww" in stdout
    assert stdout.count("very-secret") == 1
    assert stdout.endswith("- very-secret\n")


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=1", "ä", "A\n"])
def test_names_that_no_variable_has(servers, make, name):
    with pytest.raises(ConfigurationError, match="expected the name of a variable: letters, digits and _"):
        make(servers, envs={name: "x"})
    with pytest.raises(ConfigurationError, match="expected the name of a variable"):
        make(servers).execute_wait("true", 30, {name: "x"})


def test_null_characters(servers, make):
    channel = make(servers)
    with pytest.raises(ConfigurationError, match="the value of A in envs has a null character"):
        channel.execute_wait("true", 30, {"A": "x\0y"})
    with pytest.raises(ConfigurationError, match="a command with a null character"):
        channel.execute_wait("echo \0", 30)
    assert channel.close() is False, "it was seen before anything was connected"


def test_more_output_than_memory_should_hold(channel, servers, monkeypatch):
    monkeypatch.setattr(commands, "MAX_BYTES", 1 << 20)
    with pytest.raises(
        SSHException, match="killed that wrote more than 1 MiB to its standard error: let it write to a"
    ):
        channel.execute_wait("yes >&2", 30)
    eventually(lambda: not [p for p in servers.processes() if p.command.startswith("yes")], 5)
    assert channel.execute_wait("echo again", 30)[1] == "again\n"


def test_an_interrupt_ends_the_command(channel, servers, monkeypatch):
    def interrupted(self):
        eventually(lambda: [p for p in servers.processes() if p.command == "sleep 600"], 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands._Wait, "_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        channel.execute_wait("sleep 600", None)
    eventually(lambda: not [p for p in servers.processes() if p.command == "sleep 600"], 5)


def test_commands_of_several_threads(channel):
    said: dict[int, str] = {}

    def run(number):
        said[number] = channel.execute_wait(f"sleep 0.2; echo {number}", 30)[1]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == {n: f"{n}\n" for n in range(5)}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_first_line_is_understood_by_login_shells(shell):
    sent = commands.script('echo "it\'s $A"; exit 5', {"A": "one"})
    with subprocess.Popen(
        [shell, "-c", commands._BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdin.write(sent.text + b"\0")
        process.stdin.flush()
        assert process.stdout.read() == sent.mark + b"\nit's one\n"
        assert process.stderr.read() == sent.mark + b"\n"
        assert process.wait(10) == 5


def test_nothing_is_started_by_half_a_script(tmp_path):
    sent = commands.script(f"touch {tmp_path}/started", {})
    for cut in (0, len(sent.text) // 2, len(sent.text)):
        done = subprocess.run(["sh", "-c", commands._BOOT], input=sent.text[:cut], capture_output=True, timeout=20)
        assert done.returncode != 0
    assert not (tmp_path / "started").exists()


def test_the_end_of_the_input_kills(tmp_path):
    sent = commands.script(f"echo $$ > {tmp_path}/pid; sleep 600", {})
    with subprocess.Popen(["sh", "-c", commands._BOOT], stdin=subprocess.PIPE, start_new_session=True) as process:
        process.stdin.write(sent.text + b"\0")
        process.stdin.flush()
        pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        began = time.monotonic()
        process.stdin.close()
        assert process.wait(10) == 137
        assert time.monotonic() - began < 10
    assert processes.gone(pid)
