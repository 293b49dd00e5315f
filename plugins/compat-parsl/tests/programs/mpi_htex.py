# MPI Apps, the whole of its first and its echo_hello examples. Adapted: the imports; colons in the dict; LocalProvider,
# whose worker_init names nodes and puts an mpiexec on PATH that prints its arguments; the file is not read.
import os
import parsl
from typing import Dict
from parsl import bash_app, File
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import LocalProvider

os.makedirs("bin", exist_ok=True)
with open("bin/mpiexec", "w") as script:
    script.write("#!/bin/sh\necho mpiexec $*\n")
os.chmod("bin/mpiexec", 0o755)

parsl.load(
    Config(
        executors=[
            HighThroughputExecutor(
                enable_mpi_mode=True,
                mpi_launcher="mpiexec",
                max_workers_per_node=2,
                cores_per_worker=1e-6,
                provider=LocalProvider(
                    launcher=SingleNodeLauncher(),
                    worker_init=f"export PATH={os.getcwd()}/bin:$PATH FLOWCORE_MPI_NODES=NODE00[1-4]",
                ),
            )
        ]
    )
)


@bash_app
def lammps_mpi_application(infile: File, stdout="lammps.txt", parsl_resource_specification: Dict = {}):
    # PARSL_MPI_PREFIX will resolve to `mpiexec -n 4 -ppn 2 -hosts NODE001,NODE002`
    return f"$PARSL_MPI_PREFIX lmp_mpi -in {infile.filepath}"


@bash_app
def echo_hello(n: int, stderr="std.err", stdout="std.out", parsl_resource_specification: Dict = {}):
    return "$PARSL_MPI_PREFIX hostname; echo $PARSL_NUM_NODES $PARSL_RANKS_PER_NODE $PARSL_NUM_RANKS $PARSL_MPI_NODELIST"


# Resources in terms of nodes and how ranks are to be distributed are set on a per app
# basis via the resource_spec dictionary.
resource_spec = {
    "num_nodes": 2,
    "ranks_per_node": 2,
    "num_ranks": 4,
}
lammps_mpi_application(File("in.file"), parsl_resource_specification=resource_spec).result()
print(open("lammps.txt").read().splitlines()[-1])
echo_hello(1, parsl_resource_specification=resource_spec).result()
print(*open("std.out").read().splitlines()[-2:], sep="\n")
try:
    echo_hello(1, parsl_resource_specification={**resource_spec, "num_nodes": 5, "num_ranks": 10}).result()
except Exception as error:
    print(type(error).__name__)
try:
    echo_hello(1).result()
except Exception as error:
    print(type(error).__name__)
parsl.clear()
