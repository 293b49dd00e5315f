# Lifted operators. Adapted: the apps, and the key is a string.
from parsl import python_app


@python_app
def my_app():
    return {"x": 1, "y": [2, 3]}


fut = my_app()
assert fut["x"].result() == fut.result()["x"]
print(fut["y"][1].result())


@python_app
def my_object():
    from types import SimpleNamespace

    return SimpleNamespace(x=5)


fut = my_object()
assert fut.x.result() == fut.result().x
print(fut.x.result())
