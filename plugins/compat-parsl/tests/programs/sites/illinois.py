# Configuration, "Illinois Campus Cluster (UIUC)". Adapted: brackets.
from parsl.config import Config
from parsl.channels import LocalChannel
from parsl.providers import SlurmProvider
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.addresses import address_by_interface

config = Config(
    executors=[
        HighThroughputExecutor(
            label="CC_htex",
            worker_debug=False,
            cores_per_worker=16.0,  # each worker uses a full node
            provider=SlurmProvider(
                partition="secondary-fdr",  # partition
                nodes_per_block=2,  # number of nodes
                init_blocks=1,
                max_blocks=1,
                scheduler_options="",
                cmd_timeout=60,
                walltime="00:10:00",
                launcher=SrunLauncher(),
                worker_init="conda activate envParsl",  # requires conda environment with parsl
            ),
        )
    ],
)
print(config)
