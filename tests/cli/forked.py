"""Run ``vision`` in a process forked from one that has imported it, which saves the start time.

Rules: a command has its own arguments, folder, environment and standard streams. The forked process has
one thread and has not run any command before.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

# Some libraries of macOS abort a process that continues after a fork, so it uses spawn.
_START: ForkServerContext | SpawnContext = (
    multiprocessing.get_context("forkserver")
    if sys.platform == "linux"
    else multiprocessing.get_context("spawn")
)
_START.set_forkserver_preload([__name__, "cli.__main__"])


def run(
    args: Sequence[str], folder: Path, environ: Mapping[str, str], streams: Path, timeout_s: float
) -> int:
    """The exit status of ``vision`` *args*; *streams* has ``stdin``, and gets ``stdout``, ``stderr``.

    Raises ``TimeoutError`` and kills the process after *timeout_s*.
    """
    arguments = (list(args), str(folder), dict(environ), str(streams))
    process = _START.Process(target=_command, args=arguments)
    process.start()
    process.join(timeout_s)
    try:
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"vision {' '.join(args)}: not within {timeout_s} s")
        return process.exitcode
    finally:
        process.close()


def _command(args: list[str], folder: str, environ: dict[str, str], streams: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        with open(os.path.join(streams, name), mode) as file:
            os.dup2(file.fileno(), number)
        setattr(sys, name, os.fdopen(number, mode, closefd=False))
    sys.argv = ["vision", *args]

    from cli.__main__ import main

    sys.exit(main())
