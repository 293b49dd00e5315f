# Join Apps. Adapted: the imports; apps are called and their results asked for; 10 instead of 1000 rounds.
from concurrent.futures import Future
from parsl import python_app, join_app


@python_app
def some_app():
    return 3


@join_app
def example():
    x: Future = some_app()
    return x  # note that x is a Future, not a value


assert example().result() == 3


@python_app
def pre_process(x=3):
    return x


@python_app
def option_one(x):
    return x * 2


@python_app
def option_two(x):
    return (-x) * 2


@join_app
def process(x):
    if x > 0:
        return option_one(x)
    else:
        return option_two(x)


@python_app
def post_process(x):
    return str(x)


assert post_process(process(pre_process())).result() == "6"

for x in range(1, 11):
    assert post_process(process(pre_process(x))).result() == str(2 * x)
print("joined")
