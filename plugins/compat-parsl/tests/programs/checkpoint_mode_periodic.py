# Memoization, "Checkpointing", the mode periodic. Adapted: an app is run; at the end the checkpoints are counted.
import parsl
from parsl.configs.local_threads import config

config.checkpoint_mode = "periodic"
config.checkpoint_period = "01:00:00"

dfk = parsl.load(config)
print(parsl.python_app(lambda x: x * 2, cache=True)(4).result())

parsl.clear()

from parsl.utils import get_all_checkpoints

print(len(get_all_checkpoints()))
