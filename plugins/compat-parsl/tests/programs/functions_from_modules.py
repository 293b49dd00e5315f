# Apps, "Functions from Modules". Adapted: the import of update_wrapper; the apps are called.
from parsl import python_app

from module import function

function_app = python_app(function)
print(function_app(20).result())

from functools import partial, update_wrapper
import numpy as np

my_max = partial(np.max, axis=0, keepdims=True)
my_max = update_wrapper(my_max, max)  # Copy over the names
my_max_app = python_app(my_max)
print(my_max_app([[1, 5], [3, 2]]).result().tolist())


@python_app
def my_max_app(*args, **kwargs):
    import numpy as np

    return np.max(*args, keepdims=True, axis=0, **kwargs)


print(my_max_app([[1, 5], [3, 2]]).result().tolist())
