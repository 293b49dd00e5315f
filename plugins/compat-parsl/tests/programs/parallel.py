# Example parallel patterns, "Parallel workflows" and "with loops". Adapted: the imports; a shorter sleep; one load.
import parsl
from parsl import python_app

parsl.load()


@python_app
def wait_sleep_double(x, foo_1, foo_2):
    import time

    time.sleep(0.2)  # Sleep for 2 seconds
    return x * 2


# Launch two apps, which will execute in parallel, since they do not have to
# wait on any futures
doubled_x = wait_sleep_double(10, None, None)
doubled_y = wait_sleep_double(10, None, None)

# The third app depends on the first two:
#   doubled_x   doubled_y   (2 s)
#           \      /
#           doubled_z      (2 s)
doubled_z = wait_sleep_double(10, doubled_x, doubled_y)

# doubled_z will be done in ~4s
print(doubled_z.result())


@python_app
def generate(limit):
    """Generate a random integer and return it"""
    from random import randint

    return randint(1, limit)


rand_nums = []
for i in range(1, 5):
    rand_nums.append(generate(i))

# Wait for all apps to finish and collect the results
outputs = [r.result() for r in rand_nums]
print(len(outputs), outputs[0])
