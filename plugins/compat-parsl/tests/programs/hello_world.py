# Apps, "Python Apps". Adapted: the decorator's import.
from parsl import python_app


@python_app
def hello_world(name: str) -> str:
    return f"Hello, {name}!"


print(hello_world("user").result())
