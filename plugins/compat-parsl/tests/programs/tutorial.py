# The tutorial notebook. Adapted: shorter sleeps; the quotes of echo_hello; the remote file is a local one.
import parsl
import os
import time
from parsl.app.app import python_app, bash_app
from parsl.configs.local_threads import config

print(parsl.__version__)
parsl.load(config)


@python_app
def hello():
    return "Hello World!"


print(hello().result())


@python_app
def multiply(a, b):
    return a * b


print(multiply(5, 9).result())


@python_app
def slow_hello():
    import time

    time.sleep(0.2)
    return "Hello World!"


print(slow_hello().result())


@bash_app
def echo_hello(stdout="echo-hello.stdout", stderr="echo-hello.stderr"):
    return 'echo "Hello World!"'


echo_hello().result()

with open("echo-hello.stdout", "r") as f:
    print(f.read())

for i in range(3):
    with open(os.path.join(os.getcwd(), "hello-{}.txt".format(i)), "w") as f:
        f.write("hello {} \n".format(i))

from parsl.data_provider.files import File


@bash_app
def cat(inputs=[], outputs=[]):
    return "cat {} > {}".format(" ".join([i.filepath for i in inputs]), outputs[0])


concat = cat(
    inputs=[
        File(os.path.join(os.getcwd(), "hello-0.txt")),
        File(os.path.join(os.getcwd(), "hello-1.txt")),
        File(os.path.join(os.getcwd(), "hello-2.txt")),
    ],
    outputs=[File(os.path.join(os.getcwd(), "all_hellos.txt"))],
)

# Open the concatenated file
with open(concat.outputs[0].result(), "r") as f:
    print(f.read())


@python_app
def hello():
    import time

    time.sleep(0.5)
    return "Hello World!"


app_future = hello()

# Check if the app_future is resolved, which it won't be
print("Done: {}".format(app_future.done()))

# Print the result of the app_future. Note: this
# call will block and wait for the future to resolve
print("Result: {}".format(app_future.result()))
print("Done: {}".format(app_future.done()))


# App that echos an input message to an output file
@bash_app
def slowecho(message, outputs=[]):
    return "sleep 0.5; echo %s &> %s" % (message, outputs[0])


# Call slowecho specifying the output file
hello = slowecho("Hello World!", outputs=[File(os.path.join(os.getcwd(), "hello-world.txt"))])

# The AppFuture's outputs attribute is a list of DataFutures
print(hello.outputs)

# Also check the AppFuture
print("Done: {}".format(hello.done()))

# Print the contents of the output DataFuture when complete
with open(hello.outputs[0].result(), "r") as f:
    print(f.read())

# Now that this is complete, check the DataFutures again, and the Appfuture
print(hello.outputs)
print("Done: {}".format(hello.done()))


# App that copies the contents of a file to another file
@bash_app
def copy(inputs=[], outputs=[]):
    return "cat %s &> %s" % (inputs[0], outputs[0])


# Create a test file
open(os.path.join(os.getcwd(), "cat-in.txt"), "w").write("Hello World!\n")

# Create Parsl file objects
parsl_infile = File(
    os.path.join(os.getcwd(), "cat-in.txt"),
)
parsl_outfile = File(
    os.path.join(os.getcwd(), "cat-out.txt"),
)

# Call the copy app with the Parsl file
copy_future = copy(inputs=[parsl_infile], outputs=[parsl_outfile])

# Read what was redirected to the output file
with open(copy_future.outputs[0].result(), "r") as f:
    print(f.read())


@python_app
def sort_numbers(inputs=[]):
    with open(inputs[0].filepath, "r") as f:
        strs = [n.strip() for n in f.readlines()]
        strs.sort()
        return strs


open("unsorted.txt", "w").write("3\n1\n2\n")
unsorted_file = File("file://" + os.path.join(os.getcwd(), "unsorted.txt"))

f = sort_numbers(inputs=[unsorted_file])
print(f.result())


# App that generates a random number
@python_app
def generate(limit):
    from random import randint

    return randint(1, limit)


# App that writes a variable to a file
@bash_app
def save(variable, outputs=[]):
    return "echo %s &> %s" % (variable, outputs[0])


# Generate a random number between 1 and 10
random = generate(10)
print("Random number: %s" % random.result())

# Save the random number to a file
saved = save(random, outputs=[File(os.path.join(os.getcwd(), "sequential-output.txt"))])

# Print the output file
with open(saved.outputs[0].result(), "r") as f:
    print("File contents: %s" % f.read())


# App that generates a random number after a delay
@python_app
def generate(limit, delay):
    from random import randint
    import time

    time.sleep(delay / 10)
    return randint(1, limit)


# Generate 5 random numbers between 1 and 10
rand_nums = []
for i in range(5):
    rand_nums.append(generate(10, i))

# Wait for all apps to finish and collect the results
outputs = [i.result() for i in rand_nums]

# Print results
print(len(outputs), all(1 <= o <= 10 for o in outputs))


# App that generates a semi-random number between 0 and 32,767
@bash_app
def generate(outputs=[]):
    return "echo $(( RANDOM )) &> {}".format(outputs[0])


# App that concatenates input files into a single output file
@bash_app
def concat(inputs=[], outputs=[]):
    return "cat {0} > {1}".format(" ".join([i.filepath for i in inputs]), outputs[0])


# App that calculates the sum of values in a list of input files
@python_app
def total(inputs=[]):
    total = 0
    with open(inputs[0], "r") as f:
        for l in f:
            total += int(l)
    return total


# Create 5 files with semi-random numbers in parallel
output_files = []
for i in range(5):
    output_files.append(generate(outputs=[File(os.path.join(os.getcwd(), "random-{}.txt".format(i)))]))

# Concatenate the files into a single file
cc = concat(inputs=[i.outputs[0] for i in output_files], outputs=[File(os.path.join(os.getcwd(), "all.txt"))])

# Calculate the sum of the random numbers
total = total(inputs=[cc.outputs[0]])
print(total.result() == sum(int(open("random-%d.txt" % i).read()) for i in range(5)))

from parsl.app.app import join_app, python_app


@python_app
def add(*args):
    """Add all of the arguments together. If no arguments, then
    zero is returned (the neutral element of +)
    """
    accumulator = 0
    for v in args:
        accumulator += v
    return accumulator


@join_app
def fibonacci(n):
    if n == 0:
        return add()
    elif n == 1:
        return add(1)
    else:
        return add(fibonacci(n - 1), fibonacci(n - 2))


print(fibonacci(10).result())


# App that estimates pi by placing points in a box
@python_app
def pi(num_points):
    from random import random

    inside = 0
    for i in range(num_points):
        x, y = random(), random()  # Drop a random point in the box.
        if x**2 + y**2 < 1:  # Count points within the circle.
            inside += 1

    return inside * 4 / num_points


# App that computes the mean of three values
@python_app
def mean(a, b, c):
    return (a + b + c) / 3


# Estimate three values for pi
a, b, c = pi(10**5), pi(10**5), pi(10**5)

# Compute the mean of the three estimates
mean_pi = mean(a, b, c)

# Print the results
print("a: {:.5f} b: {:.5f} c: {:.5f}".format(a.result(), b.result(), c.result()))
print("Average: {:.5f}".format(mean_pi.result()))

from parsl.config import Config
from parsl.executors.threads import ThreadPoolExecutor

local_threads = Config(executors=[ThreadPoolExecutor(max_threads=8, label="local_threads")])

from parsl.providers import LocalProvider
from parsl.channels import LocalChannel
from parsl.config import Config
from parsl.executors import HighThroughputExecutor


local_htex = Config(
    executors=[
        HighThroughputExecutor(
            label="htex_Local",
            worker_debug=True,
            cores_per_worker=1,
            provider=LocalProvider(
                channel=LocalChannel(),
                init_blocks=1,
                max_blocks=1,
            ),
        )
    ],
    strategy=None,
)

parsl.clear()
# parsl.load(local_threads)
parsl.load(local_htex)


@bash_app
def generate(outputs=[]):
    return "echo $(( RANDOM )) &> {}".format(outputs[0])


@bash_app
def concat(inputs=[], outputs=[]):
    return "cat {} > {}".format(" ".join(i.filepath for i in inputs), outputs[0])


@python_app
def total(inputs=[]):
    total = 0
    with open(inputs[0], "r") as f:
        for l in f:
            total += int(l)
    return total


# Create 5 files with semi-random numbers
output_files = []
for i in range(5):
    output_files.append(generate(outputs=[File(os.path.join(os.getcwd(), "random-%s.txt" % i))]))

# Concatenate the files into a single file
cc = concat(inputs=[i.outputs[0] for i in output_files], outputs=[File(os.path.join(os.getcwd(), "combined.txt"))])

# Calculate the sum of the random numbers
total = total(inputs=[cc.outputs[0]])

print(total.result() == sum(int(open("random-%d.txt" % i).read()) for i in range(5)))
