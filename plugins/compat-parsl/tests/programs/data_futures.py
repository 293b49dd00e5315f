# Futures, "DataFutures". Adapted: the imports.
from parsl import bash_app, File


# This app echoes the input string to the first file specified in the
# outputs list
@bash_app
def echo(message, outputs=()):
    return "echo {} &> {}".format(message, outputs[0])


# Call echo specifying the output file
hello = echo("Hello World!", outputs=[File("hello1.txt")])

# The AppFuture's outputs attribute is a list of DataFutures
print(hello.outputs)

# Print the contents of the output DataFuture when complete
with open(hello.outputs[0].result().filepath, "r") as f:
    print(f.read())
