# MPI Apps, "Example Configuration" and CosmicTagger. Adapted: the interface is lo; the allocation; PBSProProvider; brackets.
import parsl
from typing import Dict
from parsl.config import Config

# PBSPro is the right provider for Polaris:
from parsl.providers import PBSProProvider

# The high throughput executor is for scaling to HPC systems:
from parsl.executors import HighThroughputExecutor

# address_by_interface is needed for the HighThroughputExecutor:
from parsl.addresses import address_by_interface

# For checkpointing:
from parsl.utils import get_all_checkpoints

# Adjust your user-specific options here:
# run_dir="/lus/grand/projects/yourproject/yourrundir/"

user_opts = {
    "worker_init": "module load conda; conda activate parsl_mpi_py310",
    "scheduler_options": "#PBS -l filesystems=home:eagle:grand\n#PBS -l place=scatter",
    "account": "SET_YOUR_ALCF_ALLOCATION_HERE",
    "queue": "debug-scaling",
    "walltime": "1:00:00",
    "nodes_per_block": 8,
    "available_accelerators": 4,  # Each Polaris node has 4 GPUs, setting this ensures one worker per GPU
    "cores_per_worker": 8,  # this will set the number of cpu hardware threads per worker.
}

config = Config(
    executors=[
        HighThroughputExecutor(
            label="htex",
            enable_mpi_mode=True,
            mpi_launcher="mpiexec",
            cores_per_worker=user_opts["cores_per_worker"],
            address=address_by_interface("lo"),
            provider=PBSProProvider(
                account=user_opts["account"],
                queue=user_opts["queue"],
                # PBS directives (header lines): for array jobs pass '-J' option
                scheduler_options=user_opts["scheduler_options"],
                # Command to be run before starting a worker, such as:
                worker_init=user_opts["worker_init"],
                # number of compute nodes allocated for each block
                nodes_per_block=user_opts["nodes_per_block"],
                init_blocks=1,
                min_blocks=0,
                max_blocks=1,  # Can increase more to have more parallel jobs
                walltime=user_opts["walltime"],
            ),
        ),
    ],
)
print(config)
