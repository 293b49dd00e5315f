# Error handling, "Exceptions". Adapted: the import.
from parsl import python_app


@python_app
def bad_divide(x):
    return 6 / x


# Call bad divide with 0, to cause a divide by zero exception
doubled_x = bad_divide(0)

# Catch and handle the exception.
try:
    doubled_x.result()
except ZeroDivisionError as e:
    print("Oops! You tried to divide by 0.")
except Exception as e:
    print("Oops! Something really bad happened.")
