# Configuration, "Amazon Web Services". As it stands there.
from parsl.config import Config
from parsl.providers import AWSProvider
from parsl.executors import HighThroughputExecutor

config = Config(
    executors=[
        HighThroughputExecutor(
            label="ec2_single_node",
            provider=AWSProvider(
                # Specify your EC2 AMI id
                "YOUR_AMI_ID",
                # Specify the AWS region to provision from
                # eg. us-east-1
                region="YOUR_AWS_REGION",
                # Specify the name of the key to allow ssh access to nodes
                key_name="YOUR_KEY_NAME",
                profile="default",
                state_file="awsproviderstate.json",
                nodes_per_block=1,
                init_blocks=1,
                max_blocks=1,
                min_blocks=0,
                walltime="01:00:00",
            ),
        )
    ],
)
print(config)
