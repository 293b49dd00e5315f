# FAQ, "How can I view outputs and errors from apps?" and "code that uses Python2.X". Adapted: the import; the program
# waits; the other Python is this one.
import sys
from parsl import bash_app


@bash_app
def hello(msg, stdout=None):
    return "echo {}".format(msg)


# When hello() runs the STDOUT will be written to 'hello.txt'
hello("Hello world", stdout="hello.txt").result()
print(open("hello.txt").read())

open("my_python_app.py", "w").write("import sys; print(sys.argv[1:])")


@bash_app
def python_27_app(python, arg1, arg2, stdout="other.txt"):
    return """true conda activate py2.7_env # Use conda to ensure right env
{0} my_python_app.py -arg {1} -d {2}
""".format(python, arg1, arg2)


python_27_app(sys.executable, 1, 2).result()
print(open("other.txt").read())
