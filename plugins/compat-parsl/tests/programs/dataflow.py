# Example parallel patterns, files between bash apps. Adapted: the import of parsl; the inputs are joined by their paths,
# as they are Files, of which the same program also uses the paths (" ".join of Files is a TypeError).
import parsl
from parsl import python_app, bash_app

parsl.load()


@bash_app
def generate(outputs=()):
    return "echo $(( RANDOM % (10 - 5 + 1 ) + 5 )) &> {}".format(outputs[0])


@bash_app
def concat(inputs=(), outputs=(), stdout="stdout.txt", stderr="stderr.txt"):
    return "cat {0} >> {1}".format(" ".join(i.filepath for i in inputs), outputs[0])


@python_app
def total(inputs=()):
    total = 0
    with open(inputs[0].filepath, "r") as f:
        for l in f:
            total += int(l)
    return total


# Create 5 files with random numbers
output_files = []
for i in range(5):
    output_files.append(generate(outputs=["random-%s.txt" % i]))

# Concatenate the files into a single file
cc = concat(inputs=[i.outputs[0] for i in output_files], outputs=["all.txt"])

# Calculate the average of the random numbers
totals = total(inputs=[cc.outputs[0]])
print(totals.result())
