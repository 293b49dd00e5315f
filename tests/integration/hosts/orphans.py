"""A program whose blocks outlive it unless they are cancelled: ``orphans.py SITUATION``.

Its blocks are commands that sleep, and no managers, which would end by themselves. It makes the file ``ready`` when it
is to be ended, or ends by itself.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import time

import flowcore
from flowcore.executors import HighThroughputExecutor
from flowcore.plugins.api import component
from flowcore.providers import LocalProvider

SITUATION = sys.argv[1]


@component
class Late(LocalProvider):
    """One whose answers are late: there is a job for a while before its id is known."""

    def submit(self, command, tasks_per_node, job_name="flowcore.late"):
        job_id = super().submit(command, tasks_per_node, job_name)
        pathlib.Path("ready").touch()
        time.sleep(1)
        return job_id


@component
class Deaf(LocalProvider):
    """One that accepts no cancelling for a while."""

    def cancel(self, job_ids):
        with pathlib.Path("cancels").open("a") as file:
            file.write("once more\n")
        if len(pathlib.Path("cancels").read_text().split("\n")) < 6:
            return [False] * len(job_ids)
        return super().cancel(job_ids)


class Broken(flowcore.ThreadPoolExecutor):
    """One that cannot start."""

    def start(self, context):
        raise RuntimeError("cannot start")


def executor(provider, label="sleeps"):
    return HighThroughputExecutor(label=label, launch_cmd="exec sleep 600", provider=provider)


def config(*executors):
    return flowcore.Config(executors=list(executors), strategy="none")


def main():
    if SITUATION == "late":
        with flowcore.load(config(executor(Late(init_blocks=2, max_blocks=2)))):
            time.sleep(600)
    if SITUATION == "deaf":
        with flowcore.load(config(executor(Deaf(init_blocks=2, max_blocks=2)))):
            pathlib.Path("ready").touch()
            time.sleep(600)
    sleeps = executor(LocalProvider(init_blocks=2, max_blocks=1000))
    if SITUATION == "half-way":
        flowcore.load(config(sleeps, Broken(label="broken")))
    if SITUATION == "error":
        with flowcore.load(config(sleeps)):
            raise ValueError("of the program")
    flowcore.load(config(sleeps))
    if SITUATION == "exit":
        sys.exit(3)
    if SITUATION == "clear":
        flowcore.clear()
    if SITUATION == "killed":
        os.kill(os.getpid(), 9)
    if SITUATION == "grows":
        for number in itertools.count():
            pathlib.Path("ready").write_text(str(number))
            sleeps.scale_out(1)
            if number > 3:
                sleeps.scale_in(1)
    if SITUATION == "waits":
        pathlib.Path("ready").touch()
        time.sleep(600)


if __name__ == "__main__":
    main()
