"""A first workflow: some Python, some shell, and futures between them."""

from collections.abc import Sequence
from pathlib import Path

import flowcore
from flowcore import File, bash_app, python_app


@python_app
def square(number: int) -> int:
    return number * number


@python_app
def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@bash_app
def write_down(number: int, outputs: Sequence[File] = ()) -> str:
    return f"echo 'The sum is {number}.' > {outputs[0]}"


with flowcore.load():  # threads of this process; see below for others
    squares = [square(n) for n in range(10)]  # ten calls, ten futures, at once
    total = add_up(squares)  # waits for its arguments, and this script goes on
    note = write_down(total, outputs=[File("sum.txt")])
    file = note.outputs[0].result()  # here the script waits
    print(Path(file).read_text(), end="")
