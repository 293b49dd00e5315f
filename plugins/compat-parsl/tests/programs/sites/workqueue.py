# Configuration, "Heterogeneous Resources". Adapted: the imports; the two configurations are one.
from parsl.config import Config
from parsl.executors import WorkQueueExecutor

config = Config(
    executors=[
        WorkQueueExecutor(
            # ...other options go here
            autolabel=True,
            autocategory=True,
            pack=True,
        )
    ]
)
print(config)
