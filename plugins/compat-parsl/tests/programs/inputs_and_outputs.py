# Apps, "Inputs and Outputs". Adapted: the imports; the file is made first.
from parsl import python_app, File

open("text.txt", "w").write("first line\nsecond line\n")


@python_app
def read_first_line(x: File):
    with open(x.filepath, "r") as fp:
        return fp.readline()


@python_app
def capitalize(x: str):
    return x.upper()


input_file = File("text.txt")
first_line_future = read_first_line(input_file)
capital_future = capitalize(first_line_future)
print(capital_future.result())
