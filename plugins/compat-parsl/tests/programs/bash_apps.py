# Apps, "Bash Apps". Adapted: the imports.
import parsl
from parsl import bash_app


@bash_app
def echo(
    name: str,
    stdout=parsl.AUTO_LOGNAME,  # Requests Parsl to return the stdout
):
    return f'echo "Hello, {name}!"'


future = echo("user")

future.result()  # block until task has completed

with open(future.stdout, "r") as f:
    print(f.read())
