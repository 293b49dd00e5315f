# Configuration, "Heterogeneous Resources". Adapted: an executor of the program's own stands for Work Queue and says what
# it is asked for.
import parsl
from concurrent.futures import Future
from parsl import python_app
from parsl.config import Config
from parsl.executors.base import ParslExecutor


class Telling(ParslExecutor):
    label = "telling"

    def start(self):
        print("started", self.run_id is not None, self.run_dir.endswith("runinfo/000"))

    def submit(self, func, resource_specification, *args, **kwargs):
        print(func.__name__, resource_specification, args, flush=True)
        future = Future()
        future.set_result(func(*args, **kwargs))
        return future

    def shutdown(self):
        print("shut down")


parsl.load(Config(executors=[Telling()]))


@python_app
def compute(x, parsl_resource_specification={"cores": 1, "memory": 1000, "disk": 1000}):
    return x * 2


print(compute(4).result())

x = 5
spec = {"cores": 1, "memory": 500, "disk": 500}
future = compute(x, parsl_resource_specification=spec)
print(future.result())
parsl.clear()
