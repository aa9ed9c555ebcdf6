"""Atomic writes of the manager's state files: the learned peaks and the GPU limit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(file: Path, content: bytes) -> None:
    """Write *content* so that a crash leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.tmp")
    try:
        with open(fresh, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(fresh, file)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
