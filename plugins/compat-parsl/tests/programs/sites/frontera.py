# Configuration, "Frontera (TACC)". As it stands there.
from parsl.config import Config
from parsl.channels import LocalChannel
from parsl.providers import SlurmProvider
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.addresses import address_by_interface

config = Config(
    executors=[
        HighThroughputExecutor(
            label="frontera_htex",
            max_workers_per_node=1,  # Set number of workers per node
            provider=SlurmProvider(
                cmd_timeout=60,  # Add extra time for slow scheduler responses
                channel=LocalChannel(),
                nodes_per_block=2,
                init_blocks=1,
                min_blocks=1,
                max_blocks=1,
                partition="normal",  # Replace with partition name
                scheduler_options="#SBATCH -A <YOUR_ALLOCATION>",  # Enter scheduler_options if needed
                worker_init="",
                walltime="00:10:00",
                launcher=SrunLauncher(),
            ),
        )
    ],
)
print(config)
