# Staging data files, "in-task staging". As it stands there.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.data_provider.ftp import FTPInTaskStaging

config = Config(executors=[HighThroughputExecutor(storage_access=[HTTPInTaskStaging(), FTPInTaskStaging()])])
print(config)
