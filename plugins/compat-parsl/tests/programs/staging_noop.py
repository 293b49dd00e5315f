# Staging data files, "Staging providers" and "NoOpFileStaging". Adapted: the configurations are used.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.data_provider.data_manager import default_staging

config = Config(
    executors=[
        HighThroughputExecutor(
            storage_access=default_staging,
            # equivalent to the following
            # storage_access=[NoOpFileStaging(), FTPSeparateTaskStaging(), HTTPSeparateTaskStaging()],
        )
    ]
)

import parsl

open("in.txt", "w").write("staged")


@parsl.python_app
def read(inputs=()):
    return open(inputs[0]).read()


with parsl.load(config):
    print(read(inputs=[parsl.File("in.txt")]).result())

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.data_provider.file_noop import NoOpFileStaging

config = Config(executors=[HighThroughputExecutor(storage_access=[NoOpFileStaging()])])

with parsl.load(config):
    print(read(inputs=[parsl.File("in.txt")]).result())
