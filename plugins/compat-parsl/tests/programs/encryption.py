# Execution, "Encryption". Adapted: the configuration is used.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

config = Config(executors=[HighThroughputExecutor(encrypted=True)])

import parsl

with parsl.load(config):
    print(parsl.python_app(lambda: "sent encrypted")().result())
