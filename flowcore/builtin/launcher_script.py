"""The bash that launchers' scripts are made of: copies of a command are started, waited for, and ended by a signal.

Rule of this module: pure functions, text in, text out. The scripts bear what a user's ``worker_init`` may have set
(``set -eu``, an ``IFS``), and what they define is named ``flowcore_...``. A worker command is an argument of the
programs that start it, or their input, and never a file: so it reaches nodes that share none, and no two blocks can
take one another's.
"""

from __future__ import annotations

import shlex

#: Exit code where the names of a job's nodes are not to be had.
NO_NODES = 96
#: Exit code where the program that starts copies is not to be had; bash's own for that.
NO_PROGRAM = 127

_HEAD = r"""flowcore_started=()
flowcore_say() {{ {say}; }}
flowcore_start() {{
    "$@" </dev/null &
    flowcore_started+=("$!")
}}
# All processes of this host: number, parent, state. A small container has no ps.
flowcore_processes() {{
    if [ -e /proc/self/stat ]; then
        {{ cat /proc/[0-9]*/stat 2>/dev/null || :; }} | sed 's/^\([0-9]*\) (.*) \(.\) \([0-9]*\) .*/\1 \3 \2/'
    else
        ps -A -o pid= -o ppid= -o state=
    fi
}}
# A signal is for all that was started here, whatever processes of its own that has: it would not end with this script.
flowcore_end() {{
    trap '' HUP INT TERM
    local IFS=$' \t\n' started family round pid
    started=$(jobs -pr)
    flowcore_say "ended by a signal, and with it what was started"
    # Parents first: a shell whose command ends before it has its own signal goes on to the next one.
    family=$(flowcore_processes | awk -v started="${{started//$'\n'/ }}" '
        BEGIN {{ count = split(started, pids); for (i = 1; i <= count; i++) root[pids[i]] = 1 }}
        {{ parent[$1] = $2 }}
        END {{
            for (pid in parent) {{
                depth = 0
                for (above = pid; (above in parent) && !(above in root); above = parent[above]) depth++
                if (above in root) print depth, pid
            }}
        }}' | sort -n | cut -d " " -f 2)
    # Whoever ended this script may have signalled them too, and a second signal would take from them the time to put
    # things in order, here and on other nodes. What is left in the end is left to the scheduler.
    for ((round = 0; round < 100; round++)); do
        flowcore_processes | awk -v family="${{family//$'\n'/ }}" '
            BEGIN {{ count = split(family, pids); for (i = 1; i <= count; i++) ours[pids[i]] = 1 }}
            ($1 in ours) && $3 !~ /^Z/ {{ left = 1 }}
            END {{ exit !left }}' || break
        case $round in
        20) for pid in {first}; do kill "$pid" 2>/dev/null || :; done ;;
        70) for pid in $family; do kill "$pid" 2>/dev/null || :; done ;;
        esac
        sleep 0.1
    done
    exit "$1"
}}
trap 'flowcore_end 129' HUP
trap 'flowcore_end 130' INT
trap 'flowcore_end 143' TERM
"""

_WAIT = """\
flowcore_failed=0
flowcore_last=0
for flowcore_pid in "${{flowcore_started[@]}}"; do
    wait "$flowcore_pid" || {{
        flowcore_last=$?
        flowcore_failed=$((flowcore_failed + 1))
        flowcore_say "process $flowcore_pid exited with $flowcore_last"
    }}
done
if [ "$flowcore_failed" -ge {failures} ]; then exit "$flowcore_last"; fi
"""

#: Exports ``CORES``, on the node where it runs.
CORES = """\
CORES=$(getconf _NPROCESSORS_ONLN)
export CORES
"""

#: The shell of a copy: it outlives its command when both get a signal, so that who waits for it waits for the command.
ENDS_LAST = """\
trap 'exit 143' TERM
"""
#: A job's folder for temporary files may be on its first node only, and some programs leave the standard input of
#: copies open.
_ON_A_NODE = """\
if ! [ -d "${TMPDIR:-/}" ]; then unset TMPDIR; fi
exec </dev/null
"""

_NEED = """\
if ! command -v {program} >/dev/null; then
    echo "flowcore: {program} not found on PATH=$PATH: {advice}" >&2
    exit {code}
fi
"""

_NODES = r"""mapfile -t flowcore_nodes < <(awk 'NF && !seen[$1]++ {{ print $1 }}' "${{PBS_NODEFILE:-/dev/null}}")
if [ "${{#flowcore_nodes[@]}}" = 0 ]; then
    echo "flowcore: PBS_NODEFILE='${{PBS_NODEFILE:-}}' names no nodes, so {launcher} cannot tell where to start" \
        "workers. Jobs of PBS Pro and Torque have this variable; elsewhere set it in worker_init" \
        "(export PBS_NODEFILE=FILE), or use the launcher of the scheduler" >&2
    exit {code}
fi
if [ "${{#flowcore_nodes[@]}}" -lt {nodes} ]; then
    echo "flowcore: {nodes} nodes were asked for, and $PBS_NODEFILE names ${{#flowcore_nodes[@]}}:" \
        "${{flowcore_nodes[*]}}; workers are started on these" >&2
fi
"""

#: Variables of this host, or of this shell alone.
_OWN = (
    "_ | PWD | OLDPWD | SHLVL | SHELLOPTS | BASHOPTS | UID | EUID | PPID | HOST | HOSTNAME | DISPLAY | SSH_* | XDG_*",
    "SLURMD_NODENAME | SLURM_NODEID | SLURM_PROCID | SLURM_LOCALID | SLURM_GTIDS | SLURM_TASK_PID",
    "PBS_NODENUM | PBS_TASKNUM | PBS_VNODENUM",
)
_EACH_EXPORT = """\
while IFS= read -r flowcore_name; do
    case $flowcore_name in
{cases}
    esac
done < <(compgen -e)
"""


def script(debug: bool, *parts: str, failures: int = 1, passes_signals: bool = True) -> str:
    """Return a launcher's script.

    Args:
        debug: say in stdout what is started, and how it ended.
        parts: start processes by ``flowcore_start COMMAND...``, after what that takes.
        failures: so many processes must fail for the block to fail; its exit code is that of the last one then.
        passes_signals: a process that was started ends what it has started when it gets a signal, given some time.
            False: those get the signal, too.
    """
    head = _HEAD.format(say='echo "flowcore: $*"' if debug else ":", first="$started" if passes_signals else "$family")
    return "".join([head, *parts, _WAIT.format(failures=failures)])


def need(program: str, advice: str) -> str:
    """Return a part that ends the script, with a message, where a program is not to be had.

    Args:
        program: its name.
        advice: what to do then.
    """
    return _NEED.format(program=program, advice=advice, code=NO_PROGRAM)


def options(*items: str, more: bool = False) -> str:
    """Return a part that sets the array ``flowcore_options``.

    Args:
        items: bash words, any number in each, on one line or several; the shell that runs the script expands them.
        more: add to what is in the array.
    """
    lines = [f"    {item.strip()}\n" for item in items if item.strip()]
    if more and not lines:
        return ""
    return "".join(["flowcore_options", "+" if more else "", "=(\n", *lines, ")\n"])


def repeat(variable: str, count: int, body: str) -> str:
    """Return a part that runs commands several times.

    Args:
        variable: counts from 0.
        count: how often they are run.
        body: the commands.
    """
    return f"for (({variable} = 0; {variable} < {count}; {variable}++)); do\n{body}done\n"


def copy(command: str, before: str = "") -> str:
    """Return a part that sets ``flowcore_copy``: what a shell on a node does as one copy of the command.

    Args:
        command: worker command.
        before: bash word for what it does first.
    """
    return f"flowcore_copy={before}{shlex.quote(f'{ENDS_LAST}{_ON_A_NODE}{CORES}{command}')}\n"


def nodes(launcher: str, count: int) -> str:
    """Return a part that sets the array ``flowcore_nodes`` to the names in ``PBS_NODEFILE``, each once.

    It ends the script, with a message, where there are none.

    Args:
        launcher: class name, for the message.
        count: number of nodes that were asked for; fewer are reported.
    """
    return _NODES.format(launcher=launcher, nodes=count, code=NO_NODES)


def each_export(do: str, names: str = "*", never: str = "") -> str:
    """Return a part that does something for each exported variable that others may have from here.

    Variables that belong to this host or process, such as ``HOSTNAME``, are none of them.

    Args:
        do: command; the name is ``flowcore_name``.
        names: pattern for the names.
        never: patterns of names that are left out, as of ``case``.
    """
    cases = [*((own, ":") for own in (*_OWN, never) if own), (names, do)]
    return _EACH_EXPORT.format(cases="\n".join(f"    {pattern}) {what} ;;" for pattern, what in cases))
