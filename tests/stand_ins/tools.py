"""Stand-ins for programs that start copies of a command on the nodes of a job, where these cannot be had.

``tools.py NAME ...`` does what the program NAME does, here: it knows the options in its table and refuses all others,
runs the command as often as they say, with no shell between, hands SIGTERM on, and ends with the largest exit code.
What it was told is in each copy's ``STAND_IN_OPTIONS``. ``tools.py install FOLDER NAME...`` makes programs of these
names; of ``ssh`` too, which runs a command here as if this were another host.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

#: Options by program; True: with a value.
OPTIONS = {
    # aprun(1) of Cray's ALPS; a word of two letters behind one dash is an option.
    "aprun": {"-n": True, "-N": True, "-cc": True, "-d": True, "-j": True, "-b": False},
    # IBM's documentation of jsrun.
    "jsrun": {
        "--nrs": True,
        "--rs_per_host": True,
        "--tasks_per_rs": True,
        "--cpu_per_rs": True,
        "--gpu_per_rs": True,
        "--bind": True,
        "--exit_on_error": True,
    },
    # srun(1) of Slurm 22.05, with an = between option and value.
    "srun": {
        "--nodes": True,
        "--ntasks": True,
        "--ntasks-per-node": True,
        "--relative": True,
        "--export": True,
        "--cpu-bind": True,
        "--kill-on-bad-exit": True,
        "--wait": True,
        "--mpi": True,
        "--overlap": False,
        "--overcommit": False,
    },
}
#: Other names of these.
SHORT = {
    "jsrun": {
        "-n": "--nrs",
        "-r": "--rs_per_host",
        "-a": "--tasks_per_rs",
        "-c": "--cpu_per_rs",
        "-g": "--gpu_per_rs",
        "-b": "--bind",
        "-X": "--exit_on_error",
    }
}
SSH = """\
#!/bin/bash
# The command's shell knows nothing of this one, and hears of its end by that of its parent, the server.
while [[ $1 == -* ]]; do shift; done
shift
if [ "${1:-}" = -- ]; then shift; fi
variables=(HOME="$HOME" PATH=/usr/bin:/bin SHELL=/bin/sh)
setsid env -i "${variables[@]}" sh -c 'cd / && sh -c "$1"; exit $?' sshd "$*" <&0 &
trap 'kill $!; exit 255' TERM HUP INT
wait $!
"""


def install(folder: str, *names: str) -> int:
    """Write programs of these names."""
    for name in names:
        program = Path(folder, name)
        here = f'#!/bin/bash\nexec "{sys.executable}" "{__file__}" {name} "$@"\n'
        program.write_text(SSH if name == "ssh" else here)
        program.chmod(0o755)
    return 0


def parse(name: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options among words, and the command behind them."""
    table, found = OPTIONS[name], {}
    while words and words[0].startswith("-"):
        option, _, value = words.pop(0).partition("=")
        option = SHORT.get(name, {}).get(option, option)
        if option not in table:
            raise SystemExit(f"{name}: unrecognized option '{option}'")
        if table[option] and not value:
            value = words.pop(0)
        found[option] = value
    return found, words


def number_of_copies(name: str, options: dict[str, str]) -> int:
    """Return how many copies the options ask for; refuses what does not fit."""
    if name == "aprun":
        copies, on_node = int(options["-n"]), int(options["-N"])
    elif name == "jsrun":
        on_node = int(options["--rs_per_host"]) * int(options["--tasks_per_rs"])
        copies = int(options["--nrs"]) * int(options["--tasks_per_rs"])
    else:
        copies = int(options["--ntasks"])
        on_node = int(options.get("--ntasks-per-node", copies))
        if copies != int(options["--nodes"]) * on_node:
            raise SystemExit("srun: error: tasks do not fill the nodes")
    if copies % on_node:
        raise SystemExit(f"{name}: {copies} copies, {on_node} on each node")
    return copies


def main(name: str, words: list[str]) -> int:
    """Run a command as often as its options say; return the largest exit code."""
    if words == ["--help"]:
        sys.stdout.write(f"Usage: {name} {' '.join(OPTIONS[name])}\n")
        return 0
    options, command = parse(name, words)
    environment = {**os.environ, "STAND_IN_OPTIONS": " ".join(f"{k}={v}" for k, v in options.items())}
    if name == "srun":
        environment |= {"SLURM_STEP_ID": "7", "SLURM_NTASKS": options["--ntasks"], "PMI_RANK": "0"}
    copies: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def hand_on(which: int, frame: object) -> None:
        signals.append(which)
        for copy in copies:
            if copy.returncode is None:
                os.killpg(copy.pid, which)

    signal.signal(signal.SIGTERM, hand_on)
    for _ in range(number_of_copies(name, options)):
        copies.append(subprocess.Popen(command, env=environment, process_group=0))
    if signals:
        hand_on(signals[0], None)
    codes = [copy.wait() for copy in copies]
    return max(128 - code if code < 0 else code for code in codes)


if __name__ == "__main__":
    called, *arguments = sys.argv[1:]
    sys.exit(install(*arguments) if called == "install" else main(called, arguments))
