# Example parallel patterns, ParslPoolExecutor. Adapted: the pool has one name; the results are printed.
from parsl.concurrent import ParslPoolExecutor
from parsl.configs.htex_local import config


# NOTE: Functions used by the ParslPoolExecutor do _not_ use decorators
def generate(limit):
    """Generate a random integer and return it"""
    from random import randint

    return randint(1, limit)


with ParslPoolExecutor(config) as pool:
    outputs = pool.map(generate, range(1, 5))
    print(next(outputs), len(list(outputs)))
