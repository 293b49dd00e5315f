"""A workflow of cached tasks that is killed and started again.

``killed_run.py RUN_DIR EXECUTED MODE EXECUTOR UP_TO [stay]`` says on standard output, a line each, which tasks may be
relied on from now on, ``done NUMBER CRC``: with the mode ``task_exit`` those whose futures are done, with the others
those that were done before a ``checkpoint()`` that returned, or before the end of the run. Then comes ``all HITS``, and
``end`` when the run is cleaned up; with ``stay`` it never ends. Each execution of a task appends its number to the file
EXECUTED.
"""

from __future__ import annotations

import os
import sys
import threading
import zlib
from functools import partial
from typing import Any

import flowcore
from flowcore import Config, python_app
from flowcore.checkpoints import get_all_checkpoints

#: Two workers; and what is left of a run that was killed ends soon.
LIKE_THREADS = {"max_workers_per_node": 2, "heartbeat_threshold": 5, "heartbeat_period": 1}


def value(number: int, previous: str | None) -> str:
    """Return what a task returns: small mostly, and now and then more than a pipe or a buffer holds."""
    return f"{number} after {len(previous or '')} " + "x" * (number % 50 + 100_000 * (number % 250 == 7))


def crc(text: str) -> int:
    """Return a checksum."""
    return zlib.crc32(text.encode())


@python_app(cache=True, ignore_for_cache=["executed"])
def work(number: int, previous: str | None, executed: str) -> str:
    """Compute a value, and write down that this was done."""
    import os

    file = os.open(executed, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return value(number, previous)


def say(*words: object) -> None:
    """Write a line at once, and as one: threads do it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def say_done(number: int, future: Any) -> None:
    """Say that a task's future is done."""
    say("done", number, crc(future.result()))


def main() -> None:
    """Run, or go on with, the workflow."""
    run_dir, executed, mode, executor, up_to, *stay = sys.argv[1:]
    config = Config(
        executors=[{"plugin": executor, **(LIKE_THREADS if executor == "htex" else {})}],
        run_dir=run_dir,
        checkpoint_mode=mode,
        checkpoint_period="00:00:01" if mode == "periodic" else None,
        checkpoint_files=get_all_checkpoints(run_dir),
    )
    unsaid: list[tuple[int, Any]] = []
    with flowcore.load(config) as dfk:
        futures: list[Any] = []
        for number in range(int(up_to)):
            # Each third task depends on the one before.
            future = work(number, futures[-1] if number % 3 == 2 else None, executed)
            futures.append(future)
            if mode == "task_exit" and number % 2:
                future.add_done_callback(partial(say_done, number))
        for number, future in enumerate(futures):
            text = future.result()
            if mode == "task_exit":
                if not number % 2:
                    say("done", number, crc(text))
            else:
                unsaid.append((number, text))
                # In other modes than manual, the last ones are left to the run.
                if number % 25 == 24 and (mode == "manual" or number < len(futures) - 100):
                    dfk.checkpoint()
                    for n, known in unsaid:
                        say("done", n, crc(known))
                    unsaid = []
        if mode == "manual":
            dfk.checkpoint()
        say("all", dfk.memo_hits)
        if stay:
            threading.Event().wait()
    for n, known in unsaid:
        say("done", n, crc(known))
    say("end")


if __name__ == "__main__":
    main()
