"""The log of a tier that runs as a service: a file that is rotated, since nobody else keeps it."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

_KEPT = 3  # besides the current one


def log_to_file(file: Path, max_mb: float) -> None:
    """From now on what is logged goes to *file* instead, in the form that it has; raises ``OSError``.

    What Python itself says at a crash still goes to standard error.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        file, maxBytes=int(max_mb * (1 << 20)), backupCount=_KEPT, encoding="utf-8"
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        handler.setFormatter(old.formatter)
        root.removeHandler(old)
    root.addHandler(handler)
