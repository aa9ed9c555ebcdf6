"""Runs a command that only looks, and says what it answered. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 20


def output(argv: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None) -> tuple[int, str]:
    """The status and the standard output of *argv*; 127 when it can't be run or doesn't end."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=dict(environ), capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout
