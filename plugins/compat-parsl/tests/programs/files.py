# Staging data files, "Parsl files". Adapted: the imports; the remote file is a local one, named by its URL.
import os
from parsl import python_app, File

File("file://home/parsl/data.txt")
File("/home/parsl/data.txt")
File("https://github.com/Parsl/parsl/blob/master/README.rst")


@python_app
def print_file(inputs=()):
    with open(inputs[0].filepath, "r") as inp:
        content = inp.read()
        return content


# create an remote Parsl file
open("README.rst", "w").write("a readme")
f = File("file://" + os.getcwd() + "/README.rst")

# call the print_file app with the Parsl file
r = print_file(inputs=[f])
print(r.result())
