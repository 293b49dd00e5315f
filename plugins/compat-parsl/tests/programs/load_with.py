# Configuration, "Creating and Using Config Objects". Adapted: the workflows, and the options of the Config.
from parsl.configs.htex_local import config
import parsl


@parsl.python_app
def workflow():
    return "done"


with parsl.load(config):
    print(workflow().result())

from parsl.config import Config
import parsl


def make_config() -> Config:
    return Config(retries=1)


with parsl.load(make_config()):
    # Your workflow here
    print(workflow().result())
parsl.clear()  # Stops Parsl
with parsl.load(make_config()):  # Re-launches with a fresh configuration
    # Your workflow here
    print(workflow().result())

try:
    parsl.load(config)
except parsl.errors.ConfigurationError as error:
    print(error)
