# Configuration, "Bridges (PSC)". Adapted: the interface is lo.
from parsl.config import Config
from parsl.channels import LocalChannel
from parsl.providers import SlurmProvider
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.addresses import address_by_interface

config = Config(
    executors=[
        HighThroughputExecutor(
            label="Bridges_HTEX_multinode",
            address=address_by_interface("lo"),
            max_workers_per_node=1,
            provider=SlurmProvider(
                "YOUR_PARTITION_NAME",  # Specify Partition / QOS, for eg. RM-small
                nodes_per_block=2,
                init_blocks=1,
                scheduler_options="",
                worker_init="",
                # We request all hyperthreads on a node.
                launcher=SrunLauncher(),
                walltime="00:10:00",
                # Slurm scheduler on Cori can be slow at times,
                # increase the command timeouts
                cmd_timeout=120,
            ),
        )
    ],
)
print(config)
