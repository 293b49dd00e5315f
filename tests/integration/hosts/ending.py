"""A program whose tasks never end: ``ending.py EXECUTOR SITUATION``.

Each task makes a file, ``begun-N``, when it runs; a test waits for these and then ends the program, or lets it end.
"""

from __future__ import annotations

import asyncio
import pathlib
import sys
import time

import flowcore
from flowcore import bash_app, join_app, python_app
from flowcore.concurrent import PoolExecutor

EXECUTOR, SITUATION = sys.argv[1:]
CONFIGS = {
    "threads": {"executors": [{"plugin": "threads", "max_threads": 2}]},
    "htex": {
        "executors": [
            {
                "plugin": "htex",
                "max_workers_per_node": 1,
                "provider": {"plugin": "local", "init_blocks": 2, "max_blocks": 2},
            }
        ]
    },
}
CONFIG = CONFIGS[EXECUTOR]


def hang(n):
    pathlib.Path(f"begun-{n}").touch()
    time.sleep(1000)


def until_begun():
    while not (pathlib.Path("begun-0").exists() and pathlib.Path("begun-1").exists()):
        time.sleep(0.01)


@bash_app
def command(n):
    # A grandchild too, which must not outlive its shell.
    return f"sleep 1000 & touch begun-{n}; sleep 1000"


@join_app
def join():
    return [app(0), app(1)]


async def gather():
    await asyncio.gather(app(0), app(1))


app = python_app(hang)


def main():
    if SITUATION == "loading":
        pathlib.Path("begun-0").touch()
        pathlib.Path("begun-1").touch()
        while True:
            flowcore.load(CONFIG)
            flowcore.clear()
    if SITUATION == "pool":
        with PoolExecutor(CONFIG) as pool:
            list(pool.map(hang, range(2)))
    if SITUATION == "with":
        with flowcore.load(CONFIG):
            app(0), app(1)
        return
    flowcore.load(CONFIG)
    if SITUATION == "join":
        join().result()
    if SITUATION == "asyncio":
        asyncio.run(gather())
    if SITUATION == "bash":
        command(0), command(1)
    else:
        app(0), app(1)
    never = app(2)
    if SITUATION == "result":
        never.result()
    if SITUATION in ("wait", "bash"):
        flowcore.wait_for_current_tasks()
    if SITUATION == "sleep":
        time.sleep(1000)
    until_begun()
    if SITUATION == "clear":
        flowcore.clear()
    if SITUATION == "exit":
        sys.exit(3)
    if SITUATION == "error":
        raise ValueError("of the program")
    # "end": nothing more


if __name__ == "__main__":
    main()
