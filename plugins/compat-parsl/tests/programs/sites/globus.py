# Staging data files, "Globus Configuration", the second one. As it stands there.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.data_provider.globus import GlobusStaging
from parsl.data_provider.data_manager import default_staging

config = Config(
    executors=[
        HighThroughputExecutor(
            working_dir="/home/user/parsl_script",
            storage_access=default_staging
            + [
                GlobusStaging(
                    endpoint_uuid="7d2dc622-2edb-11e8-b8be-0ac6873fc732", endpoint_path="/", local_path="/home/user"
                )
            ],
        )
    ]
)
print(config)
