# Configuration, "Midway (RCC, UChicago)". Adapted: the interface is lo.
from parsl.config import Config
from parsl.channels import LocalChannel
from parsl.providers import SlurmProvider
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.addresses import address_by_interface

config = Config(
    executors=[
        HighThroughputExecutor(
            label="Midway_HTEX_multinode",
            address=address_by_interface("lo"),
            worker_debug=False,
            max_workers_per_node=2,
            provider=SlurmProvider(
                "YOUR_PARTITION",  # Partition name, e.g 'broadwl'
                launcher=SrunLauncher(),
                nodes_per_block=2,
                init_blocks=1,
                min_blocks=1,
                max_blocks=1,
                scheduler_options="",
                worker_init="",
                walltime="00:30:00",
            ),
        )
    ],
)
print(config)
