# Memoization, "Creating a checkpoint". Adapted: a shorter sleep.
import parsl
from parsl.app.app import python_app
from parsl.configs.local_threads import config

config.checkpoint_mode = "task_exit"

parsl.load(config)


@python_app(cache=True)
def slow_double(x):
    import time

    time.sleep(0.05)
    return x * 2


d = []
for i in range(5):
    d.append(slow_double(i))

print([d[i].result() for i in range(5)])
