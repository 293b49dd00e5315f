# Staging data files, "separate task staging", the configuration. As it stands there.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.data_provider.http import HTTPSeparateTaskStaging
from parsl.data_provider.ftp import FTPSeparateTaskStaging

config = Config(
    executors=[HighThroughputExecutor(storage_access=[HTTPSeparateTaskStaging(), FTPSeparateTaskStaging()])]
)
print(config)
