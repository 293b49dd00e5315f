# Error handling, "Retries". Adapted: an app that fails twice.
import parsl
from parsl.configs.htex_local import config

config.retries = 2

parsl.load(config)


@parsl.python_app
def third_time():
    with open("tries", "a") as f:
        f.write("x")
    tries = len(open("tries").read())
    if tries < 3:
        raise OSError("transient")
    return tries


print(third_time().result())
parsl.clear()
