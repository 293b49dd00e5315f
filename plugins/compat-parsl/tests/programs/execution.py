# Execution, "Launchers" and "Configuration". Adapted: the launcher is a Launcher and wraps one that runs here; the
# configuration's names are those of the API reference (LocalProvider, max_workers_per_node).
import parsl
from parsl.config import Config
from parsl.launchers import SimpleLauncher
from parsl.launchers.base import Launcher
from parsl.providers import LocalProvider
from parsl.executors import HighThroughputExecutor


class MyShifterSrunLauncher(Launcher):
    def __init__(self):
        super().__init__(debug=True)
        self.srun_launcher = SimpleLauncher()

    def __call__(self, command, tasks_per_node, nodes_per_block):
        new_command = "export WRAPPED=yes\n{}".format(command)
        return self.srun_launcher(new_command, tasks_per_node, nodes_per_block)


config = Config(
    executors=[
        HighThroughputExecutor(
            label="local_htex",
            max_workers_per_node=2,
            provider=LocalProvider(
                launcher=MyShifterSrunLauncher(),
                min_blocks=1,
                init_blocks=1,
                max_blocks=2,
                nodes_per_block=1,
                parallelism=0.5,
            ),
        )
    ]
)


@parsl.python_app
def wrapped():
    import os

    return os.environ["WRAPPED"]


with parsl.load(config):
    print(wrapped().result())
