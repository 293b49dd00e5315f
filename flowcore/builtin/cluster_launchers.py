"""The launchers that start the worker command on all nodes of a batch job, by the program that the cluster has for it.

Rule of this module: a worker is a Python process that shares out the cores of its node by itself. So each launcher sees
to it that copies are spread as asked, that they are not bound to single cores, and, where the program can do it, that a
copy that fails does not end the others. ``overrides`` stand behind the launcher's own options.
"""

from __future__ import annotations

import shlex
import textwrap

from flowcore.builtin import launcher_script as bash
from flowcore.builtin.launchers import SingleNodeLauncher
from flowcore.plugins.api import Launcher, component

_RUN = """\
flowcore_say "{program} ${{flowcore_options[*]}}"
flowcore_start {program} "${{flowcore_options[@]}}" /bin/bash -c "$flowcore_copy"
"""
#: For :func:`launcher_script.each_export`: prints a command that exports the variable elsewhere as it is here.
_EXPORT = r'printf "export %s=%q\n" "$flowcore_name" "${!flowcore_name}"'


def _run(program: str) -> str:
    return _RUN.format(program=program)


def _unless(overrides: str, option: str, *names: str) -> str:
    """Return an option of the launcher's, unless one that begins as in ``names`` is among the user's."""
    return "" if any(word.startswith(names) for word in overrides.split()) else option


def _indented(lines: str) -> str:
    return textwrap.indent(lines, "    ")


# --- Slurm

#: --export, where the job was submitted with --export=NONE; --cpu-bind, since one core per task is bound by default;
#: --kill-on-bad-exit and --wait, where the site's configuration sets them.
_SRUN = "--export=ALL --cpu-bind=none --kill-on-bad-exit=0 --wait=0"
#: From Slurm 20.11 on a step keeps what it has from all others: an srun of a task would wait for its own worker.
_OVERLAP = """\
case $(srun --help 2>/dev/null) in
*--overlap*) flowcore_options+=(--overlap) ;;
esac
"""
#: Slurm refuses more tasks than CPUs unless it is told.
_OVERCOMMIT = """\
if [ "${{SLURM_CPUS_ON_NODE:-{tasks}}}" -lt {tasks} ]; then flowcore_options+=(--overcommit); fi
"""
_SRUN_ADVICE = "this launcher is for jobs of Slurm"


@component
class SrunLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node by one ``srun``, for Slurm.

    All copies of a node share all the job's cores there. Where a copy fails the others go on; the exit code is the
    largest of theirs.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        overrides: further options of srun, as in a shell.
    """

    debug: bool = True
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls srun."""
        tasks = tasks_per_node * nodes_per_block
        return bash.script(
            self.debug,
            bash.need("srun", _SRUN_ADVICE),
            bash.options(f"--nodes={nodes_per_block} --ntasks={tasks} --ntasks-per-node={tasks_per_node}", _SRUN),
            _OVERLAP,
            _OVERCOMMIT.format(tasks=tasks_per_node),
            bash.options(self.overrides, more=True),
            bash.copy(command),
            _run("srun"),
        )


#: What the processes of a step are told is taken from a copy, and what the job's script was told is put in its place.
_AS_IN_THE_SCRIPT = """\
flowcore_exports=$(
{each_export})
flowcore_job='unset ${{!SLURM_@}} ${{!PMI@}}
'"$flowcore_exports
"
"""
_SRUN_EACH = """\
flowcore_say "{times} on each of {nodes} nodes: srun ${{flowcore_options[*]}}"
for ((flowcore_node = 0; flowcore_node < {nodes}; flowcore_node++)); do
    for ((flowcore_task = 0; flowcore_task < {times}; flowcore_task++)); do
        flowcore_start srun --relative="$flowcore_node" "${{flowcore_options[@]}}" /bin/bash -c "$flowcore_copy"
    done
done
"""


@component
class SrunMPILauncher(Launcher):
    """Runs each copy of the command by an ``srun`` of its own, for workers whose tasks start MPI programs.

    A copy finds the variables of the job as the job's script has them, and not those of a job step: an ``srun`` or
    ``mpiexec`` that it calls has all nodes of the block to choose from, and the copies take no cores from it. Where a
    copy fails the others go on; the exit code is that of one that failed.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        overrides: further options of srun, as in a shell.
    """

    debug: bool = True
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls srun for each copy."""
        return bash.script(
            self.debug,
            bash.need("srun", _SRUN_ADVICE),
            # Without --mpi=none a copy is a rank of its step, and so would be what it starts.
            bash.options("--nodes=1 --ntasks=1 --mpi=none", _SRUN),
            _OVERLAP,
            bash.options(self.overrides, more=True),
            _AS_IN_THE_SCRIPT.format(each_export=_indented(bash.each_export(_EXPORT, "SLURM_*"))),
            bash.copy(command, before='"$flowcore_job"'),
            _SRUN_EACH.format(nodes=nodes_per_block, times=tasks_per_node),
        )


# --- Cray's ALPS, IBM's Job Step Manager


@component
class AprunLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node by one ``aprun``, for Cray's ALPS.

    What becomes of the others where a copy fails is up to ALPS, and the exit code is that of aprun.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        overrides: further options of aprun, as in a shell. Copies are bound to no core unless ``-cc`` is among them.
    """

    debug: bool = True
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls aprun."""
        return bash.script(
            self.debug,
            bash.need("aprun", "this launcher is for Crays with ALPS"),
            bash.options(
                f"-n {tasks_per_node * nodes_per_block} -N {tasks_per_node}",
                _unless(self.overrides, "-cc none", "-cc", "--cc", "-cp", "--cp", "--cpu-binding"),
                self.overrides,
            ),
            bash.copy(command),
            _run("aprun"),
        )


#: LSF says "batch-node 1 node1 42 node2 42".
_LSF_CORES = """\
flowcore_cores=$(echo "${{LSB_MCPU_HOSTS:-}}" | awk '{{ print $NF + 0 }}')
if [ "$flowcore_cores" -lt {tasks} ]; then flowcore_cores={tasks}; fi
"""


@component
class JsrunLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node by one ``jsrun``, for IBM's Job Step Manager.

    One copy on a node has all its cores and GPUs; of several, each has the same share of the cores, and the GPUs that
    ``overrides`` give it. What becomes of the others where a copy fails is up to jsrun (``-X 1`` ends them), and the
    exit code is that of jsrun.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        overrides: further options of jsrun, as in a shell. Those for tasks, cores and GPUs of a resource set, and for
            binding, replace the launcher's.
    """

    debug: bool = True
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls jsrun."""
        alone = tasks_per_node == 1
        cores = "ALL_CPUS" if alone else f"$((flowcore_cores / {tasks_per_node}))"
        return bash.script(
            self.debug,
            bash.need("jsrun", "this launcher is for jobs of LSF with IBM's Job Step Manager"),
            "" if alone else _LSF_CORES.format(tasks=tasks_per_node),
            bash.options(
                f"-n {tasks_per_node * nodes_per_block} -r {tasks_per_node}",
                _unless(self.overrides, "-a 1", "-a", "--tasks_per_rs"),
                _unless(self.overrides, f"-c {cores}", "-c", "--cpu_per_rs"),
                _unless(self.overrides, "-g ALL_GPUS", "-g", "--gpu_per_rs") if alone else "",
                _unless(self.overrides, "-b none", "-b", "--bind"),
                self.overrides,
            ),
            bash.copy(command),
            _run("jsrun"),
        )


# --- MPI's mpiexec and mpirun

#: Whose options the program takes, it is asked itself; MPICH's are those of Intel, MVAPICH and Cray's PALS too. Open
#: MPI counts as many slots on a node as the scheduler has tasks there, which may be fewer than copies.
_MPI = """\
case $({program} --version 2>&1 </dev/null) in
*"Open MPI"* | *OpenRTE* | *PRRTE* | *"Spectrum MPI"*)
    flowcore_options=(--map-by ppr:{tasks}:node:oversubscribe)
    flowcore_hosts=--host flowcore_slots=:{tasks}
    ;;
*)
    flowcore_options=(-ppn {tasks})
    flowcore_hosts=-hosts flowcore_slots=
    ;;
esac
"""
_ON_NODES = """\
flowcore_ranks=$((${{#flowcore_nodes[@]}} * {tasks}))
flowcore_nodes=("${{flowcore_nodes[@]/%/$flowcore_slots}}")
flowcore_options+=("$flowcore_hosts" "$(IFS=, && echo "${{flowcore_nodes[*]}}")")
"""
#: Open MPI hands no environment on to other nodes, unless it is told the names.
_RUN_MPI = """\
flowcore_say "{program} ${{flowcore_options[*]}}"
if [ "$flowcore_hosts" = --host ]; then
{each_export}fi
flowcore_start {program} "${{flowcore_options[@]}}" {bash} -c "$flowcore_copy"
"""
_MPI_ADVICE = "load the module of an MPI in worker_init"


def _run_mpi(program: str, bash_location: str = "/bin/bash") -> str:
    names = bash.each_export('flowcore_options+=(-x "$flowcore_name")', never="OMPI_* | PMIX_* | PRTE_*")
    return _RUN_MPI.format(program=program, bash=shlex.quote(bash_location), each_export=_indented(names))


@component
class MpiExecLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node by one ``mpiexec``, with ``CORES`` set to its cores.

    The ``mpiexec`` on PATH may be that of Open MPI, MPICH, Intel MPI, MVAPICH or Cray (PALS): the script asks it. The
    nodes are those in the file ``PBS_NODEFILE``, each once; where it names none, the block fails. Where a copy fails,
    Open MPI ends the others, with MPICH they go on, and with others it is up to them. The exit code is that of mpiexec.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        bind_cmd: name of the option that binds ranks to cores, which gets the value ``none``: ``--cpu-bind`` for PALS.
            If it is empty, none is given.
        overrides: further options of mpiexec, as in a shell.
    """

    debug: bool = True
    bind_cmd: str = "--bind-to"
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls mpiexec."""
        unbound = f"{self.bind_cmd} none" if self.bind_cmd.strip() else ""
        return bash.script(
            self.debug,
            bash.need("mpiexec", _MPI_ADVICE),
            bash.nodes(type(self).__name__, nodes_per_block),
            _MPI.format(program="mpiexec", tasks=tasks_per_node),
            _ON_NODES.format(tasks=tasks_per_node),
            bash.options(f'-n "$flowcore_ranks" {unbound}', self.overrides, more=True),
            bash.copy(command),
            _run_mpi("mpiexec"),
        )


#: In a job of these, mpirun can ask the scheduler for its nodes.
_SCHEDULERS = ("SLURM_JOB_NODELIST", "SLURM_NODELIST", "LSB_DJOB_HOSTFILE", "LSB_MCPU_HOSTS", "PE_HOSTFILE")
_PERHAPS_ON_NODES = """\
flowcore_ranks={ranks}
if [ -n "${{PBS_NODEFILE:-}}" ]{or_unknown}; then
{on_nodes}fi
"""


@component
class MpiRunLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node by one ``mpirun``, with ``CORES`` set to its cores.

    It is like :class:`MpiExecLauncher`, but where ``PBS_NODEFILE`` is not set it leaves it to mpirun to ask Slurm, LSF
    or Grid Engine for the nodes. Where none of these has started the job, a block of several nodes fails.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
        bash_location: the bash that runs the command on the nodes.
        overrides: further options of mpirun, as in a shell.
    """

    debug: bool = True
    bash_location: str = "/bin/bash"
    overrides: str = ""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls mpirun."""
        known = "".join(f"${{{name}:-}}" for name in _SCHEDULERS)
        return bash.script(
            self.debug,
            bash.need("mpirun", _MPI_ADVICE),
            _MPI.format(program="mpirun", tasks=tasks_per_node),
            _PERHAPS_ON_NODES.format(
                ranks=tasks_per_node * nodes_per_block,
                or_unknown=f' || [ -z "{known}" ]' if nodes_per_block > 1 else "",
                on_nodes=_indented(
                    bash.nodes(type(self).__name__, nodes_per_block) + _ON_NODES.format(tasks=tasks_per_node)
                ),
            ),
            bash.options('-n "$flowcore_ranks" --bind-to none', self.overrides, more=True),
            bash.copy(command),
            _run_mpi("mpirun", self.bash_location),
        )


# --- GNU parallel

_GNU = r"""case $(parallel --version 2>/dev/null </dev/null) in
"GNU parallel"*) ;;
*)
    echo "flowcore: $(command -v parallel) is not GNU parallel, but perhaps that of moreutils:" \
        "put GNU parallel before it on PATH, in worker_init" >&2
    exit {code}
    ;;
esac
"""
#: A login has neither the folder nor the environment of this shell.
_AS_HERE = r"""flowcore_exports=$(
{each_export})
flowcore_here="cd -- $(printf %q "$PWD")
$flowcore_exports
$(declare -fx)
"
"""
#: All that is to be done goes through the input of ssh: what is on a command line can be read by all users of a host. A
#: file without a name can be opened as often as there are nodes, and goes in every case.
#: Each node is a group of its own, and work is for one group: parallel would give a node that failed at once the work
#: of another. One login per node starts all copies there: sshd takes but a few at a time.
_PARALLEL = r"""flowcore_file=$(mktemp)
printf %s "$flowcore_copy" >"$flowcore_file"
exec {flowcore_input}<"$flowcore_file"
rm -f "$flowcore_file"
flowcore_options=(--jobs 1 --ungroup --hostgroups)
flowcore_options+=(--ssh "${PARALLEL_SSH:-ssh} </proc/$BASHPID/fd/$flowcore_input")
flowcore_work=()
for flowcore_node in "${flowcore_nodes[@]}"; do
    flowcore_options+=(--sshlogin "@$flowcore_node/$flowcore_node")
    flowcore_work+=("flowcore@$flowcore_node")
done
flowcore_say "parallel ${flowcore_options[*]}"
flowcore_start parallel "${flowcore_options[@]}" "/bin/bash -c 'eval \"\$(cat)\"'" ::: "${flowcore_work[@]}"
"""


@component
class GnuParallelLauncher(Launcher):
    """Runs ``tasks_per_node`` copies of the command on each node, with ``CORES`` set to its cores, by GNU ``parallel``.

    It logs in to each node once by ssh, which must not ask for a password. The nodes are those in the file
    ``PBS_NODEFILE``, each once; where it names none, the block fails. Where a copy fails the others go on; the exit
    code is the number of nodes where one did.

    Attributes:
        debug: say in the job's stdout what is started and how it ended.
    """

    debug: bool = True

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int) -> str:
        """Return a script that calls parallel."""
        copies = SingleNodeLauncher(debug=self.debug, fail_on_any=True)(command, tasks_per_node, 1)
        return bash.script(
            self.debug,
            bash.need("parallel", "this launcher needs GNU parallel, and perl on each node"),
            _GNU.format(code=bash.NO_PROGRAM),
            bash.nodes(type(self).__name__, nodes_per_block),
            _AS_HERE.format(each_export=_indented(bash.each_export(_EXPORT))),
            bash.copy(copies, before='"$flowcore_here"'),
            _PARALLEL,
        )
