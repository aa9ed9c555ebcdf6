"""Run a command that changes nothing, and return its output. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 20


def output(argv: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None) -> tuple[int, str]:
    """Exit status and standard output of *argv*; 127 and "" if it can't run or times out."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=dict(environ), capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout
