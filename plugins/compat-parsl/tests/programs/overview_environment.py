# Overview, "The Parsl Environment". Adapted: the decorators' import; results instead of futures are printed.
# Marked as wrong there for all executors but threads: ambiguous_double. flowcore sends the globals that it uses along.
from parsl import python_app

answer = 42


def print_answer():
    print("the answer is", answer)


print_answer()

import random

factor = 5


@python_app
def ambiguous_double(x):
    return x * random.random() * factor


print(0 <= ambiguous_double(42).result() <= 210)

import random

factor = 5


@python_app
def good_double(factor, x):
    import random

    return x * random.random() * factor


print(0 <= good_double(factor, 42).result() <= 210)


def print_answer_file():
    with open("answer.txt", "r") as f:
        print("the answer is", f.read())


with open("answer.txt", "w") as f:
    f.write("42")
    f.close()

print_answer_file()
