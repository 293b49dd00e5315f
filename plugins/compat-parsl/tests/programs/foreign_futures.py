# Join Apps, "Example of invoking a Futures-driven task from another system". Adapted: the other system is a pool of
# threads of the standard library.
import parsl
from concurrent.futures import ThreadPoolExecutor as Executor

gce = Executor()


def increment_in_funcx(n):
    return n + 1


@parsl.join_app
def increment_in_parsl(n):
    future = gce.submit(increment_in_funcx, n)
    return future


@parsl.python_app
def times_two(n):
    return n * 2


@parsl.python_app
def const_five():
    return 5


parsl.load()

workflow = times_two(increment_in_parsl(const_five()))

r = workflow.result()

assert r == (5 + 1) * 2
print(r)
