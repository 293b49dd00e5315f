# Structuring Parsl programs, library.py. As it stands there.
from parsl import python_app


@python_app
def increment(x):
    return x + 1
