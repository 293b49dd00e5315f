# Staging data files, "Globus Configuration", the first one. As it stands there.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor

config = Config(executors=[HighThroughputExecutor(working_dir="/home/user/data")])
print(config)
