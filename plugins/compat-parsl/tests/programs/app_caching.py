# Memoization, "App caching" to "Ignoring arguments". Adapted: the imports; the apps have names of their own, are called
# and leave a trace of each execution.
import parsl
from parsl import bash_app, python_app


@bash_app(cache=True)
def hello(msg, stdout=None):
    return "echo x >> executed; echo {}".format(msg)


hello("a", stdout="one").result()
hello("a", stdout="one").result()
hello("a", stdout="two").result()
print(len(open("executed").read().split()))


@bash_app(cache=True, ignore_for_cache=["stdout"])
def hello_again(msg, stdout=None):
    return "echo x >> executed_again; echo {}".format(msg)


hello_again("a", stdout="three").result()
hello_again("a", stdout="four").result()
print(len(open("executed_again").read().split()))


@python_app(cache=True)
def f(x):
    import os

    return os.urandom(8)


# these two app invocations are the same and the second invocation will
# reuse any cached input from the first invocation
x = 7
first = f(x).result()

y = 7
print(f(y).result() == first)

# A type of the program's own.
from parsl.dataflow.memoization import id_for_memo


class Grid:
    def __init__(self, size):
        self.size = size


@python_app(cache=True)
def area(grid):
    import os

    return grid.size**2, os.urandom(8)


try:
    area(Grid(3)).result()
except ValueError as error:
    print("unknown type for memoization" in str(error))


@id_for_memo.register(Grid)
def id_for_memo_grid(grid, output_ref=False):
    return b"Grid" + id_for_memo(grid.size, output_ref=output_ref)


print(area(Grid(3)).result() == area(Grid(3)).result() != area(Grid(4)).result())
