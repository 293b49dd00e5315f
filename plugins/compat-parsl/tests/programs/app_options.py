# Apps, "Options for Python Apps", and FAQ, "How do I specify where apps should be run?". Adapted: the imports, the
# configuration that has the labels, the bodies of the functions, the calls.
import parsl
from parsl import python_app
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor

parsl.load(
    Config(
        executors=[
            ThreadPoolExecutor(label=label, thread_name_prefix=label)
            for label in ("gpu", "SuperComputer1", "GPUMachine")
        ]
    )
)


@python_app(cache=True, executors=["gpu"])
def expensive_gpu_function():
    import threading

    return threading.current_thread().name.partition("_")[0]


@python_app(executors=["SuperComputer1"])
def BigSimulation():
    import threading

    return threading.current_thread().name.partition("_")[0]


@python_app(executors=["GPUMachine"])
def Visualize(simulation):
    import threading

    return simulation + ", " + threading.current_thread().name.partition("_")[0]


print(expensive_gpu_function().result(), expensive_gpu_function().result())
print(Visualize(BigSimulation()).result())
print(parsl.dfk().memo_hits)
parsl.clear()
