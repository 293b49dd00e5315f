"""``python -m flowcore_compat_parsl SCRIPT [ARGS]...``: runs a Parsl program on flowcore."""

from __future__ import annotations

import runpy
import sys
from typing import NoReturn

from flowcore.cli.run import run_script
from flowcore_compat_parsl import install

USAGE = """\
usage: python -m flowcore_compat_parsl SCRIPT [ARGS]...
       python -m flowcore_compat_parsl -m MODULE [ARGS]...
"""


def main() -> NoReturn:
    """Run the script that the arguments name, and exit as it does.

    ``-m MODULE`` runs a module instead, as of Python's own ``-m``, for example ``parsl.benchmark.perf``.
    """
    arguments = sys.argv[1:]
    module = arguments[:1] == ["-m"]
    if not arguments[module:] or arguments[0] in ("-h", "--help"):
        (sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr).write(USAGE)
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    install()
    if module:
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        run_script(arguments[0], arguments[1:])
    raise SystemExit(0)


if __name__ == "__main__":
    main()
