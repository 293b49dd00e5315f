# Configuration, "Expanse (SDSC)". As it stands there.
from parsl.config import Config
from parsl.channels import LocalChannel
from parsl.providers import SlurmProvider
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.addresses import address_by_interface

config = Config(
    executors=[
        HighThroughputExecutor(
            label="Expanse_CPU_Multinode",
            max_workers_per_node=32,
            provider=SlurmProvider(
                "compute",
                account="YOUR_ALLOCATION_ON_EXPANSE",
                launcher=SrunLauncher(),
                scheduler_options="",
                worker_init="",
                walltime="01:00:00",
                init_blocks=1,
                max_blocks=1,
                nodes_per_block=2,
            ),
        )
    ],
)
print(config)
