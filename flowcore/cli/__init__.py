"""The ``flowcore`` command. Each subcommand is a plugin of the kind ``command``, the core's own too.

Rule of this package: modules import click and the light parts of flowcore when they are imported; rich, and
all that a run needs, only when a command runs.
"""
