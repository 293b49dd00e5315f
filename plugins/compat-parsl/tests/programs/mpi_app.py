# MPI Apps. Adapted: the imports; colons in the dict; the prefix is set here, as no MPI is; the file is not read; the
# specification is given under its documented name (the call there says resource_specification, which flowcore takes, too).
import os
from typing import Dict
from parsl import bash_app, File

os.environ["PARSL_MPI_PREFIX"] = "echo mpiexec -n 4 -ppn 2"


@bash_app
def lammps_mpi_application(infile: File, stdout="out.txt", parsl_resource_specification: Dict = {}):
    # PARSL_MPI_PREFIX will resolve to `mpiexec -n 4 -ppn 2 -hosts NODE001,NODE002`
    ranks = parsl_resource_specification.get("num_ranks")
    return f"$PARSL_MPI_PREFIX lmp_mpi -in {infile.filepath} # {ranks}"


# Resources in terms of nodes and how ranks are to be distributed are set on a per app
# basis via the resource_spec dictionary.
resource_spec = {
    "num_nodes": 2,
    "ranks_per_node": 2,
    "num_ranks": 4,
}
future = lammps_mpi_application(File("in.file"), parsl_resource_specification=resource_spec)
try:
    print(future.result(), open("out.txt").read())
except ValueError as error:
    print(type(error).__name__, error)
