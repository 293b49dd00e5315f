# Futures, "AppFutures". Adapted: the import; a shorter sleep; done() is printed after a result, too.
from parsl import python_app


@python_app
def sleep_double(x):
    import time

    time.sleep(0.2)  # Sleep for 2 seconds
    return x * 2


# Start two concurrent sleep_double apps. doubled_x1 and doubled_x2 are AppFutures
doubled_x1 = sleep_double(10)
doubled_x2 = sleep_double(5)

# The result() function will block until each of the corresponding app calls have completed
print(doubled_x1.result() + doubled_x2.result())


@python_app
def double(x):
    return x * 2


# doubled_x is an AppFuture
doubled_x = double(10)

# Check status of doubled_x, this will print True if the result is available, else False
print(doubled_x.done() in (True, False))
doubled_x.result()
print(doubled_x.done())


@python_app
def bad_divide(x):
    return 6 / x


# Call bad divide with 0, to cause a divide by zero exception
doubled_x = bad_divide(0)

# Catch and handle the exception.
try:
    doubled_x.result()
except ZeroDivisionError as ze:
    print("Oops! You tried to divide by 0")
except Exception as e:
    print("Oops! Something really bad happened")
