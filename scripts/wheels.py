"""Check with uv that every locked package has a wheel for every supported Mac and Python.

uv resolves the lock as on that Mac, and installs nothing. The rest of the audit checks the packages of
this platform; this check is for the Mac.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hostctl.local_stack import ROOT
from scripts.setup import NEWEST, OLDEST, OLDEST_MACOS

UV = ROOT / ".venv" / "tools" / "bin" / "uv"
MACOS = (OLDEST_MACOS, 15, 26)  # mlx has different wheels for each
PYTHONS = tuple(f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1))
_NO_SOLUTION = 1  # uv's status if a package has no wheel; others are failures of uv or the network


class CannotCheck(Exception):
    """The check could not run; the message says why."""


def combinations() -> Iterator[tuple[int, str]]:
    return ((macos, python) for macos in MACOS for python in PYTHONS)


def lacks(lock: Path, macos: int, python: str, *, uv: Path = UV) -> str:
    """Why *lock* can't be installed on an Apple Silicon Mac; "" if it can. Raises ``CannotCheck``."""
    with tempfile.TemporaryDirectory() as empty:
        command = [
            str(uv), "pip", "install", "--dry-run", "--python-platform", "aarch64-apple-darwin",
            "--python-version", python, "--only-binary", ":all:", "--require-hashes", "--no-deps",
            "--target", empty, "--requirement", str(lock),
        ]  # fmt: skip
        # Without it uv assumes macOS 13.
        environ = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": f"{macos}.0"}
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CannotCheck(str(exc)) from exc
    if done.returncode == 0:
        return ""
    reasons = [line for line in done.stderr.splitlines() if line.startswith(("error:", "  cause:"))]
    reason = reasons[-1].partition(":")[2].strip() if reasons else done.stderr.strip()
    if done.returncode == _NO_SOLUTION:
        return reason
    raise CannotCheck(reason or f"status {done.returncode}")
