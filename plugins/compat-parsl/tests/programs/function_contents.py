# Apps, "Rules for Function Contents". Adapted: the decorator's import; the pieces are put together and called; the
# functions have a name each; the annotation that numpy does not allow as it stands is all in quotes.
from parsl import python_app
import numpy as np


# BAD: Assumes library has been imported
@python_app
def bad_linear_model(x: list[float] | np.ndarray, m: float, b: float):
    return np.multiply(x, m) + b


# GOOD: Function imports libraries on remote worker
@python_app
def linear_model(x: "list[float] | 'np.ndarray'", m: float, b: float):
    import numpy as np

    return np.multiply(x, m) + b


print("bad linear_model:", bad_linear_model([1.0, 2.0], 3.0, 1.0).result().tolist())
print("good linear_model:", linear_model([1.0, 2.0], 3.0, 1.0).result().tolist())

# BAD: Uses global variables
global_var = {"a": 0}


@python_app
def bad_counter_func(string: str, character: str = "a"):
    global_var[character] += string.count(character)  # `global_var` will not be accessible


bad_counter_func("parsl").result()
print("bad counter_func:", global_var)

# GOOD
global_var = {"a": 0}


@python_app
def counter_func(string: str, character: str = "a"):
    return {character: string.count(character)}


for ch, co in counter_func("parsl", "a").result().items():
    global_var[ch] += co
print("good counter_func:", global_var)


# BAD: Assumes changes to inputs will be communicated
@python_app
def bad_append_to_list(input_list: list, new_val):
    input_list.append(new_val)


numbers = [1]
bad_append_to_list(numbers, 2).result()
print("bad append_to_list:", numbers)


# GOOD: Changes to inputs are returned
@python_app
def append_to_list(input_list: list, new_val) -> list:
    input_list.append(new_val)
    return input_list


print("good append_to_list:", append_to_list([1], 2).result())
