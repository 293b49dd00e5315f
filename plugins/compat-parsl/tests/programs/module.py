# The module of functions_from_modules.py.
def function(x):
    return x + 1
