# Error handling, "Retry handlers". Adapted: the imports; two apps that fail; what the handler is told is printed.
import parsl
from parsl.app.errors import BashExitFailure
from parsl.config import Config


def example_retry_handler(exception, task_record):
    print(task_record["func_name"], task_record["executor"], task_record["args"], task_record["try_id"], flush=True)
    if isinstance(exception, BashExitFailure) and exception.exitcode == 9:
        return 100
    else:
        return 1


config = Config(retries=2, retry_handler=example_retry_handler)


@parsl.bash_app
def fails(code):
    return f"exit {code}"


with parsl.load(config):
    for code in (9, 1):
        try:
            fails(code).result()
        except BashExitFailure as error:
            print(error.app_name, error.exitcode, flush=True)
