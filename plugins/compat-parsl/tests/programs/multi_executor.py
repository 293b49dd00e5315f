# Execution, "Multi-executor". Adapted: the imports and the configuration with the labels; the commands are echo and cat;
# the inputs are joined by their paths (a File is no str).
import parsl
from parsl import bash_app, File
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor

parsl.load(
    Config(
        executors=[
            HighThroughputExecutor(label="Theta.Phi", max_workers_per_node=2),
            ThreadPoolExecutor(label="Cooley.GPU"),
        ]
    )
)


# A mock molecular dynamics simulation app
@bash_app(executors=["Theta.Phi"])
def MD_Sim(arg, outputs=()):
    return "echo MD_simulate {} > {}".format(arg, outputs[0])


# Visualize results from the mock MD simulation app
@bash_app(executors=["Cooley.GPU"])
def visualize(inputs=(), outputs=()):
    bash_array = " ".join(i.filepath for i in inputs)
    return "cat {} > {}".format(bash_array, outputs[0])


simulations = [MD_Sim(i, outputs=[File("md-%d.txt" % i)]) for i in range(3)]
image = visualize(inputs=[s.outputs[0] for s in simulations], outputs=[File("viz.txt")])
print(open(image.outputs[0].result()).read())
parsl.clear()
