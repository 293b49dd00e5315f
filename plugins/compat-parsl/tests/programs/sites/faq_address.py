# FAQ, "Workers do not connect back to Parsl". Adapted: the address.
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.addresses import address_by_route, address_by_query, address_by_hostname

config = Config(
    executors=[
        HighThroughputExecutor(
            label="ALCF_theta_local",
            address="127.0.0.1",  # specify public ip here
            # address=address_by_route()    # Alternatively you can try this
            # address=address_by_query()    # Alternatively you can try this
            # address=address_by_hostname() # Alternatively you can try this
        )
    ],
)
print(config)
