# Not of the guide: tasks that import parsl, use it as a global, and look at their worker's environment.
import parsl
from parsl import python_app


@python_app
def imports():
    import parsl
    from parsl.app.errors import ParslError

    return parsl.__version__, ParslError.__name__


@python_app
def uses_global(x):
    return parsl.File(x).filepath, parsl.__version__


@python_app
def environment():
    import os

    return {k: v == os.environ["FLOW" + "CORE" + k[5:]] for k, v in os.environ.items() if k.startswith("PARSL_WORKER_")}


print(imports().result())
print(uses_global("a.txt").result())
print(sorted(environment().result().items()))
