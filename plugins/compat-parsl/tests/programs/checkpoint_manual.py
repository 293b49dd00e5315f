# Memoization, "Creating a checkpoint", by hand. Adapted: a shorter sleep; the mode, as checkpoints must be enabled.
import parsl
from parsl import python_app
from parsl.configs.local_threads import config

config.checkpoint_mode = "manual"
dfk = parsl.load(config)


@python_app(cache=True)
def slow_double(x, sleep_dur=0.05):
    import time

    time.sleep(sleep_dur)
    return x * 2


N = 5  # Number of calls to slow_double
d = []  # List to store the futures
for i in range(0, N):
    d.append(slow_double(i))

# Wait for the results
[i.result() for i in d]

cpt_dir = dfk.checkpoint()
print(cpt_dir)  # Prints the checkpoint dir
