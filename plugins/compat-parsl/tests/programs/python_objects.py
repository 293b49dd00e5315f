# Passing Python objects. Adapted: the import.
from parsl import python_app


@python_app
def example(name):
    return "hello {}".format(name)


r = example("bob")
print(r.result())
