# Configuration, "Further help".
from parsl.config import Config

help(Config)
