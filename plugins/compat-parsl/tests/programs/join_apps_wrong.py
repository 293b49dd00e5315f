# Join Apps, what a python_app would do in place of a join_app: on threads both ways run, with the drawbacks that are
# explained there; on a worker no app can be called. Adapted: the imports; names; results are asked for.
import sys
from parsl import python_app


@python_app
def pre_process():
    return 3


@python_app
def option_one(x):
    return x * 2


@python_app
def option_two(x):
    return (-x) * 2


@python_app
def post_process(x):
    return str(x)


@python_app
def waiting_process(x):
    if x > 0:
        f = option_one(x)
    else:
        f = option_two(x)
    return f.result()


print(post_process(waiting_process(pre_process())).result())


@python_app
def process(x):
    if x > 0:
        f = option_one(x)
    else:
        f = option_two(x)
    return f  # f is a Future[int]


# process(3) is a Future[Future[int]]
f_outer = process(pre_process())  # Future[Future[int]]
f_inner = f_outer.result()  # Future[int]
result = post_process(f_inner)
print(result.result() == "6")
