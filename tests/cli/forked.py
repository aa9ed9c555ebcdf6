"""``vision``, forked from a process that has imported it: the same command, without its start.

Rules: a command finds what a process of its own would find (arguments, folder, environment, the three
streams); the process that is forked has one thread and has run nothing of the command.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

# macOS has libraries that end a process which goes on after a fork: there each is started anew.
_START: ForkServerContext | SpawnContext = (
    multiprocessing.get_context("forkserver")
    if sys.platform == "linux"
    else multiprocessing.get_context("spawn")
)
_START.set_forkserver_preload([__name__, "cli.__main__"])


def run(
    args: Sequence[str], folder: Path, environ: Mapping[str, str], streams: Path, timeout_s: float
) -> int:
    """The status of ``vision`` *args*; *streams* holds ``stdin``, and ``stdout``, ``stderr`` after it.

    Raises ``TimeoutError``, with the process killed, when it takes longer than *timeout_s*.
    """
    told = (list(args), str(folder), dict(environ), str(streams))
    process = _START.Process(target=_command, args=told)
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
