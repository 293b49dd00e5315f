# Staging data files, "FTP, HTTP, HTTPS: separate task staging": the program. Adapted: the imports; both files are local.
import os
from parsl import python_app, File


@python_app
def convert(inputs=(), outputs=()):
    with open(inputs[0].filepath, "r") as inp:
        content = inp.read()
        with open(outputs[0].filepath, "w") as out:
            out.write(content.upper())


# create an remote Parsl file
open("ARIN.txt", "w").write("some text\n")
inp = File("file://" + os.getcwd() + "/ARIN.txt")

# create a local Parsl file
out = File("file://" + os.getcwd() + "/ARIN-STATS-FORMAT-CHANGE.txt")

# call the convert app with the Parsl file
f = convert(inputs=[inp], outputs=[out])
f.result()
print(open("ARIN-STATS-FORMAT-CHANGE.txt").read())
