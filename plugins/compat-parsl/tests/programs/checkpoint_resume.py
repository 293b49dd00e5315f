# Memoization, "Resuming from a checkpoint". Adapted: the app, which is that of checkpoint_create.py; the hits are counted.
import parsl
from parsl import python_app
from parsl.tests.configs.local_threads import config
from parsl.utils import get_all_checkpoints

config.checkpoint_files = get_all_checkpoints()

parsl.load(config)


@python_app(cache=True)
def slow_double(x):
    import time

    time.sleep(0.05)
    return x * 2


# Rerun the same workflow
d = []
for i in range(5):
    d.append(slow_double(i))

# wait for results
print([d[i].result() for i in range(5)])
print(parsl.dfk().memo_hits)
